"""HTTP/1.1 as functions of values (RFC 9112): heads, the framing of content, persistence.

Knows no socket and no clock. Content is framed in two functions and nowhere else: request_content() and
response_content(). Every limit and every strictness stands here; what does not fit raises PeerError (a request) or
ApplicationError (a response).
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from enum import Enum, auto
from http import HTTPStatus
from typing import NamedTuple

from geventgate import native
from geventgate.errors import ApplicationError, NotSupported, PeerError
from geventgate.exchange import ResponseFields, Text
from geventgate.message import Field, FieldLine, Fields, RequestHead, ResponseHead

MAX_EMPTY_LINES = 4  # before a request line; old clients send one behind a POST (RFC 9112 §2.2)
MAX_CHUNK_LINE = 256  # precedent: hyper caps extensions, nginx the line
MAX_CHUNK_EXTENSIONS = 16 * 1024  # a message; precedent: Go, hyper
MAX_TRAILERS = 8 * 1024
MAX_KNOWN_NAMES = 1024  # the name caches are bounded, and so are the names in them
MAX_KNOWN_NAME = 64
MAX_KNOWN_LINE = 96
MAX_KNOWN_HEADS = 256
MAX_KNOWN_LINES = 17  # of a head, with the status line

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
CONTROLS = bytes([*range(9), *range(10, 32), 127])  # all but HTAB: never in a field value (RFC 9110 §5.5)

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"  # RFC 9110 §5.6.2
_is_token = re.compile(TOKEN).fullmatch
_starts_token = re.compile(TOKEN).match
_is_protocol = re.compile(rb"%b(?:/%b)?" % (TOKEN, TOKEN)).fullmatch  # RFC 9110 §7.8
_request_line = re.compile(rb"(%b) ([\x21\x22\x24-\x7e\x80-\xff]+) HTTP/([0-9])\.([0-9])" % TOKEN).fullmatch
_authority = rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]+)"
is_host = re.compile(rb"(?:%b(?::[0-9]{0,5})?)?" % _authority).fullmatch  # RFC 9112 §3.2: may be empty
is_authority_form = re.compile(rb"%b:[0-9]{1,5}" % _authority).fullmatch  # RFC 9112 §3.2.3
_absolute_form = re.compile(rb"(?i:https?)://(%b(?::[0-9]{0,5})?)(/[^?]*)?(?:\?(.*))?" % _authority).fullmatch
_chunk_extension = rb'[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t -~\x80-\xff])*"))?'
_chunk_line = re.compile(rb"([0-9A-Fa-f]{1,15})((?:%b)*)\r\n" % (_chunk_extension % (TOKEN, TOKEN))).match
_is_status = re.compile(r"[1-9][0-9][0-9](?: .*)?").fullmatch


class HeadLimits(NamedTuple):
    """The bounds of a request head: bytes of its first line, fields, bytes in all."""

    line: int = 8 * 1024
    fields: int = 100
    size: int = 32 * 1024


DEFAULT_LIMITS = HeadLimits()

# --- the request's head (RFC 9112 §2-§5)

# Fields that decide about the connection, read off while the head is parsed.
GOVERNING = frozenset((b"host", b"connection", b"content-length", b"transfer-encoding", b"expect", b"upgrade"))

_known_names: dict[bytes, bytes] = {}  # as sent -> lower case
_known_hosts: set[bytes] = set()  # found well formed


def parse_request_head(buffer: bytes, start: int = 0, limits: HeadLimits = DEFAULT_LIMITS) -> RequestHead | None:
    """Return the request head that begins at *start*, or None while it is incomplete.

    Raises PeerError: 400, 414 (its first line), 431 (fields) or 505 (its version).
    """
    begin = start
    while buffer.startswith(b"\r\n", begin) and begin - start < 2 * MAX_EMPTY_LINES:
        begin += 2
    end = buffer.find(b"\r\n\r\n", begin)
    if end < 0:
        _judge_early(buffer, begin, limits)
        return None
    head = buffer[begin:end]
    request_line, *lines = head.split(b"\r\n")
    if len(request_line) > limits.line:
        raise PeerError(414, "the request line is too long")
    if len(lines) > limits.fields or end + 4 - begin > limits.size:
        raise PeerError(431, "the request's fields are too many or too large")
    match = _request_line(request_line)
    if match is None:
        raise PeerError(400, _not_a_request_line(request_line))
    method, target, major, minor = match.groups()
    if major != b"1":
        raise PeerError(505, "HTTP/1.0 and HTTP/1.1 are spoken here")
    # The only controls are the line ends: no bare CR or LF, no NUL (RFC 9112 §2.2, RFC 9110 §5.5).
    if len(head.translate(None, CONTROLS)) + 2 * len(lines) != len(head):
        raise PeerError(400, "a control character in the head")
    fields: list[Field] = []
    governing: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        lower = _known_names.get(name)
        if lower is None or not colon:
            lower = _field_name(name, colon)
        value = value.strip(b" \t")
        fields.append((lower, value))
        if lower in GOVERNING:
            governing[lower] = governing[lower] + b", " + value if lower in governing else value
    return _request_head(method.decode("ascii"), target, minor == b"0", tuple(fields), governing, end + 4 - start)


def _request_head(
    method: str, target: bytes, old: bool, fields: Fields, governing: dict[bytes, bytes], size: int
) -> RequestHead:
    """Settle Host and target (RFC 9112 §3.2, §3.3) and build the value."""
    host = governing.get(b"host")
    if host is None:
        # "A server MUST respond with a 400 [...] to any HTTP/1.1 request message that lacks a Host header field"
        if not old:
            raise PeerError(400, "no Host")
        host = b""
    elif host not in _known_hosts:
        _check_host(host)
    if target.startswith(b"/") and method != "CONNECT":
        path, _, query = target.partition(b"?")
    else:
        host, path, query = _other_form(method, target, host)
    connection = governing.get(b"connection")
    upgrade = governing.get(b"upgrade")
    protocol = None
    if method == "CONNECT":
        protocol = ""
    elif upgrade and connection and not old and b"upgrade" in _options(connection):
        # "A server MUST ignore an Upgrade header field that is received in an HTTP/1.0 request" (RFC 9110 §7.8)
        protocol = next(iter(offered_protocols(upgrade)), None)  # its favourite
    version = "1.0" if old else "1.1"
    get = governing.get
    return RequestHead(  # by position, being half of what parsing a small head costs
        method, target, version, fields, "http", host, path, query, protocol, size,
        connection, get(b"content-length"), get(b"transfer-encoding"), get(b"expect"), upgrade,
    )  # fmt: skip


def _other_form(method: str, target: bytes, host: bytes) -> tuple[bytes, bytes, bytes]:
    """Authority, path and query of an authority-, asterisk- or absolute-form target (RFC 9112 §3.2.2-§3.2.4)."""
    if method == "CONNECT":
        if not is_authority_form(target):
            raise PeerError(400, "CONNECT wants host:port")
        return target, b"", b""
    if target == b"*" and method == "OPTIONS":
        return host, b"*", b""
    match = _absolute_form(target)
    if match is None:
        raise PeerError(400, "malformed request target")
    # "the origin server MUST ignore the received Host header field (if any) and instead use the host information
    # of the request-target"
    authority, path, query = match.groups()
    return authority, path or (b"*" if method == "OPTIONS" and query is None else b"/"), query or b""


def _judge_early(buffer: bytes, begin: int, limits: HeadLimits) -> None:
    """Refuse as soon as more bytes cannot mend it: nobody waits ten seconds for a 400."""
    size = len(buffer) - begin
    if size == 0 or buffer[begin:] == b"\r":
        return
    line_end = buffer.find(b"\r\n", begin)
    if (line_end - begin if line_end >= 0 else size - buffer.endswith(b"\r")) > limits.line:
        raise PeerError(414, "the request line is too long")
    if size > limits.size:
        raise PeerError(431, "the request's fields are too large")
    if not _starts_token(buffer, begin):
        line = buffer[begin:line_end] if line_end >= 0 else b""
        raise PeerError(400, _not_a_request_line(line) if line == b"\0" else "this is not HTTP")
    if buffer.count(b"\n", begin) != buffer.count(b"\r\n", begin):
        raise PeerError(400, "a line ends with a bare LF")
    if line_end >= 0 and not _request_line(buffer[begin:line_end]):
        raise PeerError(400, _not_a_request_line(buffer[begin:line_end]))


def _not_a_request_line(line: bytes) -> str:
    if line.startswith(b"PROXY ") or line == b"\0":  # of version 2, four bytes have passed for empty lines
        return "a PROXY header, which this peer may not send"
    return "malformed request line"


def _check_host(host: bytes) -> None:
    """RFC 9112 §3.2. Two of them were joined by a comma and a space, which no host has."""
    if not is_host(host):
        raise PeerError(400, "malformed Host, or more than one")
    if len(_known_hosts) < MAX_KNOWN_NAMES and len(host) <= MAX_KNOWN_NAME:
        _known_hosts.add(host)


def _field_name(name: bytes, colon: bytes) -> bytes:
    """The name in lower case. "No whitespace is allowed between the field name and colon" (RFC 9112 §5.1); a line
    that begins with white space would be obsolete line folding (§5.2): neither is a token."""
    if not colon or not _is_token(name):
        raise PeerError(400, "malformed field line")
    lower = name.lower()
    if len(_known_names) < MAX_KNOWN_NAMES and len(name) <= MAX_KNOWN_NAME:
        _known_names[name] = lower
    return lower


def _options(connection: bytes) -> set[bytes]:
    """The options of a Connection field (RFC 9110 §7.6.1)."""
    return {option.strip(b" \t") for option in connection.lower().split(b",")}


def offered_protocols(upgrade: bytes) -> list[str]:
    """The well-formed elements of an Upgrade field, the client's favourite first (RFC 9110 §7.8)."""
    elements = (element.strip(b" \t") for element in upgrade.split(b","))
    return [element.decode("ascii") for element in elements if _is_protocol(element)]


