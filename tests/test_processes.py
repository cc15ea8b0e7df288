"""``--workers`` and ``--reload`` as their user meets them: the command line, its processes, signals and logs."""

import json
import os
import pwd
import re
import signal
import socket
import sys
import tempfile
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import pytest

from geventgate.testing import WebSocketClient
from tests.applications.test_front import somebody
from tests.restarts import Load
from tests.test_cli import WAIT, command, run
from tests.test_cli import Running as RunningAlone

WORK = """
    import json, os, time
    from gevent.monkey import is_module_patched

    imported_by = os.getpid()

    def stuck():
        while True:
            pass

    def app(environ, start_response):
        path = environ["PATH_INFO"]
        if "wsgi.websocket" in environ:
            for message in environ["wsgi.websocket"]:
                environ["wsgi.websocket"].send(message)
            return []
        if path == "/stuck":
            stuck()
        if path == "/slow":
            print("asked", file=environ["wsgi.errors"])
            time.sleep(1)
        seen = {
            "pid": os.getpid(), "parent": os.getppid(), "imported_by": imported_by, "uid": os.getuid(),
            "multiprocess": environ["wsgi.multiprocess"], "umask": os.umask(0o22), "folder": os.getcwd(),
            "patched": [name for name in ("socket", "os", "signal") if is_module_patched(name)],
            "environ": [name for name in os.environ if name.startswith(("_G", "GUNI", "LISTEN", "SERVER", "NOTIFY"))],
        }
        os.umask(seen["umask"])
        body = json.dumps(seen).encode()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]
    """
PID = """
    import os

    def app(environ, start_response):
        body = b"%d" % os.getpid()
        start_response("200 OK", [("Content-Length", str(len(body)))])
        return [body]
    """


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch):
    """Coverage would import threading early into every process, and that is rightly warned of."""
    for name in [name for name in os.environ if name.startswith("COVERAGE_PROCESS")]:
        monkeypatch.delenv(name)


@pytest.fixture
def folder():
    """Open to others, as pytest's own are not."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o777)
        (folder / "work.py").write_text(textwrap.dedent(WORK))
        (folder / "pid.py").write_text(textwrap.dedent(PID))
        yield folder


class Running(RunningAlone):
    """In a process group of its own; what a test that failed leaves of it is killed."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, start_new_session=True, **more)

    def __exit__(self, *error):
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        super().__exit__(*error)


def seen(server, target="/"):
    return json.loads(server.get(target))


def until(attempt, what=""):
    """What *attempt* returns, once that is true and raises no OSError."""
    deadline = time.monotonic() + WAIT
    while True:
        with suppress(OSError):
            if found := attempt():
                return found
        assert time.monotonic() < deadline, what or attempt
        time.sleep(0.02)


def children(server):
    """The ids of its workers that live."""
    text = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    return {int(pid) for pid in text.split() if Path(f"/proc/{pid}/cmdline").read_bytes()}


def logged(stderr):
    """The messages of the error log."""
    return [re.sub(r"^\[[^]]*\] \[\d+\] ", "", line) for line in stderr.splitlines()]


# --- a life


