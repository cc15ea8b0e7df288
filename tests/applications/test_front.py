"""The ways in as they are used: Debian's HAProxy and nginx in front, sockets from a supervisor, another user."""

import ast
import os
import pwd
import re
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import geventgate
from tests.conftest import ROOT, START, STOP, Gate, StartGate, free_port

HERE = Path(__file__).parent
REQUEST = b"GET /path HTTP/1.1\r\nHost: example.org\r\nConnection: close\r\n%b\r\n"
V1 = b"PROXY TCP4 6.6.6.6 6.6.6.7 1 2\r\n"
V2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\6\6\6\6\6\6\6\7\0\1\0\2"
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(autouse=True)
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Coverage is imported before the standard library is patched, which is worth a line; and another user cannot save
    what it found."""
    for name in ("COVERAGE_PROCESS_CONFIG", "COVERAGE_PROCESS_START"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts programs, and ends them."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*command: Any, **options: Any) -> subprocess.Popen[bytes]:
        running.append(subprocess.Popen([*map(str, command)], **options))
        return running[-1]

    yield start
    for process in running:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def ask(address: Any, fields: bytes = b"", before: bytes = b"", source: str = "127.0.0.1") -> dict[str, Any]:
    """What the application saw. Raises ConnectionError when nobody answers, AssertionError when it is no 200."""
    answer = raw(address, before + REQUEST % fields, source)
    head, _, content = answer.partition(b"\r\n\r\n")
    if not head:
        raise ConnectionResetError("no answer")
    assert head.startswith(b"HTTP/1.1 200 "), answer
    if b"chunked" in head.lower():
        content = content.partition(b"\r\n")[2].rpartition(b"\r\n0\r\n")[0]
    return ast.literal_eval(content.decode())  # type: ignore[no-any-return]


def raw(address: Any, wire: bytes, source: str = "127.0.0.1") -> bytes:
    if isinstance(address, tuple):
        peer = socket.create_connection(address, 10.0, (source, 0))
    else:
        peer = socket.socket(socket.AF_UNIX)
        peer.settimeout(10.0)
        peer.connect(str(address))
    with peer:
        peer.sendall(wire)
        answer = bytearray()
        while data := peer.recv(65536):
            answer += data
        return bytes(answer)


def until(attempt: Callable[[], Any], process: subprocess.Popen[bytes]) -> Any:
    """What *attempt* returns once it works."""
    deadline = time.monotonic() + START
    while True:
        try:
            return attempt()
        except (OSError, AssertionError):
            assert process.poll() is None, f"it has ended with {process.returncode}"
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


# --- HAProxy

HAPROXY = """
    global
        maxconn 100
    defaults
        mode {mode}
        timeout connect 5s
        timeout client 10s
        timeout server 10s
    frontend front
        bind 127.0.0.1:{port}
        default_backend back
    backend back
        server one 127.0.0.1:{back} source 127.0.0.1 {options}
    """


def haproxy(start: Start, folder: Path, back: int, options: str, mode: str = "http") -> tuple[str, int]:
    port = free_port()
    config = folder / "haproxy.cfg"
    config.write_text(textwrap.dedent(HAPROXY.format(mode=mode, port=port, back=back, options=options)))
    process = start("haproxy", "-q", "-db", "-f", config)
    until(lambda: socket.create_connection(("127.0.0.1", port), 1.0).close(), process)
    return "127.0.0.1", port


@pytest.mark.needs("haproxy")
@pytest.mark.parametrize("mode", ["tcp", "http"])
@pytest.mark.parametrize(
    ("version", "options"),
    [
        ("v1", "send-proxy"),
        ("v2", "send-proxy-v2"),
        ("v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id,authority,ssl"),
        ("auto", "send-proxy"),
        ("auto", "send-proxy-v2"),
        ("auto", "send-proxy-v2 check inter 100ms"),
    ],
)
def test_haproxy(gate: StartGate, start: Start, tmp_path: Path, version: str, options: str, mode: str) -> None:
    server = gate("front_app:app", "--proxy-protocol", version, "--proxy-allow-from", "127.0.0.1")
    front = haproxy(start, tmp_path, server.port, options, mode)
    for client in ("127.0.0.7", "127.0.0.8"):
        assert ask(front, source=client)["REMOTE_ADDR"] == client
    # One that a client forges stands behind the true one, and is no request.
    for forged in (V1, V2):
        answer = raw(front, forged + REQUEST % b"", "127.0.0.7")
        assert answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.needs("haproxy")
def test_forged_from_elsewhere(gate: StartGate, start: Start, tmp_path: Path) -> None:
    """Past the proxy: what is no proxy's address speaks for itself only."""
    server = gate("front_app:app", "--proxy-protocol", "auto", "--proxy-allow-from", "127.0.0.1")
    front = haproxy(start, tmp_path, server.port, "send-proxy-v2")
    past = ("127.0.0.1", server.port)
    for forged in (V1, V2):
        assert raw(past, forged + REQUEST % b"", "127.0.0.9").startswith(b"HTTP/1.1 400 ")
    assert ask(past, source="127.0.0.9")["REMOTE_ADDR"] == "127.0.0.9"
    assert ask(front, source="127.0.0.7")["REMOTE_ADDR"] == "127.0.0.7"
    refused = [line for line in server.stderr().splitlines() if "a PROXY header, which this peer may not send" in line]
    assert len(refused) == 2
    assert all("127.0.0.9:" in line for line in refused)


