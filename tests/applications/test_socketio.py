"""Flask-SocketIO as published, by python-socketio's clients: with gevent-websocket importable and without, beside
flask-sock on one port."""

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest
import requests
import socketio

from geventgate.testing import Http2Client, Http2WebSocketClient, Refused, WebSocketClient

WAIT = 20.0  # seconds anything may take before it counts as broken
DRIVERS = {"gevent-websocket": "", "simple-websocket": "1"}
TRANSPORTS = {"upgraded": None, "polling": ["polling"], "websocket": ["websocket"]}
SOCKETIO = "/socket.io/?EIO=4&transport=websocket"


@pytest.fixture
def start(gate, monkeypatch) -> Callable[..., object]:
    def start(driver: str, *options: str, cors: str = ""):
        monkeypatch.setenv("SIMPLE_WEBSOCKET", DRIVERS[driver])
        if cors:
            monkeypatch.setenv("CORS", cors)
        return gate("socketio_app:app", *options)

    return start


@pytest.fixture(scope="module", params=DRIVERS)
def server(request, module_gate):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIMPLE_WEBSOCKET", DRIVERS[request.param])
        server = module_gate("socketio_app:app", "--h2c")
    assert httpx.get(server.url, trust_env=False).text == f"gevent {request.param}"  # auto-detected
    return server


class Member(socketio.Client):
    """A client that remembers what it heard."""

    def __init__(self, url: str, transports: list[str] | None = None, **options: object) -> None:
        super().__init__(reconnection=False, **options)
        self.heard: list[tuple[str, object]] = []
        self.on("*", lambda name, *said: self.heard.append((name, said[0])))
        self.on("message", lambda said: self.heard.append(("message", said)))
        self.connect(url, transports=transports, wait_timeout=WAIT)

    def ask(self, name: str, *said: object) -> object:
        return self.call(name, said if len(said) > 1 else said[0], timeout=WAIT)

    def until(self, *what: object) -> None:
        until = time.monotonic() + WAIT
        while what not in self.heard:
            assert time.monotonic() < until, f"{what} was not heard among {self.heard}"
            time.sleep(0.01)

    def count(self, name: str) -> int:
        return sum(heard == name for heard, _ in self.heard)


@pytest.fixture
def join() -> Iterator[Callable[..., Member]]:
    """Connect a Member; it leaves at the end."""
    with ExitStack() as stack:

        def join(url: str, *arguments, **options) -> Member:
            member = Member(url, *arguments, **options)
            stack.callback(member.disconnect)
            return member

        yield join


@pytest.mark.parametrize("transports", TRANSPORTS.values(), ids=TRANSPORTS)
def test_rooms_and_broadcast(server, join, transports):
    ada, grace, mallory = (join(server.url, transports) for _ in range(3))
    assert {member.transport() for member in (ada, grace, mallory)} == {(transports or ["websocket"])[0]}
    assert ada.ask("join", "kitchen") == grace.ask("join", "kitchen") == "kitchen"
    assert ada.ask("say", "kitchen", "tea") == 3
    grace.until("said", "tea")
    ada.until("said", "tea")
    assert grace.ask("leave", "kitchen") == "kitchen"
    ada.ask("say", "kitchen", "more tea")
    mallory.emit("shout", "all")
    for member in (ada, grace, mallory):
        member.until("shouted", "all")
    assert [member.count("said") for member in (ada, grace, mallory)] == [2, 1, 0]


@pytest.mark.parametrize("transports", TRANSPORTS.values(), ids=TRANSPORTS)
def test_large_and_binary(server, join, transports):
    member = join(server.url, transports)
    for data in (bytes(range(256)) * 2000, "ü" * 100_000, "", b"", [b"a", {"b": b"c"}]):
        assert member.ask("large", data) == data


def test_two_hundred_clients(server):
    """In twenty rooms, over what each has got; everybody hears everything, once, and nothing of other rooms."""
    kinds = [None, None, ["websocket"], ["polling"]]

    def come(number: int) -> Member:
        member = Member(server.url, kinds[number % 4])
        assert member.ask("join", f"room{number % 20}") == f"room{number % 20}"
        return member

    with ThreadPoolExecutor(20) as pool:
        members = list(pool.map(come, range(200)))
        try:
            assert Counter(member.transport() for member in members) == {"websocket": 150, "polling": 50}
            members[0].emit("shout", "good evening")
            for room in range(20):
                members[room].ask("say", f"room{room}", f"in {room}")
            for number, member in enumerate(members):
                member.until("shouted", "good evening")
                member.until("said", f"in {number % 20}")
            assert {member.count("said") for member in members} == {1}
            assert {member.count("shouted") for member in members} == {1}
        finally:
            list(pool.map(Member.disconnect, members))


