"""A real Bottle application."""

from pathlib import Path

import httpx
import pytest
import websockets.sync.client


@pytest.fixture(scope="module")
def server(module_gate):
    return module_gate("bottle_app:app")


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url) as client:
        yield client


def test_form_and_cookie(client):
    assert client.get("/").text == "hello, stranger"
    assert client.post("/form", data={"name": "Ann", "many": ["1", "2"]}).json() == {"name": "Ann", "all": ["1", "2"]}
    assert client.get("/").text == "hello, Ann"


def test_upload(client):
    content = b"z" * 500_000
    assert client.post("/upload", files={"file": ("a b.bin", content)}).json() == {
        "filename": "a b.bin",
        "size": len(content),
    }


@pytest.mark.parametrize("size", [0, 1, 2 << 20])
def test_content_comes_back(client, size):
    content = b"q" * size
    assert client.post("/echo", content=content).content == content


def test_generator_and_empty_pieces(client):
    assert client.get("/stream").text == "a\nb\n"


def test_static_file(client):
    source = (Path(__file__).parent / "bottle_app.py").read_bytes()
    answer = client.get("/file")
    assert answer.content == source
    assert client.head("/file").headers["content-length"] == str(len(source))
    part = client.get("/file", headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, source[5:10])
    assert client.get("/file", headers={"If-Modified-Since": answer.headers["last-modified"]}).status_code == 304


def test_no_content_then_more_on_the_connection(client):
    assert client.get("/empty").status_code == 204
    assert client.get("/nowhere").status_code == 404
    assert client.get("/").status_code == 200


def test_websocket(server):
    with websockets.sync.client.connect(f"{server.ws_url}/ws") as ws:
        ws.send(b"\0\xff")
        assert ws.recv() == b"\0\xff"


def test_an_exception_is_500(gate):
    server = gate("bottle_app:app", tracebacks=1)  # Bottle's own, on wsgi.errors
    assert httpx.get(f"{server.url}/fail").status_code == 500
    assert httpx.get(server.url).status_code == 200
