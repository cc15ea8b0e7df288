"""The servers compared: how each is installed, started by its users, and in what it competes.

One process each, logs off, TCP_NODELAY on, limits as they ship. ``python bench/peers.py NAME PORT APP`` runs one that
is started from Python; without arguments it prints what is to be installed, as pip's arguments, one package a line.
"""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from results import LIMIT, OURS, OURS_H2, OURS_PURE

BENCH = Path(__file__).parent
BIN = Path(sys.executable).parent
ROOT = BENCH.parent
SOURCES = ("geventgate", "ext", "setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")


class Server(NamedTuple):
    """*command* has the fields {port}, {app}, {bin} (of the environment), {bench} and {built} (what is made first)."""

    name: str
    package: str  # on PyPI; "" is not from there
    command: str
    apps: dict[str, str]  # what it competes in -> what it serves then
    options: Mapping[str, str] = MappingProxyType({})  # what it competes in -> what the command has then, too

    def argv(self, port: int, competition: str, built: str) -> list[str]:
        command = f"{self.command} {self.options.get(competition, '')}"
        return command.format(port=port, app=self.apps[competition], bin=BIN, bench=BENCH, built=built).split()

    def missing(self) -> str:
        """Why it cannot run here, or ""."""
        if self.package:
            try:
                version(self.package)
            except PackageNotFoundError:
                return f"{self.package} is not installed"
        program = self.command.split()[0]
        return f"there is no {program}" if "{" not in program and not shutil.which(program) else ""

    @property
    def version(self) -> str:
        return version(self.package) if self.package else ""


def every(app: str, *competitions: str) -> dict[str, str]:
    return dict.fromkeys(competitions, app)


def cleartext_and_tls(cleartext: str, tls: str) -> dict[str, str]:
    """What turns HTTP/2 on."""
    return every(cleartext, "http2", "http2 POST") | every(tls, "http2 TLS", "http2 TLS POST")


def make(built: str) -> None:
    """What the commands find in {built}, besides the C programs."""
    hello = "Hello, World!\n"
    Path(built, "articles/2026").mkdir(parents=True)
    for page in ("index.html", "articles/2026/how-to"):  # for nghttpd
        Path(built, page).write_text(hello)
    # By default it says goodbye after 1000 requests, which fails those in flight.
    Path(built, "hypercorn.toml").write_text("keep_alive_max_requests = 1_000_000_000\n")
    copy_trees(built)
    new_key = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 2 -subj /CN=127.0.0.1"
    names = f"-addext subjectAltName=IP:127.0.0.1 -keyout {built}/key.pem -out {built}/cert.pem"
    subprocess.run(f"{new_key} {names}".split(), check=True, capture_output=True)


