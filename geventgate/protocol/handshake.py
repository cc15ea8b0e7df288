"""The opening handshake of a WebSocket: over HTTP/1.1 (RFC 6455 §4), over HTTP/2 as extended CONNECT (RFC 8441).

Functions over a RequestHead; the carrier sends the answer and owns its status, Connection and Upgrade. Extensions are
only parsed here; an offer that stays unanswered is declined (RFC 6455 §9.1).
"""

import re
from base64 import b64encode
from collections.abc import Collection
from hashlib import sha1
from typing import NamedTuple

from geventgate.errors import ApplicationError, PeerError
from geventgate.exchange import ResponseFields, Text
from geventgate.message import RequestHead

VERSION = "13"
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
DEFAULT_PORTS = {"http": "80", "https": "443"}

_is_key = re.compile(rb"[A-Za-z0-9+/]{22}==").fullmatch  # base64 of 16 bytes
TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_is_token = re.compile(TOKEN).fullmatch
# RFC 6455 §9.1; possessive, so that no input takes longer than its length. Never around a group: CPython before 3.11.5
# gets those wrong.
_between_extensions = re.compile(r"[ \t,]*+").match
_extension = re.compile(rf"({TOKEN})[ \t]*+").match
_parameter = re.compile(rf';[ \t]*+({TOKEN})[ \t]*+(?:=[ \t]*+({TOKEN}|"(?:[^"\\]|\\.)*")[ \t]*+)?').match
_origin = re.compile(r"(https?)://([^/?#@]+)", re.IGNORECASE).fullmatch  # RFC 6454 §6.2
_host_and_port = re.compile(r"(\[[^\]]*\]|[^:]*)(?::([0-9]*))?").fullmatch


class ExtensionOffer(NamedTuple):
    """An element of Sec-WebSocket-Extensions (RFC 6455 §9.1)."""

    name: str
    parameters: tuple[tuple[str, str | None], ...]  # in order, repeated ones too; None: without a value


class Handshake(NamedTuple):
    """What a client asked for when it opened the WebSocket."""

    key: bytes  # b"" over HTTP/2, which needs no proof (RFC 8441 §5)
    version: str
    subprotocols: tuple[str, ...]  # offered, the client's favourite first
    origin: str | None  # of the page that opens it; None outside of browsers
    extensions: tuple[ExtensionOffer, ...] = ()  # offered, in the client's order


def is_websocket(head: RequestHead) -> bool:
    """Whether the request opens a WebSocket (RFC 6455 §4.2.1, RFC 8441 §4); well or malformed."""
    if head.protocol is None or head.protocol.lower() != "websocket":
        return False
    return head.method == ("CONNECT" if head.multiplexed else "GET")


def check_handshake(head: RequestHead) -> Handshake:
    """Parse a handshake. Raises PeerError: 426 unless the version is 13 (RFC 6455 §4.4), 400 for what is malformed."""
    version = (head.get(b"sec-websocket-version") or b"").decode("latin-1")
    if version != VERSION:
        raise PeerError(426, f"only WebSocket version {VERSION} is spoken here")
    key = b""
    if not head.multiplexed:
        key = head.get(b"sec-websocket-key") or b""  # a repeated one comes joined, and is none
        if not _is_key(key):
            raise PeerError(400, "Sec-WebSocket-Key must be 16 bytes in base64, once")
    subprotocols = _elements(head.get(b"sec-websocket-protocol"))
    if not all(map(_is_token, subprotocols)):
        raise PeerError(400, "malformed Sec-WebSocket-Protocol")
    origins = [value for name, value in head.fields if name == b"origin"]
    if len(origins) > 1:
        raise PeerError(400, "more than one Origin")
    extensions = _extensions(head.get(b"sec-websocket-extensions"))
    return Handshake(key, version, subprotocols, origins[0].decode("latin-1") if origins else None, extensions)


