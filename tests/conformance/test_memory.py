"""Memory stays bounded however much passes through, and however slow the other side is.

The bytes are made on the fly and compared by a running hash; GEVENTGATE_STREAM_MIB sets how many (default 1024).
"""

import hashlib
import os
import select
import socket
import time

import httpx
import pytest
from apps import MIB, Pattern
from websockets.sync.client import connect

SIZE = int(os.environ.get("GEVENTGATE_STREAM_MIB", "1024")) * MIB
GROWTH = 20 * MIB


def answer_head(peer: socket.socket) -> tuple[bytes, bytes]:
    """Read a response's head; gives it and the first bytes of content."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = peer.recv(65536)
        assert more, f"the connection ended within the head: {data!r}"
        data += more
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


@pytest.fixture
def streams(gate):
    """A server that has served once, so that what is loaded at first use does not count."""
    server = gate("apps:streams")
    assert server.talk(b"GET /65536 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    return server


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_content_streamed_up(streams, framing):
    before = streams.memory()
    with streams.connect(60) as peer:
        field = f"Content-Length: {SIZE}" if framing == "length" else "Transfer-Encoding: chunked"
        peer.sendall(f"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{field}\r\n\r\n".encode())
        running = hashlib.blake2b(digest_size=16)
        for piece in Pattern(SIZE):
            running.update(piece)
            peer.sendall(piece if framing == "length" else b"%x\r\n%b\r\n" % (len(piece), piece))
        if framing == "chunked":
            peer.sendall(b"0\r\n\r\n")
        head, content = answer_head(peer)
        while more := peer.recv(65536):
            content += more
    assert head.startswith(b"HTTP/1.1 200 ")
    assert f"{SIZE} {running.hexdigest()}".encode() in content
    assert streams.memory() - before < GROWTH


def test_content_streamed_down(streams):
    before = streams.memory()
    with streams.connect(60) as peer:  # HTTP/1.0: ended by close, so that the bytes need no unwrapping
        peer.sendall(b"GET /%d HTTP/1.0\r\n\r\n" % SIZE)
        head, content = answer_head(peer)
        running, size = hashlib.blake2b(content, digest_size=16), len(content)
        while more := peer.recv(1 << 18):
            running.update(more)
            size += len(more)
    assert head.startswith(b"HTTP/1.1 200 ")
    assert size == SIZE
    assert running.hexdigest() == Pattern(SIZE).digest()
    assert streams.memory() - before < GROWTH


def test_content_streamed_down_chunked(streams):
    """A smaller size, through another client's decoder."""
    running, size = hashlib.blake2b(digest_size=16), 0
    with httpx.stream("GET", f"{streams.url}/{64 * MIB}") as answer:
        assert answer.headers["transfer-encoding"] == "chunked"
        for piece in answer.iter_raw():
            running.update(piece)
            size += len(piece)
    assert (size, running.hexdigest()) == (64 * MIB, Pattern(64 * MIB).digest())


def settle(figure, still: float = 1.0, within: float = 20.0) -> int:
    """Wait until *figure* has not moved for *still* seconds: the state a stalled peer leads to."""
    until, last, since = time.monotonic() + within, figure(), time.monotonic()
    while time.monotonic() - since < still:
        assert time.monotonic() < until, "it never came to rest"
        time.sleep(0.05)
        if (now := figure()) != last:
            last, since = now, time.monotonic()
    return last


def test_a_slow_reader_holds_memory_bounded(streams):
    before = streams.memory()
    readers = [streams.connect() for _ in range(8)]
    for peer in readers:
        peer.sendall(b"GET /%d HTTP/1.1\r\nHost: a\r\n\r\n" % (1024 * MIB))
    for peer in readers:
        assert select.select([peer], [], [], 10)[0], "nothing arrived"
    settle(lambda: streams.memory("VmRSS"))
    assert streams.memory() - before < GROWTH
    assert streams.talk(b"GET /10 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    for peer in readers:
        peer.close()


def test_a_message_of_8_mb_comes_back_unchanged(gate):
    server = gate("apps:sockets")
    message = b"".join(Pattern(8_000_000))
    with connect(f"{server.ws_url}/echo", max_size=None, compression=None) as websocket:
        for _ in range(3):
            websocket.send(message)
            assert websocket.recv() == message
        text = "é☃𝄞" * 900_000
        websocket.send(text)
        assert websocket.recv() == text


def test_a_slow_websocket_application_holds_memory_bounded(gate):
    """The application takes one message, then none: the server must stop reading, and everything still arrives."""
    server = gate("apps:sockets", "--ws-ping-interval", "0")
    message, sent = b"x" * MIB, 0
    with connect(f"{server.ws_url}/slow", compression=None, ping_interval=None, close_timeout=30) as websocket:
        websocket.send(message)
        assert websocket.recv() == str(MIB)
        before = server.memory()
        peer = websocket.socket
        frame = b"\x82\xff" + MIB.to_bytes(8, "big") + bytes(4) + message  # a mask of zeros
        peer.setblocking(False)
        view, stalled = memoryview(frame), 0.0
        while stalled < 3.0 and sent < 256 * len(frame):
            if not select.select([], [peer], [], 0.5)[1]:
                stalled += 0.5
                continue
            stalled = 0.0
            sent += peer.send(view[sent % len(frame) :])
        assert stalled, "256 MiB went in though the application took none"
        assert server.memory() - before < 16 * MIB + GROWTH  # the queue of 16 messages
        assert server.talk(b"GET /release HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 204 ")
        peer.setblocking(True)
        if sent % len(frame):
            peer.sendall(view[sent % len(frame) :])
        for _ in range(-(-sent // len(frame))):
            assert websocket.recv(timeout=20) == str(MIB)