def copy_trees(built: str) -> None:
    """This tree as it is, whether committed or not: {built}/pure, and {built}/native, compiled."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *SOURCES],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    names = sorted(name for name in listed.split("\0") if name and (ROOT / name).exists())
    digest = hashlib.sha256(sys.version.encode())
    for name in names:
        to = Path(built, "pure", name)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, to)
        digest.update(name.encode() + b"\0" + to.read_bytes())
    compiled = ROOT / "build/bench" / digest.hexdigest()[:16]
    if not compiled.exists():  # for this source
        shutil.rmtree(compiled.parent, ignore_errors=True)
        shutil.copytree(Path(built, "pure"), compiled.parent / "half")
        compile_tree(compiled.parent / "half")
        (compiled.parent / "half").rename(compiled)
    shutil.copytree(compiled, Path(built, "native"), ignore=shutil.ignore_patterns("build"))


def compile_tree(tree: Path) -> None:
    """Compile in place what is compiled where geventgate is installed with a compiler; fail where there is none."""
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    done = subprocess.run(command, cwd=tree, env=os.environ | {"GEVENTGATE_PURE": "0"}, capture_output=True, text=True)
    if done.returncode or not list(tree.glob("geventgate/**/*.so")):
        raise SystemExit(f"geventgate does not compile:\n{done.stdout}{done.stderr}")


HTTP = ("http", "idle")
HTTP2 = ("http2", "http2 TLS", "http2 POST", "http2 TLS POST")
RUN = "{bin}/python {bench}/peers.py "
CERTIFICATE = "--certfile {built}/cert.pem --keyfile {built}/key.pem"
GEVENTGATE = (
    "env PYTHONPATH={{built}}/{tree}:{{bench}} {{bin}}/python -P -m geventgate --bind 127.0.0.1:{{port}}"
    " --log-level error --keep-alive 75 --http2-engine {engine} served:{{app}}"
)
GEVENTGATE_APPS = every("wsgi", *HTTP, "close", *HTTP2, "crowd") | every("websocket", "websocket", "idle websocket")
GEVENTGATE_OPTIONS = cleartext_and_tls("--http2-cleartext prior-knowledge", CERTIFICATE) | {
    "crowd": "--keep-alive 600 --worker-connections 1000000"
}
# By default it serves as many connections at once as its backlog is long: 4096.
GRANIAN_OPTIONS = cleartext_and_tls("", "--ssl-certificate {built}/cert.pem --ssl-keyfile {built}/key.pem") | every(
    "--backpressure 10000", "idle", "idle websocket"
)

SERVERS = [
    Server(OURS, "", GEVENTGATE.format(tree="native", engine="ngh2"), GEVENTGATE_APPS, GEVENTGATE_OPTIONS),
    Server(OURS_PURE, "", GEVENTGATE.format(tree="pure", engine="ngh2"), GEVENTGATE_APPS, GEVENTGATE_OPTIONS),
    Server(OURS_H2, "", GEVENTGATE.format(tree="pure", engine="h2"), every("wsgi", *HTTP2), GEVENTGATE_OPTIONS),
    Server(LIMIT, "", "{built}/canned {port}", every("", "http", "close")),
    Server(LIMIT, "", "{built}/wsecho {port}", every("", "websocket")),
    Server(
        LIMIT,
        "",
        "nghttpd --address=127.0.0.1 --htdocs={built} --mime-types-file=/dev/null {port}",
        every("", "http2", "http2 TLS"),  # an upload it would pass through a file, which is no limit
        {"http2": "--no-tls", "http2 TLS": "{built}/key.pem {built}/cert.pem"},
    ),
    Server("gevent pywsgi", "gevent", RUN + "pywsgi {port} {app}", every("wsgi", *HTTP, "close")),
    Server(
        "gunicorn gevent",
        "gunicorn",
        "{bin}/gunicorn --worker-class gevent --workers 1 --worker-connections 10000 --keep-alive 75"
        " --log-level critical --bind 127.0.0.1:{port} served:{app}",
        every("wsgi", *HTTP, "close", *HTTP2),
        cleartext_and_tls(
            "--http-protocols h2,h1 --http2-cleartext prior-knowledge", f"--http-protocols h2,h1 {CERTIFICATE}"
        ),
    ),
    Server("fastwsgi", "fastwsgi", RUN + "fastwsgi {port} {app}", every("wsgi", *HTTP, "close")),
    Server("bjoern", "bjoern", RUN + "bjoern {port} {app}", every("wsgi", *HTTP, "close")),
    Server("meinheld", "meinheld", RUN + "meinheld {port} {app}", every("wsgi", *HTTP, "close")),
    Server(
        "socketify",
        "socketify",
        "{bin}/python -m socketify served:{app} --interface wsgi --ws none --host 127.0.0.1 --port {port} --workers 1",
        every("wsgi", *HTTP, "close"),
    ),
    Server(
        "granian wsgi",
        "granian",
        "{bin}/granian --interface wsgi --workers 1 --backlog 4096 --no-log --host 127.0.0.1 --port {port}"
        " served:{app}",
        every("wsgi", *HTTP, "close", *HTTP2),
        GRANIAN_OPTIONS,
    ),
    Server(
        "granian asgi",
        "granian",
        "{bin}/granian --interface asgi --workers 1 --backlog 4096 --no-log --host 127.0.0.1 --port {port}"
        " served:{app}",
        every("asgi", *HTTP, "close", *HTTP2, "websocket", "idle websocket"),
        GRANIAN_OPTIONS,
    ),
    Server(
        "uvicorn",
        "uvicorn",
        "{bin}/uvicorn --no-access-log --log-level critical --host 127.0.0.1 --port {port} served:{app}"
        " --timeout-keep-alive 75 --loop uvloop --http httptools",
        every("asgi", *HTTP, "close", "websocket", "idle websocket"),
    ),
    Server(
        "hypercorn",
        "hypercorn",
        "{bin}/hypercorn --config {built}/hypercorn.toml --bind 127.0.0.1:{port} --log-level critical served:{app}",
        every("asgi", *HTTP2),
        cleartext_and_tls("", CERTIFICATE),
    ),
    Server(
        "uwsgi",
        "uWSGI",
        "{bin}/uwsgi --http-socket 127.0.0.1:{port} --master --die-on-term --disable-logging --listen 128"
        " --module served:{app} --need-app --tcp-nodelay",
        every("wsgi", "close"),
    ),
    Server(
        "uwsgi gevent",
        "uWSGI",
        "{bin}/uwsgi --http-socket 127.0.0.1:{port} --master --die-on-term --disable-logging --listen 128"
        " --module served:{app} --need-app --tcp-nodelay",
        every("uwsgi_websocket", "websocket", "idle websocket"),
        {"websocket": "--gevent 4096", "idle websocket": "--gevent 6000"},
    ),
    Server(
        "gevent-websocket",
        "gevent-websocket",
        RUN + "gevent-websocket {port} {app}",
        every("websocket", "websocket", "idle websocket"),
    ),
    Server("picows", "picows", RUN + "picows {port}", every("", "websocket", "idle websocket")),
    Server("websockets", "websockets", RUN + "websockets {port}", every("", "websocket", "idle websocket")),
]
# What they use where it is there, or do not ask for: fastwsgi imports pkg_resources, which setuptools 81 took away.
EXTRAS = ["uvloop", "httptools", "packaging", "setuptools<81"]
ALONE = ("meinheld",)  # it asks for a greenlet that compiles on no Python of today, and runs with any


def to_install() -> list[str]:
    """pip's arguments for each package."""
    packages = dict.fromkeys([server.package for server in SERVERS if server.package] + EXTRAS)
    return [f"--no-deps {package}" if package in ALONE else package for package in packages]


