"""The report of ``geventgate doctor``, over packages made up for it: each run is a process of its own."""

import json
import os
import resource
import subprocess
import sys
import textwrap
import venv
from pathlib import Path
from sysconfig import get_path

import pytest

from geventgate.doctor import (
    SPARE_FILES,
    Finding,
    Level,
    as_json,
    as_text,
    backlog,
    open_files,
    processors,
    usable_processors,
)
from geventgate.server import server

ROOT = Path(__file__).parent.parent
WAIT = 20.0

HELLO = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"hello"]
"""
PSYCOPG2 = {
    "psycopg2/__init__.py": "import psycopg2.extensions\n",
    "psycopg2/extensions.py": """
        callback = None

        def set_wait_callback(function):
            global callback
            callback = function

        def get_wait_callback():
            return callback
        """,
}
GRPC = {
    "grpc/__init__.py": "from grpc._cython import cygrpc\n",
    "grpc/_cython/__init__.py": "",
    "grpc/_cython/cygrpc.py": "g_gevent_activated = False\n",
    "grpc/experimental/__init__.py": "",
    "grpc/experimental/gevent.py": """
        from grpc._cython import cygrpc

        def init_gevent():
            cygrpc.g_gevent_activated = True
        """,
}
PSYCOPG = {
    "psycopg/__init__.py": "from psycopg import waiting\n",
    "psycopg/waiting.py": """
        import sys

        def wait_c(): ...
        def wait_poll(): ...

        monkey = sys.modules.get("gevent.monkey")
        wait = wait_poll if monkey and monkey.is_module_patched("select") else wait_c
        """,
}
EVENTLET = {"eventlet/__init__.py": "def spawn(): ...\n"}
ENGINEIO = {
    "engineio/__init__.py": """
        class Server:
            def __init__(self, async_mode):
                self.async_mode = async_mode
        """
}
GEVENTWEBSOCKET = {"geventwebsocket/__init__.py": "class Resource: ...\n"}
# As urllib3 does: what it holds of ssl stays as it was.
HOLDER = {"holder/__init__.py": "from ssl import SSLContext\nimport threading\nlock = threading.Lock()\n"}


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    """No settings, and no coverage, which would import threading early into every process."""
    for name in [name for name in os.environ if name.startswith(("COVERAGE_PROCESS", "GEVENTGATE_"))]:
        monkeypatch.delenv(name)


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, source in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(source))
    return folder


def doctor(
    folder: Path, *words: str, python: str = sys.executable, path: Path | None = None
) -> subprocess.CompletedProcess:
    """Run it in *folder*, whose packages are imported before those that are installed."""
    environ = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{path or folder}"}
    command = [python, "-m", "geventgate", "doctor", *words]
    return subprocess.run(command, cwd=folder, env=environ, capture_output=True, text=True, timeout=WAIT)


def lines(done: subprocess.CompletedProcess) -> dict[str, tuple[str, str]]:
    """name -> level and text, of a report; nothing may stand on stderr."""
    assert done.stderr == ""
    found = {}
    for line in done.stdout.splitlines()[:-1]:
        name, _, text = line[9:].partition(": ")
        found[name] = (line[:7].rstrip(), text)
    return found


def test_all_is_well(tmp_path):
    done = doctor(write(tmp_path, {"hello.py": HELLO}), "hello:app", "--worker-connections", "100", "--backlog", "64")
    found = lines(done)
    assert list(found)[:3] == ["patching", "early imports", "application"]
    assert {level for name, (level, _) in found.items() if name in ("patching", "early imports", "application")} == {
        "OK"
    }
    assert found["open files"] == ("OK", "room for --worker-connections 100.")
    assert found["backlog"] == ("OK", "the kernel queues --backlog 64 connections.")
    assert done.returncode == 0


def test_without_an_application(tmp_path):
    done = doctor(tmp_path)
    assert "application" not in lines(done)
    assert done.returncode == 0


APPLICATIONS = [  # files, options, the finding that is looked for, its level, and a part of its text
    (PSYCOPG2, "import psycopg2", [], "psycopg2", "problem", "psycogreen.gevent.patch_psycopg()"),
    (
        PSYCOPG2,
        "from psycopg2.extensions import set_wait_callback; set_wait_callback(len)",
        [],
        "psycopg2",
        "OK",
        "waits by gevent.",
    ),
    (PSYCOPG2, "", [], "psycopg2", "warning", "is installed, though not imported yet"),
    (PSYCOPG2 | {"psycogreen/__init__.py": ""}, "", [], "psycopg2", "", ""),
    (GRPC, "import grpc", [], "grpc", "problem", "init_gevent() before the first channel"),
    (GRPC, "import grpc.experimental.gevent as g; g.init_gevent()", [], "grpc", "OK", "waits by gevent."),
    (GRPC, "", [], "grpc", "warning", "is installed"),
    (PSYCOPG, "import psycopg", [], "psycopg", "OK", "waits by gevent."),
    (PSYCOPG, "import psycopg", ["--no-patch"], "psycopg", "problem", "Import it after patching"),
    (PSYCOPG, "", [], "psycopg", "", ""),
    ({"MySQLdb/__init__.py": ""}, "import MySQLdb", [], "MySQLdb", "problem", "PyMySQL"),
    (
        ENGINEIO | EVENTLET,
        "import engineio, eventlet; server = engineio.Server('eventlet')",
        [],
        "engineio",
        "problem",
        'async_mode="gevent"',
    ),
    (ENGINEIO | EVENTLET, "", [], "engineio", "warning", "prefers eventlet"),
    (ENGINEIO, "import engineio; server = engineio.Server('threading')", [], "engineio", "OK", "waits by threading."),
    (
        ENGINEIO | EVENTLET | GEVENTWEBSOCKET,
        "import engineio, geventwebsocket; server = engineio.Server('gevent'); del geventwebsocket",
        [],
        "engineio",
        "OK",
        'waits by gevent, and takes environ["wsgi.websocket"]',
    ),
    (EVENTLET, "import eventlet", [], "eventlet", "problem", "application uses eventlet"),
    (EVENTLET, "from eventlet import spawn", [], "eventlet", "problem", "--compat eventlet"),
    (EVENTLET, "", [], "eventlet", "", ""),
    (GEVENTWEBSOCKET, "from geventwebsocket import Resource", [], "geventwebsocket", "warning", "application uses"),
    (
        GEVENTWEBSOCKET,
        "from geventwebsocket import Resource",
        ["--compat", "geventwebsocket"],
        "geventwebsocket",
        "",
        "",
    ),
    ({"flask_sockets.py": ""}, "import flask_sockets", [], "flask_sockets", "problem", "--compat flask_sockets"),
    ({}, "import uwsgi", [], "application", "problem", "application.py, line 1). --compat uwsgi brings ours."),
    ({}, "", ["--no-patch"], "patching", "warning", "nothing is patched (--no-patch): "),
    ({}, "from gevent import monkey; monkey.patch_all()", ["--no-patch"], "patching", "OK", "application.py, line 1)."),
    (
        {},
        "from gevent import monkey; monkey.patch_socket()",
        ["--no-patch"],
        "patching",
        "warning",
        "ssl, _thread, threading, time and 3 more were not patched",
    ),
    (
        HOLDER,
        "import holder\nfrom gevent import monkey; monkey.patch_all()",
        ["--no-patch"],
        "early imports",
        "problem",
        "SSLContext in holder and holder.lock were held as before patching, brought by {folder}/application.py, line 1",
    ),
    (HOLDER, "import holder", [], "early imports", "OK", "nothing that blocks was imported before patching."),
]


@pytest.mark.parametrize(
    ("files", "source", "options", "name", "level", "text"),
    APPLICATIONS,
    ids=[f"{number}-{case[3].replace(' ', '-')}-{case[4] or 'silent'}" for number, case in enumerate(APPLICATIONS)],
)
def test_what_an_application_brings(tmp_path, files, source, options, name, level, text):
    folder = write(tmp_path, files | {"application.py": f"{source}\n{HELLO}"})
    done = doctor(folder, *options, "application:app")
    found = {line[9:].partition(": ")[0]: line for line in done.stdout.splitlines()}
    assert bool(level) == (name in found), done.stdout + done.stderr
    if level:
        assert found[name].startswith(f"{level:<7}  ")
        assert text.format(folder=folder) in found[name]
    assert done.returncode == (1 if "\nproblem" in f"\n{done.stdout}" else 0)
    assert "Traceback" not in done.stderr


REFUSED = [
    ("nosuch:app", "", "no module named 'nosuch' (in {folder} or on the path)."),
    (
        "application:app",
        "raise ValueError('it went\\nwrong \\x1b[31m')",
        "it went wrong \\x1b[31m ({folder}/application.py",
    ),
    ("application:app", "import sys; sys.exit('no')", "SystemExit: no"),
    ("application:none", "", "module 'application' has no attribute 'none'"),
    ("application.py:app", "", "did you mean application:app?"),
]


@pytest.mark.parametrize(("target", "source", "text"), REFUSED)
def test_an_application_that_cannot_be_served_is_one_line(tmp_path, target, source, text):
    write(tmp_path, {"application.py": f"{source}\n{HELLO}"})
    done = doctor(tmp_path, target)
    level, said = lines(done)["application"]
    assert level == "problem"
    assert text.format(folder=tmp_path) in said
    assert done.returncode == 1


def test_sitecustomize_that_imports_early(tmp_path):
    files = HOLDER | {"sitecustomize.py": "import holder\n", "hello.py": HELLO}
    done = doctor(write(tmp_path, files), "hello:app")
    level, said = lines(done)["early imports"]
    assert level == "problem"
    assert said.startswith(
        f"ssl, threading and holder were imported before the standard library was patched, by {tmp_path}/"
        "sitecustomize.py; ssl.SSLContext in holder and holder.lock were held as before: "
    )
    assert done.returncode == 1


def test_sitecustomize_that_patches(tmp_path):
    files = {"sitecustomize.py": "from gevent import monkey\nmonkey.patch_all()\n"}
    assert lines(doctor(write(tmp_path / "whole", files)))["patching"][0] == "OK"
    files = {"sitecustomize.py": "from gevent import monkey\nmonkey.patch_socket()\n"}
    done = doctor(write(tmp_path / "part", files))
    level, said = lines(done)["patching"]
    assert (level, done.returncode) == ("problem", 1)
    assert "left out ssl, _thread, threading, time and 3 more" in said


def test_a_pth_file_that_imports_early(tmp_path):
    """In an environment of its own, since these files are looked for there only."""
    environment = tmp_path / "environment"
    venv.create(environment)
    site = Path(get_path("purelib", vars={"base": str(environment), "platbase": str(environment)}))
    here = {path for path in sys.path if path.endswith("-packages")}
    write(
        site,
        {
            "ours.pth": "\n".join(here),
            "hook.pth": "import early_hook\n",
            "early_hook.py": "from threading import main_thread\n",
        },
    )
    done = doctor(tmp_path, "--strict", python=str(environment / "bin" / "python"))
    level, said = lines(done)["early imports"]
    assert level == "warning"
    assert said.startswith(
        f"threading was imported before the standard library was patched, by {site}/hook.pth; nothing"
    )
    assert done.returncode == 1


def test_options_are_those_of_serving(tmp_path):
    """From the command line, a variable and a file; the application sees the same folder."""
    write(tmp_path / "place", {"hello.py": f"open('beside')\n{HELLO}", "beside": ""})
    (tmp_path / "server.toml").write_text("workers = 1000\n")
    done = doctor(tmp_path, "-c", "server.toml", "--chdir", "place", "hello:app")
    assert lines(done)["application"][0] == "OK"
    assert lines(done)["processors"][0] == "warning"
    assert done.returncode == 0
    assert doctor(tmp_path, "-c", "server.toml", "--chdir", "place", "--strict", "hello:app").returncode == 1


def test_socketio_with_the_shim_of_eventlet(tmp_path):
    source = f"import engineio, eventlet\nserver = engineio.Server('eventlet')\n{HELLO}"
    write(tmp_path, ENGINEIO | {"application.py": source})
    done = doctor(tmp_path, "--compat", "eventlet", "application")
    assert lines(done)["engineio"] == ("OK", "waits by eventlet.")
    assert "eventlet" not in lines(done)


def test_json(tmp_path):
    source = f"import os\nprint('noise')\nos.write(2, b'more')\n{HELLO}"
    write(tmp_path, PSYCOPG2 | {"application.py": f"import psycopg2\n{source}"})
    done = doctor(tmp_path, "--json", "application")
    told = json.loads(done.stdout)
    assert (told["target"], told["level"]) == ("application", "problem")
    found = {finding.pop("name"): finding for finding in told["findings"]}
    assert found["application"] == {"level": "OK", "said": "application can be imported and called", "remedy": ""}
    assert found["psycopg2"]["level"] == "problem"
    assert found["psycopg2"]["remedy"].startswith("Install psycogreen")
    assert "noise" in done.stderr
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--nonsense"], 2, "unrecognized arguments: --nonsense"),
        (["--strickt"], 2, "did you mean --strict?"),
        (["--keep-alive", "soon"], 2, "argument --keep-alive"),
        (["--compat", "nobody"], 2, "'nobody' should be one of"),
        (["--check-config", "hello:app"], 2, "are no part of a report"),
        (["hello:app", "twice:app"], 2, "unrecognized arguments: twice:app"),
        (["--chdir", "nowhere"], 1, "--chdir nowhere: No such file or directory"),
        (["-c", "nowhere.toml"], 2, "--config nowhere.toml: No such file or directory"),
    ],
)
def test_what_cannot_be_meant_is_one_line(tmp_path, words, status, said):
    done = doctor(tmp_path, *words)
    assert done.stdout == ""
    assert done.stderr.startswith("geventgate: error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert done.returncode == status


def test_help(tmp_path):
    done = doctor(tmp_path, "--help")
    assert done.stdout.startswith("usage: geventgate doctor [options] [MODULE:APPLICATION]")
    assert "--strict" in done.stdout
    assert done.returncode == 0


def test_a_module_of_that_name_is_served_by_its_application(tmp_path):
    write(tmp_path, {"doctor.py": HELLO})
    command = [sys.executable, "-m", "geventgate", "doctor:app", "--check-config"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=WAIT)
    assert (done.returncode, done.stdout) == (0, "configuration OK\n")


def test_threads_of_the_application_do_not_hold_it_up(tmp_path):
    source = "import threading, time\nthreading.Thread(target=time.sleep, args=[1000]).start()\n"
    done = doctor(write(tmp_path, {"application.py": source + HELLO}), "application")
    assert done.returncode == 0
    assert "ended without threads of the application" in done.stderr


# What the machine has room for


@pytest.mark.parametrize(
    ("limits", "connections", "level", "remedy"),
    [
        ((1064, 1064), 1000, Level.OK, ""),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), 10**6, Level.OK, ""),
        ((1063, 1063), 1000, Level.WARNING, "Say LimitNOFILE=1064 in the systemd unit, or --worker-connections 999"),
        ((1024, 4096), 1000, Level.WARNING, "Say ulimit -n 1064 before it starts, say LimitNOFILE=1064"),
        ((10, 10), 1000, Level.WARNING, "Say LimitNOFILE=1064 in the systemd unit, or --worker-connections 1"),
    ],
)
def test_open_files(monkeypatch, limits, connections, level, remedy):
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    found = open_files(connections)
    assert (found.level, found.remedy[: len(remedy)]) == (level, remedy)


def test_the_server_reckons_with_as_many_files():
    assert SPARE_FILES == server.SPARE_FILES


def test_backlog(tmp_path):
    file = tmp_path / "somaxconn"
    file.write_text("128\n")
    assert backlog(128, str(file)).level is Level.OK
    assert backlog(129, str(file)).level is Level.WARNING
    assert backlog(129, str(tmp_path / "none")).level is Level.OK


@pytest.mark.parametrize(
    ("text", "most"),
    [("max 100000", None), ("50000 100000", 1), ("100000 100000", 1), ("100001 100000", 2), ("9900000 100000", None)],
)
def test_usable_processors(tmp_path, monkeypatch, text, most):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    quota = tmp_path / "cpu.max"
    quota.write_text(f"{text}\n")
    assert usable_processors(str(quota)) == (most or 8)
    assert usable_processors(str(tmp_path / "none")) == 8


def test_processors(monkeypatch):
    monkeypatch.setattr("geventgate.doctor.usable_processors", lambda: 2)
    assert processors(0).said == "one process uses one of 2 CPUs; --workers 2 uses them all"
    assert [processors(workers).level for workers in (0, 1, 4, 5)] == [*3 * [Level.OK], Level.WARNING]


@pytest.mark.parametrize(
    ("hidden", "options", "expected"),
    [
        ("", [], None),
        ("ngh2", ["--h2c"], ("warning", "is spoken by h2, in Python")),
        ("", ["--h2c", "--http2-engine", "h2"], ("OK", "is spoken by h2.")),
        ("ngh2", ["--h2c", "--http2-engine", "ngh2"], ("problem", "the HTTP/2 engine ngh2 does not import")),
    ],
)
def test_http2(tmp_path, hidden, options, expected):
    if hidden:
        write(tmp_path, {f"{hidden}.py": "raise ImportError('hidden')\n"})
    found = lines(doctor(tmp_path, *options)).get("HTTP/2")
    if expected is None:
        assert found is None
    else:
        assert found[0] == expected[0]
        assert found[1].startswith(expected[1])


FINDINGS = [Finding(Level.OK, "a", "is fine"), Finding(Level.WARNING, "b", "may\nbreak", "Mend it")]


def test_as_text():
    expected = "OK       a: is fine.\nwarning  b: may\\nbreak. Mend it.\nno problems, 1 warning"
    assert as_text(FINDINGS) == expected
    two = [Finding(Level.PROBLEM, "c", "broken")] * 2
    assert as_text(two).endswith("\n2 problems, no warnings")


def test_as_json():
    told = json.loads(as_json("app:app", FINDINGS))
    assert told["level"] == "warning"
    assert told["findings"][1] == {"level": "warning", "name": "b", "said": "may\nbreak", "remedy": "Mend it"}
