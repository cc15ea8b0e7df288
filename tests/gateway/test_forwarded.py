"""What proxies say of a request: believed from those named, of the fields named, and of nobody else."""

import io
import logging

import pytest
from gevent.event import Event
from hypothesis import given
from hypothesis import strategies as st

from geventgate import observe
from geventgate.accesslog import AccessLog
from geventgate.config import FORWARDING, Config
from geventgate.gateway.forwarded import Forwarding, parse_node
from geventgate.gateway.wsgi import WsgiGateway
from geventgate.testing import FakeExchange

PROXY = ("10.0.0.1", "4000")
NAMED = ("10.0.0.0/8", "unix:")
FOR, PROTO, HOST, PORT, PREFIX = (name.title() for name in FORWARDING)


@pytest.fixture(autouse=True)
def unsaid(monkeypatch):
    monkeypatch.setattr(observe, "_said", set())


def serve(fields, names=FORWARDING, peers=NAMED, target="/x", application=None, **more):
    """The exchange, and the environ that the application saw."""
    seen = {}

    def app(environ, start_response):
        seen.update(environ)
        start_response("200 OK", [])
        return [b"ok"]

    config = Config(forwarded_allow_ips=peers, forwarded_headers=names, root_path=more.pop("root_path", ""))
    more.setdefault("peer", PROXY)
    exchange = FakeExchange("GET", target, fields, **more)
    gateway = WsgiGateway(application or app, config, draining=Event(), errors=io.StringIO(), software="test")
    gateway.handle(exchange)
    return exchange, seen


def view(environ):
    request = environ["geventgate.request"]
    assert request.client == (environ["REMOTE_ADDR"], environ["REMOTE_PORT"])
    assert request.scheme == environ["wsgi.url_scheme"]
    assert request.authority == environ["HTTP_HOST"]
    assert request.root_path == environ["SCRIPT_NAME"].encode("latin-1").decode()
    keys = ("REMOTE_ADDR", "wsgi.url_scheme", "HTTP_HOST", "SERVER_NAME", "SERVER_PORT", "SCRIPT_NAME")
    return tuple(environ[key] for key in keys)


AS_IT_CAME = ("10.0.0.1", "http", "localhost", "127.0.0.1", "8000", "")


def changed(**changes):
    names = ("addr", "scheme", "host", "name", "port", "prefix")
    return tuple(changes.get(name, value) for name, value in zip(names, AS_IT_CAME, strict=True))