def choose_protocol(head: RequestHead, wanted: str | None) -> str:
    """What to switch to: *wanted* as the client spells it, or its favourite; "" for CONNECT. Raises NotSupported."""
    if head.protocol is None:
        raise NotSupported("the request offers no protocol to switch to")
    if wanted is None:
        return head.protocol
    # "A server MUST NOT switch to a protocol that was not indicated by the client"; names are compared without case
    for offer in offered_protocols(head.upgrade or b"") if head.protocol else [""]:
        if offer.lower() == wanted.lower():
            return offer
    raise NotSupported(f"the request does not offer the protocol {wanted!r}")


def persists(head: RequestHead) -> bool:
    """Whether the client lets the connection persist (RFC 9112 §9.3).

    Not behind CONNECT: when it is refused, bytes of the tunnel may already be on their way, and are no requests.
    """
    if head.protocol == "":
        return False
    connection = head.connection
    if connection is None:
        return not head.old
    if connection == b"close":  # as nearly all say it
        return False
    options = _options(connection)
    return b"close" not in options and (not head.old or b"keep-alive" in options)


def expects_continue(head: RequestHead) -> bool:
    """Whether the client waits for 100 (RFC 9110 §10.1.1). Raises PeerError 417 for any other expectation."""
    if head.expect is None or head.old:
        return False
    if head.expect.lower() != b"100-continue":
        raise PeerError(417, "an unknown expectation")
    return True


