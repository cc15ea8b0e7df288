"""gunicorn's own corpus of requests, sent to the real server: the valid are served as it says, the invalid refused.

Its files come with the sdist of gunicorn, which is downloaded once. Those whose expectation changes gunicorn's settings
are left out; to HTTP/1.1 requests without Host we add one, since we refuse them (RFC 9112 §3.2). Where we differ for
other reasons is argued in DIFFERENT, by name: whoever agrees must not stand there.
"""

import ast
import builtins
import hashlib
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest

from tests.conftest import Gate

VERSION = "27.0.1"
SHA256 = "b1514965361c8b7e8107a80aa2a92636878df1ccfac6dd204a676426e04d9e3e"
LIMITS = ("--limit-request-line", "4094", "--limit-request-head", "8190")  # the nearest to gunicorn's defaults
ADDED = b"Host: a\r\n"
_name = re.compile(r"/tests/requests/((?:valid|invalid)/[^/]+\.(?:http|py))$")
_escape = re.compile(rb"\\(r\\n|x[0-9A-Fa-f]{2}|[0nt])")
_head = re.compile(rb"([^\r\n]* HTTP/1\.(.)\r\n)(?:[^\r\n]+\r\n)*")
_host = re.compile(rb"\n[ \t]*host[ \t]*:", re.IGNORECASE)

CODINGS = "we decode chunked alone, and the application would take what is still coded for content (RFC 9112 §6.1)"
IDENTITY = "there is no such coding any more (RFC 9112 §7); whoever still sends it smuggles (CVE-2024-6827)"
TRAILERS = "such a trailer is ignored, and the application does not see it (RFC 9110 §6.5.1)"
BYTES = (
    "browsers' UTF-8 and old clients' Latin-1: no delimiter is among these bytes, and REQUEST_URI has them unchanged"
)

DIFFERENT = {
    "valid/005": "a fragment is no part of a request target (RFC 9112 §3.2, RFC 9110 §7.1)",
    "valid/025": CODINGS,
    "valid/025_line": CODINGS,
    "valid/029": IDENTITY,
    "valid/030": IDENTITY,
    "valid/099": "the content ends before its Content-Length: a message cut short (RFC 9112 §8)",
    "valid/rfc9112_smuggle_gzip_chunked_01": CODINGS,
    "valid/rfc9112_smuggle_te_identity_chunked_01": IDENTITY,
    "valid/rfc9112_target_absolute_userinfo_01": "userinfo is to be treated as an error (RFC 9110 §4.2.4)",
    "invalid/003c": "a method is any token (RFC 9110 §9.1), and the application knows which it has",
    "invalid/041": "a repeated Content-Type is joined, as CGI has it: no framing depends on it (RFC 9110 §5.3)",
    "invalid/rfc9110_trailer_forbidden_cl_01": TRAILERS,
    "invalid/rfc9110_trailer_forbidden_host_01": TRAILERS,
    "invalid/rfc9110_trailer_forbidden_te_01": TRAILERS,
    "invalid/rfc9112_leading_crlf_02": "empty lines are to be ignored, at least one (RFC 9112 §2.2)",
    "invalid/rfc9112_target_non_ascii_01": BYTES,
    "invalid/rfc9112_target_non_ascii_02": BYTES,
}


class Case(NamedTuple):
    wire: bytes
    expected: list[dict[str, Any]] | None  # None: refused
    settings: dict[str, Any]  # of gunicorn, other than its defaults


@pytest.fixture(scope="session")
def corpus(pytestconfig) -> dict[str, Case]:
    """Each file's name, as valid/001, and what is in it."""
    archive = Path(pytestconfig.cache.mkdir("gunicorn")) / f"gunicorn-{VERSION}.tar.gz"
    if not archive.exists():
        with TemporaryDirectory(dir=archive.parent) as folder:  # another may be at it
            command = [sys.executable, "-m", "pip", "download", f"gunicorn=={VERSION}", "--dest", folder]
            subprocess.run([*command, "--no-deps", "--no-binary", "gunicorn", "--quiet"], check=True, timeout=100)
            os.replace(Path(folder, archive.name), archive)
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == SHA256, f"{archive} is another: remove it"
    with tarfile.open(archive) as files:
        texts = {
            match[1]: file.read()
            for member in files
            if (match := _name.search(member.name)) and (file := files.extractfile(member))
        }
    return {
        name.removesuffix(".http"): read_case(name, text, texts[name.replace(".http", ".py")])
        for name, text in texts.items()
        if name.endswith(".http")
    }


