"""Carries WebSockets over HTTP/1.1 (RFC 6455) on over HTTP/2 (RFC 8441), for test clients that speak only the former:

    python tests/http2_bridge.py --to HOST:PORT [--listen PORT] [--tls | --ca-certs FILE] [--shared]

Prints the port it listens on. Each client gets an HTTP/2 connection of its own, or with --shared all get the same one.
It knows an opening handshake from bytes, and nothing of frames: what either side sends, the other gets, and FIN is
END_STREAM, a reset a reset, a client that does not read a closed window. Imports nothing of what it is to test.
"""

import argparse
import asyncio
import signal
import socket
import ssl
import struct
import sys
from base64 import b64encode
from collections import deque
from contextlib import suppress
from hashlib import sha1
from typing import NamedTuple, Self

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    WindowUpdated,
)
from h2.exceptions import ProtocolError

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 §1.3
NOT_CARRIED = {b"connection", b"upgrade", b"host", b"sec-websocket-key"}  # HTTP/1.1's own, or pseudo-fields here
PIECE = 256 * 1024
CONNECTION_WINDOW = 16 << 20  # far above a stream's 65,535: a client that does not read must not hold up the others
LINGER_RESET = struct.pack("ii", 1, 0)  # close() then sends RST

Fields = list[tuple[bytes, bytes]]


class Refused(Exception):
    """There is no WebSocket to be had; the text is for the client."""


class Handshake(NamedTuple):
    """An opening handshake over HTTP/1.1, which the server is to judge."""

    path: bytes
    authority: bytes
    key: bytes
    fields: Fields  # the others, as HTTP/2 spells them

    @classmethod
    def parse(cls, head: bytes) -> Self:
        line, *lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
        fields = [(name.lower(), value.strip(b" \t")) for name, _, value in (line.partition(b":") for line in lines)]
        known = dict(fields)
        method, path, _ = line.split(b" ")
        if method != b"GET" or known.get(b"upgrade", b"").lower() != b"websocket":
            raise Refused("only opening handshakes of WebSockets are carried")
        others = [field for field in fields if field[0] not in NOT_CARRIED]
        return cls(path, known[b"host"], known[b"sec-websocket-key"], others)

    def accept_value(self) -> bytes:
        return b64encode(sha1(self.key + GUID).digest())


class Stream:
    """An HTTP/2 stream: what has come of it, and whether it goes on."""

    def __init__(self, number: int) -> None:
        self.number = number
        loop = asyncio.get_running_loop()
        self.head: asyncio.Future[Fields] = loop.create_future()
        self.pieces: deque[DataReceived] = deque()  # bounded by its window: credit is given for what the client took
        self.ended = False  # END_STREAM came
        self.finished = False  # ours went
        self.reset: asyncio.Future[int] = loop.create_future()  # RST_STREAM came, or the connection went
        self.changed = asyncio.Event()  # one of these did, for the one that reads them

    def cut(self, code: int) -> None:
        if not self.reset.done():
            self.reset.set_result(code)
        if not self.head.done():
            self.head.set_exception(Refused(f"the stream was reset with {ErrorCodes(code).name}"))
            self.head.exception()  # seen, should nobody wait for it
        self.changed.set()


