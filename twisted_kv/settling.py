"""Settling: keys on which owners differ are proposed again, with majorities of the old and of the new owners.

A copy of one owner would forget what another had promised, and two reads could then answer in the wrong order. What is
proposed under a ballot of its own with majorities of both stands however the change ends. Clients may be at work on the
same keys: whoever has the higher ballot wins, as ever.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from .errors import ChangeFailed
from .membership import Seat, State
from .names import Key, NodeId
from .peers.control import Control
from .planning import Fill
from .quorum import majority
from .register import ACCEPT, PREPARE, Op, Reply
from .together import answers
from .versions import NONE, Ballot, HybridClock

ATTEMPTS = 5
"""In a closed epoch a second attempt is needed only to learn of a high promise; in an open one clients compete."""


class Settling:
    """Settles the keys of one change.

    :param seats: old and new seats, each with the incarnation it has now.
    :param present: the nodes that answer.
    """

    def __init__(
        self,
        control: Control,
        hybrid: HybridClock,
        state: State,
        seats: Mapping[NodeId, Seat],
        present: Collection[NodeId],
    ) -> None:
        self._control = control
        self._hybrid = hybrid
        self._state = state
        self._seats = seats
        self._present = present
        self.settled = 0

    async def settle(self, fill: Fill, keys: Sequence[Key]) -> None:
        """Make every target of a fill hold what these keys hold, or something newer.

        :raises ChangeFailed: if that does not come about.
        """
        left = list(keys)
        for _ in range(ATTEMPTS):
            ballot = self._hybrid.tick()
            promises = await self._ask_all(fill, [Op(PREPARE, key, ballot) for key in left])
            proposals: dict[Key, bytes] = {}
            settled: set[Key] = set()
            for place, key in enumerate(left):
                shown = _Shown(fill, {node: replies[place] for node, replies in promises.items()})
                best = max(shown.taken.values(), key=lambda reply: reply.accepted, default=None)
                if best is not None and best.accepted != NONE and shown.majorities:
                    proposals[key] = best.record
                elif len(promises) == len(self._voters(fill)) and shown.leaves_nothing_to_propose:
                    settled.add(key)
            ops = [Op(ACCEPT, key, ballot, record) for key, record in proposals.items()]
            accepted = await self._ask_all(fill, ops) if ops else {}
            for place, key in enumerate(proposals):
                shown = _Shown(fill, {node: replies[place] for node, replies in accepted.items()})
                if shown.majorities and all(shown.holds(node, ballot) for node in fill.targets):
                    settled.add(key)
            self.settled += len(settled)
            left = [key for key in left if key not in settled]
            if not left:
                return
        raise ChangeFailed(f"{len(left)} keys on which {', '.join(fill.sources)} differ could not be settled")

    def _voters(self, fill: Fill) -> list[NodeId]:
        return [node for node in dict.fromkeys((*fill.sources, *fill.owners)) if node in self._present]

    async def _ask_all(self, fill: Fill, ops: list[Op]) -> dict[NodeId, list[Reply]]:
        voters = self._voters(fill)
        found = await answers({node: self._control.ask(self._seats[node], self._state, ops) for node in voters})
        for replies in found.values():
            for reply in replies:
                self._hybrid.learn(max(reply.accepted, reply.promised))
        return found


class _Shown:
    """What the voters answered to one question about one key.

    ``counted`` are those who agreed; in a rescue, also those who cannot read what they hold: it is given up, and until
    they are rebuilt they abstain.
    """

    def __init__(self, fill: Fill, replies: Mapping[NodeId, Reply]) -> None:
        self._replies = replies
        self.taken = {node: reply for node, reply in replies.items() if reply.taken}
        self._abstaining = {node for node, reply in replies.items() if reply.abstains}
        self._refused = len(replies) - len(self.taken) - len(self._abstaining)
        self.counted = self.taken.keys() | (self._abstaining if fill.rescue else set())
        self._old = sum(node in self.counted for node in fill.sources) >= fill.majority
        self._new = sum(node in self.taken for node in fill.owners) >= majority(len(fill.owners))
        self._rescue = fill.rescue

    @property
    def majorities(self) -> bool:
        return self._old and self._new

    def holds(self, node: NodeId, ballot: Ballot) -> bool:
        """Whether a node took what was proposed, or holds what came after it already."""
        return node in self.counted or (node in self._replies and self._replies[node].accepted > ballot)

    @property
    def leaves_nothing_to_propose(self) -> bool:
        """Whether a key may stay as it is, once all have answered a prepare of which nothing could be proposed.

        It may where a majority holds nothing: what somebody cannot read was never acknowledged. And it may in a rescue
        where so many abstain that the others are no majority: it is then answered by an error, never as absent.
        """
        return self._old and not self._refused and (self._new or self._rescue)
