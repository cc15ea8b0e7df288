"""What HTTP/2 clients that we did not write talk to."""

import json
import time
from hashlib import sha256
from urllib.parse import parse_qsl

PIECE = bytes(range(256)) * 256
TEXT = [("Content-Type", "text/plain")]


def app(environ, start_response):
    argument = dict(parse_qsl(environ["QUERY_STRING"]))
    return PATHS.get(environ["PATH_INFO"], unread)(environ, start_response, **argument)


def keys(environ, start_response, **ignored):
    """What came, as JSON."""
    request = environ["geventgate.request"]
    shown = {name: value for name, value in environ.items() if isinstance(value, str)}
    shown |= {"version": request.http_version, "authority": request.authority, "headers": str(request.headers)}
    shown["beyond"] = sorted(name for name in environ if name.startswith("geventgate.") or name == "wsgi.early_hints")
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(shown).encode()]


def echo(environ, start_response):
    """Each piece goes back as it comes."""
    start_response("200 OK", TEXT)
    return iter(lambda: environ["wsgi.input"].read1(65536), b"")


def digest(environ, start_response):
    """How much came, its SHA-256, and the trailers behind it."""
    size, seen = 0, sha256()
    while piece := environ["wsgi.input"].read1(65536):
        size += len(piece)
        seen.update(piece)
    trailers = [[name.decode(), value.decode()] for name, value in environ["geventgate.request"].trailers()]
    start_response("200 OK", TEXT)
    return [json.dumps([size, seen.hexdigest(), trailers]).encode()]


def count(environ, start_response):
    """How much came."""
    size = 0
    while piece := environ["wsgi.input"].read1(65536):
        size += len(piece)
    start_response("200 OK", TEXT)
    return [str(size).encode()]


def unread(environ, start_response):
    """Answers without reading."""
    start_response("200 OK", TEXT)
    return [b"not read"]


def pour(environ, start_response, mib):
    start_response("200 OK", [*TEXT, ("Content-Length", str(int(mib) << 20))])
    return (PIECE for _ in range(int(mib) * 16))


def sleep(environ, start_response, seconds):
    time.sleep(float(seconds))
    start_response("200 OK", TEXT)
    return [b"slept"]


def hints(environ, start_response):
    if "wsgi.early_hints" in environ:
        environ["wsgi.early_hints"]([("Link", "</style.css>; rel=preload; as=style")])
    start_response("200 OK", TEXT)
    return [b"hinted"]


def trailers(environ, start_response):
    environ["geventgate.send_trailers"]([("X-Digest", "abc")])
    start_response("200 OK", [*TEXT, ("Trailer", "x-digest")])
    return iter([b"one ", b"two"])


def push(environ, start_response):
    pushed = "geventgate.push" in environ and environ["geventgate.push"]("/unread", [("X-Why", "needed")])
    start_response("200 OK", TEXT)
    return [str(pushed).encode()]


def fail(environ, start_response):
    """Breaks off in the middle of its content."""
    start_response("200 OK", TEXT)
    yield PIECE
    raise RuntimeError("as the test asked")


def websocket(environ, start_response):
    """Says over what it came, and what it hears."""
    ws = environ["wsgi.websocket"]
    ws.send(environ["SERVER_PROTOCOL"])
    for message in ws:
        ws.send(message)
    return []


PATHS = {
    "/keys": keys, "/echo": echo, "/digest": digest, "/count": count, "/unread": unread, "/pour": pour, "/sleep": sleep,
    "/hints": hints, "/trailers": trailers, "/push": push, "/fail": fail, "/websocket": websocket,
}  # fmt: skip
