"""A terminal in the browser: a shell on a pty, its bytes in a WebSocket. ``geventgate --chdir examples terminal:app``

WHOEVER OPENS THE PAGE HAS YOUR SHELL. So the page asks for a token, which is printed at the start, and nothing is
answered but on a loopback address.
"""

import fcntl
import os
import pty
import secrets
import signal
import struct
import subprocess
import sys
import termios
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import parse_qs

import gevent
from gevent.os import make_nonblocking, nb_read, nb_write

TOKEN = secrets.token_urlsafe()
PAGE = Path(__file__).with_suffix(".html").read_text()
POLICY = (
    "default-src 'none'; style-src 'nonce-{0}'; script-src 'nonce-{0}'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PATIENCE = 2.0  # seconds for a shell to end when its terminal has gone

print(f"terminal: this gives a shell to whoever opens /?token={TOKEN}", file=sys.stderr, flush=True)


def app(environ, start_response):
    here = environ["geventgate.request"].server[0]
    if here and not ip_address(here).is_loopback:
        return say(start_response, "403 Forbidden", "A shell is given away on loopback addresses only.")
    token = parse_qs(environ["QUERY_STRING"]).get("token", [""])[0]
    if not secrets.compare_digest(token.encode(), TOKEN.encode()):
        return say(start_response, "403 Forbidden", "Open the link that was printed when the server started.")
    ws = environ.get("wsgi.websocket")
    if ws is not None:
        ws.accept()
        Shell(ws).run()
        return []
    nonce = secrets.token_urlsafe()
    fields = {"Content-Security-Policy": POLICY.format(nonce), "Cache-Control": "no-store"}
    return say(start_response, "200 OK", PAGE.replace("{{ nonce }}", nonce), "text/html", fields)


def say(start_response, status, text, kind="text/plain", fields=()):
    secret = {"Referrer-Policy": "no-referrer"}  # the address holds the token
    start_response(status, [*{"Content-Type": f"{kind}; charset=utf-8", **secret, **dict(fields)}.items()])
    return [f"{text}\n".encode()]


class Shell:
    """A shell and the WebSocket it talks to. From the page: "i" and what was typed, or "r" and COLUMNS,ROWS; to it:
    the shell's bytes."""

    def __init__(self, ws):
        self.ws = ws
        self.master, slave = pty.openpty()
        make_nonblocking(self.master)
        self.process = subprocess.Popen(
            [os.environ.get("SHELL", "/bin/sh")],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec_fn=lambda: os.login_tty(0),  # a session of its own: Ctrl+C reaches the shell's jobs
            env={**os.environ, "TERM": "xterm-256color", "COLORTERM": "truecolor"},
        )
        os.close(slave)

    def run(self):
        output = gevent.spawn(self.show)
        try:
            for message in self.ws:
                if message.startswith("i"):
                    self.type(message[1:].encode())
                elif message.startswith("r"):
                    columns, rows = (max(1, min(int(size), 1000)) for size in message[1:].split(","))
                    fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        except (ValueError, TypeError):
            self.ws.close(1007, "not what this terminal speaks")
        except OSError:
            pass  # the shell has ended, and show() says so
        finally:
            output.kill()
            self.end()

    def type(self, data):
        while data:
            data = data[nb_write(self.master, data) :]

    def show(self):
        try:
            while data := nb_read(self.master, 64 * 1024):
                self.ws.send(data)
        except OSError:
            pass  # EIO: nobody holds the other end any more; or the page has gone
        self.ws.close(1000, "the shell has ended")

    def end(self):
        """Hang up, as a terminal that is closed does."""
        os.close(self.master)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
