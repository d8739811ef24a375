"""Random stories of whole clusters, each drawn from one seed and judged by the linearizability checker.

To repeat one, or to look for more: ``python -m tests.cluster.test_seeded FIRST LAST``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from tests.cluster.town import Town
from tests.laws.test_register import assert_once
from twisted_kv.conditional import Draft
from twisted_kv.errors import KvError, Unreached
from twisted_kv.names import Key
from twisted_kv.operation import Done
from twisted_kv.quorum import Level
from twisted_kv.sharing import Changed
from twisted_kv.simulation.linearizability import Event, Fate, Kind, violation
from twisted_kv.versions import Record

SEEDS = range(60)


def expected(failure: Failure) -> None:
    failure.trap(KvError)


class Swap:
    """One client's conditional change. Each time that it is decided on it writes something else.

    :param only_on: what it must find, where it does not take anything.
    """

    def __init__(self, name: str, key: bytes, only_on: bytes | None, anything: bool, called: float) -> None:
        self.name = name
        self.key = key
        self.only_on = only_on
        self.anything = anything
        self.called = called
        self.returned: float | None = None
        self.tried: dict[bytes, bytes | None] = {}
        self.changed: Changed | None = None
        self.fate = Fate.UNKNOWN

    def decide(self, held: Record | None) -> Draft | None:
        base = held.value if held is not None else None
        if not self.anything and base != self.only_on:
            return None
        value = f"{self.name}, form {len(self.tried)}".encode()
        self.tried[value] = base
        return Draft(value)

    def ended(self, result: Changed | Failure, now: float) -> None:
        """Take note of what the client was told; one that hung up was told nothing."""
        if isinstance(result, Changed):
            self.fate, self.returned, self.changed = Fate.DONE, now, result
            return
        error = result.value
        if isinstance(error, KvError) and not (isinstance(error, Unreached) and error.maybe_applied):
            self.fate, self.returned = Fate.DROPPED, now

    def told(self) -> list[Event]:
        """Give the events that it comes to: what took effect, or what it saw, or all that may have taken effect."""
        if self.changed is None:
            return [
                Event(self.name, Kind.SWAP, self.key, value, self.called, self.returned, self.fate, base)
                for value, base in self.tried.items()
            ]
        record = self.changed.record
        value = record.value if record is not None else None
        if not self.changed.changed:
            return [Event(self.name, Kind.READ, self.key, value, self.called, self.returned)]
        assert value is not None
        base = self.tried[value]
        return [Event(self.name, Kind.SWAP, self.key, value, self.called, self.returned, base=base)]

    def superseded(self) -> set[bytes]:
        """Name what it tried before it took effect in another form, or in none. Nobody may ever see that."""
        if self.changed is None:
            return set()
        record = self.changed.record
        return self.tried.keys() - ({record.value} if self.changed.changed and record is not None else set())


class Story:
    """One run: clients who read, write and change keys, some of whom hang up, lines that fail,
    nodes that forget or crash, a ring that grows. No values that expire: an expiry is a delete by nobody, at a moment
    that depends on whose clock judges, which the checker cannot place."""

    def __init__(self, seed: int, folder: Path) -> None:
        durable = seed % 2 == 1
        self.town = town = Town(seed, folder, proxies=0, durable=durable)
        self.random = random = town.random
        for _ in range(random.choice([1, 2, 3])):
            town.open_proxy(skew_ms=random.choice([0, 0, -500, 500, -3_600_000, 3_600_000]))
        town.settle(random.choice([1, 2, 3, 3, 3, 4]))
        town.run(1)
        town.loss = random.choice([0.0, 0.01, 0.05])
        town.doubling = random.choice([0.0, 0.02, 0.1])
        town.delays_s = random.choice([(0.0005, 0.003), (0.0005, 0.05), (0.001, 0.4)])
        self.cutting = random.choice([0.0, 0.0, 0.1])
        self.forgetting = random.choice([0.0, 0.0, 0.02])
        self.crashing = random.choice([0.0, 0.02, 0.1]) if durable else 0.0
        self.growing = random.choice([0.0, 0.0, 0.03])
        self.keys = [b"k%d" % number for number in range(random.choice([1, 2, 4]))]
        self.adding: list[Deferred[object]] = []
        self.swapping = random.choice([0.0, 0.2, 0.5])
        self.hanging_up = random.choice([0.0, 0.1])
        self.swaps: list[Swap] = []

    def play(self, steps: int) -> str | None:
        """Let it happen, heal, read everything once more, and judge."""
        town, random = self.town, self.random
        running: list[Deferred[Done | None]] = []
        for step in range(steps):
            count = random.choice([1, 1, 2, 5])
            running += [self._operate(step).addErrback(expected) for _ in range(count)]
            town.run(random.choice([0.0, 0.001, 0.01, 0.1, 0.5]))
            self._disturb()
        self.heal()
        for operation in running:
            town.wait(operation)
        for adding in self.adding:
            town.wait(adding, 1_000)
        for proxy in range(len(town.proxies)):
            for key in self.keys:
                town.wait(town.get(key, proxy))
        history = [*town.history, *(event for swap in self.swaps for event in swap.told())]
        story = violation(history)
        try:
            assert_once(history, {value for swap in self.swaps for value in swap.superseded()})
        except AssertionError as error:
            story = story or str(error)
        town.close()
        return story

    def _swap(self, key: bytes, proxy: int) -> Deferred[Done | None]:
        """Change a key on whatever it holds, or only on one of the values that were seen of it."""
        town, random = self.town, self.random
        seen = [event.value for event in town.history if event.key == key and event.fate is Fate.DONE]
        only_on = random.choice([None, *seen[-4:]])
        swap = Swap(f"swap{len(self.swaps)}", key, only_on, random.random() < 0.5, town.clock.seconds())
        self.swaps.append(swap)
        coordinator = town.proxies[proxy].coordinator
        changing = coordinator.change(Key(key), swap.decide, random.choice([None, None, 0.2]))
        ended: Deferred[Done | None] = Deferred()

        def end(result: Changed | Failure) -> None:
            swap.ended(result, town.clock.seconds())
            ended.callback(None)

        changing.addBoth(end)
        if random.random() < self.hanging_up:
            town.clock.callLater(random.choice([0.0, 0.002, 0.02]), changing.cancel)
        return ended

    def _operate(self, step: int) -> Deferred[Done | None]:
        random, town = self.random, self.town
        proxy = random.randrange(len(town.proxies))
        level = random.choice([Level.STRONG, Level.STRONG, Level.ALL])
        key = random.choice(self.keys)
        if random.random() < self.swapping:
            return self._swap(key, proxy)
        dice = random.random()
        if dice < 0.45:
            return town.get(key, proxy, level)
        if dice < 0.55:
            return town.put(key, None, proxy, level)
        return town.put(key, b"v%d.%d" % (step, random.getrandbits(32)), proxy, level)

    def _disturb(self) -> None:
        random, town = self.random, self.town
        urls = list(town.houses)
        if random.random() < self.cutting:
            line = (f"proxy{random.randrange(len(town.proxies))}", random.choice(urls))
            town.cut ^= {line}
        if random.random() < self.forgetting and self._whole():
            town.houses[random.choice(urls)].forget()
        if random.random() < self.crashing:
            town.houses[random.choice(urls)].restart()
        if random.random() < self.growing and len(urls) < 6:
            (house,) = town.build(1)
            roster = random.choice(town.proxies).roster
            self.adding.append(ensureDeferred(roster.add(house.url, 1)).addErrback(expected))

    def _whole(self) -> bool:
        """Whether every member counts: one more may forget only then, or a majority's memory could be gone."""
        state = self.town.proxies[0].roster.state
        members = [self.town.houses[seat.url] for seat in state.members]
        lives = {seat.url: seat.incarnation for seat in state.members}
        return (
            len(members) >= 3
            and state.open
            and not state.pending
            and all(house.replica.incarnation == lives[house.url] for house in members)
        )

    def heal(self) -> None:
        self.town.cut.clear()
        self.town.loss = self.town.doubling = 0.0
        self.town.delays_s = (0.0005, 0.003)
        self.town.run(40)


@pytest.mark.parametrize("seed", SEEDS)
def test_no_story_violates_linearizability(seed: int, tmp_path: Path) -> None:
    story = Story(seed, tmp_path).play(60)
    assert story is None, f"repeat with: python -m tests.cluster.test_seeded {seed} {seed + 1}\n{story}"


def main(first: int, last: int) -> None:
    failures: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        if event.get("log_failure") is not None:
            failures.append(event["log_failure"].getTraceback())

    globalLogPublisher.addObserver(observe)
    operations = bad = 0
    for seed in range(first, last):
        failures.clear()
        with tempfile.TemporaryDirectory() as folder:
            story = Story(seed, Path(folder))
            found = story.play(60)
            operations += len(story.town.history) + len(story.swaps)
        for fault in (found, *failures):
            if fault is not None:
                bad += 1
                sys.stdout.write(f"seed {seed}: {fault}\n")
                sys.stdout.flush()
    sys.stdout.write(f"{last - first} seeds, {operations} operations, {bad} violations or failures\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
