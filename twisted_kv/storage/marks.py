"""Marks: what a node notes beside its data, by which its next start judges what it finds."""

from __future__ import annotations

import os
import struct
from itertools import count
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from twisted_kv.errors import DiskFailed
from twisted_kv.storage.manifest import NO_PART, Part

ALWAYS, INTERVAL, NEVER = "always", "interval", "never"
SYNC_MODES = (ALWAYS, INTERVAL, NEVER)

_MARK = struct.Struct(">BBB36sQQQI")
_CHECKSUM = struct.Struct(">I")
_FORMAT = 2
"""The format of all that lies in a node's folder: what raises that of a row raises this one, too. A build that does not
know a row's would take each for damaged, and have it replaced."""
_SECTOR_BYTES = 512


class Mark(NamedTuple):
    """What a node noted beside its data: how far it had synced, how, on which boot of the machine, how it ended, and
    what it had seen of its manifest."""

    sequence: int
    sync: str
    boot: str
    clean: bool = False
    manifest: Part = NO_PART


class MarkFile:
    """Keeps the newest mark: two of them by turns, a sector each, so that a torn one leaves the one before it.

    A mark is written after each sync and left to the kernel, which puts it on the disk within half a minute. One that
    is too old after a power cut only finds less than a newer one would; it never accuses a node wrongly.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._writes = count()

    def read(self) -> Mark | None:
        """Give the newest mark that can be read, if any.

        :raises DiskFailed: if a later version has written the folder.
        """
        forms = [os.pread(self._file, 1, turn * _SECTOR_BYTES) for turn in (0, 1)]
        if min(forms) > bytes((_FORMAT,)):  # one alone may be spoilt
            raise DiskFailed(
                f"the node's folder has format {forms[0][0]}, this version knows {_FORMAT} and those before",
                "run the version that wrote it, or a later one",
            )
        found = [self._read(turn) for turn in (0, 1)]
        marks = (mark for mark in found if mark is not None)
        return max(marks, key=lambda mark: (mark.sequence, mark.manifest), default=None)

    def _read(self, turn: int) -> Mark | None:
        data = os.pread(self._file, _MARK.size + _CHECKSUM.size, turn * _SECTOR_BYTES)
        if len(data) < _MARK.size + _CHECKSUM.size:
            return None
        form, sync, clean, boot, sequence, *part = _MARK.unpack_from(data)
        if (
            form != _FORMAT
            or sync >= len(SYNC_MODES)
            or _CHECKSUM.pack(crc32(data[: _MARK.size])) != data[_MARK.size :]
        ):
            return None
        boot = boot.rstrip(b"\0").decode("ascii", "replace")
        return Mark(sequence, SYNC_MODES[sync], boot, bool(clean), Part(*part))

    def write(self, mark: Mark) -> None:
        boot = mark.boot.encode("ascii", "replace")[:36]
        data = _MARK.pack(_FORMAT, SYNC_MODES.index(mark.sync), mark.clean, boot, mark.sequence, *mark.manifest)
        os.pwrite(self._file, data + _CHECKSUM.pack(crc32(data)), next(self._writes) % 2 * _SECTOR_BYTES)

    def settle(self, mark: Mark) -> None:
        """Replace all earlier marks by this one, whatever they say, and put it on the disk."""
        self.write(mark)
        self.write(mark)
        os.fsync(self._file)

    def close(self) -> None:
        os.close(self._file)
