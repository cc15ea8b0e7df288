"""The native twin of run_in_copied_context() of server/carrier.py."""

cdef extern from "Python.h":
    object PyContext_CopyCurrent()
    int PyContext_Enter(object) except -1
    int PyContext_Exit(object) except -1


def run_in_copied_context(handle, exchange):
    context = PyContext_CopyCurrent()
    PyContext_Enter(context)
    try:
        handle(exchange)
    finally:
        PyContext_Exit(context)


twins = {"run_in_copied_context": lambda reference: run_in_copied_context}