# --- nginx

NGINX = """
    worker_processes 1;
    pid {folder}/nginx.pid;
    error_log stderr;
    user root;
    events {{}}
    http {{
        access_log off;
        client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
        uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
        upstream back {{ server unix:{folder}/back.socket; keepalive 4; }}
        server {{
            listen 127.0.0.1:{port};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Forwarded-Proto https;
            proxy_set_header X-Forwarded-Host $http_host;
            proxy_set_header X-Forwarded-Port 443;
            location / {{ proxy_pass http://back; }}
            location /api/ {{
                proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                proxy_set_header X-Forwarded-Prefix /api;
                proxy_pass http://back/;
            }}
            location /rfc/ {{
                proxy_set_header Forwarded 'for="$remote_addr:$remote_port";proto=https;host="$http_host"';
                proxy_pass http://back;
            }}
        }}
    }}
    """


@pytest.fixture
def nginx(start: Start, tmp_path: Path) -> tuple[str, int]:
    port = free_port()
    config = tmp_path / "nginx.conf"
    config.write_text(textwrap.dedent(NGINX.format(folder=tmp_path, port=port)))
    process = start("nginx", "-p", tmp_path, "-e", "stderr", "-c", config, "-g", "daemon off;")
    until(lambda: socket.create_connection(("127.0.0.1", port), 1.0).close(), process)
    return "127.0.0.1", port


FORGED = b"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: evil\r\nForwarded: for=6.6.6.6\r\n"


@pytest.mark.needs("nginx")
def test_nginx(gate: StartGate, nginx: tuple[str, int], tmp_path: Path) -> None:
    names = "x-forwarded-for,x-forwarded-proto,x-forwarded-host,x-forwarded-port,x-forwarded-prefix"
    log = tmp_path / "access.txt"
    options = ("--forwarded-allow-ips", "unix:", "--forwarded-headers", names, "--access-logfile", str(log))
    server = gate("front_app:app", *options, unix=f"{tmp_path}/back.socket")
    seen = ask(nginx, FORGED, source="127.0.0.7")
    assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"], seen["HTTP_HOST"]) == ("127.0.0.7", "https", "example.org")
    assert (seen["SERVER_NAME"], seen["SERVER_PORT"]) == ("example.org", "443")
    assert server.stop() == 0
    assert [line.partition(" ")[0] for line in log.read_text().splitlines()] == ["127.0.0.7"]


