"""The native twin of switch_to() of server/switching.py."""

from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_Import

import greenlet

ctypedef object (*switch_function)(object greenlet, PyObject *args, PyObject *kwargs)

cdef enum:
    SWITCH = 6  # PyGreenlet_Switch_NUM of greenlet.h: gevent is built on that order too

cdef switch_function switch = (<switch_function *>PyCapsule_Import("greenlet._C_API", 0))[SWITCH]


def switch_to(greenlet not None):
    switch(greenlet, NULL, NULL)


twins = {"switch_to": lambda reference: switch_to}
