"""asyncio on gevent's hub. Each case is a program of its own, run as it is and monkey-patched: loops, policies, signals
and forks are the whole process's. What it prints is what it says."""

import json
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
TIMEOUT = 30  # seconds for a program

PATCH = "from gevent import monkey\nmonkey.patch_all()\n"
BEGIN = """
import asyncio, contextvars, os, signal, socket, ssl, sys, threading, time
import gevent
from gevent.hub import get_hub
from geventgate import aio
from geventgate.aio import GeventLoop, run_async, run_blocking

aio.install()
native_threads = get_hub().threadpool
"""
# gevent does when it has forked, and misses a child that has ended by then.
BEFORE_FORK = "get_hub().loop.install_sigchld()\n"
plain_and_patched = pytest.mark.parametrize("patch", ["", PATCH], ids=["plain", "patched"])


def run(program: str, patch: str = "", *, stderr: str = "", options: tuple[str, ...] = ()) -> str:
    """What *program* prints. On standard error it writes what has *stderr* in it, or nothing."""
    source = patch + BEGIN + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, *options, "-c", source], capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.returncode == 0, done.stderr
    if stderr:
        assert stderr in done.stderr
    else:
        assert done.stderr == ""
    return done.stdout.strip()


# --- loops and greenlets


@plain_and_patched
def test_greenlets_run_while_coroutines_wait(patch: str) -> None:
    program = """
    ticks = []
    ticker = gevent.spawn(lambda: [(ticks.append(1), gevent.sleep(0.01)) for _ in range(5)])
    asyncio.run(asyncio.sleep(0.1))
    print(len(ticks))
    """
    assert run(program, patch) == "5"


@plain_and_patched
def test_four_run_at_once(patch: str) -> None:
    program = """
    async def main(number):
        await asyncio.sleep(0.1)
        return number

    begin = time.perf_counter()
    greenlets = [gevent.spawn(asyncio.run, main(number)) for number in range(4)]
    print([greenlet.get() for greenlet in greenlets], time.perf_counter() - begin < 0.35)
    """
    assert run(program, patch) == "[0, 1, 2, 3] True"


@plain_and_patched
def test_a_loop_is_not_visible_in_another_greenlet(patch: str) -> None:
    """At each switch: where the loop is, or the task, only a Runner goes on."""
    program = """
    from asyncio import tasks
    from greenlet import getcurrent, settrace

    wrong, switches = [], [0]

    def look(event, args):
        switches[0] += 1
        loop = asyncio._get_running_loop()
        if not isinstance(args[1], aio.Runner):
            if loop is not None or tasks._current_tasks or sys.get_asyncgen_hooks().finalizer is not None:
                wrong.append((event, args, loop))

    async def numbers():
        for number in range(3):
            await asyncio.sleep(0)
            yield number

    async def main(number):
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        for _ in range(5):
            await asyncio.sleep(0.001 * (number % 3))
            gevent.sleep(0.001 * (number % 2))  # as a blocking call
            assert [one async for one in numbers()] == [0, 1, 2]
            assert await run_blocking(gevent.sleep, 0.001) is None
            assert (asyncio.get_running_loop(), asyncio.current_task()) == (loop, task)
            await asyncio.to_thread(time.sleep, 0.001)
        return number

    settrace(look)
    greenlets = [gevent.spawn(asyncio.run if n % 2 else run_async, main(n)) for n in range(8)]
    print([greenlet.get() for greenlet in greenlets], wrong, switches[0] > 100)
    settrace(None)
    """
    assert run(program, patch) == "[0, 1, 2, 3, 4, 5, 6, 7] [] True"


@plain_and_patched
def test_a_coroutine_reads_from_a_connection_itself(patch: str) -> None:
    """As from a WebSocket: by the server's switches, which pass gevent's hub by."""
    program = """
    from geventgate.server.selector import Reader
    from geventgate.server.switching import ready_of

    seen, ready = [], ready_of(get_hub())

    async def main():
        loop = asyncio.get_running_loop()
        reader = Reader()
        gevent.spawn(lambda: (seen.append(asyncio._get_running_loop()), ready.add(reader)))
        ready.wait(reader)
        return asyncio.get_running_loop() is loop

    print(asyncio.run(main()), seen)
    """
    assert run(program, patch) == "True [None]"


