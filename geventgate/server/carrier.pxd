cimport cython

from geventgate.exchange cimport Exchange
from geventgate.message cimport RequestHead, ResponseHead
from geventgate.protocol.http1 cimport check_final
from geventgate.server.service cimport Service


cdef list listeners


cdef class CarriedExchange(Exchange):
    cdef public object _said
    cdef public ResponseHead _head
    cdef public object _framing
    cdef public Py_ssize_t _left
    cdef public object _closed
    cpdef begin(self, RequestHead request, tuple peer, tuple local, tls, bint has_content)
    @cython.locals(head=ResponseHead)
    cpdef send_head(self, status, fields)
    cpdef bytes _measure(self, bytes data)
    cpdef bint _falls_short(self) except -1
    cpdef bint complete(self) except -1
    cpdef leave(self)


cpdef bint answer(CarriedExchange exchange, handle, Service service) except -1
cpdef bint _answer(CarriedExchange exchange, handle) except -1
cpdef bint _answer_and_tell(CarriedExchange exchange, handle, Service service) except -1
cpdef bint _answer_failure(CarriedExchange exchange, error) except -1
