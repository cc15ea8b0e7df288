"""TLS: the handshake, names, certificates, and a Stream that keeps its contract though its bytes are encrypted."""

import gc
import logging
import os
import socket as plain
import ssl
import subprocess
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent import socket
from gevent import ssl as gevent_ssl
from gevent.event import Event

from geventgate import observe
from geventgate.config import Config
from geventgate.errors import ApplicationError, ConfigError, PeerError, PeerGone, PeerTimeout
from geventgate.exchange import Exchange
from geventgate.server.certificates import certificates
from geventgate.server.opening import PROTOCOLS
from geventgate.server.stream import READ_AHEAD, Stream
from geventgate.server.tls import PIECE, RECORD, TlsOpening, TlsStream

from .conftest import Client, Site

# The contract of a Stream, once more, over the ``ends`` of this module.
from .test_stream import (  # noqa: F401
    LARGE,
    Ends,
    drain,
    in_hub,
    parked,
    readable,
    test_a_spurious_switch_is_no_news,
    test_a_waiting_greenlet_comes_before_who_is_called,
    test_an_exception_thrown_into_a_reader_leaves_it_resumable,
    test_closing_does_not_reach_who_was_woken_otherwise,
    test_closing_wakes_who_waits,
    test_poll_takes_what_has_come,
    test_receive_flushes_first,
    test_sweep_asks_for_a_rate_after_a_grace,
    test_sweep_asks_for_none_where_there_is_none,
    test_sweep_asks_who_takes_for_a_rate_too,
    test_sweep_ends_a_read_at_its_deadline,
    test_sweep_leaves_alone_who_does_not_wait_here,
    test_who_does_not_wait_is_called_once,
)

Connect = Callable[..., Client]
CUT = r"EOF|eof|reset"  # CPython 3.11.2 has no SSLEOFError for it yet
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@pytest.fixture(scope="session")
def pair(authority: Any) -> Any:
    return authority.issue("localhost", "127.0.0.1")


def client_context(authority: Any, version: str = "1.3", certificate: Any = None) -> Any:
    context = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF  # Debian's default would not tell a cut from an end
    context.load_verify_locations(authority.ca_certs)
    context.minimum_version = context.maximum_version = VERSIONS[version]
    if certificate is not None:
        context.load_cert_chain(*certificate)
    return context


@pytest.fixture(params=["1.2", "1.3"])
def version(request: pytest.FixtureRequest) -> Any:
    return request.param


def shake_hands(authority: Any, pair: Any, version: str, ours: plain.socket, theirs: plain.socket) -> Ends:
    """A TlsStream behind its handshake, and its peer."""
    ours.setblocking(False)
    made = certificates(Config(certfile=pair.certfile, keyfile=pair.keyfile), list(PROTOCOLS))
    assert made is not None
    stream = TlsStream(Stream(ours), made.context)
    handshake = gevent.spawn(stream.handshake)
    peer = client_context(authority, version).wrap_socket(
        socket.socket(fileno=theirs.detach()), server_hostname="localhost"
    )
    peer.settimeout(5)
    handshake.get(timeout=5)
    return stream, peer


@pytest.fixture
def ends(faults: list[Any], authority: Any, pair: Any, version: str) -> Iterator[Ends]:
    stream, peer = shake_hands(authority, pair, version, *plain.socketpair())
    yield stream, peer
    peer.close()
    stream.close()
    gevent.sleep(0)
    assert faults == []


@pytest.fixture
def connect(site: Site, authority: Any) -> Connect:
    """A client of the site's last server, its handshake done."""

    def connect(version: str = "1.3", name: str = "localhost", alpn: list[str] | None = None, **more: Any) -> Client:
        host, _, port = site.servers[-1].addresses[0].removeprefix("https://").rpartition(":")
        client = Client((host, int(port)))
        site.clients.append(client)
        context = client_context(authority, version, **more)
        if alpn:
            context.set_alpn_protocols(alpn)
        client.sock = context.wrap_socket(client.sock, server_hostname=name)
        return client

    return connect


