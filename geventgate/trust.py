"""Which peers are believed: those named by address, network, ``*`` or ``unix:``. A leaf."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

MAX_KNOWN_PEERS = 1024


class Peers:
    """A set of hosts, as in an Address: ``host in peers``. Raises ValueError for a name that is none.

    *names* are addresses, networks (10.0.0.0/8, fd00::/8), ``unix:`` for whoever comes through a unix socket, and
    ``*`` for everybody. An IPv4 address mapped into IPv6 is that IPv4 address.
    """

    __slots__ = ("_all", "_known", "_networks", "_unix")

    def __init__(self, names: Iterable[str]) -> None:
        self._all = self._unix = False
        self._networks: list[IPv4Network | IPv6Network] = []
        self._known: dict[str, bool] = {}
        for name in names:
            if name == "*":
                self._all = True
            elif name == "unix:":
                self._unix = True
            else:
                self._networks.append(ip_network(name))

    def __contains__(self, host: str) -> bool:
        if self._all or not host:
            return self._all or self._unix
        known = self._known.get(host)
        if known is None:
            address = plain_address(host)
            known = address is not None and any(address in network for network in self._networks)
            if len(self._known) < MAX_KNOWN_PEERS:
                self._known[host] = known
        return known

    def __bool__(self) -> bool:
        return self._all or self._unix or bool(self._networks)


def plain_address(host: str) -> IPv4Address | IPv6Address | None:
    """The address *host* is, IPv4 where it is only mapped into IPv6; None for what is no address."""
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
