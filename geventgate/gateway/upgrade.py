"""What follows HTTP, as applications know it: a socket. Opens none, and knows no server.

The bytes are a Tunnel's, whatever carries it. Old code that asks for a file descriptor, or will not wait, gets one end
of a socketpair instead, and the tunnel is pumped through it from then on: one rule for TCP, TLS and HTTP/2.
"""

import errno
import io
from collections.abc import Callable, Sequence
from contextlib import suppress
from socket import SHUT_RD, SHUT_RDWR, SHUT_WR, SocketIO
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

import gevent
from gevent import get_hub, getcurrent, socket
from gevent.lock import Semaphore

from geventgate.errors import ApplicationError, PeerGone
from geventgate.exchange import Address, Bytes, Tunnel

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

RECEIVE_SIZE = 64 * 1024


class Woken(BaseException):
    """Thrown into a recv() that would wait for something it must wait for no longer."""


class TunnelSocket:
    """A tunnel, used as a blocking socket is; bytes that came behind the request are received first.

    One greenlet receives at a time. Any may send: what one call sends stays together. Errors are OSErrors, timeouts
    TimeoutError. A recv() that timed out lost nothing; behind a send() that did, nothing can be sent any more.
    """

    def __init__(self, tunnel: Tunnel, peer: Address, local: Address) -> None:
        # Set once.
        self._tunnel = tunnel
        self._peer = peer
        self._local = local
        # The first fileno() or settimeout(0) makes it.
        self._pump: Pump | None = None
        # Of the receiving greenlet.
        self._receiver: Any = None
        self._read_shut = False
        # Of the sending ones.
        self._sending = Semaphore()  # held while the tunnel is written to
        self._write_shut = False
        # Of whoever holds it.
        self._timeout: float | None = None
        self._files = 0  # of makefile(), which keep it open
        self._closed = False

    def __repr__(self) -> str:
        return f"<TunnelSocket {'closed' if self._closed else 'open'}, peer {self._peer[0] or 'unix'}>"

    # --- receiving

    def recv(self, size: int, flags: int = 0) -> bytes:
        """1 to *size* bytes, b"" when the peer has ended its side."""
        if size < 0:
            raise ValueError("negative size in recv")
        self._check_open()
        pump = self._pumped() if flags else self._pump
        if pump is None:
            data = self._receive(size)
            if data is not None:
                return data
            pump = self._pumped()  # it took over while we waited
        return bytes(self._within(pump.recv, size, flags))

    def recv_into(self, buffer: "WriteableBuffer", nbytes: int = 0, flags: int = 0) -> int:
        """recv() into *buffer*, or its first *nbytes*; returns how many they were."""
        view = memoryview(buffer).cast("B")
        data = self.recv(nbytes or len(view), flags)
        view[: len(data)] = data
        return len(data)

    def _receive(self, size: int) -> bytes | None:
        """From the tunnel itself; None when the pump has begun to read from it."""
        if self._read_shut or not size:
            return b""
        if self._receiver is not None:
            raise ApplicationError("another greenlet is receiving from this tunnel")
        self._receiver = getcurrent()
        try:
            return bytes(self._within(self._tunnel.recv, size))
        except Woken:
            return b"" if self._read_shut else None
        finally:
            self._receiver = None

    def _wake(self) -> None:
        """Have a recv() look again at what it waits for."""
        if self._receiver is not None:
            get_hub().loop.run_callback(self._throw, self._receiver)

    def _throw(self, receiver: Any) -> None:
        """Called in the hub: by then the greenlet may have been woken otherwise, and wait for something else."""
        if receiver is self._receiver:
            receiver.throw(Woken)

    def pending(self) -> int:
        """Bytes that recv() has without waiting, and that no fileno() knows of."""
        self._check_open()
        return self._tunnel.pending() if self._pump is None else 0

    # --- sending

    def send(self, data: Bytes) -> int:
        """sendall(), and returns len(data): old code forgets to look. Without waiting (settimeout(0)) what fits."""
        if self._timeout == 0.0:
            self._check_open()
            return self._pumped().send(data)
        self.sendall(data)
        return memoryview(data).nbytes

    def sendall(self, data: Bytes) -> None:
        """Send all of *data*; block while the peer is slow."""
        self.sendv((data,))

    def sendv(self, buffers: Sequence[Bytes]) -> None:
        """Send all of *buffers*, without joining large ones."""
        self._check_open()
        self._within(self._send, buffers)

    def _send(self, buffers: Sequence[Bytes]) -> None:
        with self._sending:
            if self._write_shut:
                raise BrokenPipeError(errno.EPIPE, "this side was shut down")
            if self._pump is None:
                self._tunnel.sendv(buffers)
                return
        self._pump.sendv(buffers)

    # --- the end

    def shutdown(self, how: int) -> None:
        """As socket.shutdown(). SHUT_WR ends our side, behind what is being sent; SHUT_RD has recv() return b"",
        one that waits too."""
        if how not in (SHUT_RD, SHUT_WR, SHUT_RDWR):
            raise OSError(errno.EINVAL, "shutdown() wants SHUT_RD, SHUT_WR or SHUT_RDWR")
        self._check_open()
        if self._pump is not None:
            self._pump.shutdown(how)
            return
        if how != SHUT_WR:
            self._read_shut = True
            self._wake()
        if how != SHUT_RD and not self._write_shut:
            with self._sending:
                self._write_shut = True
                self._tunnel.shutdown()

    def close(self) -> None:
        """Close both sides, once the files of makefile() are closed too. What the peer is still sending is read away
        for a few seconds at most, so that it receives our last bytes. Idempotent."""
        self._closed = True
        if not self._files:
            self._close()

    def _close(self) -> None:
        if self._pump is not None:
            self._pump.close()
        self._tunnel.close()

    def finish(self, error: BaseException | None = None) -> None:
        """The application has returned, or raised *error*: then the peer sees the tunnel cut. Called by the gateway."""
        self._closed = True
        pump = self._pump
        if error is not None:
            if pump is not None:
                pump.abort()
            self._tunnel.abort()
            return
        if pump is not None:
            with suppress(OSError):
                pump.outer.shutdown(SHUT_RDWR)  # whoever has inherited the descriptor has it no longer
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def closed(self) -> bool:
        return self._closed

    def _check_open(self) -> None:
        if self._closed and not self._files:
            raise OSError(errno.EBADF, "the tunnel was closed")

    # --- waiting

    def settimeout(self, timeout: float | None) -> None:
        """Seconds that each call may wait before TimeoutError; None is for ever, 0 not at all (BlockingIOError)."""
        if timeout is not None and timeout < 0:
            raise ValueError("Timeout value out of range")
        self._timeout = timeout
        if timeout == 0 or self._pump is not None:
            self._pumped().outer.setblocking(timeout != 0)

    def gettimeout(self) -> float | None:
        return self._timeout

    def setblocking(self, blocking: bool) -> None:
        self.settimeout(None if blocking else 0.0)

    def getblocking(self) -> bool:
        return self._timeout != 0

    def _within(self, call: Callable[..., Any], *arguments: Any) -> Any:
        if not self._timeout:  # None; or 0, when the socket of the pump does not wait
            return call(*arguments)
        with gevent.Timeout(self._timeout, TimeoutError("timed out")):
            return call(*arguments)

    # --- as sockets and files

    def fileno(self) -> int:
        """A descriptor for select() and its kin, or -1 when closed. It is one end of a socketpair, and so is this
        object from now on: reading and writing there and here can be mixed."""
        if self._closed and not self._files:
            return -1
        return int(self._pumped().outer.fileno())

    def _pumped(self) -> "Pump":
        if self._pump is None:
            self._pump = Pump(self._tunnel, self._sending)
            self._wake()
            if self._read_shut:
                self._pump.shutdown(SHUT_RD)
            if self._write_shut:
                self._pump.shutdown(SHUT_WR)
        return self._pump

    def makefile(
        self,
        mode: str = "r",
        buffering: int | None = None,
        *,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
    ) -> IO[Any]:
        """As socket.makefile(): modes of r, w and b."""
        if set(mode) - set("rwb"):
            raise ValueError(f"invalid mode {mode!r} (only r, w, b allowed)")
        self._check_open()
        writing = "w" in mode
        reading = "r" in mode or not writing
        raw: Any = SocketIO(self, "rw" if reading and writing else "r" if reading else "w")  # type: ignore[arg-type]
        self._files += 1
        size = io.DEFAULT_BUFFER_SIZE if buffering is None or buffering < 0 else buffering
        if size == 0:
            if "b" not in mode:
                raise ValueError("unbuffered streams must be binary")
            return raw  # type: ignore[no-any-return]
        buffered: Any
        if reading and writing:
            buffered = io.BufferedRWPair(raw, raw, size)
        else:
            buffered = io.BufferedReader(raw, size) if reading else io.BufferedWriter(raw, size)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding, errors, newline)

    def _decref_socketios(self) -> None:
        """SocketIO says that it was closed."""
        self._files -= 1
        if self._closed and not self._files:
            self._close()

    def dup(self) -> Self:
        """Itself: there is one tunnel."""
        return self

    def getpeername(self) -> Any:
        """(host, port), or "" on a unix socket."""
        return _address(self._peer)

    def getsockname(self) -> Any:
        return _address(self._local)


