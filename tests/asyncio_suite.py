"""CPython's own tests of asyncio, ``test.test_asyncio``, run on GeventLoop.

``python asyncio_suite.py [--patched] MODULE [NAME ...]`` prints a JSON object: each test's name (Class.test) and how it
ended, "" for passed. It is a program of its own: these tests set policies, and look for threads that are left.
"""

import asyncio
import json
import re
import sys
import unittest
from importlib import import_module
from types import ModuleType
from typing import Any

PATCHED = "--patched" in sys.argv
if PATCHED:
    sys.argv.remove("--patched")
    from gevent import monkey

    monkey.patch_all()

from geventgate.aio import GeventLoop, GeventLoopPolicy  # noqa: E402

SIGCHLD = "these watchers want SIGCHLD, which is gevent's in a patched process; deprecated, gone from Python 3.14"
CLOSE = "gevent's os.close() closes after the hub's next event, and here none comes before the other end's end of file"

# Test (or class) and why it does not apply.
EXCLUDED = {
    "RunTests.test_loop_factory_default_event_loop": "it asks for asyncio's own loop by name (Python 3.13)",
}
EXCLUDED_PATCHED = {
    "StreamTests.test_read_all_from_pipe_reader": SIGCHLD,
    "SelectEventLoopTests.test_read_pipe": CLOSE,
    "SubprocessSafeWatcherTests": SIGCHLD,
    "SubprocessFastWatcherTests": SIGCHLD,
    "SubprocessMultiLoopWatcherTests": SIGCHLD,
}


def load_suite(name: str) -> ModuleType:
    """One of CPython's modules, whose loops are ours."""
    asyncio.DefaultEventLoopPolicy = GeventLoopPolicy  # the tests set the policy to None, which is this
    asyncio.set_event_loop_policy(None)
    asyncio.SelectorEventLoop = GeventLoop  # type: ignore[misc]
    module = import_module(f"test.test_asyncio.{name}")
    # The same tests for each selector: once is enough.
    for selector in ("EPoll", "Poll", "Kqueue"):
        vars(module).pop(f"{selector}EventLoopTests", None)
    if hasattr(module, "SelectEventLoopTests"):
        module.SelectEventLoopTests.create_event_loop = lambda _: GeventLoop()
    exclude(module, EXCLUDED)
    if PATCHED:
        exclude(module, EXCLUDED_PATCHED)
    return module


def exclude(module: ModuleType, table: dict[str, str]) -> None:
    for name, reason in table.items():
        class_name, _, test = name.partition(".")
        case = getattr(module, class_name, None)
        skip = unittest.skip(f"excluded: {reason}")
        if test and hasattr(case, test):
            setattr(case, test, skip(getattr(case, test)))
        elif case is not None and not test:
            skip(case)


class Result(unittest.TestResult):
    def __init__(self, module: ModuleType) -> None:
        super().__init__()
        self.ends: dict[str, str] = {}
        self._prefix = f"{module.__name__}."

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.ends[self._name(test)] = ""

    def addFailure(self, test: unittest.TestCase, error: Any) -> None:
        self._failed(test, error)

    addError = addFailure

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, error: Any) -> None:
        if error is not None:
            self._failed(test, error)

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self.ends[self._name(test)] = f"skipped: {reason}"

    def _failed(self, test: unittest.TestCase, error: Any) -> None:
        name = self._name(test)
        self.ends[name] = self.ends.get(name, "") + self._exc_info_to_string(error, test)

    def _name(self, test: unittest.TestCase) -> str:
        return re.sub(r"<.*", "<subtest>", test.id().removeprefix(self._prefix))


def main(module_name: str, *names: str) -> None:
    module = load_suite(module_name)
    loader = unittest.defaultTestLoader
    tests = loader.loadTestsFromNames(names, module) if names else loader.loadTestsFromModule(module)
    result = Result(module)
    tests.run(result)
    json.dump(result.ends, sys.stdout, indent=1)


if __name__ == "__main__":
    main(*sys.argv[1:])
