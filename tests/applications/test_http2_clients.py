"""HTTP/2 as clients speak it that we did not write: curl, nghttp, h2load, httpx, Node and Chromium; with both engines,
in cleartext and over TLS. And Flask and Django, which do not know of it."""

import asyncio
import hashlib
import json
import re
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from chromium import chromium, trusting

HERE = Path(__file__).parent
EXAMPLES = HERE.parents[1] / "examples"
SOURCE = (HERE / "flask_app.py").read_bytes()
MIB = 1 << 20
LARGE = bytes(range(251)) * 40_000  # 10 MB

ENGINES = ("h2", "ngh2")
WAYS = [(engine, secure) for engine in ENGINES for secure in (False, True)]


class Site:
    """A server, and how clients get there."""

    def __init__(self, gate, authority, application: str, engine: str, secure: bool, *options: str, **more) -> None:
        pair = authority.issue("localhost", "127.0.0.1") if secure else None
        carried = ["--certfile", pair.certfile, "--keyfile", pair.keyfile] if pair else ["--h2c"]
        self.server = gate(application, *carried, "--http2-engine", engine, *options, **more)
        self.secure = secure
        self.certfile = pair.certfile if pair else ""
        self.url = f"https://localhost:{self.server.port}" if secure else self.server.url
        self.ca_certs = authority.ca_certs if secure else ""

    def run(self, *command: str, stdin: bytes = b"", status: int = 0) -> bytes:
        """What a program prints."""
        ran = subprocess.run(command, input=stdin, capture_output=True, timeout=110)
        assert ran.returncode == status, (command, ran.stdout[-2000:], ran.stderr[-2000:])
        return ran.stdout

    def curl_command(self, path: str, *arguments: str) -> list[str]:
        trust = ["--cacert", self.ca_certs, "--http2"] if self.secure else ["--http2-prior-knowledge"]
        return ["curl", "-sS", "--max-time", "30", *trust, self.url + path, *arguments]

    def curl(self, path: str, *arguments: str, stdin: bytes = b"", status: int = 0) -> bytes:
        return self.run(*self.curl_command(path, *arguments), stdin=stdin, status=status)

    def nghttp(self, path: str, *arguments: str) -> str:
        return self.run("nghttp", "--verbose", *arguments, self.url + path).decode(errors="replace")

    def h2load(self, path: str, *arguments: str) -> str:
        return self.run("h2load", *arguments, self.url + path).decode()

    def httpx(self, **more) -> httpx.Client:
        trust = ssl.create_default_context(cafile=self.ca_certs) if self.secure else True
        return httpx.Client(
            base_url=self.url, http2=True, http1=False, verify=trust, trust_env=False, timeout=30, **more
        )


def named(way) -> str:
    return f"{way[0]}-{'tls' if way[1] else 'cleartext'}"


@pytest.fixture(scope="module", params=WAYS, ids=named)
def site(request, module_gate, authority) -> Site:
    return Site(module_gate, authority, "http2_app:app", *request.param)


# --- curl


@pytest.mark.needs("curl")
def test_what_the_application_sees(site):
    seen = json.loads(
        site.curl("/keys?a=%C3%A9", "-H", "X_Forged: 1", "-H", "Proxy: evil", "-H", "X-Fine: é", "-b", "c=1")
    )
    assert (seen["SERVER_PROTOCOL"], seen["version"], seen["REQUEST_METHOD"]) == ("HTTP/2", "2", "GET")
    assert (seen["PATH_INFO"], seen["QUERY_STRING"], seen["RAW_URI"]) == ("/keys", "a=%C3%A9", "/keys?a=%C3%A9")
    host = site.url.partition("//")[2]
    assert (seen["HTTP_HOST"], seen["authority"]) == (host, host)
    assert (seen["wsgi.url_scheme"], seen["HTTP_COOKIE"]) == (site.url.partition(":")[0], "c=1")
    assert seen["HTTP_X_FINE"] == "é".encode().decode("latin-1")
    assert not {"HTTP_X_FORGED", "HTTP_PROXY"} & set(seen)
    assert {"geventgate.request", "geventgate.send_trailers", "wsgi.early_hints"} < set(seen["beyond"])
    assert not {"geventgate.hijack", "geventgate.upgrade", "geventgate.protocol"} & set(seen["beyond"])
    if site.secure:
        assert (seen["HTTPS"], seen["SSL_TLS_SNI"]) == ("on", "localhost")


