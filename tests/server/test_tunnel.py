"""What carriers do when HTTP is left: tunnels and connections given away, over TCP, unix sockets and TLS."""

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent import ssl as gevent_ssl
from gevent.event import Event

from geventgate.errors import ApplicationError, NotSupported, PeerGone, PeerTimeout
from geventgate.exchange import Exchange, Tunnel
from geventgate.server.http1 import Http1Tunnel

from .conftest import PATIENCE, Client, Site

Connect = Callable[..., Client]
UPGRADE = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x/2, y\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.fixture(params=["tcp", "unix", "tls"])
def way(request: pytest.FixtureRequest, tmp_path: Path, site: Site, authority: Any) -> tuple[dict[str, Any], Connect]:
    """Config's fields, and how to connect then."""

    def over_tls() -> Client:
        host, _, port = site.servers[-1].addresses[0].removeprefix("https://").rpartition(":")
        client = Client((host, int(port)))
        site.clients.append(client)
        context = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(authority.ca_certs)
        client.sock = context.wrap_socket(client.sock, server_hostname="localhost")
        return client

    if request.param == "tcp":
        return {}, site.connect
    if request.param == "unix":
        return {"bind": (f"unix:{tmp_path}/s",)}, site.connect
    pair = authority.issue("localhost")
    return {"certfile": pair.certfile, "keyfile": pair.keyfile}, over_tls


Way = tuple[dict[str, Any], Connect]


# --- tunnels


@pytest.mark.parametrize(("protocol", "upgrade"), [(None, "x/2"), ("y", "y"), ("X/2", "x/2"), ("z", None), ("", None)])
def test_the_protocol_is_one_of_those_offered(site: Site, protocol: str | None, upgrade: str | None) -> None:
    def handle(exchange: Exchange) -> None:
        if upgrade is not None:
            exchange.open_tunnel(protocol=protocol)
            return
        with pytest.raises(NotSupported, match="does not offer"):
            exchange.open_tunnel(protocol=protocol)
        exchange.send_head(204, [])
        exchange.finish()

    site.serve(handle)
    client = site.connect()
    client.send(UPGRADE)
    response = client.response()
    assert (response.status, response.fields.get("upgrade")) == ((101, upgrade) if upgrade else (204, None))


def test_a_tunnel_over(way: Way, site: Site) -> None:
    """Early bytes, both directions at once, and half-closes."""
    size = 3_000_000

    def handle(exchange: Exchange) -> None:
        tunnel = exchange.open_tunnel()
        assert tunnel.pending() == len(b"early")
        assert tunnel.recv(99) == b"early"
        assert tunnel.pending() == 0
        sending = gevent.spawn(tunnel.sendall, b"o" * size)
        received = b""
        while data := tunnel.recv(size):
            received += data
        kept.append(received == b"i" * size)
        sending.get(timeout=PATIENCE)
        tunnel.sendall(b"behind their end")

    options, connect = way
    kept: list[bool] = []
    site.serve(handle, **options)
    client = connect()
    client.send(UPGRADE + b"early")
    assert client.response().status == 101
    sending = gevent.spawn(client.sock.sendall, b"i" * size)
    received = client.buffer
    while len(received) < size:
        received += client.sock.recv(size)
    assert received == b"o" * size
    sending.get(timeout=PATIENCE)
    if "certfile" in options:
        client.sock.close()  # a client of the ssl module cannot end its side and read on
    else:
        client.sock.shutdown(1)
        client.buffer = b""
        assert client.rest() == b"behind their end"
    with gevent.Timeout(PATIENCE):
        while not kept:
            gevent.sleep(0.001)
    assert kept == [True]


