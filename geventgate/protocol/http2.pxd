cimport cython

from geventgate.message cimport RequestHead


@cython.final
cdef class Request:
    cdef public object stream_id
    cdef public RequestHead head
    cdef public bint ended


@cython.final
cdef class Data:
    cdef public object stream_id
    cdef public bytes data
    cdef public bint ended


cdef class Section:
    cdef public object lines
    cdef public tuple fields
    cdef public Py_ssize_t size
    cdef public bytes host, length, expect
    cdef public dict memo


cdef class Memory:
    cdef public Section section


@cython.locals(
    at=Py_ssize_t, size=Py_ssize_t, name=bytes, value=bytes, method=bytes, scheme=bytes, authority=bytes, path=bytes,
    protocol=bytes, target=bytes, query=bytes, host=bytes, length=bytes, section=Section,
)
cpdef RequestHead check_request(headers, bint ended, Memory memory=*)
@cython.locals(size=Py_ssize_t, name=bytes, value=bytes, length=bytes, cookies=list, fields=list, unknown=list)
cpdef Section _check_section(lines)


cdef class Budget:
    cdef public double _burst, _rate, _tokens, _stamp
    cpdef bint spend(self, double now) except -1
    cpdef earn(self, double count=*)