def plain_client(site: Site) -> Client:
    client = Client(("127.0.0.1", int(site.servers[-1].addresses[0].rpartition(":")[2])))
    site.clients.append(client)
    return client


def hello(exchange: Exchange) -> None:
    """Say what TLS says."""
    tls = exchange.tls
    assert tls is not None
    exchange.send_head(200, [("Scheme", exchange.request.scheme), ("Version", tls.version), ("Name", tls.server_name)])
    exchange.finish(f"{tls.alpn} {bool(tls.peer_certificate)}".encode())


def echo(exchange: Exchange) -> None:
    exchange.send_head(200, [])
    while data := exchange.read(100_000):
        exchange.send(data)
    exchange.finish()


# --- the stream


def test_what_is_received(ends: Ends) -> None:
    stream, peer = ends
    peer.sendall(b"hello")
    assert stream.receive()
    assert (stream.inbox, stream.received) == (b"hello", 5)
    stream.take(5)
    peer.sendall(b"a" * (3 * RECORD + 1))
    while stream.pending() < 3 * RECORD + 1:
        assert stream.receive()
    assert stream.inbox == b"a" * (3 * RECORD + 1)


@pytest.mark.parametrize(
    "buffers",
    [
        [b"a"],
        [b"", b"a", b""],
        [b"a", b"b" * (RECORD + 1), b"c"],
        [b"a" * PIECE, b"b" * (PIECE - 1), b"c" * (PIECE + 1)],
        [LARGE, LARGE],
        [bytearray(b"a"), memoryview(b"b" * 20_000)],
    ],
)
def test_what_is_sent(ends: Ends, buffers: list[Any]) -> None:
    stream, peer = ends
    receiver = gevent.spawn(drain, peer)
    stream.sendv(buffers)
    stream.shutdown()
    assert receiver.get(timeout=5) == b"".join(buffers)


def test_one_reader_and_one_writer(ends: Ends) -> None:
    stream, peer = ends
    reader, writer = parked(stream.receive), parked(stream.sendv, [LARGE])
    for second in (stream.receive, lambda: stream.sendv([b"a"]), stream.shutdown):
        with pytest.raises(ApplicationError):
            second()
    peer.sendall(b"a")
    assert reader.get(timeout=5)
    receiver = gevent.spawn(drain, peer)
    writer.get(timeout=5)
    stream.shutdown()
    assert receiver.get(timeout=5) == LARGE


def test_nothing_waits_inside_openssl(ends: Ends) -> None:
    """Many records in one segment: nobody would be called for those that had been decrypted and not taken."""
    stream, peer = ends
    for count in range(100):
        peer.sendall(b"%02d" % count)
    gevent.sleep(0.01)
    got = b""
    while len(got) < 200:
        if not stream.poll():
            readable(stream)
            continue
        got += stream.inbox
        stream.take(stream.pending())
    assert got == b"".join(b"%02d" % count for count in range(100))


def test_byte_by_byte(faults: list[Any], authority: Any, pair: Any, version: str) -> None:
    ours, wire = plain.socketpair()
    other, theirs = plain.socketpair()
    left, right = (socket.socket(fileno=end.detach()) for end in (wire, other))

    def carry(source: Any, target: Any) -> None:
        while byte := source.recv(1):
            target.sendall(byte)
        target.shutdown(socket.SHUT_WR)

    wires = [gevent.spawn(carry, left, right), gevent.spawn(carry, right, left)]
    stream, peer = shake_hands(authority, pair, version, ours, theirs)
    peer.sendall(b"there")
    assert stream.receive()
    assert stream.inbox == b"there"
    stream.sendv([b"and back"])
    assert peer.recv(100) == b"and back"
    stream.close()
    assert peer.recv(100) == b""
    peer.close()
    gevent.joinall(wires, timeout=5, raise_error=True)
    left.close()
    right.close()
    assert faults == []


