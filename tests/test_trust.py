"""Whom a list of names names."""

import pytest

from geventgate import trust
from geventgate.trust import Peers


@pytest.mark.parametrize(
    ("names", "host", "named"),
    [
        ((), "127.0.0.1", False),
        ((), "", False),
        (("127.0.0.1",), "127.0.0.1", True),
        (("127.0.0.1",), "127.0.0.2", False),
        (("127.0.0.1",), "::ffff:127.0.0.1", True),
        (("10.0.0.0/8",), "10.255.0.1", True),
        (("10.0.0.0/8",), "11.0.0.1", False),
        (("fd00::/8", "10.0.0.0/8"), "fd12::1", True),
        (("::/0",), "10.0.0.1", False),
        (("fe80::/10",), "fe80::1%eth0", True),
        (("10.0.0.0/8",), "", False),
        (("unix:",), "", True),
        (("unix:",), "10.0.0.1", False),
        (("*",), "10.0.0.1", True),
        (("*",), "", True),
        (("0.0.0.0/0",), "not an address", False),
    ],
)
def test_named(names, host, named):
    peers = Peers(names)
    assert [host in peers, host in peers] == [named, named]  # asked again, it comes from memory
    assert bool(peers) is bool(names)


@pytest.mark.parametrize("name", ["", "localhost", "10.0.0.1/8", "10.0.0", "unix", "10.0.0.0/33", "::1/129", "[::1]"])
def test_no_names(name):
    with pytest.raises(ValueError, match=r".+"):
        Peers((name,))


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(trust, "MAX_KNOWN_PEERS", 3)
    peers = Peers(("10.0.0.0/8",))
    assert all(f"10.0.0.{number}" in peers for number in range(9))
    assert len(peers._known) == 3
