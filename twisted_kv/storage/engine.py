"""The contract of storage engines: cells by slot and key, in order, and a few notes beside them.

An engine knows nothing of ballots' rules: it keeps what it is given. Only ``replica.py`` calls one, and the suite
``tests/contracts/test_engines.py`` holds every engine to what is written here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Protocol, TypeAlias

from twisted_kv.names import Key, Slot
from twisted_kv.register import Cell
from twisted_kv.versions import is_tombstone

Place: TypeAlias = tuple[Slot, Key]
"""Where a cell is. Places are ordered by slot, then by the key's bytes; one key in two slots has two places."""


class Change(NamedTuple):
    """One place and the cell it holds: what is given to ``apply``, and what a scan shows."""

    slot: Slot
    key: Key
    cell: Cell


class Totals(NamedTuple):
    """What an engine holds.

    ``keys`` counts the records that are values: neither tombstones nor bare promises, but expired values, since those
    stay until a tombstone replaces them. ``bytes`` is the key and record bytes of all cells, without overhead.
    """

    keys: int
    bytes: int


def is_value(record: bytes) -> bool:
    """Say whether a cell's record counts in ``Totals.keys``."""
    return bool(record) and not is_tombstone(record)


class View(Protocol):
    """Something to read cells from. Every method may be called from any thread."""

    def get(self, slot: Slot, key: Key) -> Cell | None:
        """Give the cell of one key, or None if the key was never written here, or was dropped."""

    def scan(
        self, first: Slot, last: Slot, after: Place | None, limit: int, bytes_max: int | None = None
    ) -> list[Change]:
        """Give a page of the cells in slots ``first`` to ``last`` (both included), ordered by place.

        One page shows one moment: no batch is seen in part. Pages of an engine show one moment each, pages of a
        snapshot all the same one.

        :param after: give only cells strictly after this place, which need not hold a cell or be in the range. None
            begins at ``first``.
        :param limit: the most cells that the page may have, at least 1.
        :param bytes_max: end the page before its key and record bytes exceed this; it has at least one cell all the
            same, so only an empty page is the end. Without it a page shorter than ``limit`` is the end too.
        """


class Engine(View, Protocol):
    """Keeps the cells of one owner.

    Every method may be called from any thread, several at once. The methods that change something happen one after
    another, each at one moment between its call and its return; from then on every thread sees it. Read by itself, an
    engine shows the newest state, each call its own moment: whoever needs several keys to agree reads them in one scan
    or from one snapshot.

    What outlasts the process is each engine's own promise.
    """

    name: str
    """What ``/node/v1/info`` calls this kind of engine."""

    def apply(self, changes: Iterable[Change]) -> None:
        """Put every cell of a batch in its place, all or none of them.

        If one place occurs twice, the later cell wins. The batch is drawn up before anything is touched: if drawing
        raises, nothing has changed, and drawing may read this engine.
        """

    def drop(self, first: Slot, last: Slot) -> None:
        """Forget every cell in slots ``first`` to ``last`` (both included), at one moment. Notes stay."""

    def snapshot(self) -> View:
        """Give the present state as a view that later changes do not touch.

        It may hold memory or files for as long as it is referred to, and must not be used once the engine is closed.
        """

    def totals(self) -> Totals:
        """Say what the engine holds, without counting: the cost does not depend on it."""

    def read_note(self, name: str) -> bytes | None:
        """Give the note of this name, or None if there is none."""

    def write_note(self, name: str, value: bytes) -> None:
        """Keep a small fact about the node: its identity, its epoch, the cluster's state document.

        An engine with a disk returns when the note is on it: notes are rare, and their writer acts on them next.
        """

    def close(self) -> None:
        """Give back what the engine holds. Closing again does nothing; no other method may be called afterwards."""
