"""``geventgate [options] MODULE:APPLICATION``: from words to a server, in the order that patching demands.

What this module imports at its top must import neither ssl nor threading; everything else is imported once the
standard library has been patched.
"""

import argparse
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import Field, fields
from types import ModuleType
from typing import Any, TextIO, cast

from geventgate import __version__
from geventgate.config import LIMITS, TIMES, WEBSOCKETS, Config
from geventgate.errors import ConfigError

FAILED, USAGE = 1, 2  # exit statuses; a second INT has its own

# Options for which 0 would mean a server that serves nothing.
POSITIVE = (
    "head_timeout", "write_timeout", "worker_connections", "limit_request_line", "limit_request_fields",
    "limit_request_head", "websocket_max_message_size", "ws_ping_timeout", "ws_close_timeout",
)  # fmt: skip

KINDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "True or False", str: "a text"}

# Whoever was imported before patching and holds one of these may hold locks and sockets that block the whole server.
BLOCKING = ("ssl", "threading", "socket", "select", "selectors", "queue", "subprocess")
OURS = ("geventgate", "gevent", "greenlet", "zope", "__main__", "sitecustomize", "usercustomize", "_distutils_hack")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. The process is expected to end then, and soon will."""
    early = imported_too_early(dict(sys.modules))
    parser = argument_parser()
    config, target, check_only = parse(parser, sys.argv[1:] if arguments is None else arguments)
    try:
        status, left = _serve_target(config, target, check_only, early)
    except ConfigError as error:
        if config.log_level == "debug" and error.__cause__ is not None:
            import traceback

            traceback.print_exception(error.__cause__)
        status, left = complain(str(error), FAILED), 0.0
    from geventgate import signals

    signals.leave_threads(status, left)
    return status


def _serve_target(config: Config, target: str, check_only: bool, early: list[str]) -> tuple[int, float]:
    """The exit status, and the seconds that the application's threads may go on."""
    patched = config.patch and patch()
    from geventgate import loader, logs, signals
    from geventgate.assemble import Server

    enter_folder(config.chdir)
    sys.path.insert(0, os.getcwd())
    errors = logs.open_error_log(config)
    if patched and early:
        logs.log.warning(
            "imported too early, before the standard library was patched: %s; what they hold may block every request",
            ", ".join(early),
        )
    signals.reopen_logs()
    signals.end_on_interrupt()
    application = loader.load(target)
    logs.revive()
    with access_log(config):
        server = Server(application, config, errors=cast(TextIO, errors))
        if check_only:
            print("configuration OK")
            return 0, 0.0
        stop = signals.Stop(server.stop, config.graceful_timeout)
        server.start()
        logs.log.info(start_line(config, target, server.addresses))
        server.serve_forever()
    return 0, stop.left


def serve(application: Callable[..., Iterable[bytes]], *, bind: str | Sequence[str] = (), **options: Any) -> None:
    """Serve *application* until TERM or INT, as the command line would; *options* are Config's. Raises ConfigError.

    The program patches, or not, before its own imports. Logging it has set up stays as it is.
    """
    if bind:
        options["bind"] = (bind,) if isinstance(bind, str) else tuple(bind)
    config = Config(**options)
    check(config)
    from gevent import get_hub, monkey

    from geventgate import logs, signals
    from geventgate.assemble import Server

    enter_folder(config.chdir)
    errors = logs.open_error_log(config, yield_to_program=True)
    if config.patch and not monkey.is_module_patched("socket"):
        logs.log.warning(
            "the standard library is not patched, so what blocks holds up every request: begin the program with "
            "gevent.monkey.patch_all(), or say patch=False"
        )
    server = Server(application, config, errors=cast(TextIO, errors))
    with access_log(config), ExitStack() as afterwards:
        if get_hub().main_hub:  # signals reach the main thread only
            signals.reopen_logs()
            afterwards.callback(signals.Stop(server.stop, config.graceful_timeout).forget)
        server.start()
        name = getattr(application, "__name__", type(application).__name__)
        logs.log.info(start_line(config, name, server.addresses))
        server.serve_forever()


# --- words


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise SystemExit(complain(f"{message} (see geventgate --help)", USAGE))


class Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"geventgate {__version__} (gevent {version('gevent')}, CPython {sys.version.split()[0]})")
        parser.exit()


def argument_parser() -> argparse.ArgumentParser:
    """Every field of Config is an option, in its group; what is not given is absent from the result."""
    parser = Parser(
        prog="geventgate",
        description="Serve a WSGI application, WebSockets included, on gevent.",
        epilog="Signals: TERM and INT let running requests end, a second INT does not; HUP and USR1 reopen the logs.",
        usage="geventgate [options] MODULE:APPLICATION",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=38, width=100),
    )
    parser.add_argument(
        "target",
        metavar="MODULE:APPLICATION",
        help="what to serve: app:app, package.module:make_app(), site:wsgi.application; "
        "of a MODULE alone, its `application` or `app`",
    )
    parser.add_argument("--check-config", action="store_true", help="load everything, bind nothing, and exit")
    parser.add_argument("--version", action=Version, nargs=0, help="show the versions and exit")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for field in fields(Config):
        group = field.metadata["group"]
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        groups[group].add_argument(*flags(field), dest=field.name, **behaviour(field))
    return parser


def flags(field: Field[Any]) -> list[str]:
    long = f"--{field.name.replace('_', '-')}"
    return [field.metadata["short"], long] if field.metadata["short"] else [long]


