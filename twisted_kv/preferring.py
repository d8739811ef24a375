"""Which of a key's owners are read first: the good ones, in turn."""

from __future__ import annotations

from collections.abc import Mapping

from .buggify import Buggify
from .names import NodeId
from .peers.queue import Queues
from .quorum import Electorate


class Preferring:
    """One proxy's turns. What it has worked out is kept until it has heard of the nodes something new."""

    def __init__(self, queues: Queues, buggify: Buggify) -> None:
        self._queues = queues
        self._buggify = buggify
        self._turn = 0
        self._arranged: dict[tuple[Electorate, int], Electorate] = {}
        self._standing: Mapping[NodeId, int] = {}

    def forget(self) -> None:
        """Begin anew: there are other electorates."""
        self._arranged.clear()

    def arranged(self, electorate: Electorate) -> Electorate:
        """Give the same voters in the order in which one read is to ask them."""
        if not electorate.nodes:
            return electorate
        self._turn += 1
        turn = self._turn % len(electorate.nodes)
        if self._buggify("preferring: another owner is read first"):
            turn = -1
        standing = self._queues.standing()
        if standing is not self._standing:
            self._standing = standing
            self._arranged.clear()
        arranged = self._arranged.get((electorate, turn))
        if arranged is None:
            arranged = self._arranged[electorate, turn] = self._arrange(electorate, turn)
        return arranged

    def _arrange(self, electorate: Electorate, turn: int) -> Electorate:
        nearby = sorted(electorate.nodes)
        nearby = nearby[turn:] + nearby[:turn]
        # Where a slot moves, who was an owner and will be one counts twice, and has what is read.
        nearby.sort(key=lambda node: (self._standing.get(node, 0), -electorate.seats_of(node)))
        return electorate.arranged(nearby)
