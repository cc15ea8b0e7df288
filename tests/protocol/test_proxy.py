"""PROXY headers: tables of (bytes, value), each fed whole, byte by byte, and with a tail."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geventgate.errors import PeerError
from geventgate.protocol.proxy import MAX_V1, MAX_V2, SIGNATURE, ProxyHeader, crc32c, parse_proxy_header

V4 = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.2") + struct.pack("!HH", 56324, 443)
V6 = socket.inet_pton(socket.AF_INET6, "2001:db8::1") + socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.9")
V6 += struct.pack("!HH", 1, 65535)
UNIX = b"/run/a".ljust(108, b"\0") + b"/run/b".ljust(108, b"\0")
CLIENT, SERVER = ("192.0.2.1", "56324"), ("198.51.100.2", "443")


def v2(command: int, family: int, block: bytes = b"", length: int = -1) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(block) if length < 0 else length) + block


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def summed(block: bytes) -> bytes:
    """A header with its checksum, which counts itself as zeros."""
    header = v2(0x21, 0x11, block + tlv(3, bytes(4)))
    return header[:-4] + struct.pack("!I", crc32c(header))


GOOD = {
    b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n": (CLIENT, SERVER),
    b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n": (("255.255.255.255", "65535"),) * 2,
    b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n": (("0.0.0.0", "0"),) * 2,
    b"PROXY TCP6 2001:DB8:0::1 ::ffff:192.0.2.9 1 65535\r\n": (("2001:db8::1", "1"), ("::ffff:192.0.2.9", "65535")),
    b"PROXY TCP6 " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n": (
        ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "65535"),
    )
    * 2,
    b"PROXY UNKNOWN\r\n": (None, None),
    b"PROXY UNKNOWN " + b"x" * (MAX_V1 - 16) + b"\r\n": (None, None),
    v2(0x21, 0x11, V4): (CLIENT, SERVER),
    v2(0x21, 0x21, V6): (("2001:db8::1", "1"), ("::ffff:192.0.2.9", "65535")),
    v2(0x21, 0x31, UNIX): (("", ""), ("", "")),
    v2(0x21, 0x00): (None, None),
    v2(0x21, 0x00, tlv(4, b"nothing")): (None, None),
    v2(0x20, 0x00): (None, None),
    v2(0x20, 0x11, V4): (None, None),
    v2(0x20, 0xFF, b"whatever"): (None, None),
    v2(0x21, 0x11, V4 + tlv(4, b"") + tlv(1, b"h2") + tlv(0xEA, b"\1vpce-1")): (CLIENT, SERVER),
    v2(0x21, 0x11, V4 + tlv(4, bytes(MAX_V2 - 16 - 12 - 3))): (CLIENT, SERVER),
    summed(V4): (CLIENT, SERVER),
    summed(V4 + tlv(2, b"example.org")): (CLIENT, SERVER),
}

BAD = {
    b"GET / HTTP/1.1\r\n": "no PROXY header",
    b"\x16\x03\x01": "no PROXY header",
    b"proxy TCP4": "no PROXY header",
    b"PROXY\tTCP4": "no PROXY header",
    b"\r\n\r\n\0\r\nQUIT\r": "no PROXY header",
    b"PROXY \r\n": "malformed PROXY line",
    b"PROXY UNKNOWNS\r\n": "malformed PROXY line",
    b"PROXY UNKNOWN\n": "malformed PROXY line",
    b"PROXY TCP5 192.0.2.1 198.51.100.2 1 2\r\n": "malformed PROXY line",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\n": "malformed PROXY line",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n": "malformed PROXY line",
    b"PROXY TCP4  192.0.2.1 198.51.100.2 1 2\r\n": "malformed PROXY line",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2 \r\n": "malformed PROXY line",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 01 2\r\n": "malformed PROXY line",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 +1 2\r\n": "malformed PROXY line",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 2\r\n": "malformed port",
    b"PROXY TCP4 192.0.2.256 198.51.100.2 1 2\r\n": "malformed address",
    b"PROXY TCP4 192.0.2.01 198.51.100.2 1 2\r\n": "malformed address",
    b"PROXY TCP4 ::1 ::1 1 2\r\n": "malformed address",
    b"PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n": "malformed address",
    b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n": "malformed PROXY line",
    b"PROXY TCP4 192.0.2.1\0 198.51.100.2 1 2\r\n": "malformed PROXY line",
    b"PROXY TCP4 " + b"1" * 100: "too long",
    b"PROXY UNKNOWN " + b"x" * (MAX_V1 - 15) + b"\r\n": "too long",
    v2(0x11, 0x11, V4): "version or command",
    v2(0x22, 0x11, V4): "version or command",
    v2(0x21, 0x12, V4): "address family",
    v2(0x21, 0x01, V4): "address family",
    v2(0x21, 0x41, V4): "address family",
    v2(0x21, 0x11, V4[:-1]): "its length",
    v2(0x21, 0x21, V4): "its length",
    v2(0x21, 0x31, UNIX[:-1]): "its length",
    v2(0x21, 0x11, V4, MAX_V2 - 15): "too long",
    v2(0x21, 0x11, V4 + b"\4"): "a TLV",
    v2(0x21, 0x11, V4 + b"\4\0\2x"): "a TLV",
    v2(0x21, 0x00, b"xx"): "a TLV",
    v2(0x21, 0x11, V4 + tlv(3, bytes(4))): "its checksum",
    v2(0x21, 0x11, V4 + tlv(3, bytes(3))): "its checksum",
}


@pytest.mark.parametrize("wire", GOOD, ids=lambda wire: repr(wire[:40]))
@pytest.mark.parametrize("tail", [b"", b"GET / HTTP/1.1\r\n\r\n", b"\n\n", bytes(5000)])
def test_good(wire, tail):
    header = ProxyHeader(len(wire), *GOOD[wire])
    assert parse_proxy_header(wire + tail) == header
    assert parse_proxy_header(wire + tail, "v2" if wire.startswith(b"\r") else "v1") == header
    assert [parse_proxy_header(wire[:count]) for count in range(len(wire))] == [None] * len(wire)


@pytest.mark.parametrize("wire", GOOD, ids=lambda wire: repr(wire[:40]))
def test_the_other_version_is_refused(wire):
    with pytest.raises(PeerError, match="no PROXY header"):
        parse_proxy_header(wire, "v1" if wire.startswith(b"\r") else "v2")


@pytest.mark.parametrize("wire", BAD, ids=lambda wire: repr(wire[:60]))
def test_bad(wire):
    """Byte by byte too: at some byte it is refused, and as the same thing."""
    with pytest.raises(PeerError, match=BAD[wire]) as caught:
        parse_proxy_header(wire)
    assert caught.value.status == 400
    said = ""
    for count in range(len(wire) + 1):
        try:
            assert parse_proxy_header(wire[:count]) is None
        except PeerError as error:
            said = str(error)
            break
    assert BAD[wire] in said


@given(st.binary(max_size=300))
def test_whatever_comes(data):
    """A header, None or PeerError; and more bytes never change what was said."""
    for wire in (data, b"PROXY " + data, SIGNATURE + data, SIGNATURE + b"\x21\x11\0\x20" + data):
        try:
            header = parse_proxy_header(wire)
        except PeerError:
            with pytest.raises(PeerError):
                parse_proxy_header(wire + b"more")
        else:
            if header is not None:
                assert 0 < header.size <= len(wire)
                assert parse_proxy_header(wire + b"more") == header
                assert parse_proxy_header(wire[: header.size - 1]) is None


@given(st.ip_addresses(v=4), st.ip_addresses(v=6), st.integers(0, 65535))
def test_what_others_write_is_read(four, six, port):
    for version, address in ((b"4", four), (b"6", six)):
        family = socket.AF_INET if version == b"4" else socket.AF_INET6
        packed = socket.inet_pton(family, str(address))
        text = socket.inet_ntop(family, packed)
        line = f"PROXY TCP{version.decode()} {text} {text} {port} {port}\r\n".encode()
        header = v2(0x21, 0x11 if version == b"4" else 0x21, packed * 2 + struct.pack("!HH", port, port))
        for wire in (line, header):
            parsed = parse_proxy_header(wire)
            assert parsed is not None
            assert parsed.client is not None
            assert socket.inet_pton(family, parsed.client[0]) == packed
            assert parsed.client == parsed.server
            assert parsed.client[1] == str(port)


def test_the_checksum():
    assert crc32c(b"123456789") == 0xE3069283  # the check value of its definition
