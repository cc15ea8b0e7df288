cimport cython

from geventgate.message cimport RequestHead, ResponseHead



cdef class Content:
    cdef public bint ended, plain
    cdef public Py_ssize_t remaining
    cdef public tuple trailers
    cpdef tuple decode(self, bytes buffer, Py_ssize_t start, Py_ssize_t size)
    cpdef note(self, Py_ssize_t count)


cdef class ChunkedContent(Content):
    cdef public object _expect
    cdef public Py_ssize_t _extensions, _limit, _total, _trailer_size


cpdef bint persists(RequestHead head) except -1
cpdef bint expects_continue(RequestHead head) except -1
cpdef Content request_content(RequestHead head, Py_ssize_t limit=*)
cpdef response_content(RequestHead request, int code, Py_ssize_t stated, bint persistent)
@cython.locals(wires=list, faults=tuple, content_length=Py_ssize_t, dated=bint, named=bint, closing=bint, common=bint)
cpdef tuple _compose_response_head(status, fields)
cpdef check_final(ResponseHead head, RequestHead request)
