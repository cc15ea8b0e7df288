"""Autobahn's cases for WebSocket servers, the TestSuite's own files run by kosoku, against the echo example.

Kosoku runs in a process of its own: it puts shims of Python 2 modules into its interpreter.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}
GOOD_CLOSE = {"OK", "INFORMATIONAL"}

# How many cases each section has: a run of fewer is not a pass. 12 and 13 are permessage-deflate.
SECTIONS = {
    "1.*": 16, "2.*": 11, "3.*": 7, "4.*": 10, "5.*": 20, "6.*": 145, "7.*": 37, "10.*": 1, "9.*": 54,
}  # fmt: skip

RUN = """
import asyncio, json, os, sys
import kosoku
address, section = sys.argv[1:]
try:
    results = asyncio.run(kosoku.run_fuzzingclient(address, [section], concurrency=4))
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


@pytest.mark.parametrize("section", SECTIONS)
def test_section(echo, section):
    ran = subprocess.run([sys.executable, "-c", RUN, echo.ws_url, section], capture_output=True, text=True, timeout=100)
    assert ran.returncode == 0, ran.stderr
    results = json.loads(ran.stdout.splitlines()[-1])
    bad = [
        f"{case}: {behavior} ({result}), close {close} ({result_close})"
        for case, behavior, result, close, result_close in results
        if behavior not in GOOD or close not in GOOD_CLOSE
    ]
    assert not bad, "\n".join(bad)
    assert len(results) == SECTIONS[section]


def test_the_sections_are_whole():
    assert sum(SECTIONS.values()) == 247 + 54