def test_flask_sock_on_the_same_port(server, join):
    member = join(server.url)
    with WebSocketClient(server.url, "/echo", timeout=WAIT) as ws:
        for message in ("text", bytes(1_000_000)):
            ws.send(message)
            assert ws.receive() == message
        member.send("still there")
        member.until("message", "still there")


def packet(ws: WebSocketClient) -> str:
    """The next one that is no ping of Engine.IO's."""
    while (packet := ws.receive()) == "2":
        ws.send("3")
    return str(packet)


def hear(ws: WebSocketClient, prefix: str) -> object:
    """What the next packet says, which begins so."""
    said = packet(ws)
    assert said.startswith(prefix), said
    return json.loads(said[len(prefix) :])


def greet(ws: WebSocketClient) -> None:
    """As a client of Socket.IO does."""
    assert "sid" in hear(ws, "0")
    ws.send("40")
    assert sorted(packet(ws)[:2] for _ in range(2)) == ["40", "42"]  # and the application's welcome


def test_over_http2(server):
    """As browsers do where they have such a connection; no client in Python does."""
    with Http2Client(server.url, timeout=WAIT) as client, Http2WebSocketClient(client, SOCKETIO) as ws:
        greet(ws)
        ws.send('42["message","over HTTP/2"]')
        assert hear(ws, "42") == ["message", "over HTTP/2"]
        ws.close()


def test_over_tls(start, join, authority):
    """By polling and by hand: python-socketio's WebSockets use one SSLSocket in two threads, which OpenSSL does not
    allow, and break now and then."""
    pair = authority.issue("localhost", "127.0.0.1")
    server = start("simple-websocket", "--certfile", pair.certfile, "--keyfile", pair.keyfile)
    url, text = f"https://localhost:{server.port}", "x" * 500_000
    session = requests.Session()
    session.trust_env, session.verify = False, authority.ca_certs
    assert join(url, ["polling"], http_session=session).ask("large", text) == text
    with WebSocketClient(url, SOCKETIO, ca_certs=authority.ca_certs, timeout=WAIT) as ws:
        greet(ws)
        for _ in range(3):
            ws.send(f"42{json.dumps(['message', text])}")
            assert hear(ws, "42") == ["message", text]


# --- pages of other sites


def knock(server, origin: str, path: str = SOCKETIO) -> int:
    """The status with which a WebSocket of a page of *origin* is answered."""
    try:
        with WebSocketClient(server.url, path, headers=[("Origin", origin)], timeout=WAIT):
            return 101
    except Refused as refused:
        return refused.status


@pytest.mark.parametrize(
    ("driver", "cors", "origins", "own", "friend", "evil"),
    [
        # python-engineio answers 400 to origins that cors_allowed_origins has not, the server 403. Both must agree.
        ("simple-websocket", "", ("*",), 101, 400, 400),
        ("simple-websocket", "*", ("http://friend.example",), 101, 101, 403),
        ("gevent-websocket", "*", ("http://friend.example",), 101, 101, 403),
        ("simple-websocket", "http://friend.example", ("*",), 400, 101, 400),
    ],
)
def test_origins(start, driver, cors, origins, own, friend, evil):
    server = start(driver, *(f"--ws-origins={origin}" for origin in origins), cors=cors)
    got = tuple(knock(server, origin) for origin in (server.url, "http://friend.example", "http://evil.example"))
    assert got == (own, friend, evil)
    assert knock(server, "http://evil.example", "/echo") == (101 if "*" in origins else 403)


# --- the server stops


@pytest.mark.parametrize("driver", DRIVERS)
def test_clients_that_go_and_a_stop_leave_nothing_in_the_log(start, driver):
    server = start(driver, "--graceful-timeout", "15")

    def come() -> WebSocketClient:
        ws = WebSocketClient(server.url, SOCKETIO, timeout=WAIT)
        greet(ws)
        ws.send('42["shout","here I am"]')
        return ws

    for _ in range(3):
        come().close()
        come().socket.close()  # without a word
    rest = [come() for _ in range(3)]
    server.process.terminate()
    for ws in rest:
        while ws.receive() is not None:
            pass
        assert ws.close_code == 1001
        ws.close()
    assert server.stop() == 0
    assert len(server.stderr().splitlines()) == 2, server.stderr()
