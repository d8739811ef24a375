"""How things are, for those who watch: ``/v1/events``, ``/v1/snapshot``, and the ring's arcs at ``/v1/ring``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import msgspec
from klein import Klein
from twisted.internet.interfaces import IReactorTime

from ..counted import Counted, rates
from ..errors import NoNodes
from ..limits import Limits
from ..ring import SLOTS
from ..views import View
from .answers import JSON, answer
from .calls.dashboard import EVENTS, RING, SNAPSHOT
from .cluster import ClusterDoor
from .openapi.described import described
from .pages import holds_still
from .parameters import refuse_unknown
from .tasks import TaskDoor
from .viewers import Viewers

Counting: TypeAlias = Callable[[], Awaitable[Mapping[int, Counted | None]]]
"""Gives what each process of this proxy has counted, by its number; None for one that did not answer."""

STALE_LOOKS = 5
"""Two looks that lie so many times further apart than usual are not compared."""


class Snapshots:
    """Takes looks, and compares each with the one before it.

    :param now_ms: wall time, which the page's own may differ from.
    """

    def __init__(
        self,
        clock: IReactorTime,
        now_ms: Callable[[], int],
        limits: Limits,
        cluster: ClusterDoor,
        tasks: TaskDoor,
        counting: Counting,
    ) -> None:
        self._clock = clock
        self._now_ms = now_ms
        self._limits = limits
        self._cluster = cluster
        self._tasks = tasks
        self._counting = counting
        self._before: dict[int, Counted] = {}
        self._before_s = 0.0

    async def compose(self) -> bytes:
        """Take a look, and encode it in the shape that ``docs/dashboard.md`` describes."""
        asked = await self._counting()
        now_s = self._clock.seconds()
        counted = {number: one for number, one in asked.items() if one is not None}
        passed_s = now_s - self._before_s
        usable = passed_s < STALE_LOOKS * self._limits.events_interval_s
        moved = rates(self._before, counted, passed_s) if usable else None
        self._before, self._before_s = counted, now_s
        return msgspec.json.encode(
            {
                "now_ms": self._now_ms(),
                "workers": {"asked": len(asked), "answered": len(counted)},
                "rates": moved,
                "cluster": self._cluster.describe(),
                "troubles": self._cluster.troubles(),
                "tasks": self._tasks.tasks(),
            }
        )


class Arcs:
    """The ring's arcs, worked out once for each view."""

    def __init__(self) -> None:
        self._view: View | None = None
        self._encoded = b""

    def of(self, view: View) -> bytes:
        """Encode who is the first owner of which slots: each arc begins at a slot, and ends where the next begins."""
        if view is not self._view:
            members = list(view.ring.members)
            numbers = {member.id: number for number, member in enumerate(members)}
            arcs: list[tuple[int, int]] = []
            for slots, owners in view.ring.spans:
                number = numbers[owners[0]] if owners else -1
                if not arcs or arcs[-1][1] != number:
                    arcs.append((slots.start, number))
            self._view = view
            self._encoded = msgspec.json.encode(
                {
                    "epoch": view.epoch,
                    "slots": SLOTS,
                    "nodes": [member.id for member in members],
                    "arcs": arcs if members else [],
                }
            )
        return self._encoded


def add_events(app: Klein, viewers: Viewers, view: Callable[[], View | None]) -> None:
    """Give a proxy's door what its dashboard is fed with."""
    arcs = Arcs()

    @app.route("/v1/events", methods=["GET"])
    @described(EVENTS)
    async def events(request: Any) -> bytes:
        refuse_unknown(request)
        return await viewers.watch(request, request.channel.ticket)

    @app.route("/v1/snapshot", methods=["GET"])
    @described(SNAPSHOT)
    async def snapshot(request: Any) -> bytes:
        refuse_unknown(request)
        request.setHeader(b"Cache-Control", b"no-store")
        return answer(request, await viewers.glance(), JSON)

    @app.route("/v1/ring", methods=["GET"])
    @described(RING)
    def ring(request: Any) -> bytes:
        refuse_unknown(request)
        seen = view()
        if seen is None:
            raise NoNodes("this proxy does not know the cluster yet", "ask again in a moment")
        etag = f'"{seen.state.cluster_id}-{seen.epoch}"'.encode()
        request.setHeader(b"Cache-Control", b"no-cache")
        request.setHeader(b"ETag", etag)
        if holds_still(request, etag):
            request.setResponseCode(304)
            return b""
        return answer(request, arcs.of(seen), JSON)
