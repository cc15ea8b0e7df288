"""accept(2), recv(2) and send(2): a leaf, and the seam of its native twins (ext/_descriptor.pyx)."""

import _socket
from collections.abc import Sequence
from socket import MSG_PEEK, SOCK_STREAM
from typing import Any

from geventgate import native
from geventgate.exchange import Bytes

JOIN_SIZE = 16 * 1024  # more than that is not copied together but sent as it lies
MOST_BUFFERS = 64  # in one call; Linux takes 1024


class Descriptor:
    """Of a connected, non-blocking socket. What fails raises OSError; having to wait does not."""

    __slots__ = ("_sock", "drained", "whole")

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self.drained = False  # recv() or recv_into() took all there was
        self.whole = True  # the last sendv() sent all it was given

    def recv(self, size: int) -> bytes | None:
        """1 to *size* bytes, b"" at the end; None: nothing has come."""
        try:
            data: bytes = self._sock.recv(size)
        except BlockingIOError:
            self.drained = True
            return None
        self.drained = len(data) < size
        return data

    def peek(self) -> bool:
        """Whether bytes have come."""
        try:
            return bool(self._sock.recv(1, MSG_PEEK))
        except BlockingIOError:
            return False

    def recv_into(self, buffer: memoryview) -> int:
        """As recv(), into *buffer*; how many bytes, 0 at the end; -1: nothing has come."""
        try:
            count: int = self._sock.recv_into(buffer)
        except BlockingIOError:
            self.drained = True
            return -1
        self.drained = count < len(buffer)
        return count

    def sendv(self, buffers: Sequence[Bytes]) -> int:
        """Send of *buffers* what one call can; how many bytes that was, 0 where the socket takes none. Small ones are
        joined, large ones not copied."""
        size = size_of(buffers)
        try:
            if len(buffers) == 1:
                sent: int = self._sock.send(buffers[0])
            elif size <= JOIN_SIZE:
                sent = self._sock.send(b"".join(buffers))
            else:
                sent = self._sock.sendmsg(buffers[:MOST_BUFFERS])
        except BlockingIOError:
            sent = 0
        self.whole = sent == size
        return sent


def size_of(buffers: Sequence[Bytes]) -> int:
    """In bytes."""
    size = 0
    for buffer in buffers:
        size += len(buffer) if type(buffer) is bytes else memoryview(buffer).nbytes
    return size


def accept(listener: Any) -> tuple[Any, Any] | None:
    """A connection of the listening socket *listener*: a plain non-blocking socket, and its address. None: there is
    none for now. Raises OSError."""
    try:
        fd, address = listener._accept()
    except BlockingIOError:
        return None
    sock = _socket.socket(listener.family, SOCK_STREAM, 0, fileno=fd)
    sock.setblocking(False)
    return sock, address


def descriptor_of(sock: Any) -> Descriptor:
    """The Descriptor of *sock*."""
    return Descriptor(sock)


accept = native.twin(accept, "geventgate.server._descriptor")
descriptor_of = native.twin(descriptor_of, "geventgate.server._descriptor")
