"""Geventgate, its peers and the physical limit by one method: server CPU microseconds (user + system) per request.

Requests per second are noise on a shared machine; CPU per request is not. The server, one process, is pinned to one
core and the load to another; all CPU of its process group counts. Servers take turns for several rounds, medians are
compared. Answers are checked in full before each load and counted under it; one that fails disqualifies. All limits
are at their defaults.

    python bench/compare.py [--rounds 3] [--seconds 2] [--only http2] [--servers geventgate,C] [--save [--resume]]

--save puts each scenario into bench/results.json as soon as it is measured, in place of what was there, and makes
docs/benchmarks.svg and the tables in docs/benchmarks.md anew. A full run takes an hour; with --only it goes in parts,
and --resume leaves out what has been measured of the same commit.
"""

import argparse
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

import loads
import results
import served
from loads import Check, Counted, Http2, Load, Wrong
from peers import BENCH, ROOT, SERVERS, Server, make
from publish import digits, publish
from results import ALL_OURS, LIMIT, OURS, Row, Slice

TICK = os.sysconf("SC_CLK_TCK")
SERVER_CORE, LOAD_CORE = 0, 1
IDLE_CONNECTIONS = 5000
IDLE_SECONDS = 4.0  # before what idle connections hold is weighed: some servers tidy up
START_SECONDS = 20.0
SERVER_SOURCES = ("geventgate", "ext", "setup.py")
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
        Scenario("browser's head, lockstep", "http", loads.HELLO, browser_lockstep(built)),
        Scenario("browser's head", "http", loads.HELLO, loads.wrk(core, 64, "/", "-s", f"{BENCH}/browser.lua")),
        Scenario("POST 10 KB", "http", loads.POST, loads.wrk(core, 64, "/", "-s", f"{BENCH}/post.lua")),
        Scenario("1 MB response", "http", loads.LARGE, loads.wrk(core, 16, "/megabyte")),
        Scenario("1 MB upload", "http", loads.UPLOAD, loads.wrk(core, 16, "/", "-s", f"{BENCH}/upload.lua")),
        Scenario("new connection each", "close", loads.HELLO, loads.hellos(core, f"{built}/visitors", 64)),
        *http2_scenarios(built),
        Scenario("WebSocket 32 B", "websocket", loads.echoes, loads.websockets(core, f"{built}/wsclient", 64, 32)),
        Scenario("WebSocket 16 KB", "websocket", loads.echoes, loads.websockets(core, f"{built}/wsclient", 64, 16384)),
        Scenario("idle connection", "idle", loads.HELLO, None, loads.open_http),
        Scenario("idle WebSocket", "idle websocket", loads.echoes, None, loads.open_websocket),
    ]


def browser_lockstep(built: str) -> Load:
    request = Path(built, "browser.http")
    request.write_bytes(loads.browser_request())
    return loads.hellos(SERVER_CORE, f"{built}/lockstep", 64, str(request))


