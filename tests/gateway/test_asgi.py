"""ASGI applications under WSGI: over a real server, HTTP/1.1 and HTTP/2 alike; by curl where an outside eye is the
check."""

import asyncio
import contextlib
import functools
import gc
import logging
import shutil
import subprocess
import sys
import time
import weakref

import gevent
import pytest
from gevent.event import Event

import geventgate
from geventgate.errors import ApplicationError, ConfigError
from geventgate.message import Tls
from geventgate.testing import FakeExchange, Http2Client, Http2WebSocketClient, Refused, WebSocketClient, running

START = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]}
END = {"type": "http.response.body"}


def app(handler):
    """An application of *handler*, that knows no lifespan."""

    @functools.wraps(handler)
    async def application(scope, receive, send):
        assert scope["type"] != "lifespan"
        await handler(scope, receive, send)

    return application


def sending(*messages):
    """An application that sends *messages*."""

    @app
    async def application(scope, receive, send):
        for message in messages:
            await send(message)

    return application


def body(data=b"", more=False):
    return {"type": "http.response.body", "body": data, "more_body": more}


class Answer:
    def __init__(self, status, fields, content):
        self.status, self.fields, self.content = status, fields, content

    def __getitem__(self, name):
        return dict(self.fields).get(name)


def ask1(server, method="GET", path="/", content=b"", fields=()):
    lines = [f"{method} {path} HTTP/1.1", "Host: it", "Connection: close"]
    if content:
        lines.append(f"Content-Length: {len(content)}")
    lines += [f"{name}: {value}" for name, value in fields]
    with server.connect() as peer:
        peer.sendall("\r\n".join([*lines, "", ""]).encode() + content)
        return parse(b"".join(iter(lambda: peer.recv(65536), b"")))


def parse(data):
    head, _, content = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    fields = [(line.partition(": ")[0].lower(), line.partition(": ")[2]) for line in lines]
    if ("transfer-encoding", "chunked") in fields:
        pieces = []
        while content:
            size, _, rest = content.partition(b"\r\n")
            pieces.append(rest[: int(size, 16)])
            content = rest[int(size, 16) + 2 :] if int(size, 16) else b""
        content = b"".join(pieces)
    return Answer(int(first.split()[1]), fields, content)


def ask2(server, method="GET", path="/", content=b"", fields=()):
    with Http2Client(server.url) as client:
        answer = client.request(method, path, fields, content)
        return Answer(answer.status, answer.fields, answer.content)


@pytest.fixture(params=[ask1, ask2], ids=["HTTP/1.1", "HTTP/2"])
def ask(request):
    return request.param


def serving(application, **options):
    return running(application, http2_cleartext="prior-knowledge", **options)


