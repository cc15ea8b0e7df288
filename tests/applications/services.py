"""A Redis and a PostgreSQL of a test's own, on free ports of 127.0.0.1 and in a folder that goes with it; the ways to
serve an application, and clients that go each of them."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
from conftest import Gate, free_port

BRIDGE = Path(__file__).parents[1] / "http2_bridge.py"
WAYS = {"http1": [], "http2": ["--h2c"], "workers": ["--workers", "2"]}  # options by name
START = 30.0  # seconds a service may take to listen, on a busy machine


def postgres_programs() -> Path | None:
    """Debian keeps them apart, by version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[4]))
    return found[-1].parent if found else None


@contextmanager
def redis() -> Iterator[str]:
    """Its URL."""
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    with served([*command, "--daemonize", "no"], port):
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def postgres() -> Iterator[str]:
    """Its URL, of a database with nothing in it."""
    programs = postgres_programs()
    assert programs is not None
    port = free_port()
    # It refuses to run as root; and the folder of a test is root's.
    user = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.geteuid() == 0 else {}
    with TemporaryDirectory(prefix="postgres-", dir="/tmp") as folder:
        if user:
            shutil.chown(folder, "postgres", "postgres")
        owner = "postgres" if user else pwd.getpwuid(os.geteuid()).pw_name
        data = f"{folder}/data"
        create = [programs / "initdb", "--no-sync", "--auth=trust", "--encoding=UTF8", f"--username={owner}", data]
        subprocess.run(create, check=True, cwd=folder, capture_output=True, **user)
        command = [programs / "postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F"]
        with served(command, port, cwd=folder, **user):
            yield f"postgresql://{owner}@127.0.0.1:{port}/postgres"


@contextmanager
def reached(server: Gate, options: list[str]) -> Iterator[Gate]:
    """*server*, begun with *options*. Whether its clients speak HTTP/2 is its ``http2``; then ``ws_url`` is a bridge's,
    for those of WebSockets that do not."""
    server.http2 = "--h2c" in options
    with http2_bridge(server.port) if server.http2 else nullcontext(server.ws_url) as server.ws_url:
        yield server


def client_of(server: Gate, **more) -> httpx.Client:
    return httpx.Client(base_url=server.url, http2=server.http2, http1=not server.http2, **more)


@contextmanager
def http2_bridge(port: int) -> Iterator[str]:
    """The URL under which WebSockets are carried over HTTP/2 to *port*."""
    command = [sys.executable, BRIDGE, "--to", f"127.0.0.1:{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield f"ws://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.terminate()


@contextmanager
def served(command: list[str | Path], port: int, **more) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **more)
    try:
        until = time.monotonic() + START
        while True:
            assert process.poll() is None, f"{command[0]} ended with {process.returncode} before it listened"
            try:
                socket.create_connection(("127.0.0.1", port), 1.0).close()
                break
            except OSError:
                assert time.monotonic() < until, f"{command[0]} did not listen within {START} s"
                time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait(10)
