"""``gunicorn -k geventgate.Worker``: real servers, started, signalled and stopped as their users do."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from gunicorn.config import Config as Settings

from geventgate import hosted
from geventgate.config import Config
from geventgate.errors import ConfigError
from geventgate.testing import Http2Client, WebSocketClient
from tests.conftest import ROOT, Gate, await_listening, free_port
from tests.restarts import Load

APP = "worker_app:app"
FOLDER = Path(__file__).parent / "applications"
WAIT = 20.0  # seconds for what should take a moment
LISTEN = """
import os, sys
os.dup2(int(sys.argv[1]), 3, inheritable=True)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


# --- settings


def settings(**values: object) -> Settings:
    cfg = Settings()
    for name, value in values.items():
        cfg.set(name, value)
    return cfg


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"worker_connections": 1000, "keep_alive": 2, "graceful_timeout": 29.5, "workers": 1, "timeout": 30}),
        ({}, {"limit_request_line": 4094, "limit_request_fields": 100, "limit_request_head": 32768}),
        ({}, {"http2": False, "http2_cleartext": "off", "early_hints": True, "certfile": "", "cert_reqs": "0"}),
        ({}, {"forwarded_allow_ips": ("127.0.0.1", "::1", "unix:"), "forwarded_headers": ()}),
        ({}, {"proxy_protocol": "off", "websocket_max_message_size": 16 << 20, "root_path": ""}),
        ({"workers": 3, "timeout": 0, "keepalive": 75}, {"workers": 3, "timeout": 0, "keep_alive": 75}),
        ({"worker_connections": 7}, {"worker_connections": 7}),
        ({"graceful_timeout": 1}, {"graceful_timeout": 0.5}),
        ({"graceful_timeout": 0}, {"graceful_timeout": 0}),
        ({"max_requests": 5, "max_requests_jitter": 2}, {"max_requests": 5, "max_requests_jitter": 2}),
        ({"limit_request_line": 0}, {"limit_request_line": 32768}),
        ({"limit_request_line": 99999}, {"limit_request_line": 8190}),
        ({"limit_request_fields": 0}, {"limit_request_fields": 32768}),
        ({"limit_request_field_size": 100_000}, {"limit_request_head": 104_094}),
        ({"limit_request_field_size": 0}, {"limit_request_head": 32768}),
        ({"forwarded_allow_ips": "*"}, {"forwarded_allow_ips": ("*", "unix:")}),
        ({"forwarded_allow_ips": "10.0.0.0/8"}, {"forwarded_allow_ips": ("10.0.0.0/8", "unix:")}),
        (
            {"proxy_protocol": True, "proxy_allow_ips": "10.0.0.1"},
            {"proxy_protocol": "auto", "proxy_allow_from": ("10.0.0.1", "unix:")},
        ),
        (
            {"certfile": "c.pem", "keyfile": "k.pem", "ca_certs": "a.pem", "cert_reqs": 2, "ciphers": "HIGH"},
            {"certfile": "c.pem", "keyfile": "k.pem", "ca_certs": "a.pem", "cert_reqs": "2", "ciphers": "HIGH"},
        ),
        ({"certfile": "c.pem", "ca_certs": "a.pem"}, {"certfile": "c.pem", "ca_certs": ""}),
        ({"http_protocols": "h2,h1"}, {"http2": True, "http2_cleartext": "off"}),
        ({"http_protocols": "h2,h1", "http2_cleartext": "both"}, {"http2_cleartext": "prior-knowledge"}),
        ({"http_protocols": "h2,h1", "http2_cleartext": "upgrade"}, {"http2_cleartext": "off"}),
        ({"http2_cleartext": "prior-knowledge"}, {"http2_cleartext": "off"}),
        ({"http2_max_concurrent_streams": 7}, {"http2_max_concurrent_streams": 7}),
        ({"websocket_max_message_size": 9}, {"websocket_max_message_size": 9}),
        ({"websocket_max_message_size": 0}, {"websocket_max_message_size": hosted.UNBOUNDED}),
        ({"root_path": "/api"}, {"root_path": "/api"}),
        ({}, {"interface": "auto", "lifespan": "auto"}),
        ({"asgi_lifespan": "on"}, {"lifespan": "on"}),
        ({"preload_app": True, "reload": True}, {}),
    ],
)
def test_settings_of_gunicorn_become_ours(given, expected):
    config = hosted.translate(settings(**given), {})
    assert {name: getattr(config, name) for name in expected} == expected