def until(condition, seconds=5.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to pass"
        gevent.sleep(0.01)


def errors(caplog):
    return [record for record in caplog.records if record.levelno >= logging.ERROR]


# --- which applications are ASGI's


async def coroutine_function(scope, receive, send):
    await send(START)
    await send(body(b"asgi"))


class Called:
    async def __call__(self, scope, receive, send):
        await coroutine_function(scope, receive, send)


class Twice:
    def __init__(self, scope):
        self.scope = scope

    async def __call__(self, receive, send):
        await coroutine_function(self.scope, receive, send)


def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [b"wsgi"]


@pytest.mark.parametrize(
    ("application", "interface", "content"),
    [
        (coroutine_function, "auto", b"asgi"),
        (coroutine_function, "asgi", b"asgi"),
        (Called(), "auto", b"asgi"),
        (functools.partial(functools.partial(Called())), "auto", b"asgi"),
        (functools.partial(coroutine_function), "auto", b"asgi"),
        (lambda *three: coroutine_function(*three), "asgi", b"asgi"),
        (Twice, "asgi2", b"asgi"),
        (wsgi, "auto", b"wsgi"),
        (wsgi, "wsgi", b"wsgi"),
        (geventgate.asgi(coroutine_function), "auto", b"asgi"),
        (geventgate.asgi(coroutine_function), "asgi", b"asgi"),
    ],
)
def test_what_speaks_which(application, interface, content):
    with serving(application, interface=interface, lifespan="off") as server:
        assert ask1(server).content == content


def test_a_process_of_wsgi_does_not_import_asyncio():
    program = (
        "import sys; from geventgate.testing import running; from geventgate import Server\n"
        "with running(lambda e, s: []): print('asyncio' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"


# --- what it is told of a request


@pytest.fixture
def scope_of():
    """``scope_of(ask, PATH, **options)``"""

    def scope_of(ask, path="/", *, mounted="", fields=(), **options):
        seen = []

        @app
        async def application(scope, receive, send):
            seen.append(scope)
            await send(START)
            await send(END)

        if mounted:
            inner = geventgate.asgi(application, lifespan="off")

            def application(environ, start_response):
                environ["SCRIPT_NAME"] += mounted
                environ["PATH_INFO"] = environ["PATH_INFO"].removeprefix(mounted)
                return inner(environ, start_response)

        with serving(application, lifespan="off", **options) as server:
            assert ask(server, path=path, fields=fields).status == 200
        return seen[0]

    return scope_of


def test_the_scope(ask, scope_of):
    scope = scope_of(ask, "/a%20b/%C3%A9?x=%20", fields=[("x-twice", "1"), ("x-twice", "2")])
    assert scope["type"] == "http"
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.5"}
    assert scope["http_version"] == ("1.1" if ask is ask1 else "2")
    assert (scope["method"], scope["scheme"]) == ("GET", "http")
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/a b/é", b"/a%20b/%C3%A9", b"x=%20")
    assert scope["root_path"] == ""
    assert [value for name, value in scope["headers"] if name == b"x-twice"] == [b"1", b"2"]
    assert b"host" in dict(scope["headers"])
    assert scope["client"][0] == scope["server"][0] == "127.0.0.1"
    assert all(isinstance(port, int) for port in (scope["client"][1], scope["server"][1]))
    assert scope["state"] == {}
    assert ("http.response.early_hint" in scope["extensions"]) == (ask is ask2)
    assert "http.response.trailers" in scope["extensions"]


@pytest.mark.parametrize(
    ("path", "mounted", "root_path", "told"),
    [
        ("/api/x", "/api", "", ("/api/x", b"/api/x", "/api")),
        ("/api", "/api", "", ("/api", b"/api", "/api")),
        ("/x", "", "/root", ("/root/x", b"/root/x", "/root")),  # a proxy has taken it off
        ("/root/x", "", "/root", ("/root/x", b"/root/x", "/root")),
        ("/root/a/x%20y", "/a", "/root", ("/root/a/x y", b"/root/a/x%20y", "/root/a")),
        ("/x", "", "/ä", ("/ä/x", b"/%C3%A4/x", "/ä")),
        ("/%ff", "", "", ("/\udcff", b"/%ff", "")),
    ],
)
def test_paths(scope_of, path, mounted, root_path, told):
    scope = scope_of(ask1, path, mounted=mounted, root_path=root_path)
    assert (scope["path"], scope["raw_path"], scope["root_path"]) == told


def test_a_unix_socket_has_no_addresses(tmp_path, scope_of):
    scope = scope_of(ask1, bind=(f"unix:{tmp_path}/socket",))
    assert scope["client"] is scope["server"] is None


# --- content


async def receive_all(receive):
    content, pieces, more = b"", 0, True
    while more:
        message = await receive()
        assert message["type"] == "http.request", message
        content += message["body"]
        more = message["more_body"]
        pieces += 1
    return content, pieces


@app
async def echo(scope, receive, send):
    content, pieces = await receive_all(receive)
    await send(START)
    await send(body(b"%d:" % pieces + content))


@pytest.mark.parametrize("content", [b"", b"abc", bytes(range(256)) * 4096], ids=len)
def test_content_is_received(ask, content):
    with serving(echo) as server:
        pieces, _, echoed = ask(server, "POST", content=content).content.partition(b":")
        assert echoed == content
        if len(content) < 4:
            assert pieces == b"1"  # whole, with more_body false: many ask but once


def test_a_receive_that_is_cancelled_loses_nothing():
    @app
    async def application(scope, receive, send):
        content = b""
        while len(content) < 6:
            try:
                message = await asyncio.wait_for(receive(), 0.02)
            except TimeoutError:
                timeouts.append(1)
                continue
            content += message["body"]
        await send(START)
        await send(body(content))

    timeouts = []
    with serving(application) as server, server.connect() as peer:
        peer.sendall(b"POST / HTTP/1.1\r\nHost: it\r\nContent-Length: 6\r\nConnection: close\r\n\r\n")
        for piece in (b"abc", b"def"):
            timeouts.clear()
            until(lambda: timeouts)
            peer.sendall(piece)
        assert parse(b"".join(iter(lambda: peer.recv(65536), b""))).content == b"abcdef"


def test_two_tasks_receive_each_piece_once():
    @app
    async def application(scope, receive, send):
        tasks = [asyncio.ensure_future(receive()) for _ in range(2)]
        finished, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        content = b"".join([task.result()["body"] for task in finished])
        for task in tasks:
            task.cancel()
        while len(content) < len(sent):
            content += (await receive())["body"]
        await send(START)
        await send(body(content))

    sent = b"".join(b"%d " % number for number in range(40_000))
    with serving(application) as server:
        assert ask1(server, "POST", content=sent).content == sent


def test_an_answer_before_the_content_was_read(ask):
    @app
    async def application(scope, receive, send):
        reading = asyncio.ensure_future(receive())
        await asyncio.sleep(0.01)
        await send(START)
        await send(body(b"early"))
        await asyncio.wait([reading])
        heard.append(reading.result()["type"])

    heard = []
    with serving(application) as server:
        with server.connect() as peer:
            peer.sendall(b"POST / HTTP/1.1\r\nHost: it\r\nContent-Length: 6\r\n\r\n")
            assert b"early" in peer.recv(65536)
            until(lambda: heard)
        assert heard == ["http.disconnect"]
        assert ask(server).content == b"early"


def test_content_that_is_cut_is_a_disconnect(caplog):
    @app
    async def application(scope, receive, send):
        while (message := await receive())["type"] == "http.request":
            pass
        heard.append(message["type"])

    heard = []
    with serving(application) as server, server.connect() as peer:
        peer.sendall(b"POST / HTTP/1.1\r\nHost: it\r\nContent-Length: 6\r\n\r\nabc")
        gevent.sleep(0.05)
        peer.close()
        until(lambda: heard)
    assert heard == ["http.disconnect"]
    assert not errors(caplog)


# --- responses


def test_a_whole_response_has_a_length(ask):
    with serving(sending(START, body(b"hello"))) as server:
        answer = ask(server)
    assert (answer.status, answer.content, answer["content-type"]) == (200, b"hello", "text/plain")
    if ask is ask1:
        assert answer["content-length"] == "5"


def test_pieces_leave_as_they_come(ask):
    with serving(sending(START, body(b"a", True), body(b"", True), body(b"b", True), body(b"c"))) as server:
        assert ask(server).content == b"abc"


def test_the_head_leaves_before_the_content():
    @app
    async def application(scope, receive, send):
        await send(START)
        while not go.is_set():
            await asyncio.sleep(0.01)
        await send(body(b"at last"))

    go = Event()
    with serving(application) as server, server.connect() as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n")
        assert b"200 OK" in peer.recv(65536)
        go.set()
        assert b"at last" in peer.recv(65536)


def test_head_requests_have_no_content(ask):
    with serving(sending(START, body(b"hello"))) as server:
        answer = ask(server, "HEAD")
        assert (answer.content, answer["content-length"]) == (b"", "5")


def test_curl_agrees(curl):
    with serving(sending(START, body(b"a" * 100_000, True), body(b"b"))) as server:
        for flags in (["--http1.1"], ["--http2-prior-knowledge"]):
            assert curl(*flags, server.url) == b"a" * 100_000 + b"b"


@pytest.fixture
def curl():
    """``curl(*arguments)``: what it prints."""
    if shutil.which("curl") is None:
        pytest.skip("needs curl")

    def run(*arguments):
        child = gevent.get_hub().threadpool.spawn(
            subprocess.run, ["curl", "-sS", "--max-time", "20", *arguments], capture_output=True, check=True
        )
        return child.get().stdout

    return run


def test_middleware_around_start_response_sees_text():
    inner = geventgate.asgi(sending(START, body(b"x")), lifespan="off")

    def application(environ, start_response):
        def ours(status, fields, exc_info=None):
            seen.append((status, fields))
            return start_response(status, [*fields, ("X-Ours", "yes")])

        return inner(environ, ours)

    seen = []
    with serving(application) as server:
        assert ask1(server)["x-ours"] == "yes"
    assert seen == [("200 OK", [("content-type", "text/plain")])]


def test_trailers(ask):
    with serving(
        sending(
            {**START, "trailers": True},
            body(b"x", True),
            body(b"y"),
            {"type": "http.response.trailers", "headers": [(b"x-one", b"1")], "more_trailers": True},
            {"type": "http.response.trailers", "headers": [(b"x-two", b"2")]},
        )
    ) as server:
        if ask is ask2:
            with Http2Client(server.url) as client:
                answer = client.request()
                assert answer.content == b"xy"
                assert dict(answer.trailers) == {"x-one": "1", "x-two": "2"}
            return
        with server.connect() as peer:
            peer.sendall(b"GET / HTTP/1.1\r\nHost: it\r\nTE: trailers\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: peer.recv(65536), b""))
            assert answer.endswith(b"0\r\nx-one: 1\r\nx-two: 2\r\n\r\n")


def test_pushes(answer):
    @app
    async def application(scope, receive, send):
        assert "http.response.push" in scope["extensions"]
        await send({"type": "http.response.push", "path": "/a.css", "headers": [(b"accept", b"text/css")]})
        await send(START)
        await send(body(b"x"))

    exchange = FakeExchange(http_version="2", can_push=True)
    answer(geventgate.asgi(application, lifespan="off"), exchange)
    assert [(head.path, dict(head.fields)[b"accept"]) for head in exchange.pushed] == [(b"/a.css", b"text/css")]


def test_what_is_told_of_tls(answer):
    @app
    async def application(scope, receive, send):
        seen.append((scope["scheme"], scope["extensions"]["tls"]))
        await send(START)
        await send(END)

    seen = []
    tls = Tls(
        version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", server_name="it", alpn=None, peer_certificate=None, peer={}
    )
    answer(geventgate.asgi(application, lifespan="off"), FakeExchange(tls=tls))
    ((scheme, told),) = seen
    assert scheme == "https"
    assert (told["tls_version"], told["cipher_suite"], told["client_cert_chain"]) == (0x0304, 0x1302, [])
    assert told["server_cert"] is told["client_cert_name"] is told["client_cert_error"] is None


def test_early_hints():
    hint = {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]}
    with serving(sending(hint, START, body(b"x")), early_hints=True) as server, server.connect() as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: peer.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_a_file_is_sent_by_its_path(ask, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"in the file" * 10_000)
    with serving(sending(START, {"type": "http.response.pathsend", "path": str(file)})) as server:
        answer = ask(server)
        assert (answer.content, answer["content-length"]) == (file.read_bytes(), "110000")


def test_what_is_for_debugging_goes_to_the_log(caplog):
    caplog.set_level(logging.DEBUG, "geventgate")
    debug = {"type": "http.response.debug", "info": {"template": "x.html"}}
    with serving(sending(debug, START, body(b"x"))) as server:
        assert ask1(server).content == b"x"
    assert "x.html" in caplog.text


# --- applications that are wrong


PLAIN = [START]


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([], "the application returned, and its answer is not complete"),
        ([{}], "no message with a type"),
        ([None], "no message with a type"),
        ([body(b"x")], "'http.response.body' was sent before http.response.start"),
        ([{"type": "http.response.start"}], "http.response.start without 'status'"),
        ([{**START, "status": "200"}], "status that is str, not int"),
        ([{**START, "headers": [b"xyz"]}], "headers that are no pairs"),
        ([{**START, "headers": None}], "headers that are no pairs"),
        ([START, START], "'http.response.start' was sent in the content"),
        ([START, body(5)], "has int, not bytes"),
        ([START, body("text")], "has str, not bytes"),
        ([START, {"type": "websocket.send"}], "'websocket.send' was sent in the content"),
        ([START, {"type": "http.response.trailers"}], "'http.response.trailers' was sent in the content"),
        ([{"type": "http.response.push", "path": "/"}], "'http.response.push' was sent before"),
        ([{**START, "headers": [(b"x\n", b"y")]}, body()], "ApplicationError"),
    ],
)
def test_wrong_messages_are_500_and_logged_once(caplog, messages, text):
    with serving(sending(*messages)) as server:
        assert ask1(server).status == 500
    (record,) = errors(caplog)
    assert text in caplog.text
    assert record.exc_info[0] is ApplicationError


