"""What HTTP/2 means here (RFC 9113), and the seam to the engines that speak it. Knows no socket, no gevent, no clock.

An engine owns framing, HPACK, the states of streams, flow control in both directions, and the outgoing queues in the
order of RFC 9218. What a message may be stands here, once for all engines (``check_request``, ``check_trailers``), and
what a peer may do, in conduct.py. The server owns greenlets, waiting, time and the socket.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import ClassVar, NamedTuple, Protocol

from geventgate.errors import ConfigError, PeerError
from geventgate.message import Field, Fields, RequestHead
from geventgate.protocol.http1 import CONTROLS, GOVERNING, MAX_TRAILERS, TOKEN, is_authority_form, is_host

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Error codes (RFC 9113 §7).
NO_ERROR = 0
PROTOCOL_ERROR = 1
INTERNAL_ERROR = 2
FLOW_CONTROL_ERROR = 3
STREAM_CLOSED = 5
FRAME_SIZE_ERROR = 6
REFUSED_STREAM = 7
CANCEL = 8
COMPRESSION_ERROR = 9
ENHANCE_YOUR_CALM = 11

# Frame types and flags (RFC 9113 §6; RFC 9218 §7.1), and the size of a frame's head (RFC 9113 §4.1).
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
PRIORITY_UPDATE = 16
END_STREAM = ACK = 1
END_HEADERS, PADDED, HAS_PRIORITY = 4, 8, 32
FRAME_HEAD = 9  # octets

# Settings (RFC 9113 §6.5.2; RFC 8441 §3; RFC 9218 §2.1).
ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_HEADER_LIST_SIZE = 2, 3, 4, 6
ENABLE_CONNECT_PROTOCOL, NO_RFC7540_PRIORITIES = 8, 9

LAST_STREAM = 2**31 - 1

KIB = 1024


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one connection may ask of us. Engines enforce all of them.

    A budget is (burst, a second). Precedents: nghttp2, Go, and the attacks that made them (CVE-2023-44487 and others).
    """

    streams: int = 100
    # Octets that may come unread: of a stream, and to spare for those that are read (widen()).
    stream_window: int = 64 * KIB - 1
    spare_window: int = 2 * KIB * KIB
    fields: int = 100  # of a request: 431. An engine cuts at twice as many, and at twice the size
    field_section: int = 32 * KIB  # octets, counted as RFC 9113 §6.5.2 does
    continuations: int = 8  # frames of one field section (CVE-2024-27316)
    settings: int = 32  # entries of one frame (CVE-2020-11080)
    acknowledgements: int = 1000  # of SETTINGS and PING that the peer has not taken (CVE-2019-9512, -9515)
    resets: tuple[int, int] = (200, 33)  # by either side (CVE-2023-44487, CVE-2025-8671)
    control: tuple[int, int] = (1000, 100)  # frames without content (CVE-2019-9511, -9513, -9516, -9518)
    low_water: int = 32 * KIB  # octets queued of one stream, at or under which it is writable again

    @property
    def connection_window(self) -> int:
        """What all streams have together, and the spare: whoever does not read holds up nobody else."""
        return self.streams * self.stream_window + self.spare_window


# --- events, from an engine to the server


class Request:
    """A request's head has come, whole and well formed. *ended*: so has its end."""

    __slots__ = ("ended", "head", "stream_id")

    def __init__(self, stream_id: int, head: RequestHead, ended: bool) -> None:
        self.stream_id = stream_id
        self.head = head
        self.ended = ended


class Data:
    """Content. Its octets of credit are returned by consume(); padding is the engine's affair."""

    __slots__ = ("data", "ended", "stream_id")

    def __init__(self, stream_id: int, data: bytes, ended: bool) -> None:
        self.stream_id = stream_id
        self.data = data
        self.ended = ended


class Trailers(NamedTuple):
    """The request's trailer fields, and its end."""

    stream_id: int
    fields: Fields


class Reset(NamedTuple):
    """The stream has died before both sides had ended, whoever did it: its commands raise PeerGone from now on."""

    stream_id: int
    code: int


class Writable(NamedTuple):
    """The stream's queue has fallen to ``low_water``, after send() had returned more than that."""

    stream_id: int


class Goaway(NamedTuple):
    """The peer goes away (``local`` False), or the engine has given the connection up, and said so to the peer."""

    code: int
    local: bool
    why: str


class Pong(NamedTuple):
    """The answer to ping()."""

    opaque: bytes


Event = Request | Data | Trailers | Reset | Writable | Goaway | Pong