def read_case(name: str, text: bytes, sidecar: bytes) -> Case:
    """A line's end in the file is none on the wire, where \\r\\n, \\n, \\t, \\0 and \\xHH stand for what they say."""
    wire = _escape.sub(lambda match: unescape(match[1]), text.replace(b"\n", b""))
    request, settings = evaluate(sidecar)
    expected = request if isinstance(request, list) else [request]
    wire = _head.sub(with_host, wire, count=len(expected))  # what else looks like a head may be content
    return Case(wire, expected if name.startswith("valid/") else None, settings)


def with_host(head: re.Match[bytes]) -> bytes:
    if head[2] != b"1" or _host.search(head[0]):
        return head[0]
    return head[1] + ADDED + head[0].removeprefix(head[1])


def unescape(escape: bytes) -> bytes:
    if escape.startswith(b"x"):
        return bytes([int(escape[1:], 16)])
    return {b"r\\n": b"\r\n", b"0": b"\0", b"n": b"\n", b"t": b"\t"}[escape]


def evaluate(sidecar: bytes) -> tuple[Any, dict[str, Any]]:
    """What a .py beside a request calls ``request``, and the settings it changes. It imports nothing."""
    settings: dict[str, Any] = {}

    class Config:
        set = settings.__setitem__

    class Anything:
        def __getattr__(self, name: str) -> Any:
            return Config if name == "Config" else name

    scope: dict[str, Any] = {
        "__builtins__": {**vars(builtins), "__import__": lambda *_: Anything()},
        "uri": lambda raw: raw,
        "cfg": Config(),
    }
    exec(sidecar, scope)
    return scope["request"], settings


@pytest.fixture(scope="module")
def server(module_gate):
    return module_gate("gunicorn_app:application", "--allow-connect", *LIMITS)


def answers(wire: bytes) -> list[tuple[int, dict[str, Any] | None]]:
    """The status of each response, and what the application saw, where it is the application's."""
    found = []
    while wire:
        head, _, rest = wire.partition(b"\r\n\r\n")
        length = re.search(rb"\r\nContent-Length: (\d+)", head)
        assert length, head
        content, wire = rest[: int(length[1])], rest[int(length[1]) :]
        found.append(
            (int(head.split(b" ")[1]), ast.literal_eval(content.decode()) if b"\r\nSeen: yes" in head else None)
        )
    return found


def disagreement(server: Gate, case: Case, pieces: list[bytes]) -> str:
    """What is other than expected, or ""."""
    got = answers(server.talk(*pieces, half_close=True))
    seen = [request for _, request in got if request is not None]
    statuses = [status for status, _ in got]
    if case.expected is None:
        return f"served: {seen}" if seen or any(status < 400 for status in statuses) else ""
    if len(seen) != len(case.expected) or len(got) > len(seen):
        return f"answered {statuses}"
    for request, expected in zip(seen, case.expected, strict=True):
        wanted = as_expected(expected)
        if request["headers"][:1] == [("HOST", "a")] != wanted["headers"][:1]:
            del request["headers"][0]
        different = [f"{key}: {request[key]!r}, not {wanted[key]!r}" for key in wanted if request[key] != wanted[key]]
        if different:
            return "; ".join(different)
    return ""


def as_expected(request: dict[str, Any]) -> dict[str, Any]:
    return {
        "method": request["method"],
        "uri": request["uri"],
        "version": request["version"],
        "headers": request["headers"],
        "body": request["body"],
        "trailers": request.get("trailers", []),
    }


@pytest.mark.parametrize(
    "split", [lambda wire: [wire], lambda wire: [bytes([byte]) for byte in wire]], ids=["whole", "byte by byte"]
)
@pytest.mark.parametrize("kind", ["valid", "invalid"])
def test_we_agree_but_where_it_is_argued(server, corpus, kind, split):
    found = {}
    for name, case in sorted(corpus.items()):
        if name.startswith(f"{kind}/") and not case.settings:
            what = disagreement(server, case, split(case.wire))
            if what:
                found[name] = what
    argued = {name for name in DIFFERENT if name.startswith(f"{kind}/")}
    assert found.keys() == argued, "\n".join(f"{name}: {found.get(name)}" for name in found.keys() ^ argued)


def test_the_corpus_is_all_there(corpus):
    asked = [name for name, case in corpus.items() if not case.settings]
    assert (len(corpus), len(asked)) == (143, 119)
    assert DIFFERENT.keys() <= set(asked)
