"""Malformed HTTP/2 requests are refused and never reach the application; the others are what HTTP/1 makes of them.

The field policy is one: what the application sees over HTTP/2 is compared with what it sees over HTTP/1. A case named
after a CVE would have caught that bug of another server.
"""

import json
import socket
from functools import partial
from typing import Any

import pytest
from http2_wire import (
    CANCEL,
    DATA,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    NO_ERROR,
    PROTOCOL_ERROR,
    Wire,
    raw_frame,
    request,
)

Fields = list[tuple[str | bytes, str | bytes]]
ENGINES = ["h2", "ngh2"]
named = pytest.mark.parametrize


def get(*more: tuple[str | bytes, str | bytes], **changes: str | bytes | None) -> Fields:
    """A GET with *more* fields, and pseudo-fields of other values: of None, without them."""
    changed = {f":{name}": value for name, value in changes.items()}
    fields = [(name, changed.pop(str(name), value)) for name, value in request()]
    return [(name, value) for name, value in [*fields, *changed.items(), *more] if value is not None]


def post(*more: tuple[str | bytes, str | bytes]) -> Fields:
    return get(*more, method="POST")


def connect(**changes: str | bytes | None) -> Fields:
    return get(**{"method": "CONNECT", "scheme": None, "path": None, "authority": "a:80", **changes})


