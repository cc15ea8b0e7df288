"""gevent-websocket's applications: a class for each path, an object for each WebSocket. Knows no server."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from geventgate.errors import WebSocketError

Environ = dict[str, Any]


class BaseProtocol:
    """Between a WebSocket's messages and its application."""

    PROTOCOL_NAME = ""

    def __init__(self, app: "WebSocketApplication") -> None:
        self._app = app

    def on_open(self) -> None:
        self.app.on_open()

    def on_message(self, message: Any) -> None:
        self.app.on_message(message)

    def on_close(self, reason: Any = None) -> None:
        self.app.on_close(reason)

    @property
    def app(self) -> "WebSocketApplication":
        return self._app

    @property
    def handler(self) -> Any:
        return self.app.ws.handler if hasattr(self.app, "ws") else None

    @property
    def server(self) -> Any:
        return self.handler.server if hasattr(self.app, "ws") else None


class WebSocketApplication:
    """A WebSocket *ws* and what is done about it: override ``on_open()``, ``on_message(message)``, which is given None
    at the end, and ``on_close(reason)``."""

    protocol_class: type[BaseProtocol] = BaseProtocol

    def __init__(self, ws: Any) -> None:
        self.protocol = self.protocol_class(self)
        self.ws = ws

    def handle(self) -> None:
        """Until it is closed. ``on_close()`` is called, too, when ``on_message()`` finds it closed."""
        self.protocol.on_open()
        message: Any = ""
        while message is not None:
            try:
                message = self.ws.receive()
            except WebSocketError:  # closed by ourselves
                break
            try:
                self.protocol.on_message(message)
            except WebSocketError:
                if not self.ws.closed:
                    raise
                break
        self.protocol.on_close()

    def on_open(self, *args: Any, **kwargs: Any) -> None:
        return None

    def on_close(self, *args: Any, **kwargs: Any) -> None:
        return None

    def on_message(self, message: Any, *args: Any, **kwargs: Any) -> None:
        self.ws.send(message, **kwargs)

    @classmethod
    def protocol_name(cls) -> str:
        return cls.protocol_class.PROTOCOL_NAME


class Resource:
    """*apps*, by the beginnings of paths (regular expressions), in order: WebSocketApplications for WebSockets, and
    WSGI applications for other requests."""

    def __init__(self, apps: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None) -> None:
        self.apps: Iterable[tuple[str, Any]] = apps.items() if isinstance(apps, Mapping) else apps or []

    def _is_websocket_app(self, app: Any) -> bool:
        """To be overridden by those whose applications are of other classes."""
        return isinstance(app, type) and issubclass(app, WebSocketApplication)

    def _app_by_path(self, environ_path: str, is_websocket_request: bool) -> Any:
        for path, app in self.apps:
            if re.match(path, environ_path) and self._is_websocket_app(app) == is_websocket_request:
                return app
        return None

    def app_protocol(self, path: str) -> str | None:
        """The subprotocol of what is at *path*, "" if it names none; None: there is nothing for WebSockets."""
        app = self._app_by_path(path, True)
        if app is None:
            return None
        return str(app.protocol_name()) if hasattr(app, "protocol_name") else ""

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        is_websocket_request = "wsgi.websocket" in environ
        app = self._app_by_path(environ["PATH_INFO"], is_websocket_request)
        if app is None:
            start_response("404 Not Found", [("Content-Type", "text/plain; charset=utf-8")])
            return [b"Nothing is here.\n"]
        if not is_websocket_request:
            return app(environ, start_response)  # type: ignore[no-any-return]
        ws = environ["wsgi.websocket"]
        current = app(ws)
        current.ws = ws  # whose __init__() may not call ours
        current.handle()
        return []
