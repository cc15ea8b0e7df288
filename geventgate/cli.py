"""``geventgate [options] MODULE:APPLICATION``: from words to a server, in the order that patching demands.

What this module imports at its top must import neither ssl nor threading; everything else is imported once the
standard library has been patched.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import Field, fields, replace
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO, cast

from geventgate import __version__, native
from geventgate.config import HTTP, LIMITS, PROXIES, TIMES, WEBSOCKETS, Config, flag, shown, speaks_http2
from geventgate.errors import ConfigError
from geventgate.settings import Setting, as_toml, configure, gather, meant, split

if TYPE_CHECKING:
    from geventgate.logs import LogFile
    from geventgate.server.addresses import Bound

TOLD_AT_START = (PROXIES, TIMES, LIMITS, HTTP, WEBSOCKETS)
WORKERS_ONLY = ("timeout", "max_requests", "max_requests_jitter", "preload")
FAILED, USAGE = 1, 2  # exit statuses; a second INT has its own

# Whoever was imported before patching and holds one of these may hold locks and sockets that block the whole server.
BLOCKING = ("ssl", "threading", "socket", "select", "selectors", "queue", "subprocess")
OURS = ("geventgate", "gevent", "greenlet", "zope", "__main__", "sitecustomize", "usercustomize", "_distutils_hack")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status. The process is expected to end then, and soon will."""
    early = imported_too_early(dict(sys.modules))
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["doctor"]:  # a module of that name is served as doctor:app
        from geventgate import doctor

        return doctor.run(words[1:], os.environ)
    parser = argument_parser()
    told = parse(parser, words, os.environ)
    config = told.config
    if told.print_only:
        print(as_toml(told.settings), end="")
        return 0
    try:
        status, left = _serve_target(config, told.target, told.check_only, early)
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
    in_workers = bool(config.workers or config.reload)
    patched = config.patch and patch(forks=in_workers and not check_only)
    before = dict(os.environ), os.getcwd()
    # All of it here: who we become may not be able to read our files.
    from geventgate import accesslog, compat, loader, logs, process, signals  # noqa: F401
    from geventgate.assemble import Server, own_asyncio
    from geventgate.server import addresses

    enter_folder(config.chdir)
    process.set_umask(config.umask)
    sys.path.insert(0, os.getcwd())
    compat.install(*config.compat)
    errors = logs.open_error_log(config)
    if patched and early:
        logs.log.warning(
            "imported too early, before the standard library was patched: %s; what they hold may block every request",
            ", ".join(early),
        )
    if regret := native.regret():
        logs.log.warning("%s", regret)
    tell = process.notifier(os.environ)
    signals.end_on_interrupt()
    access_file = logs.open_access_log(config)
    if in_workers and not check_only:
        return _serve_in_workers(config, target, errors, access_file, before, tell)
    signals.reopen_logs()
    idle = [flag(field) for field in fields(config) if field.name in WORKERS_ONLY and is_set(config, field)]
    if idle and not in_workers:
        logs.log.warning("without --workers this has no effect: %s", ", ".join(idle))
    with ExitStack() as afterwards:
        if check_only:
            process.identity(config)
            for bind in config.bind:
                addresses.check_bind(bind)
            sockets: list[addresses.Bound] = []
        else:
            config = replace(config, bind=addresses.activated(os.environ) or config.bind)
            sockets = afterwards.enter_context(taking_place(config))
        application = loader.load(target)
        logs.revive()
        server = Server(application, config, errors=cast(TextIO, errors), sockets=sockets)
        own_asyncio()
        if check_only:
            print("configuration OK")
            return 0, 0.0
        afterwards.enter_context(access_log(access_file))
        stop = signals.Stop(server.stop, config.graceful_timeout)
        signals.reload_certificates(server.reload)
        server.start()
        logs.log.info(start_line(config, target, server.addresses))
        tell("READY=1")
        server.serve_forever()
    return 0, stop.left


def _serve_in_workers(
    config: Config,
    target: str,
    errors: "LogFile",
    access_file: "LogFile | None",
    before: tuple[dict[str, str], str],
    tell: Callable[[str], None],
) -> tuple[int, float]:
    """As _serve_target, and in the workers too: each returns from here at its end."""
    from geventgate import loader, processes
    from geventgate.server import addresses

    heir_of, passed = processes.inheritance(os.environ)
    config = replace(config, workers=max(config.workers, 1), bind=addresses.activated(os.environ) or config.bind)
    pid = os.path.abspath(config.pid) if config.pid else ""
    own = replace(config, pid=f"{pid}.2") if heir_of and pid else config
    listen = (lambda: addresses.inherited(passed)) if heir_of else (lambda: addresses.listen_all(config))
    with taking_place(own, listen) as sockets:
        scheme = "https" if config.certfile or config.sni else "http"
        urls = [addresses.url(bound.sock, scheme) for bound in sockets]
        launch = processes.Launch(
            config=replace(config, pid=pid),
            load=lambda: loader.load(target),
            errors=errors,
            access=access_file,
            sockets=sockets,
            start_line=start_line(config, target, urls),
            tell=tell,
            environ=before[0],
            folder=before[1],
            heir_of=heir_of,
        )
        return processes.serve(launch)