# --- the request's content (RFC 9112 §6, §7.1)


class Content:
    """Content of a known length (RFC 9112 §6.2)."""

    __slots__ = ("ended", "plain", "remaining", "trailers")

    def __init__(self, remaining: int) -> None:
        self.plain = True  # the next ``remaining`` bytes, as they come
        self.remaining = remaining
        self.ended = remaining == 0
        self.trailers: Fields = ()

    def decode(self, buffer: bytes, start: int, size: int) -> tuple[bytes, int]:
        """Return at most *size* bytes of content and how many bytes of *buffer* they took.

        (b"", 0) asks for more bytes, unless ``ended``; (b"", n) for another call.
        """
        data = buffer[start : start + min(size, self.remaining)]
        self.note(len(data))
        return data, len(data)

    def note(self, count: int) -> None:
        """*count* bytes of it, ``plain``, were taken."""
        self.remaining -= count
        self.ended = self.remaining == 0


class _Expect(Enum):
    """What stands next in chunked content."""

    SIZE = auto()
    DATA = auto()
    DATA_END = auto()
    TRAILER = auto()


class ChunkedContent(Content):
    """Content in chunks (RFC 9112 §7.1), with trailer fields. Raises PeerError: 400, or 413 for what is too large."""

    __slots__ = ("_expect", "_extensions", "_limit", "_total", "_trailer_size")

    def __init__(self, limit: int = 0) -> None:
        super().__init__(1)
        self.plain = False
        self.remaining = 0
        self._limit = limit  # bytes of content, 0 is none
        self._total = 0
        self._expect = _Expect.SIZE
        self._extensions = 0
        self._trailer_size = 0

    def decode(self, buffer: bytes, start: int, size: int) -> tuple[bytes, int]:
        match self._expect:
            case _Expect.DATA:
                data = buffer[start : start + min(size, self.remaining)]
                self.remaining -= len(data)
                if not self.remaining:
                    self._expect = _Expect.DATA_END
                return data, len(data)
            case _Expect.DATA_END:
                return b"", self._data_end(buffer, start)
            case _Expect.SIZE:
                return b"", self._size_line(buffer, start)
            case _Expect.TRAILER:
                return b"", self._trailer_line(buffer, start)

    def _size_line(self, buffer: bytes, start: int) -> int:
        match = _chunk_line(buffer, start)
        if match is None:
            end = buffer.find(b"\n", start)
            if end >= 0 or len(buffer) - start > MAX_CHUNK_LINE:
                raise PeerError(400, "malformed chunk line")
            return 0
        taken = match.end() - start
        self._extensions += len(match[2])
        if taken > MAX_CHUNK_LINE or self._extensions > MAX_CHUNK_EXTENSIONS:
            raise PeerError(400, "chunk extensions are too long")
        self.remaining = int(match[1], 16)
        self._total += self.remaining
        if self._limit and self._total > self._limit:
            raise PeerError(413, "the content is too large")
        self._expect = _Expect.DATA if self.remaining else _Expect.TRAILER
        return taken

    def _data_end(self, buffer: bytes, start: int) -> int:
        line_end = buffer[start : start + 2]
        if not b"\r\n".startswith(line_end):
            raise PeerError(400, "a chunk is longer than announced")
        if len(line_end) < 2:
            return 0
        self._expect = _Expect.SIZE
        return 2

    def _trailer_line(self, buffer: bytes, start: int) -> int:
        end = buffer.find(b"\n", start)
        size = (end + 1 if end >= 0 else len(buffer)) - start
        if self._trailer_size + size > MAX_TRAILERS:
            raise PeerError(431, "the trailers are too large")
        if end < 0:
            return 0
        line = buffer[start : end + 1]
        if not line.endswith(b"\r\n"):
            raise PeerError(400, "a trailer line ends with a bare LF")
        self._trailer_size += size
        if size == 2:
            self.ended = True
        else:
            self._add_trailer(line[:-2])
        return size

    def _add_trailer(self, line: bytes) -> None:
        if len(line.translate(None, CONTROLS)) != len(line):
            raise PeerError(400, "a control character in a trailer")
        name, colon, value = line.partition(b":")
        lower = _field_name(name, colon)
        # "a sender MUST NOT generate a trailer field unless [it] permits" it (RFC 9110 §6.5.1): these never do.
        if lower not in GOVERNING:
            self.trailers += ((lower, value.strip(b" \t")),)


