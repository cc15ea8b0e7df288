"""HTTP/2 as Node's client speaks it: WebSockets and tunnels by CONNECT, ordinary requests, and a server that stops."""

import json
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
CLIENT = HERE / "http2_client.mjs"
LAST = (1 << 31) - 1  # the highest stream there can be: a GOAWAY that names it only gives notice (RFC 9113 §6.8)
NO_ERROR, CANCEL = 0, 8
WHOLE = {"code": NO_ERROR, "failure": None, "ended": True}  # of a stream: both sides came to their end

ENGINES = ("h2", "ngh2")
WAYS = [(engine, secure) for engine in ENGINES for secure in (False, True)]
Ask = Callable[..., Any]

pytestmark = pytest.mark.needs("node")


class Node:
    """Runs a case of http2_client.mjs against a server."""

    def __init__(self, server, authority, secure: bool) -> None:
        self.server = server
        self._url = f"https://localhost:{server.port}" if secure else server.url
        self._ca_certs = authority.ca_certs if secure else ""

    def command(self, case: str, argument: str = "") -> list[str]:
        return ["node", str(CLIENT), case, self._url, self._ca_certs, argument]

    def __call__(self, case: str, argument: str = "") -> Any:
        ran = subprocess.run(self.command(case, argument), capture_output=True, text=True, timeout=30)
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def options(authority) -> Callable[[str, bool], list[str]]:
    pair = authority.issue("localhost", "127.0.0.1")

    def options(engine: str, secure: bool) -> list[str]:
        carried = ["--certfile", pair.certfile, "--keyfile", pair.keyfile] if secure else ["--h2c"]
        return [*carried, "--http2-engine", engine]

    return options


@pytest.fixture(scope="module", params=WAYS, ids=lambda way: f"{way[0]}-{'tls' if way[1] else 'cleartext'}")
def node(request, module_gate, authority, options) -> Node:
    engine, secure = request.param
    alone = (
        "--ws-ping-interval",
        "0",
        "--http2-ping-interval",
        "0",
    )  # an end that is not seen must not be found by these
    return Node(module_gate("node_app:app", *alone, *options(engine, secure)), authority, secure)


# --- WebSockets (RFC 8441)


def test_settings(node):
    settings = node("settings")
    shown = {name: settings[name] for name in ("enableConnectProtocol", "maxConcurrentStreams", "maxHeaderListSize")}
    assert shown == {"enableConnectProtocol": True, "maxConcurrentStreams": 100, "maxHeaderListSize": 32768}


def test_echo_and_close(node):
    talk = node("echo")
    head = talk["head"]
    assert head[":status"] == 200
    # "Sec-WebSocket-Key and Sec-WebSocket-Accept are not used", nor are Upgrade and Connection (RFC 8441 §5)
    assert not {"sec-websocket-accept", "upgrade", "connection", "transfer-encoding", "content-length"} & set(head)
    assert talk["echoes"] == ["grüße", [2, True], [True, "?"], "fragments", ""]
    assert talk["close"] == [1000, ""]
    assert (talk["rest"], talk["over"], talk["seen"]) == (0, WHOLE, 1000)


def test_frames_before_the_answer(node):
    assert node("early") == [200, "in advance", [1000, ""], 0]


def test_an_end_before_the_answer(node):
    assert node("ended") == {"status": 200, "rest": 0, "seen": 1006}


def test_subprotocol(node):
    head = node("subprotocol")
    assert (head[":status"], head["sec-websocket-protocol"], head["x-room"]) == (200, "chat", "1")


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"sec-websocket-version": "8"}, 426, "only WebSocket version 13 is spoken here\n"),
        ({"origin": "https://elsewhere.example"}, 403, "Pages of this origin may not open WebSockets here.\n"),
        ({"sec-websocket-extensions": "=;"}, 400, "malformed Sec-WebSocket-Extensions\n"),
    ],
    ids=["version", "origin", "extensions"],
)
def test_a_refused_handshake(node, fields, status, said):
    assert node("refused", json.dumps(fields)) == [status, said, "still here"]


def test_the_server_closes(node):
    assert node("server_closes") == {"close": [4000, "no more"], "rest": 0, "over": WHOLE}


def test_half_close(node):
    """END_STREAM without a Close is the end of a connection without one (RFC 8441 §5): what came before is answered."""
    ended = node("half_close")
    assert (ended["said"], ended["seen"], ended["lives"]) == ("last words", 1006, "still here")


@pytest.mark.parametrize("case", ["reset", "reset_while_writing"])
def test_reset(node, case):
    reset = node(case)
    assert (reset["seen"], reset["lives"]) == (1006, "still here")