def http2_scenarios(built: str) -> list[Scenario]:
    """Over plain TCP with prior knowledge, and over TLS."""
    path, fields = loads.browser()
    requests = [
        ("hello", "", Http2(served.HELLO)),
        ("browser's head", "", Http2(served.HELLO, path, fields=fields)),
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
        # As a batch job: waking, it does not interrupt the lockstep client, which would split the batches.
        pinned = ["chrt", "--batch", "0", "taskset", "-c", str(SERVER_CORE), *self.argv]
        self.process = subprocess.Popen(pinned, cwd=ROOT, env=environ, start_new_session=True, **quiet)
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


def compile_programs(built: str) -> None:
    for program in PROGRAMS:
        subprocess.run(["gcc", "-O2", "-o", f"{built}/{program}", BENCH / f"{program}.c"], check=True)


def limit_files(wanted: int) -> int:
    """Have room for *wanted* open files, here and in the servers, or for as many as may be. Returns how many.

    To raise the hard limit takes CAP_SYS_RESOURCE, which root may be without (capabilities(7)).
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, wanted),) * 2)
    except (ValueError, PermissionError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


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


def compete(scenario: Scenario, servers: list[Server], built: str, rounds: int, seconds: int) -> Slice:
    """Let the servers take turns."""
    found: Slice = {"scenario": scenario.name, "unit": scenario.unit, "rounds": rounds, "seconds": seconds, **machine()}
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
    found["load_average_after"] = os.getloadavg()[0]
    found["rows"] = []
    for server in servers:
        name = server.name
        row: Row = {"server": name, "version": "" if server.missing() else server.version, "note": notes[name]}
        if values := figures[name]:
            row |= {"median": statistics.median(values), "least": min(values), "most": max(values)}
            row["failed"] = failed[name]
            if scenario.p99:
                row["p99_ms"] = statistics.median(tails[name])
        found["rows"].append(row)
    return found


def print_slice(measured: Slice) -> None:
    load = f"load average {measured['load_average']:.1f} before, {measured['load_average_after']:.1f} after"
    print(f"\n{measured['scenario']}, {measured['unit']}; {load}")
    limit = results.row(measured["rows"], LIMIT)
    for row in sorted(measured["rows"], key=lambda row: row.get("median", float("inf"))):
        line = f"  {row['server']:18}"
        if "median" in row:
            line += "".join(f"{row[key]:10,.{digits(measured)}f}" for key in ("median", "least", "most"))
            line += f"{row['median'] / limit['median']:8.2f} x C" if limit else ""
            line += f"   p99 {row['p99_ms']:.1f} ms" if "p99_ms" in row else ""
            line += f"   {row['failed']} FAILED" if row["failed"] else ""
        print(line + (f"   {row['note']}" if row["note"] else ""), flush=True)


def print_ratios(slices: list[Slice]) -> None:
    print(f"\n{'':30}{OURS:>14}{'x C':>8}{'x best peer':>14}  (the best peer)")
    for measured, name in ((measured, name) for measured in slices for name in ALL_OURS):
        rows, places = measured["rows"], digits(measured)
        ours, limit, best = results.row(rows, name), results.row(rows, LIMIT), results.best_peer(rows)
        if ours is None:
            continue
        line = f"{measured['scenario'] if name == OURS else f'  {name}':30}{ours['median']:14,.{places}f}"
        line += f"{ours['median'] / limit['median']:8.2f}" if limit else f"{'-':>8}"
        line += (
            f"{ours['median'] / best['median']:14.2f}  {best['server']} {best['median']:,.{places}f}" if best else ""
        )
        print(line)


def print_verdicts(slices: list[Slice]) -> None:
    print("\nWhat we aim at")
    for verdict in results.verdicts(slices):
        scenario, most, server, figure = verdict.target
        measured = "-" if verdict.measured is None else f"{verdict.measured:,.{2 if server else 0}f}"
        what = f"{scenario}{', p99' if figure == 'p99_ms' else ''}"
        met = "met" if verdict.met else "not met" if verdict.measured else "not measured"
        print(f"  {what:34}{measured:>10}, at most {most:,} {f'x {server}' if server else 'bytes'}: {met}")


def machine() -> dict[str, Any]:
    model = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": model[0].partition(":")[2].strip() if model else platform.processor(),
        "cores": os.cpu_count(),
        "commit": commit(),
        "load_average": os.getloadavg()[0],
    }


def commit() -> str:
    """The last that changed the server; with a "+" where that has been changed since."""
    git = ["git", "-C", str(ROOT)]
    last = subprocess.run([*git, "log", "-1", "--format=%h", "--", *SERVER_SOURCES], capture_output=True, text=True)
    changed = subprocess.run([*git, "status", "--porcelain", "--", *SERVER_SOURCES], capture_output=True, text=True)
    return last.stdout.strip() + ("+" if changed.stdout else "")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of load, per server and round")
    parser.add_argument("--only", default="", help="scenarios with one of these in name or competition: hello, http2")
    parser.add_argument("--servers", default="", help="these alone, by name, with commas")
    parser.add_argument("--save", action="store_true", help="into bench/results.json and docs/benchmarks.*")
    parser.add_argument("--resume", action="store_true", help="leave out what was saved of this commit")
    options = parser.parse_args()
    if (os.cpu_count() or 1) < 2:
        parser.error("it takes two cores: one for the server, one for the load")
    asked = [name.strip() for name in options.servers.split(",") if name.strip()]
    if unknown := set(asked) - {server.name for server in SERVERS}:
        parser.error(f"no such server: {', '.join(sorted(unknown))}")
    if options.save and asked:
        parser.error("what is saved has all servers in it")
    limit_files(2 * IDLE_CONNECTIONS)
    slices = []
    with tempfile.TemporaryDirectory() as built:
        compile_programs(built)
        make(built)
        every = scenarios(built)
        done = {each["scenario"] for each in results.read() if options.resume and each["commit"] == commit()}
        wanted = [word.strip() for word in options.only.split(",")]
        chosen = [s for s in every if any(word in s.name or word in s.competition for word in wanted)]
        if not chosen:
            parser.error(f"no scenario has any of {options.only!r} in its name or competition")
        print(f"{options.rounds} rounds of {options.seconds} s: median, least, most", flush=True)
        for scenario in chosen:
            servers = [s for s in SERVERS if scenario.competition in s.apps and (not asked or s.name in asked)]
            if servers and scenario.name not in done:
                slices.append(compete(scenario, servers, built, options.rounds, options.seconds))
                print_slice(slices[-1])
                if options.save:
                    results.write(results.merge(results.read(), slices[-1], [s.name for s in every]))
                    publish(results.read())
    print_ratios(slices)
    print_verdicts(slices)
    ours = [(each["scenario"], row) for each in slices for row in each["rows"] if row["server"] in ALL_OURS]
    broken = [(scenario, row) for scenario, row in ours if not results.sound(row)]
    for scenario, row in broken:
        print(f"{row['server']} failed in {scenario!r}: {row['note'] or row['failed']}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