def test_an_exception_is_500_and_logged_once_with_its_traceback(ask, caplog):
    @app
    async def application(scope, receive, send):
        await asyncio.sleep(0)
        raise ExceptionGroup("several", [ValueError("one"), KeyError("two")])

    with serving(application) as server:
        assert ask(server).status == 500
    (record,) = errors(caplog)
    assert "ValueError: one" in caplog.text
    assert "in application" in caplog.text
    assert record.exc_info[0] is ExceptionGroup


def test_a_message_after_the_end_is_refused(caplog):
    with serving(sending(START, body(b"x"), body(b"y"))) as server:
        assert ask1(server).content == b"x"
        until(lambda: errors(caplog))
    (record,) = errors(caplog)
    assert record.getMessage() == "GET b'/' from 127.0.0.1: the application failed after it had answered"
    assert "after the response was complete" in caplog.text


def test_a_response_that_is_not_completed_is_cut(caplog):
    @app
    async def application(scope, receive, send):
        await send(START)
        await send(body(b"begun", True))
        await asyncio.sleep(0.05)

    with serving(application) as server, server.connect() as peer:
        peer.sendall(b"GET / HTTP/1.1\r\nHost: it\r\n\r\n")
        answer = b"".join(iter(lambda: peer.recv(65536), b""))
    assert answer.endswith(b"5\r\nbegun\r\n")
    assert "its answer is not complete" in caplog.text


