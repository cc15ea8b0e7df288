"""Applications that the conformance tests serve; nothing here imports geventgate."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

MIB = 1 << 20
seen: list[dict[str, Any]] = []  # every request that reached the application, in order


def recorder(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Remembers every request and answers with what it saw of it; /seen lists them, /ignore leaves content unread."""
    path = environ["PATH_INFO"]
    if path == "/seen":
        answer = json.dumps(seen).encode()
        seen.clear()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
        return [answer]
    this: dict[str, Any] = {"method": environ["REQUEST_METHOD"], "path": path, "query": environ["QUERY_STRING"]}
    this["fields"] = {name: value for name, value in environ.items() if name.startswith(("HTTP_", "CONTENT_"))}
    seen.append(this)
    if path != "/ignore":
        try:
            this["content"] = environ["wsgi.input"].read().decode("latin-1")
        except OSError as error:
            this["content"] = f"{type(error).__name__}: {error}"
            raise
    answer = json.dumps(this).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(answer)))])
    return [answer]


class Pattern:
    """*size* bytes made on the fly, the same every time, in pieces of 64 KiB whose content changes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._seed = bytes(range(256)) * 257  # 64 KiB and one period, so that every offset gives a full piece

    def __iter__(self) -> Iterator[bytes]:
        seed, left = memoryview(self._seed), self.size
        for number in range(-(-self.size // 65536)):
            piece = bytes(seed[number % 256 :][: min(65536, left)])
            left -= len(piece)
            yield piece

    def digest(self) -> str:
        running = hashlib.blake2b(digest_size=16)
        for piece in self:
            running.update(piece)
        return running.hexdigest()


def streams(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """GET /SIZE streams that many bytes down; POST answers with the length and the hash of what came up."""
    if environ["REQUEST_METHOD"] == "GET":
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return Pattern(int(environ["PATH_INFO"].strip("/")))
    running, size = hashlib.blake2b(digest_size=16), 0
    while piece := environ["wsgi.input"].read(65536):
        running.update(piece)
        size += len(piece)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{size} {running.hexdigest()}".encode()]


def sockets(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """WebSockets: /echo; /length of each message; /slow takes the first message, then nothing until released by GET
    /release; /streams takes a message of any size in pieces, and sends its size and as much."""
    import gevent.event

    released = globals().setdefault("released", gevent.event.Event())
    if "wsgi.websocket" not in environ:
        released.set()
        start_response("204 No Content", [])
        return []
    with environ["wsgi.websocket"] as websocket:
        if environ["PATH_INFO"] == "/slow":
            websocket.send(str(len(websocket.receive())))
            released.wait()
        if environ["PATH_INFO"] == "/streams":
            websocket.accept(max_message_size=1 << 40)
            while size := sum(map(len, websocket.receive_fragments())):
                websocket.send(str(size))
                websocket.send_fragments(Pattern(size))
        for message in websocket:
            websocket.send(message if environ["PATH_INFO"] == "/echo" else str(len(message)))
    return []


def mirror(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answers with the method, how much content came, and the fields User-Agent and X-Test; /late waits before."""
    import gevent

    if environ["PATH_INFO"] == "/late":
        gevent.sleep(1)
    content = environ["wsgi.input"].read()
    agent, test = environ.get("HTTP_USER_AGENT", ""), environ.get("HTTP_X_TEST", "")
    answer = f"{environ['REQUEST_METHOD']}, {len(content)} octets, User-Agent: {agent}, X-Test: {test}".encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]
