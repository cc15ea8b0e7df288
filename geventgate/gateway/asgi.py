"""An ASGI application as a WSGI application (ASGI 3.0): by the environ's keys, and nothing else.

Its coroutines run in the thread's loop (aio.py). The greenlet of the request begins the task, runs it as far as it goes
without waiting, and then does what the task has sent: whatever blocks, blocks that greenlet, and never the loop.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from io import BytesIO
from typing import Any, Literal, NoReturn, cast

import gevent
from gevent.event import Event

from geventgate.aio import GeventLoop, background, run_async, run_blocking
from geventgate.errors import ApplicationError, ConfigError, PeerGone
from geventgate.gateway.environ import NoContent, Request
from geventgate.gateway.websocket import WebSocket
from geventgate.message import Tls

Environ = dict[str, Any]
Message = dict[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]
Action = bytes | Callable[[], object]

VERSIONS = {"version": "3.0", "spec_version": "2.5"}
LIFESPAN_VERSIONS = {"version": "3.0", "spec_version": "2.0"}
HIGH = 64 * 1024  # bytes that a task may have sent and nobody has written; then send() waits
PIECE = 64 * 1024  # of content received
MESSAGES = 16  # of a WebSocket that are received and not yet asked for
CONNECTING, OPEN, REFUSING, CLOSED = range(4)  # a WebSocket's states
STATUS_LINES = {status.value: f"{status.value} {status.phrase}" for status in HTTPStatus}
TLS_VERSIONS = {"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}

log = logging.getLogger("geventgate")


class Asgi:
    """``geventgate.asgi(application)``: *application* under WSGI.

    *lifespan* is whether it is told of start and end: "auto" takes one that raises for one that does not know. Raises
    ConfigError when it says that it cannot start.
    """

    def __init__(self, application: Application, *, lifespan: Literal["auto", "on", "off"] = "auto") -> None:
        self._application = application
        self._lifespan = Lifespan(application, required=lifespan == "on")
        if lifespan == "off":
            self._lifespan.begun = True
        self._tasks: set[asyncio.Task[None]] = set()  # that have still to end

    def start(self) -> None:
        """Have the application start up, if it was not before. Raises ConfigError."""
        if not self._lifespan.begun:
            self._lifespan.start()

    def stop(self) -> None:
        """Have it shut down, after what its requests have left running."""
        while self._tasks:
            run_async(asyncio.wait(self._tasks))
        self._lifespan.stop()

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not self._lifespan.begun:
            self.start()
        websocket = environ.get("wsgi.websocket")
        if websocket is not None:
            return WebSocketCycle(environ, websocket, start_response).serve(self._begin)
        return HttpCycle(environ, start_response).serve(self._begin)

    def _begin(self, scope: Scope, receive: Receive, send: Send, loop: GeventLoop) -> "asyncio.Task[None]":
        """Begin the task of a request, and run it as far as it goes."""
        if self._lifespan.state:
            scope["state"] = self._lifespan.state.copy()
        task = cast("asyncio.Task[None]", loop.create_task(cast(Any, self._application(scope, receive, send))))
        loop.enter()
        if not task.done():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return task


def asgi2(application: Callable[[Scope], Callable[[Receive, Send], Awaitable[None]]]) -> Application:
    """An application of ASGI 2.0, called twice, as one of 3.0."""

    async def called_once(scope: Scope, receive: Receive, send: Send) -> None:
        await application(scope)(receive, send)

    return called_once


class Lifespan:
    """What an application is told of the server's start and end."""

    def __init__(self, application: Application, required: bool) -> None:
        self.begun = False
        self.state: dict[str, Any] = {}
        self._application = application
        self._required = required
        self._answers: asyncio.Queue[str] | None = None
        self._asked: asyncio.Queue[Message] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.begun = True
        failure = run_async(self._ask("startup"))
        if failure:
            raise ConfigError(f"the application's startup failed: {failure}")

    def stop(self) -> None:
        if self._task is not None and not self._task.done():
            failure = run_async(self._ask("shutdown"))
            if failure:
                log.error("the application's shutdown failed: %s", failure)

    async def _ask(self, what: str) -> str:
        """Tell it to do *what*; how that failed, or ""."""
        if self._task is None:
            self._asked, self._answers = asyncio.Queue(), asyncio.Queue()
            scope = {"type": "lifespan", "asgi": dict(LIFESPAN_VERSIONS), "state": self.state}
            self._task = asyncio.ensure_future(self._application(scope, self._asked.get, self._send))
        assert self._asked is not None
        assert self._answers is not None
        self._asked.put_nowait({"type": f"lifespan.{what}"})
        answer = asyncio.ensure_future(self._answers.get())
        await asyncio.wait([answer, self._task], return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            return answer.result()
        answer.cancel()
        error = self._task.exception()
        if error is None:
            return ""
        if what == "startup" and not self._required:
            log.debug("the application knows no lifespan: %r", error)
            return ""
        log.error("in the application's lifespan", exc_info=error)
        return f"{type(error).__name__}: {error}"

    async def _send(self, message: Message) -> None:
        assert self._answers is not None
        _, _, outcome = message["type"].rpartition(".")
        if outcome not in ("complete", "failed"):
            raise ApplicationError(f"unknown in a lifespan: {message['type']!r}")
        failure = message.get("message") or "it did not say why"
        self._answers.put_nowait("" if outcome == "complete" else " ".join(failure.split()))


def make_scope(environ: Environ, kind: str) -> Scope:
    """*kind* is "http" or "websocket"."""
    request: Request = environ["geventgate.request"]
    root_path, info = environ["SCRIPT_NAME"], environ["PATH_INFO"]
    raw_path = request.raw_path
    if not info.isascii() or root_path:
        info = (root_path + info).encode("latin-1").decode("utf-8", "surrogateescape")
        root_path = root_path.encode("latin-1").decode("utf-8", "surrogateescape")
    secure = environ["wsgi.url_scheme"] == "https"
    scope = {
        "type": kind,
        "asgi": VERSIONS.copy(),
        "http_version": request.http_version,
        "path": info,
        "raw_path": raw_path,
        "query_string": request.query,
        "root_path": root_path,
        "headers": list(request.headers),
        "client": _address(request.client),
        "server": (environ["SERVER_NAME"], int(environ["SERVER_PORT"])),
        "extensions": {},
    }
    if kind == "http":
        scope["method"] = environ["REQUEST_METHOD"]
        scope["scheme"] = "https" if secure else "http"
    else:
        scope["scheme"] = "wss" if secure else "ws"
    if secure and "geventgate.tls" in environ:
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
        "cipher_suite": None,
    }