# --- the peer goes


def leave(server, ask, begun):
    """Ask, and go away once it has *begun*."""
    if ask is ask1:
        with server.connect() as peer:
            peer.sendall(b"GET / HTTP/1.1\r\nHost: it\r\n\r\n")
            until(lambda: begun)
            peer.setsockopt(1, 13, b"\x01\0\0\0\0\0\0\0")  # SO_LINGER: closing resets
        return
    with Http2Client(server.url) as client:
        stream = client.open(ended=True)
        until(lambda: begun)
        stream.reset()


def test_who_waits_in_receive_hears_of_it(ask, caplog):
    @app
    async def application(scope, receive, send):
        await receive()
        begun.append(1)
        heard.append((await receive())["type"])
        with pytest.raises(OSError, match="gone"):
            await send(START)
        heard.append("OSError")

    begun, heard = [], []
    with serving(application) as server:
        leave(server, ask, begun)
        until(lambda: len(heard) == 2)
    assert heard == ["http.disconnect", "OSError"]
    assert not errors(caplog)


def test_who_does_not_is_cancelled(ask, caplog):
    @app
    async def application(scope, receive, send):
        begun.append(1)
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise

    begun, heard = [], []
    with serving(application) as server:
        leave(server, ask, begun)
        until(lambda: heard)
    assert not errors(caplog)


