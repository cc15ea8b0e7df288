"""Configuration and application become a Server: the one place where server, gateway and asyncio meet."""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any, TextIO

from gevent.event import Event

from geventgate import __version__, compat, loader
from geventgate.config import Config
from geventgate.gateway.wsgi import Application, WsgiGateway
from geventgate.server import server
from geventgate.server.addresses import Bound

SOFTWARE = f"geventgate/{__version__}"


class Server(server.Server):
    """Answers with a WSGI or ASGI *application*: ``with Server(app, bind="127.0.0.1:0") as server: ...``

    Configured by *config*, or by its fields by name. *errors* is ``wsgi.errors``: stderr. Of *sockets* it is the
    listener instead of binding. The socket of a WebSocket handshake is in the environ under *socket_key* too, if that
    is given. Raises ConfigError.
    """

    def __init__(
        self,
        application: loader.Application,
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
        served = adapt(application, config)
        gateway = self._wsgi = WsgiGateway(
            compat.wrap(served),
            config,
            draining=draining,
            errors=errors or sys.stderr,
            software=SOFTWARE,
            socket_key=socket_key,
        )
        gateway.at_start = _start_of(served)
        super().__init__(config, gateway, draining, sockets)

    def adapt(self, application: loader.Application) -> Application:
        """*application* as one of WSGI, to be called by the one given; start() will start it up."""
        served = adapt(application, self.config)
        self._wsgi.at_start = _start_of(served)
        return served


def adapt(application: loader.Application, config: Config) -> Application:
    """*application* as one of WSGI. asyncio is imported for one of ASGI only."""
    interface = config.interface
    if interface == "auto":
        interface = "asgi" if loader.is_asgi(application) else "wsgi"
    if interface == "wsgi" or _start_of(application) is not None:
        return application
    from geventgate.gateway import asgi

    if interface == "asgi2":
        application = asgi.asgi2(application)
    return asgi.asgi(application, lifespan=config.lifespan)


def _start_of(application: Any) -> Any:
    """How to start it up, if it is an ASGI application under WSGI; without importing what makes those."""
    asgi = sys.modules.get("geventgate.gateway.asgi")
    return application.start if asgi is not None and isinstance(application, asgi.Asgi) else None


def own_asyncio() -> None:
    """Have asyncio.run() and the like, in any greenlet, run on gevent's hub, once asyncio is imported. For programs of
    ours only: it holds for the whole process."""
    if "asyncio" in sys.modules:
        _install_loop()
    elif not any(isinstance(finder, AsyncioFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, AsyncioFinder())


def _install_loop() -> None:
    from geventgate import aio

    aio.install()


class AsyncioFinder(MetaPathFinder):
    """Waits for asyncio to be imported: Flask does so at its first asynchronous view, and WSGI needs none of it."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname != "asyncio":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                _install_loop()

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def assemble(config: Config, application: loader.Application, *, errors: TextIO | None = None) -> Server:
    """A Server, not yet started."""
    return Server(application, config, errors=errors)
