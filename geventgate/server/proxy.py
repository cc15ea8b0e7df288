"""A connection until its PROXY header has come: then what speaks on it, TLS or HTTP, is told whose it is.

It runs in the hub, without a greenlet, and takes not a byte more than the header from the socket: so whatever follows
may read it as it likes.
"""

import logging
import socket
from collections.abc import Callable
from typing import Any

from gevent import get_hub

from geventgate.errors import PeerError
from geventgate.exchange import Address
from geventgate.protocol.proxy import MAX_V2, parse_proxy_header
from geventgate.server.clock import CLOCK
from geventgate.server.selector import READ
from geventgate.server.service import Connection, Service

DRAIN_SECONDS = 1.0  # as an idle HTTP connection

log = logging.getLogger("geventgate")

Open = Callable[[Any, Address, Address], Connection]


class ProxyOpening(Connection):
    """*then* is given the socket and the addresses of client and server; whom it returns has entered the service."""

    __slots__ = ("_deadline", "_header", "_local", "_peer", "_service", "_sock", "_then", "_watcher")

    def __init__(self, sock: Any, peer: Address, local: Address, service: Service, then: Open) -> None:
        # Set once.
        self._sock = sock
        self._peer = peer
        self._local = local
        self._service = service
        self._then = then
        # Owned by the hub.
        self._header = b""
        self._deadline = CLOCK.now + service.config.head_timeout
        self._watcher: Any = get_hub().loop.io(sock.fileno(), READ)

    def start(self) -> None:
        self._watcher.start(self._readable)

    def _readable(self) -> None:
        """Look at what has come; take it if it is the header's."""
        try:
            data = self._sock.recv(MAX_V2, socket.MSG_PEEK)
            if not data:
                self._close()  # a health check that only connects, or who gave up
                return
            header = parse_proxy_header(self._header + data, self._service.config.proxy_protocol)
            taken = self._sock.recv(len(data) if header is None else header.size - len(self._header))
        except BlockingIOError:
            return
        except PeerError as error:
            self._refuse(str(error))
            return
        except OSError:
            self._close()  # reset by the peer
            return
        self._header += taken
        if header is not None:
            self._stop_watching()
            successor = self._then(self._sock, header.client or self._peer, header.server or self._local)
            if self._service.drains:
                successor.drain()
            self._service.leave(self)

    def _refuse(self, why: str) -> None:
        """Nothing is answered: what would speak here has not begun to."""
        log.info("%s:%s: closed: %s", *self._peer, why)
        self._service.tell_refused(self._peer, 400, why)
        self._close()

    def _close(self) -> None:
        self._stop_watching()
        self._sock.close()
        self._service.leave(self)

    def _stop_watching(self) -> None:
        self._watcher.stop()
        self._watcher.close()

    # --- called by the server, in the hub

    def sweep(self, now: float) -> None:
        if self._deadline <= now:
            if self._header:
                self._refuse("the PROXY header came too slowly")
            else:
                self._close()

    def drain(self) -> None:
        self._deadline = min(self._deadline, CLOCK.now + DRAIN_SECONDS)

    def kill(self) -> None:
        self._close()
