"""Everything that can be set, once: the command line and the docs loop over these fields.

A leaf. Each field's metadata gives its help, its group in ``--help``, its short flag, its metavar and what it must
be. Names follow gunicorn (or uvicorn) where the meaning is the same.
"""

import math
from collections.abc import Callable
from dataclasses import Field, dataclass, field, fields
from typing import Any

from geventgate.errors import ConfigError
from geventgate.trust import Peers

KIB = 1024
MIB = 1024 * KIB

PLACES = "where it listens"
PROXIES = "proxies in front"
PROCESS = "the process"
WORKERS = "worker processes"
APPLICATION = "the application"
LOGS = "logs"
TIMES = "times, in seconds"
LIMITS = "limits"
HTTP = "HTTP"
WEBSOCKETS = "WebSockets"
TLS = "TLS"


def option(
    default: Any,
    group: str,
    help: str,
    *,
    short: str = "",
    metavar: str = "",
    positive: bool = False,
    check: Callable[[Any], object] | None = None,
    switch: tuple[str, Any] | None = None,
) -> Any:
    """A *metavar* with "|" lists the choices. *positive*: 0 would mean a server that serves nothing. *check* is given
    a value that fits otherwise, and raises ValueError saying what is wrong with it. *switch* is another flag, that
    stands for one value."""
    metadata = {
        "group": group, "help": help, "short": short, "metavar": metavar, "positive": positive, "check": check,
        "switch": switch,
    }  # fmt: skip
    return field(default=default, metadata=metadata)


# --- what a value must be

KINDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}


def fault(field: Field[Any], value: Any) -> str:
    """What is wrong with *value* for *field*: "is 0, and should be more than 0". "" when nothing is."""
    choices = field.metadata["metavar"].split("|")
    if not _fits(value, field.type):
        return f"is {value!r}, and should be {KINDS.get(field.type, 'a tuple of texts, none of them empty')}"
    if len(choices) > 1 and value not in choices:
        wrong = f"should be one of {', '.join(choices)}"
    elif field.metadata["positive"] and not value > 0:
        wrong = "should be more than 0"
    elif field.type in (int, float) and not 0 <= value < math.inf:
        wrong = "should be 0 or more, and finite"
    else:
        try:
            if field.metadata["check"] is not None:
                field.metadata["check"](value)
            return ""
        except ValueError as error:
            wrong = str(error)
    return f"is {shown(value)}, and {wrong}"


def _fits(value: object, kind: object) -> bool:
    """Whether *value* is of a field's type; an int serves as a float, a bool is no number."""
    if kind in (int, float):
        return isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    if kind in (bool, str):
        return type(value) is kind
    return isinstance(value, tuple) and all(isinstance(item, str) and item for item in value)


