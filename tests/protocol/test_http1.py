"""HTTP/1.1 as values: tables of (bytes, value), each fed whole, byte by byte and with a tail.

No socket. What is refused names its status; what is odd but valid stands beside it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import h11
import httptools
import pytest
from hypothesis import assume, example, given, reject
from hypothesis import strategies as st

from geventgate.errors import ApplicationError, PeerError
from geventgate.message import Fields, RequestHead
from geventgate.protocol import http1
from geventgate.protocol.http1 import (
    DEFAULT_LIMITS,
    GOVERNING,
    MAX_CHUNK_EXTENSIONS,
    MAX_CHUNK_LINE,
    MAX_EMPTY_LINES,
    MAX_TRAILERS,
    Content,
    Framing,
    HeadLimits,
    compose_informational,
    compose_response_head,
    compose_trailers,
    compose_upgrade,
    encode_chunk,
    encode_last_chunk,
    expects_continue,
    field_line,
    parse_request_head,
    persists,
    reason,
    request_content,
    response_content,
)

TAIL = b"GET /behind HTTP/1.1\r\nHost: b\r\n\r\n"


def get(fields: bytes = b"", *, line: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a\r\n") -> bytes:
    return line + b"\r\n" + host + fields + b"\r\n"


def parsed(data: bytes, limits: HeadLimits = DEFAULT_LIMITS) -> RequestHead:
    head = parse_request_head(data, 0, limits)
    assert head is not None
    return head


def values(head: RequestHead) -> dict[str, Any]:
    names = (*RequestHead.__slots__, "fields")
    return {name: getattr(head, name) for name in names if name not in ("_fields", "block")}


def status_whole(data: bytes, limits: HeadLimits = DEFAULT_LIMITS) -> int | None:
    """The status that refuses *data*; None when it is a head, whole or not."""
    try:
        parse_request_head(data, 0, limits)
    except PeerError as error:
        return error.status
    return None


def grown(data: bytes, limits: HeadLimits = DEFAULT_LIMITS) -> RequestHead | int:
    """Fed byte by byte: the head, which only the last byte may complete, or the first refusal's status."""
    for end in range(len(data) + 1):
        try:
            head = parse_request_head(data[:end], 0, limits)
        except PeerError as error:
            return error.status
        if head is not None:
            assert end == len(data), f"complete {len(data) - end} bytes early"
            return head
    raise AssertionError("still incomplete")


# --- heads: accepted

# (what it shows, bytes, what the head says)
HEADS: list[tuple[str, bytes, dict[str, Any]]] = [
    ("the least", get(), {"method": "GET", "target": b"/", "http_version": "1.1", "fields": ((b"host", b"a"),)}),
    ("the least of HTTP/1.0", b"GET / HTTP/1.0\r\n\r\n", {"http_version": "1.0", "authority": b"", "fields": ()}),
    ("a later minor version is 1.1", get(line=b"GET / HTTP/1.9"), {"http_version": "1.1"}),
    ("an unknown method", get(line=b"BREW / HTTP/1.1"), {"method": "BREW"}),
    ("a method is case-sensitive", get(line=b"get / HTTP/1.1"), {"method": "get"}),
    ("any token is a method", get(line=b"!#$%&'*+-.^_`|~0 / HTTP/1.1"), {"method": "!#$%&'*+-.^_`|~0"}),
    ("names in lower case, order and duplicates kept", get(b"B: 1\r\na: 2\r\nb: 3\r\n"),
     {"fields": ((b"host", b"a"), (b"b", b"1"), (b"a", b"2"), (b"b", b"3"))}),
    ("white space around a value", get(b"A: \t b c \t\r\n"), {"fields": ((b"host", b"a"), (b"a", b"b c"))}),
    ("no white space before a value", get(b"A:b\r\n"), {"fields": ((b"host", b"a"), (b"a", b"b"))}),
    ("empty value", get(b"A:\r\n"), {"fields": ((b"host", b"a"), (b"a", b""))}),
    ("obs-text in a value", get(b"A: \xe9\xff\r\n"), {"fields": ((b"host", b"a"), (b"a", b"\xe9\xff"))}),
    ("HTAB inside a value", get(b"A: b\tc\r\n"), {"fields": ((b"host", b"a"), (b"a", b"b\tc"))}),
    ("colons in a value", get(b"A:: b:c\r\n"), {"fields": ((b"host", b"a"), (b"a", b": b:c"))}),
    ("governing fields", get(b"Connection: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\nUpgrade: u\r\n"),
     {"connection": b"x", "content_length": b"5", "expect": b"100-continue", "upgrade": b"u", "protocol": None}),
    ("a governing field repeated is joined", get(b"Connection: a\r\nconnection: b\r\n"), {"connection": b"a, b"}),
    ("upgrade offered", get(b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"), {"protocol": "websocket"}),
    ("upgrade without Connection", get(b"Upgrade: websocket\r\n"), {"protocol": None}),
    ("several offered", get(b"Connection: Upgrade\r\nUpgrade: a/1 , b\r\nUpgrade: c\r\n"), {"protocol": "a/1"}),
    ("none offered", get(b"Connection: Upgrade\r\nUpgrade: , ,\r\n"), {"protocol": None}),
    ("the first well-formed one", get(b"Connection: Upgrade\r\nUpgrade: ,a b, c/, /, \xe9, d/1/2,e\r\n"),
     {"protocol": "e"}),
    ("upgrade in HTTP/1.0 is ignored", get(b"Connection: Upgrade\r\nUpgrade: w\r\n", line=b"GET / HTTP/1.0"),
     {"protocol": None}),
    ("one empty line first", b"\r\n" + get(), {"method": "GET", "size": len(get()) + 2}),
    ("as many empty lines as may be", b"\r\n" * MAX_EMPTY_LINES + get(), {"method": "GET"}),
    # target forms (RFC 9112 §3.2)
    ("origin-form", get(line=b"GET /a%2Fb/c?d=e?f HTTP/1.1"), {"path": b"/a%2Fb/c", "query": b"d=e?f"}),
    ("origin-form, empty query", get(line=b"GET /a? HTTP/1.1"), {"path": b"/a", "query": b""}),
    ("origin-form, two slashes", get(line=b"GET //b/c HTTP/1.1"), {"path": b"//b/c", "authority": b"a"}),
    ("origin-form, raw bytes", get(line=b"GET /\xc3\xa9\xff HTTP/1.1"), {"path": b"/\xc3\xa9\xff"}),
    ("origin-form, quotes and brackets", get(line=b"GET /\"<>\\^`{|} HTTP/1.1"), {"path": b"/\"<>\\^`{|}"}),
    ("absolute-form overrides Host", get(line=b"GET http://b:81/c?d HTTP/1.1"),
     {"authority": b"b:81", "path": b"/c", "query": b"d", "target": b"http://b:81/c?d"}),
    ("absolute-form without a path", get(line=b"GET http://b HTTP/1.1"), {"authority": b"b", "path": b"/"}),
    ("absolute-form, query without a path", get(line=b"GET http://b?c HTTP/1.1"), {"path": b"/", "query": b"c"}),
    ("absolute-form, scheme in any case", get(line=b"GET HTTP://b/ HTTP/1.1"), {"authority": b"b"}),
    ("absolute-form of OPTIONS", get(line=b"OPTIONS http://b HTTP/1.1"), {"authority": b"b", "path": b"*"}),
    ("absolute-form, IPv6", get(line=b"GET http://[::1]:8/ HTTP/1.1"), {"authority": b"[::1]:8"}),
    ("absolute-form, empty port", get(line=b"GET http://b:/ HTTP/1.1"), {"authority": b"b:"}),
    ("authority-form", get(line=b"CONNECT b:443 HTTP/1.1"), {"authority": b"b:443", "path": b"", "protocol": ""}),
    ("asterisk-form", get(line=b"OPTIONS * HTTP/1.1"), {"authority": b"a", "path": b"*"}),
    # Host (RFC 9112 §3.2)
    ("Host with a port", get(host=b"Host: a.b-c:8000\r\n"), {"authority": b"a.b-c:8000"}),
    ("Host, IPv6", get(host=b"Host: [2001:db8::1]:80\r\n"), {"authority": b"[2001:db8::1]:80"}),
    ("Host, empty port", get(host=b"Host: a:\r\n"), {"authority": b"a:"}),
    ("Host, empty", get(host=b"Host:\r\n"), {"authority": b""}),
    ("Host, last and spelt otherwise", get(b"hOsT:\tb \r\n", host=b"A: b\r\n"), {"authority": b"b"}),
]  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), [case[1:] for case in HEADS], ids=[case[0] for case in HEADS])
def test_head(data: bytes, expected: dict[str, Any]) -> None:
    head = parsed(data)
    assert {name: getattr(head, name) for name in expected} == expected
    assert head.scheme == "http"
    assert head.size == len(data)
    byte_by_byte = grown(data)
    assert isinstance(byte_by_byte, RequestHead)
    assert values(byte_by_byte) == values(head)
    assert values(parsed(data + TAIL)) == values(head)
    behind_another = parse_request_head(TAIL + data, len(TAIL))
    assert behind_another is not None
    assert values(behind_another) == values(head)