@plain_and_patched
def test_a_timeout_ends_the_loop(patch: str) -> None:
    """While the coroutine awaits, and while it blocks and takes what is thrown for itself."""
    program = """
    async def waits():
        try:
            await asyncio.sleep(10)
        finally:
            print("cleaned up")

    async def blocks():
        try:
            gevent.sleep(10)
        except BaseException as error:
            print("thrown into it:", type(error).__name__)
        return "swallowed"

    for main in waits, blocks:
        try:
            with gevent.Timeout(0.05):
                print(asyncio.run(main()))
        except gevent.Timeout:
            print("Timeout")
    """
    assert run(program, patch).splitlines() == ["cleaned up", "Timeout", "thrown into it: Timeout", "Timeout"]


@plain_and_patched
def test_a_greenlet_is_killed(patch: str) -> None:
    program = """
    async def main():
        try:
            await asyncio.sleep(10)
        finally:
            print("cleaned up")

    for run in asyncio.run, run_async:
        greenlet = gevent.spawn(run, main())
        gevent.sleep(0.02)
        greenlet.kill()
        gevent.sleep(0.02)
        print(greenlet.dead, type(greenlet.value).__name__)
    """
    assert run(program, patch).splitlines() == ["cleaned up", "True GreenletExit"] * 2


def test_a_loop_is_not_run_in_the_hub() -> None:
    program = """
    def call():
        loop = asyncio.new_event_loop()
        try:
            loop.run_forever()
        except BaseException as error:
            print(type(error).__name__)
        loop.close()

    get_hub().loop.run_callback(call)
    gevent.sleep(0.01)
    """
    assert run(program) == "BlockingSwitchOutError"


def test_a_loop_runs_once_at_a_time() -> None:
    program = """
    loop = asyncio.new_event_loop()
    first = gevent.spawn(loop.run_until_complete, asyncio.sleep(0.05, "first"))
    second = gevent.spawn(loop.run_forever)
    second.join()
    print(second.exception, "|", first.get())
    loop.close()
    """
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=True,
    )
    assert done.stdout.strip() == "This event loop is already running | first"


def test_greenlets_have_their_turn_beside_a_busy_loop() -> None:
    program = """
    turns = []
    ticker = gevent.spawn(lambda: [(turns.append(1), gevent.sleep(0.001)) for _ in range(1000)])

    async def main():
        end = time.perf_counter() + 0.1
        while time.perf_counter() < end:
            await asyncio.sleep(0)

    asyncio.run(main())
    print(4 <= len(turns) <= 40)  # one each 5 ms, or when the machine is busy
    """
    assert run(program) == "True"


def test_a_loop_that_is_closed_leaves_no_descriptor() -> None:
    program = """
    async def main():
        asyncio.get_running_loop().call_later(10, print)
        asyncio.get_running_loop().call_soon(lambda: None)

    asyncio.run(main())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        asyncio.run(main())
    print(len(os.listdir("/proc/self/fd")) - before)
    """
    assert run(program) == "0"


# --- run_async and run_blocking


@plain_and_patched
def test_run_async(patch: str) -> None:
    program = """
    variable = contextvars.ContextVar("variable", default="default")

    async def main():
        seen = variable.get()
        variable.set("a task's")
        await asyncio.sleep(0.01)
        return seen

    def view():
        variable.set("a greenlet's")
        return run_async(main()), variable.get()

    async def fails():
        raise ValueError("from a coroutine")

    print(gevent.spawn(view).get(), run_async(asyncio.sleep(0, "at once")))
    try:
        run_async(fails())
    except ValueError as error:
        print(error)
    """
    assert run(program, patch).splitlines() == ['("a greenlet\'s", "a greenlet\'s") at once', "from a coroutine"]


@plain_and_patched
def test_run_async_is_refused_in_a_coroutine(patch: str) -> None:
    program = """
    async def main():
        try:
            run_async(asyncio.sleep(0))
        except RuntimeError as error:
            return str(error)

    print(run_async(main()) == asyncio.run(main()), run_async(main()))
    """
    assert run(program, patch) == ("True run_async() was called in a coroutine, whose loop it would block: await there")