def test_what_is_thrown_into_the_request_cancels_the_task(caplog):
    @app
    async def application(scope, receive, send):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            heard.append("cancelled")
            raise

    def limited(environ, start_response):
        with gevent.Timeout(0.05):
            return inner(environ, start_response)

    heard = []
    inner = geventgate.asgi(application, lifespan="off")
    with serving(limited) as server:
        assert ask1(server).status == 500
        until(lambda: heard)
    assert len(errors(caplog)) == 1


def test_a_peer_that_does_not_read_holds_up_who_sends():
    @app
    async def application(scope, receive, send):
        await send(START)
        try:
            while True:
                await send(body(b"x" * 65536, True))
                sent.append(1)
        except OSError as error:
            raised.append(error)
        except asyncio.CancelledError as error:
            raised.append(error)
            raise

    sent, raised = [], []
    with serving(application) as server:
        with server.connect() as peer:
            peer.sendall(b"GET / HTTP/1.1\r\nHost: it\r\n\r\n")
            until(lambda: sent)
            count = -1
            while count != len(sent):
                count = len(sent)
                gevent.sleep(0.1)
            assert count < 1000  # 64 MB: what sockets hold is less
        until(lambda: raised)


def test_several_tasks_that_send_wait_for_room():
    @app
    async def application(scope, receive, send):
        await send(START)
        await asyncio.gather(*[send(body(b"x" * 300_000, True)) for _ in range(8)])
        await send(END)

    with serving(application) as server:
        assert len(ask1(server).content) == 2_400_000


def test_what_follows_the_response_goes_on(ask):
    @app
    async def application(scope, receive, send):
        await send(START)
        await send(body(b"done"))
        await asyncio.sleep(0.05)
        ended.append(scope["path"])

    ended = []
    with serving(application) as server:
        assert ask(server).content == b"done"
        assert not ended
    assert ended == ["/"]  # the server waits for it


def test_what_does_not_end_is_cancelled_at_the_end(caplog):
    @app
    async def application(scope, receive, send):
        await send(START)
        await send(body(b"done"))
        await asyncio.sleep(60)

    began = time.monotonic()
    with serving(application, graceful_timeout=0.2) as server:
        assert ask1(server).content == b"done"
    assert time.monotonic() - began < 5
    assert "1 tasks were cancelled" in caplog.text


def test_what_fails_behind_the_response_is_logged_once(caplog):
    @app
    async def application(scope, receive, send):
        await send(START)
        await send(body(b"done"))
        await asyncio.sleep(0.02)
        raise ValueError("too late")

    with serving(application) as server:
        assert ask1(server).content == b"done"
    (record,) = errors(caplog)
    assert record.exc_info[0] is ValueError


