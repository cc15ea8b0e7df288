"""An ASGI application as a WSGI application (ASGI 3.0): by the environ's keys, and nothing else.

Its coroutines run in the thread's loop (aio.py). The greenlet of the request begins the task, runs it as far as it goes
without waiting, and then does what the task has sent: whatever blocks, blocks that greenlet, and never the loop.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from http import HTTPStatus
from io import BytesIO
from typing import Any, NoReturn, cast
from urllib.parse import quote

import gevent
from gevent import GreenletExit
from gevent.event import Event
from gevent.lock import Semaphore

from geventgate.aio import GeventLoop, background, run_async
from geventgate.errors import ApplicationError, ConfigError, PeerError, PeerGone
from geventgate.exchange import EventLike
from geventgate.gateway.environ import NoContent, Request
from geventgate.gateway.websocket import WebSocket
from geventgate.message import Tls
from geventgate.protocol.websocket import ABNORMAL, INTERNAL_ERROR, NORMAL, is_close_code

Environ = dict[str, Any]
Message = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Begin = Callable[[Scope, Receive, Send, GeventLoop], "asyncio.Task[None]"]
AtStop = Callable[[Callable[[float], object]], object]
Pairs = list[tuple[bytes, bytes]]

VERSIONS = {"version": "3.0", "spec_version": "2.5"}
LIFESPAN_VERSIONS = {"version": "3.0", "spec_version": "2.0"}
HIGH = 64 * 1024  # bytes that a task may have sent and nobody has written; then send() waits
PIECE = 64 * 1024  # of content received
MESSAGES = 16  # of a WebSocket that wait, on either side; then whoever sends waits
MESSAGE_BYTES = 1024 * 1024  # of those received
LEAST_SHUTDOWN = 5.0  # seconds that an application has to shut down, whatever went before
CANCEL_SECONDS = 2.0  # for cancelled tasks to end
MAX_REASON = 123  # bytes of a Close (RFC 6455 §5.5)
STARTING, IN_CONTENT, TRAILERS_DUE, COMPLETE = range(4)  # what of a response has been sent
CONNECTING, OPEN, REFUSING, CLOSING, CLOSED = range(5)  # a WebSocket; CLOSING: the application has closed it
STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
TLS_VERSIONS = {"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
CIPHER_SUITES = {
    "TLS_AES_128_GCM_SHA256": 0x1301,
    "TLS_AES_256_GCM_SHA384": 0x1302,
    "TLS_CHACHA20_POLY1305_SHA256": 0x1303,
}

log = logging.getLogger("geventgate")


class Asgi:
    """*application* under WSGI. What it is told of start and end is *lifespan*, as --lifespan; for each server that
    calls it."""

    def __init__(self, application: Application, lifespan: str) -> None:
        self._application = application
        self._lifespan = lifespan
        self._runs: dict[EventLike, Run] = {}  # by the servers' geventgate.draining
        self._starting = Semaphore()

    def start(self, draining: EventLike, at_stop: AtStop) -> None:
        """Have the application start up for the server whose keys these are, unless it has. Raises ConfigError."""
        with self._starting:
            if draining not in self._runs:
                run = Run(self._application, self._lifespan)
                run.start()
                self._runs[draining] = run
                at_stop(partial(self._stop, draining))

    def _stop(self, draining: EventLike, seconds: float) -> None:
        self._runs.pop(draining).stop(seconds)

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        draining = environ["geventgate.draining"]
        run = self._runs.get(draining)
        if run is None:  # mounted in a WSGI application, and this is its first request
            self.start(draining, environ["geventgate.at_stop"])
            run = self._runs[draining]
        websocket = environ.get("wsgi.websocket")
        if websocket is not None:
            return WebSocketCycle(environ, websocket, start_response).serve(run.begin)
        return HttpCycle(environ, start_response).serve(run.begin)


def asgi(application: Application, *, lifespan: str = "auto") -> Asgi:
    """*application* as a WSGI application, to be mounted beside others: it starts up at its first request, and shuts
    down when the server stops. *lifespan* is "auto", "on" or "off"."""
    return Asgi(application, lifespan)


def asgi2(application: Callable[[Scope], Callable[[Receive, Send], Awaitable[None]]]) -> Application:
    """An application of ASGI 2.0, called twice, as one of 3.0."""

    async def called_once(scope: Scope, receive: Receive, send: Send) -> None:
        await application(scope)(receive, send)

    return called_once


# --- start and end


class Run:
    """An application from a server's start to its end."""

    def __init__(self, application: Application, lifespan: str) -> None:
        self._application = application
        self._lifespan = lifespan
        self._state: dict[str, Any] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # of requests, that have still to end
        self._asked: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None  # the lifespan's

    def start(self) -> None:
        """Raises ConfigError."""
        if self._lifespan != "off" and (failure := run_async(self._start_up())):
            raise ConfigError(f"the application's startup failed: {failure}")

    def stop(self, seconds: float) -> None:
        """Have it shut down, after what its requests have left running; that may take *seconds*."""
        run_async(self._shut_down(seconds))

    def begin(self, scope: Scope, receive: Receive, send: Send, loop: GeventLoop) -> "asyncio.Task[None]":
        """Begin the task of a request, and run it as far as it goes."""
        scope["state"] = self._state.copy()
        task = cast("asyncio.Task[None]", loop.create_task(cast(Any, self._application(scope, receive, send))))
        loop.enter()
        if not task.done():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return task

    async def _start_up(self) -> str:
        scope = {"type": "lifespan", "asgi": dict(LIFESPAN_VERSIONS), "state": self._state}
        self._task = asyncio.ensure_future(self._application(scope, self._asked.get, self._answer))
        answer = await self._ask("startup", None)
        if answer is not None:
            if answer:
                await self._end()
            return answer
        error = await self._end()
        if self._lifespan == "auto":
            log.info("the application knows no lifespan: %s", "it returned" if error is None else _line(repr(error)))
            return ""
        if error is None:
            return "it returned without an answer"
        log.debug("in the application's lifespan", exc_info=error)
        return f"{type(error).__name__}: {_line(str(error))}"

    async def _shut_down(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=seconds)
            if late:
                log.warning("%d tasks were cancelled: the graceful timeout is over", len(late))
                await _cancel(late)
        if self._task is None:
            return
        answer = None
        if not self._task.done():
            answer = await self._ask("shutdown", max(until - loop.time(), LEAST_SHUTDOWN))
        if answer:
            log.error("the application's shutdown failed: %s", answer)
        error = await self._end()
        if error is not None and not answer:
            log.error("in the application's lifespan", exc_info=error)

    async def _ask(self, what: str, timeout: float | None) -> str | None:
        """Tell it to do *what*; how that failed, "" if it did not. None: there is no answer."""
        assert self._task is not None
        self._asked.put_nowait({"type": f"lifespan.{what}"})
        answer = asyncio.ensure_future(self._answers.get())
        done, _ = await asyncio.wait([answer, self._task], timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if answer not in done:
            answer.cancel()
            return None if done else "it takes too long"
        message = answer.result()
        if message["type"] == f"lifespan.{what}.complete":
            return ""
        text = message.get("message") or "it does not say why"
        log.debug("%s", text)
        return _line(text)

    async def _answer(self, message: Message) -> None:
        kind = _kind(message)
        if kind not in (f"lifespan.{what}.{how}" for what in ("startup", "shutdown") for how in ("complete", "failed")):
            raise ApplicationError(f"{kind!r} was sent in a lifespan")
        self._answers.put_nowait(message)

    async def _end(self) -> BaseException | None:
        """Have its task end; what it raised."""
        assert self._task is not None
        task, self._task = self._task, None
        await asyncio.wait([task], timeout=CANCEL_SECONDS)
        if not task.done():
            await _cancel({task})
        return task.exception() if task.done() and not task.cancelled() else None


async def _cancel(tasks: "set[asyncio.Task[None]]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks, timeout=CANCEL_SECONDS)


def _line(text: str) -> str:
    """The last line of *text*: a traceback says there what it is about."""
    return ([line.strip() for line in text.splitlines() if line.strip()] or [""])[-1]


# --- the scope of a request


def make_scope(environ: Environ, kind: str) -> Scope:
    """*kind* is "http" or "websocket"."""
    request: Request = environ["geventgate.request"]
    root_path, path = environ["SCRIPT_NAME"], environ["PATH_INFO"]
    raw_path = request.raw_path
    if not path.isascii() or root_path:
        path = (root_path + path).encode("latin-1").decode("utf-8", "surrogateescape")
        root_path = root_path.encode("latin-1").decode("utf-8", "surrogateescape")
        if root_path and not request.path.startswith(root_path):  # a proxy has taken it off
            raw_path = quote(root_path, errors="surrogateescape").encode("ascii") + raw_path
    headers = list(request.headers)
    if request.http_version == "2" and not any(name == b"host" for name, _ in headers):
        headers.insert(0, (b"host", environ.get("HTTP_HOST", "").encode("latin-1")))  # of :authority
    secure = environ["wsgi.url_scheme"] == "https"
    scope = {
        "type": kind,
        "asgi": VERSIONS.copy(),
        "http_version": request.http_version,
        "path": path,
        "raw_path": raw_path,
        "query_string": request.query,
        "root_path": root_path,
        "headers": headers,
        "client": _address(request.client),
        "server": _address((environ["SERVER_NAME"], environ["SERVER_PORT"])),
        "extensions": {},
    }
    if not request.server[0] and environ["SERVER_NAME"] == "localhost":
        scope["server"] = None  # a unix socket, and no proxy has told
    if kind == "http":
        scope["method"] = environ["REQUEST_METHOD"]
        scope["scheme"] = "https" if secure else "http"
    else:
        scope["scheme"] = "wss" if secure else "ws"
    if "geventgate.tls" in environ:
        scope["extensions"]["tls"] = _tls(environ["geventgate.tls"], environ)
    return scope


def _address(address: tuple[str, str]) -> tuple[str, int] | None:
    """None on a unix socket."""
    host, port = address
    return (host, int(port or 0)) if host else None


def _tls(tls: Tls, environ: Environ) -> dict[str, Any]:
    """The TLS extension; what the ssl module does not tell is None."""
    certificate = environ.get("SSL_CLIENT_CERT")
    return {
        "server_cert": None,
        "client_cert_chain": [certificate] if certificate else [],
        "client_cert_name": environ.get("SSL_CLIENT_S_DN"),
        "client_cert_error": None,
        "tls_version": TLS_VERSIONS.get(tls.version),
        "cipher_suite": CIPHER_SUITES.get(tls.cipher),
    }


# --- HTTP


class HttpCycle:
    """One request and its response."""

    __slots__ = (
        "_actions", "_blocks", "_disconnect", "_environ", "_gone", "_head", "_loop", "_news", "_path", "_reader",
        "_reading", "_received", "_room", "_said", "_size", "_start_response", "_task", "_trailers", "_trailers_due",
        "_watches",
    )  # fmt: skip

    def __init__(self, environ: Environ, start_response: Callable[..., Any]) -> None:
        # Set once.
        self._environ = environ
        self._start_response = start_response
        self._loop = background()
        self._task: asyncio.Task[None] | None = None
        # What the task has sent, for the greenlet to do.
        self._said = STARTING
        self._actions: list[Callable[[], object]] = []
        self._head: tuple[int, Pairs] | None = None
        self._blocks: list[bytes] = []
        self._size = 0  # of the blocks, those being written too
        self._path: str | None = None  # of a file that is the content
        self._trailers_due = False
        self._trailers: Pairs = []
        self._news: Event | None = None  # for the greenlet, once it waits
        self._room: asyncio.Event | None = None  # for tasks that have sent much
        # What it receives.
        self._reading: asyncio.Future[bytes | None] | None = None
        self._reader: gevent.Greenlet | None = None
        self._received = False  # all of the content
        self._disconnect: asyncio.Future[None] | None = None
        self._watches = False
        self._gone = False  # the peer; or all is over

    # --- in the greenlet of the request

    def serve(self, begin: Begin) -> Iterable[bytes]:
        environ = self._environ
        scope = make_scope(environ, "http")
        extensions = scope["extensions"]
        extensions["http.response.pathsend"] = {}
        extensions["http.response.debug"] = {}
        if "geventgate.send_trailers" in environ:
            extensions["http.response.trailers"] = {}
        if "wsgi.early_hints" in environ:
            extensions["http.response.early_hint"] = {}
        if "geventgate.push" in environ:
            extensions["http.response.push"] = {}
        task = self._task = begin(scope, self.receive, self.send, self._loop)
        if not task.done() and self._said is not COMPLETE:
            self._news = Event()
            task.add_done_callback(self._tell)
            self._watch()
        try:
            return self._respond(task)
        finally:
            if self._reader is not None:
                self._reader.kill()  # the rest of the content is the server's

    def _respond(self, task: "asyncio.Task[None]") -> Iterable[bytes]:
        environ = self._environ
        write: Callable[[bytes], object] | None = None
        begun = False
        while True:
            for action in self._take_actions():
                action()
            content = self._take_content()
            if self._head is not None and write is None:
                write = _start(self._start_response, *self._head)
            if self._said is COMPLETE or task.done():
                break
            if write is not None and (content or not begun):
                write(content)
                begun = True
            self._size -= len(content)
            if self._room is not None and self._size <= HIGH:
                self._room.set()
            assert self._news is not None
            self._news.wait()
            self._news.clear()
        if self._said is not COMPLETE:
            if self._gone:
                _report(environ, task)
                raise PeerGone
            _raise_end(task)
        if task.done():
            _report(environ, task)
        else:
            task.add_done_callback(partial(_report, environ))
        if self._trailers:
            environ["geventgate.send_trailers"](self._trailers)
        if self._path is not None:
            return environ["wsgi.file_wrapper"](open(self._path, "rb"))  # type: ignore[no-any-return]
        return [content]

    def _take_actions(self) -> list[Callable[[], object]]:
        actions, self._actions = self._actions, []
        return actions

    def _take_content(self) -> bytes:
        blocks, self._blocks = self._blocks, []
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    def _watch(self) -> None:
        if not self._watches:
            self._watches = True
            self._environ["geventgate.disconnected"].rawlink(self._lose)

    # --- in the hub

    def _tell(self, _: object = None) -> None:
        if self._news is not None:
            self._news.set()

    def _lose(self, _: object) -> None:
        """The peer has gone, or all has been said."""
        self._environ["geventgate.disconnected"].unlink(self._lose)  # no cycle
        self._gone = True
        task, self._task = self._task, None  # whose traceback may lead here
        if self._disconnect is not None:
            if not self._disconnect.done():
                self._disconnect.set_result(None)
        elif self._said is not COMPLETE and task is not None:
            task.cancel()  # it has never asked for http.disconnect
        if self._room is not None:
            self._room.set()
        self._tell()

    # --- called by the application, in the loop

    async def receive(self) -> Message:
        if not self._received:
            content = self._environ["wsgi.input"]
            if isinstance(content, (BytesIO, NoContent)):
                self._received = True
                return {"type": "http.request", "body": content.read(), "more_body": False}
            data = await self._read(content)
            if data is not None:
                return {"type": "http.request", "body": data, "more_body": not self._received}
        if self._said is not COMPLETE and not self._gone:
            if self._disconnect is None:
                self._disconnect = self._loop.create_future()
                self._watch()
            await asyncio.shield(self._disconnect)
        return {"type": "http.disconnect"}

    async def _read(self, content: Any) -> bytes | None:
        """The next piece of content, b"" at its end; None when the peer has gone, or another task has heard of the end.

        A receive() that is cancelled leaves the piece to the next.
        """
        while not self._received:
            reading = self._reading
            if reading is None:
                if self._said is COMPLETE or self._gone:
                    return None
                reading = self._reading = self._loop.create_future()
                self._reader = gevent.spawn(_read_piece, content, reading)
            data = await asyncio.shield(reading)
            if data is None:
                self._gone = True
                return None
            if self._reading is reading:
                self._reading = None
                self._received = not data
                return data
        return None

    async def send(self, message: Message) -> None:
        kind = _kind(message)
        if self._said is COMPLETE:
            raise ApplicationError(f"{kind!r} was sent after the response was complete")
        if self._gone:
            raise PeerGone
        if kind == "http.response.body" and self._said is IN_CONTENT and self._path is None:
            self._send_body(message)
        elif kind == "http.response.start" and self._said is STARTING:
            self._head = _head(message)
            self._trailers_due = bool(message.get("trailers", False))
            self._said = IN_CONTENT
        else:
            self._send_other(kind, message)
        self._tell()
        while self._size > HIGH and self._said is not COMPLETE:
            await self._have_room()

    async def _have_room(self) -> None:
        if self._room is None:
            self._room = asyncio.Event()
        self._room.clear()
        await self._room.wait()
        if self._gone:
            raise PeerGone

    def _send_body(self, message: Message) -> None:
        data = message.get("body", b"")
        if data:
            data = _as_bytes(data, "http.response.body")
            self._blocks.append(data)
            self._size += len(data)
        if not message.get("more_body", False):
            self._said = TRAILERS_DUE if self._trailers_due else COMPLETE

    def _send_other(self, kind: str, message: Message) -> None:
        environ = self._environ
        if kind == "http.response.early_hint" and self._said is STARTING and "wsgi.early_hints" in environ:
            links = [(b"link", link) for link in _needed(message, "links")]
            self._actions.append(partial(environ["wsgi.early_hints"], links))
        elif kind == "http.response.push" and self._said is not TRAILERS_DUE and "geventgate.push" in environ:
            self._actions.append(partial(environ["geventgate.push"], _needed(message, "path"), _pairs(message)))
        elif kind == "http.response.debug" and self._said is STARTING:
            log.debug("%s: %s", environ["RAW_URI"], _needed(message, "info"))
        elif kind == "http.response.pathsend" and self._said is IN_CONTENT and not self._size and self._path is None:
            self._path = _needed(message, "path")
            self._said = TRAILERS_DUE if self._trailers_due else COMPLETE
        elif kind == "http.response.trailers" and self._said is TRAILERS_DUE:
            self._trailers += _pairs(message)
            if not message.get("more_trailers", False):
                self._said = COMPLETE
        else:
            where = ("before http.response.start", "in the content", "before http.response.trailers")[self._said]
            raise ApplicationError(f"{kind!r} was sent {where}, where it has no place, or is not among the extensions")


def _read_piece(content: Any, reading: "asyncio.Future[bytes | None]") -> None:
    """In a greenlet of its own: the response goes on meanwhile."""
    try:
        data = content.read1(PIECE)
    except (PeerGone, GreenletExit):
        data = None
    except BaseException as error:
        if not reading.done():
            reading.set_exception(error)
            reading.exception()  # if nobody asks again, it is not to be told at the end
        return
    if not reading.done():
        reading.set_result(data)


# --- WebSockets


class WebSocketCycle:
    """One WebSocket. Its greenlet receives; what the application sends goes out there too while it is entered from
    there, and in a greenlet begun for it at other times."""

    __slots__ = (
        "_environ", "_farewell", "_loop", "_messages", "_news", "_out", "_refusal", "_refused", "_room", "_sending",
        "_serving", "_size", "_size_out", "_start_response", "_state", "_waiters", "_websocket",
    )  # fmt: skip

    def __init__(self, environ: Environ, websocket: WebSocket, start_response: Callable[..., Any]) -> None:
        # Set once.
        self._environ = environ
        self._websocket = websocket
        self._start_response = start_response
        self._loop = background()
        self._state = CONNECTING
        self._news = Event()  # for the greenlet
        # To the application.
        self._messages: deque[Message] = deque([{"type": "websocket.connect"}])
        self._size = 0  # of these messages
        self._waiters: list[asyncio.Future[None]] = []
        self._farewell: Message | None = None  # is received from then on
        # From it.
        self._out: deque[Message] = deque()
        self._size_out = 0
        self._room: asyncio.Event | None = None
        self._sending = True  # a greenlet sends; at first it is ours that will
        self._serving = False  # ours will, when the loop comes back to it
        self._refusal: tuple[int, Pairs] = (403, [])
        self._refused = False  # with all of it

    # --- in the greenlet of the request

    def serve(self, begin: Begin) -> Iterable[bytes]:
        scope = make_scope(self._environ, "websocket")
        scope["subprotocols"] = list(self._websocket.subprotocols)
        scope["extensions"]["websocket.http.response"] = {}
        task = begin(scope, self.receive, self.send, self._loop)
        task.add_done_callback(self._end)
        try:
            self._wait_for_decision(task)
            if self._state is REFUSING:
                return self._refuse(task)
            if self._state is CONNECTING:
                _raise_end(task)
            if self._state is not CLOSED:
                self._send_all()
                self._receive_all()
            return []
        finally:
            self._leave()

    def _wait_for_decision(self, task: "asyncio.Task[None]") -> None:
        if self._state is CONNECTING and not task.done():
            gone = self._environ["geventgate.disconnected"]
            gone.rawlink(self._lose)
            try:
                self._wait(lambda: self._state is not CONNECTING or task.done())
            finally:
                gone.unlink(self._lose)

    def _lose(self, _: object) -> None:
        """In the hub: the peer has gone before it had an answer."""
        if self._state is CONNECTING:
            self._leave()

    def _wait(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._news.clear()
            self._news.wait()

    def _receive_all(self) -> None:
        websocket = self._websocket
        while (message := websocket.receive()) is not None:
            kind = "text" if isinstance(message, str) else "bytes"
            self._size += len(message)
            self._hand({"type": "websocket.receive", kind: message})
            if self._has_enough():
                self._wait(lambda: not self._has_enough() or self._state is not OPEN)

    def _has_enough(self) -> bool:
        return len(self._messages) >= MESSAGES or self._size >= MESSAGE_BYTES

    def _hand(self, message: Message) -> None:
        """Let the application have *message*, and send what it says to that."""
        self._messages.append(message)
        if self._waiters:
            self._wake()
            self._serving = True
            try:
                self._loop.enter()
            finally:
                self._serving = False
            if self._out and not self._sending:
                self._sending = True
                self._send_all()

    def _wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _leave(self) -> None:
        """It is closed: the application hears of it when it next receives or sends."""
        websocket = self._websocket
        code = websocket.close_code if websocket.accepted else ABNORMAL
        self._farewell = {
            "type": "websocket.disconnect",
            "code": ABNORMAL if code is None else code,
            "reason": websocket.close_reason,
        }
        if self._state is not CLOSING:
            self._state = CLOSED
        self._wake()
        if self._room is not None:
            self._room.set()
        self._news.set()

    def _refuse(self, task: "asyncio.Task[None]") -> Iterable[bytes]:
        """Answer in place of a WebSocket."""
        write = _start(self._start_response, *self._refusal)
        while True:
            self._wait(lambda: bool(self._out) or self._refused or task.done())
            content = b"".join(message["body"] for message in self._out)
            self._out.clear()
            if self._refused:
                return [content]
            if task.done():
                _raise_end(task)
            write(content)
            self._size_out -= len(content)
            if self._room is not None:
                self._room.set()

    # --- in the greenlet that sends

    def _send_all(self) -> None:
        """Send what is due. The caller has set ``_sending``."""
        try:
            while self._out:
                message = self._out.popleft()
                self._send_now(message)
                self._size_out -= _size(message)
                if self._room is not None and not self._is_full():
                    self._room.set()
        except OSError as error:
            log.debug("%s: %s", self._environ["RAW_URI"], error)
            self._out.clear()
            self._leave()
        except Exception as error:
            if not self._websocket.accepted:
                raise
            log.error("%s: what the application sent cannot be", self._environ["RAW_URI"], exc_info=error)
            self._out.clear()
            self._leave()
            self._websocket.finish(error)
        finally:
            self._sending = False

    def _send_now(self, message: Message) -> None:
        websocket = self._websocket
        kind = message["type"]
        if kind == "websocket.send":
            text = message.get("text")
            websocket.send(message["bytes"] if text is None else text)
        elif kind == "websocket.accept":
            websocket.accept(message.get("subprotocol"), _pairs(message))
        else:
            websocket.close(message.get("code", NORMAL), message.get("reason") or "")

    # --- called by the application, in the loop

    async def receive(self) -> Message:
        while not self._messages:
            if self._farewell is not None:
                return self._farewell.copy()
            waiter = self._loop.create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                self._waiters.remove(waiter)
        full = self._has_enough()
        message = self._messages.popleft()
        if message["type"] == "websocket.receive":
            self._size -= len(message["text"] if "text" in message else message["bytes"])
        if full:
            self._news.set()
        return message

    async def send(self, message: Message) -> None:
        kind = _kind(message)
        state = self._state
        if state is CLOSED:
            raise PeerGone("the WebSocket is closed")
        if state is OPEN and kind == "websocket.send":
            _check_message(message)
            self._put(message)
        elif state is OPEN and kind == "websocket.close":
            _check_close(message)
            self._state = CLOSING
            self._put(message)
            self._news.set()
        elif state is REFUSING and kind == "websocket.http.response.body" and not self._refused:
            body = _as_bytes(message.get("body", b""), kind)
            self._out.append({"type": kind, "body": body})
            self._size_out += len(body)
            self._refused = not message.get("more_body", False)
            self._news.set()
        elif state is CONNECTING:
            self._decide(kind, message)
        else:
            where = {OPEN: "in an open WebSocket", REFUSING: "in a refusal", CLOSING: "after websocket.close"}[state]
            raise ApplicationError(f"{kind!r} was sent {where}, where it has no place")
        while self._is_full() and not self._refused:
            await self._have_room()

    def _is_full(self) -> bool:
        return len(self._out) > MESSAGES or self._size_out > HIGH

    async def _have_room(self) -> None:
        if self._room is None:
            self._room = asyncio.Event()
        self._room.clear()
        await self._room.wait()
        if self._state is CLOSED:
            raise PeerGone("the WebSocket is closed")

    def _decide(self, kind: str, message: Message) -> None:
        """Open it, or answer in its place."""
        if kind == "websocket.accept":
            self._state = OPEN
            self._out.append(message)
        elif kind == "websocket.close":
            self._state = REFUSING
            self._refused = True
        elif kind == "websocket.http.response.start":
            self._refusal = _head(message)
            self._state = REFUSING
        else:
            raise ApplicationError(f"{kind!r} was sent before the WebSocket was accepted or refused")
        self._news.set()

    def _put(self, message: Message) -> None:
        self._out.append(message)
        self._size_out += _size(message)
        if not self._serving and not self._sending:
            self._sending = True
            gevent.spawn(self._send_all)

    def _end(self, task: "asyncio.Task[None]") -> None:
        """The application has returned."""
        if self._state is OPEN:
            failed = task.cancelled() or task.exception() is not None
            self._state = CLOSING
            self._put({"type": "websocket.close", "code": INTERNAL_ERROR if failed else NORMAL})
        if self._state in (CLOSING, CLOSED) or self._refused:
            _report(self._environ, task)
        self._news.set()


def _size(message: Message) -> int:
    if message["type"] != "websocket.send":
        return 0
    text = message.get("text")
    return len(message["bytes"] if text is None else text)


def _check_message(message: Message) -> None:
    text = message.get("text")
    if text is None:
        _as_bytes(message.get("bytes"), "websocket.send, without text,")
    elif not isinstance(text, str):
        raise ApplicationError(f"websocket.send has a text that is {type(text).__name__}, not str")


def _check_close(message: Message) -> None:
    code, reason = message.get("code", NORMAL), message.get("reason") or ""
    if not isinstance(code, int) or not is_close_code(code):
        raise ApplicationError(f"websocket.close with {code!r}, which is no code to close with")
    if not isinstance(reason, str) or len(reason.encode("utf-8", "replace")) > MAX_REASON:
        raise ApplicationError(f"websocket.close with a reason that is no str of at most {MAX_REASON} bytes")


# --- messages


def _kind(message: Message) -> str:
    try:
        return message["type"]  # type: ignore[no-any-return]
    except (TypeError, KeyError):
        raise ApplicationError(f"no message with a type, but {type(message).__name__}, was sent") from None


def _needed(message: Message, key: str) -> Any:
    try:
        return message[key]
    except KeyError:
        raise ApplicationError(f"{message['type']} without {key!r}") from None


def _pairs(message: Message) -> Pairs:
    try:
        return [(name, value) for name, value in message.get("headers", ())]
    except (TypeError, ValueError):
        raise ApplicationError(f"{message['type']} with headers that are no pairs") from None


def _head(message: Message) -> tuple[int, Pairs]:
    status = _needed(message, "status")
    if not isinstance(status, int):
        raise ApplicationError(f"{message['type']} with a status that is {type(status).__name__}, not int")
    return int(status), _pairs(message)


def _as_bytes(data: object, what: str) -> bytes:
    if type(data) is bytes:
        return data
    if isinstance(data, (bytes, bytearray, memoryview)):
        return bytes(data)
    raise ApplicationError(f"{what} has {type(data).__name__}, not bytes")


def _start(start_response: Callable[..., Any], status: int, fields: Pairs) -> Callable[[bytes], object]:
    """The write() of a response. Its fields are text, as PEP 3333 has them: middleware expects that, and a head that
    was said before is found by its text."""
    text = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in fields]
    return start_response(STATUS_LINES.get(status) or f"{status} ", text)  # type: ignore[no-any-return]


# --- the end of a task


def _raise_end(task: "asyncio.Task[None]") -> NoReturn:
    """An application has ended without having answered."""
    if task.cancelled():
        raise ApplicationError("the application's task was cancelled, and its answer is not complete")
    error = task.exception()
    if error is None:
        raise ApplicationError("the application returned, and its answer is not complete")
    raise error


def _report(environ: Environ, task: "asyncio.Task[None]") -> None:
    """Of what goes wrong behind a response nobody else will hear."""
    if not task.done() or task.cancelled():
        return
    error = task.exception()
    if error is None:
        return
    if isinstance(error, PeerError) or (isinstance(error, BaseExceptionGroup) and not error.split(PeerError)[1]):
        log.debug("the application has noticed that the peer has gone: %r", error)
    else:
        request: Request = environ["geventgate.request"]
        asked = f"{request.method} {request.target!r} from {request.client[0]}"
        log.error("%s: the application failed after it had answered", asked, exc_info=error)
