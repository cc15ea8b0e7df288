"""Early hints (RFC 8297): while the page is being made, the browser already fetches what the page will need.

``geventgate --certfile ../cert.pem --keyfile ../key.pem --chdir examples hints:app`` serves https://localhost:8000/.
Browsers heed hints over HTTP/2 only, and only where they trust the certificate (docs/tls.md makes one). The page shows
what came when, and what it is like without: ``?hints=no``.
"""

import secrets
import time
from pathlib import Path

HERE = Path(__file__).parent
# What each takes to make, in seconds: a query, a busy disk, a long way to another server.
PARTS = {
    "/": (1.5, "text/html", (HERE / "hints.html").read_text()),
    "/hints.css": (0.6, "text/css", (HERE / "hints.css").read_text()),
    "/hints.js": (0.6, "text/javascript", (HERE / "hints.js").read_text()),
}


def app(environ, start_response):
    asked = time.time()
    path = environ["PATH_INFO"]
    if path not in PARTS:
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"There is a page at /.\n"]
    seconds, kind, content = PARTS[path]
    visit = secrets.token_hex(4)  # nothing comes from the cache of an earlier visit
    hint = environ.get("wsgi.early_hints")  # absent over HTTP/1.1, unless --early-hints
    if path == "/" and hint and environ["QUERY_STRING"] != "hints=no":
        needed = (("hints.css", "style"), ("hints.js", "script"))
        hint([("Link", f"<{name}?{visit}>; rel=preload; as={what}") for name, what in needed])
    time.sleep(seconds)
    fields = [("Content-Type", f"{kind}; charset=utf-8")]
    fields += [("Cache-Control", "no-store" if path == "/" else "max-age=60")]  # what is fetched ahead must be kept
    fields += [("Server-Timing", f"asked;dur={asked * 1000:.1f}, answered;dur={time.time() * 1000:.1f}")]
    start_response("200 OK", fields)
    return [content.replace("{{ visit }}", visit).encode()]
