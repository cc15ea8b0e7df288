cdef class Turns:
    cdef public list _batch, _coming
    cdef public Workers _workers
    cdef public bint _due, _rest
    cpdef add(self, item)
    cpdef serve(self, item)
    cpdef _work(self)


cdef class Workers:
    cdef public list _idle
    cdef public object _run_callback
    cpdef run(self, job)
