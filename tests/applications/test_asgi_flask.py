"""asyncio under WSGI: the views of a real Flask application run coroutines, side by side."""

import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

WAYS = {"http1": [], "http2": ["--h2c"], "workers": ["--workers", "2"]}


@pytest.fixture(scope="module", params=WAYS)
def server(request, module_gate):
    server = module_gate("asyncio_app:app", *WAYS[request.param])
    server.http2 = request.param == "http2"
    return server


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url, http2=server.http2, http1=not server.http2) as client:
        yield client
        assert client.get("/seen").json() == []  # a running loop, by no greenlet but its own


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/httpx", [0, 1, 2, 3, 4]),
        ("/aiohttp", [0, 1, 2, 3, 4]),
        ("/aiosqlite", [0, 1, 2]),
        ("/timeout", ["cancelled"]),
    ],
)
def test_run_async(client, path, expected):
    with ThreadPoolExecutor(4) as pool:
        for answer in pool.map(client.get, [path] * 4):
            assert answer.json() == expected


def test_an_exception_of_a_coroutine_is_the_views(client):
    assert client.get("/fail").text == "from the coroutine"


@pytest.mark.parametrize("path", ["/run", "/new-loop", "/async-to-sync", "/async-view"])
def test_loops_of_the_views_run_side_by_side(client, path):
    began = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        assert [answer.text for answer in pool.map(client.get, [path] * 4)] == ["done"] * 4
    assert time.monotonic() - began < 0.7  # one after another: 0.8 s


def test_all_of_them_at_once(client):
    paths = ["/run", "/async-to-sync", "/async-view", "/httpx", "/number/1", "/nested", "/aiosqlite"] * 3
    with ThreadPoolExecutor(len(paths)) as pool:
        assert [answer.status_code for answer in pool.map(client.get, paths)] == [200] * len(paths)


def test_nested_async_to_sync(client):
    assert client.get("/nested").text == "deepest True False"
