"""TLS as users run it: curl, openssl, websockets and Autobahn against the patched command line."""

import concurrent.futures
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from websockets.sync.client import connect

ROOT = Path(__file__).parents[2]
EXAMPLES, CONFORMANCE = ROOT / "examples", ROOT / "tests" / "conformance"
MIB = 1 << 20


@pytest.fixture(scope="module")
def pair(authority):
    return authority.issue("localhost", "127.0.0.1")


def options(pair) -> list[str]:
    return ["--certfile", pair.certfile, "--keyfile", pair.keyfile]


@pytest.fixture(scope="module")
def server(module_gate, authority, pair):
    return module_gate("tls_app:keys", *options(pair), "--ca-certs", authority.ca_certs, "--cert-reqs", "optional")


@pytest.fixture
def curl(authority) -> Callable[..., str]:
    def curl(server, *arguments: str, status: int = 0, name: str = "localhost") -> str:
        address = f"{name}:{server.port}"
        command = [
            "curl",
            "-sS",
            "--max-time",
            "20",
            "--cacert",
            authority.ca_certs,
            "--resolve",
            f"{address}:127.0.0.1",
        ]
        ran = subprocess.run([*command, *arguments, f"https://{address}/"], capture_output=True, text=True)
        assert ran.returncode == status, ran.stderr
        return ran.stdout or ran.stderr

    return curl


def await_lines(server, line: str, count: int) -> None:
    """Wait until the log has *line* so many times: a client may know before it is written."""
    until = time.monotonic() + 10
    while server.stderr().count(line) < count:
        assert time.monotonic() < until, server.stderr()
        time.sleep(0.01)
    assert server.stderr().count(line) == count


def secured(server, authority) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=authority.ca_certs)
    return context.wrap_socket(server.connect(30), server_hostname="localhost", suppress_ragged_eofs=False)


@pytest.mark.needs("curl")
@pytest.mark.parametrize(("option", "version"), [("1.2", "TLSv1.2"), ("1.3", "TLSv1.3")])
def test_versions(server, curl, option, version):
    shown = json.loads(curl(server, f"--tlsv{option}", "--tls-max", option))
    assert (shown["wsgi.url_scheme"], shown["HTTPS"], shown["SSL_PROTOCOL"]) == ("https", "on", version)
    assert shown["tls"] == [version, shown["SSL_CIPHER"], "localhost", "h2", None]
    assert shown["SSL_TLS_SNI"] == "localhost"
    assert shown["SSL_CLIENT_VERIFY"] == "NONE"
    assert "SSL_CLIENT_S_DN" not in shown


@pytest.mark.needs("curl")
def test_an_old_version_is_refused(server, curl):
    said = curl(server, "--tlsv1.0", "--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0", status=35)
    assert "protocol version" in said


@pytest.mark.needs("curl", "openssl")
def test_a_clients_certificate(server, curl, authority):
    """Named as OpenSSL names it; and no field of a request can pass for it."""
    certificate = authority.issue("alice@example.org", organization_name="É, Inc.", common_name=' #1 "a"+b\\c<>; ')
    forged = [
        *("-H", "SSL-Client-Verify: SUCCESS", "-H", "SSL_CLIENT_S_DN: CN=root", "-H", "SSL-Client-S-DN: CN=root"),
        *("-H", "HTTPS: off", "-H", "geventgate.tls: x", "-H", "Ssl-Protocol: x"),
    ]
    shown = json.loads(curl(server, "--cert", certificate.certfile, "--key", certificate.keyfile, *forged))
    assert shown["SSL_CLIENT_VERIFY"] == "SUCCESS"
    asked = ["openssl", "x509", "-in", certificate.certfile, "-noout", "-nameopt", "RFC2253"]
    wanted = dict(
        line.split("=", 1)
        for line in subprocess.run(
            [*asked, "-subject", "-issuer", "-serial", "-startdate", "-enddate"], capture_output=True, text=True
        ).stdout.splitlines()
    )
    assert shown["SSL_CLIENT_S_DN"] == wanted["subject"]
    assert shown["SSL_CLIENT_I_DN"] == wanted["issuer"]
    assert shown["SSL_CLIENT_M_SERIAL"] == wanted["serial"]
    assert shown["SSL_CLIENT_V_START"] == wanted["notBefore"]
    assert shown["SSL_CLIENT_V_END"] == wanted["notAfter"]
    assert shown["SSL_CLIENT_CERT"] in Path(certificate.certfile).read_text()

    shown = json.loads(curl(server, *forged))
    assert {name for name in shown if name.startswith("SSL_CLIENT")} == {"SSL_CLIENT_VERIFY"}
    assert (shown["SSL_CLIENT_VERIFY"], shown["HTTPS"]) == ("NONE", "on")
    assert shown["SSL_PROTOCOL"].startswith("TLS")
    assert (shown["HTTP_SSL_CLIENT_VERIFY"], shown["HTTP_SSL_CLIENT_S_DN"]) == ("SUCCESS", "CN=root")
    assert shown["HTTP_HTTPS"] == "off"


