"""Everything that can be set, once: the command line and the docs loop over these fields.

A leaf. Each field's metadata gives its help, its group in ``--help``, its short flag and its metavar. Names follow
gunicorn (or uvicorn) where the meaning is the same.
"""

from dataclasses import dataclass, field
from typing import Any

KIB = 1024
MIB = 1024 * KIB

PLACES = "where it listens"
APPLICATION = "the application"
LOGS = "logs"
TIMES = "times, in seconds"
LIMITS = "limits"
WEBSOCKETS = "WebSockets"


def option(default: Any, group: str, help: str, *, short: str = "", metavar: str = "") -> Any:
    return field(default=default, metadata={"group": group, "help": help, "short": short, "metavar": metavar})


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """How a server behaves. Times are in seconds, sizes in bytes; the reasons are in docs/limits.md."""

    bind: tuple[str, ...] = option(
        ("127.0.0.1:8000",),
        PLACES,
        "HOST:PORT, [IPV6]:PORT, :PORT or unix:PATH; may be repeated",
        short="-b",
        metavar="ADDRESS",
    )
    backlog: int = option(2048, PLACES, "connections the kernel may queue", metavar="N")

    chdir: str = option("", APPLICATION, "change to this directory before the application is imported", metavar="DIR")
    patch: bool = option(True, APPLICATION, "monkey-patch the standard library before the application is imported")
    root_path: str = option("", APPLICATION, "the path the application is mounted at: SCRIPT_NAME", metavar="PATH")

    access_logfile: str = option("", LOGS, "write an access log to this file, '-' for stdout", metavar="FILE")
    error_logfile: str = option("-", LOGS, "write the error log to this file, '-' for stderr", metavar="FILE")
    log_level: str = option("info", LOGS, "the least severity logged", metavar="debug|info|warning|error|critical")

    head_timeout: float = option(
        10.0, TIMES, "for a request's head, from its connection or its first byte", metavar="S"
    )
    keep_alive: float = option(
        5.0, TIMES, "a connection may idle between requests; 75 behind a load balancer", metavar="S"
    )
    write_timeout: float = option(30.0, TIMES, "a peer may take none of the bytes waiting for it", metavar="S")
    graceful_timeout: float = option(30.0, TIMES, "running requests may go on after a stop", metavar="S")

    worker_connections: int = option(10_000, LIMITS, "connections at once; more wait in the backlog", metavar="N")
    limit_request_line: int = option(8 * KIB, LIMITS, "bytes of a request line (414)", metavar="N")
    limit_request_fields: int = option(100, LIMITS, "fields of a request (431)", metavar="N")
    limit_request_head: int = option(32 * KIB, LIMITS, "bytes of a request's head (431)", metavar="N")
    limit_request_body: int = option(0, LIMITS, "bytes of a request's content (413); 0 is no limit", metavar="N")
    min_rate: int = option(
        240, LIMITS, "bytes a second a peer must send or take while it is waited for; 0 is any", metavar="N"
    )

    ws_origins: tuple[str, ...] = option(
        (),
        WEBSOCKETS,
        "origins that may open WebSockets beside the request's own; '*' is any; may be repeated",
        metavar="ORIGIN",
    )
    websocket_max_message_size: int = option(16 * MIB, WEBSOCKETS, "bytes of a message (1009)", metavar="N")
    ws_ping_interval: float = option(20.0, WEBSOCKETS, "between pings; 0 is never", metavar="S")
    ws_ping_timeout: float = option(20.0, WEBSOCKETS, "a pong may take", metavar="S")
    ws_close_timeout: float = option(5.0, WEBSOCKETS, "the closing handshake may take", metavar="S")
