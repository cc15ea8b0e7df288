"""Fuzz each target for a bounded time: ``python tests/fuzz/fuzz.py [--seconds N] [TARGET...]``.

By atheris, which is guided by coverage; without it by hypothesis, which damages the seeds. Prints a line each. What is
found is kept in .fuzz/, and the exit status is 1; ``--replay FILE TARGET`` shows it again. New inputs that reach
something new are kept there too, for the next time.
"""

import argparse
import re
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
KEPT = ROOT / ".fuzz"
NAMES = [folder.name for folder in sorted((HERE / "corpus").iterdir())]
INSTRUMENTED = [
    "geventgate.protocol",
    "geventgate.gateway",
    "geventgate.server",
    "geventgate.settings",
    "geventgate.trust",
    "wsproto",
]
MAX_SIZE = 4096  # bytes of an input
SLOW = 10  # seconds after which one input is a finding
MEMORY = 1024  # MiB


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=int, default=60, help="for each target (60)")
    parser.add_argument("--replay", metavar="FILE", type=Path, help="examine this input only")
    parser.add_argument("--hypothesis", action="store_true", help="though there may be atheris")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(NAMES))
    options = parser.parse_args()
    if unknown := set(options.targets) - set(NAMES):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    if options.replay:
        if len(options.targets) != 1:
            parser.error("--replay wants the target that found it")
        replay(*options.targets, options.replay.read_bytes())
        print("nothing found")
        return 0
    if options.inside:
        (by_hypothesis if options.hypothesis else by_atheris)(*options.targets, options.seconds)
        return 0
    if not options.hypothesis and not find_spec("atheris"):
        print("atheris is not installed (pip install 'geventgate[fuzz]'): hypothesis damages the seeds instead")
        options.hypothesis = True
    return max([run(target, options.seconds, options.hypothesis) for target in options.targets or NAMES])


def run(target: str, seconds: int, hypothesis: bool) -> int:
    """Fuzz *target* in a process of its own and print a line; 1 when it found something."""
    began = time.monotonic()
    before = set(findings(target))
    (KEPT / target).mkdir(parents=True, exist_ok=True)
    child = [sys.executable, __file__, "--inside", "--seconds", str(seconds), *["--hypothesis"] * hypothesis, target]
    result = subprocess.run(child, capture_output=True, text=True, errors="replace")
    output = result.stdout + result.stderr
    took = time.monotonic() - began
    counts = re.findall(r"^#(\d+)\s", output, re.MULTILINE)
    print(f"{target:12} {took:4.0f} s {int(counts[-1]) if counts else 0:10,} inputs", end="  ")
    found = [path for path in findings(target) if path not in before]
    if result.returncode == 0 and not found:
        print("nothing found", flush=True)
        return 0
    print("FOUND" if found else f"FAILED with {result.returncode}")
    print("\n".join(line for line in output.splitlines() if line and not line.startswith(("INFO:", "#", "WARNING:"))))
    for path in found:
        print(f"again: {sys.executable} {HERE.relative_to(ROOT)}/fuzz.py --replay {path.relative_to(ROOT)} {target}")
    return 1


def findings(target: str) -> list[Path]:
    return sorted(KEPT.glob(f"{target}-*"))


def replay(target: str, data: bytes) -> None:
    from targets import examine

    examine(target, data)


def by_atheris(target: str, seconds: int) -> None:
    """The child's work: until the time is up, or something is found."""
    import atheris

    with atheris.instrument_imports(include=INSTRUMENTED):
        from targets import examine
    arguments = [
        __file__, str(KEPT / target), str(HERE / "corpus" / target), f"-dict={HERE / 'words.dict'}",
        f"-artifact_prefix={KEPT / target}-", f"-max_total_time={seconds}", f"-max_len={MAX_SIZE}",
        f"-timeout={SLOW}", f"-rss_limit_mb={MEMORY}",
    ]  # fmt: skip
    atheris.Setup(arguments, lambda data: examine(target, data))
    atheris.Fuzz()


def by_hypothesis(target: str, seconds: int) -> None:
    """The same."""
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import strategies as st
    from targets import examine

    seeds = [path.read_bytes() for path in sorted((HERE / "corpus" / target).iterdir())]
    words = re.findall(rb'"(.*)"', (HERE / "words.dict").read_bytes())
    words = [word.decode("unicode-escape").encode("latin-1") for word in words]
    until = time.monotonic() + seconds
    count, last = 0, b""

    @st.composite
    def damaged(draw: st.DrawFn) -> bytes:
        data = draw(st.sampled_from(seeds))
        for _ in range(draw(st.integers(0, 6))):
            at = draw(st.integers(0, len(data)))
            new = draw(st.one_of(st.sampled_from(words), st.binary(max_size=3), st.just(data[at : at + 40])))
            data = data[:at] + new + data[at + draw(st.integers(0, 8)) :]
        return data[:MAX_SIZE]

    @settings(max_examples=1000, deadline=None, database=None, suppress_health_check=list(HealthCheck),
              phases=[Phase.generate, Phase.shrink])  # fmt: skip
    @given(damaged())
    def once(data: bytes) -> None:
        nonlocal count, last
        count += 1
        last = data
        examine(target, data)

    try:
        while time.monotonic() < until:
            once()
    except BaseException:
        (KEPT / f"{target}-crash-hypothesis").write_bytes(last)  # the last one tried is the smallest
        raise
    finally:
        print(f"#{count} ")


if __name__ == "__main__":
    sys.exit(main())