class Engine(Protocol):
    """One connection, the server's side. Nothing here blocks, or raises for a fault of the peer: that becomes frames
    and events. Streams are named by their identifiers. Data is never copied on the way in, and must not change."""

    name: ClassVar[str]

    def __init__(self, limits: Limits) -> None:
        """SETTINGS, and the connection's window, are queued at once."""

    # --- called by the reader

    def receive(self, data: bytes, now: float) -> None:
        """Octets have come, at *now* by the server's clock. Ignored once the connection has been given up."""

    def events(self) -> list[Event]:
        """What has happened since the last call. Asked for after receive() and pull()."""

    # --- called by the writer

    def pull(self, limit: int, now: float) -> bytes:
        """The next octets to send: control frames first, then streams by urgency (RFC 9218 §10). More than *limit* by
        at most a frame; b"" when nothing can be sent. Heads are encoded here and not before, so that a stream whose
        answer the peer does not take stays open, and counts."""

    # --- called by exchanges. They raise PeerGone when the stream is dead

    def inform(self, stream_id: int, status: int, fields: Sequence[Field]) -> None:
        """Queue an interim response."""

    def head(self, stream_id: int, status: int, fields: Sequence[Field], ended: bool = False) -> None:
        """Queue the head of the final response; *ended*: there is no content, and no trailers."""

    def send(self, stream_id: int, data: bytes, ended: bool = False) -> int:
        """Queue content; return how many octets of the stream are queued now."""

    def respond(self, stream_id: int, status: int, fields: Sequence[Field], content: bytes) -> None:
        """Queue a whole response: head() and the last send(), at the price of one."""

    def end(self, stream_id: int, trailers: Sequence[Field] = ()) -> None:
        """End our side of the stream, behind what is queued."""

    def push(self, stream_id: int, fields: Sequence[Field]) -> int | None:
        """Promise the response to a request of these fields (RFC 9113 §8.4), pseudo-fields first. Return the promised
        stream; None when the peer takes none."""

    def prioritize(self, stream_id: int, urgency: int, incremental: bool) -> None:
        """What the application says of its response (RFC 9218 §8)."""

    # --- the same, but never raise

    def consume(self, stream_id: int, count: int) -> None:
        """Return credit for *count* octets of content; of dead streams too, whose octets the connection lacks."""

    def widen(self, stream_id: int, octets: int) -> None:
        """Let the peer send *octets* more of this stream unread, from now on."""

    def reset(self, stream_id: int, code: int) -> None:
        """Kill the stream at once: what is queued is lost. Idempotent."""

    def release(self, stream_id: int) -> None:
        """Nobody reads this stream any more. If its request has not ended when our last octet has left, it is reset
        then, with NO_ERROR (RFC 9113 §8.1)."""

    # --- the connection

    @property
    def can_push(self) -> bool:
        """Whether the peer takes pushed responses."""

    def ping(self, opaque: bytes) -> None:
        """Ask for a Pong; *opaque* is 8 octets."""

    def drain(self) -> None:
        """Say that we are going away, in a GOAWAY that refuses nothing yet (RFC 9113 §6.8)."""

    def goaway(self, code: int = NO_ERROR, why: str = "") -> None:
        """Refuse new streams; with an error, give the connection up. Running streams end by themselves."""

    def backlog(self) -> list[tuple[int, int]]:
        """(stream, octets of it sent so far), of streams that have octets queued."""

    @property
    def idle(self) -> bool:
        """Whether no stream is open."""

    @property
    def done(self) -> bool:
        """Whether all has been said: given up, or gone away and idle. What pull() still gives comes before the end."""


ENGINES = {"h2": "geventgate.protocol.http2_h2", "ngh2": "geventgate.protocol.http2_ngh2"}


def engine(name: str = "auto") -> type[Engine]:
    """The engine called *name*; "auto": the fast one where it is installed. Raises ConfigError."""
    if name == "auto":
        try:
            return engine("ngh2")
        except ConfigError:
            return engine("h2")
    try:
        module = import_module(ENGINES[name])
    except ImportError as error:
        hint = "; geventgate[fast] brings it" if name == "ngh2" else ""
        raise ConfigError(f"the HTTP/2 engine {name} does not import: {error}{hint}") from None
    chosen: type[Engine] = module.Engine
    return chosen


# --- what a message may be (RFC 9113 §8.2, §8.3; RFC 8441 §4)

MAX_KNOWN = 1024  # the caches are emptied when they are full, and what is in them is small
MAX_KNOWN_SIZE = 256
MAX_REMEMBERED = 4 * KIB
PSEUDO_SIZE = 4 * 32 + len(b":method:scheme:authority:path")

