"""Flask-Sockets: its own examples, run by the command line, with the Flask and Werkzeug of today."""

import sys

import httpx
import pytest
from websockets.exceptions import ConnectionClosedOK, InvalidStatus
from websockets.sync.client import connect as open_websocket

WAIT = 10.0


def connect(url: str, **more):
    return open_websocket(url, proxy=None, open_timeout=WAIT, **more)


@pytest.fixture(scope="module", params=[["flask_sockets"], ["flask_sockets", "geventwebsocket"]], ids="+".join)
def server(request, module_gate):
    """With its own name alone, and with that of what it was written over."""
    options = [word for name in request.param for word in ("--compat", name)]
    return module_gate("flask_sockets_app:app", *options)


@pytest.mark.parametrize("path", ["/echo", "/sockets/echo"])
def test_echo(server, path):
    with connect(server.ws_url + path) as ws:
        for message in ("text", b"binary", "", "ü" * 100_000):
            ws.send(message)
            assert ws.recv(timeout=WAIT) == message


def test_pages_are_flasks(server):
    for path, status, text in (("/", 200, "Hello World!"), ("/pages/page", 200, "a page"), ("/echo", 404, "Not Found")):
        answer = httpx.get(server.url + path, trust_env=False)
        assert answer.status_code == status
        assert text in answer.text


def test_a_handler_has_its_request(server):
    cookie = httpx.get(server.url, trust_env=False).headers["set-cookie"].partition(";")[0]
    with connect(server.ws_url + "/room/blue/6?who=Grace", additional_headers={"Cookie": cookie}) as ws:
        assert ws.recv(timeout=WAIT) == "blue 7 Grace Ada"
        with pytest.raises(ConnectionClosedOK):
            ws.recv(timeout=WAIT)


def test_binary_comes_as_it_did(server):
    with connect(server.ws_url + "/kind") as ws:
        ws.send(b"x")
        assert ws.recv(timeout=WAIT) == "bytearray"


@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), ("/room/blue/x", 404), ("/", 400)])
def test_no_route(server, path, status):
    """Flask answers, before the WebSocket is open; gevent-websocket's handshake has opened it by then."""
    if "geventwebsocket" in server.process.args:
        with connect(server.ws_url + path) as ws, pytest.raises(ConnectionClosedOK):
            ws.recv(timeout=WAIT)
        return
    with pytest.raises(InvalidStatus) as refused, connect(server.ws_url + path):
        pass
    assert refused.value.response.status_code == status


def test_a_missing_slash(gate):
    """It is redirected, and this client follows."""
    server = gate("flask_sockets_app:app", "--compat", "flask_sockets")
    with connect(server.ws_url + "/folder") as ws:
        assert ws.recv(timeout=WAIT) == "in a folder"


def test_a_handler_that_fails(gate):
    """A KeyError of its own is no missing WebSocket."""
    server = gate("flask_sockets_app:app", "--compat", "flask_sockets", tracebacks=1)
    with connect(server.ws_url + "/fail") as ws, pytest.raises(Exception, match="1011"):
        ws.recv(timeout=WAIT)
    assert server.stop() == 0
    assert "KeyError: 'as intended'" in server.stderr()


def test_two_blueprints_of_one_name():
    from flask import Blueprint

    from geventgate.compat.flask_sockets import Sockets

    sockets = Sockets()
    one = Blueprint("one", __name__)
    one.route("/a/<int:number>")(print)
    one.route("/b", defaults={"number": 4})(repr)
    sockets.register_blueprint(one, url_prefix="/first")
    sockets.register_blueprint(one, url_prefix="/second")
    adapter = sockets.url_map.bind("localhost", url_scheme="ws")
    assert adapter.match("/second/a/3") == (print, {"number": 3})
    assert adapter.match("/first/b") == (repr, {"number": 4})
    assert sockets.blueprints == {"one": one}
    with pytest.raises(ValueError, match="another blueprint is registered as 'one'"):
        sockets.register_blueprint(Blueprint("one", __name__))
    assert "flask_sockets" not in sys.modules
