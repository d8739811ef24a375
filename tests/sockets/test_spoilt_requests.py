"""Spoilt requests by the thousand, at real daemons: they go on, keep their bounds, and answer the right request."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Iterator

import pytest

from tests.sockets.daemons import Daemon, Farm, farming
from tests.streams import get, put, spoilt

STREAMS = int(os.environ.get("KV_STREAMS", "1000"))
TOGETHER = 50
WARM = 200
"""Streams after which a daemon's memory is looked at for the first time."""
QUIET_S = 0.5
"""How long the clients of one go wait for the answer to the last of what they sent, which may have none."""
GROWTH_KIB = 64 * 1024
"""What a daemon may grow by: tables and caches fill once, and the engine's own."""


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with farming(tmp_path_factory.mktemp("spoilt")) as farm:
        farm.cluster(1, "--engine", "memory")
        yield farm


def connect(daemon: Daemon) -> socket.socket:
    return socket.create_connection(("127.0.0.1", daemon.port), timeout=20)


def all_of(connection: socket.socket, until_s: float = math.inf) -> bytes:
    """What is answered, until the daemon closes, or says nothing more; a reset ends it, too."""
    got = b""
    try:
        while True:
            connection.settimeout(min(20.0, max(0.01, until_s - time.monotonic())))
            piece = connection.recv(65_536)
            if not piece:
                break
            got += piece
    except (ConnectionError, TimeoutError):
        pass
    return got


def answered_rightly(proxy: Daemon, round_: int) -> None:
    """Write and read ten keys in one go, and get each one's own value, in the order asked."""
    names = [f"r{round_}k{n}" for n in range(10)]
    last = get(b"/GET?Key=" + names[-1].encode(), b"Connection: close")
    with connect(proxy) as connection:
        connection.sendall(b"".join(put(name, f"v-{name}") for name in names))
        connection.sendall(b"".join(get(b"/GET?Key=" + name.encode()) for name in names[:-1]) + last)
        got = all_of(connection)
    bodies = [part for part in got.split(b'"') if part.startswith(b"v-")]
    assert bodies == [b"v-" + name.encode() for name in names]


def test_spoilt_streams_neither_stop_nor_swell_nor_confuse_the_daemons(farm: Farm) -> None:
    proxy, node = farm.proxies[0], farm.nodes[0]
    assert STREAMS > WARM
    before: dict[str, int] = {}
    for first in range(0, STREAMS, TOGETHER):
        for daemon in (proxy, node):
            connections = [(seed, connect(daemon)) for seed in range(first, first + TOGETHER)]
            for seed, connection in connections:
                try:
                    connection.sendall(spoilt(seed))
                    if seed % 2:
                        connection.shutdown(socket.SHUT_WR)
                except ConnectionError:
                    pass  # it was refused already
            until_s = time.monotonic() + QUIET_S
            for seed, connection in connections:
                with connection:
                    got = all_of(connection, until_s)
                assert not got or got.startswith(b"HTTP/1."), f"seed {seed}: {got[:100]!r}"
                assert b"HTTP/1.1 500 " not in got, f"seed {seed}: {got[:300]!r}"
        answered_rightly(proxy, first)
        if first + TOGETHER == WARM:
            before = {daemon.url: daemon.resident_kib() for daemon in (proxy, node)}
    for daemon in (proxy, node):
        assert daemon.ended() is None
        assert daemon.resident_kib() < before[daemon.url] + GROWTH_KIB
        assert "Traceback" not in daemon.log()
