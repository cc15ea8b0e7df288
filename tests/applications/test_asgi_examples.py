"""The examples that serve ASGI applications, run as a user would run them."""

import json
from pathlib import Path

import httpx
import pytest
import services
from chromium import chromium
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_mounted(gate):
    server = gate("mounted:app", chdir=EXAMPLES)
    with httpx.Client(base_url=server.url) as client:
        assert "Flask" in client.get("/").text
        assert client.get("/api/square/7").json() == {"square": 49}
        assert client.get("/api/square/x").status_code == 422
        assert "/api/openapi.json" in client.get("/api/docs").text
        assert client.get("/api/openapi.json").json()["servers"] == [{"url": "/api"}]
        assert client.get("/apis").status_code == 404
        assert client.get("/squares").json() == [1, 4, 9]
        with connect(f"{server.ws_url}/api/news") as one, connect(f"{server.ws_url}/api/news") as two:
            assert client.post("/say", content="é").text == "told 2\n"
            assert [one.recv(5), two.recv(5)] == ["é", "é"]
        while client.post("/say", content="gone").text != "told 0\n":
            pass


@pytest.mark.needs("redis-server")
@pytest.mark.parametrize("layer", ["memory", "redis"])
def test_channels_chat(gate, monkeypatch, layer):
    with services.redis() as url:
        if layer == "redis":
            monkeypatch.setenv("REDIS_URL", url)
        server = gate("channels_chat:app", *(["--workers", "2"] if layer == "redis" else []), chdir=EXAMPLES)
        for path in ("/", "/room"):
            assert "A chat by Channels" in httpx.get(server.url + path).text
        room, own = f"{server.ws_url}/ws/room", server.url
        lobby = connect(f"{server.ws_url}/ws/", origin=own)
        with connect(room, origin=own) as one, connect(room, origin=own) as two, lobby as other:
            one.send(json.dumps({"message": "é"}))
            assert json.loads(one.recv(5)) == json.loads(two.recv(5)) == {"message": "é"}
            with pytest.raises(TimeoutError):
                other.recv(0.05)
            other.send("no JSON")
            with pytest.raises(ConnectionClosed) as closed:
                other.recv(5)
            assert closed.value.rcvd.code == 1007
        with pytest.raises(InvalidStatus) as refused:
            connect(room, origin="http://evil.example")
        assert refused.value.response.status_code == 403
        server.stop()


@pytest.mark.needs("chromium", "chromedriver")
def test_channels_chat_in_a_browser(gate, tmp_path):
    server = gate("channels_chat:app", chdir=EXAMPLES)
    with chromium(tmp_path / "profile") as browser:
        browser.get(server.url)
        field = browser.find_element(By.ID, "text")
        WebDriverWait(browser, 10).until(lambda browser: browser.execute_script("return ws.readyState") == 1)
        with connect(f"{server.ws_url}/ws/", origin=server.url) as other:
            other.send(json.dumps({"message": "from afar"}))
            field.send_keys("from here\n")
            assert [json.loads(other.recv(5))["message"] for _ in range(2)] == ["from afar", "from here"]
        WebDriverWait(browser, 10).until(
            lambda browser: (
                [item.text for item in browser.find_elements(By.TAG_NAME, "li")] == ["from afar", "from here"]
            )
        )
        assert browser.get_log("browser") == []
