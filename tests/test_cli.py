"""The command line as its user meets it: a subprocess, its two streams and its exit status."""

import ctypes
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import pytest

from geventgate.cli import argument_parser, imported_too_early, start_line
from geventgate.config import Config

ROOT = Path(__file__).parent.parent
WAIT = 20.0  # seconds for what should take a moment
STARTED = re.compile(r"serves .* on http://127\.0\.0\.1:(\d+)")

MODULES = {
    "hello": """
        def app(environ, start_response):
            environ["wsgi.errors"].write("asked\\n")
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"hello"]
        """,
    "raises": """
        # the second line
        raise ValueError("it went\\nwrong \\x1b[31m")
        """,
    "syntax": "def app(:\n",
    "exits": "import sys\nsys.exit('no')\n",
    "lacks": "import no_such_dependency\n",
    "text": "app = 'text'\n",
    "factory": """
        def create_app(answer="made"):
            def app(environ, start_response):
                start_response("200 OK", [])
                return [answer.encode()]
            return app
        """,
    "asynchronous": """
        import sys
        async def app(scope, receive, send):
            if scope["type"] == "lifespan":
                for what in ("startup", "shutdown"):
                    await receive()
                    print(what, file=sys.stderr)
                    await send({"type": f"lifespan.{what}.complete"})
                return
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"hello, coroutine"})
        """,
    "cannot_start": """
        async def app(scope, receive, send):
            await receive()
            await send({"type": "lifespan.startup.failed", "message": "no database"})
        """,
    "asyncio_later": """
        import sys
        early = "asyncio" in sys.modules
        def app(environ, start_response):
            import asyncio
            async def answer():
                await asyncio.sleep(0.1)
                return f"{early} {type(asyncio.get_running_loop()).__name__}".encode()
            start_response("200 OK", [])
            return [asyncio.run(answer())]
        """,
    "body": """
        def app(environ, start_response):
            print("reading", file=environ["wsgi.errors"])
            content = environ["wsgi.input"].read()
            start_response("200 OK", [])
            return [content]
        """,
    "busy": """
        def app(environ, start_response):
            print("busy", file=environ["wsgi.errors"])
            while True:
                pass
        """,
    "patched": """
        import sys
        from gevent.monkey import is_module_patched

        print("patched:", is_module_patched("socket") and is_module_patched("threading"), file=sys.stderr)

        def app(environ, start_response): ...
        """,
    "hangup": """
        import os, signal

        os.kill(os.getpid(), signal.SIGHUP)

        def app(environ, start_response): ...
        """,
    "waits": """
        import time

        print("importing", flush=True)
        time.sleep(60)
        """,
    "threads": """
        import threading, time
        from hello import app

        def work():
            while True:
                time.sleep(60)

        threading.Thread(target=work, name="worker").start()
        """,
    "pool": """
        from concurrent.futures import ThreadPoolExecutor
        from hello import app

        pool = ThreadPoolExecutor()
        pool.submit(int).result()
        """,
    "dictconfig": """
        import logging.config

        logging.config.dictConfig({"version": 1})  # disable_existing_loggers is True by default

        def app(environ, start_response):
            start_response("200 OK", [])
            return [b"hello"]
        """,
    "ownlog": """
        import logging.config

        logging.config.dictConfig({
            "version": 1,
            "formatters": {"own": {"format": "own: %(message)s"}},
            "handlers": {"own": {"class": "logging.StreamHandler", "formatter": "own"}},
            "loggers": {"geventgate.access": {"handlers": ["own"], "level": "INFO"}},
        })

        from hello import app
        """,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("applications")
    for name, source in MODULES.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(source))
    return folder


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch):
    """Coverage would import threading early into every process, and that is rightly warned of."""
    for name in [name for name in os.environ if name.startswith("COVERAGE_PROCESS")]:
        monkeypatch.delenv(name)


