"""Filling new owners, the driver's part: whom to copy what from, and what becomes of keys on which sources differ.

Each target copies for itself (``pulling.py``), one order after another. Where the operator has accepted a loss there is
no majority to copy from: then whatever is left of each key is proposed again (``settling.py``).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from twisted.internet.defer import DeferredSemaphore, ensureDeferred
from twisted.internet.interfaces import IReactorTime

from .buggify import Buggify, inert
from .errors import ChangeFailed, Damaged
from .limits import Limits
from .membership import Seat, State
from .names import Key, NodeId
from .peers.control import Control
from .peers.pages import Pages, merged
from .planning import Fill, Plan
from .ring import runs
from .settling import Settling
from .throttle import Throttle
from .together import every
from .versions import HybridClock


class _Unreadable(Exception):
    """A source cannot read part of a range at all."""

    def __init__(self, node: NodeId, detail: str) -> None:
        super().__init__(detail)
        self.node = node
        self.detail = detail


class Filling:
    """One change's copying.

    :param seats: old and new seats, each with the incarnation it has now.
    :param adopted: the nodes that carry this epoch.
    :param throttle: paces the orders.
    """

    def __init__(
        self,
        clock: IReactorTime,
        limits: Limits,
        control: Control,
        hybrid: HybridClock,
        state: State,
        seats: Mapping[NodeId, Seat],
        adopted: Collection[NodeId],
        throttle: Throttle,
        buggify: Buggify = inert,
    ) -> None:
        self._clock = clock
        self._limits = limits
        self._control = control
        self._state = state
        self._seats = seats
        self._adopted = adopted
        self._throttle = throttle
        self._buggify = buggify
        self._settling = Settling(control, hybrid, state, seats, adopted)
        self._at_once = DeferredSemaphore(limits.pulls_at_once)
        self.done = 0
        self.total = 0
        self.copied = 0
        self.bytes = 0
        self._began_s = clock.seconds()

    @property
    def slots_per_s(self) -> float:
        """How fast it has been until now."""
        return self.done / max(0.001, self._clock.seconds() - self._began_s)

    @property
    def settled(self) -> int:
        return self._settling.settled

    async def run(self, plan: Plan) -> None:
        """Bring every target's slots to what its sources hold together.

        :raises ChangeFailed: if too few of those who are needed can be reached.
        """
        pulls: dict[NodeId, list[tuple[Fill, list[NodeId]]]] = {}
        for fill in plan.fills:
            refuse_missing(fill, self._adopted)
            chosen = sources(fill, self._adopted)
            # Where a lost member was given up there may be nobody to fill: those who are left stay as they are.
            if not fill.targets or not chosen:
                continue
            self.total += len(fill.slots) * len(fill.targets)
            if fill.rescue:
                await self._rescue(fill, chosen)
                continue
            for node in fill.targets:
                pulls.setdefault(node, []).append((fill, chosen))
        await every(self._at_once.run(lambda n=node: ensureDeferred(self._pull_all(n, pulls[n]))) for node in pulls)

    async def _pull_all(self, target: NodeId, work: Sequence[tuple[Fill, list[NodeId]]]) -> None:
        """Let one target copy all that it is to have, and look again until nothing is missing (P18)."""
        for fill, chosen in work:
            left = 0
            for last in range(self._limits.pull_passes_max):
                copied, left = await self._pull(target, fill, chosen, counts=last == 0)
                if not copied and not left:
                    break
            if left:
                raise ChangeFailed(f"{left} slots of {target} still lack their floors")

    async def _pull(self, target: NodeId, fill: Fill, chosen: Sequence[NodeId], counts: bool) -> tuple[int, int]:
        """Go through a fill's slots once; say how many keys were not there yet, and how many floors still are not."""
        seat, ranges = self._seats[target], runs(fill.slots)
        named = [self._seats[node] for node in chosen]
        first: int | None = ranges[0][0]
        found = left = 0
        while first is not None:
            began_s = self._clock.seconds()
            reply = await self._control.pull(seat, self._state, ranges, first, named, fill.needed)
            self.copied += reply.copied
            self.bytes += reply.size
            found += reply.copied + len(reply.disputed)
            left += reply.floors_left
            disputed = [Key(key) for key in dict.fromkeys(reply.disputed)]
            for at in range(0, len(disputed), self._limits.settled_at_once):
                await self._settling.settle(fill, disputed[at : at + self._limits.settled_at_once])
            if counts:
                until = reply.next if reply.next is not None else ranges[-1][1] + 1
                self.done += sum(max(0, min(last + 1, until) - max(begin, first)) for begin, last in ranges)
            first = reply.next
            if first is not None and self._buggify("filling: it begins again"):
                first = ranges[0][0]
            await self._throttle.pause(reply.size, self._clock.seconds() - began_s)
        return found, left

    # Where the operator has accepted a loss.

    async def _rescue(self, fill: Fill, chosen: Sequence[NodeId]) -> None:
        """Settle all that is left, without the source that turns out not to be readable if the others are enough."""
        while True:
            try:
                await self._settle_all(fill, chosen)
                self.done += len(fill.slots) * len(fill.targets)
                return
            except _Unreadable as error:
                chosen = [node for node in chosen if node != error.node]
                if len(chosen) < fill.needed:
                    raise ChangeFailed(
                        f"{error.node} cannot read what it holds ({error.detail}), and without it too few can"
                    ) from None

    async def _settle_all(self, fill: Fill, chosen: Sequence[NodeId]) -> None:
        ranges = runs(fill.slots)
        streams = [self._stream(node, ranges) for node in chosen]
        while (found := await merged(streams)) is not None:
            keys = [Key(rows[0].key) for rows in found[0]]
            if keys:
                await self._settling.settle(fill, keys)

    def _stream(self, node: NodeId, ranges: list[tuple[int, int]]) -> Pages:
        async def fetch(after: tuple[int, bytes] | None) -> object:
            try:
                return await self._control.page(self._seats[node], self._state, ranges, after)
            except Damaged as error:
                raise _Unreadable(node, error.detail) from None

        return Pages(fetch)  # type: ignore[arg-type]


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