def test_what_is_over_is_freed_without_the_collector():
    @app
    async def application(scope, receive, send):
        tasks.append(weakref.ref(asyncio.current_task()))
        await receive_all(receive)
        await asyncio.sleep(0.01)
        await send(START)
        await send(body(b"x"))

    tasks = []
    gc.disable()
    try:
        with serving(application) as server:
            for content in (b"", b"x" * 300_000):
                ask1(server, "POST", content=content)
            leave(server, ask1, tasks[:2])
            until(lambda: len(tasks) == 3)
            until(lambda: not any(task() for task in tasks))
    finally:
        gc.enable()


# --- lifespan


class Living:
    """An application that says what happens to it."""

    def __init__(self, startup="complete", shutdown="complete"):
        self.told = []
        self.answers = {"lifespan.startup": startup, "lifespan.shutdown": shutdown}

    async def __call__(self, scope, receive, send):
        if scope["type"] != "lifespan":
            self.told.append((scope["type"], scope["state"].get("pool")))
            scope["state"]["pool"] = "another"
            await send(START)
            return await send(END)
        scope["state"]["pool"] = "pool"
        assert scope["asgi"] == {"version": "3.0", "spec_version": "2.0"}
        for what in self.answers:
            message = await receive()
            assert message == {"type": what}
            await asyncio.sleep(0.02)
            self.told.append(what)
            how = self.answers[what]
            if how == "raise":
                raise ValueError("it cannot")
            if how != "complete":
                await send({"type": f"{what}.failed", "message": how})
                return None
            await send({"type": f"{what}.complete"})
        return None


def test_start_and_end():
    application = Living()
    with serving(application) as server:
        assert application.told == ["lifespan.startup"]
        ask1(server)
        ask1(server)
    requests = [("http", "pool"), ("http", "pool")]  # each has its own copy
    assert application.told == ["lifespan.startup", *requests, "lifespan.shutdown"]


@pytest.mark.parametrize(
    ("lifespan", "startup", "text"),
    [
        ("auto", "Traceback:\n  File x\nValueError: no database\n", "ValueError: no database"),
        ("auto", "", "it does not say why"),
        ("on", "no database", "no database"),
        ("on", "raise", "ValueError: it cannot"),
    ],
)
def test_a_startup_that_fails_stops_the_server(lifespan, startup, text):
    with pytest.raises(ConfigError) as raised, serving(Living(startup), lifespan=lifespan):
        pass
    assert str(raised.value) == f"the application's startup failed: {text}"


def test_who_knows_no_lifespan_is_served(caplog):
    caplog.set_level(logging.INFO, "geventgate")
    with serving(Living("raise")) as server:
        assert ask1(server).status == 200
    assert "knows no lifespan: ValueError('it cannot')" in caplog.text


def test_a_lifespan_that_is_off():
    application = Living()
    with serving(application, lifespan="off") as server:
        ask1(server)
    assert application.told == [("http", None)]


@pytest.mark.parametrize("shutdown", ["it would not", "raise"])
def test_a_shutdown_that_fails_is_logged(caplog, shutdown):
    with serving(Living(shutdown=shutdown)):
        pass
    assert len(errors(caplog)) == 1
    assert ("it would not" if shutdown != "raise" else "it cannot") in caplog.text


def test_one_that_is_mounted_starts_once_and_is_shut_down():
    application = Living()
    inner = geventgate.asgi(application)

    def dispatch(environ, start_response):
        return (inner if environ["PATH_INFO"].startswith("/asgi") else wsgi)(environ, start_response)

    with serving(dispatch) as server:
        assert ask1(server).content == b"wsgi"
        assert application.told == []
        gevent.joinall([gevent.spawn(ask1, server, path="/asgi") for _ in range(8)], raise_error=True)
        assert application.told == ["lifespan.startup", *[("http", "pool")] * 8]
    assert application.told[-1] == "lifespan.shutdown"
    assert application.told.count("lifespan.shutdown") == 1
    with serving(dispatch) as server:  # another server is another life
        ask1(server, path="/asgi")
    assert application.told.count("lifespan.shutdown") == application.told.count("lifespan.startup") == 2


# --- WebSockets


ACCEPT = {"type": "websocket.accept"}


@contextlib.contextmanager
def opened(server, version, path="/", **options):
    if version == 1:
        with WebSocketClient(server.url, path, **options) as websocket:
            yield websocket
        return
    with Http2Client(server.url) as client, Http2WebSocketClient(client, path, **options) as websocket:
        yield websocket


