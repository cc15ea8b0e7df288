"""Autobahn's cases against the echo example, over HTTP/1.1.

With SLOW=1 all 517 cases are run, else two thirds of those of permessage-deflate are left out, which take four minutes
on two cores.
"""

from pathlib import Path

import pytest

from tests.conformance.autobahn import DEFLATE_SECTIONS, LARGE, SECTIONS, SMALL, numbered, run

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def echo(module_gate):
    return module_gate("echo:app", chdir=EXAMPLES)


@pytest.mark.parametrize("section", SECTIONS)
def test_section(echo, section):
    run(echo.ws_url, section, count=SECTIONS[section], timeout=100)


@pytest.mark.timeout(620)
@pytest.mark.parametrize("section", DEFLATE_SECTIONS)
@pytest.mark.parametrize("cases", [SMALL, pytest.param(LARGE, marks=pytest.mark.slow)], ids=["small", "large"])
def test_deflate_section(echo, section, cases):
    run(echo.ws_url, *numbered(section, cases), count=len(cases), timeout=600)


def test_the_sections_are_whole():
    assert sorted(SMALL + LARGE) == list(range(1, 19))
    assert sum(SECTIONS.values()) + len(DEFLATE_SECTIONS) * len(SMALL + LARGE) == 247 + 54 + 216 == 517
