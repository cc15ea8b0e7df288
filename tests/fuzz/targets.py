"""What is fuzzed: functions of bytes. An exception is a finding, PeerError and ApplicationError aside.

The input is what a peer would send, with nothing wrapped around it: a seed, a finding and a capture look alike. How it
is split follows from its own checksum. The oracles are those of tests/protocol.
"""

import logging
import random
import re
import socket
import struct
import sys
from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from io import StringIO
from ipaddress import ip_address
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote_to_bytes
from zlib import crc32

sys.path.insert(0, str(Path(__file__).parent.parent))  # for the oracles, where pytest has not done it

import h11
import test_native as native
import websockets.exceptions
import websockets.frames
import websockets.protocol
import websockets.utils
from gevent.event import Event
from protocol import test_frames_native as frames_native
from protocol import test_http1 as http1
from protocol import test_http2_engines as engines
from protocol import test_websocket as websocket
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.headers import parse_extension

from geventgate.config import FORWARDING, Config
from geventgate.errors import ApplicationError, ConfigError, PeerError
from geventgate.gateway.environ import build_environ, environ_template, with_room
from geventgate.gateway.forwarded import Forwarding
from geventgate.gateway.wsgi import WsgiGateway
from geventgate.message import RequestHead
from geventgate.protocol import http1 as http1_protocol
from geventgate.protocol.deflate import Agreement, negotiate
from geventgate.protocol.handshake import (
    ExtensionOffer,
    accept_fields,
    check_handshake,
    is_websocket,
    origin_allowed,
)
from geventgate.protocol.http1 import (
    CONTINUE,
    DEFAULT_LIMITS,
    HeadLimits,
    compose_informational,
    compose_response_head,
    compose_trailers,
    compose_upgrade,
    encode_last_chunk,
    expects_continue,
    parse_request_head,
    persists,
    request_content,
)
from geventgate.protocol.http2 import ENGINES, engine
from geventgate.protocol.proxy import parse_proxy_header
from geventgate.protocol.websocket import FrameCodec, State, WebSocketProtocol, frame_codec
from geventgate.server.http1 import Http1Connection
from geventgate.server.service import Service
from geventgate.server.stream import Stream
from geventgate.settings import as_toml, configure, gather
from geventgate.testing import FakeExchange

LINES = set(b"\r\n\0")


def pieces(data: bytes) -> list[bytes]:
    """*data* in one to nine pieces, now and then byte by byte; always the same for the same bytes."""
    rng = random.Random(crc32(data))
    if rng.random() < 0.1:
        return [data[i : i + 1] for i in range(len(data))]
    return websocket.split(data, [rng.randrange(len(data) + 1) for _ in range(rng.randint(0, 8))])


# --- HTTP/1.1


def head(data: bytes) -> None:
    """A request's head, and what is behind it."""
    message(data)
    before = b"GET /before HTTP/1.1\r\n"
    with suppress(PeerError):
        first, second = parse_request_head(data), parse_request_head(before + data, len(before))
        assert (first is None) == (second is None)
        if first is not None and second is not None:
            assert http1.values(first) == http1.values(second)
            assert data[: first.size].endswith(b"\r\n\r\n")


def chunked(data: bytes) -> None:
    """Chunked content, and its trailers."""
    message(http1.get(http1.CHUNKED, line=b"POST / HTTP/1.1") + data)


def message(data: bytes) -> None:
    """Read a message whole and in pieces; what we accept, h11 and httptools accept, and mean the same by it."""
    whole = http1.read_message([data])
    split = http1.read_message(pieces(data), 1 + crc32(data) % 40)
    # Of two faults the one met first depends on what has come.
    assert whole == split or (isinstance(whole, int) and isinstance(split, int)), (whole, split)
    if isinstance(whole, tuple):
        *ours, behind = whole
        data = data[: len(data) - len(behind)]
        if not any(differs(data, ours[0]) for _, _, differs in http1.H11_IS_STRICTER):
            http1.as_h11_reads_it(data, *ours)
        if not any(differs(data, ours[0]) for _, _, differs in http1.LLHTTP_IS_STRICTER):
            http1.as_httptools_reads_it(data, *ours)


