"""What is native here: modules that are compiled, and functions that have a native twin. A leaf; setup.py reads it.

A native twin takes the place of the Python function of the same name at the end of the module that defines it. That
function is the reference: what its twin is held to, what a twin asks about all that is not ordinary, and what runs
where nothing was compiled.

What is compiled lies beside its ``.py``, and Python prefers it. All of it is used or nothing, since compiled modules
rely on one another's insides: where one is missing, and with ``GEVENTGATE_PURE=1``, everything is Python.
"""

import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, FileFinder, ModuleSpec, SourceFileLoader
from typing import Any, TypeVar

# Compiled from their own .py, with the .pxd beside it.
POLICY = (
    "message", "exchange", "protocol.http1", "protocol.http2", "protocol.conduct", "protocol.http2_ngh2",
    "protocol.websocket", "server.clock", "server.workers", "server.service", "server.descriptor", "server.selector",
    "server.switching", "server.stream", "server.carrier", "server.http1", "server.http2", "server.tls",
    "gateway.environ", "gateway.websocket", "gateway.wsgi",
)  # fmt: skip
TWINS = (  # from ext/
    "protocol._frames", "protocol._requests", "protocol._responses", "server._descriptor", "server._context",
    "server._selector", "server._switching",
)  # fmt: skip
VARIABLE = "GEVENTGATE_PURE"
NOTE = "uncompiled.txt"  # why nothing was compiled, if that was not by choice

Function = TypeVar("Function", bound=Callable[..., Any])

_folder = os.path.dirname(os.path.abspath(__file__))
_there = [
    any(os.path.exists(os.path.join(_folder, *name.split(".")) + suffix) for suffix in EXTENSION_SUFFIXES)
    for name in POLICY + TWINS
]
COMPILED = all(_there) and os.environ.get(VARIABLE, "0") in ("", "0")

references: dict[str, Callable[..., Any]] = {}  # of functions that have a twin, by name


class PythonOnly:
    """Finds the ``.py`` though something compiled lies beside it."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        if not name.startswith("geventgate."):
            return None
        found = (FileFinder(folder, (SourceFileLoader, SOURCE_SUFFIXES)).find_spec(name) for folder in path or ())
        return next(filter(None, found), None)


if any(_there) and not COMPILED:
    sys.meta_path.insert(0, PythonOnly)


def twin(reference: Function, module: str) -> Function:
    """The twin of *reference* that *module* makes, or *reference* where that was not compiled."""
    if not COMPILED:
        return reference
    references[reference.__name__] = reference
    made: Function = import_module(module).twins[reference.__name__](reference)
    return made


def regret() -> str:
    """What to tell the user, in a line, where compiling failed when this was installed; else ""."""
    try:
        with open(os.path.join(_folder, NOTE), encoding="utf-8") as note:
            return (
                f"pure Python: slower, nothing else changes; compiling it failed when it was installed: {note.read()}"
            )
    except OSError:
        return ""