@plain_and_patched
def test_what_a_task_leaves_lives_on(patch: str) -> None:
    program = """
    async def forever():
        while True:
            await asyncio.sleep(0.01)
            ticks.append(1)

    async def start():
        global task  # the loop does not keep it
        task = asyncio.create_task(forever())

    ticks = []
    run_async(start())
    gevent.sleep(0.1)
    print(len(ticks) > 3)
    """
    assert run(program, patch) == "True"


def test_the_loop_of_all_goes_on_after_an_exception() -> None:
    program = """
    async def leaves():
        raise SystemExit(3)

    try:
        run_async(leaves())
    except SystemExit as error:
        print(error.code, run_async(asyncio.sleep(0.01, "goes on")))
    """
    assert run(program, stderr="an exception in the loop, not in a task") == "3 goes on"


@plain_and_patched
def test_run_blocking(patch: str) -> None:
    program = """
    variable = contextvars.ContextVar("variable", default="default")

    def block(name):
        gevent.sleep(0.05)
        assert asyncio._get_running_loop() is None
        return name + variable.get()

    def fails():
        raise ValueError("from a greenlet")

    def killed():
        try:
            gevent.sleep(10)
        finally:
            print("killed")

    async def main():
        variable.set("!")
        begin = time.perf_counter()
        print(await asyncio.gather(*[run_blocking(block, name) for name in "abc"]), time.perf_counter() - begin < 0.14)
        for function in fails, lambda: next(iter([])):
            try:
                await run_blocking(function)
            except Exception as error:
                print(repr(error))
        try:
            async with asyncio.timeout(0.02):
                await run_blocking(killed)
        except TimeoutError:
            print("TimeoutError")
        await asyncio.sleep(0.01)

    run_async(main())
    """
    printed = run(program, patch).splitlines()
    assert printed[:2] == ["['a!', 'b!', 'c!'] True", "ValueError('from a greenlet')"]
    assert printed[2:] == ["RuntimeError('StopIteration() was raised')", "TimeoutError", "killed"]


# --- threads, forks, signals, subprocesses


@plain_and_patched
def test_threads(patch: str) -> None:
    program = """
    async def woken():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        native_threads.spawn(lambda: (time.sleep(0.02), loop.call_soon_threadsafe(future.set_result, "woken")))
        return await future

    print(asyncio.run(woken(), debug=True), run_async(woken()))
    print(native_threads.apply(lambda: (asyncio.run(asyncio.sleep(0.01, "run")), run_async(asyncio.sleep(0, "there")))))
    loop = asyncio.new_event_loop()
    print(native_threads.apply(lambda: (loop.run_until_complete(asyncio.sleep(0.01, "made here, run there")))))
    print(loop.run_until_complete(asyncio.sleep(0.01, "and here again")))
    loop.close()
    thread = threading.Thread(target=lambda: print(asyncio.run(asyncio.sleep(0.01, "in a thread"))))
    thread.start()
    thread.join()

    async def main():
        loop = asyncio.get_running_loop()
        print(await asyncio.to_thread(lambda: (time.sleep(0.01), sum([1, 2]))[1]))
        print(await loop.run_in_executor(None, max, 1, 2), bool(await loop.getaddrinfo("localhost", 80)))

    asyncio.run(main())
    """
    assert run(program, patch).splitlines() == [
        "woken woken",
        "('run', 'there')",
        "made here, run there",
        "and here again",
        "in a thread",
        "3",
        "2 True",
    ]


@plain_and_patched
def test_a_child_has_loops_of_its_own(patch: str) -> None:
    """It wakes neither the parent's coroutines nor takes what they wait for."""
    program = """
    async def read(reader):
        lines.append((os.getpid(), await reader.readline()))

    async def start():
        global task, writer
        reader, writer = await asyncio.open_connection(sock=ours)
        task = asyncio.create_task(read(reader))

    ours, theirs = socket.socketpair()
    lines = []
    run_async(start())
    parent = os.getpid()
    pid = os.fork() if os.fork.__module__.startswith("gevent") else gevent.fork()
    if not pid:
        theirs.send(b"a line\\n")
        gevent.sleep(0.1)
        print(lines, run_async(asyncio.sleep(0.01, "child")), asyncio.run(asyncio.sleep(0.01, "run")), flush=True)
        os._exit(0)
    os.waitpid(pid, 0)
    gevent.sleep(0.05)
    print(lines == [(parent, b"a line\\n")])
    """
    assert run(BEFORE_FORK + textwrap.dedent(program), patch).splitlines() == ["[] child run", "True"]


