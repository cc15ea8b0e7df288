"""What peers may do: frames in, a verdict out. Every case is fed whole, byte by byte, and in two at every place."""

from itertools import pairwise

import pytest
from http2_wire import (
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PROTOCOL_ERROR,
    RST_STREAM,
    SETTINGS,
    STREAM_CLOSED,
    WINDOW_UPDATE,
    raw_frame,
)
from hypothesis import given
from hypothesis import strategies as st

from geventgate.protocol.conduct import MAX_UNENDED, Conduct
from geventgate.protocol.http2 import Budget, Limits

LIMITS = Limits(continuations=2, settings=2, control=(5, 1), resets=(3, 1))


def head(stream_id: int, flags: int = END_STREAM) -> bytes:
    return raw_frame(HEADERS, END_HEADERS | flags, stream_id, b"fields")


def data(stream_id: int, flags: int = 0, content: bytes = b"x") -> bytes:
    return raw_frame(DATA, flags, stream_id, content)


def priority(stream_id: int, on: int = 0) -> bytes:
    return raw_frame(PRIORITY, 0, stream_id, on.to_bytes(4, "big") + b"\x10")


def more(flags: int = 0) -> bytes:
    return raw_frame(CONTINUATION, flags, 1, b"more")


RESET = raw_frame(RST_STREAM, 0, 1, bytes(4))
UNENDED = raw_frame(HEADERS, END_HEADERS, 1, b"fields")
PINGED = raw_frame(PING, 0, 0, bytes(8))

GOOD: list[tuple[str, list[bytes]]] = [
    ("requests", [head(1), head(3), head(5)]),
    ("content", [UNENDED, data(1), data(1, END_STREAM)]),
    ("an empty end", [UNENDED, data(1, END_STREAM, b"")]),
    ("trailers", [UNENDED, data(1), head(1)]),
    ("streams passed over", [head(3), head(101)]),
    ("two streams by turns", [UNENDED, raw_frame(HEADERS, 0, 3), data(1), data(3), data(1, END_STREAM), data(3)]),
    ("PRIORITY of anything", [priority(9), priority(1, 9), head(1), priority(1, 3)]),
    ("PRIORITY that is too short", [raw_frame(PRIORITY, 0, 1, b"\0\0\0\1")]),  # nghttp2 judges it
    ("what may come late", [head(1), RESET, raw_frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1"), priority(1)]),
    ("as many CONTINUATIONs as allowed", [UNENDED, more(), more(END_HEADERS), head(1), more(), more()]),
    ("as many settings", [raw_frame(SETTINGS, 0, 0, bytes(12))]),
    ("as many frames without content", [PINGED] * 5),
    ("more, for requests", [PINGED] * 4 + [head(1), head(3), head(5)] + [PINGED] * 4),
    ("more, for content", [UNENDED] + [PINGED, data(1)] * 20),
    ("as many resets", [head(1), RESET, RESET, RESET]),
    ("the reserved bit", [head(1 | 1 << 31), head(3), raw_frame(WINDOW_UPDATE, 0, 1 | 1 << 31, b"\0\0\0\1")]),
]

BAD: list[tuple[str, list[bytes], bytes, int]] = [
    ("DATA behind the end", [head(1)], data(1), STREAM_CLOSED),
    ("HEADERS behind the end", [head(1)], head(1), STREAM_CLOSED),
    ("DATA behind the end of content", [UNENDED, data(1, END_STREAM)], data(1), STREAM_CLOSED),
    ("DATA behind trailers", [UNENDED, head(1)], data(1), STREAM_CLOSED),
    ("DATA behind a reset", [UNENDED, RESET], data(1), STREAM_CLOSED),
    ("HEADERS behind a reset", [UNENDED, RESET], head(1), STREAM_CLOSED),
    ("a stream passed over", [head(5)], head(3), PROTOCOL_ERROR),
    ("DATA of a stream passed over", [head(1), head(9)], data(7), PROTOCOL_ERROR),
    ("DATA of an idle stream", [head(1)], data(3), PROTOCOL_ERROR),
    ("a server's stream", [], head(2), PROTOCOL_ERROR),
    ("DATA of a server's stream", [], data(2), PROTOCOL_ERROR),
    ("DATA of no stream", [], data(0), PROTOCOL_ERROR),
    ("HEADERS of no stream", [], head(0), PROTOCOL_ERROR),
    ("PRIORITY of no stream", [], priority(0), PROTOCOL_ERROR),
    ("a stream that depends on itself", [], priority(3, 3), PROTOCOL_ERROR),
    ("exclusively", [], priority(3, 3 | 1 << 31), PROTOCOL_ERROR),
    ("too many CONTINUATIONs", [UNENDED, more(), more()], more(), ENHANCE_YOUR_CALM),
    ("too many settings", [], raw_frame(SETTINGS, 0, 0, bytes(18)), ENHANCE_YOUR_CALM),
    ("too many PINGs", [PINGED] * 5, PINGED, ENHANCE_YOUR_CALM),
    ("too many of different kinds", [PINGED, raw_frame(SETTINGS, 0, 0), raw_frame(GOAWAY, 0, 0, bytes(8)),
     raw_frame(0x99, 0xFF, 7, b"?"), priority(1)], PINGED, ENHANCE_YOUR_CALM),
    ("too much empty DATA", [UNENDED] + [data(1, 0, b"")] * 5, data(1, 0, b""), ENHANCE_YOUR_CALM),
    ("too much padding", [UNENDED] + [data(1, PADDED, b"\x01\0")] * 5, data(1, PADDED, b"\0"), ENHANCE_YOUR_CALM),
    ("too many resets", [head(1), RESET, RESET, RESET], RESET, ENHANCE_YOUR_CALM),
]  # fmt: skip


def judge(octets: bytes, *cuts: int) -> tuple[int, int] | None:
    """Where the bad frame is, and the code; the pieces before it count, and it may begin in one of them."""
    conduct = Conduct(LIMITS, Budget(LIMITS.resets))
    for start, end in pairwise([0, *cuts, len(octets)]):
        verdict = conduct.inspect(octets[start:end], 1.0)
        if verdict is not None:
            assert 0 <= verdict.before <= end - start
            assert verdict.why
            return start + verdict.before, verdict.code
    return None


@pytest.mark.parametrize("frames", [case[1] for case in GOOD], ids=[case[0] for case in GOOD])
def test_good_conduct(frames):
    octets = PREFACE + b"".join(frames)
    assert judge(octets) is None
    assert judge(octets, *range(1, len(octets))) is None
    for cut in range(len(octets)):
        assert judge(octets, cut) is None


@pytest.mark.parametrize(("before", "frame", "code"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_bad_conduct(before, frame, code):
    good = PREFACE + b"".join(before)
    assert judge(good) is None
    octets = good + frame
    for behind in (b"", head(11)):
        assert judge(octets + behind) == (len(good), code)
        for cuts in (range(1, len(octets)), *((cut,) for cut in range(len(octets)))):
            found = judge(octets + behind, *cuts)
            assert found is not None
            assert len(good) <= found[0] < len(octets)  # the beginning of its head may have been let through
            assert found[1] == code


@given(st.data())
def test_the_splitting_makes_no_difference(data):
    frames = [piece for case in GOOD for piece in case[1]] + [case[2] for case in BAD]
    octets = PREFACE + b"".join(data.draw(st.lists(st.sampled_from(frames), max_size=10)))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(octets)), max_size=8)))
    whole, split = judge(octets), judge(octets, *cuts)
    assert (whole is None) == (split is None)
    if whole is not None and split is not None:
        assert whole[1] == split[1]
        assert whole[0] <= split[0]


