cdef class Service:
    cdef public object config, handle, head_limits, http2_engine, http2_limits, draining, workers, on_leave
    cdef public tuple own_listeners
    cdef public set connections
