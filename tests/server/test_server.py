"""Listening, bounds and going away."""

import gc
import logging
import os
import re
import socket as plain
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.event import Event

from geventgate.errors import ConfigError
from geventgate.exchange import Exchange
from geventgate.server import addresses, http1, service
from geventgate.server.addresses import parse_bind
from geventgate.server.clock import CLOCK
from geventgate.server.service import Connection

from .conftest import PATIENCE, Site

Until = Callable[..., None]
ROOT = Path(__file__).parent.parent.parent
REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def hello(exchange: Exchange) -> None:
    exchange.send_head(200, [])
    exchange.finish(b"hello")


class Slow:
    """A handler that begins, and waits to be told to go on."""

    def __init__(self) -> None:
        self.begun, self.go = Event(), Event()

    def __call__(self, exchange: Exchange) -> None:
        self.begun.set()
        self.go.wait(2 * PATIENCE)
        hello(exchange)


# --- addresses


@pytest.mark.parametrize(
    ("bind", "address"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("localhost:0", ("localhost", 0)),
        (":8000", ("0.0.0.0", 8000)),
        ("[::1]:8000", ("::1", 8000)),
        ("[::]:65535", ("::", 65535)),
    ],
)
def test_bind(bind: str, address: tuple[str, int]) -> None:
    assert parse_bind(bind) == address