Table = list[tuple[str, Fields]]
NAMES: Table = [
    ("upper-case name", get(("Foo", "a"))),
    ("upper-case letter in a name", get(("foO", "a"))),
    ("empty name", get(("", "a"))),
    ("empty name and value (CVE-2019-9516)", get(("", ""))),
    ("space in a name", get(("fo o", "a"))),
    ("space behind a name", get(("foo ", "a"))),
    ("tab in a name", get(("fo\to", "a"))),
    ("colon in a name", get(("fo:o", "a"))),
    ("colon behind a name", get(("foo:", "a"))),
    ("slash in a name", get(("fo/o", "a"))),
    ("parentheses in a name", get(("(foo)", "a"))),
    ("NUL in a name", get(("fo\0o", "a"))),
    ("LF in a name", get(("fo\no", "a"))),
    ("CR LF in a name (CVE-2025-57804)", get(("foo: a\r\nbar", "a"))),
    ("0x01 in a name", get(("fo\x01o", "a"))),
    ("DEL in a name", get(("fo\x7fo", "a"))),
    ("high octet in a name", get((b"fo\xe9o", "a"))),
]
VALUES: Table = [
    ("NUL in a value", get(("foo", "a\0b"))),
    ("LF in a value", get(("foo", "a\nb"))),
    ("CR in a value", get(("foo", "a\rb"))),
    ("CR LF in a value (CVE-2025-57804)", get(("foo", "a\r\nevil: b"))),
    ("a request in a value (CVE-2025-57804)", get(("foo", "a\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"))),
    ("LF at the start of a value", get(("foo", "\na"))),
    ("LF at the end of a value", get(("foo", "a\n"))),
    ("0x01 in a value", get(("foo", "a\x01b"))),
    ("vertical tab in a value", get(("foo", "a\x0bb"))),
    ("ESC in a value", get(("foo", "\x1b[0m"))),
    ("DEL in a value", get(("foo", "a\x7fb"))),
    ("leading space in a value", get(("foo", " a"))),
    ("trailing space in a value", get(("foo", "a "))),
    ("leading tab in a value", get(("foo", "\ta"))),
    ("trailing tab in a value", get(("foo", "a\t"))),
    ("a value of one space", get(("foo", " "))),
    ("NUL in a cookie", get(("cookie", "a\0b"))),
    ("space before a cookie crumb", get(("cookie", "a=b"), ("cookie", " c=d"))),
    ("LF in a user agent", get(("user-agent", "a\nb"))),
]
PSEUDO: Table = [
    ("pseudo-field after a regular one", [*get(path=None), ("foo", "a"), (":path", "/")]),
    ("pseudo-field twice, after a regular one", [*get(("foo", "a")), (":path", "/")]),
    ("unknown pseudo-field", [(":foo", "a"), *get()]),
    ("unknown pseudo-field behind the others", [*get(), (":foo", "a")]),
    ("a colon for a name", [*get(), (":", "a")]),
    (":Method", get((":Method", "GET"), method=None)),
    (":status", [*get(), (":status", "200")]),
    ("two :method", [(":method", "GET"), *get()]),
    ("two :scheme", [(":scheme", "http"), *get()]),
    ("two :path", [(":path", "/"), *get()]),
    ("two :authority", [(":authority", "localhost"), *get()]),
    ("no :method", get(method=None)),
    ("no :scheme", get(scheme=None)),
    ("no :path", get(path=None)),
    ("no :authority and no host", get(authority=None)),
    ("no pseudo-field", [("foo", "a")]),
    ("nothing", []),
    ("empty :method", get(method="")),
    ("space in :method", get(method="GE T")),
    ("a request line for :method (CVE-2025-57804)", get(method="GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\nGET")),
    ("empty :scheme", get(scheme="")),
    ("LF in :scheme", get(scheme="http\n")),
    ("a URL for :scheme", get(scheme="http://a/?")),
    ("empty :path", get(path="")),
    (":path without a slash", get(path="a")),
    (":path of a whole URL", get(path="http://localhost/")),
    (":path * of GET", get(path="*")),
    (":path of a query", get(path="?a")),
    ("fragment in :path", get(path="/a#b")),
    ("space in :path", get(path="/a b")),
    ("tab in :path", get(path="/a\tb")),
    ("NUL in :path", get(path="/a\0b")),
    ("a request in :path (CVE-2025-57804)", get(path="/ HTTP/1.1\r\nHost: a\r\n\r\nGET /smuggled")),
    ("DEL in :path", get(path="/a\x7fb")),
]
AUTHORITY: Table = [
    ("empty :authority", get(authority="")),
    ("userinfo in :authority", get(authority="user@localhost")),
    ("userinfo with a password in :authority", get(authority="user:word@localhost")),
    ("space in :authority", get(authority="local host")),
    ("space behind :authority", get(authority="localhost ")),
    ("path in :authority", get(authority="localhost/a")),
    ("query in :authority", get(authority="localhost?a")),
    ("fragment in :authority", get(authority="localhost#a")),
    ("backslash in :authority", get(authority="localhost\\a")),
    ("markup in :authority", get(authority="<a>")),
    ("CR LF in :authority (CVE-2025-57804)", get(authority="localhost\r\nevil: a")),
    ("letters for a port", get(authority="localhost:a")),
    ("two ports", get(authority="localhost:80:80")),
    ("signed port", get(authority="localhost:+80")),
    ("open bracket in :authority", get(authority="[::1")),
    ("two hosts", get(("host", "a"), ("host", "b"), authority=None)),
    ("two hosts that agree", get(("host", "localhost"), ("host", "localhost"))),
    ("host that differs from :authority", get(("host", "a"))),
    ("empty host beside :authority", get(("host", ""))),
    ("userinfo in host", get(("host", "user@a"), authority=None)),
    ("empty host", get(("host", ""), authority=None)),
]
CONNECTION: Table = [
    ("connection: close", get(("connection", "close"))),
    ("connection: keep-alive", get(("connection", "keep-alive"))),
    ("connection of a field", get(("connection", "foo"), ("foo", "a"))),
    ("keep-alive", get(("keep-alive", "timeout=5"))),
    ("proxy-connection", get(("proxy-connection", "keep-alive"))),
    ("transfer-encoding: chunked", post(("transfer-encoding", "chunked"))),
    ("transfer-encoding: identity", post(("transfer-encoding", "identity"))),
    ("transfer-encoding, empty", post(("transfer-encoding", ""))),
    ("upgrade: websocket", get(("upgrade", "websocket"))),
    ("upgrade: h2c", get(("upgrade", "h2c"))),
    ("te: gzip", get(("te", "gzip"))),
    ("te: trailers, gzip", get(("te", "trailers, gzip"))),
    ("te, empty", get(("te", ""))),
]
LENGTHS: Table = [
    (f"content-length {name}", post(*[("content-length", value) for value in values]))
    for name, values in [
        ("twice, differing", ["0", "5"]),
        ("twice, agreeing", ["0", "0"]),
        ("of a list", ["0, 0"]),
        ("+0", ["+0"]),
        ("-0", ["-0"]),
        ("-5", ["-5"]),
        ("0x0", ["0x0"]),
        ("0_0", ["0_0"]),
        ("0.0", ["0.0"]),
        ("0e0", ["0e0"]),
        ("empty", [""]),
        ("of letters", ["abc"]),
        ("with a space inside", ["0 0"]),
        ("superscript", [b"\xb2"]),
        ("in UTF-8 full-width", [b"\xef\xbc\x90"]),
        ("of 40 digits", ["9" * 40]),
    ]
]
CONNECTS: Table = [
    ("CONNECT with :path", connect(path="/")),
    ("CONNECT with :scheme", connect(scheme="http")),
    ("CONNECT with both", connect(scheme="http", path="/")),
    ("CONNECT without :authority", connect(authority=None)),
    ("CONNECT without a port", connect(authority="a")),
    ("CONNECT with userinfo", connect(authority="user@a:80")),
    (":protocol without CONNECT", get(protocol="websocket")),
    (":protocol without :path", connect(protocol="websocket", scheme="http")),
    (":protocol without :scheme", connect(protocol="websocket", path="/")),
    (":protocol without :authority", connect(protocol="websocket", scheme="http", path="/", authority=None)),
    ("empty :protocol", connect(protocol="", scheme="http", path="/")),
    ("space in :protocol", connect(protocol="web socket", scheme="http", path="/")),
    ("two :protocol", [(":protocol", "a"), *connect(protocol="a", scheme="http", path="/")]),
]
WITH_ANY_CONTENT = NAMES + VALUES + PSEUDO + AUTHORITY + CONNECTION + LENGTHS + CONNECTS
REFUSED = [*WITH_ANY_CONTENT, ("content-length 5, and END_STREAM", post(("content-length", "5")))]


