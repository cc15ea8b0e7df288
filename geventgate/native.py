"""Which functions are native here. A leaf.

A native twin takes the place of the Python function of the same name at the end of the module that defines it. That
function is the reference: what its twin is held to, what a twin asks about all that is not ordinary, and what runs
where nothing was compiled.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])

COMPILED = find_spec("geventgate.protocol._heads") is not None

references: dict[str, Callable[..., Any]] = {}  # of functions that have a twin, by name


def twin(reference: Function, module: str) -> Function:
    """The twin of *reference* that *module* makes, or *reference* where that was not compiled."""
    if not COMPILED:
        return reference
    references[reference.__name__] = reference
    made: Function = import_module(module).twins[reference.__name__](reference)
    return made
