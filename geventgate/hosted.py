"""gunicorn as our host: what its settings mean to us, and what its users see around a request.

Its settings win, defaults included; ours (``GEVENTGATE_*``) fill the gaps. Imports nothing of gunicorn: settings,
logger and worker are handed in. To be imported after monkey-patching.
"""

import io
import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from datetime import timedelta
from typing import IO, Any, Protocol

from geventgate.assemble import Server
from geventgate.config import KIB, Config
from geventgate.errors import PeerError
from geventgate.exchange import Address, Exchange, ResponseFields
from geventgate.logs import CONTROLS
from geventgate.protocol.http1 import reason
from geventgate.settings import Setting, gather
from geventgate.trust import Peers

# gunicorn's own bounds, for what it is told not to bound.
MAX_LINE = 8190
MAX_FIELD = 8190
MAX_FIELDS = 32768
LEAST_HEAD = 32 * KIB
UNBOUNDED = 1 << 40
UNWIND_SECONDS = 0.5  # for us to cut what has not ended, before gunicorn kills

Environ = dict[str, Any]
Fields = list[tuple[str, str]]

log = logging.getLogger("geventgate")


# --- settings


def _graceful(cfg: Any) -> float:
    seconds: int = cfg.graceful_timeout
    return max(seconds - UNWIND_SECONDS, seconds / 2)


def _line(cfg: Any) -> int:
    size: int = cfg.limit_request_line
    return min(size, MAX_LINE) if size else _head(cfg)


def _fields(cfg: Any) -> int:
    count: int = cfg.limit_request_fields
    return min(count, MAX_FIELDS) if count else MAX_FIELDS


def _head(cfg: Any) -> int:
    """One line and one field of the sizes allowed fit, whatever they are."""
    size: int = cfg.limit_request_line + (cfg.limit_request_field_size or MAX_FIELD)
    return max(size, LEAST_HEAD)


def _cleartext(cfg: Any) -> str:
    spoken = "h2" in cfg.http_protocols and cfg.http2_cleartext in ("prior-knowledge", "both")
    return "prior-knowledge" if spoken else "off"


# A field of Config: the setting of gunicorn's that decides it, and how.
TRANSLATED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "forwarded_allow_ips": ("forwarded_allow_ips", lambda cfg: (*cfg.forwarded_allow_ips, "unix:")),
    "proxy_protocol": ("proxy_protocol", lambda cfg: cfg.proxy_protocol),
    "proxy_allow_from": ("proxy_allow_ips", lambda cfg: (*cfg.proxy_allow_ips, "unix:")),
    "workers": ("workers", lambda cfg: cfg.workers),
    "timeout": ("timeout", lambda cfg: cfg.timeout),
    "max_requests": ("max_requests", lambda cfg: cfg.max_requests),
    "max_requests_jitter": ("max_requests_jitter", lambda cfg: cfg.max_requests_jitter),
    "root_path": ("root_path", lambda cfg: cfg.root_path),
    "lifespan": ("asgi_lifespan", lambda cfg: cfg.asgi_lifespan),
    "keep_alive": ("keepalive", lambda cfg: cfg.keepalive),
    "graceful_timeout": ("graceful_timeout", _graceful),
    "worker_connections": ("worker_connections", lambda cfg: cfg.worker_connections),
    "limit_request_line": ("limit_request_line", _line),
    "limit_request_fields": ("limit_request_fields", _fields),
    "certfile": ("certfile", lambda cfg: cfg.certfile or ""),
    "keyfile": ("keyfile", lambda cfg: cfg.keyfile or ""),
    "ca_certs": ("ca_certs", lambda cfg: cfg.ca_certs or "" if cfg.cert_reqs else ""),
    "cert_reqs": ("cert_reqs", lambda cfg: str(int(cfg.cert_reqs))),
    "ciphers": ("ciphers", lambda cfg: cfg.ciphers or ""),
    "http2": ("http_protocols", lambda cfg: "h2" in cfg.http_protocols),
    "http2_cleartext": ("http2_cleartext", _cleartext),
    "http2_max_concurrent_streams": ("http2_max_concurrent_streams", lambda cfg: cfg.http2_max_concurrent_streams),
    "websocket_max_message_size": (
        "websocket_max_message_size",
        lambda cfg: cfg.websocket_max_message_size or UNBOUNDED,
    ),
}  # fmt: skip

