cimport cython

from geventgate.exchange cimport Tunnel
from geventgate.protocol.websocket cimport WebSocketProtocol



cdef Py_ssize_t RECEIVE_SIZE


@cython.final
cdef class Lock:
    cdef bint _flag
    cdef object _semaphore
    cpdef bint held(self) except -1
    cpdef bint acquire(self, timeout=*) except -1
    cpdef release(self)


@cython.final
cdef class Waiting:
    cdef tuple buffers
    cdef bint sent


cdef class WebSocket:
    cdef public dict environ
    cdef public str subprotocol
    cdef public bint refused
    cdef public object handshake, _exchange, _host
    cdef public WebSocketProtocol _protocol
    cdef public Tunnel _tunnel
    # Of reading.
    cdef public Lock _turn
    cdef public object _queue, _ping
    cdef public int _receivers, _turns, _away
    cdef public bint _reading, _ends, _pumping
    cdef public double _quiet, _turned
    # Of writing.
    cdef public Lock _frames, _fragments
    cdef public list _waiting
    cdef public object _fragmenting
    cdef object __weakref__
    cdef Tunnel _opened(self)
    cdef _receive(self, timeout, bint pieces)
    @cython.locals(tunnel=Tunnel, protocol=WebSocketProtocol, data=bytes)
    cdef _next(self, until=*, bint pieces=*, Py_ssize_t most=*)
    cdef _piece(self)
    cdef bytes _recv_until(self, until)
    cdef bytes _cut(self)
    cdef _end_turn(self)
    cpdef bint _has_enough(self) except -1
    cdef _begin_message(self)
    @cython.locals(waiting=Waiting)
    cdef _send_with_others(self, tuple frames)
    @cython.locals(protocol=WebSocketProtocol)
    cdef _settle(self)
    @cython.locals(protocol=WebSocketProtocol, tunnel=Tunnel)
    cdef _write(self, tuple frames)
    @cython.locals(protocol=WebSocketProtocol, message=Waiting)
    cdef _write_together(self, Tunnel tunnel, tuple frames)


cdef _left(until)
