"""A thousand damaged conversations (SLOW=1: many more): no 500, no traceback, no descriptor left."""

import os
import random
import time
from pathlib import Path

import pytest
from test_malformed import ACCEPTED, REFUSED

COUNT = 40_000 if os.environ.get("SLOW") else 1_000
INTERESTING = [
    b"\0",
    b"\r",
    b"\n",
    b"\r\n",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"0",
    b"-1",
    b"\xff",
    b"\x80",
    b"%",
    b"HTTP/1.1",
]


def damage(rng: random.Random, data: bytes) -> bytes:
    """A few bytes changed, dropped, doubled or put in, or the end cut off."""
    text = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(text) + 1)
        match rng.randrange(5):
            case 0:
                text[at:at] = rng.choice(INTERESTING)
            case 1:
                text[at : at + 1] = bytes([rng.randrange(256)])
            case 2:
                del text[at : at + rng.randint(1, 8)]
            case 3:
                text[at:at] = text[max(0, at - rng.randint(1, 20)) : at]
            case 4:
                del text[at + 1 :]
    return bytes(text)


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


@pytest.mark.parametrize("seed", range(4))
def test_damaged(gate, seed):
    server = gate("apps:recorder", "--head-timeout", "2", "--keep-alive", "2")
    whole = [data for _, data, _ in (*ACCEPTED, *REFUSED) if len(data) < 1000]
    rng = random.Random(seed)
    last = b"GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    server.talk(last)
    files = open_files(server.process.pid)
    for _ in range(COUNT // 4):
        case = damage(rng, rng.choice(whole))
        answer = server.talk(case, half_close=True)
        assert b"HTTP/1.1 500" not in answer, (case, answer)
        assert not answer or answer.startswith(b"HTTP/1.1 "), (case, answer)
    assert b"/last" in server.talk(last)
    until = time.monotonic() + 5
    while open_files(server.process.pid) > files:  # the last one's end is a moment away
        assert time.monotonic() < until
        time.sleep(0.01)
