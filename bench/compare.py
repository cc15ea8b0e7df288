"""Geventgate, its peers and the physical limit by one method: server CPU microseconds (user + system) per request.

Requests per second are noise on a shared machine; CPU per request is not. The server, one process, is pinned to one
core and the load to another; all CPU of its process group counts. Servers take turns for several rounds, medians are
compared. Answers are checked in full before each load and counted under it; one that fails disqualifies. All limits
are at their defaults.

    python bench/compare.py [--rounds 3] [--seconds 2] [--only http2] [--servers geventgate,C]

A full run takes some thirty minutes and writes bench/results.json, docs/benchmarks.svg and the table in
docs/benchmarks.md; one that was narrowed only prints.
"""

import argparse
import json
import os
import platform
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import apps
import loads
from loads import Check, Counted, Http2, Load, Wrong
from peers import BENCH, LIMIT, NO_PEERS, OURS, OURS_H2, SERVERS, Server, make
from publish import publish

TICK = os.sysconf("SC_CLK_TCK")
SERVER_CORE, LOAD_CORE = 0, 1
IDLE_CONNECTIONS = 2000
IDLE_SECONDS = 4.0  # before what idle connections hold is weighed: some servers tidy up
START_SECONDS = 20.0
PROGRAMS = ("canned", "wsecho", "wsclient", "lockstep", "visitors")


class Scenario(NamedTuple):
    name: str
    competition: str  # who takes part, and with what: Server.apps
    check: Check
    load: Load | None  # None: bytes per idle connection are measured, opened by *connect*
    connect: Callable[[int], socket.socket] | None = None
    p99: bool = False

    @property
    def unit(self) -> str:
        return "µs" if self.load else "bytes"


def scenarios(built: str) -> list[Scenario]:
    core = LOAD_CORE
    return [
        Scenario("hello", "http", loads.HELLO, loads.wrk(core, 64)),
        Scenario("hello, lockstep", "http", loads.HELLO, loads.hellos(SERVER_CORE, f"{built}/lockstep", 64)),
        Scenario("hello, 1000 connections", "http", loads.HELLO, loads.wrk(core, 1000), p99=True),
        Scenario("browser's head", "http", loads.HELLO, loads.wrk(core, 64, "/", "-s", f"{BENCH}/browser.lua")),
        Scenario("POST 10 KB", "http", loads.POST, loads.wrk(core, 64, "/", "-s", f"{BENCH}/post.lua")),
        Scenario("1 MB response", "http", loads.LARGE, loads.wrk(core, 16, "/megabyte")),
        Scenario("new connection each", "close", loads.HELLO, loads.hellos(core, f"{built}/visitors", 64)),
        *http2_scenarios(built),
        Scenario("WebSocket 32 B", "websocket", loads.echoes, loads.websockets(core, f"{built}/wsclient", 64, 32)),
        Scenario("WebSocket 16 KB", "websocket", loads.echoes, loads.websockets(core, f"{built}/wsclient", 64, 16384)),
        Scenario("idle connection", "idle", loads.HELLO, None, loads.open_http),
        Scenario("idle WebSocket", "idle websocket", loads.echoes, None, loads.open_websocket),
    ]


def http2_scenarios(built: str) -> list[Scenario]:
    """Over plain TCP with prior knowledge, and over TLS."""
    path, fields = loads.browser()
    requests = [
        ("hello", "", Http2(apps.HELLO)),
        ("browser's head", "", Http2(apps.HELLO, path, fields=fields)),
        ("POST 1 KB", " POST", Http2(b"x" * 1024, "/echo", sent=b"x" * 1024)),
    ]
    found = []
    for name, competition, plain in requests:
        tls = plain._replace(certificate=Path(built, "cert.pem"))
        for carrier, kind, request in (("h2c", "", plain), ("TLS", " TLS", tls)):
            load = request.load(LOAD_CORE, 8, 32, Path(built, "content"))
            found.append(Scenario(f"HTTP/2 {name} ({carrier})", f"http2{kind}{competition}", request.check, load))
    return found


# --- a server and what it uses


