"""Opening handshakes: requests in, a Handshake or the answer to send out."""

import pytest

from geventgate.errors import ApplicationError, PeerError
from geventgate.message import Fields, RequestHead
from geventgate.protocol.handshake import (
    Handshake,
    accept_fields,
    accept_value,
    check_handshake,
    is_websocket,
    origin_allowed,
)
from geventgate.protocol.http1 import parse_request_head

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 §1.3
GOOD = {
    b"Host": b"example.com",
    b"Upgrade": b"websocket",
    b"Connection": b"Upgrade",
    b"Sec-WebSocket-Key": KEY,
    b"Sec-WebSocket-Version": b"13",
}


def http1(changes: dict[bytes, bytes | None] | None = None, line: bytes = b"GET /chat HTTP/1.1") -> RequestHead:
    """A good handshake but for *changes*; None leaves a field out."""
    fields = {**GOOD, **(changes or {})}
    lines = [line, *(b"%b: %b" % (name, value) for name, value in fields.items() if value is not None)]
    head = parse_request_head(b"\r\n".join(lines) + b"\r\n\r\n")
    assert head is not None
    return head


def http2(fields: Fields = ((b"sec-websocket-version", b"13"),), method: str = "CONNECT", protocol: str = "websocket"):
    return RequestHead(method, b"/chat", "2", fields, scheme="https", authority=b"example.com", protocol=protocol)


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (http1(), True),
        (http1({b"Upgrade": b"WebSocket"}), True),
        (http1({b"Upgrade": b"websocket, foo/2", b"Connection": b"keep-alive, Upgrade"}), True),
        (http1({b"Upgrade": b"foo/2, websocket"}), False),  # of several protocols the first is the one to switch to
        (http1({b"Sec-WebSocket-Key": None}), True),  # a malformed one, to be refused as such
        (http1({b"Upgrade": b"websockets"}), False),
        (http1({b"Upgrade": b"h2c"}), False),
        (http1({b"Upgrade": None}), False),
        (http1({b"Connection": b"keep-alive"}), False),
        (http1({b"Connection": None}), False),
        (http1(line=b"POST /chat HTTP/1.1"), False),
        (http1(line=b"GET /chat HTTP/1.0"), False),
        (http2(), True),
        (http2(protocol="connect-udp"), False),
        (http2(method="GET"), False),
    ],
)
def test_is_websocket(head, expected):
    assert is_websocket(head) is expected


def test_check_handshake():
    assert check_handshake(http1()) == Handshake(KEY, "13", (), None)
    head = http1({b"Origin": b"https://a.example", b"Sec-WebSocket-Protocol": b"chat,  superchat ,, x.y"})
    assert check_handshake(head) == Handshake(KEY, "13", ("chat", "superchat", "x.y"), "https://a.example")
    assert check_handshake(http2()) == Handshake(b"", "13", (), None)


def test_subprotocols_may_come_in_several_fields():
    head = RequestHead(
        "CONNECT",
        b"/",
        "2",
        (
            (b"sec-websocket-version", b"13"),
            (b"sec-websocket-protocol", b"a, b"),
            (b"sec-websocket-protocol", b"c"),
        ),
        protocol="websocket",
    )
    assert check_handshake(head).subprotocols == ("a", "b", "c")


@pytest.mark.parametrize(
    ("value", "offers"),
    [
        (b"a", [("a", ())]),
        (b"a;b", [("a", (("b", None),))]),
        (b" a ; b = c ;d ,\te;f", [("a", (("b", "c"), ("d", None))), ("e", (("f", None),))]),
        (b'a; b="c"; b="c"', [("a", (("b", "c"), ("b", "c")))]),
        (b'a; b="c\\d\\e"', [("a", (("b", "cde"),))]),
        (b", ,a,,a ,", [("a", ()), ("a", ())]),
        (b"", []),
        (b" , ", []),
    ],
)
def test_extensions(value, offers):
    handshake = check_handshake(http1({b"Sec-WebSocket-Extensions": value}))
    assert list(handshake.extensions) == offers


@pytest.mark.parametrize(
    "value",
    [
        b"a b", b"a;", b"=", b"a;;b", b";a", b"a;b=", b'a;b=""', b'a;b="c', b'a;b="c\\"', b'a;b="c d"', b'a;b="c,d"',
        b"a;b=c=d", b"a=b", b'"a"', b"a/b", b"caf\xe9", b'a;b="\xe9"', b"a;b c", b"a, b;", b'a;b="c"d',
        b"a" + b" " * 10_000 + b"b", b"a" * 10_000 + b"/", b"a;b=" * 3_000, b'a;b="' + b"\\c" * 5_000,
    ],
)  # fmt: skip
def test_malformed_extensions(value):
    """ "does not conform to the ABNF": "MUST immediately _Fail the WebSocket Connection_" (RFC 6455 §9.1)."""
    with pytest.raises(PeerError) as refused:
        check_handshake(http1({b"Sec-WebSocket-Extensions": value}))
    assert refused.value.status == 400


def test_extensions_are_answered():
    handshake = check_handshake(http1())
    assert ("Sec-WebSocket-Extensions", "a; b=c") in accept_fields(handshake, extensions="a; b=c")
    assert "Sec-WebSocket-Extensions" not in dict(accept_fields(handshake))
    with pytest.raises(ApplicationError):
        accept_fields(handshake, headers=[("Sec-WebSocket-Extensions", "a")])