def test_sendfile_is_left_to_read_and_send(ends: Ends) -> None:
    with pytest.raises(OSError, match="encrypted by us") as caught:
        ends[0].sendfile(0, 0, 1)
    assert not isinstance(caught.value, PeerError)


@pytest.mark.parametrize("how", ["close_notify", "truncated"])
def test_the_peer_ends(ends: Ends, how: str) -> None:
    """Without a close_notify too: HTTP knows the length of what it sends."""
    stream, peer = ends
    peer.sendall(b"last")
    ending = None
    if how == "close_notify":
        ending = gevent.spawn(peer.unwrap)  # waits for ours
        gevent.sleep(0.01)
    else:
        peer.shutdown(socket.SHUT_WR)
    assert stream.receive()
    assert stream.inbox == b"last"
    if how == "truncated":
        readable(stream)
    assert stream.poll(), "the end is news"
    assert not stream.receive()
    assert not stream.receive()
    stream.close()
    if ending is not None:
        assert ending.get(timeout=5)


@pytest.mark.parametrize("end", ["shutdown", "close"])
def test_we_end(ends: Ends, end: str) -> None:
    """recv() raises where the close_notify is missing."""
    stream, peer = ends
    peer.suppress_ragged_eofs = False
    stream.write(b"last")
    stream.flush()
    getattr(stream, end)()
    assert peer.recv(100) == b"last"
    assert peer.recv(100) == b""


def test_a_reset_does_not_look_like_an_end(ends: Ends) -> None:
    stream, peer = ends
    peer.suppress_ragged_eofs = False
    stream.sendv([b"half"])
    assert peer.recv(100) == b"half"
    stream.reset()
    with pytest.raises((ssl.SSLError, ConnectionResetError), match=CUT):
        peer.recv(100)


def test_a_cut_write_is_followed_by_no_close_notify(ends: Ends) -> None:
    stream, peer = ends
    peer.suppress_ragged_eofs = False
    with pytest.raises(gevent.Timeout), gevent.Timeout(0.01):
        stream.sendv([LARGE])
    stream.close()
    with pytest.raises(ssl.SSLError, match=CUT):
        drain(peer)


def test_linger_reads_what_still_comes(ends: Ends) -> None:
    """The peer sends on behind our close_notify: over TLS 1.3 it may."""
    stream, peer = ends
    lingering = parked(stream.linger)
    with suppress(OSError):  # TLS 1.2 ends both sides
        peer.sendall(b"a" * 300_000)
    assert not lingering.ready()
    assert peer.recv(10) == b""
    peer.unwrap().close()
    lingering.get(timeout=5)


def test_watch_sees_the_end_and_reads_ahead_within_bounds(ends: Ends) -> None:
    stream, peer = ends
    gone = Event()
    stream.watch(gone.set)
    sender = gevent.spawn(peer.sendall, b"a" * (2 * READ_AHEAD))
    gevent.sleep(0.05)
    sender.get(timeout=5)
    assert READ_AHEAD <= stream.pending() < READ_AHEAD + RECORD
    before = stream.pending()
    stream.take(before)
    gevent.sleep(0.05)
    assert stream.pending() == 2 * READ_AHEAD - before
    assert not gone.is_set()


def test_what_is_no_record_breaks_the_stream(ends: Ends) -> None:
    stream, peer = ends
    with socket.socket(fileno=os.dup(peer.fileno())) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(PeerGone, match=r"^wrong version number$"):
        stream.receive()
    with pytest.raises(PeerGone):
        stream.sendv([b"a"])
    with pytest.raises(ssl.SSLError, match="ALERT"):
        peer.recv(10)


def test_what_is_no_record_tells_who_watches(ends: Ends) -> None:
    stream, peer = ends
    gone = Event()
    stream.watch(gone.set)
    with socket.socket(fileno=os.dup(peer.fileno())) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
    assert gone.wait(5)


