"""Other projects' names over ours, so that applications written for them run unchanged. Imports none of its modules
until one is asked for; knows nothing of servers.

A shim is a module of this package with ``modules()``, the dotted names that old code imports and the modules it is to
get for them, and, if requests need anything, ``wrap(application)``.
"""

import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from geventgate.config import SHIMS
from geventgate.errors import ConfigError

__all__ = ["SHIMS", "install", "module", "wrap"]

Application = Callable[..., Iterable[bytes]]

_installed: dict[str, ModuleType] = {}  # a shim's name -> its module, in order


def install(*names: str) -> None:
    """Have ``import NAME`` bring ours, whether the real package is installed or not. May be repeated.

    Call it before the application is imported, and after patching. Raises ConfigError for a name that is none of
    config.SHIMS, and when the real package was imported before.
    """
    for name in names:
        if name not in SHIMS:
            raise ConfigError(f"--compat {name}: there is no such shim; there are {', '.join(SHIMS)}")
        if name in _installed:
            continue
        real = sys.modules.get(name)
        if real is not None:
            where = getattr(real, "__file__", None) or "somewhere"
            raise ConfigError(f"--compat {name}: the real {name} was imported before, from {where}")
        shim = import_module(f"{__name__}.{name}")
        _put_in_place(shim.modules())
        _installed[name] = shim


def wrap(application: Application) -> Application:
    """*application*, with what the shims that are installed do around each request. May be repeated."""
    for shim in _installed.values():
        if hasattr(shim, "wrap"):
            application = shim.wrap(application)
    return application


def module(name: str, names: dict[str, Any]) -> ModuleType:
    """A module of *names*. A text "MODULE:NAME" among them is imported when it is first asked for."""
    made = ModuleType(name, f"{name}, as geventgate has it.")
    later = {key: value for key, value in names.items() if isinstance(value, str) and ":" in value}

    def missing(key: str) -> Any:
        if key not in later:
            raise AttributeError(f"geventgate's {name} has no {key!r}")
        where, _, what = later[key].partition(":")
        value = getattr(import_module(where), what)
        setattr(made, key, value)
        return value

    vars(made).update({key: value for key, value in names.items() if key not in later})
    vars(made).update({"__all__": list(names), "__getattr__": missing})
    return made


def _put_in_place(modules: dict[str, ModuleType]) -> None:
    """As the import system would leave them: with a spec, and each one an attribute of its package."""
    for name, module in modules.items():
        package = any(other.startswith(f"{name}.") for other in modules)
        if module.__spec__ is None:  # find_spec() wants one
            module.__spec__ = ModuleSpec(name, None, origin=__name__, is_package=package)
        if package and not hasattr(module, "__path__"):
            module.__path__ = []
        sys.modules[name] = module
        above, _, last = name.rpartition(".")
        if above in modules:
            setattr(modules[above], last, module)