def serve(application: Callable[..., Iterable[bytes]], *, bind: str | Sequence[str] = (), **options: Any) -> None:
    """Serve *application* until TERM or INT, as the command line would; *options* are Config's. Raises ConfigError.

    The program patches, or not, before its own imports. Logging it has set up stays as it is.
    """
    if bind:
        options["bind"] = (bind,) if isinstance(bind, str) else tuple(bind)
    config = Config(**options)
    from gevent import get_hub, monkey

    from geventgate import compat, logs, process, signals
    from geventgate.assemble import Server
    from geventgate.server import addresses

    compat.install(*config.compat)
    enter_folder(config.chdir)
    process.set_umask(config.umask)
    errors = logs.open_error_log(config, yield_to_program=True)
    if config.patch and not monkey.is_module_patched("socket"):
        logs.log.warning(
            "the standard library is not patched, so what blocks holds up every request: begin the program with "
            "gevent.monkey.patch_all(), or say patch=False"
        )
    access_file = logs.open_access_log(config)
    config = replace(config, bind=addresses.activated(os.environ) or config.bind)
    with ExitStack() as afterwards:
        sockets = afterwards.enter_context(taking_place(config))
        server = Server(application, config, errors=cast(TextIO, errors), sockets=sockets)
        afterwards.enter_context(access_log(access_file))
        if get_hub().main_hub:  # signals reach the main thread only
            signals.reopen_logs()
            signals.reload_certificates(server.reload)
            afterwards.callback(signals.Stop(server.stop, config.graceful_timeout).forget)
        server.start()
        name = getattr(application, "__name__", type(application).__name__)
        logs.log.info(start_line(config, name, server.addresses))
        server.serve_forever()


# --- words


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        unknown = message.removeprefix("unrecognized arguments: ").split()[0]
        if unknown.startswith("--") and unknown != message.split()[0]:
            message += meant(unknown.partition("=")[0], self._option_string_actions)
        raise SystemExit(complain(f"{message} (see geventgate --help)", USAGE))


class Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version
        from importlib.util import find_spec

        engines = [f"{name} {version(name)}" for name in ("h2", "ngh2") if find_spec(name)]
        python = f"CPython {sys.version.split()[0]}"
        what = "native" if native.COMPILED else "pure Python"
        print(f"geventgate {__version__} ({', '.join([what, 'gevent ' + version('gevent'), *engines, python])})")
        parser.exit()


def argument_parser() -> argparse.ArgumentParser:
    """Every field of Config is an option, in its group; what is not given is absent from the result."""
    parser = Parser(
        prog="geventgate",
        description="Serve a WSGI or ASGI application, WebSockets included, on gevent.",
        epilog="Signals: TERM and INT let running requests end, a second INT does not; HUP and USR1 reopen the logs, "
        "HUP reads the certificates again. Every option may also be set by a variable, as GEVENTGATE_KEEP_ALIVE=75, "
        "or in a file; options that may be repeated may also be lists with commas.",
        usage="geventgate [options] MODULE:APPLICATION\n       geventgate doctor [options] [MODULE:APPLICATION]",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=38, width=100),
    )
    parser.add_argument(
        "target",
        nargs="?",
        metavar="MODULE:APPLICATION",
        help="what to serve: app:app, package.module:make_app(), site:wsgi.application; "
        "of a MODULE alone, its `application` or `app`",
    )
    parser.add_argument(
        "-c", "--config", metavar="FILE", help="read settings from this TOML file; GEVENTGATE_CONFIG may name it too"
    )
    parser.add_argument("--check-config", action="store_true", help="load everything, bind nothing, and exit")
    parser.add_argument(
        "--print-config", action="store_true", help="show the settings, and where each comes from, and exit"
    )
    parser.add_argument("--version", action=Version, nargs=0, help="show the versions and exit")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for field in fields(Config):
        group = field.metadata["group"]
        if group not in groups:
            groups[group] = parser.add_argument_group(group)
        groups[group].add_argument(*flags(field), dest=field.name, **behaviour(field))
        if field.metadata["switch"]:
            name, value = field.metadata["switch"]
            groups[group].add_argument(
                name, dest=field.name, action="store_const", const=value, help=f"short for {flag(field)} {value}"
            )
    return parser


