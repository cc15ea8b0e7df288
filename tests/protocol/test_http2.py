"""What HTTP/2 means here: field sections in, a RequestHead or None out; priorities, budgets, the choice of an engine.

What both engines make of frames is in test_http2_engines.py.
"""

import importlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geventgate.errors import ConfigError, PeerError
from geventgate.message import Field, RequestHead
from geventgate.protocol import http2
from geventgate.protocol.http1 import CONTROLS, GOVERNING, MAX_TRAILERS, compose_response_head
from geventgate.protocol.http2 import (
    CONNECTION_SPECIFIC,
    MAX_KNOWN,
    Budget,
    check_request,
    check_trailers,
    engine,
    parse_priority,
)

GET = {b":method": b"GET", b":scheme": b"https", b":authority": b"example.com", b":path": b"/"}
CONNECT = {b":method": b"CONNECT", b":authority": b"example.com:443"}
EXTENDED = {**GET, b":method": b"CONNECT", b":path": b"/chat", b":protocol": b"websocket"}


def section(*more: Field, base: dict[bytes, bytes] = GET, **pseudo: bytes | None) -> list[Field]:
    """The pseudo-fields of *base* but for *pseudo* (None leaves one out), and *more*."""
    named = {**base, **{b":%b" % name.encode(): value for name, value in pseudo.items()}}
    return [*((name, value) for name, value in named.items() if value is not None), *more]


@pytest.fixture(autouse=True)
def _nothing_known(monkeypatch):
    monkeypatch.setattr(http2, "_known_fields", {})
    monkeypatch.setattr(http2, "_known_authorities", set())


def both_ways(headers: list[Field], ended: bool) -> RequestHead | None:
    """The verdict, which does not depend on whether the fields have been seen before."""
    cold, warm = check_request(headers, ended), check_request(headers, ended)
    assert values(cold) == values(warm)
    return warm


def values(head: RequestHead | None) -> dict[str, Any] | None:
    return None if head is None else {name: getattr(head, name) for name in RequestHead.__slots__}


# (what, the field section, whether no content follows, what the head must say)
WELL_FORMED: list[tuple[str, list[Field], bool, dict[str, Any]]] = [
    ("a GET", section(), True, {
        "method": "GET", "target": b"/", "http_version": "2", "authority": b"example.com", "path": b"/", "query": b"",
        "protocol": None, "fields": (), "content_length": None, "expect": None, "connection": None, "upgrade": None,
        "transfer_encoding": None,
    }),
    ("the peer's scheme is no claim of ours", section(), True, {"scheme": "http"}),
    ("http", section(scheme=b"http"), True, {"scheme": "http"}),
    ("the pseudo-fields in another order", section()[::-1], True, {"method": "GET", "path": b"/"}),
    ("a query", section(path=b"/a%20b?c?d"), True, {"target": b"/a%20b?c?d", "path": b"/a%20b", "query": b"c?d"}),
    ("octets beyond ASCII in the path", section(path=b"/\xc3\xa9"), True, {"path": b"/\xc3\xa9"}),
    ("OPTIONS *", section(method=b"OPTIONS", path=b"*"), True, {"method": "OPTIONS", "path": b"*"}),
    ("a method of theirs", section(method=b"M-SEARCH"), True, {"method": "M-SEARCH"}),
    ("a method in lower case", section(method=b"get"), True, {"method": "get"}),
    ("Host for :authority", section((b"host", b"a.example"), authority=None), True, {
        "authority": b"a.example", "fields": ((b"host", b"a.example"),),
    }),
    ("Host beside :authority", section((b"host", b"Example.COM")), True, {"authority": b"example.com"}),
    ("a port", section(authority=b"example.com:8080"), True, {"authority": b"example.com:8080"}),
    ("an address", section(authority=b"[::1]:80"), True, {"authority": b"[::1]:80"}),
    ("fields in their order, repeated", section((b"b", b"1"), (b"a", b"2"), (b"b", b"3")), True, {
        "fields": ((b"b", b"1"), (b"a", b"2"), (b"b", b"3")),
    }),
    ("values with white space, and of any octets within", section((b"a", b"x \t y"), (b"b", b"\x80\xff"), (b"c", b"")),
     True, {"fields": ((b"a", b"x \t y"), (b"b", b"\x80\xff"), (b"c", b""))}),
    ("names of all that a token may have", section((b"!#$%&'*+-.^_`|~09az", b"")), True, {
        "fields": ((b"!#$%&'*+-.^_`|~09az", b""),),
    }),
    ("one cookie", section((b"cookie", b"a=b")), True, {"fields": ((b"cookie", b"a=b"),)}),
    ("crumbs, joined where the first one was", section((b"cookie", b"a=b"), (b"x", b"y"), (b"cookie", b"c=d")), True, {
        "fields": ((b"cookie", b"a=b; c=d"), (b"x", b"y")),
    }),
    ("TE: trailers", section((b"te", b"trailers")), True, {"fields": ((b"te", b"trailers"),)}),
    ("TE: Trailers", section((b"te", b"Trailers")), True, {"fields": ((b"te", b"Trailers"),)}),
    ("Content-Length", section((b"content-length", b"010")), False, {
        "content_length": b"010", "fields": ((b"content-length", b"010"),),
    }),
    ("Content-Length of no content", section((b"content-length", b"00")), True, {"content_length": b"00"}),
    ("Expect", section((b"expect", b"100-continue")), False, {"expect": b"100-continue"}),
    ("Expect, twice", section((b"expect", b"a"), (b"expect", b"b")), False, {"expect": b"a, b"}),
    ("CONNECT", section(base=CONNECT), False, {
        "method": "CONNECT", "target": b"example.com:443", "authority": b"example.com:443", "protocol": "", "path": b"",
    }),
    ("extended CONNECT", section(base=EXTENDED), False, {
        "method": "CONNECT", "target": b"/chat", "path": b"/chat", "protocol": "websocket",
    }),
    ("extended CONNECT to what nobody knows", section(base=EXTENDED, protocol=b"connect-udp"), False, {
        "protocol": "connect-udp",
    }),
    ("the size, as RFC 9113 §6.5.2 counts it", section((b"a", b"bc"), (b"cookie", b"d"), (b"cookie", b"e")), True, {
        "size": 32 * 7 + len(b":methodGET:schemehttps:authorityexample.com:path/abccookiedcookiee"),
    }),
]  # fmt: skip


