"""Redis's own answers: the same commands to a real Redis and to a real cluster, and each reply has to be the same."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.redis_commands import COMMANDS, Words
from tests.sockets.daemons import PATIENCE_S, farming, free_port, wait_until
from tests.sockets.speaker import Error, Speaker, accepts

pytestmark = pytest.mark.system

EXAMPLES = int(os.environ.get("KV_ORACLE_EXAMPLES", "150"))
SEVERAL_S = 2
"""By how much expiries may differ: the two hear of a command one after the other."""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no"]
    with open(tmp_path_factory.mktemp("redis") / "out", "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until(lambda: accepts(port), "Redis to accept connections")
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    folder: Path = tmp_path_factory.mktemp("cluster")
    with farming(folder) as farm:
        proxy = farm.proxy("--resp-port", str(port), "--allow-flush", "true", "--transport", "link")
        for _ in range(3):
            farm.add(farm.node("--engine", "memory"))
        wait_until(lambda: accepts(port), "the Redis door to be open")
        assert proxy.ended() is None
        yield port


def alike(command: Words, one: Any, other: Any) -> bool:
    """Whether two replies say the same, as far as a cluster and one process can."""
    name = command[0].upper()
    if name == b"KEYS" and isinstance(one, list) and isinstance(other, list):
        return sorted(one) == sorted(other)
    if name in (b"TTL", b"EXPIRETIME", b"PTTL", b"PEXPIRETIME") and isinstance(one, int) and isinstance(other, int):
        unit = 1000 if name.startswith(b"P") else 1
        return one == other if min(one, other) < 0 else abs(one - other) <= SEVERAL_S * unit
    return bool(one == other) and isinstance(one, Error) == isinstance(other, Error)


def untied(command: Words, numbers: Iterator[int]) -> Words:
    """Let an expiry that is to be compared with another one differ from all others by seconds: whether 2000 s from now
    is later than 2000 s from just before depends on how busy the machine is."""
    name, flags = command[0].upper(), {word.upper() for word in command[3:]}
    unit = {b"EXPIRE": 1, b"PEXPIRE": 1000}.get(name)
    if unit is None or flags.isdisjoint((b"GT", b"LT")) or not command[2].isdigit() or int(command[2]) < 1000 * unit:
        return command
    if len(command[2]) > 8:
        return command
    return [*command[:2], b"%d" % (int(command[2]) + 10 * unit * next(numbers)), *command[3:]]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("protocol", [b"2", b"3"])
def test_the_same_commands_get_the_same_replies_as_from_redis(redis: int, ours: int, protocol: bytes) -> None:
    asked = 0

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize="KV_ORACLE_EXAMPLES" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.lists(COMMANDS, min_size=1, max_size=20), min_size=1, max_size=10))
    def same(batches: list[list[Words]]) -> None:
        nonlocal asked
        speakers = Speaker(ours), Speaker(redis)
        try:
            for speaker in speakers:
                speaker.ask([[b"HELLO", protocol], [b"FLUSHALL"]])
            numbers = count(1)
            for batch in batches:
                batch = [untied(command, numbers) for command in batch]
                mine, theirs = (speaker.ask(batch) for speaker in speakers)
                asked += len(batch)
                for command, one, other in zip(batch, mine, theirs, strict=True):
                    assert alike(command, one, other), f"{command}: {one!r}, and from Redis {other!r}"
        finally:
            for speaker in speakers:
                speaker.close()

    same()
    print(f"{asked:,} commands got the same replies in RESP{protocol.decode()}")  # noqa: T201
