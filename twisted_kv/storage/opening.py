"""Opening a node's folder: what it still holds, and whether the node may vote with that.

A node that forgot what it once said must not vote: a promise or a record that it has forgotten would be broken. So it
draws a new *incarnation*, which no proxy counts before the node was rebuilt. It has forgotten

- if its folder is new, or what is there cannot be opened, or fails its checksums;
- if less was recovered than was synced: after each sync the sequence number reached is written to a file of its own;
- if the manifest is not the one that was seen then (see ``manifest.py``);
- with ``interval`` or ``never``, if the machine went down without the node having been stopped before.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path

from twisted_kv.errors import Damaged, DiskBusy, DiskFailed, DiskFull
from twisted_kv.storage.checkpoints import sync_folder
from twisted_kv.storage.manifest import Manifest, differs
from twisted_kv.storage.marks import ALWAYS, Mark, MarkFile
from twisted_kv.storage.rocks import RocksEngine

_INCARNATION = "incarnation"
_NAME = re.compile(rb"[!-~]{1,64}").fullmatch


class Disk:
    """A node's folder, open: the engine on it, the incarnation that its memory has, and why that is a new one.

    :param folder: holds ``data``, ``synced`` and, after the disk has failed, ``suspect``.
    :param sync: one of ``SYNC_MODES``.
    :param boot: names this boot of the machine; empty where that cannot be known.
    :param draw: draws a fresh incarnation.
    :raises DiskFailed: if the folder cannot be used for a reason that an operator has to mend.
    """

    def __init__(self, folder: Path, sync: str, boot: str, draw: Callable[[], str]) -> None:
        self._folder = folder
        self._sync = sync
        self._boot = boot
        self._data = folder / "data"
        self._suspect = folder / "suspect"
        self.forgot = ""
        """Why the incarnation is a new one; empty if the node remembers."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._marks = MarkFile(folder / "synced")
            last = self._marks.read()
            self.engine = self._open(last)
            self._manifest = Manifest(self._data)
            self.incarnation = self._remember(last, draw)
            self._marks.settle(Mark(self.engine.sequence, sync, boot, manifest=self._manifest.whole()))
            sync_folder(folder)
        except OSError as error:
            raise DiskFailed(f"the node's folder cannot be used: {error}", "mend that, then start it again") from None

    def _remember(self, last: Mark | None, draw: Callable[[], str]) -> str:
        """Give the incarnation that the folder's memory has, synced before anything can rest on it."""
        kept = self.engine.read_note(_INCARNATION)
        self.forgot = self.forgot or self._forgotten(last, kept)
        if kept is not None and not self.forgot:
            incarnation = kept.decode("ascii")
        else:
            incarnation = draw()
            # The first change after a loss: what was recovered up to a later one includes it.
            self.engine.write_note(_INCARNATION, incarnation.encode())
        self.engine.sync()
        return incarnation

    def _open(self, last: Mark | None) -> RocksEngine:
        try:
            changed = differs(self._data, last.manifest) if last is not None else ""
            if changed:
                raise Damaged(f"its manifest is damaged: {changed}")
            engine = RocksEngine(self._data, self._reached)
            if self._suspect.exists():
                try:
                    engine.verify()
                except Damaged:
                    engine.close()
                    raise
        except Damaged as error:
            aside = next(path for number in count(1) if not (path := self._folder / f"data.damaged-{number}").exists())
            self._data.rename(aside)
            self.forgot = f"{error.detail}; what is left of it is in {aside}"
            engine = RocksEngine(self._data, self._reached)
        self._suspect.unlink(missing_ok=True)
        return engine

    def _forgotten(self, last: Mark | None, kept: bytes | None) -> str:
        if kept is None:
            return "its folder is new"
        if not _NAME(kept):
            return "its incarnation cannot be read"
        if last is None:
            return "nothing says how much of its data was synced"
        recovered = self.engine.sequence
        if recovered < last.sequence:
            return f"{last.sequence} changes were synced, {recovered} were recovered"
        if last.sync != ALWAYS and not last.clean and (last.boot != self._boot or not self._boot):
            return f"the machine went down, and data was synced at {last.sync} only"
        return ""

    def _reached(self, sequence: int) -> None:
        self._marks.write(Mark(sequence, self._sync, self._boot, manifest=self._manifest.seen()))

    def free_bytes(self) -> int:
        """Say how much room is left for data."""
        found = os.statvfs(self._folder)
        return found.f_bavail * found.f_frsize

    def log_bytes(self) -> int:
        """Say how much opening the folder has to write out."""
        return sum(path.stat().st_size for path in self._data.glob("*.log"))

    def doubt(self) -> None:
        """Have everything verified at the next start: the disk has failed under this one."""
        try:
            self._suspect.touch()
            sync_folder(self._folder)
        except OSError:
            pass  # the disk may be gone; what it recovers is judged by the mark in any case

    def close(self) -> None:
        """Put everything on the disk and note that it is there, if there is room for it."""
        try:
            self.engine.sync()
            reached: int | None = self.engine.sequence
        except (DiskBusy, DiskFull):
            reached = None
        self.engine.close()
        if reached is not None:
            self._marks.settle(Mark(reached, self._sync, self._boot, clean=True, manifest=self._manifest.whole()))
        self._marks.close()
