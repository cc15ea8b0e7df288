"""The only place where a request becomes an environ (PEP 3333). Knows no socket.

The end of the bytes/unicode muddle is ``geventgate.request``: what was on the wire, as bytes and as text, whatever
middleware does to the other keys.
"""

from collections.abc import Callable
from io import BufferedReader, BytesIO, RawIOBase
from typing import TYPE_CHECKING, TextIO
from urllib.parse import unquote_to_bytes

from geventgate.exchange import Address, EventLike, Exchange
from geventgate.message import Fields

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Environ = dict[str, object]
Link = Callable[[object], None]

MAX_KNOWN_KEYS = 1024  # the cache of keys is bounded, and so are the names in it
MAX_KNOWN_NAME = 64


class Request:
    """``geventgate.request``: immutable, decoded when asked for."""

    __slots__ = ("_exchange", "_head", "_script_name")

    def __init__(self, exchange: Exchange, script_name: str) -> None:
        self._exchange = exchange
        self._head = exchange.request
        self._script_name = script_name

    def __repr__(self) -> str:
        return f"<Request {self.method} {self.target!r}>"

    @property
    def method(self) -> str:
        return self._head.method

    @property
    def target(self) -> bytes:
        """The request target as received (RFC 9112 §3.2)."""
        return self._head.target

    @property
    def raw_path(self) -> bytes:
        """The path, still percent-encoded: ``%2F`` is not ``/``."""
        return self._head.path

    @property
    def path(self) -> str:
        """The path, decoded as UTF-8; what is not UTF-8 is kept as surrogates, so that nothing is lost."""
        return unquote_to_bytes(self._head.path).decode("utf-8", "surrogateescape")

    @property
    def query(self) -> bytes:
        """The query without its ``?``, still percent-encoded."""
        return self._head.query

    @property
    def headers(self) -> Fields:
        """(name, value) pairs: names in lower case, wire order, duplicates kept."""
        return self._head.fields

    @property
    def authority(self) -> str:
        """Host, or what overrides it (RFC 9112 §3.3)."""
        return self._head.authority.decode("latin-1")

    @property
    def scheme(self) -> str:
        return self._head.scheme

    @property
    def http_version(self) -> str:
        """``1.0``, ``1.1`` or ``2``."""
        return self._head.http_version

    @property
    def client(self) -> Address:
        """The peer's host and port; ("", "") on a unix socket."""
        return self._exchange.peer

    @property
    def server(self) -> Address:
        """Our host and port; ("", "") on a unix socket."""
        return self._exchange.local

    @property
    def root_path(self) -> str:
        """The path the application is mounted at, or ""."""
        return self._script_name.encode("latin-1").decode("utf-8")

    def trailers(self) -> Fields:
        """The trailer fields, complete once ``wsgi.input`` has ended (RFC 9110 §6.5)."""
        return self._exchange.trailers()

    def text(self, name: str, default: str | None = None) -> str | None:
        """The field *name* as text: UTF-8, or Latin-1 where it is not that; joined by ", " when repeated."""
        value = self._head.get(name.lower().encode("utf-8"))
        if value is None:
            return default
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value.decode("latin-1")


class Disconnected:
    """``geventgate.disconnected``: Exchange.closed, watched from its first use on."""

    __slots__ = ("_exchange", "_links")

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._links: dict[Link, Link] | None = None

    def is_set(self) -> bool:
        return self._exchange.closed.is_set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the peer has gone, at most *timeout* seconds; whether it has."""
        return self._exchange.closed.wait(timeout)

    ready = is_set

    def rawlink(self, callback: Link) -> None:
        """As gevent's, so that gevent.wait() takes it and returns this object: *callback* is given it."""
        if self._links is None:
            self._links = {}
        link = self._links[callback] = lambda _: callback(self)
        self._exchange.closed.rawlink(link)

    def unlink(self, callback: Link) -> None:
        if self._links and (link := self._links.pop(callback, None)):
            self._exchange.closed.unlink(link)


