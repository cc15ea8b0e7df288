"""The loads: each is given a port, opens its connections, and returns what it counted.

Every answer's content is checked in full before a load; under load wrk and h2load check the status and count what
failed, h2load its size as well, the WebSocket and the lockstep client compare every byte of content.
"""

import http.client
import re
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import httpx
import served

WEBSOCKET_HEAD = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
PING_PONG = (b"\x82\x85\0\0\0\0hello", b"\x82\x05hello")  # a frame masked with zeros, and its echo
BROWSER = Path(__file__).with_name("browser.lua")


class Wrong(Exception):
    """The server answers not at all, or wrong."""


class Counted(NamedTuple):
    requests: int
    failed: int = 0
    p99: float = 0.0  # ms


Load = Callable[[int, int], Counted]  # (port, seconds)
Check = Callable[[int], None]  # (port), raises Wrong


def expect(path: str, content: bytes, sent: bytes | None = None) -> Check:
    """One exchange, its answer compared in full."""

    def check(port: int) -> None:
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            client.request("GET" if sent is None else "POST", path, sent)
            answer = client.getresponse()
            if (answer.status, answer.read()) != (200, content):
                raise Wrong(f"answers {path} wrong: {answer.status}")
        except (OSError, http.client.HTTPException) as error:
            raise Wrong(f"answers {path} with {error!r}") from None
        finally:
            client.close()

    return check


HELLO = expect("/", served.HELLO)
POST = expect("/echo", b"x" * 10240, b"x" * 10240)
LARGE = expect("/megabyte", served.LARGE)
UPLOAD = expect("/upload", str(1 << 20).encode(), b"x" * (1 << 20))


def echoes(port: int) -> None:
    try:
        open_websocket(port).close()
    except OSError as error:
        raise Wrong(f"no WebSocket echo: {error!r}") from None


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise ConnectionResetError("closed")
        data += more
    return data


def open_http(port: int) -> socket.socket:
    """A connection that has had one answer and idles."""
    sock = socket.create_connection(("127.0.0.1", port), 10)
    sock.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    data = b""
    while not data.endswith(served.HELLO):
        data += receive(sock, 1)
    return sock


def open_websocket(port: int) -> socket.socket:
    """A WebSocket that has had one echo and idles."""
    sock = socket.create_connection(("127.0.0.1", port), 10)
    sock.sendall(WEBSOCKET_HEAD)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += receive(sock, 1)
    if not head.startswith(b"HTTP/1.1 101 "):
        raise ConnectionResetError("not accepted")
    ping, pong = PING_PONG
    sock.sendall(ping)
    if receive(sock, len(pong)) != pong:
        raise ConnectionResetError("the echo differs")
    return sock


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Wrong(f"under load: {(done.stderr or done.stdout).strip()[:200]}")
    return done.stdout


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    return float(found[1]) if found else 0.0


def wrk(core: int, connections: int, path: str = "/", *options: str) -> Load:
    def load(port: int, seconds: int) -> Counted:
        command = ["taskset", "-c", str(core), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"]
        report = run([*command, "--timeout", "10s", *options, f"http://127.0.0.1:{port}{path}"])
        errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", report)
        failed = sum(map(int, errors.groups())) if errors else 0
        failed += int(number(r"Non-2xx or 3xx responses: (\d+)", report))
        latency = re.search(r"99%\s+([\d.]+)(us|ms|s)", report)
        p99 = float(latency[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[latency[2]] if latency else 0.0
        return Counted(int(number(r"(\d+) requests in", report)), failed, p99)

    return load


class Http2(NamedTuple):
    """A request over HTTP/2 and its answer. Without *certificate* over plain TCP, with prior knowledge."""

    content: bytes  # of the answer
    path: str = "/"
    sent: bytes | None = None
    fields: tuple[tuple[str, str], ...] = ()
    certificate: Path | None = None  # the server's, which signed itself

    def url(self, port: int) -> str:
        return f"{'https' if self.certificate else 'http'}://127.0.0.1:{port}{self.path}"

    def check(self, port: int) -> None:
        trusted = ssl.create_default_context(cafile=self.certificate) if self.certificate else False
        try:
            with httpx.Client(http1=False, http2=True, verify=trusted, trust_env=False) as client:
                method = "GET" if self.sent is None else "POST"
                answer = client.request(method, self.url(port), content=self.sent, headers=list(self.fields))
        except (httpx.HTTPError, OSError) as error:
            raise Wrong(f"answers {self.path} over HTTP/2 with {error!r}") from None
        if (answer.http_version, answer.status_code, answer.content) != ("HTTP/2", 200, self.content):
            raise Wrong(f"answers {self.path} wrong: {answer.status_code} over {answer.http_version}")

    def load(self, core: int, connections: int, streams: int, scratch: Path) -> Load:
        """By h2load."""

        def load(port: int, seconds: int) -> Counted:
            command = ["taskset", "-c", str(core), "h2load", f"-c{connections}", f"-m{streams}", "-D", str(seconds)]
            command += ["--npn-list=h2"] if self.certificate else ["--no-tls-proto=h2c"]
            command += [f"--header={name}: {value}" for name, value in self.fields]
            if self.sent is not None:
                scratch.write_bytes(self.sent)
                command += [f"--data={scratch}"]
            report = run([*command, self.url(port)])
            requests = int(number(r" (\d+) succeeded", report))
            if number(r"\((\d+)\) data", report) < requests * len(self.content):
                raise Wrong("under load: answers are cut")
            # What h2load calls failed has 4xx, 5xx, timeouts and lost connections in it; a redirection has succeeded.
            return Counted(requests, int(number(r" (\d+) failed", report) + number(r" (\d+) 3xx", report)))

        return load


def browser_fields() -> tuple[str, list[tuple[str, str]]]:
    """Path and fields of browser.lua."""
    text = BROWSER.read_text()
    path = re.search(r'wrk\.path = "(.*)"', text)
    assert path
    return path[1], [(name, value) for name, _, value in re.findall(r'headers\["(.+)"\] =\s+(["\'])(.*)\2\n', text)]


def browser_request() -> bytes:
    """The request of browser.lua, as wrk sends it."""
    path, fields = browser_fields()
    lines = [f"GET {path} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in fields)]
    return "\r\n".join([*lines, "", ""]).encode()


def browser() -> tuple[str, tuple[tuple[str, str], ...]]:
    """The same as Chromium sends it over HTTP/2: no Connection, cookies apart, a priority."""
    path, fields = browser_fields()
    split = []
    for name, value in fields:
        if name != "Connection":
            split += [(name.lower(), part) for part in (value.split("; ") if name == "Cookie" else [value])]
    return path, (*split, ("priority", "u=0, i"))


def websockets(core: int, program: str, connections: int, size: int) -> Load:
    def load(port: int, seconds: int) -> Counted:
        command = ["taskset", "-c", str(core), program, str(port), str(connections), str(size), str(seconds)]
        return Counted(int(run(command)))

    return load


def hellos(core: int, program: str, connections: int, *options: str) -> Load:
    """By lockstep, whose *core* is the server's own, or visitors."""

    def load(port: int, seconds: int) -> Counted:
        command = ["taskset", "-c", str(core), program, str(port), str(connections), str(seconds), *options]
        return Counted(int(run(command)))

    return load