X_FORWARDED = [
    # fields, what is seen
    ([], AS_IT_CAME),
    ([(FOR, "192.0.2.1")], changed(addr="192.0.2.1")),
    ([(FOR, "192.0.2.1:5678")], changed(addr="192.0.2.1")),
    ([(FOR, "2001:DB8::1")], changed(addr="2001:db8::1")),
    ([(FOR, "[2001:db8::1]:80")], changed(addr="2001:db8::1")),
    ([(FOR, "::ffff:192.0.2.1")], changed(addr="192.0.2.1")),
    # the rightmost that is no proxy of ours; what stands left of it the client may have made up
    ([(FOR, "6.6.6.6, 192.0.2.1")], changed(addr="192.0.2.1")),
    ([(FOR, "6.6.6.6, 192.0.2.1, 10.0.0.3,10.0.0.2")], changed(addr="192.0.2.1")),
    ([(FOR, "6.6.6.6"), (FOR, "192.0.2.1"), (FOR, "10.0.0.2")], changed(addr="192.0.2.1")),
    ([(FOR, "10.0.0.4, 10.0.0.3")], changed(addr="10.0.0.4")),
    ([(FOR, "junk, 192.0.2.1")], changed(addr="192.0.2.1")),
    ([(FOR, "junk, 10.0.0.2")], changed(addr="10.0.0.2")),
    ([(FOR, ", ,192.0.2.1,,")], changed(addr="192.0.2.1")),
    ([(PROTO, "https")], changed(scheme="https")),
    ([(PROTO, "HTTPS")], changed(scheme="https")),
    ([(PROTO, "wss")], changed(scheme="https")),
    ([(PROTO, "http")], AS_IT_CAME),
    # of two schemes the one that the proxy next to the client saw
    ([(FOR, "192.0.2.1"), (PROTO, "https, http")], changed(addr="192.0.2.1")),
    ([(FOR, "192.0.2.1, 10.0.0.2"), (PROTO, "https, http")], changed(addr="192.0.2.1", scheme="https")),
    ([(FOR, "6.6.6.6, 192.0.2.1, 10.0.0.2"), (PROTO, "http, https, http")], changed(addr="192.0.2.1", scheme="https")),
    ([(FOR, "192.0.2.1, 10.0.0.2"), (PROTO, "https")], changed(addr="192.0.2.1", scheme="https")),
    ([(HOST, "example.org")], changed(host="example.org", name="example.org", port="80")),
    ([(HOST, "example.org:81")], changed(host="example.org:81", name="example.org", port="81")),
    ([(HOST, "[::1]:81")], changed(host="[::1]:81", name="::1", port="81")),
    ([(HOST, "evil, example.org")], changed(host="example.org", name="example.org", port="80")),
    (
        [(HOST, "example.org"), (PROTO, "https")],
        changed(scheme="https", host="example.org", name="example.org", port="443"),
    ),
    (
        [(HOST, "example.org:81"), (PORT, "443"), (PROTO, "https")],
        changed(scheme="https", host="example.org", name="example.org", port="443"),
    ),
    ([(PORT, "8443")], changed(host="localhost:8443", port="8443")),
    ([(PORT, "80")], changed(port="80")),
    ([(PORT, "00443"), (PROTO, "https")], changed(scheme="https", port="443")),
    ([(PREFIX, "/api")], changed(prefix="/api")),
    ([(PREFIX, "/api/v1/")], changed(prefix="/api/v1")),
    ([(PREFIX, "/evil, /api")], changed(prefix="/api")),
    ([(PREFIX, "/caf%C3%A9")], changed(prefix="/café".encode().decode("latin-1"))),
    ([(PREFIX, "/")], AS_IT_CAME),
]

FORWARDED = [
    ("for=192.0.2.1", changed(addr="192.0.2.1")),
    ('For="192.0.2.1:4711"', changed(addr="192.0.2.1")),
    ('for="[2001:db8:cafe::17]:4711"', changed(addr="2001:db8:cafe::17")),
    ('for="[2001:db8:cafe::17]"', changed(addr="2001:db8:cafe::17")),
    ("for=192.0.2.60;proto=https;by=203.0.113.43", changed(addr="192.0.2.60", scheme="https")),
    (
        " for=192.0.2.60 ; proto = https".replace(" = ", "=") + ';host="example.org:81"',
        changed(addr="192.0.2.60", scheme="https", host="example.org:81", name="example.org", port="81"),
    ),
    ("for=6.6.6.6;proto=https, for=192.0.2.1", changed(addr="192.0.2.1")),
    (
        "for=6.6.6.6, for=192.0.2.1;proto=https;host=example.org, for=10.0.0.2;proto=http;host=inner",
        changed(addr="192.0.2.1", scheme="https", host="example.org", name="example.org", port="443"),
    ),
    ("proto=https, for=10.0.0.2", changed(addr="10.0.0.2", scheme="https")),
    ("for=unknown;proto=https", changed(scheme="https")),
    ("for=_hidden, for=10.0.0.2", changed(addr="10.0.0.2")),
    ('for="_gazonk:81"', AS_IT_CAME),
    ('for="1\\92.0.2.1"', changed(addr="192.0.2.1")),
    ("", AS_IT_CAME),
    (", ,;, for=192.0.2.1;", changed(addr="192.0.2.1")),
    ('secret="a, for=6.6.6.6";for=192.0.2.1', changed(addr="192.0.2.1")),
]


@pytest.mark.parametrize(("fields", "seen"), X_FORWARDED)
def test_x_forwarded(fields, seen, caplog):
    assert view(serve(fields)[1]) == seen


@pytest.mark.parametrize(("value", "seen"), FORWARDED)
def test_forwarded(value, seen, caplog):
    assert view(serve([("Forwarded", value)], ("forwarded",))[1]) == seen
    assert caplog.records == []


