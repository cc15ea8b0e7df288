"""Malformed HTTP/1 is refused by the real server and nothing behind it is served; the odd but valid is accepted.

Every case is sent with a second request in the same segment: the shape of request smuggling. What a case is called
after (CVE-...) is the bug of another server that it would have caught.
"""

import json
from collections.abc import Callable

import pytest

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
Table = list[tuple[str, bytes, int]]


def get(fields: bytes, *, line: bytes = b"GET / HTTP/1.1", host: bytes = b"Host: a\r\n") -> bytes:
    return line + b"\r\n" + host + fields + b"\r\n"


def post(framing: bytes, content: bytes = b"hello") -> bytes:
    return get(framing, line=b"POST / HTTP/1.1") + content


def chunked(content: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked\r\n", content)


LINES: Table = [
    ("bare LF everywhere", b"GET / HTTP/1.1\nHost: a\n\n", 400),
    ("bare LF after the request line", b"GET / HTTP/1.1\nHost: a\r\n\r\n", 400),
    ("bare LF between fields", get(b"A: b\nC: d\r\n"), 400),
    ("bare LF at the end of the head", b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400),
    ("bare CR in a value", get(b"A: b\rC: d\r\n"), 400),
    ("bare CR in a name", get(b"A\rB: c\r\n"), 400),
    ("bare CR in the request line", get(b"", line=b"GET /\r HTTP/1.1"), 400),
    ("CR CR LF", get(b"A: b\r\r\n"), 400),
    ("CR CR LF at the end of the head", b"GET / HTTP/1.1\r\nHost: a\r\n\r\r\n", 400),
    ("obs-fold with a space", get(b"A: b\r\n c\r\n"), 400),
    ("obs-fold with a tab", get(b"A: b\r\n\tc\r\n"), 400),
    ("obs-fold of Transfer-Encoding", post(b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n"), 400),
    ("space before the first field", get(b"", host=b" Host: a\r\nHost: a\r\n"), 400),
    ("no method", get(b"", line=b" / HTTP/1.1"), 400),
    ("@ in the method", get(b"", line=b"G@T / HTTP/1.1"), 400),
    ("parenthesis in the method", get(b"", line=b"GE(T / HTTP/1.1"), 400),
    ("NUL in the method", get(b"", line=b"G\0T / HTTP/1.1"), 400),
    ("TLS where HTTP was expected", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ("no target", get(b"", line=b"GET HTTP/1.1"), 400),
    ("no version", get(b"", line=b"GET /"), 400),
    ("only a method", get(b"", line=b"GET"), 400),
    ("two spaces before the target", get(b"", line=b"GET  / HTTP/1.1"), 400),
    ("two spaces before the version", get(b"", line=b"GET /  HTTP/1.1"), 400),
    ("space behind the version", get(b"", line=b"GET / HTTP/1.1 "), 400),
    ("tab behind the version", get(b"", line=b"GET / HTTP/1.1\t"), 400),
    ("tabs as separators", get(b"", line=b"GET\t/\tHTTP/1.1"), 400),
    ("space before the method", get(b"", line=b" GET / HTTP/1.1"), 400),
    ("space in the target", get(b"", line=b"GET /a b HTTP/1.1"), 400),
    ("fragment in the target", get(b"", line=b"GET /#x HTTP/1.1"), 400),
    ("NUL in the target", get(b"", line=b"GET /\0 HTTP/1.1"), 400),
    ("control byte in the target", get(b"", line=b"GET /\x1b HTTP/1.1"), 400),
    ("DEL in the target", get(b"", line=b"GET /\x7f HTTP/1.1"), 400),
    ("relative target", get(b"", line=b"GET a HTTP/1.1"), 400),
    ("lower-case version", get(b"", line=b"GET / http/1.1"), 400),
    ("another protocol's version", get(b"", line=b"GET / HTTPS/1.1"), 400),
    ("version of one digit", get(b"", line=b"GET / HTTP/1"), 400),
    ("version without a minor", get(b"", line=b"GET / HTTP/1."), 400),
    ("version with two minors", get(b"", line=b"GET / HTTP/1.1.1"), 400),
    ("version of two digits", get(b"", line=b"GET / HTTP/1.10"), 400),
    ("version with a leading zero", get(b"", line=b"GET / HTTP/01.1"), 400),
    ("version with a sign", get(b"", line=b"GET / HTTP/+1.1"), 400),
    ("version with letters behind", get(b"", line=b"GET / HTTP/1.1x"), 400),
    ("HTTP/2.0 by HTTP/1", get(b"", line=b"GET / HTTP/2.0"), 505),
    ("HTTP/3.0 by HTTP/1", get(b"", line=b"GET / HTTP/3.0"), 505),
]

FIELDS: Table = [
    ("no colon", get(b"Foo\r\n"), 400),
    ("empty name", get(b": a\r\n"), 400),
    ("space before the colon", get(b"Foo : a\r\n"), 400),
    ("tab before the colon", get(b"Foo\t: a\r\n"), 400),
    ("space in a name", get(b"Fo o: a\r\n"), 400),
    ("at sign in a name", get(b"F@o: a\r\n"), 400),
    ("slash in a name", get(b"F/o: a\r\n"), 400),
    ("parentheses in a name", get(b"(Foo): a\r\n"), 400),
    ("NUL in a name", get(b"F\0o: a\r\n"), 400),
    ("control byte in a name", get(b"F\x01o: a\r\n"), 400),
    ("high byte in a name", get(b"F\xe9: a\r\n"), 400),
    ("NUL in a value", get(b"Foo: a\0b\r\n"), 400),
    ("0x01 in a value", get(b"Foo: a\x01b\r\n"), 400),
    ("vertical tab in a value", get(b"Foo: a\x0bb\r\n"), 400),
    ("ESC in a value", get(b"Foo: \x1b[0m\r\n"), 400),
    ("DEL in a value", get(b"Foo: a\x7fb\r\n"), 400),
    ("unknown expectation", post(b"Content-Length: 5\r\nExpect: a-miracle\r\n"), 417),
]

HOSTS: Table = [
    ("no Host in HTTP/1.1", get(b"", host=b""), 400),
    ("no Host, absolute-form", get(b"", line=b"GET http://a/ HTTP/1.1", host=b""), 400),
    ("two Hosts", get(b"Host: b\r\n"), 400),
    ("two Hosts that agree", get(b"host: a\r\n"), 400),
    ("two Hosts in HTTP/1.0", get(b"Host: b\r\n", line=b"GET / HTTP/1.0"), 400),
    ("userinfo in Host", get(b"", host=b"Host: user@a\r\n"), 400),
    ("space in Host", get(b"", host=b"Host: a b\r\n"), 400),
    ("path in Host", get(b"", host=b"Host: a/b\r\n"), 400),
    ("query in Host", get(b"", host=b"Host: a?b\r\n"), 400),
    ("fragment in Host", get(b"", host=b"Host: a#b\r\n"), 400),
    ("backslash in Host", get(b"", host=b"Host: a\\b\r\n"), 400),
    ("markup in Host", get(b"", host=b"Host: <a>\r\n"), 400),
    ("letters for a port in Host", get(b"", host=b"Host: a:b\r\n"), 400),
    ("signed port in Host", get(b"", host=b"Host: a:+80\r\n"), 400),
    ("two ports in Host", get(b"", host=b"Host: a:80:80\r\n"), 400),
    ("open bracket in Host", get(b"", host=b"Host: [::1\r\n"), 400),
    ("absolute-form without authority", get(b"", line=b"GET http:// HTTP/1.1"), 400),
    ("absolute-form, empty authority", get(b"", line=b"GET http:///x HTTP/1.1"), 400),
    ("absolute-form with userinfo", get(b"", line=b"GET http://user@a/ HTTP/1.1"), 400),
    ("absolute-form, letters for a port", get(b"", line=b"GET http://a:b/ HTTP/1.1"), 400),
    ("absolute-form, markup", get(b"", line=b"GET http://<a>/ HTTP/1.1"), 400),
    ("authority-form without CONNECT", get(b"", line=b"GET a:80 HTTP/1.1"), 400),
    ("asterisk-form without OPTIONS", get(b"", line=b"GET * HTTP/1.1"), 400),
    ("CONNECT without a port", get(b"", line=b"CONNECT a HTTP/1.1"), 400),
    ("CONNECT in origin-form", get(b"", line=b"CONNECT / HTTP/1.1"), 400),
    ("CONNECT is not for us", get(b"", line=b"CONNECT a:80 HTTP/1.1"), 501),
]

TE = b"Transfer-Encoding: "
FRAMING: Table = [
    ("CL and TE", post(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n"), 400),
    ("TE and CL", post(b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", b"0\r\n\r\n"), 400),
    ("CL and an unknown TE", post(b"Content-Length: 5\r\nTransfer-Encoding: x\r\n"), 400),
    ("two CLs", post(b"Content-Length: 5\r\nContent-Length: 6\r\n"), 400),
    ("two CLs, the first is 0", post(b"Content-Length: 0\r\nContent-Length: 5\r\n"), 400),
    ("two CLs that agree", post(b"Content-Length: 5\r\nContent-Length: 5\r\n"), 400),
    ("list of CLs that agree", post(b"Content-Length: 5, 5\r\n"), 400),
    ("list of CLs, tight", post(b"Content-Length: 5,5\r\n"), 400),
    ("CL +5 (CVE-2022-24761)", post(b"Content-Length: +5\r\n"), 400),
    ("CL -5", post(b"Content-Length: -5\r\n"), 400),
    ("CL -0", post(b"Content-Length: -0\r\n"), 400),
    ("CL 0x5", post(b"Content-Length: 0x5\r\n"), 400),
    ("CL 0_5 (CVE-2023-47627)", post(b"Content-Length: 0_5\r\n"), 400),
    ("CL 5.0", post(b"Content-Length: 5.0\r\n"), 400),
    ("CL 5e0", post(b"Content-Length: 5e0\r\n"), 400),
    ("CL with a space inside", post(b"Content-Length: 1 5\r\n"), 400),
    ("CL superscript", post(b"Content-Length: \xb2\r\n"), 400),
    ("CL in UTF-8 full-width", post(b"Content-Length: \xef\xbc\x95\r\n"), 400),
    ("CL empty", post(b"Content-Length:\r\n"), 400),
    ("CL blank", post(b"Content-Length:  \t\r\n"), 400),
    ("CL of letters", post(b"Content-Length: abc\r\n"), 400),
    ("CL with a vertical tab", post(b"Content-Length: \x0b5\r\n"), 400),
    ("CL with a space before the colon", post(b"Content-Length : 5\r\n"), 400),
    ("CL of 40 digits", post(b"Content-Length: " + b"9" * 40 + b"\r\n"), 400),
    ("CL of 5000 digits", post(b"Content-Length: " + b"9" * 5000 + b"\r\n"), 400),
    ("bad CL on GET", get(b"Content-Length: x\r\n"), 400),
    ("TE with a space before the colon", post(b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n"), 400),
    ("TE empty", post(TE + b"\r\n", b"0\r\n\r\n"), 400),
    ("TE xchunked", post(TE + b"xchunked\r\n", b"0\r\n\r\n"), 400),
    ("TE chunkedx", post(TE + b"chunkedx\r\n", b"0\r\n\r\n"), 400),
    ("TE chunked, chunked", post(TE + b"chunked, chunked\r\n", b"0\r\n\r\n"), 400),
    ("TE chunked twice", post((TE + b"chunked\r\n") * 2, b"0\r\n\r\n"), 400),
    ("TE identity (CVE-2024-6827)", post(TE + b"identity\r\n", b"0\r\n\r\n"), 400),
    ("TE chunked, identity", post(TE + b"chunked, identity\r\n", b"0\r\n\r\n"), 400),
    ("TE identity, chunked", post(TE + b"identity, chunked\r\n", b"0\r\n\r\n"), 400),
    ("TE chunked, then identity", post(TE + b"chunked\r\n" + TE + b"identity\r\n", b"0\r\n\r\n"), 400),
    ("TE gzip", post(TE + b"gzip\r\n", b"0\r\n\r\n"), 400),
    ("TE gzip, chunked", post(TE + b"gzip, chunked\r\n", b"0\r\n\r\n"), 400),
    ("TE chunked with a parameter", post(TE + b"chunked;q=1\r\n", b"0\r\n\r\n"), 400),
    ("TE quoted", post(TE + b'"chunked"\r\n', b"0\r\n\r\n"), 400),
    ("TE with a vertical tab", post(TE + b"\x0bchunked\r\n", b"0\r\n\r\n"), 400),
    ("TE with a form feed behind", post(TE + b"chunked\x0c\r\n", b"0\r\n\r\n"), 400),
    ("TE with a high byte (no Unicode case)", post(TE + b"chun\xe2\x84\xaaed\r\n", b"0\r\n\r\n"), 400),
    ("TE on HTTP/1.0", get(TE + b"chunked\r\n", line=b"POST / HTTP/1.0") + b"0\r\n\r\n", 400),
    ("TE on GET of HTTP/1.0", get(TE + b"chunked\r\n", line=b"GET / HTTP/1.0") + b"0\r\n\r\n", 400),
]

END = b"0\r\n\r\n"
CHUNKS: Table = [
    ("size 0x5", chunked(b"0x5\r\nhello\r\n" + END), 400),
    ("size +5", chunked(b"+5\r\nhello\r\n" + END), 400),
    ("size -1", chunked(b"-1\r\nhello\r\n" + END), 400),
    ("size -0", chunked(b"-0\r\n\r\n" + END), 400),
    ("size 1_0", chunked(b"1_0\r\nhellohellohello!\r\n" + END), 400),
    ("size with a space before", chunked(b" 5\r\nhello\r\n" + END), 400),
    ("size with a space behind", chunked(b"5 \r\nhello\r\n" + END), 400),
    ("size with a tab behind", chunked(b"5\t\r\nhello\r\n" + END), 400),
    ("size of 17 digits", chunked(b"10000000000000000\r\nhello\r\n" + END), 400),
    ("size of 200 zeros", chunked(b"0" * 200 + b"5\r\nhello\r\n" + END), 400),
    ("no size", chunked(b"\r\nhello\r\n" + END), 400),
    ("no size but an extension", chunked(b";a\r\nhello\r\n" + END), 400),
    ("letter beyond f", chunked(b"g\r\nhello\r\n" + END), 400),
    ("digit of Unicode", chunked(b"\xef\xbc\x95\r\nhello\r\n" + END), 400),
    ("tail is not CRLF", chunked(b"5\r\nhelloXX" + END), 400),
    ("tail is LF (CVE-2025-43859)", chunked(b"5\r\nhello\n" + END), 400),
    ("tail is CR and a letter", chunked(b"5\r\nhello\rX" + END), 400),
    ("no tail", chunked(b"5\r\nhello" + END), 400),
    ("chunk longer than its size", chunked(b"4\r\nhello\r\n" + END), 400),
    ("chunk line ends in LF (CVE-2025-22871)", chunked(b"5\nhello\r\n" + END), 400),
    ("chunk line ends in CR CR LF", chunked(b"5\r\r\nhello\r\n" + END), 400),
    ("LF in an extension", chunked(b"5;a\nb\r\nhello\r\n" + END), 400),
    ("CR in an extension", chunked(b"5;a\rb\r\nhello\r\n" + END), 400),
    ("NUL in an extension", chunked(b"5;a\0b\r\nhello\r\n" + END), 400),
    ("LF in a quoted extension", chunked(b'5;a="\n"\r\nhello\r\n' + END), 400),
    ("last chunk ends in LF", chunked(b"5\r\nhello\r\n0\n\r\n"), 400),
    ("extension of 300 bytes", chunked(b"5;" + b"a" * 300 + b"\r\nhello\r\n" + END), 400),
    ("extensions of 20 KiB in all (CVE-2023-39326)", chunked((b"1;" + b"a" * 200 + b"\r\nx\r\n") * 100 + END), 400),
    ("trailer without colon", chunked(b"0\r\nFoo\r\n\r\n"), 400),
    ("trailer ends in LF", chunked(b"0\r\nFoo: a\n\r\n"), 400),
    ("trailers end in LF", chunked(b"0\r\nFoo: a\r\n\n"), 400),
    ("trailer with a space before the colon", chunked(b"0\r\nFoo : a\r\n\r\n"), 400),
    ("trailer with a bare CR", chunked(b"0\r\nFoo: a\rBar: b\r\n\r\n"), 400),
    ("trailer with NUL", chunked(b"0\r\nFoo: a\0\r\n\r\n"), 400),
    ("trailer folded", chunked(b"0\r\nFoo: a\r\n b\r\n\r\n"), 400),
    ("trailer with an empty name", chunked(b"0\r\n: a\r\n\r\n"), 400),
    ("request line for a trailer (CVE-2023-41419)", chunked(b"0\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"), 400),
]

LIMITS: Table = [
    ("request line of 8 KiB and more", get(b"", line=b"GET /" + b"a" * 8192 + b" HTTP/1.1"), 414),
    ("request line without end", b"GET /" + b"a" * 70_000, 414),
    ("method without end", b"A" * 70_000, 414),
    ("101 fields", get(b"".join(b"A%d: b\r\n" % n for n in range(100))), 431),
    ("one field too large", get(b"A: " + b"b" * 33_000 + b"\r\n"), 431),
    ("head too large", get(b"".join(b"A%d: %s\r\n" % (n, b"b" * 500) for n in range(70))), 431),
    ("one field without end", get(b"A: " + b"b" * 70_000, line=b"GET / HTTP/1.1"), 431),
    (
        "trailers too large",
        chunked(b"0\r\n" + b"".join(b"A%d: %s\r\n" % (n, b"b" * 200) for n in range(60)) + b"\r\n"),
        431,
    ),
]

REFUSED = LINES + FIELDS + HOSTS + FRAMING + CHUNKS + LIMITS
named = pytest.mark.parametrize
Recorder = Callable[..., "tuple[bytes, list[str]]"]


@pytest.fixture(scope="module")
def recorder(module_gate):
    """Sends bytes to the recording application; gives the answer, and the paths that reached the application."""
    gate = module_gate("apps:recorder")

    def send(*pieces: bytes, half_close: bool = False) -> tuple[bytes, list[dict]]:
        answer = gate.talk(*pieces, half_close=half_close)
        seen = gate.talk(b"GET /seen HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        return answer, json.loads(seen.partition(b"\r\n\r\n")[2])

    return send


def assert_refused(answer: bytes, seen: list[dict], status: int) -> None:
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:200]
    assert answer.count(b"HTTP/1.1 ") == 1, f"more than one answer: {answer[:400]!r}"
    assert b"\r\nconnection: close\r\n" in answer.partition(b"\r\n\r\n")[0].lower() + b"\r\n", answer[:400]
    assert "/smuggled" not in [request["path"] for request in seen]


@named(("case", "status"), [pytest.param(data, status, id=name) for name, data, status in REFUSED])
def test_refused_and_nothing_behind_it_served(recorder, case, status):
    answer, seen = recorder(case + SMUGGLED)
    assert_refused(answer, seen, status)
    content_was_at_fault = any(case == data for _, data, _ in CHUNKS + LIMITS)
    assert seen == [] or content_was_at_fault, "a malformed head must not reach the application"
    for request in seen:
        assert "Error" in request["content"] or request["content"].startswith("Peer"), "read() must raise, not end"


@named(
    ("case", "status"), [pytest.param(data, status, id=name) for name, data, status in REFUSED if len(data) < 200][::5]
)
def test_refused_byte_by_byte(recorder, case, status):
    tail = case + SMUGGLED
    assert_refused(*recorder(*(tail[i : i + 1] for i in range(len(tail)))), status)


def test_a_request_behind_good_ones_is_refused_and_they_are_answered(recorder):
    good = get(b"", line=b"GET /good HTTP/1.1")
    answer, seen = recorder(good * 2 + get(b"Foo\r\n") + SMUGGLED)
    assert [request["path"] for request in seen] == ["/good", "/good"]
    assert [answer.count(b"HTTP/1.1 %d " % status) for status in (200, 400)] == [2, 1]


@named("size", [b"Content-Length: 1001\r\n", b"Transfer-Encoding: chunked\r\n"], ids=["length", "chunked"])
def test_content_over_the_limit_is_413(gate, size):
    server = gate("apps:recorder", "--limit-request-body", "1000")
    content = b"x" * 1001 if b"Length" in size else b"3e9\r\n" + b"x" * 1001 + b"\r\n" + END
    answer = server.talk(post(size, content) + SMUGGLED)
    assert_refused(
        answer,
        json.loads(server.talk(get(b"Connection: close\r\n", line=b"GET /seen HTTP/1.1")).partition(b"\r\n\r\n")[2]),
        413,
    )
    inside = server.talk(post(b"Content-Length: 1000\r\nConnection: close\r\n", b"x" * 1000))
    assert inside.startswith(b"HTTP/1.1 200 ")


TRUNCATED = [
    ("content of 5 bytes ends after 2", post(b"Content-Length: 5\r\n", b"he")),
    ("chunk ends in its middle", chunked(b"5\r\nhe")),
    ("no tail of a chunk", chunked(b"5\r\nhello")),
    ("no last chunk (gunicorn 3382)", chunked(b"5\r\nhello\r\n")),
    ("end within the last chunk", chunked(b"5\r\nhello\r\n0\r\n")),
    ("end within the trailers", chunked(b"5\r\nhello\r\n0\r\nFoo: a\r\n")),
]


@named("case", [pytest.param(data, id=name) for name, data in TRUNCATED])
def test_a_truncated_body_is_an_error_and_never_an_end(recorder, case):
    answer, seen = recorder(case, half_close=True)
    assert b"HTTP/1.1 200" not in answer
    assert [request["path"] for request in seen] == ["/"]
    assert seen[0]["content"].startswith("PeerGone"), seen


# Odd but valid


CLOSE = b"Connection: close\r\n"
ACCEPTED: list[tuple[str, bytes, dict]] = [
    ("empty lines before the request line", b"\r\n\r\n" + get(CLOSE), {"path": "/"}),
    ("no space behind the colon", get(b"Foo:bar\r\n" + CLOSE), {"HTTP_FOO": "bar"}),
    ("blanks around a value", get(b"Foo: \t bar \t \r\n" + CLOSE), {"HTTP_FOO": "bar"}),
    ("tab inside a value", get(b"Foo: a\tb\r\n" + CLOSE), {"HTTP_FOO": "a\tb"}),
    ("empty value", get(b"Foo:\r\n" + CLOSE), {"HTTP_FOO": ""}),
    ("bytes of latin-1 in a value", get(b"Foo: caf\xe9\r\n" + CLOSE), {"HTTP_FOO": "caf\xe9"}),
    ("names in lower case", get(b"foo: bar\r\nconnection: close\r\n", host=b"host: a\r\n"), {"HTTP_FOO": "bar"}),
    ("names in upper case", get(b"FOO: bar\r\nCONNECTION: CLOSE\r\n", host=b"HOST: a\r\n"), {"HTTP_FOO": "bar"}),
    ("odd characters of a token in a name", get(b"!#$%&'*+.^`|~: x\r\n" + CLOSE), {"HTTP_!#$%&'*+.^`|~": "x"}),
    ("a field twice", get(b"Foo: a\r\nFoo: b\r\n" + CLOSE), {"HTTP_FOO": "a,b"}),
    ("underscore in a name is dropped", get(b"X_Foo: evil\r\nX-Foo: good\r\n" + CLOSE), {"HTTP_X_FOO": "good"}),
    ("Proxy is dropped (CVE-2016-1000111)", get(b"Proxy: evil\r\n" + CLOSE), {"HTTP_PROXY": None}),
    (
        "absolute-form wins over Host",
        get(CLOSE, line=b"GET http://b:81/x?y HTTP/1.1"),
        {"path": "/x", "query": "y", "HTTP_HOST": "b:81"},
    ),
    ("absolute-form without a path", get(CLOSE, line=b"GET http://b HTTP/1.1"), {"path": "/"}),
    ("asterisk-form", get(CLOSE, line=b"OPTIONS * HTTP/1.1"), {"method": "OPTIONS"}),
    ("empty Host", get(CLOSE, host=b"Host:\r\n"), {"path": "/"}),
    ("IPv6 in Host", get(CLOSE, host=b"Host: [::1]:80\r\n"), {"HTTP_HOST": "[::1]:80"}),
    ("port left empty in Host", get(CLOSE, host=b"Host: a:\r\n"), {"HTTP_HOST": "a:"}),
    ("no Host in HTTP/1.0", get(b"", line=b"GET / HTTP/1.0", host=b""), {"path": "/"}),
    ("percent-encoding", get(CLOSE, line=b"GET /caf%C3%A9?a=%20 HTTP/1.1"), {"path": "/caf\xc3\xa9", "query": "a=%20"}),
    ("an unknown method", get(CLOSE, line=b"BREW / HTTP/1.1"), {"method": "BREW"}),
    ("Content-Length: 0", post(b"Content-Length: 0\r\n" + CLOSE, b""), {"content": ""}),
    (
        "leading zeros of Content-Length",
        post(b"Content-Length: 0005\r\n" + CLOSE),
        {"content": "hello", "CONTENT_LENGTH": "0005"},
    ),
    ("content on GET", get(b"Content-Length: 5\r\n" + CLOSE) + b"hello", {"content": "hello"}),
    ("POST without content", post(CLOSE, b""), {"content": ""}),
    ("TE in upper case", post(TE + b"CHUNKED\r\n" + CLOSE, b"5\r\nhello\r\n" + END), {"content": "hello"}),
    ("TE with blanks around", post(TE + b" \tchunked\t \r\n" + CLOSE, b"5\r\nhello\r\n" + END), {"content": "hello"}),
    (
        "chunks of several sizes",
        post(TE + b"chunked\r\n" + CLOSE, b"1\r\nh\r\n004\r\nello\r\nA\r\n0123456789\r\n" + END),
        {"content": "hello0123456789"},
    ),
    (
        "chunk extensions",
        post(TE + b"chunked\r\n" + CLOSE, b'5 ; a;b\t= c;e="f g"\r\nhello\r\n0;z\r\n\r\n'),  # BWS: RFC 9112 §7.1.1
        {"content": "hello"},
    ),
    (
        "trailers",
        post(TE + b"chunked\r\n" + CLOSE, b"5\r\nhello\r\n0\r\nFoo: bar\r\nContent-Length: 9\r\n\r\n"),
        {"content": "hello", "HTTP_FOO": None},
    ),
]


@named("by_byte", [False, True], ids=["whole", "byte by byte"])
@named(("case", "expected"), [pytest.param(data, expected, id=name) for name, data, expected in ACCEPTED])
def test_accepted(recorder, case, expected, by_byte):
    answer, seen = recorder(*(case[i : i + 1] for i in range(len(case))) if by_byte else (case,))
    assert answer.startswith(b"HTTP/1.1 200 "), answer[:200]
    assert len(seen) == 1
    assert {name: {**seen[0]["fields"], **seen[0]}.get(name) for name in expected} == expected


def test_content_nobody_read_is_not_a_request(recorder):
    ignored = get(b"Content-Length: %d\r\n" % len(SMUGGLED), line=b"POST /ignore HTTP/1.1") + SMUGGLED
    answer, seen = recorder(ignored + get(CLOSE, line=b"GET /after HTTP/1.1"))
    assert [request["path"] for request in seen] == ["/ignore", "/after"]
    assert answer.count(b"HTTP/1.1 200 ") == 2


def test_chunks_nobody_read_are_not_a_request(recorder):
    content = b"%x\r\n%b\r\n" % (len(SMUGGLED), SMUGGLED) + END
    ignored = get(b"Transfer-Encoding: chunked\r\n", line=b"POST /ignore HTTP/1.1") + content
    answer, seen = recorder(ignored + get(CLOSE, line=b"GET /after HTTP/1.1"))
    assert [request["path"] for request in seen] == ["/ignore", "/after"]
    assert answer.count(b"HTTP/1.1 200 ") == 2


def test_malformed_chunks_nobody_read_end_the_connection(recorder):
    ignored = get(b"Transfer-Encoding: chunked\r\n", line=b"POST /ignore HTTP/1.1") + b"x\r\n"
    answer, seen = recorder(ignored + SMUGGLED)
    assert [request["path"] for request in seen] == ["/ignore"]
    assert answer.count(b"HTTP/1.1 ") == 1


def test_much_content_nobody_read_ends_the_connection_and_the_answer_arrives(recorder):
    size = 4 << 20
    answer, seen = recorder(
        get(b"Content-Length: %d\r\n" % size, line=b"POST /ignore HTTP/1.1") + b"x" * size + SMUGGLED
    )
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert [request["path"] for request in seen] == ["/ignore"]


def test_an_expectation_nobody_met_ends_the_connection(recorder):
    """Whether the client sends its content after the final status is unknown: what follows cannot be framed."""
    ignored = get(b"Content-Length: 5\r\nExpect: 100-continue\r\n", line=b"POST /ignore HTTP/1.1")
    answer, seen = recorder(ignored, half_close=True)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in answer.lower()
    assert len(seen) == 1


def test_pipelined_requests_are_answered_in_order(recorder):
    requests = b"".join(get(b"", line=b"GET /%d HTTP/1.1" % n) for n in range(20))
    answer, seen = recorder(requests + get(CLOSE, line=b"GET /end HTTP/1.1"))
    expected = [f"/{n}" for n in range(20)] + ["/end"]
    assert [request["path"] for request in seen] == expected
    bodies = [part for part in answer.split(b"\r\n\r\n") if part.startswith(b"{")]
    assert [json.loads(body.partition(b"HTTP/1.1 ")[0])["path"] for body in bodies] == expected


def test_100_continue_is_sent_by_the_first_read(gate):
    server = gate("apps:recorder")
    with server.connect() as peer:
        peer.sendall(get(b"Content-Length: 5\r\nExpect: 100-Continue\r\n" + CLOSE, line=b"POST / HTTP/1.1"))
        assert peer.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.sendall(b"hello")
        answer = b""
        while data := peer.recv(65536):
            answer += data
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"content": "hello"' in answer


@named(
    ("fields", "kept"),
    [
        (b"", False),
        (b"Connection: keep-alive\r\n", True),
        (b"Connection: Keep-Alive, x\r\n", True),
        (b"Connection: close\r\n", False),
    ],
)
def test_http_1_0_keeps_alive_only_when_asked(recorder, fields, kept):
    request = get(fields, line=b"GET /first HTTP/1.0")
    answer, seen = recorder(request + get(b"", line=b"GET /second HTTP/1.0"))
    assert [request["path"] for request in seen] == (["/first", "/second"] if kept else ["/first"])
    assert (b"connection: keep-alive" in answer.lower()) is kept
    assert b"transfer-encoding" not in answer.lower()