class Tape:
    """A socket whose peer says *pieces* and then ends its side."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = [piece for piece in pieces if piece]
        self.said = bytearray()

    def recv(self, size: int, flags: int = 0) -> bytes:
        piece = self.pieces.pop(0) if self.pieces else b""
        if flags or len(piece) > size:  # a mere peek
            self.pieces.insert(0, piece if flags else piece[size:])
        return piece[:size]

    def send(self, data: bytes) -> int:
        self.said += data
        return len(data)

    def sendmsg(self, buffers: Iterable[bytes]) -> int:
        return sum(map(self.send, buffers))

    def fileno(self) -> int:
        return -1

    def ignore(self, *arguments: object) -> None:
        """Options, and the end."""

    shutdown = close = setsockopt = ignore


class TapeStream(Stream):
    """Nothing is waited for: it is all there."""

    __slots__ = ()

    def _park_reader(self) -> None:
        pass


def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Echo. In /unread content is left where it is; /streamed has no length."""
    path = environ["PATH_INFO"].encode("latin-1")
    content = b"" if path == b"/unread" else environ["wsgi.input"].read()
    check_environ(environ)
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("X", environ["REQUEST_METHOD"])])
    answer = environ["RAW_URI"].encode("latin-1") + b" " + content
    return iter([answer[:5], answer[5:]]) if path == b"/streamed" else [answer]


class Failures(logging.Handler):
    """An error that was logged is one."""

    def emit(self, record: logging.LogRecord) -> None:
        raise AssertionError(record.getMessage()) from record.exc_info[1] if record.exc_info else None


CONFIG = Config(limit_request_body=1000)
GATEWAY = WsgiGateway(application, CONFIG, draining=Event(), errors=StringIO(), software="fuzz")
SERVICE = Service(CONFIG, GATEWAY.handle, Event())
LOG = logging.getLogger("geventgate")
FAILURES = Failures(logging.ERROR)


def connection(data: bytes) -> None:
    """A whole connection: each request has its own answer, and nothing behind a fault has one. h11 reads them."""
    expected = list(conversation(data))
    for split in ([data], pieces(data)):
        tape = Tape(split)
        stream = TapeStream(tape)
        LOG.addHandler(FAILURES)
        try:
            ours = Http1Connection(stream, ("127.0.0.1", "1"), ("127.0.0.1", "2"), SERVICE)
            while ours.serve() and stream.receive():  # it idles where a piece ends with a request
                pass
        finally:
            LOG.removeHandler(FAILURES)
        stream.close()
        answers = bytes(tape.said)
        for method, status, content in expected:
            (code, said), answers = first_answer(method, answers)
            assert code == status or (code >= 400 and status >= 400), (code, status)
            assert code != 200 or said == (b"" if method == "HEAD" else content), (said, content)
        assert answers in (b"", CONTINUE), answers  # to whom asked, and then said no more


def conversation(data: bytes) -> Iterator[tuple[str, int, bytes]]:
    """Method, status and content of the answers that are due, one request after the other."""
    while data:
        head, status = None, 0
        try:
            head = parse_request_head(data)
            if head is None:
                return
            content = request_content(head, CONFIG.limit_request_body)
            expects_continue(head)
            status = 501 if head.method == "CONNECT" else 200
            decoded = http1.decode(content, [data[head.size :]], 65536) if content else (b"", (), data[head.size :])
        except PeerError as error:
            if head is None or not status:  # such an answer has content for any method
                yield "GET", error.status, b""
                return
            decoded, status = (b"", (), b""), status if status == 501 or unread(head) else error.status
            yield head.method, status, head.target + b" "
            return
        if status == 501:
            yield "GET", status, b""
            return
        if decoded is None and not unread(head):
            return  # cut short
        method = "GET" if head.method == "CONNECT" else head.method
        yield method, status, head.target + b" " + (b"" if unread(head) or decoded is None else decoded[0])
        streams = unquote_to_bytes(head.path) == b"/streamed" and head.http_version == "1.0" and method != "HEAD"
        waits = unread(head) and content is not None and expects_continue(head)
        if decoded is None or not persists(head) or streams or waits:
            return
        data = decoded[2]


