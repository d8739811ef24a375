"""Purging: the owners of a slot, all alike, forget its tombstones together, below a floor (``floors.py``).

In two steps: each owner promises to take nothing below the floor, and only when all of them have does any of them
forget. Otherwise what one has forgotten already could come back from what another one still takes.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isinf

from twisted.internet.interfaces import IReactorTime

from .buggify import Buggify, inert
from .limits import Limits
from .membership import Seat
from .metrics import ProxyMetrics
from .names import NodeId, Slot
from .peers.control import Control
from .versions import Ballot, HybridClock
from .views import View


class Purger:
    """Purges for one proxy's mender.

    :param rests_in: says whether the ring is at rest in a view, and the view is still the present one.
    """

    def __init__(
        self,
        clock: IReactorTime,
        limits: Limits,
        control: Control,
        metrics: ProxyMetrics,
        hybrid: HybridClock,
        rests_in: Callable[[View], bool],
        buggify: Buggify = inert,
    ) -> None:
        self._clock = clock
        self._limits = limits
        self._control = control
        self._metrics = metrics
        self._hybrid = hybrid
        self._rests_in = rests_in
        self._buggify = buggify
        self._floors: deque[tuple[float, Ballot]] = deque()
        """Ballots that were drawn lately, and when: a floor is one that is old enough."""
        self._purged: dict[Slot, tuple[int | None, float]] = {}
        """The digest that a slot had when it was purged last, and when that was."""

    async def purge(self, view: View, present: Mapping[NodeId, Seat], graves: Mapping[Slot, int]) -> None:
        """Purge slots whose owners are alike, below a ballot that was drawn long enough ago."""
        if isinf(self._limits.purge_grace_s):
            return
        now_s = self._clock.seconds()
        self._floors.append((now_s, self._hybrid.tick()))
        grace_s = 0.0 if self._buggify("purging: a purge right after a write") else self._limits.purge_grace_s
        floor = next((ballot for at_s, ballot in reversed(self._floors) if at_s <= now_s - grace_s), None)
        while len(self._floors) > 1 and self._floors[1][0] <= now_s - self._limits.purge_grace_s:
            self._floors.popleft()
        if floor is None:
            return
        by_owners: dict[tuple[NodeId, ...], list[tuple[int, int]]] = {}
        for slot, digest in graves.items():
            # What was too young to be purged is that for a while.
            before, at_s = self._purged.get(slot, (None, 0.0))
            if before != digest or now_s - at_s > grace_s:
                by_owners.setdefault(view.table[slot], []).append((int(slot), digest))
        for owners, slots in by_owners.items():
            for at in range(0, len(slots), self._limits.purge_slots_max):
                if not self._rests_in(view):
                    return
                some = slots[at : at + self._limits.purge_slots_max]
                counts: Counter[int] = Counter()
                for node in owners:
                    counts.update(await self._control.purge(present[node], view.state, floor, some, final=False))
                promised = [(slot, digest) for slot, digest in some if counts[slot] == len(owners)]
                self._purged |= {Slot(slot): (digest, now_s) for slot, digest in promised}
                if promised and not self._buggify("purging: a purge is left half done"):
                    await self._bury(view, present, owners, floor, [slot for slot, _ in promised])

    async def finish(self, view: View, present: Mapping[NodeId, Seat], half: Mapping[Ballot, list[Slot]]) -> None:
        """Let those forget, too, who have only promised a floor below which others have forgotten already."""
        for floor, slots in half.items():
            by_owners: dict[tuple[NodeId, ...], list[int]] = {}
            for slot in slots:
                by_owners.setdefault(view.table[slot], []).append(int(slot))
            for owners, some in by_owners.items():
                await self._bury(view, present, owners, floor, some)

    async def _bury(
        self, view: View, present: Mapping[NodeId, Seat], owners: Iterable[NodeId], floor: Ballot, slots: Sequence[int]
    ) -> None:
        for node in owners:
            if node in present:
                await self._control.purge(present[node], view.state, floor, [(slot, 0) for slot in slots], final=True)
        self._metrics.purged.inc(len(slots))
