"""The native twins of what is done with every request: parse_request_head() for an ordinary head, any other being the
reference's, and add_fields() from the spans that it has left."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_SetItem, PyDict_Size
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_GET_ITEM
from cpython.unicode cimport PyUnicode_DecodeLatin1
from libc.string cimport memcmp

from geventgate.message cimport RequestHead

cdef extern from "spans.h":
    ctypedef struct field_span:
        unsigned short name, name_end, value, value_end, known

cdef extern from "Python.h":
    PyObject *PyDict_SetDefault(dict, object, object) except NULL  # borrowed

cdef extern from "names.h" nogil:
    enum: HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT
    enum: DROPPED, SECRET, BARE
    ctypedef struct known_name:
        int use
    known_name known_names[1]
    int use_of(const char *, size_t)

cdef extern from "heads.h" nogil:
    enum: UNUSUAL, MAX_FIELDS
    ctypedef struct request_head:
        unsigned short method_end, target, query, target_end
        int minor, count
        int governing[5]
    void init_kinds()
    int scan_request_head(const char *, size_t, int, request_head *, field_span *)

cdef extern from "texts.h":
    str known_text(const char *, Py_ssize_t)
    str known_key(int)
    str new_key(const char *, Py_ssize_t, int)

init_kinds()


def make_parse_request_head(reference):
    """It asks *reference* about what is not ordinary."""
    default_limits = reference.__defaults__[1]

    def parse_request_head(bytes buffer not None, Py_ssize_t start=0, limits=default_limits):
        head = scan(buffer, start, limits)
        return reference(buffer, start, limits) if head is None else head

    return parse_request_head


def make_add_fields(reference):
    """It leaves heads that no native parser saw to *reference*."""

    def add_fields(dict environ not None, RequestHead head not None):
        if head._fields is None:
            add_spans(environ, head)
        else:
            reference(environ, head)

    return add_fields


twins = {
    "parse_request_head": make_parse_request_head,
    "add_fields": make_add_fields,
}


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
    if found.method_end == 3 and memcmp(begin, "GET", 3) == 0:
        head.method = "GET"  # the very one that others compare with
    else:
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
    head._spans = PyBytes_FromStringAndSize(<const char *>fields, found.count * sizeof(field_span))
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


cdef int add_spans(dict environ, RequestHead head) except -1:
    cdef const char *block = PyBytes_AS_STRING(head.block)
    cdef const char *name
    cdef field_span *fields = <field_span *>PyBytes_AS_STRING(head._spans)
    cdef field_span *field
    cdef Py_ssize_t size, before
    cdef int i, use
    for i in range(PyBytes_GET_SIZE(head._spans) // <Py_ssize_t>sizeof(field_span)):
        field = &fields[i]
        name = block + field.name
        size = field.name_end - field.name
        use = known_names[field.known - 1].use if field.known else use_of(name, size)
        if use & DROPPED:
            continue
        key = known_key(field.known - 1) if field.known else new_key(name, size, use & BARE)
        if use & SECRET:  # not kept in memory for the next request that says the same
            text = PyUnicode_DecodeLatin1(block + field.value, field.value_end - field.value, NULL)
        else:
            text = known_text(block + field.value, field.value_end - field.value)
        before = PyDict_Size(environ)
        there = <object>PyDict_SetDefault(environ, key, text)
        if PyDict_Size(environ) == before:
            PyDict_SetItem(environ, key, f"{there}{'; ' if key == 'HTTP_COOKIE' else ','}{text}")
    return 0
