"""Saving: every member keeps a backup of what it holds, all of them in one epoch.

A write that was acknowledged before is on a majority of its owners, and so in the backup, if a majority of each slot's
owners has one. What was written meanwhile may be in it. Members make their checkpoints one after the other: each stands
still for a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from random import Random
from typing import NamedTuple

import msgspec
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from .errors import BackupExists, BackupFailed, ChangeUnderWay, KvError, NoNodes, NoSuchBackup
from .merging import uncovered
from .names import NodeId
from .peers.control import Control
from .together import answers, tried
from .views import View
from .wire.backups import BackupReply, Kept

POLL_S = 0.25
SILENT_MAX = 40
"""After so many questions without an answer a member counts as failed."""


class Backup(NamedTuple):
    """One backup, as all members that answer tell of it."""

    name: str
    kept: Mapping[NodeId, Kept]
    missing: list[NodeId]
    """Members that do not answer, or have none of this name."""
    whole: bool
    """Whether a majority of each slot's owners keeps it."""


class Saver:
    """Has backups made, for one proxy.

    :param view: gives the view that the proxy acts on now.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        random: Random,
        now_ms: Callable[[], int],
        control: Control,
        view: Callable[[], View | None],
    ) -> None:
        self._clock = clock
        self._random = random
        self._now_ms = now_ms
        self._control = control
        self._view = view
        self._following: Deferred[None] | None = None
        self.name = ""
        """Which backup is being made, or was last."""
        self.state = "done"
        """One of ``running``, ``done`` and ``failed``."""
        self.trouble = ""
        self.began_s = self.ended_s = 0.0
        self.replies: dict[NodeId, BackupReply] = {}

    def _present(self) -> View:
        """:raises NoNodes: if there is no member.
        :raises ChangeUnderWay: if the ring changes, or is going to.
        """
        view = self._view()
        if view is None or not view.seats:
            raise NoNodes("there is no member yet", "add one with POST /AddServer")
        if view.state.change is not None or view.state.pending:
            raise ChangeUnderWay("the ring is changing", "try again when kvctl cluster status shows no change")
        return view

    async def save(self, name: str) -> str:
        """Have every member make its checkpoint; give the backup's name. How the rest goes on, ``state`` tells.

        :param name: empty for one that says when it was made.
        :raises BackupExists: if a member keeps one of that name.
        :raises BackupFailed: if one is being made, or too few members could make theirs. Errors as in ``_present``.
        """
        self._refuse_second()
        view = self._present()
        name = name or datetime.fromtimestamp(self._now_ms() / 1000, UTC).strftime("%Y%m%d-%H%M%S")
        known = await self._kept_by(view)
        keepers = sorted({node for (kept, _), by_node in known.items() if kept == name for node in by_node})
        if keepers:
            raise BackupExists(
                f"{', '.join(keepers)} keep a backup {name!r}: it holds what was written before it was made",
                f"name this one otherwise, or: kvctl backup remove {name}",
            )
        self._refuse_second()  # one that began while the members were asked
        self.name, self.state, self.trouble, self.replies = name, "running", "", {}
        self.began_s = self.ended_s = self._clock.seconds()
        run = f"b-{self._random.getrandbits(64):016x}"
        try:
            await self._begin(view, name, run)
        except BaseException as error:
            self._end(str(getattr(error, "detail", error)))
            raise
        self._following = ensureDeferred(self._follow(view, name, run))
        self._following.addErrback(lambda failure: self.log.failure("a backup could not be followed", failure))
        return name

    def _refuse_second(self) -> None:
        if self.state == "running":
            raise BackupFailed(f"the backup {self.name!r} is being made", "wait until it is there")

    async def _begin(self, view: View, name: str, run: str) -> None:
        refusals: dict[NodeId, str] = {}
        for node, seat in view.seats.items():
            try:
                self.replies[node] = await self._control.back_up(seat, view.state, name, run, begin=True)
            except KvError as error:
                refusals[node] = error.detail
        if uncovered(view, self.replies):
            why = "; ".join(f"{node}: {detail}" for node, detail in refusals.items())
            raise BackupFailed(f"too few members can keep a backup: {why}", "mend what they say, then try again")

    async def _follow(self, view: View, name: str, run: str) -> None:
        """Ask until every member has finished, or failed; one that is silent for long has."""
        silent = dict.fromkeys(self.replies, 0)
        while running := [node for node, reply in self.replies.items() if not reply.finished and not reply.trouble]:
            await deferLater(self._clock, POLL_S)
            asked = [self._control.back_up(view.seats[node], view.state, name, run, begin=False) for node in running]
            for node, told in zip(running, await tried(asked), strict=True):
                if not isinstance(told, KvError):
                    self.replies[node], silent[node] = told, 0
                    continue
                silent[node] += 1
                if silent[node] >= SILENT_MAX:
                    self.replies[node] = msgspec.structs.replace(self.replies[node], trouble=told.detail)
        failed = {node: reply.trouble for node, reply in self.replies.items() if reply.trouble}
        whole = not uncovered(view, [node for node in self.replies if node not in failed])
        self._end("" if whole else "; ".join(f"{node}: {trouble}" for node, trouble in failed.items()))
        self.log.info("the backup {name} {state}", name=name, state="is made" if whole else "failed")

    def _end(self, trouble: str) -> None:
        self.state, self.trouble, self.ended_s = "failed" if trouble else "done", trouble, self._clock.seconds()

    def stop(self) -> None:
        """Ask no more; the members go on."""
        if self._following is not None:
            self._following.addErrback(lambda failure: failure.trap(CancelledError))
            self._following.cancel()

    @property
    def done(self) -> int:
        """Bytes that have been read and written down, and of how many: ``total``."""
        return sum(reply.done for reply in self.replies.values())

    @property
    def total(self) -> int:
        return sum(reply.total for reply in self.replies.values())

    @property
    def bytes_per_s(self) -> float:
        until_s = self._clock.seconds() if self.state == "running" else self.ended_s
        return self.done / max(0.001, until_s - self.began_s)

    async def kept(self) -> list[Backup]:
        """Say which backups there are, the newest last. Who does not answer has none.

        :raises NoNodes: if there is no member.
        """
        view = self._view()
        if view is None or not view.seats:
            raise NoNodes("there is no member yet", "add one with POST /AddServer")
        backups = [
            Backup(name, by_node, [node for node in view.seats if node not in by_node], not uncovered(view, by_node))
            for (name, _), by_node in (await self._kept_by(view)).items()
        ]
        return sorted(backups, key=lambda backup: min(one.made_ms for one in backup.kept.values()))

    async def _kept_by(self, view: View) -> dict[tuple[str, str], dict[NodeId, Kept]]:
        """Give by name and run who keeps what."""
        told = await answers({node: self._control.kept_backups(seat.url) for node, seat in view.seats.items()})
        found: dict[tuple[str, str], dict[NodeId, Kept]] = {}
        for node, kept in told.items():
            for one in kept.backups:
                found.setdefault((one.name, one.run), {})[node] = one
        return found

    async def remove(self, name: str) -> list[NodeId]:
        """Have every member that keeps a backup delete it; say who has.

        :raises NoSuchBackup: if nobody keeps it.
        :raises BackupFailed: if one of those who keep it could not delete it.
        """
        keepers = {node for backup in await self.kept() if backup.name == name for node in backup.kept}
        view = self._view()
        if not keepers or view is None:
            raise NoSuchBackup(f"no member keeps a backup {name[:80]!r}", "GET /v1/backups lists them")
        seats = [seat for node, seat in view.seats.items() if node in keepers]
        told = await tried([self._control.remove_backup(seat.url, name) for seat in seats])
        failed = [f"{seat.id}: {one.detail}" for seat, one in zip(seats, told, strict=True) if isinstance(one, KvError)]
        if failed:
            raise BackupFailed(f"some could not delete it: {'; '.join(failed)}", "try again when they answer")
        return [NodeId(seat.id) for seat in seats]
