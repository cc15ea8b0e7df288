"""The native twins of receiver() and sender() of server/stream.py: recv(2) and send(2) straight on the descriptor."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EINTR, errno

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int, void *, size_t, int)
    ssize_t send(int, const void *, size_t, int)
    enum: MSG_DONTWAIT, MSG_NOSIGNAL

cdef enum:
    SCRATCH = 65536

# One is enough: nothing switches greenlets between recv(2) and the copy out of it.
cdef char scratch[SCRATCH]


cdef class Receiver:
    """Called with a size: that many bytes at most, b"" at the end. Raises OSError, BlockingIOError when none are there."""

    cdef int _fd

    def __init__(self, sock):
        self._fd = sock.fileno()

    def __call__(self, Py_ssize_t size):
        cdef ssize_t count
        while True:
            count = recv(self._fd, scratch, min(size, SCRATCH), MSG_DONTWAIT)
            if count >= 0:
                return PyBytes_FromStringAndSize(scratch, count)
            if errno != EINTR:
                PyErr_SetFromErrno(OSError)
            PyErr_CheckSignals()


cdef class Sender:
    """Called with bytes: how many of them the socket took. Raises OSError, BlockingIOError when it takes none."""

    cdef int _fd

    def __init__(self, sock):
        self._fd = sock.fileno()

    def __call__(self, data):
        cdef ssize_t count
        cdef Py_buffer view
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            while True:
                count = send(self._fd, view.buf, view.len, MSG_DONTWAIT | MSG_NOSIGNAL)
                if count >= 0:
                    return count
                if errno != EINTR:
                    PyErr_SetFromErrno(OSError)
                PyErr_CheckSignals()
        finally:
            PyBuffer_Release(&view)


twins = {"receiver": lambda reference: Receiver, "sender": lambda reference: Sender}
