cimport cython

from geventgate.server.selector cimport Reader


cdef class Ready:
    cdef public object _hub, selector
    cdef public list _readers
    cdef public bint _due
    cpdef add(self, Reader reader)
    cpdef wait(self, Reader reader)
    @cython.locals(reader=Reader)
    cdef _next(self)


cpdef Ready ready_of(hub)
