"""A Flask application that uses what applications use."""

import io
from collections.abc import Iterator
from pathlib import Path

from flask import Flask, Response, abort, redirect, request, send_file, session, stream_with_context, url_for

app = Flask(__name__)
app.secret_key = "for tests only"


@app.get("/")
def index():
    return f"hello, {session.get('name', 'stranger')}"


@app.post("/login")
def login():
    session["name"] = request.form["name"]
    return redirect(url_for("index"), 303)


@app.post("/upload")
def upload():
    return {
        name: {"filename": file.filename, "type": file.content_type, "size": len(file.read())}
        for name, file in request.files.items()
    } | {"fields": request.form.to_dict(flat=False)}


@app.get("/stream/<int:count>")
def stream(count: int):
    def pieces() -> Iterator[str]:
        for number in range(count):
            yield f"{request.args.get('prefix', '')}{number}\n"

    return Response(stream_with_context(pieces()), mimetype="text/plain")


@app.get("/file")
def whole_file():
    return send_file(Path(__file__), conditional=True)


@app.get("/bytes")
def bytes_io():
    return send_file(io.BytesIO(bytes(range(256)) * 1000), mimetype="application/octet-stream")


@app.post("/echo")
def echo():
    return Response(request.get_data(), mimetype=request.mimetype)


@app.post("/json")
def from_json():
    return {"got": request.get_json()}


@app.post("/ignore")
def ignore():
    return "not read"


@app.get("/fail")
def fail():
    raise RuntimeError("as the test asked")


@app.get("/fail-in-stream")
def fail_in_stream():
    def pieces() -> Iterator[str]:
        yield "first\n" * 10_000
        raise RuntimeError("as the test asked, in the middle")

    return Response(pieces(), mimetype="text/plain")


@app.get("/cookies")
def cookies():
    answer = Response("two")
    answer.set_cookie("a", "1")
    answer.set_cookie("b", "2")
    return answer


@app.get("/teapot")
def teapot():
    abort(418)


@app.get("/not-modified")
def not_modified():
    answer = Response("gone", 304)
    answer.set_etag("x")
    return answer


@app.get("/ws")
def page():
    return "this page also speaks WebSocket"


@app.route("/ws", websocket=True)
def websocket():
    if request.args.get("token") == "bad":
        abort(403)
    with request.environ["wsgi.websocket"] as ws:
        ws.accept(subprotocol="chat" if "chat" in ws.subprotocols else None)
        for message in ws:
            if message == "close":
                ws.close(4001, "as asked")
                break
            ws.send(message.upper() if isinstance(message, str) else bytes(reversed(message)))
    return ""
