"""One request and its response, whatever carries them. Read this file first.

``server`` calls up exactly once, ``handle(exchange)``; every other call goes down, through this
contract. One reader and one writer at a time, from any greenlets; a second on the same side raises
``ApplicationError``. An exception thrown into a parked write poisons the exchange; one thrown into
a parked read leaves it as it was. Deadlines reach a greenlet only while it is parked in here.
"""

from collections.abc import Callable, Sequence
from typing import IO, Any, Protocol

from geventgate.errors import NotSupported
from geventgate.message import Fields, RequestHead, Tls

Text = str | bytes
ResponseFields = Sequence[tuple[Text, Text]]
Address = tuple[str, str]  # host and port; a unix socket has ("", "")
Bytes = bytes | bytearray | memoryview


class EventLike(Protocol):
    """The part of ``gevent.event.Event`` that waits, and that ``gevent.wait()`` needs."""

    def is_set(self) -> bool: ...
    def wait(self, timeout: float | None = None) -> bool: ...
    def rawlink(self, callback: Callable[[object], None]) -> None: ...
    def unlink(self, callback: Callable[[object], None]) -> None: ...


class Exchange:
    """A request/response exchange (RFC 9110 §3.4), read and written in order, blocking."""

    # Set once, by the carrier.
    request: RequestHead
    peer: Address  # the client's, where a proxy that is believed tells it (gateway/forwarded.py)
    local: Address
    tls: Tls | None
    has_content: bool  # whether read() can give anything; not for CONNECT, whose bytes are the tunnel's
    # For listeners, when it has ended.
    status: int  # of the response; 0: none was sent
    sent: int  # bytes of its content

    __slots__ = ()

    @property
    def closed(self) -> EventLike:
        """Set once the peer has gone, or the exchange is over. Watching begins at the first use and reads at most
        64 KiB ahead.

        A half-close (FIN) over HTTP/1 is no disconnect: the peer may still read. It becomes one when a write fails.
        """
        raise NotImplementedError

    def read(self, size: int) -> bytes:
        """Return 1 to *size* bytes of request content, or b"" at its true end.

        The first read sends 100-continue; over HTTP/2 reading is what returns credit. Raises PeerGone
        (truncated), PeerError (malformed, too large) or PeerTimeout, all OSErrors.
        """
        raise NotImplementedError

    def readinto(self, buffer: memoryview) -> int:
        """As read(), into *buffer* (of bytes, and not empty); how many. Large content is not copied on its way."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def take_whole(self) -> bytes | None:
        """All of the content, where it has come already, is small, and nobody has read of it; else None.

        It is read with that. Never blocks. For the gateway: a file over read() costs more than a small request.
        """
        return None

    def trailers(self) -> Fields:
        """The request's trailer fields, complete once read() has returned b"" (RFC 9110 §6.5)."""
        raise NotImplementedError

    def send_informational(self, status: int, fields: ResponseFields) -> None:
        """Send an interim response (1xx, RFC 9110 §15.2); before the head only."""
        raise NotImplementedError

    @property
    def can_push(self) -> bool:
        """Whether push() may do something."""
        return False

    def push(self, path: bytes, fields: ResponseFields = ()) -> bool:
        """Have a GET of *path*, with *fields*, answered before the peer asks (RFC 9113 §8.4); whether it will be.

        Raises ApplicationError for what cannot be promised.
        """
        return False

    def send_head(self, status: str | int, fields: ResponseFields) -> None:
        """Check and hold the head of the final response; it leaves with the first content.

        Raises ApplicationError on what must not reach the wire; another head may then be sent.
        """
        raise NotImplementedError

    def send(self, data: bytes) -> None:
        """Send a piece of response content now; block while the peer is slow. Raises PeerGone, PeerTimeout."""
        raise NotImplementedError

    def send_file(self, file: IO[bytes], offset: int, count: int) -> None:
        """Send *count* bytes of *file* from *offset*; by sendfile(2) where the carrier can."""
        raise NotImplementedError

    def finish(self, data: bytes = b"", trailers: ResponseFields = ()) -> None:
        """Send the last piece, and the end with it. When it is also the first, its length is the Content-Length.

        May return before the peer has it all; ``sent`` counts what was handed over.
        """
        raise NotImplementedError

    def abort(self, why: str) -> None:
        """Give the exchange up so that the peer sees the answer as cut; *why* is for the log."""
        raise NotImplementedError

    def open_tunnel(self, fields: ResponseFields = (), protocol: str | None = None) -> "Tunnel":
        """Leave HTTP and return what follows. Sends 101 (HTTP/1) or 200 (CONNECT, HTTP/2) with *fields*.

        Switches to *protocol*, one of those offered, or to the peer's favourite. The carrier owns the status,
        Connection and Upgrade. Raises NotSupported when the request does not offer it, ApplicationError when a
        response has begun.
        """
        raise NotImplementedError

    def hijack(self) -> "tuple[Any, bytes]":
        """Give the connection away, and what was received of it and not yet read: nothing was sent, nothing will be.

        It comes as a gevent socket, or as a Tunnel where its bytes are not those of a socket (TLS). Raises
        NotSupported (HTTP/2), ApplicationError when a response has begun.
        """
        raise NotSupported("this connection carries other requests too")


class Tunnel:
    """A two-way stream of bytes that is no longer HTTP (RFC 9110 §7.8, §9.3.6).

    Bytes that came behind the request's head are received first.
    """

    __slots__ = ()

    def recv(self, size: int) -> bytes:
        """Return 1 to *size* bytes, or b"" when the peer has ended its side. Raises OSErrors."""
        raise NotImplementedError

    def pending(self) -> int:
        """Bytes that recv() has without waiting."""
        raise NotImplementedError

    def sendall(self, data: Bytes) -> None:
        """Send all of *data*, which is the caller's again on return; block while the peer is slow."""
        raise NotImplementedError

    def send(self, data: Bytes) -> int:
        """sendall(), as sockets' send() is spelt: returns len(data)."""
        self.sendall(data)
        return len(data)

    def sendv(self, buffers: Sequence[Bytes]) -> None:
        """Send all of *buffers*, in one system call where that can be, without joining large ones."""
        raise NotImplementedError

    def shutdown(self) -> None:
        """End our side; the peer may go on sending (RFC 9112 §9.6)."""
        raise NotImplementedError

    def close(self) -> None:
        """Close both sides. What the peer is still sending is read away for a moment, so that our last bytes
        reach it. Idempotent."""
        raise NotImplementedError

    def abort(self) -> None:
        """Close at once. Idempotent; never blocks, and may be called in the hub.

        Whoever waits in recv() or sendall() gets PeerGone.
        """
        raise NotImplementedError