def ids(table: list[Any]) -> list[str]:
    return [case[0] for case in table]


class Server:
    """What the tests ask of the server whose application records."""

    def __init__(self, gate) -> None:
        self.gate = gate

    def connect(self, huffman: bool = True) -> Wire:
        """Without Huffman's code large fields take our encoder no seconds."""
        wire = Wire(self.gate.address).handshake()
        wire.encoder.encode = partial(wire.encoder.encode, huffman=huffman)
        return wire

    def seen(self) -> list[dict[str, Any]]:
        """The requests that have reached the application since the last call."""
        with self.connect() as wire:
            wire.headers(1, get(path="/seen"))
            return json.loads(wire.response(1).content)


def start(gate, engine: str, *options: str) -> Server:
    http2 = ("--http2-cleartext", "prior-knowledge", "--http2-engine", engine)
    return Server(gate("http2_flood_app:application", *http2, *options))


@pytest.fixture(scope="module", params=ENGINES)
def server(request, module_gate):
    return start(module_gate, request.param)


@pytest.fixture
def fresh(server):
    """The server, having forgotten earlier requests."""
    server.seen()
    return server


def assert_lives(wire: Wire, stream: int = 99) -> None:
    """The connection still serves."""
    wire.headers(stream, get(path="/behind"))
    assert wire.response(stream).status == 200
    assert wire.goaway is None


