"""The register: what one key is, as rules of an acceptor and as conversations of a proxy with the key's owners.

This is single-decree Paxos read as a register (Lamport, "Paxos Made Simple", 2001; the register form is CASPaxos,
Rystsov 2018): a change is an *accept* under a ballot; an owner keeps the highest ballot it promised and the record it
accepted last. A plain write skips the *prepare* and goes on with one only if it was refused; a read writes back only
where a majority does not already agree.

Nothing here sends: a conversation is given answers and says what to ask next. Who carries the questions gives each of
them exactly one answer or one failure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from .errors import DeadlinePassed, KvError, Unreached
from .names import Key, NodeId
from .quorum import Level, majority
from .versions import NONE, Ballot, HybridClock, Record, Version, record_version

READ, FETCH, PREPARE, ACCEPT = range(4)
"""The verbs: show the ballots; show the record too; promise; take this record."""


class Op(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One question to one owner about one key."""

    verb: int
    key: bytes
    ballot: bytes = NONE
    record: bytes = b""


class Reply(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One owner's answer: whether it agreed, and its two ballots after that.

    ``record`` is there where it was asked for: by a fetch, and by a prepare that was granted. Empty bytes are the
    record of a key that was never written.
    """

    taken: bool
    accepted: bytes
    promised: bytes
    record: bytes = b""


class Cell(NamedTuple):
    """What one owner keeps for one key."""

    promised: Ballot
    accepted: Ballot
    record: bytes


BLANK = Cell(NONE, NONE, b"")


def decide(cell: Cell, op: Op) -> tuple[Reply, Cell]:
    """Apply the acceptor's rules: the answer, and the cell that must be kept before the answer leaves.

    The same cell object comes back where nothing changed. A repeated message is answered as the first was.
    """
    verb = op.verb
    if verb == ACCEPT:
        ballot = Ballot(op.ballot)
        if ballot >= cell.promised and ballot > cell.accepted:
            return Reply(True, ballot, ballot), Cell(ballot, ballot, op.record)
        return Reply(ballot == cell.accepted, cell.accepted, cell.promised), cell
    if verb == READ:
        return Reply(True, cell.accepted, cell.promised), cell
    if verb == FETCH:
        return Reply(True, cell.accepted, cell.promised, cell.record), cell
    ballot = Ballot(op.ballot)
    if ballot >= cell.promised and ballot > cell.accepted:
        kept = cell if ballot == cell.promised else Cell(ballot, cell.accepted, cell.record)
        return Reply(True, cell.accepted, ballot, cell.record), kept
    return Reply(False, cell.accepted, cell.promised), cell


class Send(NamedTuple):
    """A question to put to an owner now."""

    node: NodeId
    op: Op


class Outcome(NamedTuple):
    """How a conversation ended: the record that holds (empty if the key was never written), or the error.

    ``acks`` counts the owners who had agreed by then.
    """

    record: bytes
    acks: int
    error: KvError | None = None


NOTHING: tuple[Send, ...] = ()


class Conversation:
    """What reads and writes share: counting one round of answers, and the two rounds of a proposal.

    The owner of a conversation calls ``begin`` once, then ``deliver`` or ``fail`` for each question sent, and sends
    what they return, until ``outcome`` is set. When ``paused`` is true it calls ``resume`` after a random pause that
    grows with ``attempt``: two proposers that meet on one key would otherwise refuse each other for ever.
    """

    __slots__ = (
        "attempt",
        "ballot",
        "best",
        "clock",
        "confirmed",
        "errors",
        "key",
        "needed",
        "outcome",
        "owners",
        "paused",
        "phase",
        "proposed",
        "quorum",
        "refused",
        "round",
        "waiting",
    )

    def __init__(self, key: Key, owners: Sequence[NodeId], clock: HybridClock) -> None:
        self.key = key
        self.clock = clock
        self.round = 0
        self.attempt = 0
        self.paused = False
        self.outcome: Outcome | None = None
        self.errors: dict[NodeId, str] = {}
        self._seat(owners)

    def _seat(self, owners: Sequence[NodeId]) -> None:
        self.owners = owners
        self.quorum = majority(len(owners))
        self.needed = self.quorum
        self.phase = READ
        self.ballot = NONE
        self.proposed = b""
        self.best: Reply | None = None
        self.confirmed = 0
        self.refused = 0
        self.waiting: set[NodeId] = set()

    def begin(self) -> Sequence[Send]:
        raise NotImplementedError

    def resume(self) -> Sequence[Send]:
        """Go on after a pause."""
        self.paused = False
        return self._prepare()

    def restart(self, owners: Sequence[NodeId]) -> Sequence[Send]:
        """Begin again with the owners of another epoch: answers of two epochs are never counted together."""
        self.paused = False
        self.errors = {}
        self._seat(owners)
        return self.begin()

    def nudge(self) -> Sequence[Send]:
        """Say that answers are slow; a read then asks the owners it had spared."""
        return NOTHING

    def expire(self) -> None:
        """End the conversation because its deadline has passed."""
        if self.outcome is not None:
            return
        for node in self.waiting:
            self.errors.setdefault(node, "no answer before the deadline")
        self._end_unreached(DeadlinePassed, "the deadline passed")

    def deliver(self, node: NodeId, round_: int, reply: Reply, resent: bool = False) -> Sequence[Send]:
        """Count an owner's answer.

        :param round_: the round that the question belonged to; an answer to an older one changes nothing.
        :param resent: the question may have arrived twice, so a refusal may be the second answer to it.
        """
        if round_ != self.round or self.outcome is not None or node not in self.waiting:
            return NOTHING
        self.waiting.remove(node)
        if not reply.taken:
            self.refused += 1
            self.clock.learn(Ballot(max(reply.accepted, reply.promised)))
            return self._refused(reply, resent)
        self.confirmed += 1
        if self.phase == PREPARE and (self.best is None or reply.accepted > self.best.accepted):
            self.best = reply
        return self._taken(node, reply)

    def fail(self, node: NodeId, round_: int, error: str, arrived: bool) -> Sequence[Send]:
        """Count an owner's silence.

        :param arrived: whether the question may have had its effect.
        """
        if round_ != self.round or self.outcome is not None or node not in self.waiting:
            return NOTHING
        self.waiting.remove(node)
        self.errors[node] = error
        return self._silent(node, arrived)

    # One round.

    def _ask(self, phase: int, op: Op, nodes: Iterable[NodeId], confirmed: int = 0) -> Sequence[Send]:
        self.round += 1
        self.phase = phase
        self.confirmed = confirmed
        self.refused = 0
        sends = [Send(node, op) for node in nodes]
        self.waiting = {send.node for send in sends}
        return sends

    def _taken(self, node: NodeId, reply: Reply) -> Sequence[Send]:
        if self.confirmed >= self.needed:
            return self._chosen() if self.phase == ACCEPT else self._propose()
        return self._weigh()

    def _refused(self, reply: Reply, resent: bool) -> Sequence[Send]:
        return self._weigh()

    def _silent(self, node: NodeId, arrived: bool) -> Sequence[Send]:
        return self._weigh()

    def _weigh(self) -> Sequence[Send]:
        """Go on as soon as this round can no longer succeed."""
        if self.confirmed + len(self.waiting) >= self.needed:
            return NOTHING
        return self._thwarted()

    def _thwarted(self) -> Sequence[Send]:
        if self.confirmed + self.refused + len(self.waiting) < self.quorum:
            self._end_unreached(Unreached, "too few replicas answered")
            return NOTHING
        self.attempt += 1
        if self.attempt > 1:
            self.paused = True
            return NOTHING
        return self._prepare()

    # A proposal: prepare, then accept.

    def _prepare(self) -> Sequence[Send]:
        self.best = None
        self.needed = self.quorum
        self.ballot = self.clock.tick()
        return self._ask(PREPARE, Op(PREPARE, self.key, self.ballot), self.owners)

    def _propose(self) -> Sequence[Send]:
        raise NotImplementedError

    def _chosen(self) -> Sequence[Send]:
        self.outcome = Outcome(self.proposed, self.confirmed)
        return NOTHING

    def _end_unreached(self, kind: type[Unreached], what: str) -> None:
        raise NotImplementedError


class Write(Conversation):
    """A plain put (or, with ``value`` None, delete): one accept under a fresh ballot, from any proxy.

    A refused accept is *open* unless every owner refused it and it was sent once: it may still take effect, by a read
    that writes back what one owner took. So it goes on by a prepare, and ends as ``maybe_applied`` where the answers
    cannot tell whether it already took effect and was replaced.
    """

    __slots__ = (
        "_doubtful",
        "_flying",
        "_newer",
        "content_type",
        "expires_ms",
        "level",
        "mine",
        "open_ballot",
        "value",
    )

    def __init__(
        self,
        key: Key,
        owners: Sequence[NodeId],
        clock: HybridClock,
        level: Level,
        value: bytes | None,
        content_type: bytes = b"",
        expires_ms: int = 0,
    ) -> None:
        self.level = level
        self.value = value
        self.content_type = content_type
        self.expires_ms = expires_ms
        self.mine: set[Version] = set()
        self.open_ballot: Ballot | None = None
        self._flying: Version | None = None
        self._doubtful = False
        self._newer = 0
        super().__init__(key, owners, clock)

    def begin(self) -> Sequence[Send]:
        if self.mine:
            return self._prepare()
        return self._accept_fresh(self.clock.tick(), self.level.needed(len(self.owners)))

    def restart(self, owners: Sequence[NodeId]) -> Sequence[Send]:
        self._land(certain=not (self._doubtful or self.confirmed or self.waiting))
        return super().restart(owners)

    def resume(self) -> Sequence[Send]:
        self.paused = False
        return self.begin()

    def _accept_fresh(self, ballot: Ballot, needed: int) -> Sequence[Send]:
        record = Record(Version(ballot), self.value, self.content_type, self.expires_ms)
        return self._accept(ballot, record.encode(), needed)

    def _accept(self, ballot: Ballot, record: bytes, needed: int) -> Sequence[Send]:
        self.ballot = ballot
        self.proposed = record
        self.needed = needed
        self._flying = record_version(record)
        self._doubtful = False
        self._newer = 0
        return self._ask(ACCEPT, Op(ACCEPT, self.key, ballot, record), self.owners)

    def _land(self, certain: bool) -> None:
        """Close the books on the accept under way: forget it if it certainly had no effect, else hold it open."""
        if self._flying is not None and not certain:
            self.mine.add(self._flying)
            self.open_ballot = self.open_ballot or self.ballot
        self._flying = None

    def _refused(self, reply: Reply, resent: bool) -> Sequence[Send]:
        self._doubtful = self._doubtful or resent
        self._newer += self.phase == ACCEPT and reply.accepted > self.ballot
        return self._weigh()

    def _silent(self, node: NodeId, arrived: bool) -> Sequence[Send]:
        self._doubtful = self._doubtful or arrived
        return self._weigh()

    def _weigh(self) -> Sequence[Send]:
        if self.phase != ACCEPT:
            return super()._weigh()
        if self.confirmed + len(self.waiting) >= self.needed:
            return NOTHING
        if self.confirmed >= self.quorum and self.confirmed + self._newer >= self.needed:
            # Level all: a majority took it, so it has happened; the others already hold what came after it.
            self.confirmed += self._newer
            return self._chosen()
        certain = not self.confirmed and not self._doubtful
        if certain and self.waiting:
            # All so far refused. If the rest do too, nothing has happened and no doubt is left: worth the wait.
            return NOTHING
        answered = self.confirmed + self.refused
        reachable = answered + len(self.waiting)
        if reachable < self.needed or not self.refused:
            # Out of reach; but how many did take it is worth the wait for those who have yet to answer.
            if not self.waiting:
                self._end_unreached(Unreached, "the write did not reach its level")
            return NOTHING
        self._land(certain)
        self.attempt += 1
        if self.attempt > 1:
            self.paused = True
            return NOTHING
        return self.begin()

    def _propose(self) -> Sequence[Send]:
        best = self.best
        assert best is not None
        needed = max(self.quorum, self.level.needed(len(self.owners)))
        if self.open_ballot is not None:
            if best.record and record_version(best.record) in self.mine:
                return self._accept(self.ballot, best.record, needed)
            if best.accepted >= self.open_ballot:
                self._end_unreached(Unreached, "another change came between, which hides whether this one took effect")
                return NOTHING
        return self._accept_fresh(self.ballot, needed)

    def _end_unreached(self, kind: type[Unreached], what: str) -> None:
        in_doubt = self._flying is not None and (self._doubtful or self.confirmed > 0 or bool(self.waiting))
        acks = self.confirmed if self.phase == ACCEPT else 0
        attempted = self._flying or max(self.mine, default=None)
        error = kind(
            f"{what}: {acks} of the {len(self.owners)} owners took it, level {self.level.value} needs {self.needed}",
            "read the key to see which value holds, and write again if it is not yours"
            if in_doubt or self.mine
            else "nothing was changed: try again, or ask for ?consistency=one if one copy is enough",
            required=self.needed,
            acks=acks,
            maybe_applied=in_doubt or bool(self.mine),
            etag=attempted.hex() if attempted is not None else None,
            replicas=self.errors,
        )
        self.outcome = Outcome(b"", acks, error)


class Read(Conversation):
    """A read of the newest record: done when a majority shows the same accepted ballot, else it makes it so first.

    A bare majority is asked first, one of them for the record and the others for their ballots. What a read answers
    was at its end held by a majority, so that no later read can answer anything older (P10: a write-back is waited
    for).

    :param owners: the key's owners, those to be asked first coming first.
    """

    __slots__ = ("_asked", "_ballot_had", "_fetching", "_had", "_required", "_shown", "level")

    def __init__(self, key: Key, owners: Sequence[NodeId], clock: HybridClock, level: Level) -> None:
        self.level = level
        super().__init__(key, owners, clock)

    def begin(self) -> Sequence[Send]:
        self._shown: dict[NodeId, bytes] = {}
        self._had = b""
        self._ballot_had: bytes = NONE
        self._required = max(self.quorum, self.level.needed(len(self.owners)))
        self.round += 1
        self.phase = READ
        first = self.owners[: self._required]
        self._asked = set(first)
        self.waiting = set(first)
        self._fetching = {first[0]}
        look = Op(READ, self.key)
        return [Send(node, look if i else Op(FETCH, self.key)) for i, node in enumerate(first)]

    def nudge(self) -> Sequence[Send]:
        return self._fetch(node for node in self.owners if node not in self._asked) if self.phase == READ else NOTHING

    def _fetch(self, nodes: Iterable[NodeId]) -> Sequence[Send]:
        """Ask more owners in the same round: what each shows is true at some moment of this read, which is enough."""
        op = Op(FETCH, self.key)
        sends = [Send(node, op) for node in nodes]
        for send in sends:
            self._asked.add(send.node)
            self.waiting.add(send.node)
            self._fetching.add(send.node)
        return sends

    def _taken(self, node: NodeId, reply: Reply) -> Sequence[Send]:
        if self.phase != READ:
            return super()._taken(node, reply)
        self._shown[node] = reply.accepted
        if node in self._fetching:
            self._fetching.discard(node)
            if reply.accepted >= self._ballot_had:
                self._ballot_had = reply.accepted
                self._had = reply.record
        return self._evaluate()

    def _silent(self, node: NodeId, arrived: bool) -> Sequence[Send]:
        if self.phase != READ:
            return super()._silent(node, arrived)
        self._fetching.discard(node)
        self._shown.pop(node, None)
        spared = next((other for other in self.owners if other not in self._asked), None)
        return [*(self._fetch([spared]) if spared is not None else ()), *self._evaluate()]

    def _evaluate(self) -> Sequence[Send]:
        shown = self._shown
        if len(shown) < self._required:
            possible = len(shown) + sum(node not in shown for node in self.waiting)
            if possible < self._required:
                self._end_unreached(Unreached, "too few replicas answered")
            return NOTHING
        newest = max(shown.values())
        holders = [node for node, ballot in shown.items() if ballot == newest]
        if len(holders) >= self.quorum:
            if newest == self._ballot_had:
                self.clock.learn(Ballot(newest))
                self.outcome = Outcome(self._had, len(shown))
                return NOTHING
            return self._fetch_from(holders)
        unasked = [node for node in self.owners if node not in self._asked]
        if newest == self._ballot_had:
            return self._write_back(holders)
        return [*self._fetch_from(holders), *self._fetch(unasked)]

    def _fetch_from(self, holders: Sequence[NodeId]) -> Sequence[Send]:
        if any(node in self._fetching for node in holders):
            return NOTHING
        return self._fetch(holders[:1])

    def _write_back(self, holders: Sequence[NodeId]) -> Sequence[Send]:
        """Give the newest record to the others under the ballot it has; the holders have confirmed it already."""
        self.proposed = self._had
        self.needed = self.quorum
        held = set(holders)
        lacking = [node for node in self.owners if node not in held]
        op = Op(ACCEPT, self.key, self._ballot_had, self._had)
        return self._ask(ACCEPT, op, lacking, confirmed=len(held))

    def _propose(self) -> Sequence[Send]:
        best = self.best
        assert best is not None
        if best.accepted == NONE:
            # A majority holds nothing and has promised to take nothing older: absent is the truth at this moment.
            self.outcome = Outcome(b"", self.confirmed)
            return NOTHING
        self.proposed = best.record
        return self._ask(ACCEPT, Op(ACCEPT, self.key, self.ballot, best.record), self.owners)

    def _end_unreached(self, kind: type[Unreached], what: str) -> None:
        acks = len(self._shown)
        error = kind(
            f"{what}: {acks} of the {len(self.owners)} owners showed what they hold, level {self.level.value} needs "
            f"{self._required}",
            "ask for ?consistency=one to read whatever copy is left; it may be old",
            required=self._required,
            acks=acks,
            replicas=self.errors,
        )
        self.outcome = Outcome(b"", acks, error)