def behaviour(field: Field[Any]) -> dict[str, Any]:
    """What argparse should do for a field of Config."""
    default = f" (default: {shown(field.default)})" if field.default not in ("", ()) else ""
    wanted: dict[str, Any] = {"help": f"{field.metadata['help']}{default}".replace("%", "%%")}
    if field.type is bool:
        return wanted | {"action": argparse.BooleanOptionalAction}
    wanted["metavar"] = field.metadata["metavar"]
    if "|" in field.metadata["metavar"]:
        return wanted | {"choices": field.metadata["metavar"].split("|"), "type": str.lower}
    if field.type in (int, float):
        return wanted | {"type": field.type}
    if field.type is not str:
        return wanted | {"action": "append"}
    return wanted


def shown(value: Any) -> str:
    """A setting as one would type it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "''"
    return f"{value:g}" if isinstance(value, float) else str(value) or "''"


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> tuple[Config, str, bool]:
    """The configuration, what to serve, and whether only to check. Exits with status 2, in one line."""
    given: dict[str, Any] = vars(parser.parse_args(arguments))
    target = given.pop("target")
    check_only = given.pop("check_config", False)
    for name in [name for name, value in given.items() if isinstance(value, list)]:
        given[name] = tuple(given[name])
    config = Config(**given)
    try:
        check(config)
    except ConfigError as error:
        parser.error(str(error))
    return config, target, check_only


def check(config: Config) -> None:
    """Raise ConfigError for a value of the wrong type or out of range."""
    for field in fields(config):
        value, choices = getattr(config, field.name), field.metadata["metavar"].split("|")
        if not _fits(value, field.type):
            wrong = f"should be {KINDS.get(field.type, 'a tuple of texts, none of them empty')}"
        elif len(choices) > 1 and value not in choices:
            wrong = f"should be one of {', '.join(choices)}"
        elif field.name in POSITIVE and not value > 0:
            wrong = "should be more than 0"
        elif field.name == "bind" and not value:
            wrong = "should be at least one address"
        elif field.type in (int, float) and not 0 <= value < math.inf:
            wrong = "should be 0 or more, and finite"
        else:
            continue
        raise ConfigError(f"{flags(field)[-1]} is {shown(value)}, and {wrong}")


def _fits(value: object, kind: object) -> bool:
    """Whether *value* is of a field's type; an int serves as a float, a bool is no number."""
    if kind in (int, float):
        return isinstance(value, int if kind is int else (int, float)) and not isinstance(value, bool)
    if kind in (bool, str):
        return type(value) is kind
    return isinstance(value, tuple) and all(isinstance(item, str) and item for item in value)


def complain(message: str, status: int) -> int:
    """One clear line on stderr; returns *status*."""
    clean = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in message)
    print(f"geventgate: error: {clean}", file=sys.stderr)
    return status


def start_line(config: Config, name: str, addresses: list[str]) -> str:
    """Who serves what where, by which protocols, and which limits are off their defaults."""
    line = f"geventgate {__version__} (pid {os.getpid()}) serves {name} on {', '.join(addresses)}: HTTP/1.1, WebSocket"
    changed = [
        f"{flags(field)[-1]} {shown(getattr(config, field.name))}"
        for field in fields(config)
        if field.metadata["group"] in (TIMES, LIMITS, WEBSOCKETS) and getattr(config, field.name) != field.default
    ]
    return f"{line}; {' '.join(changed)}" if changed else line


# --- patching


def imported_too_early(modules: dict[str, ModuleType]) -> list[str]:
    """Which of *modules*, imported before patching, matter: ssl, threading, and whatever else holds such modules.

    Call it before gevent is imported, which brings in threading itself.
    """
    blocking = [modules[name] for name in BLOCKING if name in modules]
    holders: dict[str, None] = {}
    for name, module in sorted(modules.items()):
        top = name.partition(".")[0]
        if top not in OURS and top not in sys.stdlib_module_names and top not in holders:
            held = list(vars(module).values()) if isinstance(module, ModuleType) else []
            if any(value is other for other in blocking for value in held):
                holders[top] = None
    return [name for name in ("ssl", "threading") if name in modules] + list(holders)


def patch() -> bool:
    """Patch the standard library; False when somebody had done it before us."""
    from gevent import monkey

    if monkey.is_module_patched("socket"):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", monkey.MonkeyPatchWarning)  # ours names the culprits
        monkey.patch_all()
    return True


def enter_folder(folder: str) -> None:
    """Change to *folder*, if any. Raises ConfigError."""
    if folder:
        try:
            os.chdir(folder)
        except OSError as error:
            raise ConfigError(f"--chdir {folder}: {error.strerror}") from None


# --- the access log


@contextmanager
def access_log(config: Config) -> Iterator[None]:
    """Listen to requests if an access log is wanted: by the option, or by handlers on ``geventgate.access``."""
    from geventgate import logs, observe
    from geventgate.accesslog import AccessLog

    if config.access_logfile:
        listener = AccessLog(logs.LogFile(config.access_logfile, 1, "--access-logfile").write)
    elif logs.access.handlers:
        listener = AccessLog(lambda line: logs.access.info(line.rstrip("\n")))
    else:
        yield
        return
    observe.listeners.append(listener)
    try:
        yield
    finally:
        observe.listeners.remove(listener)
