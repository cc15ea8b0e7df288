"""``gevent.pywsgi.WSGIServer``'s names over our server: change the import, and the rest stays.

    from geventgate.pywsgi import WSGIServer

Constructing, starting, pausing and stopping are gevent's, whose class this is one of; accepting and serving are ours,
HTTP/2 and WebSockets included. Where somebody puts something of theirs into gevent's server, a Pool or a handler, it
stays gevent's server, and the connections are served by ours one by one (compat/pywsgi.py).
"""

import logging
import os
import ssl
import sys
from dataclasses import replace
from typing import Any, ClassVar

import gevent
import gevent.ssl
from gevent import pywsgi
from gevent.event import Event
from gevent.pywsgi import Environ, LoggingLogAdapter, SecureEnviron, WSGIHandler, WSGISecureEnviron

from geventgate.assemble import SOFTWARE
from geventgate.compat.pywsgi import Calling, GeventWebSocketHandler, ServerLog, WebSocketHandler
from geventgate.config import Config
from geventgate.errors import ConfigError
from geventgate.gateway.wsgi import Application, WsgiGateway
from geventgate.protocol.http2 import engine
from geventgate.server.addresses import Bound
from geventgate.server.certificates import VERIFY, Certificates, Session, certificates
from geventgate.server.server import Server, room_for_connections
from geventgate.server.workers import Worker

__all__ = [
    "Environ", "LoggingLogAdapter", "SecureEnviron", "WSGIHandler", "WSGISecureEnviron", "WSGIServer",
    "WebSocketHandler",
]  # fmt: skip

# Methods of gevent's servers that are not called while ours accepts: who overrides one gets gevent's.
INSIDES = ("do_close", "do_handle", "do_read", "full", "handle", "wrap_socket_and_handle")
# Keywords of ssl.wrap_socket() that are fields of Config, and those that ask for what is so anyway.
TLS_FIELDS = ("ca_certs", "cert_reqs", "certfile", "ciphers", "keyfile")
TLS_ANYWAY = ("do_handshake_on_connect", "server_side", "ssl_version", "suppress_ragged_eofs")

log = logging.getLogger("geventgate")


