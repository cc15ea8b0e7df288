"""What happens, told to whoever listens: a leaf. Costs nothing while nobody does.

``request_refused`` tells of what never became an exchange: a malformed head, a slow one.
"""

import logging
from typing import Protocol

from geventgate.exchange import Address, Exchange

log = logging.getLogger("geventgate")


class Listener(Protocol):
    """What may be heard. Called in the greenlet of the request; must not block, must not raise."""

    def request_ended(self, exchange: Exchange, seconds: float) -> None: ...
    def request_refused(self, peer: Address, status: int, why: str) -> None: ...


listeners: list[Listener] = []

_said: set[str] = set()


def warn_once(kind: str, message: str) -> None:
    """Log *message* as a warning, the first time *kind* happens in this process."""
    if kind not in _said and len(_said) < 1000:
        _said.add(kind)
        log.warning("%s (said once)", message)
