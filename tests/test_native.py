"""The native twins against their references: equal values, equal errors.

The tables of cases run on whatever is there (tests/protocol/test_http1.py and the rest, in the pure build and in the
native one); this is for what only a comparison finds. In the pure build there is nothing to compare.
"""

import _socket
import os
import socket
from array import array
from collections.abc import Callable
from contextlib import closing, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from geventgate import native
from geventgate.errors import ApplicationError, PeerError
from geventgate.gateway import environ
from geventgate.message import RequestHead, ResponseHead, split_fields
from geventgate.protocol import http1, websocket
from geventgate.protocol.http1 import HeadLimits
from geventgate.server import carrier, descriptor

ATTRIBUTES = [name for name in RequestHead.__slots__ if name not in ("_fields", "block")] + ["fields"]

RESPONSE_ATTRIBUTES = [name for name in ResponseHead.__slots__ if not name.startswith("_")] + ["fields"]


def both(module: Any, name: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The twin, and its reference; in the pure build the same twice."""
    there = getattr(module, name)
    return there, native.references.get(name, there)


def said(parse: Callable[..., Any], *arguments: Any) -> Any:
    """The value, attribute by attribute, or the error."""
    try:
        head = parse(*arguments)
    except PeerError as error:
        return error.status, str(error)
    return head and {name: getattr(head, name) for name in ATTRIBUTES}


def test_what_has_a_twin() -> None:
    wanted = {
        "parse_request_head", "compose_response_head", "accept", "add_fields", "descriptor_of",
        "frame_codec", "run_in_copied_context", "switch_to", "tell",
    }  # fmt: skip
    assert websocket.MAX_CONTROL  # those of a module are known once it is imported
    assert set(native.references) == (wanted if native.COMPILED else set())


# --- heads

LINES = (b"Host: a", b"Host: a:80", b"Host:", b"Host: [::1]:80", b"Host: a,b", b"Host: a:999999", b"host: A_b",
    b"Connection: close", b"Connection: upgrade", b"Upgrade: websocket", b"Content-Length: 5", b"content-length:5",
    b"Transfer-Encoding: chunked", b"Expect: 100-continue", b"Cookie: a=b", b"Cookie: c", b"Authorization: Basic x",
    b"Content-Type: text/plain", b"X-A: \t b\t", b"X-A:b:c", b"X_A: b", b"Proxy: x", b"X A: b", b"X-A : b", b": b",
    b" folded", b"X: \xe9\xff", b"X: \x00", b"X: \x7f", b"X: a\rb", b"X: a\nb", b"X: \x0b")  # fmt: skip
STARTS = (b"GET ", b"POST ", b"CONNECT ", b"OPTIONS ", b"get ", b"G\tET ", b"/", b"/a/b?c=d&e", b"/?", b"?", b"*",
    b"/%41", b"/#", b"http://a/b?c", b"/\xff", b"/a b", b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", b" HTTP/1.2\r\n",
    b" HTTP/2.0\r\n", b" http/1.1\r\n", b"\r\n", b"\n", b"\r", b"\x00")  # fmt: skip
PIECES = st.sampled_from([*STARTS, *[line + b"\r\n" for line in LINES]])
HEADS = st.lists(PIECES, max_size=12).map(b"".join)
ORDINARY = st.lists(PIECES, max_size=8).map(
    lambda pieces: b"GET /a?b HTTP/1.1\r\nHost: a\r\n" + b"".join(pieces) + b"\r\n"
)
WELL_FORMED = st.lists(st.sampled_from([line + b"\r\n" for line in LINES[7:21] + LINES[26:27]]), max_size=8).map(
    lambda lines: b"".join([b"GET /a?b HTTP/1.1\r\nHost: a\r\n", *lines, b"\r\n"])
)
LIMITS = st.builds(HeadLimits, st.integers(1, 60), st.integers(0, 12), st.integers(1, 400)) | st.just(HeadLimits())


@given(HEADS | ORDINARY | st.binary(max_size=200), st.integers(0, 3), LIMITS)
@example(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0, HeadLimits(14, 1, 27))
@example(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0, HeadLimits(13, 1, 27))
@example(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0, HeadLimits(14, 0, 27))
@example(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0, HeadLimits(14, 1, 26))
@example(b"GET /? HTTP/1.1\r\nHost: a\r\n\r\nGET", 0, HeadLimits())
@example(b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 0, HeadLimits(100_000, 100, 100_000))
@example(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 150 + b"\r\n", 0, HeadLimits(8192, 200, 32768))
def test_heads(data: bytes, start: int, limits: HeadLimits) -> None:
    twin, reference = both(http1, "parse_request_head")
    start = min(start, len(data))
    assert said(twin, data, start, limits) == said(reference, data, start, limits)


@given(ORDINARY)
def test_every_prefix_of_a_head(data: bytes) -> None:
    twin, reference = both(http1, "parse_request_head")
    for end in range(len(data)):
        assert said(twin, data[:end]) == said(reference, data[:end])


@given(WELL_FORMED)
def test_the_fields_of_an_environ(data: bytes) -> None:
    twin, reference = both(environ, "add_fields")
    head = http1.parse_request_head(data)
    native_environ: dict[str, object] = {"CONTENT_TYPE": "there", "HTTP_X_A": "too"}
    pure_environ = native_environ.copy()
    twin(native_environ, head)
    reference(pure_environ, head)
    assert list(native_environ.items()) == list(pure_environ.items())


@given(WELL_FORMED)
def test_splitting_later(data: bytes) -> None:
    """What split_fields() makes of a head that was found well formed is what the parser would have."""
    head = both(http1, "parse_request_head")[1](data)
    assert split_fields(data) == head.fields


# --- responses

NAMES = ("Content-Type", "content-length", "Content-Length", "X-A", "Date", "Server", "Connection", "Keep-Alive", "TE",
    "Transfer-Encoding", "Upgrade", "Priority", "Set-Cookie", "ETag", "Expires", "Last-Modified", "Location",
    "Proxy-Connection", "Sec-WebSocket-Accept", "X A", "", "X\xe9", "X\u0100", "X" * 70, b"X-B", 1)  # fmt: skip
VALUES = ("", "a", "text/plain", "0", "14", "0014", "1" * 18, "1" * 19, "-1", "1 ", "\u0661", "close", "a\tb", " a ",
    "a\r\nb", "a\x00", "a\x7f", "\xe9", "\u0100", "a" * 100, "a" * 2100, b"14", None)  # fmt: skip
STATUSES = ("200 OK", "200", "204 No Content", "304 Not Modified", "100 Continue", "999 x", "000 x", "20 OK", "200OK",
    "200  two", "200 \xe9", "200 \u0100", "200 a\r\nb", "200 a\tb", "200 " + "a" * 100, "200 " + "a" * 2100, "",
    "2\u06610 x", 200, 404, b"200 OK")  # fmt: skip
SAID = st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES))
PLAIN = st.tuples(st.sampled_from(NAMES[:4]), st.sampled_from(VALUES[:5]))
TEXTS = st.text(max_size=8)
RESPONSE_FIELDS = st.lists(PLAIN, max_size=20) | st.lists(SAID | st.tuples(TEXTS, TEXTS), max_size=4)


def composed(compose: Callable[..., Any], *arguments: Any) -> Any:
    """The value, attribute by attribute, or the error."""
    try:
        head = compose(*arguments)
    except ApplicationError as error:
        return str(error)
    except (TypeError, ValueError) as error:
        return type(error)
    return [getattr(head, name) for name in RESPONSE_ATTRIBUTES], head.stamped(b"stamp")


@given(st.sampled_from(STATUSES) | TEXTS, RESPONSE_FIELDS | RESPONSE_FIELDS.map(tuple))
@example("200 OK", [("A", "b", "c")])
@example("200 OK", [["A", "b"]])
@example("200 OK", ["Ab"])
@example("200 OK", None)
@example("200 OK", [(f"X-{number}", "a" * 80) for number in range(30)])
def test_response_heads(status: Any, fields: Any) -> None:
    twin, reference = both(http1, "compose_response_head")
    for _ in range(2):  # again, as it is remembered
        assert composed(twin, status, fields) == composed(reference, status, fields)


@given(RESPONSE_FIELDS)
def test_which_responses_are_remembered(fields: Any) -> None:
    twin, reference = both(http1, "compose_response_head")
    with suppress(ApplicationError):
        assert (twin("200 OK", fields) is twin("200 OK", fields)) == (
            reference("200 OK", fields) is reference("200 OK", fields)
        )


# --- bytes


@pytest.mark.parametrize("which", ["twin", "reference"])
def test_receiving_and_sending(which: str) -> None:
    make = both(descriptor, "descriptor_of")[which == "reference"]
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    there = make(ours)
    with ours, theirs:
        assert there.recv(10) is None
        assert not there.peek()
        theirs.sendall(b"hello")
        assert there.peek()
        assert (there.recv(2), there.recv(100)) == (b"he", b"llo")
        buffer = bytearray(4)
        assert there.recv_into(memoryview(buffer)) == -1
        theirs.sendall(b"hello")
        assert there.recv_into(memoryview(buffer)[1:]) == 3
        assert (bytes(buffer), there.recv(9)) == (b"\0hel", b"lo")
        with pytest.raises((TypeError, BufferError)):
            there.recv_into(b"read-only")
        for buffers in (
            [b"abc"],
            [b"a", b"", bytearray(b"bc")],
            (b"ab", memoryview(bytearray(b"bcd"))[1:2]),
            [memoryview(array("H", [0x6261])), b"c"],
        ):
            assert there.sendv(buffers) == 3
            assert there.whole
            assert theirs.recv(10) == b"abc"
        assert there.sendv([b"%02d" % number for number in range(100)]) == 200
        assert theirs.recv(300) == b"".join(b"%02d" % number for number in range(100))
        for wrong in ("text", 1, None):
            with pytest.raises(TypeError):
                there.sendv([wrong])
            with pytest.raises(TypeError):
                there.sendv([b"a", wrong])
        large = b"x" * (1 << 20)
        sent = 0
        while count := there.sendv([large, large]):
            sent += count
            assert not there.whole
        assert sent > 0
        assert there.sendv([b"x"]) == 0
        theirs.close()
        with pytest.raises(ConnectionError):
            there.sendv([b"x"])
        with suppress(ConnectionError):  # told once
            there.recv(1)
        assert there.recv(1) == b""
        assert not there.peek()
        assert there.recv_into(memoryview(bytearray(1))) == 0


@pytest.mark.parametrize("which", ["twin", "reference"])
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6, socket.AF_UNIX])
def test_accepting(which: str, family: socket.AddressFamily, tmp_path: Path) -> None:
    accept = both(descriptor, "accept")[which == "reference"]
    address: Any = {socket.AF_INET: ("127.0.0.1", 0), socket.AF_INET6: ("::1", 0)}.get(family, str(tmp_path / "socket"))
    with socket.socket(family) as listener, socket.socket(family) as client:
        listener.bind(address)
        listener.listen()
        listener.setblocking(False)
        assert accept(listener) is None
        client.connect(listener.getsockname())
        sock, peer = accept(listener)
        with closing(sock):
            assert type(sock) is _socket.socket
            assert (sock.family, sock.gettimeout(), peer) == (family, 0.0, client.getsockname())
            assert sock.type & ~socket.SOCK_NONBLOCK == socket.SOCK_STREAM
            assert not os.get_blocking(sock.fileno())
            assert not os.get_inheritable(sock.fileno())
            with pytest.raises(BlockingIOError):
                sock.recv(1)
        assert accept(listener) is None
    with pytest.raises(OSError, match="Bad file descriptor"):
        accept(listener)


def test_what_encrypts_does_so_by_itself() -> None:
    class Encrypting(socket.socket):
        def recv(self, size: int, flags: int = 0) -> bytes:
            return b"plaintext"

        def send(self, data: Any, flags: int = 0) -> int:
            return 0

    with Encrypting() as sock:
        there = descriptor.descriptor_of(sock)
        assert (there.recv(10), there.sendv([b"secret"])) == (b"plaintext", 0)


def test_a_context_of_its_own() -> None:
    run, reference = both(carrier, "run_in_copied_context")
    variable: ContextVar[str] = ContextVar("variable", default="outside")
    seen: list[str] = []

    def handle(exchange: Any) -> None:
        seen.append(variable.get())
        variable.set("inside")
        if exchange:
            raise KeyError(exchange)

    for call in (run, reference):
        call(handle, None)
        with pytest.raises(KeyError):
            call(handle, "fails")
    assert (seen, variable.get()) == (["outside"] * 4, "outside")
