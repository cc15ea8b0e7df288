"""What a crowd of idle connections costs: bytes for each, and what those wait who are served meanwhile.

One process holds them all. Each has had one answer and is kept alive. An address has ports for some 28,000 connections
to one place, so they come from several addresses of 127.0.0.0/8. As root the limit of open files is raised; where that
may not be, as many are held as it has room for.

    python bench/crowd.py [--connections 100000] [--servers "geventgate,geventgate pure"]

Before and with the crowd: the p99 that wrk sees, and that of one client with a request due every two milliseconds,
whether the one before has its answer or not. wrk sends nothing while it waits: a pause of the server is to it one slow
request for each connection, however long.
"""

import argparse
import socket
import statistics
import sys
import tempfile
import time

import loads
import served
from compare import LOAD_CORE, Running, compile_programs, free_port, limit_files, machine
from loads import Wrong
from peers import SERVERS, Server, make
from results import OURS

PER_ADDRESS = 14_000  # half of Linux's ports: once those of one parity are taken, each connect tries them all first
AT_ONCE = 500  # less than any backlog
SETTLE_SECONDS = 5.0
WRK_SECONDS = 10
PROBES, PROBE_SECONDS = 5_000, 0.002
REQUEST = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
SPARE_FILES = 1_000


class Crowd:
    """Connections to *port*, each of which answers when it is asked."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._members: list[socket.socket] = []

    def grow(self, count: int) -> None:
        while (size := len(self._members)) < count:
            new = [self._connect(size + more) for more in range(min(AT_ONCE, count - size))]
            self._members += new
            ask(new)

    def _connect(self, number: int) -> socket.socket:
        sock = socket.socket()
        sock.settimeout(10)
        sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: the port is chosen on connecting (ip(7))
        sock.bind((f"127.0.1.{1 + number // PER_ADDRESS}", 0))
        sock.connect(("127.0.0.1", self._port))
        return sock

    def ask(self) -> None:
        """Every one, once: raises Wrong where a connection has not been held."""
        for first in range(0, len(self._members), AT_ONCE):
            ask(self._members[first : first + AT_ONCE])

    def close(self) -> None:
        for member in self._members:
            member.close()


def ask(members: list[socket.socket]) -> None:
    for member in members:
        member.sendall(REQUEST)
    for member in members:
        answer = b""
        while not answer.endswith(served.HELLO):
            more = member.recv(4096)
            if not more:
                raise Wrong("closes a connection of the crowd")
            answer += more


def probe(port: int) -> list[float]:
    """Milliseconds from when a request was due to its answer, sorted."""
    with loads.open_http(port) as sock:
        waits = []
        begin = time.perf_counter()
        for number in range(PROBES):
            due = begin + number * PROBE_SECONDS
            time.sleep(max(0.0, due - time.perf_counter()))
            ask([sock])
            waits.append((time.perf_counter() - due) * 1000)
    return sorted(waits)


def measure(server: Server, count: int, built: str) -> None:
    port = free_port()
    with Running(server.argv(port, "crowd" if "crowd" in server.apps else "idle", built)) as running:
        running.await_port(port)
        loads.HELLO(port)
        crowd = Crowd(port)
        try:
            crowd.grow(100)  # pools and caches
            report(f"{server.name}: nobody", running, port)
            before, began, cpu = running.resident_bytes(), time.perf_counter(), running.cpu_seconds()
            crowd.grow(count + 100)
            seconds, cpu = time.perf_counter() - began, running.cpu_seconds() - cpu
            print(f"  {count:,} came at {count / seconds:,.0f}/s, {cpu / count * 1e6:.1f} µs of CPU each", flush=True)
            time.sleep(SETTLE_SECONDS)
            print(f"  {(running.resident_bytes() - before) / count:,.0f} bytes each")
            report(f"{server.name}: {count:,} idle", running, port)
            crowd.ask()
            time.sleep(SETTLE_SECONDS)
            print(f"  all answer again; {(running.resident_bytes() - before) / count:,.0f} bytes each", flush=True)
        finally:
            crowd.close()


def report(title: str, running: Running, port: int) -> None:
    cpu = running.cpu_seconds()
    time.sleep(SETTLE_SECONDS)
    cpu = (running.cpu_seconds() - cpu) / SETTLE_SECONDS
    counted = loads.wrk(LOAD_CORE, 64)(port, WRK_SECONDS)
    waits = probe(port)
    print(title)
    print(f"  it takes {cpu * 1000:.0f} ms of CPU a second to idle")
    print(f"  wrk, 64 connections: p99 {counted.p99:.2f} ms, {counted.failed} failed")
    p50, p99 = statistics.median(waits), waits[len(waits) * 99 // 100]
    print(
        f"  a request each {PROBE_SECONDS * 1000:.0f} ms: p50 {p50:.2f}, p99 {p99:.2f}, most {waits[-1]:.1f} ms",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=100_000)
    parser.add_argument("--servers", default=OURS, help="by name, with commas")
    options = parser.parse_args()
    asked = options.servers.split(",")
    count = min(options.connections, limit_files(options.connections + SPARE_FILES) - SPARE_FILES)
    if count < options.connections:
        print(f"room for {count:,} connections, not for {options.connections:,}: the limit of open files", flush=True)
    with tempfile.TemporaryDirectory() as built:
        compile_programs(built)
        make(built)
        print(f"load average {machine()['load_average']:.1f}", flush=True)
        failed = False
        for server in SERVERS:
            if server.name in asked and "idle" in server.apps:
                try:
                    measure(server, count, built)
                except (Wrong, OSError) as error:
                    print(f"{server.name}: {error}", file=sys.stderr)
                    failed = True
    return failed


if __name__ == "__main__":
    sys.exit(main())
