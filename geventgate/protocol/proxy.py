"""The PROXY protocol, versions 1 and 2: what a proxy says about a connection before the connection's own bytes.

https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt, whose sections are cited. Knows no socket; whom to believe
is for the caller to know. A header is judged as soon as more bytes cannot mend it.
"""

import re
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from geventgate.errors import PeerError
from geventgate.exchange import Address

V1_BEGIN = b"PROXY "
MAX_V1 = 107  # bytes, CRLF included (§2.1)
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"  # of version 2 (§2.2)
V2_FIXED = 16
MAX_V2 = 4096  # 16 + 216 without TLVs; the largest in use, a client's certificate, is half of that

LOCAL, PROXY = 0x20, 0x21  # version and command
UNSPECIFIED, TCP4, TCP6, UNIX = 0x00, 0x11, 0x21, 0x31  # family and transport
SIZES = {UNSPECIFIED: 0, TCP4: 12, TCP6: 36, UNIX: 216}  # of the addresses
CRC32C = 0x03  # the type of a TLV

_v1 = re.compile(rb"PROXY TCP([46]) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) (0|[1-9][0-9]{0,4}) (0|[1-9][0-9]{0,4})\r\n")


class ProxyHeader(NamedTuple):
    """*client* and *server* are None where the connection's own addresses stand: LOCAL, UNKNOWN, UNSPEC."""

    size: int  # of the header, in bytes
    client: Address | None
    server: Address | None


def parse_proxy_header(buffer: bytes, version: str = "auto") -> ProxyHeader | None:
    """Return the header *buffer* begins with, or None while it is incomplete. *version* is v1, v2 or auto.

    Raises PeerError 400.
    """
    if version != "v2" and V1_BEGIN.startswith(buffer[: len(V1_BEGIN)]):
        return _parse_v1(buffer)
    if version != "v1" and SIGNATURE.startswith(buffer[: len(SIGNATURE)]):
        return _parse_v2(buffer)
    raise PeerError(400, "no PROXY header, which this peer must send")


def _parse_v1(buffer: bytes) -> ProxyHeader | None:
    """A line of text (§2.1)."""
    line = buffer[:MAX_V1]
    end = line.find(b"\n") + 1
    if not end:
        if len(line) < MAX_V1:
            return None
        raise PeerError(400, "a PROXY line is too long")
    line = line[:end]
    # "PROXY UNKNOWN\r\n" [...] the receiver must ignore anything presented before the CRLF is found
    if (line.startswith(b"PROXY UNKNOWN ") or line == b"PROXY UNKNOWN\r\n") and line.endswith(b"\r\n"):
        return ProxyHeader(end, None, None)
    match = _v1.fullmatch(line)
    if match is None:
        raise PeerError(400, "malformed PROXY line")
    family, *hosts = (part.decode("ascii") for part in match.groups()[:3])
    ports = [part.decode("ascii") for part in match.groups()[3:]]
    try:
        client, server = (host_text(IPv4Address(host) if family == "4" else IPv6Address(host)) for host in hosts)
    except ValueError:
        raise PeerError(400, "malformed address in a PROXY line") from None
    if max(map(int, ports)) > 65535:
        raise PeerError(400, "malformed port in a PROXY line")
    return ProxyHeader(end, (client, ports[0]), (server, ports[1]))


def _parse_v2(buffer: bytes) -> ProxyHeader | None:
    """A binary header (§2.2): signature, command, family, length, addresses, TLVs."""
    if len(buffer) > 12 and buffer[12] not in (LOCAL, PROXY):
        raise PeerError(400, "malformed PROXY header: its version or command")
    if len(buffer) < V2_FIXED:
        return None
    command, family = buffer[12], buffer[13]
    size = V2_FIXED + int.from_bytes(buffer[14:16])
    if size > MAX_V2:
        raise PeerError(400, "a PROXY header is too long")
    # Of LOCAL "the receiver must [...] discard the protocol block including the family which is ignored".
    if command == PROXY:
        if family not in SIZES:  # "other values [...] must be rejected as invalid by receivers"; so are datagrams
            raise PeerError(400, "malformed PROXY header: its address family")
        if size < V2_FIXED + SIZES[family]:
            raise PeerError(400, "malformed PROXY header: its length")
    if len(buffer) < size:
        return None
    if command == LOCAL:
        return ProxyHeader(size, None, None)
    header = buffer[:size]
    _check_tlvs(header, V2_FIXED + SIZES[family])
    if family == UNSPECIFIED:
        return ProxyHeader(size, None, None)
    if family == UNIX:
        return ProxyHeader(size, ("", ""), ("", ""))
    width = 4 if family == TCP4 else 16
    kind = IPv4Address if family == TCP4 else IPv6Address
    hosts = [host_text(kind(header[at : at + width])) for at in (V2_FIXED, V2_FIXED + width)]
    at = V2_FIXED + 2 * width
    ports = [str(int.from_bytes(header[at : at + 2])), str(int.from_bytes(header[at + 2 : at + 4]))]
    return ProxyHeader(size, (hosts[0], ports[0]), (hosts[1], ports[1]))


def host_text(address: IPv4Address | IPv6Address) -> str:
    """As inet_ntop(3) writes it, in every version of Python."""
    mapped = getattr(address, "ipv4_mapped", None)
    return f"::ffff:{mapped}" if mapped else str(address)


def _check_tlvs(header: bytes, at: int) -> None:
    """Walk over the TLVs (§2.2.6), none of which tells us anything but the checksum (§2.2.3)."""
    while at < len(header):
        value = at + 3
        end = value + int.from_bytes(header[at + 1 : value])
        if value > len(header) or end > len(header):
            raise PeerError(400, "malformed PROXY header: a TLV")
        if header[at] == CRC32C:
            without = header[:value] + bytes(4) + header[end:]
            if end - value != 4 or crc32c(without) != int.from_bytes(header[value:end]):
                raise PeerError(400, "malformed PROXY header: its checksum")
        at = end


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE = tuple(map(_entry, range(256)))


def crc32c(data: bytes) -> int:
    """The Castagnoli CRC (RFC 3720 §12.1), which zlib has not."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