@pytest.mark.needs("curl")
def test_up_and_down(site, tmp_path):
    (tmp_path / "large").write_bytes(LARGE)
    digest = hashlib.sha256(LARGE).hexdigest()
    assert json.loads(site.curl("/digest", "--data-binary", f"@{tmp_path}/large")) == [len(LARGE), digest, []]
    assert json.loads(site.curl("/digest", "-T", "-", stdin=LARGE)) == [len(LARGE), digest, []]  # of no stated length
    assert site.curl("/echo", "--data-binary", f"@{tmp_path}/large") == LARGE
    assert len(site.curl("/pour?mib=10")) == 10 * MIB


@pytest.mark.needs("curl")
def test_head(site):
    fields = site.curl("/pour?mib=10", "--head").decode()
    assert fields.startswith("HTTP/2 200")
    assert f"content-length: {10 * MIB}" in fields
    if site.secure:  # curl 7.88 cannot use a cleartext connection again, nobody's
        again = ["--next", "-sS", "--cacert", site.ca_certs, "-w", " %{num_connects}", f"{site.url}/unread"]
        assert site.curl("/sleep?seconds=0", "--head", *again).endswith(b"not read 0")


@pytest.mark.needs("curl")
def test_informational_and_trailers(site):
    hinted = site.curl("/hints", "--dump-header", "-").decode().replace("\r", "")
    assert re.findall(r"^(?:HTTP/2 \d+|link: .+)", hinted, re.MULTILINE) == [
        "HTTP/2 103", "link: </style.css>; rel=preload; as=style", "HTTP/2 200"
    ]  # fmt: skip
    assert hinted.endswith("hinted")
    assert b"one two" in (said := site.curl("/trailers", "--dump-header", "-"))
    assert said.rstrip().endswith(b"x-digest: abc")
    said = site.curl("/echo", "--dump-header", "-", "-H", "Expect: 100-continue", "-d", "content").decode()
    assert re.findall(r"HTTP/2 \d+", said) == ["HTTP/2 100", "HTTP/2 200"]


@pytest.mark.needs("curl")
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["-H", f"X-Large: {'x' * 33_000}"], 431),
        ([argument for number in range(101) for argument in ("-H", f"X-{number}: x")], 431),
        (["-G", "-d", "x" * 9000], 414),
        (["-H", "Expect: miracles"], 417),
        (["-H", "Host: other.example:1"], 200),
        (["-X", "CONNECT"], 0),  # with :path, which it must not have
        (["-H", "Host: a b"], 0),
        (["-H", "Content-Length: 5"], 0),  # and no content
        (["-H", "X-Control: a\x01b"], 0),
    ],
    ids=lambda case: case if isinstance(case, int) else "".join(case)[:24],
)
def test_refusals(site, arguments, status):
    """A status where there is a request, a reset (curl's 92) where there is none; the connection goes on."""
    said = site.curl("/keys", "-o", "/dev/null", "-w", "%{http_code}", *arguments, status=0 if status else 92)
    assert said == b"%03d" % status
    if site.secure:  # curl 7.88 cannot use a cleartext connection again, nobody's
        again = ["--next", "-sS", "--cacert", site.ca_certs, "-w", " %{num_connects}", f"{site.url}/unread"]
        assert site.curl("/keys", "-o", "/dev/null", *arguments, *again).endswith(b"not read 0")


