"""Random stories of whole clusters, each drawn from one seed and judged by the linearizability checker.

To repeat one, or to look for more: ``python -m tests.cluster.test_seeded FIRST LAST [SHARE]``, where ``SHARE`` of the
operations are conditional changes.
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
from tests.linearizability import Fate, violation
from twisted_kv.errors import KvError
from twisted_kv.quorum import Level

SEEDS = range(60)


def expected(failure: Failure) -> None:
    failure.trap(KvError)


class Story:
    """One run: clients who read and write at ``strong`` and ``all``, lines that fail, nodes that forget or crash, a
    ring that grows.

    :param swapping: how many of the operations are conditional changes, some of them with little time.
    """

    def __init__(self, seed: int, folder: Path, swapping: float = 0.0) -> None:
        self.swapping = swapping
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

    def play(self, steps: int) -> str | None:
        """Let it happen, heal, read everything once more, and judge."""
        town, random = self.town, self.random
        running: list[Deferred[Any]] = []
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
        story = violation(town.history)
        town.close()
        return story

    def _operate(self, step: int) -> Deferred[Any]:
        random, town = self.random, self.town
        proxy = random.randrange(len(town.proxies))
        level = random.choice([Level.STRONG, Level.STRONG, Level.ALL])
        key = random.choice(self.keys)
        if self.swapping and random.random() < self.swapping:
            values = [event.value for event in town.history if event.key == key and event.fate is Fate.DONE]
            base = random.choice([None, *values[-3:]])
            timeout_s = random.choice([None, None, 0.02, 0.2, 1.0])
            return town.swap(key, base, b"s%d.%d" % (step, random.getrandbits(32)), proxy, timeout_s)
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
def test_no_story_with_conditional_changes_violates_linearizability(seed: int, tmp_path: Path) -> None:
    story = Story(seed, tmp_path, swapping=0.5).play(60)
    assert story is None, f"repeat with: python -m tests.cluster.test_seeded {seed} {seed + 1} 0.5\n{story}"


@pytest.mark.parametrize("seed", SEEDS)
def test_no_story_violates_linearizability(seed: int, tmp_path: Path) -> None:
    story = Story(seed, tmp_path).play(60)
    assert story is None, f"repeat with: python -m tests.cluster.test_seeded {seed} {seed + 1}\n{story}"


def main(first: int, last: int, swapping: float = 0.0) -> None:
    failures: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        if event.get("log_failure") is not None:
            failures.append(event["log_failure"].getTraceback())

    globalLogPublisher.addObserver(observe)
    operations = bad = 0
    for seed in range(first, last):
        failures.clear()
        with tempfile.TemporaryDirectory() as folder:
            story = Story(seed, Path(folder), swapping)
            found = story.play(60)
            operations += len(story.town.history)
        for fault in (found, *failures):
            if fault is not None:
                bad += 1
                sys.stdout.write(f"seed {seed}: {fault}\n")
                sys.stdout.flush()
    sys.stdout.write(f"{last - first} seeds, {operations} operations, {bad} violations or failures\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *map(float, sys.argv[3:]))