@pytest.fixture(params=[1, 2], ids=["HTTP/1.1", "HTTP/2"])
def version(request):
    return request.param


class Talking:
    """Accepts, echoes, and keeps what it is told."""

    def __init__(self, **accept):
        self.accept = {**ACCEPT, **accept}
        self.scope = None
        self.told = []

    async def __call__(self, scope, receive, send):
        self.scope = scope
        assert await receive() == {"type": "websocket.connect"}
        await send(self.accept)
        while (message := await receive())["type"] == "websocket.receive":
            await send({**message, "type": "websocket.send"})
        self.told.append(message)


def test_a_websocket_echoes(version):
    application = Talking(subprotocol="b", headers=[(b"x-own", b"1")])
    with serving(application, lifespan="off") as server:
        with opened(server, version, "/chat?x", subprotocols=["a", "b"]) as websocket:
            assert websocket.subprotocol == "b"
            assert ("x-own", "1") in websocket.headers
            for message in ("text", b"bytes", "", b""):
                websocket.send(message)
                assert websocket.receive() == message
            websocket.close(4001, "why not")
        until(lambda: application.told)
    assert application.told == [{"type": "websocket.disconnect", "code": 4001, "reason": "why not"}]
    scope = application.scope
    assert (scope["type"], scope["scheme"], scope["path"], scope["query_string"]) == ("websocket", "ws", "/chat", b"x")
    assert scope["subprotocols"] == ["a", "b"]
    assert scope["http_version"] == ("1.1" if version == 1 else "2")
    assert "method" not in scope
    assert "websocket.http.response" in scope["extensions"]


def test_a_peer_that_vanishes_is_1006():
    application = Talking()
    with serving(application, lifespan="off") as server:
        WebSocketClient(server.url).socket.close()
        until(lambda: application.told)
    assert application.told[0]["code"] == 1006


def test_a_close_without_a_code_is_1005():
    application = Talking()
    with serving(application, lifespan="off") as server:
        websocket = WebSocketClient(server.url)
        websocket.socket.sendall(b"\x88\x80abcd")
        until(lambda: application.told)
        websocket.socket.close()
    assert application.told[0]["code"] == 1005


def test_a_server_that_stops_is_1001():
    application = Talking()
    with serving(application, lifespan="off") as server:
        websocket = WebSocketClient(server.url)
        stopping = gevent.spawn(server.server.stop)
        assert websocket.receive() is None
        websocket.socket.close()
        stopping.get()
    assert websocket.close_code == 1001
    assert application.told[0]["code"] == 1001


def websocket_app(*messages, after=None):
    @app
    async def application(scope, receive, send):
        await receive()
        for message in messages:
            await send(message)
        if after is not None:
            await after(receive, send)

    return application


@pytest.mark.parametrize(
    ("closing", "code", "reason"),
    [
        ([{"type": "websocket.close", "code": 4444, "reason": "enough"}], 4444, "enough"),
        ([{"type": "websocket.close"}], 1000, ""),
        ([], 1000, ""),  # it returns
    ],
)
def test_the_application_closes(version, closing, code, reason):
    with serving(websocket_app(ACCEPT, *closing)) as server, opened(server, version) as websocket:
        assert websocket.receive() is None
        assert (websocket.close_code, websocket.close_reason) == (code, reason)


def test_an_application_that_fails_is_1011(version, caplog):
    async def fail(receive, send):
        raise ValueError("oh")

    with serving(websocket_app(ACCEPT, after=fail)) as server, opened(server, version) as websocket:
        assert websocket.receive() is None
        assert websocket.close_code == 1011
    (record,) = errors(caplog)
    assert record.exc_info[0] is ValueError


@pytest.mark.parametrize(
    ("messages", "status", "content"),
    [
        ([{"type": "websocket.close"}], 403, b""),
        (
            [
                {"type": "websocket.http.response.start", "status": 401, "headers": [(b"x-why", b"so")]},
                {"type": "websocket.http.response.body", "body": b"who ", "more_body": True},
                {"type": "websocket.http.response.body", "body": b"are you"},
            ],
            401,
            b"who are you",
        ),
    ],
)
def test_a_refusal(version, messages, status, content):
    async def after(receive, send):
        told.append((await receive())["type"])

    told = []
    with serving(websocket_app(*messages, after=after)) as server:
        with pytest.raises(Refused) as refused, opened(server, version):
            pass
        assert (refused.value.status, refused.value.content) == (status, content)
        assert ("x-why" in dict(refused.value.fields)) == (status == 401)
        until(lambda: told)
    assert told == ["websocket.disconnect"]


