cimport cython

from geventgate.message cimport RequestHead, ResponseHead
from geventgate.protocol.http1 cimport check_final, expects_continue, request_content, response_content
from geventgate.protocol.http2 cimport Data, Request
from geventgate.server.carrier cimport CarriedExchange, answer
from geventgate.server.clock cimport Clock
from geventgate.server.service cimport Connection, Service
from geventgate.server.stream cimport Stream
from geventgate.server.workers cimport Turns

cdef Clock CLOCK


cdef class Unread:
    cdef public Py_ssize_t octets
    cdef public bint refused, wide
    cdef public double until


cdef class Http2Connection(Connection):
    cdef public bint _ended, _heard, _parted, _pinged
    cdef public int _quiet
    cdef public dict _lingering, _slow, _unread, exchanges
    cdef public tuple _local, _peer
    cdef public object _reader, _tls, _writer, engine
    cdef public Service _service
    cdef public Turns _turns
    cdef public Py_ssize_t _spare, _taken
    cdef public Stream _stream
    @cython.locals(stream=Stream, data=bytes)
    cpdef bint _serve(self) except -1
    @cython.locals(exchanges=dict, exchange=Http2Exchange)
    cpdef _deliver(self, list events)
    cpdef _open(self, Request event)
    @cython.locals(exchange=Http2Exchange)
    cpdef add(self, stream_id, RequestHead head, bint ended, tuple peer)
    @cython.locals(service=Service)
    cpdef serve_exchange(self, Http2Exchange exchange)
    cpdef refusal(self, RequestHead head)
    cpdef wake_writer(self)
    @cython.locals(stream=Stream, out=bytes, events=list)
    cpdef _write(self)
    cpdef _leave_if_done(self)


cdef class ExchangeTurns(Turns):
    cdef public Http2Connection _connection


cdef class Http2Exchange(CarriedExchange):
    cdef public Http2Connection _connection
    cdef public bint _continue_due, _ended, _stalled, _wide
    cdef public object _engine, _pieces, _reader, _tunnel, _writer, stream_id, worker
    cdef public Py_ssize_t _read_ticks, _received, _unread
    cdef public tuple _trailers, lost
    cpdef carry(self, Http2Connection connection, stream_id, bint ended)
    @cython.locals(data=bytes)
    cpdef hear(self, event)
    cpdef _wake(self, waiter)
    cpdef _check_lost(self)
    cpdef bytes read(self, Py_ssize_t size)
    cpdef take_whole(self)
    cpdef bytes receive(self, Py_ssize_t size)
    cpdef send(self, data)
    cpdef finish(self, data=*, trailers=*)
    @cython.locals(head=ResponseHead, request=RequestHead, stated=Py_ssize_t, fields=list)
    cpdef list _begin(self, Py_ssize_t length)
    cpdef _queue_head(self, list fields, bint last)
    cpdef queue(self, data, bint ended=*)
    cpdef _queue_piece(self, bytes data, bint ended, bint hasty)
    cpdef bint complete(self) except -1
    cpdef leave(self)
