"""No connection leaves for a network that is not allowed, however its address is written or comes about."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import address
from twisted.internet import reactor as real_reactor
from twisted.internet.interfaces import IHostnameResolver, IReactorPluggableNameResolver
from zope.interface import implementer

from twisted_kv.errors import BadParameter, NotANode, PeerUnreachable
from twisted_kv.limits import Limits
from twisted_kv.networks import LOOPBACK, Networks
from twisted_kv.peers.control import Control
from twisted_kv.peers.http import HttpTransport
from twisted_kv.peers.link import LinkTransport
from twisted_kv.seating import checked_url

DENIED = ["169.254.169.254", "10.0.0.1", "192.168.1.1", "172.16.0.1", "100.64.0.1", "0.0.0.0", "224.0.0.1", "8.8.8.8"]
"""Metadata of clouds, private networks, this host, many hosts, and somebody else."""


def spellings(address: str) -> Iterator[str]:
    """Ways to write an IPv4 address that a resolver may take."""
    number = int(IPv4Address(address))
    parts = [int(part) for part in address.split(".")]
    yield address
    yield str(number)
    yield f"0x{number:x}"
    yield f"0X{number:X}"
    yield f"0{number:o}"
    yield ".".join(f"0x{part:x}" for part in parts)
    yield ".".join(f"0{part:o}" for part in parts)
    yield ".".join(f"{part:03}" for part in parts)
    yield ".".join(f"{part:#010x}" for part in parts)
    yield f"{parts[0]}.{parts[1]}.{parts[2] * 256 + parts[3]}"
    yield f"{parts[0]}.{number & 0xFFFFFF}"
    yield f"0x{parts[0]:x}.0{parts[1]:o}.{parts[2]}.{parts[3]}"
    yield f"0{parts[0]:o}.{number & 0xFFFFFF}"
    yield f"{address}."
    yield f"[::ffff:{address}]"
    yield f"[::ffff:{parts[0] * 256 + parts[1]:x}:{parts[2] * 256 + parts[3]:x}]"
    yield f"[0:0:0:0:0:ffff:{address}]"
    yield f"[::{address}]"
    yield f"[64:ff9b::{address}]"
    yield f"[2002:{parts[0] * 256 + parts[1]:x}:{parts[2] * 256 + parts[3]:x}::]"
    yield f"[fe80::{parts[2] * 256 + parts[3]:x}%25lo]"
    yield f"localhost@{address}"
    yield f"127.0.0.1#@{address}"
    yield f"127.0.0.1\\@{address}"


TRICKS = list(dict.fromkeys(spelt for denied in DENIED for spelt in spellings(denied)))
HERE = Networks(LOOPBACK)
NOBODY = 9
"""A port that is reserved (discard), and closed."""


def as_number(host: str) -> list[str]:
    """Look up what the system takes for an address, and ask nobody."""
    try:
        found = socket.getaddrinfo(host, NOBODY, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except OSError:
        return []
    return [str(one[4][0]) for one in found]


@implementer(IHostnameResolver, IReactorPluggableNameResolver)
class Dialer:
    """A reactor that looks names up as it is told, and takes a note of who is called instead of calling him."""

    def __init__(self, looked_up: Callable[[str], list[str]] = as_number) -> None:
        self.looked_up = looked_up
        self.called: list[str] = []
        self.nameResolver = self

    def __getattr__(self, name: str) -> Any:
        return getattr(real_reactor, name)

    def connectTCP(self, host: str, port: int, *args: Any, **kw: Any) -> Any:
        self.called.append(host)
        connecting: Any = real_reactor
        return connecting.connectTCP("127.0.0.1", NOBODY, *args, **kw)

    def resolveHostName(self, receiver: Any, hostName: str, portNumber: int = 0, *rest: Any) -> Any:
        receiver.resolutionBegan(self)
        for host in self.looked_up(hostName):
            kind = address.IPv6Address if ":" in host else address.IPv4Address
            receiver.addressResolved(kind("TCP", host, portNumber))
        receiver.resolutionComplete()
        return self


async def asked(dialer: Dialer, url: str, networks: Networks | None) -> NotANode:
    """Ask for a node at a URL, as AddServer does, and give what is said of it."""
    transport = HttpTransport(dialer, Limits(), networks=networks)
    try:
        with pytest.raises(NotANode) as caught:
            await Control(transport, Limits()).info(checked_url(url))
        return caught.value
    finally:
        await transport.close()


async def called(networks: Networks | None) -> int:
    dialer = Dialer()
    for trick in TRICKS:
        try:
            await asked(dialer, f"http://{trick}:80", networks)
        except BadParameter:
            continue
    return len(dialer.called)


@pytest_twisted.ensureDeferred
async def test_of_two_hundred_tricks_none_reaches_a_denied_network() -> None:
    assert len(TRICKS) >= 180
    assert await called(HERE) == 0
    assert await called(None) > 100, "these are tricks: without a list of networks most of them work"


@pytest_twisted.ensureDeferred
async def test_the_address_that_was_judged_is_the_one_that_is_called() -> None:
    answers = [["127.0.0.1"], ["10.0.0.1"]]
    dialer = Dialer(lambda host: answers.pop(0))
    await asked(dialer, "http://rebinding.example:80", HERE)
    assert dialer.called == ["127.0.0.1"]
    said = await asked(dialer, "http://rebinding.example:80", HERE)
    assert dialer.called == ["127.0.0.1"]
    assert "10.0.0.1 is in none of the networks that may be called: 127.0.0.0/8, ::1/128" in said.detail
    assert "--node-networks" in said.hint


@pytest_twisted.ensureDeferred
async def test_of_several_addresses_only_those_that_are_allowed_are_called() -> None:
    dialer = Dialer(lambda host: ["10.0.0.1", "127.0.0.2", "fe80::1"])
    await asked(dialer, "http://several.example:80", HERE)
    assert dialer.called == ["127.0.0.2"]


@pytest_twisted.ensureDeferred
async def test_a_link_is_not_made_to_a_denied_network_either() -> None:
    dialer = Dialer()
    http = HttpTransport(dialer, Limits(), networks=HERE)
    transport = LinkTransport(dialer, Limits(), http)
    try:
        with pytest.raises(PeerUnreachable):
            await transport.request("POST", "http://10.0.0.1:80/node/v1/batch", b"", content_type="", timeout_s=5)
        assert dialer.called == []
    finally:
        await transport.close()
