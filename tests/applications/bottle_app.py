"""A Bottle application."""

from pathlib import Path

import bottle
from bottle import HTTPResponse, request, response

app = bottle.Bottle()


@app.get("/")
def index():
    return f"hello, {request.get_cookie('name', default='stranger')}"


@app.post("/form")
def form():
    response.set_cookie("name", request.forms.name)
    return {"name": request.forms.name, "all": request.forms.getall("many")}


@app.post("/upload")
def upload():
    file = request.files.file
    return {"filename": file.raw_filename, "size": len(file.file.read())}


@app.get("/stream")
def stream():
    yield "a\n"
    yield ""
    yield "b\n"


@app.get("/file")
def file():
    return bottle.static_file(Path(__file__).name, root=str(Path(__file__).parent))


@app.post("/echo")
def echo():
    return request.body


@app.get("/empty")
def empty():
    return HTTPResponse(status=204)


@app.get("/fail")
def fail():
    raise RuntimeError("as the test asked")


@app.get("/ws")
def websocket():
    for message in request.environ["wsgi.websocket"]:
        request.environ["wsgi.websocket"].send(message)
    return ""
