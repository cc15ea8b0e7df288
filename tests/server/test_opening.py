"""Which protocol a connection speaks: its first bytes tell, or ALPN."""

import ssl
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from gevent import ssl as gevent_ssl
from h2.config import H2Configuration
from h2.connection import H2Connection

from geventgate.exchange import Exchange
from geventgate.protocol.http2 import PREFACE
from geventgate.server.http1 import Http1Connection
from geventgate.server.http2 import Http2Connection
from geventgate.testing import Http2Client

from .conftest import PATIENCE, Client, Site

Until = Callable[..., None]
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
H2C = {"http2_cleartext": "prior-knowledge"}


def version(exchange: Exchange) -> None:
    content = b"".join(iter(lambda: exchange.read(65536), b""))
    exchange.send_head(200, [])
    exchange.finish(exchange.request.http_version.encode() + content)


def http2_request() -> bytes:
    """All that a client sends for one request."""
    h2 = H2Connection(H2Configuration(client_side=True))
    h2.initiate_connection()
    fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]
    h2.send_headers(1, fields, end_stream=True)
    return h2.data_to_send()


def http2_content(client: Client) -> bytes:
    """The content of the first response, by its DATA frame."""
    received = b""
    while True:
        received += client.sock.recv(65536)
        rest = received
        while len(rest) >= 9 and len(rest) >= 9 + int.from_bytes(rest[:3]):
            size, kind = int.from_bytes(rest[:3]), rest[3]
            if kind == 0:
                return rest[9 : 9 + size]
            rest = rest[9 + size :]


# --- cleartext


@pytest.mark.parametrize("split", ["whole", "byte by byte", "behind the preface", "in the preface"])
def test_prior_knowledge(site: Site, split: str) -> None:
    site.serve(version, **H2C)
    client = site.connect()
    wire = http2_request()
    cuts = {
        "whole": [],
        "byte by byte": range(1, len(wire)),
        "behind the preface": [len(PREFACE)],
        "in the preface": [len(PREFACE) - 1],
    }
    start = 0
    for end in [*cuts[split], len(wire)]:
        client.send(wire[start:end])
        start = end
        gevent.sleep(0.0005)
    assert http2_content(client) == b"2"


@pytest.mark.parametrize("size", [1, 7, 1000])
@pytest.mark.parametrize(
    "wire",
    [
        GET,
        b"P" + GET[1:].replace(b"ET", b"UT", 1).replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n"),
        b"PRI / HTTP/1.1\r\nHost: a\r\n\r\n",  # begins like a preface
    ],
)
def test_http_1_on_the_same_port(site: Site, wire: bytes, size: int) -> None:
    site.serve(version, **H2C)
    client = site.connect()
    for start in range(0, len(wire), size):
        client.send(wire[start : start + size])
        gevent.sleep(0.0005)
    assert client.response().content == b"1.1"
    assert client.get().content == b"1.1"


@pytest.mark.parametrize(
    "wire",
    [
        PREFACE.replace(b"SM", b"MS"),
        PREFACE[:18] + b"\0" * 20,
        b"PRI * HTTP/2.0\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/1.1\r\nHost: a\r\n\r\n",
        b"\0" * 30,
    ],
)
def test_what_is_neither(site: Site, wire: bytes) -> None:
    site.serve(version, **H2C)
    client = site.connect()
    client.send(wire)
    assert client.response().status in (400, 505)
    assert client.rest() == b""


@pytest.mark.parametrize("wire", [b"", b"P", PREFACE[:23]])
def test_a_beginning_and_silence(site: Site, wire: bytes, until: Until) -> None:
    server = site.serve(version, head_timeout=5, **H2C)
    client = site.connect()
    client.send(wire)
    until(lambda: server.service.connections)
    gevent.sleep(0.01)
    site.sweep(3)
    assert server.service.connections
    site.sweep(7)
    assert client.rest() == b""
    until(lambda: not server.service.connections)


def test_the_preface_and_silence(site: Site, until: Until) -> None:
    """The time for the first request began with the connection."""
    server = site.serve(version, head_timeout=5, **H2C)
    client = site.connect()
    client.send(PREFACE)
    gevent.sleep(0.01)
    for seconds in (7, 9):
        site.sweep(seconds)
        gevent.sleep(0.01)
    client.rest()
    client.close()
    until(lambda: not server.service.connections)


def test_a_peer_that_leaves_in_its_preface(site: Site, until: Until) -> None:
    server = site.serve(version, **H2C)
    for leave in (Client.close, Client.reset):
        client = site.connect()
        client.send(PREFACE[:10])
        until(lambda: server.service.connections)
        leave(client)
        until(lambda: not server.service.connections)


def test_a_drain_in_the_opening(site: Site, until: Until) -> None:
    """What is under way is served."""
    server = site.serve(version, **H2C)
    one, two = site.connect(), site.connect()
    one.send(GET[:1])
    two.send(PREFACE[:10])
    until(lambda: len(server.service.connections) == 2)
    gevent.sleep(0.01)
    stopping = gevent.spawn(server.stop, PATIENCE)
    until(server.service.draining.is_set)
    gevent.sleep(0.01)
    one.send(GET[1:])
    two.send(http2_request()[10:])
    assert one.response().content == b"1.1"
    assert http2_content(two) == b"2"
    assert one.rest() == b""
    two.close()
    stopping.get(timeout=PATIENCE)