def shown(value: Any) -> str:
    """A setting as one would type it, on one line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return text if text and text.isprintable() else repr(text)


def flag(field: Field[Any]) -> str:
    return f"--{field.name.replace('_', '-')}"


def _some_address(bind: tuple[str, ...]) -> None:
    if not bind:
        raise ValueError("should be at least one address")


def _octal(umask: str) -> None:
    if umask and (len(umask) > 4 or umask.strip("01234567")):
        raise ValueError("should be octal digits, as in 027")


FORWARDING = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-forwarded-port", "x-forwarded-prefix")


def _one_tongue(names: tuple[str, ...]) -> None:
    """A proxy writes one of the two and passes the other on as the client sent it."""
    for name in names:
        if name not in (*FORWARDING, "forwarded"):
            raise ValueError(f"{name!r} should be forwarded, or one of {', '.join(FORWARDING)}")
    if "forwarded" in names and not {"forwarded", "x-forwarded-prefix"}.issuperset(names):
        raise ValueError("forwarded says what the others say: should be one or the others")


SHIMS = ("geventwebsocket", "flask_sockets", "eventlet", "uwsgi")


def _known_shims(names: tuple[str, ...]) -> None:
    for name in names:
        if name not in SHIMS:
            raise ValueError(f"{name!r} should be one of {', '.join(SHIMS)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How a server behaves. Times are in seconds, sizes in bytes; the reasons are in docs/limits.md.

    Raises ConfigError for a value of the wrong type or out of range.
    """

    bind: tuple[str, ...] = option(
        ("127.0.0.1:8000",),
        PLACES,
        "HOST:PORT, [IPV6]:PORT, :PORT, unix:PATH, unix:@NAME or fd://N; may be repeated",
        short="-b",
        metavar="ADDRESS",
        check=_some_address,
    )
    backlog: int = option(2048, PLACES, "connections the kernel may queue", metavar="N")
    reuse_port: bool = option(False, PLACES, "let other processes listen on the same port: SO_REUSEPORT")

    forwarded_allow_ips: tuple[str, ...] = option(
        (),
        PROXIES,
        "proxies whose forwarding fields are believed: addresses, networks, 'unix:', '*' for all; may be repeated",
        metavar="PEER",
        check=Peers,
    )
    forwarded_headers: tuple[str, ...] = option(
        ("x-forwarded-for", "x-forwarded-proto"),
        PROXIES,
        "the fields these proxies set, each of them, always: also x-forwarded-host, x-forwarded-port and "
        "x-forwarded-prefix; or forwarded; may be repeated",
        metavar="NAME",
        check=_one_tongue,
    )
    proxy_protocol: str = option(
        "off", PROXIES, "the PROXY protocol that connections begin with", metavar="off|v1|v2|auto"
    )
    proxy_allow_from: tuple[str, ...] = option(
        (),
        PROXIES,
        "proxies that begin so, and must; written as those of --forwarded-allow-ips",
        metavar="PEER",
        check=Peers,
    )

    pid: str = option("", PROCESS, "write the process id to this file while it runs", short="-p", metavar="FILE")
    user: str = option("", PROCESS, "become this user once the addresses are bound", short="-u", metavar="USER")
    group: str = option("", PROCESS, "become this group; the user's, if none is named", short="-g", metavar="GROUP")
    umask: str = option(
        "", PROCESS, "permissions withheld from files and unix sockets, octal", short="-m", metavar="MASK", check=_octal
    )

    workers: int = option(
        0,
        WORKERS,
        "serve with this many processes, kept alive by one more; 0 is this one alone",
        short="-w",
        metavar="N",
    )
    timeout: float = option(
        30.0, WORKERS, "a worker may be blocked, before it is killed and replaced; 0 is for ever", metavar="S"
    )
    max_requests: int = option(0, WORKERS, "requests a worker serves before it is replaced; 0 is any", metavar="N")
    max_requests_jitter: int = option(0, WORKERS, "up to so many more, at random, for each worker", metavar="N")
    preload: bool = option(False, WORKERS, "import the application once, before the workers are forked")
    reload: bool = option(False, WORKERS, "start the worker again when a source file changes: for development")

    interface: str = option(
        "auto",
        APPLICATION,
        "what the application speaks; auto: a coroutine function, or an object that is called as one, speaks asgi",
        metavar="auto|wsgi|asgi|asgi2",
    )
    lifespan: str = option(
        "auto",
        APPLICATION,
        "tell ASGI applications of start and end; auto: those that know of it; on: one that does not cannot start",
        metavar="auto|on|off",
    )
    chdir: str = option("", APPLICATION, "change to this directory before the application is imported", metavar="DIR")
    patch: bool = option(True, APPLICATION, "monkey-patch the standard library before the application is imported")
    compat: tuple[str, ...] = option(
        (),
        APPLICATION,
        "have old code import our own of geventwebsocket, flask_sockets, eventlet or uwsgi; may be repeated",
        metavar="NAME",
        check=_known_shims,
    )
    allow_connect: bool = option(
        False, APPLICATION, "let the application answer CONNECT, else 501: an open proxy is a trap"
    )
    root_path: str = option("", APPLICATION, "the path the application is mounted at: SCRIPT_NAME", metavar="PATH")

    access_logfile: str = option("", LOGS, "write an access log to this file, '-' for stdout", metavar="FILE")
    error_logfile: str = option("-", LOGS, "write the error log to this file, '-' for stderr", metavar="FILE")
    log_level: str = option("info", LOGS, "the least severity logged", metavar="debug|info|warning|error|critical")

    tls_handshake_timeout: float = option(
        10.0, TIMES, "for the TLS handshake, from the connection", metavar="S", positive=True
    )
    head_timeout: float = option(
        10.0, TIMES, "for a request's head, from its connection or its first byte", metavar="S", positive=True
    )
    keep_alive: float = option(
        5.0, TIMES, "a connection may idle between requests; 75 behind a load balancer", metavar="S"
    )
    write_timeout: float = option(
        30.0, TIMES, "a peer may take none of the bytes waiting for it", metavar="S", positive=True
    )
    graceful_timeout: float = option(30.0, TIMES, "running requests may go on after a stop", metavar="S")

    worker_connections: int = option(
        10_000, LIMITS, "connections at once; more wait in the backlog", metavar="N", positive=True
    )
    limit_request_line: int = option(8 * KIB, LIMITS, "bytes of a request line (414)", metavar="N", positive=True)
    limit_request_fields: int = option(100, LIMITS, "fields of a request (431)", metavar="N", positive=True)
    limit_request_head: int = option(32 * KIB, LIMITS, "bytes of a request's head (431)", metavar="N", positive=True)
    limit_request_body: int = option(0, LIMITS, "bytes of a request's content (413); 0 is no limit", metavar="N")
    min_rate: int = option(
        240, LIMITS, "bytes a second a peer must send or take while it is waited for; 0 is any", metavar="N"
    )

    certfile: str = option(
        "", TLS, "speak TLS on every address, with this certificate and its chain (PEM)", metavar="FILE"
    )
    keyfile: str = option("", TLS, "its private key (PEM), unless that is in the same file", metavar="FILE")
    keyfile_password_file: str = option("", TLS, "the password of encrypted keys, in its first line", metavar="FILE")
    sni: tuple[str, ...] = option(
        (),
        TLS,
        "HOST=CERTFILE[:KEYFILE]: another certificate for clients that ask for HOST, or *.HOST; may be repeated",
        metavar="HOST=FILE",
    )
    ca_certs: str = option(
        "", TLS, "the authorities that clients' certificates are checked against (PEM)", metavar="FILE"
    )
    cert_reqs: str = option(
        "none",
        TLS,
        "ask clients for a certificate; gunicorn's numbers serve too",
        metavar="none|optional|required|0|1|2",
    )
    tls_minimum: str = option("1.2", TLS, "the least version spoken", metavar="1.2|1.3")
    ciphers: str = option("", TLS, "suites of TLS 1.2, as OpenSSL writes them", metavar="CIPHERS")

    http2: bool = option(True, HTTP, "speak HTTP/2 over TLS with clients that choose it (ALPN)")
    http2_cleartext: str = option(
        "off",
        HTTP,
        "speak HTTP/2 without TLS too, with clients that begin with it; --h2c for short",
        metavar="off|prior-knowledge",
        switch=("--h2c", "prior-knowledge"),
    )
    http2_engine: str = option(
        "auto", HTTP, "what speaks it: auto is ngh2 where that is installed", metavar="auto|h2|ngh2"
    )
    http2_max_concurrent_streams: int = option(
        100, HTTP, "requests and WebSockets at once on a connection", metavar="N", positive=True
    )
    http2_ping_interval: float = option(
        20.0, HTTP, "between pings of a connection that is in use and quiet; 0 is never", metavar="S"
    )
    http2_ping_timeout: float = option(20.0, HTTP, "their answers may take", metavar="S", positive=True)
    early_hints: bool = option(
        False, HTTP, "offer wsgi.early_hints over HTTP/1.1 too: old clients may stumble over 103"
    )

    ws_origins: tuple[str, ...] = option(
        (),
        WEBSOCKETS,
        "origins that may open WebSockets beside the request's own; '*' is any; may be repeated",
        metavar="ORIGIN",
    )
    websocket_max_message_size: int = option(
        16 * MIB, WEBSOCKETS, "bytes of a message (1009)", metavar="N", positive=True
    )
    ws_per_message_deflate: bool = option(
        True, WEBSOCKETS, "compress messages of clients that can (permessage-deflate)"
    )
    ws_ping_interval: float = option(20.0, WEBSOCKETS, "between pings; 0 is never", metavar="S")
    ws_ping_timeout: float = option(20.0, WEBSOCKETS, "a pong may take", metavar="S", positive=True)
    ws_close_timeout: float = option(5.0, WEBSOCKETS, "the closing handshake may take", metavar="S", positive=True)

    def __post_init__(self) -> None:
        for one in fields(self):
            if wrong := fault(one, getattr(self, one.name)):
                raise ConfigError(f"{one.name} {wrong}")
        if self.proxy_protocol != "off" and not self.proxy_allow_from:
            raise ConfigError("--proxy-protocol needs --proxy-allow-from: the proxies that speak it")
        if self.reload and self.preload:
            raise ConfigError("--reload imports the application again, --preload only once: say one of them")


def speaks_http2(config: Config) -> bool:
    """Whether anybody is spoken to in HTTP/2."""
    return config.http2 if config.certfile or config.sni else config.http2_cleartext != "off"
