"""Checkpoints: what an engine on a disk holds at one moment, in a folder of its own, and how to know it again.

RocksDB makes them of hard links to its tables, which never change, so that one costs hardly any room until its tables
are compacted away. Beside the folder ``data`` lies ``manifest.json`` with the size and the SHA-256 of each file, and
what its maker wants to say of it; it is written last, so that a folder without one is none.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import msgspec
from rocksdict import AccessType, Rdict

from twisted_kv.errors import Damaged, DiskFailed
from twisted_kv.names import Key, Slot
from twisted_kv.register import Cell, Floor
from twisted_kv.storage.complaints import unopened
from twisted_kv.storage.rows import END, FLOOR, SLOT, after_slot, shown_cell, walk
from twisted_kv.storage.tuning import family_options, folder_options
from twisted_kv.versions import Ballot

DATA = "data"
MANIFEST = "manifest.json"
CHECKPOINT_FORMAT = 1
PIECE_BYTES = 1 << 20


class File(msgspec.Struct, frozen=True):
    """One file, named from ``data`` on."""

    name: str
    bytes: int
    sha256: str


class Contents(msgspec.Struct, frozen=True):
    """What ``manifest.json`` says. ``state`` is the cluster's state document, keys and bytes the engine's totals.

    ``run`` is the same in all parts of one backup, and in no other one, be it of the same name.
    """

    format: int
    name: str
    made_ms: int
    version: str
    cluster: str
    member: str
    epoch: int
    keys: int
    bytes: int
    state: str
    files: list[File] = []
    run: str = ""

    @property
    def file_bytes(self) -> int:
        return sum(file.bytes for file in self.files)


Progress = Callable[[int, int], None]
"""Told how many bytes of how many are done."""


def record(folder: Path, contents: Contents, progress: Progress = lambda done, total: None) -> Contents:
    """Read what lies in ``data``, write the manifest, and see that all of it is on the disk.

    :raises OSError: if it cannot be.
    """
    data = folder / DATA
    names = sorted(path for path in data.iterdir() if path.is_file())
    total, done, files = sum(path.stat().st_size for path in names), 0, []
    for path in names:
        files.append(File(path.name, path.stat().st_size, _digest(path, sync=True)))
        done += files[-1].bytes
        progress(done, total)
    whole = msgspec.structs.replace(contents, files=files)
    with open(folder / MANIFEST, "wb") as stream:
        stream.write(msgspec.json.format(msgspec.json.encode(whole), indent=1))
        stream.flush()
        os.fsync(stream.fileno())
    for place in (data, folder, folder.parent):
        sync_folder(place)
    return whole


def contents_of(folder: Path) -> Contents:
    """Read a checkpoint's manifest.

    :raises Damaged: if there is none that can be read.
    """
    try:
        found = msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Contents)
    except OSError as error:
        raise Damaged(f"{folder} holds no backup: {MANIFEST} cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Damaged(f"{folder / MANIFEST} is damaged: {error}") from None
    if found.format > CHECKPOINT_FORMAT:
        raise Damaged(f"{folder} has format {found.format}, this version reads {CHECKPOINT_FORMAT}")
    return found


def check_files(folder: Path, progress: Progress = lambda done, total: None) -> Contents:
    """Compare each file of a checkpoint with its manifest.

    :raises Damaged: naming what differs.
    """
    found, done = contents_of(folder), 0
    for file in found.files:
        path = folder / DATA / file.name
        try:
            size = path.stat().st_size
            if size != file.bytes:
                raise Damaged(f"{path} has {size} bytes, and had {file.bytes}")
            if _digest(path) != file.sha256:
                raise Damaged(f"{path} is not what it was: its SHA-256 differs")
        except OSError as error:
            raise Damaged(f"{path} cannot be read: {error.strerror}") from None
        done += file.bytes
        progress(done, found.file_bytes)
    return found


class Checkpoint:
    """A checkpoint's data, open to be read."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        """:param scratch: a folder in which files may be written for a moment.
        :raises Damaged: if it is not whole.
        :raises DiskFailed: if it cannot be opened.
        """
        families = family_options("data", "keys", "expiry", "meta", "hints")
        try:
            self._db = Rdict(
                str(folder / DATA),
                folder_options(scratch),
                column_families=families,
                access_type=AccessType.read_only(False),
            )
        except OSError as error:
            raise DiskFailed(f"{folder} cannot be opened: {error}") from None
        except Exception as error:
            raise unopened(error) from None
        self._data, self._meta = map(self._db.get_column_family, ("data", "meta"))

    def floors(self) -> Mapping[Slot, Floor]:
        """Give the floors of the slots that have one. Errors as in ``cells``."""
        floors = {}
        for row, value in walk(self._meta, b"f", b"g"):
            promised, accepted = FLOOR.unpack_from(value)
            floors[Slot(SLOT.unpack(row[1:])[0])] = Floor(Ballot(promised), Ballot(accepted))
        return floors

    def cells(self, first: Slot, after: Key | None = None) -> Iterator[tuple[Slot, Key, Cell]]:
        """Walk through all cells from a slot on, or from behind a key of it, as a scan shows them.

        :raises Damaged: if part of them cannot be read at all.
        """
        start = SLOT.pack(first) + (after + b"\0" if after is not None else b"")
        for place, data in walk(self._data, start, after_slot(Slot(0xFFFF)) + END, cached=False):
            key = Key(place[2:])
            yield Slot(SLOT.unpack_from(place)[0]), key, shown_cell(key, data)

    def close(self) -> None:
        self._data.close()
        self._meta.close()
        self._db.close()


def _digest(path: Path, sync: bool = False) -> str:
    digest = sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(PIECE_BYTES):
            digest.update(piece)
        if sync:
            os.fsync(stream.fileno())
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """See that what stands in a folder is on the disk."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
