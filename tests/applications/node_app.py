"""What Node's HTTP/2 client talks to: see http2_client.mjs."""

import json

codes = {}  # path of a WebSocket => its close code, once it is over


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if (websocket := environ.get("wsgi.websocket")) is not None:
        try:
            talk(path, websocket)
        finally:
            codes[path] = websocket.close_code
        return []
    if environ.get("geventgate.protocol") == "lines":
        with environ["geventgate.upgrade"]() as tunnel:
            while data := tunnel.recv(65536):
                tunnel.sendall(data.upper())
        return []
    return PAGES.get(path, page)(environ, start_response)


def talk(path, websocket):
    if path == "/chat":
        websocket.accept(subprotocol="chat", headers=[("X-Room", "1")])
    if path == "/bye":
        websocket.close(4000, "no more")
    while path == "/pours":
        websocket.send(bytes(65536))
    for message in websocket:
        websocket.send(message)


def page(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Connection", "close")])
    return [b"a page"]


def closed(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(codes).encode()]


def post(environ, start_response):
    """Each piece goes back as it comes."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    while piece := environ["wsgi.input"].read1(65536):
        yield piece


def trailers(environ, start_response):
    content = environ["wsgi.input"].read().decode()
    seen = [[name.decode(), value.decode()] for name, value in environ["geventgate.request"].trailers()]
    start_response("200 OK", [("Content-Type", "application/json"), ("Trailer", "x-digest")])
    environ["geventgate.send_trailers"]([("X-Digest", "abc"), ("x-count", str(len(seen)))])
    return [json.dumps([content, seen]).encode()]


def hints(environ, start_response):
    environ["wsgi.early_hints"]([("Link", "</style.css>; rel=preload; as=style")])
    environ["wsgi.early_hints"]([("Link", "</script.js>; rel=preload; as=script")])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hinted"]


def push(environ, start_response):
    offered = environ.get("geventgate.push")
    pushed = offered is not None and offered("/a%20page", [("X-Why", "it is needed")])
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(pushed).encode()]


def drain(environ, start_response):
    """Ends when the server is told to."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    yield b"begun"
    yield b" drained" if environ["geventgate.draining"].wait(20) else b" not drained"
    yield b" and done" * 10_000


PAGES = {
    "/closed": closed, "/post": post, "/trailers": trailers, "/hints": hints, "/push": push, "/drain": drain,
}  # fmt: skip
