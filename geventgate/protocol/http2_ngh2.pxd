cimport cython

from geventgate.message cimport RequestHead
from geventgate.protocol.conduct cimport Conduct
from geventgate.protocol.http2 cimport Budget, Data, Memory, Request, check_request


cdef class Engine:
    cdef public Py_ssize_t _accepted, _low_water, _peer_streams
    cdef public bint _aligned, _closed, _given_up, _leaving, _peer_takes_pushes, _started
    cdef public dict _busy, _released, _streams
    cdef public Conduct _conduct
    cdef public object _connection, _limits, _peer_code
    cdef public list _events
    cdef public bytes _last_words
    cdef public tuple _late
    cdef public Memory _memory
    cdef public Budget _resets
    @cython.locals(conduct=Conduct)
    cpdef receive(self, bytes data, double now)
    cpdef list events(self)
    cpdef bytes pull(self, Py_ssize_t limit, double now)
    @cython.locals(octets=bytes)
    cpdef bytes _pull(self, Py_ssize_t limit, double now)
    cpdef _account(self)
    cpdef respond(self, stream_id, status, fields, bytes content)
    @cython.locals(events=list, streams=dict, head=RequestHead, memory=Memory, ended=bint)
    cpdef _take(self, list natives, double now)
    cpdef _take_data(self, stream_id, bytes data, bint ended)
    cpdef _end_request(self, stream_id, stream)
    cpdef consume(self, stream_id, Py_ssize_t count)
    cpdef bint _spend_reset(self, double now) except -1
