cimport cython

from geventgate.exchange cimport Exchange
from geventgate.message cimport RequestHead
from geventgate.gateway.environ cimport build_environ


cdef class WsgiResponse:
    cdef public Exchange _exchange
    cdef public object _fields, _raw, _socket, _status, _trailers, _websocket, input
    cdef public bint _hijacked, _started
    cpdef begin(self, Exchange exchange, websocket)
    cpdef start_response(self, status, fields, exc_info=*)
    cpdef _send_head(self, fields=*)
    cpdef send_result(self, result)
    cpdef _send_blocks(self, blocks)
    cpdef bint end(self, error=*) except -1
    cpdef bint _has_left_http(self) except -1
    cpdef _finish(self, data)


cdef class WsgiGateway:
    cdef public object _application, _at_stop, _draining, _errors, _forwarding, _stopping, _websockets, at_start
    cdef public double _drained, _graceful_timeout
    cdef public str _root_path, _socket_key, _software
    cdef public bint _early_hints, _multiprocess
    cdef public dict _templates, _lasting
    @cython.locals(response=WsgiResponse, environ=dict)
    cpdef handle(self, Exchange exchange)


@cython.locals(request=RequestHead)
cpdef _offer(dict environ, WsgiResponse response, Exchange exchange, bint early_hints)