MALFORMED = [
    # names, fields, what is logged
    (FORWARDING, [(FOR, "junk")], "address 'junk'"),
    (FORWARDING, [(FOR, "192.0.2.256")], "address '192.0.2.256'"),
    (FORWARDING, [(FOR, "192.0.2.1:99999")], "address '192.0.2.1:99999'"),
    (FORWARDING, [(FOR, "fe80::1%eth0")], "address 'fe80::1%eth0'"),
    (FORWARDING, [(PROTO, "ftp")], "scheme 'ftp'"),
    (FORWARDING, [(PROTO, "https;")], "scheme 'https;'"),
    (FORWARDING, [(HOST, "a b")], "host 'a b'"),
    (FORWARDING, [(HOST, "a/b")], "host 'a/b'"),
    (FORWARDING, [(HOST, "a:00")], "host 'a:00'"),
    (FORWARDING, [(HOST, "a:65536")], "host 'a:65536'"),
    (FORWARDING, [(HOST, "user@example.org")], "host 'user@example.org'"),
    (FORWARDING, [(PORT, "0")], "port '0'"),
    (FORWARDING, [(PORT, "65536")], "port '65536'"),
    (FORWARDING, [(PORT, "1" * 5000)], "port '1111"),
    (FORWARDING, [(PORT, b"\xb2")], "port"),
    (FORWARDING, [(PORT, "0000001234567")], "port '0000001234567'"),
    (FORWARDING, [(PREFIX, "api")], "prefix 'api'"),
    (FORWARDING, [(PREFIX, "//evil.example")], "prefix '//evil.example'"),
    (FORWARDING, [(PREFIX, "/%2Fevil.example")], "prefix"),
    (FORWARDING, [(PREFIX, "/a/../b")], "prefix"),
    (FORWARDING, [(PREFIX, "/a/%2e%2e")], "prefix"),
    (FORWARDING, [(PREFIX, "/%0d%0aSet-Cookie")], "prefix"),
    (FORWARDING, [(PREFIX, "/%FF")], "prefix"),
    (("forwarded",), [("Forwarded", "for")], "Forwarded 'for' is malformed (malformed)"),
    (("forwarded",), [("Forwarded", "for=1.2.3.4;for=1.2.3.5")], "(for twice)"),
    (("forwarded",), [("Forwarded", 'for="1.2.3.4')], "(malformed)"),
    (("forwarded",), [("Forwarded", "for=[::1]")], "(malformed)"),  # brackets want quotes
    (("forwarded",), [("Forwarded", "for = 1.2.3.4")], "(malformed)"),
    (("forwarded",), [("Forwarded", "for=192.0.2.1 proto=https")], "(malformed)"),
]


@pytest.mark.parametrize(("names", "fields", "logged"), MALFORMED)
def test_what_is_malformed_is_ignored_and_logged_once(names, fields, logged, caplog):
    for _ in range(2):
        assert view(serve(fields, names)[1]) == AS_IT_CAME
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert logged in record.getMessage()
    assert "ignored" in record.getMessage()


EVERYTHING = [
    (FOR, "192.0.2.1"), (PROTO, "https"), (HOST, "example.org"), (PORT, "81"), (PREFIX, "/p"),
    ("Forwarded", "for=192.0.2.2;proto=https;host=rfc.example"),
]  # fmt: skip


def test_from_others_nothing_is_believed(caplog):
    for peers, peer in (((), PROXY), (NAMED, ("192.0.2.9", "1")), (("10.0.0.1",), ("", ""))):
        environ = serve(EVERYTHING, peers=peers, peer=peer)[1]
        assert view(environ) == changed(addr=peer[0])
        assert environ["HTTP_X_FORWARDED_FOR"] == "192.0.2.1"  # as it came, for whoever asks
    assert caplog.records == []


@pytest.mark.parametrize(
    ("names", "seen"),
    [
        ((), AS_IT_CAME),
        (("x-forwarded-for",), changed(addr="192.0.2.1")),
        (("x-forwarded-for", "x-forwarded-proto"), changed(addr="192.0.2.1", scheme="https")),
        (("x-forwarded-prefix",), changed(prefix="/p")),
        (("forwarded",), ("192.0.2.2", "https", "rfc.example", "rfc.example", "443", "")),
        (("forwarded", "x-forwarded-prefix"), ("192.0.2.2", "https", "rfc.example", "rfc.example", "443", "/p")),
    ],
)
def test_only_the_fields_named_are_believed(names, seen):
    assert view(serve(EVERYTHING, names)[1]) == seen


