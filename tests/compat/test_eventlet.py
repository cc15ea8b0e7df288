"""``--compat eventlet``: WebSocketWSGI, python-engineio's eventlet driver, ``wsgi.server``, and green threads.

What is expected of WebSockets and of green threads is what eventlet 0.41.3 does with the same application.
"""

import json
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import gevent
import httpx
import pytest

from geventgate.compat import eventlet as shim
from geventgate.testing import Refused, WebSocketClient
from tests.conftest import Gate, await_listening, free_port

from .rooms_client import converse

FOLDER = Path(__file__).parent


@pytest.fixture(scope="module")
def server(module_gate):
    return module_gate("eventlet_app:application", "--compat", "eventlet")


def talk(url: str, path: str, *messages: str | bytes, **more) -> tuple[list[str | bytes], int | None, str]:
    """All that comes for *messages*, and how it was closed."""
    with WebSocketClient(url, path, **more) as client:
        for message in messages:
            client.send(message)
        received = []
        while (message := client.receive()) is not None:
            received.append(message)
            if path == "/echo" and len(received) == len(messages):
                break
        return received, client.close_code, client.close_reason


# --- WebSocketWSGI


def test_messages_keep_their_kind(server):
    messages = ["a", b"b", "", b"", "é" * 100_000, b"\x00" * 1_000_000]
    assert talk(server.url, "/echo", *messages)[0] == messages


@pytest.mark.parametrize(
    ("offered", "chosen"),
    [((), None), (("x",), None), (("v2", "chat"), "v2"), (("chat", "v2"), "chat"), (("x", "chat"), "chat")],
)
def test_the_clients_favourite_of_the_supported_protocols(server, offered, chosen):
    with WebSocketClient(server.url, "/chat", subprotocols=offered) as client:
        assert client.subprotocol == chosen
        assert client.receive() == str(chosen)


@pytest.mark.parametrize(
    ("origin", "answer"),
    [(None, "None"), ("http://ok.example", "http://ok.example"), ("http://bad.example", 403)],
)
def test_origin_checker_decides(server, origin, answer):
    headers = [("Origin", origin)] if origin else []
    if answer == 403:
        with pytest.raises(Refused) as refused:
            WebSocketClient(server.url, "/checked", headers=headers)
        assert (refused.value.status, refused.value.content) == (403, b"")
    else:
        assert talk(server.url, "/checked", headers=headers) == ([answer], 1000, "")


def test_without_one_pages_of_other_hosts_are_refused(server):
    with pytest.raises(Refused) as refused:
        WebSocketClient(server.url, "/echo", headers=[("Origin", "http://elsewhere.example")])
    assert refused.value.status == 403


@pytest.mark.parametrize(("size", "expected"), [(1000, ["taken"]), (1001, [])])
def test_max_frame_length(server, size, expected):
    with WebSocketClient(server.url, "/limited") as client:
        client.send("x" * size)
        received = [message] if (message := client.receive()) is not None else []
        assert received == expected
        assert client.close_code == (None if expected else 1009)


def test_what_is_known_of_the_request(server):
    (said,), code, _ = talk(server.url, "/about?x=1", subprotocols=["a"], headers=[("Origin", server.url)])
    assert code == 1000
    assert json.loads(said) == {
        "path": "/about",
        "version": 13,
        "origin": server.url,
        "protocol": None,
        "query": "x=1",
        "closed": False,
    }


def test_close_takes_a_code_and_a_reason(server):
    assert talk(server.url, "/closes") == ([], 4001, "as asked")


def test_green_threads_and_timeouts(server):
    with WebSocketClient(server.url, "/busy") as client:
        assert [client.receive() for _ in range(3)] == ["tick 0", "tick 1", "tick 2"]
        gevent.sleep(0.2)  # some timeouts later
        client.send("message")
        assert client.receive() == "then message"
        assert client.receive() is None


def test_sending_to_nobody_ends_in_silence(server):
    client = WebSocketClient(server.url, "/sends-late")
    client.socket.close()
    assert httpx.get(f"{server.url}/page").status_code == 200  # no traceback: the fixture looks


def test_a_handler_that_fails_closes_with_1011(gate):
    server = gate("eventlet_app:application", "--compat", "eventlet", tracebacks=1)
    assert talk(server.url, "/fails") == ([], 1011, "")


