"""Autobahn's cases for WebSocket servers, the TestSuite's own files run by kosoku, against any address.

Kosoku runs in a process of its own: it puts shims of Python 2 modules into its interpreter.
"""

import json
import subprocess
import sys
from collections.abc import Iterable
from typing import NamedTuple

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
    [one.case_id, one.behavior.value, one.result, one.behavior_close.value, one.result_close, one.dropped_by_me]
    for one in results
]), flush=True)
os._exit(0)  # its threads may abort the interpreter's own end
"""


class Result(NamedTuple):
    case: str
    behavior: str
    result: str
    close: str
    result_close: str
    dropped: bool  # by the TestSuite, which waits no longer: a second, for the most part

    @property
    def good(self) -> bool:
        return self.behavior in GOOD and self.close in GOOD_CLOSE


def results(url: str, cases: Iterable[str], timeout: float) -> list[Result]:
    ran = subprocess.run([sys.executable, "-c", RUN, url, *cases], capture_output=True, text=True, timeout=timeout)
    assert ran.returncode == 0, ran.stderr
    return [Result(*one) for one in json.loads(ran.stdout.splitlines()[-1])]


def run(url: str, *cases: str, count: int, timeout: float) -> None:
    """All *cases* are good. What was not waited for is tried once more: the machine may have been busy."""
    first = results(url, cases, timeout)
    assert len(first) == count
    bad = [one for one in first if not one.good]
    if bad and all(one.dropped for one in bad):
        bad = [one for one in results(url, [one.case for one in bad], timeout) if not one.good]
    assert not bad, "\n".join(map(str, bad))


def numbered(section: str, numbers: Iterable[int]) -> list[str]:
    return [f"{section}.{number}" for number in numbers]
