"""What a node is answered by those that it copies from, one of whom lies."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.python.failure import Failure

from tests.fuzz.answers import PAGES
from tests.fuzz.kind import Taken
from tests.fuzz.spoiling import Spoiler
from tests.golden import samples
from tests.rooms.nodes import STATE, Nodes
from twisted_kv.errors import KvError
from twisted_kv.peers.peer import Answer
from twisted_kv.ring import SLOTS, slot_of
from twisted_kv.versions import NONE, drawn_by_a_clock, is_whole
from twisted_kv.wire.header import encode

ASKED_MAX = 500
"""Questions within which an order has ended."""


class Copies:
    """See ``kind.Kind``: one order to copy. The answers of one of its two sources are spoilt."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.nodes = nodes = Nodes("target", "one", "two", pull_slots_min=SLOTS, pull_slots_max=SLOTS)
        for number in range(30):
            for source in ("one", "two") if number % 5 else ("one",):
                nodes.hold(source, b"key%d" % number, 50 + number, b"v" if number % 3 else None)
        self._told: list[bytes] = []
        nodes.altered = self._altered
        self._honest = {name: dict(nodes.engines[name]._cells) for name in ("one", "two")}

    def _altered(self, node: str, path: str, answer: Answer) -> Answer:
        rng = self._rng
        if node != self._liar or rng.random() < 0.2:
            return answer
        json = answer.body[:1] == b"{"
        name = PAGES.get(path)
        more = [encode(samples.MESSAGES[name])] if name and not json and rng.random() < 0.2 else []
        body = Spoiler([answer.body, *more], json=json).spoilt(rng)
        self._told.append(body)
        return Answer(answer.code, body)

    def spoilt(self, rng: Random) -> int:
        return rng.getrandbits(64)

    def take(self, frame: int) -> Taken:
        self._rng, self._told = Random(frame), []
        self._liar = self._rng.choice(("one", "two"))
        passed = self._pulled(self._rng.choice((1, 2)))
        if len(self.nodes.engines["target"]._cells) > 60:
            self._begin()
        return Taken(len(self._told), passed)

    def _pulled(self, needed: int) -> bool:
        nodes = self.nodes
        nodes.asked.clear()
        target, *sources = nodes.seats.values()
        got: list[Any] = []
        pulling = ensureDeferred(nodes.control.pull(target, STATE, [(0, SLOTS - 1)], 0, sources, needed))
        pulling.addBoth(got.append)
        while not got:
            assert len(nodes.asked) < ASKED_MAX, f"it never ends; told {[body.hex() for body in self._told[-3:]]}"
            assert nodes.clock.getDelayedCalls(), "it hangs"
            nodes.clock.advance(0.01)
        if isinstance(got[0], Failure):
            assert got[0].check(KvError), f"{got[0].getTraceback()} told {[body.hex() for body in self._told[-3:]]}"
            return False
        return True

    def look(self) -> None:
        """What was copied can be held, the sources hold what they held, and all can be copied that is there."""
        engines = self.nodes.engines
        for (slot, key), cell in engines["target"]._cells.items():
            assert slot == slot_of(key)
            assert not cell.record or is_whole(cell.record)
            assert cell.accepted == NONE or drawn_by_a_clock(cell.accepted)
            assert engines["target"].inspect(slot).right
        for name, cells in self._honest.items():
            assert engines[name]._cells == cells
        self._begin()
        self._liar = ""
        assert self._pulled(1)
        assert self.nodes.value("target", b"key1") == b"v"
        self._begin()

    def close(self) -> None:
        pass