class ContentFile(RawIOBase):
    """The content of an exchange as a raw file, under the BufferedReader that is ``wsgi.input``."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer)
        data = self._exchange.read(len(view))
        view[: len(data)] = data
        return len(data)


class NoContent(BufferedReader):
    """``wsgi.input`` of a request without content: nothing to read, so one for all; closing it closes nothing, not
    even when a TextIOWrapper around it is collected."""

    def __init__(self) -> None:
        super().__init__(BytesIO())

    def close(self) -> None:
        return None


def environ_template(local: Address, root_path: str, errors: TextIO, draining: EventLike, software: str) -> Environ:
    """What is the same for every request to one address; build_environ() copies it. *root_path* is "" or "/PATH"."""
    host, port = local
    script_name = root_path.encode("utf-8").decode("latin-1")  # as PEP 3333 wants its strings
    return {
        "REQUEST_METHOD": "GET", "SCRIPT_NAME": script_name, "PATH_INFO": "/", "QUERY_STRING": "",
        "REQUEST_URI": "/", "RAW_URI": "/", "SERVER_PROTOCOL": "HTTP/1.1",
        # A unix socket has no name; PEP 3333 wants both never empty.
        "SERVER_NAME": host or "localhost", "SERVER_PORT": port or "80", "SERVER_SOFTWARE": software,
        "REMOTE_ADDR": "", "REMOTE_PORT": "", "GATEWAY_INTERFACE": "CGI/1.1",
        "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.errors": errors,
        "wsgi.multithread": True, "wsgi.multiprocess": False, "wsgi.run_once": False,
        "wsgi.input": NoContent(), "wsgi.input_terminated": True,
        "geventgate.request": None, "geventgate.disconnected": None, "geventgate.draining": draining,
    }  # fmt: skip


def build_environ(exchange: Exchange, template: Environ) -> Environ:
    head = exchange.request
    script_name: str = template["SCRIPT_NAME"]  # type: ignore[assignment]
    environ = template.copy()
    environ["REQUEST_METHOD"] = head.method
    environ["REQUEST_URI"] = environ["RAW_URI"] = head.target.decode("latin-1")
    environ["PATH_INFO"] = path_info(head.path, script_name)
    environ["QUERY_STRING"] = head.query.decode("latin-1")
    environ["SERVER_PROTOCOL"] = "HTTP/" + head.http_version
    environ["wsgi.url_scheme"] = head.scheme
    environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = exchange.peer
    environ["geventgate.request"] = Request(exchange, script_name)
    environ["geventgate.disconnected"] = Disconnected(exchange)
    if exchange.has_content:
        environ["wsgi.input"] = BufferedReader(ContentFile(exchange))
    for name, value in head.fields:
        key = _known_keys.get(name)
        if key is None:
            key = _key(name)
        if not key:
            continue
        text = value.decode("latin-1")
        if key in environ:
            text = f"{environ[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{text}"
        environ[key] = text
    # "the server MUST ignore the received Host header field" beside an absolute target (RFC 9112 §3.2.2)
    if "HTTP_HOST" in environ or head.authority:
        environ["HTTP_HOST"] = head.authority.decode("latin-1")
    return environ


def path_info(path: bytes, script_name: str) -> str:
    """PATH_INFO: the path decoded, without the mount point it begins with, if it does."""
    text = (unquote_to_bytes(path) if b"%" in path else path).decode("latin-1")
    if script_name and text.startswith(script_name) and text[len(script_name) : len(script_name) + 1] in ("", "/"):
        return text[len(script_name) :]
    return text


_known_keys: dict[bytes, str] = {}  # a field's name -> its key, "" for one that has none


def _key(name: bytes) -> str:
    """The key of a field. Names with "_" are ambiguous with "-" and dropped, as nginx does; so is Proxy
    (CVE-2016-1000110, httpoxy)."""
    if b"_" in name or name == b"proxy":
        key = ""
    elif name in (b"content-type", b"content-length"):
        key = name.decode("ascii").upper().replace("-", "_")
    else:
        key = "HTTP_" + name.decode("ascii").upper().replace("-", "_")
    if len(_known_keys) < MAX_KNOWN_KEYS and len(name) <= MAX_KNOWN_NAME:
        _known_keys[name] = key
    return key
