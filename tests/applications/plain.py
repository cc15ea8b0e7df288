"""Plain WSGI, every way PEP 3333 allows to answer, checked by wsgiref.validate."""

import io
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment
from wsgiref.validate import validator

TEXT = [("Content-Type", "text/plain")]
closed: list[str] = []


class Closing:
    """An iterable whose close() is remembered."""

    def __init__(self, name: str, pieces: Iterable[bytes]) -> None:
        self.name = name
        self.pieces = pieces

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces

    def close(self) -> None:
        closed.append(self.name)


def empty(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("204 No Content", [])
    return []


def one(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [*TEXT, ("Content-Length", "5")])
    return [b"hello"]


def several(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return Closing("several", [b"a", b"", b"b", b"c" * 100_000])


def generator(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    yield b"first "
    yield b""
    yield b"second"


def write(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    send = start_response("200 OK", TEXT)
    send(b"written, ")
    send(b"again, ")
    return Closing("write", [b"returned"])


def file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [*TEXT, ("Content-Length", str(Path(__file__).stat().st_size))])
    return environ["wsgi.file_wrapper"](open(__file__, "rb"), 1000)


def file_without_length(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return environ["wsgi.file_wrapper"](io.BytesIO(Path(__file__).read_bytes()))


def echo(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    content = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    start_response("200 OK", [*TEXT, ("Content-Length", str(len(content)))])
    return [content]


def lines(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    first = environ["wsgi.input"].readline()
    second = environ["wsgi.input"].readline(3)
    rest = list(environ["wsgi.input"])
    start_response("200 OK", TEXT)
    return [repr((first, second, rest)).encode()]


def late(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    """start_response with exc_info before anything was sent replaces the head."""
    import sys

    start_response("200 OK", [*TEXT, ("X-Wrong", "yes")])
    try:
        raise ValueError("as the test asked")
    except ValueError:
        start_response("503 Service Unavailable", TEXT, sys.exc_info())  # type: ignore[arg-type]
    return [b"replaced"]


def which_closed(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return [",".join(closed).encode()]


def errors(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    environ["wsgi.errors"].write("a line of the application\n")
    environ["wsgi.errors"].writelines(["and ", "another\n"])
    environ["wsgi.errors"].flush()
    start_response("200 OK", TEXT)
    return [b"logged"]


ROUTES: dict[str, Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]] = {
    f"/{function.__name__}": validator(function)
    for function in (
        empty,
        one,
        several,
        generator,
        write,
        file,
        file_without_length,
        echo,
        lines,
        late,
        which_closed,
        errors,
    )
}


def bare(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", TEXT)
    return [b"bare"]


ROUTES["/bare"] = bare  # without the validator around its list


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    return ROUTES[environ["PATH_INFO"]](environ, start_response)