def test_variables_fill_the_gaps_and_no_more(tmp_path):
    file = tmp_path / "server.toml"
    file.write_text("ws_ping_timeout = 3.0\n")
    environ = {
        "GEVENTGATE_WS_PING_INTERVAL": "7", "GEVENTGATE_FORWARDED_HEADERS": "forwarded", "GEVENTGATE_KEEP_ALIVE": "99",
        "GEVENTGATE_BIND": "127.0.0.1:1", "GEVENTGATE_LIMIT_REQUEST_HEAD": "50000", "GEVENTGATE_PATCH": "no",
        "GEVENTGATE_CONFIG": str(file),
    }  # fmt: skip
    config = hosted.translate(settings(), environ)
    assert (config.ws_ping_interval, config.ws_ping_timeout) == (7.0, 3.0)
    assert (config.forwarded_headers, config.limit_request_head) == (("forwarded",), 50000)
    assert (config.keep_alive, config.bind) == (2, Config().bind)
    assert hosted.translate(settings(), {"SCRIPT_NAME": "/mounted"}).root_path == "/mounted"
    assert sorted(hosted.unheeded(settings(), environ)) == [
        "GEVENTGATE_BIND has no effect under gunicorn: bind decides",
        "GEVENTGATE_KEEP_ALIVE has no effect under gunicorn: keepalive decides",
        "GEVENTGATE_PATCH: the standard library is patched all the same",
    ]


@pytest.mark.parametrize(
    ("given", "environ", "named"),
    [
        ({"worker_connections": 0}, {}, "worker_connections is 0"),
        ({}, {"GEVENTGATE_WS_PING_INTERVAL": "often"}, "GEVENTGATE_WS_PING_INTERVAL is 'often'"),
        ({}, {"GEVENTGATE_WS_PING": "1"}, "GEVENTGATE_WS_PING is no setting"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(given, environ, named):
    with pytest.raises(ConfigError, match=re.escape(named)):
        hosted.translate(settings(**given), environ)


@pytest.mark.parametrize("name", hosted.UNHEEDED)
def test_a_setting_that_is_not_heeded_is_named_when_it_is_set(name):
    others = {
        "threads": 2, "protocol": "uwsgi", "uwsgi_allow_ips": "*", "ssl_version": "TLSv1_2",
        "suppress_ragged_eofs": False, "http2_initial_window_size": 1 << 20, "http2_max_frame_size": 1 << 15,
        "http2_max_header_list_size": 1 << 20, "http_parser": "python", "asgi_loop": "asyncio",
        "asgi_disconnect_grace_period": 1,
    }  # fmt: skip
    assert hosted.unheeded(settings(), {}) == []
    (line,) = hosted.unheeded(settings(**{name: others.get(name, True)}), {})
    assert line.startswith(f"{name} ")


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"http2_cleartext": "upgrade"}, "http2_cleartext is upgrade: Upgrade: h2c is not answered"),
        ({"ca_certs": "a.pem"}, "ca_certs checks nobody: set cert_reqs too"),
    ],
)
def test_half_heeded_settings_are_named_too(given, line):
    assert hosted.unheeded(settings(**given), {}) == [line]


def test_gunicorn_has_no_setting_that_docs_gunicorn_does_not_name():
    told = (ROOT / "docs" / "gunicorn.md").read_text()
    named = set(re.findall(r"`([a-z0-9_]+)`", told))
    hooks = {name for name, setting in Settings().settings.items() if setting.section == "Server Hooks"}
    missing = set(Settings().settings) - named - hooks
    assert {name for name in missing if not name.startswith(("dirty", "on_dirty"))} == set()


# --- servers


