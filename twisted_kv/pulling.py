"""Pulling: a node copies slots from others, on the order of whoever drives a change.

What enough of the sources hold under the same accepted ballot, and none of them newer, is copied under that ballot.
That is safe whatever was promised since: whoever prepared a higher ballot has asked one of these sources, and after it
had accepted what is copied, or it would have refused it. Where they differ, a copy of one could bring back what a
promise of another had overtaken; such keys are named to the driver, who has them proposed again (``settling.py``).

Slots whose digests agree among all sources are read from one of them, and not at all where this node agrees, too: so an
order may be given again and again, and what was copied before costs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from twisted.internet.defer import Deferred, DeferredList, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from .buggify import Buggify, inert
from .digest import EMPTY
from .errors import DiskBusy, KvError, MalformedBody, PeerSilent
from .holding import SlotCopy, check_range
from .limits import Limits
from .names import Slot
from .peers.control import Control
from .peers.pages import Pages, Place, merged
from .register import NO_FLOOR, Floor
from .replica import Replica
from .ring import onward, runs, slot_of
from .together import tried
from .versions import NONE, Ballot, is_value
from .wire.header import FORMAT, Header
from .wire.moving import PullReply, PullRequest, Source
from .wire.pages import Page, PageRequest, Row, rows_digest
from .wire.upkeep import Digests, DigestsRequest

T = TypeVar("T")

TAKEN_AT_ONCE = 64
"""Records that are given to the disk before others have their turn: some 2 ms."""


class Puller:
    """Carries orders out, for one node."""

    def __init__(
        self, clock: IReactorTime, limits: Limits, control: Control, replica: Replica, buggify: Buggify = inert
    ) -> None:
        self._clock = clock
        self._limits = limits
        self._control = control
        self._replica = replica
        self._buggify = buggify
        self._turn = 0
        self._slots_at_once = limits.pull_slots_min

    def pull(self, request: PullRequest) -> Deferred[PullReply]:
        """Copy slots until enough was done for one order.

        Errors: ``MalformedBody`` if the order makes no sense; ``PeerRefused`` if it means another node, life or epoch;
        ``PeerSilent`` if too few sources can
        be read; those of the disk.
        """
        return ensureDeferred(self._pull(request))

    async def _pull(self, request: PullRequest) -> PullReply:
        self._replica.admit(request.header)
        if len(request.sources) < request.needed:
            raise MalformedBody(f"the order names {len(request.sources)} sources, and needs {request.needed}")
        for first, last in request.ranges:
            check_range(first, last)
        self._turn += 1
        order = _Order(request, self._turn)
        until_s = self._clock.seconds() + self._limits.pull_s_max
        left = onward(request.ranges, request.first)
        trouble: KvError | None = None
        try:
            while left and order.rows < self._limits.pull_records_max and self._clock.seconds() < until_s:
                had = order.rows
                some, left = split(left, self._slots_at_once)
                await self._some(order, some)
                self._adapt(order.rows - had)
        except KvError as error:
            trouble = error
        # What was given to the disk is waited for, also where the order fails after it.
        await DeferredList(order.taking)
        if trouble is not None:
            raise trouble
        if order.failure is not None:
            order.failure.raiseException()
        lacking = sum(self._replica.floor_of(slot).accepted < floor.accepted for slot, floor in order.floors.items())
        return PullReply(
            FORMAT, request.header.epoch, order.rows, order.bytes, order.disputed, left[0][0] if left else None, lacking
        )

    def _adapt(self, rows: int) -> None:
        """Look at more slots at a time where they hold little, and at fewer where they fill an order."""
        limits = self._limits
        factor = 2 if rows < limits.pull_records_max / 4 else 0.5 if rows > limits.pull_records_max else 1
        self._slots_at_once = int(min(max(self._slots_at_once * factor, limits.pull_slots_min), limits.pull_slots_max))

    async def _some(self, order: _Order, ranges: list[tuple[int, int]]) -> None:
        """Copy the slots of some ranges."""
        said = await order.each(lambda source: self._digests(order, source, ranges))
        floors = _highest(said)
        order.floors |= floors
        await self._replica.promise(order.epoch, {slot: floor.promised for slot, floor in floors.items()})
        own = self._replica.own_digests(ranges)
        unlike = {slot for found in said for slot, _ in own.items() ^ found.digests.items()}
        agreed: dict[int, int] = {}
        mixed: list[int] = []
        for slot in sorted(unlike):
            digests = {found.digests.get(slot, EMPTY) for found in said}
            if len(digests) > 1:
                mixed.append(slot)
            else:
                agreed[slot] = digests.pop()
        for slot, floor in floors.items():
            if self._replica.floor_of(slot).accepted < floor.accepted and slot not in agreed:
                mixed.append(slot)
        # What one of them cannot read another one can; a slot that has changed since is told by all of them.
        for source in order.in_turn():
            if agreed:
                agreed = await self._copy(order, source, agreed, floors)
        mixed += agreed
        if mixed:
            await self._merge(order, sorted(set(mixed)), floors)

    async def _digests(self, order: _Order, source: Source, ranges: list[tuple[int, int]]) -> Digests:
        return await self._control.digests(source.url, DigestsRequest(order.header(source), ranges))

    async def _copy(
        self, order: _Order, source: Source, agreed: dict[int, int], floors: Mapping[Slot, Floor]
    ) -> dict[int, int]:
        """Copy slots from one source, of which all said the same; give those that it does not show so."""
        left = dict(agreed)
        stream = self._stream(order, source, list(agreed))
        rows: dict[Slot, list[Row]] = {}
        try:
            while not stream.ended:
                await stream.turn()
                horizon = stream.horizon
                for slot, row in stream.take(horizon):
                    rows.setdefault(slot, []).append(row)
                copies = []
                # The last slot of a page may go on in the next one.
                for at in [at for at in rows if at < horizon[0]]:
                    whole = rows.pop(at)
                    if rows_digest(whole) == left.get(at):
                        del left[at]
                        copies.append(_copy_of(at, whole, floors, agreed=True))
                await self._take(order, copies)
        except _Lost:
            # It is asked with the others what it holds of the rest, and left out if it does not answer.
            pass
        return left

    async def _merge(self, order: _Order, slots: Sequence[int], floors: Mapping[Slot, Floor]) -> None:
        """Copy slots, key by key, from all sources together."""
        while True:
            streams = [self._stream(order, source, slots) for source in order.sources]
            open_: dict[int, list[list[Row]]] = {slot: [] for slot in slots}
            try:
                while (found := await merged(streams)) is not None:
                    for rows in found[0]:
                        open_[slot_of(rows[0].key)].append(rows)
                    done = [slot for slot in open_ if slot < found[1][0]]
                    await self._settle_slots(order, {slot: open_.pop(slot) for slot in done}, floors)
                await self._settle_slots(order, open_, floors)
                return
            except _Lost as lost:
                order.lose(lost.source, lost.error)

    async def _settle_slots(
        self, order: _Order, slots: Mapping[int, list[list[Row]]], floors: Mapping[Slot, Floor]
    ) -> None:
        """Take what the sources agree on of whole slots, and name the rest."""
        copies = []
        for slot, keys in slots.items():
            floor = floors.get(Slot(slot), NO_FLOOR)
            held = [rows for rows in keys if not _is_below(rows, floor)]
            rows = [row for rows in held if (row := agreed_on(rows, order.needed)) is not None]
            agreed = {row.key for row in rows}
            order.disputed += [rows[0].key for rows in held if rows[0].key not in agreed]
            copies.append(_copy_of(Slot(slot), rows, floors, agreed=len(rows) == len(held)))
        await self._take(order, copies)

    def _stream(self, order: _Order, source: Source, slots: Sequence[int]) -> Pages:
        ranges = runs(slots)

        async def fetch(after: Place | None) -> Page:
            try:
                return await self._control.page_of(source.url, PageRequest(order.header(source), ranges, after))
            except KvError as error:
                raise _Lost(source, error) from None

        return Pages(fetch)

    async def _take(self, order: _Order, copies: list[SlotCopy]) -> None:
        if self._buggify("pulling: what agrees is disputed all the same"):
            order.disputed += [row.key for copy in copies for row in copy.rows]
            copies = [copy for copy in copies if not copy.rows]
        batch: list[SlotCopy] = []
        rows = 0
        for place, copy in enumerate(copies, 1):
            batch.append(copy)
            rows += len(copy.rows)
            order.rows += len(copy.rows)
            order.bytes += sum(len(row.key) + len(row.record) for row in copy.rows)
            if rows >= TAKEN_AT_ONCE or place == len(copies):
                taking = self._replica.take(order.epoch, batch).addErrback(self._again, order, batch)
                order.taking.append(taking.addCallbacks(order.took, order.failed))
                batch, rows = [], 0
                # Others have their turn between two batches.
                await deferLater(self._clock, 0)

    def _again(self, failure: Failure, order: _Order, batch: list[SlotCopy]) -> Deferred[list[bytes]]:
        """Try again what the disk was too busy for."""
        failure.trap(DiskBusy)
        waited = deferLater(self._clock, self._limits.stall_retry_s, self._replica.take, order.epoch, batch)
        return waited.addErrback(self._again, order, batch)


class _Lost(Exception):
    """A source could not be read."""

    def __init__(self, source: Source, error: KvError) -> None:
        super().__init__(error.detail)
        self.source = source
        self.error = error


class _Order:
    """One order on its way: whom it may still read, and what it has done."""

    def __init__(self, request: PullRequest, turn: int) -> None:
        self.request = request
        self.epoch = request.header.epoch
        self.needed = request.needed
        self.sources = list(request.sources)
        self.rows = self.bytes = 0
        self.disputed: list[bytes] = []
        self.floors: dict[Slot, Floor] = {}
        self.taking: list[Deferred[None]] = []
        """What was given to the disk. None of these fails: an order may be given up before anybody asks them."""
        self.failure: Failure | None = None
        """With what one of them would have failed."""
        self._turn = turn

    def took(self, refused: list[bytes]) -> None:
        self.disputed += refused

    def failed(self, failure: Failure) -> None:
        self.failure = self.failure or failure

    def header(self, source: Source) -> Header:
        header = self.request.header
        return Header(FORMAT, header.cluster, source.member, source.incarnation, header.epoch, header.open)

    def in_turn(self) -> list[Source]:
        """Give the sources in the order in which one alone is read: another one first for each order."""
        turn = self._turn % len(self.sources)
        return self.sources[turn:] + self.sources[:turn]

    async def each(self, ask: Callable[[Source], Awaitable[T]]) -> list[T]:
        """Ask all sources at once; who fails is left out from now on."""
        asked = list(self.sources)
        found: list[T] = []
        for source, result in zip(asked, await tried(map(ask, asked)), strict=True):
            if isinstance(result, KvError):
                self.lose(source, result)
            else:
                found.append(result)
        return found

    def lose(self, source: Source, error: KvError) -> None:
        """Go on without a source.

        :raises PeerSilent: if the others are too few.
        """
        self.sources.remove(source)
        if len(self.sources) < self.needed:
            raise PeerSilent(
                f"{source.member} cannot be read ({error.detail}); {self.needed} sources are needed, "
                f"{len(self.sources)} are left"
            )


def agreed_on(rows: Sequence[Row], needed: int) -> Row | None:
    """Give what is to be copied of a key: the newest that is shown, if so many hold it; None where they differ.

    What a source cannot read it does not show.
    """
    newest = max(rows, key=lambda row: row.ballot)
    holders = sum(row.ballot == newest.ballot for row in rows)
    return newest if newest.ballot != NONE and holders >= needed else None


def _is_below(rows: Sequence[Row], floor: Floor) -> bool:
    """Whether a key holds no value at any source, and nothing above a floor: then the floor says so already."""
    return all(row.ballot <= floor.accepted and row.ballot != NONE and not is_value(row.record) for row in rows)


def _copy_of(slot: Slot, rows: Sequence[Row], floors: Mapping[Slot, Floor], agreed: bool) -> SlotCopy:
    floor = floors.get(slot, NO_FLOOR)
    # Nothing lies below no floor, and most slots have none.
    above = rows if floor is NO_FLOOR else [row for row in rows if not _is_below([row], floor)]
    return SlotCopy(slot, above, floor, agreed)


def _highest(said: Sequence[Digests]) -> dict[Slot, Floor]:
    """Give the highest floors that the sources have."""
    floors: dict[Slot, Floor] = {}
    for found in said:
        for row in found.floors:
            floor = floors.get(Slot(row.slot), NO_FLOOR)
            promised, accepted = max(floor.promised, row.promised), max(floor.accepted, row.accepted)
            floors[Slot(row.slot)] = Floor(Ballot(promised), Ballot(accepted))
    return floors


def split(ranges: Sequence[tuple[int, int]], count: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Cut ranges of slots in two, after so many slots."""
    head: list[tuple[int, int]] = []
    for at, (first, last) in enumerate(ranges):
        if last - first >= count:
            begun = [(first, first + count - 1)] if count else []
            return head + begun, [(first + count, last), *ranges[at + 1 :]]
        head.append((first, last))
        count -= last - first + 1
    return head, []
