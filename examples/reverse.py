"""flask-sock, as its documentation has it, and nothing of ours: ``geventgate --chdir examples reverse:app``."""

from flask import Flask
from flask_sock import Sock

app = Flask(__name__)
app.config["SOCK_SERVER_OPTIONS"] = {"ping_interval": 25}
sock = Sock(app)

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Reverse</title>
<link rel="icon" href="data:,">
<style>
  :root { color-scheme: light dark; font: 1.1rem/1.5 system-ui, sans-serif }
  body { display: grid; place-content: center; min-height: 90vh; text-align: center }
  input { font: inherit; padding: .4em }
  output { font-size: 2rem; min-height: 2em; overflow-wrap: anywhere }
</style>
<label>What you write here <input id="text" autofocus autocomplete="off"></label>
<output id="reversed" for="text"></output>
<script>
  const text = document.getElementById("text")
  const ws = new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}/reverse`)
  ws.onmessage = event => { document.getElementById("reversed").value = event.data }
  text.oninput = () => ws.send(text.value)
</script>
</html>
"""


@app.route("/")
def index():
    return PAGE


@sock.route("/reverse")
def reverse(ws):
    while True:
        text = ws.receive()
        ws.send(text[::-1])