def command(*arguments):
    return [sys.executable, "-m", "geventgate", *map(str, arguments)]


def run(*arguments, **more):
    """Run the command line to its end."""
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=WAIT, **more)


class Running:
    """A server that serves; its lines of stderr can be waited for."""

    def __init__(self, *arguments, program=None, **more):
        self.process = subprocess.Popen(
            program or command("--bind", "127.0.0.1:0", *arguments), cwd=ROOT, stderr=subprocess.PIPE, text=True, **more
        )
        self.seen = []
        self._lines = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = int(self.await_line(STARTED)[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(WAIT)
        self._reader.join(WAIT)
        self.process.stderr.close()

    def _read(self):
        for line in self.process.stderr:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def await_line(self, pattern):
        while True:
            line = self._lines.get(timeout=WAIT)
            assert line is not None, f"ended without {pattern!r}: {self.seen}"
            self.seen.append(line)
            if found := re.search(pattern, line):
                return found

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), WAIT)

    def get(self, target="/"):
        with self.connect() as peer:
            peer.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            return answer(peer)

    def end(self, number=signal.SIGTERM):
        """Send the signal; returns the exit status and all of stderr."""
        self.process.send_signal(number)
        status = self.process.wait(WAIT)
        self._reader.join(WAIT)
        while (line := self._lines.get(timeout=WAIT)) is not None:
            self.seen.append(line)
        return status, "\n".join(self.seen)


def answer(peer):
    whole = b"".join(iter(lambda: peer.recv(65536), b""))
    head, _, content = whole.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200"), whole
    return content


