cimport cython


cdef class Descriptor:
    cdef public object _sock
    cdef public bint drained, whole
    @cython.locals(data=bytes)
    cpdef bytes recv(self, Py_ssize_t size)
    cpdef bint peek(self) except -1
    @cython.locals(count=Py_ssize_t)
    cpdef Py_ssize_t recv_into(self, buffer) except -2
    @cython.locals(size=Py_ssize_t, sent=Py_ssize_t)
    cpdef Py_ssize_t sendv(self, buffers) except -1


@cython.locals(size=Py_ssize_t)
cpdef Py_ssize_t size_of(buffers) except -1