@pytest.mark.needs("nginx")
def test_nginx_takes_a_prefix_away(gate: StartGate, nginx: tuple[str, int], tmp_path: Path) -> None:
    options = ("--forwarded-allow-ips", "unix:", "--forwarded-headers", "x-forwarded-for,x-forwarded-prefix")
    gate("front_app:app", *options, unix=f"{tmp_path}/back.socket")
    answer = raw(nginx, (REQUEST % b"").replace(b"/path", b"/api/path"), "127.0.0.7")
    seen = ast.literal_eval(answer[answer.index(b"{") : answer.rindex(b"}") + 1].decode())
    assert (seen["REMOTE_ADDR"], seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("127.0.0.7", "/api", "/path")


@pytest.mark.needs("nginx")
def test_nginx_with_the_rfcs_field(gate: StartGate, nginx: tuple[str, int], tmp_path: Path) -> None:
    options = ("--forwarded-allow-ips", "unix:", "--forwarded-headers", "forwarded")
    gate("front_app:app", *options, unix=f"{tmp_path}/back.socket")
    answer = raw(nginx, (REQUEST % FORGED).replace(b"/path", b"/rfc/"), "127.0.0.7")
    seen = ast.literal_eval(answer[answer.index(b"{") : answer.rindex(b"}") + 1].decode())
    assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"], seen["HTTP_HOST"]) == ("127.0.0.7", "https", "example.org")


@pytest.mark.needs("nginx")
def test_nginx_that_nobody_named(gate: StartGate, nginx: tuple[str, int], tmp_path: Path) -> None:
    gate("front_app:app", unix=f"{tmp_path}/back.socket")
    seen = ask(nginx, source="127.0.0.7")
    assert (seen["REMOTE_ADDR"], seen["wsgi.url_scheme"], seen["HTTP_HOST"]) == ("", "http", "example.org")


# --- sockets from a supervisor

# As systemd: the sockets begin at 3, and LISTEN_PID is that of the process that receives them.
ACTIVATOR = """
import os, socket, sys

count = int(sys.argv[1])
for number in range(count):
    os.dup2(int(sys.argv[2 + number]), 3 + number)
    os.set_inheritable(3 + number, True)
os.environ |= {"LISTEN_FDS": str(count), "LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "web:other"}
os.execv(sys.executable, [sys.executable, "-m", "geventgate", *sys.argv[2 + count:]])
"""


@contextmanager
def listening(count: int) -> Iterator[list[socket.socket]]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    yield sockets
    for one in sockets:
        one.close()


def test_socket_activation(start: Start) -> None:
    with listening(2) as sockets:
        # High numbers, which do not get in each other's way.
        fds = [os.dup2(one.fileno(), 70 + number, inheritable=True) for number, one in enumerate(sockets)]
        arguments = [sys.executable, "-c", ACTIVATOR, 2, *fds, "--chdir", HERE, "front_app:app"]
        process = start(*arguments, cwd=ROOT, pass_fds=fds)
        for one in sockets:
            seen = until(lambda one=one: ask(one.getsockname()), process)
            assert seen["pid"] == process.pid
            assert seen["listen"] == []  # not for the application's children
        process.terminate()
        assert process.wait(STOP) == 0
        # The supervisor's sockets still listen: who connects now waits for the next server, and is not refused.
        waiting = socket.create_connection(sockets[0].getsockname())
        again = start(*arguments, cwd=ROOT, pass_fds=fds)
        waiting.settimeout(START)
        waiting.sendall(REQUEST % b"")
        assert waiting.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert again.poll() is None
        waiting.close()
        for fd in fds:
            os.close(fd)


def test_variables_meant_for_another_process(start: Start) -> None:
    port = free_port()
    environ = os.environ | {"LISTEN_FDS": "1", "LISTEN_PID": "1"}
    process = start(
        sys.executable, "-m", "geventgate", "-b", f":{port}", "--chdir", HERE, "front_app:app", cwd=ROOT, env=environ
    )
    assert until(lambda: ask(("127.0.0.1", port)), process)["listen"] == ["LISTEN_FDS", "LISTEN_PID"]


def test_a_descriptor_by_its_number(start: Start) -> None:
    with listening(1) as (one,):
        os.set_inheritable(one.fileno(), True)
        command = [
            sys.executable,
            "-m",
            "geventgate",
            "--bind",
            f"fd://{one.fileno()}",
            "--chdir",
            HERE,
            "front_app:app",
        ]
        process = start(*command, cwd=ROOT, pass_fds=[one.fileno()], stderr=subprocess.PIPE)
        assert until(lambda: ask(one.getsockname()), process)["pid"] == process.pid
        process.terminate()
        assert process.stderr is not None
        assert f"on http://127.0.0.1:{one.getsockname()[1]}".encode() in process.stderr.read()


# --- files, and another user

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes others")


@as_root
def test_another_user(gate: StartGate, tmp_path: Path) -> None:
    """Root's address and log, then nobody's process: already when the application is imported."""
    open_to_all(tmp_path)
    nobody = pwd.getpwnam(somebody())
    pid, log, path = tmp_path / "pid", tmp_path / "access.txt", tmp_path / "s"
    options = ("--user", nobody.pw_name, "--pid", str(pid), "--access-logfile", str(log), "--umask", "027")
    app = tmp_path / "front_app.py"
    app.write_text((HERE / "front_app.py").read_text())
    server = gate("front_app:app", *options, chdir=tmp_path, unix=str(path))
    seen = ask(path)
    assert seen["uid"] == (nobody.pw_uid,) * 3
    assert seen["gid"] == (nobody.pw_gid,) * 3
    assert set(seen["groups"]) == set(os.getgrouplist(nobody.pw_name, nobody.pw_gid))
    assert seen["imported_as"] == nobody.pw_uid
    assert int(pid.read_text()) == server.process.pid == seen["pid"]
    for file, mode in ((path, 0o750), (log, 0o640)):
        status = file.stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (nobody.pw_uid, nobody.pw_gid, mode)
    server.process.send_signal(signal.SIGUSR1)  # the logs can be opened again
    ask(path)
    assert server.stop() == 0
    assert "cannot" not in server.stderr()
    assert log.read_text().count("\n") >= 2


@as_root
def test_another_group_alone(gate: StartGate, tmp_path: Path) -> None:
    server = gate("front_app:app", "--group", "daemon", "--umask", "007", unix=f"{tmp_path}/s")
    seen = ask(tmp_path / "s")
    assert (seen["uid"], seen["gid"], seen["groups"]) == ((0, 0, 0), (1, 1, 1), [1])
    status = (tmp_path / "s").stat()
    assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (1, 0o770)
    assert server.stop() == 0
    assert not (tmp_path / "s").exists()


@as_root
@pytest.mark.parametrize("application", ["front_app:app", "front_app:nothing"])
def test_a_port_only_root_has(start: Start, tmp_path: Path, application: str) -> None:
    """The port is bound before the user changes; when the application then fails it is let go of."""
    open_to_all(tmp_path)
    (tmp_path / "front_app.py").write_text((HERE / "front_app.py").read_text())
    user = somebody()
    command = [sys.executable, "-m", "geventgate", "-b", f"unix:{tmp_path}/s", "-b", "127.0.0.1:0", "--user", user]
    process = start(*command, "--chdir", tmp_path, application, cwd=ROOT, stderr=subprocess.PIPE)
    assert process.stderr is not None
    line = process.stderr.readline().decode()
    if application.endswith("nothing"):
        assert line.startswith("geventgate: error: front_app:nothing")
        assert process.wait(STOP) == 1
    else:
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found, line
        assert ask(("127.0.0.1", int(found[1])))["uid"][0] == pwd.getpwnam(user).pw_uid


def somebody() -> str:
    """Nobody, or root where the tree is root's alone: whom the server becomes imports the application from it."""
    folders = (Path(geventgate.__file__), Path(sys.prefix), Path(sys.executable))
    readable = all(parent.stat().st_mode & stat.S_IXOTH for folder in folders for parent in folder.resolve().parents)
    return "nobody" if readable else "root"


def open_to_all(folder: Path) -> None:
    """pytest's temporary folders are their owner's alone."""
    for one in (folder, folder.parent, folder.parent.parent):
        one.chmod(0o777 if one == folder else 0o755)


def command(*options: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-m", "geventgate", "--chdir", str(HERE), *options, "front_app:app"]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=START * 2)


def test_one_server_for_a_pid_file(gate: StartGate, tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    first = gate("front_app:app", "--pid", str(pid))
    second = command("--bind", "127.0.0.1:0", "--pid", str(pid))
    assert (second.returncode, second.stdout) == (1, "")
    message = f"geventgate: error: --pid {pid}: process {first.process.pid} runs and has written it\n"
    assert second.stderr == message
    assert int(pid.read_text()) == first.process.pid
    first.process.kill()
    first.process.wait()
    first.stopped = True
    assert pid.exists()  # stale
    third = start_and_stop(gate, "--pid", str(pid))
    assert third
    assert not pid.exists()
    first.process.returncode = 0  # it was we who killed it


def start_and_stop(gate: StartGate, *options: str) -> bool:
    server: Gate = gate("front_app:app", *options)
    return server.stop() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--user", "no-such-user"], "--user no-such-user: there is no such user"),
        (["--group", "no-such-group"], "--group no-such-group: there is no such group"),
        (["--pid", "/no/such/pid"], "--pid /no/such/pid: No such file or directory"),
        (["--bind", "fd://77"], "cannot listen on fd://77: Bad file descriptor"),
        (["--bind", "fd://x"], "--bind fd://x: not fd://N, where N is the number of a listening socket"),
        (["--check-config", "--user", "no-such-user"], "--user no-such-user: there is no such user"),
        (
            ["--check-config", "--bind", "unix:/no/such/s"],
            "cannot listen on unix:/no/such/s: No such file or directory",
        ),
        (["--check-config", "--certfile", "/no/cert"], "--certfile /no/cert: No such file or directory"),
    ],
)
def test_what_cannot_be(options: list[str], message: str) -> None:
    said = command(*options)
    assert said.stderr == f"geventgate: error: {message}\n"
    assert (said.returncode, said.stdout) == (1, "")


def test_the_settings_and_where_they_come_from(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text("keep_alive = 75\n")
    arguments = [sys.executable, "-m", "geventgate", "--print-config", "--config", file, "-b", ":1"]
    environ = os.environ | {"GEVENTGATE_BACKLOG": "7"}
    said = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, env=environ, check=True)
    assert said.stderr == ""
    lines = [re.split(r"\s+# ", line) for line in said.stdout.splitlines() if not line.endswith("# default")]
    assert lines == [
        ['bind = [":1"]', "--bind"],
        ["backlog = 7", "GEVENTGATE_BACKLOG"],
        ["keep_alive = 75", f"{file}, line 1"],
    ]


def test_a_file_serves(gate: StartGate, tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text(f'forwarded_allow_ips = "127.0.0.1"\nroot_path = "/mount"\npid = "{tmp_path}/pid"\n')
    server = gate("front_app:app", "--config", str(file))
    seen = ask(server.address, b"X-Forwarded-For: 192.0.2.1\r\n")
    assert (seen["REMOTE_ADDR"], seen["SCRIPT_NAME"]) == ("192.0.2.1", "/mount")
    assert (tmp_path / "pid").exists()