def test_through_a_unix_socket():
    environ = serve([(FOR, "192.0.2.1"), (PROTO, "https")], peer=("", ""), local=("", ""))[1]
    assert view(environ) == ("192.0.2.1", "https", "localhost", "localhost", "443", "")


@pytest.mark.parametrize(
    ("target", "root_path", "script_name", "path_info"),
    [
        ("/x", "", "/p", "/x"),
        ("/p/x", "", "/p", "/p/x"),  # the proxy has taken its prefix away: this is another one
        ("/m/x", "/m", "/p/m", "/x"),
    ],
)
def test_the_prefix_stands_before_the_mount(target, root_path, script_name, path_info):
    environ = serve([(PREFIX, "/p")], target=target, root_path=root_path)[1]
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (script_name, path_info)


def test_the_next_request_is_not_the_last_ones():
    """What is the same for all requests stays as it is."""
    config = Config(forwarded_allow_ips=NAMED, forwarded_headers=FORWARDING)
    seen = []

    def app(environ, start_response):
        seen.append(view(environ))
        start_response("200 OK", [])
        return []

    gateway = WsgiGateway(app, config, draining=Event(), errors=io.StringIO(), software="test")
    gateway.handle(FakeExchange("GET", "/x", EVERYTHING, peer=PROXY))
    gateway.handle(FakeExchange("GET", "/x", peer=PROXY))
    assert seen[1] == AS_IT_CAME != seen[0]


def test_the_access_log_names_the_client():
    lines = []
    AccessLog(lines.append).request_ended(serve([(FOR, "192.0.2.1")])[0], 0.0)
    assert lines[0].startswith("192.0.2.1 - - [")


HANDSHAKE = [
    ("Upgrade", "websocket"), ("Connection", "upgrade"), ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="), ("Host", "inner:8000"), ("Origin", "https://example.org"),
]  # fmt: skip


@pytest.mark.parametrize(("peers", "status"), [(NAMED, 101), ((), 403)])
def test_the_origin_of_a_websocket_is_the_forwarded_host(peers, status):
    def app(environ, start_response):
        environ["wsgi.websocket"].accept()
        return []

    fields = [*HANDSHAKE, (HOST, "example.org"), (PROTO, "https")]
    assert serve(fields, peers=peers, application=app)[0].status == status


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("192.0.2.1", ("192.0.2.1", "")),
        ("192.0.2.1:80", ("192.0.2.1", "80")),
        ("::1", ("::1", "")),
        ("[::1]", ("::1", "")),
        ("[::1]:80", ("::1", "80")),
        ("[192.0.2.1]", ("192.0.2.1", "")),
        ("", None),
        ("unknown", None),
        ("[::1", None),
        ("::1:80:", None),
        ("192.0.2.1:", None),
        ("192.0.2.1:-1", None),
        ("192.0.2.01", None),
    ],
)
def test_nodes(text, node):
    assert parse_node(text) == node


@given(st.lists(st.tuples(st.sampled_from([*FORWARDING, "forwarded"]), st.binary(max_size=60)), max_size=6))
def test_whatever_a_proxy_says_is_answered(fields):
    """No field of any kind makes a request fail, and what is believed is well formed."""
    clean = [(name, bytes(byte for byte in value if byte >= 0x20 and byte != 0x7F)) for name, value in fields]
    for names in (FORWARDING, ("forwarded", "x-forwarded-prefix")):
        exchange, environ = serve(clean, names)
        assert exchange.status == 200
        assert view(environ)[1] in ("http", "https")
        assert environ["SCRIPT_NAME"] == "" or environ["SCRIPT_NAME"].startswith("/")
        assert not environ["SCRIPT_NAME"].startswith("//")


def test_costs_nothing_when_nobody_is_named():
    assert not Forwarding(Config())
    assert Forwarding(Config(forwarded_allow_ips=("*",)))