# --- what goes wrong is one line


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "the following arguments are required: MODULE:APPLICATION"),
        (["--no-such-option", "hello:app"], 2, "unrecognized arguments: --no-such-option"),
        (["hello:app", "more"], 2, "unrecognized arguments: more"),
        (["--keep-alive", "long", "hello:app"], 2, "argument --keep-alive: invalid float value: 'long'"),
        (["--worker-connections", "0", "hello:app"], 2, "--worker-connections is 0, and should be more than 0"),
        (["--chdir", "/no/such/folder", "hello:app"], 1, "--chdir /no/such/folder: No such file or directory"),
        (
            ["--error-logfile", "/no/such/log", "hello:app"],
            1,
            "--error-logfile /no/such/log: No such file or directory",
        ),
        (["--access-logfile", "/", "hello:app"], 1, "--access-logfile /: Is a directory"),
        (["no_such_module:app"], 1, "no module named 'no_such_module' (in "),
        (["hello.py:app"], 1, "hello.py is a file, not a module: did you mean hello:app?"),
        (["hello:application"], 1, "hello:application: module 'hello' has no attribute 'application'"),
        (["text:app"], 1, "text:app is not callable: it is a str"),
        (["raises:app"], 1, "cannot import raises: ValueError: it went wrong \\x1b[31m (FOLDER/raises.py, line 3)"),
        (["syntax:app"], 1, "cannot import syntax: SyntaxError: invalid syntax (FOLDER/syntax.py, line 1)"),
        (["exits:app"], 1, "cannot import exits: SystemExit: no (FOLDER/exits.py, line 2)"),
        (["lacks:app"], 1, "No module named 'no_such_dependency' (FOLDER/lacks.py, line 1)"),
        (["factory:create_app(1, 2)"], 1, "factory:create_app(1, 2): TypeError: create_app() takes from 0 to 1"),
        (["--bind", "127.0.0.1:0", "cannot_start:app"], 1, "the application's startup failed: no database"),
        (["--bind", "nonsense", "hello:app"], 1, "--bind nonsense: not HOST:PORT, [IPV6]:PORT, :PORT, unix:PATH"),
        (["--bind", "::1:8000", "hello:app"], 1, "--bind ::1:8000: an IPv6 address stands in brackets"),
        (["--bind", "127.0.0.1:65536", "hello:app"], 1, "--bind 127.0.0.1:65536: not HOST:PORT"),
        (["--bind", "192.0.2.1:0", "hello:app"], 1, "cannot listen on 192.0.2.1:0: Cannot assign requested address"),
        (["--bind", "no-such-host.invalid:0", "hello:app"], 1, "cannot listen on no-such-host.invalid:0: "),
        (["--bind", "unix:/no/such/socket", "hello:app"], 1, "cannot listen on unix:/no/such/socket: No such file or"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_errors(folder, arguments, status, message):
    said = run(*(["--chdir", folder] if "--chdir" not in arguments else []), *arguments)
    (line,) = said.stderr.splitlines()
    assert line.startswith("geventgate: error: ")
    assert message.replace("FOLDER", str(folder)) in line
    assert (said.returncode, said.stdout) == (status, "")


def test_port_in_use(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        said = run("--chdir", folder, "--bind", "127.0.0.1:0", "--bind", address, "hello:app")
    assert said.stderr == f"geventgate: error: cannot listen on {address}: Address already in use\n"
    assert said.returncode == 1


def obey_permissions():
    """Root minds no permissions: take that from it (PR_CAPBSET_DROP, CAP_DAC_OVERRIDE). Others could not, need not."""
    ctypes.CDLL(None).prctl(24, 1, 0, 0, 0)


@pytest.mark.parametrize("option", ["--bind unix:{}/socket", "--error-logfile {}/log", "--access-logfile {}/log"])
def test_permission_denied(folder, tmp_path, option):
    tmp_path.chmod(0o500)
    said = run("--chdir", folder, *option.format(tmp_path).split(), "hello:app", preexec_fn=obey_permissions)
    (line,) = said.stderr.splitlines()
    assert line.startswith("geventgate: error: ")
    assert line.endswith(": Permission denied")
    assert said.returncode == 1


def test_the_whole_traceback_for_those_who_ask(folder):
    said = run("--chdir", folder, "--log-level", "debug", "raises:app")
    assert said.stderr.startswith("Traceback (most recent call last):\n")
    assert said.stderr.splitlines()[-1].startswith("geventgate: error: cannot import raises: ValueError: it went wrong")
    assert said.returncode == 1


# --- what can be asked


def test_check_config_binds_nothing(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        said = run("--check-config", "--chdir", folder, "--bind", f"127.0.0.1:{taken.getsockname()[1]}", "hello:app")
    assert (said.returncode, said.stdout, said.stderr) == (0, "configuration OK\n", "")


def test_check_config_finds_what_is_wrong(folder):
    assert run("--check-config", "--chdir", folder, "text:app").returncode == 1


def test_version():
    said = run("--version")
    assert re.fullmatch(
        r"geventgate \d+\.\d+\.\d+ "
        r"\((native|pure Python), gevent \d\S*, h2 4\S*(, ngh2 0\S*)?, CPython 3\.\d+\.\d+\S*\)\n",
        said.stdout,
    )
    assert (said.returncode, said.stderr) == (0, "")


def test_help_is_grouped_and_fits():
    text = argument_parser().format_help()
    assert max(map(len, text.splitlines())) <= 100
    for heading in ("where it listens:", "the application:", "logs:", "times, in seconds:", "limits:", "WebSockets:"):
        assert f"\n{heading}\n" in text
    assert "--patch, --no-patch" in text
    words = " ".join(text.split())
    assert "(default: 127.0.0.1:8000)" in words
    assert "(default: yes)" in words
    assert words.count("(default:") == sum(field.default not in ("", ()) for field in fields(Config))
    assert "(default: )" not in words


# --- a life


def test_serve_and_drain(folder):
    with Running("--chdir", folder, "--keep-alive", "75", "--limit-request-body", "1000", "hello:app") as server:
        start = server.seen[-1]
        assert server.get() == b"hello"
        server.await_line("^asked$")
        status, stderr = server.end()
    assert re.match(r"\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}\] \[\d+\] \[INFO\] geventgate \d", start)
    assert (
        f"(pid {server.process.pid}) serves hello:app on http://127.0.0.1:{server.port}: HTTP/1.1, WebSocket; " in start
    )
    assert start.endswith("; --keep-alive 75 --limit-request-body 1000")
    assert status == 0
    assert "SIGTERM: stopping" in stderr
    assert "Traceback" not in stderr
    assert len(stderr.splitlines()) == 3, stderr


@pytest.mark.parametrize("options", [(), ("--workers", "1"), ("--interface", "asgi", "--lifespan", "on")])
def test_an_asgi_application(folder, options):
    with Running("--chdir", folder, *options, "asynchronous:app") as server:
        assert server.seen[0] == "startup"
        assert server.get() == b"hello, coroutine"
        status, said = server.end()
    assert (status, said.count("startup"), said.splitlines()[-1]) == (0, 1, "shutdown")


@pytest.mark.parametrize("options", [(), ("--workers", "1")])
def test_asyncio_run_in_several_greenlets(folder, options):
    """Although it was imported by a request only."""
    with Running("--chdir", folder, *options, "asyncio_later:app") as server, ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: server.get(), range(4))) == [b"False GeventLoop"] * 4


def test_the_start_line_names_only_what_is_off_its_default():
    line = start_line(
        Config(log_level="debug", ws_origins=("https://a", "https://b")), "a:b", ["unix:/s", "http://[::1]:1"]
    )
    assert line.endswith(
        "serves a:b on unix:/s, http://[::1]:1: HTTP/1.1, WebSocket; --ws-origins https://a, https://b"
    )
    assert start_line(Config(), "a:b", ["unix:/s"]).endswith("on unix:/s: HTTP/1.1, WebSocket")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_a_request_end(folder, number):
    with Running("--chdir", folder, "body:app") as server, server.connect() as peer:
        peer.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nfoo")
        server.await_line("^reading$")
        server.process.send_signal(number)
        server.await_line(f"{number.name}: stopping; what runs may go on for 30 s")
        peer.sendall(b"bar")
        assert answer(peer) == b"foobar"
        assert server.process.wait(WAIT) == 0


def test_a_second_interrupt_ends_at_once(folder):
    with Running("--chdir", folder, "body:app") as server, server.connect() as peer:
        peer.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nfoo")
        server.await_line("^reading$")
        server.process.send_signal(signal.SIGINT)
        server.await_line("SIGINT: stopping")
        status, stderr = server.end(signal.SIGINT)
    assert status == 130
    assert "Traceback" not in stderr


def test_a_second_terminate_still_drains(folder):
    with Running("--chdir", folder, "body:app") as server, server.connect() as peer:
        peer.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\nfoo")
        server.await_line("^reading$")
        server.process.send_signal(signal.SIGTERM)
        server.await_line("SIGTERM: stopping")
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGINT)  # the first of its kind
        peer.sendall(b"bar")
        assert answer(peer) == b"foobar"
        assert server.process.wait(WAIT) == 0


