"""TLS under a connection: the handshake that comes first, and a Stream whose bytes travel encrypted (RFC 8446).

OpenSSL works in memory (``ssl.SSLObject`` between two ``MemoryBIO``) and never sees the socket: who waits, waits in
Stream as ever, and whether the ssl module is monkey-patched makes no difference. Everything OpenSSL can decrypt is
taken out at once, so that bytes wait in the kernel or in the inbox and nowhere else. Who we are: certificates.py.
"""

import errno
import logging
import ssl
import sys
from collections.abc import Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import Any

from geventgate.errors import PeerError, PeerGone, PeerTimeout
from geventgate.exchange import Address, Bytes
from geventgate.message import Tls
from geventgate.protocol.http1 import compose_response_head
from geventgate.server.certificates import Certificates, Session
from geventgate.server.clock import CLOCK
from geventgate.server.descriptor import Descriptor, size_of
from geventgate.server.http1 import linger
from geventgate.server.opening import Opening
from geventgate.server.service import Connection, Service
from geventgate.server.stream import Stream

RECORD = 16 * 1024  # bytes that one record may hold (RFC 8446 §5.1)
PIECE = 4 * RECORD  # is encrypted at a time: it is what a slow reader makes us hold

PLAIN = b"This port speaks HTTPS, and the request came as plain HTTP.\n"

log = logging.getLogger("geventgate")


class TlsOpening(Opening):
    """A connection until its handshake is over, which chooses the protocol (RFC 7301).

    *stream* is a plain one; what it has received already is the handshake's beginning.
    """

    __slots__ = ("_certificates",)

    def __init__(
        self, stream: Stream, peer: Address, local: Address, service: Service, certificates: Certificates
    ) -> None:
        super().__init__(stream, peer, local, service, service.config.tls_handshake_timeout)
        self._certificates = certificates

    def open(self) -> Connection | None:
        """Shake hands."""
        stream = self._stream
        try:
            if not stream.inbox and not stream.receive():
                return None  # only looked whether somebody listens
            if 0x20 <= stream.inbox[stream.start] < 0x7F:  # a letter; a handshake begins with 0x16
                self._refuse_plain()
                return None
            stream = self._stream = TlsStream(stream, self._certificates.context)
            stream.handshake()
        except PeerTimeout:
            seconds = self._service.config.tls_handshake_timeout
            log.info("%s:%s: no TLS handshake within %g s", *self._peer, seconds)
            return None
        except PeerError as error:
            log.info("%s:%s: no TLS handshake: %s", *self._peer, error)
            if not isinstance(error, PeerGone):
                stream = self._stream = Stream(self._stream.give_up())
                linger(stream)  # a TLS 1.3 client has sent its request by now; a reset would destroy the alert
            return None
        tls = stream.describe()
        return self._speak("h2" if tls.alpn == "h2" and self._service.http2_engine else "http/1.1", tls)

    def _refuse_plain(self) -> None:
        """Tell who speaks plain HTTP, in plain HTTP."""
        log.info("%s:%s: 400: plain HTTP, but this port speaks HTTPS", *self._peer)
        self._service.tell_refused(self._peer, 400, "plain HTTP, but this port speaks HTTPS")
        head = compose_response_head(400, [("Content-Type", "text/plain"), ("Content-Length", str(len(PLAIN)))])
        self._stream.write(head.wire + b"Connection: close\r\n" + CLOCK.server_and_date + PLAIN)
        linger(self._stream)


