"""The native twin of protocol/websocket.py's FrameCodec."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcpy

cdef extern from "frames.h" nogil:
    enum: REFUSED, INCOMPLETE, CONTINUATION, CLOSE, MAX_HEAD
    ctypedef struct frame_head:
        int opcode, fin, compressed
        unsigned long long size
        unsigned char key[4]
    int scan_frame_head(const unsigned char *, size_t, int, int, unsigned long long, frame_head *)
    void unmask(unsigned char *, const unsigned char *, size_t, const unsigned char *)
    int put_frame_head(unsigned char *, int, unsigned long long, int, int)


cdef class Codec:
    """As FrameCodec; *reference* makes one, and is asked why a head is refused."""

    def __init__(self, reference, Py_ssize_t room, bint deflate):
        self._reference = reference
        self._room = room
        self._deflate = deflate
        self._data = b""

    cpdef allow(self, Py_ssize_t room):
        self._room = room

    cpdef feed(self, bytes data):
        if self._place == PyBytes_GET_SIZE(self._data) and self._later is None:
            self._data = data
            self._place = 0
        elif self._later is None:
            self._later = [data]
        else:
            self._later.append(data)

    cpdef bytes frame(self):
        cdef frame_head head
        cdef int size
        if self._later is not None:  # joined here, that many small pieces may cost no more than their bytes
            self._data = b"".join([self._data[self._place :], *self._later])
            self._place = 0
            self._later = None
        cdef unsigned char *begin = <unsigned char *>PyBytes_AS_STRING(self._data) + self._place
        cdef Py_ssize_t there = PyBytes_GET_SIZE(self._data) - self._place
        if not self._within:
            size = scan_frame_head(begin, there, self._deflate, self.compressed, self._room, &head)
            if size <= INCOMPLETE:
                if size == REFUSED:
                    self._refuse(begin[: min(there, MAX_HEAD)])
                return None
            self.compressed = head.compressed
            if head.opcode >= CLOSE and there - size < <Py_ssize_t>head.size:
                return None
            self._within = True
            self._next = head.opcode
            self.fin = head.fin != 0
            self._left = head.size
            memcpy(self._key, head.key, 4)
            self._place += size
            begin += size
            there -= size
        if there == 0 and self._left:
            return None
        return self._piece(begin, <Py_ssize_t>min(self._left, <unsigned long long>there))

    cdef bytes _piece(self, const unsigned char *begin, Py_ssize_t count):
        """The next *count* bytes of the frame, unmasked."""
        cdef bytes payload = PyBytes_FromStringAndSize(NULL, count)
        cdef unsigned char key[4]
        cdef int i
        unmask(<unsigned char *>PyBytes_AS_STRING(payload), begin, count, self._key)
        self._left -= count
        self._place += count
        self.opcode = self._next
        self.complete = self._left == 0
        if self.complete:
            self._within = False
        else:
            self._next = CONTINUATION
            memcpy(key, self._key, 4)
            for i in range(4):
                self._key[i] = key[(count + i) & 3]
        if self._place == PyBytes_GET_SIZE(self._data):
            self._data = b""
            self._place = 0
        return payload

    cpdef tuple encode(self, int opcode, payload, bint fin=True, bint rsv1=False):
        cdef unsigned char head[MAX_HEAD]
        cdef Py_ssize_t size = PyBytes_GET_SIZE(payload) if type(payload) is bytes else len(payload)
        return PyBytes_FromStringAndSize(<char *>head, put_frame_head(head, opcode, size, fin, rsv1)), payload

    cdef _refuse(self, bytes head):
        """Raise what the reference raises."""
        reference = self._reference(self._room, self._deflate, self.compressed)
        reference.feed(head)
        reference.frame()
        raise AssertionError(f"refused a head that is none the worse: {head.hex()}")


def make_frame_codec(reference):
    factory = reference.__globals__["FrameCodec"]

    def frame_codec(room, deflate):
        return Codec(factory, room, deflate)

    return frame_codec


twins = {"frame_codec": make_frame_codec}
