"""Each example, run as a user would run it, and the chat in Chromium."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import SO_RCVBUF, SOL_SOCKET, socket

import httpx
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_websocket

README = Path(__file__).parent.parent / "README.md"
EXAMPLES = README.parent / "examples"
WAIT = 10.0  # seconds anything may take before it counts as broken

in_chromium = pytest.mark.needs("chromium", "chromedriver")


def connect(url: str) -> ClientConnection:
    return open_websocket(url, proxy=None, open_timeout=WAIT)


def get(url: str) -> httpx.Response:
    return httpx.get(url, trust_env=False, timeout=WAIT)


def test_hello(gate):
    answer = get(gate("hello:app", chdir=EXAMPLES).url)
    assert (answer.status_code, answer.text) == (200, "Hello, world!\n")


def test_echo(gate):
    server = gate("echo:app", chdir=EXAMPLES)
    with connect(server.ws_url) as ws:
        for message in ("text", b"binary", "", b"", "ü" * 100_000, bytes(300_000)):
            ws.send(message)
            assert ws.recv(timeout=WAIT) == message
    assert get(server.url).status_code == 426


def test_events_come_as_they_happen(gate):
    server = gate("events:app", chdir=EXAMPLES)
    assert "EventSource" in get(server.url).text
    with httpx.stream("GET", f"{server.url}/events", trust_env=False, timeout=WAIT) as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        ids = (int(line[4:]) for line in answer.iter_lines() if line.startswith("id: "))
        first = next(ids)
        assert abs(first - time.time()) < 5
        assert next(ids) > first


def test_events_end_when_the_server_stops(gate):
    server = gate("events:app", chdir=EXAMPLES)
    with httpx.stream("GET", f"{server.url}/events", trust_env=False, timeout=WAIT) as answer:
        lines = answer.iter_lines()
        next(lines)
        server.process.terminate()
        for _ in lines:
            pass  # to its regular end: an answer that had to be cut raises
    assert server.stop() == 0


def test_readme(gate, tmp_path):
    """Its first example, as it stands there."""
    (tmp_path / "app.py").write_text(re.search(r"```python\n(.+?)```", README.read_text(), re.DOTALL)[1])
    server = gate("app:app", chdir=tmp_path)
    assert "WebSocket" in get(server.url).text
    with connect(server.ws_url) as ws:
        assert ws.recv(timeout=WAIT) == "Hello from the same URL!"
        ws.send("Hi")
        assert ws.recv(timeout=WAIT) == "You said: Hi"


# The chat, by hand


@contextmanager
def member(server, name: str) -> Iterator[ClientConnection]:
    with connect(f"{server.ws_url}/?name={name}") as ws:
        assert hear(ws)["kind"] == "welcome"
        yield ws


def hear(ws: ClientConnection) -> dict:
    return json.loads(ws.recv(timeout=WAIT))


def say(ws: ClientConnection, text: str, key: str) -> None:
    ws.send(json.dumps({"text": text, "key": key}))


def test_chat_is_a_page_and_a_websocket_at_one_url(gate):
    server = gate("chat:app", chdir=EXAMPLES)
    page = get(f"{server.url}/")
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", page.headers["Content-Security-Policy"])
    assert f'<script nonce="{nonce[1]}">' in page.text
    assert not re.search(r'(src|href)="(?!data:)', page.text), "the page loads something from elsewhere"
    with member(server, "Ada") as ada, member(server, "Grace"):
        assert hear(ada) == {"kind": "joined", "name": "Grace", "people": ["Ada", "Grace"]}


def test_chat_tells_a_late_comer_what_was_said(gate):
    server = gate("chat:app", chdir=EXAMPLES)
    with member(server, "Ada") as ada:
        for key in ("1", "2", "2", "3"):  # said again after a reconnection, a message is not said twice
            say(ada, f"message {key}", key)
        assert [hear(ada)["text"] for _ in range(3)] == ["message 1", "message 2", "message 3"]
        with connect(f"{server.ws_url}/?name=Grace") as grace:
            welcome = hear(grace)
        assert [said["text"] for said in welcome["history"]] == ["message 1", "message 2", "message 3"]
        assert welcome["people"] == ["Ada", "Grace"]
        assert [hear(ada)["kind"] for _ in range(2)] == ["joined", "left"]


def test_chat_turns_the_nameless_away_before_the_handshake(gate):
    server = gate("chat:app", chdir=EXAMPLES)
    with pytest.raises(InvalidStatus) as refused, connect(f"{server.ws_url}/?name=%20%00"):
        pass
    assert refused.value.response.status_code == 400


def test_chat_turns_pages_of_other_sites_away(gate):
    server = gate("chat:app", chdir=EXAMPLES)
    with member(server, "Ada") as ada:
        with pytest.raises(InvalidStatus) as refused:
            open_websocket(f"{server.ws_url}/?name=Eve", origin="http://evil.example", proxy=None)
        assert refused.value.response.status_code == 403
        say(ada, "Did you see Eve?", "1")
        assert hear(ada)["kind"] == "said"


@pytest.mark.parametrize("nonsense", ["", "{}", "[]", "null", '{"text": "no key"}', "[" * 50_000, b"\xff"])
def test_chat_closes_on_nonsense(gate, nonsense):
    server = gate("chat:app", chdir=EXAMPLES)
    with member(server, "Ada") as ada:
        ada.send(nonsense)
        with pytest.raises(ConnectionClosed) as closed:
            ada.recv(timeout=WAIT)
    assert closed.value.rcvd.code == 1007


def test_chat_lets_go_of_a_reader_that_stalls(gate):
    server = gate("chat:app", chdir=EXAMPLES)
    with socket() as sloth, member(server, "Ada") as ada:
        sloth.setsockopt(SOL_SOCKET, SO_RCVBUF, 4096)
        sloth.connect((server.host, server.port))
        sloth.sendall(
            b"GET /?name=Sloth HTTP/1.1\r\nHost: sloth\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert hear(ada)["kind"] == "joined"
        for key in range(2000):
            say(ada, "\N{SNAIL}" * 2000, str(key))
            if (event := hear(ada))["kind"] == "left":
                break
        assert (event["kind"], event["name"]) == ("left", "Sloth")


# The pages, in Chromium


class Window:
    """One window of a browser."""

    def __init__(self, browser: webdriver.Chrome, url: str) -> None:
        self.browser = browser
        browser.switch_to.new_window("window")
        self.handle = browser.current_window_handle
        browser.get(url)

    def find(self, selector: str):
        self.browser.switch_to.window(self.handle)
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def read(self, selector: str) -> list[str]:
        """The texts of all that match, as one would read them."""
        self.browser.switch_to.window(self.handle)
        script = "return [...document.querySelectorAll(arguments[0])].map(found => found.innerText)"
        return self.browser.execute_script(script, selector)

    def until(self, selector: str, text: str) -> None:
        WebDriverWait(self.browser, WAIT, 0.05).until(
            lambda _: text in self.read(selector), f"{selector} never read {text!r}, but {self.read(selector)}"
        )

    def console(self) -> list[str]:
        """What the console said since the last call."""
        self.browser.switch_to.window(self.handle)
        return [entry["message"] for entry in self.browser.get_log("browser")]


class ChatWindow(Window):
    def __init__(self, browser: webdriver.Chrome, url: str, name: str) -> None:
        super().__init__(browser, url)
        self.find("#name").send_keys(name, Keys.ENTER)
        self.until("#status", "Connected")

    def say(self, text: str) -> None:
        self.find("#text").send_keys(text, Keys.ENTER)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for switch in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "disable-dev-shm-usage", "no-first-run",
        "disable-background-networking", "disable-component-update", "disable-sync", f"user-data-dir={tmp_path}",
    ):  # fmt: skip
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@in_chromium
def test_chat_between_two_windows(gate, browser):
    server = gate("chat:app", chdir=EXAMPLES)
    ada, grace = ChatWindow(browser, server.url, "Ada"), ChatWindow(browser, server.url, "Grace")
    ada.until("#people li span:last-child", "Grace")
    ada.say("Hello, Grace")
    grace.until("#said .text", "Hello, Grace")
    grace.say("Hello, Ada")
    ada.until("#said .mine .text", "Hello, Grace")
    ada.until("#said .message:not(.mine) .text", "Hello, Ada")

    late = ChatWindow(browser, server.url, "Late")
    assert late.read("#said .text") == ["Hello, Grace", "Hello, Ada"]
    late.browser.close()
    ada.until("#said .note", "Late left")

    grace.find("#me").click()
    grace.find("#name").send_keys("Hopper", Keys.ENTER)  # in place of the name, which is selected
    ada.until("#people li span:last-child", "Hopper")
    assert ada.console() == grace.console() == []


@in_chromium
def test_chat_shows_markup_as_text(gate, browser):
    server = gate("chat:app", chdir=EXAMPLES)
    attack = "<script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"
    ada, mallory = ChatWindow(browser, server.url, "Ada"), ChatWindow(browser, server.url, "<b>Mallory</b>")
    mallory.say(attack)
    ada.until("#said .text", attack)
    ada.until("#said .by b", "<b>Mallory</b>")
    assert ada.read("#said script, #said img, #people b") == []
    assert "taken" not in browser.title
    assert ada.console() == mallory.console() == []


@in_chromium
def test_chat_comes_back_after_a_restart_and_loses_nothing(gate, browser):
    server = gate("chat:app", chdir=EXAMPLES)
    ada, grace = ChatWindow(browser, server.url, "Ada"), ChatWindow(browser, server.url, "Grace")
    ada.say("before")
    grace.until("#said .text", "before")
    assert ada.console() == grace.console() == []

    assert server.stop() == 0
    ada.until("#status", "Offline")
    ada.say("meanwhile")
    assert ada.read("#unsent .text") == ["meanwhile"]
    gate("chat:app", chdir=EXAMPLES, port=server.port)
    ada.until("#status", "Connected")
    grace.until("#said .text", "meanwhile")
    assert grace.read("#said .text") == ["before", "meanwhile"]
    assert ada.read("#unsent .text") == []
    # Chromium reports each attempt that found nobody listening; a page cannot keep it from that.
    assert [line for line in ada.console() + grace.console() if "WebSocket connection to" not in line] == []


@in_chromium
def test_events_in_a_page(gate, browser):
    page = Window(browser, gate("events:app", chdir=EXAMPLES).url)
    WebDriverWait(browser, WAIT, 0.05).until(lambda _: page.read("#now")[0].isdigit(), "no event came")
    first = page.read("#now")
    WebDriverWait(browser, WAIT, 0.05).until(lambda _: page.read("#now") > first, "no second event came")
    assert page.console() == []