class Server(Gate):
    """gunicorn with our worker; its log is where both write."""

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def get(self, target: str = "/", *fields: str) -> tuple[int, str]:
        lines = [f"GET {target} HTTP/1.1", "Host: localhost", "Connection: close", *fields, "", ""]
        head, _, body = self.talk("\r\n".join(lines).encode()).partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode()

    def environ(self, *fields: str, target: str = "/environ") -> dict[str, object]:
        status, body = self.get(target, *fields)
        assert status == 200, body
        return dict(json.loads(body))

    def await_line(self, line: str, count: int = 1) -> None:
        await_that(lambda: self.stderr().count(line) >= count, lambda: f"{line!r} is not in the log:\n{self.stderr()}")


def await_that(so, why=lambda: "", seconds: float = WAIT) -> None:
    until = time.monotonic() + seconds
    while not so():
        if time.monotonic() > until:
            pytest.fail(f"not so within {seconds} s: {why()}")
        time.sleep(0.02)


@contextmanager
def gunicorn(
    folder: Path,
    *options: str,
    app: str = APP,
    unix: str = "",
    program: tuple[str, ...] = ("-m", "gunicorn"),
    chdir: Path = FOLDER,
    status: int = 0,
    prefix: tuple[str, ...] = (),
    pass_fds: tuple[int, ...] = (),
    port: int = 0,
    worker: str = "geventgate.Worker",
    **environ: str,
) -> Iterator[Server]:
    """Start it in a home of its own; at the end it must end with *status*."""
    address: tuple[str, int] | str = unix or ("127.0.0.1", port or free_port())
    bind = f"unix:{unix}" if unix else f"127.0.0.1:{address[1]}"
    command = [sys.executable, *prefix, *program, "-k", worker, "--chdir", str(chdir)]
    command += [] if prefix else ["-b", bind]
    log = folder / f"log-{len(list(folder.iterdir()))}.txt"
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "GEVENTGATE_"))}
    variables |= {"HOME": str(folder), **environ}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, *options, app], cwd=folder, stdout=out, stderr=out, env=variables, pass_fds=pass_fds
        )
    server = Server(process, address, log)
    try:
        await_listening(server)
        yield server
    finally:
        ended = server.stop()
    assert ended == status, f"exit status {ended}:\n{server.stderr()}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gunicorn")


@pytest.fixture(scope="module")
def plain(folder: Path) -> Iterator[Server]:
    """Two workers, as few settings as can be."""
    with gunicorn(folder, "-w", "2", "--access-logfile", "-", "--timeout", "3") as server:
        yield server
    assert "Traceback" not in server.stderr(), server.stderr()


def test_it_serves(plain):
    told = plain.environ()
    assert told["wsgi.multiprocess"] is True
    assert told["wsgi.multithread"] is True
    assert told["RAW_URI"] == told["REQUEST_URI"] == "/environ"
    assert str(told["SERVER_SOFTWARE"]).startswith("geventgate/")
    assert "wsgi.early_hints" in told
    assert told["patched"] == ["socket", "os", "signal", "subprocess"]
    assert told["imported by"] != told["parent"] == plain.process.pid
    assert "geventgate 0.1.0: HTTP/1.1, WebSocket" in plain.stderr()
    assert "too early" not in plain.stderr()