def test_time_refills_the_budgets():
    conduct = Conduct(LIMITS, Budget(LIMITS.resets))
    assert conduct.inspect(PREFACE + PINGED * 5, 1.0) is None
    assert conduct.inspect(PINGED, 2.5) is None
    assert conduct.inspect(PINGED, 2.6) is not None


def test_served_peers_may_say_more():
    conduct = Conduct(LIMITS, Budget(LIMITS.resets))
    assert conduct.inspect(PREFACE + PINGED * 5, 1.0) is None
    conduct.earned += 2
    assert conduct.inspect(PINGED * 2, 1.0) is None
    assert conduct.inspect(PINGED, 1.0) is not None


def test_where_the_input_has_come_to():
    conduct = Conduct(LIMITS, Budget(LIMITS.resets))
    frame = data(1, 0, b"content")
    octets = PREFACE + UNENDED + frame
    for octet in octets[:-1]:
        conduct.inspect(bytes((octet,)), 1.0)
    assert (conduct.opened, conduct.highest, conduct.inside) == (1, 1, 1)
    conduct.inspect(octets[-1:], 1.0)
    assert conduct.inside == 0
    conduct.inspect(frame[:10], 1.0)
    assert conduct.inside == 1
    conduct.inspect(frame[10:] + head(3)[:10], 1.0)
    assert (conduct.opened, conduct.highest, conduct.inside) == (2, 3, 0)


def test_streams_that_are_never_ended_are_forgotten():
    """Memory is bounded; of the forgotten nothing is asserted, of all others the same as ever."""
    conduct = Conduct(LIMITS, Budget(LIMITS.resets))
    last = 20 * MAX_UNENDED + 1
    assert conduct.inspect(PREFACE, 1.0) is None
    for stream_id in range(1, last + 2, 2):
        assert conduct.inspect(head(stream_id, 0), 1.0) is None
    assert len(conduct._unended) <= MAX_UNENDED
    assert conduct.inspect(data(1) + data(last) + data(last, END_STREAM) + data(last - 2), 1.0) is None
    verdict = conduct.inspect(data(last), 1.0)
    assert verdict is not None
    assert verdict.code == STREAM_CLOSED


def test_gaps_are_forgotten():
    conduct = Conduct(LIMITS, Budget(LIMITS.resets))
    heads = b"".join(head(stream_id) for stream_id in range(5, 4005, 4))
    assert conduct.inspect(PREFACE + heads, 1.0) is None
    assert len(conduct._gaps) < 100
    verdict = conduct.inspect(head(3), 1.0)
    assert verdict is not None  # by another name
    assert verdict.code == STREAM_CLOSED
