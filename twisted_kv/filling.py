"""Filling new owners: what the mover does in a closed epoch, when no client writes and no older round can end.

Where the sources agree on a key, the new owner becomes a copy of them: it takes the record under the ballot that it
has. Where they do not, a copy of one would forget what the other had promised, and two reads could then answer in the
wrong order; such a key is settled first, by a proposal of its own with a majority of the old and of the new owners.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence

from twisted.internet.defer import DeferredList, ensureDeferred

from .buggify import Buggify, inert
from .errors import ChangeFailed, Damaged, KvError
from .membership import Fill, Plan, Seat, State
from .names import Key, NodeId, Slot
from .peers.control import Control
from .quorum import majority
from .register import ACCEPT, PREPARE, Op, Reply
from .ring import runs, slot_of
from .versions import NONE, Ballot, HybridClock
from .wire import Row

SETTLE_ATTEMPTS = 5
"""Nobody competes in a closed epoch, so a second attempt is needed only to learn of a high promise."""

Place = tuple[int, bytes]
LAST: Place = (1 << 16, b"")


class _Unreadable(Exception):
    """A source cannot read part of a range at all."""

    def __init__(self, node: NodeId, detail: str) -> None:
        super().__init__(detail)
        self.node = node
        self.detail = detail


class Pages:
    """One source's records in order of slot and key, a page at a time."""

    def __init__(self, control: Control, seat: Seat, state: State, ranges: list[tuple[int, int]]) -> None:
        self._control = control
        self._seat = seat
        self._state = state
        self._ranges = ranges
        self._rows: deque[Row] = deque()
        self._after: Place | None = None
        self._more = True

    async def turn(self) -> None:
        """Fetch the next page if this one is used up. A page of bare promises may hold no row at all."""
        while self._more and not self._rows:
            try:
                page = await self._control.page(self._seat, self._state, self._ranges, self._after)
            except Damaged as error:
                raise _Unreadable(NodeId(self._seat.id), error.detail) from None
            self._rows.extend(page.rows)
            self._after = page.after
            self._more = page.after is not None

    @property
    def horizon(self) -> Place:
        """The last place up to which everything is known."""
        return _place(self._rows[-1]) if self._more else LAST

    def take(self, until: Place) -> Iterable[Row]:
        while self._rows and _place(self._rows[0]) <= until:
            yield self._rows.popleft()

    @property
    def ended(self) -> bool:
        return not self._more and not self._rows