def unread(head: RequestHead) -> bool:
    return unquote_to_bytes(head.path) == b"/unread"


def first_answer(method: str, answers: bytes) -> tuple[tuple[int, bytes], bytes]:
    """Status and content of the first of *answers*, as h11 reads it, and the rest of them."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(answers)
    client.receive_data(b"")
    while isinstance(answer := client.next_event(), h11.InformationalResponse):
        assert answer.status_code == 100
    assert isinstance(answer, h11.Response), answer
    content = b""
    while isinstance(event := client.next_event(), h11.Data):
        content += event.data
    assert isinstance(event, h11.EndOfMessage), event
    return (answer.status_code, content), client.trailing_data[0]


def response(data: bytes) -> None:
    """A status and fields of an application's, separated by bytes 1E and 1F: refused, or on the wire as they are."""
    status, fields = status_and_fields(data)
    with suppress(ApplicationError):
        lines_of(encode_last_chunk(compose_trailers(fields)), len(fields) + 3)
    with suppress(ApplicationError):
        lines_of(compose_informational(103, fields), len(fields) + 3)
    with suppress(ApplicationError):
        lines_of(compose_upgrade(status, fields), len(fields) + 5)
    head = compose_response_head(status, fields)
    lines_of(head.wire, len(fields) + 2)
    said = as_client_reads(head.wire + b"\r\n")
    assert said.status_code == head.code
    given = iter([(name.lower().encode(), value.strip(" \t").encode("latin-1", "replace")) for name, value in fields])
    assert all((bytes(name), bytes(value)) in given for name, value in said.headers)  # in order


def status_and_fields(data: bytes) -> tuple[str, list[tuple[str, str]]]:
    status, *lines = data.decode("utf-8", "surrogateescape").split("\x1e")
    return status, [(name, value) for name, _, value in (line.partition("\x1f") for line in lines)]


def lines_of(wire: bytes, most: int) -> None:
    lines = wire.split(b"\r\n")
    assert len(lines) <= most
    assert not LINES & set(b"".join(lines)), wire


def as_client_reads(wire: bytes) -> h11.Response | h11.InformationalResponse:
    client = h11.Connection(h11.CLIENT)
    offer = [("Host", "a"), ("Connection", "upgrade"), ("Upgrade", "w")]
    client.send(h11.Request(method="GET", target="/", headers=offer))
    client.send(h11.EndOfMessage())
    client.receive_data(wire)
    answer = client.next_event()
    assert isinstance(answer, (h11.Response, h11.InformationalResponse)), answer
    return answer


# --- WebSockets

MESSAGE_LIMIT = 1000  # bytes; small, so that it is met


def handshake(data: bytes) -> None:
    """The fields of an opening handshake: any answer we give is a 101 that says what was asked for."""
    request = parse_request_head(b"GET / HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n")
    if request is None or not is_websocket(request):
        return
    asked = check_handshake(request)
    origin_allowed(request, asked.origin)
    subprotocol = asked.subprotocols[0] if asked.subprotocols else None
    agreement = negotiate(asked.extensions)
    extensions = agreement.answer if agreement else ""
    fields = accept_fields(asked, subprotocol, extensions=extensions)
    answer = as_client_reads(compose_upgrade(request.protocol or "", fields))
    assert answer.status_code == 101
    said = {bytes(name): bytes(value) for name, value in answer.headers}
    assert said.get(b"sec-websocket-protocol") == (subprotocol.encode() if subprotocol else None)
    check_extensions(request.get(b"sec-websocket-extensions") or b"", asked.extensions, extensions)
    assert said[b"sec-websocket-accept"].decode() == websockets.utils.accept_key(asked.key.decode())


