"""A read of one key: what a majority agrees on, or is made to agree on before the client hears of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .conversation import NOTHING, Conversation, Outcome, Send
from .errors import Unreached
from .names import Key, NodeId
from .quorum import Electorate, Level, Quota, Voters, met, required
from .register import ACCEPT, FETCH, READ, Op, Reply
from .versions import NONE, Ballot, HybridClock


class Read(Conversation):
    """A read of the newest record: done when a majority shows the same accepted ballot, else it makes it so first.

    A bare majority is asked first, one of them for the record and the others for their ballots. What a read answers
    was at its end held by a majority, so that no later read can answer anything older (P10: a write-back is waited
    for).

    :param electorate: its nodes in the order in which they are to be asked.
    """

    __slots__ = ("_asked", "_ballot_had", "_fetching", "_had", "_required", "_shown", "_voters", "level")

    def __init__(self, key: Key, electorate: Electorate, clock: HybridClock, level: Level) -> None:
        self.level = level
        super().__init__(key, electorate, clock)

    @property
    def spared(self) -> Sequence[NodeId]:
        return self.electorate.members(self.electorate.everybody & ~self._asked) if self.phase == READ else ()

    def begin(self) -> Sequence[Send]:
        self._shown: dict[Voters, Ballot] = {}
        """What each has accepted, by its bit."""
        self._voters: Voters = 0
        """Who they are."""
        self._had = b""
        self._ballot_had = NONE
        everybody = self.level is Level.ALL
        self._required: Quota = self.electorate.quota(Level.ALL if everybody else Level.STRONG)
        self.round += 1
        self.phase = READ
        first = self.owners if everybody else self.electorate.fewest
        self._asked = self.waiting = self.electorate.everybody if everybody else self.electorate.fewest_voters
        self._fetching = self.electorate.bits[first[0]]
        look = Op(READ, self.key)
        return [(first[0], Op(FETCH, self.key)), *[(node, look) for node in first[1:]]]

    def nudge(self) -> Sequence[Send]:
        return self._fetch(self.spared)

    def _fetch(self, nodes: Iterable[NodeId]) -> Sequence[Send]:
        """Ask more owners in the same round: what each shows is true at some moment of this read, which is enough."""
        op = Op(FETCH, self.key)
        sends = [(node, op) for node in nodes]
        asked = self.electorate.voters([node for node, _ in sends])
        self._asked |= asked
        self.waiting |= asked
        self._fetching |= asked
        return sends

    def _taken(self, bit: Voters, reply: Reply) -> Sequence[Send]:
        if self.phase != READ:
            return super()._taken(bit, reply)
        self._shown[bit] = reply.accepted
        self._voters |= bit
        if self._fetching & bit:
            self._fetching ^= bit
            if reply.accepted >= self._ballot_had:
                self._ballot_had = reply.accepted
                self._had = reply.record
        return self._evaluate()

    def _silent(self, bit: Voters, arrived: bool) -> Sequence[Send]:
        if self.phase != READ:
            return super()._silent(bit, arrived)
        self._fetching &= ~bit
        self._shown.pop(bit, None)
        self._voters &= ~bit
        asked: list[Send] = []
        for spared in self.spared:
            if met(self._required, self._voters | self.waiting):
                break
            asked += self._fetch([spared])
        return [*asked, *self._evaluate()]

    def _evaluate(self) -> Sequence[Send]:
        shown = self._shown
        if not met(self._required, self._voters):
            if not met(self._required, self._voters | self.waiting):
                self._end_unreached(Unreached, "too few replicas answered")
            return NOTHING
        newest = max(shown.values())
        holders: Voters = 0
        for bit, ballot in shown.items():
            if ballot == newest:
                holders |= bit
        # At level all a read leaves every owner with what it answers.
        if met(self._required if self.level is Level.ALL else self.quorum, holders):
            if newest == self._ballot_had:
                self.clock.learn(newest)
                self.outcome = Outcome(self._had, len(shown))
                return NOTHING
            return self._fetch_from(holders)
        unasked = self.spared
        if newest == self._ballot_had:
            return self._write_back(holders)
        return [*self._fetch_from(holders), *self._fetch(unasked)]

    def _fetch_from(self, holders: Voters) -> Sequence[Send]:
        if self._fetching & holders:
            return NOTHING
        # Of those who have it the one that has answered first.
        return self._fetch(self.electorate.members(next(bit for bit in self._shown if bit & holders)))

    def _write_back(self, holders: Voters) -> Sequence[Send]:
        """Give the newest record to the others under the ballot it has; the holders have confirmed it already."""
        self.proposed = self._had
        self.needed = self._required
        self.ballot = self._ballot_had
        op = Op(ACCEPT, self.key, self.ballot, self._had)
        return self._ask(ACCEPT, op, confirmed=holders)

    def _prepare(self) -> Sequence[Send]:
        sends = super()._prepare()
        # At level all every owner has to take part, here and in what is proposed: its answer leaves none behind.
        self.needed = self._required
        return sends

    def _thwarted(self) -> Sequence[Send]:
        if not met(self._required, self.confirmed | self.refused | self.waiting):
            self._end_unreached(Unreached, "too few replicas answered")
            return NOTHING
        return super()._thwarted()

    def _propose(self) -> Sequence[Send]:
        best = self.best
        assert best is not None
        if best.accepted == NONE:
            # A majority holds nothing and has promised to take nothing older: absent is the truth at this moment.
            self.outcome = Outcome(b"", self.acks)
            return NOTHING
        self.proposed = best.record
        return self._ask(ACCEPT, Op(ACCEPT, self.key, self.ballot, best.record))

    def _end_unreached(self, kind: type[Unreached], what: str) -> None:
        acks = len(self._shown)
        error = kind(
            f"{what}: {acks} of the {len(self.owners)} owners showed what they hold, level {self.level.value} needs "
            f"{required(self._required)}",
            "ask for ?consistency=one to read whatever copy is left; it may be old",
            required=required(self._required),
            acks=acks,
            replicas=self.errors,
        )
        self._end(error, acks)
