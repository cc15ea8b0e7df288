"""MODULE:APPLICATION, what it may be, and the one line that says why it is not."""

import sys
import textwrap
from itertools import count

import pytest

from geventgate.errors import ConfigError
from geventgate.loader import load

GOOD = """
    import functools

    def app(environ, start_response):
        "a plain function"

    def create_app(name="default", *, debug=False):
        return functools.partial(app, name, debug)

    class site:
        class wsgi:
            application = staticmethod(app)

            @staticmethod
            def make(number):
                return functools.partial(app, number)
"""


@pytest.fixture
def module(tmp_path, monkeypatch, numbers=count()):  # noqa: B008
    """Write a module under a name of its own; returns the name."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.chdir(tmp_path)
    names = []

    def write(source: str) -> str:
        name = f"loaded{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        names.append(name)
        return name

    yield write
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("expression", "arguments"),
    [
        (":app", None),
        ("", None),  # `app` when there is no `application`
        (":site.wsgi.application", None),
        (":create_app()", ("default", False)),
        (":create_app('x')", ("x", False)),
        (":create_app(name='a:b', debug=True)", ("a:b", True)),
        (":create_app([1, {'k': None}])", ([1, {"k": None}], False)),
        (":site.wsgi.make(-1)", (-1,)),
    ],
)
def test_what_is_loaded(module, expression, arguments):
    name = module(GOOD)
    application = load(name + expression)
    if arguments is None:
        assert application is sys.modules[name].app
    else:
        assert application.args == arguments


def test_application_comes_before_app(module):
    name = module("def app(e, s): ...\ndef application(e, s): ...")
    assert load(name) is sys.modules[name].application


def test_a_module_in_a_package(tmp_path, module):
    name = module("")
    (tmp_path / f"{name}.py").unlink()
    (tmp_path / name).mkdir()
    (tmp_path / name / "wsgi.py").write_text("def app(e, s): ...")
    assert callable(load(f"{name}.wsgi:app"))


@pytest.mark.parametrize(
    ("source", "expression", "message"),
    [
        (GOOD, ":nope", "MODULE:nope: module 'MODULE' has no attribute 'nope'"),
        ("", "", "MODULE:application: module 'MODULE' has no attribute 'application'"),
        (GOOD, ":site.nope.app", "MODULE:site.nope.app: a type has no attribute 'nope'"),
        ("app = 'text'", ":app", "MODULE:app is not callable: it is a str"),
        ("def make(): ...", ":make()", "MODULE:make() is not callable: it is None"),
        ("app = 1", ":app()", "MODULE:app is not callable: it is an int"),
        (GOOD, ":create_app(name=nope)", "neither a name nor a call with literal arguments"),
        (GOOD, ":create_app(**{'debug': True})", "neither a name nor a call with literal arguments"),
        (GOOD, ":app or site", "neither a name nor a call with literal arguments"),
        (GOOD, ":app[0]", "neither a name nor a call with literal arguments"),
        (GOOD, ":app.", "neither a name nor a call with literal arguments"),
        (GOOD, ":create_app()()", "neither a name nor a call with literal arguments"),
        (
            GOOD,
            ":create_app(1, 2)",
            "MODULE:create_app(1, 2): TypeError: create_app() takes from 0 to 1 positional arguments",
        ),
        (
            "import no_such_thing",
            "",
            "cannot import MODULE: ModuleNotFoundError: No module named 'no_such_thing' (FILE, line 1)",
        ),
        ("\nraise ValueError('two\\nlines')", "", "cannot import MODULE: ValueError: two lines (FILE, line 2)"),
        ("def f():\n  1 / 0\nf()", "", "cannot import MODULE: ZeroDivisionError: division by zero (FILE, line 2)"),
        ("import json\n\njson.loads('{')", "", "(FILE, line 3)"),  # the user's frame, not the library's
        ("def f(:\n", "", "cannot import MODULE: SyntaxError: invalid syntax (FILE, line 1)"),
        ("import sys\nsys.exit(3)", "", "cannot import MODULE: SystemExit: 3 (FILE, line 2)"),
        ("raise KeyError", "", "cannot import MODULE: KeyError (FILE, line 1)"),
        (
            "def make():\n  raise OSError(2, 'gone')",
            ":make()",
            "MODULE:make(): FileNotFoundError: [Errno 2] gone (FILE, line 2)",
        ),
    ],
)
def test_what_is_not(tmp_path, module, source, expression, message):
    name = module(source)
    with pytest.raises(ConfigError) as caught:
        load(name + expression)
    text = str(caught.value)
    assert message.replace("FILE", str(tmp_path / f"{name}.py")).replace("MODULE", name) in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_module:app", "no module named 'no_such_module' (in "),
        ("json.no_such_module:app", "no module named 'json.no_such_module' (in "),
        ("no_such_package.module", "no module named 'no_such_package' (in "),
        ("app.py:app", "app.py is a file, not a module: did you mean app:app?"),
        (
            "some/where/app.py:app",
            "some/where/app.py is a file, not a module: did you mean --chdir some/where app:app?",
        ),
        ("", "'' is not MODULE:APPLICATION"),
        (":app", "':app' is not MODULE:APPLICATION"),
        ("a b:app", "'a b:app' is not MODULE:APPLICATION"),
        ("..app:app", "'..app:app' is not MODULE:APPLICATION"),
    ],
)
def test_what_is_no_module(target, message):
    with pytest.raises(ConfigError) as caught:
        load(target)
    assert message in str(caught.value)


def test_the_applications_own_error_is_kept(module):
    with pytest.raises(ConfigError) as caught:
        load(module("raise ValueError('mine')"))
    assert isinstance(caught.value.__cause__, ValueError)