def test_two_processes_serve_and_a_third_keeps_them(folder):
    with Running("--workers", "2", "--chdir", folder, "--umask", "027", "--keep-alive", "75", "work:app") as server:
        assert f"(pid {server.process.pid}, 2 workers) serves work:app on " in server.seen[-1]
        answers = until(lambda: len({(one := seen(server))["pid"] for _ in range(20)}) == 2 and one)
        assert answers["parent"] == server.process.pid
        assert answers["imported_by"] == answers["pid"]
        assert answers["multiprocess"] is True
        assert answers["umask"] == 0o27
        assert answers["folder"] == str(folder)
        assert answers["patched"] == ["socket", "os", "signal"]
        assert answers["environ"] == []
        workers = children(server)
        assert len(workers) == 2
        status, stderr = server.end()
    assert status == 0
    assert [line.partition(" (pid")[0] for line in logged(stderr)] == [
        "[INFO] geventgate 0.1.0",
        "[INFO] SIGTERM: stopping; what runs may go on for 30 s",
    ]
    assert stderr.splitlines()[0].endswith(": HTTP/1.1, WebSocket; --keep-alive 75")
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_one_worker_unpatched(folder, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    options = ("-w", "1", "--no-patch", "--chdir", folder)
    with Running(*options, "work:app", env=os.environ | {"HOME": str(home)}) as server:
        answer = seen(server)
        assert answer["multiprocess"] is False
        assert answer["patched"] == []
        assert list(home.rglob("*")) == []  # no control socket
        status, stderr = server.end(signal.SIGINT)
    assert status == 0
    assert len(stderr.splitlines()) == 2, stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_lets_requests_end(folder, number):
    """The signal reaches the workers too, as a terminal's does and systemd's."""
    with Running("-w", "2", "--chdir", folder, "work:app") as server, server.connect() as peer:
        with WebSocketClient(f"ws://127.0.0.1:{server.port}/") as socket:
            peer.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            server.await_line("^asked$")
            os.killpg(server.process.pid, number)
            assert socket.receive() is None
            assert socket.close_code == 1001
        assert b'"pid"' in b"".join(iter(lambda: peer.recv(65536), b""))
        status, stderr = server.process.wait(WAIT), server.end()[1]
    assert status == 0
    assert "Traceback" not in stderr
    assert len(logged(stderr)) == 3, stderr


def test_a_second_interrupt_ends_at_once(folder):
    with Running("-w", "2", "--chdir", folder, "work:app") as server, server.connect() as peer:
        peer.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        server.await_line("^asked$")
        workers = children(server)
        server.process.send_signal(signal.SIGINT)
        server.await_line("SIGINT: stopping")
        status, stderr = server.end(signal.SIGINT)
    assert status == 130
    assert "Traceback" not in stderr
    until(
        lambda: not any(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in workers if Path(f"/proc/{pid}").exists())
    )


# --- what goes wrong is one line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["no_such_module:app"], "no module named 'no_such_module' (in "),
        (["-w", "3", "raises:app"], "cannot import raises: ValueError: it went wrong (FOLDER/raises.py, line 1)"),
        (["--preload", "raises:app"], "cannot import raises: ValueError: it went wrong (FOLDER/raises.py, line 1)"),
        (["work:nothing"], "work:nothing: module 'work' has no attribute 'nothing'"),
        (["starts_not:app"], "the application's startup failed: no database"),
        (["dies:app"], "has ended (status 7) before it served"),
        (["--certfile", "no.pem", "work:app"], "no.pem: No such file or directory"),
        (["--bind", "127.0.0.1:TAKEN", "work:app"], "cannot listen on 127.0.0.1:TAKEN: Address already in use"),
        (["--bind", "nonsense", "work:app"], "--bind nonsense: not HOST:PORT"),
        (["--pid", "/no/such/pid", "work:app"], "--pid /no/such/pid: No such file or directory"),
        (["--workers=-1", "work:app"], "--workers is -1, and should be 0 or more"),
        (["--preload", "--reload", "work:app"], "--reload"),
    ],
)
def test_errors(folder, options, message):
    (folder / "raises.py").write_text("raise ValueError('it went wrong')\n")
    (folder / "starts_not.py").write_text(
        "async def app(scope, receive, send):\n"
        "    await send({'type': 'lifespan.startup.failed', 'message': 'no database'})\n"
    )
    (folder / "dies.py").write_text("import os; os._exit(7)\n")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        words = [word.replace("TAKEN", port) for word in options]
        said = run("--workers", "2", "--bind", "127.0.0.1:0", "--chdir", folder, *words)
    (line,) = said.stderr.splitlines()  # nothing is tried again
    assert line.startswith("geventgate: error: ")
    assert message.replace("FOLDER", str(folder)).replace("TAKEN", port) in line
    assert said.returncode == (2 if message.startswith(("--workers", "--reload")) else 1)
    assert said.stdout == ""


