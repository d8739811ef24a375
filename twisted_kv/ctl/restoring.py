"""The folders of a backup, read together, and written into a cluster."""

from __future__ import annotations

import base64
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from ..errors import KvError
from ..membership import decode_state
from ..merging import Part, lacking, merged
from ..names import Key, NodeId, Slot
from ..ring import slot_of
from ..storage.checkpoints import MANIFEST, Checkpoint, Contents, check_files, contents_of
from ..versions import decode_record
from ..views import View
from .bookmark import Bookmark
from .client import Client
from .records import bulk, until
from .trouble import Exit, Trouble, of_problem

LANES = 4
AHEAD = 8
"""Requests that are under way or wait for their turn."""
REQUEST_RECORDS = 2_000
REQUEST_BYTES = 6 << 20

Place = tuple[Slot, Key]


def damaged(error: KvError) -> Trouble:
    return Trouble(
        "the backup is not whole", error.detail, "take another copy of that folder, or another backup", Exit.DEGRADED
    )


def found_in(folders: tuple[str, ...]) -> list[Path]:
    """Find the parts of one backup: folders that have a manifest, or hold such.

    :raises Trouble: if there is none.
    """
    found = []
    for folder in map(Path, folders):
        inner = (
            [folder] if (folder / MANIFEST).exists() else sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
        )
        if not inner:
            raise Trouble(
                f"{folder} holds no backup",
                f"there is no {MANIFEST} in it, nor in a folder right below it",
                "kvctl backup list -o json names the folders on each node",
                Exit.NOT_FOUND,
            )
        found += inner
    return list(dict.fromkeys(path.resolve() for path in found))


def checked(place: Path, progress: Callable[[int, int], None]) -> Contents:
    """Compare the files of one part with its manifest.

    :raises Trouble: if they differ.
    """
    try:
        return check_files(place, progress)
    except KvError as error:
        raise damaged(error) from None


class Opened:
    """The parts of a backup, open to be read; a context, whose end closes them.

    :raises Trouble: if they are none of one and the same.
    """

    def __init__(self, places: list[Path]) -> None:
        try:
            self._contents = {place: contents_of(place) for place in places}
        except KvError as error:
            raise damaged(error) from None
        whose = {(one.cluster, one.epoch, one.name) for one in self._contents.values()}
        # Nodes of a version that did not know of runs named none.
        runs = {one.run for one in self._contents.values() if one.run}
        members = [one.member for one in self._contents.values()]
        if len(whose) > 1 or len(runs) > 1 or len(set(members)) < len(members):
            each = "; ".join(
                f"{place}: {one.name} of {one.member}{', run ' + one.run if one.run else ''}"
                for place, one in self._contents.items()
            )
            raise Trouble(
                "these are not the parts of one backup", each, "name one folder of each node, of one backup", Exit.USAGE
            )
        first = next(iter(self._contents.values()))
        self.name = first.name
        self.run = max(runs, default="") or f"{first.member} at {first.made_ms}"
        try:
            self.view = View(decode_state(first.state.encode()))
        except KvError as error:
            raise damaged(error) from None
        # Each key is counted by all its owners; who is missing leaves them to the others.
        owners = min(self.view.state.replicas, len(self.view.seats))
        self.keys = sum(one.keys for one in self._contents.values()) // max(1, min(owners, len(members)))
        self._parts: dict[NodeId, Checkpoint] = {}
        self._open = ExitStack()

    def __enter__(self) -> Opened:
        scratch = Path(self._open.enter_context(TemporaryDirectory(prefix="kvctl-")))
        try:
            for place, contents in self._contents.items():
                part = self._parts[NodeId(contents.member)] = Checkpoint(place, scratch)
                self._open.callback(part.close)
        except KvError as error:
            self._open.close()
            raise damaged(error) from None
        return self

    def __exit__(self, *failure: object) -> None:
        self._open.close()

    def must_suffice(self) -> None:
        """:raises Trouble: if nobody could say of some slots what they held."""
        lost = lacking(self.view, self._parts)
        if lost:
            absent = ", ".join(node for node in self.view.seats if node not in self._parts)
            raise Trouble(
                "these folders are too few",
                f"of {lost:,} of 65,536 slots they hold no majority of the owners; missing: {absent}",
                "name the folders of these nodes, too",
                Exit.USAGE,
            )

    def records(self, after: Place | None = None) -> Iterator[tuple[Place, bytes]]:
        """Give the records of all keys, or of those behind a place, in the order of their places.

        :raises Trouble: if some cannot be read.
        """
        slot, key = after or (Slot(0), None)
        try:
            parts = {node: Part(part.cells(slot, key), part.floors()) for node, part in self._parts.items()}
            for found_slot, found_key, record in merged(self.view, parts):
                yield (found_slot, found_key), record
        except KvError as error:
            raise damaged(error) from None