@plain_and_patched
def test_a_child_does_not_go_on_in_the_loop_it_was_forked_in(patch: str) -> None:
    """Where it would wait; Python 3.11 hides the running loop from it before."""
    program = """
    async def main():
        pid = gevent.fork()
        if not pid:
            asyncio._set_running_loop(loop)
            await asyncio.sleep(1)
        return os.waitpid(pid, 0)[1]

    loop = asyncio.new_event_loop()
    try:
        print(loop.run_until_complete(main()), flush=True)
    except RuntimeError as error:
        print(error, flush=True)
        loop.close()
        os._exit(0)
    loop.close()
    """
    assert run(BEFORE_FORK + textwrap.dedent(program), patch).splitlines() == [
        "this loop is the parent's: a forked child needs its own",
        "0",
    ]


@plain_and_patched
def test_signals(patch: str) -> None:
    program = """
    async def main():
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, future.set_result, "SIGUSR1")
        loop.call_later(0.02, os.kill, os.getpid(), signal.SIGUSR1)
        return await future

    async def interrupted():
        asyncio.get_running_loop().call_later(0.02, os.kill, os.getpid(), signal.SIGINT)
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            print("cancelled")
            raise

    print(asyncio.run(main()))
    try:
        asyncio.run(interrupted())
    except KeyboardInterrupt:
        print("KeyboardInterrupt")
    """
    assert run(program, patch).splitlines() == ["SIGUSR1", "cancelled", "KeyboardInterrupt"]


@plain_and_patched
def test_subprocesses(patch: str) -> None:
    program = """
    async def talk():
        pipe = asyncio.subprocess.PIPE
        code = "print(input()[::-1]); raise SystemExit(3)"
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdin=pipe, stdout=pipe)
        output, _ = await process.communicate(b"abc\\n")
        return output, process.returncode

    async def several():
        print(await asyncio.gather(talk(), talk()))
        process = await asyncio.create_subprocess_shell("exec sleep 30")
        process.terminate()
        print(await process.wait())

    asyncio.run(several())
    run_async(several())
    """
    assert run(program, patch).splitlines() == ["[(b'cba\\n', 3), (b'cba\\n', 3)]", "-15"] * 2


# --- what belongs to a loop


@plain_and_patched
def test_tls_streams(patch: str, tmp_path: Path) -> None:
    import trustme

    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(tmp_path / "cert.pem")
    program = f"""
    folder = {str(tmp_path)!r}
    theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    theirs.load_cert_chain(folder + "/cert.pem")
    ours = ssl.create_default_context(cafile=folder + "/ca.pem")

    async def echo(reader, writer):
        async for line in reader:
            writer.write(line)
            await writer.drain()
        writer.close()

    async def ask(port):
        reader, writer = await asyncio.open_connection("localhost", port, ssl=ours)
        for _ in range(3):
            writer.write(b"x" * 50000 + b"\\n")
            assert len(await reader.readuntil()) == 50001
        writer.close()
        await writer.wait_closed()
        return 1

    async def main():
        async with await asyncio.start_server(echo, "localhost", 0, ssl=theirs, limit=100000) as server:
            port = server.sockets[0].getsockname()[1]
            return sum(await asyncio.gather(*[ask(port) for _ in range(4)]))

    asyncio.StreamReader.__init__.__defaults__ = (100000, None)
    print(asyncio.run(main()), run_async(main()))
    """
    assert run(program, patch) == "4 4"


def test_slow_callbacks_are_logged() -> None:
    program = """
    import logging
    logging.basicConfig(stream=sys.stdout, format="%(message)s")

    async def main():
        asyncio.get_running_loop().slow_callback_duration = 0.02
        time.sleep(0.03)

    asyncio.run(main(), debug=True)
    """
    assert "name='Task-1' coro=<main() done" in run(program)


def test_debug_mode_tells_of_calls_from_other_threads() -> None:
    program = """
    def call(loop):
        try:
            loop.call_soon(lambda: None)
        except RuntimeError as error:
            return str(error)

    async def main():
        loop = asyncio.get_running_loop()
        print(await run_blocking(call, loop), "|", await run_blocking(native_threads.apply, call, (loop,)))

    asyncio.run(main(), debug=True)
    """
    assert run(program) == "None | Non-thread-safe operation invoked on an event loop other than the current one"


