"""What the rocksdb engine promises beyond the contract of all engines: about closing, crashes and damage."""

from __future__ import annotations

import os
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from rocksdict import Rdict

from tests.contracts.test_engines import (
    EVERYTHING,
    HIGHEST,
    LOWEST,
    ballot,
    change,
    everything,
    floor,
    graves,
    promise,
    recount,
    redigest,
    regrave,
    relist,
    tombstone,
    value,
)
from twisted_kv.digest import EMPTY
from twisted_kv.errors import Damaged, DiskBusy, DiskFailed, DiskFull, KvError
from twisted_kv.names import Key, Slot
from twisted_kv.register import NO_FLOOR, Cell
from twisted_kv.storage.complaints import unopened, unwritten
from twisted_kv.storage.engine import UNREADABLE, Change, Due, Inspection, Place, Totals
from twisted_kv.storage.rocks import RocksEngine
from twisted_kv.storage.rows import NUMBER, SUMS, decode_cell, encode_cell, walk

FOREVER_MS = 10**12


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def engine(folder: Path) -> Iterator[RocksEngine]:
    engine = RocksEngine(folder)
    yield engine
    engine.close()


def copy(folder: Path, target: Path) -> Path:
    """Copy the folder of an engine that may be open: what a crash of its process would leave at this moment."""
    while True:
        files = sorted(folder.iterdir())
        try:
            shutil.copytree(folder, target)
        except shutil.Error:
            pass  # a compaction took files away meanwhile
        else:
            if sorted(folder.iterdir()) == files:
                return target
        shutil.rmtree(target)


def holds(engine: RocksEngine, cells: dict[Place, Cell]) -> None:
    """Check that an engine holds these cells, and that all that is counted and indexed agrees with them."""
    rows = [Change(*place, cell) for place, cell in sorted(cells.items())]
    assert everything(engine) == rows
    assert engine.totals() == recount(rows)
    assert engine.keys(b"", b"", EVERYTHING) == relist(rows)
    expiring = sorted(Due(row.expires_ms, row.key) for row in relist(rows) if row.expires_ms)
    assert engine.due(FOREVER_MS, None, EVERYTHING) == expiring
    digests = redigest(rows)
    assert {slot: digest for slot, digest in enumerate(engine.digests(LOWEST, HIGHEST)) if digest != EMPTY} == {
        slot: digest for slot, digest in digests.items() if digest != EMPTY
    }
    assert graves(engine) == regrave(rows)


STORY: dict[Place, Cell] = {
    (Slot(0), Key(b"a")): value(1, b"text"),
    (Slot(0), Key(b"b")): tombstone(2),
    (Slot(7), Key(b"asked")): promise(3),
    (Slot(65_535), Key(b"\xff" * 1024)): value(4, b"", 77),
}


def tell(engine: RocksEngine) -> None:
    """Write the story in several batches, with values that do not last."""
    engine.apply([change(0, b"a", value(1, b"old", 50)), change(9, b"dropped", value(1, b"", 60))])
    engine.apply(Change(*place, cell) for place, cell in STORY.items())
    engine.drop(Slot(9), Slot(9), 9)
    engine.write_note("identity", b"somebody")
    engine.apply([change(9, b"purged", tombstone(8))])
    engine.set_floors({Slot(9): floor(8, 8), Slot(7): floor(2, 1), Slot(5): floor(9, 9)}, [change(9, b"purged", None)])
    engine.set_floors({Slot(5): NO_FLOOR})
    engine.write_side({b"hint": b"old", b"gone": b"row"})
    engine.write_side({b"hint": b"row", b"gone": None})


def remembers(engine: RocksEngine) -> None:
    """Check that an engine knows of the story what is no cell."""
    assert engine.read_note("identity") == b"somebody"
    assert engine.floors(LOWEST, HIGHEST) == {9: floor(8, 8), 7: floor(2, 1)}
    assert engine.highest == ballot(9)
    assert engine.side(b"", b"\xff", 9) == [(b"hint", b"row")]


# Closing, and crashes.


def test_all_is_there_after_closing_and_opening_again(engine: RocksEngine, folder: Path) -> None:
    tell(engine)
    reached = engine.sequence
    engine.close()

    for _ in range(2):
        again = RocksEngine(folder)
        holds(again, STORY)
        remembers(again)
        assert again.sequence == reached
        again.close()


