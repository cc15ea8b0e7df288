"""The peers, each as its users run it: ``python bench/peers.py NAME PORT APP``. Logs off, TCP_NODELAY on for all."""

import sys

from gevent import monkey

monkey.patch_all()

import socket  # noqa: E402
from typing import Any  # noqa: E402

import apps  # noqa: E402
from gevent import pywsgi  # noqa: E402


class NoDelay(pywsgi.WSGIServer):
    """As shipped pywsgi writes head and body apart with Nagle on, which stalls for 44 ms: measure it without."""

    def handle(self, sock: Any, address: Any) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().handle(sock, address)


def gevent_pywsgi(port: int, app: Any) -> None:
    NoDelay(("127.0.0.1", port), app, log=None).serve_forever()


def gevent_websocket(port: int, app: Any) -> None:
    from geventwebsocket.handler import WebSocketHandler

    NoDelay(("127.0.0.1", port), app, log=None, handler_class=WebSocketHandler).serve_forever()


if __name__ == "__main__":
    name, port, app = sys.argv[1:]
    {"pywsgi": gevent_pywsgi, "gevent-websocket": gevent_websocket}[name](int(port), getattr(apps, app))
