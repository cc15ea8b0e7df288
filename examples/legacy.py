"""A shout box as it was written for gevent-websocket: a class for its WebSockets, Flask for its page, and nothing of
ours. ``geventgate --chdir examples --compat geventwebsocket legacy:application``
"""

from flask import Flask
from geventwebsocket import Resource, WebSocketApplication, WebSocketServer

app = Flask(__name__)


@app.route("/")
def page():
    return """<!doctype html><title>Shout</title><form><input autofocus></form><pre></pre>
<script>
    const socket = new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}/shout`)
    socket.onmessage = ({data}) => document.querySelector("pre").prepend(data, "\\n")
    document.forms[0].onsubmit = ({target}) => {
        socket.send(target[0].value)
        target.reset()
        return false
    }
</script>"""


class Shouts(WebSocketApplication):
    def on_message(self, message):
        if message is not None:
            self.broadcast(message.upper() + "!")

    def on_close(self, reason):
        self.broadcast("somebody left")

    def broadcast(self, text):
        for client in self.ws.handler.server.clients.values():
            if not client.ws.closed:
                client.ws.send(text)


application = Resource([("^/shout", Shouts), ("^/.*", app)])

if __name__ == "__main__":
    WebSocketServer(("127.0.0.1", 8000), application).serve_forever()
