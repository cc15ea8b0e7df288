"""Faults and attacks that a good server survives: slow peers, resets, floods, no file left, a stop under load.

What takes more than ten seconds is marked ``slow`` and runs with SLOW=1 (``make conformance``).
"""

import os
import resource
import select
import socket
import ssl
import statistics
import struct
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path

import pytest
from test_memory import settle

MIB = 1 << 20
GET = b"GET /10 HTTP/1.1\r\nHost: a\r\n\r\n"
LAST = b"GET /10 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def answer(peer: socket.socket, buffer: bytes = b"") -> bytes:
    """A whole response with chunked content. Raises EOFError when it is cut."""
    while b"\r\n0\r\n\r\n" not in buffer:
        data = peer.recv(65536)
        if not data:
            raise EOFError(f"cut behind {buffer[-80:]!r}")
        buffer += data
    return buffer


def cpu(pid: int) -> float:
    """Seconds of CPU a process has used."""
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


class Healthy(threading.Thread):
    """A client that behaves, on one connection; its seconds per request."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        super().__init__(daemon=True)
        self._connect = connect
        self._over = threading.Event()
        self.seconds: list[float] = []

    def run(self) -> None:
        with self._connect() as peer:
            while not self._over.wait(0.02):
                began = time.perf_counter()
                peer.sendall(GET)
                answer(peer)
                self.seconds.append(time.perf_counter() - began)

    def end(self) -> float:
        """The 99th percentile."""
        self._over.set()
        self.join(10)
        assert len(self.seconds) > 100
        return statistics.quantiles(self.seconds, n=100)[98]


def sockets(server) -> int:
    """How many a server has open."""
    count = 0
    for path in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            count += os.readlink(path).startswith("socket:")
    return count


# --- slow peers


LARGE = b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % (64 * MIB)
POST = b"POST / HTTP/1.1\r\nHost: a\r\n"
# (what, the first bytes, what comes once a second, or how many bytes are read, how many peers, seconds to the cut)
SLOW_PEERS = [
    ("headers", b"GET / HTTP/1.1\r\nHost: a\r\nA:", b"0", 300, 11),
    ("no bytes", b"", b"", 300, 11),
    ("content", POST + b"Content-Length: 100000\r\n\r\n", b"0", 300, 31),
    ("chunks", POST + b"Transfer-Encoding: chunked\r\n\r\nffff\r\n", b"0", 300, 31),
    ("reading nothing", LARGE, 0, 50, 31),
    ("reading little", LARGE, 8, 50, 31),
]


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then", "count", "within"), [case[1:] for case in SLOW_PEERS],
                         ids=[case[0] for case in SLOW_PEERS])  # fmt: skip
def test_slow_peers_are_cut_and_nobody_waits_for_them(gate, first, then, count, within):
    server = gate("apps:streams")
    hold(server, server.connect, first, then, count, within)


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(b"", b""), (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", b"0")],
                         ids=["no bytes", "a hello"])  # fmt: skip
def test_slow_tls_handshakes_are_cut(gate, authority, first, then):
    pair = authority.issue("localhost")
    server = gate("apps:streams", "--certfile", pair.certfile, "--keyfile", pair.keyfile)
    context = ssl.create_default_context(cafile=authority.ca_certs)
    hold(server, lambda: context.wrap_socket(server.connect(), server_hostname="localhost"), first, then, 300, 11)


@pytest.mark.slow
@pytest.mark.parametrize("first", [b"", b"PROXY TCP4 1", b"PROXY UNKNOWN\r\nGET / HTTP/1.1\r\nA:"],
                         ids=["no bytes", "PROXY", "headers"])  # fmt: skip
def test_slow_proxies_are_cut(gate, first):
    server = gate("apps:streams", "--proxy-protocol", "auto", "--proxy-allow-from", "127.0.0.2")
    hold(server, server.connect, first, b"2" if first else b"", 300, 11, source="127.0.0.2")


def hold(server, connect, first, then, count, within, source="127.0.0.1"):
    """*count* peers say *first*, then say or read a little once a second, while a healthy client asks."""
    healthy = Healthy(connect)
    healthy.start()
    with ExitStack() as stack:
        peers = set()
        for _ in range(count):
            peer = stack.enter_context(socket.create_connection(server.address, 10, source_address=(source, 0)))
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peers.add(peer)
        began = turn = time.monotonic()
        for peer in peers:
            peer.sendall(first)
        while sockets(server) < count + 2:
            assert time.monotonic() - began < 5, "it does not accept"
            time.sleep(0.01)
        while peers and time.monotonic() - began < within + 3:
            time.sleep(0.1)
            if isinstance(then, int):  # how it ends cannot be seen from behind full buffers
                peers = peers if sockets(server) > 2 else set()
            elif cut := select.select(peers, [], [], 0)[0]:
                peers -= set(cut)
            if time.monotonic() - turn >= 1:
                turn += 1
                for peer in peers:
                    with suppress(OSError):
                        peer.recv(then, socket.MSG_DONTWAIT) if isinstance(then, int) else peer.send(then)
        took = time.monotonic() - began
        p99 = healthy.end()
    print(f"{count} cut within {took:.1f} s; a healthy client's p99 is {p99 * 1000:.1f} ms")
    assert not peers, f"{len(peers)} of {count} were not cut"
    assert took <= within + 0.5  # for us to see it
    assert p99 < 0.1


# --- resets


@pytest.mark.parametrize("count", [100])
def test_clients_that_reset_amid_a_large_answer_leave_nothing(gate, count):
    server = gate("apps:streams")
    for number in range(2 * count):
        if number == count:
            memory = server.memory("VmRSS")
        peer = server.connect()
        peer.sendall(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % (32 * MIB))
        assert peer.recv(65536)
        reset(peer)
    assert server.talk(LAST).startswith(b"HTTP/1.1 200 ")
    grown = server.memory("VmRSS") - memory
    print(f"{count} resets amid 32 MiB: {grown / MIB:.2f} MiB more")
    assert sockets(server) == 1
    assert grown <= MIB


@pytest.mark.slow
def test_memory_does_not_grow_with_requests(gate):
    server = gate("apps:streams")
    several = LAST.replace(b"Connection: close\r\n", b"") * 49 + LAST

    def load(count: int) -> int:
        for _ in range(count // 50):
            assert server.talk(several).count(b"HTTP/1.1 200 ") == 50
        return server.memory("VmRSS")

    figures = [load(50_000), load(100_000), load(100_000), load(100_000)]
    grown = [after - before for before, after in pairwise(figures)]
    print(f"three times 100,000 requests: {', '.join(str(one // 1024) for one in grown)} KiB more")
    assert min(grown) <= 50 * 1024  # malloc takes some now and then; a leak grows every time


# --- no descriptor left


def test_a_server_without_descriptors_says_so_once_a_second_and_recovers(gate):
    server = gate("apps:streams")
    server.talk(LAST)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (30, 30))
    with ExitStack() as stack:
        began, used = time.monotonic(), cpu(server.process.pid)
        for _ in range(100):
            stack.enter_context(server.connect())
        time.sleep(3)
        took, used = time.monotonic() - began, cpu(server.process.pid) - used
        lines = server.stderr().count("cannot accept")
    print(f"out of files for {took:.1f} s: {lines} lines, {used / took:.3f} of a core")
    assert 1 <= lines <= took + 1
    assert used / took < 0.05
    assert server.talk(LAST).startswith(b"HTTP/1.1 200 ")


# --- floods of frames

UPGRADE = (
    b"GET /echo HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
EMPTY_FRAGMENT = b"\x00\x80\0\0\0\0"
PING = b"\x89\x84\0\0\0\0ping"


def websocket(server) -> socket.socket:
    peer = server.connect()
    peer.sendall(UPGRADE)
    assert peer.recv(4096).startswith(b"HTTP/1.1 101 ")
    return peer


def test_500_000_empty_fragments_are_cut(gate):
    server = gate("apps:sockets")
    with websocket(server) as peer:
        memory, used = server.memory(), cpu(server.process.pid)
        with suppress(ConnectionError):  # cut before all is sent
            peer.sendall(b"\x01\x80\0\0\0\0" + EMPTY_FRAGMENT * 500_000)
        said = b""
        with suppress(ConnectionError):
            while data := peer.recv(4096):
                said += data
        assert said[:1] == b"\x88"
        assert said[2:4] == (1008).to_bytes(2, "big")
    print(f"cut after {cpu(server.process.pid) - used:.2f} s of CPU; {(server.memory() - memory) / MIB:.1f} MiB more")
    assert server.memory() - memory < 4 * MIB


@pytest.mark.parametrize("reads", [True, False])
def test_300_000_pings_hold_nothing_and_nobody_up(gate, reads):
    """Who reads gets a pong for each; for who does not, the server stops reading."""
    server = gate("apps:sockets", "--ws-ping-interval", "0")
    with websocket(server) as peer, websocket(server) as other:
        memory, used = server.memory(), cpu(server.process.pid)
        pongs, sent = 0, 0
        flood = memoryview(PING * 300_000)
        peer.setblocking(False)
        stalled = time.monotonic()
        while pongs < len(flood) // len(PING) * 6 and time.monotonic() - stalled < 2:
            with suppress(BlockingIOError):
                sent += peer.send(flood[sent : sent + 65536])
                stalled = time.monotonic()
            if reads:
                with suppress(BlockingIOError):
                    pongs += len(peer.recv(65536))
                    stalled = time.monotonic()
            elif sent == len(flood):
                break
        settle(lambda: cpu(server.process.pid), still=0.5, within=60)
        other.sendall(b"\x82\x81\0\0\0\0x")
        assert other.recv(100) == b"\x82\x01x"
    used = cpu(server.process.pid) - used
    grown = (server.memory() - memory) / MIB
    print(f"{sent // len(PING)} pings, {pongs // 6} pongs: {used:.2f} s of CPU, {grown:.1f} MiB more")
    assert grown < 8
    assert not reads or pongs == 300_000 * 6


# --- a stop under load


class Load(threading.Thread):
    """A closed loop of requests until nobody accepts; ``lost`` are those sent on an accepted connection in vain."""

    def __init__(self, server, fresh: bool) -> None:
        super().__init__(daemon=True)
        self._server = server
        self._fresh = fresh
        self.answered = 0
        self.lost: list[str] = []

    def run(self) -> None:
        while True:
            try:
                peer = self._server.connect()
            except OSError:
                return  # refused: it listens no longer
            with peer:
                while True:
                    try:
                        peer.sendall(LAST if self._fresh else GET)
                        said = answer(peer)
                    except (OSError, EOFError) as error:
                        self.lost.append(f"{error!r} on {peer.getsockname()}")
                        break
                    self.answered += 1
                    if b"\r\nConnection: close\r\n" in said:
                        break


@pytest.mark.parametrize("times", [1, pytest.param(10, marks=pytest.mark.slow)])
@pytest.mark.parametrize("fresh", [True, False], ids=["fresh", "keep-alive"])
def test_a_stop_under_load_loses_nothing(gate, fresh, times):
    answered = 0
    for _ in range(times):
        server = gate("apps:streams")
        loads = [Load(server, fresh) for _ in range(16)]
        for load in loads:
            load.start()
        time.sleep(0.5)
        assert server.stop() == 0
        for load in loads:
            load.join(10)
            assert load.lost == []
            answered += load.answered
    print(f"{times} stops: {answered} answered, none lost")
    assert answered > 100 * times