def test_sweep_ends_a_write_that_stalls(ends: Ends) -> None:
    stream, peer = ends
    writer = parked(stream.sendv, [LARGE])
    for _ in range(5):
        in_hub(stream.sweep, 0.0, False, 0, 5)
        for _ in range(20):
            peer.recv(RECORD)  # it moves
        gevent.sleep(0.01)
    for _ in range(5):
        assert not writer.ready()
        in_hub(stream.sweep, 0.0, False, 0, 5)
    in_hub(stream.sweep, 0.0, False, 0, 5)
    assert isinstance(writer.get(timeout=5), PeerTimeout)


def test_a_slow_reader_makes_us_hold_little(ends: Ends) -> None:
    stream, _ = ends
    writer = parked(stream.sendv, [LARGE])
    assert stream._ciphertext.pending == 0
    assert stream.sent < 1_000_000
    writer.kill()


def test_closing_leaves_nothing_for_the_collector(authority: Any, pair: Any, version: str) -> None:
    """OpenSSL's memory is freed with the last reference to the stream."""
    stream, peer = shake_hands(authority, pair, version, *plain.socketpair())
    session = weakref.ref(stream._session)
    gc.disable()
    try:
        stream.close()
        del stream
        assert session() is None
    finally:
        gc.enable()
    peer.close()


# --- the server


def test_what_tls_says(site: Site, connect: Connect, pair: Any, version: str) -> None:
    server = site.serve(hello, certfile=pair.certfile, keyfile=pair.keyfile)
    assert server.addresses[0].startswith("https://127.0.0.1:")
    client = connect(version, alpn=["spdy/3", "http/1.1"])
    for _ in range(3):
        response = client.get()
        fields = response.fields
        assert (fields["scheme"], fields["version"], fields["name"]) == ("https", f"TLSv{version}", "localhost")
        assert response.content == b"http/1.1 False"
    assert client.sock.selected_alpn_protocol() == "http/1.1"
    assert connect(version).get().content == b"None False"