class HttpCycle:
    """One request and its response."""

    __slots__ = (
        "_actions", "_complete", "_disconnect", "_environ", "_gone", "_head", "_loop", "_news", "_path", "_reading",
        "_received", "_room", "_size", "_start_response", "_task", "_trailers", "_trailers_due",
    )  # fmt: skip

    def __init__(self, environ: Environ, start_response: Callable[..., Any]) -> None:
        self._environ = environ
        self._start_response = start_response
        self._loop = background()
        self._task: asyncio.Task[None] | None = None
        # What the task has sent, and the greenlet has to do: blocks of content, and calls.
        self._actions: list[Action] = []
        self._head: tuple[int, list[tuple[bytes, bytes]]] | None = None
        self._size = 0
        self._trailers: list[tuple[bytes, bytes]] = []
        self._trailers_due = False
        self._path: str | None = None  # of a file that is the content
        self._complete = False
        self._news: Event | None = None  # for the greenlet, once it waits
        self._room: asyncio.Future[None] | None = None  # for a task that has sent much
        # What it has received.
        self._reading: asyncio.Future[bytes] | None = None
        self._received = False  # all of the content
        self._disconnect: asyncio.Future[None] | None = None
        self._gone = False

    def serve(self, begin: Callable[..., "asyncio.Task[None]"]) -> Iterable[bytes]:
        """In the greenlet of the request."""
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
        if not task.done() and not self._complete:
            self._news = Event()
            task.add_done_callback(self._tell)
            environ["geventgate.disconnected"].rawlink(self._lose)
        return self._respond()

    def _tell(self, _: object = None) -> None:
        if self._news is not None:
            self._news.set()

    def _lose(self, _: object) -> None:
        """Called in the hub: the peer has gone, or all has been said."""
        self._gone = True
        if self._disconnect is not None and not self._disconnect.done():
            self._disconnect.set_result(None)
        elif not self._complete and self._task is not None:
            self._task.cancel()  # it would not hear of it
        self._tell()

    # --- in the greenlet

    def _respond(self) -> Iterable[bytes]:
        write: Callable[[bytes], object] | None = None
        task = self._task
        assert task is not None
        while True:
            actions, self._actions = self._actions, []
            blocks: list[bytes] = []
            for action in actions:
                if isinstance(action, bytes):
                    blocks.append(action)
                else:
                    action()
            complete = self._complete
            if self._head is not None and write is None:
                status, fields = self._head
                write = self._start_response(STATUS_LINES.get(status, f"{status} "), fields)
            if complete or task.done():
                break
            if blocks:
                assert write is not None
                write(b"".join(blocks))
            if self._room is not None and not self._room.done():
                self._size = 0
                self._room.set_result(None)
            assert self._news is not None
            if not self._actions and not self._complete and not task.done():
                self._news.clear()
                self._news.wait()
        if not complete:
            if self._gone:
                raise PeerGone
            _raise_end(task)
        elif task.done():
            _report(task)
        else:
            task.add_done_callback(_report)
        if self._path is not None:
            return self._environ["wsgi.file_wrapper"](open(self._path, "rb"))  # type: ignore[no-any-return]
        return [b"".join(blocks)]

    # --- called by the application, in the loop

    async def receive(self) -> Message:
        if not self._received:
            data = await self._read()
            self._received = not data
            return {"type": "http.request", "body": data, "more_body": bool(data)}
        if not self._complete and not self._gone:
            if self._disconnect is None:
                self._disconnect = self._loop.create_future()
                if self._news is None:  # in the first steps; later it is watched anyway
                    self._environ["geventgate.disconnected"].rawlink(self._lose)
            await asyncio.shield(self._disconnect)
        return {"type": "http.disconnect"}

    async def _read(self) -> bytes:
        """The next piece of content; one that was asked for by a receive() that was cancelled is not lost."""
        content = self._environ["wsgi.input"]
        if isinstance(content, BytesIO | NoContent):
            return content.read()
        if self._reading is None:
            self._reading = asyncio.ensure_future(run_blocking(content.read1, PIECE))
        data = await asyncio.shield(self._reading)
        self._reading = None
        return data

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if self._complete:
            raise ApplicationError(f"{kind!r} after the response was complete")
        if self._gone:
            raise PeerGone
        if self._head is None:
            self._send_before_head(kind, message)
        elif kind == "http.response.body":
            self._send_body(message)
        elif kind == "http.response.pathsend":
            self._send_path(message)
        elif kind == "http.response.trailers" and self._trailers_due:
            self._send_trailers(message)
        elif kind == "http.response.push":
            self._send_push(message)
        else:
            raise ApplicationError(f"{kind!r} was sent in a response")
        self._tell()
        if self._size > HIGH and not self._complete:
            self._room = self._loop.create_future()
            await self._room

    def _send_before_head(self, kind: str, message: Message) -> None:
        if kind == "http.response.start":
            self._head = message["status"], list(message.get("headers", ()))
            self._trailers_due = message.get("trailers", False)
        elif kind == "http.response.early_hint" and "wsgi.early_hints" in self._environ:
            links = [(b"link", link) for link in message["links"]]
            self._actions.append(lambda: self._environ["wsgi.early_hints"](links))
        elif kind == "http.response.push":
            self._send_push(message)
        elif kind == "http.response.debug":
            log.debug("%s: %s", self._environ["RAW_URI"], message["info"])
        else:
            raise ApplicationError(f"{kind!r} was sent before http.response.start")

    def _send_body(self, message: Message) -> None:
        data = message.get("body", b"")
        if data:
            self._actions.append(bytes(data))
            self._size += len(data)
        if not message.get("more_body", False):
            self._complete = not self._trailers_due

    def _send_path(self, message: Message) -> None:
        self._path = message["path"]
        self._complete = True

    def _send_trailers(self, message: Message) -> None:
        self._trailers.extend(message.get("headers", ()))
        if not message.get("more_trailers", False):
            self._actions.append(lambda: self._environ["geventgate.send_trailers"](self._trailers))
            self._complete = True

    def _send_push(self, message: Message) -> None:
        if "geventgate.push" not in self._environ:
            raise ApplicationError("http.response.push, but this client takes none")
        path, fields = message["path"], list(message.get("headers", ()))
        self._actions.append(lambda: self._environ["geventgate.push"](path, fields))


