"""Spoilt commands by the thousand, at a real proxy's Redis door: it goes on, keeps its bounds, confuses nobody."""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Iterator

import pytest

from tests.sockets.daemons import Farm, farming, free_port
from tests.sockets.speaker import Error, Speaker, spelt
from tests.sockets.test_spoilt_requests import GROWTH_KIB, QUIET_S, TOGETHER, WARM, all_of

STREAMS = int(os.environ.get("KV_STREAMS", "1000"))
FINE = [
    [b"SET", b"a", b"1"],
    [b"SET", b"b", b"\r\n$3\r\n*1\r\n", b"EX", b"1000", b"GET"],
    [b"GET", b"a"],
    [b"MGET", b"a", b"b", b"c"],
    [b"MSET", b"a", b"x" * 300, b"b", b"y"],
    [b"INCR", b"n"],
    [b"APPEND", b"c", b"0123456789"],
    [b"DEL", b"a", b"c"],
    [b"HELLO", b"3"],
    [b"PING"],
    [b"CLIENT", b"LIST"],
    [b"COMMAND", b"DOCS"],
    [b"SCAN", b"0", b"COUNT", b"100"],
    [b"KEYS", b"[a-c]*"],
    [b"SETRANGE", b"c", b"1000", b"z"],
    [b"GETRANGE", b"c", b"0", b"-1"],
]
INLINE = [b"PING\r\n", b'SET a "b c"\n', b"GET a\r\n", b"\r\n", b"ECHO 'x\\'y'\r\n"]
BEGINNINGS = b"+-:$*_%~=#,("
"""What a reply begins with."""


def spoilt(seed: int) -> bytes:
    """Commands that are fine, and then spoilt somewhere."""
    rng = random.Random(seed)
    data = bytearray(
        b"".join(
            rng.choice(INLINE) if rng.random() < 0.2 else spelt(rng.choice(FINE)) for _ in range(rng.randint(1, 20))
        )
    )
    for _ in range(rng.choice([0, 1, 1, 2, 5])):
        at = rng.randrange(len(data))
        kind = rng.randrange(6)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            del data[at : at + rng.randint(1, 20)]
        elif kind == 2:
            data[at:at] = rng.choice([b"\r\n", b"*", b"$", b"*1000000\r\n", b"$999999999\r\n", b"$-1\r\n", b"\0", b'"'])
        elif kind == 3:
            data[at:at] = data[max(0, at - 30) : at]
        elif kind == 4:
            data[at:] = data[at:][::-1]
        else:
            del data[at:]
        data = data or bytearray(b"*")
    return bytes(data)


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Farm, int]]:
    port = free_port()
    with farming(tmp_path_factory.mktemp("spoilt")) as farm:
        farm.proxy("--resp-port", str(port))
        farm.add(farm.node("--engine", "memory"))
        yield farm, port


def answered_rightly(port: int, round_: int) -> None:
    """Write, count and read ten keys in one go, and get each one's own value, in the order asked."""
    speaker = Speaker(port)
    try:
        names = [b"r%dk%d" % (round_, number) for number in range(10)]
        replies = speaker.ask(
            [[b"SET", name, b"v-" + name] for name in names]
            + [[b"APPEND", name, b"!"] for name in names]
            + [[b"GET", name] for name in names]
        )
        assert [reply for reply in replies if isinstance(reply, Error)] == []
        assert replies[20:] == [b"v-" + name + b"!" for name in names]
    finally:
        speaker.close()


def test_spoilt_commands_neither_stop_nor_swell_nor_confuse_the_proxy(farm: tuple[Farm, int]) -> None:
    (daemons, port), before = farm, 0
    proxy = daemons.proxies[0]
    assert STREAMS > WARM
    for first in range(0, STREAMS, TOGETHER):
        connections = [
            (seed, socket.create_connection(("127.0.0.1", port), timeout=20)) for seed in range(first, first + TOGETHER)
        ]
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
            assert not got or got[0] in BEGINNINGS, f"seed {seed}: {got[:100]!r}"
            assert b"this is a bug" not in got, f"seed {seed}: {got[:300]!r}"
        answered_rightly(port, first)
        if first + TOGETHER == WARM:
            before = proxy.resident_kib()
    assert proxy.ended() is None
    assert proxy.resident_kib() < before + GROWTH_KIB
    assert "Traceback" not in proxy.log()