def test_bodies_both_ways(site: Site, connect: Connect, pair: Any, version: str) -> None:
    site.serve(echo, certfile=pair.certfile, keyfile=pair.keyfile)
    client = connect(version)
    sender = gevent.spawn(client.send, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5000000\r\n\r\n" + LARGE)
    assert client.response().content == LARGE
    sender.get(timeout=5)


def test_a_file(site: Site, connect: Connect, pair: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(LARGE)

    def send(exchange: Exchange) -> None:
        exchange.send_head(200, [("Content-Length", str(len(LARGE) - 5))])
        with (tmp_path / "file").open("rb") as file:
            exchange.send_file(file, 5, len(LARGE) - 5)
        exchange.finish()

    site.serve(send, certfile=pair.certfile, keyfile=pair.keyfile)
    client = connect()
    for _ in range(2):
        assert client.get().content == LARGE[5:]


def test_the_end_of_an_answer_without_a_length_is_a_close_notify(site: Site, connect: Connect, pair: Any) -> None:
    site.serve(echo, certfile=pair.certfile, keyfile=pair.keyfile)
    client = connect()
    client.sock.suppress_ragged_eofs = False
    client.send(b"POST / HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi")
    assert client.response().content == b"hi"


def test_pipelined_requests_in_one_record_and_idling_between(
    site: Site, connect: Connect, pair: Any, until: Callable[..., None]
) -> None:
    """There is no greenlet while nothing comes."""
    server = site.serve(hello, certfile=pair.certfile, keyfile=pair.keyfile)
    client = connect()
    for _ in range(3):
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3 + b"GET / HT")
        for _ in range(3):
            assert client.response().status == 200
        client.send(b"TP/1.1\r\nHost: a\r\n\r\n")
        assert client.response().status == 200
        (connection,) = server.service.connections
        until(lambda: connection._idles)  # noqa: B023
        assert connection._worker is None


def test_a_client_that_ends_while_idle(site: Site, connect: Connect, pair: Any, until: Callable[..., None]) -> None:
    server = site.serve(hello, certfile=pair.certfile, keyfile=pair.keyfile)
    for sweeps in (0, 3):
        client = connect()
        client.get()
        site.sweep(times=sweeps)
        client.sock.unwrap()  # waits for the server's close_notify
        until(lambda: not server.service.connections)


def test_names_choose_certificates(site: Site, connect: Connect, authority: Any, pair: Any) -> None:
    other, wild = authority.issue("other.example.org"), authority.issue("*.example.com")
    both = Path(wild.certfile).with_name("both.pem")
    both.write_bytes(Path(wild.keyfile).read_bytes() + Path(wild.certfile).read_bytes())
    site.serve(
        hello,
        certfile=pair.certfile,
        keyfile=pair.keyfile,
        sni=(f"Other.example.org={other.certfile}:{other.keyfile}", f"*.example.com={both}"),
    )
    for name in ("localhost", "other.example.org", "OTHER.example.ORG", "a.example.com", "b.example.com"):
        assert connect(name=name).get().fields["name"] == name.lower()
    for name in ("example.com", "a.b.example.com", "example.org"):  # the default's certificate does not name them
        with pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
            connect(name=name)


def test_a_name_that_is_no_text_is_one_line(site: Site, pair: Any, caplog: Any, capfd: Any) -> None:
    site.serve(hello, certfile=pair.certfile, keyfile=pair.keyfile)
    client = plain_client(site)
    name = b"\xff\xfe"
    extension = b"\0\0" + sized(sized(b"\0" + sized(name)))
    body = b"\3\3" + bytes(32) + b"\0" + sized(b"\xc0\x2b\x13\x01") + b"\1\0" + sized(extension)
    client.send(b"\x16\3\1" + sized(b"\1\0" + sized(body)))
    assert client.rest()[:1] == b"\x15", "an alert"
    assert lines(caplog) == ["no TLS handshake: callback failed"]
    assert "Traceback" not in capfd.readouterr().err


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def lines(caplog: Any) -> list[str]:
    """What was logged, without the peer's address."""
    return [record.getMessage().partition(": ")[2] for record in caplog.records if record.name == "geventgate"]


# --- handshakes that fail


def test_a_handshake_has_a_deadline(site: Site, pair: Any, caplog: Any, until: Callable[..., None]) -> None:
    server = site.serve(hello, certfile=pair.certfile, keyfile=pair.keyfile)
    for beginning in (b"", b"\x16\3\1\2\0\1"):
        client = plain_client(site)
        client.send(beginning)
        until(lambda: server.service.connections)
        gevent.sleep(0.02)
        site.sweep(9.0)
        assert server.service.connections
        site.sweep(12.0)
        with suppress(ConnectionResetError):
            client.rest()
        until(lambda: not server.service.connections)
    assert lines(caplog) == ["no TLS handshake within 10 s"] * 2


def test_who_only_looks_is_not_logged(site: Site, pair: Any, caplog: Any, until: Callable[..., None]) -> None:
    server = site.serve(hello, certfile=pair.certfile, keyfile=pair.keyfile)
    client = plain_client(site)
    until(lambda: server.service.connections)
    client.close()
    until(lambda: not server.service.connections)
    assert lines(caplog) == []


def test_who_hangs_up_or_resets(site: Site, pair: Any, caplog: Any, until: Callable[..., None]) -> None:
    server = site.serve(hello, certfile=pair.certfile, keyfile=pair.keyfile)
    for end in (Client.close, Client.reset):
        client = plain_client(site)
        client.send(b"\x16\3\1\2\0\1")
        until(lambda: server.service.connections)
        gevent.sleep(0.02)
        end(client)
        until(lambda: not server.service.connections)
    assert lines(caplog) == ["no TLS handshake: the peer hung up", "no TLS handshake: Connection reset by peer"]


def test_plain_http_is_told(site: Site, pair: Any, caplog: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    class Listener:
        def request_refused(self, peer: Any, status: int, why: str) -> None:
            told.append((peer[0], status, why))

    monkeypatch.setattr(observe, "listeners", [Listener()])
    site.serve(hello, certfile=pair.certfile, keyfile=pair.keyfile)
    client = plain_client(site)
    response = client.get()
    assert (response.status, response.fields["connection"]) == (400, "close")
    assert response.content == b"This port speaks HTTPS, and the request came as plain HTTP.\n"
    assert client.rest() == b""
    assert lines(caplog) == ["400: plain HTTP, but this port speaks HTTPS"]
    assert told == [("127.0.0.1", 400, "plain HTTP, but this port speaks HTTPS")]


@pytest.mark.parametrize("nonsense", [b"\x16\3\1\0\5hello", b"\0" * 100, b"\x80\x2e\1\0\2" + b"a" * 60])
def test_nonsense(site: Site, pair: Any, caplog: Any, nonsense: bytes, until: Callable[..., None]) -> None:
    server = site.serve(hello, certfile=pair.certfile, keyfile=pair.keyfile)
    client = plain_client(site)
    client.send(nonsense)
    client.rest()
    client.close()
    until(lambda: not server.service.connections)
    (line,) = lines(caplog)
    assert line.startswith("no TLS handshake: ")
    assert "_ssl.c" not in line


def test_old_versions_are_refused(site: Site, connect: Connect, pair: Any, caplog: Any) -> None:
    site.serve(hello, certfile=pair.certfile, keyfile=pair.keyfile, tls_minimum="1.3")
    assert connect("1.3").get().status == 200
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        connect("1.2")
    assert lines(caplog) == ["no TLS handshake: unsupported protocol"]


def test_ciphers(site: Site, connect: Connect, pair: Any) -> None:
    site.serve(hello, certfile=pair.certfile, keyfile=pair.keyfile, ciphers="ECDHE-ECDSA-CHACHA20-POLY1305")
    assert connect("1.2").sock.cipher()[0] == "ECDHE-ECDSA-CHACHA20-POLY1305"


# --- clients' certificates


def test_a_clients_certificate_when_required(
    site: Site, connect: Connect, authority: Any, pair: Any, version: str, caplog: Any
) -> None:
    site.serve(hello, certfile=pair.certfile, keyfile=pair.keyfile, ca_certs=authority.ca_certs, cert_reqs="required")
    certificate = authority.issue("alice@example.org", common_name="Alice")
    assert connect(version, certificate=certificate).get().content == b"None True"
    with pytest.raises(ssl.SSLError, match="ALERT"):  # TLS 1.3 tells with its first answer
        connect(version).get()
    assert lines(caplog) == ["no TLS handshake: peer did not return a certificate"]


def test_a_clients_certificate_when_optional(
    site: Site, connect: Connect, authority: Any, pair: Any, tmp_path: Path, version: str, caplog: Any
) -> None:
    site.serve(hello, certfile=pair.certfile, keyfile=pair.keyfile, ca_certs=authority.ca_certs, cert_reqs="optional")
    certificate = authority.issue("alice@example.org", common_name="Alice")
    assert connect(version, certificate=certificate).get().content == b"None True"
    assert connect(version).get().content == b"None False"
    forged = type(authority)(tmp_path).issue("alice@example.org", common_name="Alice")
    with pytest.raises(ssl.SSLError, match="ALERT"):
        connect(version, certificate=forged).get()
    assert len(lines(caplog)) == 1
    assert lines(caplog)[0].startswith("no TLS handshake: the client's certificate: unable to get local issuer")


# --- coming and going


def test_draining_serves_who_is_shaking_hands(site: Site, authority: Any, pair: Any) -> None:
    server = site.serve(hello, certfile=pair.certfile, keyfile=pair.keyfile)
    client = plain_client(site)
    gevent.sleep(0.02)
    stopping = gevent.spawn(server.stop, 5.0)
    gevent.sleep(0.02)
    client.sock = client_context(authority).wrap_socket(client.sock, server_hostname="localhost")
    assert client.get().fields["connection"] == "close"
    stopping.get(timeout=5)


def test_draining_does_not_wait_long_for_who_asks_nothing(site: Site, authority: Any, pair: Any) -> None:
    server = site.serve(hello, certfile=pair.certfile, keyfile=pair.keyfile)
    client = plain_client(site)
    gevent.sleep(0.02)
    stopping = gevent.spawn(server.stop, 60.0)
    gevent.sleep(0.02)
    client.sock = client_context(authority).wrap_socket(client.sock, server_hostname="localhost")
    gevent.sleep(0.02)
    site.sweep(3.0)
    assert client.rest() == b""
    stopping.get(timeout=5)


def test_killing_who_is_shaking_hands(site: Site, pair: Any, until: Callable[..., None]) -> None:
    server = site.serve(hello, certfile=pair.certfile, keyfile=pair.keyfile)
    for beginning in (b"", b"\x16\3\1\2\0\1"):
        plain_client(site).send(beginning)
    until(lambda: len(server.service.connections) == 2)
    gevent.sleep(0.02)
    server.stop(0.0)
    assert not server.service.connections


def test_killing_who_has_not_begun(site: Site, pair: Any) -> None:
    server = site.serve(hello, certfile=pair.certfile, keyfile=pair.keyfile)
    ours, theirs = plain.socketpair()
    ours.setblocking(False)
    assert server.certificates is not None
    opening = TlsOpening(Stream(ours), ("", ""), ("", ""), server.service, server.certificates)
    server.service.enter(opening)
    opening.kill()
    assert not server.service.connections
    assert theirs.recv(1) == b""
    theirs.close()
    gevent.sleep(0)


def test_reload(site: Site, connect: Connect, authority: Any, tmp_path: Path, caplog: Any) -> None:
    certfile, keyfile = tmp_path / "a.pem", tmp_path / "a.key"

    def put(pair: Any) -> None:
        certfile.write_bytes(Path(pair.certfile).read_bytes())
        keyfile.write_bytes(Path(pair.keyfile).read_bytes())

    def shown() -> Any:
        return connect().sock.getpeercert()["serialNumber"]

    put(authority.issue("localhost"))
    server = site.serve(hello, certfile=str(certfile), keyfile=str(keyfile))
    before, first = connect(), shown()
    put(authority.issue("localhost"))
    assert shown() == first
    server.reload()
    second = shown()
    assert second != first
    assert before.get().status == 200
    certfile.write_text("broken")
    server.reload()
    assert shown() == second
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == [
        f"the certificates stay as they were: {certfile}: there is no certificate in it (PEM)"
    ]
    keyfile.unlink()
    server.reload()
    assert shown() == second


def test_reload_without_tls_is_nothing(site: Site) -> None:
    site.serve(echo).reload()


# --- options


def refused(**options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        certificates(Config(**options), list(PROTOCOLS))
    return str(caught.value)


def test_options_that_do_not_fit(pair: Any, authority: Any) -> None:
    tls = {"certfile": pair.certfile, "keyfile": pair.keyfile}
    assert certificates(Config(), []) is None
    assert refused(keyfile="a") == "--keyfile without --certfile: that is where TLS begins"
    assert refused(sni=("a=b",)) == "--sni without --certfile: that is where TLS begins"
    assert refused(cert_reqs="2") == "--cert-reqs without --certfile: that is where TLS begins"
    assert certificates(Config(cert_reqs="0"), []) is None
    assert refused(**tls, ca_certs=authority.ca_certs).startswith("--ca-certs checks nobody")
    assert refused(**tls, cert_reqs="required").startswith("--cert-reqs required wants --ca-certs")
    for entry in ("a", "=b", "a=", "a=:b", "*=b", "*.=b", "a.*.c=b", "*.*.c=b", "\xfc.de=b"):
        assert refused(**tls, sni=(entry,)).startswith(f"--sni {entry}: not HOST=CERTFILE[:KEYFILE]")
    assert refused(**tls, ciphers="nonsense") == "--ciphers nonsense: OpenSSL knows none of them"


def test_files_that_do_not_fit(pair: Any, authority: Any, tmp_path: Path) -> None:
    other = authority.issue("other.example.org")
    certfile, keyfile = pair
    tls = {"certfile": certfile, "keyfile": keyfile}
    nonsense = tmp_path / "nonsense"
    nonsense.write_text("nonsense")
    unreadable = tmp_path / "none" / "a.pem"
    mine = f"{keyfile}: there is no private key in it (PEM)"
    assert refused(certfile=str(unreadable)) == f"--certfile {unreadable}: No such file or directory"
    assert refused(certfile=certfile, keyfile=str(unreadable)) == f"--keyfile {unreadable}: No such file or directory"
    assert refused(certfile=str(tmp_path)) == f"--certfile {tmp_path}: Is a directory"
    assert refused(certfile=str(nonsense), keyfile=keyfile) == f"{nonsense}: there is no certificate in it (PEM)"
    assert refused(certfile=certfile, keyfile=str(nonsense)) == mine.replace(keyfile, str(nonsense))
    assert refused(certfile=certfile) == f"{mine.replace(keyfile, certfile)}; say --keyfile"
    assert refused(certfile=keyfile, keyfile=certfile) == f"{keyfile}: there is no certificate in it (PEM)"
    assert refused(certfile=certfile, keyfile=other.keyfile) == (
        f"the key {other.keyfile} does not belong to the certificate {certfile}"
    )
    assert refused(**tls, ca_certs=str(nonsense), cert_reqs="required") == (
        f"--ca-certs {nonsense}: there is no certificate in it (PEM)"
    )
    assert refused(**tls, ca_certs=str(unreadable), cert_reqs="1").startswith(f"--ca-certs {unreadable}: No such")
    assert refused(**tls, sni=(f"b={unreadable}",)) == f"--sni b: {unreadable}: No such file or directory"
    torn = tmp_path / "torn.pem"
    torn.write_bytes(Path(certfile).read_bytes()[:300] + b"\n-----END CERTIFICATE-----\n")
    assert refused(certfile=str(torn), keyfile=keyfile).startswith(f"the certificate {torn} or its key {keyfile}: ")


@pytest.mark.needs("openssl")
def test_encrypted_keys(site: Site, connect: Connect, pair: Any, tmp_path: Path) -> None:
    certfile, keyfile = pair
    encrypted = tmp_path / "encrypted.key"
    subprocess.run(
        ["openssl", "pkey", "-in", keyfile, "-aes256", "-passout", "pass:\u00fc secret", "-out", encrypted], check=True
    )
    tls = {"certfile": certfile, "keyfile": str(encrypted)}
    assert refused(**tls) == f"the key {encrypted} is encrypted: say --keyfile-password-file"
    password = tmp_path / "password"
    password.write_text("wrong\n")
    assert refused(**tls, keyfile_password_file=str(password)) == (
        f"the key {encrypted}: --keyfile-password-file holds another key's password"
    )
    password.write_text("")
    assert "another key's password" in refused(**tls, keyfile_password_file=str(password))
    password.write_text("a" * 2000)
    assert refused(**tls, keyfile_password_file=str(password)).startswith("--keyfile-password-file: ")
    absent = tmp_path / "absent"
    assert refused(**tls, keyfile_password_file=str(absent)) == (
        f"--keyfile-password-file {absent}: No such file or directory"
    )
    password.write_text("\u00fc secret\nand more\n")
    site.serve(hello, **tls, keyfile_password_file=str(password))
    assert connect().get().status == 200
