"""What every carrier of exchanges does alike: call up, turn what comes back as an exception into an answer or a cut,
check a response's head, and hold its content to the length that was stated.

Knows no wire: how heads and content travel is the carriers' own (http1.py, http2.py).
"""

import logging
from collections.abc import Callable
from contextvars import copy_context
from enum import Enum, auto
from time import perf_counter
from typing import IO

import gevent
from gevent.event import Event

from geventgate import native, observe
from geventgate.errors import ApplicationError, PeerError, PeerGone
from geventgate.exchange import Address, Exchange, ResponseFields
from geventgate.message import RequestHead, ResponseHead, Tls
from geventgate.observe import listeners
from geventgate.protocol.http1 import (
    KNOWN_LENGTH,
    NO_CONTENT,
    Framing,
    check_final,
    compose_response_head,
    reason,
)
from geventgate.server.service import Service

LINGER_SECONDS = 5.0  # for a client still sending to read its answer; precedent: nginx's lingering_timeout
DRAIN_SECONDS = 1.0  # an idle connection stays open when the server drains: a request may be on its way
FILE_PIECE = 64 * 1024

OVER = Event()  # ``closed`` of every exchange whose end nobody watched
OVER.set()

log = logging.getLogger("geventgate")


class Said(Enum):
    """What an exchange has said so far."""

    NOTHING = auto()
    HEAD_HELD = auto()
    HEAD_SENT = auto()
    FINISHED = auto()


NOTHING, HEAD_HELD, HEAD_SENT, FINISHED = Said  # an attribute of an Enum costs ten times a global


class CarriedExchange(Exchange):
    """One exchange. ``status`` is what was sent (0: nothing), ``sent`` the bytes of content.

    How its head travels is a carrier's own; it ends the exchange in complete(), cut() and leave().
    """

    __slots__ = (
        "_closed", "_framing", "_head", "_left", "_said", "has_content", "local", "peer", "request", "sent", "status",
        "tls",
    )  # fmt: skip

    def begin(self, request: RequestHead, peer: Address, local: Address, tls: Tls | None, has_content: bool) -> None:
        """After __new__(), in place of __init__(): compiled, the call of a class costs as much as all of this."""
        # Set once.
        self.request = request
        self.peer = peer
        self.local = local
        self.tls = tls
        self.has_content = has_content
        # Owned by the writing greenlet.
        self.status = 0
        self.sent = 0
        self._said = NOTHING
        self._head: ResponseHead | None = None
        self._framing = NO_CONTENT
        self._left = 0  # of a known length
        self._closed: Event | None = None

    def __str__(self) -> str:
        return f"{self.request.method} {self.request.target!r} from {self.peer[0]}"

    # --- the response

    def send_head(self, status: str | int, fields: ResponseFields) -> None:
        if self._said is not NOTHING:
            raise ApplicationError("a response has one head")
        head = compose_response_head(status, fields)
        check_final(head, self.request)
        for fault in head.faults:
            observe.warn_once(fault, f"{self}: the application sent {fault}; it was dropped")
        self._head = head
        self._said = HEAD_HELD

    def send_file(self, file: IO[bytes], offset: int, count: int) -> None:
        if count > 0 and file.seekable():
            file.seek(offset)
        while count > 0 and self._framing is not NO_CONTENT and (data := file.read(min(count, FILE_PIECE))):
            self.send(data)
            count -= len(data)

    def _measure(self, data: bytes) -> bytes:
        """What of *data* is content of this response: none where it has none, and no more than was stated."""
        if self._said is not HEAD_SENT:
            raise ApplicationError("content outside of a response")
        framing: Framing = self._framing
        if framing is KNOWN_LENGTH:
            if len(data) > self._left:
                observe.warn_once("long", f"{self}: the application sent more than its Content-Length; it was cut")
                data = data[: self._left]
            self._left -= len(data)
        elif framing is NO_CONTENT:
            if data and self.request.method != "HEAD":
                observe.warn_once("content", f"{self}: the application sent content with status {self.status}")
            return b""
        self.sent += len(data)
        return data

    def _falls_short(self) -> bool:
        """At the end: whether content of the stated length is missing."""
        if not self._left or self._framing is not KNOWN_LENGTH:
            return False
        observe.warn_once("short", f"{self}: the application sent less than its Content-Length; the answer is cut")
        return True

    # --- the end

    def complete(self) -> bool:
        """The handler has returned. Whether the connection may carry another exchange."""
        raise NotImplementedError

    def cut(self) -> None:
        """End so that an answer that was begun and not ended is visible as cut."""
        raise NotImplementedError

    def abort(self, why: str) -> None:
        log.info("%s: cut: %s", self, why)
        self.cut()

    def leave(self) -> None:
        """The exchange is over."""
        if self._closed is None:
            self._closed = OVER
        else:
            self._closed.set()

    def fail(self, status: int, why: str, persistent: bool = True) -> bool:
        """Answer for a handler that did not; after a head there is only cutting off. As complete()."""
        if self._said in (NOTHING, HEAD_HELD):
            self._said = NOTHING
            text = f"{reason(status)}{': ' if why else ''}{why}\n".encode()
            self.send_head(status, [("Content-Type", "text/plain; charset=utf-8")])
            try:
                self.finish(text)
                return self.complete() and persistent
            except PeerError:
                return False  # nobody is left to tell
        if self._said is HEAD_SENT:
            self.abort(why or "the application failed after its head")
        return False


def run_in_copied_context(handle: Callable[[Exchange], None], exchange: Exchange) -> None:
    copy_context().run(handle, exchange)


def answer(exchange: CarriedExchange, handle: Callable[[Exchange], None], service: Service) -> bool:
    """Call up: the one place. Returns whether the connection may carry another exchange."""
    if service.own_listeners or listeners:
        return _answer_and_tell(exchange, handle, service)
    return _answer(exchange, handle)


def _answer_and_tell(exchange: CarriedExchange, handle: Callable[[Exchange], None], service: Service) -> bool:
    began = perf_counter()
    try:
        return _answer(exchange, handle)
    finally:
        service.tell_ended(exchange, perf_counter() - began)


def _answer(exchange: CarriedExchange, handle: Callable[[Exchange], None]) -> bool:
    try:
        run_in_copied_context(handle, exchange)
        return exchange.complete()
    except BaseException as error:
        return _answer_failure(exchange, error)


def _answer_failure(exchange: CarriedExchange, error: BaseException) -> bool:
    """Whatever comes back as an exception is answered or cut here: not where it is caught, whose frame a greenlet that
    waits holds a copy of."""
    if isinstance(error, PeerGone):
        log.debug("%s: %s", exchange, error)
        exchange.cut()
        return False
    if isinstance(error, PeerError):
        log.info("%s: %s", exchange, error)
        return exchange.fail(error.status, str(error), persistent=False)
    if isinstance(error, (Exception, SystemExit, gevent.Timeout)):
        log.exception("%s: the application failed", exchange)
        return exchange.fail(500, "")
    exchange.abort("its greenlet was killed")
    raise error


run_in_copied_context = native.twin(run_in_copied_context, "geventgate.server._context")
