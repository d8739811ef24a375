"""What is written leaves at once where it can, and never out of its order."""

from __future__ import annotations

import random
from typing import Any

import pytest
from twisted.internet.tcp import Connection

from twisted_kv.fasthttp.outlet import Outlet


class Tcp(Connection):
    """A transport of TCP's kind: the kernel takes so many bytes at a time, and the rest is kept."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.arrived = b""
        self.kept = b""
        self.lost = False

    def getHandle(self) -> Tcp:
        """Give the socket, which this stands for, too."""
        return self

    def send(self, data: bytes) -> int:
        if self.lost:
            raise ConnectionResetError
        if not self.room:
            raise BlockingIOError
        assert not self.kept, "this would overtake what is kept"
        taken = min(self.room, len(data))
        self.room -= taken
        self.arrived += data[:taken]
        return taken

    def write(self, data: bytes) -> None:
        self.kept += data

    def drain(self, room: int) -> None:
        """Let the kernel take all that is kept, and have so much room left."""
        self.arrived += self.kept
        self.kept = b""
        self.room = room


class Plain:
    """A transport that stands before one of TCP's, as TLS does."""

    def __init__(self, tcp: Tcp) -> None:
        self._tcp = tcp
        self.kept = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tcp, name)

    def write(self, data: bytes) -> None:
        self.kept += data


def test_what_the_kernel_takes_is_not_kept() -> None:
    tcp = Tcp(room=100)
    outlet = Outlet(tcp)
    outlet.write(b"abc")
    outlet.write(b"def")
    assert (tcp.arrived, tcp.kept) == (b"abcdef", b"")


def test_what_it_does_not_take_is_the_transports_and_so_is_all_that_follows() -> None:
    tcp = Tcp(room=4)
    outlet = Outlet(tcp)
    outlet.write(b"abc")
    outlet.write(b"def")
    tcp.room = 100
    outlet.write(b"ghi")
    assert (tcp.arrived, tcp.kept) == (b"abcd", b"efghi")


def test_when_all_has_left_it_sends_at_once_again() -> None:
    tcp = Tcp(room=0)
    outlet = Outlet(tcp)
    outlet.write(b"abc")
    tcp.drain(room=100)
    outlet.drained()
    outlet.write(b"def")
    assert (tcp.arrived, tcp.kept) == (b"abcdef", b"")


def test_a_lost_connection_is_for_the_transport_to_find() -> None:
    tcp = Tcp(room=100)
    tcp.lost = True
    outlet = Outlet(tcp)
    outlet.write(b"abc")
    assert tcp.kept == b"abc"


def test_what_stands_before_a_transport_is_not_passed_by() -> None:
    tcp = Tcp(room=100)
    plain = Plain(tcp)
    outlet = Outlet(plain)
    outlet.write(b"abc")
    outlet.drained()
    outlet.write(b"def")
    assert (plain.kept, tcp.arrived) == (b"abcdef", b"")


@pytest.mark.parametrize("seed", range(50))
def test_the_order_is_kept_whatever_the_kernel_takes(seed: int) -> None:
    rng = random.Random(seed)
    tcp = Tcp(room=rng.randrange(20))
    outlet = Outlet(tcp)
    wanted = b""
    for number in range(100):
        data = b"%d," % number
        wanted += data
        outlet.write(data)
        if rng.random() < 0.2:
            tcp.drain(rng.randrange(20))
            outlet.drained()
        elif not tcp.kept:
            tcp.room = rng.randrange(20)
    tcp.drain(0)
    assert tcp.arrived == wanted
