cimport cython

@cython.final
cdef class RequestHead:
    cdef public str method
    cdef public bytes target
    cdef public str http_version
    cdef public str scheme
    cdef public bytes authority
    cdef public bytes path
    cdef public bytes query
    cdef public str protocol
    cdef public tuple _fields
    cdef public Py_ssize_t size
    cdef public bytes connection
    cdef public bytes content_length
    cdef public bytes transfer_encoding
    cdef public bytes expect
    cdef public bytes upgrade
    cdef public Py_ssize_t lines
    cdef public dict memo
    cdef public bytes block
    cdef public bint connects, multiplexed, old
    cdef bytes _spans  # the native parser's notes for add_fields(), of the fields in ``block``
    cpdef forget_fields(self)
    cpdef get(self, bytes name)


@cython.final
cdef class ResponseHead:
    cdef public int code
    cdef public bytes wire
    cdef public Py_ssize_t content_length
    cdef public bint dated, named, closing
    cdef public bytes priority
    cdef public tuple faults
    cdef public list _fields
    cdef public bytes _stamp, _stamped
    cpdef bytes stamped(self, bytes stamp)
