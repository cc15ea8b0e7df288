"""Redis, PostgreSQL and SQLite by libraries that know only asyncio, from an ASGI application and from Flask's views."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
import services
from websockets.sync.client import connect

EXPECTED = {
    "redis": [["0", "1", "2"], 10],
    "pubsub": "news",
    "asyncpg": [[number * 2 for number in range(10)], [1, 2, 3, "timed out"]],
    "sqlite": [["one", "two"], 2],
    "postgres": [["one", "two"], 2],
}

needs_redis = pytest.mark.needs("redis-server")
needs_postgres = pytest.mark.skipif(services.postgres_programs() is None, reason="postgresql is not installed")
MARKS = {"redis": needs_redis, "pubsub": needs_redis, "asyncpg": needs_postgres, "postgres": needs_postgres}
pytestmark = [needs_redis, needs_postgres]


@pytest.fixture(scope="module")
def urls():
    with services.redis() as redis, services.postgres() as postgres:
        yield {"TEST_REDIS": redis, "TEST_POSTGRES": postgres}


@pytest.fixture(scope="module", params=services.WAYS)
def server(request, urls, module_gate, tmp_path_factory):
    options = services.WAYS[request.param]
    with pytest.MonkeyPatch.context() as patch:
        for name, url in urls.items():
            patch.setenv(name, url)
        patch.setenv("TEST_SQLITE", str(tmp_path_factory.mktemp("sqlite") / "db"))
        server = module_gate("databases_app:application", *options)
    for kind in ("sqlite", "postgres"):
        assert httpx.get(f"{server.url}/create/{kind}", timeout=20).text == "created"
    with services.reached(server, options):
        yield server


@pytest.fixture
def client(server):
    with services.client_of(server, timeout=20) as client:
        yield client


@pytest.mark.parametrize("gateway", ["asgi", "wsgi"])
@pytest.mark.parametrize("kind", EXPECTED)
def test_one_after_another(client, gateway, kind):
    for number in range(2):
        assert client.get(f"/{gateway}/{kind}/{number}").json() == EXPECTED[kind]


def test_all_at_once(client):
    # Not SQLite: in a greenlet, the wait for another's lock holds up the other too.
    asked = [(gateway, kind) for kind in EXPECTED if kind != "sqlite" for gateway in ("asgi", "wsgi")] * 2
    with ThreadPoolExecutor(len(asked)) as pool:
        answers = pool.map(
            lambda one: client.get(f"/{one[1][0]}/{one[1][1]}/{one[0]}").json(), enumerate(asked, start=100)
        )
        assert list(answers) == [EXPECTED[kind] for _, kind in asked]


def test_a_view_tells_websockets_through_redis(server, client):
    with connect(f"{server.ws_url}/asgi/tell") as one, connect(f"{server.ws_url}/asgi/tell") as two:
        assert [one.recv(5), two.recv(5)] == ["listening"] * 2
        for text in ("é", "end"):
            assert client.get(f"/wsgi/tell/{text}").text == "2"
        assert list(one) == list(two) == ["é", "end"]
