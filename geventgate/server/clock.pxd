cdef class Clock:
    cdef public double now
    cdef public bytes date
    cdef public tuple date_field
    cdef public bytes server_and_date