def test_asked_before(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        bind = f"127.0.0.1:{taken.getsockname()[1]}"
        said = run("--check-config", "--workers", "2", "--bind", bind, "--chdir", folder, "work:app")
    assert (said.returncode, said.stdout, said.stderr) == (0, "configuration OK\n", "")
    said = run("--print-config", "--workers", "2", "--max-requests", "100")
    assert re.search(r"^workers = 2 .*# --workers$", said.stdout, re.MULTILINE)
    assert re.search(r"^max_requests = 100 .*# --max-requests$", said.stdout, re.MULTILINE)


def test_what_only_workers_heed(folder):
    options = ("--timeout", "5", "--max-requests", "9", "--chdir", folder, "work:app")
    said = run("--check-config", *options)
    assert logged(said.stderr) == ["[WARNING] without --workers this has no effect: --timeout, --max-requests"]
    assert run("--check-config", "--workers", "1", *options).stderr == ""


# --- where it listens, and who it is


def get(address):
    peer = socket.socket(socket.AF_INET6 if isinstance(address, tuple) else socket.AF_UNIX)
    peer.settimeout(WAIT)
    with peer:
        peer.connect(address)
        peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return json.loads(b"".join(iter(lambda: peer.recv(65536), b"")).partition(b"\r\n\r\n")[2])


def test_every_kind_of_address(folder):
    """And another user, a pid file, a supervisor."""
    name, path, pid = f"@geventgate-{os.getpid()}", folder / "socket", folder / "pid"
    with (
        socket.create_server(("127.0.0.1", 0)) as passed,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor,
        socket.socket() as rival,
    ):
        supervisor.bind(str(folder / "notify"))
        supervisor.settimeout(WAIT)
        (folder / "notify").chmod(0o777)
        rival.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        rival.bind(("127.0.0.1", 0))
        binds = ["127.0.0.1:0", f"127.0.0.1:{rival.getsockname()[1]}", "[::1]:0"]
        binds += [f"unix:{path}", f"unix:{name}", f"fd://{passed.fileno()}"]
        words = command("-w", "2", "--reuse-port", "--chdir", folder, "--pid", "pid", "work:app")
        words += [word for bind in binds for word in ("--bind", bind)]
        who = ("--user", somebody()) if os.geteuid() == 0 else ()
        env = os.environ | {"NOTIFY_SOCKET": str(folder / "notify")}
        with Running(program=[*words, *who], env=env, pass_fds=[passed.fileno()]) as server:
            assert supervisor.recv(100) == b"READY=1"
            urls = re.search(r" on (.*): HTTP/1\.1", server.seen[-1])[1].split(", ")
            assert urls[3:5] == [f"unix:{path}", f"unix:{name}"]
            six = int(urls[2].removeprefix("http://[::1]:"))
            answers = [seen(server), get(str(path)), get(f"\0{name[1:]}"), get(("::1", six))]
            server.port = passed.getsockname()[1]
            answers.append(seen(server))
            assert {answer["parent"] for answer in answers} == {server.process.pid}
            if who:
                assert {answer["uid"] for answer in answers} == {pwd.getpwnam(who[1]).pw_uid}
            assert pid.read_text() == f"{server.process.pid}\n"
            assert server.end()[0] == 0
            assert supervisor.recv(100) == b"STOPPING=1"
        with socket.create_connection(passed.getsockname(), WAIT):
            pass  # its owner goes on listening, and nothing filters what comes


def test_the_files_go_with_the_server(folder):
    with Running(
        program=command("-w", "1", "-b", "127.0.0.1:0", "-b", "unix:socket", "-p", "pid", "--chdir", folder, "pid:app")
    ) as server:
        assert (folder / "socket").is_socket()
        (worker,) = children(server)
        os.kill(worker, signal.SIGTERM)  # its own end takes nothing away
        server.await_line(rf"worker {worker} has ended \(status 0\); another takes its place")
        until(lambda: children(server) not in (set(), {worker}))
        assert (folder / "socket").is_socket()
        assert (folder / "pid").read_text() == f"{server.process.pid}\n"
        server.end()
    assert not (folder / "socket").exists()
    assert not (folder / "pid").exists()


# As systemd: the socket is the third descriptor, and LISTEN_PID that of the process that receives it.
ACTIVATOR = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_a_supervisor_passes_sockets(folder):
    with socket.create_server(("127.0.0.1", 0)) as passed:
        fd = os.dup2(passed.fileno(), 70, inheritable=True)
        words = [sys.executable, "-c", ACTIVATOR, str(fd), *command("-w", "2", "--chdir", folder, "work:app")]
        with Running(program=words, pass_fds=[fd]) as server:
            os.close(fd)
            assert server.port == passed.getsockname()[1]
            assert seen(server)["environ"] == []
            assert server.end()[0] == 0


# --- signals


def test_a_killed_worker_is_replaced(folder):
    with Running("-w", "2", "--chdir", folder, "pid:app") as server, Load(("127.0.0.1", server.port), kept=0) as load:
        victim = int(load.who().pop())
        before = children(server)
        begun = time.monotonic()
        os.kill(victim, signal.SIGKILL)
        until(lambda: len(children(server) - {victim}) == 2)
        assert time.monotonic() - begun < 5.0  # a moment on a machine that is not busy
        load.await_others({b"%d" % victim})
        assert len(load.lost) <= 3  # what it had accepted
        assert children(server) & before == before - {victim}
        server.await_line(rf"\[ERROR\] worker {victim} has ended \(SIGKILL, perhaps out of memory\)")
        assert load.refused == 0


@pytest.mark.parametrize("rounds", [3, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_a_reload_loses_nothing(folder, rounds):
    with (
        Running("-w", "2", "--chdir", folder, "pid:app") as server,
        Load(("127.0.0.1", server.port)) as load,
    ):
        serving = load.who()
        for _ in range(rounds):
            server.process.send_signal(signal.SIGHUP)
            serving = load.await_others(serving)
        assert (load.lost, load.refused) == ([], 0)
        assert server.process.poll() is None
        assert serving <= {b"%d" % pid for pid in children(server)}


@pytest.mark.parametrize("rounds", [2, pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(900)])])
def test_a_stop_loses_nothing(folder, rounds):
    for _ in range(rounds):
        with Running("-w", "2", "--chdir", folder, "pid:app") as server:
            with Load(("127.0.0.1", server.port)) as load:
                load.await_answers(50)
                server.process.terminate()
                assert server.process.wait(WAIT) == 0
            assert load.lost == []


def test_a_reload_brings_the_new_application_or_none(folder):
    app = folder / "changing.py"
    source = "def app(environ, start_response):\n    if 'wsgi.websocket' in environ:\n        "
    source += (
        "environ['wsgi.websocket'].receive()\n        return []\n    start_response('200 OK', [])\n    return [b'%s']\n"
    )
    app.write_text(source % "first")
    access = folder / "access.log"
    with (
        Running("-w", "2", "--chdir", folder, "--access-logfile", access, "changing:app") as server,
        WebSocketClient(f"ws://127.0.0.1:{server.port}/") as peer,
    ):
        assert server.get() == b"first"
        before = children(server)

        app.write_text("def app(:\n")
        server.process.send_signal(signal.SIGHUP)
        server.await_line(
            r"\[ERROR\] not reloaded, the workers that serve go on: cannot import changing: SyntaxError: .*, line 1\)$"
        )
        until(lambda: children(server) == before)
        assert server.get() == b"first"

        access.rename(folder / "access.log.1")
        app.write_text(source % "the second")
        server.process.send_signal(signal.SIGHUP)
        server.await_line("reloaded: the new workers serve")
        assert peer.receive() is None
        assert peer.close_code == 1012
        until(lambda: server.get() == b"the second" and not children(server) & before)
        assert {server.get() for _ in range(6)} == {b"the second"}
        status, stderr = server.end()
    assert status == 0
    assert "Traceback" not in stderr
    assert '"GET / HTTP/1.1" 200 5 ' in (folder / "access.log.1").read_text()
    assert '"GET / HTTP/1.1" 200 10 ' in access.read_text()
    assert " 101 " in access.read_text()  # of an old worker, which has opened it again too


def test_logs_are_reopened_by_all(folder):
    access, errors = folder / "access.log", folder / "error.log"
    options = ("--access-logfile", access, "--chdir", folder, "--log-level", "info")
    with Running("-w", "2", *options, "pid:app") as server:
        while len({server.get("/before") for _ in range(10)}) < 2:
            pass
        access.rename(folder / "access.log.1")
        server.process.send_signal(signal.SIGUSR1)
        until(access.exists)
        pids: set[bytes] = set()

        def all_write() -> bool:
            old = (folder / "access.log.1").stat().st_size
            pids.update(server.get("/after") for _ in range(20))
            return len(pids) == 2 and (folder / "access.log.1").stat().st_size == old

        until(all_write)
        assert access.read_text().count("/after") >= 10
        assert server.end()[0] == 0
    assert not errors.exists()


def test_more_workers_and_fewer(folder):
    with Running("-w", "1", "--chdir", folder, "pid:app") as server, Load(("127.0.0.1", server.port)) as load:
        for number, count in ((signal.SIGTTIN, 2), (signal.SIGTTIN, 3), (signal.SIGTTOU, 2), (signal.SIGTTOU, 1)):
            server.process.send_signal(number)
            until(lambda count=count: len(children(server)) == count)
            load.await_answers(50)
        server.process.send_signal(signal.SIGTTOU)  # the last one stays
        load.await_answers(50)
        assert len(children(server)) == 1
        assert (load.lost, load.refused) == ([], 0)
        assert server.end()[0] == 0


def test_another_server_takes_over(folder):
    """USR2, and TERM for the old one; then USR2, and TERM for the new one."""
    pid, path = folder / "pid", folder / "socket"
    words = ("-w", "2", "--chdir", folder, "--pid", "pid", "-b", "127.0.0.1:0", "-b", "unix:socket", "pid:app")
    with Running(program=command(*words)) as server:
        old = server.process.pid
        with Load(("127.0.0.1", server.port)) as load, Load(str(path), fresh=2, kept=2) as unix:
            before = load.who()
            server.process.send_signal(signal.SIGUSR2)
            new = int(server.await_line(r"\(pid (\d+), 2 workers\) serves pid:app on ")[1])
            assert (pid.read_text(), (folder / "pid.2").read_text()) == (f"{old}\n", f"{new}\n")
            server.process.terminate()
            assert server.process.wait(WAIT) == 0
            load.await_others(before)
            unix.await_answers(50)
            until(lambda: pid.read_text() == f"{new}\n" and not (folder / "pid.2").exists())

            until(lambda: len(load.who()) == 2)
            before = load.who()
            os.kill(new, signal.SIGUSR2)
            third = int(server.await_line(r"\(pid (\d+), 2 workers\) serves pid:app on ")[1])
            os.kill(third, signal.SIGTERM)
            server.await_line(r"the server that USR2 started has ended \(status 0\); this one goes on")
            assert load.who() <= before
            unix.await_answers(50)
        assert (load.lost, load.refused, unix.lost, unix.refused) == ([], 0, [], 0)
        os.kill(new, signal.SIGTERM)
        until(lambda: not pid.exists() and not path.exists())


# --- workers that are replaced


def test_who_blocks_is_named_and_replaced(folder):
    with Running("-w", "1", "--timeout", "2", "--chdir", folder, "work:app") as server, server.connect() as peer:
        first = seen(server)["pid"]
        peer.sendall(b"GET /stuck HTTP/1.1\r\nHost: x\r\n\r\n")
        assert peer.recv(100) == b""
        assert seen(server)["pid"] != first
        status, stderr = server.end()
    assert status == 0
    assert "the hub was blocked for more than 2 s by GET b'/stuck'" in stderr
    assert re.search(r"^\[[^]]*\] \[\d+\] \[CRITICAL\]   File .*work\.py\", line \d+, in stuck$", stderr, re.MULTILINE)
    assert re.search(rf"worker {first} has ended \((status 1|SIGKILL.*)\); another takes its place", stderr)


def test_workers_serve_so_many_requests(folder):
    options = ("--max-requests", "40", "--max-requests-jitter", "20")
    with (
        Running("-w", "2", *options, "--chdir", folder, "pid:app") as server,
        Load(("127.0.0.1", server.port)) as load,
    ):
        pids: set[bytes] = set()
        until(lambda: pids.update(load.who(20)) or len(pids) >= 6)
        assert (load.lost, load.refused) == ([], 0)
        status, stderr = server.end()
    assert status == 0
    assert "[ERROR]" not in stderr


def test_imported_once_before(folder):
    with Running("-w", "2", "--preload", "--chdir", folder, "work:app") as server:
        answers = [seen(server) for _ in range(10)]
        assert {one["imported_by"] for one in answers} == {server.process.pid}
        assert answers[0]["patched"] == ["socket", "os", "signal"]
        before = children(server)
        server.process.send_signal(signal.SIGHUP)
        server.await_line(r"as it was imported \(--preload\)")
        until(lambda: not children(server) & before)
        assert seen(server)["imported_by"] == server.process.pid
        assert server.end()[0] == 0


# --- reloading


def test_reloads_when_a_source_changes(folder):
    """A package, of which a module is imported late; an error in between is said, and shown."""
    (folder / "shop").mkdir()
    (folder / "shop" / "__init__.py").write_text("")
    part = folder / "shop" / "part.py"
    part.write_text("text = 'first'\n")
    (folder / "shop" / "web.py").write_text(
        textwrap.dedent("""
        def app(environ, start_response):
            from shop.part import text
            start_response("200 OK", [])
            return [text.encode()]
        """)
    )
    with Running("--reload", "--chdir", folder, "shop.web:app") as server:
        assert ", 1 worker) serves" in server.seen[-1]
        assert server.get() == b"first"
        change(part, "text = 'second'\n", lambda: server.get() == b"second")
        web = folder / "shop" / "web.py"
        good = web.read_text()
        change(web, "def app(:\n", lambda: status(server)[0] == 500)
        assert b"cannot import shop.web: SyntaxError: invalid syntax" in status(server)[1]
        change(web, good.replace("text.encode()", "b'third'"), lambda: status(server) == (200, b"third"))
        code, stderr = server.end()
    assert code == 0
    assert "Traceback" not in stderr
    assert f"[INFO] {part} has changed" in stderr
    assert re.search(r"\[ERROR\] cannot import shop.web: SyntaxError: .*, line 1\); waiting for a change", stderr)


def change(path, text, noticed):
    """Write *text*, of a later time whatever the file system counts in, and again until it is *noticed*: a change
    before the file was first looked at is none."""
    later = path.stat().st_mtime
    path.write_text(text)

    def attempt():
        nonlocal later
        later += 2
        os.utime(path, (later, later))
        time.sleep(1.5)
        return noticed()

    until(attempt)


def status(server):
    with server.connect() as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head, _, content = b"".join(iter(lambda: peer.recv(65536), b"")).partition(b"\r\n\r\n")
        return int(head.split()[1]), content


def test_waits_for_an_application_that_is_not_there_yet(folder):
    with Running("--reload", "--chdir", folder, "later:app") as server:
        assert status(server) == (500, f"no module named 'later' (in {folder} or on the path)\n".encode())
        (folder / "later.py").write_text((folder / "pid.py").read_text())
        until(lambda: status(server)[0] == 200)
        assert server.end()[0] == 0