@pytest.mark.needs("curl")
def test_a_required_certificate(gate, curl, authority, pair):
    server = gate("tls_app:keys", *options(pair), "--ca-certs", authority.ca_certs, "--cert-reqs", "2")
    certificate = authority.issue("alice@example.org")
    assert "SUCCESS" in curl(server, "--cert", certificate.certfile, "--key", certificate.keyfile)
    assert "alert certificate required" in curl(server, status=56)
    assert "alert handshake failure" in curl(server, "--tls-max", "1.2", status=35)
    await_lines(server, "no TLS handshake: peer did not return a certificate", 2)


@pytest.mark.needs("curl")
def test_names(gate, curl, authority, pair):
    other, wild = authority.issue("other.example.org"), authority.issue("*.example.com")
    server = gate(
        "tls_app:keys",
        *options(pair),
        *("--sni", f"other.example.org={other.certfile}:{other.keyfile}"),
        *("--sni", f"*.example.com={wild.certfile}:{wild.keyfile}"),
    )
    for name in ("localhost", "other.example.org", "www.example.com"):
        assert json.loads(curl(server, name=name))["SSL_TLS_SNI"] == name
    assert "no alternative certificate" in curl(server, name="example.net", status=60)


@pytest.mark.needs("curl")
def test_the_start_up_line_and_plain_http(server):
    assert f" on https://127.0.0.1:{server.port}: HTTP/2 (" in server.stderr()
    assert "), HTTP/1.1, WebSocket" in server.stderr()
    answer = subprocess.run(["curl", "-sS", f"{server.url}/"], capture_output=True, text=True, check=True).stdout
    assert answer == "This port speaks HTTPS, and the request came as plain HTTP.\n"


@pytest.mark.needs("openssl")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_openssl_and_a_key_update(server, authority, version):
    """``K`` asks for new keys both ways in the middle of a connection, ``R`` for a renegotiation, which is refused."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", version, "-CAfile", authority.ca_certs]
    asks = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert asks.stdin is not None
    assert asks.stdout is not None
    for line in (b"K\n" if version == "-tls1_3" else b"", b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"):
        asks.stdin.write(line)
        asks.stdin.flush()
        time.sleep(0.3)  # s_client takes a letter for a command only where it is alone in what it reads
    said = asks.stdout.read()
    asks.stdin.close()
    asks.stdout.close()
    assert asks.wait(10) in (0, 1)
    assert b"HTTP/1.1 200 OK" in said
    if version == "-tls1_3":
        assert b"KEYUPDATE" in said


@pytest.mark.needs("openssl")
def test_renegotiation_is_refused(gate, authority, pair):
    server = gate("tls_app:keys", *options(pair), "--head-timeout", "1")
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{server.port}", "-tls1_2", "-CAfile", authority.ca_certs]
    said = subprocess.run(command, input=b"R\n", capture_output=True, timeout=20)
    assert b"no renegotiation" in said.stdout + said.stderr


def test_websockets(gate, authority, pair):
    server = gate("echo:app", *options(pair), chdir=EXAMPLES)
    context = ssl.create_default_context(cafile=authority.ca_certs)
    with connect(f"wss://localhost:{server.port}/", ssl=context, max_size=None) as client:
        for message in ("text", b"bytes", b"a" * (4 * MIB), "é" * 100_000, ""):
            client.send(message)
            assert client.recv(20) == message
        assert client.ping().wait(5)
    assert client.close_code == 1000


# A client of plain WebSockets gets TLS from this relay.
AUTOBAHN = """
import asyncio, json, os, ssl, sys
import kosoku