class WebSocketCycle:
    """One WebSocket. Its greenlet receives; what the application sends goes out there too while it is entered from
    there, and in a greenlet begun for it at other times."""

    __slots__ = (
        "_environ", "_loop", "_messages", "_news", "_out", "_refusal", "_refused", "_room", "_sending", "_serving",
        "_start_response", "_state", "_waiter", "_websocket",
    )  # fmt: skip

    def __init__(self, environ: Environ, websocket: WebSocket, start_response: Callable[..., Any]) -> None:
        self._environ = environ
        self._websocket = websocket
        self._start_response = start_response
        self._loop = background()
        self._state = CONNECTING
        self._news = Event()  # for the greenlet
        # To the application.
        self._messages: deque[Message] = deque([{"type": "websocket.connect"}])
        self._waiter: asyncio.Future[None] | None = None
        # From it.
        self._out: deque[Message] = deque()
        self._room: asyncio.Future[None] | None = None
        self._sending = False  # a greenlet sends
        self._serving = False  # ours will, when the loop comes back to it
        self._refusal: Message = {}
        self._refused = False  # with all of it

    # --- in the greenlet

    def serve(self, begin: Callable[..., "asyncio.Task[None]"]) -> Iterable[bytes]:
        scope = make_scope(self._environ, "websocket")
        scope["subprotocols"] = list(self._websocket.subprotocols)
        scope["extensions"]["websocket.http.response"] = {}
        self._serving = True
        task = begin(scope, self.receive, self.send, self._loop)
        self._serving = False
        task.add_done_callback(self._end)
        self._wait(lambda: self._state is not CONNECTING or task.done())
        if self._state is REFUSING:
            return self._refuse(task)
        if self._state is CONNECTING:
            _raise_end(task)
        self._flush()
        self._receive_all()
        return []

    def _wait(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._news.clear()
            self._news.wait()

    def _receive_all(self) -> None:
        websocket = self._websocket
        while (message := websocket.receive()) is not None:
            kind = "text" if isinstance(message, str) else "bytes"
            self._hand({"type": "websocket.receive", kind: message})
            if len(self._messages) >= MESSAGES:
                self._wait(lambda: len(self._messages) < MESSAGES or self._state is CLOSED)
        self._state = CLOSED
        code = websocket.close_code
        reason = websocket.close_reason
        self._hand({"type": "websocket.disconnect", "code": 1005 if code is None else code, "reason": reason})

    def _hand(self, message: Message) -> None:
        """Let the application have *message*, and send what it says to that."""
        self._messages.append(message)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
            self._serving = True
            try:
                self._loop.enter()
            finally:
                self._serving = False
            self._flush()

    def _flush(self) -> None:
        """Send what is due, unless another greenlet does."""
        if self._sending:
            return
        self._sending = True
        try:
            while self._out:
                self._send_now(self._out.popleft())
                if self._room is not None and not self._room.done() and len(self._out) < MESSAGES:
                    self._room.set_result(None)
        except OSError as error:
            log.debug("%s: %s", self._environ["RAW_URI"], error)
            self._out.clear()
            if self._room is not None and not self._room.done():
                self._room.set_exception(PeerGone("the WebSocket is closed"))
        finally:
            self._sending = False

    def _send_now(self, message: Message) -> None:
        websocket = self._websocket
        kind = message["type"]
        if kind == "websocket.send":
            text = message.get("text")
            websocket.send(message["bytes"] if text is None else text)
        elif kind == "websocket.accept":
            websocket.accept(message.get("subprotocol"), list(message.get("headers", ())))
        else:
            websocket.close(message.get("code", 1000), message.get("reason") or "")

    def _refuse(self, task: "asyncio.Task[None]") -> Iterable[bytes]:
        """Answer in place of a WebSocket."""
        status = self._refusal["status"]
        write = self._start_response(STATUS_LINES.get(status, f"{status} "), list(self._refusal.get("headers", ())))
        while True:
            self._wait(lambda: bool(self._out) or self._refused or task.done())
            content = b"".join(message.get("body", b"") for message in self._out)
            self._out.clear()
            if self._refused:
                return [content]
            if task.done():
                _raise_end(task)
            write(content)
            if self._room is not None and not self._room.done():
                self._room.set_result(None)

    def _end(self, task: "asyncio.Task[None]") -> None:
        """The application has returned."""
        if self._state is OPEN:
            failed = task.cancelled() or task.exception() is not None
            self._put({"type": "websocket.close", "code": 1011 if failed else 1000})
            self._state = CLOSED
        if self._state is CLOSED:
            _report(task)
        self._news.set()

    # --- called by the application, in the loop

    async def receive(self) -> Message:
        while not self._messages:
            self._waiter = self._loop.create_future()
            await self._waiter
        if len(self._messages) >= MESSAGES:
            self._news.set()
        return self._messages.popleft()

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if self._state is CLOSED or self._refused:
            raise PeerGone("the WebSocket is closed")
        if self._state is CONNECTING:
            self._decide(kind, message)
        elif self._state is OPEN and kind in ("websocket.send", "websocket.close"):
            if kind == "websocket.close":
                self._state = CLOSED
            self._put(message)
        elif self._state is REFUSING and kind == "websocket.http.response.body":
            self._out.append(message)
            self._refused = not message.get("more_body", False)
            self._news.set()
        else:
            raise ApplicationError(f"{kind!r} has no place there")
        if len(self._out) > MESSAGES:
            self._room = self._loop.create_future()
            await self._room

    def _decide(self, kind: str, message: Message) -> None:
        """Open it, or answer in its place."""
        if kind == "websocket.accept":
            self._state = OPEN
            self._put(message)
        elif kind == "websocket.close":
            self._state = REFUSING
            self._refused = True
            self._refusal = {"status": 403}
        elif kind == "websocket.http.response.start":
            self._state = REFUSING
            self._refusal = message
        else:
            raise ApplicationError(f"{kind!r} was sent before the WebSocket was accepted or refused")
        self._news.set()

    def _put(self, message: Message) -> None:
        self._out.append(message)
        if not self._serving and not self._sending and self._state is not CONNECTING:
            gevent.spawn(self._flush)


def _raise_end(task: "asyncio.Task[None]") -> NoReturn:
    """An application has ended without having answered."""
    if task.cancelled():
        raise PeerGone
    error = task.exception()
    if error is None:
        raise ApplicationError("the application returned, and its answer is not complete")
    raise error


def _report(task: "asyncio.Task[None]") -> None:
    """Of what goes wrong behind a response nobody else will hear."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("the application failed after its response", exc_info=error)
