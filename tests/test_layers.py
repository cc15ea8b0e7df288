"""Who may import whom (docs/architecture.md): read from the sources with ast, imports inside functions included."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "geventgate"
MODULES = sorted(PACKAGE.rglob("*.py"))

LEAVES = ("native", "errors", "message", "exchange", "trust", "config")
BIND = "server.addresses"  # the command line binds as root, and imports the application as somebody else
CHECK = "server.certificates"  # gunicorn's process looks at them before it starts workers
BOTH_SIDES = ("assemble", "__init__", "testing", "compat", "pywsgi")  # the only ones that see server and gateway

# module or package (longest prefix wins): what of geventgate it may import
MAY: dict[str, tuple[str, ...]] = {
    "errors": (),
    "message": (),
    "exchange": ("errors", "message"),
    "trust": (),
    "config": ("errors", "trust"),
    "observe": LEAVES,
    "protocol": ("protocol", *LEAVES),
    "server": ("server", "protocol", "observe", *LEAVES),
    "aio": (),
    "gateway": ("gateway", "aio", "protocol.websocket", "protocol.handshake", "protocol.deflate", "observe", *LEAVES),
}
# names outside the package that a sans-IO core must not touch
NO_IO = ("gevent", "socket", "ssl", "time", "select", "selectors", "threading", "asyncio", "os", "io")


def imports(source: str, module: str) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of each import; ``from a import b`` gives a.b, since b may be a module."""
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{whole}.{alias.name}") for alias in node.names)


def under(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def violations(source: str, module: str) -> list[str]:
    """*module* is dotted, from geventgate on; an __init__ is named."""
    own = module.removeprefix("geventgate.")
    rule = next((MAY[prefix] for prefix in sorted(MAY, key=len, reverse=True) if under(own, (prefix,))), None)
    wrong = []
    for line, name in imports(source, module):
        if name.split(".")[0] == "geventgate":
            theirs = name.removeprefix("geventgate").removeprefix(".")
            if rule is not None and not under(theirs, rule):
                wrong.append(f"line {line}: {own} imports {name}")
            elif own in ("cli", "processes", "worker") and under(theirs, (BIND, CHECK)):
                continue
            elif rule is None and not under(own, BOTH_SIDES) and under(theirs, ("server", "gateway")):
                wrong.append(f"line {line}: {own} imports {name}; only {', '.join(BOTH_SIDES)} see both sides")
        elif under(own, ("protocol", "errors", "message", "exchange")) and under(name, NO_IO):
            wrong.append(f"line {line}: {own} imports {name}, but does no I/O")
        elif (
            under(own, ("gateway",))
            and own != "gateway.upgrade"
            and under(  # that one's lead nowhere: socketpairs
                name, ("socket", "ssl", "gevent.socket", "gevent.ssl", "gevent.server")
            )
        ):
            wrong.append(f"line {line}: {own} imports {name}, but opens no sockets")
    return wrong


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_follow_the_layers(path):
    module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    assert violations(path.read_text(), module) == []


def test_there_is_something_to_check():
    names = {str(path.relative_to(PACKAGE)) for path in MODULES}
    assert {"errors.py", "exchange.py", "protocol/http1.py", "server/http1.py", "gateway/wsgi.py"} <= names


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("geventgate.server.http1", "from geventgate.gateway import wsgi"),
        ("geventgate.server.http1", "from geventgate import gateway"),
        ("geventgate.server.http1", "from ..gateway.wsgi import Wsgi"),
        ("geventgate.server.http1", "def later():\n    import geventgate.gateway.wsgi"),
        ("geventgate.gateway.wsgi", "from geventgate.server.stream import Stream"),
        ("geventgate.gateway.wsgi", "from geventgate.protocol.http1 import parse_request_head"),
        ("geventgate.gateway.wsgi", "import socket"),
        (
            "geventgate.protocol.http1",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from geventgate.server import stream",
        ),
        ("geventgate.protocol.http1", "from . import websocket\nfrom ..server import stream"),
        ("geventgate.protocol.http1", "import gevent.event"),
        ("geventgate.protocol.http1", "from time import monotonic"),
        ("geventgate.errors", "from geventgate import message"),
        ("geventgate.cli", "from geventgate.server.server import Server"),
        ("geventgate.server.__init__", "from geventgate import gateway"),
    ],
)
def test_what_breaks_the_rule_is_found(module, source):
    assert violations(source, module)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "geventgate.server.http1",
            "from geventgate.protocol import http1\nfrom geventgate.errors import PeerError\nimport gevent",
        ),
        ("geventgate.server.http1", "from .stream import Stream\nfrom . import stream\nfrom ..protocol.http1 import x"),
        ("geventgate.gateway.wsgi", "from geventgate.protocol.websocket import Frames\nfrom geventgate import observe"),
        ("geventgate.assemble", "from geventgate.server import server\nfrom geventgate.gateway import wsgi"),
        ("geventgate.protocol.http1", "import re, base64\nfrom wsproto.frame_protocol import FrameDecoder"),
        ("geventgate.cli", "from geventgate.assemble import assemble"),
    ],
)
def test_what_keeps_the_rule_is_not(module, source):
    assert violations(source, module) == []
