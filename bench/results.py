"""What was measured: a slice for each scenario, in which the servers took turns; and what we aim at.

bench/results.json holds the newest slice of each scenario, with its own date, commit and load average: figures of one
slice may be compared, those of two only by their ratios. Knows no server and no load.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

RESULTS = Path(__file__).with_name("results.json")
OURS = "geventgate"  # compiled; HTTP/2 by ngh2
OURS_PURE = "geventgate pure"  # as it installs without a compiler
OURS_H2 = "geventgate h2"  # the same; HTTP/2 by h2, which is always there
ALL_OURS = (OURS, OURS_PURE, OURS_H2)
LIMIT = "C"

Row = dict[str, Any]  # a server's
Slice = dict[str, Any]


def read() -> list[Slice]:
    return list(json.loads(RESULTS.read_text())) if RESULTS.exists() else []


def merge(old: Iterable[Slice], new: Slice, order: Sequence[str]) -> list[Slice]:
    """*new* in place of the slice of its scenario; in *order* of scenarios, without those that are no more."""
    slices = {each["scenario"]: each for each in (*old, new)}
    return [slices[name] for name in order if name in slices]


def write(slices: list[Slice]) -> None:
    RESULTS.write_text(json.dumps(slices, indent=1, ensure_ascii=False) + "\n")


def row(rows: Iterable[Row], server: str) -> Row | None:
    """*server*'s, if it was measured and failed nothing."""
    return next((each for each in rows if each["server"] == server and sound(each)), None)


def sound(each: Row) -> bool:
    return "median" in each and not each["failed"] and not each["note"]


def best_peer(rows: Iterable[Row]) -> Row | None:
    peers = [each for each in rows if sound(each) and each["server"] not in (*ALL_OURS, LIMIT)]
    return min(peers, key=lambda each: each["median"], default=None)


class Target(NamedTuple):
    """*figure* of ours is to be at most *most* times *server*'s; without a server, at most *most*."""

    scenario: str
    most: float
    server: str = ""
    figure: str = "median"


class Verdict(NamedTuple):
    target: Target
    measured: float | None  # in what the target's *most* is; None: not measured

    @property
    def met(self) -> bool:
        return self.measured is not None and self.measured <= self.target.most


TARGETS = (
    Target("hello", 1.2, LIMIT),
    Target("hello", 1.0, "fastwsgi"),
    Target("hello", 1.0, "bjoern"),
    Target("browser's head, lockstep", 0.7, "fastwsgi"),
    Target("browser's head, lockstep", 0.7, "bjoern"),
    Target("hello, 1000 connections", 1.0, "fastwsgi"),
    Target("hello, 1000 connections", 1.0, "bjoern"),
    Target("hello, 1000 connections", 1.0, "bjoern", "p99_ms"),
    Target("POST 10 KB", 1.0, "fastwsgi"),
    Target("1 MB response", 1.0, "fastwsgi"),
    Target("1 MB response", 1.0, "socketify"),
    Target("1 MB upload", 1.0, "fastwsgi"),
    Target("1 MB upload", 1.0, "socketify"),
    Target("new connection each", 1.25, "bjoern"),
    Target("HTTP/2 hello (h2c)", 0.8, "granian asgi"),
    Target("HTTP/2 hello (TLS)", 0.8, "granian asgi"),
    Target("HTTP/2 POST 1 KB (h2c)", 0.8, "granian asgi"),
    Target("HTTP/2 POST 1 KB (TLS)", 0.8, "granian asgi"),
    Target("WebSocket 32 B", 1.0, "picows"),
    Target("WebSocket 16 KB", 1.0, "picows"),
    Target("idle connection", 1_000),
    Target("idle WebSocket", 10_000),
)


def verdicts(slices: Iterable[Slice], targets: Iterable[Target] = TARGETS) -> Iterator[Verdict]:
    """Of the targets whose scenario was measured."""
    rows = {each["scenario"]: each["rows"] for each in slices}
    for target in targets:
        if target.scenario in rows:
            ours = row(rows[target.scenario], OURS)
            theirs = row(rows[target.scenario], target.server)
            if ours is None or (target.server and theirs is None):
                yield Verdict(target, None)
            else:
                yield Verdict(target, ours[target.figure] / (theirs[target.figure] if theirs else 1))
