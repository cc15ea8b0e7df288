"""The native twin of add_fields(): the fields of a request under their keys."""

from cpython.bytes cimport PyBytes_AS_STRING
from cpython.dict cimport PyDict_SetItem, PyDict_Size
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_DecodeLatin1
from libc.string cimport memchr

from geventgate.message cimport RequestHead, field_span

cdef extern from "Python.h":
    PyObject *PyDict_SetDefault(dict, object, object) except NULL  # borrowed
    dict _PyDict_NewPresized(Py_ssize_t)

cdef extern from "heads.h" nogil:
    bint same_name(const char *, const char *, size_t)

cdef extern from "texts.h":
    str known_text(const char *, Py_ssize_t)
    str known_key(const char *, Py_ssize_t, int)

cdef enum:
    ROOM = 32  # fields of a request, and keys that depend on it


def make_add_fields(reference):
    """It leaves heads that no native parser saw to *reference*."""

    def add_fields(dict environ not None, RequestHead head not None):
        if head._fields is None:
            add_spans(environ, head)
        else:
            reference(environ, head)

    return add_fields


def with_room(dict template not None):
    roomy = _PyDict_NewPresized(len(template) + ROOM)
    for key, value in template.items():
        roomy[key] = value
    return roomy


twins = {"add_fields": make_add_fields, "with_room": lambda reference: with_room}


cdef int add_spans(dict environ, RequestHead head) except -1:
    cdef const char *block = PyBytes_AS_STRING(head.block)
    cdef const char *name
    cdef field_span *field
    cdef Py_ssize_t size, before
    cdef int i
    for i in range(head._count):
        field = &head._spans[i]
        name = block + field.name
        size = field.name_end - field.name
        if memchr(name, 95, size) != NULL or (size == 5 and same_name(name, b"proxy", 5)):
            continue  # "_" (ambiguous with "-"), httpoxy
        bare = (size == 12 and same_name(name, b"content-type", 12)) or (
            size == 14 and same_name(name, b"content-length", 14)
        )
        key = known_key(name, size, bare)
        if is_secret(name, size):
            text = PyUnicode_DecodeLatin1(block + field.value, field.value_end - field.value, NULL)
        else:
            text = known_text(block + field.value, field.value_end - field.value)
        before = PyDict_Size(environ)
        there = <object>PyDict_SetDefault(environ, key, text)
        if PyDict_Size(environ) == before:
            PyDict_SetItem(environ, key, f"{there}{'; ' if key == 'HTTP_COOKIE' else ','}{text}")
    return 0


cdef inline bint is_secret(const char *name, Py_ssize_t size):
    """Not kept in memory for the next request that says the same."""
    return (size == 6 and same_name(name, b"cookie", 6)) or (size == 13 and same_name(name, b"authorization", 13))