# Fields of Config about which gunicorn has decided before there is a worker.
THEIRS = {
    "bind": "bind", "backlog": "backlog", "reuse_port": "reuse_port", "pid": "pidfile", "user": "user",
    "group": "group", "umask": "umask", "chdir": "chdir", "access_logfile": "accesslog", "error_logfile": "errorlog",
    "log_level": "loglevel", "preload": "preload_app", "reload": "reload",
}  # fmt: skip

# Settings of gunicorn's that we cannot do as told, and what we do instead.
UNHEEDED = {
    "threads": "requests run in greenlets",
    "protocol": "HTTP is spoken, and nothing else",
    "uwsgi_allow_ips": "HTTP is spoken, and nothing else",
    "ssl_version": "TLS 1.2 and 1.3 are spoken; see ssl_context and GEVENTGATE_TLS_MINIMUM",
    "do_handshake_on_connect": "the handshake has a greenlet of its own",
    "suppress_ragged_eofs": "they always are",
    "http2_initial_window_size": "windows grow with what is read",
    "http2_max_frame_size": "it is the protocol's least",
    "http2_max_header_list_size": "GEVENTGATE_LIMIT_REQUEST_HEAD is the limit",
    "permit_obsolete_folding": "it is refused, with 400",
    "strip_header_spaces": "they are refused, with 400",
    "permit_unconventional_http_method": "any token is a method",
    "permit_unconventional_http_version": "others are refused, with 505",
    "casefold_http_method": "methods come as they are",
    "http_parser": "the parser is ours",
    "asgi_loop": "asyncio runs on gevent's hub",
    "asgi_disconnect_grace_period": "tasks that do not ask for http.disconnect are cancelled at once",
}


def gaps(environ: Mapping[str, str]) -> dict[str, Any]:
    """What ``GEVENTGATE_*`` and the file they may name set. Raises ConfigError."""
    return {name: setting.value for name, setting in _set(environ).items()}


def _set(environ: Mapping[str, str]) -> dict[str, Setting]:
    return {name: setting for name, setting in gather({}, environ).items() if setting.source}


def translate(cfg: Any, environ: Mapping[str, str] = os.environ) -> Config:
    """gunicorn's settings as ours, and *environ*'s where it has none. Raises ConfigError."""
    values: dict[str, Any] = {
        "forwarded_headers": (),  # as under gunicorn, which believes secure_scheme_headers and nothing else
        "limit_request_head": _head(cfg),
        "early_hints": True,
    }
    values |= {name: value for name, value in gaps(environ).items() if name not in THEIRS}
    for name, (setting, read) in TRANSLATED.items():
        if setting in cfg.settings:
            values[name] = read(cfg)
    values["root_path"] = values.get("root_path") or environ.get("SCRIPT_NAME", "")
    return Config(**values)


def unheeded(cfg: Any, environ: Mapping[str, str]) -> list[str]:
    """A line for each setting that has been set and is not done as told."""
    lines = [f"{name} is not for this worker: {instead}" for name, instead in UNHEEDED.items() if is_set(cfg, name)]
    if is_set(cfg, "http2_cleartext") and cfg.http2_cleartext in ("upgrade", "both"):
        lines.append(f"http2_cleartext is {cfg.http2_cleartext}: Upgrade: h2c is not answered")
    if cfg.ca_certs and not cfg.cert_reqs:
        lines.append("ca_certs checks nobody: set cert_reqs too")
    deciders = THEIRS | {name: setting for name, (setting, _) in TRANSLATED.items()}
    for name, setting in _set(environ).items():
        if name == "patch" and not setting.value:
            lines.append(f"{setting.source}: the standard library is patched all the same")
        elif (decider := deciders.get(name)) and decider in cfg.settings:
            lines.append(f"{setting.source} has no effect under gunicorn: {decider} decides")
    return lines


def is_set(cfg: Any, name: str) -> bool:
    """Whether gunicorn has this setting, and it is off its default."""
    setting = cfg.settings.get(name)
    return setting is not None and setting.get() != type(setting)().get()


# --- logs