def test_what_was_synced_is_in_a_copy_taken_while_the_engine_is_open(engine: RocksEngine, folder: Path) -> None:
    tell(engine)
    engine.sync()

    again = RocksEngine(copy(folder, folder.with_name("copy")))
    holds(again, STORY)
    remembers(again)
    assert again.sequence == engine.sequence
    again.close()


def test_after_each_sync_it_is_told_how_far_that_reached(folder: Path) -> None:
    told: list[int] = []
    engine = RocksEngine(folder, told.append)
    engine.apply([change(1, b"a", value(1))])
    engine.sync()
    first = engine.sequence
    engine.apply([change(1, b"b", value(1))])
    assert told == [first]
    engine.sync()
    engine.close()

    assert told == [first, engine_sequence(folder)]
    assert told[1] > first


def engine_sequence(folder: Path) -> int:
    engine = RocksEngine(folder)
    sequence = engine.sequence
    engine.close()
    return sequence


def aged(folder: Path) -> int:
    """Cut the rows of a folder to what older versions wrote, and say which sequence number that reaches."""
    engine = RocksEngine(folder)
    for row, kept in list(walk(engine._meta, b"d", b"e")):
        engine._meta[row] = kept[:8]
    engine._meta[b"t"] = engine._meta[b"t"][:16]
    reached = engine.sequence
    engine.close()
    return reached


def test_a_folder_of_an_older_version_opens_with_its_highest_ballot_and_with_no_graves(
    engine: RocksEngine, folder: Path
) -> None:
    rows = [change(1, b"gone", tombstone(5)), change(1, b"here", value(3)), change(2, b"asked", promise(7))]
    engine.apply([*rows, change(3, b"damaged", value(6))])
    engine._data[b"\0\3damaged"] = b""
    totals, digests = engine.totals(), engine.digests(LOWEST, HIGHEST)
    engine.close()
    reached = aged(folder)

    again = RocksEngine(folder)

    # To write here would hide from opening.py how much was recovered.
    assert again.sequence == reached
    assert (again.totals(), again.digests(LOWEST, HIGHEST)) == (totals, digests)
    assert again.highest == ballot(7)
    assert graves(again) == {}
    again.apply([change(1, b"gone", value(6)), change(2, b"asked", None), change(1, b"here", tombstone(8))])
    again.close()
    once_more = RocksEngine(folder)
    assert once_more.highest == ballot(8)
    assert graves(once_more) == {1: 1}
    once_more.close()


def test_a_folder_of_an_older_version_gets_a_side_table(engine: RocksEngine, folder: Path) -> None:
    tell(engine)
    engine._hints.close()
    del engine._hints, engine._to_hints
    engine._db.drop_column_family("hints")
    engine._hints, engine._to_hints = engine._meta, engine._to_meta
    engine.close()
    assert "hints" not in Rdict.list_cf(str(folder))

    again = RocksEngine(folder)
    assert again.side(b"", b"\xff", 9) == []
    again.write_side({b"hint": b"row"})
    again.close()
    once_more = RocksEngine(folder)
    holds(once_more, STORY)
    remembers(once_more)
    once_more.close()


def test_what_was_recovered_from_the_log_is_written_out_before_it_is_shown(engine: RocksEngine, folder: Path) -> None:
    tell(engine)
    crashed = copy(folder, folder.with_name("copy"))
    written = [log.name for log in logs(crashed)]

    again = RocksEngine(crashed)

    # A power cut now must not take what the log held: it was not synced when it was read.
    assert tables(crashed)
    assert not {log.name for log in logs(crashed)} & set(written)
    assert all(log.stat().st_size == 0 for log in logs(crashed))
    holds(again, STORY)
    again.close()


def test_a_log_that_ends_in_the_middle_of_a_batch_opens_without_that_batch(engine: RocksEngine, folder: Path) -> None:
    engine.apply([change(1, b"kept", value(1))])
    engine.sync()
    reached = engine.sequence
    engine.set_floors(
        {Slot(1): floor(3, 3)}, [change(1, b"torn", value(2, b"x" * 1000)), change(2, b"torn too", tombstone(2))]
    )
    crashed = copy(folder, folder.with_name("copy"))
    (log,) = logs(crashed)
    cut(log, log.stat().st_size - 7)

    again = RocksEngine(crashed)

    holds(again, {(Slot(1), Key(b"kept")): value(1)})
    assert (again.sequence, again.highest, again.floors(LOWEST, HIGHEST)) == (reached, ballot(1), {})
    again.close()


