"""A connection's bytes, in order: read-ahead, held-back output, and waiting that a sweep can end.

Knows no protocol. One greenlet may wait to read and one to write. Who serves a connection need not wait in a greenlet:
when_readable() wakes it. The server's sweep calls ``sweep()`` once a second, in the hub: deadlines cost a request
nothing, and reach a greenlet only while it is parked here.

The hub's selector tells only what is new, so before anybody waits, what has come must have been received, or the
selector asked anew: ``_drained`` says that nothing is left, ``_listens`` that it need not be asked.
"""

import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

from gevent import get_hub, getcurrent

from geventgate.errors import ApplicationError, PeerGone, PeerTimeout
from geventgate.exchange import Bytes
from geventgate.server.descriptor import Descriptor, descriptor_of
from geventgate.server.selector import Reader
from geventgate.server.switching import Ready, ready_of

RECEIVE_SIZE = 64 * 1024
BURST = 16  # receives in a row that found more; then other connections have their turn, however fast this peer is
READ_AHEAD = 64 * 1024  # while nobody reads, to see the peer go
GRACE_SECONDS = 10.0  # before a minimal rate is asked for
WRITE = 2  # an event of libev's


class Sleeper:
    """Who serves a stream, and need not wait for it in a greenlet."""

    __slots__ = ()

    def wake(self) -> None:
        """Bytes have come, or the end. Called in the hub."""
        raise NotImplementedError


