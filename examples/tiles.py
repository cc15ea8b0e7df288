"""A picture in a hundred tiles, each a request of its own that takes half a second: over HTTP/2 they come at once.

``geventgate --certfile ../cert.pem --keyfile ../key.pem --chdir examples tiles:app`` serves https://localhost:8000/,
with a certificate as docs/tls.md makes one. With ``--no-http2`` a browser asks for six at a time, and the page shows
what difference that makes.
"""

import time
from pathlib import Path

HERE = Path(__file__).parent
PAGE = (HERE / "tiles.html").read_text()
PICTURE = (HERE / "tiles.svg").read_text()
WHOLE = 'viewBox="0 0 100 100"'
SLOW = 0.5  # seconds that a tile takes; the other tiles, each in a greenlet of its own, do not wait for it


def app(environ, start_response):
    match environ["PATH_INFO"].split("/"):
        case ["", ""]:
            version = environ["geventgate.request"].http_version
            return answer(start_response, "text/html", PAGE.replace("{{ version }}", version))
        case ["", "tile", column, row] if {column, row} <= set("0123456789"):
            time.sleep(SLOW)
            return answer(start_response, "image/svg+xml", PICTURE.replace(WHOLE, f'viewBox="{column}0 {row}0 10 10"'))
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"There is a picture at /.\n"]


def answer(start_response, kind, text):
    start_response("200 OK", [("Content-Type", f"{kind}; charset=utf-8"), ("Cache-Control", "no-store")])
    return [text.encode()]
