"""gevent-websocket's server: geventgate.pywsgi's, which keeps a list of its WebSockets."""

from collections.abc import Callable
from typing import Any

from geventgate.compat.geventwebsocket import create_logger
from geventgate.compat.geventwebsocket.upgrade import Clients
from geventgate.compat.pywsgi import GeventWebSocketHandler
from geventgate.pywsgi import WSGIServer


class WebSocketServer(WSGIServer):
    """As ``geventgate.pywsgi.WSGIServer``. *debug* has its ``logger`` write. *pre_start_hook* is called with each
    request's handler, and says whether it is to be an ordinary one. ``clients`` are the open WebSockets, by address."""

    handler_class = GeventWebSocketHandler

    def __init__(
        self,
        *args: Any,
        debug: bool = False,
        pre_start_hook: Callable[[Any], object] | None = None,
        **kwargs: Any,
    ) -> None:
        self.debug = debug
        self.pre_start_hook = pre_start_hook
        self.clients = Clients()
        self.logger = create_logger("geventwebsocket.server", debug)
        super().__init__(*args, **kwargs)
