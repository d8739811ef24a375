"""Refilling: what an owner cannot read any more is proposed again under a new ballot, which it takes in its place.

Such an owner abstains, and what it had promised is unknown, so nothing below the highest ballot that it ever gave can
be brought to it. The others are asked what holds, as a read asks them that writes back (P16).
"""

from __future__ import annotations

from collections.abc import Sequence

from .conversation import Send
from .errors import Unreached
from .names import Key
from .proposing import Proposer
from .quorum import Electorate, Level, required
from .register import ACCEPT, Op
from .versions import NONE, HybridClock, Record, Version


class Refill(Proposer):
    """Proposes what a majority shows to every owner: a tombstone, where it shows nothing. It ends when all have it."""

    __slots__ = ()

    def __init__(self, key: Key, electorate: Electorate, clock: HybridClock) -> None:
        super().__init__(key, electorate, clock, Level.ALL)

    def begin(self) -> Sequence[Send]:
        return self._prepare()

    def _propose(self) -> Sequence[Send]:
        best = self.best
        assert best is not None
        everybody = self.electorate.quota(Level.ALL)
        if best.accepted == NONE:
            # Nobody who can read holds anything, so what cannot be read was never acknowledged.
            return self._accept(self.ballot, Record(Version(self.ballot), None).encode(), everybody)
        self.proposed = best.record
        self.needed = everybody
        return self._ask(ACCEPT, Op(ACCEPT, self.key, self.ballot, best.record))

    def _end_unreached(self, kind: type[Unreached], what: str) -> None:
        error = kind(
            f"{what}: not all owners could be given the record again",
            "start the nodes again that are down",
            required=required(self.needed),
            acks=self.acks,
            replicas=self.errors,
        )
        self._end(error, self.acks)