class Filling:
    """One change's copying.

    :param seats: old and new seats, each with the incarnation it has now.
    :param adopted: the nodes that carry this epoch.
    """

    def __init__(
        self,
        control: Control,
        hybrid: HybridClock,
        state: State,
        seats: Mapping[NodeId, Seat],
        adopted: Collection[NodeId],
        buggify: Buggify = inert,
    ) -> None:
        self._control = control
        self._hybrid = hybrid
        self._state = state
        self._seats = seats
        self._adopted = adopted
        self._buggify = buggify
        self.done = 0
        self.total = 0
        self.copied = 0
        self.settled = 0

    async def run(self, plan: Plan) -> None:
        """Bring every target's slots to what its sources hold together.

        :raises ChangeFailed: if too few of those who are needed can be reached.
        """
        work = []
        for fill in plan.fills:
            refuse_missing(fill, self._adopted)
            chosen = sources(fill, self._adopted)
            # Where a lost member was given up there may be nobody to fill: those who are left stay as they are.
            if fill.targets:
                work.append((fill, chosen))
        await self._empty(plan)
        self.total = sum(len(fill.slots) for fill, _ in work)
        for fill, chosen in work:
            await self._fill(fill, chosen)
            self.done += len(fill.slots)

    async def _empty(self, plan: Plan) -> None:
        """Let every target start its new slots empty: what it may hold from an earlier time is out of date (P7)."""
        gained: dict[NodeId, list[Slot]] = {}
        for fill in plan.fills:
            for node in fill.targets:
                if not (fill.rescue and node in fill.sources):
                    gained.setdefault(node, []).extend(fill.slots)
        for node, slots in gained.items():
            await self._control.drop(self._seats[node], self._state, runs(sorted(slots)))

    async def _fill(self, fill: Fill, chosen: Sequence[NodeId]) -> None:
        """Fill one group of slots, without the source that turns out not to be readable if the others are enough."""
        while True:
            try:
                await self._fill_from(fill, chosen)
                return
            except _Unreadable as error:
                chosen = [node for node in chosen if node != error.node]
                if len(chosen) < fill.needed:
                    raise ChangeFailed(
                        f"{error.node} cannot read what it holds ({error.detail}), and without it too few can"
                    ) from None

    async def _fill_from(self, fill: Fill, chosen: Sequence[NodeId]) -> None:
        ranges = [(int(first), int(last)) for first, last in runs(fill.slots)]
        streams = [Pages(self._control, self._seats[node], self._state, ranges) for node in chosen]
        while not all(stream.ended for stream in streams):
            for stream in streams:
                await stream.turn()
            horizon = min(stream.horizon for stream in streams)
            found: dict[bytes, list[Row]] = {}
            for stream in streams:
                for row in stream.take(horizon):
                    found.setdefault(row.key, []).append(row)
            agreed: list[Row] = []
            disputed: list[Key] = []
            for key, rows in found.items():
                settled_all_the_same = self._buggify("filling: what agrees is settled all the same")
                if not fill.rescue and _agree(rows, len(streams)) and not settled_all_the_same:
                    agreed.append(rows[0])
                else:
                    disputed.append(Key(key))
            if agreed:
                ops = [Op(ACCEPT, row.key, row.ballot, row.record) for row in agreed]
                for node in fill.targets:
                    await self._control.ask(self._seats[node], self._state, ops)
                self.copied += len(agreed) * len(fill.targets)
            if disputed:
                await self._settle(fill, disputed)

    async def _settle(self, fill: Fill, keys: Sequence[Key]) -> None:
        """Propose what keys hold again, under a fresh ballot, with majorities of the old and of the new owners.

        Both, so that it stands however the change ends.
        """
        left = list(keys)
        for _ in range(SETTLE_ATTEMPTS):
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
                if shown.majorities and all(node in shown.counted for node in fill.targets):
                    settled.add(key)
            self.settled += len(settled)
            left = [key for key in left if key not in settled]
            if not left:
                return
        raise ChangeFailed(f"{len(left)} keys on which {', '.join(fill.sources)} differ could not be settled")

    def _voters(self, fill: Fill) -> list[NodeId]:
        return [node for node in dict.fromkeys((*fill.sources, *fill.owners)) if node in self._adopted]

    async def _ask_all(self, fill: Fill, ops: list[Op]) -> dict[NodeId, list[Reply]]:
        voters = self._voters(fill)
        asked = [ensureDeferred(self._control.ask(self._seats[node], self._state, ops)) for node in voters]
        answers: dict[NodeId, list[Reply]] = {}
        for node, (succeeded, result) in zip(voters, await DeferredList(asked, consumeErrors=True), strict=True):
            if succeeded:
                answers[node] = result
                for reply in result:
                    self._hybrid.learn(Ballot(max(reply.accepted, reply.promised)))
            elif not result.check(KvError):
                result.raiseException()
        return answers


def sources(fill: Fill, present: Collection[NodeId]) -> list[NodeId]:
    """Choose whom to read: all who remember and can be reached, ``needed`` at the least.

    Any ``needed`` hold what was acknowledged at ``strong``; what level ``one`` left on a single owner is worth reading
    the others for.

    :raises ChangeFailed: if there are fewer.
    """
    reachable = [node for node in fill.sources if node in present]
    if len(reachable) < fill.needed:
        raise ChangeFailed(
            f"{fill.needed} of {', '.join(fill.sources)} must be reached to know the newest values, "
            f"{len(reachable)} are"
        )
    return reachable


def refuse_missing(fill: Fill, present: Collection[NodeId]) -> None:
    """:raises ChangeFailed: if somebody who is to be filled cannot be reached."""
    missing = [node for node in fill.targets if node not in present]
    if missing:
        raise ChangeFailed(f"{', '.join(missing)} cannot be reached to be filled")


def _agree(rows: Sequence[Row], sources_count: int) -> bool:
    """Whether all sources hold the same record of a key, can read it, and none has promised to refuse it."""
    ballot = rows[0].ballot
    alike = all(row.ballot == ballot and row.promised <= ballot for row in rows)
    return alike and ballot != NONE and len(rows) == sources_count


class _Shown:
    """What the voters answered to one question about one key.

    ``counted`` are those who agreed; in a rescue, also those who cannot read what they hold: it is given up, and until
    they are rebuilt they abstain.
    """

    def __init__(self, fill: Fill, replies: Mapping[NodeId, Reply]) -> None:
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

    @property
    def leaves_nothing_to_propose(self) -> bool:
        """Whether a key may stay as it is, once all have answered a prepare of which nothing could be proposed.

        It may where a majority holds nothing: what somebody cannot read was never acknowledged. And it may in a rescue
        where so many abstain that the others are no majority: it is then answered by an error, never as absent.
        """
        return self._old and not self._refused and (self._new or self._rescue)


def _place(row: Row) -> Place:
    return (slot_of(row.key), row.key)
