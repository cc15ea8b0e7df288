"""The native twin of parse_request_head(): the same value for an ordinary head, and any other is the reference's."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.tuple cimport PyTuple_GET_ITEM
from libc.string cimport memcpy

from geventgate.message cimport RequestHead, field_span

cdef extern from "heads.h" nogil:
    enum: UNUSUAL, MAX_FIELDS
    enum: HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT
    ctypedef struct request_head:
        unsigned short method_end, target, query, target_end
        int minor, count
        int governing[5]
    void init_kinds()
    int scan_request_head(const char *, size_t, int, request_head *, field_span *)

cdef extern from "texts.h":
    str known_text(const char *, Py_ssize_t)

init_kinds()


def make_parse_request_head(reference):
    """It asks *reference* about what is not ordinary."""
    default_limits = reference.__defaults__[1]

    def parse_request_head(bytes buffer not None, Py_ssize_t start=0, limits=default_limits):
        head = scan(buffer, start, limits)
        return reference(buffer, start, limits) if head is None else head

    return parse_request_head


twins = {"parse_request_head": make_parse_request_head}


cdef RequestHead scan(bytes buffer, Py_ssize_t start, limits):
    """None for a head that is not ordinary."""
    cdef request_head found
    cdef field_span fields[MAX_FIELDS]
    cdef const char *begin = PyBytes_AS_STRING(buffer) + start
    cdef Py_ssize_t line = <object>PyTuple_GET_ITEM(limits, 0)
    cdef Py_ssize_t most = <object>PyTuple_GET_ITEM(limits, 1)
    cdef Py_ssize_t whole = <object>PyTuple_GET_ITEM(limits, 2)
    cdef int size = scan_request_head(
        begin, PyBytes_GET_SIZE(buffer) - start, <int>min(most, MAX_FIELDS), &found, fields
    )
    if size == UNUSUAL or size > whole or found.target_end + 9 > line:
        return None
    cdef RequestHead head = RequestHead.__new__(RequestHead)
    head.method = known_text(begin, found.method_end)
    head.target = PyBytes_FromStringAndSize(begin + found.target, found.target_end - found.target)
    head.http_version = "1.1" if found.minor else "1.0"
    head.old = not found.minor
    head.scheme = "http"
    if found.query:
        head.path = PyBytes_FromStringAndSize(begin + found.target, found.query - 1 - found.target)
        head.query = PyBytes_FromStringAndSize(begin + found.query, found.target_end - found.query)
    else:
        head.path = head.target
        head.query = b""
    head.size = size
    head.block = buffer if start == 0 and size == PyBytes_GET_SIZE(buffer) else PyBytes_FromStringAndSize(begin, size)
    head._count = found.count
    memcpy(head._spans, fields, found.count * sizeof(field_span))
    head.authority = value(begin, fields, found.governing[HOST])
    head.connection = value(begin, fields, found.governing[CONNECTION])
    head.content_length = value(begin, fields, found.governing[CONTENT_LENGTH])
    head.transfer_encoding = value(begin, fields, found.governing[TRANSFER_ENCODING])
    head.expect = value(begin, fields, found.governing[EXPECT])
    return head


cdef inline bytes value(const char *begin, field_span *fields, int number):
    """Of the field of that number; None for number 0."""
    if number == 0:
        return None
    cdef field_span *field = &fields[number - 1]
    return PyBytes_FromStringAndSize(begin + field.value, field.value_end - field.value)