def test_asynchronous_generators_are_closed() -> None:
    program = """
    async def numbers():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0.01)
            print("closed")

    async def main():
        generator = numbers()
        print(await anext(generator))
        gevent.sleep(0.01)
        return generator

    generator = asyncio.run(main())
    """
    assert run(program).splitlines() == ["1", "closed"]


@plain_and_patched
def test_libraries_know_that_it_is_asyncio(patch: str) -> None:
    program = """
    import anyio, sniffio

    async def main():
        print(sniffio.current_async_library())
        gevent.spawn(look).join()
        with anyio.move_on_after(0.01) as scope:
            await anyio.sleep(10)
        async with anyio.create_task_group() as group:
            group.start_soon(anyio.sleep, 0.01)
            print(await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(anyio.sleep, 0)))
        return scope.cancelled_caught

    def look():
        try:
            print(sniffio.current_async_library())
        except sniffio.AsyncLibraryNotFoundError:
            print("none")

    print(run_async(main()))
    print(anyio.run(main))
    """
    assert run(program, patch).splitlines() == ["asyncio", "none", "None", "True"] * 2


def test_a_runner_takes_it_as_its_factory() -> None:
    program = """
    asyncio.set_event_loop_policy(None)
    with asyncio.Runner(loop_factory=GeventLoop) as runner:
        print(type(runner.get_loop()).__name__, runner.run(asyncio.sleep(0.01, "run")))
    """
    assert run(program, options=("-W", "ignore::DeprecationWarning")) == "GeventLoop run"


if sys.version_info >= (3, 12):  # eager tasks came with it

    @plain_and_patched
    def test_eager_tasks(patch: str) -> None:
        program = """
        async def block():
            task = asyncio.current_task()
            gevent.sleep(0.01)
            await asyncio.sleep(0)
            return asyncio.current_task() is task

        async def main():
            asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
            task = asyncio.current_task()
            print(await asyncio.gather(*[block() for _ in range(3)]), asyncio.current_task() is task)

        asyncio.run(main())
        """
        assert run(program, patch) == "[True, True, True] True"


def test_installing_warns_of_nothing() -> None:
    assert run("print(type(asyncio.new_event_loop()).__name__)", options=("-W", "error::DeprecationWarning"))


# --- CPython's own tests

SUITES = [
    "test_buffered_proto", "test_context", "test_events", "test_futures", "test_futures2", "test_locks", "test_pep492",
    "test_protocols", "test_queues", "test_runners", "test_selector_events", "test_sendfile", "test_server",
    "test_sock_lowlevel", "test_sslproto", "test_streams", "test_threads", "test_timeouts", "test_transports",
    "test_unix_events", "test_waitfor",
]  # fmt: skip
SLOW_SUITES = ["test_subprocess", "test_taskgroups", "test_tasks"]
SUITES_PATCHED = ["test_events", "test_runners", "test_server", "test_sock_lowlevel", "test_streams"]
SLOW_SUITES_PATCHED = ["test_futures", "test_locks", "test_sendfile", "test_sslproto", *SLOW_SUITES]


@pytest.mark.skipif(find_spec("test.test_asyncio") is None, reason="this Python came without its tests")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        *[pytest.param(name, [], id=name) for name in SUITES],
        *[pytest.param(name, [], id=name, marks=pytest.mark.slow) for name in SLOW_SUITES],
        *[pytest.param(name, ["--patched"], id=f"{name}-patched") for name in SUITES_PATCHED],
        *[
            pytest.param(name, ["--patched"], id=f"{name}-patched", marks=pytest.mark.slow)
            for name in SLOW_SUITES_PATCHED
        ],
    ],
)
def test_cpythons_own_tests(name: str, options: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, TESTS / "asyncio_suite.py", *options, name],
        capture_output=True,
        text=True,
        timeout=110,
        check=True,
    )
    ends = json.loads(done.stdout)
    assert any(end == "" for end in ends.values())
    assert {test: end for test, end in ends.items() if end and not end.startswith("skipped: ")} == {}