def check_extensions(value: bytes, offers: tuple[ExtensionOffer, ...], answer: str) -> None:
    """What we read, ``websockets`` reads; we accept no offer that it declines, and answer what was offered."""
    theirs = parse_extension(value.decode("latin-1")) if offers else []
    assert [(offer.name, list(offer.parameters)) for offer in offers] == theirs
    good = []
    for name, parameters in theirs:
        with suppress(websockets.exceptions.NegotiationError):
            if name == "permessage-deflate":
                ServerPerMessageDeflateFactory().process_request_params(parameters, [])
                good.append(dict(parameters))
    if answer:
        [(name, parameters)] = parse_extension(answer)
        assert name == "permessage-deflate"
        asked = next(one for one in good if one.get("server_max_window_bits") != "8")
        for key, bits in parameters:
            assert key in asked or key == "server_max_window_bits"  # which may be named unasked
            assert bits is None or int(bits) <= int(asked.get(key) or 15)


def frames(data: bytes) -> None:
    """What a client sends on a WebSocket: split anywhere, and as two others read it."""
    whole, split = WebSocketProtocol(MESSAGE_LIMIT), WebSocketProtocol(MESSAGE_LIMIT)
    messages, sent = websocket.receive_all(whole, [data])
    assert (messages, sent) == websocket.receive_all(split, pieces(data))
    assert (whole.state, whole.close_code, whole.close_reason) == (split.state, split.close_code, split.close_reason)
    assert all(len(m if isinstance(m, bytes) else m.encode()) <= MESSAGE_LIMIT for m in messages)
    assert (whole.state is State.CLOSED) == (whole.close_code is not None)
    client = websockets.protocol.Protocol(websockets.protocol.CLIENT)
    client.receive_data(sent)
    assert client.parser_exc is None, client.parser_exc
    if whole.close_code not in (1008, 1009):  # limits, of which the others have none, or another
        theirs, code = as_websockets(data)
        assert messages == theirs[: len(messages)]
        if whole.fault is None and code != 1002:  # it judges a header that is not whole yet
            assert (messages, whole.close_code) == (theirs, code)
        if whole.close_code not in (1012, 1013, 1014):  # which wsproto does not know
            assert (messages, whole.close_code) == websocket.as_wsproto([data])


def as_websockets(data: bytes, extensions: list[Any] | None = None) -> tuple[list[str | bytes], int | None]:
    """The messages and the close code, as the library ``websockets`` reads them."""
    server = websockets.protocol.Protocol(websockets.protocol.SERVER, max_size=None)
    server.extensions = extensions or []
    server.receive_data(data)
    messages: list[str | bytes] = []
    text, parts = None, b""
    for frame in server.events_received():
        if frame.opcode in websockets.frames.CTRL_OPCODES:
            continue
        if frame.opcode is not websockets.frames.Opcode.CONT:
            text = getincrementaldecoder("utf-8")() if frame.opcode is websockets.frames.Opcode.TEXT else None
        parts += frame.data
        try:
            if text is not None:
                text.decode(frame.data, frame.fin)
        except UnicodeDecodeError:
            return messages, 1007
        if frame.fin:
            messages.append(parts if text is None else parts.decode())
            parts = b""
    close = server.close_rcvd or server.close_sent
    return messages, close.code if close is not None else None


