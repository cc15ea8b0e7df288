"""The native twin of compose_response_head(): the same value for an ordinary head, and any other is the reference's."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp

from geventgate.message cimport ResponseHead

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object)
    void *PyUnicode_DATA(object)
    Py_ssize_t PyUnicode_GET_LENGTH(object)

cdef extern from "responses.h" nogil:
    ctypedef struct response_head:
        int code, common
        long long content_length
        size_t size
        char wire[1]
    void init_kinds()
    bint put_status(response_head *, const char *, size_t)
    bint put_field(response_head *, const char *, size_t, const char *, size_t)
    unsigned wire_hash(const response_head *)

cdef enum:
    KNOWN_HEADS = 256

# As they were composed last; the same bytes give the same head.
cdef list known = [None] * KNOWN_HEADS

init_kinds()


def make_compose_response_head(reference):
    """It asks *reference* about what is not ordinary."""

    def compose_response_head(status, fields):
        head = None
        if type(status) is str and type(fields) is list:
            head = compose(<str>status, <list>fields)
        return reference(status, fields) if head is None else head

    return compose_response_head


twins = {"compose_response_head": make_compose_response_head}


cdef ResponseHead compose(str status, list fields):
    """None for a head that is not ordinary."""
    cdef response_head found
    cdef tuple pair
    if not PyUnicode_IS_COMPACT_ASCII(status):
        return None
    if not put_status(&found, <const char *>PyUnicode_DATA(status), PyUnicode_GET_LENGTH(status)):
        return None
    for field in fields:
        if type(field) is not tuple:
            return None
        pair = <tuple>field
        if len(pair) != 2 or type(pair[0]) is not str or type(pair[1]) is not str:
            return None
        name, value = pair[0], pair[1]
        if not (PyUnicode_IS_COMPACT_ASCII(name) and PyUnicode_IS_COMPACT_ASCII(value)):
            return None
        if not put_field(
            &found,
            <const char *>PyUnicode_DATA(name), PyUnicode_GET_LENGTH(name),
            <const char *>PyUnicode_DATA(value), PyUnicode_GET_LENGTH(value),
        ):
            return None
    return remembered(&found) if found.common else made(&found)


cdef ResponseHead remembered(response_head *found):
    cdef Py_ssize_t slot = wire_hash(found) % KNOWN_HEADS
    cdef ResponseHead head = <ResponseHead>known[slot]
    if head is not None and <size_t>PyBytes_GET_SIZE(head.wire) == found.size:
        if memcmp(PyBytes_AS_STRING(head.wire), found.wire, found.size) == 0:
            return head
    head = known[slot] = made(found)
    return head


cdef ResponseHead made(response_head *found):
    cdef ResponseHead head = ResponseHead.__new__(ResponseHead)
    head.code = found.code
    head.wire = PyBytes_FromStringAndSize(found.wire, found.size)
    head.content_length = found.content_length
    head.faults = ()
    return head