def test_a_peer_that_takes_nothing_of_a_tunnel_is_cut(site: Site) -> None:
    caught: list[BaseException] = []
    ended = Event()

    def handle(exchange: Exchange) -> None:
        tunnel = exchange.open_tunnel()
        try:
            tunnel.sendall(b"a" * 20_000_000)
        except PeerTimeout as error:
            caught.append(error)
            with pytest.raises(PeerGone):
                tunnel.sendall(b"more")
            raise
        finally:
            ended.set()

    site.serve(handle, write_timeout=5)
    client = site.connect()
    client.send(UPGRADE)
    assert client.response().status == 101
    site.sweep(times=5)
    assert not caught
    site.sweep(times=3)
    assert ended.wait(PATIENCE)
    assert isinstance(caught[0], TimeoutError)
    with pytest.raises(ConnectionResetError):
        client.rest()


def test_a_tunnel_is_left_once(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        exchange.open_tunnel()
        for leave in (exchange.open_tunnel, exchange.hijack):
            with pytest.raises(ApplicationError, match="has left HTTP before"):
                leave()

    site.serve(handle)
    client = site.connect()
    client.send(UPGRADE)
    assert client.response().status == 101
    assert client.rest() == b""


def test_a_bad_field_leaves_the_request_as_it_was(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        with pytest.raises(ApplicationError, match="control character"):
            exchange.open_tunnel([("A", "b\r\nC: d")])
        exchange.send_head(200, [])
        exchange.finish(exchange.read(9))

    site.serve(handle)
    client = site.connect()
    client.send(UPGRADE.replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\nbody"))
    assert client.response().content == b"body"


# --- connections given away


def test_a_connection_given_away_over(way: Way, site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        kept.append(exchange.hijack())
        with pytest.raises(ApplicationError, match="hijacked"):
            exchange.open_tunnel()
        with pytest.raises(ApplicationError):
            exchange.send_head(200, [])
        assert exchange.read(9) == b""

    options, connect = way
    kept: list[Any] = []
    server = site.serve(handle, **options)
    client = connect()
    client.send(GET.replace(b"\r\n\r\n", b"\r\nContent-Length: 4\r\n\r\nbody, more"))
    with gevent.Timeout(PATIENCE):
        while not kept or server.service.connections:
            gevent.sleep(0.001)
    server.stop()
    ((connection, unread),) = kept
    assert unread == b"body, more"
    assert isinstance(connection, Tunnel) is ("certfile" in options)
    assert isinstance(connection, Http1Tunnel if "certfile" in options else socket.socket)
    connection.sendall(b"still")
    assert client.sock.recv(9) == b"still"
    client.send(b"here")
    assert connection.recv(9) == b"here"
    client.close()
    assert connection.recv(9) == b""
    connection.close()


def test_a_connection_given_away_is_out_of_the_sweeps_reach(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        exchange.closed.is_set()  # its watcher must not read on
        sock, _ = exchange.hijack()
        site.sweep(1000, times=40)
        kept.append(sock.recv(9))
        sock.close()

    kept: list[bytes] = []
    site.serve(handle)
    client = site.connect()
    client.send(GET)
    with gevent.Timeout(PATIENCE):
        while not site.servers[-1].service.connections:
            gevent.sleep(0.001)
    client.send(b"mine")
    assert client.rest() == b""
    assert kept == [b"mine"]


def test_no_connection_is_given_away_behind_a_head(site: Site) -> None:
    def handle(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        with pytest.raises(ApplicationError, match="begun"):
            exchange.hijack()
        exchange.finish(b"a")

    site.serve(handle)
    assert site.connect().get().content == b"a"


def test_a_handler_that_is_killed_leaves_what_it_gave_away(site: Site) -> None:
    begun = Event()

    def handle(exchange: Exchange) -> None:
        kept.append(exchange.hijack()[0])
        begun.set()
        gevent.sleep(PATIENCE)

    kept: list[Any] = []
    server = site.serve(handle)
    client = site.connect()
    client.send(GET)
    assert begun.wait(PATIENCE)
    server.stop(0.01)
    kept[0].sendall(b"still here")
    kept[0].close()
    assert client.rest() == b"still here"
