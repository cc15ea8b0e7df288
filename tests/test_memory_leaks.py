"""A server that has served much is as it was: no memory has grown, no descriptor is left."""

import os
import socket
import time
from contextlib import suppress
from pathlib import Path

import pytest
from http2_wire import Wire
from hyperframe.frame import RstStreamFrame
from websockets.sync.client import connect

EXAMPLES = Path(__file__).parent.parent / "examples"
SEVERAL = 50  # pipelined, so that the client is no bottleneck
REQUEST = b"GET /some/path?query=%d HTTP/1.1\r\nHost: a\r\nUser-Agent: test\r\nCookie: a=%d\r\n\r\n"
BOUND = 128 * 1024  # bytes: malloc keeps a little, differently in every run; a leak is several times that. With
# many streams at once Python's own heap takes its last arenas late; after 80,000 it grows no more


def keep_alive(server, count):
    with server.connect() as peer:
        answers = peer.makefile("rb")
        for begin in range(0, count, SEVERAL):
            peer.sendall(b"".join(REQUEST % (number, number) for number in range(begin, begin + SEVERAL)))
            for _ in range(SEVERAL):
                read_answer(answers)


def read_answer(answers):
    assert answers.readline().startswith(b"HTTP/1.1 426 ")
    length = 0
    while (line := answers.readline()) not in (b"\r\n", b""):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    assert length
    assert len(answers.read(length)) == length


def fresh(server, count):
    for number in range(count):
        with server.connect() as peer:
            peer.sendall(REQUEST % (number, number))
            read_answer(peer.makefile("rb"))


def websockets(server, count):
    """Some say goodbye, some just go, some are cut in the middle of a frame."""
    for number in range(count):
        with connect(server.ws_url, compression=None) as client:
            client.send(f"message {number}")
            assert client.recv() == f"message {number}"
            if number % 3:
                if number % 3 == 1:
                    client.socket.sendall(b"\x81\xfe\x01\x00mask only half")
                client.socket.shutdown(socket.SHUT_RDWR)


def streams(server, count):
    """On connections of a thousand streams; some are reset by their client."""
    number = 0
    while number < count:
        with Wire(server.address).handshake() as wire:
            for stream_id in range(1, 2000, 2):
                fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", f"/?query={number}")]
                wire.headers(stream_id, [*fields, ("cookie", f"a={number}")])
                if number % 50 == 49:
                    wire.send(RstStreamFrame(stream_id, error_code=8))
                else:
                    assert dict(wire.response(stream_id).fields)["content-length"]
                number += 1
            wire.frames.clear()


def descriptors(server):
    """What is open, sockets named as such: their numbers are never the same."""
    names = []
    for path in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            names.append(os.readlink(path).partition("[")[0])
    return sorted(names)


def at_rest(server, seconds=15.0):
    """The descriptors, once only the listening socket is open or the time is over: connections end a moment after
    their clients."""
    until = time.monotonic() + seconds
    while (now := descriptors(server)).count("socket:") > 1 and time.monotonic() < until:
        time.sleep(0.05)
    return now


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no /proc")
@pytest.mark.parametrize(
    ("load", "count", "bound", "options"),
    [
        (keep_alive, 20_000, BOUND, ()),
        (fresh, 2_000, BOUND, ()),
        (websockets, 500, BOUND, ()),
        (streams, 6_000, 4 * BOUND, ("--h2c", "--http2-engine", "h2")),
        (streams, 12_000, 4 * BOUND, ("--h2c", "--http2-engine", "ngh2")),
    ],
)
def test_nothing_is_left(gate, monkeypatch, load, count, bound, options):
    monkeypatch.setenv(
        "MALLOC_TRIM_THRESHOLD_", "16384"
    )  # else glibc's heap grows by leaps, for want of a gap that fits
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "16384")
    server = gate("echo:app", *options, chdir=EXAMPLES)
    load(server, count // 4)
    before, memory = at_rest(server), server.memory("VmRSS")
    load(server, count)
    assert at_rest(server) == before
    assert before.count("socket:") == 1
    assert server.memory("VmRSS") - memory < bound
