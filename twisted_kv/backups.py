"""The backups that a node keeps: checkpoints in its folder, each with a manifest."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from .errors import BackupExists, BackupFailed, BadParameter, Damaged, MalformedBody, NoSuchBackup, StateUnusable
from .membership import decode_state
from .replica import Replica
from .storage.checkpoints import CHECKPOINT_FORMAT, DATA, Contents, contents_of, record, sync_folder
from .storage.engine import Engine
from .storage.rocks import RocksEngine
from .wire.backups import BackupReply, BackupRequest, Kept, KeptBackups
from .wire.header import FORMAT

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
BEGUN = ".begun"
"""What ends the name of a folder that is no backup yet."""


def checked_name(name: str) -> str:
    """:raises BadParameter: unless it may name a backup, and so a folder."""
    if not NAME.fullmatch(name) or name.endswith(BEGUN):
        raise BadParameter(
            f"{name[:80]!r} cannot name a backup", "give 1 to 63 letters, digits, dots, dashes and underscores"
        )
    return name


class Backups:
    """One node's.

    :param folder: where they lie; on the engine's disk. None where the engine keeps nothing on a disk.
    :param aside: does work in a thread that nobody waits for, one after the other.
    """

    log = Logger()

    def __init__(
        self,
        folder: Path | None,
        engine: Engine,
        replica: Replica,
        aside: Callable[[Callable[[], None]], Deferred[None]],
        now_ms: Callable[[], int],
    ) -> None:
        self._folder = folder.absolute() if folder is not None else None
        self._engine = engine
        self._replica = replica
        self._aside = aside
        self._now_ms = now_ms
        self._stopping = False
        self._under_way: dict[str, tuple[int, int]] = {}
        """Bytes done, and of how many, of those that are being written down."""
        self._runs: dict[str, str] = {}
        """To which run those belong, and those that were."""
        self._failed: dict[str, str] = {}
        for half in folder.glob(f"*{BEGUN}") if folder is not None else ():
            shutil.rmtree(half, ignore_errors=True)

    def ask(self, request: BackupRequest) -> BackupReply:
        """Begin a backup unless it is there, and say how far it is.

        :raises BadParameter: if that cannot be its name.
        :raises MalformedBody: if it is to be begun without a state document that can be read.
        :raises NoSuchBackup: if it is not there, and was not to be begun.
        :raises BackupExists: if another one of that name is there, or is being made.
        :raises BackupFailed: if there can be none here. Errors as in ``Replica.admit``, and those of the disk.
        """
        self._replica.admit(request.header)
        name = checked_name(request.name)
        place = self._at(name)
        if name in self._under_way:
            self._same(request, self._runs[name])
            return BackupReply(FORMAT, *self._under_way[name], finished=False, folder=str(place))
        if os.path.lexists(place):
            kept = self._read(place)
            self._same(request, kept.run)
            return BackupReply(FORMAT, kept.file_bytes, kept.file_bytes, finished=True, folder=str(place))
        if not request.begin:
            trouble = self._failed.get(name)
            if trouble is None:
                raise NoSuchBackup(f"this node keeps no backup {name!r}", "kvctl backup list tells which there are")
            return BackupReply(FORMAT, 0, 0, finished=False, trouble=trouble)
        try:
            decode_state(request.state)
        except StateUnusable as error:
            # Whoever wants it back would find out.
            raise MalformedBody(f"a backup cannot be made of this cluster: {error.detail}") from None
        self._begin(name, place, request.state, request.run)
        return BackupReply(FORMAT, 0, 0, finished=False, folder=str(place))

    def _same(self, request: BackupRequest, run: str) -> None:
        # It would count as a part of the backup that is asked for, and lack what was written since.
        if request.run and run != request.run:
            raise BackupExists(
                f"this node keeps another backup {request.name!r}",
                f"name this one otherwise, or: kvctl backup remove {request.name}",
            )

    @staticmethod
    def _read(place: Path) -> Contents:
        try:
            return contents_of(place)
        except Damaged as error:
            raise BackupFailed(f"{place} is in the way: {error.detail}", "move it elsewhere, then try again") from None

    def _begin(self, name: str, place: Path, state: bytes, run: str) -> None:
        engine, who = self._engine, self._replica.info()
        assert isinstance(engine, RocksEngine)
        begun = place.with_name(name + BEGUN)
        try:
            shutil.rmtree(begun, ignore_errors=True)
            begun.mkdir(parents=True)
            engine.checkpoint(begun / DATA)
        except Exception as error:
            shutil.rmtree(begun, ignore_errors=True)  # what is in it holds on to tables that the node has done with
            if not isinstance(error, OSError):
                raise
            raise BackupFailed(f"{begun} cannot be written: {error.strerror}", "mend that, then try again") from None
        contents = Contents(
            format=CHECKPOINT_FORMAT,
            name=name,
            made_ms=self._now_ms(),
            version=who.version,
            cluster=who.cluster,
            member=who.member,
            epoch=who.epoch,
            keys=who.keys,
            bytes=who.bytes,
            state=state.decode(),
            run=run,
        )
        self._failed.pop(name, None)
        self._under_way[name] = (0, 0)
        self._runs[name] = run

        def progress(done: int, total: int) -> None:
            if self._stopping:
                raise BackupFailed("the node is stopping")
            self._under_way[name] = (done, total)

        def written() -> None:
            record(begun, contents, progress)
            begun.rename(place)
            # Until its name is on the disk, a power cut leaves what is cleared away at the next start.
            for folder in (place.parent, place.parent.parent):
                sync_folder(folder)

        self._aside(written).addErrback(self._fails, name, begun).addCallback(lambda _: self._under_way.pop(name, None))

    def _fails(self, failure: Failure, name: str, begun: Path) -> None:
        self._failed[name] = failure.getErrorMessage()
        self.log.error("the backup {name} failed: {why}", name=name, why=failure.getErrorMessage())
        shutil.rmtree(begun, ignore_errors=True)

    def stop(self) -> None:
        """Give up what is being written down."""
        self._stopping = True

    def kept(self) -> KeptBackups:
        """Tell of all that are whole."""
        found = []
        for place in sorted(self._folder.iterdir()) if self._folder is not None and self._folder.exists() else ():
            if place.name.endswith(BEGUN):
                continue
            try:
                one = contents_of(place)
            except Damaged:
                continue  # it is none of ours
            found.append(
                Kept(place.name, one.made_ms, one.epoch, one.keys, one.bytes, one.file_bytes, str(place), one.run)
            )
        return KeptBackups(found)

    def remove(self, name: str) -> None:
        """Delete one.

        :raises NoSuchBackup: if there is none of that name.
        :raises BackupFailed: if it is being made, or cannot be deleted.
        """
        place = self._at(checked_name(name))
        if name in self._under_way:
            raise BackupFailed(f"the backup {name!r} is being made", "wait until it is there")
        if not os.path.lexists(place):
            raise NoSuchBackup(f"this node keeps no backup {name!r}", "kvctl backup list tells which there are")
        try:
            if place.is_symlink():
                place.unlink()  # where it points to is somebody else's
                return
            # First it loses its name: what is half deleted must not be taken for a backup.
            going = place.with_name(name + BEGUN)
            shutil.rmtree(going, ignore_errors=True)
            place.rename(going)
            sync_folder(place.parent)
            shutil.rmtree(going)
        except OSError as error:
            raise BackupFailed(f"{place} cannot be deleted: {error.strerror}") from None

    def _at(self, name: str) -> Path:
        if self._folder is None:
            raise BackupFailed(
                "this node keeps its data in memory, and has none to back up", "kvctl export writes keys to a file"
            )
        return self._folder / name
