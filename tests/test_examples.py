"""Each example, run as a user would run it, and the chat in Chromium."""

import importlib.util
import json
import os
import re
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from socket import SO_RCVBUF, SOL_SOCKET, socket
from types import SimpleNamespace

import httpx
import pytest
import socketio
from chromium import chromium, trusting
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as open_websocket

README = Path(__file__).parent.parent / "README.md"
DOCS = README.parent / "docs"
EXAMPLES = README.parent / "examples"
WAIT = 10.0  # seconds anything may take before it counts as broken

in_chromium = pytest.mark.needs("chromium", "chromedriver")


def connect(url: str) -> ClientConnection:
    return open_websocket(url, proxy=None, open_timeout=WAIT)


def get(url: str) -> httpx.Response:
    return httpx.get(url, trust_env=False, timeout=WAIT)


def load(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    return example


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


# Applications that know nothing of the server


def test_reverse(gate):
    server = gate("reverse:app", chdir=EXAMPLES)
    assert "/reverse" in get(server.url).text
    with connect(f"{server.ws_url}/reverse") as ws:
        for text in ("desrever", "", "x" * 100_000 + "ü"):
            ws.send(text)
            assert ws.recv(timeout=WAIT) == text[::-1]


def test_rooms(gate):
    server = gate("rooms:app", chdir=EXAMPLES)
    assert "socket.io" in get(server.url).text
    heard: list[list[str]] = [[], []]
    members = [socketio.Client(reconnection=False) for _ in heard]

    def hears(number: int, line: str) -> None:
        until = time.monotonic() + WAIT
        while line not in heard[number]:
            assert time.monotonic() < until, (line, heard)
            time.sleep(0.01)

    try:
        for member, lines in zip(members, heard, strict=True):
            member.on("said", lines.append)
            member.connect(server.url, wait_timeout=WAIT)
            member.call("enter", "kitchen", timeout=WAIT)
        members[0].emit("say", "tea?")
        hears(1, "tea?")
        members[1].call("enter", "cellar", timeout=WAIT)  # there is none: so it is nowhere
        members[1].call("say", "nobody hears this", timeout=WAIT)
        hears(0, "Somebody leaves the kitchen.")
        members[0].call("say", "alone", timeout=WAIT)
        hears(0, "alone")
        assert heard[1] == ["Somebody enters the kitchen.", "tea?"]
        assert heard[0][:3] == ["Somebody enters the kitchen.", "Somebody enters the kitchen.", "tea?"]
        members[1].call("enter", "kitchen", timeout=WAIT)
    finally:
        members[1].disconnect()
        hears(0, "Somebody leaves the kitchen.")
        members[0].disconnect()


def test_legacy(gate):
    server = gate("legacy:application", "--compat", "geventwebsocket", chdir=EXAMPLES)
    assert "/shout" in get(server.url).text
    with connect(f"{server.ws_url}/shout") as one, connect(f"{server.ws_url}/shout") as other:
        one.send("psst")
        assert one.recv(timeout=WAIT) == other.recv(timeout=WAIT) == "PSST!"
        other.close()
        assert one.recv(timeout=WAIT) == "somebody left"


def test_django_site(gate):
    server = gate("django_site:app", chdir=EXAMPLES)
    assert "A board in Django" in get(server.url).text
    assert get(f"{server.url}/say").status_code == 426
    with connect(f"{server.ws_url}/say") as ws:
        ws.send("first")
        [[number, text]] = get(f"{server.url}/after/0").json()["said"]
        assert text == "first"
        with ThreadPoolExecutor(2) as pool:
            waiting = [pool.submit(get, f"{server.url}/after/{number}") for _ in range(2)]
            ws.send("second")
            assert [answer.result().json()["said"][0][1] for answer in waiting] == ["second", "second"]


# HTTP/2, with the certificate that docs/tls.md makes


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> Path:
    """Its folder: ``cert.pem`` and ``key.pem``."""
    folder = tmp_path_factory.mktemp("certificate")
    command = re.search(r"^openssl req .+?[^\\\\]$", (DOCS / "tls.md").read_text(), re.MULTILINE | re.DOTALL)[0]
    subprocess.run(command, shell=True, cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def secure(gate, certificate):
    """Serve an example over TLS; returns the server and its URL."""

    def secure(example: str, *options: str):
        tls = ["--certfile", str(certificate / "cert.pem"), "--keyfile", str(certificate / "key.pem")]
        server = gate(f"{example}:app", *tls, *options, chdir=EXAMPLES)
        return server, f"https://localhost:{server.port}"

    return secure


@pytest.fixture
def http2(certificate) -> Iterator[httpx.Client]:
    trusted = ssl.create_default_context(cafile=certificate / "cert.pem")
    with httpx.Client(http2=True, http1=False, verify=trusted, trust_env=False, timeout=WAIT) as client:
        yield client


@pytest.mark.needs("openssl")
def test_tiles(secure, http2):
    _, url = secure("tiles")
    page = http2.get(url)
    assert (page.http_version, page.status_code) == ("HTTP/2", 200)
    assert ">HTTP/2<" in page.text
    tile = http2.get(f"{url}/tile/3/4")
    assert (tile.headers["Content-Type"], 'viewBox="30 40 10 10"' in tile.text) == (
        "image/svg+xml; charset=utf-8",
        True,
    )
    for nothing in ("/tile/10/1", "/tile//1", "/tile/1", "/tile/x/1", "/tile/1/1/1", "/tiles.py", "/%00"):
        assert http2.get(url + nothing).status_code == 404, nothing


@pytest.mark.needs("openssl")
def test_hints(secure, http2):
    _, url = secure("hints")
    for path, kind in (("/", "text/html"), ("/hints.css", "text/css"), ("/hints.js", "text/javascript")):
        answer = http2.get(url + path)
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        assert re.fullmatch(r"asked;dur=\d+\.\d, answered;dur=\d+\.\d", answer.headers["Server-Timing"])
    assert http2.get(f"{url}/hints.py").status_code == 404


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


# The line protocol


def test_line_protocol(gate):
    server = gate("line_protocol:app", chdir=EXAMPLES)
    assert get(server.url).status_code == 426
    example = load("line_protocol")
    with example.dial(server.host, server.port) as waiting, example.dial(server.host, server.port) as setting:
        example.ask(waiting, b"wait tea\n")
        example.ask(setting, b"set tea ready, and hot\nwait tea\nnonsense\n\n\xff\n" + b"x" * 2500 + b"\n")
        answers = [setting.readline() for _ in range(8)]
        assert waiting.readline() == b"ready, and hot\n"
    assert answers[:2] == [b"ok\n", b"ready, and hot\n"]
    assert [answer[:4] for answer in answers[2:]] == 6 * [b"say "]  # a line too long is taken for several


def test_line_protocol_client(gate):
    server = gate("hello:app", chdir=EXAMPLES)
    with pytest.raises(ConnectionError, match=r"not switched to lines/1: HTTP/1\.1 200"):
        load("line_protocol").dial(server.host, server.port)


# The proxy


@pytest.fixture
def curl(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """curl through the proxy at *proxy*: its exit status, and what it received."""

    def curl(proxy: str, *arguments: str) -> tuple[int, str]:
        command = ["curl", "--silent", "--show-error", "--noproxy", "", "--max-time", str(WAIT), "--proxytunnel"]
        done = subprocess.run([*command, "--proxy", proxy, *arguments], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    return curl


@pytest.mark.needs("curl")
def test_connect_proxy(gate, curl, monkeypatch, tmp_path):
    target = gate("hello:app", chdir=EXAMPLES)
    monkeypatch.setenv("PROXY_TO", f"127.0.0.1:{target.port}")
    proxy = gate("connect_proxy:app", "--allow-connect", chdir=EXAMPLES)
    assert curl(proxy.url, f"{target.url}/") == (0, "Hello, world!\n")
    assert curl(proxy.url, f"{target.url}/", f"{target.url}/") == (0, 2 * "Hello, world!\n")
    status, text = curl(proxy.url, f"http://127.0.0.1:{proxy.port}/")
    assert (status, "403" in text) == (56, True)
    assert get(proxy.url).status_code == 405
    target.stop()
    status, text = curl(proxy.url, f"{target.url}/")
    assert (status, "502" in text) == (56, True)


@pytest.mark.needs("curl")
@pytest.mark.parametrize("proxy_over_tls", [False, True])
def test_connect_proxy_carries_tls_and_large_files(gate, curl, monkeypatch, tmp_path, authority, proxy_over_tls):
    pair = authority.issue("127.0.0.1")
    tls = ["--certfile", pair.certfile, "--keyfile", pair.keyfile]
    target = gate("plain:app", *tls, chdir=Path(__file__).parent / "applications")
    monkeypatch.setenv("PROXY_TO", "127.0.0.1:*")
    proxy = gate("connect_proxy:app", "--allow-connect", *(tls if proxy_over_tls else ()), chdir=EXAMPLES)
    large, back = tmp_path / "large", tmp_path / "back"
    large.write_bytes(bytes(range(256)) * 40_000)
    status, text = curl(
        f"{'https' if proxy_over_tls else 'http'}://127.0.0.1:{proxy.port}",
        *("--proxy-cacert", authority.ca_certs, "--cacert", authority.ca_certs),
        *("--data-binary", f"@{large}", "--header", "Expect:", "--output", str(back)),
        f"https://127.0.0.1:{target.port}/echo",
    )
    assert status == 0, text
    assert back.read_bytes() == large.read_bytes()


@pytest.mark.needs("curl")
def test_connect_is_off_unless_enabled(gate, curl):
    target = gate("hello:app", chdir=EXAMPLES)
    status, text = curl(gate("connect_proxy:app", chdir=EXAMPLES).url, f"{target.url}/")
    assert (status, "501" in text) == (56, True)


# The terminal, by hand


@pytest.fixture
def terminal(gate, monkeypatch):
    """The server, and the address to open."""
    if not os.path.exists("/dev/pts/ptmx"):
        pytest.skip("this system has no pseudo-terminals")
    monkeypatch.setenv("SHELL", "/bin/sh")
    monkeypatch.setenv("PS1", "$ ")
    monkeypatch.delenv("ENV", raising=False)
    server = gate("terminal:app", chdir=EXAMPLES)
    link = re.search(r"whoever opens (/\?token=\S+)", server.stderr())[1]
    return server, link


def read_until(ws: ClientConnection, pattern: str) -> re.Match:
    output = ""
    while not (found := re.search(pattern, output)):
        output += ws.recv(timeout=WAIT).decode()
    return found


def test_terminal(terminal):
    server, link = terminal
    with connect(server.ws_url + link) as ws:
        ws.send("r132,43")
        read_until(ws, r"\$ $")
        ws.send("istty size; echo $TERM\r")
        read_until(ws, r"\n43 132\r\nxterm-256color\r\n\$ $")
        ws.send("r80,24")
        ws.send("istty size\r")
        read_until(ws, r"\n24 80\r\n\$ $")
        ws.send("ish -c 'echo begun; exec sleep 1000'\r")
        read_until(ws, r"\nbegun\r\n")
        ws.send("i\x03")
        read_until(ws, r"\$ $")  # what is typed sooner, the interrupt may throw away
        ws.send("iecho over $((1 + 1))\r")
        read_until(ws, r"\nover 2\r\n\$ $")
        ws.send("iexit\r")
        with pytest.raises(ConnectionClosed) as closed:
            read_until(ws, "never")
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1000, "the shell has ended")


def test_terminal_wants_its_token(terminal):
    server, link = terminal
    for path in ("/", "/?token=", "/?token=x", link[:-1], "/?token=%FF"):
        assert get(server.url + path).status_code == 403
        with pytest.raises(InvalidStatus) as refused, connect(server.ws_url + path):
            pass
        assert refused.value.response.status_code == 403
    page = get(server.url + link)
    assert not re.search(r'(src|href)="(?!data:)', page.text), "the page loads something from elsewhere"
    assert page.headers["Referrer-Policy"] == "no-referrer"


@pytest.mark.parametrize(
    ("here", "status"),
    [("192.0.2.1", "403"), ("2001:db8::1", "403"), ("127.0.0.1", "200"), ("::1", "200"), ("", "200")],
)
def test_terminal_is_on_loopback_only(here, status):
    example = load("terminal")
    request = SimpleNamespace(server=(here, "80"))
    said = []
    example.app(
        {"geventgate.request": request, "QUERY_STRING": f"token={example.TOKEN}"}, lambda *head: said.append(head)
    )
    assert said[0][0].startswith(status)


@pytest.mark.parametrize("nonsense", [b"binary", "r1", "rx,y", "r1,2,3"])
def test_terminal_closes_on_nonsense(terminal, nonsense):
    server, link = terminal
    with connect(server.ws_url + link) as ws:
        ws.send(nonsense)
        with pytest.raises(ConnectionClosed) as closed:
            read_until(ws, "never")
    assert closed.value.rcvd.code == 1007


def test_terminal_ends_the_shell_with_its_page(terminal):
    server, link = terminal
    with connect(server.ws_url + link) as ws:
        read_until(ws, r"\$ $")
        ws.send("itrap '' HUP; echo $$.\r")  # one that will not hear
        shell = Path("/proc", read_until(ws, r"\n(\d+)\.")[1])
        assert shell.exists()
    until = time.monotonic() + WAIT
    while shell.exists():
        assert time.monotonic() < until
        time.sleep(0.02)


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
    with chromium(tmp_path) as browser:
        yield browser


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


@in_chromium
def test_reverse_in_a_page(gate, browser):
    page = Window(browser, gate("reverse:app", chdir=EXAMPLES).url)
    page.find("#text").send_keys("abc")
    page.until("#reversed", "cba")
    assert page.console() == []


@in_chromium
def test_rooms_between_two_windows(gate, browser):
    server = gate("rooms:app", chdir=EXAMPLES)
    ada, grace = Window(browser, server.url), Window(browser, server.url)
    for window in (ada, grace):
        window.until("#rooms button:nth-child(2)", "library")
        window.find("#rooms button:nth-child(2)").click()
    ada.until("#said li:first-child", "Somebody enters the library.")
    ada.find("#text").send_keys("<b>hush</b>", Keys.ENTER)
    grace.until("#said li:first-child", "<b>hush</b>")
    grace.find("#rooms button:nth-child(3)").click()
    ada.until("#said li:first-child", "Somebody leaves the library.")
    assert server.stop() == 0
    ada.until("#said li:first-child", "The connection has ended.")
    assert ada.console() == grace.console() == []


@in_chromium
def test_chromium_and_the_echo_compress_their_messages(gate, browser):
    server = gate("echo:app", chdir=EXAMPLES)
    browser.get(server.url)
    outcome = browser.execute_async_script(
        """
        const done = arguments[0], got = [];
        const sent = ["x".repeat(100000), "\u00e9\u2603\ud834\udd1e".repeat(1000), "", "x".repeat(100000)];
        const ws = new WebSocket("ws://" + location.host);
        ws.onopen = () => sent.forEach(text => ws.send(text));
        ws.onmessage = event => { got.push(event.data); if (got.length == sent.length) ws.close(1000); };
        ws.onclose = event => done([ws.extensions, event.code, got.every((text, i) => text === sent[i]), got.length]);
        """
    )
    agreed = "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12"
    assert outcome == [agreed, 1000, True, 4]


# HTTP/2, in Chromium


@pytest.fixture
def secure_browser(tmp_path: Path, certificate: Path) -> Iterator[webdriver.Chrome]:
    with chromium(tmp_path, trusting(str(certificate / "cert.pem"))) as browser:
        yield browser


@in_chromium
@pytest.mark.needs("openssl")
def test_tiles_come_at_once(secure, secure_browser):
    page = Window(secure_browser, secure("tiles")[1])
    WebDriverWait(secure_browser, 3 * WAIT, 0.05).until(lambda _: page.find("#again").is_enabled(), "tiles are missing")
    version, most, _ = page.read("dd")
    assert version == "HTTP/2"
    assert int(most) > 30, "HTTP/1.1 has six"
    assert len(page.read("#picture img.there")) == 100
    assert page.console() == []


@in_chromium
@pytest.mark.needs("openssl")
@pytest.mark.slow
def test_tiles_come_six_at_a_time_over_http1(secure, secure_browser):
    page = Window(secure_browser, secure("tiles", "--no-http2")[1])
    WebDriverWait(secure_browser, 6 * WAIT, 0.05).until(lambda _: page.find("#again").is_enabled(), "tiles are missing")
    assert page.read("dd")[:2] == ["HTTP/1.1", "6"]


@in_chromium
@pytest.mark.needs("openssl")
def test_hints_are_fetched_before_the_page_is_there(secure, secure_browser):
    """As the server saw it: what was asked for, and when. ``?hints=no`` shows the opposite."""
    _, url = secure("hints")
    timings = """
        const parts = ["navigation", "resource"].flatMap(kind => performance.getEntriesByType(kind));
        return Object.fromEntries(parts.filter(part => part.serverTiming.length).map(part =>
            [new URL(part.name).pathname, [part.initiatorType, ...part.serverTiming.map(timing => timing.duration)]]))
    """
    for query, initiators, early in (("", {"early-hints"}, 2), ("?hints=no", {"link", "script"}, 0)):
        page = Window(secure_browser, f"{url}/{query}")
        WebDriverWait(secure_browser, WAIT, 0.05).until(lambda _, page=page: len(page.read("#bars li")) == 3)
        parts = secure_browser.execute_script(timings)
        _, _, page_answered = parts.pop("/")
        assert {initiator for initiator, _, _ in parts.values()} == initiators
        assert sum(asked < page_answered for _, asked, _ in parts.values()) == early
        assert len(page.read("#bars .early")) == early
        assert page.console() == []


@in_chromium
@pytest.mark.needs("openssl")
@pytest.mark.parametrize("engine", ["h2", "ngh2"])
def test_chat_over_http2(secure, secure_browser, engine):
    """The chat does not know. Its WebSockets are streams of the connection that brought the page (RFC 8441)."""
    server, url = secure("chat", "--http2-engine", engine, "--access-logfile", "-")
    ada, grace = ChatWindow(secure_browser, url, "Ada"), ChatWindow(secure_browser, url, "Grace")
    ada.say("Hello, Grace")
    grace.until("#said .text", "Hello, Grace")
    grace.say("x" * 2000)
    ada.until("#said .message:not(.mine) .text", "x" * 2000)
    assert ada.console() == grace.console() == []
    grace.browser.close()
    ada.until("#said .note", "Grace left")
    assert server.stop() == 0
    requests = re.findall(r'"([A-Z]+ \S+ HTTP/\S+)" (\d+)', server.stderr())
    assert sorted(requests) == [
        ("CONNECT /?name=Ada HTTP/2", "200"), ("CONNECT /?name=Grace HTTP/2", "200"), *2 * [("GET / HTTP/2", "200")]
    ]  # fmt: skip


# The terminal, in Chromium


class TerminalWindow(Window):
    def type(self, *keys: str) -> None:
        self.find("#keys").send_keys(*keys)

    def run(self, command: str) -> None:
        self.type(command, Keys.ENTER)

    @property
    def rows(self) -> list[str]:
        return [row.rstrip() for row in self.read("#screen > div")]

    def sees(self, row: str) -> None:
        """Wait until a row reads *row*."""
        until = time.monotonic() + WAIT
        while row not in (rows := self.rows):
            assert time.monotonic() < until, rows
            time.sleep(0.05)


@in_chromium
def test_terminal_in_a_page(terminal, browser):
    server, link = terminal
    page = TerminalWindow(browser, server.url + link)
    page.until("#status", "Connected")
    page.sees("$")
    page.run("printf '\\033[1;31mred\\033[0m plain \\033[38;5;21mblue\\033[0m \\033[7mturned\\033[0m\\n'")
    page.sees("red plain blue turned")
    colours = browser.execute_script(
        "return Object.fromEntries([...document.querySelectorAll('#screen span')].map(span =>"
        " [span.textContent, [getComputedStyle(span).color, span.className, span.style.background]]))"
    )
    assert colours["red"][:2] == ["rgb(255, 139, 146)", "bold"]
    assert colours["blue"][0] == "rgb(0, 0, 255)"
    assert colours["turned"][2] == "var(--ink)"

    page.run("printf '\\033[2J\\033[5;10Hhere\\033[3A\\033[4Dthere\\033[20;1H'")  # as top moves about
    page.sees(" " * 9 + "here")
    assert (page.rows[4], page.rows[1]) == (" " * 9 + "here", " " * 9 + "there")

    page.run("printf '\\033[?1049h\\033[Hapart\\033[6n'; read answer; printf '\\033[?1049l'; echo $(echo back)")
    page.sees("apart^[[1;6R")  # where the cursor is, as programs ask
    assert "here" not in "".join(page.rows)
    page.type(Keys.ENTER)
    page.sees("back")
    assert " " * 9 + "here" in page.rows

    page.run("seq 500")
    page.sees("500")
    assert "250" in page.read("#history > div")

    page.run("sh -c 'echo begun; exec sleep 1000'")
    page.sees("begun")
    page.type(Keys.CONTROL, "c")
    page.sees("$")
    page.run("echo caught $((20 + 1))")
    page.sees("caught 21")
    assert page.console() == []


@in_chromium
def test_terminal_follows_its_window(terminal, browser):
    server, link = terminal
    page = TerminalWindow(browser, server.url + link)
    page.until("#status", "Connected")
    page.sees("$")
    sizes = []
    for width, height in ((1000, 700), (600, 400)):
        before = len(page.rows)
        browser.set_window_size(width, height)
        WebDriverWait(browser, WAIT, 0.05).until(lambda _, before=before: len(page.rows) != before)
        page.run(f"echo {width}: $(stty size)")
        WebDriverWait(browser, WAIT, 0.05).until(lambda _, width=width: f"\n{width}: " in "\n".join(page.rows))
        said = next(row for row in page.rows if row.startswith(f"{width}: "))
        sizes.append([int(number) for number in said.split()[1:]])
        assert len(page.rows) == sizes[-1][0]
    assert sizes[0][0] > sizes[1][0]
    assert sizes[0][1] > sizes[1][1]
    page.run("exit")
    page.until("#status", "the shell has ended")
    page.find("#again").click()
    page.until("#status", "Connected")
    page.sees("$")
    page.run("echo another $((1 + 1))")
    page.sees("another 2")
    assert page.console() == []
