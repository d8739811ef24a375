"""Pulling: a node copies slots from others, on the order of whoever drives a change.

What enough of the sources hold under the same accepted ballot, and none of them newer, is copied under that ballot.
That is safe whatever was promised since: whoever prepared a higher ballot has asked one of these sources, and after it
had accepted what is copied, or it would have refused it. Where they differ, a copy of one could bring back what a
promise of another had overtaken; such keys are named to the driver, who has them proposed again (``settling.py``).

Slots whose digests agree among all sources are read from one of them, and not at all where this node agrees, too: so an
order may be given again and again, and what was copied before costs nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TypeVar

from twisted.internet.defer import Deferred, DeferredList, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from .buggify import Buggify, inert
from .errors import DiskBusy, KvError, PeerSilent
from .limits import Limits
from .names import Slot
from .peers.control import Control
from .peers.pages import Pages, Place, merged
from .replica import Replica
from .ring import runs, slot_of
from .versions import NONE
from .wire import FORMAT, DigestsRequest, Header, Page, PageRequest, PullReply, PullRequest, Row, Source, rows_digest

T = TypeVar("T")


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

    def pull(self, request: PullRequest) -> Deferred[PullReply]:
        """Copy slots until enough was done for one order.

        Errors: ``PeerRefused`` if the order means another node, life or epoch; ``PeerSilent`` if too few sources can
        be read; those of the disk.
        """
        return ensureDeferred(self._pull(request))

    async def _pull(self, request: PullRequest) -> PullReply:
        self._replica.admit(request.header)
        self._turn += 1
        order = _Order(request, self._turn)
        until_s = self._clock.seconds() + self._limits.pull_s_max
        slots = [slot for first, last in request.ranges for slot in range(max(first, request.first), last + 1)]
        done = 0
        try:
            while done < len(slots) and order.rows < self._limits.pull_records_max and self._clock.seconds() < until_s:
                done += await self._some(order, slots[done : done + self._limits.pull_slots_max])
        finally:
            # What was given to the disk is waited for, also where the order fails after it.
            taken = await DeferredList(order.taking, consumeErrors=True)
        for succeeded, refused in taken:
            if not succeeded:
                refused.raiseException()
            order.disputed += refused
        left = slots[done] if done < len(slots) else None
        return PullReply(FORMAT, request.header.epoch, order.rows, order.bytes, order.disputed, left)

    async def _some(self, order: _Order, slots: Sequence[int]) -> int:
        """Copy some slots, or the first of them; say how many."""
        ranges = ranges_of(slots)
        said = await order.each(lambda source: self._digests(order, source, ranges))
        own = list(self._replica.own_digests(ranges))
        agreed: dict[int, int] = {}
        mixed: list[int] = []
        for place, slot in enumerate(slots):
            digests = {digests[place] for digests in said}
            if len(digests) > 1:
                mixed.append(slot)
            elif own[place] not in digests:
                agreed[slot] = digests.pop()
        if agreed:
            mixed += await self._copy(order, agreed)
        if mixed:
            await self._merge(order, sorted(mixed))
        return len(slots)

    async def _digests(self, order: _Order, source: Source, ranges: list[tuple[int, int]]) -> list[int]:
        return await self._control.digests(source.url, DigestsRequest(order.header(source), ranges))

    async def _copy(self, order: _Order, agreed: dict[int, int]) -> list[int]:
        """Copy slots from one source, of which all said the same; give those that have changed since."""
        left = dict(agreed)
        stream = self._stream(order, order.one(), list(agreed))
        rows: dict[int, list[Row]] = {}
        try:
            while not stream.ended:
                await stream.turn()
                horizon = stream.horizon
                for row in stream.take(horizon):
                    rows.setdefault(slot_of(row.key), []).append(row)
                found: list[Row] = []
                # The last slot of a page may go on in the next one.
                for slot in [slot for slot in rows if slot < horizon[0]]:
                    whole = rows.pop(slot)
                    if rows_digest(whole) == left.get(slot):
                        del left[slot]
                        found += whole
                await self._take(order, found)
        except _Lost:
            # It is asked with the others what it holds of the rest, and left out if it does not answer.
            pass
        return list(left)

    async def _merge(self, order: _Order, slots: Sequence[int]) -> None:
        """Copy slots, key by key, from all sources together."""
        while True:
            sources = order.sources
            streams = [self._stream(order, source, slots) for source in sources]
            try:
                while (keys := await merged(streams)) is not None:
                    agreed = [row for rows in keys if (row := agreed_on(rows, order.needed)) is not None]
                    copied = {row.key for row in agreed}
                    order.disputed += [rows[0].key for rows in keys if rows[0].key not in copied]
                    await self._take(order, agreed)
                return
            except _Lost as lost:
                order.lose(lost.source, lost.error)

    def _stream(self, order: _Order, source: Source, slots: Sequence[int]) -> Pages:
        ranges = ranges_of(slots)

        async def fetch(after: Place | None) -> Page:
            try:
                return await self._control.page_of(source.url, PageRequest(order.header(source), ranges, after))
            except KvError as error:
                raise _Lost(source, error) from None

        return Pages(fetch)

    async def _take(self, order: _Order, rows: list[Row]) -> None:
        if self._buggify("pulling: what agrees is disputed all the same"):
            order.disputed += [row.key for row in rows]
            return
        order.rows += len(rows)
        order.bytes += sum(len(row.key) + len(row.record) for row in rows)
        for place in range(0, len(rows), self._limits.batch_ops_max):
            some = rows[place : place + self._limits.batch_ops_max]
            taking = self._replica.take(order.request.header.epoch, some)
            order.taking.append(taking.addErrback(self._again, order, some))
            # Others have their turn between two batches.
            await deferLater(self._clock, 0)

    def _again(self, failure: Failure, order: _Order, rows: list[Row]) -> Deferred[list[bytes]]:
        """Try again what the disk was too busy for."""
        failure.trap(DiskBusy)
        epoch, pause_s = order.request.header.epoch, self._limits.stall_retry_s
        return deferLater(self._clock, pause_s, self._replica.take, epoch, rows).addErrback(self._again, order, rows)


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
        self.needed = request.needed
        self.sources = list(request.sources)
        self.rows = self.bytes = 0
        self.disputed: list[bytes] = []
        self.taking: list[Deferred[list[bytes]]] = []
        self._turn = turn

    def header(self, source: Source) -> Header:
        header = self.request.header
        return Header(FORMAT, header.cluster, source.member, source.incarnation, header.epoch, header.open)

    def one(self) -> Source:
        """Choose whom to read from alone: another one for each order."""
        return self.sources[self._turn % len(self.sources)]

    async def each(self, ask: Callable[[Source], Awaitable[T]]) -> list[T]:
        """Ask all sources at once; who fails is left out from now on."""
        asked = list(self.sources)
        answers = await DeferredList([ensureDeferred(ask(source)) for source in asked], consumeErrors=True)  # type: ignore[arg-type]
        found: list[T] = []
        for source, (succeeded, result) in zip(asked, answers, strict=True):
            if succeeded:
                found.append(result)
            elif result.check(KvError):
                self.lose(source, result.value)
            else:
                result.raiseException()
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


def ranges_of(slots: Iterable[int]) -> list[tuple[int, int]]:
    return [(int(first), int(last)) for first, last in runs(map(Slot, slots))]