HANDSHAKE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 400),
        ({**HANDSHAKE, "Upgrade": "other"}, 400),
        ({**HANDSHAKE, "Sec-WebSocket-Version": "7"}, 426),
        ({**HANDSHAKE, "Sec-WebSocket-Key": "no"}, 400),
    ],
)
def test_what_is_no_handshake(server, fields, status):
    assert httpx.get(f"{server.url}/echo", headers=fields).status_code == status


def test_eventlet_input_is_not_to_be_found(server):
    assert httpx.get(f"{server.url}/page").text == "0,1,2,3,4,5,6,7,8,9 None False"


# --- eventlet.wsgi.server


@contextmanager
def program(
    folder: Path, *words: str, before: str = "import eventlet; eventlet.monkey_patch()", url: str = "http"
) -> Iterator[SimpleNamespace]:
    """A program that serves by itself: its first line is ours, the rest was written for eventlet."""
    port = free_port()
    log = folder / "program.txt"
    start = f"from geventgate import compat; compat.install('eventlet'); {before}; import runpy, sys; "
    start += "del sys.argv[0]; runpy.run_path(sys.argv[0], run_name='__main__')"
    words = tuple(word.format(port=port) for word in words)
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-c", start, *words], stdout=output, stderr=output, cwd=FOLDER)
    try:
        await_listening(Gate(process, ("127.0.0.1", port), log))
        yield SimpleNamespace(process=process, url=f"{url}://127.0.0.1:{port}", text=log.read_text, port=port)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_wsgi_server_serves_until_it_is_told_to_stop(tmp_path, number):
    with program(tmp_path, "eventlet_app.py", "{port}") as running:
        assert talk(running.url, "/echo", "a", b"b")[0] == ["a", b"b"]
        assert httpx.get(f"{running.url}/page").text == "0,1,2,3,4,5,6,7,8,9 more False"
        with WebSocketClient(running.url, "/echo") as client:
            running.process.send_signal(number)
            assert client.receive() is None
            assert client.close_code == 1001
        assert running.process.wait(10) == 0
        text = running.text()
        assert f"wsgi starting up on {running.url}\n" in text
        assert '"GET /page HTTP/1.1" 200 30 0.' in text
        assert "Traceback" not in text
        assert text.endswith("the server has ended\n")


def test_wsgi_server_ends_when_the_application_leaves(tmp_path):
    with program(tmp_path, "eventlet_app.py", "{port}") as running:
        assert httpx.get(f"{running.url}/leaves").status_code == 503
        assert running.process.wait(10) == 0
        assert "Traceback" not in running.text()


def test_wsgi_server_warns_who_does_not_patch(tmp_path):
    with program(tmp_path, "eventlet_app.py", "{port}", before="import eventlet") as running:
        assert httpx.get(f"{running.url}/page").status_code == 200
        assert running.text().count("the standard library is not patched") == 1


def test_socketio_run_over_tls(tmp_path, authority):
    pair = authority.issue("127.0.0.1")
    script = tmp_path / "run.py"
    script.write_text(
        f"import sys; sys.path.insert(0, '.')\nfrom rooms_app import create\napp = create()\n"
        f"app.socketio.run(app, '127.0.0.1', int(sys.argv[1]), certfile={pair.certfile!r}, keyfile={pair.keyfile!r})\n"
    )
    with program(tmp_path, str(script), "{port}", url="https") as running:
        with httpx.Client(base_url=running.url, verify=ssl.create_default_context(cafile=authority.ca_certs)) as client:
            assert client.get("/").text == "eventlet"
            assert client.get("/stop").status_code == 503
        assert running.process.wait(10) == 0