def test_a_kill_in_the_opening(site: Site, until: Until) -> None:
    server = site.serve(version, **H2C)
    client = site.connect()
    client.send(PREFACE[:10])
    until(lambda: server.service.connections)
    gevent.sleep(0.01)
    server.stop(0.0)
    assert not server.service.connections
    assert client.rest() == b""


def test_no_http_2_unless_asked_for(site: Site) -> None:
    """Nor does the server look for it: a request line is answered as soon as it is wrong."""
    server = site.serve(version)
    client = site.connect()
    client.send(http2_request())
    assert client.response().status in (400, 505)
    assert client.rest() == b""
    site.connect().get()
    assert all(isinstance(connection, Http1Connection) for connection in server.service.connections)


@pytest.mark.parametrize("config", [{}, H2C])
@pytest.mark.parametrize(
    ("method", "fields", "content"),
    [
        ("GET", "", b""),
        ("POST", "Content-Length: 5\r\n", b"hello"),
        ("POST", "Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
    ],
)
def test_an_offer_to_upgrade_to_h2c_is_ignored(
    site: Site, config: Any, method: str, fields: str, content: bytes
) -> None:
    """The request is served as it is, with its content, and the connection goes on (gevent #2035). RFC 9113 has done
    away with this upgrade (§3.1)."""
    site.serve(version, **config)
    client = site.connect()
    offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n"
    for _ in range(2):
        client.send(f"{method} / HTTP/1.1\r\nHost: a\r\n{offer}{fields}\r\n".encode() + content)
        response = client.response()
        assert response.content == b"1.1" + (b"hello" if content else b"")
        assert (response.status, response.fields.get("upgrade"), response.fields.get("connection")) == (200, None, None)
    assert client.get().content == b"1.1"


# --- ALPN


@pytest.mark.parametrize(
    ("config", "offered", "chosen", "spoken"),
    [
        ({}, ["h2", "http/1.1"], "h2", Http2Connection),
        ({}, ["http/1.1", "h2"], "h2", Http2Connection),  # ours is the order that counts
        ({}, ["h2"], "h2", Http2Connection),
        ({}, ["http/1.1"], "http/1.1", Http1Connection),
        ({}, ["spdy/3"], None, Http1Connection),
        ({}, [], None, Http1Connection),
        ({"http2": False}, ["h2", "http/1.1"], "http/1.1", Http1Connection),
        ({"http2": False}, ["h2"], None, Http1Connection),
    ],
)
def test_alpn(
    site: Site, authority: Any, until: Until, config: Any, offered: list[str], chosen: str | None, spoken: type
) -> None:
    pair = authority.issue("localhost")
    server = site.serve(version, certfile=pair.certfile, keyfile=pair.keyfile, **config)
    client = site.connect()
    context = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.ca_certs)
    if offered:
        context.set_alpn_protocols(offered)
    client.sock = context.wrap_socket(client.sock, server_hostname="localhost")
    assert client.sock.selected_alpn_protocol() == chosen
    until(lambda: [type(connection) for connection in server.service.connections] == [spoken])
    if spoken is Http2Connection:
        client.send(http2_request())
        assert http2_content(client) == b"2"
    else:
        assert client.get().content == b"1.1"


@pytest.mark.parametrize("wire", [GET, b"\0" * 30, PREFACE[:-1] + b"x"])
def test_there_is_no_way_back_from_alpn(site: Site, authority: Any, wire: bytes, until: Until) -> None:
    """Nothing but HTTP/2 is answered where h2 was agreed on, or a proxy and we could differ."""
    pair = authority.issue("localhost")
    server = site.serve(version, certfile=pair.certfile, keyfile=pair.keyfile)
    client = site.connect()
    context = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.ca_certs)
    context.set_alpn_protocols(["h2"])
    client.sock = context.wrap_socket(client.sock, server_hostname="localhost")
    client.send(wire)
    received = client.rest()
    assert b"HTTP/1.1" not in received
    client.close()
    until(lambda: not server.service.connections)


@pytest.mark.parametrize("engine", ["h2", "ngh2"])
def test_http_2_over_tls(site: Site, authority: Any, engine: str) -> None:
    pair = authority.issue("localhost", "127.0.0.1")
    content = b"a" * 1_000_000

    def handle(exchange: Exchange) -> None:
        assert exchange.tls is not None
        assert (exchange.request.scheme, exchange.tls.alpn) == ("https", "h2")
        version(exchange)

    site.serve(handle, certfile=pair.certfile, keyfile=pair.keyfile, http2_engine=engine)
    client: Http2Client = site.http2(ca_certs=authority.ca_certs)
    assert client.request().content == b"2"
    streams = [client.open("POST") for _ in range(3)]
    sending = [gevent.spawn(stream.send, content) for stream in streams]
    gevent.joinall(sending, PATIENCE)
    for stream in streams:
        stream.end()
        assert stream.response().content == b"2" + content
