"""Thousands of idle Redis clients are cheap, slow and deaf ones are cut off, and others are served meanwhile."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from tests.sockets.daemons import Daemon, accepts, free_port, wait_until
from tests.sockets.speaker import Speaker, spelt
from tests.sockets.test_many_clients import (
    IDLE,
    KIB_EACH,
    LIMITS,
    PATIENCE_S,
    SHORT,
    SLOW,
    VALUE,
    clients,
    many_farming,
)

pytestmark = pytest.mark.system

DEAF, ASKED = 100, 20
OUTPUTS_KIB = 64 * 1024
"""As the configuration below says; what a client asked for may be on its way besides."""


class Door:
    """A proxy and the port of its Redis door."""

    def __init__(self, proxy: Daemon, port: int) -> None:
        self.proxy = proxy
        self.port = port

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def serves(self) -> None:
        speaker = Speaker(self.port)
        try:
            for number in range(100):
                assert speaker.ask([[b"SET", b"k", b"%d" % number], [b"GET", b"k"]]) == [b"OK", b"%d" % number]
        finally:
            speaker.close()


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    port = free_port()
    config = f"{SHORT}resp_outputs_bytes_max = {OUTPUTS_KIB * 1024}\n"
    with many_farming(tmp_path_factory.mktemp("many"), config, "--resp-port", str(port)) as farm:
        wait_until(lambda: accepts(port), "the Redis door to be open")
        yield Door(farm.proxies[0], port)


def test_thousands_of_idle_clients_take_little_memory_each_and_stay(door: Door) -> None:
    door.serves()
    before = door.proxy.resident_kib()
    idle = [door.connect() for _ in range(IDLE)]
    for connection in idle:
        connection.sendall(spelt([b"GET", b"k"]))
    for connection in idle:
        assert connection.recv(1_000) == b"$2\r\n99\r\n"
    assert (door.proxy.resident_kib() - before) / IDLE < KIB_EACH
    door.serves()
    for connection in idle:
        connection.sendall(b"PING\r\n")
        assert connection.recv(1_000) == b"+PONG\r\n"
        connection.close()


PARTS = {"word": b"*2\r\n$3\r\nGET\r\n$1", "line": b"GET k", "count": b"*1000000\r\n$5\r\nab"}


@pytest.mark.parametrize("begun", PARTS.values(), ids=PARTS)
def test_slow_clients_are_cut_off_and_others_are_served_meanwhile(door: Door, begun: bytes) -> None:
    slow = [door.connect() for _ in range(SLOW)]
    for connection in slow:
        connection.sendall(begun)
    door.serves()
    until_s = time.monotonic() + PATIENCE_S
    for connection in slow:
        connection.settimeout(max(0.1, until_s - time.monotonic()))
        try:
            assert connection.recv(1_000) == b""
        except ConnectionError:
            pass  # it was cut off by a reset
        connection.close()


def test_clients_that_do_not_read_are_cut_off_and_others_are_served_meanwhile(door: Door) -> None:
    speaker = Speaker(door.port)
    assert speaker.ask([[b"SET", b"large", bytes(VALUE)]]) == [b"OK"]
    speaker.close()
    before = door.proxy.resident_kib()
    deaf = []
    for _ in range(DEAF):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", door.port))
        connection.sendall(spelt([b"GET", b"large"]) * ASKED)
        deaf.append(connection)
    door.serves()
    assert door.proxy.resident_kib() - before < 5 * OUTPUTS_KIB
    # Whoever was let ask for much has the time that reading it would take.
    wait_until(lambda: clients(door.port) == 0, "the deaf to be cut off", LIMITS.unread_s(ASKED * VALUE) + 15)
    for connection in deaf:
        connection.close()
    door.serves()
    assert "Traceback" not in door.proxy.log()