class Running:
    """A server, started and listening, in a process group of its own."""

    def __init__(self, argv: list[str]) -> None:
        self.argv = argv

    def __enter__(self) -> "Running":
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        environ = os.environ | {"PYTHONPATH": str(BENCH)}
        pinned = ["taskset", "-c", str(SERVER_CORE), *self.argv]
        self.process = subprocess.Popen(pinned, cwd=BENCH.parent, env=environ, start_new_session=True, **quiet)
        return self

    def __exit__(self, *exception: object) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if not self.members():
                break
            os.killpg(self.process.pid, sign)
            until = time.monotonic() + 2
            while self.process.poll() is None or (self.members() and time.monotonic() < until):
                if time.monotonic() > until:
                    break
                time.sleep(0.01)
        self.process.wait()

    def await_port(self, port: int) -> None:
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    raise Wrong("does not start") from None
                time.sleep(0.05)

    def members(self) -> list[list[str]]:
        """The fields of proc(5)'s stat, from the state on, of every process of the group."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                except OSError:  # it has ended meanwhile
                    continue
                if int(fields[2]) == self.process.pid and fields[0] not in "ZX":
                    found.append(fields)
        return found

    def cpu_seconds(self) -> float:
        """User and system time of all threads, and of children that have ended."""
        return sum(sum(map(int, fields[11:15])) for fields in self.members()) / TICK

    def resident_bytes(self) -> int:
        return sum(int(fields[21]) for fields in self.members()) * resource.getpagesize()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def measure(server: Server, scenario: Scenario, built: str, seconds: int) -> tuple[float, Counted]:
    """Start *server*, check an answer, load it. Returns the figure in the scenario's unit, and what was counted."""
    port = free_port()
    with Running(server.argv(port, scenario.competition, built)) as running:
        running.await_port(port)
        scenario.check(port)
        if scenario.load is None:
            return bytes_per_connection(running, scenario, port), Counted(IDLE_CONNECTIONS)
        before = running.cpu_seconds()
        counted = scenario.load(port, seconds)
        if not counted.requests:
            raise Wrong("answers nothing under load")
        return (running.cpu_seconds() - before) / counted.requests * 1e6, counted


def bytes_per_connection(running: Running, scenario: Scenario, port: int) -> float:
    """Growth of the resident set by IDLE_CONNECTIONS; the first few, which grow pools and caches, are not counted."""
    assert scenario.connect is not None
    clients: list[socket.socket] = []
    try:
        clients += [scenario.connect(port) for _ in range(50)]
        time.sleep(0.5)
        before = running.resident_bytes()
        clients += [scenario.connect(port) for _ in range(IDLE_CONNECTIONS)]
        time.sleep(IDLE_SECONDS)
        for client in clients:
            client.setblocking(False)
            try:
                if client.recv(1) == b"":
                    raise Wrong("closes idle connections before they are weighed")
            except BlockingIOError:
                pass  # it idles, as it should
        return (running.resident_bytes() - before) / IDLE_CONNECTIONS
    except OSError as error:
        raise Wrong(f"no {IDLE_CONNECTIONS} idle connections: {error!r}") from None
    finally:
        for client in clients:
            client.close()


# --- rounds


def compete(scenario: Scenario, servers: list[Server], built: str, rounds: int, seconds: int) -> list[dict[str, Any]]:
    """Let the servers take turns. Returns a row for each."""
    figures: dict[str, list[float]] = {server.name: [] for server in servers}
    tails: dict[str, list[float]] = {server.name: [] for server in servers}
    failed = dict.fromkeys(figures, 0)
    notes = {server.name: server.missing() for server in servers}
    for turn in range(rounds):
        for server in servers if turn % 2 == 0 else servers[::-1]:
            if notes[server.name]:
                continue
            try:
                figure, counted = measure(server, scenario, built, seconds)
            except Wrong as wrong:
                notes[server.name] = str(wrong)
                continue
            figures[server.name].append(figure)
            tails[server.name].append(counted.p99)
            failed[server.name] += counted.failed
    rows = []
    for server in servers:
        name = server.name
        row: dict[str, Any] = {"scenario": scenario.name, "unit": scenario.unit, "server": name}
        row |= {"version": server.version if not server.missing() else "", "note": notes[name]}
        if values := figures[name]:
            row |= {"median": statistics.median(values), "least": min(values), "most": max(values)}
            row["failed"] = failed[name]
            if scenario.p99:
                row["p99_ms"] = statistics.median(tails[name])
        rows.append(row)
    return rows