def flags(field: Field[Any]) -> list[str]:
    return [field.metadata["short"], flag(field)] if field.metadata["short"] else [flag(field)]


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


class Told(NamedTuple):
    """What the command line, the environment and the file say."""

    config: Config
    target: str
    settings: dict[str, Setting]
    check_only: bool
    print_only: bool


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str], environ: Mapping[str, str], target_needed: bool = True
) -> Told:
    """Exits with status 2, in one line, for what cannot be meant."""
    given: dict[str, Any] = vars(parser.parse_args(arguments))
    target = given.pop("target", "")
    check_only = given.pop("check_config", False)
    print_only = given.pop("print_config", False)
    file = given.pop("config", "")
    for name in [name for name, value in given.items() if isinstance(value, list)]:
        given[name] = tuple(item for text in given[name] for item in split(text))
    try:
        settings = gather(given, environ, file)
        config = configure(settings)
    except ConfigError as error:
        parser.error(str(error))
    if target_needed and not target and not print_only:
        parser.error("the following arguments are required: MODULE:APPLICATION")
    return Told(config, target, settings, check_only, print_only)


def complain(message: str, status: int) -> int:
    """One clear line on stderr; returns *status*."""
    print(f"geventgate: error: {printable(message)}", file=sys.stderr)
    return status


def printable(text: str) -> str:
    """*text* on one line, control characters escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def start_line(config: Config, name: str, addresses: list[str]) -> str:
    """Who serves what where, by which protocols, whom it believes, and which limits are off their defaults."""
    where = ", ".join(addresses)
    speaks = ["HTTP/1.1", "WebSocket"]
    if speaks_http2(config):
        from geventgate.protocol.http2 import engine

        speaks.insert(0, f"HTTP/2 ({engine(config.http2_engine).name})")
    by = f", {config.workers} worker{'s' if config.workers > 1 else ''}" if config.workers else ""
    line = f"geventgate {__version__} (pid {os.getpid()}{by}) serves {name} on {where}: {', '.join(speaks)}"
    changed = [
        f"{flag(field)} {shown(getattr(config, field.name))}"
        for field in fields(config)
        if field.metadata["group"] in TOLD_AT_START and is_set(config, field)
    ]
    return f"{line}; {' '.join(changed)}" if changed else line


def is_set(config: Config, field: Field[Any]) -> bool:
    """Whether it is off its default."""
    return bool(getattr(config, field.name) != field.default)


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


def patch(forks: bool = False) -> bool:
    """Patch the standard library; False when somebody had done it before us.

    Who *forks* workers leaves os, signal and subprocess as they are, for them: else no child's end is heard of.
    """
    from gevent import monkey

    if monkey.is_module_patched("socket"):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", monkey.MonkeyPatchWarning)  # ours names the culprits
        monkey.patch_all(os=not forks, signal=not forks, subprocess=not forks)
    return True


def enter_folder(folder: str) -> None:
    """Change to *folder*, if any. Raises ConfigError."""
    if folder:
        try:
            os.chdir(folder)
        except OSError as error:
            raise ConfigError(f"--chdir {folder}: {error.strerror}") from None


@contextmanager
def taking_place(config: Config, listen: Callable[[], list["Bound"]] | None = None) -> Iterator[list["Bound"]]:
    """Hold the pid file while inside. With --user or --group also bind, since others may not, and become them.

    The sockets bound, by *listen* in any case, or none yet. Raises ConfigError.
    """
    from geventgate import logs, process
    from geventgate.server import addresses

    who = process.identity(config)
    with process.pid_file(config.pid) as pid, ExitStack() as afterwards:
        sockets: list[Bound] = []
        if listen is not None or who is not None:
            sockets = listen() if listen is not None else addresses.listen_all(config)
            for bound in sockets:
                afterwards.callback(bound.close)
        if who is not None:
            for bound in sockets:
                bound.give_to(who.uid, who.gid)
            files = [file.fileno() for file in logs.files if file.ours]
            process.become(who, files if pid is None else [*files, pid])
        yield sockets


# --- the access log


@contextmanager
def access_log(file: "LogFile | None") -> Iterator[None]:
    """Listen to requests if an access log is wanted: in *file*, or by handlers on ``geventgate.access``."""
    from geventgate import logs, observe
    from geventgate.accesslog import AccessLog

    if file is not None:
        listener = AccessLog(file.write)
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
