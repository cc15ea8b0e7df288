"""A real Starlette application: over HTTP/1.1, HTTP/2, and under worker processes."""

import struct
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import SO_LINGER, SOL_SOCKET

import httpx
import pytest
import services
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

SOURCE = (Path(__file__).parent / "starlette_app.py").read_bytes()


@pytest.fixture(scope="module", params=services.WAYS)
def any_server(request, module_gate):
    options = services.WAYS[request.param]
    with services.reached(module_gate("starlette_app:app", *options), options) as server:
        yield server


@pytest.fixture
def any_client(any_server):
    """Of each way to be served."""
    with services.client_of(any_server) as client:
        yield client


@pytest.fixture(scope="module")
def server(module_gate):
    return module_gate("starlette_app:app")


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url) as client:
        yield client


def await_event(client, event: str, seconds: float = 5.0) -> None:
    until = time.monotonic() + seconds
    while event not in client.get("/events").json():
        assert time.monotonic() < until, client.get("/events").text
        time.sleep(0.02)


def test_routes(any_client):
    answer = any_client.get("/")
    assert answer.text == "GET / from 127.0.0.1"
    assert any_client.get("/items/7").json() == {"item": 7}
    assert any_client.delete("/items/7").status_code == 204
    assert any_client.post("/items/7").status_code == 405
    assert any_client.get("/items/x").status_code == 404
    assert any_client.head("/").content == b""


@pytest.mark.parametrize("size", [0, 1, 100, 3 << 20])
def test_content_comes_back(any_client, size):
    content = bytes(range(256)) * (size // 256 + 1)
    assert any_client.post("/echo", content=content).content == content


def test_content_in_pieces(any_client):
    assert any_client.post("/count", content=iter([b"x" * 10_000] * 30)).json() == {"size": 300_000}


def test_form_with_a_file(any_client):
    answer = any_client.post("/form", data={"name": "é"}, files={"file": ("f.bin", b"x" * 1_500_000)})
    assert answer.json() == {"name": "é", "filename": "f.bin", "size": 1_500_000}


def test_stream_arrives_in_pieces(any_client):
    with any_client.stream("GET", "/stream?to=20", headers={"Accept-Encoding": "identity"}) as answer:
        pieces = list(answer.iter_raw())
    assert b"".join(pieces).decode() == "".join(f"{number}\n" for number in range(20))
    assert len(pieces) > 5


def test_functions_that_block_run_in_threads(any_client):
    assert any_client.get("/blocking").text == "no loop"
    assert any_client.get("/blocking-stream").text == "0\n1\n2\n3\n4\n"


def test_middleware_and_context(any_client):
    for name in ("ann", "bob"):
        assert any_client.get("/", headers={"x-name": name}).headers["x-middleware"] == name


def test_state_of_the_lifespan(any_client):
    assert any_client.get("/state").json() == ["of the lifespan"]


def test_file(any_client):
    answer = any_client.get("/file")
    assert answer.content == SOURCE
    assert answer.headers["content-length"] == str(len(SOURCE))
    assert any_client.head("/file").headers["content-length"] == str(len(SOURCE))
    part = any_client.get("/file", headers={"Range": "bytes=5-9"})
    assert (part.status_code, part.content) == (206, SOURCE[5:10])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/task-group", [2, 1, 0]),
        ("/cancelled-group", ["cancelled", "one of the group"]),
        (
            "/scopes",
            {
                "move_on_after": True,
                "fail_after": True,
                "timeout": True,
                "wait_for": True,
                "shield": True,
                "TaskGroup": "done",
            },
        ),
        ("/threads", ["0 ann", "1 ann", "2 ann", "3 ann", "4 ann", 4, "from the thread"]),
    ],
)
def test_anyio_and_asyncio(any_client, path, expected):
    assert any_client.get(path, headers={"x-name": "ann"}).json() == expected


def test_threads_run_side_by_side(client):
    began = time.monotonic()
    with ThreadPoolExecutor(10) as pool:
        assert len(set(pool.map(lambda _: client.get("/threads").text, range(10)))) == 1
    assert time.monotonic() - began < 1.5  # one after another: ten times 0.2 s


def test_the_loop_is_asyncio_to_sniffio(client):
    assert client.get("/library").text == "asyncio GeventLoop"