def request_content(head: RequestHead, limit: int = 0) -> Content | None:
    """Decide how the content of a request is framed (RFC 9112 §6.3). The only place. None: there is none.

    Raises PeerError 400 where two readers could differ, and 413 over *limit* bytes (0 is no limit).
    """
    coding = head.transfer_encoding
    length = head.content_length
    if coding is not None:
        # "A server MAY reject a request that contains both Content-Length and Transfer-Encoding"; "a server that
        # receives an HTTP/1.0 message containing a Transfer-Encoding header field MUST treat the message as if the
        # framing is faulty" (§6.1). 501 for an unknown coding is a SHOULD; we call it what it is used for.
        if length is not None or head.old:
            raise PeerError(400, "ambiguous framing")
        if coding.lower() != b"chunked":
            raise PeerError(400, "the only transfer coding is chunked")
        return ChunkedContent(limit)
    if length is None:
        return None
    if not length.isdigit() or len(length) > 18:  # signs, lists, white space: CVE-2022-24761 and its kin
        raise PeerError(400, "malformed Content-Length")
    size = int(length)
    if limit and size > limit:
        raise PeerError(413, "the content is too large")
    return Content(size) if size else None


# --- the response


class Framing(Enum):
    """How the content of a response is delimited (RFC 9112 §6.3)."""

    NO_CONTENT = auto()
    KNOWN_LENGTH = auto()
    CHUNKED = auto()
    UNTIL_CLOSE = auto()


NO_CONTENT, KNOWN_LENGTH, CHUNKED, UNTIL_CLOSE = Framing  # an attribute of an Enum costs ten times a global


def response_content(request: RequestHead, code: int, stated: int, persistent: bool) -> Framing:
    """Decide how the content of a response is framed (RFC 9112 §6.3). The only place.

    *stated* is the Content-Length, or -1 when it is not known.
    """
    if request.method == "HEAD" or code == 204 or code == 304:
        return NO_CONTENT
    if stated >= 0:
        return KNOWN_LENGTH
    return UNTIL_CLOSE if request.old or request.multiplexed else CHUNKED