def bookmark_of(places: list[Path], opened: Opened, cluster: str) -> Bookmark:
    """Give the file that remembers how far a restore is; it lies beside the first part."""
    of = {"backup": opened.name, "of": opened.view.cluster_id, "run": opened.run, "cluster_id": cluster}
    return Bookmark(places[0], "restore", of)


def _place_in(at: dict[str, Any], bookmark: Bookmark) -> Place:
    """:raises Trouble: if a bookmark names none."""
    try:
        key = Key(base64.b64decode(at["key"], validate=True))
    except ValueError:
        key = Key(b"")
    if not key or at["slot"] != slot_of(key):
        raise Trouble(f"{bookmark.path} cannot be read", "it names no key", "--fresh begins anew", Exit.USAGE)
    return slot_of(key), key


class Batch(NamedTuple):
    """Puts that are sent together, and how far all is done when they and those before are."""

    puts: list[dict[str, Any]]
    place: Place
    expired: int


class Restoring:
    """Writes records into a cluster, several requests at once.

    ``stored`` and ``expired`` count from the very beginning, ``written`` what this run has stored.

    :raises Trouble: if the bookmark names no place.
    """

    def __init__(self, client: Client, opened: Opened, bookmark: Bookmark, at: dict[str, Any] | None) -> None:
        self._clients = [client.another() for _ in range(LANES)]
        self._opened = opened
        self._bookmark = bookmark
        self._after = _place_in(at, bookmark) if at and at["key"] else None
        self.stored: int = at["stored"] if at else 0
        self.expired: int = at["expired"] if at else 0
        self.written = 0

    def run(self) -> Iterator[int]:
        """Go on from where it was; give, again and again, how many records are stored.

        :raises Trouble: as ``records.bulk`` does, or if the backup cannot be read.
        """
        self._keep()  # from now on the cluster is not empty, and for this restore need not be
        waiting: deque[tuple[Future[None], Batch]] = deque()
        lanes = [ThreadPoolExecutor(1) for _ in self._clients]
        try:
            for number, batch in enumerate(self._batches()):
                turn = number % LANES
                waiting.append((lanes[turn].submit(self._send, self._clients[turn], batch.puts), batch))
                if len(waiting) >= AHEAD:
                    yield self._done(*waiting.popleft())
            while waiting:
                yield self._done(*waiting.popleft())
        except BaseException:
            self._keep()
            raise
        finally:
            for lane in lanes:
                lane.shutdown(wait=True, cancel_futures=True)
            for client in self._clients:
                client.close()
        self._bookmark.remove()

    def _batches(self) -> Iterator[Batch]:
        now_ms = time.time_ns() // 1_000_000
        puts: list[dict[str, Any]] = []
        taken = expired = 0
        place: Place | None = None
        for place, data in self._opened.records(self._after):
            record = decode_record(data)
            assert record.value is not None
            if record.expires_ms and record.expires_ms <= now_ms:
                expired += 1
            else:
                put: dict[str, Any] = {"op": "put", "key": place[1], "value": record.value}
                if record.expires_ms:
                    put |= until(record.expires_ms, now_ms)
                if record.content_type:
                    put["content_type"] = record.content_type.decode("latin-1")
                puts.append(put)
                taken += len(place[1]) + len(record.value) + 64
            if len(puts) >= REQUEST_RECORDS or taken >= REQUEST_BYTES:
                yield Batch(puts, place, expired)
                puts, taken, expired = [], 0, 0
                now_ms = time.time_ns() // 1_000_000
        if place is not None and (puts or expired):
            yield Batch(puts, place, expired)

    @staticmethod
    def _send(client: Client, puts: list[dict[str, Any]]) -> None:
        for put, answer in zip(puts, bulk(client, puts), strict=True):
            if answer["status"] != 204:
                found = of_problem(answer["status"], answer.get("problem", {}))
                raise Trouble(f"the key {put['key'][:100]!r}: {found.what}", found.why, found.then, found.code)

    def _done(self, sent: Future[None], batch: Batch) -> int:
        sent.result()
        self._after = batch.place
        self.stored += len(batch.puts)
        self.written += len(batch.puts)
        self.expired += batch.expired
        if self._bookmark.due():
            self._keep()
        return self.stored

    def _keep(self) -> None:
        slot, key = self._after or (Slot(0), b"")
        name = base64.b64encode(key).decode()
        self._bookmark.write(slot=int(slot), key=name, stored=self.stored, expired=self.expired)
