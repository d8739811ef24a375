"""The mender: makes owners alike, and forgets what nobody needs any more.

A round asks every member for its slots' digests, and where owners of a slot differ for their keys' ballots. A key that
differs is read at level ``all``, which gives every owner what a majority holds under the ballot it has; one that an
owner cannot read is proposed again (``refilling.py``). Where all owners of a slot are alike, its tombstones are purged
(``floors.py``). While the ring changes the mender rests: whoever fills new owners compares them, too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from itertools import islice
from random import Random
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from .buggify import LATE_S, Buggify, inert
from .digest import EMPTY
from .errors import Damaged, KvError
from .leading import Lead
from .limits import Limits
from .membership import Seat
from .metrics import ProxyMetrics
from .names import Key, NodeId, Slot
from .peers.control import Control
from .periodic import Rounds
from .purging import Purger
from .register import NO_FLOOR, READ, Floor, Op
from .ring import SLOTS
from .together import answers, every, tried
from .versions import NONE, Ballot, HybridClock
from .views import View, foreign
from .wire.joining import Info
from .wire.pages import Row
from .wire.upkeep import Digests, DigestsRequest


class Compared(NamedTuple):
    """What owners said of the slots of one round."""

    differing: list[Slot]
    graves: dict[Slot, int]
    """The digest of each slot whose owners are alike and that holds what may be purged."""
    half_purged: dict[Ballot, list[Slot]]
    """Slots of which some owners have forgotten what lies below a floor, and others only promised to."""


class Mender:
    """Repairs for one proxy.

    :param view: gives the view that the proxy acts on now.
    :param info_of: says what a member last said of itself, None if it did not answer or has forgotten.
    :param spread: reads a key at level ``all``.
    :param refill: proposes a key again until every owner has it.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        random: Random,
        limits: Limits,
        lead: Lead,
        control: Control,
        metrics: ProxyMetrics,
        hybrid: HybridClock,
        view: Callable[[], View | None],
        info_of: Callable[[Seat], Info | None],
        spread: Callable[[Key], Deferred[object]],
        refill: Callable[[Key], Deferred[object]],
        buggify: Buggify = inert,
    ) -> None:
        self._clock = clock
        self._limits = limits
        self._lead = lead
        self._control = control
        self._metrics = metrics
        self._hybrid = hybrid
        self._view = view
        self._info_of = info_of
        self._spread = spread
        self._refill = refill
        self._buggify = buggify
        self._rounds = Rounds(clock, random, limits.repair_interval_s, self._round, "repair")
        self._cleaned: set[tuple[int, NodeId]] = set()
        self._purger = Purger(clock, limits, control, metrics, hybrid, self._rests_in, buggify)
        self.number = 0
        """Which round this is, or was the last."""
        self.running = self.cancelled = False
        self._began_s = 0.0
        self._ended_s = 0.0
        self.done = self.total = 0
        """Slots that the round has compared and repaired, and has to."""

    def start(self) -> None:
        self._rounds.start()

    def kick(self) -> None:
        """Begin a round now."""
        self._rounds.kick()

    def cancel(self) -> None:
        """Break the round off; the next one comes all the same."""
        self.cancelled = self.running

    @property
    def slots_per_s(self) -> float:
        """How fast the round is, or was."""
        until_s = self._clock.seconds() if self.running else self._ended_s
        return self.done / max(0.001, until_s - self._began_s)

    def stop(self) -> Deferred[None]:
        return self._rounds.stop()

    async def _round(self) -> None:
        view = self._view()
        self.cancelled = False
        if view is not None and self._rests_in(view):
            await self._lead.during(lambda: self._round_of(view))

    async def _round_of(self, view: View) -> None:
        self.number += 1
        self.running, self.cancelled, self.done, self.total = True, False, 0, SLOTS
        self._began_s = self._clock.seconds()
        outcome = "failed"
        try:
            outcome = "ok" if await self._mend(view) else "broken-off"
        except KvError as error:
            outcome = "broken-off"
            self.log.info("repair was broken off: {error}", error=error.detail)
        finally:
            self.running, self._ended_s = False, self._clock.seconds()
            self._metrics.repair_rounds.labels(outcome).inc()
            self._metrics.repair_seconds.observe(self._ended_s - self._began_s)

    def _rests_in(self, view: View) -> bool:
        """Whether the ring is at rest in a view, and it is still the present one; no round goes on without that."""
        return not self.cancelled and self._view() is view and view.state.change is None and not view.state.pending

    async def _mend(self, view: View) -> bool:
        """Make one round; say whether it came to its end."""
        present = self._present(view)
        await self._clean(view, present)
        marked = await self._marked(view, present)
        found = await self._compared(view, present)
        await self._purger.finish(view, present, found.half_purged)
        left = self._limits.repair_keys_max
        slots = dict.fromkeys((*marked, *found.differing))
        self.total += len(slots)
        self._metrics.differing.inc(len(slots))
        waiting = iter(slots)
        while some := list(islice(waiting, self._limits.repair_slots_at_once)):
            if left <= 0 or not self._rests_in(view):
                return False
            left -= sum(await every(self._mend_slot(view, present, slot, marked.get(slot, ())) for slot in some))
        if self._buggify("mender: what is purged was compared long ago"):
            await deferLater(self._clock, LATE_S)
        await self._purger.purge(view, present, {slot: d for slot, d in found.graves.items() if slot not in slots})
        await self._renew(view, present)
        return True

    async def _mend_slot(
        self, view: View, present: Mapping[NodeId, Seat], slot: Slot, marked_by: Collection[NodeId]
    ) -> int:
        """Make the owners of a slot alike, and take its marks away if they are; say at how many keys was looked."""
        spoiled = self._spoiled(view, present)
        if spoiled in view.table[slot] and all(node == spoiled for node in marked_by):
            # Nothing can be brought to who is about to be renewed, and trying takes an operation's whole time.
            return 0
        keys, whole, blind = await self._even_out(view, present, slot)
        self.done += 1
        if whole:
            await self._unmark(view, [node for node in marked_by if node not in blind], slot)
        return keys

    def _present(self, view: View) -> dict[NodeId, Seat]:
        """Give the members that answer, with the memory that counts."""
        return {node: seat for node, seat in view.seats.items() if self._info_of(seat) is not None}

    async def _clean(self, view: View, present: Mapping[NodeId, Seat]) -> None:
        """Let each member forget, once an epoch, what it does not own."""
        self._cleaned = {done for done in self._cleaned if done[0] == view.epoch}
        for node, seat in present.items():
            if (view.epoch, node) not in self._cleaned:
                try:
                    await self._control.drop(self._clock, seat, view.state, foreign(view.ring, node))
                except KvError:
                    continue  # the next round
                self._cleaned.add((view.epoch, node))

    async def _marked(self, view: View, present: Mapping[NodeId, Seat]) -> dict[Slot, list[NodeId]]:
        """Give the slots that nodes want repaired, and who marked them; not those of a member that is to be renewed."""
        marked: dict[Slot, list[NodeId]] = {}
        spoiled = self._spoiled(view, present)
        for node, seat in present.items():
            info = self._info_of(seat)
            if info is not None and info.marks and node != spoiled:
                try:
                    for slot in await self._control.marks(seat, view.state):
                        marked.setdefault(Slot(slot), []).append(node)
                except KvError:
                    continue
        return marked

    async def _unmark(self, view: View, nodes: Iterable[NodeId], slot: Slot) -> None:
        for node in nodes:
            try:
                await self._control.marks(view.seats[node], view.state, [slot])
            except KvError:
                continue  # it is looked at again, in vain

    # Comparing.

    async def _compared(self, view: View, present: Mapping[NodeId, Seat]) -> Compared:
        """Compare the owners of all slots, and once more where they differ: clients are at work."""
        found = Compared([], {}, {})
        step = self._limits.repair_slots_max
        for first in range(0, SLOTS, step):
            if not self._rests_in(view):
                break
            last = min(first + step, SLOTS) - 1
            await self._compare(view, present, [(first, last)], found)
            self.done += last - first + 1
        if not found.differing:
            return found
        again = Compared([], found.graves, found.half_purged)
        await self._compare(view, present, [(int(slot), int(slot)) for slot in found.differing], again)
        return again

    async def _compare(
        self,
        view: View,
        present: Mapping[NodeId, Seat],
        ranges: list[tuple[int, int]],
        found: Compared,
    ) -> None:
        said = await answers({node: self._digests(view, seat, ranges) for node, seat in present.items()})
        for digests in said.values():
            # A floor has to lie above what was drawn by clocks that are ahead of this one.
            self._hybrid.learn(Ballot(digests.highest))
        floors = {node: _floors_in(digests) for node, digests in said.items()}
        for slot in sorted({Slot(slot) for digests in said.values() for slot in (*digests.digests, *digests.graves)}):
            owners = view.table[slot]
            answered = [node for node in owners if node in said]
            if len(answered) < 2 and len(owners) > 1:
                continue
            digests = {said[node].digests.get(slot, EMPTY) for node in answered}
            taken = {floors[node].get(slot, NO_FLOOR).accepted for node in answered}
            if len(taken) > 1:
                found.half_purged.setdefault(max(taken), []).append(slot)
            elif len(digests) > 1:
                found.differing.append(slot)
            elif len(answered) == len(owners) and any(slot in said[node].graves for node in answered):
                found.graves[slot] = digests.pop()

    async def _digests(self, view: View, seat: Seat, ranges: list[tuple[int, int]]) -> Digests:
        return await self._control.digests(seat.url, DigestsRequest(self._control.header(seat, view.state), ranges))

    # Making owners alike.

    async def _even_out(self, view: View, present: Mapping[NodeId, Seat], slot: Slot) -> tuple[int, bool, list[NodeId]]:
        """Make the owners of a slot alike.

        Says at how many keys was looked, whether those who can list the slot are alike now, and who cannot.
        """
        owners = view.table[slot]
        shown: dict[NodeId, dict[bytes, Row]] = {}
        blind: list[NodeId] = []

        async def list_it(node: NodeId) -> None:
            try:
                rows = await self._control.ballots(present[node], view.state, slot)
                shown[node] = {row.key: row for row in rows}
            except Damaged:
                blind.append(node)
            except KvError:
                pass  # the next round asks it again

        await every(list_it(node) for node in owners if node in present)
        keys = dict.fromkeys(Key(key) for rows in shown.values() for key in rows)
        unreadable = {key for rows in shown.values() for key, row in rows.items() if row.ballot == NONE}
        differing = [key for key in keys if len({_ballot_in(rows, key) for rows in shown.values()}) > 1]
        alike = not unreadable and not differing
        for node in blind:
            unreadable |= await self._unreadable(view, present[node], list(keys))
        refilled = await self._each(map(Key, sorted(unreadable)), self._refill)
        self._metrics.refilled.inc(refilled)
        spread = await self._each([key for key in differing if key not in unreadable], self._spread)
        self._metrics.repaired.inc(spread)
        if not blind:
            # To whom cannot list the slot nothing may be brought either: the next round sees whether the others have
            # it.
            alike = refilled == len(unreadable) and spread == sum(key not in unreadable for key in differing)
        return len(keys), alike and len(shown) + len(blind) == len(owners), blind

    async def _unreadable(self, view: View, seat: Seat, keys: Sequence[Key]) -> set[bytes]:
        """Name the keys that a node cannot read, one of whose slots it cannot list."""
        found: set[bytes] = set()
        for at in range(0, len(keys), self._limits.batch_ops_max):
            some = keys[at : at + self._limits.batch_ops_max]
            replies = await self._control.ask(seat, view.state, [Op(READ, key) for key in some])
            found |= {key for key, reply in zip(some, replies, strict=True) if reply.abstains}
        return found

    async def _each(self, keys: Iterable[Key], work: Callable[[Key], Deferred[object]]) -> int:
        """Do something with keys, some at a time; say with how many it succeeded."""
        left, succeeded = iter(keys), 0
        while some := list(islice(left, self._limits.repair_at_once)):
            succeeded += sum(not isinstance(result, KvError) for result in await tried(map(work, some)))
        return succeeded

    # Data that cannot be read at all.

    async def _renew(self, view: View, present: Mapping[NodeId, Seat]) -> None:
        """Have a member renewed that cannot read part of its data, once all the others are whole.

        Its own marks stay until then: some of what they mean cannot be mended in any other way.
        """
        spoiled = self._spoiled(view, present)
        others = [self._info_of(seat) for node, seat in present.items() if node != spoiled]
        if spoiled is None or any(info is None or info.marks for info in others) or not self._rests_in(view):
            return
        self.log.warn("{node} cannot read part of its data; it is renewed", node=spoiled)
        await self._control.renew(present[spoiled], view.state)

    def _spoiled(self, view: View, present: Mapping[NodeId, Seat]) -> NodeId | None:
        """Name the member that is to be renewed: the only one that cannot read part of its data, with all there."""
        infos = {node: self._info_of(seat) for node, seat in present.items()}
        spoiled = [node for node, info in infos.items() if info is not None and info.spoiled]
        return spoiled[0] if len(spoiled) == 1 and len(present) == len(view.seats) else None


def _floors_in(digests: Digests) -> dict[Slot, Floor]:
    return {Slot(row.slot): Floor(Ballot(row.promised), Ballot(row.accepted)) for row in digests.floors}


def _ballot_in(rows: Mapping[bytes, Row], key: Key) -> bytes:
    row = rows.get(key)
    return row.ballot if row is not None else NONE