@named("fields", [case[1] for case in REFUSED], ids=ids(REFUSED))
def test_malformed_requests_are_refused(fresh, fields):
    """A stream error, and the connection lives on (RFC 9113 §8.1.1)."""
    with fresh.connect() as wire:
        wire.headers(1, fields)
        stream = wire.stream(1)
        wire.until(lambda: stream.reset is not None or stream.status > 0, "refusal")
        assert stream.reset == PROTOCOL_ERROR, f"status {stream.status}"
        assert stream.status == 0
        assert_lives(wire)
    assert [request["PATH_INFO"] for request in fresh.seen()] == ["/behind"]


@named("fields", [case[1] for case in WITH_ANY_CONTENT[::3]], ids=ids(WITH_ANY_CONTENT[::3]))
def test_malformed_requests_with_content_are_refused(fresh, fields):
    """And its content, in flight before we could say so, hurts nobody."""
    with fresh.connect() as wire:
        wire.send(
            wire.headers_octets(1, fields, end_stream=False),
            raw_frame(DATA, 0, 1, b"x" * 10_000),
            raw_frame(DATA, END_STREAM, 1, b"x"),
        )
        stream = wire.stream(1)
        wire.until(lambda: stream.reset is not None or stream.status > 0, "refusal")
        assert stream.reset == PROTOCOL_ERROR, f"status {stream.status}"
        assert_lives(wire)
    assert [request["PATH_INFO"] for request in fresh.seen()] == ["/behind"]


# --- content and trailers


def trailers(*fields: tuple[str | bytes, str | bytes]) -> Fields:
    return list(fields)


# (what, the request, DATA frames, trailers or None, whether END_STREAM comes with the last frame)
BAD_CONTENT: list[tuple[str, Fields, list[bytes], Fields | None, bool]] = [
    ("content short of content-length", post(("content-length", "5")), [b"he"], None, True),
    ("no content, of content-length 5", post(("content-length", "5")), [b""], None, True),
    ("content beyond content-length", post(("content-length", "5")), [b"hello!"], None, True),
    ("content beyond content-length, without end", post(("content-length", "5")), [b"hello!"], None, False),
    ("content beyond content-length, later", post(("content-length", "5")), [b"hel", b"lo", b"!"], None, True),
    ("content beyond content-length 0", post(("content-length", "0")), [b"h"], None, True),
    ("trailers short of content-length", post(("content-length", "5")), [b"he"], trailers(("foo", "a")), True),
    ("pseudo-field in trailers", post(), [b"hello"], trailers((":path", "/")), True),
    (":status in trailers", post(), [b"hello"], trailers((":status", "200")), True),
    ("pseudo-field behind others in trailers", post(), [b"hello"], trailers(("foo", "a"), (":path", "/")), True),
    ("trailers without END_STREAM", post(), [b"hello"], trailers(("foo", "a")), False),
    ("upper-case name in trailers", post(), [b"hello"], trailers(("Foo", "a")), True),
    ("empty name in trailers", post(), [b"hello"], trailers(("", "a")), True),
    ("CR LF in trailers (CVE-2025-57804)", post(), [b"hello"], trailers(("foo", "a\r\nb: c")), True),
    ("NUL in trailers", post(), [b"hello"], trailers(("foo", "a\0")), True),
    ("trailing space in trailers", post(), [b"hello"], trailers(("foo", "a ")), True),
    ("connection in trailers", post(), [b"hello"], trailers(("connection", "close")), True),
    ("transfer-encoding in trailers", post(), [b"hello"], trailers(("transfer-encoding", "chunked")), True),
    ("no content, and a pseudo-field in trailers", post(), [], trailers((":method", "GET")), True),
]