class Deciphering:
    """What a TlsStream receives from: as a Descriptor's recv(), plaintext."""

    __slots__ = ("_ciphertext", "_descriptor", "_session", "ended")

    def __init__(self, descriptor: Descriptor, session: Session, ciphertext: ssl.MemoryBIO) -> None:
        self._descriptor = descriptor
        self._session = session
        self._ciphertext = ciphertext
        self.ended = False  # the peer has said so: close_notify, or the end of its bytes

    def recv(self, size: int) -> bytes | None:
        """Plaintext, b"" at the end. None: no record is whole, and nothing is left to receive. What comes without a
        close_notify ends without an error, as in nginx: HTTP knows how long its messages are."""
        while not self.ended:
            data = self._descriptor.recv(size)
            if data is None:
                return None
            if not data:
                self.ended = True
                break
            self._ciphertext.write(data)
            plaintext = self.take()
            if plaintext:
                return plaintext
        return b""

    def take(self) -> bytes:
        """All that can be decrypted; nothing of it is left inside OpenSSL."""
        pieces = []
        try:
            while self._ciphertext.pending or self._session.pending():
                piece = self._session.read(RECORD)
                if not piece:
                    self.ended = True
                    break
                pieces.append(piece)
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # the same, when our side has ended too
            self.ended = True
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class TlsStream(Stream):
    """A Stream over TLS. It takes the socket of *plain*, and what that has received.

    shutdown() and close() say close_notify (RFC 8446 §6.1); reset() does not, so that a cut stays visible. A peer that
    speaks TLS 1.2 ends its side when we end ours.
    """

    __slots__ = ("_ciphertext", "_deciphering", "_received", "_session")

    def __init__(self, plain: Stream, context: ssl.SSLContext) -> None:
        early = plain.inbox[plain.start :]
        deadline = plain.deadline
        Stream.__init__(self, plain.give_up())  # super() is slow when compiled, or cannot be
        self.deadline = deadline
        self._received = ssl.MemoryBIO()
        self._ciphertext = ssl.MemoryBIO()  # to be sent
        self._received.write(early)
        self._session: Session = context.wrap_bio(self._received, self._ciphertext, server_side=True)  # type: ignore[assignment]
        self._deciphering = Deciphering(self._descriptor, self._session, self._received)

    def handshake(self) -> None:
        """Raises PeerError, PeerGone, PeerTimeout."""
        while True:
            try:
                with _Silence():
                    self._session.do_handshake()
                break
            except ssl.SSLWantReadError:
                self._push()
            except OSError as error:
                self._push_once()  # the alert
                raise PeerError(400, _reason(error)) from None
            self._received.write(self._next_flight())
        self._push()
        try:
            self.inbox = self._deciphering.take()  # a request may have come behind it
        except OSError as error:
            raise self._lost(error) from None

    def _next_flight(self) -> bytes:
        while True:
            try:
                data = self._descriptor.recv(RECORD)
            except OSError as error:
                raise self._lost(error) from None
            if data:
                return data
            if data is not None:
                raise PeerGone("the peer hung up")
            self._drained = True
            self._park_reader()

    def describe(self) -> Tls:
        session = self._session
        cipher = session.cipher()
        return Tls(
            version=session.version() or "",
            cipher=cipher[0] if cipher else "",
            server_name=session.server_name,
            alpn=session.selected_alpn_protocol(),
            peer_certificate=session.getpeercert(True),
            peer=MappingProxyType(session.getpeercert() or {}),
        )

    # --- reading

    def poll(self) -> bool:
        if self._deciphering.ended:  # nothing more may ever come behind a close_notify, and wake anybody
            self._drained = False
        return Stream.poll(self)

    def _receive(self, size: int) -> bytes | None:
        return self._deciphering.recv(size)

    def receive_into(self, buffer: memoryview) -> int:
        if not self.receive():
            return 0
        data = self.inbox[self.start : self.start + len(buffer)]
        self.take(len(data))
        buffer[: len(data)] = data
        return len(data)

    def _park_reader(self) -> None:
        if not self._deciphering.ended:
            Stream._park_reader(self)

    # --- writing

    def sendv(self, buffers: Sequence[Bytes]) -> None:
        self._claim_writer()
        if len(buffers) > 1 and size_of(buffers) <= PIECE:
            buffers = (b"".join(buffers),)
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            for start in range(0, len(view), PIECE):
                try:
                    self._session.write(view[start : start + PIECE])
                except OSError as error:
                    raise self._lost(error) from None
                if self._ciphertext.pending >= PIECE:
                    self._push()
        self._push()

    def _push(self) -> None:
        """Send what OpenSSL has to say."""
        if self._ciphertext.pending:
            Stream.sendv(self, [self._ciphertext.read()])

    def _push_once(self) -> None:
        """The same, if the kernel takes it: an alert is not waited for."""
        with suppress(OSError):
            self._sock.send(self._ciphertext.read())

    def sendfile(self, fd: int, offset: int, count: int) -> int:
        """Raises OSError: the kernel does not encrypt."""
        raise OSError(errno.EOPNOTSUPP, "encrypted by us")

    # --- the peer is gone, and the end

    def _lost(self, error: OSError) -> PeerGone:
        if isinstance(error, ssl.SSLError):
            if self._writing is None:
                self._push_once()  # the alert
            error = OSError(error.errno, _reason(error))
        return Stream._lost(self, error)

    def shutdown(self) -> None:
        self.flush()
        self._claim_writer()
        self._say_end()
        self._push()
        Stream.shutdown(self)

    def close(self) -> None:
        if not self._broken and self._writing is None:
            self._say_end()
            self._push_once()
        Stream.close(self)

    def reset(self) -> None:
        self._broken = True
        Stream.reset(self)

    def _say_end(self) -> None:
        """close_notify. unwrap() then looks for the peer's: that it has not come is no matter."""
        with suppress(ssl.SSLError):
            self._session.unwrap()


def _reason(error: OSError) -> str:
    """One line for the log: of "[SSL: NO_SHARED_CIPHER] no shared cipher (_ssl.c:1006)" what is in the middle."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the client's certificate: {error.verify_message}"
    reason = getattr(error, "reason", None)
    return reason.lower().replace("_", " ") if reason else str(error)


class _Silence:
    """For the time of one step: a server name that is not ASCII ends the handshake inside the ssl module, which
    would print a traceback for it."""

    def __enter__(self) -> None:
        self._hook = sys.unraisablehook
        sys.unraisablehook = self._told

    def __exit__(self, *_: object) -> None:
        sys.unraisablehook = self._hook

    def _told(self, what: Any) -> None:
        if not isinstance(what.exc_value, UnicodeDecodeError):
            self._hook(what)
