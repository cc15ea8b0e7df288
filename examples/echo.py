"""A WebSocket that says what it hears, text as text and binary as binary: ``geventgate --chdir examples echo:app``.

The same URL answers a plain request too, since nothing is accepted before the first receive().
"""


def app(environ, start_response):
    ws = environ.get("wsgi.websocket")
    if ws is None:
        start_response("426 Upgrade Required", [("Content-Type", "text/plain"), ("Upgrade", "websocket")])
        return [b"Open a WebSocket here.\n"]
    for message in ws:
        ws.send(message)
    return []