IN_GREEN_THREADS = """
import eventlet, eventlet.wsgi, io, logging
import sys

def hello(environ, start_response):
    start_response("200 OK", [])
    return [environ["PATH_INFO"].encode()]

def get(port, path):
    peer = eventlet.connect(("127.0.0.1", port))
    peer.sendall(b"GET " + path + b" HTTP/1.0\\r\\n\\r\\n")
    return b"".join(iter(lambda: peer.recv(1000), b""))

logs = [io.StringIO(), io.StringIO()]
logger = logging.getLogger("mine")
logger.addHandler(logging.StreamHandler(logs[1]))
logger.setLevel("INFO")
listeners = [eventlet.listen(("127.0.0.1", 0)) for _ in range(2)]
ports = [listener.getsockname()[1] for listener in listeners]
servers = [
    eventlet.spawn(eventlet.wsgi.server, listeners[0], hello, logs[0], max_size=10, keepalive=False, socket_timeout=5,
                   log_format="%(client_ip)s %(request_line)s %(status_code)s"),
    eventlet.spawn(eventlet.wsgi.server, listeners[1], hello, logger, custom_pool=eventlet.GreenPool(5),
                   url_length_limit=100),
]
eventlet.sleep(0.1)
answers = [get(ports[0], b"/one"), get(ports[1], b"/two"), get(ports[1], b"/" + b"x" * 200)]
assert [answer.split(b" ")[1] for answer in answers] == [b"200", b"200", b"414"], answers
for server in servers:
    server.kill()
for server in servers:
    try:
        server.wait()
    except BaseException as error:
        assert type(error).__name__ == "GreenletExit", error
first, second = (log.getvalue().splitlines() for log in logs)
assert first[1:-1] == ["127.0.0.1 GET /one HTTP/1.0 200"] and "GET /two" in second[1], (first, second)
for lines, port in zip((first, second), ports):
    assert lines[0].endswith(f"wsgi starting up on http://127.0.0.1:{port}"), lines
try:
    eventlet.connect(("127.0.0.1", ports[0]))
except ConnectionRefusedError:
    print("good")
"""


def test_servers_in_green_threads(tmp_path):
    start = "from geventgate import compat; compat.install('eventlet'); import eventlet; eventlet.monkey_patch()\n"
    done = subprocess.run(
        [sys.executable, "-c", start + IN_GREEN_THREADS], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout.splitlines()[-1:]) == (0, ["good"]), done.stderr


