"""Fuzz each target for a bounded time: ``python tests/fuzz/fuzz.py [--seconds N] [TARGET...]``.

By atheris, which is guided by coverage; without it by hypothesis, which damages the seeds; and the programs in ext/ by
libFuzzer, where there is a clang. Prints a line each. What is found is kept in .fuzz/, and the exit status is 1;
``--replay FILE TARGET`` shows it again. New inputs that reach something new are kept there too, for the next time.

``--compiled FOLDER`` takes geventgate from there, compiled for atheris by clang (see the Makefile): coverage and
AddressSanitizer then reach what is native.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
KEPT = ROOT / ".fuzz"
NAMES = [folder.name for folder in sorted((HERE / "corpus").iterdir())]
PROGRAMS = {  # of ext/, and whose seeds they take
    name: seeds
    for name, seeds in {"fuzz_frames": "frames", "fuzz_heads": "head", "fuzz_responses": "response"}.items()
    if (ROOT / f"ext/{name}.c").exists()
}
SANITIZED = ["-g", "-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined"]
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
    parser.add_argument("--compiled", metavar="FOLDER", type=Path, help="examine what was compiled there")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    names = [*NAMES, *PROGRAMS]
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(names))
    options = parser.parse_args()
    if unknown := set(options.targets) - set(names):
        parser.error(f"no such target: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if options.replay:
        if len(options.targets) != 1:
            parser.error("--replay wants the target that found it")
        if options.targets[0] in PROGRAMS:
            return subprocess.call([build(*options.targets), options.replay])
        if options.compiled:
            command = [sys.executable, __file__, "--replay", options.replay, *options.targets]
            return subprocess.call(command, env=environment(options.compiled))
        replay(*options.targets, options.replay.read_bytes())
        print("nothing found")
        return 0
    if options.inside:
        (by_hypothesis if options.hypothesis else by_atheris)(*options.targets, options.seconds)
        return 0
    if not options.hypothesis and not find_spec("atheris"):
        print("atheris is not installed (pip install 'geventgate[fuzz]'): hypothesis damages the seeds instead")
        options.hypothesis = True
    wanted = options.targets or names
    if PROGRAMS and not shutil.which("clang"):
        print(f"there is no clang: not run are {', '.join(PROGRAMS)}")
        wanted = [target for target in wanted if target not in PROGRAMS]
    return max([run(target, options) for target in wanted], default=0)


def run(target: str, options: argparse.Namespace) -> int:
    """Fuzz *target* in a process of its own and print a line; 1 when it found something."""
    before = set(findings(target))
    (KEPT / target).mkdir(parents=True, exist_ok=True)
    again = f"{sys.executable} {HERE.relative_to(ROOT)}/fuzz.py"
    if target in PROGRAMS:
        child = [build(target), *libfuzzer_arguments(target, options.seconds)]
    else:
        child = [sys.executable, __file__, "--inside", "--seconds", str(options.seconds), target]
        child += ["--hypothesis"] * options.hypothesis
        again += f" --compiled {options.compiled}" if options.compiled else ""
    began = time.monotonic()
    compiled = None if target in PROGRAMS else options.compiled
    result = subprocess.run(child, capture_output=True, text=True, errors="replace", env=environment(compiled))
    output = result.stdout + result.stderr
    took = time.monotonic() - began
    counts = re.findall(r"^#(\d+)\s", output, re.MULTILINE)
    print(f"{target:14} {took:4.0f} s {int(counts[-1]) if counts else 0:12,} inputs", end="  ")
    if coverage := re.findall(r"\scov: (\d+)", output):
        print(f"{int(coverage[-1]):6,} edges", end="  ")
    found = [path for path in findings(target) if path not in before]
    if result.returncode == 0 and not found:
        print("nothing found", flush=True)
        return 0
    print("FOUND" if found else f"FAILED with {result.returncode}")
    print("\n".join(line for line in output.splitlines() if line and not line.startswith(("INFO:", "#", "WARNING:"))))
    for path in found:
        print(f"again: {again} --replay {path.relative_to(ROOT)} {target}")
    return 1


def environment(compiled: Path | None) -> dict[str, str]:
    """For what runs the compiled tree, or, without one, for anything else."""
    common = {**os.environ, "ASAN_OPTIONS": "quarantine_size_mb=64"}  # of 256, which counts as memory in use
    if compiled is None:
        return common
    import atheris

    # C++ comes with gevent: AddressSanitizer minds exceptions, and must have met the library that throws them.
    library = subprocess.check_output(["clang", "-print-file-name=libstdc++.so.6"], text=True).strip()
    return {
        **common,
        "PYTHONPATH": str(compiled.resolve()),
        "LD_PRELOAD": f"{atheris.path()}/asan_with_fuzzer.so {library}",
        "ASAN_OPTIONS": common["ASAN_OPTIONS"] + ":detect_leaks=0",  # Python keeps what it has to its end
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


def build(program: str) -> Path:
    """Compile a program of ext/."""
    KEPT.mkdir(exist_ok=True)
    made = KEPT / f"{program}.program"
    sources = [ROOT / f"ext/{program}.c", *(ROOT / "ext").glob("fuzz_portable.c")]
    subprocess.run(["clang", *SANITIZED, "-o", made, *sources], check=True)
    return made


def libfuzzer_arguments(target: str, seconds: int) -> list[str]:
    return [
        str(KEPT / target), str(HERE / "corpus" / PROGRAMS.get(target, target)), f"-dict={HERE / 'words.dict'}",
        f"-artifact_prefix={KEPT / target}-", f"-max_total_time={seconds}", f"-max_len={MAX_SIZE}",
        f"-timeout={SLOW}", f"-rss_limit_mb={MEMORY}",
    ]  # fmt: skip


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
    atheris.Setup([__file__, *libfuzzer_arguments(target, seconds)], lambda data: examine(target, data))
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