@pytest.mark.parametrize(
    ("headers", "ended", "expected"), [case[1:] for case in WELL_FORMED], ids=[case[0] for case in WELL_FORMED]
)
def test_well_formed_requests(headers, ended, expected):
    head = both_ways(headers, ended)
    assert head is not None
    assert {name: getattr(head, name) for name in expected} == expected


# (what, the field section, whether no content follows); RFC 9113 §8.1.1 calls each of them malformed
MALFORMED: list[tuple[str, list[Field], bool]] = [
    ("nothing", [], True),
    ("no :method", section(method=None), True),
    ("no :scheme", section(scheme=None), True),
    ("no :path", section(path=None), True),
    ("neither :authority nor Host", section(authority=None), True),
    ("two :method", section((b":method", b"GET")), True),
    ("two :scheme", section((b":scheme", b"https")), True),
    ("two :path", section((b":path", b"/")), True),
    ("two :authority", section((b":authority", b"example.com")), True),
    ("two :protocol", section((b":protocol", b"websocket"), base=EXTENDED), False),
    ("a response's pseudo-field", section((b":status", b"200")), True),
    ("an unknown pseudo-field", section((b":unknown", b"x")), True),
    ("a pseudo-field without a name", section((b":", b"x")), True),
    ("a pseudo-field in upper case", section((b":METHOD", b"GET"), method=None), True),
    ("a pseudo-field behind a regular one", [*section(path=None), (b"a", b"b"), (b":path", b"/")], True),
    ("an empty :method", section(method=b""), True),
    (":method that is no token", section(method=b"GE T"), True),
    (":method with a line end", section(method=b"GET\r\n"), True),
    ("an empty :scheme", section(scheme=b""), True),
    ("another :scheme", section(scheme=b"ftp"), True),
    (":scheme in upper case", section(scheme=b"HTTPS"), True),
    ("an empty :path", section(path=b""), True),
    (":path without a slash", section(path=b"a"), True),
    (":path that is a URI", section(path=b"https://example.com/"), True),
    (":path * of a GET", section(path=b"*"), True),
    (":path with a space", section(path=b"/a b"), True),
    (":path with a fragment", section(path=b"/a#b"), True),
    (":path with NUL", section(path=b"/\0"), True),
    (":path with a line end", section(path=b"/\r\nx: y"), True),
    (":path with DEL", section(path=b"/\x7f"), True),
    ("an empty :authority", section(authority=b""), True),
    ("an empty :authority beside Host", section((b"host", b"example.com"), authority=b""), True),
    (":authority with a user", section(authority=b"user@example.com"), True),
    (":authority with a path", section(authority=b"example.com/"), True),
    (":authority with a space", section(authority=b"example.com "), True),
    (":authority with a line end", section(authority=b"a\r\nb"), True),
    (":authority with a port that is none", section(authority=b"example.com:http"), True),
    ("an empty Host", section((b"host", b""), authority=None), True),
    ("Host that names no host", section((b"host", b"a b"), authority=None), True),
    ("Host beside another :authority", section((b"host", b"other.example")), True),
    ("two Hosts", section((b"host", b"example.com"), (b"host", b"example.com")), True),
    ("a name in upper case", section((b"A", b"b")), True),
    ("a name with one such letter", section((b"content-Type", b"b")), True),
    ("an empty name", section((b"", b"b")), True),
    ("a name with a space", section((b"a b", b"c")), True),
    ("a name with a colon", section((b"a:b", b"c")), True),
    ("a name with NUL", section((b"a\0", b"c")), True),
    ("a name with a line end", section((b"a\n", b"c")), True),
    ("a name beyond ASCII", section((b"\xe9", b"c")), True),
    *((f"a value with {octet!r}", section((b"a", b"x" + octet + b"y")), True)
      for octet in (b"\0", b"\n", b"\r", b"\r\n", b"\x01", b"\x1f", b"\x7f")),
    *((f"a value that is {value!r}", section((b"a", value)), True)
      for value in (b" ", b"\t", b" x", b"\tx", b"x ", b"x\t", b"\n", b"\n\n")),
    ("a cookie with a line end", section((b"cookie", b"a=b\r\nc: d")), True),
    ("a crumb with a line end", section((b"cookie", b"a=b"), (b"cookie", b"c\n")), True),
    ("a crumb with a space before it", section((b"cookie", b"a=b"), (b"cookie", b" c=d")), True),
    ("Expect with a line end", section((b"expect", b"100-continue\n")), False),
    *((f"{name.decode()}, which is the connection's", section((name, b"x")), True)
      for name in sorted(CONNECTION_SPECIFIC)),
    ("TE: gzip", section((b"te", b"gzip")), True),
    ("TE: trailers, gzip", section((b"te", b"trailers, gzip")), True),
    ("an empty TE", section((b"te", b"")), True),
    ("two Content-Lengths", section((b"content-length", b"1"), (b"content-length", b"1")), False),
    ("Content-Lengths in one", section((b"content-length", b"1, 1")), False),
    ("Content-Length below nothing", section((b"content-length", b"-1")), False),
    ("Content-Length with a sign", section((b"content-length", b"+1")), False),
    ("Content-Length with a space", section((b"content-length", b"1 ")), False),
    ("an empty Content-Length", section((b"content-length", b"")), False),
    ("Content-Length of hexadecimals", section((b"content-length", b"0x1")), False),
    ("Content-Length beyond all bounds", section((b"content-length", b"1" * 19)), False),
    ("Content-Length of a request that has ended", section((b"content-length", b"1")), True),
    ("CONNECT with :scheme", section(base=CONNECT, scheme=b"https"), False),
    ("CONNECT with :path", section(base=CONNECT, path=b"/"), False),
    ("CONNECT with :scheme and :path", section(base=GET, method=b"CONNECT"), False),
    ("CONNECT without :authority", section(base=CONNECT, authority=None), False),
    ("CONNECT without a port", section(base=CONNECT, authority=b"example.com"), False),
    (":protocol without CONNECT", section(base=EXTENDED, method=b"GET"), False),
    ("extended CONNECT without :scheme", section(base=EXTENDED, scheme=None), False),
    ("extended CONNECT without :path", section(base=EXTENDED, path=None), False),
    ("extended CONNECT without :authority", section(base=EXTENDED, authority=None), False),
    ("extended CONNECT to *", section(base=EXTENDED, path=b"*"), False),
    ("an empty :protocol", section(base=EXTENDED, protocol=b""), False),
    (":protocol that is no token", section(base=EXTENDED, protocol=b"a b"), False),
]  # fmt: skip