def test_subprocess_and_streams(client):
    assert client.get("/subprocess").text == "through a pipe 0"
    assert client.get("/streams").text == "LINE\n"


def test_background_task_outlives_the_response(client):
    began = time.monotonic()
    assert client.get("/later", headers={"x-name": "cy"}).text == "soon"
    assert time.monotonic() - began < 1
    await_event(client, "behind cy")


def test_a_task_of_the_lifespan_works(client):
    assert client.get("/work/one").text == "queued"
    await_event(client, "worked at one")


@pytest.mark.parametrize(("path", "event"), [("/watch", "the client went"), ("/endless", "the stream ended")])
def test_the_application_hears_that_the_client_went(server, client, path, event):
    with server.connect() as peer:
        peer.sendall(b"GET %s HTTP/1.1\r\nHost: h\r\n\r\n" % path.encode())
        time.sleep(0.1)
        peer.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))  # reset: who has only ended its side may read
    await_event(client, event)


def test_clients_that_go_and_a_stop_leave_nothing_in_the_log(gate):
    server = gate("starlette_app:app")
    opening = (
        b"GET /%s HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    begun = [
        b"POST /count HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nabc",
        b"POST /form HTTP/1.1\r\nHost:h\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length:9\r\n\r\n-",
        *(b"GET /%s HTTP/1.1\r\nHost: h\r\n\r\n" % path for path in (b"endless", b"threads", b"scopes", b"later")),
        *(opening % path for path in (b"ticks", b"chat", b"counter")),
    ]
    for reset in (False, True):
        peers = [server.connect() for _ in begun]
        for peer, data in zip(peers, begun, strict=True):
            peer.sendall(data)
        time.sleep(0.05)
        for peer in peers:
            if reset:
                peer.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()
    with connect(f"{server.ws_url}/chat") as ws:
        assert httpx.get(f"{server.url}/later").text == "soon"
        server.process.terminate()
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(5)
    assert closed.value.rcvd.code == 1001
    assert server.stop() == 0
    assert [line for line in server.stderr().splitlines() if "[INFO]" not in line] == ["shut down"]


def test_an_exception_is_500(gate):
    server = gate("starlette_app:app", tracebacks=1)
    assert httpx.get(f"{server.url}/fail").status_code == 500
    assert httpx.get(server.url).status_code == 200


# --- WebSockets


def test_websocket(any_server):
    with connect(f"{any_server.ws_url}/chat", subprotocols=["v1", "v2"]) as ws:
        assert ws.subprotocol == "v2"
        assert ws.response.headers["x-extra"] == "yes"
        for number in range(50):
            ws.send(f"é{number}")
        assert [ws.recv(5) for _ in range(50)] == [f"É{number}" for number in range(50)]


@pytest.mark.parametrize(("text", "code", "reason"), [("close", 4001, "as asked"), ("return", 1000, "")])
def test_close_codes(any_server, text, code, reason):
    with connect(f"{any_server.ws_url}/chat") as ws:
        ws.send(text)
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(5)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, reason)


def test_an_exception_closes_1011(gate):
    server = gate("starlette_app:app", tracebacks=1)
    with connect(f"{server.ws_url}/chat") as ws:
        ws.send("fail")
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(5)
    assert closed.value.rcvd.code == 1011


def test_refused(any_server):
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{any_server.ws_url}/refuse")
    assert refused.value.response.status_code == 403
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{any_server.ws_url}/refuse-in-words")
    response = refused.value.response
    assert (response.status_code, response.headers["x-why"], response.body) == (401, "because", b'{"why":"not you"}')
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{any_server.ws_url}/nowhere")
    assert refused.value.response.status_code == 403


def test_endpoint_hears_the_close_code(server, client):
    with connect(f"{server.ws_url}/counter") as ws:
        ws.send('{"add": 3}')
        ws.send('{"add": 4}')
        assert [ws.recv(5), ws.recv(5)] == ['{"count":3}', '{"count":7}']
        ws.close(4321)
    await_event(client, "closed with 4321")


def test_tasks_that_send_and_receive(any_server):
    with connect(f"{any_server.ws_url}/ticks") as ws:
        assert [ws.recv(5) for _ in range(5)] == ["0", "1", "2", "3", "4"]
        ws.send("enough")
        for _ in ws:  # ends with a code that says so
            pass