class Lines(logging.Handler):
    """Our lines as lines of gunicorn's *logger*; control characters become \\xNN (CVE-2020-7694)."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        say = getattr(self._logger, record.levelname.lower(), self._logger.error)
        say("%s", record.getMessage().translate(CONTROLS), exc_info=record.exc_info)


class ErrorFile(io.TextIOBase):
    """``wsgi.errors``: what is written comes where gunicorn's error log does."""

    encoding = "utf-8"

    def __init__(self, logger: Any) -> None:
        self._log = getattr(logger, "error_log", log)

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        streams = [stream for handler in self._log.handlers if (stream := getattr(handler, "stream", None))]
        for stream in streams or [sys.stderr]:
            stream.write(text)
            stream.flush()
        return len(text)

    def close(self) -> None:
        """Nothing: no application may close it (PEP 3333)."""


# --- TLS


def ssl_context(cfg: Any, server: Server) -> None:
    """Let gunicorn's hook of this name change our context, or make its own."""
    certificates = server.certificates
    if certificates is None:
        return
    ours = certificates.context
    context = cfg.ssl_context(cfg, lambda: ours)
    if context is not ours:
        context.sslobject_class = ours.sslobject_class
        context.set_alpn_protocols(["h2", "http/1.1"] if server.config.http2 else ["http/1.1"])
        certificates.context = context


# --- around a request


class Host(Protocol):
    """The part of gunicorn's worker that hooks and logs need."""

    cfg: Any
    log: Any
    application: Callable[[Environ, Callable[..., Any]], Iterable[bytes]]  # is called for each request


class Request:
    """A request as gunicorn's hooks and loggers know one."""

    def __init__(self, exchange: Exchange) -> None:
        head = exchange.request
        self.method = head.method
        self.uri = head.target.decode("latin-1")
        self.path = head.path.decode("latin-1")
        self.query = head.query.decode("latin-1")
        self.fragment = ""
        self.version = tuple(int(part) for part in f"{head.http_version}.0".split(".")[:2])
        self.scheme = head.scheme
        self.headers: Fields = [
            (name.decode("latin-1").upper(), value.decode("latin-1")) for name, value in head.fields
        ]
        self.trailers: Fields = []
        self.remote_addr = self.peer_addr = exchange.peer
        self.proxy_protocol_info: dict[str, Any] = {}


class Response:
    """A response as gunicorn's hooks and loggers know one."""

    def __init__(self, status: str, headers: ResponseFields, sent: int) -> None:
        self.status = status
        self.headers = headers
        self.sent = self.response_length = sent


class Visit:
    """One request, and what is learnt of it on its way through the application."""

    __slots__ = ("environ", "exchange", "headers", "keys", "request")

    def __init__(self, exchange: Exchange, keys: Fields) -> None:
        self.exchange = exchange
        self.keys = keys  # for the environ, that a proxy's fields are allowed to set
        self.request: Request | None = None
        self.environ: Environ | None = None
        self.headers: ResponseFields = ()

    def seen(self) -> Request:
        if self.request is None:
            self.request = Request(self.exchange)
        return self.request


_visit: ContextVar[Visit] = ContextVar("visit")


def host(worker: Host, server: Server) -> None:
    """Have *server*, which has not started, do around each request what gunicorn does: believe its proxies, call its
    hooks, tell its log."""
    around = Around(worker, server)
    server.service.handle = around.handle
    if around.listens:
        server.service.own_listeners = (*server.service.own_listeners, around)
    ssl_context(worker.cfg, server)