def test_interrupts_end_what_is_blocked(folder):
    with Running("--chdir", folder, "busy:app") as server, server.connect() as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        server.await_line("^busy$")
        for _ in range(100):  # signals that come together are one
            server.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                server.process.wait(0.1)
                break
        assert server.process.wait(WAIT) == 130


@pytest.mark.parametrize("option", ["--patch", "--no-patch"])
def test_threads_of_the_application_do_not_keep_it_alive(folder, option):
    with Running("--chdir", folder, "--graceful-timeout", "1", option, "threads:app") as server:
        status, stderr = server.end()
    assert status == 0
    assert "ended without threads of the application: worker" in stderr
    assert "Traceback" not in stderr


def test_threads_of_the_application_do_not_keep_what_failed_alive(folder):
    said = run("--chdir", folder, "threads:nope")
    assert said.returncode == 1
    error, warning = said.stderr.splitlines()
    assert error == "geventgate: error: threads:nope: module 'threads' has no attribute 'nope'"
    assert warning.endswith("ended without threads of the application: worker")


def test_threads_that_end_with_python_delay_nothing(folder):
    with Running("--chdir", folder, "--graceful-timeout", "1000", "pool:app") as server:
        status, stderr = server.end()
    assert status == 0
    assert "threads" not in stderr