@pytest.mark.parametrize(
    "bind",
    ["", "8000", "localhost", "localhost:", "a:b", "a:-1", "a:65536", "::1:80", "[::1]", "a:\u0665", "a: 80", "a:+80"],
)
def test_refused_bind(site: Site, bind: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_bind(bind)
    assert bind in str(caught.value)
    with pytest.raises(ConfigError):
        site.serve(hello, bind=(bind,))


def peer_and_local(exchange: Exchange) -> None:
    exchange.send_head(200, [])
    exchange.finish(repr((exchange.peer, exchange.local)).encode())


def test_ipv4(site: Site) -> None:
    site.serve(peer_and_local)
    client = site.connect()
    ours, theirs = client.sock.getsockname(), client.sock.getpeername()
    assert client.get().content.decode() == repr(((ours[0], str(ours[1])), (theirs[0], str(theirs[1]))))


def test_all_addresses_know_which_was_meant(site: Site) -> None:
    site.serve(peer_and_local, bind=(":0",))
    client = site.connect()
    assert repr(("127.0.0.1", str(client.sock.getpeername()[1]))) in client.get().content.decode()


def has_ipv6() -> bool:
    try:
        plain.create_server(("::1", 0), family=plain.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="IPv6 is not there")
def test_ipv6(site: Site) -> None:
    server = site.serve(peer_and_local, bind=("[::1]:0",))
    assert server.addresses[0].startswith("http://[::1]:")
    assert b"('::1'," in site.connect().get().content


def test_unix_socket(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = site.serve(peer_and_local, bind=(f"unix:{path}",))
    assert server.addresses == [f"unix:{path}"]
    client = site.connect()
    assert client.get().content == b"(('', ''), ('', ''))"
    client.close()
    server.stop()
    assert not path.exists()


def test_a_stale_unix_socket_is_replaced(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with plain.socket(plain.AF_UNIX) as stale:
        stale.bind(str(path))
        stale.listen()
    assert path.exists()
    site.serve(hello, bind=(f"unix:{path}",))
    assert site.connect().get().content == b"hello"


def test_a_unix_socket_in_use_or_a_file_is_left_alone(site: Site, tmp_path: Path) -> None:
    path, file = tmp_path / "socket", tmp_path / "file"
    site.serve(hello, bind=(f"unix:{path}",))
    file.write_text("precious")
    for taken in (path, file, tmp_path / "no" / "such" / "folder", "a" * 200):
        with pytest.raises(ConfigError) as caught:
            site.serve(hello, bind=(f"unix:{taken}",))
        assert str(taken) in str(caught.value)
    assert file.read_text() == "precious"
    assert site.connect(site.servers[0]).get().content == b"hello"


def test_several_addresses(site: Site, tmp_path: Path) -> None:
    server = site.serve(hello, bind=("127.0.0.1:0", f"unix:{tmp_path / 'socket'}", "127.0.0.1:0"))
    assert len(set(server.addresses)) == 3
    assert [site.connect().get().content for _ in server.addresses] == [b"hello"] * 3


def test_a_port_in_use_leaves_nothing_bound(site: Site, tmp_path: Path) -> None:
    with plain.create_server(("127.0.0.1", 0)) as taken, plain.create_server(("127.0.0.1", 0)) as free:
        port, first = taken.getsockname()[1], free.getsockname()[1]
        free.close()
        path = tmp_path / "socket"
        server = site.prepare(hello, bind=(f"127.0.0.1:{first}", f"unix:{path}", f"127.0.0.1:{port}"))
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}.*in use"):
            server.start()
        assert server.addresses == []
        assert not path.exists()
        assert server._gateway.told == []  # type: ignore[attr-defined]
        with plain.create_server(("127.0.0.1", first)):
            pass


def test_a_port_that_somebody_begins_to_listen_on_meanwhile(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """bind() may succeed where listen() then does not."""

    class Rival(addresses.GeventSocket):
        def listen(self, backlog: int = 0) -> None:
            raise OSError(98, "Address already in use")

    monkeypatch.setattr(addresses, "GeventSocket", Rival)
    with pytest.raises(ConfigError, match="in use"):
        site.serve(hello)


def test_context_manager(site: Site) -> None:
    with site.prepare(hello) as server:
        client = site.connect()
        assert client.get().content == b"hello"
        assert server._gateway.told == ["start"]  # type: ignore[attr-defined]
        client.close()
    assert server._gateway.told == ["start", "drain", "stop"]  # type: ignore[attr-defined]


# --- bounds


def test_connections_beyond_the_limit_wait(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    server = site.serve(hello, worker_connections=2)
    first, second = site.connect(), site.connect()
    first.get()
    second.get()
    third = site.connect()
    third.send(REQUEST)
    gevent.sleep(0.05)
    assert len(server.service.connections) == 2
    first.close()
    assert third.response().content == b"hello"
    assert len([record for record in caplog.records if "full" in record.message]) == 1
    assert second.get().content == b"hello"


def test_a_limit_that_is_met_again_and_again(site: Site) -> None:
    site.serve(hello, worker_connections=1)
    clients = [site.connect() for _ in range(5)]
    for client in clients:
        client.send(REQUEST)
    for client in clients:
        assert client.response().content == b"hello"
        client.close()


EMFILE = """
    import logging, os, resource, sys, time
    import gevent
    from gevent import socket
    from gevent.event import Event
    from geventgate.config import Config
    from geventgate.server.server import Server

    class Gateway:
        def start(self): pass
        def drain(self, restarts): pass
        def stop(self): pass
        def handle(self, exchange):
            exchange.send_head(200, [])
            exchange.finish(b"hello")

    logging.basicConfig(stream=sys.stdout, format="LOG %(message)s")
    server = Server(Config(bind=("127.0.0.1:0",)), Gateway(), Event())
    server.start()
    port = int(server.addresses[0].rpartition(":")[2])

    def ask(sock):
        sock.sendall(b"GET / HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n")
        return sock.recv(4096).endswith(b"hello")

    old = socket.create_connection(("127.0.0.1", port))
    assert ask(old)
    new = socket.socket()
    new.settimeout(5)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    new.connect(("127.0.0.1", port))
    began, spent = time.monotonic(), time.process_time()
    gevent.sleep(2.5)
    print("SPENT", (time.process_time() - spent) / (time.monotonic() - began))
    assert ask(old), "who is connected is served on"
    for fd in taken:
        os.close(fd)
    assert ask(new)
    old.close()
    new.close()
    server.stop()
    print("RECOVERED")
"""


def test_out_of_files(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(EMFILE)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert "RECOVERED" in ran.stdout, ran.stdout + ran.stderr
    assert ran.stderr == ""
    complaints = re.findall(r"^LOG .*Too many open files.*", ran.stdout, re.MULTILINE)
    assert 1 <= len(complaints) <= 4
    spent = re.search(r"SPENT (\S+)", ran.stdout)
    assert spent
    assert float(spent[1]) < 0.1


def test_resets_in_the_queue_cost_nothing(site: Site, faults: list[Any], until: Until) -> None:
    """CVE-2024-49769: a peer that has gone before it was accepted must not spin or kill the server."""
    server = site.serve(hello)
    port = int(server.addresses[0].rpartition(":")[2])
    for _ in range(20):
        early = plain.create_connection(("127.0.0.1", port))
        early.setsockopt(plain.SOL_SOCKET, plain.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        early.close()  # without a turn for the hub
    assert site.connect().get().content == b"hello"
    until(lambda: len(server.service.connections) == 1)
    assert faults == []


# --- going away


def stopping(server: Any, timeout: float | None = None) -> gevent.Greenlet:
    stop = gevent.spawn(server.stop, timeout)
    gevent.sleep(0.01)
    return stop


def test_stop_with_nothing_open_returns_at_once(site: Site) -> None:
    server = site.serve(hello)
    port = int(server.addresses[0].rpartition(":")[2])
    began = time.monotonic()
    server.stop()
    assert time.monotonic() - began < 0.9  # the sweep looks once a second
    with pytest.raises(ConnectionRefusedError):
        plain.create_connection(("127.0.0.1", port))
    server.stop()  # again


def test_serve_forever_ends_with_stop(site: Site) -> None:
    server = site.prepare(hello)
    forever = gevent.spawn(server.serve_forever)
    gevent.sleep(0.01)
    client = site.connect()
    assert client.get().content == b"hello"
    client.close()
    assert not forever.ready()
    server.stop()
    forever.get(timeout=PATIENCE)


def test_a_running_request_finishes_and_says_close(site: Site) -> None:
    slow = Slow()
    server = site.serve(slow)
    client = site.connect()
    client.send(REQUEST)
    assert slow.begun.wait(PATIENCE)
    stop = stopping(server)
    assert not stop.ready()
    assert server._gateway.told == ["start", "drain"]  # type: ignore[attr-defined]
    slow.go.set()
    response = client.response()
    assert (response.content, response.fields["connection"]) == (b"hello", "close")
    assert client.rest() == b""
    stop.get(timeout=PATIENCE)
    assert server._gateway.told == ["start", "drain", "stop"]  # type: ignore[attr-defined]


def test_nothing_is_accepted_after_a_stop(site: Site) -> None:
    slow = Slow()
    server = site.serve(slow)
    client = site.connect()
    client.send(REQUEST)
    assert slow.begun.wait(PATIENCE)
    stop = stopping(server)
    with pytest.raises(ConnectionRefusedError):
        site.connect()
    slow.go.set()
    client.rest()
    stop.get(timeout=PATIENCE)


def test_queued_connections_are_served(site: Site) -> None:
    """Closing the listener would reset them."""
    server = site.serve(hello)
    port = int(server.addresses[0].rpartition(":")[2])
    queued = [plain.create_connection(("127.0.0.1", port)) for _ in range(20)]  # without a turn for the hub
    for sock in queued:
        sock.sendall(REQUEST)
    assert not server.service.connections
    server.stop()
    for sock in queued:
        with sock:
            answer = sock.recv(4096)
            assert answer.endswith(b"hello")
            assert b"Connection: close" in answer


@pytest.mark.parametrize("released", [False, True])
def test_idle_connections_are_closed_after_a_moment(
    site: Site, released: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http1, "DRAIN_SECONDS", 0.7)
    server = site.serve(hello, keep_alive=60)
    client, crossing = site.connect(), site.connect()
    client.get()
    crossing.get()
    if released:
        gevent.sleep(0.02)
        site.sweep(times=3)
    gevent.sleep(0.9)  # the clock ticks soon: a moment is a moment all the same
    began = time.monotonic()
    stop = stopping(server)
    gevent.sleep(0.2)
    assert crossing.get().fields["connection"] == "close"  # a request on its way is not lost
    assert client.rest() == b""
    assert time.monotonic() - began >= 0.6
    stop.get(timeout=PATIENCE)


def test_pipelined_requests_behind_the_last_are_not_served(site: Site) -> None:
    slow = Slow()
    server = site.serve(slow)
    client = site.connect()
    client.send(REQUEST * 3)
    assert slow.begun.wait(PATIENCE)
    stop = stopping(server)
    slow.go.set()
    assert client.rest().count(b"HTTP/1.1 200") == 1
    client.close()
    stop.get(timeout=PATIENCE)


def test_what_outlasts_the_graceful_timeout_is_cut(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    begun = Event()
    ended: list[type[BaseException]] = []

    def handle(exchange: Exchange) -> None:
        exchange.send_head(200, [])
        exchange.send(b"a")
        begun.set()
        try:
            gevent.sleep(60)
        except BaseException as error:
            ended.append(type(error))
            raise

    server = site.serve(handle)
    client = site.connect()
    client.send(REQUEST)
    assert begun.wait(PATIENCE)
    began = time.monotonic()
    server.stop(0.1)
    assert time.monotonic() - began < 1
    assert ended == [gevent.GreenletExit]
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "1 connections were cut: the graceful timeout is over"
    ]
    with pytest.raises((EOFError, ConnectionResetError)):
        client.response()


def test_a_stop_without_patience(site: Site) -> None:
    """Connections that no greenlet has begun to serve end too."""
    server = site.serve(hello)
    port = int(server.addresses[0].rpartition(":")[2])
    idle = site.connect()
    idle.get()
    queued = [plain.create_connection(("127.0.0.1", port)) for _ in range(3)]
    began = time.monotonic()
    server.stop(0)
    assert time.monotonic() - began < 0.9  # the sweep looks once a second
    assert not server.service.connections
    for sock in queued:
        with sock:
            assert sock.recv(1) == b""
    assert idle.rest() == b""


@pytest.mark.parametrize("restarts", [True, False])
def test_the_queue_of_a_shared_socket(site: Site, restarts: bool) -> None:
    """Left to the others where they go on; else it is this server's to answer."""
    first, second = (site.prepare(hello) for _ in range(2))
    sock = addresses.listen("127.0.0.1:0", first.config).sock
    address = sock.getsockname()
    first._sockets = [addresses.Bound(sock, shared=True)]
    second._sockets = [addresses.Bound(sock.dup(), shared=True)]
    first.start()
    assert first._listeners[0].max_accept == 1
    with plain.create_connection(address) as queued:
        queued.sendall(REQUEST)
        first.stop(restarts=restarts)
        if restarts:
            assert first._gateway.told == ["start", "restart", "stop"]  # type: ignore[attr-defined]
            second.start()
            gevent.sleep(0.05)
            with plain.create_connection(address) as other:  # nothing keeps others out
                other.sendall(REQUEST)
                gevent.sleep(0.05)
                assert b" 200 " in other.recv(1000)
        assert b" 200 " in queued.recv(1000)


def test_a_connection_killed_before_it_began_leaves_too(site: Site) -> None:
    server = site.serve(hello)
    port = int(server.addresses[0].rpartition(":")[2])
    with plain.create_connection(("127.0.0.1", port)) as queued:
        server._listeners[0].accept_queued()
        (connection,) = server.service.connections
        connection.kill()
        gevent.sleep(0)
        assert not server.service.connections
        assert queued.recv(1) == b""


def test_a_second_stop_shortens_the_first(site: Site) -> None:
    slow = Slow()
    server = site.serve(slow)
    client = site.connect()
    client.send(REQUEST)
    assert slow.begun.wait(PATIENCE)
    patient = stopping(server, 60)
    server.stop(0.05)
    patient.get(timeout=PATIENCE)
    assert client.rest() == b""


def test_an_application_that_exits_does_not_end_the_server(site: Site, faults: list[Any]) -> None:
    def handle(exchange: Exchange) -> None:
        if exchange.request.target == b"/exit":
            sys.exit(3)
        hello(exchange)

    site.serve(handle)
    client = site.connect()
    assert client.get("/exit").status == 500
    assert client.get().content == b"hello"
    assert faults == []


def test_no_descriptors_are_left(site: Site) -> None:
    site.serve(hello)
    gc.collect()  # other tests' are closed
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        server = site.serve(hello)
        clients = [site.connect(server) for _ in range(5)]
        for client in clients:
            client.get()
            client.close()
        server.stop()
    assert len(os.listdir("/proc/self/fd")) == before


def test_answers_do_not_wait_for_company(site: Site) -> None:
    """Nagle's algorithm is off on every connection."""
    server = site.serve(hello)
    site.connect().get()
    (connection,) = server.service.connections
    sock = connection._stream._sock  # type: ignore[attr-defined]
    assert sock.getsockopt(plain.IPPROTO_TCP, plain.TCP_NODELAY)


def test_many_that_end_at_once_do_not_hold_up_the_hub(
    site: Site, monkeypatch: pytest.MonkeyPatch, until: Callable[..., None]
) -> None:
    """They are swept by and by, none twice, and those that have left meanwhile not at all."""

    class Idler(Connection):
        def __init__(self) -> None:
            self.swept = 0

        def sweep(self, now: float) -> None:
            self.swept += 1
            server.service.connections.discard(last)

    monkeypatch.setattr(service, "SWEEP_SECONDS", 0.0)
    server = site.serve(hello)
    idlers = [Idler() for _ in range(1000)]
    server.service.connections.update(idlers)
    last = next(iter(server.service.connections))  # the last one to be swept
    server.service.sweep(CLOCK.now)
    server.service.sweep(CLOCK.now)  # the next second comes
    assert sum(idler.swept for idler in idlers) == 1000 % 64
    until(lambda: sum(idler.swept for idler in idlers) >= 999)
    gevent.sleep(0.01)
    assert [idler.swept for idler in idlers] == [idler is not last for idler in idlers]
    server.service.connections.clear()