def deflate(data: bytes) -> None:
    """Frames behind permessage-deflate; the first byte chooses what is agreed. Read whole, in pieces of both kinds, and
    by ``websockets``, which then reads what we send of it."""
    agreement = Agreement(
        client_max_window_bits=8 + (data[0] & 7) if data else 15,
        client_no_context_takeover=bool(data[:1] >= b"\x80"),
        server_no_context_takeover=bool(data and data[0] & 0x40),
    )
    data = data[1:]
    whole, split, piecewise = (WebSocketProtocol(MESSAGE_LIMIT, agreement) for _ in range(3))
    messages, sent = websocket.receive_all(whole, [data])
    again, sent_again = websocket.receive_all(split, pieces(data))
    assert messages == again == receive_pieces(piecewise, pieces(data))
    assert all(len(m if isinstance(m, bytes) else m.encode()) <= MESSAGE_LIMIT for m in messages)
    codes = {whole.close_code, split.close_code, piecewise.close_code}
    assert len(codes) == 1 or codes == {1007, 1009}, codes  # of two faults in one piece zlib may tell the later one
    assert sent == sent_again or whole.fault is not None
    if whole.fault is None and not agreement.client_no_context_takeover:
        their = PerMessageDeflate(
            False,
            agreement.server_no_context_takeover,
            max(agreement.client_max_window_bits, 9),
            agreement.server_max_window_bits,
        )
        theirs, code = as_websockets(data, [their])
        # It judges a header that is not whole yet, and gives up behind a block with BFINAL.
        if code in (None, whole.close_code) and not their.decoder.eof:
            assert messages == theirs
    if whole.state is State.OPEN:
        sent = b"".join(part for message in messages for part in whole.message(message, True))
        client = websockets.protocol.Protocol(websockets.protocol.CLIENT)
        client.extensions = [
            PerMessageDeflate(
                agreement.server_no_context_takeover,
                agreement.client_no_context_takeover,
                agreement.server_max_window_bits,
                15,
            )
        ]
        client.receive_data(sent)
        assert [frame.data for frame in client.events_received()] == [
            message if isinstance(message, bytes) else message.encode() for message in messages
        ]


def receive_pieces(protocol: WebSocketProtocol, pieces: Iterable[bytes]) -> list[str | bytes]:
    """The messages, as next_piece() gives them."""
    messages: list[str | bytes] = []
    parts: list[Any] = []
    for data in pieces:
        protocol.feed(data)
        while (piece := protocol.next_piece()) is not None:
            parts.append(piece[0])
            if piece[1]:
                messages.append((b"" if isinstance(parts[0], bytes) else "").join(parts))
                parts = []
    return messages


# --- proxies in front


def proxy(data: bytes) -> None:
    """A PROXY header, and what is behind it: as it grows, for each version, and written again from what it said."""
    header = parse_proxy_header(data)
    for end in range(min(len(data), 300)):
        early = parse_proxy_header(data[:end])
        assert early is None or early == header
        assert (early is None) == (header is None or end < header.size)
    if header is None:
        return
    assert header == parse_proxy_header(data[: header.size], "v1" if data.startswith(b"P") else "v2")
    for address in (header.client, header.server):
        assert address in (None, ("", "")) or (ip_address(address[0]) and 0 <= int(address[1]) <= 65535)
    if header.client and header.server and header.client[0]:
        family = socket.AF_INET6 if ":" in header.client[0] else socket.AF_INET
        hosts = [socket.inet_pton(family, host) for host, _ in (header.client, header.server)]
        ports = [int(port) for _, port in (header.client, header.server)]
        if data.startswith(b"P"):
            said = data[: header.size].split()
            assert [socket.inet_pton(family, host.decode()) for host in said[2:4]] == hosts
            assert [int(port) for port in said[4:]] == ports
        else:
            assert data[16:].startswith(b"".join(hosts) + struct.pack("!HH", *ports))


def forwarded(data: bytes) -> None:
    """Forwarding fields, believed and not: what comes of them is well formed, and of strangers nothing is believed."""
    request = b"GET /a HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n"
    for forwarding in FORWARDINGS:
        for peer in (("10.0.0.1", "1"), ("10.1.0.1", "1"), ("", "")):
            head = parse_request_head(request)
            if head is None:
                return
            exchange = FakeExchange(peer=peer)
            exchange.request = head
            host = head.authority
            front = forwarding.apply(exchange)
            environ = build_environ(exchange, TEMPLATE, front)
            check_environ(environ)
            if peer[0] == "10.1.0.1":
                assert (front, exchange.peer, head.scheme, head.authority) == (None, peer, "http", host)
                continue
            assert exchange.peer == peer or ip_address(exchange.peer[0])
            assert head.scheme in ("http", "https")
            assert not set(b"/\\?#@, \r\n\0") & set(head.authority)
            assert re.fullmatch(r"(/[^/]+)*", environ["SCRIPT_NAME"], re.DOTALL), environ["SCRIPT_NAME"]
            assert 0 < int(environ["SERVER_PORT"]) <= 65535
            assert environ["SERVER_NAME"]


