"""The seeds pass, the runner tells what it finds, and both ways of fuzzing find what is planted."""

import re
import shutil
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


PLANTED_IN_C = """#include <stddef.h>
#include <stdlib.h>
int LLVMFuzzerTestOneInput(const char *data, size_t size);
int LLVMFuzzerTestOneInput(const char *data, size_t size)
{
    volatile char *copy = calloc(8, 1);
    if (size && data[0] == 's') copy[size == 5 ? 8 : 0] = 1;
    free((void *)copy);
    return 0;
}
"""


@pytest.fixture
def program(tmp_path):
    """Plant a program for libFuzzer."""
    (tmp_path / "ext").mkdir()
    (tmp_path / "tests/fuzz/corpus/head").mkdir()
    (tmp_path / "tests/fuzz/corpus/head/seed").write_bytes(b"seed")
    return tmp_path / "ext/fuzz_heads.c"


@pytest.mark.skipif(not shutil.which("clang"), reason="libFuzzer comes with clang")
def test_what_a_program_finds(fuzz, program):
    program.write_text(PLANTED_IN_C)
    result = fuzz(PLANTED, "--seconds", "20", "fuzz_heads")
    assert result.returncode == 1, result.stdout + result.stderr
    assert re.search(r"^fuzz_heads ", result.stdout, re.MULTILINE)
    assert "AddressSanitizer: heap-buffer-overflow" in result.stdout
    _, _, again = result.stdout.rstrip().rpartition("\n")
    assert "AddressSanitizer" in fuzz(PLANTED, *again.split()[3:]).stderr
    program.write_text(PLANTED_IN_C.replace("size == 5", "size == 4096"))
    assert fuzz(PLANTED, *again.split()[3:]).returncode == 0
    result = fuzz(PLANTED, "--seconds", "1", "fuzz_heads")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.endswith("nothing found\n")
    assert "edges" in result.stdout


def test_without_clang_no_program_runs(fuzz, program, monkeypatch):
    program.write_text(PLANTED_IN_C)
    monkeypatch.setenv("PATH", "")
    result = fuzz(PLANTED, "--hypothesis", "--seconds", "1", "fuzz_heads")
    assert (result.returncode, result.stdout) == (0, "there is no clang: not run are fuzz_heads\n")


def test_a_target_that_is_none(fuzz):
    result = fuzz(PLANTED, "no-such")
    assert result.returncode == 2
    assert result.stderr.endswith("no such target: no-such; there are planted\n")
