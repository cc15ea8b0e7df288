"""geventgate: WSGI, WebSockets and ASGI on gevent. The public names, each imported at its first use.

So ``import geventgate`` brings in neither gevent nor ssl nor threading, and whoever patches may do it afterwards.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from geventgate import native  # noqa: F401, it decides what the imports of all other modules find

if TYPE_CHECKING:
    from geventgate import errors
    from geventgate.aio import run_async, run_blocking
    from geventgate.assemble import Server
    from geventgate.cli import serve
    from geventgate.config import Config
    from geventgate.gateway.asgi import asgi
    from geventgate.gateway.websocket import WebSocket
    from geventgate.worker import Worker

__version__ = "0.1.0"
__all__ = ["Config", "Server", "WebSocket", "Worker", "asgi", "errors", "run_async", "run_blocking", "serve"]

_HOMES = {
    "Config": "geventgate.config",
    "Server": "geventgate.assemble",
    "WebSocket": "geventgate.gateway.websocket",
    "Worker": "geventgate.worker",
    "asgi": "geventgate.gateway.asgi",
    "run_async": "geventgate.aio",
    "run_blocking": "geventgate.aio",
    "serve": "geventgate.cli",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("geventgate.errors")
    if name in _HOMES:
        value = globals()[name] = getattr(import_module(_HOMES[name]), name)
        return value
    raise AttributeError(f"module 'geventgate' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
