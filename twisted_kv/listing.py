"""Listing keys in the order of their bytes: pages of the owners' key indexes, merged.

A key is listed if the owners that answered agree that it holds a value; where they do not, a strong read decides. Since
a majority of every slot's owners has to answer, one of them has what was acknowledged last. A listing is no snapshot,
but a key that is present throughout is listed once.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from .errors import ChangeUnderWay, KvError, OtherEpoch, Unreached
from .limits import Limits
from .membership import Seat
from .names import Key, NodeId
from .peers.control import Control
from .quorum import Electorate, Group, majority
from .ring import slot_of
from .together import every, tried
from .versions import has_expired
from .views import View
from .wire.pages import KeyRow, KeysPage, SlotKeysPage

SPARE_ROWS = 1.25
"""How many rows more than its fair share a node is asked for: shares of a page differ."""
RETRY_S = 0.05

P = TypeVar("P", KeysPage, SlotKeysPage)
T = TypeVar("T")


class KeyPage(NamedTuple):
    """Keys in order, and the last one to go on after, None at the end."""

    keys: list[Key]
    after: bytes | None


class Listing:
    """Lists the keys of one proxy's cluster.

    :param view: gives the view that the proxy acts on now.
    :param look_around: called when a node is in another epoch than the view.
    :param holds_value: reads a key at ``strong`` and says whether it holds a value.
    """

    def __init__(
        self,
        clock: IReactorTime,
        now_ms: Callable[[], int],
        limits: Limits,
        control: Control,
        view: Callable[[], View | None],
        look_around: Callable[[], object],
        avoided: Callable[[], set[NodeId]],
        holds_value: Callable[[Key], Deferred[bool]],
    ) -> None:
        self._clock = clock
        self._now_ms = now_ms
        self._limits = limits
        self._control = control
        self._view = view
        self._look_around = look_around
        self._avoided = avoided
        self._holds_value = holds_value

    async def page(self, prefix: bytes, after: bytes, limit: int) -> KeyPage:
        """Give a page of the keys that begin with ``prefix``, strictly after ``after``.

        It may have fewer than ``limit`` keys, even none, and not be the last: where so many were deleted that going
        through them takes as long as an operation may.

        :raises Unreached: if some slots have no majority of owners that answer.
        :raises ChangeUnderWay: if data was moved for longer than an operation waits.
        """
        until_s = self._clock.seconds() + self._limits.operation_timeout_s
        keys: list[Key] = []
        while True:
            stretch = partial(self._stretch, prefix, after, limit - len(keys))
            found, horizon = await self._patiently(until_s, stretch)
            keys += found
            if horizon is None or len(keys) >= limit or self._clock.seconds() >= until_s:
                return KeyPage(keys, horizon)
            after = horizon

    async def slots(self, first: int, limit: int) -> tuple[list[Key], int | None]:
        """Give the keys of some slots from ``first`` on, about ``limit``, and the slot to go on at, None at the end.

        So a listing needs no more memory of where it was than a number. Errors as in ``page``.
        """
        until_s = self._clock.seconds() + self._limits.operation_timeout_s
        return await self._patiently(until_s, lambda: self._slots(first, limit))

    async def _patiently(self, until_s: float, look: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Look again while data is being moved, until it is too late."""
        while True:
            try:
                return await look()
            except ChangeUnderWay:
                if self._clock.seconds() >= until_s:
                    raise
                await deferLater(self._clock, RETRY_S)

    async def _slots(self, first: int, limit: int) -> tuple[list[Key], int | None]:
        view, now_ms = self._open_view(), self._now_ms()
        rows = self._rows(view, limit)
        pages = await self._ask(view, lambda seat: self._control.slot_keys(seat, view.state, first, rows))
        following = min((page.next for page in pages.values() if page.next is not None), default=None)

        def known(row: KeyRow) -> bool:
            return following is None or slot_of(row.key) < following

        said = {node: [row for row in page.rows if known(row)] for node, page in pages.items()}
        return await self._there(view, said, now_ms), following

    async def _stretch(self, prefix: bytes, after: bytes, limit: int) -> tuple[list[Key], bytes | None]:
        """List up to ``limit`` keys; give with them up to where all is known, None if to the end."""
        # Before they are asked: what expires while their pages are under way may have been renewed since.
        view, now_ms = self._open_view(), self._now_ms()
        rows = self._rows(view, limit)
        pages = await self._ask(view, lambda seat: self._control.keys(seat, view.state, prefix, after, rows))
        horizon = min((page.rows[-1].key for page in pages.values() if page.more), default=None)

        def known(row: KeyRow) -> bool:
            return horizon is None or row.key <= horizon

        said = {node: [row for row in page.rows if known(row)] for node, page in pages.items()}
        keys = await self._there(view, said, now_ms)
        return (keys[:limit], keys[limit - 1]) if len(keys) >= limit else (keys, horizon)

    def _open_view(self) -> View:
        view = self._view()
        if view is None or not view.open:
            raise ChangeUnderWay("the cluster is moving data, and clients wait until it has moved", "try again")
        return view

    def _rows(self, view: View, limit: int) -> int:
        """Say for how many rows each node is asked, so that together they have about ``limit`` keys."""
        # With as many nodes as replicas each holds every key; with more, each holds its share of them.
        share = min(1.0, view.state.replicas / max(1, len(view.seats)) * SPARE_ROWS)
        return min(self._limits.keys_page_max, max(16, round(limit * share)))

    async def _there(self, view: View, said: Mapping[NodeId, Sequence[KeyRow]], now_ms: int) -> list[Key]:
        """Give the keys that hold a value, in the order of their bytes, by what those nodes said that answered."""
        by_key: dict[bytes, dict[NodeId, KeyRow]] = {}
        for node, rows in said.items():
            for row in rows:
                by_key.setdefault(row.key, {})[node] = row
        there: dict[Key, bool] = {}
        disputed: list[Key] = []
        for key in map(Key, sorted(by_key)):
            owners = [node for node in _holders(view.electorates[slot_of(key)]).voters if node in said]
            votes = {_vote(by_key[key].get(node), now_ms) for node in owners}
            there[key] = votes == {True}
            if len(votes) > 1:
                disputed.append(key)
        there.update(zip(disputed, await every(map(self._holds_value, disputed)), strict=True))
        return [key for key, holds in there.items() if holds]

    async def _ask(self, view: View, page_of: Callable[[Seat], Coroutine[Any, Any, P]]) -> Mapping[NodeId, P]:
        """Ask every member that is not avoided for a page, and see that all slots have a majority that answers."""
        avoided = self._avoided()
        asked = [node for node in view.seats if node not in avoided]
        said = await tried(page_of(view.seats[node]) for node in asked)
        pages: dict[NodeId, P] = {}
        moved = False
        errors = dict.fromkeys(avoided.intersection(view.seats), "avoided since it failed")
        for node, result in zip(asked, said, strict=True):
            if isinstance(result, OtherEpoch):
                moved = True
            elif isinstance(result, KvError):
                errors[node] = result.detail
            else:
                pages[node] = result
        if moved:
            # Whoever refused knows more than this proxy, or a change has begun: never is a page put together from two
            # epochs.
            self._look_around()
            raise ChangeUnderWay("the epoch has moved", "try again in a moment")
        for owners in set(map(_holders, view.distinct)):
            acks = sum(node in pages for node in owners.voters)
            if acks < majority(owners.size):
                raise Unreached(
                    f"some keys have only {acks} of {owners.size} owners that answer, a listing needs a majority",
                    "start the nodes again that are down",
                    required=majority(owners.size),
                    acks=acks,
                    replicas=errors,
                )
        return pages


def _holders(electorate: Electorate) -> Group:
    """Who together know all keys: where a slot moves, those who were its owners before."""
    return electorate.groups[0]


def _vote(row: KeyRow | None, now_ms: int) -> bool:
    """Whether an owner says that a key holds a value now."""
    return row is not None and row.is_value and not has_expired(row.expires_ms, now_ms)