class Around:
    """Between server and gateway, around the application, and a listener to what became of it."""

    def __init__(self, worker: Host, server: Server) -> None:
        cfg = worker.cfg
        self._worker = worker
        self._handle = server.service.handle
        self._belief = Belief(cfg)
        self._pre_request = cfg.pre_request if _is_own(cfg, "pre_request") or cfg.loglevel == "debug" else None
        self._post_request = cfg.post_request if _is_own(cfg, "post_request") else None
        self._logs = _logs_access(worker.log)
        self._files_are_read = not cfg.sendfile
        self.listens = self._logs or self._post_request is not None
        self._visits: dict[Exchange, Visit] = {}
        self._application = worker.application
        worker.application = self._call

    def handle(self, exchange: Exchange) -> None:
        found = Visit(exchange, self._belief.keys(exchange))
        _visit.set(found)
        if self.listens:
            self._visits[exchange] = found
        self._handle(exchange)

    def _call(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        found = _visit.get()
        for key, value in found.keys:
            _set_key(environ, key, value)
        if self._files_are_read:
            environ["wsgi.file_wrapper"] = ReadFile
        if self._pre_request is not None:
            self._pre_request(self._worker, found.seen())
        if not self.listens:
            return self._application(environ, start_response)
        found.environ = environ

        def start(status: str | int, headers: ResponseFields, exc_info: Any = None) -> Any:
            found.headers = headers
            return start_response(status, headers, exc_info)

        return self._application(environ, start)

    # --- a listener to observe.py

    def request_ended(self, exchange: Exchange, seconds: float) -> None:
        found = self._visits.pop(exchange, None) or Visit(exchange, [])
        environ = found.environ or _least_environ(exchange)
        response = Response(f"{exchange.status:03d} {reason(exchange.status)}".rstrip(), found.headers, exchange.sent)
        if self._logs:
            self._worker.log.access(response, found.seen(), environ, timedelta(seconds=seconds))
        if self._post_request is not None:
            try:
                self._post_request(self._worker, found.seen(), environ, response)
            except Exception:
                log.exception("%s: the hook post_request failed", exchange)

    def request_refused(self, peer: Address, status: int, why: str) -> None:
        """gunicorn's access log has no lines for what is no request; *why* is in the error log."""


class Belief:
    """What a request's fields may say besides: secure_scheme_headers, forwarder_headers, header_map."""

    def __init__(self, cfg: Any) -> None:
        self._trusted = Peers((*cfg.forwarded_allow_ips, "unix:"))
        self._schemes = {
            name.lower().encode("latin-1"): value.encode("latin-1") for name, value in cfg.secure_scheme_headers.items()
        }
        names = {name.lower() for name in getattr(cfg, "forwarder_headers", ())}
        self._names = {name.encode("latin-1") for name in names if "_" in name}
        self._all = "*" in names
        self._map = getattr(cfg, "header_map", "drop")

    def keys(self, exchange: Exchange) -> Fields:
        """What is to be added to the environ; sets the scheme. Raises PeerError."""
        trusted = exchange.peer[0] in self._trusted
        if not trusted and self._map == "drop":
            return []
        keys: Fields = []
        secure: bool | None = None
        for name, value in exchange.request.fields:
            if trusted and name in self._schemes:
                says = value == self._schemes[name]
                if secure is not None and says != secure:
                    raise PeerError(400, "its fields contradict each other on whether it came by https")
                secure = says
            elif b"_" in name:
                if self._map == "dangerous" or (trusted and (self._all or name in self._names)):
                    keys.append((name.decode("ascii").upper().replace("-", "_"), value.decode("latin-1")))
                elif self._map == "refuse":
                    raise PeerError(400, f"a field's name has a '_': {name.decode('ascii')}")
        if secure is not None:
            exchange.request.scheme = "https" if secure else "http"
        return keys


def _set_key(environ: Environ, name: str, value: str) -> None:
    """A field's value, as gunicorn puts it; SCRIPT_NAME is where the application is mounted."""
    if name == "SCRIPT_NAME":
        environ["SCRIPT_NAME"] = value
        path = environ["PATH_INFO"]
        if value and path.startswith(value) and path[len(value) : len(value) + 1] in ("", "/"):
            environ["PATH_INFO"] = path[len(value) :]
    key = f"HTTP_{name}"
    environ[key] = f"{environ[key]},{value}" if key in environ else value


def _least_environ(exchange: Exchange) -> Environ:
    """Of a request that did not come as far as the application: enough for a line in the log."""
    head = exchange.request
    return {
        "REQUEST_METHOD": head.method, "RAW_URI": head.target.decode("latin-1"),
        "PATH_INFO": head.path.decode("latin-1"), "QUERY_STRING": head.query.decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{head.http_version}", "REMOTE_ADDR": exchange.peer[0],
    }  # fmt: skip


def _is_own(cfg: Any, hook: str) -> bool:
    """Whether the user has set this hook."""
    return cfg.settings[hook].get() is not type(cfg.settings[hook]).default


def _logs_access(logger: Any) -> bool:
    """Whether access() does anything: gunicorn's own, alone, is known to do nothing while there is no access log."""
    plain = type(logger).access.__module__ == "gunicorn.glogging"
    return not plain or bool(getattr(logger, "access_log_enabled", True))


class ReadFile:
    """``wsgi.file_wrapper`` of whoever has sendfile(2) turned off."""

    def __init__(self, file: IO[bytes], block_size: int = 64 * KIB) -> None:
        self._file = file
        self._block_size = block_size
        if hasattr(file, "close"):
            self.close = file.close

    def __iter__(self) -> Iterator[bytes]:
        return iter(lambda: self._file.read(self._block_size), b"")
