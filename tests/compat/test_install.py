"""Names that old code imports: ``--compat NAME``, and ``compat.install()`` in a program. Each in a process of its own,
since names of modules are a process's."""

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from geventgate.config import SHIMS

TELL = "from geventgate import compat\nfrom geventgate.errors import ConfigError\n"


def run(program: str, folder: Path) -> tuple[int, str]:
    """The exit status, and what it said."""
    done = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout + done.stderr


def test_there_is_a_module_for_each():
    for name in SHIMS:
        assert importlib.util.find_spec(f"geventgate.compat.{name}"), name


def test_ours_comes_before_the_real_one(tmp_path):
    assert importlib.metadata.version("gevent-websocket")
    program = """
compat.install("geventwebsocket")
compat.install("geventwebsocket")
import importlib.util
import geventwebsocket
import geventwebsocket.gunicorn.workers
from geventwebsocket import handler
from geventwebsocket.exceptions import WebSocketError
from geventgate import errors
assert WebSocketError is errors.WebSocketError
assert geventwebsocket.handler is handler
assert geventwebsocket.protocols.base.BaseProtocol is geventwebsocket.resource.BaseProtocol
assert importlib.util.find_spec("geventwebsocket")
print(geventwebsocket.get_version())
"""
    assert run(TELL + program, tmp_path) == (0, "0.10.1\n")


# Of no use without its frames: the codec, its UTF-8, Python 2. WAMP 1 needs Python 2, too (string.letters).
LEFT_OUT = {
    "geventwebsocket._compat", "geventwebsocket.protocols.wamp", "geventwebsocket.utf8validator",
    "geventwebsocket.utils.get_hg_changeset", "geventwebsocket.websocket.Header",
    "geventwebsocket.websocket.Utf8Validator",
}  # fmt: skip


def test_names_of_the_real_one(tmp_path):
    """Each class and function that a module has there is here, or left out by name."""
    program = """
import importlib, pkgutil
import geventwebsocket
real = {"geventwebsocket": geventwebsocket}
for found in pkgutil.walk_packages(geventwebsocket.__path__, "geventwebsocket."):
    real[found.name] = importlib.import_module(found.name)
names = {
    (name, key) for name, module in real.items() for key, value in vars(module).items()
    if getattr(value, "__module__", "").startswith("geventwebsocket.") or key.startswith(("MSG_", "VERSION"))
}
for name in real:
    del sys.modules[name]
compat.install("geventwebsocket")
for name, key in names:
    try:
        module = importlib.import_module(name)
    except ImportError:
        print(name)
    else:
        if not hasattr(module, key):
            print(f"{name}.{key}")
"""
    status, said = run(f"import sys\n{TELL}{program}", tmp_path)
    assert (status, set(said.split())) == (0, LEFT_OUT), said


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("compat.install('geventsocket')", "--compat geventsocket: there is no such shim; there are geventwebsocket, "),
        (
            "import geventwebsocket.exceptions; compat.install('geventwebsocket')",
            "--compat geventwebsocket: the real geventwebsocket was imported before, from /",
        ),
        ("import sys; sys.modules['uwsgi'] = object(); compat.install('uwsgi')", "from somewhere"),
    ],
)
def test_what_cannot_be_installed(tmp_path, program, said):
    status, told = run(TELL + program, tmp_path)
    assert status == 1
    assert said in told.splitlines()[-1]


def test_what_is_not_there_says_so(tmp_path):
    program = TELL + "compat.install('geventwebsocket')\n"
    for statement, said in (
        ("import geventwebsocket.protocols.wamp", "No module named 'geventwebsocket.protocols.wamp'"),
        (
            "from geventwebsocket.websocket import Header",
            "cannot import name 'Header' from 'geventwebsocket.websocket'",
        ),
        ("import geventwebsocket; geventwebsocket.nothing", "geventgate's geventwebsocket has no 'nothing'"),
    ):
        status, told = run(program + statement, tmp_path)
        assert status == 1
        assert said in told.splitlines()[-1]


def test_installing_imports_no_gunicorn_and_no_server(tmp_path):
    program = """
import sys
compat.install("geventwebsocket")
import geventwebsocket, geventwebsocket.gunicorn.workers
print([name for name in ("gunicorn", "geventgate.server", "geventgate.pywsgi") if name in sys.modules])
"""
    assert run(TELL + program, tmp_path) == (0, "[]\n")


def test_importing_compat_imports_no_shim(tmp_path):
    program = "import sys; print([name for name in sys.modules if name.startswith('geventgate.compat.')])"
    assert run(TELL + program, tmp_path) == (0, "[]\n")


APP = "from geventwebsocket import Resource\napplication = Resource()\n"


@pytest.mark.parametrize(
    ("app", "options", "status", "said"),
    [
        (APP, ["--compat", "geventwebsocket"], 0, "configuration OK"),
        (APP, ["--compat", "geventsocket"], 2, "should be one of geventwebsocket, flask_sockets, eventlet, uwsgi"),
    ],
)
def test_command_line(tmp_path, app, options, status, said):
    (tmp_path / "app.py").write_text(app)
    command = [sys.executable, "-m", "geventgate", "--chdir", str(tmp_path), "--check-config", *options, "app"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    told = done.stdout + done.stderr
    assert (done.returncode, said in told, "Traceback" in told) == (status, True, False), told


def test_in_a_program(tmp_path):
    """serve() comes after the program's own imports: it can tell only that it is too late."""
    (tmp_path / "program.py").write_text(
        "import geventwebsocket, geventgate\n"
        "from geventgate.errors import ConfigError\n"
        "try:\n"
        "    geventgate.serve(print, bind='127.0.0.1:0', compat=('geventwebsocket',))\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )
    status, said = run("import runpy; runpy.run_path('program.py')", tmp_path)
    assert status == 0
    assert "the real geventwebsocket was imported before" in said
