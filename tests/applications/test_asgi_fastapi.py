"""A real FastAPI application: over HTTP/1.1, HTTP/2, and under worker processes."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import services
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

SOURCE = (Path(__file__).parent / "fastapi_app.py").read_bytes()


@pytest.fixture(scope="module", params=services.WAYS)
def any_server(request, module_gate):
    options = services.WAYS[request.param]
    with services.reached(module_gate("fastapi_app:app", *options), options) as server:
        yield server


@pytest.fixture
def any_client(any_server):
    """Of each way to be served."""
    with services.client_of(any_server) as client:
        yield client


@pytest.fixture(scope="module")
def server(module_gate):
    return module_gate("fastapi_app:app")


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url) as client:
        yield client


def await_written(client, *texts: str) -> None:
    until = time.monotonic() + 5
    while not {*texts} <= {*client.get("/written").json()}:
        assert time.monotonic() < until, client.get("/written").text
        time.sleep(0.02)


def test_parameters_and_models(any_client):
    answer = any_client.get("/items/5?q=some")
    assert answer.json() == {"item_id": 5, "q": "some"}
    assert float(answer.headers["x-process-time"]) < 1
    assert any_client.get("/items/five").status_code == 422
    assert any_client.get("/items/5?q=too+long").status_code == 422
    item = {"name": "é", "price": 1.5, "tags": ["a", "b"]}
    answer = any_client.post("/items/", json=item)
    assert (answer.status_code, answer.json()) == (201, item)
    assert any_client.post("/items/", content=b"{").status_code == 422


def test_errors(any_client):
    answer = any_client.get("/items/404")
    assert (answer.status_code, answer.headers["x-error"]) == (404, "there is none")
    answer = any_client.get("/unicorn")
    assert (answer.status_code, answer.json()) == (418, {"message": "a rainbow"})
    assert any_client.get("/secret").status_code == 401
    assert any_client.get("/secret", headers={"Authorization": "Bearer it"}).json() == "it"


def test_documentation_pages(any_client):
    assert "swagger-ui" in any_client.get("/docs").text
    assert any_client.get("/openapi.json").json()["paths"]["/items/{item_id}"]


def test_lifespan(any_client):
    assert any_client.get("/predict?x=2").json() == {"result": 84}


def test_dependencies(client):
    answer = client.get("/dependencies", headers={"User-Agent": "a test"})
    assert answer.json() == {"open": True, "async": True, "agent": "a test"}
    await_written(client, "opened", "async closed", "closed")


def test_functions_that_block_do_so_side_by_side(any_client):
    began = time.monotonic()
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: any_client.get("/blocking?seconds=0.3").json(), range(10)))
    assert answers == [{"slept": 0.3}] * 10
    assert time.monotonic() - began < 1.5


def test_background_tasks(client):
    began = time.monotonic()
    assert client.post("/notify/a@b").json() == {"message": "sent in the background"}
    assert time.monotonic() - began < 1
    await_written(client, "told a@b", "told a@b again")


def test_files(any_client):
    files = [("files", ("a", b"x" * 10)), ("files", ("b", b"y" * (2 << 20))), ("small", b"z")]
    assert any_client.post("/files", files=files).json() == {"sizes": [10, 2 << 20], "small": 1}
    assert any_client.get("/file").content == SOURCE


def test_stream(any_client):
    assert any_client.get("/stream").text == "some bytes" * 10


def test_httpx_in_the_loop(server, client):
    answer = client.get("/fetch", params={"url": f"{server.url}/items/3"})
    assert answer.json() == [{"item_id": 3, "q": None}] * 4


# --- WebSockets


def test_chat(server):
    with connect(f"{server.ws_url}/ws/1") as one, connect(f"{server.ws_url}/ws/2") as two:
        one.send("hi")
        assert [one.recv(5), one.recv(5)] == ["You wrote: hi", "Client #1 says: hi"]
        assert two.recv(5) == "Client #1 says: hi"
        one.close()
        assert two.recv(5) == "Client #1 left the chat"


def test_websocket_with_dependencies(any_server):
    for query, fields, who in (("?token=t", {}, "t"), ("", {"Cookie": "session=s"}, "s")):
        with connect(f"{any_server.ws_url}/items/x/ws{query}", additional_headers=fields) as ws:
            assert ws.recv(5) == f'{{"item":"x","who":"{who}"}}'
            ws.send(b"\0\xff")
            assert ws.recv(5) == b"\0\xff"
            with pytest.raises(ConnectionClosed) as closed:
                ws.recv(5)
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "that was all")
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{any_server.ws_url}/items/x/ws")
    assert refused.value.response.status_code == 403
