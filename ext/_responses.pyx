"""The native twin of compose_response_head(): the same value for an ordinary head, and any other is the reference's."""

cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t
from libc.string cimport memcmp

from geventgate.message cimport ResponseHead

cdef extern from "Python.h":
    bint PyUnicode_IS_COMPACT_ASCII(object)
    const char *PyUnicode_DATA "(const char *)PyUnicode_DATA" (object)
    Py_ssize_t PyUnicode_GET_LENGTH(object)

cdef extern from "responses.h" nogil:
    ctypedef struct response_head:
        int code, common
        long long content_length
        size_t size
        char wire[1]
    void init_kinds()
    uint32_t hash_of(const char *, size_t)
    bint put_status(response_head *, const char *, size_t)
    bint put_field(response_head *, const char *, size_t, const char *, size_t)

cdef enum:
    KNOWN_HEADS = 256


@cython.final
cdef class Said:
    """A head, and the texts that it was composed of."""
    cdef str status
    cdef tuple fields
    cdef ResponseHead head


# As they were said last; the same texts give the same head.
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
    cdef Py_ssize_t slot = slot_of(status, fields)
    if slot < 0:
        return None
    cdef Said said = <Said>known[slot]
    if said is not None and is_said_by(said, status, fields):
        return said.head
    return composed(status, tuple(fields), slot)


cdef Py_ssize_t slot_of(str status, list fields):
    """Where the head of these texts is remembered, by its status and values; -1 when they are not plain ASCII."""
    cdef uint32_t mixed
    if not PyUnicode_IS_COMPACT_ASCII(status):
        return -1
    mixed = hash_of(PyUnicode_DATA(status), PyUnicode_GET_LENGTH(status))
    for field in fields:
        if type(field) is not tuple or len(<tuple>field) != 2:
            return -1
        name, value = (<tuple>field)[0], (<tuple>field)[1]
        if type(name) is not str or type(value) is not str:
            return -1
        if not (PyUnicode_IS_COMPACT_ASCII(name) and PyUnicode_IS_COMPACT_ASCII(value)):
            return -1
        mixed = mixed * 31 + hash_of(PyUnicode_DATA(value), PyUnicode_GET_LENGTH(value))
    return mixed % KNOWN_HEADS


cdef bint is_said_by(Said said, str status, list fields):
    """Whether *said* is of these texts."""
    cdef Py_ssize_t i
    if len(said.fields) != len(fields) or not is_same(said.status, status):
        return False
    for i in range(len(fields)):
        known_field, field = <tuple>said.fields[i], <tuple>fields[i]
        if not (is_same(known_field[0], field[0]) and is_same(known_field[1], field[1])):
            return False
    return True


cdef inline bint is_same(text, other):
    """Of ASCII texts."""
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(text)
    if text is other:
        return True
    return size == PyUnicode_GET_LENGTH(other) and memcmp(PyUnicode_DATA(text), PyUnicode_DATA(other), size) == 0


cdef ResponseHead composed(str status, tuple fields, Py_ssize_t slot):
    """None for a head that is not ordinary; remembered when it may be."""
    cdef response_head found
    cdef ResponseHead head
    cdef Said said
    if not put_status(&found, PyUnicode_DATA(status), PyUnicode_GET_LENGTH(status)):
        return None
    for name, value in fields:
        if not put_field(
            &found,
            PyUnicode_DATA(name), PyUnicode_GET_LENGTH(name), PyUnicode_DATA(value), PyUnicode_GET_LENGTH(value),
        ):
            return None
    head = ResponseHead.__new__(ResponseHead)
    head.code = found.code
    head.wire = PyBytes_FromStringAndSize(found.wire, found.size)
    head.content_length = found.content_length
    head.faults = ()
    if found.common:
        said = known[slot] = Said.__new__(Said)
        said.status, said.fields, said.head = status, fields, head
    return head
