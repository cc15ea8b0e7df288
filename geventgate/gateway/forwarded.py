"""What proxies in front say about a request, believed from those that are named: X-Forwarded-*, Forwarded (RFC 7239).

Works on an exchange before anything looks at it, so that the environ, ``geventgate.request``, the origins of WebSockets
and the access log all speak of the client. What is malformed is ignored and logged; it never fails a request.
"""

import logging
import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from geventgate import observe
from geventgate.config import Config
from geventgate.exchange import Address, Exchange
from geventgate.protocol.handshake import DEFAULT_PORTS
from geventgate.trust import Peers, plain_address

SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}  # Traefik writes wss

_is_host = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+;=%]+)(?::([0-9]{1,5}))?").fullmatch
_node = re.compile(r"\[(?P<v6>[0-9A-Fa-f:.]+)\](?::(?P<port6>[0-9]{1,5}))?|(?P<v4>[0-9.]+)(?::(?P<port4>[0-9]{1,5}))?")
_is_prefix = re.compile(r"(?:/(?!\.\.?(?:/|$))[^/\\\x00-\x1f\x7f]+)+").fullmatch
_no_address = re.compile(r"unknown|_[A-Za-z0-9._\-]+(?::[\w.\-]+)?", re.IGNORECASE).fullmatch  # RFC 7239 §6.2, §6.3
_token = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_pair = re.compile(rf'({_token})=(?:({_token})|"((?:[^"\\]|\\.)*)")')

log = logging.getLogger("geventgate")


class Hop(NamedTuple):
    """What one proxy said of whoever connected to it. "" is nothing."""

    client: str
    scheme: str = ""
    host: str = ""


class Front(NamedTuple):
    """How the outermost proxy was reached. "" is as we were."""

    name: str
    port: str
    prefix: str  # of the path, which it took away: decoded, in latin-1


class Forwarding:
    """Applies the fields that *config* names, from the peers that it names."""

    def __init__(self, config: Config) -> None:
        self._trusted = Peers(config.forwarded_allow_ips)
        self._names = {name.encode("ascii"): name for name in config.forwarded_headers}

    def __bool__(self) -> bool:
        return bool(self._trusted) and bool(self._names)

    def apply(self, exchange: Exchange) -> Front | None:
        """Set the exchange's peer, and the scheme and authority of its request. None: nothing was said."""
        if exchange.peer[0] not in self._trusted:
            return None
        said: dict[str, str] = {}
        for field, value in exchange.request.fields:
            if name := self._names.get(field):
                text = value.decode("latin-1")
                said[name] = f"{said[name]}, {text}" if name in said else text
        if not said:
            return None
        try:
            hops = _forwarded(said["forwarded"]) if "forwarded" in said else _x_forwarded(said)
        except ValueError as error:
            _ignore("Forwarded", said["forwarded"], exchange, error)
            hops = []
        return self._settle(exchange, hops, said)

    def _settle(self, exchange: Exchange, hops: list[Hop], said: dict[str, str]) -> Front:
        """Believe the hops, the nearest last, as long as each was a named proxy's to tell."""
        scheme = host = ""
        for hop in reversed(hops):
            scheme, host = hop.scheme or scheme, hop.host or host
            client = parse_node(hop.client)
            if client is None:
                if hop.client and not _no_address(hop.client):
                    _ignore("address", hop.client, exchange)
                break
            exchange.peer = client  # type: ignore[misc]  # every carrier's has it
            if client[0] not in self._trusted:
                break
        return self._front(exchange, scheme, host, said)

    def _front(self, exchange: Exchange, scheme: str, host: str, said: dict[str, str]) -> Front:
        request = exchange.request
        if scheme:
            if scheme.lower() in SCHEMES:
                request.scheme = SCHEMES[scheme.lower()]
            else:
                _ignore("scheme", scheme, exchange)
        if host:
            match = _is_host(host)
            if match and 0 < int(match[2] or 1) < 65536:
                request.authority = host.encode("latin-1")
            else:
                _ignore("host", host, exchange)
                host = ""
        port = _last(said.get("x-forwarded-port", ""))
        if port and not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
            _ignore("port", port, exchange)
            port = ""
        port = port.lstrip("0")
        default = DEFAULT_PORTS[request.scheme]
        match = _is_host(request.authority.decode("latin-1"))
        if port and match:  # the name with the port it was reached at
            request.authority = f"{match[1]}{'' if port == default else f':{port}'}".encode("latin-1")
        name = match[1].strip("[]") if host and match else ""
        if not port and host and match:
            port = match[2] or default
        elif not port and scheme and not exchange.local[1]:  # a unix socket, which has none of its own
            port = default
        return Front(name, port, _prefix(said.get("x-forwarded-prefix", ""), exchange))