class Stream(Reader):
    """Bytes received and not yet taken are ``inbox[start:]``. *sock* is a plain non-blocking socket, and now ours."""

    __slots__ = (
        "_sock", "_descriptor", "_hub", "_ready", "_held", "_broken", "_drained", "_burst",
        "inbox", "start", "ended", "deadline", "received", "sent",
        "_sleeper", "_on_gone", "_writing", "_writer",
        "_read_ticks", "_write_ticks", "_stall_ticks", "_swept",
    )  # fmt: skip

    def __init__(self, sock: Any) -> None:
        Reader.__init__(self)
        self._sock = sock
        self._descriptor: Descriptor = descriptor_of(sock)
        self._hub = get_hub()
        self._ready: Ready = ready_of(self._hub)
        self._held: list[bytes] = []
        self._broken = False  # a write was cut in its middle
        self._drained = False  # the kernel has nothing for us: wait before the next recv
        self._burst = 0
        self.inbox = b""
        self.start = 0
        self.ended = False  # the peer has ended its side
        self.deadline = 0.0  # for the peer's next bytes, by the server's clock; 0 is never
        self.received = 0  # bytes, since pace()
        self.sent = 0
        # Where no greenlet waits to read:
        self._sleeper: Sleeper | None = None  # who is woken, else ...
        self._on_gone: Callable[[], None] | None = None  # ... for whom the peer is watched
        self._writing: Any = None
        self._writer: Any = None  # a watcher, made at first use
        # Seconds the sweep has found a greenlet waiting.
        self._read_ticks = self._write_ticks = self._stall_ticks = self._swept = 0

    def fileno(self) -> int:
        return int(self._sock.fileno())

    # --- reading

    def receive(self) -> bool:
        """Wait until the inbox has grown; False when the peer has ended its side. Flushes first.

        Raises PeerGone, PeerTimeout.
        """
        if self._held:
            self.flush()
        if self.ended:
            return False
        while self._drained or not self.poll():
            self._park_reader()
            self._drained = False
        return not self.ended

    def poll(self) -> bool:
        """Receive what has come, if it has, or the end. Never blocks. Raises PeerGone."""
        if self._drained or self.ended:
            return self.ended
        try:
            data = self._receive(RECEIVE_SIZE)
        except OSError as error:
            raise self._lost(error) from None
        return self._put(data)

    def _put(self, data: bytes | None) -> bool:
        """*data* is what _receive() gave. Whether it is news."""
        if data is None:
            self._drained = True
            return False
        self._note(len(data))
        if data:
            self.append(data)
        return True

    def receive_into(self, buffer: memoryview) -> int:
        """As receive(), into *buffer*, which has room, while the inbox is empty; how many bytes, 0 at the end."""
        if self._held:
            self.flush()
        while not self.ended:
            if self._drained:
                self._park_reader()
                self._drained = False
            try:
                count = self._descriptor.recv_into(buffer)
            except OSError as error:
                raise self._lost(error) from None
            if count >= 0:
                self._note(count)
                return count
            self._drained = True
        return 0

    def _note(self, count: int) -> None:
        """*count* bytes have come, 0 at the end."""
        self.received += count
        if not count:
            self.ended = True
        elif self._descriptor.drained:
            self._drained = not self._ending
            self._burst = 0
            if self._on_gone is not None:
                self._watch()
        else:
            self._burst += 1
            if self._burst % BURST == 0:
                self.rest()

    def _receive(self, size: int) -> bytes | None:
        """As Descriptor's recv(). Raises OSError."""
        return self._descriptor.recv(size)

    def rest(self) -> None:
        """Before more is received others have their turn."""
        if not self._drained:
            self._drained = True
            self._listens = False

    def when_readable(self, sleeper: Sleeper) -> None:
        """Wake *sleeper*, once, when bytes or the end have come. No greenlet may be waiting."""
        self._sleeper = sleeper
        self._listen()

    def _listen(self) -> None:
        """Have readable() called when there is more than has been received."""
        if not self._listens or not self._drained:
            self._ready.selector.listen(self, self._sock.fileno())

    def readable(self) -> None:
        self._drained = False
        if self.reading is not None:
            self._ready.add(self)
        elif self._sleeper is not None:
            sleeper, self._sleeper = self._sleeper, None
            sleeper.wake()
        elif self._on_gone is not None:
            self._read_ahead()

    def append(self, data: bytes) -> None:
        """Put *data* behind what the inbox holds."""
        self.inbox = self.inbox[self.start :] + data if self.inbox else data
        self.start = 0

    def take(self, count: int) -> None:
        """Drop *count* bytes from the front of the inbox."""
        self.start += count
        if self.start == len(self.inbox):
            self.inbox = b""
            self.start = 0
            if self._on_gone is not None:
                self._watch()  # there is room again

    def pending(self) -> int:
        """Bytes in the inbox."""
        return len(self.inbox) - self.start

    def unread(self) -> bool:
        """Whether bytes have come that nobody took. Never blocks."""
        if self.inbox:
            return True
        try:
            return self._descriptor.peek()
        except OSError:
            return False

    def _park_reader(self) -> None:
        if self.reading is not None:
            raise ApplicationError("another greenlet is reading from this connection")
        self._listen()
        self._ready.wait(self)

    # --- writing

    def write(self, data: bytes) -> None:
        """Hold *data* back for flush()."""
        self._held.append(data)

    def flush(self) -> None:
        """Send everything held back; block while the peer is slow. Raises PeerGone, PeerTimeout."""
        held = self._held
        if held:
            self._held = []
            self.sendv(held)

    def sendv(self, buffers: Sequence[Bytes]) -> None:
        """Send *buffers* now, large ones uncopied; block while the peer is slow. Raises PeerGone, PeerTimeout."""
        self._claim_writer()
        try:
            sent = self._descriptor.sendv(buffers)
        except OSError as error:
            raise self._lost(error) from None
        self.sent += sent
        if not self._descriptor.whole:
            self._send_rest(buffers, sent)

    def _send_rest(self, buffers: Sequence[Bytes], sent: int) -> None:
        """Send what is behind *sent* bytes of *buffers*."""
        views = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
        while True:
            while views and sent >= len(views[0]):
                sent -= len(views.pop(0))
            if not views:
                return
            if sent:
                views[0] = views[0][sent:]
            self._park_writer()
            try:
                sent = self._descriptor.sendv(views)
            except OSError as error:
                raise self._lost(error) from None
            self.sent += sent

    def sendfile(self, fd: int, offset: int, count: int) -> int:
        """Send *count* bytes of the file *fd* by sendfile(2); fewer only when the file ends or fails. Flushes first.

        Raises OSError when the file cannot be sent so (nothing is lost then), PeerGone, PeerTimeout.
        """
        self.flush()
        self._claim_writer()
        begin = offset
        end = offset + count
        while offset < end:
            try:
                sent = os.sendfile(self._sock.fileno(), fd, offset, min(end - offset, 1 << 30))
            except BlockingIOError:
                self._park_writer()
                continue
            except ConnectionError as error:
                raise self._lost(error) from None
            except OSError:
                if offset == begin:
                    raise
                break
            if sent == 0:
                break
            offset += sent
            self.sent += sent
        return offset - begin

    def _claim_writer(self) -> None:
        if self._broken:
            raise PeerGone("a write was cut short before")
        if self._writing is not None:
            raise ApplicationError("another greenlet is writing to this connection")

    def _park_writer(self) -> None:
        """Wait until the socket takes more. Whatever is thrown in here cuts a message in its middle."""
        watcher = self._writer
        if watcher is None:
            watcher = self._writer = self._hub.loop.io(self._sock.fileno(), WRITE)
        self._writing = getcurrent()
        watcher.start(self._writing.switch)
        try:
            self._hub.switch()
        except BaseException:
            self._broken = True
            raise
        finally:
            watcher.stop()
            self._writing = None

    # --- the peer is gone, or slow

    def _lost(self, error: OSError) -> PeerGone:
        self._broken = True
        if self._on_gone is not None:
            self._on_gone()
        return PeerGone(error.strerror or str(error))

    def watch(self, on_gone: Callable[[], None]) -> None:
        """Call *on_gone* once the peer has reset the connection or a write has failed. Reads ahead while nobody
        reads, at most READ_AHEAD; a mere end of the peer's side (FIN) is not going away."""
        self._on_gone = on_gone
        if self._broken:
            on_gone()
        else:
            self._watch()

    def _watch(self) -> None:
        if not self.ended and not self._broken:
            self._listen()

    def unwatch(self) -> None:
        self._on_gone = None

    def _read_ahead(self) -> None:
        """Called in the hub: never blocks."""
        room = READ_AHEAD - self.pending()
        if self.ended or room <= 0:
            return
        try:
            data = self._receive(room)
        except OSError as error:
            self._lost(error)
            return
        self._put(data)
        self._watch()

    def pace(self) -> None:
        """A new message begins: what it must keep up is counted from here."""
        self.received = self.sent = self._swept = 0
        self._read_ticks = self._write_ticks = self._stall_ticks = 0

    def sweep(self, now: float, content: bool, min_rate: int, stall: float) -> None:
        """Once a second, in the hub: end the waits of a peer that is too slow.

        *content*: whether what is read must keep *min_rate* bytes a second, after a grace; what is written always
        must, and must move within *stall* seconds. Only seconds spent waiting count.
        """
        if self._writing is not None:
            self._write_ticks += 1
            self._stall_ticks = self._stall_ticks + 1 if self.sent == self._swept else 0
            self._swept = self.sent
            slow = min_rate and self._write_ticks > GRACE_SECONDS + self.sent / min_rate
            if slow or self._stall_ticks >= stall:
                self._writing.throw(PeerTimeout("the peer takes our bytes too slowly"))
        if self.reading is not None:
            if 0 < self.deadline <= now:
                self.reading.throw(PeerTimeout())
            elif content:
                self._read_ticks += 1
                if min_rate and self._read_ticks > GRACE_SECONDS + self.received / min_rate:
                    self.reading.throw(PeerTimeout("the content comes too slowly"))

    # --- the end

    def shutdown(self) -> None:
        """End our side. What was held back goes first."""
        self.flush()
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise self._lost(error) from None

    def linger(self) -> None:
        """End our side and read the peer's away until it ends too, or ``deadline``: closing on unread bytes would
        reset the connection and may destroy our last ones (RFC 9112 §9.6)."""
        self.shutdown()
        self.inbox = b""
        self.start = 0
        while self.receive():
            self.take(len(self.inbox))

    def close(self) -> None:
        """Close. Idempotent; what is held back is lost, and who waits here for the peer is told it has gone."""
        self._let_go(closes=True)
        self._sock.close()

    def reset(self) -> None:
        """Close so that the peer sees an error and not an end (RST)."""
        if self._sock.fileno() >= 0:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def detach(self) -> int:
        """Let go of the file descriptor, which is the caller's now. Flush, and take the inbox, first."""
        return int(self.give_up().detach())

    def give_up(self) -> Any:
        """Let go of the socket, which is the caller's now, as detach()."""
        self._let_go(closes=False)
        return self._sock

    def _let_go(self, closes: bool) -> None:
        self.unwatch()
        self._held = []
        self._broken = self.ended = True
        for greenlet in (self.reading, self._writing):
            if greenlet is not None and greenlet is not getcurrent():
                self._hub.loop.run_callback(self._tell_closed, greenlet)
        if self._writer is not None:
            self._writer.stop()
            self._writer.close()
        self._ready.selector.forget(self, self._sock.fileno(), closes)
        self._writer = self._sleeper = None

    def _tell_closed(self, greenlet: Any) -> None:
        """Called in the hub: by then the greenlet may have been woken otherwise, and wait for something else."""
        if greenlet is self.reading or greenlet is self._writing:
            greenlet.throw(PeerGone("the connection was closed"))
