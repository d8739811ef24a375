"""The networks that this machine is a part of."""

from __future__ import annotations

import socket
from ipaddress import ip_address, ip_network

import psutil

from .networks import LOOPBACK, Network, Networks, parse_networks

WIDEST = {4: 8, 6: 32}
"""The shortest prefix that is taken for a network of neighbours; a tunnel's may leave nothing out."""


def allowed_networks(named: list[str] | None) -> Networks:
    """Give the networks in which nodes may be.

    :param named: as they were configured; None for loopback and those of this machine's interfaces.
    :raises BadConfig: if one of them is none.
    """
    return Networks(parse_networks(named) if named is not None else (*LOOPBACK, *own_networks()))


def own_networks() -> list[Network]:
    """Give the networks of this machine's interfaces, but for link-local ones: where a cloud's machine is told its
    secrets is such an address (169.254.169.254)."""
    found: dict[Network, None] = {}
    for addresses in psutil.net_if_addrs().values():
        for one in addresses:
            if one.family not in (socket.AF_INET, socket.AF_INET6) or not one.netmask:
                continue
            address = ip_address(one.address.partition("%")[0])
            length = int(ip_address(one.netmask)).bit_count()
            if address.is_link_local or address.is_loopback:
                continue
            if length < WIDEST[address.version]:
                length = address.max_prefixlen
            found[ip_network((address, length), strict=False)] = None
    return list(found)