def test_a_locked_folder_is_refused_in_a_plain_sentence(engine: RocksEngine, folder: Path) -> None:
    with pytest.raises(DiskFailed, match="another process has the node's data open") as caught:
        RocksEngine(folder)

    assert "--data-dir" in caught.value.hint


@pytest.mark.parametrize(
    ("sentence", "kind", "says"),
    [
        (
            "IO error: While lock file: /d/LOCK: Resource temporarily unavailable",
            DiskFailed,
            "another process has the node's data open",
        ),
        ("IO error: While pread offset 0 len 9: /blocks/000012.sst: Input/output error", DiskFailed, "Input/output"),
        ("Corruption: block checksum mismatch: stored = 1, computed = 2", Damaged, "block checksum"),
        ("IO error: /d/MANIFEST-000005 may be corrupted", Damaged, "MANIFEST"),
    ],
)
def test_why_a_folder_does_not_open_is_told_apart(sentence: str, kind: type[KvError], says: str) -> None:
    error = unopened(Exception(sentence))

    assert type(error) is kind
    assert says in error.detail


# Damage.


def logs(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.log"))


def tables(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.sst"))


def cut(file: Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


def flip(files: list[Path], text: bytes) -> None:
    """Flip a bit in the only file that holds this text."""
    (file,) = (file for file in files if text in file.read_bytes())
    data = bytearray(file.read_bytes())
    data[data.index(text) + len(text) // 2] ^= 1
    file.write_bytes(data)


def written_out(folder: Path, *cells: Cell) -> None:
    """Leave a folder whose tables hold these cells under key0 in slot 0, key1 in slot 1, and so on."""
    engine = RocksEngine(folder)
    engine.apply(change(number, b"key%d" % number, cell) for number, cell in enumerate(cells))
    engine.close()
    RocksEngine(folder).close()
    assert tables(folder)


@pytest.fixture
def noise() -> bytes:
    """Bytes that no table compresses."""
    return Random(1).randbytes(4_000)


GARBLED: dict[str, Callable[[bytes], bytes]] = {
    "a flipped bit of the value": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "a flipped bit of the promise": lambda data: data[:6] + bytes([data[6] ^ 1]) + data[7:],
    "a flipped bit of the accepted ballot": lambda data: data[:30] + bytes([data[30] ^ 1]) + data[31:],
    "a flipped bit of the checksum": lambda data: data[:1] + bytes([data[1] ^ 1]) + data[2:],
    "an unknown format": lambda data: b"\x02" + data[1:],
    "a cut value": lambda data: data[:-1],
    "a cut head": lambda data: data[:36],
    "nothing": lambda data: b"",
}


def test_a_cell_is_read_as_it_was_encoded_and_under_its_own_key_only() -> None:
    cell = value(3, b"text", 9)

    assert decode_cell(Key(b"key"), encode_cell(Key(b"key"), cell)) == cell
    with pytest.raises(Damaged):
        decode_cell(Key(b"other"), encode_cell(Key(b"key"), cell))


@pytest.mark.parametrize("garble", GARBLED.values(), ids=GARBLED)
def test_a_damaged_cell_is_neither_shown_nor_replaced_and_the_others_go_on(
    engine: RocksEngine, garble: Callable[[bytes], bytes]
) -> None:
    engine.apply(change(1, key, value(1, b"text")) for key in (b"a", b"b", b"c"))
    engine._data[b"\x00\x01b"] = garble(encode_cell(Key(b"b"), value(1, b"text")))
    engine._recent.clear()
    before = engine.totals()

    with pytest.raises(Damaged, match="b'b'"):
        engine.get(Slot(1), Key(b"b"))
    for cell in (value(2), None):
        with pytest.raises(Damaged):
            engine.apply([change(1, b"a", value(2)), change(1, b"b", cell)])
    with pytest.raises(Damaged):
        engine.set_floors({Slot(1): floor(9, 9)}, [change(1, b"b", None)])
    assert engine.floor(Slot(1)) == NO_FLOOR
    with pytest.raises(Damaged):
        engine.verify()
    shown = everything(engine)

    assert [key for _, key, _ in shown] == [b"a", b"b", b"c"]
    assert [cell is UNREADABLE for _, _, cell in shown] == [False, True, False]
    assert engine.totals() == before
    engine.apply([change(1, b"c", value(2, b"new"))])
    assert (engine.get(Slot(1), Key(b"a")), engine.get(Slot(1), Key(b"c"))) == (value(1, b"text"), value(2, b"new"))


@pytest.mark.parametrize("garble", GARBLED.values(), ids=GARBLED)
def test_a_damaged_cell_that_is_remembered_is_given_and_can_be_replaced(
    engine: RocksEngine, garble: Callable[[bytes], bytes]
) -> None:
    engine.apply(change(1, key, value(1, b"text")) for key in (b"a", b"b"))
    engine._data[b"\x00\x01b"] = garble(encode_cell(Key(b"b"), value(1, b"text")))
    assert engine.get(Slot(1), Key(b"b")) == value(1, b"text")
    assert not engine.inspect(Slot(1)).right, "it is still for the scrub to find"

    engine.apply([change(1, b"b", value(2, b"new"))])
    engine.verify()
    assert engine.inspect(Slot(1)) == Inspection(2, [], True)
    assert engine.totals() == recount(everything(engine))


@pytest.mark.parametrize("garble", GARBLED.values(), ids=GARBLED)
def test_a_drop_forgets_a_damaged_cell_like_all_the_rest(engine: RocksEngine, garble: Callable[[bytes], bytes]) -> None:
    cell = value(1, b"text", 30)
    engine.apply([*(change(1, key, cell) for key in (b"a", b"b", b"c")), change(2, b"stays", cell)])
    engine._data[b"\x00\x01b"] = garble(encode_cell(Key(b"b"), cell))

    assert engine.drop(Slot(0), Slot(1), 2) == 2
    assert engine.drop(Slot(0), Slot(1), 2) < 2

    assert everything(engine) == [change(2, b"stays", cell)]
    assert engine.totals().keys == 1
    assert engine.keys(b"", b"", 9) == relist(everything(engine))
    assert engine.due(99, None, 9) == [(30, b"stays")]
    assert list(engine.digests(Slot(0), Slot(1))) == [EMPTY, EMPTY]


SAME_LENGTH = [name for name in GARBLED if not name.startswith(("a cut", "nothing"))]


@pytest.mark.parametrize("name", GARBLED)
@pytest.mark.parametrize(
    "old", [value(1, b"text", 30), tombstone(1), promise(1)], ids=["value", "tombstone", "promise"]
)
@pytest.mark.parametrize("new", [None, value(6, b"new", 40), tombstone(6), promise(6)])
def test_a_damaged_cell_can_be_replaced_or_removed(
    engine: RocksEngine, folder: Path, name: str, old: Cell, new: Cell | None
) -> None:
    others = {(Slot(1), Key(b"a")): tombstone(2), (Slot(1), Key(b"c")): value(2, b"", 9), (Slot(2), Key(b"d")): old}
    engine.apply([*(Change(*place, cell) for place, cell in others.items()), change(1, b"b", old)])
    engine._data[b"\x00\x01b"] = GARBLED[name](encode_cell(Key(b"b"), old))

    engine.replace_damaged(Slot(1), Key(b"b"), new)

    cells = others | ({(Slot(1), Key(b"b")): new} if new is not None else {})
    if name in SAME_LENGTH:
        holds(engine, cells)
    assert engine.get(Slot(1), Key(b"b")) == new
    assert engine.inspect(Slot(1)) == Inspection(2 + (new is not None), [], True)
    assert engine.totals().keys == recount(everything(engine)).keys
    assert engine.keys(b"", b"", 9) == relist(everything(engine))
    assert engine.highest == ballot(2 if new is None else 6)
    reached = engine.totals(), engine.highest
    engine.close()
    again = RocksEngine(folder)
    assert again.inspect(Slot(1)).right
    assert (again.totals(), again.highest) == reached
    again.close()


def test_other_damaged_cells_of_the_slot_count_nothing_when_one_is_replaced(engine: RocksEngine) -> None:
    engine.apply(change(1, key, tombstone(1)) for key in (b"a", b"b", b"c"))
    for key in (b"a", b"b"):
        engine._data[b"\x00\x01" + key] = GARBLED["a flipped bit of the checksum"](encode_cell(Key(key), tombstone(1)))

    engine.replace_damaged(Slot(1), Key(b"a"), value(2))

    read = [change(1, b"a", value(2)), change(1, b"c", tombstone(1))]
    assert list(engine.digests(Slot(1), Slot(1))) == [redigest(read)[Slot(1)]]
    assert graves(engine) == {1: 1}
    assert engine.inspect(Slot(1)) == Inspection(3, [Key(b"b")], True)


def test_an_inspection_names_damaged_cells_and_a_mended_digest_leaves_them_out(
    engine: RocksEngine, folder: Path
) -> None:
    engine.apply(change(1, key, tombstone(number)) for number, key in enumerate((b"a", b"b", b"c"), 1))
    engine.apply([change(2, b"d", value(4))])
    for key in (b"c", b"a"):
        engine._data[b"\x00\x01" + key] = b"damaged"
    totals = engine.totals()

    assert engine.inspect(Slot(1)) == Inspection(3, [Key(b"a"), Key(b"c")], False)
    assert engine.inspect(Slot(2)) == Inspection(1, [], True)
    engine.mend_digest(Slot(1))

    assert engine.inspect(Slot(1)) == Inspection(3, [Key(b"a"), Key(b"c")], True)
    assert engine.totals() == totals
    engine.close()
    again = RocksEngine(folder)
    assert list(again.digests(Slot(1), Slot(1))) == [redigest([change(1, b"b", tombstone(2))])[Slot(1)]]
    assert graves(again) == {1: 1}
    assert again.highest == ballot(4)
    again.close()


@pytest.mark.parametrize(
    "kept",
    [
        lambda digest, graves: SUMS.pack(digest ^ 1, graves),
        lambda digest, graves: SUMS.pack(digest, graves + 1),
        lambda digest, graves: NUMBER.pack(digest),
    ],
    ids=["another digest", "one grave too many", "the row of an older version"],
)
def test_an_inspection_notices_that_what_is_kept_is_wrong(
    engine: RocksEngine, folder: Path, kept: Callable[[int, int], bytes]
) -> None:
    rows = [change(1, b"a", tombstone(1)), change(1, b"b", value(1))]
    engine.apply(rows)
    engine._meta[b"d\x00\x01"] = kept(redigest(rows)[Slot(1)], 1)
    engine.close()
    again = RocksEngine(folder)

    assert again.inspect(Slot(1)) == Inspection(2, [], False)
    again.mend_digest(Slot(1))

    assert again.inspect(Slot(1)) == Inspection(2, [], True)
    holds(again, {(slot, key): cell for slot, key, cell in rows})
    again.close()


def test_a_slot_of_which_part_cannot_be_read_at_all_is_neither_inspected_nor_mended(folder: Path, noise: bytes) -> None:
    written_out(folder, value(1, noise[:2000]), value(1, noise[2000:]))
    flip(tables(folder), noise[2500:2600])
    engine = RocksEngine(folder)
    before = engine.totals(), list(engine.digests(LOWEST, HIGHEST))

    with pytest.raises(Damaged):
        engine.inspect(Slot(1))
    with pytest.raises(Damaged):
        engine.mend_digest(Slot(1))
    for cell in (value(2), None):
        with pytest.raises(Damaged):
            engine.replace_damaged(Slot(1), Key(b"key1"), cell)

    assert (engine.totals(), list(engine.digests(LOWEST, HIGHEST))) == before
    engine.close()


@pytest.mark.parametrize("cell", [value(1, b"text"), tombstone(1), promise(1)])
def test_a_dropped_cell_that_is_damaged_is_a_grave_no_longer(engine: RocksEngine, cell: Cell) -> None:
    engine.apply([change(1, b"a", cell), *(change(1, key, tombstone(1)) for key in (b"b", b"c"))])
    engine._data[b"\x00\x01a"] = b"damaged"

    assert engine.drop(Slot(1), Slot(1), 1) == 1
    assert graves(engine) == {1: 2}
    assert engine.drop(Slot(1), Slot(1), 9) == 2
    assert graves(engine) == {}


def test_a_flipped_bit_in_a_table_is_noticed_whoever_reads_it(folder: Path, noise: bytes) -> None:
    written_out(folder, value(1, noise[:2000]), value(1, noise[2000:]))
    flip(tables(folder), noise[2500:2600])
    engine = RocksEngine(folder)

    with pytest.raises(Damaged):
        engine.get(Slot(1), Key(b"key1"))
    with pytest.raises(Damaged):
        everything(engine)
    with pytest.raises(Damaged):
        engine.verify()
    engine.close()


def test_a_flipped_bit_in_an_index_is_found_by_a_verification(engine: RocksEngine, folder: Path, noise: bytes) -> None:
    engine.apply([change(1, noise[:1000], value(1, noise[1000:]))])
    engine.close()
    RocksEngine(folder).close()
    flip([table for table in tables(folder) if noise[1000:] not in table.read_bytes()], noise[:1000])
    again = RocksEngine(folder)

    with pytest.raises(Damaged):
        again.verify()
    with pytest.raises(Damaged):
        again.keys(b"", b"", 9)
    again.close()


def test_a_flipped_bit_in_the_side_table_is_noticed_at_the_start_where_the_folder_can_be_set_aside(
    engine: RocksEngine, folder: Path, noise: bytes
) -> None:
    engine.write_side({b"hint": noise})
    engine.close()
    RocksEngine(folder).close()
    flip(tables(folder), noise[:100])

    with pytest.raises(Damaged):
        RocksEngine(folder)


def test_an_engine_that_is_whole_verifies(folder: Path, noise: bytes) -> None:
    written_out(folder, value(1, noise), tombstone(2), promise(3))
    engine = RocksEngine(folder)
    engine.apply([change(1, b"in the log", value(1))])

    engine.verify()

    engine.close()


def test_a_flipped_bit_in_the_notes_is_noticed_at_the_start_and_leaves_the_folder_unlocked(
    engine: RocksEngine, folder: Path, noise: bytes
) -> None:
    engine.apply([change(1, b"key", value(1))])
    engine.write_note("state", noise)
    engine.close()
    RocksEngine(folder).close()
    flip(tables(folder), noise[:100])

    with pytest.raises(Damaged) as first:
        RocksEngine(folder)
    with pytest.raises(Damaged) as second:
        RocksEngine(folder)

    # The first error is still held, with all that its traceback holds.
    assert first.value is not second.value


def test_a_folder_can_be_opened_again_while_the_error_of_a_verification_is_held(folder: Path, noise: bytes) -> None:
    written_out(folder, value(1, noise))
    flip(tables(folder), noise[:100])
    engine = RocksEngine(folder)

    with pytest.raises(Damaged) as caught:
        engine.verify()
    engine.close()
    RocksEngine(folder).close()

    assert "checksum" in caught.value.detail


def test_a_flipped_bit_in_the_middle_of_the_log_stops_the_start(
    engine: RocksEngine, folder: Path, noise: bytes
) -> None:
    for number in range(100):
        engine.apply([change(number, b"key%d" % number, value(1, noise[number * 40 : number * 40 + 40] * 30))])
    engine.sync()
    crashed = copy(folder, folder.with_name("copy"))
    flip(logs(crashed), noise[1200:1240] * 30)

    with pytest.raises(Damaged):
        RocksEngine(crashed)


@pytest.mark.parametrize("left", [None, 0, 100, -1])
def test_an_older_log_that_has_lost_its_end_stops_the_start_though_a_newer_one_is_whole(
    engine: RocksEngine, folder: Path, left: int | None
) -> None:
    tell(engine)
    engine.apply([change(3, b"large", value(5, bytes(10_000)))])
    engine.sync()
    # Writing out one column family alone begins another log, and the others still need the one before it.
    engine._meta.flush()
    engine.apply([change(4, b"newer", value(6))])
    engine.sync()
    crashed = copy(folder, folder.parent / "crashed")
    older, newer = sorted(crashed.glob("*.log"))
    assert newer.stat().st_size
    if left is None:
        older.unlink()
    else:
        os.truncate(older, left % older.stat().st_size)
    with pytest.raises(Damaged):
        RocksEngine(crashed)


def test_a_flipped_bit_in_the_manifest_stops_the_start(folder: Path) -> None:
    written_out(folder, value(1))
    (manifest,) = folder.glob("MANIFEST-*")
    flip([manifest], b"leveldb.BytewiseComparator")

    with pytest.raises(Damaged):
        RocksEngine(folder)


def test_a_missing_table_stops_the_start(folder: Path) -> None:
    written_out(folder, value(1))
    tables(folder)[0].unlink()

    with pytest.raises(KvError):
        RocksEngine(folder)


# Writes that fail.


def test_a_write_that_would_wait_for_the_disk_is_refused_at_once_and_changes_nothing(engine: RocksEngine) -> None:
    # Two memtables of one value each: writing is faster than writing them out.
    engine._data.set_options({"write_buffer_size": "65536", "max_write_buffer_number": "2"})
    cells: dict[Place, Cell] = {}
    refused = 0
    for number in range(2_000):
        row = change(1, b"%d" % number, value(1, b"x" * 100_000))
        before = engine.sequence, engine.totals()
        try:
            engine.apply([row])
        except DiskBusy:
            refused += 1
            assert (engine.sequence, engine.totals()) == before
            assert engine.get(Slot(1), row.key) is None
        else:
            cells[row.slot, row.key] = row.cell
        if refused and len(cells) > 4:
            break

    assert refused
    holds(engine, cells)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let every write fail that would make a file larger."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_after_a_failed_write_nothing_is_confirmed_and_closing_works(engine: RocksEngine, folder: Path) -> None:
    told: list[int] = []
    engine._synced = told.append
    engine.apply([change(1, b"kept", value(1))])
    engine.sync()
    safe = list(told)

    with files_of_at_most(100_000), pytest.raises(DiskFailed, match="File too large"):
        engine.write_side({b"small": b"", b"lost": bytes(500_000)})
    assert engine.side(b"", b"\xff", 9) == []
    with files_of_at_most(100_000), pytest.raises(DiskFailed):
        engine.set_floors(
            {Slot(1): floor(3, 3)}, [change(1, b"lost", value(2, b"x" * 500_000)), change(1, b"gone", tombstone(2))]
        )
    assert engine.get(Slot(1), Key(b"lost")) is None
    assert (engine.highest, engine.floor(Slot(1)), graves(engine)) == (ballot(1), NO_FLOOR, {})
    assert engine.totals() == recount([change(1, b"kept", value(1))])
    with pytest.raises(DiskFailed):
        engine.sync()
    assert told == safe
    engine.close()

    again = RocksEngine(folder)
    holds(again, {(Slot(1), Key(b"kept")): value(1)})
    again.close()


@pytest.mark.parametrize(
    ("sentence", "kind"),
    [
        ("Operation incomplete: Write stall", DiskBusy),
        (
            "IO error: No space left on device: While appending to file: /d/000004.log: No space left on device",
            DiskFull,
        ),
        ("IO error: While appending to file: /d/000004.log: Input/output error", DiskFailed),
        ("IO error: Writer has previous error.", DiskFailed),
        ("Corruption: anything at all", DiskFailed),
    ],
)
def test_the_reasons_of_failed_writes_are_told_apart(sentence: str, kind: type[KvError]) -> None:
    assert type(unwritten(Exception(sentence))) is kind


# Any sequence of changes, with ends of both kinds between them.


@pytest.mark.parametrize("seed", range(6))
def test_cells_indexes_totals_and_digests_agree_whatever_happened(tmp_path: Path, seed: int) -> None:
    random = Random(seed)
    places = [(Slot(slot), Key(b"%d-%d" % (slot, number))) for slot in (0, 1, 2, 40_000) for number in range(12)]
    cells: dict[Place, Cell] = {}
    folder = tmp_path / "0"
    engine = RocksEngine(folder)
    for step in range(60):
        dice = random.random()
        if dice < 0.6:
            batch = [
                Change(*random.choice(places), any_cell(random) if random.random() < 0.8 else None)
                for _ in range(random.randint(1, 15))
            ]
            engine.apply(batch)
            for slot, key, cell in batch:
                if cell is None:
                    cells.pop((slot, key), None)
                else:
                    cells[slot, key] = cell
        elif dice < 0.8:
            first, last = sorted(random.choices([0, 1, 2, 40_000], k=2))
            limit = random.randint(1, 9)
            within = sorted(place for place in cells if first <= place[0] <= last)
            assert engine.drop(Slot(first), Slot(last), limit) == min(len(within), limit)
            for place in within[:limit]:
                del cells[place]
        elif dice < 0.9:
            engine.close()
            engine = RocksEngine(folder)
        else:
            crashed = copy(folder, tmp_path / str(step + 1))
            engine.close()
            folder, engine = crashed, RocksEngine(crashed)
        holds(engine, cells)
    engine.verify()
    engine.drop(LOWEST, HIGHEST, EVERYTHING)
    assert engine.totals() == Totals(0, 0)
    holds(engine, {})
    engine.close()


def any_cell(random: Random) -> Cell:
    number = random.randint(1, 9)
    return random.choice(
        [value(number), value(number, b"x" * number, random.choice([5, 7])), tombstone(number), promise(number)]
    )