def _x_forwarded(said: dict[str, str]) -> list[Hop]:
    """The hops of X-Forwarded-*, to which each proxy appends or which it sets anew. A list shorter than that of the
    clients was begun later, by a nearer proxy."""
    clients = _elements(said.get("x-forwarded-for", "")) or [""]
    schemes = _elements(said.get("x-forwarded-proto", ""))
    hosts = _elements(said.get("x-forwarded-host", ""))
    return [
        Hop(client, schemes[-at] if at <= len(schemes) else "", hosts[-at] if at <= len(hosts) else "")
        for at, client in zip(range(len(clients), 0, -1), clients, strict=True)
    ]


def _forwarded(value: str) -> list[Hop]:
    """The hops of Forwarded (RFC 7239 §4). Raises ValueError."""
    return [Hop(pairs.get("for", ""), pairs.get("proto", ""), pairs.get("host", "")) for pairs in _pairs(value)]


def _pairs(value: str) -> Iterator[dict[str, str]]:
    """forwarded-element = [ forwarded-pair ] *( ";" [ forwarded-pair ] ); empty ones between commas are none."""
    pairs: dict[str, str] = {}
    at = 0
    while True:
        while at < len(value) and value[at] in " \t":
            at += 1
        match = _pair.match(value, at)
        if match is not None:
            name = match[1].lower()
            if name in pairs:  # "Each parameter MUST NOT occur more than once per field-value"
                raise ValueError(f"{name} twice")
            pairs[name] = match[2] if match[2] is not None else re.sub(r"\\(.)", r"\1", match[3])
            at = match.end()
        while at < len(value) and value[at] in " \t":
            at += 1
        if at == len(value) or value[at] == ",":
            if pairs:
                yield pairs
            pairs = {}
        elif value[at] != ";":
            raise ValueError("malformed")
        if at == len(value):
            return
        at += 1


def parse_node(text: str) -> Address | None:
    """Host and port of a node: 192.0.2.1, 192.0.2.1:80, [2001:db8::1]:80, and bare IPv6. None for what is none."""
    if text.count(":") > 1 and not text.startswith("["):
        host, port = text, ""
    else:
        match = _node.fullmatch(text)
        if match is None:
            return None
        host, port = match["v6"] or match["v4"], match["port6"] or match["port4"] or ""
    address = plain_address(host)
    if address is None or "%" in host or (port and int(port) > 65535):
        return None
    return str(address), port


def _prefix(value: str, exchange: Exchange) -> str:
    """A path to mount at: UTF-8 in latin-1 (PEP 3333), never "//host", which would lead elsewhere."""
    path = unquote_to_bytes(_last(value).rstrip("/").encode("latin-1"))
    try:
        if not path or _is_prefix(path.decode("utf-8")):
            return path.decode("latin-1")
    except UnicodeDecodeError:
        pass
    _ignore("prefix", value, exchange)
    return ""


def _elements(value: str) -> list[str]:
    return [element for part in value.split(",") if (element := part.strip(" \t"))]


def _last(value: str) -> str:
    return value.rpartition(",")[2].strip(" \t")


def _ignore(what: str, value: str, exchange: Exchange, why: object = "") -> None:
    """One line for each kind: a client that makes its proxy say such things shall not fill our log."""
    observe.warn_once(
        f"forwarded {what}",
        f"{exchange}: the forwarded {what} {value[:100]!r} is malformed{f' ({why})' if why else ''} and ignored",
    )
