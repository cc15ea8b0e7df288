"""A line for each request: the Combined Log Format, and the seconds it took. A listener to observe.py.

``host - - [time] "request line" status bytes "Referer" "User-Agent" seconds``; "-" is nothing, status 000 that no
answer was sent, 101 a WebSocket or tunnel that has ended.
"""

import time
from collections.abc import Callable

from geventgate.exchange import Address, Exchange

MONTHS = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")  # in any locale

# As Apache and nginx do: a peer can end neither its quotes nor its line.
ESCAPES: dict[int, str] = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0x100))}
ESCAPES |= {ord('"'): '\\"', ord("\\"): "\\\\"}


class AccessLog:
    """*write* is given whole lines, "\\n" included; it must neither block for long nor raise."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._second = 0
        self._stamp = ""

    def request_ended(self, exchange: Exchange, seconds: float) -> None:
        head = exchange.request
        referer = agent = b"-"
        for name, value in head.fields:
            if name == b"user-agent":
                agent = value
            elif name == b"referer":
                referer = value
        request = quoted(f"{head.method} {head.target.decode('latin-1')} HTTP/{head.http_version}")
        self._write(
            f"{exchange.peer[0] or '-'} - - [{self._now()}] {request} {exchange.status:03d} {exchange.sent or '-'} "
            f"{quoted(referer.decode('latin-1'))} {quoted(agent.decode('latin-1'))} {seconds:.6f}\n"
        )

    def request_refused(self, peer: Address, status: int, why: str) -> None:
        """What was no request has no request line; *why* is in the error log."""
        self._write(f'{peer[0] or "-"} - - [{self._now()}] "-" {status:03d} - "-" "-" -\n')

    def _now(self) -> str:
        second = int(time.time())
        if second != self._second:
            at = time.localtime(second)
            self._stamp = f"{at.tm_mday:02d}/{MONTHS[at.tm_mon]}/{time.strftime('%Y:%H:%M:%S %z', at)}"
            self._second = second
        return self._stamp


def quoted(text: str) -> str:
    """*text*, of latin-1 characters, in quotes it cannot leave."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return f'"{text.translate(ESCAPES)}"'
