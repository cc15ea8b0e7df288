"""What all connections of a server share."""

from collections.abc import Callable
from time import perf_counter

from gevent import get_hub
from gevent.event import Event

from geventgate import observe
from geventgate.config import Config, speaks_http2
from geventgate.exchange import Address, Exchange
from geventgate.protocol.http1 import HeadLimits
from geventgate.protocol.http2 import Engine, Limits, engine
from geventgate.server.stream import Sleeper
from geventgate.server.workers import Turns, Workers

SWEEP_SECONDS = 0.002  # of a sweep at a time


class Connection(Sleeper):
    """What a server does with a connection, whatever it speaks. Nothing here blocks, but work()."""

    __slots__ = ()

    def start(self) -> None:
        raise NotImplementedError

    def work(self) -> None:
        """Serve it, when its turn has come."""
        raise NotImplementedError

    def sweep(self, now: float) -> None:
        """Called once a second."""
        raise NotImplementedError

    def drain(self) -> None:
        raise NotImplementedError

    def kill(self) -> None:
        raise NotImplementedError


class ConnectionTurns(Turns):
    """Of connections that carry one exchange at a time."""

    __slots__ = ()

    def serve(self, connection: Connection) -> None:
        connection.work()


class Service:
    """Raises ConfigError when the HTTP/2 engine does not import."""

    def __init__(self, config: Config, handle: Callable[[Exchange], None], draining: Event) -> None:
        # Set once.
        self.config = config
        self.handle = handle
        self.head_limits = HeadLimits(config.limit_request_line, config.limit_request_fields, config.limit_request_head)
        self.http2_engine: type[Engine] | None = engine(config.http2_engine) if speaks_http2(config) else None
        self.http2_limits = Limits(
            streams=config.http2_max_concurrent_streams,
            fields=config.limit_request_fields,
            field_section=config.limit_request_head,
        )
        self.draining = draining
        self.head_timeout = config.head_timeout
        self.keep_alive = config.keep_alive
        self.limit_request_body = config.limit_request_body
        self.workers = Workers()
        self.turns = ConnectionTurns(self.workers)
        self.own_listeners: tuple[observe.Listener, ...] = ()  # are told of this server, and of no other
        self.drains = False
        self._again = get_hub().loop.timer(0.0)
        self._unswept: list[Connection] = []
        # Grows and shrinks with every connection.
        self.connections: set[Connection] = set()
        self.on_leave: Callable[[], None] = _nothing

    def tell_ended(self, exchange: Exchange, seconds: float) -> None:
        for listener in (*self.own_listeners, *observe.listeners):
            listener.request_ended(exchange, seconds)

    def tell_refused(self, peer: Address, status: int, why: str) -> None:
        for listener in (*self.own_listeners, *observe.listeners):
            listener.request_refused(peer, status, why)

    def drain(self) -> None:
        self.drains = True
        self.draining.set()

    def enter(self, connection: Connection) -> None:
        self.connections.add(connection)
        connection.start()

    def sweep(self, now: float) -> None:
        """Have every connection look at its deadlines, which were set by a clock up to a second late: none is early.

        Many that end at once must not hold up the hub: what a few milliseconds were not enough for is swept in its
        next turns.
        """
        if not self._unswept:
            self._unswept = list(self.connections)
            self._sweep_on(now)

    def _sweep_on(self, now: float) -> None:
        unswept = self._unswept
        end = perf_counter() + SWEEP_SECONDS
        while unswept:
            connection = unswept.pop()
            if connection in self.connections:
                connection.sweep(now - 1.0)
            if len(unswept) % 64 == 0 and perf_counter() > end:
                break
        if unswept:
            self._again = get_hub().loop.timer(0.0)
            self._again.start(self._sweep_on, now)

    def stop(self) -> None:
        """No connection is left."""
        self._again.stop()
        self.workers.stop()

    def leave(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self.on_leave()


def _nothing() -> None:
    return None