@pytest.mark.parametrize(
    ("status", "changes"),
    [
        (400, {b"Sec-WebSocket-Key": None}),
        (400, {b"Sec-WebSocket-Key": b""}),
        (400, {b"Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25jZQ="}),
        (400, {b"Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25jZQ"}),
        (400, {b"Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25jZTEy"}),  # 18 bytes
        (400, {b"Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25j===="}),
        (400, {b"Sec-WebSocket-Key": b"dGhlIHNhbXBsZSBub25j_Q=="}),
        (400, {b"Sec-WebSocket-Key": b"dGhlIHNh bXBsZSBub25jZQ=="}),
        (400, {b"Sec-WebSocket-Key": KEY + b", " + KEY}),
        (400, {b"Sec-WebSocket-Key": KEY, b"sec-websocket-key": KEY}),
        (400, {b"Sec-WebSocket-Protocol": b"chat room"}),
        (400, {b"Sec-WebSocket-Protocol": b"a, b;q=1"}),
        (400, {b"Sec-WebSocket-Protocol": b"caf\xe9"}),
        (400, {b"Origin": b"https://a.example", b"origin": b"https://b.example"}),
        (426, {b"Sec-WebSocket-Version": None}),
        (426, {b"Sec-WebSocket-Version": b""}),
        (426, {b"Sec-WebSocket-Version": b"8"}),
        (426, {b"Sec-WebSocket-Version": b"13, 8"}),
        (426, {b"Sec-WebSocket-Version": b"013"}),
        (426, {b"Sec-WebSocket-Version": b"14", b"Sec-WebSocket-Key": None}),
    ],
)
def test_malformed(status, changes):
    with pytest.raises(PeerError) as refused:
        check_handshake(http1(changes))
    assert refused.value.status == status


def test_malformed_over_http2():
    with pytest.raises(PeerError) as refused:
        check_handshake(http2(()))
    assert refused.value.status == 426


def test_accept():
    assert accept_value(KEY) == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 §1.3
    handshake = Handshake(KEY, "13", ("chat", "superchat"), None)
    accept = ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
    assert accept_fields(handshake) == [accept]
    assert accept_fields(handshake, "superchat", [("Set-Cookie", "a=1"), (b"X", b"y")]) == [
        accept,
        ("Sec-WebSocket-Protocol", "superchat"),
        ("Set-Cookie", "a=1"),
        (b"X", b"y"),
    ]
    assert accept_fields(handshake._replace(key=b""), "chat") == [("Sec-WebSocket-Protocol", "chat")]


@pytest.mark.parametrize(
    ("subprotocol", "headers"),
    [
        ("other", ()),
        ("Chat", ()),  # they are case-sensitive
        ("", ()),
        (None, [("Sec-WebSocket-Accept", "x")]),
        (None, [("sec-websocket-extensions", "permessage-deflate")]),
        (None, [(b"SEC-WEBSOCKET-PROTOCOL", b"chat")]),
    ],
)
def test_what_an_application_may_not_accept_with(subprotocol, headers):
    with pytest.raises(ApplicationError):
        accept_fields(Handshake(KEY, "13", ("chat",), None), subprotocol, headers)


@pytest.mark.parametrize(
    ("allowed", "origin", "host", "origins"),
    [
        (True, None, b"example.com", ()),  # no browser
        (True, "http://example.com", b"example.com", ()),
        (True, "http://EXAMPLE.com", b"Example.COM", ()),
        (True, "http://example.com:80", b"example.com", ()),
        (True, "http://example.com", b"example.com:80", ()),
        (True, "https://example.com", b"example.com", ()),  # TLS ends in front of us
        (True, "https://example.com", b"example.com:443", ()),
        (True, "http://example.com:8000", b"example.com:8000", ()),
        (True, "http://[::1]:8000", b"[::1]:8000", ()),
        (True, "http://[::1]", b"[::1]:80", ()),
        (True, "https://other.example", b"example.com", ("*",)),
        (True, "https://other.example", b"example.com", ("https://x.example", "https://other.example")),
        (True, "null", b"example.com", ("null",)),
        (False, "null", b"example.com", ()),
        (False, "", b"example.com", ()),
        (False, "http://evil.example", b"example.com", ()),
        (False, "http://example.com.evil.example", b"example.com", ()),
        (False, "http://evil.example/?http://example.com", b"example.com", ()),
        (False, "http://evil.example@example.com", b"example.com", ()),
        (False, "http://example.com@evil.example", b"example.com", ()),
        (False, "http://example.com:8001", b"example.com:8000", ()),
        (False, "http://example.com:8000", b"example.com", ()),
        (False, "http://example.com", b"example.com:443", ()),
        (False, "https://example.com", b"example.com:80", ()),
        (False, "http://[::1]:8000", b"[::2]:8000", ()),
        (False, "example.com", b"example.com", ()),
        (False, "ftp://example.com", b"example.com", ()),
        (False, "file://", b"", ()),
        (False, "http://:80", b"", ()),
        (False, "https://other.example:8443", b"example.com", ("https://other.example",)),
        (False, "http://other.example", b"example.com", ("https://other.example",)),
    ],
)
def test_origin_allowed(allowed, origin, host, origins):
    head = RequestHead("GET", b"/", "1.1", (), authority=host)
    assert origin_allowed(head, origin, origins) is allowed
