cimport cython


cdef class Reader:
    cdef public object reading
    cdef public bint _ending, _listens
    cpdef readable(self)


cdef class Selector:
    cdef public object _epoll, _hub, _watcher
    cdef public list _readers
    cdef public Py_ssize_t _count
    @cython.locals(readers=list)
    cpdef listen(self, Reader reader, Py_ssize_t fd)
    cpdef forget(self, Reader reader, Py_ssize_t fd, bint closes)
