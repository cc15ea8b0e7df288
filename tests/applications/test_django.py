"""A real Django project."""

from pathlib import Path

import httpx
import pytest
import websockets.sync.client


@pytest.fixture(scope="module")
def server(module_gate):
    return module_gate("django_app:app")


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url) as client:
        yield client


def test_page(client, server):
    assert client.get("/").text == f"hello from 127.0.0.1:{server.port} over http"
    assert client.get("/nowhere").status_code == 404


def test_session(client):
    assert [client.get("/count").json()["visits"] for _ in range(3)] == [1, 2, 3]


def test_upload(client):
    files = {"small": ("s.txt", b"x" * 10), "spooled": ("l.bin", b"y" * (3 << 20))}
    answer = client.post("/upload", files=files, data={"a": ["1", "2"], "b": "é"}).json()
    assert answer == {
        "files": {"small": ["s.txt", 10], "spooled": ["l.bin", 3 << 20]},
        "fields": {"a": ["1", "2"], "b": ["é"]},
    }


@pytest.mark.parametrize("size", [0, 1, 5 << 20])
def test_content_comes_back(client, size):
    content = bytes(range(256)) * (size // 256 + 1)
    assert client.post("/echo", content=content).content == content


def test_stream_with_and_without_gzip(client):
    expected = "".join(f"{number}\n" for number in range(1000))
    for encoding in ("identity", "gzip"):
        answer = client.get("/stream", headers={"Accept-Encoding": encoding})
        assert answer.text == expected
        assert answer.headers["transfer-encoding"] == "chunked"


def test_file_by_file_wrapper(client):
    source = (Path(__file__).parent / "django_app.py").read_bytes()
    answer = client.get("/file", headers={"Accept-Encoding": "identity"})
    assert answer.content == source
    assert answer.headers["content-length"] == str(len(source))
    assert client.head("/file").content == b""
    assert client.get("/").status_code == 200


def test_websocket(server):
    with websockets.sync.client.connect(f"{server.ws_url}/ws") as ws:
        ws.send("é")
        assert ws.recv() == "é"


def test_an_exception_is_500(gate):
    server = gate("django_app:app", tracebacks=0)  # Django answers itself and, without DEBUG, mails its admins
    assert httpx.get(f"{server.url}/fail").status_code == 500
    assert httpx.get(server.url).status_code == 200