# The connection is the server's (PEP 3333, "Other HTTP Features"); RFC 9110 §7.6.1 names them.
HOP_BY_HOP = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"))
# Secrets, and what differs each time: not kept for the next response that says the same.
UNCOMMON = frozenset(
    (b"set-cookie", b"sec-websocket-accept", b"date", b"etag", b"expires", b"last-modified", b"location")
)
_MINDED = HOP_BY_HOP | {b"content-length", b"date", b"server", b"priority"}

_known_response_names: dict[str, bytes] = {}  # as the application spells it -> lower case
_known_lines: dict[tuple[str, str], FieldLine] = {}  # as the application says them; begun anew when full
_known_status: dict[str, tuple[int, bytes]] = {}  # as the application spells it -> code, status line
_known_heads: dict[tuple[object, ...], ResponseHead] = {}  # as the application says them; begun anew when full


def compose_response_head(status: str | int, fields: ResponseFields) -> ResponseHead:
    """Check what the application says and put it on the wire's terms. Raises ApplicationError."""
    try:
        known = _known_heads.get((status, *fields)) if type(status) is str else None
    except TypeError:  # a field that is a list
        known = None
    if known is not None:
        return known
    head, common = _compose_response_head(status, fields)
    if common and type(status) is str and len(status) <= MAX_KNOWN_NAME:
        if len(_known_heads) >= MAX_KNOWN_HEADS:
            _known_heads.clear()
        with suppress(TypeError):
            _known_heads[status, *fields] = head
    return head


def _compose_response_head(status: str | int, fields: ResponseFields) -> tuple[ResponseHead, bool]:
    """The head, and whether it may be kept for the next time it is said."""
    code, status_line = (_known_status.get(status) if type(status) is str else None) or _status_line(status)
    wires = [status_line]
    faults: tuple[str, ...] = ()
    content_length, dated, named, closing, priority = -1, False, False, False, None
    common = True
    for name, value in fields:
        line = _known_lines.get((name, value)) if type(name) is str and type(value) is str else None
        if line is None:
            line = field_line(name, value)
        if line.minded:
            lower, said = line.field
            if lower == b"content-length":
                if content_length >= 0:
                    faults += ("a second Content-Length",)
                    continue
                content_length = _stated_length(line.wire[len("content-length: ") : -2])  # as it will be sent
                if code == 204 or code < 200:  # "A server MUST NOT send a Content-Length header field" (RFC 9110 §8.6)
                    continue
            elif lower == b"date":
                if dated:
                    faults += ("a second Date",)
                    continue
                dated = True
            elif lower == b"server":
                named = True
            elif lower == b"priority":
                priority = said
            elif lower == b"connection" and said.lower() in (b"close", b"keep-alive"):
                closing = closing or said.lower() == b"close"  # a wish, and a common one
                continue
            elif lower in HOP_BY_HOP and (lower != b"upgrade" or code != 426):
                faults += (f"the hop-by-hop field {_as_text(name)}",)
                continue
        common = common and line.common
        wires.append(line.wire)
    head = ResponseHead(code, b"".join(wires), content_length, dated, named, closing, priority, faults)
    return head, common and not faults and len(wires) <= MAX_KNOWN_LINES


def field_line(name: Text, value: Text) -> FieldLine:
    """Check a field. Raises ApplicationError, for any control character too: a response is never split (CWE-113)."""
    text, said = _as_text(name), _as_text(value)
    lower = _known_response_names.get(text) or _response_name(text)
    try:
        wire = f"{text}: {said}\r\n".encode("latin-1")
    except UnicodeEncodeError:
        raise ApplicationError(f"not latin-1 (PEP 3333): {text}: {said!r}") from None
    if len(wire.translate(None, CONTROLS)) + 2 != len(wire):
        raise ApplicationError(f"a control character in the head: {text}: {said!r}")
    common = len(wire) <= MAX_KNOWN_LINE and lower not in UNCOMMON and type(name) is str and type(value) is str
    line = FieldLine(wire, (lower, wire[len(text) + 2 : -2].strip(b" \t")), lower in _MINDED, common)
    if common:
        if len(_known_lines) >= MAX_KNOWN_NAMES:
            _known_lines.clear()
        _known_lines[name, value] = line  # type: ignore[index]
    return line


