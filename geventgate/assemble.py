"""Configuration and application become a Server: the one place where server and gateway meet."""

import sys
from collections.abc import Sequence
from typing import Any, TextIO

from gevent.event import Event

from geventgate import __version__, compat
from geventgate.config import Config
from geventgate.gateway.wsgi import Application, WsgiGateway
from geventgate.server import server
from geventgate.server.addresses import Bound

SOFTWARE = f"geventgate/{__version__}"


class Server(server.Server):
    """Answers with a WSGI *application*: ``with Server(app, bind="127.0.0.1:0") as server: ...``

    Configured by *config*, or by its fields by name. *errors* is ``wsgi.errors``: stderr. Of *sockets* it is the
    listener instead of binding. The socket of a WebSocket handshake is in the environ under *socket_key* too, if that
    is given. Raises ConfigError.
    """

    def __init__(
        self,
        application: Application,
        config: Config | None = None,
        *,
        bind: str | Sequence[str] = (),
        errors: TextIO | None = None,
        sockets: Sequence[Bound] = (),
        socket_key: str = "",
        **options: Any,
    ) -> None:
        if bind:
            options["bind"] = (bind,) if isinstance(bind, str) else tuple(bind)
        if config is None:
            config = Config(**options)
        elif options:
            raise TypeError("a Server takes a Config or its fields, not both")
        draining = Event()
        application = compat.wrap(application)
        gateway = WsgiGateway(
            application,
            config,
            draining=draining,
            errors=errors or sys.stderr,
            software=SOFTWARE,
            socket_key=socket_key,
        )
        super().__init__(config, gateway, draining, sockets)


def assemble(config: Config, application: Application, *, errors: TextIO | None = None) -> Server:
    """A Server, not yet started."""
    return Server(application, config, errors=errors)