class WSGIServer(pywsgi.WSGIServer):  # type: ignore[misc]
    """Serves *application* on *listener*: (HOST, PORT), "HOST:PORT", ":PORT", PORT or a listening socket.

    *spawn* is "default", "raw", a number, a Pool or a function. *log* and *error_log* are "default" (stderr), None,
    loggers, or have ``write()``. *environ* is added to every request's. TLS: *certfile* and *keyfile*, *ca_certs*,
    *cert_reqs*, *ciphers*, or *ssl_context*. *config* sets limits and times; what it says of addresses, processes and
    logs is not looked at.

    ``start()`` raises OSError, and ConfigError for bad certificates.
    """

    handler_class: Any = WebSocketHandler
    gate_config = Config()  # config=; applications have a "config" of their own
    backlog = gate_config.backlog
    base_env: ClassVar = {**pywsgi.WSGIServer.base_env, "SERVER_SOFTWARE": SOFTWARE, "wsgi.multithread": True}
    address: Any
    socket: Any
    _server: Server | None = None  # ours, while it accepts or drains
    _drain: Any = None

    def __init__(
        self,
        listener: Any,
        application: Application | None = None,
        backlog: int | None = None,
        spawn: Any = "default",
        log: Any = "default",
        error_log: Any = "default",
        handler_class: Any = None,
        environ: dict[str, Any] | None = None,
        config: Config | None = None,
        **ssl_args: Any,
    ) -> None:
        ssl_args = {name: value for name, value in ssl_args.items() if value is not None}
        self._ssl_context: ssl.SSLContext | None = ssl_args.get("ssl_context")
        self._tls = tls_fields(ssl_args)
        if self._tls:
            ssl_args = {name: value for name, value in ssl_args.items() if name == "handle"}
            ssl_args["ssl_context"] = gevents_context(self._tls)
        if config is not None:
            self.gate_config = config
        if self.gate_config.certfile or self.gate_config.sni:
            raise ConfigError("TLS is not the config's here: say certfile= and keyfile=, or ssl_context=")
        super().__init__(listener, application, backlog, spawn, log, error_log, handler_class, environ, **ssl_args)

    def set_spawn(self, spawn: Any) -> None:
        if spawn is None:
            raise ValueError("spawn=None would serve in the hub, and serving waits")
        super().set_spawn(gevent.spawn_raw if spawn == "raw" else spawn)
        self._spawns = spawn != "default"

    @property
    def _ours(self) -> bool:
        """Whether our server accepts: nothing of anybody else's has to be called for a connection."""
        handler = handler_for(self.handler_class)
        return (
            not self._spawns
            and "handle" not in vars(self)
            and all(getattr(type(self), name) is getattr(WSGIServer, name) for name in INSIDES)
            and getattr(handler, "handle", None) is WebSocketHandler.handle
            and handler.__init__ is WebSocketHandler.__init__
        )

    # --- starting, pausing

    def init_socket(self) -> None:
        """Bind, and put into listening mode, what is not yet. Raises OSError, ConfigError."""
        self._check()
        if not self._ours:
            super().init_socket()
            self.socket.setblocking(False)  # one that was given may not be gevent's, and accept() may block
            return
        if not hasattr(self, "socket"):
            self.socket = self.get_listener(self.address, self.backlog, self.family)
            self.address = self.socket.getsockname()
        self.update_environ()

    def update_environ(self) -> None:
        """SERVER_NAME and SERVER_PORT, where the socket tells; else each connection does. No name is looked up: that
        may take its time, and the server could be stopped meanwhile."""
        if isinstance(self.address, tuple):
            host, port = self.address[:2]
            if host not in ("0.0.0.0", "::"):
                self.environ.setdefault("SERVER_NAME", host)
            self.environ.setdefault("SERVER_PORT", str(port))

    def start_accepting(self) -> None:
        if not self._ours:
            super().start_accepting()
            return
        if self._server is None or self._drain is not None:
            self._server, self._drain = self._assemble(), None
            self._server.start()
        for listener in self._server.listeners:
            listener.max_accept = self.max_accept
            listener.start_accepting()

    def stop_accepting(self) -> None:
        super().stop_accepting()
        if self._server is not None:
            for listener in self._server.listeners:
                listener.stop_accepting()

    def _assemble(self) -> Server:
        """Our server on ``socket``. Others may go on listening there: a process that was forked, who gave it."""
        config = replace(self.gate_config, **self._tls)
        if config.worker_connections == Config().worker_connections:  # nobody has asked for so many: no complaint
            config = replace(config, worker_connections=min(config.worker_connections, room_for_connections()))
        draining = Event()
        application = Calling(lambda: self, handler_for(self.handler_class).wrap)
        gateway = WsgiGateway(application, config, draining=draining, errors=self.error_log, software=SOFTWARE)
        shared = bool(self.environ.get("wsgi.multiprocess"))
        server = Server(config, gateway, draining, [Bound(self.socket, given=True, shared=shared)])
        if self._ssl_context is not None:
            server.certificates = Given(self._ssl_context)
            if config.http2:
                server.service.http2_engine = engine(config.http2_engine)
        server.service.own_listeners = (ServerLog(lambda: self),)
        return server

    # --- the end

    def close(self) -> None:
        """Accept nothing more, at once. What runs may end, within ``graceful_timeout``; stop() waits for it."""
        if self._server is not None and self._drain is None:
            self._server.close()
            self._drain = gevent.spawn(self._server.stop)
        super().close()

    def stop(self, timeout: float | None = None) -> None:
        """Accept nothing more; what runs may end within *timeout* seconds (default: ``stop_timeout``), then it is cut.
        WebSockets are closed with 1001.

        A signal's handler may run in the hub, or in a request, which would wait for itself: there it does not wait.
        """
        current = gevent.getcurrent()
        if current is gevent.get_hub() or isinstance(current, Worker):
            self.close()
            gevent.spawn(self.stop, timeout)
            return
        server = self._server
        super().stop(timeout)
        if server is not None:
            server.stop(self.stop_timeout if timeout is None else timeout)
            if self._server is server:
                self._drain.kill()
                self._server = self._drain = None

    # --- one connection in gevent's server

    def handle(self, sock: Any, address: Any) -> None:
        handler_for(self.handler_class)(sock, address, self).handle()

    def wrap_socket_and_handle(self, sock: Any, address: Any) -> None:
        """As gevent's, and no handshake lasts for ever."""
        seconds = self.gate_config.tls_handshake_timeout
        try:
            with gevent.Timeout(seconds, TimeoutError(f"none within {seconds:g} s")):
                secure = self.wrap_socket(sock, **self.ssl_args)
        except OSError as error:
            log.info("%s: no TLS handshake: %s", address[0] if address else "unix", error)
            return
        with secure:
            self.handle(secure, address)

    def _check(self) -> None:
        """Say what is not as whoever set it may think. Raises ConfigError."""
        handler = handler_for(self.handler_class)
        if not isinstance(handler, type) or not issubclass(handler, WebSocketHandler):
            log.warning(
                "%r serves its connections itself: without geventgate's WebSockets, limits and timeouts", handler
            )
        elif idle := [
            name for name in vars(handler) if hasattr(WSGIHandler, name) and not hasattr(WebSocketHandler, name)
        ]:
            log.warning("%r: nobody calls its %s", handler, ", ".join(idle))
        if not self._ours and self.gate_config.proxy_protocol != "off":
            raise ConfigError("the PROXY protocol wants a server of the default spawn and handler_class")