@pytest.mark.needs("curl")
def test_content_that_is_refused(gate, authority, tmp_path):
    """The client sees why, though it is still sending; and who sends little, and is not read, sees no reset."""
    (tmp_path / "large").write_bytes(LARGE)
    for engine, secure in WAYS:
        site = Site(gate, authority, "http2_app:app", engine, secure, "--limit-request-body", "100000")
        for arguments, status in (
            (["--data-binary", f"@{tmp_path}/large"], b"413"),
            (["--data-binary", f"@{tmp_path}/large", "-H", "Expect: 100-continue"], b"413"),
            (["-T", "-"], b"413"),
            (["-d", "content"], b"200"),
            (["-d", "content", "-H", "Expect: 100-continue"], b"200"),
        ):
            path = "/count" if "-T" in arguments else "/unread"  # of no stated length: it is found while reading
            said = site.curl(path, "-o", "/dev/null", "-w", "%{http_code}", *arguments, stdin=LARGE)
            assert said == status, (engine, secure, arguments)


@pytest.mark.needs("curl")
def test_an_answer_that_breaks_off(gate, authority):
    for engine in ENGINES:
        site = Site(lambda *a, **m: gate(*a, tracebacks=1, **m), authority, "http2_app:app", engine, False)
        site.curl("/fail", "-o", "/dev/null", status=92)
        assert site.curl("/unread") == b"not read"


@pytest.mark.needs("curl")
@pytest.mark.parametrize("options", [(), ("--h2c",)], ids=["http1 only", "h2c"])
def test_an_upgrade_to_h2c_is_ignored(gate, options, tmp_path):
    """RFC 9113 §3.1 has dropped it. The request is served as what it is, with its content, and so is the next one."""
    server = gate("http2_app:app", *options)
    (tmp_path / "large").write_bytes(LARGE)
    command = ["curl", "-sS", "--max-time", "30"]
    for path, content in (("echo", "content"), ("digest", f"@{tmp_path}/large"), ("echo", "again")):
        command += ["--http2", "--data-binary", content, "-w", " %{http_version} %{num_connects}\n"]
        command += ["-H", "Expect:", f"{server.url}/{path}", "--next"]
    ran = subprocess.run(command[:-1], capture_output=True, text=True, timeout=60)
    digest = json.dumps([len(LARGE), hashlib.sha256(LARGE).hexdigest(), []])
    assert ran.stdout.splitlines() == ["content 1.1 1", f"{digest} 1.1 0", "again 1.1 0"], ran.stderr


@pytest.mark.needs("curl")
def test_prior_knowledge_is_not_spoken_unless_asked_for(gate):
    server = gate("http2_app:app")
    ran = subprocess.run(["curl", "-sS", "--http2-prior-knowledge", f"{server.url}/unread"], capture_output=True)
    assert ran.returncode != 0
    assert subprocess.run(["curl", "-sS", f"{server.url}/unread"], capture_output=True).stdout == b"not read"


@pytest.mark.needs("curl")
def test_no_http2(gate, authority):
    """ALPN then chooses HTTP/1.1 with who offers both, and nothing but HTTP/1.1 is spoken."""
    site = Site(gate, authority, "http2_app:app", "auto", True, "--no-http2")
    assert site.curl("/unread", "-w", " %{http_version}") == b"not read 1.1"
    assert ": HTTP/1.1, WebSocket" in site.server.stderr()


@pytest.mark.needs("curl")
def test_http1_beside_it(site):
    command = ["curl", "-sS", "--http1.1", "--cacert", site.ca_certs or "/dev/null", "-w", " %{http_version}"]
    assert site.run(*command, f"{site.url}/unread") == b"not read 1.1"


