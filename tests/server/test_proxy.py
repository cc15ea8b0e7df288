"""Connections that begin with a PROXY header."""

import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest
import trustme

from geventgate import observe
from geventgate.exchange import Exchange
from geventgate.protocol.proxy import SIGNATURE

from .conftest import Client, Site

Until = Callable[..., None]
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LINE = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"
HEADER = SIGNATURE + b"\x21\x11\0\x0c" + bytes([192, 0, 2, 1, 198, 51, 100, 2]) + b"\xdc\x04\x01\xbb"
LOCAL = SIGNATURE + b"\x20\0\0\0"
TOLD = b"(('192.0.2.1', '56324'), ('198.51.100.2', '443'))"
FROM_US: dict[str, Any] = {"proxy_protocol": "auto", "proxy_allow_from": ("127.0.0.0/8", "unix:")}
FROM_OTHERS: dict[str, Any] = {"proxy_protocol": "auto", "proxy_allow_from": ("192.0.2.0/24",)}


def addresses(exchange: Exchange) -> None:
    exchange.send_head(200, [])
    exchange.finish(repr((exchange.peer, exchange.local)).encode())


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]


@pytest.mark.parametrize("header", [LINE, HEADER])
def test_the_addresses_are_those_of_the_header(site: Site, header: bytes) -> None:
    site.serve(addresses, **FROM_US)
    client = site.connect()
    client.send(header + REQUEST + REQUEST)
    assert [client.response().content for _ in range(2)] == [TOLD, TOLD]
    assert client.get().content == TOLD  # of the connection, not of its first request


@pytest.mark.parametrize("header", [LINE, HEADER])
def test_a_header_byte_by_byte(site: Site, header: bytes) -> None:
    site.serve(addresses, **FROM_US)
    client = site.connect()
    for at in range(len(header)):
        client.send(header[at : at + 1])
        gevent.sleep(0)
    client.send(REQUEST)
    assert client.response().content == TOLD


@pytest.mark.parametrize("header", [LOCAL, b"PROXY UNKNOWN\r\n"])
def test_the_proxys_own_connections(site: Site, header: bytes) -> None:
    site.serve(addresses, **FROM_US)
    client = site.connect()
    client.send(header + REQUEST)
    host, port = client.sock.getsockname()
    assert f"('{host}', '{port}')" in client.response().content.decode()


def test_through_a_unix_socket(site: Site, tmp_path: Path) -> None:
    site.serve(addresses, bind=(f"unix:{tmp_path}/s",), **FROM_US)
    client = site.connect()
    client.send(HEADER + REQUEST)
    assert client.response().content == TOLD


@pytest.mark.parametrize(
    ("wire", "why"),
    [
        (REQUEST, "no PROXY header, which this peer must send"),
        (b"\x16\x03\x01\x02\0", "no PROXY header"),
        (b"PROXY TCP4 1.2.3.4\r\n", "malformed PROXY line"),
        (HEADER[:13] + b"\x12" + HEADER[14:], "its address family"),
    ],
)
def test_a_named_peer_must_send_one(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, wire: bytes, why: str
) -> None:
    refused: list[Any] = []

    class Listener:
        def request_ended(self, exchange: Exchange, seconds: float) -> None: ...

        def request_refused(self, *told: Any) -> None:
            refused.append(told)

    monkeypatch.setattr(observe, "listeners", [Listener()])
    site.serve(addresses, **FROM_US)
    client = site.connect()
    client.send(wire)
    assert closed(client)
    (line,) = lines(caplog)
    assert line.startswith(f"127.0.0.1:{client.sock.getsockname()[1]}: closed: ")
    assert why in line
    assert [told[1] for told in refused] == [400]


@pytest.mark.parametrize("header", [LINE, HEADER, LINE[:30], HEADER[:14]])
def test_from_others_it_is_refused(site: Site, caplog: pytest.LogCaptureFixture, header: bytes) -> None:
    site.serve(addresses, **FROM_OTHERS)
    client = site.connect()
    client.send(header + REQUEST)
    assert client.response().status == 400
    assert client.rest() == b""
    (line,) = lines(caplog)
    assert "a PROXY header, which this peer may not send" in line


