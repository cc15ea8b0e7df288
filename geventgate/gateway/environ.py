"""The only place where a request becomes an environ (PEP 3333). Knows no socket.

The end of the bytes/unicode muddle is ``geventgate.request``: what was on the wire, as bytes and as text, whatever
middleware does to the other keys.
"""

from binascii import b2a_base64
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from io import BufferedReader, BytesIO, RawIOBase
from sys import getsizeof
from textwrap import wrap
from typing import TYPE_CHECKING, Any, TextIO
from urllib.parse import unquote_to_bytes

from geventgate import native
from geventgate.exchange import Address, EventLike, Exchange
from geventgate.gateway.forwarded import Front
from geventgate.message import Fields, RequestHead, Tls

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

Environ = dict[str, object]
Link = Callable[[object], None]

MAX_KNOWN_KEYS = 1024  # the cache of keys is bounded, and so are the names in it
MAX_KNOWN_NAME = 64
PROTOCOLS = {"1.0": "HTTP/1.0", "1.1": "HTTP/1.1", "2": "HTTP/2"}
PERCENT, SLASH = b"%/"  # looking for an int in bytes costs a tenth
CONTENT_BUFFER = 64 * 1024  # bytes; with Python's 8 KiB a read of 10 KB comes up to us twice


class Request:
    """``geventgate.request``: immutable, decoded when asked for."""

    __slots__ = ("_exchange", "_head", "_script_name")

    def begin(self, exchange: Exchange, script_name: str) -> None:
        """In place of __init__(), as CarriedExchange's."""
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
        """The client's host and port, as proxies that are believed say, or the peer's; ("", "") on a unix socket."""
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

    def begin(self, exchange: Exchange) -> None:
        """In place of __init__(), as CarriedExchange's."""
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

    __slots__ = ("_exchange",)

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        return self._exchange.readinto(memoryview(buffer).cast("B"))

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self._exchange.read(CONTENT_BUFFER), b""))  # io's own asks for 8 KiB at a time


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


def with_room(template: Environ) -> Environ:
    """*template*, with room in its copies for the fields of a request: a dict that has to grow is made anew. It keeps
    its size when its last keys are popped."""
    roomy = dict(template)
    size = getsizeof(roomy)
    while getsizeof(roomy) == size:
        roomy[f"room {len(roomy)}"] = None
    while len(roomy) > len(template):
        roomy.popitem()
    return roomy


def build_environ(exchange: Exchange, template: Environ, front: Front | None = None) -> Environ:
    """*front* is how a proxy was reached, if one told."""
    head = exchange.request
    script_name: str = template["SCRIPT_NAME"]  # type: ignore[assignment]
    environ = template.copy()
    if head.method != "GET":
        environ["REQUEST_METHOD"] = head.method
    environ["REQUEST_URI"] = environ["RAW_URI"] = head.target.decode("latin-1")
    environ["PATH_INFO"] = path_info(head.path, script_name)
    if front is not None:
        script_name = environ["SCRIPT_NAME"] = front.prefix + script_name
        environ["SERVER_NAME"] = front.name or environ["SERVER_NAME"]
        environ["SERVER_PORT"] = front.port or environ["SERVER_PORT"]
    if head.query:
        environ["QUERY_STRING"] = head.query.decode("latin-1")
    if head.old or head.multiplexed:
        environ["SERVER_PROTOCOL"] = PROTOCOLS[head.http_version]
    environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = exchange.peer
    if head.scheme != "http":
        environ["wsgi.url_scheme"], environ["HTTPS"] = "https", "on"
    request, disconnected = Request.__new__(Request), Disconnected.__new__(Disconnected)
    request.begin(exchange, script_name)
    disconnected.begin(exchange)
    environ["geventgate.request"] = request
    environ["geventgate.disconnected"] = disconnected
    if exchange.has_content:
        content = exchange.take_whole()
        environ["wsgi.input"] = (
            BufferedReader(ContentFile(exchange), CONTENT_BUFFER) if content is None else BytesIO(content)
        )
    memo = head.memo
    if not memo:
        keys = environ if memo is None else memo
        if exchange.tls is not None:
            keys.update(tls_keys(exchange.tls))
        add_fields(keys, head)
    if memo is not None:
        environ.update(memo)
    # "the server MUST ignore the received Host header field" beside an absolute target (RFC 9112 §3.2.2). A proxy may
    # have told of another, and over HTTP/2 there need be none.
    told_elsewhere = head.multiplexed or front is not None or head.target[0] != SLASH
    if told_elsewhere and (head.authority or "HTTP_HOST" in environ):
        environ["HTTP_HOST"] = head.authority.decode("latin-1")
    return environ