@pytest.mark.needs("curl")
@pytest.mark.parametrize(("options", "heads"), [([], [b"200"]), (["--early-hints"], [b"103", b"200"])])
def test_early_hints_over_http1(gate, options, heads):
    server = gate("http2_app:app", *options)
    for version in ("--http1.1", "--http1.0"):  # HTTP/1.0 has no interim responses
        said = subprocess.run(["curl", "-sSi", version, f"{server.url}/hints"], capture_output=True, timeout=30).stdout
        assert re.findall(rb"^HTTP/1\.1 (\d+)", said, re.MULTILINE) == (heads if version == "--http1.1" else [b"200"])
        assert said.endswith(b"hinted")


# --- nghttp


def frames(said: str, *kinds: str) -> list[tuple[str, int]]:
    """The frames received of these *kinds*, and their streams."""
    found = re.findall(r"recv (\w+) frame <length=\d+, flags=\w+, stream_id=(\d+)>", said)
    return [(kind, int(stream)) for kind, stream in found if kind in kinds]


def fields(said: str, stream_id: int) -> list[str]:
    return re.findall(rf"recv \(stream_id={stream_id}\) (.+)", said)


@pytest.mark.needs("nghttp")
def test_settings(site):
    said = site.nghttp("/unread")
    settings = dict(
        re.findall(r"\[(?:SETTINGS_)?(\w+)\(0x\w+\):(\d+)\]", said.split("recv SETTINGS", 1)[1].split("send", 1)[0])
    )
    assert settings["MAX_CONCURRENT_STREAMS"] == "100"
    assert settings["MAX_HEADER_LIST_SIZE"] == "32768"
    assert settings["ENABLE_CONNECT_PROTOCOL"] == "1"


@pytest.mark.needs("nghttp")
def test_push(site):
    said = site.nghttp("/push")
    ((_, asked),) = frames(said, "PUSH_PROMISE")
    assert {":method: GET", ":path: /unread", "x-why: needed"} < set(fields(said, asked))
    (pushed,) = {stream for _, stream in frames(said, "HEADERS") if not stream % 2}
    assert ":status: 200" in fields(said, pushed)
    assert ("True" in said, "not read" in said) == (True, True)

    said = site.nghttp("/push", "--no-push")
    assert (frames(said, "PUSH_PROMISE"), "False" in said) == ([], True)


@pytest.mark.needs("nghttp")
def test_expect_and_trailers(site, tmp_path):
    (tmp_path / "large").write_bytes(LARGE)
    said = site.nghttp("/digest", "--expect-continue", "--trailer", "x-sum: 42", "--data", f"{tmp_path}/large")
    assert said.index(":status: 100") < said.index("send DATA") < said.index(":status: 200")
    assert json.dumps([len(LARGE), hashlib.sha256(LARGE).hexdigest(), [["x-sum", "42"]]]) in said
    said = site.nghttp("/trailers")
    assert fields(said, frames(said, "HEADERS")[0][1])[-1] == "x-digest: abc"


@pytest.mark.needs("nghttp")
@pytest.mark.parametrize(
    "field", ["te: gzip", "connection: close", "transfer-encoding: chunked", "upgrade: h2c", "x y: 1", "x: a\tb\x7f"]
)
def test_no_request(site, field):
    """Malformed (RFC 9113 §8.1.1): no status, and the other stream does not mind."""
    said = site.run("nghttp", "--verbose", f"--header={field}", f"{site.url}/unread").decode(errors="replace")
    assert frames(said, "HEADERS", "GOAWAY") == []
    assert "error_code=PROTOCOL_ERROR" in said.split("recv RST_STREAM", 1)[1]


@pytest.mark.needs("nghttp")
def test_nobody_reads_and_nobody_is_told_to_go_on(site, tmp_path):
    (tmp_path / "content").write_bytes(b"content")
    said = site.nghttp("/unread", "--expect-continue", "--data", f"{tmp_path}/content")
    assert (":status: 100" in said, "not read" in said) == (False, True)


