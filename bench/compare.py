"""Geventgate and its peers by one method: server CPU microseconds (user + system) per request.

Requests per second are noise on a shared machine; CPU per request is not. Each server is pinned to one core, the load
to another; servers take turns for several rounds and the medians are compared. One answer is checked in full before
each load; every WebSocket echo is compared byte for byte under load. All limits of geventgate are at their defaults.

    python bench/compare.py [--rounds 5] [--seconds 3] [--only hello]
"""

import argparse
import http.client
import os
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

BENCH = Path(__file__).parent
TICK = os.sysconf("SC_CLK_TCK")
SERVER_CORE, LOAD_CORE = 0, 1
CONNECTIONS = 64
Command = Callable[[int], list[str]]  # of a port


class Scenario(NamedTuple):
    name: str
    servers: dict[str, Command]
    load: Callable[[int, int], int]  # (port, seconds) -> requests answered, all of them right


def ours(app: str) -> Command:
    return lambda port: [
        sys.executable,
        "-m",
        "geventgate",
        "--bind",
        f"127.0.0.1:{port}",
        "--chdir",
        str(BENCH),
        f"apps:{app}",
    ]


def peer(name: str, app: str) -> Command:
    return lambda port: [sys.executable, str(BENCH / "peers.py"), name, str(port), app]


def compiled(source: str, folder: Path) -> str:
    program = folder / source.removesuffix(".c")
    subprocess.run(["gcc", "-O2", "-Wall", "-o", program, BENCH / source], check=True)
    return str(program)


def wrk(port: int, seconds: int) -> int:
    """HTTP/1.1 keep-alive. Refuses a run with an error or another status in it."""
    client = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    client.request("GET", "/")
    answer = client.getresponse()
    assert (answer.status, answer.read()) == (200, b"Hello, World!\n")
    client.close()
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", f"http://127.0.0.1:{port}/"]
    report = subprocess.run(on_core(LOAD_CORE, command), check=True, capture_output=True, text=True).stdout
    if "Non-2xx" in report or "Socket errors" in report:
        raise SystemExit(f"a load with errors is no measurement:\n{report}")
    found = re.search(r"(\d+) requests in", report)
    assert found, report
    return int(found[1])


def websockets(program: str, size: int) -> Callable[[int, int], int]:
    def load(port: int, seconds: int) -> int:
        command = [program, str(port), str(CONNECTIONS), str(size), str(seconds)]
        return int(subprocess.run(on_core(LOAD_CORE, command), check=True, capture_output=True, text=True).stdout)

    return load


def on_core(core: int, command: Sequence[str]) -> list[str]:
    return ["taskset", "-c", str(core), *command]


def cpu_seconds(pid: int) -> float:
    """User and system time of the process and its ended children so far (proc(5): fields 14 to 17)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICK


def measure(command: Command, load: Callable[[int, int], int], seconds: int) -> float:
    """Start a server, load it, and return its CPU microseconds per request."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = subprocess.Popen(on_core(SERVER_CORE, command(port)), cwd=BENCH.parent, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if server.poll() is not None or time.monotonic() > until:
                    raise SystemExit(f"did not start: {' '.join(command(port))}") from None
                time.sleep(0.05)
        before = cpu_seconds(server.pid)
        requests = load(port, seconds)
        return (cpu_seconds(server.pid) - before) / requests * 1e6
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of load, per server and round")
    parser.add_argument("--only", default="", help="scenarios whose name has this in it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        client, canned = compiled("wsclient.c", Path(folder)), compiled("canned.c", Path(folder))
        echo = {"geventgate": ours("echo"), "gevent-websocket": peer("gevent-websocket", "echo")}
        scenarios = [
            Scenario(
                "hello, keep-alive",
                {
                    "geventgate": ours("hello"),
                    "gevent pywsgi": peer("pywsgi", "hello"),
                    "C, canned": lambda port: [canned, str(port)],
                },
                wrk,
            ),
            Scenario("WebSocket echo 32 B", echo, websockets(client, 32)),
            Scenario("WebSocket echo 16 KiB", echo, websockets(client, 16384)),
        ]
        print(f"{CONNECTIONS} connections, {options.rounds} rounds of {options.seconds} s, server CPU us per request")
        print(f"{'scenario':24}{'server':20}{'median':>10}{'least':>10}{'most':>10}{'of the first':>14}")
        for scenario in scenarios:
            if options.only not in scenario.name:
                continue
            figures: dict[str, list[float]] = {name: [] for name in scenario.servers}
            for _ in range(options.rounds):
                for name, command in scenario.servers.items():
                    figures[name].append(measure(command, scenario.load, options.seconds))
            first = statistics.median(next(iter(figures.values())))
            for name, values in figures.items():
                median = statistics.median(values)
                spread = f"{median:10.1f}{min(values):10.1f}{max(values):10.1f}"
                print(f"{scenario.name:24}{name:20}{spread}{median / first:14.2f}", flush=True)


if __name__ == "__main__":
    main()
