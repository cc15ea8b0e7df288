"""The Combined Log Format, in lines that no peer can forge."""

import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geventgate import accesslog
from geventgate.accesslog import AccessLog
from geventgate.message import RequestHead

STAMP = r"\[\d\d/(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"
QUOTED = r'"((?:[^"\\]|\\["\\]|\\x[0-9a-f]{2})*)"'  # Apache's reading of it
LINE = re.compile(rf"(\S+) - - ({STAMP}) {QUOTED} (\d{{3}}) (\d+|-) {QUOTED} {QUOTED} (\d+\.\d{{6}}|-)\n")


def ended(*, target=b"/", fields=(), method="GET", version="1.1", peer=("192.0.2.7", "5000"), status=200, sent=5):
    """The line for an exchange."""
    lines = []
    head = RequestHead(method, target, version, tuple(fields))
    AccessLog(lines.append).request_ended(SimpleNamespace(request=head, peer=peer, status=status, sent=sent), 0.0123456)
    (line,) = lines
    return line


@pytest.mark.parametrize(
    ("exchange", "expected"),
    [
        ({}, '192.0.2.7 - - STAMP "GET / HTTP/1.1" 200 5 "-" "-" 0.012346'),
        ({"peer": ("2001:db8::1", "5000")}, '2001:db8::1 - - STAMP "GET / HTTP/1.1" 200 5 "-" "-" 0.012346'),
        ({"peer": ("", "")}, '- - - STAMP "GET / HTTP/1.1" 200 5 "-" "-" 0.012346'),  # a unix socket
        ({"method": "HEAD", "sent": 0}, '192.0.2.7 - - STAMP "HEAD / HTTP/1.1" 200 - "-" "-" 0.012346'),
        ({"status": 0, "sent": 0}, '192.0.2.7 - - STAMP "GET / HTTP/1.1" 000 - "-" "-" 0.012346'),
        ({"status": 101}, '192.0.2.7 - - STAMP "GET / HTTP/1.1" 101 5 "-" "-" 0.012346'),
        ({"version": "1.0"}, '192.0.2.7 - - STAMP "GET / HTTP/1.0" 200 5 "-" "-" 0.012346'),
        (
            {"fields": [(b"host", b"x"), (b"referer", b"http://a/?b"), (b"user-agent", b"curl/8 (x)")]},
            '192.0.2.7 - - STAMP "GET / HTTP/1.1" 200 5 "http://a/?b" "curl/8 (x)" 0.012346',
        ),
        (
            {"target": b"/\x1b[31m\r\nx", "fields": [(b"user-agent", b'a" 200 "\\\t\x00\x7f\xe9')]},
            r'192.0.2.7 - - STAMP "GET /\x1b[31m\x0d\x0ax HTTP/1.1" 200 5 "-" "a\" 200 \"\\\x09\x00\x7f\xe9" 0.012346',
        ),
    ],
)
def test_lines(exchange, expected):
    line = ended(**exchange)
    stamp = re.search(STAMP, line)
    assert stamp, line
    assert line.replace(stamp[0], "STAMP") == expected + "\n"


def unescaped(text):
    return re.sub(r"\\(?:x(..)|(.))", lambda one: one[2] or chr(int(one[1], 16)), text)


@given(target=st.binary(), referer=st.binary(), agent=st.binary())
def test_whatever_a_peer_sends_is_one_line_and_can_be_read_back(target, referer, agent):
    line = ended(target=target, fields=[(b"referer", referer), (b"user-agent", agent)])
    found = LINE.fullmatch(line)
    assert found, line
    assert line[:-1].isascii()
    assert line[:-1].isprintable()
    said = [unescaped(text) for text in found.group(3, 6, 7)]
    assert said == [f"GET {target.decode('latin-1')} HTTP/1.1", referer.decode("latin-1"), agent.decode("latin-1")]


def test_what_was_no_request():
    lines = []
    AccessLog(lines.append).request_refused(("192.0.2.7", "5000"), 400, "bare LF")
    (line,) = lines
    assert LINE.fullmatch(line)
    assert re.sub(STAMP, "STAMP", line) == '192.0.2.7 - - STAMP "-" 400 - "-" "-" -\n'


def test_the_stamp_follows_the_clock(monkeypatch):
    now = 1_700_000_000.9
    monkeypatch.setattr(accesslog.time, "time", lambda: now)
    monkeypatch.setattr(accesslog.time, "localtime", accesslog.time.gmtime)
    lines = []
    log = AccessLog(lines.append)
    log.request_refused(("a", "1"), 400, "")
    log.request_refused(("a", "1"), 400, "")
    now += 0.1
    log.request_refused(("a", "1"), 400, "")
    assert [re.search(STAMP, line)[0][:22] for line in lines] == [
        "[14/Nov/2023:22:13:20 ",
        "[14/Nov/2023:22:13:20 ",
        "[14/Nov/2023:22:13:21 ",
    ]
