"""Flask-Sockets: ``--compat flask_sockets``. WebSocket routes beside Flask's own.

The published package (0.2.1, archived) cannot route WebSockets with Werkzeug 1 or later, whose rules say whether they
are for WebSockets, nor register blueprints with Flask 2 or later. Knows Flask by what it is given.
"""

from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

from werkzeug.exceptions import NotFound
from werkzeug.routing import Map, RequestRedirect, Rule

from geventgate.compat import module
from geventgate.compat.geventwebsocket.upgrade import Application, Environ, Host, Upgrading

Handler = Callable[..., Any]

WORKER = "geventgate.worker:Worker"


class SocketMiddleware:
    """Before *wsgi_app*, Flask's: WebSockets whose URL is a route of *socket* get to its handler, in the context of
    their request. All others are Flask's."""

    def __init__(self, wsgi_app: Application, app: Any, socket: "Sockets") -> None:
        self.wsgi_app = wsgi_app
        self.app = app
        self.ws = socket
        self._host = Host(app)

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        if environ.get("wsgi.websocket") is None:
            return self.wsgi_app(environ, start_response)  # type: ignore[no-any-return]
        try:
            handler, values = self.ws.url_map.bind_to_environ(environ).match()
        except RequestRedirect as redirect:
            return redirect(environ, start_response)
        except NotFound:
            return self.wsgi_app(environ, start_response)  # type: ignore[no-any-return]

        def view(environ: Environ, start_response: Any) -> Iterable[bytes]:
            with self.app.request_context(environ):
                handler(environ["wsgi.websocket"], **values)
            return []

        return Upgrading(view, self._host)(environ, start_response)


class Sockets:
    """WebSocket routes of *app*: ``@sockets.route("/echo")`` over a function of the WebSocket and the URL's values."""

    def __init__(self, app: Any = None) -> None:
        self.url_map = Map()
        self.blueprints: dict[str, Any] = {}
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Any) -> None:
        app.wsgi_app = SocketMiddleware(app.wsgi_app, app, self)

    def route(self, rule: str, **options: Any) -> Callable[[Handler], Handler]:
        def decorate(handler: Handler) -> Handler:
            self.add_url_rule(rule, options.pop("endpoint", None), handler, **options)
            return handler

        return decorate

    def add_url_rule(self, rule: str, endpoint: str | None, handler: Handler, **options: Any) -> None:
        """Of Flask's *options* a WebSocket's route has ``defaults``."""
        self.url_map.add(Rule(rule, endpoint=handler, defaults=options.get("defaults"), websocket=True))

    def register_blueprint(self, blueprint: Any, **options: Any) -> None:
        """Its routes; *options* as Flask's, ``url_prefix`` among them."""
        first = blueprint.name not in self.blueprints
        if self.blueprints.setdefault(blueprint.name, blueprint) is not blueprint:
            raise ValueError(f"another blueprint is registered as {blueprint.name!r}")
        state = blueprint.make_setup_state(self, options, first)
        for record in blueprint.deferred_functions:
            record(state)


def modules() -> dict[str, ModuleType]:
    names = {"Sockets": Sockets, "SocketMiddleware": SocketMiddleware, "Worker": WORKER, "worker": WORKER}
    return {"flask_sockets": module("flask_sockets", names)}