def test_requests_that_wait_hold_up_nobody(plain):
    with plain.connect() as slow:
        slow.sendall(b"GET /slow?1.5 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        began = time.monotonic()
        assert [plain.get()[0] for _ in range(8)] == [200] * 8
        assert time.monotonic() - began < 1.4
        assert slow.recv(100).startswith(b"HTTP/1.1 200")


def test_a_child_of_the_application_ends(plain):
    assert plain.get("/child")[0] == 200


def test_websockets(plain):
    with WebSocketClient(plain.ws_url) as client:
        client.send("to and fro")
        assert client.receive() == "to and fro"


@pytest.mark.parametrize(
    ("fields", "scheme"),
    [
        ([], "http"),
        (["X-Forwarded-Proto: https"], "https"),
        (["X-Forwarded-Proto: http"], "http"),
        (["X-Forwarded-Protocol: ssl", "X-Forwarded-Ssl: on"], "https"),
    ],
)
def test_secure_scheme_headers_of_a_proxy_that_is_allowed(plain, fields, scheme):
    told = plain.environ(*fields, "X-Forwarded-For: 192.0.2.1")
    assert told["wsgi.url_scheme"] == scheme
    assert told["REMOTE_ADDR"] == "127.0.0.1"  # as under gunicorn: the application's ProxyFix looks


def test_scheme_headers_that_contradict_each_other(plain):
    assert plain.get("/environ", "X-Forwarded-Proto: https", "X-Forwarded-Ssl: off")[0] == 400


def test_forwarder_headers(plain):
    told = plain.environ("SCRIPT_NAME: /mounted", "X_Other: dropped", target="/mounted/environ")
    assert (told["SCRIPT_NAME"], told["PATH_INFO"]) == ("/mounted", "/environ")
    assert "HTTP_X_OTHER" not in told


def test_access_log(plain):
    plain.get("/environ?for=the+log", 'User-Agent: a "b"', "Referer: http://r/")
    plain.await_line('"GET /environ?for=the+log HTTP/1.1" 200 ')
    assert re.search(r'^127\.0\.0\.1 - - \[.*\] "GET /environ\?for=the\+log HTTP/1.1" 200 \d+ "http://r/" "a \\"b\\""$',
                     plain.stderr(), re.MULTILINE)  # fmt: skip


def test_what_the_application_writes_to_its_errors_comes_to_the_log(plain):
    plain.get("/errors")
    plain.await_line("a line of the application\n")


def test_a_malformed_request_is_one_line(plain):
    assert plain.talk(b"GET / HTTP/1.1\r\nHost\r\n\r\n").startswith(b"HTTP/1.1 400")
    plain.await_line("400: ")
    assert re.search(r"^\[.*\] \[\d+\] \[INFO\] 127\.0\.0\.1:\d+: 400: ", plain.stderr(), re.MULTILINE)


def test_a_worker_that_is_killed_is_back_within_a_second(plain):
    with ExitStack() as stack:
        slow = [stack.enter_context(plain.connect()) for _ in range(10)]
        for peer in slow:
            peer.sendall(b"GET /slow?1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        time.sleep(0.3)
        killed, other = plain.workers()
        os.kill(killed, signal.SIGKILL)
        await_that(lambda: len(plain.workers()) == 2 and killed not in plain.workers(), seconds=1.0)
        answers = []
        for peer in slow:
            with suppress(ConnectionResetError):
                answers.append(peer.recv(65536).rpartition(b"\r\n\r\n")[2])
        assert set(answers) <= {b"", b"%d" % other}
    assert plain.get()[0] == 200


def test_a_blocked_hub_is_reported_and_its_worker_replaced(plain):
    before = plain.workers()
    with plain.connect() as peer:
        peer.sendall(b"GET /stuck HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with suppress(ConnectionResetError):
            assert peer.recv(100) == b""
    plain.await_line("the hub was blocked for more than 3 s by GET b'/stuck' from 127.0.0.1")
    report = plain.stderr().split("the hub was blocked")[1]
    assert 'monkey.get_original("time", "sleep")(30)' in report
    assert "geventgate/server" not in report.split("[INFO]")[0]
    await_that(lambda: len(plain.workers()) == 2 and plain.workers() != before)
    assert plain.get()[0] == 200


def test_a_worker_that_nothing_blocks_goes_on(plain):
    """After the machine was asleep gunicorn looks before the worker could tell anything."""
    before = plain.workers()
    os.kill(before[0], signal.SIGABRT)
    plain.await_line("nothing blocks it now")
    assert plain.get()[0] == 200
    assert plain.workers() == before


def test_the_control_socket_answers(plain, folder):
    command = [str(Path(sys.executable).with_name("gunicornc")), "-c", "show workers"]
    told = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
        env={**os.environ, "HOME": str(folder), "XDG_RUNTIME_DIR": ""},
    )
    assert "Total: 2 workers" in told.stdout


def test_one_worker_more_one_less_and_one_told_to_end(plain):
    """None of them may close the sockets they share to the others."""
    with Load(plain.address) as load:
        plain.signal(signal.SIGTTIN)
        await_that(lambda: len(plain.workers()) == 3)
        load.await_answers(50)
        plain.signal(signal.SIGTTOU)
        await_that(lambda: len(plain.workers()) == 2)
        load.await_answers(50)
        ended = plain.workers()[0]
        os.kill(ended, signal.SIGTERM)
        await_that(lambda: len(plain.workers()) == 2 and ended not in plain.workers())
        load.await_answers(50)
    assert (load.lost, load.refused) == ([], 0)


# --- ways to listen and to start


def test_a_configuration_file_hooks_and_log_formats(folder, tmp_path):
    conf = tmp_path / "conf.py"
    conf.write_text(
        textwrap.dedent("""
        import subprocess

        def tell(*words):
            print(*words, flush=True)

        def when_ready(server):
            tell("when_ready", subprocess.run(["echo", "done"], capture_output=True).stdout)

        def pre_fork(server, worker):
            tell("pre_fork", worker.age)

        def post_worker_init(worker):
            tell("post_worker_init", worker.alive)

        def pre_request(worker, req):
            tell("pre_request", req.method, req.uri, req.path, req.query, req.version, dict(req.headers)["HOST"])

        def post_request(worker, req, environ, resp):
            answered = dict(resp.headers).get("X-Answered")
            tell("post_request", req.path, environ["RAW_URI"], resp.status, resp.sent, answered)

        def worker_int(worker):
            tell("worker_int")

        def worker_exit(server, worker):
            tell("worker_exit", worker.nr)

        bind = "unix:%s"
        accesslog = "-"
        access_log_format = "log: %%(m)s %%(U)s %%(q)s %%(s)s %%(B)s %%({x-answered}o)s %%({host}i)s"
        access_log_format += " %%({geventgate.draining}e)s %%(L)s"
        proc_name = "named"
        sendfile = False
        header_map = "refuse"
        """)
        % (path := str(tmp_path / "s.sock"))
    )
    with gunicorn(folder, "-c", str(conf), unix=path, worker="egg:geventgate#worker", SCRIPT_NAME="/mounted") as server:
        assert server.get("/mounted/environ?a=b")[0] == 200
        assert server.get("/environ", "x_y: z")[0] == 400
        assert (FOLDER / "worker_app.py").read_text() in server.get("/file")[1]
        assert server.get("/fail")[0] == 500
        told = server.environ()
        assert (told["SCRIPT_NAME"], told["wsgi.multiprocess"]) == ("/mounted", False)
        assert str(told["wsgi.file_wrapper"]).startswith("<class 'geventgate.hosted.ReadFile'")
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        await_that(lambda: server.workers() not in ([worker], []), seconds=2.0)
        assert server.get()[0] == 200
        server.signal(signal.SIGINT)
        assert server.process.wait(5) == 0
    log = server.stderr()
    assert "when_ready b'done\\n'" in log
    assert "pre_fork 1" in log
    assert "post_worker_init True" in log
    assert "pre_request GET /mounted/environ?a=b /mounted/environ a=b (1, 1) localhost" in log
    assert re.search(r"post_request /mounted/environ /mounted/environ\?a=b 200 OK \d+ yes", log)
    assert re.search(r"^log: GET /environ a=b 200 \d+ yes localhost <.*> \d+\.\d+$", log, re.MULTILINE)
    assert re.search(r"^log: GET /environ  400 \d+ - localhost - \d+\.\d+$", log, re.MULTILINE)
    assert "post_request /fail /fail 500 Internal Server Error" in log
    assert "worker_int" in log
    assert "worker_exit 1" in log


def test_tls_and_http2(folder, tmp_path, authority):
    pair = authority.issue("localhost", "127.0.0.1")
    conf = tmp_path / "conf.py"
    conf.write_text(
        textwrap.dedent("""
        import ssl

        def ssl_context(config, default):
            context = default()
            context.minimum_version = ssl.TLSVersion.TLSv1_3
            return context
        """)
    )
    options = ["-c", str(conf), "--certfile", pair.certfile, "--keyfile", pair.keyfile, "--http-protocols", "h2,h1"]
    with gunicorn(folder, *options, "--access-logfile", "-") as server:
        url = f"https://127.0.0.1:{server.port}"
        with Http2Client(url, ca_certs=authority.ca_certs) as client:
            response = client.request(path="/environ")
            told = json.loads(response.content)
            assert (told["SERVER_PROTOCOL"], told["wsgi.url_scheme"], told["SSL_PROTOCOL"]) == (
                "HTTP/2",
                "https",
                "TLSv1.3",
            )
        with WebSocketClient(url, ca_certs=authority.ca_certs) as ws:
            ws.send(b"\0\1")
            assert ws.receive() == b"\0\1"
        assert "HTTP/2 (" in server.stderr()
    assert '"GET /environ HTTP/2" 200' in server.stderr()


def test_a_context_of_the_users_own(folder, tmp_path, authority):
    pair = authority.issue("localhost", "127.0.0.1")
    conf = tmp_path / "conf.py"
    conf.write_text(
        textwrap.dedent(f"""
        import ssl

        def ssl_context(config, default):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain({pair.certfile!r}, {pair.keyfile!r})
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            return context
        """)
    )
    with gunicorn(folder, "-c", str(conf), "--certfile", pair.certfile, "--keyfile", pair.keyfile) as server:
        context = f"https://127.0.0.1:{server.port}"
        with WebSocketClient(context, ca_certs=authority.ca_certs) as ws:
            assert ws.socket.version() == "TLSv1.2"
            ws.send("x")
            assert ws.receive() == "x"


def test_sockets_of_systemd_and_preload(folder):
    with socket.create_server(("127.0.0.1", 0)) as given:
        port = given.getsockname()[1]
        starter = ("-c", LISTEN, str(given.fileno()))
        with gunicorn(folder, "--preload", prefix=starter, pass_fds=(given.fileno(),), port=port) as server:
            told = server.environ()
            assert told["imported by"] == told["parent"] == server.process.pid
            with WebSocketClient(server.ws_url) as client:
                client.send("x")
                assert client.receive() == "x"
            server.stop()
        with socket.create_connection(("127.0.0.1", port), 5):  # systemd goes on listening: no filter was left behind
            pass


def test_max_requests(folder):
    with gunicorn(folder, "--max-requests", "30", "--max-requests-jitter", "20") as server:
        counts = {}
        with Load(server.address, fresh=1, kept=1) as load:
            deadline = time.monotonic() + WAIT
            while len(counts) < 3 and time.monotonic() < deadline:
                load.await_answers(5)
                counts |= dict(re.findall(r"\[(\d+)\] \[INFO\] (\d+) requests: another worker", server.stderr()))
        assert load.lost == []
        assert len(counts) >= 3
        assert all(30 <= int(count) <= 50 for count in counts.values())


def test_logs_are_reopened_and_statsd_is_told(folder, tmp_path):
    errors, access = tmp_path / "errors.log", tmp_path / "access.log"
    options = ["--error-logfile", str(errors), "--access-logfile", str(access)]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as statsd:
        statsd.bind(("127.0.0.1", 0))
        statsd.settimeout(10)
        with gunicorn(folder, *options, "--statsd-host", f"127.0.0.1:{statsd.getsockname()[1]}") as server:
            server.get("/one")
            metrics = ""
            while "gunicorn.request.status.200" not in metrics or "gunicorn.request.duration" not in metrics:
                metrics += statsd.recv(65536).decode() + "\n"
            await_that(lambda: "GET /one" in access.read_text())
            access.rename(tmp_path / "access.log.1")
            errors.rename(tmp_path / "errors.log.1")
            server.signal(signal.SIGUSR1)
            await_that(lambda: access.exists() and errors.exists())

            def written() -> bool:
                server.get("/errors?two")
                return "a line of the application" in errors.read_text() and "GET /errors?two" in access.read_text()

            await_that(written)


def test_reload_on_a_change(folder, tmp_path):
    source = tmp_path / "changing.py"
    text = "def app(environ, start):\n    start('200 OK', [('Content-Length', '3')])\n    return [b'%s']\n"
    source.write_text(text % "one")
    options = ["--reload", "--reload-engine", "poll"]
    with gunicorn(folder, *options, app="changing:app", chdir=tmp_path, PYTHONDONTWRITEBYTECODE="1") as server:
        assert server.get() == (200, "one")
        source.write_text(text % "two")
        os.utime(source, (time.time() + 5, time.time() + 5))
        await_that(lambda: server.get() == (200, "two"))
        assert "Worker reloading" in server.stderr()


# --- what cannot start


def refused(folder: Path, *options: str, app: str = APP, **environ: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "gunicorn", "-k", "geventgate.Worker", "-b", f"127.0.0.1:{free_port()}", "-w", "2"]
    return subprocess.Popen(
        [*command, "--chdir", str(FOLDER), *options, app],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder,
        env={**os.environ, "HOME": str(folder), **environ},
    )  # fmt: skip


def test_what_is_wrong_with_a_setting_is_one_line(folder):
    cases = [
        (["--worker-connections", "0"], {}, "worker_connections is 0, and should be more than 0"),
        (["--certfile", "worker_app.py"], {}, "worker_app.py: there is no certificate in it"),
        ([], {"GEVENTGATE_WS_PING_INTERVAL": "often"}, "GEVENTGATE_WS_PING_INTERVAL is 'often'"),
        ([], {"GEVENTGATE_COMPAT": "nothing"}, "GEVENTGATE_COMPAT is nothing"),
    ]
    started = [refused(folder, *options, **environ) for options, environ, _ in cases]
    for process, (_, _, line) in zip(started, cases, strict=True):
        text, _ = process.communicate(timeout=30)
        assert process.returncode == 1, text
        assert [one for one in text.splitlines() if line in one and "geventgate" in one], text
        assert text.count(line) == 1
        assert "Traceback" not in text
        assert "Booting" not in text


def test_an_application_that_cannot_be_imported_ends_it(folder):
    process = refused(folder, app="no_such_module:app")
    text, _ = process.communicate(timeout=30)
    assert process.returncode == 3, text
    assert "No module named 'no_such_module'" in text


ASGI = """
import sys
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        for what in ("startup", "shutdown"):
            await receive()
            print("told of", what, file=sys.stderr, flush=True)
            await send({"type": f"lifespan.{what}.complete"})
        return
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"hello, coroutine"})

async def fails(scope, receive, send):
    await send({"type": "lifespan.startup.failed", "message": "no database"})
"""


def test_an_asgi_application(folder, tmp_path):
    (tmp_path / "asynchronous.py").write_text(ASGI)
    with gunicorn(folder, app="asynchronous:app", chdir=tmp_path) as server:
        assert server.get() == (200, "hello, coroutine")
        server.stop()
        assert (server.stderr().count("told of startup"), server.stderr().count("told of shutdown")) == (1, 1)


def test_an_asgi_application_that_cannot_start_ends_it(folder, tmp_path):
    (tmp_path / "asynchronous.py").write_text(ASGI)
    process = refused(folder, "--chdir", str(tmp_path), app="asynchronous:fails")
    text, _ = process.communicate(timeout=30)
    assert process.returncode == 3, text
    assert "geventgate: the application's startup failed: no database" in text
    assert "Traceback" not in text


def test_a_certificate_that_is_bad_when_the_workers_start_ends_it(folder, tmp_path, authority):
    pair = authority.issue("localhost")
    copy = tmp_path / "c.pem"
    copy.write_text(Path(pair.certfile).read_text())
    with gunicorn(folder, "--certfile", str(copy), "--keyfile", pair.keyfile, status=3) as server:
        server.await_line("HTTP/1.1, WebSocket")  # gunicorn itself has looked
        copy.write_text("")
        server.signal(signal.SIGHUP)
        assert server.process.wait(WAIT) == 3, server.stderr()
    assert f"geventgate: {copy}: there is no certificate in it (PEM)" in server.stderr()
    assert "Traceback" not in server.stderr()


# --- restarts


def test_websockets_are_told_whether_to_come_back(folder):
    with gunicorn(folder, "-w", "2") as server:
        with WebSocketClient(server.ws_url) as client:
            server.signal(signal.SIGHUP)
            assert client.receive() is None
            assert client.close_code == 1012
        await_that(lambda: len(server.workers()) == 2)
        with WebSocketClient(server.ws_url) as client:
            server.signal(signal.SIGTERM)
            assert client.receive() is None
            assert client.close_code == 1001


def test_a_stop_waits_for_what_runs_and_not_for_ever(folder):
    with gunicorn(folder, "--graceful-timeout", "3") as server:
        server.get()  # it has started
        with server.connect() as short, server.connect() as long:
            short.sendall(b"GET /slow?1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            long.sendall(b"GET /slow?9 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(0.3)
            server.signal(signal.SIGTERM)
            assert short.recv(100).startswith(b"HTTP/1.1 200")
            with suppress(ConnectionResetError):
                assert long.recv(100) == b""
        assert server.process.wait(5) == 0
    assert "1 connections were cut: the graceful timeout is over" in server.stderr()
    assert "SIGKILL" not in server.stderr()


def test_quit_ends_at_once_even_a_blocked_hub(folder):
    with gunicorn(folder, "-w", "2") as server:
        with server.connect() as slow, server.connect() as stuck:
            slow.sendall(b"GET /slow?9 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            stuck.sendall(b"GET /stuck HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(0.3)
            server.signal(signal.SIGQUIT)
            began = time.monotonic()
            assert server.process.wait(10) == 0
        assert time.monotonic() - began < 8


def terminations(folder: Path, rounds: int) -> None:
    """What is accepted is answered."""
    for _ in range(0, rounds, 3):
        with ExitStack() as stack:  # they start side by side, and end one after the other
            for server in [stack.enter_context(gunicorn(folder, "-w", "2")) for _ in range(3)]:
                with Load(server.address) as load:
                    load.await_answers(100)
                    server.signal(signal.SIGTERM)
                    assert server.process.wait(WAIT) == 0
                assert load.lost == [], server.stderr()


def reloads(folder: Path, rounds: int, *options: str) -> None:
    with gunicorn(folder, "-w", "2", *options) as server, Load(server.address) as load:
        for _ in range(rounds):
            before = load.who()
            server.signal(signal.SIGHUP)
            load.await_others(before)
            assert load.lost == [], server.stderr()
            assert (
                load.refused == 0 or "--reuse-port" in options
            )  # gunicorn ends the old ones before the new ones listen


def test_stops_under_load_lose_nothing(folder):
    terminations(folder, 3)


def test_reloads_under_load_lose_nothing(folder):
    reloads(folder, 3)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_stops_under_load_lose_nothing(folder):
    terminations(folder, 102)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_hundred_reloads_under_load_lose_nothing(folder):
    reloads(folder, 100)


@pytest.mark.slow
def test_workers_with_sockets_of_their_own_lose_nothing_either(folder):
    reloads(folder, 20, "--reuse-port")


@pytest.mark.parametrize("upgraded", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_upgrade_and_rollback(folder, tmp_path, upgraded):
    """USR2 starts another gunicorn on the same sockets; whichever is told to end, the other goes on."""
    pid = tmp_path / "pid"
    with gunicorn(folder, "--pid", str(pid), status=0) as server, Load(server.address) as load:
        old = server.process.pid
        server.signal(signal.SIGUSR2)
        await_that(lambda: Path(f"{pid}.2").exists())
        new = int(Path(f"{pid}.2").read_text())
        try:
            load.await_answers(100)
            before = {b"%d" % worker for worker in server.workers()}
            with WebSocketClient(server.ws_url) as client:
                if upgraded:
                    os.kill(old, signal.SIGTERM)
                    server.process.wait(WAIT)
                    load.await_others(before)
                else:
                    os.kill(new, signal.SIGTERM)
                    await_that(lambda: not Path(f"{pid}.2").exists())
                load.await_answers(100)
                with suppress(ConnectionResetError):
                    client.socket.settimeout(1.0)
                    with suppress(TimeoutError):
                        client.receive()
                assert client.close_code in (None, 1012)
            assert (load.lost, load.refused) == ([], 0), server.stderr()
        finally:
            with suppress(ProcessLookupError):
                os.kill(new, signal.SIGTERM)
    await_that(lambda: not Path(f"/proc/{new}").exists())


def test_importing_geventgate_imports_no_gunicorn():
    program = "import sys, geventgate, geventgate.assemble; print([name for name in sys.modules if 'gunicorn' in name])"
    told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert told.stdout == "[]\n"
