"""``MODULE:APPLICATION`` becomes an application. Knows no server; every failure is one line for the user."""

import ast
import importlib
import inspect
import os
import sysconfig
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from geventgate.errors import ConfigError

Application = Callable[..., Any]  # of WSGI or ASGI

DEFAULT_NAMES = ("application", "app")  # PEP 3333's word, then Flask's
LIBRARIES = (sysconfig.get_path("stdlib"), f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


def load(target: str) -> Application:
    """Import ``module``, ``module:name``, ``module:object.attribute`` or ``module:create_app('literal', debug=True)``.

    Raises ConfigError; an exception of the application's own is its ``__cause__``.
    """
    name, _, expression = target.partition(":")
    module = _import(name, target)
    if not expression:
        expression = next((default for default in DEFAULT_NAMES if hasattr(module, default)), DEFAULT_NAMES[0])
    application = _evaluate(module, expression)
    if not callable(application):
        raise ConfigError(f"{name}:{expression} is not callable: it is {_kind(application)}")
    return application  # type: ignore[no-any-return]


def is_asgi(application: Application) -> bool:
    """Whether it is one of ASGI 3: a coroutine function, or an object whose ``__call__`` is one; in partials too."""
    while isinstance(application, partial):
        application = application.func
    return inspect.iscoroutinefunction(application) or inspect.iscoroutinefunction(type(application).__call__)


def _import(name: str, target: str) -> ModuleType:
    if name.endswith(".py") or "/" in name:
        folder, file = os.path.split(name)
        meant = target.replace(name, file.removesuffix(".py"), 1)
        where = f" --chdir {folder}" if folder else ""
        raise ConfigError(f"{name} is a file, not a module: did you mean{where} {meant}?")
    if not all(part.isidentifier() for part in name.split(".")):
        raise ConfigError(f"{target!r} is not MODULE:APPLICATION")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ConfigError(f"no module named {error.name!r} (in {os.getcwd()} or on the path)") from None
        raise ConfigError(f"cannot import {name}: {blame(error)}") from error
    except (Exception, SystemExit) as error:
        raise ConfigError(f"cannot import {name}: {blame(error)}") from error


def _evaluate(module: ModuleType, expression: str) -> Any:
    """The value of a dotted name, called if it is written as a call; arguments are literals."""
    try:
        tree = ast.parse(expression, mode="eval").body
        call = tree if isinstance(tree, ast.Call) else None
        path = ast.unparse(call.func if call else tree)
        arguments = [ast.literal_eval(argument) for argument in call.args] if call else []
        keywords = {word.arg or "**": ast.literal_eval(word.value) for word in call.keywords} if call else {}
    except (SyntaxError, ValueError):
        raise ConfigError(f"{expression!r} is neither a name nor a call with literal arguments") from None
    if "**" in keywords or not all(part.isidentifier() for part in path.split(".")):
        raise ConfigError(f"{expression!r} is neither a name nor a call with literal arguments")

    value: Any = module
    for done, part in enumerate(path.split(".")):
        try:
            value = getattr(value, part)
        except AttributeError:
            owner = f"module {module.__name__!r}" if not done else f"{_kind(value)}"
            raise ConfigError(f"{module.__name__}:{path}: {owner} has no attribute {part!r}") from None
    if call is None:
        return value
    if not callable(value):
        raise ConfigError(f"{module.__name__}:{path} is not callable: it is {_kind(value)}")
    try:
        return value(*arguments, **keywords)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{module.__name__}:{expression}: {blame(error)}") from error


def blame(error: BaseException) -> str:
    """The error in one line, with the file and line in the user's code where it was raised."""
    if isinstance(error, SyntaxError):
        text, place = error.msg, (error.filename, error.lineno)
    else:
        text, place = " ".join(str(error).split()), None
        step = error.__traceback__
        while step is not None:
            file = step.tb_frame.f_code.co_filename
            if file != __file__ and not file.startswith("<") and not any(library in file for library in LIBRARIES):
                place = (file, step.tb_lineno)
            step = step.tb_next
    said = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return f"{said} ({place[0]}, line {place[1]})" if place else said


def _kind(value: object) -> str:
    name = type(value).__name__
    return "None" if value is None else f"an {name}" if name[0] in "aeiouAEIOU" else f"a {name}"
