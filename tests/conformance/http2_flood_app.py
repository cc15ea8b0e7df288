"""What the floods and the malformed fields of HTTP/2 are thrown at; nothing here imports geventgate."""

import json
from collections.abc import Iterable
from itertools import count
from typing import Any
from wsgiref.types import StartResponse, WSGIEnvironment

MIB = 1 << 20
LARGE = bytes(4 * MIB)
serial = count()
running = 0  # requests inside the application
called = 0  # requests that have reached it, in all
seen: list[dict[str, Any]] = []  # what of them /record has seen, in order


def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Every path but those of ROUTES is recorded; /count and /seen tell what has happened."""
    global called, running
    path = environ["PATH_INFO"]
    if path == "/count":
        return answer(start_response, {"running": running, "called": called})
    if path == "/seen":
        recorded = seen.copy()
        seen.clear()
        return answer(start_response, recorded)
    called += 1
    running += 1
    try:
        return ROUTES.get(path, record)(environ, start_response)
    finally:
        running -= 1


def answer(start_response: StartResponse, value: object) -> Iterable[bytes]:
    content = json.dumps(value).encode()
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(content)))])
    return [content]


def record(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """All the text of the environ, and the content, or the error that came instead."""
    this: dict[str, Any] = {key: value for key, value in environ.items() if isinstance(value, str)}
    seen.append(this)
    try:
        this["content"] = environ["wsgi.input"].read().decode("latin-1")
    except OSError as error:
        this["content"] = f"{type(error).__name__}: {error}"
        raise
    return answer(start_response, this)


def small(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]


def large(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """4 MiB that all responses share: what memory grows by, the server has copied."""
    start_response("200 OK", [("Content-Length", str(len(LARGE)))])
    return [LARGE]


def pieces(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """4 MiB in pieces of 16 KiB, each made when it is asked for."""
    start_response("200 OK", [("Content-Length", str(len(LARGE)))])
    return (bytes(16384) for _ in range(len(LARGE) // 16384))


def hold(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """Answers nothing before its peer has gone."""
    environ["geventgate.disconnected"].wait(60)
    return small(environ, start_response)


def unique(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """A field of 8000 octets that no other response has."""
    start_response("200 OK", [("Content-Length", "2"), ("X-Unique", f"{next(serial):08000}")])
    return [b"ok"]


ROUTES = {"/ok": small, "/large": large, "/pieces": pieces, "/hold": hold, "/unique": unique}
