cdef class Descriptor:
    cdef public object _sock
    cpdef bytes recv(self, Py_ssize_t size)
    cpdef Py_ssize_t sendv(self, buffers) except -1


cpdef Py_ssize_t size_of(buffers) except -1