@pytest.mark.parametrize(("headers", "ended"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED])
def test_malformed_requests(headers, ended):
    assert both_ways(headers, ended) is None


@pytest.mark.parametrize(("headers", "ended"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED])
def test_a_malformed_request_leaves_nothing_behind_that_makes_it_good(headers, ended):
    """Parts of it may have been found well formed: in another request they are still what they were."""
    for known in (section(), section(base=CONNECT), section((b"te", b"trailers"), (b"a", b"b"), (b"host", b"a"))):
        check_request(known, False)
    check_request(headers, ended)
    for size in range(len(headers)):
        check_request(headers[:size], ended)
        check_request(section(*headers[size:]), ended)
    assert check_request(headers, ended) is None


def test_what_is_known_is_bounded():
    for at in range(MAX_KNOWN + 10):
        check_request(section((b"a%d" % at, b"b"), authority=b"host%d" % at), True)
        assert len(http2._known_fields) <= MAX_KNOWN
        assert len(http2._known_authorities) <= MAX_KNOWN
    large = b"x" * 300
    assert check_request(section((b"a", large), authority=large), True)
    assert (b"a", large) not in http2._known_fields
    assert large not in http2._known_authorities


# --- anything at all

NAMES = st.sampled_from([*GET, b":protocol", b":status", b"", b"a", b"A", b"a b", b"te", b"cookie", b"expect"])
NAMES |= st.sampled_from(sorted(GOVERNING | CONNECTION_SPECIFIC)) | st.binary(max_size=6)
VALUES = st.sampled_from([*GET.values(), b"CONNECT", b"OPTIONS", b"*", b"http", b"trailers", b"1", b"example.com:443"])
VALUES |= st.binary(max_size=6)
LIKELY = st.tuples(
    st.sampled_from([b"a", b"b-c", b"cookie", b"expect", b"priority"]),
    st.binary(max_size=3) | st.from_regex(rb"[!-~\x80-\xff]?[ \t!-~\x80-\xff]*[!-~\x80-\xff]", fullmatch=True),
)
PAIRS = st.lists(LIKELY, max_size=8) | st.lists(st.tuples(NAMES, VALUES), max_size=8)
PSEUDO = st.sampled_from([*([base] for base in (GET, CONNECT, EXTENDED)), []]).map(
    lambda bases: [field for base in bases for field in base.items()]
)