def check_environ(environ: dict[str, Any]) -> None:
    """PEP 3333, "A Note On String Types": strings are latin-1 in disguise."""
    for key, value in environ.items():
        assert key.isascii()
        if isinstance(value, str):
            value.encode("latin-1")


FORWARDINGS = [
    Forwarding(Config(forwarded_allow_ips=("10.0.0.0/16", "unix:"), forwarded_headers=names))
    for names in (FORWARDING, ("forwarded", "x-forwarded-prefix"))
]
TEMPLATE = environ_template(("127.0.0.1", "80"), "", StringIO(), Event(), "fuzz")


# --- settings


def settings(data: bytes) -> None:
    """A file of settings: a line that names the fault, or a Config, which written down says the same."""
    with TemporaryDirectory() as folder:
        file = Path(folder, "s.toml")
        file.write_bytes(data)
        said = ""
        try:
            found = gather({}, {}, str(file))
            configure(found)
        except ConfigError as error:
            said = str(error)
        if said:
            assert len(said.splitlines()) == 1, said
            assert "s.toml" in said or "--" in said, said
            return
        file.write_text(as_toml(found), encoding="utf-8")
        again = gather({}, {}, str(file))
        assert {name: one.value for name, one in again.items()} == {name: one.value for name, one in found.items()}


# --- HTTP/2


def http2(data: bytes) -> None:
    """A connection from its preface on. No engine raises; and what is served depends neither on how the input is split
    nor on the engine, though one may give the connection up earlier than the other."""
    ends = list(accumulate(map(len, pieces(data))))
    served = [
        engines.requests_of(engines.converse(engine(name), data, split)) for name in ENGINES for split in ([], ends)
    ]
    longest = max(served, key=len)
    assert all(longest[: len(requests)] == requests for requests in served), served


# --- native code


def twins(data: bytes) -> None:
    """A request's head, a response's, and frames: each native twin says of them what its reference says. Where nothing
    is compiled there is nothing to compare."""
    choice = crc32(data)
    twin, reference = native.both(http1_protocol, "parse_request_head")
    start = min(choice % 4, len(data)) if choice & 0x100 else 0
    for limits in (DEFAULT_LIMITS, HeadLimits(60, choice % 12, 400)):
        same(native.said(twin, data, start, limits), native.said(reference, data, start, limits))
    with suppress(PeerError):
        if ours := twin(data):
            same(texts_of(ours), texts_of(reference(data)))
    status, fields = status_and_fields(data)
    twin, reference = native.both(http1_protocol, "compose_response_head")
    for _ in range(2):  # again, as it is remembered
        same(native.composed(twin, status, fields), native.composed(reference, status, fields))
    room, deflate = ROOMS[choice % 4], bool(choice & 4)
    twin, reference = frame_codec(room, deflate), FrameCodec(room, deflate)
    same(*(frames_native.pieces(codec, pieces(data), room) for codec in (twin, reference)))


def same(ours: object, theirs: object) -> None:
    assert ours == theirs, (ours, theirs)


def texts_of(head: RequestHead) -> list[tuple[str, object]]:
    """The texts of its environ, in order."""
    exchange = FakeExchange()
    exchange.request = head
    return [(key, text) for key, text in build_environ(exchange, ROOMY).items() if isinstance(text, str)]


ROOMS = (0, 100, 70_000, 1 << 62)
ROOMY = with_room(TEMPLATE)

TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        head, chunked, connection, response, handshake, frames, deflate, proxy, forwarded, settings, http2, twins,
    )
}  # fmt: skip


def examine(target: str, data: bytes) -> None:
    """Raises what the target finds."""
    with suppress(PeerError, ApplicationError):
        TARGETS[target](data)
