"""PEP 3333, judged by wsgiref.validate: the server's side of a whole conversation on one connection."""

from pathlib import Path

import httpx
import pytest

SOURCE = (Path(__file__).parent / "plain.py").read_bytes()
CONTENT = {
    "/empty": b"",
    "/one": b"hello",
    "/several": b"ab" + b"c" * 100_000,
    "/generator": b"first second",
    "/write": b"written, again, returned",
    "/file": SOURCE,
    "/file_without_length": SOURCE,
    "/echo": b"",
    "/errors": b"logged",
}


@pytest.fixture(scope="module")
def server(module_gate):
    """The validator speaks by AssertionError, whose traceback the fixture finds in stderr, and by warnings."""
    return module_gate("plain:app")


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server.url) as client:
        yield client


@pytest.mark.parametrize("path", CONTENT)
def test_get(client, path):
    answer = client.get(path)
    assert (answer.status_code, answer.content) == (204 if path == "/empty" else 200, CONTENT[path])


@pytest.mark.parametrize("path", CONTENT)
def test_head(client, path):
    answer = client.head(path)
    assert (answer.status_code, answer.content) == (204 if path == "/empty" else 200, b"")
    assert client.get("/one").content == b"hello"


def test_framing(client):
    """The validator's own iterator has no length: what the application does not state is chunked."""
    fields = {path: client.get(path).headers for path in CONTENT}
    framing = {path: {"content-length", "transfer-encoding"} & set(fields[path]) for path in CONTENT}
    assert framing.pop("/empty") == set()
    stated = {"/one", "/file", "/echo"}
    assert framing == {path: {"content-length" if path in stated else "transfer-encoding"} for path in framing}


def test_one_piece_of_a_list_gets_its_length(client):
    assert client.get("/bare").headers["content-length"] == "4"


@pytest.mark.parametrize("content", [b"", b"x", b"y" * 300_000])
def test_post(client, content):
    assert client.post("/echo", content=content).content == content


def test_lines_of_content(client):
    assert (
        client.post("/lines", content=b"one\ntwo two\nthree\nfour").text
        == r"(b'one\n', b'two', [b' two\n', b'three\n', b'four'])"
    )


def test_exc_info_before_the_head_replaces_it(client):
    answer = client.get("/late")
    assert (answer.status_code, answer.text) == (503, "replaced")
    assert "x-wrong" not in answer.headers


def test_close_is_called(client):
    before = client.get("/which_closed").text.split(",")
    client.get("/several")
    client.get("/write")
    client.head("/several")
    after = client.get("/which_closed").text.split(",")
    assert [after.count(name) - before.count(name) for name in ("several", "write")] == [2, 1]


def test_wsgi_errors_reaches_the_error_log(client, server):
    client.get("/errors")
    assert "a line of the application\nand another\n" in server.stderr()


def test_no_warnings(client, server):
    """Last in this file: by now everything has been asked for."""
    assert client.get("/one").status_code == 200
    assert "Warning" not in server.stderr()
