"""The values that travel between the layers. A leaf: no I/O, no policy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

Field = tuple[bytes, bytes]
Fields = tuple[Field, ...]


class RequestHead:
    """What a client said before the content of its request (RFC 9110 §6), whatever carried it.

    ``fields`` keeps the wire's order and duplicates, names in lower case. The fields that govern
    the connection are at hand as attributes: their value, values joined with ", " when repeated
    (RFC 9110 §5.3), or None.
    """

    __slots__ = (
        "method", "target", "http_version", "scheme", "authority", "path", "query", "protocol", "_fields", "size",
        "connection", "content_length", "transfer_encoding", "expect", "upgrade", "lines", "memo", "block",
        "connects", "multiplexed", "old",
    )  # fmt: skip

    def __init__(
        self,
        method: str,
        target: bytes,
        http_version: str,
        fields: Fields,
        scheme: str = "http",
        authority: bytes = b"",
        path: bytes = b"/",
        query: bytes = b"",
        protocol: str | None = None,
        size: int = 0,
        connection: bytes | None = None,
        content_length: bytes | None = None,
        transfer_encoding: bytes | None = None,
        expect: bytes | None = None,
        upgrade: bytes | None = None,
        lines: int = 0,
        memo: dict[str, object] | None = None,
    ) -> None:
        self.method = method
        self.target = target  # as received
        self.http_version = http_version  # "1.0", "1.1", "2"
        self.scheme = scheme  # the transport's, or what a proxy that is believed says; never the peer's claim
        self.authority = authority  # of an absolute target, else Host (RFC 9112 §3.3)
        self.path = path  # of the target, still percent-encoded
        self.query = query
        self.protocol = protocol  # what the peer offers to switch to; "" for CONNECT; None
        self._fields: Fields | None = fields
        self.size = size  # of the head on the wire, in bytes
        self.connection = connection
        self.content_length = content_length
        self.transfer_encoding = transfer_encoding
        self.expect = expect
        self.upgrade = upgrade
        self.lines = lines  # field lines on the wire, where cookies are split there (RFC 9113 §8.2.3); else 0
        self.memo = memo  # what the gateway made of the fields; shared by a connection's requests that have the same
        # Asked several times of each request.
        self.connects = method == "CONNECT"
        self.multiplexed = http_version == "2"
        self.old = http_version == "1.0"
        self.block = b""  # a whole head, well formed, whose fields are still to be split

    @property
    def fields(self) -> Fields:
        fields = self._fields
        if fields is None:
            fields = self._fields = split_fields(self.block)
        return fields

    def forget_fields(self) -> None:
        """Keep them as they came only, where they did so in one block: they are split again when somebody asks."""
        if self.block:
            self._fields = None

    def get(self, name: bytes) -> bytes | None:
        """The value of the field *name* (lower case), joined with ", " when repeated, or None."""
        values = [value for field, value in self.fields if field == name]
        return b", ".join(values) if values else None


def split_fields(block: bytes) -> Fields:
    """The fields of a head of HTTP/1, whole, that is known to be well formed."""
    pairs = (line.partition(b":") for line in block[:-4].split(b"\r\n")[1:])
    return tuple([(name.lower(), value.strip(b" \t")) for name, _, value in pairs])


@dataclass(frozen=True, eq=False, slots=True, kw_only=True)
class Tls:
    """What TLS says of a connection (``geventgate.tls``)."""

    version: str  # "TLSv1.3"
    cipher: str  # OpenSSL's name of the suite
    server_name: str  # that the client asked for (SNI), in lower case, or ""
    alpn: str | None  # the protocol that was chosen (RFC 7301)
    peer_certificate: bytes | None  # of a client that showed one and was believed, in DER
    peer: Mapping[str, object]  # the same, decoded as ssl.SSLSocket.getpeercert() does; or empty


class FieldLine(NamedTuple):
    """One field of a response, checked."""

    wire: bytes  # the line, with its end, as HTTP/1 sends it
    field: Field  # the pair that HTTP/2 sends: the name in lower case, the value without white space around it
    minded: bool  # the server looks at it
    common: bool  # short, and no secret: it may be kept for the next time it is said


class ResponseHead:
    """A status and its fields, checked, without what the server adds. Nothing changes it: it may be said again."""

    __slots__ = (
        "code", "wire", "content_length", "dated", "named", "closing", "priority", "faults",
        "_fields", "_stamp", "_stamped",
    )  # fmt: skip

    def __init__(
        self,
        code: int,
        wire: bytes,
        content_length: int,
        dated: bool,
        named: bool,
        closing: bool,
        priority: bytes | None,
        faults: tuple[str, ...],
    ) -> None:
        self.code = code
        self.wire = wire  # status line and field lines of HTTP/1
        self.content_length = content_length  # as the application stated it, or -1
        self.dated = dated  # the application sent its own Date
        self.named = named  # and its own Server
        self.closing = closing  # the application asked for Connection: close
        self.priority = priority  # of the response (RFC 9218 §8), or None
        self.faults = faults  # what was corrected, for the log
        self._fields: list[Field] | None = None
        self._stamp = self._stamped = b""

    @property
    def fields(self) -> list[Field]:
        """The fields of HTTP/2: without Upgrade, which stands beside 426 (RFC 9113 §8.2.2)."""
        if self._fields is None:
            pairs = split_fields(self.wire + b"\r\n")
            self._fields = [field for field in pairs if field[0] != b"upgrade"]
        return self._fields

    def stamped(self, stamp: bytes) -> bytes:
        """``wire``, and *stamp* behind it; made once, as long as that is the same object."""
        if self._stamp is not stamp:
            self._stamp = stamp
            self._stamped = self.wire + stamp
        return self._stamped
