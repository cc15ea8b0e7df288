"""A TCP proxy by CONNECT. It leads to what PROXY_TO lists and nowhere else, since an open proxy is a trap:

PROXY_TO='example.org:443 *.example.org:443' geventgate --allow-connect --chdir examples connect_proxy:app
curl --proxytunnel --proxy http://127.0.0.1:8000 https://www.example.org/
"""

import os
import socket
from fnmatch import fnmatchcase

import gevent

PATTERNS = os.environ.get("PROXY_TO", "").lower().split()


def app(environ, start_response):
    if environ["REQUEST_METHOD"] != "CONNECT":
        return refuse(start_response, "405 Method Not Allowed", "This is a proxy for CONNECT.")
    target = environ["HTTP_HOST"].lower()
    if not any(fnmatchcase(target, pattern) for pattern in PATTERNS):
        return refuse(start_response, "403 Forbidden", f"PROXY_TO does not list {target}.")
    host, _, port = target.rpartition(":")
    try:
        upstream = socket.create_connection((host.strip("[]"), int(port)), timeout=10)
    except (OSError, OverflowError) as error:
        return refuse(start_response, "502 Bad Gateway", f"{target}: {error}")
    upstream.settimeout(None)
    with upstream, environ["geventgate.upgrade"]() as tunnel:  # the 200 leaves here
        back = gevent.spawn(copy, upstream, tunnel)
        copy(tunnel, upstream)
        back.join()
    return []


def copy(source, sink):
    """One direction, to its end; then the other may go on."""
    try:
        while data := source.recv(64 * 1024):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:  # either side has gone, and takes the other with it
        source.close()
        sink.close()


def refuse(start_response, status, why):
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("Allow", "CONNECT")])
    return [f"{why}\n".encode()]