def test_interrupted_while_importing(folder):
    process = subprocess.Popen(
        command("--chdir", folder, "waits:app"), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=WAIT)
    assert (process.returncode, stderr) == (-signal.SIGINT, "")  # a shell says 130


# --- logs


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1])
def test_logs_are_rotated(folder, tmp_path, number):
    access, old = tmp_path / "access.log", tmp_path / "access.log.1"
    with Running("--chdir", folder, "--access-logfile", access, "hello:app") as server:
        server.get("/before")
        access.rename(old)
        server.process.send_signal(number)
        for _ in range(1000):  # the signal is heard at some request
            server.get("/after")
            if access.exists():
                break
        server.get("/last")
        status, stderr = server.end()
    assert re.fullmatch(
        r'127\.0\.0\.1 - - \[[^]]*\] "GET /before HTTP/1\.1" 200 5 "-" "-" 0\.\d{6}', old.read_text().splitlines()[0]
    )
    assert '"GET /last HTTP/1.1" 200 5 ' in access.read_text()
    assert status == 0
    assert "Traceback" not in stderr


def test_a_hangup_does_not_kill_what_is_still_starting(folder):
    with Running("--chdir", folder, "hangup:app") as server:
        assert server.end()[0] == 0


def test_an_application_may_configure_logging(folder):
    with Running("--chdir", folder, "dictconfig:app") as server:  # its start line was seen
        assert server.get() == b"hello"
        assert "SIGTERM: stopping" in server.end()[1]


def test_an_application_may_have_the_access_log_in_its_own(folder):
    with Running("--chdir", folder, "ownlog:app") as server:
        server.get("/here")
        server.await_line(r'^own: 127\.0\.0\.1 - - .* "GET /here HTTP/1\.1" 200 5 ')
        assert server.end()[0] == 0


def test_a_full_disk_fails_no_request(folder):
    with Running("--chdir", folder, "--access-logfile", "/dev/full", "hello:app") as server:
        assert [server.get(), server.get()] == [b"hello", b"hello"]
        status, stderr = server.end()
    assert status == 0
    assert stderr.count("cannot write to /dev/full: No space left on device") == 1


def test_a_reader_of_the_access_log_may_go(folder):
    reader, writer = os.pipe()
    with Running("--chdir", folder, "--access-logfile", "-", "hello:app", stdout=writer) as server:
        os.close(writer)
        server.get("/seen")
        assert b'"GET /seen HTTP/1.1" 200 5 ' in os.read(reader, 65536)
        os.close(reader)
        assert [server.get(), server.get()] == [b"hello", b"hello"]
        status, stderr = server.end()
    assert status == 0
    assert stderr.count("Broken pipe") == 1