@given(PSEUDO, PAIRS, st.booleans())
def test_any_request(pseudo, more, ended):
    head = check_request(pseudo + more, ended)
    if head is None:
        return
    for name, value in head.fields:
        assert name == name.lower()
        assert name not in CONNECTION_SPECIFIC
        assert not set(name) & {*CONTROLS, *b" \t:"}
        assert not set(value) & set(CONTROLS)
        assert value == value.strip(b" \t")
    assert len([name for name, _ in head.fields if name == b"cookie"]) <= 1
    assert not set(head.target) & {*range(33), 127, *b"#"}
    # What it says, said again, says the same.
    again = {b":method": head.method.encode(), b":authority": head.authority}
    if head.protocol != "":
        again |= {b":scheme": b"http", b":path": head.target}
    if head.protocol:
        again[b":protocol"] = head.protocol.encode()
    same = check_request([*again.items(), *head.fields], ended)
    assert {**values(same), "size": 0, "lines": 0} == {**values(head), "size": 0, "lines": 0}


@given(PAIRS)
def test_any_trailers(pairs):
    fields = check_trailers(pairs)
    if fields is None:
        return
    assert set(fields) <= set(pairs)
    assert not {name for name, _ in fields} & (GOVERNING | CONNECTION_SPECIFIC)
    assert check_trailers(fields) == fields


# --- trailers


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], ()),
        ([(b"a", b"b"), (b"a", b"c")], ((b"a", b"b"), (b"a", b"c"))),
        ([(b"content-length", b"1"), (b"host", b"x"), (b"expect", b"x"), (b"a", b"b")], ((b"a", b"b"),)),
        ([(b"a", b"x" * (MAX_TRAILERS - 1))], ((b"a", b"x" * (MAX_TRAILERS - 1)),)),
        ([(b":path", b"/")], None),
        ([(b":status", b"200")], None),
        ([(b"A", b"b")], None),
        ([(b"", b"b")], None),
        ([(b"a b", b"c")], None),
        ([(b"a", b"b\n")], None),
        ([(b"a", b" b")], None),
        ([(b"te", b"gzip")], None),
        ([(b"host", b"x\r\n")], None),
        *(([(name, b"x")], None) for name in sorted(CONNECTION_SPECIFIC)),
    ],
)
def test_trailers(headers, expected):
    assert check_trailers(headers) == check_trailers(headers) == expected


