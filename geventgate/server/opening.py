"""A connection until it is known what is spoken on it: then another one, of that protocol, takes its place."""

from collections.abc import Callable
from typing import Any

from geventgate.errors import PeerError
from geventgate.exchange import Address
from geventgate.message import Tls
from geventgate.protocol.http2 import PREFACE
from geventgate.server.clock import CLOCK
from geventgate.server.http1 import Http1Connection
from geventgate.server.http2 import Http2Connection
from geventgate.server.service import Connection, Service
from geventgate.server.stream import Stream

Speak = Callable[[Stream, Address, Address, Service, Tls | None], Connection]

# What ALPN may choose (RFC 7301), the preferred first.
PROTOCOLS: dict[str, Speak] = {"h2": Http2Connection, "http/1.1": Http1Connection}


class Opening(Connection):
    """*stream* may have received something already, which belongs to the beginning. ``open()`` finds out.

    It has *seconds*.
    """

    __slots__ = ("_local", "_peer", "_service", "_stream", "_worker")

    def __init__(self, stream: Stream, peer: Address, local: Address, service: Service, seconds: float) -> None:
        # Set once.
        self._peer = peer
        self._local = local
        self._service = service
        # Owned by open(); the sweep looks.
        self._stream = stream
        self._worker: Any = None
        stream.deadline = CLOCK.now + seconds

    def start(self) -> None:
        self._worker = self._service.workers.run(self._work)

    def _work(self) -> None:
        successor = None
        try:
            successor = self.open()
        finally:
            self._worker = None
            if successor is None:
                self._stream.close()
            else:
                self._service.enter(successor)
                if self._service.drains:
                    successor.drain()
            self._service.leave(self)

    def open(self) -> Connection | None:
        """Return who serves the connection from now on, or None: then nobody does."""
        raise NotImplementedError

    def _speak(self, protocol: str, tls: Tls | None = None) -> Connection:
        return PROTOCOLS[protocol](self._stream, self._peer, self._local, self._service, tls)

    # --- called by the server, in the hub

    def sweep(self, now: float) -> None:
        if self._worker is not None:
            config = self._service.config
            self._stream.sweep(now, False, config.min_rate, config.write_timeout)

    def drain(self) -> None:
        """Nothing: it takes a moment, and the request behind it is served."""

    def kill(self) -> None:
        if self._worker is None or not self._worker.unwind():
            self._stream.close()
            self._service.leave(self)


class CleartextOpening(Opening):
    """HTTP/2 with prior knowledge, or HTTP/1.1: the first bytes tell (RFC 9113 §3.3).

    "The client connection preface [...] is selected so that a large proportion of HTTP/1.1 servers do not attempt to
    process further frames" (§3.4): no request of HTTP/1.1 begins so.
    """

    __slots__ = ()

    def __init__(self, stream: Stream, peer: Address, local: Address, service: Service) -> None:
        super().__init__(stream, peer, local, service, service.config.head_timeout)

    def open(self) -> Connection | None:
        stream = self._stream
        try:
            while len(stream.inbox) < len(PREFACE) and PREFACE.startswith(stream.inbox):
                if not stream.receive():
                    return None
        except PeerError:
            return None  # it has gone, or said nothing for too long
        return self._speak("h2" if is_preface(stream.inbox) else "http/1.1")


def is_preface(beginning: bytes) -> bool:
    """Whether HTTP/2 has begun, or what is to be refused as "an invalid connection preface" (RFC 9113 §3.4).

    That is a first line which names no version of HTTP: its sender hears of both protocols what HTTP/2 has to say.
    """
    if beginning.startswith(PREFACE):
        return True
    line, newline, _ = beginning.lstrip(b"\r\n").partition(b"\n")
    return bool(newline) and b" HTTP/" not in line
