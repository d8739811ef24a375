"""Clients of both kinds change the same keys while a node and a proxy are killed: what they were told is judged.

Each change that was acknowledged happened, each that certainly did not happen did not, and what ended in
``MaybeApplied`` happened once at the most.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred, ensureDeferred, gatherResults
from twisted.internet.threads import deferToThread

from tests.client.both import MAKES
from tests.sockets.daemons import Farm, farming
from twisted_kv.client import KvError, MaybeApplied, PreconditionFailed, Value
from twisted_kv.simulation.linearizability import Event, Fate, Kind, violation

pytestmark = pytest.mark.system

SEED = 1
LENGTH_S = 12.0
CLIENTS_OF_A_KIND = 4
KEYS = ("one", "two", "three")
COUNTER = "counter"
TIMEOUT_S = 2.0
DONE_MIN = 40
"""Changes and increments that have to succeed amid all this."""


@dataclass
class Notes:
    """What all clients saw."""

    events: list[Event] = field(default_factory=list)
    sums: list[tuple[float, float, int]] = field(default_factory=list)
    """Called, returned, and what came of it."""
    doubtful: int = 0
    """Increments of which nobody knows."""
    refused: int = 0
    dropped: int = 0
    values: dict[str, bytes] = field(default_factory=dict)
    refusals: list[tuple[str, str, str | None, float, float]] = field(default_factory=list)


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with farming(tmp_path) as built:
        built.cluster(3)
        built.proxy()
        yield built


async def change(kv: Any, name: str, key: str, number: int, notes: Notes) -> None:
    """Read a key, and put something else in the place of what was read."""
    called = time.monotonic()
    try:
        held: Value | None = await kv.get(key, timeout=TIMEOUT_S)
    except KvError:
        return
    note = notes.events.append
    base = held.value if held is not None else None
    note(Event(name, Kind.READ, key.encode(), base, called, time.monotonic()))
    if held is not None:
        notes.values[held.etag] = held.value
    value = f"{name}/{number}".encode()
    called = time.monotonic()
    try:
        written = await kv.cas(key, value, held.etag if held is not None else None, timeout=TIMEOUT_S)
    except PreconditionFailed as error:
        notes.refusals.append((name, key, error.etag, called, time.monotonic()))
    except MaybeApplied:
        note(Event(name, Kind.SWAP, key.encode(), value, called, None, Fate.UNKNOWN, base))
    except KvError:
        notes.dropped += 1
    else:
        notes.values[written.etag] = value
        note(Event(name, Kind.SWAP, key.encode(), value, called, time.monotonic(), Fate.DONE, base))


async def count(kv: Any, notes: Notes) -> None:
    called = time.monotonic()
    try:
        found = await kv.increment(COUNTER, timeout=TIMEOUT_S)
    except MaybeApplied:
        notes.doubtful += 1
    except KvError:
        notes.dropped += 1
    else:
        notes.sums.append((called, time.monotonic(), found))


async def work(kv: Any, name: str, stopped: threading.Event, notes: Notes) -> None:
    random = Random(f"{SEED} {name}")
    number = 0
    while not stopped.is_set():
        number += 1
        if random.random() < 0.5:
            await count(kv, notes)
        else:
            await change(kv, name, random.choice(KEYS), number, notes)


def harm(farm: Farm, stopped: threading.Event) -> None:
    """Kill a node or a proxy, one after the other, and start it again."""
    random = Random(SEED)
    until_s = time.monotonic() + LENGTH_S
    victims = [farm.nodes[0], farm.proxies[0], farm.nodes[1], farm.proxies[1]] * 9
    for victim in victims:
        if time.monotonic() > until_s:
            break
        stopped.wait(random.uniform(0.5, 1.5))
        victim.kill()
        stopped.wait(random.uniform(0.2, 0.8))
        victim.start()
    stopped.set()


async def read_when_well(ask: Callable[[], Awaitable[Any]]) -> Any:
    while True:
        try:
            return await ask()
        except KvError:
            continue


@pytest_twisted.ensureDeferred
async def test_what_clients_were_told_is_one_history(farm: Farm) -> None:
    servers = [proxy.url for proxy in farm.proxies]
    notes, stopped = Notes(), threading.Event()
    clients = {f"{kind} {number}": MAKES[kind](servers) for kind in MAKES for number in range(CLIENTS_OF_A_KIND)}
    working: list[Deferred[None]] = [ensureDeferred(work(kv, name, stopped, notes)) for name, kv in clients.items()]
    try:
        await deferToThread(harm, farm, stopped)
    finally:
        stopped.set()
    await gatherResults(working)

    kv = clients["deferred 0"]
    for key in KEYS:
        called = time.monotonic()
        last: Value | None = await read_when_well(lambda: kv.get(key))  # noqa: B023
        value = last.value if last is not None else None
        notes.events.append(Event("last", Kind.READ, key.encode(), value, called, time.monotonic()))
    total = int((await read_when_well(lambda: kv.get(COUNTER))).value)
    for client in clients.values():
        await client.close()

    for name, key, etag, called, returned in notes.refusals:
        if etag is None or etag in notes.values:
            seen = notes.values[etag] if etag is not None else None
            notes.events.append(Event(name, Kind.READ, key.encode(), seen, called, returned))
    changes = sum(event.kind is Kind.SWAP and event.fate is Fate.DONE for event in notes.events)
    unknown = sum(event.fate is Fate.UNKNOWN for event in notes.events)
    print(  # noqa: T201
        f"{changes} changes, {unknown} in doubt, {len(notes.refusals)} refused; {len(notes.sums)} increments, "
        f"{notes.doubtful} in doubt; {notes.dropped} not done; total {total}"
    )
    assert violation(notes.events) is None, violation(notes.events)
    sums = sorted(found for _, _, found in notes.sums)
    assert len(set(sums)) == len(sums), "two increments came to the same"
    assert len(sums) <= total <= len(sums) + notes.doubtful
    overtaken = [
        (early, late) for early in notes.sums for late in notes.sums if early[1] < late[0] and early[2] > late[2]
    ]
    assert overtaken == []
    assert min(changes, len(sums)) >= DONE_MIN
