"""One of everything that is sent or stored, with every field set: what the golden files are made of."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from twisted_kv.fasthttp.frames import head
from twisted_kv.fasthttp.upgrade import SWITCHED, request_to_switch
from twisted_kv.hinting import Hint, Hints
from twisted_kv.limits import Limits
from twisted_kv.membership import Change, Seat, State, Wish, encode_state
from twisted_kv.names import Key, NodeId, Slot
from twisted_kv.register import ACCEPT, FETCH, HINT, PREPARE, READ, Cell, Floor, Op, Reply
from twisted_kv.ring import slot_of
from twisted_kv.storage.engine import Change as CellChange
from twisted_kv.storage.opening import Disk
from twisted_kv.storage.rows import encode_cell
from twisted_kv.tracing import Trace
from twisted_kv.versions import Ballot, Record, Version
from twisted_kv.wire.backups import BackupReply, BackupRequest, Kept, KeptBackups
from twisted_kv.wire.batches import Batch, BatchReply, Bundle, BundleReply
from twisted_kv.wire.header import FORMAT, Header, encode
from twisted_kv.wire.joining import Announcement, Info, Join
from twisted_kv.wire.moving import DropRequest, PullReply, PullRequest, Source
from twisted_kv.wire.pages import (
    DuePage,
    DueRequest,
    KeyRow,
    KeysPage,
    KeysRequest,
    Page,
    PageRequest,
    Row,
    SlotKeysPage,
    SlotKeysRequest,
    rows_digest,
)
from twisted_kv.wire.upkeep import (
    Digests,
    DigestsRequest,
    FloorRow,
    HintsPage,
    HintsRequest,
    Marks,
    MarksRequest,
    PurgeReply,
    PurgeRequest,
    VerifyReply,
    VerifyRequest,
)


def ballot(number: int) -> Ballot:
    return Ballot(number.to_bytes(8, "big") + bytes(range(8)))


VALUE = Record(Version(ballot(1)), b"a value\x00\xff", b"text/plain", 4_102_444_800_000, (Version(ballot(2)),) * 2)
PLAIN = Record(Version(ballot(3)), b"Go")
TOMBSTONE = Record(Version(ballot(4)), None)
RECORDS = {"a value": VALUE, "a plain value": PLAIN, "a tombstone": TOMBSTONE}

HEADER = Header(FORMAT, "c-1", "n-1", "i-1", 7, False, 5_000)
ROWS = [Row(b"key", ballot(1), VALUE.encode(), ballot(5)), Row(b"gone", ballot(4), TOMBSTONE.encode(), ballot(4))]
RANGES = [(0, 9), (65_535, 65_535)]
OPS = [
    Op(READ, Key(b"a")),
    Op(FETCH, Key(b"b")),
    Op(PREPARE, Key(b"c"), ballot(6)),
    Op(ACCEPT, Key(b"d"), ballot(1), VALUE.encode()),
    Op(HINT, Key(b"e"), ballot(1), b"n-2"),
]
REPLIES = [Reply(True, ballot(1), ballot(2), VALUE.encode()), Reply(False, ballot(1), ballot(2), abstains="no room")]

MESSAGES: dict[str, Any] = {
    "batch": Batch(
        HEADER,
        OPS,
        True,
        [Bundle(ACCEPT, [Key(b"f")], [PLAIN.encode()]), Bundle(READ, [Key(b"g")])],
        {0: Trace("request-1", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")},
    ),
    "batch_reply": BatchReply(
        FORMAT,
        7,
        REPLIES,
        "old-epoch",
        "this node is at epoch 8",
        b"{}",
        12,
        [BundleReply([ballot(1)], [PLAIN.encode()], {1: REPLIES[1]})],
    ),
    "backup_request": BackupRequest(HEADER, "first", b"state", True, "b-1"),
    "backup_reply": BackupReply(FORMAT, 5, 10, True, "/backups/first", "trouble"),
    "page_request": PageRequest(HEADER, RANGES, (5, b"key"), True),
    "page": Page(FORMAT, 7, ROWS, (5, b"key"), rows_digest(ROWS)),
    "keys_request": KeysRequest(HEADER, b"prefix", b"after", 100),
    "keys_page": KeysPage(FORMAT, 7, [KeyRow(b"key", True, 5), KeyRow(b"gone", False, 0)], True),
    "slot_keys_request": SlotKeysRequest(HEADER, 5, 100),
    "slot_keys_page": SlotKeysPage(FORMAT, 7, [KeyRow(b"key", True, 5)], 6),
    "due_request": DueRequest(HEADER, 1_000, (5, b"key"), 100),
    "due_page": DuePage(FORMAT, 7, [(5, b"key")], True),
    "digests_request": DigestsRequest(HEADER, RANGES),
    "digests": Digests(FORMAT, 7, {5: 2**64 - 1}, {5: 3}, [FloorRow(5, ballot(1), ballot(2))], ballot(9)),
    "pull_request": PullRequest(HEADER, RANGES, 5, [Source("http://127.0.0.1:1", "n-2", "i-2")], 2),
    "pull_reply": PullReply(FORMAT, 7, 10, 1_000, [b"key"], 6, 1),
    "purge_request": PurgeRequest(HEADER, ballot(1), [(5, 2**64 - 1)], True),
    "purge_reply": PurgeReply(FORMAT, 7, [5]),
    "verify_request": VerifyRequest(HEADER, RANGES),
    "verify_reply": VerifyReply(FORMAT, 7, 1, 6),
    "hints_request": HintsRequest(HEADER, "n-2", b"after", 100, [(b"key", ballot(1))]),
    "hints_page": HintsPage(FORMAT, 7, ROWS, True),
    "marks_request": MarksRequest(HEADER, [5]),
    "marks": Marks(FORMAT, 7, [5]),
    "drop_request": DropRequest(HEADER, RANGES),
    "announcement": Announcement(HEADER, b"{}"),
}
"""Each under the name of its decoder in ``twisted_kv.wire``."""

INFO = Info(
    "kvnode",
    FORMAT,
    "c-1",
    "n-1",
    "i-1",
    7,
    "rocksdb",
    3,
    100,
    1_000,
    "0.1.0",
    hints={"n-2": 1},
    marks=2,
    spoiled=True,
    uptime_s=1.5,
    free_bytes=5_000_000,
    sync="always",
    oldest_format=1,
)
KEPT = KeptBackups([Kept("first", 1_000, 7, 3, 100, 400, "/backups/first")])
JOIN = Join("c-1", "n-1")

SEATS = (Seat("n-1", "http://127.0.0.1:1", 2, "east", "i-1", True), Seat("n-2", "http://127.0.0.1:2"))
STATE = State(
    1,
    "c-1",
    7,
    3,
    256,
    members=SEATS,
    change=Change("change-1", "join", SEATS, ("n-1",), True, ("n-3",)),
    pending=(Wish(SEATS[1], True, True, True),),
)

CELLS = {name: Cell(ballot(5), ballot(4), record.encode()) for name, record in RECORDS.items()}

NODE_KEYS: dict[str, Record] = {
    "language": PLAIN,
    "with everything": VALUE,
    "gone": TOMBSTONE,
    **{f"key{number}": Record(Version(ballot(100 + number)), f"value{number}".encode()) for number in range(20)},
}
INCARNATION = "i-00000000000000ff"
HINTED = Hint(NodeId("n-2"), Key(b"language"), ballot(3), 1_000)
FLOORED = (Slot(5), Floor(ballot(50), ballot(40)))
IDENTITY = {"cluster": "c-1", "member": "n-1", "epoch": 7, "open": True}


def lines() -> Iterator[tuple[str, bytes]]:
    """Give everything by a name, and its bytes as this code writes them."""
    for name, message in MESSAGES.items():
        yield f"message {name}", encode(message)
    yield "json info", msgspec.json.encode(INFO)
    yield "json join", msgspec.json.encode(JOIN)
    yield "json backups", msgspec.json.encode(KEPT)
    yield "state", encode_state(STATE)
    for name, record in RECORDS.items():
        yield f"record {name}", record.encode()
    for name, cell in CELLS.items():
        yield f"cell {name}", encode_cell(Key(b"key"), cell)
    yield "frame question", head(7, 0, 3) + b"abc"
    yield "frame answer", head(2**32 - 1, 200, 0)
    yield "link request", request_to_switch(b"/node/v1/link", b"localhost:1", "token")
    yield "link answer", SWITCHED


def write_node(folder: Path) -> None:
    """Make a node's folder that holds some of everything, part of it in tables and the rest in the log.

    It is one of a node that was killed: beside it, in ``living``, is the one that runs on.
    """
    living = folder.with_name("living")

    def opened() -> Disk:
        return Disk(living, "always", "boot-1", lambda: INCARNATION)

    def cell(key: str) -> CellChange:
        record = NODE_KEYS[key].encode()
        place = Key(key.encode())
        return CellChange(slot_of(place), place, Cell(ballot(200), Ballot(record[2:18]), record))

    disk = opened()
    keys = list(NODE_KEYS)
    disk.engine.apply(map(cell, keys[:10]))
    disk.engine.write_note("identity", json.dumps(IDENTITY).encode())
    disk.engine.write_note("state", encode_state(STATE))
    disk.engine.set_floors(dict([FLOORED]))
    disk.close()
    disk = opened()
    disk.engine.apply(map(cell, keys[10:]))
    hints = Hints(disk.engine, Limits())
    hints.keep([HINTED])
    hints.mark([Slot(9)])
    disk.engine.sync()
    shutil.copytree(living, folder)
    disk.close()
