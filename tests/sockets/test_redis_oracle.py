"""Redis's own answers: the same commands to a real Redis and to a real cluster, and each reply has to be the same."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.redis_commands import COMMANDS, GREETINGS, PASSWORD, Words
from tests.sockets.daemons import PATIENCE_S, accepts, call, farming, free_port, token_file, wait_until
from tests.sockets.speaker import Error, Speaker

pytestmark = pytest.mark.system

EXAMPLES = int(os.environ.get("KV_ORACLE_EXAMPLES", "150"))
SEVERAL_S = 2
"""By how much expiries may differ: the two hear of a command one after the other."""


@contextmanager
def a_redis(folder: Path, *options: str) -> Iterator[int]:
    """Have a Redis, and give its port."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--save", "", "--appendonly", "no", *options]
    with open(folder / "out", "wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until(lambda: accepts(port), "Redis to accept connections")
        yield port
    finally:
        process.terminate()
        process.wait(PATIENCE_S)


@contextmanager
def a_cluster(folder: Path, *options: str, **headers: str) -> Iterator[int]:
    """Have three nodes and a proxy that serves them all, and give the port of its Redis door.

    :param headers: what a request has to carry.
    """
    port = free_port()
    with farming(folder) as farm:
        nodes = [farm.node("--engine", "memory").url for _ in range(3)]
        door = ("--resp-port", str(port), "--allow-flush", "true")
        proxy = farm.proxy("--nodes", ",".join(nodes), "--transport", "link", *door, *options)
        ready = f"{proxy.url}/health/ready"
        wait_until(lambda: call("GET", ready, **headers).status == 200, "the proxy to be ready")
        wait_until(lambda: accepts(port), "the Redis door to be open")
        yield port


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with a_redis(tmp_path_factory.mktemp("redis")) as port:
        yield port


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with a_cluster(tmp_path_factory.mktemp("cluster")) as port:
        yield port


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """A cluster and a Redis that ask for the same password."""
    folder = tmp_path_factory.mktemp("guarded")
    tokens = token_file(folder / "tokens", f"read-write {PASSWORD.decode()}")
    with (
        a_cluster(folder, "--token-file", str(tokens), Authorization=f"Bearer {PASSWORD.decode()}") as mine,
        a_redis(folder, "--requirepass", PASSWORD.decode()) as theirs,
    ):
        yield mine, theirs


def alike(command: Words, one: Any, other: Any) -> bool:
    """Whether two replies say the same, as far as a cluster and one process can."""
    name = command[0].upper()
    if name == b"HELLO" and not isinstance(one, Error) and not isinstance(other, Error):
        return all(mine == its for mine, its in zip(pairs(one), pairs(other), strict=True) if mine[0] != b"id")
    if name == b"KEYS" and isinstance(one, list) and isinstance(other, list):
        return sorted(one) == sorted(other)
    if name in (b"TTL", b"EXPIRETIME", b"PTTL", b"PEXPIRETIME") and isinstance(one, int) and isinstance(other, int):
        unit = 1000 if name.startswith(b"P") else 1
        return one == other if min(one, other) < 0 else abs(one - other) <= SEVERAL_S * unit
    return bool(one == other) and isinstance(one, Error) == isinstance(other, Error)


def pairs(reply: Any) -> list[tuple[bytes, Any]]:
    """Take a mapping as RESP3 gives it, or as RESP2 does, in a row."""
    return list(reply.items()) if isinstance(reply, dict) else list(zip(reply[::2], reply[1::2], strict=True))


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


def compared(
    ours: int, theirs: int, commands: SearchStrategy[Words], examples: int, first: list[Words] | None = None
) -> int:
    """Send the same batches of commands to both, on new connections for each example.

    :param first: what is sent at the beginning of each connection.
    :return: how many commands got the same replies.
    """
    asked = 0

    @settings(
        max_examples=examples,
        database=None,
        derandomize="KV_ORACLE_EXAMPLES" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.lists(st.lists(commands, min_size=1, max_size=20), min_size=1, max_size=10))
    def same(batches: list[list[Words]]) -> None:
        nonlocal asked
        speakers = Speaker(ours), Speaker(theirs)
        try:
            for speaker in speakers:
                speaker.ask(first or [])
            numbers = count(1)
            for batch in batches:
                batch = [untied(command, numbers) for command in batch]
                mine, its = (speaker.ask(batch) for speaker in speakers)
                asked += len(batch)
                for command, one, other in zip(batch, mine, its, strict=True):
                    assert alike(command, one, other), f"{command}: {one!r}, and from Redis {other!r}"
        finally:
            for speaker in speakers:
                speaker.close()

    same()
    return asked


@pytest.mark.parametrize("protocol", [b"2", b"3"])
def test_the_same_commands_get_the_same_replies_as_from_redis(redis: int, ours: int, protocol: bytes) -> None:
    asked = compared(ours, redis, COMMANDS, EXAMPLES, [[b"HELLO", protocol], [b"FLUSHALL"]])
    print(f"{asked:,} commands got the same replies in RESP{protocol.decode()}")  # noqa: T201


def test_whoever_has_shown_the_password_or_not_gets_the_same_replies_as_from_redis(guarded: tuple[int, int]) -> None:
    asked = compared(*guarded, GREETINGS, EXAMPLES)
    print(f"{asked:,} greetings and commands got the same replies where a password is asked for")  # noqa: T201