@named(("fields", "data", "trailing", "ends"), [case[1:] for case in BAD_CONTENT], ids=ids(BAD_CONTENT))
def test_malformed_content_is_an_error_and_never_an_end(fresh, fields, data, trailing, ends):
    """The application, if it was called, has had an error from read()."""
    with fresh.connect() as wire:
        octets = wire.headers_octets(1, fields, end_stream=False)
        for number, piece in enumerate(data):
            last = trailing is None and number == len(data) - 1
            octets += raw_frame(DATA, END_STREAM if last and ends else 0, 1, piece)
        if trailing is not None:
            octets += wire.headers_octets(1, trailing, end_stream=ends)
        wire.send(octets)
        wire.expect_stream_error(1, PROTOCOL_ERROR)
        assert wire.stream(1).status == 0
        assert_lives(wire)
    seen = fresh.seen()
    assert seen[-1]["PATH_INFO"] == "/behind"
    for called in seen[:-1]:
        assert called["content"].startswith("PeerGone"), called["content"]


# --- what is not malformed: HTTP/1's policy

PARITY: list[tuple[str, Fields, bytes]] = [
    ("nothing more", get(), b""),
    ("a field", get(("foo", "bar")), b""),
    ("a field twice", get(("foo", "a"), ("foo", "b")), b""),
    ("a field thrice, others between", get(("foo", "a"), ("bar", "x"), ("foo", ""), ("foo", "c")), b""),
    ("an empty value", get(("foo", "")), b""),
    ("a tab inside a value", get(("foo", "a\tb")), b""),
    ("bytes of latin-1", get(("foo", b"caf\xe9")), b""),
    ("bytes of UTF-8", get(("foo", "café")), b""),
    ("odd characters of a token", get(("!#$%&'*+.^`|~", "x")), b""),
    ("an underscore in a name", get(("x_foo", "evil"), ("x-foo", "good")), b""),
    ("an underscore in host", get(("http_host", "evil"), ("content_length", "5"), ("content_type", "a")), b""),
    ("Proxy (CVE-2016-1000111)", get(("proxy", "http://evil/")), b""),
    ("one cookie", get(("cookie", "a=b")), b""),
    ("te: trailers", get(("te", "trailers")), b""),
    ("te: Trailers", get(("te", "Trailers")), b""),
    ("host that agrees", get(("host", "localhost")), b""),
    ("host in another case", get(("host", "LOCALHOST")), b""),
    (":authority with a port", get(authority="localhost:8080"), b""),
    (":authority in upper case", get(authority="LocalHost"), b""),
    (":authority of IPv6", get(authority="[::1]:80"), b""),
    ("a query", get(path="/a?b=c&d=%20"), b""),
    ("an empty query", get(path="/a?"), b""),
    ("two question marks", get(path="/a?b?c"), b""),
    ("percent-encoding", get(path="/caf%C3%A9%2Fx"), b""),
    ("high octets in the path", get(path=b"/caf\xc3\xa9"), b""),
    ("a double slash", get(path="//a//b"), b""),
    ("dots", get(path="/a/../b/./c"), b""),
    ("OPTIONS *", get(path="*", method="OPTIONS"), b""),
    ("OPTIONS of a path", get(path="/a", method="OPTIONS"), b""),
    ("an unknown method", get(method="BREW"), b""),
    ("a method in lower case", get(method="get"), b""),
    ("TRACE", get(method="TRACE"), b""),
    ("content", post(("content-length", "5"), ("content-type", "text/plain")), b"hello"),
    ("content on GET", get(("content-length", "5")), b"hello"),
    ("content-length 0", post(("content-length", "0")), b""),
    ("leading zeros of content-length", post(("content-length", "0005")), b"hello"),
    ("two content types", post(("content-type", "a"), ("content-type", "b"), ("content-length", "0")), b""),
    ("forwarded fields of an unknown peer", get(("x-forwarded-for", "6.6.6.6"), ("x-forwarded-proto", "https")), b""),
    ("forwarded of an unknown peer", get(("forwarded", "for=6.6.6.6;proto=https;host=evil")), b""),
    ("priority", get(("priority", "u=1, i")), b""),
    ("http2-settings", get(("http2-settings", "AAMAAABkAAQAAP__")), b""),
    ("100 fields", get(*[(f"a{n}", "b") for n in range(99)]), b""),
]
# What HTTP/1 and HTTP/2 cannot have in common.
OWN = {"SERVER_PROTOCOL", "REMOTE_PORT", "SERVER_SOFTWARE"}