def test_an_application_that_neither_accepts_nor_refuses_is_500(version, caplog):
    with serving(websocket_app()) as server, pytest.raises(Refused) as refused, opened(server, version):
        pass
    assert refused.value.status == 500
    assert len(errors(caplog)) == 1


def test_a_page_of_another_site_is_refused(caplog):
    application = Talking()
    with serving(application, lifespan="off") as server:
        with pytest.raises(Refused) as refused:
            WebSocketClient(server.url, headers=[("Origin", "http://elsewhere.example")])
        assert refused.value.status == 403
        until(lambda: application.told)
    assert application.told[0]["type"] == "websocket.disconnect"
    assert not errors(caplog)


def test_messages_before_it_is_accepted_are_kept():
    @app
    async def application(scope, receive, send):
        await receive()
        await asyncio.sleep(0.05)
        await send(ACCEPT)
        await send({"type": "websocket.send", "text": "first"})
        await send({"type": "websocket.send", "text": (await receive())["text"]})

    with serving(application) as server, opened(server, 1) as websocket:
        websocket.send("early")
        assert [websocket.receive(), websocket.receive()] == ["first", "early"]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"type": "websocket.send"}, "has NoneType, not bytes"),
        ({"type": "websocket.send", "text": b"x"}, "bytes, not str"),
        ({"type": "websocket.close", "code": 1005}, "no code to close with"),
        ({"type": "websocket.close", "reason": "x" * 124}, "at most 123 bytes"),
        (ACCEPT, "'websocket.accept' was sent in an open WebSocket"),
        (START, "'http.response.start' was sent in an open WebSocket"),
    ],
)
def test_wrong_messages_close_with_1011(caplog, message, text):
    with serving(websocket_app(ACCEPT, message)) as server, opened(server, 1) as websocket:
        assert websocket.receive() is None
        assert websocket.close_code == 1011
    assert len(errors(caplog)) == 1
    assert text in caplog.text


def test_sending_after_the_peer_has_gone_is_an_oserror(caplog):
    async def after(receive, send):
        while (await receive())["type"] != "websocket.disconnect":
            pass
        try:
            await send({"type": "websocket.send", "text": "x"})
        except OSError as error:
            raised.append(error)
            raise

    raised = []
    with serving(websocket_app(ACCEPT, after=after)) as server:
        WebSocketClient(server.url).close()
        until(lambda: raised)
    assert not errors(caplog)


def test_a_flood_waits_for_a_slow_application():
    async def after(receive, send):
        while not go.is_set():
            await asyncio.sleep(0.01)
        count = 0
        while (message := await receive()).get("text") != "end":
            count += len(message["bytes"])
        await send({"type": "websocket.send", "text": str(count)})

    go = Event()
    with serving(websocket_app(ACCEPT, after=after)) as server, opened(server, 1) as websocket:
        sent = []

        def flood():
            for _ in range(600):
                websocket.send(b"x" * 100_000)
                sent.append(1)
            websocket.send("end")

        flooding = gevent.spawn(flood)
        count = -1
        while count != len(sent):
            count = len(sent)
            gevent.sleep(0.1)
        assert count < 500
        go.set()
        flooding.get()
        assert websocket.receive() == str(60_000_000)


def test_a_slow_peer_holds_up_a_fast_application():
    async def after(receive, send):
        async def many():
            for _ in range(400):
                await send({"type": "websocket.send", "bytes": b"x" * 100_000})
                sent.append(1)

        await asyncio.gather(many(), many())
        await send({"type": "websocket.send", "text": "end"})

    sent = []
    with serving(websocket_app(ACCEPT, after=after)) as server, opened(server, 1) as websocket:
        until(lambda: sent)
        count = -1
        while count != len(sent):
            count = len(sent)
            gevent.sleep(0.1)
        assert count < 700
        total = 0
        while (message := websocket.receive()) != "end":
            total += len(message)
        assert total == 80_000_000


def test_many_tasks_send():
    async def after(receive, send):
        await asyncio.gather(*[send({"type": "websocket.send", "text": str(number)}) for number in range(200)])

    with serving(websocket_app(ACCEPT, after=after)) as server, opened(server, 1) as websocket:
        got = list(iter(websocket.receive, None))
    assert sorted(map(int, got)) == list(range(200))
