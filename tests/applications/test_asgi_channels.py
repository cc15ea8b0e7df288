"""A real Django project with Channels: with the layer in memory and with Redis', which lets worker processes share."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import services
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

pytestmark = pytest.mark.needs("redis-server")
SOURCE = (Path(__file__).parent / "channels_app.py").read_bytes()
WAYS = {
    "memory": ("memory", []),
    "memory-http2": ("memory", ["--h2c"]),
    "redis-workers": ("redis", ["--workers", "2", "--preload"]),
    "pubsub-workers": ("pubsub", ["--workers", "2", "--preload"]),
}


@pytest.fixture(scope="module")
def redis_url():
    with services.redis() as url:
        yield url


@pytest.fixture(scope="module", params=WAYS)
def server(request, redis_url, module_gate, tmp_path_factory):
    layer, options = WAYS[request.param]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TEST_REDIS", redis_url)
        patch.setenv("TEST_LAYER", layer)
        patch.setenv("TEST_MIGRATE", "yes")
        patch.setenv("TEST_SQLITE", str(tmp_path_factory.mktemp("sqlite") / "db"))
        server = module_gate("channels_app:app", *options)
    with services.reached(server, options):
        yield server


@pytest.fixture
def client(server):
    with services.client_of(server) as client:
        yield client


def test_views(client, server):
    assert client.get("/").text == f"async hello from 127.0.0.1:{server.port} over http"
    assert client.get("/blocking").text == "blocking hello from /blocking"
    assert client.get("/squares/7").json() == {"squares": [49] * 3}
    assert client.get("/nowhere").status_code == 404
    assert client.post("/squares/7").status_code in (403, 405)


def test_content(client):
    content = bytes(range(256)) * 4000
    assert client.post("/echo", content=content).content == content
    assert client.get("/stream").text == "".join(f"{number}\n" for number in range(100))
    assert client.get("/file").content == SOURCE
    assert client.get("/events").text == "data: 0\n\ndata: 1\n\ndata: 2\n\n"


def test_sessions_and_users(client):
    assert [client.get("/count").json()["visits"] for _ in range(3)] == [1, 2, 3]
    assert client.get("/log-in").text == "ann"


def test_async_orm(client):
    assert client.get("/atomic").json() == {"left": 0}
    for name in ("bob", "cy"):
        assert client.get("/orm", params={"name": name}).json() == {
            "email": f"{name}@here.example",
            "names": [name],
            "exists": False,
            "first": "é",
            "n": 1,
        }


def test_nested_async_to_sync_in_views_side_by_side(client):
    paths = ["/nested", "/blocking", "/", "/squares/2"] * 4
    with ThreadPoolExecutor(len(paths)) as pool:
        assert [answer.status_code for answer in pool.map(client.get, paths)] == [200] * len(paths)
    assert client.get("/nested").json() == {"nested": True}


@pytest.mark.parametrize("kind", ["chat", "blocking-chat"])
def test_the_tutorials_chat(server, client, kind):
    url = f"{server.ws_url}/ws/{kind}/lobby{kind}/"
    with connect(url) as one, connect(url) as two, connect(f"{server.ws_url}/ws/chat/elsewhere/") as other:
        for text in ("hello", "é"):
            one.send(json.dumps({"message": text}))
            assert json.loads(one.recv(5)) == json.loads(two.recv(5)) == {"message": text}
        assert client.get(f"/tell/lobby{kind}/from-a-view").text == "told"
        assert json.loads(one.recv(5)) == json.loads(two.recv(5)) == {"message": "from-a-view"}
        with pytest.raises(TimeoutError):
            other.recv(0.05)
        one.close()
        two.send('{"message": "alone"}')
        assert json.loads(two.recv(5)) == {"message": "alone"}


def test_many_in_a_room(server):
    url = f"{server.ws_url}/ws/chat/many/"
    with ExitStack() as stack:
        peers = [stack.enter_context(connect(url)) for _ in range(12)]
        for number, peer in enumerate(peers):
            peer.send(json.dumps({"message": str(number)}))
        for peer in peers:
            got = {json.loads(peer.recv(10))["message"] for _ in peers}
            assert got == {str(number) for number in range(len(peers))}


def test_user_subprotocol_and_close_code(server, client):
    client.get("/log-in")
    cookie = f"sessionid={client.cookies['sessionid']}"
    for fields, user in (({}, "AnonymousUser"), ({"Cookie": cookie}, "ann")):
        with connect(f"{server.ws_url}/ws/whoami", subprotocols=["a", "b"], additional_headers=fields) as ws:
            assert ws.subprotocol == "b"
            ws.send('{"x": 1}')
            assert json.loads(ws.recv(5)) == {"user": user, "users": True, "got": {"x": 1}}
            ws.send('{"close": 4123}')
            with pytest.raises(ConnectionClosed) as closed:
                ws.recv(5)
            assert closed.value.rcvd.code == 4123


def test_refused(server):
    for url, fields in (("/ws/whoami?refuse", {}), ("/ws/whoami", {"Origin": "http://evil.example:x"})):
        with pytest.raises(InvalidStatus) as refused:
            connect(f"{server.ws_url}{url}", additional_headers=fields)
        assert refused.value.response.status_code == 403


def test_accepted_sent_and_closed_at_once(server):
    with connect(f"{server.ws_url}/ws/other") as ws:
        assert ws.recv(5) == b"\0\xff"
        with pytest.raises(ConnectionClosed) as closed:
            ws.recv(5)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4000, "é")
