"""Autobahn's cases against the echo example, carried over HTTP/2 by a bridge: on one connection that all cases share,
and on fresh ones.

Four ways meet both engines, cleartext and TLS. The cases of sections 1 to 7 and 10 go all of them; of the longer
sections each goes one. With SLOW=1 all go everywhere, but large permessage-deflate: once on a shared connection, and
once on fresh ones.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conformance.autobahn import DEFLATE_SECTIONS, LARGE, SECTIONS, SMALL, numbered, run

ROOT = Path(__file__).parents[2]
BRIDGE = ROOT / "tests" / "http2_bridge.py"
TIMEOUT = 115.0  # seconds: a case gives up after 100, and says which it was


class Way(NamedTuple):
    engine: str
    secure: bool
    shared: bool

    def __str__(self) -> str:
        return f"{self.engine}-{'tls' if self.secure else 'cleartext'}-{'shared' if self.shared else 'fresh'}"


# A way's neighbour has the other engine or the other layer, and always the other kind of connection.
WAYS = [Way("h2", False, True), Way("ngh2", False, False), Way("ngh2", True, True), Way("h2", True, False)]
SHORT = [section for section in SECTIONS if section != "9.*"]
LONG = {"9.1.*": 6, "9.2.*": 6, "9.3.*": 9, "9.4.*": 9, "9.5.*": 6, "9.6.*": 6, "9.7.*": 6, "9.8.*": 6}


def turns(sections: Sequence[str]) -> list[object]:
    """Each section in each way, which is slow in all but one."""
    return [
        pytest.param(section, way, marks=[] if number % len(WAYS) == turn else pytest.mark.slow, id=f"{section}-{way}")
        for number, section in enumerate(sections)
        for turn, way in enumerate(WAYS)
    ]


def pairs(sections: Sequence[str]) -> list[object]:
    """Each section in two ways, a shared one and one that is not."""
    chosen = [(section, WAYS[(number + more) % 4]) for number, section in enumerate(sections) for more in (0, 1)]
    return [pytest.param(section, way, id=f"{section}-{way}") for section, way in chosen]


@pytest.fixture(scope="module")
def bridge(module_gate, authority, tmp_path_factory) -> Iterator[Callable[[Way], tuple[str, Path]]]:
    """Gives the URL of a bridge, which is started when it is first asked for, and the file of its complaints."""
    folder = tmp_path_factory.mktemp("bridge")
    pair = authority.issue("localhost", "127.0.0.1")
    started: dict[Way, tuple[str, Path]] = {}

    def start(way: Way) -> tuple[str, Path]:
        layer = ["--certfile", pair.certfile, "--keyfile", pair.keyfile] if way.secure else ["--h2c"]
        echo = module_gate("echo:app", *layer, "--http2-engine", way.engine, chdir=ROOT / "examples")
        command = [sys.executable, str(BRIDGE), "--to", f"{echo.host}:{echo.port}"]
        command += ["--ca-certs", authority.ca_certs] if way.secure else []
        command += ["--shared"] if way.shared else []
        complaints = folder / str(way)
        with complaints.open("wb") as errors:
            process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True))
        stack.callback(process.terminate)
        assert process.stdout is not None
        port = process.stdout.readline().strip()
        assert port, complaints.read_text()
        return f"ws://127.0.0.1:{port}", complaints

    def bridge(way: Way) -> tuple[str, Path]:
        if way not in started:
            started[way] = start(way)
        return started[way]

    with ExitStack() as stack:
        yield bridge


def carried(bridge: tuple[str, Path], *cases: str, count: int, timeout: float) -> None:
    url, complaints = bridge
    before = complaints.stat().st_size
    run(url, *cases, count=count, timeout=timeout)
    assert complaints.read_text()[before:] == ""


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_short_sections(bridge, way):
    carried(bridge(way), *SHORT, count=sum(SECTIONS[section] for section in SHORT), timeout=TIMEOUT)


@pytest.mark.parametrize(("section", "way"), turns(list(LONG)))
def test_long_section(bridge, section, way):
    carried(bridge(way), section, count=LONG[section], timeout=TIMEOUT)


@pytest.mark.parametrize(("section", "way"), turns(DEFLATE_SECTIONS))
def test_deflate_section(bridge, section, way):
    carried(bridge(way), *numbered(section, SMALL), count=len(SMALL), timeout=TIMEOUT)


@pytest.mark.slow
@pytest.mark.timeout(920)
@pytest.mark.parametrize(("section", "way"), pairs(DEFLATE_SECTIONS))
def test_large_deflate_section(bridge, section, way):
    carried(bridge(way), *numbered(section, LARGE), count=len(LARGE), timeout=900)


def test_the_sections_are_whole():
    assert sum(LONG.values()) == SECTIONS["9.*"]
    assert [(one.shared, two.shared) for one, two in zip(WAYS, WAYS[1:] + WAYS[:1], strict=True)] == [
        (True, False),
        (False, True),
    ] * 2