def check_final(head: ResponseHead, request: RequestHead) -> None:
    """Raises ApplicationError for a status that cannot answer *request*, and PeerError 501 when none was meant to."""
    if head.code < 200:
        raise ApplicationError(f"{head.code} is not a final status")
    if head.code < 300 and request.connects:  # the client would take what follows for the tunnel
        if request.protocol:  # extended CONNECT (RFC 8441 §4), and the application knows nothing of it
            raise PeerError(501, f"nothing here speaks {request.protocol}")
        raise ApplicationError(f"{head.code} to CONNECT is said by opening the tunnel")


def compose_interim_head(status: int, fields: ResponseFields) -> ResponseHead:
    """An interim response (RFC 9110 §15.2)."""
    if not 100 < status < 200 or status == 101:
        raise ApplicationError(f"{status} is not an interim response")
    return compose_response_head(status, fields)


def compose_informational(status: int, fields: ResponseFields) -> bytes:
    """The same, whole."""
    return compose_interim_head(status, fields).wire + b"\r\n"


def compose_connected(fields: ResponseFields) -> ResponseHead:
    """The 200 that makes a CONNECT's connection a tunnel (RFC 9110 §9.3.6)."""
    # "A server MUST NOT send any Transfer-Encoding or Content-Length header fields"
    return compose_response_head(200, [field for field in fields if _as_text(field[0]).lower() != "content-length"])


def compose_upgrade(protocol: str, fields: ResponseFields) -> bytes:
    """The head that leaves HTTP, whole (RFC 9110 §7.8); for CONNECT *protocol* is ""."""
    if not protocol:
        return compose_connected(fields).wire + b"\r\n"
    head = compose_response_head(101, fields)
    return head.wire + field_line("Upgrade", protocol).wire + b"Connection: Upgrade\r\n\r\n"


def encode_chunk(data: bytes) -> tuple[bytes, bytes, bytes]:
    """A chunk (RFC 9112 §7.1), its data uncopied. *data* is not empty: that would be the last one."""
    return b"%x\r\n" % len(data), data, b"\r\n"


def encode_last_chunk(trailers: Sequence[FieldLine] = ()) -> bytes:
    """The end of chunked content (RFC 9112 §7.1.2)."""
    return b"".join([b"0\r\n", *[line.wire for line in trailers], b"\r\n"])


def compose_trailers(fields: ResponseFields) -> list[FieldLine]:
    """Check trailer fields. Raises ApplicationError."""
    lines = [field_line(name, value) for name, value in fields]
    for line in lines:
        if line.minded:
            raise ApplicationError(f"{line.field[0].decode('ascii')} cannot be a trailer (RFC 9110 §6.5.1)")
    return lines


def _status_line(status: str | int) -> tuple[int, bytes]:
    text = f"{status} {reason(status)}" if isinstance(status, int) else status
    if not isinstance(text, str) or not _is_status(text):
        raise ApplicationError(f"malformed status {status!r}")
    try:
        line = f"HTTP/1.1 {text}{' ' if len(text) == 3 else ''}\r\n".encode("latin-1")
    except UnicodeEncodeError:
        raise ApplicationError(f"not latin-1 (PEP 3333): {text!r}") from None
    if len(line.translate(None, CONTROLS)) + 2 != len(line):
        raise ApplicationError(f"a control character in the status: {text!r}")
    if len(_known_status) < MAX_KNOWN_NAMES and len(text) <= MAX_KNOWN_NAME and isinstance(status, str):
        _known_status[status] = (int(text[:3]), line)
    return int(text[:3]), line


def reason(code: int) -> str:
    """The reason phrase of a status code, or "" for one we do not know."""
    try:
        return HTTPStatus(code).phrase
    except ValueError:
        return ""


def _response_name(name: str) -> bytes:
    if not name.isascii() or not _is_token(name.encode("ascii")):
        raise ApplicationError(f"malformed field name {name!r}")
    lower = name.lower().encode("ascii")
    if len(_known_response_names) < MAX_KNOWN_NAMES and len(name) <= MAX_KNOWN_NAME:
        _known_response_names[name] = lower
    return lower


def _as_text(value: Text) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("latin-1")
    raise ApplicationError(f"a field is neither str nor bytes: {value!r}")


def _stated_length(value: bytes) -> int:
    if not (value.isdigit() and len(value) < 19):
        raise ApplicationError(f"malformed Content-Length {value!r}")
    return int(value)


parse_request_head = native.twin(parse_request_head, "geventgate.protocol._requests")
compose_response_head = native.twin(compose_response_head, "geventgate.protocol._responses")
