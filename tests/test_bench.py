"""What the benchmark says of what it measured, and the C programs that measure: those that need no peer."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).parent.parent / "bench"
sys.path.append(str(BENCH))

import loads  # noqa: E402
import results  # noqa: E402
from loads import Wrong  # noqa: E402
from results import LIMIT, OURS, Target, Verdict  # noqa: E402

ORDER = ["hello", "POST 10 KB", "idle connection"]


def row(server: str, median: float, **more: Any) -> results.Row:
    return {"server": server, "version": "1", "note": "", "median": median, "failed": 0} | more


def measured(scenario: str, *rows: results.Row, date: str = "2026-01-01") -> results.Slice:
    return {"scenario": scenario, "unit": "µs", "date": date, "rows": list(rows)}


# --- slices


def test_a_slice_takes_the_place_of_its_scenario() -> None:
    old = [measured("POST 10 KB", date="1"), measured("hello", date="1"), measured("a scenario of the past")]
    merged = results.merge(old, measured("hello", date="2"), ORDER)
    assert [(each["scenario"], each["date"]) for each in merged] == [("hello", "2"), ("POST 10 KB", "1")]


def test_what_is_written_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "RESULTS", tmp_path / "results.json")
    assert results.read() == []
    results.write([measured("hello", row(OURS, 9.0))])
    assert results.read() == [measured("hello", row(OURS, 9.0))]


@pytest.mark.parametrize(
    ("rows", "best"),
    [
        ([row("a", 2.0), row("b", 1.0)], "b"),
        ([row("a", 2.0), row("b", 1.0, failed=1)], "a"),
        ([row("a", 2.0), row("b", 1.0, note="answers nothing under load")], "a"),
        ([row("a", 2.0), row(LIMIT, 0.5), row(OURS, 0.7), row("geventgate pure", 0.8)], "a"),
        ([row(OURS, 0.7), {"server": "a", "version": "", "note": "a is not installed"}], None),
    ],
)
def test_the_best_peer_is_sound_and_not_ours(rows: list[results.Row], best: str | None) -> None:
    found = results.best_peer(rows)
    assert (found and found["server"]) == best


HELLO = measured("hello", row(OURS, 9.0, p99_ms=3.0), row(LIMIT, 6.0), row("peer", 10.0, p99_ms=2.0))


@pytest.mark.parametrize(
    ("target", "figure", "met"),
    [
        (Target("hello", 1.5, LIMIT), 1.5, True),
        (Target("hello", 1.4, LIMIT), 1.5, False),
        (Target("hello", 1.0, "peer"), 0.9, True),
        (Target("hello", 1.0, "peer", "p99_ms"), 1.5, False),
        (Target("hello", 9.5), 9.0, True),
        (Target("hello", 1.0, "another"), None, False),
    ],
)
def test_a_target_is_met_or_not(target: Target, figure: float | None, met: bool) -> None:
    (verdict,) = results.verdicts([HELLO], [target])
    assert verdict == Verdict(target, figure)
    assert verdict.met is met


def test_a_target_is_not_met_by_answers_that_failed() -> None:
    slices = [measured("hello", row(OURS, 1.0, failed=3), row(LIMIT, 6.0))]
    assert list(results.verdicts(slices, [Target("hello", 1.2, LIMIT)])) == [Verdict(Target("hello", 1.2, LIMIT), None)]


def test_only_scenarios_that_were_measured_have_verdicts() -> None:
    assert list(results.verdicts([HELLO], [Target("POST 10 KB", 1.0, "peer")])) == []


# --- loads


def test_a_browser_sends_17_fields() -> None:
    head = loads.browser_request().decode().split("\r\n")
    assert head[0].startswith("GET /")
    assert head[-2:] == ["", ""]
    assert len({line.partition(": ")[0].lower() for line in head[1:-2]}) == len(head[1:-2]) == 17


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not shutil.which("gcc"):
        pytest.skip("there is no gcc")
    folder = tmp_path_factory.mktemp("built")
    for program in ("canned", "lockstep"):
        subprocess.run(["gcc", "-O1", "-o", folder / program, BENCH / f"{program}.c"], check=True)
    return folder


@pytest.fixture
def canned(built: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    with subprocess.Popen([built / "canned", str(port)]) as process:
        try:
            for _ in range(100):
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except ConnectionRefusedError:
                    time.sleep(0.05)
            yield port
        finally:
            process.kill()


def test_the_limit_answers_as_servers_do(canned: int) -> None:
    for check in (loads.HELLO, loads.POST, loads.LARGE, loads.UPLOAD):
        check(canned)


def test_an_answer_that_differs_is_found_out(canned: int) -> None:
    with pytest.raises(Wrong, match="wrong: 200"):
        loads.expect("/", b"another")(canned)


def test_lockstep_sends_what_it_is_given(built: Path, canned: int, tmp_path: Path) -> None:
    request = tmp_path / "request"
    request.write_bytes(loads.browser_request())
    for options in ([], [str(request)]):
        assert loads.hellos(0, str(built / "lockstep"), 2, *options)(canned, 1).requests > 0


@pytest.mark.parametrize("content", [b"", b"x" * 65537])
def test_lockstep_takes_no_request_that_is_empty_or_too_long(built: Path, tmp_path: Path, content: bytes) -> None:
    request = tmp_path / "request"
    request.write_bytes(content)
    with pytest.raises(Wrong, match="request"):
        loads.hellos(0, str(built / "lockstep"), 1, str(request))(1, 1)