@pytest.mark.needs("nghttp")
def test_content_that_nobody_reads(site, tmp_path):
    """The answer arrives whole before the reset that spares the rest (RFC 9113 §8.1)."""
    (tmp_path / "large").write_bytes(LARGE)
    said = site.nghttp("/unread", "--data", f"{tmp_path}/large")
    assert "not read" in said
    assert [kind for kind, _ in frames(said, "HEADERS", "DATA", "RST_STREAM")] == ["HEADERS", "DATA", "RST_STREAM"]
    assert "error_code=NO_ERROR" in said.split("recv RST_STREAM", 1)[1]


@pytest.mark.needs("nghttp")
def test_statistics(site):
    """Nobody waits for the slow one, or for the large one."""
    said = site.run(
        "nghttp", "-ns", *(site.url + path for path in ("/sleep?seconds=3", "/pour?mib=1", "/unread"))
    ).decode()
    assert re.findall(r" (\d{3}) +\w+ (/\w+)", said) == [("200", "/unread"), ("200", "/pour"), ("200", "/sleep")]


# --- h2load


def succeeded(said: str, count: int) -> bool:
    return f"{count} succeeded, 0 failed, 0 errored, 0 timeout" in said and f"status codes: {count} 2xx" in said


@pytest.mark.needs("h2load")
def test_load(site, tmp_path):
    assert succeeded(said := site.h2load("/unread", "-c8", "-m32", "-n20000"), 20_000), said
    (tmp_path / "content").write_bytes(LARGE[:100_000])
    assert succeeded(said := site.h2load("/count", "-c8", "-m32", "-n500", "-d", f"{tmp_path}/content"), 500), said
    assert succeeded(said := site.h2load("/pour?mib=1", "-c4", "-m25", "-n100"), 100), said


@pytest.mark.needs("h2load")
def test_a_hundred_that_sleep(site):
    """Each a second, on one connection."""
    seconds = []
    while not seconds or (min(seconds) > 1.9 and len(seconds) < 3):  # the machine may have been busy
        said = site.h2load("/sleep?seconds=1", "-c1", "-m100", "-n100")
        assert succeeded(said, 100), said
        seconds.append(float(re.search(r"finished in ([\d.]+)s", said)[1]))
    assert 1.0 <= min(seconds) <= 1.9, seconds  # in two turns it would be 2


# --- httpx


def test_httpx(site):
    async def all_of_them() -> float:
        trust = ssl.create_default_context(cafile=site.ca_certs) if site.secure else True
        limits = httpx.Limits(max_connections=1)
        async with httpx.AsyncClient(
            base_url=site.url, http2=True, http1=False, verify=trust, trust_env=False, limits=limits, timeout=30
        ) as client:
            await client.get("/unread")
            began = time.monotonic()
            answers = await asyncio.gather(
                *(client.get("/sleep", params={"seconds": 1}) for _ in range(50)),
                *(client.post("/echo", content=str(number) * number * 100) for number in range(50)),
            )
            seconds = time.monotonic() - began
        assert {answer.http_version for answer in answers} == {"HTTP/2"}
        assert [answer.text for answer in answers[:50]] == 50 * ["slept"]
        assert [answer.text for answer in answers[50:]] == [str(number) * number * 100 for number in range(50)]
        return seconds

    assert asyncio.run(all_of_them()) < 10


def test_crumbs(site):
    """Of a cookie that came in pieces, as browsers send them (RFC 9113 §8.2.3)."""
    with site.httpx() as client:
        seen = client.get(
            "/keys", headers=[("Cookie", "a=1"), ("X-A", "1"), ("Cookie", "b=2; c=3"), ("X-A", "2")]
        ).json()
    assert (seen["HTTP_COOKIE"], seen["HTTP_X_A"]) == ("a=1; b=2; c=3", "1,2")


# --- content without end


