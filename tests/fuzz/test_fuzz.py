"""The seeds pass, the runner tells what it finds, and both ways of fuzzing find what is planted."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from targets import TARGETS, examine

HERE = Path(__file__).parent
SEEDS = sorted((HERE / "corpus").glob("*/*"))


def test_every_target_has_seeds():
    assert {seed.parent.name for seed in SEEDS} == set(TARGETS)


@pytest.mark.parametrize("seed", SEEDS, ids=[f"{seed.parent.name}-{seed.name}" for seed in SEEDS])
def test_seeds(seed):
    examine(seed.parent.name, seed.read_bytes())


PLANTED = "def examine(target, data):\n    assert len(data) < 5 or b'/unread' not in data, 'planted'\n"
WAYS = [["--hypothesis"], *([[]] if find_spec("atheris") else [])]


@pytest.fixture
def fuzz(tmp_path):
    """Run a copy of the runner that has one target, *code*."""
    here = tmp_path / "tests/fuzz"
    (here / "corpus/planted").mkdir(parents=True)
    (here / "corpus/planted/seed").write_bytes(b"seed")
    (here / "fuzz.py").write_bytes((HERE / "fuzz.py").read_bytes())
    (here / "words.dict").write_text('"/unread"\n"/read"\n')  # few, so that a finding takes no luck

    def run(code, *arguments):
        (here / "targets.py").write_text(code)
        command = [sys.executable, "tests/fuzz/fuzz.py", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    return run


@pytest.mark.parametrize("way", WAYS)
def test_a_finding_is_told_kept_and_shown_again(fuzz, way):
    result = fuzz(PLANTED, "--seconds", "20", *way)
    assert result.returncode == 1, result.stdout + result.stderr
    assert result.stdout.startswith("planted ")
    assert "AssertionError: planted" in result.stdout
    _, _, again = result.stdout.rstrip().rpartition("\n")
    assert again.startswith("again: ")
    shown = fuzz(PLANTED, *again.split()[3:])
    assert shown.returncode == 1
    assert "AssertionError: planted" in shown.stderr
    assert fuzz(PLANTED.replace("not in", "in"), *again.split()[3:]).stdout == "nothing found\n"


@pytest.mark.parametrize("way", WAYS)
def test_nothing_to_find(fuzz, way):
    result = fuzz("def examine(target, data):\n    pass\n", "--seconds", "1", *way)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines()[0].endswith("nothing found")
    assert int(result.stdout.split()[3].replace(",", "")) > 10


def test_a_target_that_is_none(fuzz):
    result = fuzz(PLANTED, "no-such")
    assert result.returncode == 2
    assert result.stderr.endswith("no such target: no-such; there are planted\n")
