"""RocksDB's manifest: which files hold the data, and which column families there are.

It is a log, and where its end is cut off, zeroed, or has a length that cannot be, RocksDB takes that for what a crash
has torn, and opens without it: tables are forgotten, or with a column family all that the log of writes holds for it,
while the sequence number recovered is as high as ever. So a node notes how long its manifest was, and what was in it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple
from zlib import crc32


class Part(NamedTuple):
    """The beginning of a manifest."""

    number: int
    size: int
    checksum: int


NO_PART = Part(0, 0, 0)


class Manifest:
    """Watches the manifest of a folder that is open."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._begin()

    def _begin(self) -> None:
        self._number, self._path = _present(self._data)
        self._size = self._done = self._checksum = 0

    def seen(self) -> Part:
        """Give as much of it as there was when this was last asked.

        What came since may not be synced yet, and who lost that in a power cut would be accused wrongly.
        """
        try:
            size = os.stat(self._path).st_size
        except FileNotFoundError:
            # It has grown so long that RocksDB began another one.
            self._begin()
            size = os.stat(self._path).st_size
        if self._size > self._done:
            self._checksum = crc32(_bytes(self._path, self._done, self._size), self._checksum)
            self._done = self._size
        self._size = size
        return Part(self._number, self._done, self._checksum)

    def whole(self) -> Part:
        """Give all of it. Nobody may be appending to it now."""
        self.seen()
        return self.seen()


def differs(data: Path, part: Part) -> str:
    """Say in what a folder that is not open differs from what was seen of its manifest; nothing if in nothing.

    A newer manifest is no difference: each start begins one, and may end before anybody has seen it.
    """
    try:
        number, path = _present(data)
        if number > part.number:
            return ""
        if number < part.number:
            return f"CURRENT names the manifest {number}, there was the newer one {part.number} already"
        found = _bytes(path, 0, part.size)
    except (OSError, ValueError):
        return ""  # RocksDB will say of it what is to be said
    if len(found) < part.size:
        return f"{path.name} holds {len(found)} bytes of the {part.size} that were there"
    return "" if crc32(found) == part.checksum else f"the first {part.size} bytes of {path.name} are not what they were"


def _present(data: Path) -> tuple[int, Path]:
    """Name the manifest that counts.

    :raises OSError: if nothing says which one it is.
    :raises ValueError: if what says it cannot be read.
    """
    name = (data / "CURRENT").read_bytes().decode("ascii").strip()
    return int(name.removeprefix("MANIFEST-")), data / name


def _bytes(path: Path, first: int, end: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(first)
        return file.read(end - first)
