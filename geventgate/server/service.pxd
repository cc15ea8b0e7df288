cimport cython

from geventgate.server.stream cimport Sleeper
from geventgate.server.workers cimport Turns, Workers


cdef class Connection(Sleeper):
    cpdef start(self)
    cpdef work(self)
    cpdef sweep(self, double now)
    cpdef drain(self)
    cpdef kill(self)


cdef class ConnectionTurns(Turns):
    pass


cdef class Service:
    cdef public object config, handle, head_limits, http2_engine, http2_limits, draining, on_leave
    cdef public Workers workers
    cdef public Turns turns
    cdef public double head_timeout, keep_alive
    cdef public Py_ssize_t limit_request_body
    cdef public bint drains
    cdef public tuple own_listeners
    cdef public set connections
    cdef public list _unswept
    cdef public object _again
    @cython.locals(connection=Connection, unswept=list, end=double)
    cpdef _sweep_on(self, double now)