def figure(rows: list[dict[str, Any]], name: str) -> float | None:
    return next((row["median"] for row in rows if row["server"] == name and "median" in row), None)


def best_peer(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The least median of those that failed nothing."""
    sound = [row for row in rows if "median" in row and row["server"] not in NO_PEERS]
    return min((row for row in sound if not row["failed"] and not row["note"]), key=lambda r: r["median"], default=None)


def print_rows(rows: list[dict[str, Any]]) -> None:
    limit = figure(rows, LIMIT)
    print(f"\n{rows[0]['scenario']}, {rows[0]['unit']}")
    for row in sorted(rows, key=lambda row: row.get("median", float("inf"))):
        line = f"  {row['server']:18}"
        if "median" in row:
            digits = 1 if row["unit"] == "µs" else 0
            line += "".join(f"{row[key]:10,.{digits}f}" for key in ("median", "least", "most"))
            line += f"{row['median'] / limit:8.2f} x C" if limit else ""
            line += f"   p99 {row['p99_ms']:.1f} ms" if "p99_ms" in row else ""
            line += f"   {row['failed']} FAILED" if row["failed"] else ""
        print(line + (f"   {row['note']}" if row["note"] else ""), flush=True)


def print_ratios(tables: list[list[dict[str, Any]]]) -> None:
    print(f"\n{'':30}{OURS:>14}{'x C':>8}{'x best peer':>14}  (the best peer)")
    for rows, name in ((rows, name) for rows in tables for name in (OURS, OURS_H2)):
        if name == OURS_H2 and not any(row["server"] == name for row in rows):
            continue
        ours, limit, best = figure(rows, name), figure(rows, LIMIT), best_peer(rows)
        digits = 1 if rows[0]["unit"] == "µs" else 0
        scenario = rows[0]["scenario"] if name == OURS else f"  {name}"
        line = f"{scenario:30}" + (f"{ours:14,.{digits}f}" if ours else f"{'-':>14}")
        line += f"{ours / limit:8.2f}" if ours and limit else f"{'-':>8}"
        if best:
            line += f"{ours / best['median']:14.2f}" if ours else f"{'-':>14}"
            line += f"  {best['server']} {best['median']:,.{digits}f}"
        print(line)


def machine() -> dict[str, Any]:
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": model[0].partition(":")[2].strip() if model else platform.processor(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of load, per server and round")
    parser.add_argument("--only", default="", help="scenarios in whose name or competition this is: hello, http2, idle")
    parser.add_argument("--servers", default="", help="these alone, by name, with commas")
    options = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        parser.error("it takes two cores: one for the server, one for the load")
    asked = [name.strip() for name in options.servers.split(",") if name.strip()]
    if unknown := set(asked) - {server.name for server in SERVERS}:
        parser.error(f"no such server: {', '.join(sorted(unknown))}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    began = machine()
    with tempfile.TemporaryDirectory() as built:
        for program in PROGRAMS:
            subprocess.run(["gcc", "-O2", "-o", f"{built}/{program}", BENCH / f"{program}.c"], check=True)
        make(built)
        chosen = [s for s in scenarios(built) if options.only in s.name or options.only in s.competition]
        if not chosen:
            parser.error(f"no scenario has {options.only!r} in its name or competition")
        load = ", ".join(f"{value:.1f}" for value in began["load_average"])
        print(f"{began['cpu']}, {began['system']}, Python {began['python']}, load average {load}")
        print(f"{options.rounds} rounds of {options.seconds} s: median, least, most", flush=True)
        tables = []
        for scenario in chosen:
            servers = [s for s in SERVERS if scenario.competition in s.apps and (not asked or s.name in asked)]
            if servers:
                tables.append(compete(scenario, servers, built, options.rounds, options.seconds))
                print_rows(tables[-1])
    print_ratios(tables)
    if not options.only and not asked:
        rows = [row for table in tables for row in table]
        results = {"machine": began, "rounds": options.rounds, "seconds": options.seconds, "rows": rows}
        results["load_average_after"] = os.getloadavg()
        (BENCH / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")
        publish(results)
    ours = [row for table in tables for row in table if row["server"] in (OURS, OURS_H2)]
    broken = [row for row in ours if row["note"] or row["failed"]]
    for row in broken:
        print(f"{row['server']} failed in {row['scenario']!r}: {row['note'] or row['failed']}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
