"""``--compat uwsgi``: uWSGI's own examples, select() on connection_fd(), and python-engineio's uWSGI driver."""

import ast
import os
import time

import httpx
import pytest

from geventgate.testing import Refused, WebSocketClient

from .rooms_client import converse


@pytest.fixture(scope="module")
def server(module_gate):
    return module_gate("uwsgi_app:application", "--compat", "uwsgi", "--websocket-max-message-size", "1000000")


def answers(server, path: str, *messages: str | bytes, **more) -> tuple[list[str | bytes], int | None]:
    """What comes for *messages*, one for one, then until the application closes, and the close code."""
    with WebSocketClient(server.url, path, **more) as client:
        received = []
        for message in messages:
            client.send(message)
            received.append(client.receive())
        if not messages:
            while (message := client.receive()) is not None:
                received.append(message)
        return received, client.close_code


@pytest.mark.parametrize(
    ("path", "messages", "expected"),
    [
        ("/echo", ("a", "é", b"b"), ["[a]", "[é]", "[b]"]),
        ("/binary", ("a", "é", b"\xff\x00", "x" * 500_000), [b"a", "é".encode(), b"\xff\x00", b"x" * 500_000]),
    ],
)
def test_messages_arrive_as_bytes_and_leave_as_the_function_says(server, path, messages, expected):
    received, _ = answers(server, path, *messages)
    assert received == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/generator", ["from a generator"]),
        ("/elsewhere", ["SystemError", b"bytes"]),
        ("/leaves", []),
    ],
)
def test_what_an_application_does_by_itself(server, path, expected):
    assert answers(server, path) == (expected, 1000)


@pytest.mark.parametrize(
    ("path", "offered", "chosen"),
    [
        ("/subprotocol", (), None),
        ("/subprotocol", ("a",), "a"),
        ("/subprotocol", ("b", "a"), "b"),  # uWSGI sends back "b, a", which no client takes
        ("/subprotocol?a", ("b", "a"), "a"),
    ],
)
def test_the_subprotocol(server, path, offered, chosen):
    with WebSocketClient(server.url, path, subprotocols=offered) as client:
        assert client.subprotocol == chosen


def test_text_that_is_not_utf_8_is_not_sent(gate):
    server = gate("uwsgi_app:application", "--compat", "uwsgi", tracebacks=1)
    assert answers(server, "/echo", b"\xff") == ([None], 1011)


def test_recv_nb_does_not_wait(server):
    with WebSocketClient(server.url, "/polled") as client:
        assert [client.receive() for _ in range(3)] == ["-"] * 3
        client.send("now")
        while (message := client.receive()) == "-":
            pass
        assert message == "now"


@pytest.mark.parametrize("path", ["/selected", "/selected?early"])
def test_connection_fd_is_readable_when_a_message_is_there_and_at_the_end(server, path):
    before = int(httpx.get(f"{server.url}/endings").text)
    with WebSocketClient(server.url, path) as client:
        for number in range(40):  # more than are received ahead
            client.send(f"{number}")
        got = [client.receive() for _ in range(40)]
        assert got[1:] == [f"0 empty, then {number}" for number in range(1, 40)]
        time.sleep(0.7)
        client.send("late")
        empty, _, said = client.receive().partition(" empty, then ")
        assert said == "late"
        assert int(empty) >= 2  # select() did wait
    await_endings(server, before + 1)


@pytest.mark.parametrize("path", ["/selected", "/polled", "/binary"])
def test_a_client_that_vanishes_ends_the_application(server, path):
    before = int(httpx.get(f"{server.url}/endings").text)
    client = WebSocketClient(server.url, path)
    client.send("a")
    client.receive()
    client.socket.close()
    await_endings(server, before + 1)


def await_endings(server, count: int) -> None:
    until = time.monotonic() + 5
    while int(httpx.get(f"{server.url}/endings").text) < count:
        assert time.monotonic() < until, "the application did not end"
        time.sleep(0.02)


def test_descriptors_are_given_back(server):
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{server.process.pid}/fd"))

    answers(server, "/selected", "a")
    time.sleep(0.2)
    before = descriptors()
    for _ in range(20):
        answers(server, "/selected", "a")
    until = time.monotonic() + 5
    while descriptors() > before + 2:
        assert time.monotonic() < until, f"{before} descriptors have become {descriptors()}"
        time.sleep(0.05)


def test_a_request_that_opens_no_websocket(server):
    got = ast.literal_eval(httpx.get(f"{server.url}/plain").text)
    assert got == [
        -1,
        True,
        "unable to complete websocket handshake: the request is none",
        "there is no websocket: call websocket_handshake()",
        None,
        b"me",
        None,
        False,
        1,
    ]


def test_bad_input(server):
    with pytest.raises(Refused) as refused:
        WebSocketClient(server.url, "/echo", headers=[("Origin", "http://elsewhere.example")])
    assert refused.value.status == 403
    assert answers(server, "/binary", b"x" * 1_000_001) == ([None], 1009)
    assert httpx.get(f"{server.url}/none").status_code == 404


# --- Flask-SocketIO


@pytest.fixture(scope="module", params=["gevent_uwsgi", None], ids=["asked for", "found"])
def rooms(request, module_gate):
    return module_gate(f"rooms_app:create({request.param!r})", "--compat", "uwsgi")


@pytest.mark.parametrize("transports", [["websocket"], ["polling"], ["polling", "websocket"]], ids="+".join)
def test_flask_socketio(rooms, transports):
    assert httpx.get(rooms.url).text == "gevent_uwsgi"
    converse(rooms.url, transports)