def add_fields(environ: Environ, head: RequestHead) -> None:
    """The fields of a request under their keys, joined when repeated."""
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


def path_info(path: bytes, script_name: str) -> str:
    """PATH_INFO: the path decoded, without the mount point it begins with, if it does."""
    if PERCENT in path:
        path = unquote_to_bytes(path)
    text = path.decode("latin-1")
    if script_name and text.startswith(script_name) and text[len(script_name) : len(script_name) + 1] in ("", "/"):
        return text[len(script_name) :]
    return text


@lru_cache(maxsize=1024)
def tls_keys(tls: Tls) -> Environ:
    """What TLS adds, named as mod_ssl and nginx do. No field of a request has such a key: theirs begin with HTTP_."""
    keys: Environ = {
        "geventgate.tls": tls,
        "SSL_PROTOCOL": tls.version, "SSL_CIPHER": tls.cipher, "SSL_TLS_SNI": tls.server_name,
        "SSL_CLIENT_VERIFY": "NONE" if tls.peer_certificate is None else "SUCCESS",
    }  # fmt: skip
    if tls.peer_certificate is not None:
        peer: Mapping[str, Any] = tls.peer
        keys["SSL_CLIENT_S_DN"] = distinguished_name(peer.get("subject", ()))
        keys["SSL_CLIENT_I_DN"] = distinguished_name(peer.get("issuer", ()))
        keys["SSL_CLIENT_M_SERIAL"] = peer.get("serialNumber", "")
        keys["SSL_CLIENT_V_START"] = peer.get("notBefore", "")
        keys["SSL_CLIENT_V_END"] = peer.get("notAfter", "")
        keys["SSL_CLIENT_CERT"] = pem(tls.peer_certificate)
    return keys


# OpenSSL's long names of attribute types, and the short ones it writes in a distinguished name.
SHORT_NAMES = {
    "commonName": "CN", "countryName": "C", "domainComponent": "DC", "dnQualifier": "dnQualifier", "givenName": "GN",
    "localityName": "L", "organizationName": "O", "organizationalUnitName": "OU", "stateOrProvinceName": "ST",
    "streetAddress": "street", "surname": "SN", "userId": "UID",
}  # fmt: skip


def distinguished_name(name: Iterable[Iterable[tuple[str, str]]]) -> str:
    """*name*, as getpeercert() has it, by RFC 2253: the last part first, and ASCII only, so that it can be compared
    and logged."""
    parts = ["+".join(f"{SHORT_NAMES.get(kind, kind)}={_escaped(value)}" for kind, value in part) for part in name]
    return ",".join(reversed(parts))


def _escaped(value: str) -> str:
    """A value of a distinguished name (RFC 2253 §2.4)."""
    text = "".join(
        f"\\{char}" if char in ',+"\\<>;'
        else char if " " <= char <= "~"
        else "".join(f"\\{byte:02X}" for byte in char.encode("utf-8", "surrogatepass"))
        for char in value
    )  # fmt: skip
    if text.endswith(" "):
        text = text[:-1] + "\\ "
    return f"\\{text}" if text.startswith(("#", " ")) else text


def pem(certificate: bytes) -> str:
    """A certificate in text (RFC 7468)."""
    lines = wrap(b2a_base64(certificate, newline=False).decode("ascii"), 64)
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])


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


add_fields = native.twin(add_fields, "geventgate.protocol._requests")