def test_the_error_log_takes_all(folder, tmp_path):
    log = tmp_path / "error.log"
    process = subprocess.Popen(
        command("--bind", "127.0.0.1:0", "--chdir", folder, "--error-logfile", log, "--check-config", "hello:app"),
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip
    _, stderr = process.communicate(timeout=WAIT)
    assert (process.returncode, stderr) == (0, b"")
    assert log.exists()


# --- patching


@pytest.mark.parametrize(("option", "patched"), [("--patch", True), ("--no-patch", False)])
def test_patched_before_the_application_is_imported(folder, option, patched):
    said = run("--check-config", option, "--chdir", folder, "patched:app")
    assert said.stderr == f"patched: {patched}\n"  # and no warning
    assert said.returncode == 0


EARLY = "import sys; import {}; from geventgate.cli import main; sys.exit(main())"


@pytest.mark.parametrize(
    ("early", "named"),
    [
        ("ssl", "ssl"),
        ("threading", "threading"),
        ("ssl, threading", "ssl, threading"),
        ("holds_sockets", "holds_sockets"),
        ("holds_ssl, json", "ssl, holds_ssl"),
        ("json, decimal", ""),
        ("gevent.monkey; gevent.monkey.patch_all(); import ssl", ""),
    ],
)
def test_what_was_imported_too_early_is_named(folder, early, named):
    (folder / "holds_sockets.py").write_text("import socket\n")
    (folder / "holds_ssl.py").write_text("import ssl\n")
    said = subprocess.run(
        [sys.executable, "-c", EARLY.format(early), "--check-config", "--chdir", folder, "hello:app"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": f"{folder}:{ROOT}"}, capture_output=True, text=True, timeout=WAIT,
    )  # fmt: skip
    assert said.stdout == "configuration OK\n"
    lines = said.stderr.splitlines()
    assert len(lines) == bool(named), lines
    if named:
        assert f"[WARNING] imported too early, before the standard library was patched: {named};" in lines[0]


def test_patching_can_be_declined_in_silence(folder):
    said = subprocess.run(
        [sys.executable, "-c", EARLY.format("ssl"), "--no-patch", "--check-config", "--chdir", folder, "hello:app"],
        cwd=ROOT, capture_output=True, text=True, timeout=WAIT,
    )  # fmt: skip
    assert (said.returncode, said.stderr) == (0, "")


def test_strange_modules_are_no_trouble():
    assert imported_too_early({"odd": None, "odder": object(), "socket": socket}) == []


def test_importing_the_package_imports_nothing_that_patching_minds():
    source = """if True:
        import sys
        import geventgate
        from geventgate import cli, config, errors
        dir(geventgate), geventgate.errors, geventgate.Config
        print([name for name in ("gevent", "ssl", "threading", "socket", "logging") if name in sys.modules])
        """
    said = subprocess.run([sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, timeout=WAIT)
    assert (said.stdout, said.stderr) == ("[]\n", "")


def test_public_names():
    import geventgate

    for name in geventgate.__all__:
        assert getattr(geventgate, name) is not None
        assert name in dir(geventgate)
    with pytest.raises(AttributeError, match="module 'geventgate' has no attribute 'nope'"):
        geventgate.nope  # noqa: B018


# --- in a program


PROGRAM = """
from gevent import monkey
{patch}
import logging
import geventgate
from hello import app

{logging}
geventgate.serve(app, bind="127.0.0.1:0", keep_alive=75)
print("over")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve(folder, number):
    program = [sys.executable, "-c", PROGRAM.format(patch="monkey.patch_all()", logging="")]
    env = os.environ | {"PYTHONPATH": f"{folder}:{ROOT}"}
    with Running(program=program, env=env, stdout=subprocess.PIPE) as server:
        assert server.get() == b"hello"
        status, stderr = server.end(number)
        assert server.process.stdout.read() == "over\n"
        server.process.stdout.close()
    assert status == 0
    assert f"serves app on http://127.0.0.1:{server.port}: HTTP/1.1, WebSocket; --keep-alive 75\n" in stderr
    assert "not patched" not in stderr


def test_serve_leaves_the_programs_logging_alone(folder):
    program = [sys.executable, "-c", PROGRAM.format(patch="", logging="logging.basicConfig(level='INFO')")]
    with Running(program=program, env=os.environ | {"PYTHONPATH": f"{folder}:{ROOT}"}) as server:
        stderr = server.end()[1]
    assert "INFO:geventgate:geventgate " in stderr
    assert stderr.count("WARNING:geventgate:the standard library is not patched") == 1