port, authority, *sections = sys.argv[1:]
context = ssl.create_default_context(cafile=authority)

async def carry(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    writer.close()

async def relay(reader, writer):
    far_reader, far_writer = await asyncio.open_connection("localhost", int(port), ssl=context)
    await asyncio.gather(carry(reader, far_writer), carry(far_reader, writer))

async def main():
    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    address = "ws://127.0.0.1:%d" % server.sockets[0].getsockname()[1]
    return await kosoku.run_fuzzingclient(address, sections, concurrency=4)

try:
    results = asyncio.run(main())
except kosoku.FailureError as failure:
    results = failure.results or sys.exit(str(failure))
print(json.dumps([[one.case_id, one.behavior.value, one.behavior_close.value] for one in results]), flush=True)
os._exit(0)  # its threads may abort the interpreter's own end
"""


def test_autobahn(gate, authority, pair):
    server = gate("echo:app", *options(pair), chdir=EXAMPLES)
    ran = subprocess.run(
        [sys.executable, "-c", AUTOBAHN, str(server.port), authority.ca_certs, "1.*", "2.*"],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stderr
    results = json.loads(ran.stdout.splitlines()[-1])
    assert [one for one in results if not {*one[1:]} <= {"OK", "NON-STRICT", "INFORMATIONAL"}] == []
    assert len(results) == 27


# --- sizes


@pytest.fixture
def streams(gate, authority, pair):
    """A server that has served once, so that what is loaded at first use does not count."""
    server = gate("apps:streams", *options(pair), chdir=CONFORMANCE)
    with secured(server, authority) as peer:
        peer.sendall(b"GET /65536 HTTP/1.0\r\n\r\n")
        while peer.recv(65536):
            pass
    return server


def test_200_mib_down(streams, authority):
    size, before = 200 * MIB, streams.memory()
    with secured(streams, authority) as peer:
        peer.sendall(b"GET /%d HTTP/1.0\r\n\r\n" % size)
        got = 0
        while data := peer.recv(1 << 18):
            got += len(data)
    assert size < got < size + 1000
    assert streams.memory() - before < 8 * MIB


def test_200_mib_up(streams, authority):
    size, before = 200 * MIB, streams.memory()
    with secured(streams, authority) as peer:
        peer.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % size)
        for _ in range(size // MIB):
            peer.sendall(b"a" * MIB)
        answer = b"".join(iter(lambda: peer.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert str(size).encode() in answer
    assert streams.memory() - before < 8 * MIB


def test_a_slow_reader_makes_the_server_hold_little(streams, authority):
    before = streams.memory()
    with secured(streams, authority) as peer:
        peer.sendall(b"GET /%d HTTP/1.0\r\n\r\n" % (200 * MIB))
        time.sleep(1.0)  # for the server to run ahead of us, if it does
        assert streams.memory() - before < 8 * MIB


# --- certificates that change


def test_reload_under_load(gate, authority, tmp_path):
    """Certificates are swapped and HUP is sent while clients connect: no handshake fails, and the new ones show."""
    certfile, keyfile = tmp_path / "server.pem", tmp_path / "server.key"

    def put(pair) -> None:
        certfile.write_bytes(Path(pair.certfile).read_bytes())
        keyfile.write_bytes(Path(pair.keyfile).read_bytes())

    put(authority.issue("localhost"))
    server = gate("tls_app:keys", "--certfile", str(certfile), "--keyfile", str(keyfile))
    over = threading.Event()

    def load() -> list[str]:
        """Fresh connections, one after the other; gives the serial numbers seen."""
        seen = []
        while not over.is_set():
            with secured(server, authority) as peer:
                seen.append(peer.getpeercert()["serialNumber"])
                peer.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                answer = b"".join(iter(lambda: peer.recv(65536), b""))
                assert answer.startswith(b"HTTP/1.1 200 OK")
        return seen

    rounds = 10
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load) for _ in range(4)]
        try:
            for number in range(rounds):
                put(authority.issue("localhost"))
                server.process.send_signal(signal.SIGHUP)
                await_lines(server, "the certificates were read again", number + 1)
                time.sleep(0.05)
            certfile.write_text("torn")
            server.process.send_signal(signal.SIGHUP)
            await_lines(server, "the certificates stay as they were", 1)
            time.sleep(0.05)
        finally:
            over.set()
    seen = {serial for one in loads for serial in one.result()}
    assert len(seen) >= rounds
    assert "no TLS handshake" not in server.stderr()


# --- what cannot start


@pytest.fixture
def unmeasured(monkeypatch):
    """Coverage is imported before the standard library is patched, which is worth a line."""
    for name in [name for name in os.environ if name.startswith("COVERAGE_PROCESS")]:
        monkeypatch.delenv(name)


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    ("wrong", "line"),
    [
        (["--certfile", "none.pem"], "--certfile none.pem: No such file or directory"),
        (["--keyfile", "none.key"], "--keyfile without --certfile: that is where TLS begins"),
        (["--certfile", __file__], f"{__file__}: there is no certificate in it (PEM)"),
    ],
)
def test_one_line_and_exit_1(wrong, line):
    command = [sys.executable, "-m", "geventgate", "--chdir", str(Path(__file__).parent), *wrong, "tls_app:keys"]
    for more in ([], ["--check-config"]):
        ran = subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, timeout=20)
        assert (ran.returncode, ran.stderr) == (1, f"geventgate: error: {line}\n")


@pytest.mark.needs("openssl")
@pytest.mark.usefixtures("unmeasured")
def test_an_encrypted_key_asks_nobody(pair, tmp_path):
    """OpenSSL would ask at the terminal, and a server without one would hang."""
    encrypted, password = tmp_path / "encrypted.key", tmp_path / "password"
    subprocess.run(
        ["openssl", "pkey", "-in", pair.keyfile, "-aes256", "-passout", "pass:secret", "-out", encrypted], check=True
    )
    password.write_text("secret\n")
    command = [sys.executable, "-m", "geventgate", "--check-config", "--chdir", str(Path(__file__).parent)]
    command += ["--certfile", pair.certfile, "--keyfile", str(encrypted), "tls_app:keys"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert (ran.returncode, ran.stderr) == (
        1,
        f"geventgate: error: the key {encrypted} is encrypted: say --keyfile-password-file\n",
    )
    command += ["--keyfile-password-file", str(password)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert (ran.returncode, ran.stdout) == (0, "configuration OK\n")


def test_unpatched(gate, authority, pair):
    server = gate("tls_app:keys", *options(pair), "--no-patch")
    with secured(server, authority) as peer:
        peer.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b"".join(iter(lambda: peer.recv(65536), b"")).startswith(b"HTTP/1.1 200 OK")
        with pytest.raises(ssl.SSLError), socket.create_connection((server.host, server.port)) as plain:
            ssl.create_default_context().wrap_socket(plain, server_hostname="localhost")  # trusts nobody here
    await_lines(server, "no TLS handshake: tlsv1 alert unknown ca", 1)
