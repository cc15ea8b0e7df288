"""Autobahn's cases for WebSocket servers, the TestSuite's own files run by kosoku, against any address.

Kosoku runs in a process of its own: it puts shims of Python 2 modules into its interpreter.
"""

import json
import subprocess
import sys
from collections.abc import Iterable

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


def run(url: str, *cases: str, count: int, timeout: float) -> None:
    ran = subprocess.run([sys.executable, "-c", RUN, url, *cases], capture_output=True, text=True, timeout=timeout)
    assert ran.returncode == 0, ran.stderr
    results = json.loads(ran.stdout.splitlines()[-1])
    bad = [
        f"{case}: {behavior} ({result}), close {close} ({result_close})"
        for case, behavior, result, close, result_close in results
        if behavior not in GOOD or close not in GOOD_CLOSE
    ]
    assert not bad, "\n".join(bad)
    assert len(results) == count


def numbered(section: str, numbers: Iterable[int]) -> list[str]:
    return [f"{section}.{number}" for number in numbers]
