"""What is built where it can be and where it cannot, and what of it is used. Nothing here compiles: that is ``make
native``'s.
"""

import os
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from geventgate import native

ROOT = Path(__file__).parent.parent
NO_COMPILER = {"CC": "/nowhere/cc"}


def run(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """python WORDS, in *folder* and importing from there."""
    environ = {**os.environ, "PYTHONPATH": str(folder), native.VARIABLE: "", **environ}
    return subprocess.run([sys.executable, *words], cwd=folder, env=environ, capture_output=True, text=True, timeout=60)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of the sources alone."""
    compiled = shutil.ignore_patterns("__pycache__", *(f"*{suffix}" for suffix in EXTENSION_SUFFIXES))
    for name in ("geventgate", "ext"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=compiled)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "hello.py").write_text("def app(environ, start_response): ...\n")
    return tmp_path


# --- building


def built(folder: Path) -> list[str]:
    return [str(path) for suffix in EXTENSION_SUFFIXES for path in folder.rglob(f"*{suffix}")]


def test_without_a_compiler_it_is_python_and_says_so_once(tree: Path) -> None:
    lib = tree / "lib"
    stale = lib / f"geventgate/message{EXTENSION_SUFFIXES[0]}"
    stale.parent.mkdir(parents=True)
    stale.touch()  # of an earlier build, which had one
    made = run(tree, "setup.py", "build", "--build-lib", str(lib), **NO_COMPILER)
    assert (made.returncode, built(lib)) == (0, []), made.stderr
    shutil.copy(tree / "hello.py", lib)
    said = run(lib, "-m", "geventgate", "--check-config", "hello:app")
    assert (said.returncode, said.stdout) == (0, "configuration OK\n")
    (line,) = said.stderr.splitlines()
    assert "pure Python: slower, nothing else changes" in line
    assert line.endswith(": there is no /nowhere/cc")


def test_a_note_of_an_earlier_failure_does_not_outlive_it(tree: Path) -> None:
    lib = tree / "lib"
    note = lib / "geventgate" / native.NOTE
    note.parent.mkdir(parents=True)
    note.touch()
    run(tree, "setup.py", "build_ext", "--build-lib", str(lib), GEVENTGATE_PURE="0", **NO_COMPILER)
    assert not note.exists()


def test_a_build_that_must_compile_fails_where_it_cannot(tree: Path) -> None:
    made = run(tree, "setup.py", "build_ext", "--build-lib", "lib", GEVENTGATE_PURE="0", **NO_COMPILER)
    assert made.returncode != 0
    assert "there is no /nowhere/cc" in made.stderr


@pytest.mark.parametrize(
    ("words", "environ"),
    [
        (["build", "--build-lib", "lib"], {"GEVENTGATE_PURE": "1"}),
        (["editable_wheel", "--dist-dir", "lib"], {"GEVENTGATE_PURE": "0"}),
    ],
    ids=["pure", "editable"],
)
def test_what_is_not_to_be_compiled_is_not(tree: Path, words: list[str], environ: dict[str, str]) -> None:
    made = run(tree, "setup.py", *words, **environ, **NO_COMPILER)
    assert made.returncode == 0, made.stderr
    assert not [*built(tree), *tree.rglob(native.NOTE)]


def test_everything_that_is_to_be_compiled_is_there() -> None:
    for name in native.POLICY:
        assert (ROOT / f"geventgate/{name.replace('.', '/')}.py").exists(), name
    twins = {path.stem for path in (ROOT / "ext").glob("*.pyx")}
    assert twins == {name.rpartition(".")[2] for name in native.TWINS}


# --- importing

HOMES = """
from geventgate import message, native
from geventgate.server import clock
print(native.COMPILED, *(module.__file__.rpartition(".")[2] for module in (message, clock)))
"""


def compile_falsely(tree: Path, *names: str) -> None:
    """Lay files beside modules that would fail to be loaded."""
    for name in names:
        (tree / f"geventgate/{name.replace('.', '/')}{EXTENSION_SUFFIXES[0]}").write_text("no library")


@pytest.mark.parametrize("count", [1, len(native.POLICY + native.TWINS) - 1])
def test_half_compiled_is_python(tree: Path, count: int) -> None:
    compile_falsely(tree, *(native.POLICY + native.TWINS)[:count])
    said = run(tree, "-c", HOMES)
    assert said.stdout == "False py py\n", said.stderr


@pytest.mark.parametrize(("value", "python"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_what_is_compiled_can_be_ignored(tree: Path, value: str, python: bool) -> None:
    compile_falsely(tree, *native.POLICY, *native.TWINS)
    said = run(tree, "-c", HOMES, GEVENTGATE_PURE=value)
    assert (said.stdout == "False py py\n") is python
    assert ("ImportError" in said.stderr) is not python


def test_what_wheels_are_tried_by() -> None:
    said = run(ROOT, "tests/serve_once.py", "native" if native.COMPILED else "pure")
    assert said.returncode == 0, said.stderr


def test_the_version_tells() -> None:
    word = "native" if native.COMPILED else "pure Python"
    assert f"({word}, " in run(ROOT, "-m", "geventgate", "--version").stdout
    assert "(pure Python, " in run(ROOT, "-m", "geventgate", "--version", GEVENTGATE_PURE="1").stdout
