cimport cython

from geventgate.server.descriptor cimport Descriptor
from geventgate.server.selector cimport Reader
from geventgate.server.switching cimport Ready, ready_of


cdef class Sleeper:
    cpdef wake(self)


cdef class Stream(Reader):
    cdef public Ready _ready
    cdef public object _sock, _hub
    cdef public Descriptor _descriptor
    cdef public list _held
    cdef public bint _broken, _drained
    cdef public int _burst
    cdef public bytes inbox
    cdef public Py_ssize_t start
    cdef public bint ended
    cdef public double deadline
    cdef public Py_ssize_t received, sent
    cdef public object _writing, _writer, _on_gone
    cdef public Sleeper _sleeper
    cdef public Py_ssize_t _read_ticks, _write_ticks, _stall_ticks, _swept
    cpdef bint receive(self) except -1
    @cython.locals(data=bytes)
    cpdef bint poll(self) except -1
    @cython.locals(count=Py_ssize_t)
    cpdef Py_ssize_t receive_into(self, buffer) except -1
    cpdef bint _put(self, bytes data) except -1
    cpdef _note(self, Py_ssize_t count)
    cpdef bytes _receive(self, Py_ssize_t size)
    cpdef rest(self)
    cpdef when_readable(self, Sleeper sleeper)
    cpdef _listen(self)
    @cython.locals(sleeper=Sleeper)
    cpdef readable(self)
    cpdef _watch(self)
    @cython.locals(data=bytes, room=Py_ssize_t)
    cpdef _read_ahead(self)
    cpdef append(self, bytes data)
    cpdef take(self, Py_ssize_t count)
    cpdef Py_ssize_t pending(self) except -1
    cpdef bint unread(self) except -1
    cpdef _park_reader(self)
    cpdef write(self, data)
    @cython.locals(held=list)
    cpdef flush(self)
    @cython.locals(sent=Py_ssize_t)
    cpdef sendv(self, buffers)
    cpdef _claim_writer(self)
    cpdef _park_writer(self)
    cpdef pace(self)
