"""``geventgate doctor [options] [MODULE:APPLICATION]``: what will block, break or run short here, and the remedy.

The application is imported as the server would import it, in this process; nothing is bound and nothing served. Whether
the server would start is --check-config's question. Knows no server; what it imports at its top must import neither ssl
nor threading, as for the command line.
"""

import gc
import json
import os
import re
import resource
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from enum import Enum
from importlib.util import find_spec
from math import ceil
from pathlib import Path
from types import FrameType, FunctionType, ModuleType
from typing import Any, NamedTuple

from geventgate import __version__, cli, native
from geventgate.config import SHIMS, Config, speaks_http2
from geventgate.errors import ConfigError

SPARE_FILES = 64  # descriptors beside the connections, as the server reckons

# What must be patched: whoever waits in these otherwise holds up every request.
PATCHED = ("socket", "ssl", "_thread", "threading", "time", "select", "queue", "subprocess")

# What waits by itself in these. threading.Event and others only use what has been put in place.
WAITING = {
    "socket": ("socket", "getaddrinfo", "gethostbyname"),
    "ssl": ("SSLContext", "SSLSocket"),
    "_thread": ("allocate_lock", "start_new_thread"),
    "threading": ("Lock", "local"),
    "time": ("sleep",),
    "select": ("select", "poll", "epoll"),
    "selectors": ("DefaultSelector",),
    "queue": ("SimpleQueue",),
    "subprocess": ("Popen",),
}


class Level(Enum):
    OK = "OK"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(NamedTuple):
    """*said* is what was found and what it means, *remedy* what to do about it, or ""."""

    level: Level
    name: str
    said: str
    remedy: str = ""

    def __str__(self) -> str:
        text = f"{self.said}. {self.remedy}." if self.remedy else f"{self.said}."
        return f"{self.level.value:<7}  {self.name}: {cli.printable(text)}"