def test_get_joins_what_is_repeated() -> None:
    head = parsed(get(b"A: 1\r\nB: 2\r\na: 3\r\n"))
    assert (head.get(b"a"), head.get(b"b"), head.get(b"c")) == (b"1, 3", b"2", None)


def test_names_that_were_seen_stay_strict() -> None:
    """The cache of names must not let a line without a colon pass for a name it knows."""
    assert status_whole(get(b"Cached-Name: 1\r\n")) is None
    assert status_whole(get(b"Cached-Name\r\n")) == 400
    assert status_whole(get(b"Cached-Name : 1\r\n")) == 400


# --- heads: refused

REFUSED: list[tuple[str, bytes, int]] = [
    ("bare LF everywhere", b"GET / HTTP/1.1\nHost: a\n\n" + TAIL, 400),
    ("bare LF after the request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    ("bare LF between fields", get(b"A: b\nC: d\r\n"), 400),
    ("bare LF before the end", b"GET / HTTP/1.1\r\nHost: a\n\r\n" + TAIL, 400),
    ("bare CR in a value", get(b"A: b\rC: d\r\n"), 400),
    ("bare CR in a name", get(b"A\rB: c\r\n"), 400),
    ("bare CR as the line's end", get(line=b"GET / HTTP/1.1\rA: b"), 400),
    ("CR CR LF", get(b"A: b\r\r\n"), 400),
    ("obs-fold with a space", get(b"A: b\r\n c\r\n"), 400),
    ("obs-fold with a tab", get(b"A: b\r\n\tc\r\n"), 400),
    ("obs-fold of the first field", get(host=b" A: b\r\nHost: a\r\n"), 400),
    ("no method", get(line=b" / HTTP/1.1"), 400),
    ("a method that is no token", get(line=b"G@T / HTTP/1.1"), 400),
    ("NUL first", b"\0" + get(), 400),
    ("a TLS record", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ("no target", get(line=b"GET HTTP/1.1"), 400),
    ("HTTP/0.9", get(line=b"GET /"), 400),
    ("two spaces", get(line=b"GET  / HTTP/1.1"), 400),
    ("a space behind", get(line=b"GET / HTTP/1.1 "), 400),
    ("a space first", get(line=b" GET / HTTP/1.1"), 400),
    ("tabs as separators", get(line=b"GET\t/\tHTTP/1.1"), 400),
    ("a space in the target", get(line=b"GET /a b HTTP/1.1"), 400),
    ("a fragment", get(line=b"GET /#a HTTP/1.1"), 400),
    ("NUL in the target", get(line=b"GET /\0 HTTP/1.1"), 400),
    ("DEL in the target", get(line=b"GET /\x7f HTTP/1.1"), 400),
    ("lower-case version", get(line=b"GET / http/1.1"), 400),
    ("a version of two digits", get(line=b"GET / HTTP/1.10"), 400),
    ("a version without a minor", get(line=b"GET / HTTP/1."), 400),
    ("a superscript version", get(line=b"GET / HTTP/1.\xb9"), 400),
    ("HTTP/2.0", get(line=b"GET / HTTP/2.0"), 505),
    ("HTTP/0.9, spelt out", get(line=b"GET / HTTP/0.9"), 505),
    ("HTTP/2's preface", b"PRI * HTTP/2.0\r\n\r\n", 505),
    ("one empty line too many", b"\r\n" * (MAX_EMPTY_LINES + 1) + get(), 400),
    ("no colon", get(b"A\r\n"), 400),
    ("empty name", get(b": a\r\n"), 400),
    ("a space before the colon", get(b"A : b\r\n"), 400),
    ("a tab before the colon", get(b"A\t: b\r\n"), 400),
    ("a space before Content-Length's colon", get(b"Content-Length : 5\r\n"), 400),
    ("a name that is no token", get(b"A(b): c\r\n"), 400),
    ("a high byte in a name", get(b"A\xe9: b\r\n"), 400),
    ("NUL in a value", get(b"A: b\0c\r\n"), 400),
    ("a vertical tab in a value", get(b"A: b\x0bc\r\n"), 400),
    ("ESC in a value", get(b"A: \x1b[0m\r\n"), 400),
    ("DEL in a value", get(b"A: b\x7f\r\n"), 400),
    ("a vertical tab before a value", get(b"Transfer-Encoding:\x0bchunked\r\n"), 400),
    ("no Host", get(host=b""), 400),
    ("no Host, in absolute-form", get(line=b"GET http://a/ HTTP/1.1", host=b""), 400),
    ("two Hosts", get(b"Host: b\r\n"), 400),
    ("two Hosts that agree", get(b"Host: a\r\n"), 400),
    ("two Hosts, the first empty", get(b"Host: a\r\n", host=b"Host:\r\n"), 400),
    ("two Hosts, both empty", get(b"Host:\r\n", host=b"Host:\r\n"), 400),
    ("two Hosts in HTTP/1.0", get(b"Host: b\r\n", line=b"GET / HTTP/1.0"), 400),
    *((f"Host {host!r}", get(host=b"Host: " + host + b"\r\n"), 400) for host in (
        b"u@a", b"a b", b"a/b", b"a?b", b"a#b", b"a\\b", b"<a>", b"a:b", b"a:+80", b"a:80:80", b"[::1", b"::1", b":80",
        b"a:123456", b"\xe9", b'a"b',
    )),
    *((f"target {target!r}", get(line=b"GET " + target + b" HTTP/1.1"), 400) for target in (
        b"a", b"a:80", b"*", b"http:/a/", b"http://", b"http:///a", b"http://u@a/", b"http://a:b/", b"ftp://a/",
        b"http://:80/", b"?a", b"%2f",
    )),
    *((f"CONNECT {target!r}", get(line=b"CONNECT " + target + b" HTTP/1.1"), 400) for target in (
        b"a", b"a:", b"/", b"a:80/", b"http://a:80", b"u@a:80", b":80", b"*",
    )),
    ("OPTIONS **", get(line=b"OPTIONS ** HTTP/1.1"), 400),
]  # fmt: skip


@pytest.mark.parametrize(("data", "status"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
def test_refused_head(data: bytes, status: int) -> None:
    assert status_whole(data) == status
    assert grown(data) == status
    assert status_whole(data + TAIL) == status


@pytest.mark.parametrize("data", [b"", b"\r", b"\r\n", b"\r\n\r", b"G", b"GET", b"GET /", get()[:-1], get()[:-3]])
def test_incomplete_head(data: bytes) -> None:
    assert parse_request_head(data) is None


# More bytes cannot mend these: the refusal does not wait for the head's end.
EARLY: list[tuple[bytes, int]] = [
    (b"\0", 400),
    (b"\x16\x03\x01", 400),
    (b" GET", 400),
    (b"GET / HTTP/1.1\n", 400),
    (b"GET /\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\n", 400),
    (b"G" * (DEFAULT_LIMITS.line + 2), 414),
    (b"GET / HTTP/1.1\r\n" + b"A" * DEFAULT_LIMITS.size, 431),
]


@pytest.mark.parametrize(("data", "status"), EARLY)
def test_early_refusal(data: bytes, status: int) -> None:
    assert status_whole(data) == status


SMALL = HeadLimits(line=32, fields=3, size=100)
LIMITED: list[tuple[str, bytes, int | None]] = [
    ("a line at its limit", get(line=b"GET /" + b"a" * 18 + b" HTTP/1.1"), None),
    ("a line over it", get(line=b"GET /" + b"a" * 19 + b" HTTP/1.1"), 414),
    ("as many fields as may be", get(b"A: b\r\nC: d\r\n"), None),
    ("one field more", get(b"A: b\r\nC: d\r\nE: f\r\n"), 431),
    ("a head at its limit", get(b"A: " + b"b" * (100 - len(get(b"A: \r\n"))) + b"\r\n"), None),
    ("a head over it", get(b"A: " + b"b" * (101 - len(get(b"A: \r\n"))) + b"\r\n"), 431),
]


@pytest.mark.parametrize(("data", "status"), [case[1:] for case in LIMITED], ids=[case[0] for case in LIMITED])
def test_limits_of_a_head(data: bytes, status: int | None) -> None:
    assert status_whole(data, SMALL) == status
    byte_by_byte = grown(data, SMALL)
    assert (byte_by_byte if isinstance(byte_by_byte, int) else None) == status
    assert status_whole(data + TAIL, SMALL) == status


def test_default_limits() -> None:
    assert DEFAULT_LIMITS == (8 * 1024, 100, 32 * 1024)
    assert status_whole(get(line=b"GET /" + b"a" * (8192 - 14) + b" HTTP/1.1")) is None
    assert status_whole(get(line=b"GET /" + b"a" * (8192 - 13) + b" HTTP/1.1")) == 414
    assert status_whole(get(b"A: b\r\n" * 99)) is None
    assert status_whole(get(b"A: b\r\n" * 100)) == 431


# --- persistence (RFC 9112 §9.3)

PERSISTENCE: list[tuple[bytes, bytes | None, bool]] = [
    (b"1.1", None, True),
    (b"1.1", b"keep-alive", True),
    (b"1.1", b"close", False),
    (b"1.1", b"Close", False),
    (b"1.1", b"keep-alive, close", False),
    (b"1.1", b"upgrade , close", False),
    (b"1.1", b"closed", True),
    (b"1.1", b"", True),
    (b"1.0", None, False),
    (b"1.0", b"keep-alive", True),
    (b"1.0", b"Keep-Alive", True),
    (b"1.0", b"keep-alive, close", False),
    (b"1.0", b"close", False),
    (b"1.0", b"x", False),
]


@pytest.mark.parametrize(("version", "connection", "expected"), PERSISTENCE)
def test_persists(version: bytes, connection: bytes | None, expected: bool) -> None:
    field = b"" if connection is None else b"Connection: " + connection + b"\r\n"
    assert persists(parsed(get(field, line=b"GET / HTTP/" + version))) is expected


def test_close_among_repeated_connection_fields() -> None:
    assert not persists(parsed(get(b"Connection: keep-alive\r\nConnection: close\r\n")))


EXPECTATIONS: list[tuple[bytes, bytes | None, bool | int]] = [
    (b"1.1", None, False),
    (b"1.1", b"100-continue", True),
    (b"1.1", b"100-Continue", True),
    (b"1.0", b"100-continue", False),
    (b"1.0", b"a-miracle", False),
    (b"1.1", b"a-miracle", 417),
    (b"1.1", b"100-continue, a-miracle", 417),
    (b"1.1", b"", 417),
]


@pytest.mark.parametrize(("version", "expect", "expected"), EXPECTATIONS)
def test_expectation(version: bytes, expect: bytes | None, expected: bool | int) -> None:
    field = b"" if expect is None else b"Expect: " + expect + b"\r\n"
    head = parsed(get(field, line=b"POST / HTTP/" + version))
    if isinstance(expected, bool):
        assert expects_continue(head) is expected
    else:
        with pytest.raises(PeerError) as caught:
            expects_continue(head)
        assert caught.value.status == expected


# --- the framing of a request's content (RFC 9112 §6.3)

CL = b"Content-Length: "
TE = b"Transfer-Encoding: "
CHUNKED = TE + b"chunked\r\n"
# (fields, limit, what comes: None, a length, "chunked" or a status beyond 399 as a negative number)
FRAMINGS: list[tuple[bytes, int, int | str | None]] = [
    (b"", 0, None),
    (CL + b"0\r\n", 0, None),
    (CL + b"00\r\n", 0, None),
    (CL + b"5\r\n", 0, 5),
    (CL + b"0005\r\n", 0, 5),
    (CL + b"5\r\n", 5, 5),
    (CL + b"6\r\n", 5, -413),
    (CL + b"9" * 18 + b"\r\n", 0, int("9" * 18)),
    (CL + b"9" * 19 + b"\r\n", 0, -400),
    (CHUNKED, 0, "chunked"),
    (TE + b"Chunked\r\n", 0, "chunked"),
    *((CL + bad + b"\r\n", 0, -400) for bad in (
        b"", b"+5", b"-5", b"-0", b"0x5", b"0_5", b"5.0", b"5e0", b"1 5", b"5, 5", b"5,5", b"abc", b"\xb2", b"5;",
        b"\xef\xbc\x95", b'"5"',
    )),
    (CL + b"5\r\n" + CL + b"5\r\n", 0, -400),
    (CL + b"5\r\n" + CL + b"6\r\n", 0, -400),
    (CL + b"0\r\n" + CL + b"5\r\n", 0, -400),
    (CL + b"\r\n" + CL + b"5\r\n", 0, -400),
    (CL + b"5\r\n" + CHUNKED, 0, -400),
    (CHUNKED + CL + b"5\r\n", 0, -400),
    (CHUNKED + CL + b"0\r\n", 0, -400),
    *((TE + bad + b"\r\n", 0, -400) for bad in (
        b"", b"x", b"identity", b"gzip, chunked", b"chunked, gzip", b"chunked, chunked", b"chunked, identity",
        b"identity, chunked", b"xchunked", b"chunkedx", b'"chunked"', b"chunked;q=1", b"chunked,", b",chunked",
        b"chun ked", b"chunked\xa0",
    )),
    (CHUNKED + CHUNKED, 0, -400),
    (TE + b"\r\n" + CHUNKED, 0, -400),
    (TE + b"x\r\n" + CHUNKED, 0, -400),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "limit", "expected"), FRAMINGS)
@pytest.mark.parametrize("method", [b"POST", b"GET"])
def test_request_content(method: bytes, fields: bytes, limit: int, expected: int | str | None) -> None:
    head = parsed(get(fields, line=method + b" / HTTP/1.1"))
    if isinstance(expected, int) and expected < 0:
        with pytest.raises(PeerError) as caught:
            request_content(head, limit)
        assert caught.value.status == -expected
        return
    content = request_content(head, limit)
    if expected is None:
        assert content is None
    else:
        assert content is not None
        assert not content.ended
        assert expected == (content.remaining if type(content) is Content else "chunked")


def test_chunked_in_http_1_0_is_refused() -> None:
    with pytest.raises(PeerError) as caught:
        request_content(parsed(get(CHUNKED, line=b"POST / HTTP/1.0")))
    assert caught.value.status == 400


# --- content, decoded

Decoded = tuple[bytes, Fields, bytes]  # content, trailers, what stands behind


def decode(content: Content, pieces: Iterable[bytes], size: int, before: bytes = b"") -> Decoded | None:
    """Feed *pieces*, reading *size* bytes at a time out of a buffer that starts with *before*; None: cut short."""
    pieces = iter(pieces)
    buffer = b""
    data = bytearray()
    while not content.ended:
        piece, taken = content.decode(before + buffer, len(before), size)
        assert len(piece) <= size
        assert len(piece) <= taken <= len(buffer)
        data += piece
        buffer = buffer[taken:]
        if not taken and not content.ended:
            more = next(pieces, None)
            if more is None:
                return None
            buffer += more
    return bytes(data), content.trailers, buffer + b"".join(pieces)


def one_by_one(data: bytes) -> Iterator[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


def length_of(number: int) -> Content:
    content = request_content(parsed(get(CL + b"%d\r\n" % number)))
    assert content is not None
    return content


def chunked(limit: int = 0) -> Content:
    content = request_content(parsed(get(CHUNKED)), limit)
    assert content is not None
    return content


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_content_of_known_length(size: int) -> None:
    assert decode(length_of(5), [b"hello"], size) == (b"hello", (), b"")
    assert decode(length_of(5), one_by_one(b"hello"), size, b"junk") == (b"hello", (), b"")
    assert decode(length_of(5), [b"hello" + TAIL], size) == (b"hello", (), TAIL)
    assert decode(length_of(5), [b"hell"], size) is None


LAST = b"0\r\n\r\n"
CHUNKS: list[tuple[str, bytes, bytes, Fields]] = [
    ("nothing", LAST, b"", ()),
    ("one chunk", b"5\r\nhello\r\n" + LAST, b"hello", ()),
    ("two chunks", b"5\r\nhello\r\n1\r\n!\r\n" + LAST, b"hello!", ()),
    ("sizes in hex, of both cases, with zeros first", b"A\r\n0123456789\r\n00b\r\n0123456789a\r\n" + LAST,
     b"01234567890123456789a", ()),
    ("many zeros at the end", b"1\r\na\r\n000\r\n\r\n", b"a", ()),
    ("CRLF in the data", b"4\r\n\r\n\r\n\r\n" + LAST, b"\r\n\r\n", ()),
    ("what looks like the end in the data", b"5\r\n" + LAST + b"\r\n" + LAST, LAST, ()),
    ("an extension", b"5;a\r\nhello\r\n" + LAST, b"hello", ()),
    ("extensions with values", b'5;a=b;c="d;e\\"f";g\r\nhello\r\n0;h\r\n\r\n', b"hello", ()),
    ("bad white space around extensions (§7.1.1)", b"5 ; a = b\r\nhello\r\n" + LAST, b"hello", ()),
    ("trailers", b"0\r\nA: b\r\nc:d \r\nA: e\r\n\r\n", b"", ((b"a", b"b"), (b"c", b"d"), (b"a", b"e"))),
    ("trailers that govern are dropped",
     b"0\r\nContent-Length: 5\r\nTransfer-Encoding: x\r\nHost: b\r\nA: b\r\nConnection: c\r\nUpgrade: x\r\n\r\n",
     b"", ((b"a", b"b"),)),
    ("an empty trailer", b"0\r\nA:\r\n\r\n", b"", ((b"a", b""),)),
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3, 100])
@pytest.mark.parametrize(("wire", "data", "trailers"), [case[1:] for case in CHUNKS], ids=[case[0] for case in CHUNKS])
def test_chunked_content(wire: bytes, data: bytes, trailers: Fields, size: int) -> None:
    assert decode(chunked(), [wire], size) == (data, trailers, b"")
    assert decode(chunked(), one_by_one(wire), size, b"junk") == (data, trailers, b"")
    assert decode(chunked(), [wire + TAIL], size) == (data, trailers, TAIL)
    for end in range(len(wire)):
        assert decode(chunked(), [wire[:end]], size) is None, "an end that was not there"


REFUSED_CHUNKS: list[tuple[str, bytes, int]] = [
    ("no size", b"\r\n" + LAST, 400),
    ("not hex", b"g\r\n" + LAST, 400),
    ("0x", b"0x5\r\nhello\r\n" + LAST, 400),
    ("a sign", b"+5\r\nhello\r\n" + LAST, 400),
    ("a minus", b"-5\r\nhello\r\n" + LAST, 400),
    ("an underscore", b"0_5\r\nhello\r\n" + LAST, 400),
    ("a space first", b" 5\r\nhello\r\n" + LAST, 400),
    ("a space behind", b"5 \r\nhello\r\n" + LAST, 400),
    ("a bare LF behind the size", b"5\nhello\r\n" + LAST, 400),
    ("a bare CR behind the size", b"5\rhello\r\n" + LAST, 400),
    ("a bare LF behind the data", b"5\r\nhello\n" + LAST, 400),
    ("two bytes that are no CRLF (CVE-2025-43859)", b"5\r\nhelloXX" + LAST, 400),
    ("data longer than announced", b"4\r\nhello\r\n" + LAST, 400),
    ("16 digits", b"0000000000000005\r\nhello\r\n" + LAST, 400),
    ("a size beyond 64 bits", b"10000000000000005\r\nhello\r\n" + LAST, 400),
    ("an extension without a name", b"5;\r\nhello\r\n" + LAST, 400),
    ("an extension without a value", b"5;a=\r\nhello\r\n" + LAST, 400),
    ("an extension with a bare LF (CVE-2025-22871)", b"5;a\nb\r\nhello\r\n" + LAST, 400),
    ("an extension with a bare CR", b"5;a\rb\r\nhello\r\n" + LAST, 400),
    ("an extension with NUL", b"5;a=\0\r\nhello\r\n" + LAST, 400),
    ("an open quotation", b'5;a="b\r\nhello\r\n' + LAST, 400),
    ("a CRLF in a quotation", b'5;a="b\r\nc"\r\nhello\r\n' + LAST, 400),
    ("not an extension", b"5 a\r\nhello\r\n" + LAST, 400),
    ("a long line", b"5;" + b"a" * MAX_CHUNK_LINE + b"\r\nhello\r\n" + LAST, 400),
    ("a line without an end", b"5;" + b"a" * MAX_CHUNK_LINE, 400),
    ("a bare LF behind a trailer", b"0\r\nA: b\n\r\n", 400),
    ("a bare LF as the end", b"0\r\n\n", 400),
    ("a bare CR in a trailer", b"0\r\nA: b\rC: d\r\n\r\n", 400),
    ("NUL in a trailer", b"0\r\nA: b\0\r\n\r\n", 400),
    ("a trailer without a colon", b"0\r\nA\r\n\r\n", 400),
    ("a space before a trailer's colon", b"0\r\nA : b\r\n\r\n", 400),
    ("a folded trailer", b"0\r\nA: b\r\n c\r\n\r\n", 400),
    ("a request where trailers should be (CVE-2023-41419)", b"0\r\n" + TAIL, 400),
    ("one long trailer", b"0\r\nA: " + b"b" * MAX_TRAILERS + b"\r\n\r\n", 431),
    ("a trailer without an end", b"0\r\nA: " + b"b" * MAX_TRAILERS, 431),
    ("many trailers", b"0\r\n" + b"A: b\r\n" * (MAX_TRAILERS // 6 + 1) + b"\r\n", 431),
]


@pytest.mark.parametrize(("wire", "status"), [case[1:] for case in REFUSED_CHUNKS], ids=[c[0] for c in REFUSED_CHUNKS])
def test_refused_chunks(wire: bytes, status: int) -> None:
    for pieces in ([wire], one_by_one(wire), [wire + TAIL]):
        with pytest.raises(PeerError) as caught:
            decode(chunked(), pieces, 100)
        assert caught.value.status == status


def test_extensions_have_a_budget() -> None:
    """A message may not consist of them (CVE-2023-39326)."""
    chunk = b"1;" + b"a" * 199 + b"\r\nx\r\n"
    fit = MAX_CHUNK_EXTENSIONS // 200
    assert decode(chunked(), [chunk * fit + LAST], 1000) == (b"x" * fit, (), b"")
    with pytest.raises(PeerError) as caught:
        decode(chunked(), [chunk * (fit + 1) + LAST], 1000)
    assert caught.value.status == 400


def test_limit_of_chunked_content() -> None:
    assert decode(chunked(5), [b"2\r\nhe\r\n3\r\nllo\r\n" + LAST], 100) == (b"hello", (), b"")
    with pytest.raises(PeerError) as caught:
        decode(chunked(5), [b"2\r\nhe\r\n4\r\nllo!\r\n" + LAST], 100)
    assert caught.value.status == 413
    with pytest.raises(PeerError) as caught:
        decode(chunked(5), [b"fffffffffffffff\r\n"], 100)
    assert caught.value.status == 413


# --- the framing of a response (RFC 9112 §6.3)

FRAMED: list[tuple[bytes, bytes, int, int, Framing]] = [
    (b"GET", b"1.1", 200, 5, Framing.KNOWN_LENGTH),
    (b"GET", b"1.1", 200, 0, Framing.KNOWN_LENGTH),
    (b"GET", b"1.1", 200, -1, Framing.CHUNKED),
    (b"GET", b"1.0", 200, 5, Framing.KNOWN_LENGTH),
    (b"GET", b"1.0", 200, -1, Framing.UNTIL_CLOSE),
    (b"HEAD", b"1.1", 200, 5, Framing.NO_CONTENT),
    (b"HEAD", b"1.0", 200, -1, Framing.NO_CONTENT),
    (b"GET", b"1.1", 204, -1, Framing.NO_CONTENT),
    (b"GET", b"1.1", 204, 5, Framing.NO_CONTENT),
    (b"GET", b"1.0", 304, -1, Framing.NO_CONTENT),
    (b"GET", b"1.1", 304, 5, Framing.NO_CONTENT),
    (b"POST", b"1.1", 500, -1, Framing.CHUNKED),
]


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize(("method", "version", "code", "stated", "framing"), FRAMED)
def test_response_content(
    method: bytes, version: bytes, code: int, stated: int, framing: Framing, persistent: bool
) -> None:
    request = parsed(get(line=method + b" / HTTP/" + version))
    assert response_content(request, code, stated, persistent) is framing


# --- the head of a response


def wire(status: Any, fields: Any = ()) -> bytes:
    return compose_response_head(status, fields).wire


@pytest.mark.parametrize(
    ("status", "line"),
    [
        ("200 OK", b"HTTP/1.1 200 OK\r\n"),
        ("200", b"HTTP/1.1 200 \r\n"),
        ("200 ", b"HTTP/1.1 200 \r\n"),
        ("299 As you like", b"HTTP/1.1 299 As you like\r\n"),
        ("200 d\xe9j\xe0 vu", b"HTTP/1.1 200 d\xe9j\xe0 vu\r\n"),
        (200, b"HTTP/1.1 200 OK\r\n"),
        (404, b"HTTP/1.1 404 Not Found\r\n"),
        (299, b"HTTP/1.1 299 \r\n"),
    ],
)
def test_status(status: Any, line: bytes) -> None:
    for _ in range(2):  # the second time from the cache
        assert wire(status) == line
        assert compose_response_head(status, ()).code == int(line[9:12])


@pytest.mark.parametrize(
    "status",
    ["", "OK", "20", "2000", "2000 OK", "200OK", " 200 OK", "099 x", "20x", "200\tOK", "200 OK\r\nA: b", "200 O\nK",
     "200 O\rK", "200 \0", "200 \x1b", "200 \u20ac", "\uff1200 OK", None, b"200 OK", 20, 1000, 99, -200, 200.0, True],
)  # fmt: skip
def test_refused_status(status: Any) -> None:
    with pytest.raises(ApplicationError):
        wire(status)


def test_fields_of_a_response() -> None:
    head = compose_response_head("200 OK", [("A", "b"), ("a", "c"), (b"B", b"\xe9"), ("C", "\xe9"), ("D", "")])
    assert head.wire == b"HTTP/1.1 200 OK\r\nA: b\r\na: c\r\nB: \xe9\r\nC: \xe9\r\nD: \r\n"
    assert (head.content_length, head.dated, head.named, head.closing, head.faults) == (-1, False, False, False, ())


@pytest.mark.parametrize("control", [*map(chr, (*range(9), *range(10, 32), 127))])
def test_no_control_reaches_the_wire(control: str) -> None:
    """A response is never split (CWE-113), nor is a log or a terminal deceived."""
    for fields in ([("A", f"b{control}c")], [("A", f"b{control}")], [("A", f"{control}b")], [(f"A{control}", "b")]):
        for form in (fields, [(name.encode(), value.encode()) for name, value in fields]):
            with pytest.raises(ApplicationError):
                wire("200 OK", form)
            with pytest.raises(ApplicationError):
                compose_trailers(form)
            with pytest.raises(ApplicationError):
                compose_upgrade("websocket", form)
            with pytest.raises(ApplicationError):
                compose_informational(103, form)


@pytest.mark.parametrize(
    "field",
    [("", "a"), ("A b", "c"), ("A:", "b"), ("A\xe9", "b"), ("\u20ac", "b"), ("A", "\u20ac"), ("A", 5), ("A", None),
     (5, "a"), (None, "a"), (" A", "b"), ("A ", "b"), (b"A\xe9", b"b"), ("Content-Length", "+5"),
     ("Content-Length", "-5"), ("Content-Length", "5, 5"), ("Content-Length", ""), ("Content-Length", "\u0665"),
     ("Content-Length", " 5"), ("Content-Length", "9" * 19)],
)  # fmt: skip
def test_refused_field_of_a_response(field: Any) -> None:
    with pytest.raises(ApplicationError):
        wire("200 OK", [field])


def test_minded_fields() -> None:
    fields = [("Content-Length", "5"), ("DATE", "d"), ("server", "s"), ("Connection", "Close")]
    head = compose_response_head("200 OK", fields)
    assert head.wire == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDATE: d\r\nserver: s\r\n"
    assert (head.content_length, head.dated, head.named, head.closing, head.faults) == (5, True, True, True, ())


def test_keep_alive_is_a_wish() -> None:
    head = compose_response_head("200 OK", [("Connection", "keep-alive")])
    assert (head.wire, head.closing, head.faults) == (b"HTTP/1.1 200 OK\r\n", False, ())


def test_duplicates_are_dropped_and_named() -> None:
    fields = [("Content-Length", "5"), ("content-length", "6"), ("Date", "d"), ("Date", "e")]
    head = compose_response_head("200 OK", fields)
    assert head.wire == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nDate: d\r\n"
    assert head.content_length == 5
    assert len(head.faults) == 2


@pytest.mark.parametrize(
    "name", ["Keep-Alive", "Proxy-Connection", "TE", "Transfer-Encoding", "UPGRADE", "connection", b"Transfer-Encoding"]
)
def test_hop_by_hop_fields_are_dropped_and_named(name: Any) -> None:
    head = compose_response_head("200 OK", [(name, type(name)() or ("x" if isinstance(name, str) else b"x"))])
    assert head.wire == b"HTTP/1.1 200 OK\r\n"
    assert len(head.faults) == 1


def test_upgrade_belongs_to_426() -> None:
    head = compose_response_head("426 Upgrade Required", [("Upgrade", "websocket")])
    assert head.wire == b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\n"
    assert head.faults == ()


@pytest.mark.parametrize("code", [204, 101])
def test_no_content_length_where_none_may_be(code: int) -> None:
    """ "A server MUST NOT send a Content-Length header field in any response with a status code of 1xx
    (Informational) or 204" (RFC 9110 §8.6)."""
    assert b"ontent-" not in wire(code, [("Content-Length", "0")])


def test_informational() -> None:
    fields = [("Link", "</a>; rel=preload"), ("Link", "</b>")]
    assert compose_informational(103, fields) == (
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\nLink: </b>\r\n\r\n"
    )
    assert compose_informational(102, ()) == b"HTTP/1.1 102 Processing\r\n\r\n"
    for status in (99, 100, 101, 200, 0):
        with pytest.raises(ApplicationError):
            compose_informational(status, ())


def test_upgrade() -> None:
    assert compose_upgrade("websocket", [("A", "b")]) == (
        b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    )
    assert compose_upgrade("", [("A", "b")]) == b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n"
    # "A server MUST NOT send any Transfer-Encoding or Content-Length header fields" (RFC 9110 §9.3.6)
    framed = [("content-Length", "1"), (b"Content-Length", b"2"), ("Transfer-Encoding", "chunked")]
    assert compose_upgrade("", framed) == b"HTTP/1.1 200 OK\r\n\r\n"
    assert (
        compose_upgrade("x", framed) == b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"
    )
    with pytest.raises(ApplicationError):
        compose_upgrade("a\r\nB: c", ())


def test_last_chunk() -> None:
    assert b"".join(encode_chunk(b"hello, world")) == b"c\r\nhello, world\r\n"
    assert encode_last_chunk() == LAST
    assert encode_last_chunk(compose_trailers([("A", "b"), (b"C", b"d")])) == b"0\r\nA: b\r\nC: d\r\n\r\n"
    for name in ("Content-Length", "transfer-encoding", "Connection", "", "A b"):
        with pytest.raises(ApplicationError):
            compose_trailers([(name, "1")])


def test_field_line() -> None:
    line = field_line("X-A", " b\xe9\t")
    assert line == (b"X-A:  b\xe9\t\r\n", (b"x-a", b"b\xe9"), False, True)
    assert field_line(b"X-A", b" b\xe9\t")[:3] == line[:3]


@pytest.mark.parametrize(
    ("name", "value", "known"),
    [
        ("A", "b", True),
        ("Set-Cookie", "a=b", False),
        ("ETag", "1", False),
        ("A", "b" * 100, False),
        (b"A", b"b", False),
    ],
)
def test_known_heads(name: Any, value: Any, known: bool) -> None:
    """What is said again is not composed again, unless it is a secret or long."""
    first, second = (compose_response_head("200 OK", [(name, value)]) for _ in range(2))
    assert first.wire == second.wire
    assert (first is second) is known


def test_known_lines_are_bounded() -> None:
    for number in range(2 * http1.MAX_KNOWN_NAMES):
        assert field_line("X-A", str(number)).wire == b"X-A: %d\r\n" % number
    assert 0 < len(http1._known_lines) <= http1.MAX_KNOWN_NAMES


def test_reasons() -> None:
    assert (reason(404), reason(299), reason(0)) == ("Not Found", "", "")


# --- properties

TOKENS = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=8).map(str.encode)
VALUES = st.lists(
    st.binary(min_size=1, max_size=6).map(lambda data: bytes(b for b in data if b > 32 and b != 127)), max_size=3
).map(b" ".join)
TARGETS = st.sampled_from(
    [b"/", b"/a?b", b"//a", b"*", b"a:80", b"http://a/b?c", b"http://a", b'/%00"', b"https://[::1]:8/"]
)
METHODS = st.sampled_from([b"GET", b"POST", b"HEAD", b"OPTIONS", b"CONNECT", b"PUT", b"DELETE"])
VERSIONS = st.sampled_from([b"1.1", b"1.1", b"1.1", b"1.0"])
HOSTS = st.sampled_from([b"a", b"a:80", b"[::1]", b""])
EXTENSIONS = st.sampled_from([b"", b"", b";a", b";a=b", b';a="b;c"', b";a;b=c"])
PLAIN = st.tuples(TOKENS, VALUES).map(lambda field: field[0] + b": " + field[1] + b"\r\n")
GOVERN = st.sampled_from([
    b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", CHUNKED, b"Connection: close\r\n", b"Connection: upgrade\r\n",
    b"Upgrade: websocket\r\n", b"Expect: 100-continue\r\n", b"Host: b\r\n", b"Content-Length: 05\r\n",
])  # fmt: skip


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A request with its content, valid or nearly so."""
    fields = draw(st.lists(st.one_of(PLAIN, PLAIN, GOVERN), max_size=4))
    head = draw(METHODS) + b" " + draw(TARGETS) + b" HTTP/" + draw(VERSIONS) + b"\r\nHost: " + draw(HOSTS) + b"\r\n"
    head += b"".join(fields) + b"\r\n"
    if CHUNKED in fields:
        for data in draw(st.lists(st.binary(min_size=1, max_size=20), max_size=3)):
            head += b"%x" % len(data) + draw(EXTENSIONS) + b"\r\n" + data + b"\r\n"
        return head + b"0\r\n" + b"".join(draw(st.lists(PLAIN, max_size=2))) + b"\r\n"
    return head + (b"hello" if any(b"5\r\n" in field for field in fields) else b"")


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    """A message, damaged in up to three places: dropped, replaced, inserted and doubled bytes."""
    data = draw(messages())
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        cut = draw(st.integers(0, 2))
        new = draw(st.sampled_from([b"", b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b";", b",", b"\0", b"\x0b", b"\xff",
                                    b"0", b"5", b"a", b"=", b'"', b"+", b"/", b"@", data[at : at + 3]]))  # fmt: skip
        data = data[:at] + new + data[at + cut :]
    return data


def read_message(
    pieces: Iterable[bytes], size: int = 65536
) -> tuple[dict[str, Any], bytes, Fields, bytes] | int | None:
    """Head, content, trailers and tail as the server would read them; a refusal's status; None when more is due."""
    pieces = iter(pieces)
    buffer = b""
    try:
        while (head := parse_request_head(buffer)) is None:
            more = next(pieces, None)
            if more is None:
                return None
            buffer += more
        content = request_content(head)
        rest = (piece for piece in (buffer[head.size :], *pieces))
        if content is None:
            return values(head), b"", (), b"".join(rest)
        decoded = decode(content, rest, size)
    except PeerError as error:
        return error.status
    return (values(head), *decoded) if decoded is not None else None


@given(mutations(), st.data())
@example(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", None)
def test_any_split_gives_the_same(data: bytes, draw: st.DataObject | None) -> None:
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(data)), max_size=6))) if draw is not None else [1, 2]
    pieces = [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    size = draw.draw(st.integers(1, 30)) if draw is not None else 1
    whole = read_message([data])
    split = read_message(pieces, size)
    if isinstance(whole, int) and isinstance(split, int):
        return  # two faults: which is met first depends on what has come
    assert split == whole


@given(st.one_of(st.binary(max_size=200), mutations()), st.integers(0, 5))
def test_nothing_but_peer_errors(data: bytes, start: int) -> None:
    with suppress(PeerError):
        head = parse_request_head(data, start)
        if head is not None:
            persists(head)
            expects_continue(head)
            content = request_content(head, 10)
            if content is not None:
                decode(content, [data[start + head.size :]], 7)
    with suppress(PeerError):
        decode(chunked(), [data], 7)


# --- differentials: what we accept, others accept, and mean the same by it


def as_h11(data: bytes) -> tuple[bytes, bytes, Fields, bytes, Fields]:
    """Method, target, fields, content, trailers. Raises h11.RemoteProtocolError."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    request = connection.next_event()
    assert isinstance(request, h11.Request)
    content = b""
    while isinstance(event := connection.next_event(), h11.Data):
        content += event.data
    assert isinstance(event, h11.EndOfMessage), event
    trailers = tuple((bytes(name), bytes(value)) for name, value in event.headers)
    fields = tuple((bytes(name), bytes(value)) for name, value in request.headers)
    return bytes(request.method), bytes(request.target), fields, content, trailers


def accepted(data: bytes) -> tuple[dict[str, Any], bytes, Fields]:
    """What we make of one whole message; others are not asked about what we refuse."""
    ours = read_message([data])
    if not isinstance(ours, tuple) or ours[3]:
        reject()  # not one message
    return ours[:3]


Differences = list[tuple[str, bytes, Callable[[bytes, dict[str, Any]], bool]]]

# h11 refuses, and we do not: (why, an example, whether a message is of the kind)
H11_IS_STRICTER: Differences = [
    ("empty lines before a request line, which RFC 9112 §2.2 lets pass", b"\r\n" + get(),
     lambda data, _: data.startswith(b"\r\n")),
    ("raw bytes beyond ASCII in a target, which browsers have sent", get(line=b"GET /\xe9 HTTP/1.1"),
     lambda _, head: not head["target"].isascii()),
    ("white space before a chunk extension's semicolon (BWS, RFC 9112 §7.1.1)", get(CHUNKED) + b"0 ;a\r\n\r\n",
     lambda data, _: b" ;" in data or b"\t;" in data),
    ("a framing field among the trailers, which we drop unread", get(CHUNKED) + b"0\r\nContent-Length: x\r\n\r\n",
     lambda data, _: framing_fields(data) > 1),
]  # fmt: skip


def framing_fields(data: bytes) -> int:
    return data.lower().count(b"\ncontent-length") + data.lower().count(b"\ntransfer-encoding")


@pytest.mark.parametrize(("why", "data", "differs"), H11_IS_STRICTER)
def test_h11_is_stricter(why: str, data: bytes, differs: Callable[[bytes, dict[str, Any]], bool]) -> None:
    head, _, _ = accepted(data)
    assert differs(data, head)
    with pytest.raises(h11.RemoteProtocolError):
        as_h11(data)


def as_h11_reads_it(data: bytes, head: dict[str, Any], content: bytes, trailers: Fields) -> None:
    method, target, fields, their_content, their_trailers = as_h11(data)
    assert (method.decode(), target) == (head["method"], head["target"])
    assert sorted(fields) == sorted((n, v.lower() if n == b"transfer-encoding" else v) for n, v in head["fields"])
    assert their_content == content
    assert tuple(field for field in their_trailers if field[0] not in GOVERNING) == trailers


@given(mutations())
def test_h11_agrees(data: bytes) -> None:
    ours = accepted(data)
    assume(not any(differs(data, ours[0]) for _, _, differs in H11_IS_STRICTER))
    as_h11_reads_it(data, *ours)


class Heard:
    """What httptools calls back with."""

    def __init__(self) -> None:
        self.target = self.content = b""
        self.fields: list[tuple[bytes, bytes]] = []
        self.headed = self.complete = self.keeps_alive = False
        self.parser = httptools.HttpRequestParser(self)

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.headed:
            self.fields.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        self.headed = True
        self.keeps_alive = self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        self.content += body

    def on_message_complete(self) -> None:
        self.complete = True


def as_httptools(data: bytes) -> Heard:
    """Raises httptools.HttpParserError or HttpParserUpgrade."""
    heard = Heard()
    heard.parser.feed_data(data)
    return heard


# httptools (llhttp) refuses, and we do not:
LLHTTP_METHODS = ("GET", "POST", "HEAD", "OPTIONS", "CONNECT", "PUT", "DELETE")
LLHTTP_IS_STRICTER: Differences = [
    ("methods it does not know", get(line=b"GETS / HTTP/1.1"), lambda _, head: head["method"] not in LLHTTP_METHODS),
    ("raw bytes beyond ASCII in a target", get(line=b"GET /\xe9 HTTP/1.1"),
     lambda _, head: not head["target"].isascii()),
    ("a later minor version than 1", get(line=b"GET / HTTP/1.2"),
     lambda data, _: data.lstrip(b"\r\n").partition(b"\r\n")[0][-3:] not in (b"1.0", b"1.1")),
    ("white space around chunk extensions (BWS, RFC 9112 §7.1.1)", get(CHUNKED) + b"0 ; a\r\n\r\n",
     lambda data, _: b"chunked" in data.lower()
     and any(gap in data for gap in (b" ;", b"\t;", b"; ", b";\t", b" =", b"\t=", b"= ", b"=\t"))),
    ("a framing field among the trailers, which we drop unread", get(CHUNKED) + b"0\r\nContent-Length: 5\r\n\r\n",
     lambda data, _: framing_fields(data) > 1),
    ("CONNECT ends its message at the head", get(line=b"CONNECT a:80 HTTP/1.1"),
     lambda _, head: head["method"] == "CONNECT"),
    ("an Upgrade ends its message at the head", get(b"Connection: upgrade\r\nUpgrade: x\r\n"),
     lambda _, head: head["upgrade"] is not None),
]  # fmt: skip


@pytest.mark.parametrize(("why", "data", "differs"), LLHTTP_IS_STRICTER)
def test_httptools_is_stricter(why: str, data: bytes, differs: Callable[[bytes, dict[str, Any]], bool]) -> None:
    head, _, _ = accepted(data)
    assert differs(data, head)
    with pytest.raises((httptools.HttpParserError, httptools.HttpParserUpgrade)):
        as_httptools(data)


def as_httptools_reads_it(data: bytes, head: dict[str, Any], content: bytes, _: Fields) -> None:
    heard = as_httptools(data)
    assert heard.complete
    assert (heard.parser.get_method().decode(), heard.target) == (head["method"], head["target"])
    assert tuple(heard.fields) == head["fields"]
    assert heard.content == content
    assert heard.keeps_alive == persists(parsed(data))


@given(mutations())
def test_httptools_agrees(data: bytes) -> None:
    ours = accepted(data)
    assume(not any(differs(data, ours[0]) for _, _, differs in LLHTTP_IS_STRICTER))
    as_httptools_reads_it(data, *ours)
