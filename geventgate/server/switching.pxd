cimport cython


cdef class Reader:
    cdef public object _reading


cdef class Ready:
    cdef public object _hub
    cdef public list _readers
    cdef public bint _due
    cpdef add(self, Reader reader)
    cpdef wait(self, Reader reader)
    @cython.locals(reader=Reader)
    cdef _next(self)


cpdef Ready ready_of(hub)
