"""asyncio under WSGI: the views of a real Flask application run coroutines, side by side."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import services


@pytest.fixture(scope="module", params=services.WAYS)
def server(request, module_gate):
    options = services.WAYS[request.param]
    with services.reached(module_gate("asyncio_app:app", *options), options) as server:
        yield server


@pytest.fixture
def client(server):
    with services.client_of(server) as client:
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