@pytest.mark.parametrize("headers", [[(b"a", b"x" * MAX_TRAILERS)], [(b"a", b"x" * 7)] * (MAX_TRAILERS // 8 + 1)])
def test_trailers_that_are_too_large(headers):
    with pytest.raises(PeerError) as raised:
        check_trailers(headers)
    assert raised.value.status == 431


# --- the rest


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"", (3, False)),
        *((b"u=%d" % urgency, (urgency, False)) for urgency in range(8)),
        (b"i", (3, True)),
        (b"i=?1", (3, True)),
        (b"i=?0", (3, False)),
        (b"u=5, i", (5, True)),
        (b"i,u=5", (5, True)),
        (b" u=5 ,\ti ", (5, True)),
        (b"u=1, u=2", (2, False)),  # "only the last instance is preserved" (RFC 8941 §3.2)
        (b"i, i=?0", (3, False)),
        (b"x=y, u=2, z", (2, False)),
        # "values outside [...] the valid ranges [...] are ignored" (RFC 9218 §4)
        (b"u=8", (3, False)),
        (b"u=-1", (3, False)),
        (b"u=10", (3, False)),
        (b"u=1.0", (3, False)),
        (b"u", (3, False)),
        (b"i=1", (3, False)),
        (b"U=1", (3, False)),
        (b"\xff\0,,=,u=", (3, False)),
    ],
)
def test_priorities(value, expected):
    assert parse_priority(value) == expected


@given(st.binary(max_size=40))
def test_any_priority(value):
    urgency, incremental = parse_priority(value)
    assert urgency in range(8)
    assert type(incremental) is bool


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], []),
        ([("Content-Type", "text/plain"), ("X", "")], [(b"content-type", b"text/plain"), (b"x", b"")]),
        ([("a", "b: c"), ("A", "d")], [(b"a", b"b: c"), (b"a", b"d")]),
        ([("a", "\xe9\t\xff")], [(b"a", b"\xe9\t\xff")]),
        ([("a", "  b\t ")], [(b"a", b"b")]),  # "MUST NOT start or end with an ASCII whitespace character" (§8.2.1)
    ],
)
def test_fields_of_a_checked_head(given, expected):
    assert compose_response_head("200 OK", given).fields == expected


def test_a_budget_is_a_burst_and_a_rate():
    budget = Budget((3, 2))
    assert [budget.spend(10.0) for _ in range(5)] == [True, True, True, False, False]
    assert [budget.spend(10.4) for _ in range(2)] == [False, False]
    assert [budget.spend(11.0) for _ in range(3)] == [True, True, False]
    assert [budget.spend(1000.0) for _ in range(4)] == [True, True, True, False]  # and never more than the burst


def test_a_budget_is_earned():
    budget = Budget((2, 1))
    budget.earn(100)
    assert [budget.spend(1.0) for _ in range(3)] == [True, True, False]
    budget.earn()
    assert [budget.spend(1.0) for _ in range(2)] == [True, False]


@pytest.mark.parametrize("name", ["h2", "ngh2"])
def test_an_engine_by_its_name(name):
    if name != "h2":
        pytest.importorskip(name)
    assert engine(name).__module__ == f"geventgate.protocol.http2_{name}"


@pytest.fixture
def lacking(monkeypatch):
    """Packages that are not installed."""
    missing: set[str] = set()

    def import_module(name: str) -> Any:
        if name in missing:
            raise ImportError(f"No module named {name!r}")
        return importlib.import_module(name)

    monkeypatch.setattr(http2, "import_module", import_module)
    return missing


def test_auto_makes_do_without_the_fast_one(lacking):
    lacking.add("geventgate.protocol.http2_ngh2")
    assert engine().__module__ == "geventgate.protocol.http2_h2"
    with pytest.raises(ConfigError, match="ngh2"):
        engine("ngh2")


def test_no_engine_at_all(lacking):
    lacking.update(("geventgate.protocol.http2_ngh2", "geventgate.protocol.http2_h2"))
    with pytest.raises(ConfigError, match="engine h2 does not import"):
        engine()
