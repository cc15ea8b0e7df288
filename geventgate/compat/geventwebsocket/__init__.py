"""gevent-websocket's names: ``--compat geventwebsocket``. What needs a server is imported when it is asked for."""

import logging
from types import ModuleType
from typing import Any

from geventgate.compat import module
from geventgate.compat.geventwebsocket import resource, upgrade
from geventgate.compat.geventwebsocket.upgrade import wrap
from geventgate.errors import WebSocketError

__all__ = ["modules", "wrap"]

VERSION = (0, 10, 1, "final", 0)  # whose names these are


def get_version(version: Any = None) -> str:
    return ".".join(str(part) for part in (version or VERSION)[:3])


def create_logger(name: str, debug: bool = False, format: str | None = None) -> logging.Logger:
    """The logger *name*; with *debug* it writes all that it is told to stderr."""
    logger = logging.getLogger(name)
    if debug:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(format))
        logger.handlers = [handler]
        logger.setLevel(logging.DEBUG)
    return logger


PROTOCOLS = {"BaseProtocol": resource.BaseProtocol}
RESOURCE = {"Resource": resource.Resource, "WebSocketApplication": resource.WebSocketApplication}
ERRORS = {
    "WebSocketError": WebSocketError,
    "ProtocolError": upgrade.ProtocolError,
    "FrameTooLargeException": upgrade.FrameTooLargeException,
}
MESSAGES = {name: getattr(upgrade, name) for name in ("MSG_SOCKET_DEAD", "MSG_ALREADY_CLOSED", "MSG_CLOSED")}

SERVER = "geventgate.compat.geventwebsocket.server:WebSocketServer"
HANDLER = "geventgate.compat.pywsgi:GeventWebSocketHandler"

# What each module has, as compat.module() takes it.
NAMES: dict[str, dict[str, Any]] = {
    "geventwebsocket": {
        **RESOURCE,
        "WebSocketError": WebSocketError,
        "WebSocketServer": SERVER,
        "VERSION": VERSION,
        "get_version": get_version,
    },
    "geventwebsocket.exceptions": ERRORS,
    "geventwebsocket.gunicorn": {},
    "geventwebsocket.gunicorn.workers": {
        "GeventWebSocketWorker": "geventgate.worker:Worker",
        "WebSocketHandler": HANDLER,
    },
    "geventwebsocket.handler": {
        "Client": upgrade.Client,
        "Stream": upgrade.Stream,
        "WebSocket": upgrade.WebSocket,
        "WebSocketHandler": HANDLER,
        "create_logger": create_logger,
    },
    "geventwebsocket.logging": {"create_logger": create_logger},
    "geventwebsocket.protocols": {},
    "geventwebsocket.protocols.base": PROTOCOLS,
    "geventwebsocket.resource": {**RESOURCE, **PROTOCOLS, "WebSocketError": WebSocketError},
    "geventwebsocket.server": {
        "WebSocketServer": SERVER,
        "WebSocketHandler": HANDLER,
        "create_logger": create_logger,
    },
    "geventwebsocket.utils": {"get_version": get_version},
    "geventwebsocket.websocket": {**ERRORS, **MESSAGES, "WebSocket": upgrade.WebSocket, "Stream": upgrade.Stream},
}


def modules() -> dict[str, ModuleType]:
    return {name: module(name, names) for name, names in NAMES.items()}
