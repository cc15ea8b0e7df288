"""A load that counts what a restart of the server under it loses. Knows HTTP/1.1 as far as one GET needs it.

A request is *lost* when a connection that was made ends without a whole answer of 200. One that is sent on a kept
connection while the server closes it, and of whose answer not a byte has come, is sent again on a fresh one, as
browsers and proxies do (RFC 9110 §9.2.2). It is *refused* when no connection could be made.
"""

import random
import socket
import threading
import time
from types import TracebackType
from typing import Self

WAIT = 20.0  # seconds for what should take a moment
PAUSE = 0.005  # seconds between a client's requests, at most


class Lost(Exception):
    """What became of the request."""


class Load:
    """*fresh* clients make a connection for each request, *kept* ones keep theirs. Works inside ``with``.

    ``answers`` counts what was answered, ``lost`` says what was not; ``bodies`` are the latest contents, by which an
    application may tell who answers. No attribute may be read as exact while it runs, but ``lost`` only grows.
    """

    def __init__(self, address: tuple[str, int] | str, *, fresh: int = 3, kept: int = 3, target: str = "/") -> None:
        self.address = address  # (host, port), or the path of a unix socket
        self.answers = self.refused = self.retried = 0
        self.lost: list[str] = []
        self.bodies: set[bytes] = set()
        self._request = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n".encode()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._fresh, daemon=True) for _ in range(fresh)]
        self._threads += [threading.Thread(target=self._kept, daemon=True) for _ in range(kept)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(WAIT)

    def await_answers(self, count: int) -> None:
        """Return when *count* more requests have been answered. Raises TimeoutError."""
        wanted, deadline = self.answers + count, time.monotonic() + WAIT
        while self.answers < wanted:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{wanted - self.answers} of {count} answers have not come; lost: {self.lost}")
            time.sleep(0.002)

    def who(self, count: int = 50) -> set[bytes]:
        """The different contents of the next *count* answers."""
        with self._lock:
            self.bodies = set()
        self.await_answers(count)
        return self.bodies.copy()

    def await_others(self, before: set[bytes]) -> set[bytes]:
        """Return who answers, once nobody of *before* does. Raises TimeoutError."""
        deadline = time.monotonic() + WAIT
        while not before.isdisjoint(now := self.who()):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{before & now} still answer; lost: {self.lost}")
        return now

    # --- the clients

    def _fresh(self) -> None:
        while not self._over.is_set():
            if (peer := self._connect()) is not None:
                with peer:
                    self._ask(peer, b"Connection: close\r\n")
            self._rest()

    def _kept(self) -> None:
        peer: socket.socket | None = None
        while not self._over.is_set():
            if peer is not None:
                peer = self._ask(peer, b"", idle=True)
            elif (peer := self._connect()) is not None:
                peer = self._ask(peer, b"")
            self._rest()
        if peer is not None:
            peer.close()

    def _rest(self) -> None:
        self._over.wait(random.uniform(0.0, PAUSE))

    def _connect(self) -> socket.socket | None:
        peer = socket.socket(socket.AF_UNIX if isinstance(self.address, str) else socket.AF_INET)
        peer.settimeout(WAIT)
        try:
            peer.connect(self.address)
        except OSError:
            peer.close()
            with self._lock:
                self.refused += 1
            return None
        return peer

    def _ask(self, peer: socket.socket, fields: bytes, idle: bool = False) -> socket.socket | None:
        """One request; the connection, if it can be kept. An *idle* one may have been closed meanwhile."""
        answer = bytearray()
        try:
            try:
                peer.sendall(self._request + fields + b"\r\n")
                body, keeps = _receive(peer, answer)
            except OSError as error:
                raise Lost(f"{type(error).__name__} after {bytes(answer)!r}") from None
        except Lost as lost:
            peer.close()
            if idle and not answer:
                with self._lock:
                    self.retried += 1
                again = self._connect()
                return again and self._ask(again, fields)
            with self._lock:
                self.lost.append(f"{'kept' if not fields else 'fresh'} at {time.time():.3f}: {lost}")
            return None
        with self._lock:
            self.answers += 1
            self.bodies.add(body)
        if keeps:
            return peer
        peer.close()
        return None


def _receive(peer: socket.socket, answer: bytearray) -> tuple[bytes, bool]:
    """The content, and whether the connection may be used again; *answer* holds all that came. Raises Lost, OSError."""
    while (end := answer.find(b"\r\n\r\n")) < 0:
        _more(peer, answer)
    lines = answer[:end].lower().split(b"\r\n")
    if not lines[0].startswith(b"http/1.1 200"):
        raise Lost(f"{bytes(lines[0])!r}")
    head = dict(line.split(b": ", 1) for line in map(bytes, lines[1:]))
    whole = end + 4 + int(head[b"content-length"])
    while len(answer) < whole:
        _more(peer, answer)
    return bytes(answer[end + 4 : whole]), head.get(b"connection") != b"close"


def _more(peer: socket.socket, answer: bytearray) -> None:
    data = peer.recv(65536)
    if not data:
        raise Lost(f"ended after {bytes(answer)!r}")
    answer += data
