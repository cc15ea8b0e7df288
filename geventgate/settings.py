"""Where settings come from: default < file < environment < command line. Each knows its place, and so do errors.

Imports nothing that patching minds.
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, fields
from difflib import get_close_matches
from typing import Any

from geventgate import native
from geventgate.config import Config, fault, flag, shown
from geventgate.errors import ConfigError

PREFIX = "GEVENTGATE_"
FILE = f"{PREFIX}CONFIG"  # the variable that names the file
NO_SETTINGS = (FILE, native.VARIABLE)
FIELDS = {field.name: field for field in fields(Config)}
BOOLEANS = {"1": True, "yes": True, "true": True, "on": True, "0": False, "no": False, "false": False, "off": False}

# Kubernetes sets these, of a service that is called geventgate.
_is_kubernetes = re.compile(rf"{PREFIX}(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_(TCP|UDP)(_\w+)?)?)").fullmatch


@dataclass(frozen=True, slots=True)
class Setting:
    value: Any
    source: str  # "--keep-alive", "GEVENTGATE_KEEP_ALIVE", "server.toml, line 3: keep_alive", or "" for a default


def gather(given: Mapping[str, Any], environ: Mapping[str, str], file: str = "") -> dict[str, Setting]:
    """Every field's setting, checked. *given* is the command line's. Raises ConfigError, naming the source.

    *file* is TOML; unless it is named, ``GEVENTGATE_CONFIG`` may name one.
    """
    settings = {name: Setting(field.default, "") for name, field in FIELDS.items()}
    file = file or environ.get(FILE, "")
    if file:
        settings |= from_file(file)
    settings |= from_environment(environ)
    settings |= {name: _checked(name, value, flag(FIELDS[name])) for name, value in given.items()}
    return settings


def configure(settings: Mapping[str, Setting]) -> Config:
    """Raises ConfigError for settings that do not go together."""
    return Config(**{name: setting.value for name, setting in settings.items()})


def as_toml(settings: Mapping[str, Setting]) -> str:
    """*settings* as a file that would say the same, with where each comes from."""
    lines = [f"{name} = {_toml(setting.value)}" for name, setting in settings.items()]
    width = min(max(map(len, lines)), 48)
    sources = (setting.source.partition(": ")[0] or "default" for setting in settings.values())
    return "".join(f"{line:<{width}}  # {source}\n" for line, source in zip(lines, sources, strict=True))


def from_text(field: Field[Any], text: str) -> Any:
    """The value that *text* spells, or *text* itself: what does not fit is refused with all else that does not."""
    if field.type is bool:
        return BOOLEANS.get(text.strip().lower(), text)
    if field.type in (int, float):
        try:
            return text if "_" in text else field.type(text)
        except ValueError:
            return text
    if field.type is not str:
        return split(text)
    return text.lower() if "|" in field.metadata["metavar"] else text


def split(text: str) -> tuple[str, ...]:
    """The elements of a list with commas, empty ones left out."""
    return tuple(item for part in text.split(",") if (item := part.strip()))


# --- the environment


def from_environment(environ: Mapping[str, str]) -> dict[str, Setting]:
    found = {}
    for variable, text in environ.items():
        if not variable.startswith(PREFIX) or variable in NO_SETTINGS or _is_kubernetes(variable):
            continue
        name = variable.removeprefix(PREFIX).lower()
        if name not in FIELDS or not variable.isupper():
            known = [f"{PREFIX}{field}".upper() for field in FIELDS]
            raise ConfigError(f"{variable} is no setting{meant(variable.upper(), known)}")
        found[name] = _checked(name, from_text(FIELDS[name], text), variable)
    return found


# --- the file


def from_file(path: str) -> dict[str, Setting]:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            text = file.read()
        table = tomllib.loads(text.replace("\r\n", "\n"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"--config {path}: not UTF-8") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{_place(path, str(error))}") from None
    except RecursionError:
        raise ConfigError(f"--config {path}: nested too deeply") from None
    found = {}
    for name, value in table.items():
        where = f"{path}, line {line_of(name, text)}"
        if name not in FIELDS:
            raise ConfigError(f"{where}: {shown(name)} is no setting{meant(name, FIELDS)}")
        if FIELDS[name].type not in (bool, int, float, str):  # one is enough
            value = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else value
        found[name] = _checked(name, value, f"{where}: {name}")
    return found


def line_of(name: str, text: str) -> int:
    """The line on which a key of the document's top stands, or a table of that name begins; tomllib does not tell.

    A line that looks like it may lie in a text of many lines: then the lines before it are no document.
    """
    begins = re.compile(rf"\s*\[*\s*[\"']?{re.escape(name)}[\"']?\s*[=.\]]").match
    lines = text.split("\n")
    for number, line in enumerate(lines):
        if begins(line) and _is_document("\n".join(lines[:number])):
            return number + 1
    return 1


def _is_document(text: str) -> bool:
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _place(path: str, said: str) -> str:
    """ "Invalid value (at line 3, column 5)" with the file's name, and the line in front as everywhere."""
    at = re.fullmatch(r"(.*?) \(at line (\d+), column (\d+)\)", said, re.DOTALL)
    return f"{path}, line {at[2]}, column {at[3]}: {at[1]}" if at else f"{path}: {said}"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return '"' + "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in escaped) + '"'
    return repr(value)


def _checked(name: str, value: Any, source: str) -> Setting:
    if wrong := fault(FIELDS[name], value):
        raise ConfigError(f"{source} {wrong}")
    return Setting(value, source)


def meant(name: str, known: Iterable[str]) -> str:
    """What *name* was probably meant to be, in words, or ""."""
    names = list(known)
    close = get_close_matches(name, names, 1) or get_close_matches(name.replace("-", "_"), names, 1)
    return f": did you mean {close[0]}?" if close else ""