_is_name = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch  # "field names MUST be lowercase"
_is_token = re.compile(TOKEN).fullmatch
METHODS = {
    name.encode(): name for name in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE")
}
NOT_IN_PATH = bytes([*range(33), ord("#"), 127])  # as in HTTP/1's request line
# "An endpoint MUST NOT generate an HTTP/2 message containing connection-specific header fields" (§8.2.2)
CONNECTION_SPECIFIC = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))
# Requests of one client hardly differ; HPACK lives by that, and so does this: fields that are well formed and say
# nothing of the message itself, and their sizes.
_known_fields: dict[Field, int] = {}
NOT_LEARNT = frozenset((b"cookie", b"expect", b"authorization", b"proxy-authorization"))  # or secret
_known_authorities: set[bytes] = set()
_known_paths: set[bytes] = set()  # without a query


class Section:
    """The regular fields of a request, checked, and what they say of it."""

    __slots__ = ("expect", "fields", "host", "length", "lines", "memo", "size")

    def __init__(
        self,
        lines: Sequence[Field],
        fields: Fields = (),
        size: int = 0,
        host: bytes | None = None,
        length: bytes | None = None,
        expect: bytes | None = None,
    ) -> None:
        self.lines = lines  # as they came
        self.fields = fields  # cookie crumbs joined
        self.size = size
        self.host = host
        self.length = length
        self.expect = expect
        self.memo: dict[str, object] = {}


class Memory:
    """The last section of a connection, unless it is large: clients repeat themselves, and HPACK lives by that."""

    __slots__ = ("section",)

    def __init__(self) -> None:
        self.section = Section(())


def check_request(headers: Sequence[Field], ended: bool, memory: Memory | None = None) -> RequestHead | None:
    """The request that a field section means, cookie crumbs joined; None when it is malformed (RFC 9113 §8.1.1).

    *ended*: no content follows. The size is counted as in §6.5.2. What is too much is the caller's to judge.
    """
    method = scheme = authority = path = protocol = None
    at = 0
    for name, value in headers:
        if name == b":path" and path is None:
            path = value
        elif name == b":method" and method is None:
            method = value
        elif name == b":scheme" and scheme is None:
            scheme = value
        elif name == b":authority" and authority is None:
            authority = value
        elif name == b":protocol" and protocol is None:
            protocol = value
        else:
            break
        at += 1
    lines = headers[at:]
    section = memory.section if memory is not None else None
    if section is None or section.lines != lines:
        section = _check_section(lines)
        if section is None:
            return None
        if memory is not None and section.size <= MAX_REMEMBERED:
            memory.section = section
    host, length = section.host, section.length
    if method is None:
        return None
    known_method = METHODS.get(method)
    if known_method is None:
        if not _is_token(method):
            return None
        known_method = method.decode("ascii")
    if authority is None:
        authority = host
    elif host is not None and host.lower() != authority.lower():
        return None
    if authority not in _known_authorities and not _check_authority(authority):
        return None
    if ended and length is not None and int(length):
        return None
    assert authority is not None
    target = path
    if method == b"CONNECT":
        if protocol is None:
            # "The ":scheme" and ":path" pseudo-header fields MUST be omitted" (§8.5)
            if scheme is not None or path is not None or not is_authority_form(authority):
                return None
            protocol, target, path = b"", authority, b""
            scheme = b"http"
        elif not _is_token(protocol):
            return None
    elif protocol is not None:
        return None
    if path is None or target is None or (scheme != b"https" and scheme != b"http"):
        return None
    query = b""
    if path not in _known_paths:
        if path[:1] != b"/" and protocol != b"" and not (path == b"*" and method == b"OPTIONS"):
            return None
        if len(path.translate(None, NOT_IN_PATH)) != len(path):
            return None
        path, separator, query = path.partition(b"?")
        if not separator and path[:1] == b"/" and len(path) <= MAX_KNOWN_SIZE:
            if len(_known_paths) >= MAX_KNOWN:
                _known_paths.clear()
            _known_paths.add(path)
    if at == 4 and protocol is None:
        size = PSEUDO_SIZE + len(method) + len(scheme) + len(authority) + len(target)
    else:
        size = sum([32 + len(name) + len(value) for name, value in headers[:at]])
    return RequestHead(  # by position: half the price
        known_method, target, "2", section.fields, "http", authority, path, query,
        None if protocol is None else protocol.decode("ascii"), size + section.size, None, length, None,
        section.expect, None, len(lines), section.memo,
    )  # fmt: skip


