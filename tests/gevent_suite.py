"""gevent's own tests of ``gevent.pywsgi.WSGIServer``, run with ours in its place.

``python gevent_suite.py [NAME ...]`` prints a JSON object: each test's name (Class.test) and how it ended, "" for
passed. It is a program of its own: gevent's tests patch everything, and look at what is left in the hub.
"""

import json
import re
import sys
import unittest
from importlib.util import find_spec
from types import ModuleType
from typing import Any

SUITE = "gevent.tests.test__pywsgi"


def load_suite() -> ModuleType:
    """gevent's module. Some of its requests say no Host, and ours refuses those (RFC 9112 §3.2): it is added."""
    spec = find_spec(SUITE)
    assert spec is not None
    assert spec.origin is not None
    with open(spec.origin, encoding="utf-8") as file:
        source = re.sub(r"HTTP/1\.1\\r\\n(?!Host|['\"])", r"HTTP/1.1\\r\\nHost: localhost\\r\\n", file.read())
    module = ModuleType(SUITE)
    module.__file__ = spec.origin
    sys.modules[SUITE] = module
    exec(compile(source, spec.origin, "exec"), vars(module))
    return module


suite = load_suite()  # which patches everything

from geventgate.pywsgi import WSGIServer  # noqa: E402


class WSGIServerUnderTest(WSGIServer):
    """The handlers of these tests are pywsgi's, with small changes. With them gevent's code would be tested."""

    def __init__(self, *arguments: Any, handler_class: Any = None, **more: Any) -> None:
        super().__init__(*arguments, **more)


class Result(unittest.TestResult):
    def __init__(self) -> None:
        super().__init__()
        self.ends: dict[str, str] = {}

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.ends[name(test)] = ""

    def addFailure(self, test: unittest.TestCase, error: Any) -> None:
        self._failed(test, error)

    addError = addFailure

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        self.ends[name(test)] = f"skipped: {reason}"

    def _failed(self, test: unittest.TestCase, error: Any) -> None:
        self.ends[name(test)] += self._exc_info_to_string(error, test)


def name(test: unittest.TestCase) -> str:
    return test.id().removeprefix(f"{SUITE}.")


def refuse(*_: object) -> None:
    raise AssertionError("gevent's own handler was called")


def main(names: list[str]) -> None:
    suite.pywsgi.WSGIServer = WSGIServerUnderTest
    suite.pywsgi.WSGIHandler.handle = refuse
    loader = unittest.defaultTestLoader
    tests = loader.loadTestsFromNames(names, suite) if names else loader.loadTestsFromModule(suite)
    result = Result()
    tests.run(result)
    json.dump(result.ends, sys.stdout, indent=1)


if __name__ == "__main__":
    main(sys.argv[1:])