class Given(Certificates):
    """A TLS context of the application's own. Only one that offers "h2" by ALPN gets HTTP/2."""

    def __init__(self, context: ssl.SSLContext) -> None:
        context.sslobject_class = Session
        self.context = context

    def reload(self) -> None:
        """Nothing: its files are not known."""


def tls_fields(ssl_args: dict[str, Any]) -> dict[str, Any]:
    """The keywords of pywsgi's TLS as fields of Config. Raises TypeError, ConfigError."""
    for name in ssl_args:
        if name not in (*TLS_FIELDS, *TLS_ANYWAY, "ssl_context", "handle"):
            raise TypeError(f"WSGIServer() got an unexpected keyword argument {name!r}")
    if ssl_args.keys() - {"handle"} and not {"certfile", "ssl_context"} & ssl_args.keys():
        raise ConfigError("TLS wants a certificate: certfile=, or ssl_context=")
    if "ssl_context" in ssl_args and ssl_args.keys() & set(TLS_FIELDS):
        raise ConfigError("ssl_context= brings what certfile= and its like would say")
    options = {name: os.fspath(value) for name, value in ssl_args.items() if name in TLS_FIELDS and name != "cert_reqs"}
    asks = int(ssl_args.get("cert_reqs", ssl.CERT_NONE))
    if asks:
        options["cert_reqs"] = str(asks)
    elif options.pop("ca_certs", None):
        log.warning("ca_certs= checks nobody: say cert_reqs= too")
    return options


def gevents_context(fields: dict[str, Any]) -> ssl.SSLContext:
    """What *fields* of Config say, for gevent's sockets. Raises ConfigError."""
    certificates(Config(**fields), ["http/1.1"])  # which says what is wrong
    context: ssl.SSLContext = gevent.ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(fields["certfile"], fields.get("keyfile"))
    if "ciphers" in fields:
        context.set_ciphers(fields["ciphers"])
    if "ca_certs" in fields:
        context.load_verify_locations(fields["ca_certs"])
        context.verify_mode = VERIFY[fields["cert_reqs"]]
    context.set_alpn_protocols(["http/1.1"])
    return context


def handler_for(handler_class: Any) -> Any:
    """Who serves connections for *handler_class*: ours for those of gevent's and gevent-websocket's whose work it
    does."""
    if handler_class is WSGIHandler:
        return WebSocketHandler
    theirs = getattr(sys.modules.get("geventwebsocket.handler"), "WebSocketHandler", None)
    if handler_class is theirs and theirs is not WebSocketHandler:  # the real package, not the shim
        return GeventWebSocketHandler
    return handler_class
