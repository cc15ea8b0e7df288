"""What the tests that talk to a real server share. The process that runs the tests is not monkey-patched.

``gate`` starts the command line as a subprocess and stops it; ``@pytest.mark.needs("curl")`` skips, by name, what the
machine lacks; with CI=true a skip is a failure.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Any, NamedTuple

import pytest
import trustme
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).parent.parent
CI = os.environ.get("CI", "").lower() in ("1", "true")
START = 30.0  # seconds a server may take to listen, on a busy machine
STOP = 20.0  # and to end after SIGTERM; the graceful timeout would be 30

settings.register_profile("default", deadline=None, max_examples=100)
settings.register_profile("ci", deadline=None, max_examples=300, derandomize=True)
settings.register_profile("fuzz", deadline=None, max_examples=20_000, suppress_health_check=list(HealthCheck))
settings.load_profile("ci" if CI else "default")


class Gate:
    """A server running as a user would run it: ``python -m geventgate OPTIONS MODULE:APP``."""

    def __init__(self, process: subprocess.Popen[bytes], address: tuple[str, int] | str, log: Path) -> None:
        self.process = process
        self.address = address  # (host, port), or the path of a unix socket
        self.host, self.port = address if isinstance(address, tuple) else ("localhost", 0)
        self.url = f"http://{self.host}:{self.port}"
        self.ws_url = f"ws://{self.host}:{self.port}"
        self.stopped = False
        self._log = log

    def stderr(self) -> str:
        return self._log.read_text(errors="replace")

    def connect(self, timeout: float = 10.0) -> socket.socket:
        if isinstance(self.address, tuple):
            return socket.create_connection(self.address, timeout)
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(timeout)
        peer.connect(self.address)
        return peer

    def talk(self, *pieces: bytes, half_close: bool = False) -> bytes:
        """Send the pieces, each in a segment of its own, and return what comes until the server closes."""
        with self.connect() as peer:
            if peer.family != socket.AF_UNIX:
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answer = bytearray()
            try:
                for piece in pieces:
                    peer.sendall(piece)
                if half_close:
                    peer.shutdown(socket.SHUT_WR)
            except (
                BrokenPipeError,
                ConnectionResetError,
            ):  # refused before all was sent: the answer is still to be read
                pass
            while data := peer.recv(65536):
                answer += data
            return bytes(answer)

    def memory(self, name: str = "VmHWM") -> int:
        """A figure of /proc/PID/status in bytes; VmHWM is the most memory that was ever resident."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(rf"^{name}:\s+(\d+) kB", status, re.MULTILINE)
        assert found, f"no {name} in /proc/{self.process.pid}/status"
        return int(found[1]) * 1024

    def stop(self) -> int:
        """SIGTERM, unless it has ended; returns the exit status."""
        self.stopped = True
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(STOP)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"the server had not ended {STOP} s after SIGTERM:\n{self.stderr()}")


StartGate = Callable[..., Gate]
HELD: deque[socket.socket] = deque(maxlen=16)  # of the ports given last; a server listens within seconds


def free_port() -> int:
    """A port for a server, which must set SO_REUSEADDR, as servers do.

    It stays bound here for a while, without listening, so that nobody else on the machine is given it meanwhile.
    """
    if len(HELD) == HELD.maxlen:
        HELD[0].close()
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", 0))
    HELD.append(held)
    return int(held.getsockname()[1])


@contextmanager
def running(
    log: Path,
    application: str,
    *options: str,
    chdir: Path | str = "",
    unix: str = "",
    port: int = 0,
    tracebacks: int = 0,
) -> Iterator[Gate]:
    """Serve *application*; at the end its stderr must hold exactly *tracebacks* of them, and its exit must be clean."""
    address = unix or ("127.0.0.1", port or free_port())
    bind = f"unix:{unix}" if unix else f"127.0.0.1:{address[1]}"
    command = [sys.executable, "-m", "geventgate", "--bind", bind, *options]
    command += ["--chdir", str(chdir)] if chdir else []
    with log.open("wb") as stderr:
        process = subprocess.Popen([*command, application], cwd=ROOT, stdout=stderr, stderr=stderr)
    gate = Gate(process, address, log)
    try:
        await_listening(gate)
        yield gate
        died = process.poll()
        assert died is None or gate.stopped, f"the server died with {died} under the test:\n{gate.stderr()}"
    finally:
        status = gate.stop()
    text = gate.stderr()
    assert status == 0, f"exit status {status}:\n{text}"
    assert text.count("Traceback (most recent call last)") == tracebacks, f"expected {tracebacks} tracebacks:\n{text}"


def await_listening(gate: Gate) -> None:
    until = time.monotonic() + START
    while True:
        if gate.process.poll() is not None:
            pytest.fail(f"the server ended with {gate.process.returncode} before it listened:\n{gate.stderr()}")
        try:
            return gate.connect(1.0).close()
        except OSError:
            if time.monotonic() > until:
                pytest.fail(f"the server did not listen within {START} s:\n{gate.stderr()}")
            time.sleep(0.02)


def factory(folder: Path, module_folder: Path) -> Iterator[StartGate]:
    """``chdir`` is the test module's own folder unless the test says otherwise."""
    with ExitStack() as stack:
        count = 0

        def start(application: str, *options: str, chdir: Path | str = module_folder, **more: object) -> Gate:
            nonlocal count
            count += 1
            log = folder / f"stderr{count}.txt"
            return stack.enter_context(running(log, application, *options, chdir=chdir, **more))  # type: ignore[arg-type]

        yield start


@pytest.fixture
def gate(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StartGate]:
    """Call it to start servers for one test: ``gate("app:app", "--keep-alive", "1")``."""
    yield from factory(tmp_path, request.path.parent)


@pytest.fixture(scope="module")
def module_gate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartGate]:
    """The same for servers that live as long as a module's tests."""
    yield from factory(tmp_path_factory.mktemp("gate"), request.path.parent)


# What the machine lacks


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "needs(*programs): skip by name unless all these programs are on the PATH")
    config.addinivalue_line("markers", "slow: takes more than ten seconds; left out unless SLOW=1")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not os.environ.get("SLOW"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs"):
        for program in mark.args:
            if shutil.which(program) is None:
                pytest.skip(f"{program} is not installed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    return refuse_skip(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    report = yield
    return refuse_skip(report)


def refuse_skip(report):  # type: ignore[no-untyped-def]
    """In CI nothing may be missing: a skip there is a failure. An expected failure (xfail) is not a skip."""
    if CI and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and CI=true allows no skips: {report.longrepr}"
    return report


# TLS


class Pair(NamedTuple):
    """A certificate, with its chain, and its key: names of PEM files."""

    certfile: str
    keyfile: str


class Authority:
    """A certificate authority of the tests' own; ``ca_certs`` is its certificate's file."""

    def __init__(self, folder: Path) -> None:
        self._ca = trustme.CA()
        self._folder = folder
        self.ca_certs = str(folder / "ca.pem")
        self._ca.cert_pem.write_to_path(self.ca_certs)

    def issue(self, *names: str, **more: Any) -> Pair:
        """A new certificate for *names*: a host's, or a client's with its address; *more* is trustme's."""
        issued = self._ca.issue_cert(*names, **more)
        stem = self._folder / f"{names[0].replace('*', 'any')}-{token_hex(4)}"
        pair = Pair(f"{stem}.pem", f"{stem}.key")
        Path(pair.certfile).write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        issued.private_key_pem.write_to_path(pair.keyfile)
        return pair


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))