# --- those that are started from Python


def application(name: str) -> Any:
    import served

    return getattr(served, name)


def run_pywsgi(port: int, app: str, **options: Any) -> None:
    from gevent import monkey

    monkey.patch_all()
    import socket

    from gevent import pywsgi

    class NoDelay(pywsgi.WSGIServer):
        """As shipped pywsgi writes head and body apart with Nagle on, which stalls for 44 ms: measure it without."""

        def handle(self, sock: Any, address: Any) -> None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            super().handle(sock, address)

    NoDelay(("127.0.0.1", port), application(app), log=None, backlog=2048, **options).serve_forever()


def run_gevent_websocket(port: int, app: str) -> None:
    from geventwebsocket.handler import WebSocketHandler

    run_pywsgi(port, app, handler_class=WebSocketHandler)


def run_fastwsgi(port: int, app: str) -> None:
    import fastwsgi

    fastwsgi.run(application(app), host="127.0.0.1", port=port, loglevel=0)


def run_bjoern(port: int, app: str) -> None:
    import bjoern

    bjoern.run(application(app), "127.0.0.1", port)


def run_meinheld(port: int, app: str) -> None:
    from meinheld import server

    server.listen(("127.0.0.1", port))
    server.set_access_logger(None)
    server.set_keepalive(75)
    server.run(application(app))


def run_picows(port: int, app: str) -> None:
    import uvloop
    from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

    class Echo(WSListener):
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if frame.msg_type == WSMsgType.CLOSE:
                transport.send_close(frame.get_close_code(), frame.get_close_message())
                transport.disconnect()
            else:
                transport.send(frame.msg_type, frame.get_payload_as_bytes())

    async def serve() -> None:
        await (await ws_create_server(lambda request: Echo(), "127.0.0.1", port)).serve_forever()

    uvloop.run(serve())


def run_websockets(port: int, app: str) -> None:
    import uvloop
    from websockets.asyncio.server import ServerConnection, serve

    async def echo(ws: ServerConnection) -> None:
        async for message in ws:
            await ws.send(message)

    async def run() -> None:
        async with serve(echo, "127.0.0.1", port) as server:
            await server.serve_forever()

    uvloop.run(run())


STARTERS: dict[str, Callable[[int, str], None]] = {
    "pywsgi": run_pywsgi,
    "gevent-websocket": run_gevent_websocket,
    "fastwsgi": run_fastwsgi,
    "bjoern": run_bjoern,
    "meinheld": run_meinheld,
    "picows": run_picows,
    "websockets": run_websockets,
}


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print("\n".join(to_install()))
    else:
        STARTERS[sys.argv[1]](int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
