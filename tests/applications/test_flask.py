"""A real Flask application, by httpx, curl, websockets and websocket-client."""

import asyncio
import subprocess
from pathlib import Path

import httpx
import pytest
import websocket
import websockets.asyncio.client
import websockets.exceptions
import websockets.sync.client

SOURCE = (Path(__file__).parent / "flask_app.py").read_bytes()


@pytest.fixture(scope="module")
def server(module_gate):
    return module_gate("flask_app:app")


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url, follow_redirects=True) as client:
        yield client


def test_form_session_and_redirect(client):
    assert client.get("/").text == "hello, stranger"
    assert client.post("/login", data={"name": "Zoë & co"}).text == "hello, Zoë & co"
    assert client.get("/").text == "hello, Zoë & co"


def test_upload(client):
    big = bytes(range(256)) * 8192
    answer = client.post(
        "/upload", files={"a": ("é.bin", big, "image/x"), "b": ("b.txt", b"")}, data={"x": ["1", "2"]}
    ).json()
    assert answer["a"] == {"filename": "é.bin", "type": "image/x", "size": len(big)}
    assert answer["b"]["size"] == 0
    assert answer["fields"] == {"x": ["1", "2"]}


def test_stream_is_chunked_and_keeps_the_request_at_hand(client):
    answer = client.get("/stream/1000", params={"prefix": "n"})
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.text == "".join(f"n{number}\n" for number in range(1000))


def test_file_and_range_and_conditional(client):
    whole = client.get("/file")
    assert whole.content == SOURCE
    assert whole.headers["content-length"] == str(len(SOURCE))
    part = client.get("/file", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, SOURCE[10:20])
    unchanged = client.get("/file", headers={"If-None-Match": whole.headers["etag"]})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    assert client.get("/bytes").content == bytes(range(256)) * 1000


