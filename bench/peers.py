"""The servers compared: how each is installed, started by its users, and in what it competes.

One process each, logs off, TCP_NODELAY on, limits as they ship. ``python bench/peers.py NAME PORT APP`` runs one that
is started from Python; without arguments it prints what is to be installed, one package a line.
"""

import shutil
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

BENCH = Path(__file__).parent
BIN = Path(sys.executable).parent


class Server(NamedTuple):
    """*command* has the fields {port}, {app}, {bin} (of the environment), {bench} and {built} (of the C programs)."""

    name: str
    package: str  # on PyPI; "" is not from there
    command: str
    apps: dict[str, str]  # what it competes in -> what it serves then

    def argv(self, port: int, competition: str, built: str) -> list[str]:
        app = self.apps[competition]
        return self.command.format(port=port, app=app, bin=BIN, bench=BENCH, built=built).split()

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


HTTP = ("http", "idle")
RUN = "{bin}/python {bench}/peers.py "
OURS = "geventgate"
LIMIT = "C"

SERVERS = [
    Server(
        OURS,
        "",
        "{bin}/python -m geventgate --bind 127.0.0.1:{port} --log-level error --keep-alive 75 apps:{app}",
        every("wsgi", *HTTP, "close") | every("websocket", "websocket", "idle websocket"),
    ),
    Server(LIMIT, "", "{built}/canned {port}", every("", "http", "close")),
    Server(LIMIT, "", "{built}/wsecho {port}", every("", "websocket")),
    Server(
        LIMIT,
        "",
        "nghttpd --no-tls --address=127.0.0.1 --htdocs={built} --mime-types-file=/dev/null {port}",
        every("", "http2"),
    ),
    Server("gevent pywsgi", "gevent", RUN + "pywsgi {port} {app}", every("wsgi", *HTTP, "close")),
    Server(
        "gunicorn gevent",
        "gunicorn",
        "{bin}/gunicorn --worker-class gevent --workers 1 --worker-connections 10000 --keep-alive 75"
        " --log-level critical --bind 127.0.0.1:{port} apps:{app}",
        every("wsgi", *HTTP, "close"),
    ),
    Server("fastwsgi", "fastwsgi", RUN + "fastwsgi {port} {app}", every("wsgi", *HTTP, "close")),
    Server("bjoern", "bjoern", RUN + "bjoern {port} {app}", every("wsgi", *HTTP, "close")),
    Server("meinheld", "meinheld", RUN + "meinheld {port} {app}", every("wsgi", *HTTP, "close")),
    Server(
        "socketify",
        "socketify",
        "{bin}/python -m socketify apps:{app} --interface wsgi --ws none --host 127.0.0.1 --port {port} --workers 1",
        every("wsgi", *HTTP, "close"),
    ),
    Server(
        "granian wsgi",
        "granian",
        "{bin}/granian --interface wsgi --workers 1 --backlog 4096 --no-log --host 127.0.0.1 --port {port} apps:{app}",
        every("wsgi", *HTTP, "close", "http2"),
    ),
    Server(
        "granian asgi",
        "granian",
        "{bin}/granian --interface asgi --workers 1 --backlog 4096 --no-log --host 127.0.0.1 --port {port} apps:{app}",
        every("asgi", *HTTP, "close", "http2", "websocket", "idle websocket"),
    ),
    Server(
        "uvicorn",
        "uvicorn",
        "{bin}/uvicorn --no-access-log --log-level critical --host 127.0.0.1 --port {port} apps:{app}"
        " --timeout-keep-alive 75 --loop uvloop --http httptools",
        every("asgi", *HTTP, "close", "websocket", "idle websocket"),
    ),
    Server(
        "hypercorn",
        "hypercorn",
        "{bin}/hypercorn --bind 127.0.0.1:{port} --log-level critical apps:{app}",
        every("asgi", "http2"),
    ),
    Server(
        "uwsgi",
        "uWSGI",
        "{bin}/uwsgi --http-socket 127.0.0.1:{port} --master --die-on-term --disable-logging --listen 128"
        " --module apps:{app} --need-app --tcp-nodelay",
        every("wsgi", "close"),
    ),
    Server(
        "uwsgi gevent",
        "uWSGI",
        "{bin}/uwsgi --http-socket 127.0.0.1:{port} --master --die-on-term --disable-logging --listen 128"
        " --module apps:{app} --need-app --tcp-nodelay --gevent 4096",
        every("uwsgi_websocket", "websocket", "idle websocket"),
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
EXTRAS = ["uvloop", "httptools", "packaging"]  # what they use where it is there, or do not ask for


# --- those that are started from Python


def application(name: str) -> Any:
    import apps

    return getattr(apps, name)


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
        print("\n".join(dict.fromkeys([server.package for server in SERVERS if server.package] + EXTRAS)))
    else:
        STARTERS[sys.argv[1]](int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