class Pump:
    """A tunnel behind a socketpair: two greenlets carry its bytes to and from ``outer``. *sending* is held while the
    tunnel is written to."""

    def __init__(self, tunnel: Tunnel, sending: Semaphore) -> None:
        self.outer, self._inner = socket.socketpair()
        self._tunnel = tunnel
        self._tunnel_turn = sending
        self._turn = Semaphore()  # of the application's greenlets
        self._read_shut = False
        self._failure: OSError | None = None
        self._inward = gevent.spawn(self._carry_in)
        self._outward = gevent.spawn(self._carry_out)

    def recv(self, size: int, flags: int) -> bytes:
        try:
            data: bytes = self.outer.recv(size, flags)
        except OSError:
            if self._read_shut:  # gevent wakes who waits by an error
                return b""
            raise
        if not data and size and self._failure is not None:
            raise PeerGone(str(self._failure)) from self._failure
        return data

    def send(self, data: Bytes) -> int:
        """What fits, or as much as blocks not."""
        try:
            return int(self.outer.send(data))
        except BrokenPipeError as error:
            raise self._lost(error) from None

    def sendv(self, buffers: Sequence[Bytes]) -> None:
        try:
            with self._turn:
                for buffer in buffers:
                    self.outer.sendall(buffer)
        except BrokenPipeError as error:
            raise self._lost(error) from None

    def shutdown(self, how: int) -> None:
        if how != SHUT_WR:
            self._read_shut = True
            self.outer.shutdown(SHUT_RD)
        if how != SHUT_RD:
            with self._turn:
                self.outer.shutdown(SHUT_WR)

    def _lost(self, error: BrokenPipeError) -> OSError:
        return error if self._failure is None else PeerGone(str(self._failure))

    def _carry_in(self) -> None:
        while True:
            try:
                data = self._tunnel.recv(RECEIVE_SIZE)
            except OSError as error:
                self._fail(error)
                return
            try:
                if not data:
                    self._inner.shutdown(SHUT_WR)
                    return
                self._inner.sendall(data)
            except OSError:
                return  # the application receives no more

    def _carry_out(self) -> None:
        data = b"-"
        while data:
            try:
                data = self._inner.recv(RECEIVE_SIZE)
            except OSError:
                data = b""  # closed with bytes unread, which is a reset between the ends of a pair
            try:
                with self._tunnel_turn:
                    if data:
                        self._tunnel.sendall(data)
                    else:
                        self._tunnel.shutdown()
            except OSError as error:
                self._fail(error)
                return

    def _fail(self, error: OSError) -> None:
        """The tunnel broke: whoever uses our end is to know."""
        self._failure = self._failure or error
        with suppress(OSError):
            self._inner.shutdown(SHUT_RDWR)

    def close(self) -> None:
        """Deliver what was sent, then stop. Waits for who has inherited ``outer`` too."""
        self.outer.close()
        self._outward.join()
        self._inward.kill()
        self._inner.close()

    def abort(self) -> None:
        self._inward.kill(block=False)
        self._outward.kill(block=False)
        self.outer.close()
        self._inner.close()


def _address(address: Address) -> Any:
    host, port = address
    return (host, int(port)) if port else ""
