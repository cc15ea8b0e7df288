from geventgate.server.workers cimport Turns, Workers


cdef class Service:
    cdef public object config, handle, head_limits, http2_engine, http2_limits, draining, on_leave
    cdef public Workers workers
    cdef public Turns turns
    cdef public tuple own_listeners
    cdef public set connections