def test_monkey_patch_patches_what_is_asked_for_and_no_more():
    code = """
from geventgate import compat; compat.install("eventlet")
import eventlet, eventlet.patcher as patcher, select, socket, time
state = lambda: [patcher.is_monkey_patched(name) for name in (socket, "select", "thread", "time", "psycopg")]
print(state())
eventlet.monkey_patch(time=True)
print(state())
eventlet.monkey_patch(thread=False)
print(state())
eventlet.monkey_patch()
print(state())
try:
    eventlet.monkey_patch(sockets=True)
except TypeError as error:
    print(error)
assert patcher.import_patched("socket") is socket
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == [
        "[False, False, False, False, False]",
        "[False, False, False, True, False]",
        "[True, True, False, True, False]",
        "[True, True, True, True, False]",
        "monkey_patch() got an unexpected keyword argument 'sockets'",
    ]
    assert done.stderr == ""


# --- Flask-SocketIO


@pytest.fixture(scope="module")
def rooms(module_gate):
    return module_gate("rooms_app:create()", "--compat", "eventlet")


@pytest.mark.parametrize("transports", [["websocket"], ["polling"], ["polling", "websocket"]], ids="+".join)
def test_flask_socketio(rooms, transports):
    assert httpx.get(rooms.url).text == "eventlet"
    converse(rooms.url, transports)


# --- green threads, in this process: its modules are not put in place


@pytest.fixture(scope="module")
def modules():
    return shim.modules()


@pytest.fixture(scope="module")
def eventlet(modules):
    return modules["eventlet"]


@pytest.fixture
def quiet(monkeypatch):
    """Green threads that fail say so on stderr."""
    monkeypatch.setattr(gevent.get_hub(), "print_exception", lambda *_: None)


def fail(*_):
    raise ZeroDivisionError("as asked")


def test_wait_gives_what_the_function_gives(eventlet, quiet):
    assert eventlet.spawn(divmod, 7, 2).wait() == (3, 1)
    assert eventlet.spawn_n(int, "11", base=3).wait() == 4
    assert eventlet.spawn_after(0.01, divmod, 7, 2).wait() == (3, 1)
    with pytest.raises(ZeroDivisionError):
        eventlet.spawn(fail).wait()


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    ("thrown", "raised"),
    [
        ((), gevent.GreenletExit),
        ((KeyError("k"),), KeyError),
        ((KeyError, "k"), KeyError),
        ((KeyError, KeyError("k"), None), KeyError),
    ],
)
def test_kill(eventlet, quiet, begun, thrown, raised):
    ran = []
    thread = eventlet.spawn(lambda: ran.append(eventlet.sleep(10)))
    links = []
    thread.link(lambda thread, *more, **words: links.append((thread.dead or True, more, words)), 1, a=2)
    if begun:
        eventlet.sleep(0)
    thread.kill(*thrown)
    with pytest.raises(raised):
        thread.wait()
    assert links == [(True, (1,), {"a": 2})]
    assert not ran
    thread.kill()  # it is dead: nothing happens


def test_cancel_is_for_those_that_have_not_begun(eventlet, modules):
    cancel = modules["eventlet.greenthread"].cancel
    waits, runs = eventlet.spawn_after(10, int), eventlet.spawn(eventlet.sleep, 0.05)
    eventlet.sleep(0)
    cancel(waits)
    cancel(runs)
    with pytest.raises(gevent.GreenletExit):
        waits.wait()
    assert runs.wait() is None


def test_links_are_followed_once_and_may_wait(eventlet):
    seen = []
    thread = eventlet.spawn(int)

    def link(ended, name):
        eventlet.sleep(0)
        seen.append((name, ended.wait()))

    thread.link(link, "before")
    thread.link(link, "never")
    assert thread.unlink(link, "never")
    assert not thread.unlink(link, "unknown")
    thread.wait()
    eventlet.sleep(0.01)
    thread.link(link, "behind")
    assert seen == [("before", 0), ("behind", 0)]


def test_a_pool_has_its_size(eventlet, quiet):
    pool = eventlet.GreenPool(2)
    most = []

    def work():
        most.append(pool.running())
        eventlet.sleep(0.005)

    for _ in range(6):
        pool.spawn_n(work)
        pool.spawn(fail)
    assert pool.free() == 2 - pool.running()
    pool.waitall()
    assert (max(most), pool.running(), pool.free(), pool.waiting()) == (2, 0, 2, 0)


def test_a_full_pool_runs_what_its_own_spawn(eventlet, quiet):
    pool = eventlet.GreenPool(1)
    results = []

    def outer():
        inner = pool.spawn(lambda: results.append("inner"))
        inner.wait()
        with pytest.raises(ZeroDivisionError):
            pool.spawn(fail).wait()
        with pytest.raises(AssertionError):
            pool.waitall()
        results.append("outer")

    pool.spawn(outer)
    pool.waitall()
    assert results == ["inner", "outer"]


def test_a_pool_is_resized(eventlet):
    pool = eventlet.GreenPool(3)
    gate = eventlet.Event()
    for _ in range(3):
        pool.spawn(gate.wait)
    pool.resize(1)
    assert pool.free() == -2
    waiting = eventlet.spawn(pool.spawn, int)
    eventlet.sleep(0.01)
    assert pool.waiting() == 1
    gate.send()
    waiting.wait()
    pool.waitall()
    assert pool.free() == 1
    pool.resize(2)
    pool.spawn(eventlet.sleep, 0.01)
    pool.spawn(eventlet.sleep, 0.01)
    assert pool.free() == 0
    pool.waitall()


def test_imap_and_piles_keep_the_order(eventlet, quiet):
    pool = eventlet.GreenPool(3)

    def later(number):
        eventlet.sleep(0.002 * (5 - number))
        return number

    assert list(pool.imap(later, range(5))) == list(range(5))
    assert list(pool.starmap(divmod, [(7, 2), (9, 4)])) == [(3, 1), (2, 1)]
    pile = eventlet.GreenPile(pool)
    for number in range(5):
        pile.spawn(later, number)
    assert list(pile) == list(range(5))
    with pytest.raises(ZeroDivisionError):
        list(pool.imap(fail, [1]))
    with pytest.raises(ZeroDivisionError):
        list(pool.imap(later, (fail() for _ in range(1))))


def test_events(eventlet):
    event = eventlet.Event()
    assert (event.ready(), event.wait(0.01), event.poll("none yet")) == (False, None, "none yet")
    with pytest.raises(AssertionError):
        event.reset()
    waiters = [eventlet.spawn(event.wait) for _ in range(2)]
    event.send("value")
    assert [waiter.wait() for waiter in waiters] == ["value", "value"]
    assert (event.has_result(), event.poll(), event.poll_result(), event.poll_exception(1)) == (
        True,
        "value",
        "value",
        1,
    )
    with pytest.raises(AssertionError):
        event.send("again")
    event.reset()
    event.send_exception(KeyError, "k")
    assert (event.has_exception(), event.has_result()) == (True, False)
    for ask in (event.wait, event.poll, event.poll_exception):
        with pytest.raises(KeyError):
            ask()


def test_queues(modules):
    queue = modules["eventlet.queue"]
    for kind, order in ((queue.Queue, [2, 1, 3]), (queue.PriorityQueue, [1, 2, 3]), (queue.LifoQueue, [3, 1, 2])):
        waiting = kind()
        for item in (2, 1, 3):
            waiting.put(item)
        assert [waiting.get() for _ in range(3)] == order
        with pytest.raises(queue.Empty):
            waiting.get(timeout=0.01)
    small = queue.Queue(1)
    small.put(1)
    with pytest.raises(queue.Full):
        small.put_nowait(2)
    small.resize(2)
    small.put_nowait(2)
    assert (small.qsize(), small.get(), small.get()) == (2, 1, 2)
    for _ in range(2):
        small.task_done()
    small.join()


def test_a_queue_of_no_size_is_a_channel(eventlet):
    channel = eventlet.Queue(0)
    done = []
    eventlet.spawn(lambda: (channel.put("item"), done.append(True)))
    eventlet.sleep(0.01)
    assert not done
    assert channel.get() == "item"
    eventlet.sleep(0)
    assert done


def test_timeouts_run_from_the_start(eventlet):
    def outlasts(_):
        eventlet.sleep(1)

    with pytest.raises(eventlet.Timeout) as expired:
        outlasts(eventlet.Timeout(0.01))
    assert eventlet.is_timeout(expired.value)
    with eventlet.Timeout(0.01, False):
        eventlet.sleep(1)
    with pytest.raises(eventlet.Timeout), eventlet.Timeout(0.01, True):
        eventlet.sleep(1)
    with pytest.raises(KeyError):
        outlasts(eventlet.Timeout(0.01, KeyError("k")))
    cancelled = eventlet.Timeout(0.01)
    cancelled.cancel()
    eventlet.sleep(0.03)
    assert eventlet.with_timeout(0.01, eventlet.sleep, 1, timeout_value="late") == "late"
    assert eventlet.with_timeout(1, divmod, 7, 2, timeout_value="late") == (3, 1)
    with pytest.raises(eventlet.Timeout):
        eventlet.with_timeout(0.01, eventlet.sleep, 1)


def test_semaphores(eventlet):
    semaphore = eventlet.Semaphore(1)
    assert (semaphore.acquire(), semaphore.locked(), semaphore.acquire(blocking=False)) == (True, True, False)
    waiting = eventlet.spawn(semaphore.acquire)
    eventlet.sleep(0)
    assert semaphore.balance == -1
    semaphore.release()
    assert waiting.wait()
    with pytest.raises(ValueError, match=r".*"):
        eventlet.BoundedSemaphore(1).release()


def test_sockets_and_trampoline(eventlet, modules):
    listener = eventlet.listen(("127.0.0.1", 0))
    client = eventlet.connect(listener.getsockname())
    served, _ = listener.accept()
    trampoline = modules["eventlet.hubs"].trampoline
    with pytest.raises(TimeoutError):
        trampoline(served, read=True, timeout=0.02, timeout_exc=TimeoutError("late"))
    client.sendall(b"now")
    trampoline(served.fileno(), read=True, timeout=5)
    trampoline(served, write=True, timeout=5)
    assert served.recv(10) == b"now"
    with pytest.raises(OSError, match=r"in use"):
        eventlet.listen(listener.getsockname())  # a second server does not share the port unasked
    for sock in (listener, client, served):
        sock.close()


def test_tpool_blocks_nobody(modules, eventlet):
    here, there = threading.get_ident(), modules["eventlet.tpool"].execute(threading.get_ident)
    assert here != there
    with pytest.raises(ZeroDivisionError):
        modules["eventlet.tpool"].execute(fail)


@pytest.mark.parametrize(
    ("name", "attribute"), [("eventlet", "backdoor"), ("eventlet.green", "zmq"), ("eventlet.hubs", "get_hub")]
)
def test_what_is_missing_is_named(modules, name, attribute):
    with pytest.raises(AttributeError, match=f"geventgate's {name} has no {attribute}"):
        getattr(modules[name], attribute)


def test_the_green_modules_are_the_standard_ones(modules):
    import http.client
    import queue
    import urllib.request

    assert modules["eventlet.green.urllib.request"] is urllib.request
    assert modules["eventlet.green.httplib"] is http.client
    assert modules["eventlet.green.Queue"] is queue