def run(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Print the report. Returns the exit status: 1 for problems, and with --strict for warnings; exits with 2 for
    options that cannot be meant."""
    parser = cli.argument_parser()
    parser.usage = "geventgate doctor [options] [MODULE:APPLICATION]"
    parser.description = (
        "Report what will block, break or run short here, and the remedy, line by line. The application is imported "
        "and not served; the options are those of serving."
    )
    parser.epilog = "Exit status: 0 fine, 1 there are problems, 2 the options are wrong."
    own = parser.add_argument_group("the report")
    own.add_argument("--json", action="store_true", help="print it as JSON")
    own.add_argument("--strict", action="store_true", help="exit with 1 for warnings too")
    words = [word for word in arguments if word not in ("--json", "--strict")]
    told = cli.parse(parser, words, environ, target_needed=False)
    if told.check_only or told.print_only:
        parser.error("--check-config and --print-config are no part of a report")
    try:
        with redirect_stdout(sys.stderr):  # what the application prints is no part of it either
            findings = examine(told.config, told.target)
    except ConfigError as error:
        return cli.complain(str(error), cli.FAILED)
    print(as_json(told.target, findings) if "--json" in arguments else as_text(findings))
    levels = {finding.level for finding in findings}
    status = cli.FAILED if Level.PROBLEM in levels or ("--strict" in arguments and Level.WARNING in levels) else 0
    from geventgate import signals

    sys.stdout.flush()
    signals.leave_threads(status)
    return status


def as_text(findings: Sequence[Finding]) -> str:
    """A line for each, and their number."""
    levels = [finding.level for finding in findings]
    counts = ((levels.count(level), level.value) for level in (Level.PROBLEM, Level.WARNING))
    total = ", ".join(f"{count or 'no'} {word}{'' if count == 1 else 's'}" for count, word in counts)
    return "\n".join([*map(str, findings), total])


def as_json(target: str, findings: Sequence[Finding]) -> str:
    """The same as an object; ``level`` is each one's, and the worst of all."""
    worst = max((finding.level for finding in findings), key=list(Level).index)
    listed = [finding._asdict() | {"level": finding.level.value} for finding in findings]
    return json.dumps({"geventgate": __version__, "target": target, "level": worst.value, "findings": listed}, indent=2)


def examine(config: Config, target: str = "") -> list[Finding]:
    """All there is to say; without *target*, of the machine and what is installed.

    Patches this process and imports the application. Raises ConfigError for settings that cannot be.
    """
    before = dict(sys.modules)
    early = cli.imported_too_early(before)
    patched = config.patch and cli.patch()
    from geventgate import compat, loader, process, signals

    watch = None if config.patch else Watch()
    cli.enter_folder(config.chdir)
    process.set_umask(config.umask)
    sys.path.insert(0, os.getcwd())
    signals.end_on_interrupt()
    compat.install(*config.compat)
    application = []
    if target:
        try:
            loader.load(target)
        except ConfigError as error:
            application.append(Finding(Level.PROBLEM, "application", str(error), _needed_shim(error)))
        else:
            application.append(Finding(Level.OK, "application", f"{target} can be imported and called"))
    if watch is None:
        order = [patching(patched), early_imports(early, before.values())]
    else:
        order = self_patching(watch, target)
    return [*order, *application, *drivers(), *neighbours(config), *machine(config), *http2(config)]


def _needed_shim(error: ConfigError) -> str:
    missing = error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
    name = (missing or "").partition(".")[0]
    return f"--compat {name} brings ours" if name in SHIMS else ""


# --- the order of patching


def patching(by_us: bool) -> Finding:
    """What is patched before the application is imported."""
    from gevent import monkey

    missing = [name for name in PATCHED if not monkey.is_module_patched(name)]
    if by_us or not missing:
        whose = "" if by_us else ", and had been before geventgate began"
        said = f"the standard library is patched before the application is imported{whose}"
        return Finding(Level.OK, "patching", said)
    return Finding(
        Level.PROBLEM,
        "patching",
        f"something patched before geventgate began, and left out {_and(missing)}: what waits there holds up every "
        "request",
        "Have it call gevent.monkey.patch_all(), or nothing",
    )


def early_imports(early: Sequence[str], before: Iterable[ModuleType]) -> Finding:
    """What was imported before patching, by whom, and whether it does harm."""
    if not early:
        return Finding(Level.OK, "early imports", "nothing that blocks was imported before patching")
    chains = startup_imports()
    culprits = dict.fromkeys(_culprit(chains.get(name, [])) for name in early)
    said = f"{_and(early)} {_were(early)} imported before the standard library was patched, by {_and(list(culprits))}"
    held = held_originals(before)
    if not held:
        said += "; nothing was found that still blocks, but what was made of them then may"
    else:
        said += f"; {_and(held)} {_were(held)} held as before: what waits there holds up every request"
    return Finding(
        Level.PROBLEM if held else Level.WARNING,
        "early imports",
        said,
        "Have it import later, or begin it with: from gevent import monkey; monkey.patch_all()",
    )


def startup_imports() -> dict[str, list[str]]:
    """What Python imports before any program begins, by .pth files and sitecustomize: for each module those that were
    importing, outermost first."""
    import subprocess

    command = [sys.executable, "-X", "importtime", "-c", ""]
    output = subprocess.run(command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False).stderr
    chains: dict[str, list[str]] = {}
    above: list[str] = []
    for line in reversed(output.decode(errors="replace").splitlines()):  # a module is reported once it is imported
        found = re.fullmatch(r"import time:[^|]*\|[^|]*\| ( *)(\S+)", line)
        if found:
            above = above[: len(found[1]) // 2]
            chains[found[2]] = above.copy()
            above.append(found[2])
    return chains


def _culprit(chain: Sequence[str]) -> str:
    """Who is to blame for an import at startup, and the file where it can be mended."""
    if chain[:1] != ["site"]:
        return "whatever started geventgate"
    name = (*chain, "a .pth file")[1]
    if name in ("sitecustomize", "usercustomize"):
        return str(getattr(sys.modules.get(name), "__file__", name))
    top = re.compile(rf"^import\b.*\b{re.escape(name.partition('.')[0])}\b", re.MULTILINE)
    for folder in dict.fromkeys(sys.path):
        for file in sorted(Path(folder).glob("*.pth")):
            if top.search(file.read_text(errors="replace")):
                return str(file)
    return name


def held_originals(modules: Iterable[ModuleType]) -> list[str]:
    """What *modules* that are neither the standard library's nor ours still hold of before patching, and what waits:
    functions, classes, classes made of these, locks."""
    import _thread

    from gevent import monkey

    originals: dict[int, str] = {}
    for name, items in WAITING.items():
        for item in items:
            if monkey.is_object_patched(name, item):
                originals[id(monkey.get_original(name, item))] = f"{name}.{item}"
    locks = (type(monkey.get_original("_thread", "allocate_lock")()), _thread.RLock)
    held: dict[str, None] = {}  # in order
    for module in modules:
        top = getattr(module, "__name__", "__main__").partition(".")[0]
        if top in sys.stdlib_module_names or top in cli.OURS:
            continue
        for item, value in list(vars(module).items()):
            classes = type.mro(value)[1:] if isinstance(value, type) and value is not type else []
            if id(value) in originals:
                held[f"{originals[id(value)]} in {module.__name__}"] = None
            elif any(id(one) in originals for one in classes) or type(value) in locks:
                held[f"{module.__name__}.{item}"] = None
    return list(held)


class Watch:
    """With --no-patch: who imports what from here on, and what had been imported when the application patched."""

    def __init__(self) -> None:
        from gevent import events

        self.importers: dict[str, str] = {}  # a package -> the application's line that brought it
        self.before: dict[str, ModuleType] = {}
        self.place = ""  # where it patched
        self._will_patch = events.GeventWillPatchEvent
        events.subscribers.append(self._on_event)
        sys.addaudithook(self._on_audit)

    def _on_event(self, event: object) -> None:
        if isinstance(event, self._will_patch) and not self.before:
            self.before = dict(sys.modules)
            self.place = _line_of_application()

    def _on_audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "import":
            top = arguments[0].partition(".")[0]
            if top not in self.importers:
                self.importers[top] = _line_of_application()


def _line_of_application() -> str:
    """The innermost line that runs and belongs to no library, or ""."""
    from geventgate.loader import LIBRARIES

    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        file = frame.f_code.co_filename
        if str(frame.f_globals.get("__name__")).startswith("geventgate."):
            return ""
        if not file.startswith("<") and not any(library in file for library in LIBRARIES):
            return f"{file}, line {frame.f_lineno}"
        frame = frame.f_back
    return ""


def self_patching(watch: Watch, target: str) -> list[Finding]:
    """Whether an application that is left to patch by itself does, and does it first."""
    from gevent import monkey

    missing = [name for name in PATCHED if not monkey.is_module_patched(name)]
    if missing:
        whole = len(missing) == len(PATCHED)
        what = "nothing is patched" if whole else f"{_and(missing)} {_were(missing)} not patched"
        return [
            Finding(
                Level.WARNING,
                "patching",
                f"{what} (--no-patch{'' if target else ', and no application is named'}): what waits there holds up "
                "every request",
                "Leave --no-patch out, or begin the application with: from gevent import monkey; monkey.patch_all()",
            )
        ]
    findings = [Finding(Level.OK, "patching", f"the application patches by itself ({watch.place or 'a library does'})")]
    held = held_originals(watch.before.values())
    if held:
        packages = {one.rpartition(" ")[2].partition(".")[0] for one in held}
        places = dict.fromkeys(filter(None, (watch.importers.get(name) for name in sorted(packages))))
        brought = f", brought by {_and(list(places))}" if places else ""
        findings.append(
            Finding(
                Level.PROBLEM,
                "early imports",
                f"{_and(held)} {_were(held)} held as before patching{brought}: what waits there holds up every request",
                "Patch before any other import, or leave --no-patch out",
            )
        )
    return findings


# --- drivers that wait in C


class Driver(NamedTuple):
    module: str
    said: str
    remedy: str
    waits_well: Callable[[], bool] = lambda: False  # asked once it is imported
    mended_by: str = ""  # with this package installed nothing is amiss before it is imported


def _psycopg2_calls_back() -> bool:
    return sys.modules["psycopg2.extensions"].get_wait_callback() is not None


def _psycopg_waits_in_python() -> bool:
    waiting = sys.modules.get("psycopg.waiting")
    return getattr(getattr(waiting, "wait", None), "__name__", "") != "wait_c"


def _grpc_knows_gevent() -> bool:
    core = sys.modules.get("grpc._cython.cygrpc")
    return bool(getattr(core, "g_gevent_activated", "grpc.experimental.gevent" in sys.modules))


HOLDS_UP = "so that each query holds up every request"
DRIVERS = (
    Driver(
        "psycopg2",
        f"waits inside libpq, {HOLDS_UP}",
        "Install psycogreen and call psycogreen.gevent.patch_psycopg() where the application begins, or use psycopg 3",
        _psycopg2_calls_back,
        mended_by="psycogreen",
    ),
    Driver(
        "psycopg",
        f"was imported before patching, or is too old to look for it, and waits in C, {HOLDS_UP}",
        "Import it after patching, in its newest version",
        _psycopg_waits_in_python,
        mended_by="psycopg",
    ),
    Driver(
        "grpc",
        "waits in C, where a call holds up every request or never returns",
        "Call grpc.experimental.gevent.init_gevent() before the first channel is made",
        _grpc_knows_gevent,
    ),
    Driver("MySQLdb", f"waits inside libmysqlclient, {HOLDS_UP}", "Use PyMySQL: pymysql.install_as_MySQLdb()"),
    Driver("pyodbc", f"waits in C, {HOLDS_UP}", "Run its queries in gevent.get_hub().threadpool"),
    Driver("cx_Oracle", f"waits in C, {HOLDS_UP}", "Use its successor oracledb, in thin mode"),
)


def drivers() -> Iterator[Finding]:
    for driver in DRIVERS:
        if driver.module in sys.modules:
            if driver.waits_well():
                yield Finding(Level.OK, driver.module, "waits by gevent")
            else:
                yield Finding(Level.PROBLEM, driver.module, driver.said, driver.remedy)
        elif installed(driver.module) and not (driver.mended_by and installed(driver.mended_by)):
            said = f"is installed, though not imported yet, and {driver.said}"
            yield Finding(Level.WARNING, driver.module, said, driver.remedy)


def installed(name: str) -> bool:
    return name in sys.modules or find_spec(name) is not None


# --- other servers' packages


def neighbours(config: Config) -> Iterator[Finding]:
    """What the packages of other servers, installed beside us, change."""
    eventlet = "eventlet" not in config.compat and installed("eventlet")
    modes = engineio_modes()
    if "eventlet" in modes and "eventlet" not in config.compat:
        yield Finding(
            Level.PROBLEM,
            "engineio",
            "Socket.IO has chosen eventlet, and refuses WebSockets outside of its server",
            'Say async_mode="gevent", uninstall eventlet, or have --compat eventlet bring ours',
        )
    elif modes:
        how = f"waits by {_and(modes)}"
        if "geventwebsocket" in sys.modules:
            how += ', and takes environ["wsgi.websocket"] since there is a geventwebsocket'
        yield Finding(Level.OK, "engineio", how)
    elif eventlet and installed("engineio"):
        yield Finding(
            Level.WARNING,
            "engineio",
            "Socket.IO prefers eventlet where that is installed, and then refuses WebSockets outside of its server",
            'Say async_mode="gevent", or uninstall eventlet',
        )
    if eventlet and "eventlet" not in modes and (users := users_of("eventlet", "engineio", "dns")):  # it rewires dns
        yield Finding(
            Level.PROBLEM,
            "eventlet",
            f"{_and(users)} {_verb(users, 'use')} eventlet, whose hub is not gevent's: what waits in one holds up all "
            "that waits in the other",
            "--compat eventlet brings its names over gevent",
        )
    if "flask_sockets" in sys.modules and "flask_sockets" not in config.compat:
        yield Finding(
            Level.PROBLEM,
            "flask_sockets",
            "the routes of Flask-Sockets match no WebSocket since Werkzeug tells these apart, and every one fails",
            "--compat flask_sockets brings ours",
        )
    if "geventwebsocket" not in config.compat and (users := users_of("geventwebsocket", "engineio", "flask_sockets")):
        yield Finding(
            Level.WARNING,
            "geventwebsocket",
            f"{_and(users)} {_verb(users, 'use')} gevent-websocket's own classes: its WebSocketError is not what "
            "WebSockets here raise, and its servers are not this one",
            "--compat geventwebsocket brings ours",
        )


def engineio_modes() -> list[str]:
    """How the Socket.IO servers that the application has made wait."""
    engineio = sys.modules.get("engineio")
    kind = getattr(engineio, "Server", None)
    if kind is None:
        return []
    # By type(): isinstance() would have lazy proxies make what they stand for.
    return sorted({str(one.async_mode) for one in gc.get_objects() if issubclass(type(one), kind)})


def users_of(package: str, *but: str) -> list[str]:
    """The top-level modules, beside those named, that hold something of *package*."""
    users: dict[str, None] = {}
    for name, module in list(sys.modules.items()):
        top = name.partition(".")[0]
        if top in (package, *but, "geventgate") or top.startswith("__patched") or top in sys.stdlib_module_names:
            continue  # ours, or eventlet's rewired ones
        if isinstance(module, ModuleType) and package in map(_home, list(vars(module).values())):
            users[top] = None
    return list(users)


def _home(value: object) -> str:
    """The package that a module, a class, a function or an object's class is of."""
    if isinstance(value, ModuleType):
        name = value.__name__
    else:
        name = (value if isinstance(value, type | FunctionType) else type(value)).__module__
    return name.partition(".")[0] if isinstance(name, str) else ""


# --- the machine


def machine(config: Config) -> Iterator[Finding]:
    yield open_files(config.worker_connections)
    yield backlog(config.backlog)
    yield processors(config.workers)
    if regret := native.regret():
        yield Finding(Level.WARNING, "native code", regret, "With gcc and Python's headers, install it again")


def open_files(connections: int) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = connections + SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return Finding(Level.OK, "open files", f"room for --worker-connections {connections}")
    remedy = f"Say LimitNOFILE={needed} in the systemd unit, or --worker-connections {max(soft - SPARE_FILES, 1)}"
    if hard == resource.RLIM_INFINITY or hard >= needed:
        remedy = f"Say ulimit -n {needed} before it starts, {remedy[0].lower()}{remedy[1:]}"
    said = f"the limit of {soft} leaves room for {max(soft - SPARE_FILES, 1)} connections, not {connections}"
    return Finding(Level.WARNING, "open files", said, remedy)


def backlog(wanted: int, file: str = "/proc/sys/net/core/somaxconn") -> Finding:
    """The kernel cuts a longer queue in silence; where it does not tell, nothing is amiss."""
    try:
        most = int(Path(file).read_text())
    except OSError:
        most = wanted
    if most >= wanted:
        return Finding(Level.OK, "backlog", f"the kernel queues --backlog {wanted} connections")
    return Finding(
        Level.WARNING,
        "backlog",
        f"the kernel queues {most} connections at most, not {wanted}: more at once are turned away",
        f"Say sysctl net.core.somaxconn={wanted}, or --backlog {most}",
    )


def processors(workers: int) -> Finding:
    count = usable_processors()
    if workers > 2 * count:
        said = f"--workers {workers} take turns on {_count(count, 'CPU')}, and each holds the application in memory"
        return Finding(Level.WARNING, "processors", said, f"--workers {count} can use them all")
    if workers == 0:
        hint = f"; --workers {count} uses them all" if count > 1 else ""
        return Finding(Level.OK, "processors", f"one process uses one of {_count(count, 'CPU')}{hint}")
    return Finding(Level.OK, "processors", f"{_count(workers, 'worker')} on {_count(count, 'CPU')}")


def usable_processors(quota: str = "/sys/fs/cgroup/cpu.max") -> int:
    """CPUs that this process may use: those it may run on, or what its control group may take, if that is less."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        most, period = Path(quota).read_text().split()
    except (OSError, ValueError):
        return count
    return count if most == "max" else min(count, max(ceil(int(most) / int(period)), 1))


def http2(config: Config) -> Iterator[Finding]:
    """Which engine speaks it, if anybody is spoken to in HTTP/2."""
    if not speaks_http2(config):
        return
    from geventgate.protocol.http2 import engine

    try:
        name = engine(config.http2_engine).name
    except ConfigError as error:
        yield Finding(Level.PROBLEM, "HTTP/2", str(error), "pip install 'geventgate[fast]', or --http2-engine auto")
        return
    if name == "ngh2" or config.http2_engine == "h2":
        yield Finding(Level.OK, "HTTP/2", f"is spoken by {name}")
    else:
        said = "is spoken by h2, in Python, where ngh2 would take a fifth of the time"
        yield Finding(Level.WARNING, "HTTP/2", said, "pip install 'geventgate[fast]'")


# --- words


def _and(names: Sequence[str], most: int = 4) -> str:
    """A list in words, its end left out when it is long."""
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def _were(names: Sequence[str]) -> str:
    return "was" if len(names) == 1 else "were"


def _verb(names: Sequence[str], verb: str) -> str:
    return f"{verb}s" if len(names) == 1 else verb


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
