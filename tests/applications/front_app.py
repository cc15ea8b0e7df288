"""Says what it sees of a request, and of its process.

Imports nothing: another user may not be able to read this Python.
"""

import os

KEYS = ("REMOTE_ADDR", "wsgi.url_scheme", "HTTP_HOST", "SERVER_NAME", "SERVER_PORT", "SCRIPT_NAME", "PATH_INFO")


def app(environ, start_response):
    seen = {key: environ.get(key) for key in KEYS}
    seen |= {"uid": os.getresuid(), "gid": os.getresgid(), "groups": os.getgroups(), "imported_as": IMPORTED_AS}
    seen |= {"listen": [name for name in os.environ if name.startswith("LISTEN_")], "pid": os.getpid()}
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [repr(seen).encode()]


IMPORTED_AS = os.geteuid()
