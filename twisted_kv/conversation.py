"""What a proxy's reads and writes of one key share: rounds of answers, counted, and the proposal in two rounds.

Nothing here sends: a conversation is given answers and says what to ask next. Who carries the questions gives each of
them exactly one answer or one failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

from .errors import DeadlinePassed, KvError, Unreached
from .names import Key, NodeId
from .quorum import Electorate, Quota, Voters, met
from .register import ACCEPT, PREPARE, READ, Op, Reply
from .versions import NONE, HybridClock

Send: TypeAlias = tuple[NodeId, Op]
"""A question to put to an owner now."""


class Outcome(msgspec.Struct, frozen=True):
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
        "alike",
        "attempt",
        "ballot",
        "best",
        "clock",
        "confirmed",
        "electorate",
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

    def __init__(self, key: Key, electorate: Electorate, clock: HybridClock) -> None:
        self.key = key
        self.clock = clock
        self.round = 0
        self.attempt = 0
        self.paused = False
        self.outcome: Outcome | None = None
        self.errors: dict[NodeId, str] = {}
        self._seat(electorate)

    def _seat(self, electorate: Electorate) -> None:
        self.electorate = electorate
        self.owners = electorate.nodes
        self.quorum = electorate.quorum
        self.needed: Quota = self.quorum
        self.phase = READ
        self.ballot = NONE
        self.proposed = b""
        self.best: Reply | None = None
        self.alike = True
        self.confirmed: Voters = 0
        self.refused: Voters = 0
        self.waiting: Voters = 0

    @property
    def in_doubt(self) -> bool:
        """Whether something that was proposed may have taken effect, or may still."""
        return False

    @property
    def acks(self) -> int:
        """How many have confirmed in this round."""
        return self.confirmed.bit_count()

    @property
    def spared(self) -> Sequence[NodeId]:
        """The owners whom a nudge would ask, in this round."""
        return ()

    def begin(self) -> Sequence[Send]:
        raise NotImplementedError

    def resume(self) -> Sequence[Send]:
        """Go on after a pause."""
        self.paused = False
        return self._prepare()

    def restart(self, electorate: Electorate) -> Sequence[Send]:
        """Begin again with the owners of another epoch: answers of two epochs are never counted together."""
        self.paused = False
        self.errors = {}
        self._seat(electorate)
        return self.begin()

    def nudge(self) -> Sequence[Send]:
        """Say that answers are slow; a read then asks the owners it had spared."""
        return NOTHING

    def expire(self) -> None:
        """End the conversation because its deadline has passed."""
        if self.outcome is not None:
            return
        for node in self.electorate.members(self.waiting):
            self.errors.setdefault(node, "no answer before the deadline")
        self._end_unreached(DeadlinePassed, "the deadline passed")

    def deliver(self, node: NodeId, round_: int, reply: Reply, resent: bool = False) -> Sequence[Send]:
        """Count an owner's answer.

        :param round_: the round that the question belonged to; an answer to an older one changes nothing.
        :param resent: the question may have arrived twice, so a refusal may be the second answer to it.
        """
        bit = self.electorate.bits.get(node, 0)
        if round_ != self.round or self.outcome is not None or not self.waiting & bit:
            return NOTHING
        self.waiting ^= bit
        if not reply.taken:
            self.refused |= bit
            self.clock.learn(max(reply.accepted, reply.promised))
            return self._refused(bit, reply, resent)
        self.confirmed |= bit
        if self.phase == PREPARE:
            if self.best is not None and reply.accepted != self.best.accepted:
                self.alike = False
            if self.best is None or reply.accepted > self.best.accepted:
                self.best = reply
        return self._taken(bit, reply)

    def fail(self, node: NodeId, round_: int, error: str, arrived: bool) -> Sequence[Send]:
        """Count an owner's silence.

        :param arrived: whether the question may have had its effect.
        """
        bit = self.electorate.bits.get(node, 0)
        if round_ != self.round or self.outcome is not None or not self.waiting & bit:
            return NOTHING
        self.waiting ^= bit
        self.errors[node] = error
        return self._silent(bit, arrived)

    # One round.

    def _ask(self, phase: int, op: Op, confirmed: Voters = 0) -> Sequence[Send]:
        """Put a question to everybody but those who have confirmed already."""
        self.round += 1
        self.phase = phase
        self.confirmed = confirmed
        self.refused = 0
        self.waiting = self.electorate.everybody & ~confirmed
        if not confirmed:
            return [(node, op) for node in self.owners]
        return [(node, op) for node in self.electorate.members(self.waiting)]

    def _taken(self, bit: Voters, reply: Reply) -> Sequence[Send]:
        if met(self.needed, self.confirmed):
            return self._chosen() if self.phase == ACCEPT else self._propose()
        return self._weigh()

    def _refused(self, bit: Voters, reply: Reply, resent: bool) -> Sequence[Send]:
        return self._weigh()

    def _silent(self, bit: Voters, arrived: bool) -> Sequence[Send]:
        return self._weigh()

    def _weigh(self) -> Sequence[Send]:
        """Go on as soon as this round can no longer succeed."""
        if met(self.needed, self.confirmed | self.waiting):
            return NOTHING
        return self._thwarted()

    def _thwarted(self) -> Sequence[Send]:
        if not met(self.quorum, self.confirmed | self.refused | self.waiting):
            self._end_unreached(Unreached, "too few replicas answered")
            return NOTHING
        return NOTHING if self._gives_way() else self._prepare()

    def _gives_way(self) -> bool:
        """Count a thwarted attempt, and say whether the next one comes after a pause; the first follows at once."""
        self.attempt += 1
        self.paused = self.attempt > 1
        return self.paused

    # A proposal: prepare, then accept.

    def _prepare(self) -> Sequence[Send]:
        self.best = None
        self.alike = True
        self.needed = self.quorum
        self.ballot = self.clock.tick()
        return self._ask(PREPARE, Op(PREPARE, self.key, self.ballot))

    def _propose(self) -> Sequence[Send]:
        raise NotImplementedError

    def _chosen(self) -> Sequence[Send]:
        self.outcome = Outcome(self.proposed, self.acks)
        return NOTHING

    def _end_unreached(self, kind: type[Unreached], what: str) -> None:
        raise NotImplementedError

    def _end(self, error: KvError, acks: int) -> None:
        self.outcome = Outcome(b"", acks, error)