def test_unmasked(node):
    answer = node("unmasked")
    assert (answer["code"], answer["rest"], answer["seen"], answer["lives"]) == (1002, 0, 1002, "still here")


def test_window(node):
    result = node("window")
    assert result["pages"] == [200] * 10
    assert result["ahead"] <= 65_535
    assert result["whole"]
    assert result["close"] == [1000, ""]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_client_that_does_not_read(gate, authority, options, engine):
    node = Node(gate("node_app:app", "--write-timeout", "1", *options(engine, False)), authority, False)
    assert node("stalled") == {"code": CANCEL, "seen": 1006, "lives": "still here"}


def test_many(node):
    assert node("many") == 100


# --- CONNECT


@pytest.mark.parametrize(
    ("name", "status", "said"), [("lines", 200, "RAW BYTES\n"), ("soup", 501, None), ("web-transport", 501, None)]
)
def test_other_protocols(node, name, status, said):
    assert node("protocol", name) == {"status": status, "said": said, "page": [200, "a page"]}


def test_connect_is_not_taken(node):
    assert node("connect", "example.org:443") == {"status": 501}


class Upstream:
    """Echoes, and says farewell to whoever ends its side; ``ends`` tells how each connection ended."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.authority = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.ends: list[str] = []
        self.over = threading.Semaphore(0)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(peer,), daemon=True).start()

    def _echo(self, peer: socket.socket) -> None:
        end = "FIN"
        with peer:
            try:
                while data := peer.recv(65536):
                    peer.sendall(data)
                peer.sendall(b"farewell")
            except OSError:
                end = "reset"
        self.ends.append(end)
        self.over.release()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    upstream = Upstream()
    yield upstream
    upstream.close()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("secure", [False, True], ids=["cleartext", "tls"])
def test_a_tunnel(gate, authority, options, upstream, monkeypatch, engine, secure):
    monkeypatch.setenv("PROXY_TO", upstream.authority)
    server = gate("connect_proxy:app", "--allow-connect", *options(engine, secure), chdir=EXAMPLES)
    node = Node(server, authority, secure)
    assert node("connect", upstream.authority) == {"status": 200, "echoed": True, "farewell": "farewell", "over": WHOLE}
    assert upstream.over.acquire(timeout=10)
    assert node("connect_reset", upstream.authority) == "reset me"
    assert upstream.over.acquire(timeout=10)  # the reset is told upstream
    assert node("connect", "127.0.0.1:1") == {"status": 403}


# --- ordinary requests


def test_post(node):
    assert node("post") == {"status": 200, "whole": True, "over": WHOLE}


def test_trailers(node):
    seen = [["x-sum", "42"], ["x-more", "a"], ["x-more", "b"]]
    answer = node("trailers")
    assert answer["content"] == ["content", seen]
    assert (answer["declared"], answer["trailers"]) == ("x-digest", {"x-digest": "abc", "x-count": "3"})
    assert answer["over"] == WHOLE


def test_early_hints(node):
    answer = node("hints")
    links = [(head[":status"], head["link"]) for head in answer["order"][:-1]]
    assert links == [(103, "</style.css>; rel=preload; as=style"), (103, "</script.js>; rel=preload; as=script")]
    assert (answer["order"][-1], answer["content"]) == (200, "hinted")


@pytest.mark.parametrize(
    ("argument", "pushed"),
    [("", ["True", ["/a%20page", "it is needed", 200, "a page"]]), ("no-push", ["False", None])],
    ids=["taken", "not taken"],
)
def test_push(node, argument, pushed):
    assert node("push", argument) == pushed


def test_expect(node):
    assert node("expect") == [200, "go then"]


def test_ping(node):
    assert node("ping") is True


# --- going away


def test_the_client_goes_away(node):
    assert node("goaway") == ["after", "before, after"]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("secure", [False, True], ids=["cleartext", "tls"])
def test_the_server_goes_away(gate, authority, options, engine, secure):
    server = gate("node_app:app", *options(engine, secure))
    command = Node(server, authority, secure).command("stop")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        running = client.stdout.readline()
        assert running == '["running","begun"]\n', client.communicate(timeout=30)
        server.process.terminate()
        out, errors = client.communicate(timeout=30)
    assert client.returncode == 0, errors
    result = json.loads(out)
    assert [code for code, _ in result["leaving"]] == [NO_ERROR] * len(result["leaving"])
    assert result["leaving"][0] == [NO_ERROR, LAST]
    assert result["whole"] == ["begun"[5:] + " drained" + " and done" * 10_000, "first, last"]
    assert result["close"][0] == 1001
    assert result["codes"] == [NO_ERROR] * 3
    assert server.stop() == 0
