cimport cython

from geventgate.message cimport RequestHead


cdef class Exchange:
    cdef public RequestHead request
    cdef public tuple peer
    cdef public tuple local
    cdef public object tls
    cdef public bint has_content
    cdef public int status
    cdef public Py_ssize_t sent
    cpdef bytes read(self, Py_ssize_t size)
    @cython.locals(data=bytes)
    cpdef Py_ssize_t readinto(self, buffer) except -1
    cpdef take_whole(self)
    cpdef send_head(self, status, fields)
    cpdef send(self, data)
    cpdef finish(self, data=*, trailers=*)


cdef class Tunnel:
    cpdef bytes recv(self, Py_ssize_t size)
    cpdef sendv(self, buffers)
