"""Autobahn's cases for WebSocket servers, the TestSuite's own files run by kosoku, against the echo example.

Kosoku runs in a process of its own: it puts shims of Python 2 modules into its interpreter. With SLOW=1 all 517 cases
are run, else two thirds of those of permessage-deflate are left out, which take four minutes on two cores.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}
GOOD_CLOSE = {"OK", "INFORMATIONAL"}

# How many cases each section has: a run of fewer is not a pass.
SECTIONS = {
    "1.*": 16, "2.*": 11, "3.*": 7, "4.*": 10, "5.*": 20, "6.*": 145, "7.*": 37, "10.*": 1, "9.*": 54,
}  # fmt: skip
# permessage-deflate: five kinds of content, and seven of offers. Each has 18 cases of 1000 messages, by size, and then
# in fragments by size. Up to 4 KiB, and 8 KiB in fragments, they take a second or two; 128 KiB take up to 50.
DEFLATE_SECTIONS = [*(f"12.{number}" for number in range(1, 6)), *(f"13.{number}" for number in range(1, 8))]
SMALL = (1, 2, 3, 4, 5, 11)
LARGE = (6, 7, 8, 9, 10, 12, 13, 14, 15, 16, 17, 18)

RUN = """
import asyncio, json, os, sys
import kosoku
address, *cases = sys.argv[1:]
try:
    results = asyncio.run(kosoku.run_fuzzingclient(address, cases, concurrency=4))
except kosoku.FailureError as failure:
    results = failure.results or sys.exit(str(failure))
print(json.dumps([
    [one.case_id, one.behavior.value, one.result, one.behavior_close.value, one.result_close] for one in results
]), flush=True)
os._exit(0)  # its threads may abort the interpreter's own end
"""


@pytest.fixture(scope="module")
def echo(module_gate):
    return module_gate("echo:app", chdir=EXAMPLES)


def run(echo, *cases: str, count: int, timeout: float) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", RUN, echo.ws_url, *cases], capture_output=True, text=True, timeout=timeout
    )
    assert ran.returncode == 0, ran.stderr
    results = json.loads(ran.stdout.splitlines()[-1])
    bad = [
        f"{case}: {behavior} ({result}), close {close} ({result_close})"
        for case, behavior, result, close, result_close in results
        if behavior not in GOOD or close not in GOOD_CLOSE
    ]
    assert not bad, "\n".join(bad)
    assert len(results) == count


@pytest.mark.parametrize("section", SECTIONS)
def test_section(echo, section):
    run(echo, section, count=SECTIONS[section], timeout=100)


@pytest.mark.timeout(620)
@pytest.mark.parametrize("section", DEFLATE_SECTIONS)
@pytest.mark.parametrize("cases", [SMALL, pytest.param(LARGE, marks=pytest.mark.slow)], ids=["small", "large"])
def test_deflate_section(echo, section, cases):
    run(echo, *(f"{section}.{number}" for number in cases), count=len(cases), timeout=600)


def test_the_sections_are_whole():
    assert sorted(SMALL + LARGE) == list(range(1, 19))
    assert sum(SECTIONS.values()) + len(DEFLATE_SECTIONS) * len(SMALL + LARGE) == 247 + 54 + 216 == 517