@pytest.mark.needs("node")
@pytest.mark.parametrize("way", ["up", "down"])
@pytest.mark.parametrize("mib", [64, pytest.param(1024, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("engine", "secure"), WAYS, ids=map(named, WAYS))
def test_bulk(gate, authority, engine, secure, mib, way):
    """Over one stream, while others of the same connection ask for little: it takes no memory, and nobody waits."""
    site = Site(gate, authority, "http2_app:app", engine, secure)
    command = ["node", str(HERE / "http2_bulk.mjs"), way, site.url, site.ca_certs]
    subprocess.run([*command, "1"], check=True, capture_output=True, timeout=60)
    before = site.server.memory()
    ran = subprocess.run([*command, str(mib)], capture_output=True, text=True, timeout=115)
    assert ran.returncode == 0, ran.stderr
    result = json.loads(ran.stdout)
    grown = site.server.memory() - before
    print(named((engine, secure)), way, {**result, "grown": grown})
    assert result["size"] == mib * MIB
    assert grown < 20 * MIB
    assert result["median"] < 100
    assert result["slowest"] < 2000


# --- applications that do not know


@pytest.fixture(scope="module", params=WAYS, ids=named)
def flask(request, module_gate, authority) -> Site:
    return Site(module_gate, authority, "flask_app:app", *request.param)


@pytest.fixture(scope="module", params=WAYS, ids=named)
def django(request, module_gate, authority) -> Site:
    return Site(module_gate, authority, "django_app:app", *request.param)


def test_flask(flask):
    with flask.httpx(follow_redirects=True) as client:
        assert client.get("/").text == "hello, stranger"
        answer = client.post("/login", data={"name": "Zoë & co"})
        assert (answer.text, answer.http_version) == ("hello, Zoë & co", "HTTP/2")
        assert client.get("/").text == "hello, Zoë & co"  # the session's cookie came along
        sent = {"a": ("é.bin", LARGE, "image/x"), "b": ("b.txt", b"")}
        answer = client.post("/upload", files=sent, data={"x": ["1", "2"]}).json()
        assert answer["a"] == {"filename": "é.bin", "type": "image/x", "size": len(LARGE)}
        assert (answer["b"]["size"], answer["fields"]) == (0, {"x": ["1", "2"]})
        answer = client.get("/stream/1000", params={"prefix": "n"})
        assert answer.text == "".join(f"n{number}\n" for number in range(1000))
        assert not {"transfer-encoding", "connection"} & set(answer.headers)
        assert client.get("/cookies").headers.get_list("set-cookie") == ["a=1; Path=/", "b=2; Path=/"]
        for path, status in (("/teapot", 418), ("/nowhere", 404), ("/not-modified", 304)):
            assert client.get(path).status_code == status


def test_flask_files(flask):
    with flask.httpx() as client:
        whole = client.get("/file")
        assert (whole.content, whole.headers["content-length"]) == (SOURCE, str(len(SOURCE)))
        part = client.get("/file", headers={"Range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, SOURCE[10:20])
        unchanged = client.get("/file", headers={"If-None-Match": whole.headers["etag"]})
        assert (unchanged.status_code, unchanged.content) == (304, b"")
        assert client.get("/bytes").content == bytes(range(256)) * 1000
        head = client.head("/file")
        assert (head.content, head.headers["content-length"]) == (b"", str(len(SOURCE)))


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 8 << 20])
def test_flask_echo(flask, size):
    content = LARGE[:size]
    with flask.httpx() as client:
        assert client.post("/echo", content=content).content == content
        assert client.post("/echo", content=iter([content[:100], content[100:]])).content == content
        assert client.post("/ignore", content=b"x" * 10).text == "not read"


def test_flask_fails(gate, authority):
    for engine in ENGINES:
        site = Site(lambda *a, **m: gate(*a, tracebacks=2, **m), authority, "flask_app:app", engine, False)
        with site.httpx() as client:
            assert client.get("/fail").status_code == 500
            with pytest.raises(httpx.RemoteProtocolError):
                client.get("/fail-in-stream")
            assert client.get("/").status_code == 200


def test_django(django):
    with django.httpx() as client:
        host = django.url.partition("//")[2]
        assert client.get("/").text == f"hello from {host} over {django.url.partition(':')[0]}"
        assert [client.get("/count").json()["visits"] for _ in range(3)] == [1, 2, 3]
        answer = client.post("/upload", files={"f": ("a.bin", LARGE)}, data={"x": ["1", "é"]}).json()
        assert answer == {"files": {"f": ["a.bin", len(LARGE)]}, "fields": {"x": ["1", "é"]}}
        assert client.post("/echo", content=LARGE).content == LARGE
        answer = client.get("/stream", headers={"Accept-Encoding": "gzip"})
        assert (answer.headers["content-encoding"], answer.text.count("\n")) == ("gzip", 1000)
        assert client.get("/file").content == (HERE / "django_app.py").read_bytes()


@pytest.mark.needs("curl")
@pytest.mark.parametrize(("engine", "secure"), WAYS, ids=map(named, WAYS))
def test_server_sent_events(gate, authority, engine, secure):
    """As they happen, and to their regular end when the server stops."""
    site = Site(gate, authority, "events:app", engine, secure, chdir=EXAMPLES)
    with site.httpx() as client, client.stream("GET", "/events") as answer:
        assert answer.headers["Content-Type"] == "text/event-stream"
        ids = (int(line[4:]) for line in answer.iter_lines() if line.startswith("id: "))
        assert next(ids) < next(ids)
        assert "EventSource" in client.get("/").text  # meanwhile
    with subprocess.Popen(site.curl_command("/events", "--no-buffer"), stdout=subprocess.PIPE) as curl:
        assert curl.stdout.readline() == b"retry: 1000\n"
        site.server.process.terminate()
        assert b"data: " in curl.stdout.read()
    assert curl.returncode == 0
    assert site.server.stop() == 0


# --- Chromium


@pytest.fixture
def page(request, gate, authority, tmp_path) -> Iterator:
    """A page of ours in Chromium, which then runs a script."""
    site = Site(gate, authority, "http2_app:app", request.param, True)
    with chromium(tmp_path / "profile", trusting(site.certfile)) as browser:
        browser.set_script_timeout(30)
        browser.get(f"{site.url}/unread")
        yield lambda script: browser.execute_async_script(f"const done = arguments[0];{script}")
        assert [line["message"] for line in browser.get_log("browser")] == []


@pytest.mark.needs("chromium", "chromedriver")
@pytest.mark.parametrize("page", ENGINES, indirect=True)
def test_chromium(page):
    """A hundred requests at once, content both ways, and WebSockets of the same connection meanwhile."""
    said = page(
        """
        const open = new WebSocket(`wss://${location.host}/websocket`), heard = [];
        const text = "x".repeat(200000) + "\\u00e9\\u2603\\ud834\\udd1e";
        open.onopen = async () => {
            const asked = await Promise.all(Array.from({length: 90}, async (_, number) => {
                const answer = await fetch("/echo", {method: "POST", body: String(number).repeat(1000)});
                return await answer.text() === String(number).repeat(1000);
            }));
            const keys = await (await fetch("/keys")).json();
            const large = await (await fetch("/digest", {method: "POST", body: new Uint8Array(3e6)})).json();
            open.send(text);
            open.onmessage = event => { heard.push(event.data); if (heard.length === 2) open.close(4000, "enough") };
            open.onclose = event => done({
                whole: asked.every(Boolean), keys, large: large[0], over: heard[0], same: heard[1] === text,
                code: event.code, extensions: open.extensions,
                protocols: [...new Set(performance.getEntriesByType("resource").map(one => one.nextHopProtocol))],
            });
        };
        open.onmessage = event => heard.push(event.data);
        open.onerror = event => done({failed: String(event)});
        """
    )
    assert said["keys"]["SERVER_PROTOCOL"] == "HTTP/2"
    assert (said["whole"], said["large"], said["over"], said["same"]) == (True, 3_000_000, "HTTP/2", True)
    assert said["code"] == 4000
    assert said["extensions"].startswith("permessage-deflate")
    assert said["protocols"] == ["h2"]
