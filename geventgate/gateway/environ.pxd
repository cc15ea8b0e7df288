cimport cython

from geventgate.exchange cimport Exchange
from geventgate.message cimport RequestHead


cdef class Request:
    cdef public object _exchange
    cdef public RequestHead _head
    cdef public str _script_name


cdef class Disconnected:
    cdef public object _exchange
    cdef public dict _links


@cython.locals(head=RequestHead, environ=dict, script_name=str)
cpdef dict build_environ(Exchange exchange, dict template, front=*)
cpdef str path_info(bytes path, str script_name)