def test_others_speak_as_ever(site: Site) -> None:
    site.serve(addresses, **FROM_OTHERS)
    client = site.connect()
    assert client.get().content.startswith(b"(('127.0.0.1', ")


def test_off_nobody_is_believed(site: Site) -> None:
    site.serve(addresses, proxy_allow_from=("*",))
    client = site.connect()
    client.send(LINE + REQUEST)
    assert client.response().status == 400


def test_one_version_only(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.serve(addresses, proxy_protocol="v2", proxy_allow_from=("*",))
    client = site.connect()
    client.send(LINE + REQUEST)
    assert closed(client)
    assert len(lines(caplog)) == 1


def test_a_second_header_is_none(site: Site) -> None:
    site.serve(addresses, **FROM_US)
    client = site.connect()
    client.send(LINE + LINE + REQUEST)
    assert client.response().status == 400


def test_whoever_only_looks_is_no_news(site: Site, caplog: pytest.LogCaptureFixture, until: Until) -> None:
    server = site.serve(addresses, **FROM_US)
    one, another = site.connect(), site.connect()
    until(lambda: len(server.service.connections) == 2)
    one.close()
    another.send(b"PROXY")
    another.reset()
    until(lambda: not server.service.connections)
    assert lines(caplog) == []


def test_a_header_has_a_deadline(site: Site, caplog: pytest.LogCaptureFixture, until: Until) -> None:
    server = site.serve(addresses, **FROM_US)
    silent, slow = site.connect(), site.connect()
    slow.send(b"PROXY TCP4 ")
    until(lambda: len(server.service.connections) == 2)
    until(lambda: any(getattr(one, "_header", b"") for one in server.service.connections))
    site.sweep(8.0)
    assert len(server.service.connections) == 2
    site.sweep(12.0)
    assert closed(silent)
    assert closed(slow)
    (line,) = lines(caplog)
    assert "the PROXY header came too slowly" in line


def test_a_drain_does_not_wait_for_the_silent(site: Site, until: Until) -> None:
    server = site.serve(addresses, **FROM_US)
    site.connect()
    until(lambda: len(server.service.connections) == 1)
    with gevent.Timeout(4.0):
        server.stop()
    assert not server.service.connections


def test_a_drain_serves_what_is_on_its_way(site: Site, until: Until) -> None:
    server = site.serve(addresses, **FROM_US)
    client = site.connect()
    until(lambda: len(server.service.connections) == 1)
    stopping = gevent.spawn(server.stop)
    until(server.service.draining.is_set)
    client.send(HEADER + REQUEST)
    assert client.response().content == TOLD
    stopping.join(4.0)
    assert stopping.ready()


def test_a_kill_ends_it(site: Site, until: Until) -> None:
    server = site.serve(addresses, **FROM_US)
    client = site.connect()
    until(lambda: len(server.service.connections) == 1)
    server.stop(0.01)
    assert closed(client)


def test_tls_comes_behind_it(site: Site, tmp_path: Path) -> None:
    certfile = tmp_path / "all.pem"
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certfile))
    site.serve(addresses, certfile=str(certfile), **FROM_US)
    for header in (LINE, HEADER):
        client = Client(("127.0.0.1", int(site.servers[-1].addresses[0].rpartition(":")[2])))
        site.clients.append(client)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        session = context.wrap_bio(incoming, outgoing)

        def step(
            call: Callable[[], Any], client: Any = client, incoming: Any = incoming, outgoing: Any = outgoing
        ) -> Any:
            while True:
                try:
                    result = call()
                    client.send(outgoing.read())
                    return result
                except ssl.SSLWantReadError:
                    client.send(outgoing.read())
                    incoming.write(client.sock.recv(65536))

        client.send(header)
        step(session.do_handshake)
        step(lambda session=session: session.write(REQUEST))
        answer = b""
        while TOLD not in answer:
            answer += step(lambda session=session: session.read(65536))


def closed(client: Client) -> bool:
    try:
        return client.rest() == b""
    except ConnectionResetError:
        return True
