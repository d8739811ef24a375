"""Networks that a daemon may call: whoever may add a member makes proxies and nodes call a URL of his choice."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import TypeAlias

from .errors import BadConfig

Network: TypeAlias = IPv4Network | IPv6Network

LOOPBACK: tuple[Network, ...] = (ip_network("127.0.0.0/8"), ip_network("::1/128"))


class Networks:
    """A list of networks: what is in none of them is not called."""

    def __init__(self, allowed: Iterable[Network]) -> None:
        self._allowed = tuple(allowed)

    def admit(self, address: str) -> bool:
        """Say whether an address, as a resolver gives it, is in one of them. An IPv4 address that is mapped into IPv6
        (RFC 4291, section 2.5.5.2) is what it maps."""
        try:
            found = ip_address(address)
        except ValueError:
            return False
        found = getattr(found, "ipv4_mapped", None) or found
        return any(found in network for network in self._allowed)

    def __str__(self) -> str:
        return ", ".join(map(str, self._allowed))


def parse_networks(texts: Iterable[str]) -> tuple[Network, ...]:
    """Read networks in CIDR notation (RFC 4632).

    :raises BadConfig: naming the one that is none.
    """
    found = []
    for text in texts:
        try:
            found.append(ip_network(text.strip()))
        except ValueError as error:
            raise BadConfig(f"{text[:60]!r} is no network: {error}", "give networks like 10.1.0.0/16") from None
    return tuple(found)
