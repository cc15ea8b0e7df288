"""Whose fault it was, and what the peer is told. A leaf.

Three branches: the peer's (each carries its answer on the wire), the application's, and ours.
"""


class GeventgateError(Exception):
    """The root of every error this package raises."""


class PeerError(GeventgateError, OSError):
    """The peer broke the protocol. An OSError, as applications expect of failing I/O.

    *status* is the HTTP status that answers it, *close_code* the WebSocket close code.
    """

    def __init__(self, status: int, why: str, close_code: int = 1002) -> None:
        super().__init__(why)
        self.status = status
        self.close_code = close_code


class PeerGone(PeerError, ConnectionResetError):
    """The peer went away in the middle of a message: nobody is left to answer."""

    def __init__(self, why: str = "the peer has gone") -> None:
        super().__init__(400, why, close_code=1006)


class PeerTimeout(PeerError, TimeoutError):
    """The peer let a deadline pass."""

    def __init__(self, why: str = "the peer was too slow") -> None:
        super().__init__(408, why, close_code=1006)


class WebSocketError(GeventgateError, ConnectionResetError):
    """A WebSocket can no longer be used; *code* and *reason* say how it closed (RFC 6455 §7.1.5).

    No PeerError: it may reach the handler of another request, whose peer still waits for its answer.
    """

    def __init__(self, why: str = "", code: int = 1006, reason: str = "") -> None:
        super().__init__(why)
        self.code = code
        self.reason = reason


class ApplicationError(GeventgateError):
    """The application broke its contract with the server: 500, or a cut answer."""


class NotSupported(ApplicationError):
    """The application asked for what this carrier or this configuration cannot do."""


class ConfigError(GeventgateError):
    """Geventgate cannot start as it was told to; the message is one line for its user."""
