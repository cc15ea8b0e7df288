cimport cython


@cython.final
cdef class Codec:
    cdef public int opcode
    cdef public bint complete, fin, compressed
    cdef bytes _data
    cdef list _later
    cdef Py_ssize_t _place
    cdef unsigned long long _left
    cdef Py_ssize_t _room
    cdef unsigned char[4] _key
    cdef int _next
    cdef bint _deflate, _within
    cdef object _reference
    cpdef allow(self, Py_ssize_t room)
    cpdef feed(self, bytes data)
    cpdef bytes frame(self)
    cpdef tuple encode(self, int opcode, payload, bint fin=*, bint rsv1=*)
    cdef bytes _piece(self, const unsigned char *begin, Py_ssize_t count)
    cdef _refuse(self, bytes head)