def over_http1(gate, fields: Fields, content: bytes) -> dict[str, Any]:
    """The same request by HTTP/1.1: what the application saw of it."""
    pseudo = {name: as_octets(value) for name, value in fields if str(name).startswith(":")}
    lines = [b"%b %b HTTP/1.1" % (pseudo[":method"], pseudo[":path"]), b"Host: " + pseudo[":authority"]]
    for name, value in fields:
        if name not in pseudo and name != "host":  # :authority is Host already
            lines.append(as_octets(name) + b": " + as_octets(value))
    with gate.connect() as peer:
        peer.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + content)
        head, answer = b"", b""
        while b"\r\n\r\n" not in head:
            head += receive(peer)
        head, _, answer = head.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 "), head
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        while len(answer) < length:
            answer += receive(peer)
    return json.loads(answer)


def receive(peer: socket.socket) -> bytes:
    data = peer.recv(65536)
    assert data, "closed"
    return data


def as_octets(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def over_http2(server: Server, fields: Fields, content: bytes) -> dict[str, Any]:
    with server.connect() as wire:
        wire.headers(1, fields, end_stream=not content)
        if content:
            wire.data(1, content)
        response = wire.response(1)
        assert response.status == 200, response
        return json.loads(response.content)


@named(("fields", "content"), [case[1:] for case in PARITY], ids=ids(PARITY))
def test_the_application_sees_what_it_sees_over_http1(server, fields, content):
    old, new = over_http1(server.gate, fields, content), over_http2(server, fields, content)
    assert old["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert new["SERVER_PROTOCOL"] == "HTTP/2"
    assert {key: new[key] for key in new.keys() - OWN} == {key: old[key] for key in old.keys() - OWN}
    assert new["content"] == content.decode()


# (what, the request, what of the environ)
SEEN: list[tuple[str, Fields, dict[str, str | None]]] = [
    (
        "cookie crumbs are joined (RFC 9113 §8.2.3)",
        get(("cookie", "a=b"), ("foo", "x"), ("cookie", "c=d"), ("cookie", "e=f")),
        {"HTTP_COOKIE": "a=b; c=d; e=f", "HTTP_FOO": "x"},
    ),
    ("an empty crumb", get(("cookie", "a=b"), ("cookie", "")), {"HTTP_COOKIE": "a=b;"}),
    ("Host from :authority", get(authority="a:81"), {"HTTP_HOST": "a:81"}),
    ("Host from host", get(("host", "a:81"), authority=None), {"HTTP_HOST": "a:81"}),
    ("repeated fields are joined", get(("foo", "a"), ("foo", "b")), {"HTTP_FOO": "a,b"}),
    ("an underscore drops a name", get(("x_foo", "evil")), {"HTTP_X_FOO": None}),
    ("Proxy is dropped", get(("proxy", "evil")), {"HTTP_PROXY": None}),
    ("the scheme is never the peer's claim", get(scheme="https"), {"wsgi.url_scheme": "http", "HTTPS": None}),
    ("the peer's address is never its claim", get(("x-forwarded-for", "6.6.6.6")), {"REMOTE_ADDR": "127.0.0.1"}),
    (
        "pseudo-fields are no fields",
        get(),
        {"HTTP_:PATH": None, "HTTP_PATH": None, "HTTP_METHOD": None, "HTTP_AUTHORITY": None},
    ),
    ("content-type", post(("content-type", "a/b")), {"CONTENT_TYPE": "a/b", "HTTP_CONTENT_TYPE": None}),
    ("the target as it came", get(path="/a%2Fb?c"), {"REQUEST_URI": "/a%2Fb?c", "RAW_URI": "/a%2Fb?c"}),
    ("bytes of latin-1", get(("foo", b"caf\xe9")), {"HTTP_FOO": "caf\xe9"}),
]


@named(("fields", "expected"), [case[1:] for case in SEEN], ids=ids(SEEN))
def test_what_the_application_sees(server, fields, expected):
    seen = over_http2(server, fields, b"")
    assert {key: seen.get(key) for key in expected} == expected


@named("engine", ENGINES)
def test_forwarded_fields_are_believed_from_named_peers(gate, engine):
    server = start(gate, engine, "--forwarded-allow-ips", "127.0.0.1")
    fields = get(("x-forwarded-for", "6.6.6.6"), ("x-forwarded-proto", "https"), ("x-forwarded-host", "evil"))
    seen = over_http2(server, fields, b"")
    assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"]) == ("6.6.6.6", "https")
    assert seen["HTTP_HOST"] == "localhost"  # not among --forwarded-headers
    old = over_http1(server.gate, fields, b"")
    assert {key: seen[key] for key in seen.keys() - OWN} == {key: old[key] for key in old.keys() - OWN}


# --- limits: well formed, but too much


def many(count: int, size: int = 1) -> list[tuple[str, str]]:
    return [(f"a{n}", "b" * size) for n in range(count)]


LIMITS: list[tuple[str, Fields, int]] = [
    ("101 fields", get(*many(101)), 431),
    ("150 fields", get(*many(150)), 431),
    ("101 cookie crumbs", get(*[("cookie", "a=b")] * 101), 431),
    ("33 KiB in one field", get(("a", "b" * 33_000)), 431),
    ("34 KiB in 70 fields", get(*many(70, 450)), 431),
    ("33 KiB of cookie crumbs", get(*[("cookie", "a" * 1000)] * 33), 431),
    ("60 KiB in one field", get(("a", "b" * 60_000)), 431),
    (":path of 8 KiB and more", get(path="/" + "a" * 8192), 414),
    (":path of 30 KiB", get(path="/" + "a" * 30_000), 414),
    ("an unknown expectation", post(("expect", "a-miracle")), 417),
    ("an expectation twice", post(("expect", "100-continue"), ("expect", "a-miracle")), 417),
    ("CONNECT is not for us", connect(), 501),
]


@named(("fields", "status"), [case[1:] for case in LIMITS], ids=ids(LIMITS))
@named("ends", [True, False], ids=["", "with content"])
def test_too_much_is_answered_and_the_connection_lives(fresh, fields, status, ends):
    with fresh.connect(huffman=False) as wire:
        wire.headers(1, fields, end_stream=ends)
        wire.until(lambda: wire.stream(1).status > 0 or wire.stream(1).reset is not None, "answer")
        assert wire.stream(1).status == status, wire.stream(1)
        assert_lives(wire)
    assert [request["PATH_INFO"] for request in fresh.seen()] == ["/behind"]


@named("ends", [True, False], ids=["", "with content"])
def test_a_protocol_that_the_application_does_not_speak_is_501(server, ends):
    """It was asked, since it might have: what it answers to CONNECT is not taken for an agreement (RFC 8441 §4)."""
    with server.connect() as wire:
        wire.headers(1, connect(protocol="a", scheme="http", path="/ok"), end_stream=ends)
        wire.until(lambda: wire.stream(1).status > 0, "answer")
        assert wire.stream(1).status == 501
        assert_lives(wire)


INSIDE: list[tuple[str, Fields]] = [
    ("96 fields", get(*many(96))),
    ("90 cookie crumbs", get(*[("cookie", "a=b")] * 90)),
    ("31 KiB in one field", get(("a", "b" * 31_000))),
    ("31 KiB in 60 fields", get(*many(60, 480))),
    (":path of nearly 8 KiB", get(path="/" + "a" * 8100)),
]


@named("fields", [case[1] for case in INSIDE], ids=ids(INSIDE))
def test_a_little_less_is_served(fresh, fields):
    with fresh.connect(huffman=False) as wire:
        wire.headers(1, fields)
        assert wire.response(1).status == 200
    assert len(fresh.seen()) == 1


FAR_BEYOND: list[tuple[str, Fields]] = [
    ("201 fields", get(*many(201))),
    ("2000 fields", get(*many(2000))),
    ("2000 cookie crumbs", get(*[("cookie", "a=b")] * 2000)),
    ("66 KiB in one field", get(("a", "b" * 66_000))),
    ("100 KiB in one field", get(("a", "b" * 100_000))),
    ("100 KiB in 90 fields", get(*many(90, 1100))),
    (":path of 70 KiB", get(path="/" + "a" * 70_000)),
]


@named("fields", [case[1] for case in FAR_BEYOND], ids=ids(FAR_BEYOND))
def test_far_too_much_is_refused_somehow(fresh, fields):
    """431, or an error of the stream or of the connection; other connections do not notice."""
    with fresh.connect(huffman=False) as wire, fresh.connect() as other:
        wire.headers(1, fields)
        stream = wire.stream(1)
        wire.until(lambda: stream.status > 0 or stream.reset is not None or wire.closed, "refusal")
        assert stream.status in (0, 414, 431)
        assert stream.reset in (None, NO_ERROR, PROTOCOL_ERROR, CANCEL, ENHANCE_YOUR_CALM)
        assert_lives(other)
    assert [request["PATH_INFO"] for request in fresh.seen()] == ["/behind"]


@pytest.fixture(scope="module", params=ENGINES)
def limited(request, module_gate):
    return start(module_gate, request.param, "--limit-request-body", "1000")


def test_a_content_length_over_the_limit_is_413(limited):
    limited.seen()
    with limited.connect() as wire:
        wire.headers(1, post(("content-length", "1001")), end_stream=False)
        wire.until(lambda: wire.stream(1).status > 0, "answer")
        assert wire.stream(1).status == 413
        assert_lives(wire)
    assert [request["PATH_INFO"] for request in limited.seen()] == ["/behind"]


@named("sizes", [[1001], [1000, 1], [100] * 11, [16_384] * 3], ids=str)
def test_streamed_content_over_the_limit_is_413(limited, sizes):
    """Or a reset; the application that reads it has an error, never an end."""
    limited.seen()
    with limited.connect() as wire:
        octets = wire.headers_octets(1, post(), end_stream=False)
        octets += b"".join(raw_frame(DATA, 0, 1, b"x" * size) for size in sizes)
        wire.send(octets + raw_frame(DATA, END_STREAM, 1))
        stream = wire.stream(1)
        wire.until(lambda: stream.status > 0 or stream.reset is not None, "refusal")
        assert stream.status in (0, 413)
        assert_lives(wire)
    first, behind = limited.seen()
    assert behind["PATH_INFO"] == "/behind"
    assert first["content"].startswith("Peer"), first["content"]


@named("length", [[("content-length", "1000")], []], ids=["length", "streamed"])
def test_content_of_the_limit_is_served(limited, length):
    with limited.connect() as wire:
        wire.headers(1, post(*length), end_stream=False)
        wire.data(1, b"x" * 1000)
        assert json.loads(wire.response(1).content)["content"] == "x" * 1000


def test_100_continue_is_sent_by_the_first_read(server):
    with server.connect() as wire:
        wire.headers(1, post(("expect", "100-continue"), ("content-length", "5")), end_stream=False)
        wire.until(lambda: bool(wire.stream(1).interim), "100")
        assert wire.stream(1).interim == [[(":status", "100")]]
        assert wire.stream(1).status == 0
        wire.data(1, b"hello")
        assert json.loads(wire.response(1).content)["content"] == "hello"
