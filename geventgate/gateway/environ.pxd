cimport cython

from geventgate.exchange cimport Exchange
from geventgate.message cimport RequestHead


cdef char PERCENT, SLASH


cdef class Request:
    cdef public Exchange _exchange
    cdef public RequestHead _head
    cdef public str _script_name
    cpdef begin(self, Exchange exchange, str script_name)


cdef class Disconnected:
    cdef public Exchange _exchange
    cdef public dict _links
    cpdef begin(self, Exchange exchange)


@cython.locals(head=RequestHead, environ=dict, script_name=str, request=Request, disconnected=Disconnected, memo=dict)
cpdef dict build_environ(Exchange exchange, dict template, front=*)
@cython.locals(text=str)
cpdef str path_info(bytes path, str script_name)
