cimport cython

from geventgate.protocol._frames cimport Codec

cdef int CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG, NO_MESSAGE


@cython.final
cdef class WebSocketProtocol:
    cdef public object state, close_code, fault
    cdef public str close_reason
    cdef public list owed
    cdef public bint compresses
    cdef public Codec _codec
    cdef public Py_ssize_t _max_size, _size, _fragments
    cdef public int _opcode, _sending
    cdef public object _held, _utf8, _inflater, _deflater
    cdef public bint _inflating, _ends, _deflating
    cpdef feed(self, bytes data)
    cpdef next_message(self, Py_ssize_t most=*)
    cpdef Py_ssize_t held(self) except -1
    cdef _advance(self)
    cdef bint _data(self, int opcode, bytes payload, bint complete, bint ends) except -1
    cdef _hold(self, bytes data, bint ends)
    cdef _take(self, bint ends)
    cdef _forget(self)
    cdef _control(self, int opcode, bytes payload)
    @cython.locals(opcode=int)
    cpdef tuple message(self, message, compress=*, pause=*)
    cpdef check_open(self)


cdef tuple _opcode_and_payload(message)
cdef _text(payload)