def accept_fields(
    handshake: Handshake, subprotocol: str | None = None, headers: ResponseFields = (), extensions: str = ""
) -> list[tuple[Text, Text]]:
    """The fields that accept *handshake* (RFC 6455 §4.2.2), the application's *headers* behind ours; *extensions* is
    what was agreed, "" for none.

    Raises ApplicationError for a subprotocol that was not offered, and for Sec-WebSocket-* among *headers*.
    """
    fields: list[tuple[Text, Text]] = []
    if handshake.key:
        fields.append(("Sec-WebSocket-Accept", accept_value(handshake.key)))
    if subprotocol is not None:
        if subprotocol not in handshake.subprotocols:
            raise ApplicationError(f"subprotocol {subprotocol!r} was not offered")
        fields.append(("Sec-WebSocket-Protocol", subprotocol))
    if extensions:
        fields.append(("Sec-WebSocket-Extensions", extensions))
    for name, value in headers:
        text = name if isinstance(name, str) else name.decode("latin-1")
        if text.lower().startswith("sec-websocket-"):
            raise ApplicationError(f"{text} belongs to the server")
        fields.append((name, value))
    return fields


def accept_value(key: bytes) -> str:
    """The proof that the handshake was read as one (RFC 6455 §4.2.2, item 5.4)."""
    return b64encode(sha1(key + GUID, usedforsecurity=False).digest()).decode("ascii")


def origin_allowed(head: RequestHead, origin: str | None, origins: Collection[str] = ()) -> bool:
    """Whether a page of *origin* may open this WebSocket (RFC 6455 §10.2): one of the same host and port may, and
    those in *origins*; "*" there is any. A client that sends no Origin is no browser, and passes."""
    if origin is None or "*" in origins or origin in origins:
        return True
    match = _origin(origin)
    if match is None:  # "null" too: a sandboxed frame, a file
        return False
    # The origin's scheme decides about both default ports: TLS may end in front of us, and head.scheme be "http".
    default = DEFAULT_PORTS[match[1].lower()]
    theirs = _split(match[2], default)
    return theirs is not None and theirs == _split(head.authority.decode("latin-1"), default)


def _split(authority: str, default_port: str) -> tuple[str, str] | None:
    match = _host_and_port(authority)
    return (match[1].lower(), match[2] or default_port) if match and match[1] else None


def _elements(value: bytes | None) -> tuple[str, ...]:
    """The elements of a list field, empty ones left out (RFC 9110 §5.6.1)."""
    if not value:
        return ()
    return tuple(element for part in value.decode("latin-1").split(",") if (element := part.strip(" \t")))


def _extensions(value: bytes | None) -> tuple[ExtensionOffer, ...]:
    """The offers of Sec-WebSocket-Extensions. Raises PeerError 400: "the recipient of such malformed data MUST
    immediately _Fail the WebSocket Connection_" (RFC 6455 §9.1)."""
    if not value:
        return ()
    offers = []
    text, place = value.decode("latin-1"), 0
    while (between := _between_extensions(text, place)) and (place := between.end()) < len(text):
        extension = _extension(text, place)
        parameters = []
        if extension is not None:
            place = extension.end()
            while (parameter := _parameter(text, place)) is not None:
                parameters.append((parameter[1], _unquoted(parameter[2] or "")))
                place = parameter.end()
        if extension is None or text[place : place + 1] not in ("", ","):
            raise PeerError(400, "malformed Sec-WebSocket-Extensions")
        offers.append(ExtensionOffer(extension[1], tuple(parameters)))
    return tuple(offers)


def _unquoted(value: str) -> str | None:
    """A parameter's value, None if it has none: "the value after quoted-string unescaping MUST conform to the 'token'
    ABNF" (RFC 6455 §9.1)."""
    if value.startswith('"'):
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
        if not _is_token(value):
            raise PeerError(400, "malformed Sec-WebSocket-Extensions")
    return value or None
