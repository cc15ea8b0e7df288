"""What tests/test_worker.py serves: who answers, what is in the environ, WebSockets, and what blocks."""

import json
import os
import subprocess
import time

from gevent import monkey

IMPORTED_BY = os.getpid()


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if "wsgi.websocket" in environ:
        for message in environ["wsgi.websocket"]:
            environ["wsgi.websocket"].send(message)
        return []
    if path == "/stuck":
        monkey.get_original("time", "sleep")(30)
    elif path == "/slow":
        time.sleep(float(environ["QUERY_STRING"]))
    elif path == "/fail":
        raise RuntimeError("failed as asked")
    elif path == "/errors":
        print("a line of the application", file=environ["wsgi.errors"])
    elif path == "/child":
        subprocess.run(["true"], check=True)
    elif path == "/file":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return environ["wsgi.file_wrapper"](open(__file__, "rb"))
    if path in ("/environ", "/mounted/environ"):
        told = {key: value if isinstance(value, str | bool | int) else str(value) for key, value in environ.items()}
        told |= {"imported by": IMPORTED_BY, "parent": os.getppid(), "uid": os.getuid()}
        told["patched"] = [name for name in ("socket", "os", "signal", "subprocess") if monkey.is_module_patched(name)]
        body = json.dumps(told).encode()
    else:
        body = b"%d" % os.getpid()
    start_response("200 OK", [("Content-Length", str(len(body))), ("X-Answered", "yes")])
    return [body]
