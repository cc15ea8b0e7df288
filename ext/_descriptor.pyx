"""The native twins of descriptor_of() and accept() of server/descriptor.py: their system calls by C."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from cpython.sequence cimport PySequence_Fast_GET_ITEM, PySequence_Fast_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.string cimport memcpy, memset

from geventgate.server.descriptor cimport Descriptor, size_of

import _socket

from gevent.monkey import get_original
from gevent.socket import socket

PLAIN = (_socket.socket, get_original("socket", "socket"), socket)

cdef extern from "<sys/uio.h>" nogil:
    struct iovec:
        void *iov_base
        size_t iov_len

cdef extern from "<sys/socket.h>" nogil:
    struct msghdr:
        iovec *msg_iov
        size_t msg_iovlen
    ssize_t recv(int, void *, size_t, int)
    ssize_t send(int, const void *, size_t, int)
    ssize_t sendmsg(int, const msghdr *, int)
    enum: MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK
    struct sockaddr:
        unsigned short sa_family
    struct sockaddr_storage:
        unsigned short ss_family
    int accept4(int, sockaddr *, unsigned *, int)
    enum: AF_INET, AF_INET6, SOCK_NONBLOCK, SOCK_CLOEXEC

cdef extern from "<netinet/in.h>" nogil:
    struct sockaddr_in:
        unsigned short sin_port
        char sin_addr
    struct sockaddr_in6:
        unsigned short sin6_port
        unsigned sin6_flowinfo, sin6_scope_id
        char sin6_addr
    unsigned short ntohs(unsigned short)
    unsigned ntohl(unsigned)

cdef extern from "<arpa/inet.h>" nogil:
    const char *inet_ntop(int, const void *, char *, unsigned)
    enum: INET6_ADDRSTRLEN

cdef enum:
    SCRATCH = 65536
    JOIN_SIZE = 16384
    MOST_BUFFERS = 64

# One is enough: nothing switches greenlets between the copy into it and the system call, or that and the copy out of it.
cdef char scratch[SCRATCH]


cdef class NativeDescriptor(Descriptor):
    cdef int _fd

    def __init__(self, sock):
        self._fd = sock.fileno()

    cpdef bytes recv(self, Py_ssize_t size):
        cdef ssize_t count
        size = min(size, SCRATCH)
        while True:
            count = recv(self._fd, scratch, size, MSG_DONTWAIT)
            if count >= 0:
                self.drained = count < size
                return PyBytes_FromStringAndSize(scratch, count)
            if not judge():
                self.drained = True
                return None

    cpdef bint peek(self) except -1:
        cdef char byte
        cdef ssize_t count
        while True:
            count = recv(self._fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK)
            if count >= 0:
                return count > 0
            if not judge():
                return False

    cpdef Py_ssize_t recv_into(self, buffer) except -2:
        cdef Py_buffer view
        cdef ssize_t count
        PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE)
        try:
            while True:
                count = recv(self._fd, view.buf, view.len, MSG_DONTWAIT)
                if count >= 0:
                    self.drained = count < view.len
                    return count
                if not judge():
                    self.drained = True
                    return -1
        finally:
            PyBuffer_Release(&view)

    cpdef Py_ssize_t sendv(self, buffers) except -1:
        cdef Py_ssize_t size = joined(buffers) if type(buffers) is tuple or type(buffers) is list else -1
        cdef Py_ssize_t sent
        if size >= 0:
            sent = transmit(self._fd, scratch, size)
            self.whole = sent == size
        else:
            sent = scatter(self._fd, buffers)
            self.whole = sent == size_of(buffers)
        return sent


cdef Py_ssize_t transmit(int fd, const char *data, Py_ssize_t size) except -1:
    cdef ssize_t count
    while True:
        count = send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL)
        if count >= 0:
            return count
        if not judge():
            return 0


cdef Py_ssize_t scatter(int fd, buffers) except -1:
    cdef Py_buffer views[MOST_BUFFERS]
    cdef iovec parts[MOST_BUFFERS]
    cdef msghdr message
    cdef ssize_t count
    cdef int held = 0, i
    try:
        for buffer in buffers:
            if held == MOST_BUFFERS:
                break
            PyObject_GetBuffer(buffer, &views[held], PyBUF_SIMPLE)
            parts[held].iov_base = views[held].buf
            parts[held].iov_len = views[held].len
            held += 1
        memset(&message, 0, sizeof(message))
        message.msg_iov = parts
        message.msg_iovlen = held
        while True:
            count = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
            if count >= 0:
                return count
            if not judge():
                return 0
    finally:
        for i in range(held):
            PyBuffer_Release(&views[i])


cdef Py_ssize_t joined(buffers) except -2:
    """The size of all of them, now in ``scratch``; -1 where they are not small, or not all bytes."""
    cdef Py_ssize_t size = 0, length
    cdef Py_ssize_t i
    for i in range(PySequence_Fast_GET_SIZE(buffers)):
        buffer = <object>PySequence_Fast_GET_ITEM(buffers, i)
        if type(buffer) is not bytes:
            return -1
        length = PyBytes_GET_SIZE(buffer)
        if size + length > JOIN_SIZE:
            return -1
        memcpy(scratch + size, PyBytes_AS_STRING(buffer), length)
        size += length
    return size


cdef bint judge() except -1:
    """Of a failed call: whether to try again; False where one has to wait."""
    if errno == EAGAIN:
        return False
    if errno != EINTR:
        PyErr_SetFromErrno(OSError)
    PyErr_CheckSignals()
    return True


def make_accept(reference):
    """Sockets of other families are *reference*'s."""

    def accept(listener):
        cdef sockaddr_storage address
        cdef unsigned size = sizeof(address)
        cdef int fd = listener.fileno(), connection
        family = listener.family
        if family not in (AF_INET, AF_INET6):
            return reference(listener)
        while True:
            connection = accept4(fd, <sockaddr *>&address, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
            if connection >= 0:
                break
            if not judge():
                return None
        return _socket.socket(family, _socket.SOCK_STREAM | SOCK_NONBLOCK, 0, connection), spelt(&address)

    return accept


cdef tuple spelt(sockaddr_storage *address):
    """As Python spells it."""
    cdef char host[INET6_ADDRSTRLEN]
    cdef sockaddr_in *four = <sockaddr_in *>address
    cdef sockaddr_in6 *six = <sockaddr_in6 *>address
    if address.ss_family == AF_INET:
        inet_ntop(AF_INET, &four.sin_addr, host, INET6_ADDRSTRLEN)
        return (<bytes>host).decode("ascii"), ntohs(four.sin_port)
    inet_ntop(AF_INET6, &six.sin6_addr, host, INET6_ADDRSTRLEN)
    return (<bytes>host).decode("ascii"), ntohs(six.sin6_port), ntohl(six.sin6_flowinfo), six.sin6_scope_id


def make_descriptor_of(reference):
    """What is not exactly a socket, as one that encrypts, is *reference*'s."""
    return lambda sock: NativeDescriptor(sock) if type(sock) in PLAIN else reference(sock)


twins = {"accept": make_accept, "descriptor_of": make_descriptor_of}
