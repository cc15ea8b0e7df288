"""Servers in this process, which is not monkey-patched, and clients on gevent's own sockets."""

import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import gevent
import pytest
from gevent import get_hub, socket
from gevent.event import Event

from geventgate.config import Config
from geventgate.exchange import Exchange
from geventgate.server.clock import CLOCK
from geventgate.server.server import Server
from geventgate.testing import Http2Client

Handle = Callable[[Exchange], None]
PATIENCE = 5.0  # seconds for what takes milliseconds


class Gateway:
    """Answers with one function."""

    def __init__(self, handle: Handle) -> None:
        self.handle = handle
        self.told: list[str] = []

    def start(self) -> None:
        self.told.append("start")

    def drain(self, restarts: bool) -> None:
        self.told.append("restart" if restarts else "drain")

    def stop(self) -> None:
        self.told.append("stop")


class Response(NamedTuple):
    status: int
    fields: dict[str, str]  # names in lower case; values joined by ", "
    content: bytes
    trailers: dict[str, str]


class Client:
    """A connection, and what it has received and not yet looked at."""

    def __init__(self, address: Any, family: int = socket.AF_INET) -> None:
        self.sock = socket.socket(family, socket.SOCK_STREAM)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(address)
        self.buffer = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def get(self, target: str = "/", fields: str = "", method: str = "GET", version: str = "1.1") -> Response:
        self.send(f"{method} {target} HTTP/{version}\r\nHost: a\r\n{fields}\r\n".encode())
        return self.response(method)

    def response(self, method: str = "GET") -> Response:
        """The next response. Raises EOFError when it is cut."""
        while b"\r\n\r\n" not in self.buffer:
            self._more()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        assert line.startswith("HTTP/1.1 "), line
        fields = _fields(lines)
        status = int(line[9:12])
        content, trailers = b"", {}
        if method == "HEAD" or status < 200 or status in (204, 304):
            pass
        elif "transfer-encoding" in fields:
            assert fields["transfer-encoding"] == "chunked"
            while size := int(self._line(), 16):
                content += self._exactly(size)
                assert self._exactly(2) == b"\r\n"
            lines = []
            while line := self._line():
                lines.append(line)
            trailers = _fields(lines)
        elif "content-length" in fields:
            content = self._exactly(int(fields["content-length"]))
        else:
            content = self.rest()
        return Response(status, fields, content, trailers)

    def rest(self) -> bytes:
        """All until the server has ended its side. Raises ConnectionResetError."""
        while data := self.sock.recv(65536):
            self.buffer += data
        data, self.buffer = self.buffer, b""
        return data

    def _more(self) -> None:
        self.buffer += self._piece(self.buffer)

    def _piece(self, behind: bytes | bytearray) -> bytes:
        data = self.sock.recv(65536)
        if not data:
            raise EOFError(f"cut behind {bytes(behind[-80:])!r}")
        return data

    def _line(self) -> str:
        while b"\r\n" not in self.buffer:
            self._more()
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line.decode("latin-1")

    def _exactly(self, size: int) -> bytes:
        data = bytearray(self.buffer)
        while len(data) < size:
            data += self._piece(data)
        self.buffer = bytes(data[size:])
        return bytes(data[:size])

    def reset(self) -> None:
        """Close with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def close(self) -> None:
        self.sock.close()


def _fields(lines: list[str]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(": ")
        assert colon, line
        lower = name.lower()
        fields[lower] = f"{fields[lower]}, {value}" if lower in fields else value
    return fields


class Site:
    """Servers and their clients. At its end clients are closed first, then the servers stopped."""

    def __init__(self) -> None:
        self.servers: list[Server] = []
        self.clients: list[Client | Http2Client] = []
        self.defaults: dict[str, Any] = {"bind": ("127.0.0.1:0",)}

    def serve(self, handle: Handle, **config: Any) -> Server:
        server = self.prepare(handle, **config)
        server.start()
        return server

    def prepare(self, handle: Handle, **config: Any) -> Server:
        server = Server(Config(**{**self.defaults, **config}), Gateway(handle), Event())
        self.servers.append(server)
        return server

    def connect(self, server: Server | None = None) -> Client:
        url = (server or self.servers[-1]).addresses[0]
        if url.startswith("unix:"):
            client = Client(url.removeprefix("unix:"), socket.AF_UNIX)
        else:
            host, _, port = url.partition("://")[2].rpartition(":")
            client = Client((host.strip("[]"), int(port)), socket.AF_INET6 if "[" in host else socket.AF_INET)
        self.clients.append(client)
        return client

    def http2(self, **options: Any) -> Http2Client:
        """Connect to the last server with HTTP/2."""
        client = Http2Client(self.servers[-1].addresses[0], timeout=PATIENCE, **options)
        self.clients.append(client)
        return client

    def sweep(self, seconds: float = 0.0, times: int = 1) -> None:
        """Let the sweep look, in the hub, as if it were so many seconds later."""
        for _ in range(times):
            for server in self.servers:
                for connection in list(server.service.connections):
                    get_hub().loop.run_callback(connection.sweep, CLOCK.now + seconds)
            gevent.sleep(0)

    def end(self) -> None:
        for client in self.clients:
            client.close()
        for server in self.servers:
            server.stop(PATIENCE)
            assert not server.service.connections, "connections that never left"


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the hub was told of exceptions nobody caught, and Python of those it had to ignore."""
    told: list[Any] = []
    monkeypatch.setattr(get_hub(), "handle_error", lambda *error: told.append(error), raising=False)
    monkeypatch.setattr(sys, "unraisablehook", lambda error: told.append(error))
    return told


@pytest.fixture
def site(faults: list[Any], caplog: pytest.LogCaptureFixture) -> Iterator[Site]:
    caplog.set_level(logging.INFO, "geventgate")
    site = Site()
    yield site
    site.end()
    assert faults == []


@pytest.fixture
def until() -> Callable[..., None]:
    """``until(condition)``: wait for what no event tells."""

    def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
        with gevent.Timeout(seconds, AssertionError("it did not come to be")):
            while not condition():
                gevent.sleep(0.002)

    return until
