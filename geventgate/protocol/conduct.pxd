cimport cython

from geventgate.protocol.http2 cimport Budget

cdef Py_ssize_t FRAME_HEAD, LAST_STREAM, MAX_PADDING
cdef int CONTINUATION, DATA, END_STREAM, HEADERS, PADDED, PRIORITY, PRIORITY_SIZE, PRIORITY_UPDATE, RST_STREAM, SETTINGS


cdef class Conduct:
    cdef public Py_ssize_t opened, highest, earned, inside, _left, _continuations, _forgotten
    cdef public object _limits, _gaps
    cdef public Budget _control, _resets
    cdef public bytes _head
    cdef public set _unended
    @cython.locals(
        held=Py_ssize_t, size=Py_ssize_t, at=Py_ssize_t, inside=Py_ssize_t, start=Py_ssize_t, stream_id=Py_ssize_t,
        word=Py_ssize_t, length=Py_ssize_t, flags=int, kind=int,
    )
    cpdef inspect(self, bytes data, double now)
    cpdef tuple _judge_stream(self, Py_ssize_t stream_id, int flags)
    cpdef tuple _judge_control(
        self, int kind, Py_ssize_t stream_id, Py_ssize_t length, bytes data, Py_ssize_t start, double now
    )
    cpdef tuple _spend(self, double now)
    cpdef _forget(self)