def test_head_has_the_length_and_no_content(client):
    answer = client.head("/file")
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(SOURCE))
    assert client.head("/stream/5").content == b""
    assert client.get("/").text.startswith("hello")  # on the same connection: HEAD left nothing behind


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 8 << 20])
def test_large_content_comes_back(client, size):
    content = (bytes(range(251)) * (size // 251 + 1))[:size]
    assert client.post("/echo", content=content).content == content
    assert client.post("/echo", content=iter([content[:100], content[100:]])).content == content  # chunked


def test_content_nobody_read_leaves_the_connection_usable(client):
    for size in (10, 60_000, 1 << 20):
        assert client.post("/ignore", content=b"x" * size).text == "not read"


def test_json_cookies_and_errors(client):
    assert client.post("/json", json={"a": [1, "é"]}).json() == {"got": {"a": [1, "é"]}}
    assert client.post("/json", content=b"{", headers={"Content-Type": "application/json"}).status_code == 400
    assert client.get("/cookies").headers.get_list("set-cookie") == ["a=1; Path=/", "b=2; Path=/"]
    assert client.get("/teapot").status_code == 418
    assert client.get("/nowhere").status_code == 404
    assert client.put("/").status_code == 405
    assert client.get("/not-modified").status_code == 304
    assert client.get("/").status_code == 200


def test_fields_of_a_response(client):
    fields = client.get("/").headers
    assert [name for name in ("date", "server", "content-length", "content-type") if name not in fields] == []
    assert len(fields.get_list("date")) == len(fields.get_list("server")) == 1


def test_an_exception_is_500_and_logged_once(gate):
    server = gate("flask_app:app", tracebacks=1)
    with httpx.Client(base_url=server.url) as client:
        assert client.get("/fail").status_code == 500
        assert client.get("/").status_code == 200
    assert "RuntimeError: as the test asked" in server.stderr()


def test_an_exception_within_the_content_cuts_the_answer(gate):
    server = gate("flask_app:app", tracebacks=1)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"{server.url}/fail-in-stream")
    assert httpx.get(server.url).status_code == 200


@pytest.mark.needs("curl")
@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
def test_curl(server, version, tmp_path):
    def curl(*arguments: str, stdin: bytes = b"") -> bytes:
        command = ["curl", "-sS", "--fail", "--max-time", "20", version, *arguments]
        return subprocess.run(command, input=stdin, stdout=subprocess.PIPE, check=True).stdout

    big = bytes(range(256)) * 20_000
    (tmp_path / "big").write_bytes(big)
    assert curl(f"{server.url}/file", f"{server.url}/file") == SOURCE * 2
    assert curl("--data-binary", f"@{tmp_path}/big", f"{server.url}/echo") == big  # sends Expect: 100-continue
    assert curl("-F", f"a=@{tmp_path}/big", f"{server.url}/upload").count(b'"size":5120000') == 1
    assert b"content-length: %d" % len(SOURCE) in curl("-I", f"{server.url}/file").lower()
    assert curl(f"{server.url}/stream/3") == b"0\n1\n2\n"
    if version == "--http1.1":
        assert curl("-T", "-", "-X", "POST", f"{server.url}/echo", stdin=big) == big  # chunked


@pytest.mark.needs("curl")
def test_curl_by_a_unix_socket(gate, tmp_path):
    server = gate("flask_app:app", unix=str(tmp_path / "s"))
    command = ["curl", "-sS", "--fail", "--unix-socket", str(server.address), "http://localhost/file"]
    assert subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout == SOURCE


# WebSockets on the URL of a page


def test_page_and_websocket_share_the_url(server):
    assert "also speaks" in httpx.get(f"{server.url}/ws").text
    with websockets.sync.client.connect(f"{server.ws_url}/ws", subprotocols=["other", "chat"]) as ws:
        assert ws.subprotocol == "chat"
        ws.send("grüß")
        assert ws.recv() == "GRÜSS"
        ws.send(b"abc")
        assert ws.recv() == b"cba"
        ws.send(["frag", "men", "ted"])
        assert ws.recv() == "FRAGMENTED"
        ws.ping().wait(5)


def test_refused_by_an_ordinary_response(server):
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        websockets.sync.client.connect(f"{server.ws_url}/ws?token=bad").close()
    assert refused.value.response.status_code == 403
    assert b"Forbidden" in refused.value.response.body


def test_close_code_and_reason(server):
    with websockets.sync.client.connect(f"{server.ws_url}/ws") as ws:
        ws.send("close")
        with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
            ws.recv(5)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as asked")


def test_websocket_client(server):
    ws = websocket.create_connection(f"{server.ws_url}/ws", timeout=10)
    ws.send("one")
    assert ws.recv() == "ONE"
    ws.send_binary(b"x" * 100_000)
    assert ws.recv() == b"x" * 100_000
    ws.ping("still there?")
    assert ws.recv_data_frame(control_frame=True)[1].data == b"still there?"
    ws.close(1000, timeout=5)
    assert not ws.connected


def test_a_foreign_origin_is_refused(gate):
    server = gate("flask_app:app", tracebacks=1)  # Flask logs the WebSocketError that accept() raised
    with pytest.raises(websockets.exceptions.InvalidStatus) as refused:
        websockets.sync.client.connect(f"{server.ws_url}/ws", origin="http://evil.example").close()
    assert refused.value.response.status_code == 403
    assert "--ws-origins" in server.stderr()
    with websockets.sync.client.connect(f"{server.ws_url}/ws", origin=server.url) as ws:
        ws.send("same origin")
        assert ws.recv() == "SAME ORIGIN"


def test_a_foreign_origin_is_welcome_when_listed(gate):
    server = gate("flask_app:app", "--ws-origins", "http://friend.example", "--ws-origins", "http://other.example")
    for origin in ("http://friend.example", "http://other.example"):
        with websockets.sync.client.connect(f"{server.ws_url}/ws", origin=origin) as ws:
            ws.send("friend")
            assert ws.recv() == "FRIEND"


def test_a_hundred_at_once(server):
    async def one(number: int) -> None:
        async with websockets.asyncio.client.connect(f"{server.ws_url}/ws") as ws:
            for turn in range(10):
                await ws.send(f"m{number}.{turn}")
                assert await ws.recv() == f"M{number}.{turn}"

    async def all_of_them() -> None:
        await asyncio.gather(*(one(number) for number in range(100)))

    asyncio.run(all_of_them())


def test_sigterm_says_1001(gate):
    server = gate("flask_app:app")
    with websockets.sync.client.connect(f"{server.ws_url}/ws") as ws:
        ws.send("up")
        assert ws.recv() == "UP"
        server.process.terminate()
        with pytest.raises(websockets.exceptions.ConnectionClosed) as closed:
            ws.recv(10)
        assert closed.value.rcvd.code == 1001
    assert server.stop() == 0
