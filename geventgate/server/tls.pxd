cimport cython

from geventgate.server.descriptor cimport Descriptor, size_of
from geventgate.server.stream cimport Stream


cdef class Deciphering:
    cdef public object _ciphertext, _session
    cdef public Descriptor _descriptor
    cdef public bint ended
    @cython.locals(data=bytes, plaintext=bytes)
    cpdef bytes recv(self, Py_ssize_t size)
    @cython.locals(pieces=list)
    cpdef bytes take(self)


cdef class TlsStream(Stream):
    cdef public object _ciphertext, _received, _session
    cdef public Deciphering _deciphering
    cpdef bint poll(self) except -1
    cpdef bytes _receive(self, Py_ssize_t size)
    cpdef _park_reader(self)
    cpdef sendv(self, buffers)
    cpdef _push(self)