class Http2Connection:
    """The client's side of an HTTP/2 connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, scheme: bytes) -> None:
        self._reader, self._writer, self._scheme = reader, writer, scheme
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self._streams: dict[int, Stream] = {}
        self._greeted = False  # the server's SETTINGS came
        self.gone = False  # it takes no more streams. h2 knows nothing after a GOAWAY, so the others end with it
        self._changed = asyncio.Event()  # a window, the settings, or the number of streams
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW - 65_535)
        self._flush()
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, host: str, port: int, context: ssl.SSLContext | None) -> Self:
        reader, writer = await asyncio.open_connection(host, port, ssl=context, limit=PIECE)
        if context is not None:
            chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
            if chosen != "h2":
                writer.close()
                raise Refused(f"ALPN chose {chosen}")
        return cls(reader, writer, b"http" if context is None else b"https")

    # --- what comes

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(PIECE):
                for event in self._h2.receive_data(data):
                    self._take(event)
                self._flush()
        except OSError as error:
            print(f"the connection was lost: {error}", file=sys.stderr)
        except ProtocolError as error:
            print(f"the server broke HTTP/2: {error}", file=sys.stderr)
            self._flush()
        finally:
            self.gone = True
            for stream in self._streams.values():
                if not stream.ended:
                    stream.cut(ErrorCodes.CANCEL)
            self._wake()
            self._writer.close()

    def _take(self, event: object) -> None:
        match event:
            case RemoteSettingsChanged():
                self._greeted = True
                self._wake()
            case WindowUpdated():
                self._wake()
            case ConnectionTerminated():
                self.gone = True
                if event.error_code != ErrorCodes.NO_ERROR:
                    print(f"GOAWAY {event.error_code}: {event.additional_data}", file=sys.stderr)
                self._wake()
            case ResponseReceived() | DataReceived() | StreamEnded() | StreamReset():
                stream = self._streams.get(event.stream_id)
                if stream is None:  # we have reset it, and the server did not know yet
                    if isinstance(event, DataReceived):
                        self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                    return
                match event:
                    case ResponseReceived():
                        stream.head.set_result(event.headers)
                    case DataReceived():
                        stream.pieces.append(event)
                    case StreamEnded():
                        stream.ended = True
                    case StreamReset():
                        stream.cut(event.error_code)
                        self._wake()
                stream.changed.set()

    # --- what goes

    def _flush(self) -> None:
        if data := self._h2.data_to_send():
            self._writer.write(data)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def connect(self, handshake: Handshake) -> Stream:
        """Send the handshake as an extended CONNECT (RFC 8441 §4)."""
        limit = self._h2.remote_settings
        while not self._greeted or self._h2.open_outbound_streams >= limit.max_concurrent_streams:
            if self.gone:
                raise Refused("the connection went away")
            await self._changed.wait()
        # "A sender MUST NOT send this pseudo-header field unless the peer has sent it" (RFC 8441 §3)
        if self.gone or not limit.enable_connect_protocol:
            raise Refused("the server does not take an extended CONNECT")
        stream = Stream(self._h2.get_next_available_stream_id())
        self._streams[stream.number] = stream
        pseudo = [
            (b":method", b"CONNECT"),
            (b":protocol", b"websocket"),
            (b":scheme", self._scheme),
            (b":path", handshake.path),
            (b":authority", handshake.authority),
        ]
        self._h2.send_headers(stream.number, pseudo + handshake.fields)
        self._flush()
        return stream

    async def send(self, stream: Stream, data: bytes) -> None:
        """Send all of it as the windows allow. Raises ConnectionResetError when the server wants no more."""
        rest = memoryview(data)
        while rest:
            if self.gone or stream.reset.done():
                raise ConnectionResetError
            room = min(self._h2.local_flow_control_window(stream.number), self._h2.max_outbound_frame_size)
            if room <= 0:
                self._flush()
                await self._changed.wait()
                continue
            self._h2.send_data(stream.number, rest[:room].tobytes())
            rest = rest[room:]
        self._flush()
        await self._writer.drain()

    def end(self, stream: Stream) -> None:
        if not self.gone and not stream.reset.done():
            stream.finished = True
            self._h2.end_stream(stream.number)
            self._flush()

    def credit(self, stream: Stream, piece: DataReceived) -> None:
        if not self.gone:
            self._h2.acknowledge_received_data(piece.flow_controlled_length, stream.number)
            self._flush()

    def drop(self, stream: Stream, reset: bool) -> None:
        """Forget it, and *reset* it, unless it was."""
        del self._streams[stream.number]
        for piece in stream.pieces:
            self.credit(stream, piece)
        if reset and not (self.gone or stream.reset.done() or (stream.ended and stream.finished)):
            self._h2.reset_stream(stream.number, ErrorCodes.CANCEL)
            self._flush()
        self._wake()

    async def close(self) -> None:
        if not self.gone:
            self.gone = True
            self._h2.close_connection()
            self._flush()
        self._task.cancel()  # h2 takes nothing more
        await asyncio.wait((self._task,))


class Bridge:
    """Where clients come in."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None, shared: bool) -> None:
        self._host, self._port, self._context = host, port, context
        self._opening = asyncio.Lock() if shared else None
        self._one: Http2Connection | None = None
        self._clients: set[object] = set()  # their tasks: asyncio keeps none that waits, and it may be collected

    async def _connection(self) -> Http2Connection:
        if self._opening is None:
            return await Http2Connection.open(self._host, self._port, self._context)
        async with self._opening:
            if self._one is None or self._one.gone:
                self._one = await Http2Connection.open(self._host, self._port, self._context)
            return self._one

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A client, from its handshake to its end."""
        task = asyncio.current_task()
        self._clients.add(task)
        try:
            handshake = Handshake.parse(await reader.readuntil(b"\r\n\r\n"))
            connection = await self._connection()
            try:
                stream = await connection.connect(handshake)
                whole = False
                try:
                    whole = await self._carry(handshake, connection, stream, reader, writer)
                finally:
                    connection.drop(stream, reset=not whole)
            finally:
                if self._opening is None:
                    await connection.close()
        except (Refused, OSError) as error:
            print(f"refused: {error}", file=sys.stderr)
            writer.write(b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n%b\n" % str(error).encode())
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError, KeyError) as error:
            print(f"no handshake: {error!r}", file=sys.stderr)
        finally:
            self._clients.discard(task)
            writer.close()

    async def _carry(
        self,
        handshake: Handshake,
        connection: Http2Connection,
        stream: Stream,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        """Whether both sides came to their end; else what is left is reset."""
        head = await stream.head
        status = dict(head)[b":status"]
        fields = b"".join(b"%b: %b\r\n" % field for field in head if field[0] != b":status")
        if status != b"200":
            writer.write(b"HTTP/1.1 %b Refused\r\n%bConnection: close\r\n\r\n" % (status, fields))
            await self._carry_down(connection, stream, writer)
            return False
        proof = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %b\r\n" % handshake.accept_value()
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\n%b%b\r\n" % (proof, fields))
        up = asyncio.create_task(self._carry_up(connection, stream, reader))
        down = asyncio.create_task(self._carry_down(connection, stream, writer))
        going, whole = {up, down}, True
        while going and whole and not stream.reset.done():
            done, _ = await asyncio.wait({*going, stream.reset}, return_when=asyncio.FIRST_COMPLETED)
            going -= done
            whole = all(one.result() for one in done - {stream.reset})
        if up in going and stream.ended and stream.reset.done() and stream.reset.result() == ErrorCodes.NO_ERROR:
            up.cancel()  # the server has said all, and needs no more of the client's (RFC 9113 §8.1)
            return await down
        for one in going:
            one.cancel()
        if going or not whole:
            with suppress(OSError):  # closed already
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            writer.transport.abort()
        return whole and not going

    async def _carry_up(self, connection: Http2Connection, stream: Stream, reader: asyncio.StreamReader) -> bool:
        """From the client to its FIN; False: it or the server has reset."""
        try:
            while data := await reader.read(PIECE):
                await connection.send(stream, data)
        except OSError:
            return False
        connection.end(stream)
        return True

    async def _carry_down(self, connection: Http2Connection, stream: Stream, writer: asyncio.StreamWriter) -> bool:
        """To the client until END_STREAM; False: it or the server has reset."""
        try:
            while True:
                while stream.pieces:
                    writer.write(stream.pieces[0].data)
                    await writer.drain()
                    connection.credit(stream, stream.pieces.popleft())
                if stream.ended:
                    if writer.can_write_eof():
                        writer.write_eof()
                    return True
                if stream.reset.done():
                    return False
                stream.changed.clear()
                await stream.changed.wait()
        except OSError:
            return False


async def main() -> None:
    parser = argparse.ArgumentParser(description="WebSockets over HTTP/1.1 to WebSockets over HTTP/2")
    parser.add_argument("--listen", type=int, default=0, metavar="PORT", help="on 127.0.0.1; 0: any")
    parser.add_argument("--to", required=True, metavar="HOST:PORT")
    parser.add_argument("--tls", action="store_true", help="ALPN h2, instead of cleartext with prior knowledge")
    parser.add_argument("--ca-certs", metavar="FILE", help="who signed the server's certificate; implies --tls")
    parser.add_argument("--shared", action="store_true", help="one connection for all clients")
    given = parser.parse_args()
    context = None
    if given.tls or given.ca_certs:
        context = ssl.create_default_context(cafile=given.ca_certs)
        context.set_alpn_protocols(["h2"])
    host, _, port = given.to.rpartition(":")
    bridge = Bridge(host, int(port), context, given.shared)
    server = await asyncio.start_server(bridge.carry, "127.0.0.1", given.listen)
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    print(server.sockets[0].getsockname()[1], flush=True)
    await stopped.wait()


if __name__ == "__main__":
    asyncio.run(main())