def _check_section(lines: Sequence[Field]) -> Section | None:
    """Regular fields; None when they are malformed.

    "All pseudo-header fields MUST appear in a field block before all regular field lines" (§8.3): here a colon is just
    a character that no name has.
    """
    host = length = expect = None
    size = 0
    cookies: list[bytes] = []
    fields: list[Field] = []
    unknown: list[Field] = []
    for pair in lines:
        known = _known_fields.get(pair)
        if known is not None:
            fields.append(pair)
            size += known
            continue
        name, value = pair
        size += 32 + len(name) + len(value)
        if name == b"cookie":
            unknown.append(pair)
            cookies.append(value)
            if len(cookies) > 1:
                continue
        elif name == b"host":
            if host is not None:
                return None
            host = value
        elif name == b"content-length":
            if length is not None or not value.isdigit() or len(value) > 18:
                return None
            length = value
        else:
            if not _check_name(name, value):
                return None
            unknown.append(pair)
            if name == b"expect":
                expect = value if expect is None else expect + b", " + value
        fields.append(pair)
    if unknown:
        if not _check_values(unknown):
            return None
        _learn(unknown)
    if len(cookies) > 1:
        # "these MUST be concatenated into a single octet string using the two-octet delimiter of 0x3b, 0x20" (§8.2.3)
        joined = b"; ".join(cookies).rstrip(b" ")  # the last one may be empty
        fields = [(name, joined) if name == b"cookie" else (name, value) for name, value in fields]
    return Section(lines, tuple(fields), size, host, length, expect)


def check_trailers(headers: Sequence[Field]) -> Fields | None:
    """A request's trailer fields; None when they are malformed. Raises PeerError 431 when they are too large.

    Those that may not come so late are dropped, as in HTTP/1 (RFC 9110 §6.5.1).
    """
    if sum(len(name) + len(value) for name, value in headers) > MAX_TRAILERS:
        raise PeerError(431, "the trailers are too large")
    for name, value in headers:
        if not _check_name(name, value):
            return None
    if not _check_values(headers):
        return None
    return tuple((name, value) for name, value in headers if name not in GOVERNING)


def _check_name(name: bytes, value: bytes) -> bool:
    """Whether a regular field may have this name (§8.2.1, §8.2.2)."""
    if name == b"te":
        # "MUST NOT contain any value other than "trailers""
        return value.lower() == b"trailers"
    return _is_name(name) is not None and name not in CONNECTION_SPECIFIC


def _check_values(fields: Sequence[Field]) -> bool:
    """Whether values have no control character, and no white space at their ends (§8.2.1). All in one pass, since
    translate() costs a tenth of a regular expression."""
    joined = b"\n".join([b"", *[value for _, value in fields], b""])
    if len(joined.translate(None, CONTROLS)) + len(fields) + 1 != len(joined):
        return False
    return not any(joined.find(end) >= 0 for end in (b"\n ", b" \n", b"\n\t", b"\t\n"))  # "in" is slow with bytes


def _learn(fields: Sequence[Field]) -> None:
    """Some that have been found well formed."""
    for field in fields:
        name, value = field
        size = 32 + len(name) + len(value)
        if size <= MAX_KNOWN_SIZE and name not in NOT_LEARNT:
            if len(_known_fields) >= MAX_KNOWN:
                _known_fields.clear()
            _known_fields[field] = size


def _check_authority(authority: bytes | None) -> bool:
    """ "An origin server [...] MUST" have :authority or Host, and it names a host (§8.3.1)."""
    if not authority or not is_host(authority):
        return False
    if len(authority) <= MAX_KNOWN_SIZE:
        if len(_known_authorities) >= MAX_KNOWN:
            _known_authorities.clear()
        _known_authorities.add(authority)
    return True


def parse_priority(value: bytes) -> tuple[int, bool]:
    """Urgency and incremental of a Priority field (RFC 9218 §4); members that are malformed count as absent."""
    urgency, incremental = 3, False
    for member in value.split(b","):
        member = member.strip(b" \t")
        if member[:2] == b"u=" and member[2:] in (b"0", b"1", b"2", b"3", b"4", b"5", b"6", b"7"):
            urgency = int(member[2:])
        elif member in (b"i", b"i=?1"):
            incremental = True
        elif member == b"i=?0":
            incremental = False
    return urgency, incremental


class Budget:
    """A token bucket: spend() is False once the peer has overdrawn."""

    __slots__ = ("_burst", "_rate", "_stamp", "_tokens")

    def __init__(self, budget: tuple[int, int]) -> None:
        self._burst, self._rate = budget
        self._tokens = float(self._burst)
        self._stamp = 0.0

    def spend(self, now: float) -> bool:
        if not self._stamp:
            self._stamp = now
        if self._tokens < 1:
            self._tokens = min(self._burst, self._tokens + (now - self._stamp) * self._rate)
            self._stamp = now
            if self._tokens < 1:
                return False
        self._tokens -= 1
        return True

    def earn(self, count: int = 1) -> None:
        """The peer did something useful, too."""
        self._tokens = min(self._burst, self._tokens + count)
