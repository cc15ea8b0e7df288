"""A protocol of one's own behind an HTTP request: lines, at the URL of everything else.

``geventgate --chdir examples line_protocol:app``, then ``python examples/line_protocol.py set tea ready`` and, even
before that, ``python examples/line_protocol.py wait tea``.
"""

import socket
import sys
from collections import defaultdict

from gevent.event import AsyncResult

PROTOCOL = "lines/1"
LONGEST = 1000  # bytes of a line

values = defaultdict(AsyncResult)


def app(environ, start_response):
    if environ.get("geventgate.protocol") != PROTOCOL:
        start_response("426 Upgrade Required", [("Content-Type", "text/plain"), ("Upgrade", PROTOCOL)])
        return [f"Speak {PROTOCOL} here.\n".encode()]
    with environ["geventgate.upgrade"]() as tunnel, tunnel.makefile("rb") as lines:
        while line := lines.readline(LONGEST):
            tunnel.sendall(answer(line.split(maxsplit=2)) + b"\n")
    return []


def answer(words):
    match words:
        case [b"set", name, value]:
            values[name].set(value.rstrip())
            return b"ok"
        case [b"wait", name]:  # blocks this connection, and no other
            return values[name].get()
        case _:
            return b"say 'set NAME VALUE' or 'wait NAME'"


def dial(host="127.0.0.1", port=8000):
    """A client: the file to write lines to and to read them from."""
    request = f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: {PROTOCOL}\r\n\r\n"
    with socket.create_connection((host, port)) as connection:
        lines = connection.makefile("rwb")
    ask(lines, request.encode())
    status = lines.readline()
    while lines.readline().strip():
        pass  # the fields of the answer
    if b" 101 " not in status:
        raise ConnectionError(f"not switched to {PROTOCOL}: {status.decode().strip()}")
    return lines


def ask(lines, line):
    lines.write(line)
    lines.flush()


if __name__ == "__main__":
    with dial() as lines:
        ask(lines, " ".join(sys.argv[1:]).encode() + b"\n")
        print(lines.readline().decode().strip())
