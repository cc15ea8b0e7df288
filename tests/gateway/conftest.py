"""The gateway over exchanges in memory."""

import io
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from gevent.event import Event

from geventgate.config import Config
from geventgate.gateway.wsgi import WsgiGateway
from geventgate.testing import FakeExchange

Answer = Callable[..., FakeExchange]


def wsgi_gateway(application: Callable[..., Iterable[bytes]], *, socket_key: str = "", **options: Any) -> WsgiGateway:
    return WsgiGateway(
        application,
        Config(**options),
        draining=Event(),
        errors=io.StringIO(),
        software="geventgate/test",
        socket_key=socket_key,
    )


@pytest.fixture
def answer() -> Answer:
    """``answer(application, exchange, **options)``: the exchange, answered. What the gateway raises is raised."""

    def answer(application: Any, exchange: FakeExchange | None = None, **options: Any) -> FakeExchange:
        exchange = exchange or FakeExchange()
        wsgi_gateway(application, **options).handle(exchange)
        return exchange

    return answer
