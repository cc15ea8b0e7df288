cimport cython

from geventgate.exchange cimport Tunnel
from geventgate.message cimport RequestHead, ResponseHead
from geventgate.protocol.http1 cimport Content, expects_continue, persists, request_content, response_content
from geventgate.server.carrier cimport CarriedExchange, answer
from geventgate.server.clock cimport Clock
from geventgate.server.service cimport Connection, Service
from geventgate.server.stream cimport Stream

cdef Clock CLOCK
cdef object CHUNKED, FINISHED, HEAD_HELD, HEAD_SENT, KNOWN_LENGTH, NOTHING, UNTIL_CLOSE


cdef class Http1Connection(Connection):
    cdef public Http1Exchange _exchange
    cdef public bint _hijacked, _idles, _served
    cdef public tuple _local, _peer
    cdef public Service _service
    cdef public object _tls, _worker
    cdef public Stream _stream
    @cython.locals(stream=Stream, turns=int, head=RequestHead)
    cpdef bint serve(self) except -1
    @cython.locals(stream=Stream, head=RequestHead)
    cpdef RequestHead _read_head(self)
    @cython.locals(exchange=Http1Exchange, service=Service, content=Content, continue_due=bint)
    cpdef bint _serve_exchange(self, RequestHead head) except -1
    @cython.locals(stream=Stream, service=Service)
    cpdef _rest(self)


cdef class Http1Exchange(CarriedExchange):
    cdef public Content _content
    cdef public Service _service
    cdef public object _tunnel
    cdef public bint _continue_due, _cut, _persistent, hijacked
    cdef public Stream _stream
    cpdef carry(self, Stream stream, Content content, bint continue_due, Service service)
    @cython.locals(stream=Stream, content=Content)
    cpdef bytes read(self, Py_ssize_t size)
    @cython.locals(content=Content, stream=Stream, count=Py_ssize_t)
    cpdef Py_ssize_t readinto(self, buffer) except -1
    @cython.locals(content=Content, stream=Stream, size=Py_ssize_t)
    cpdef take_whole(self)
    cpdef send(self, data)
    cpdef finish(self, data=*, trailers=*)
    @cython.locals(head=bytes)
    cpdef _send_whole(self, bytes data)
    cpdef _send_last(self, data, trailers)
    cpdef _write_head(self)
    @cython.locals(head=ResponseHead, request=RequestHead, stated=Py_ssize_t, added=bytes, stamp=bytes)
    cpdef bytes _take_head(self, Py_ssize_t length)
    cpdef bint _too_much_unread(self) except -1
    cpdef _write_content(self, data)
    cpdef bint complete(self) except -1
    cpdef bint _drain(self) except -1
    cpdef leave(self)


cdef class Http1Tunnel(Tunnel):
    cdef public Stream _stream
    @cython.locals(stream=Stream, data=bytes)
    cpdef bytes recv(self, Py_ssize_t size)
    cpdef sendv(self, buffers)
