"""Formats stay what they are: what any build since the first golden files has sent or stored is read, and is unchanged.

The files are in ``tests/golden``, one generation of them for each step that a format has grown by.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

import msgspec
import pytest

from tests.golden import samples
from tests.golden.make import generations, read_bytes, unpack_node
from twisted_kv import wire
from twisted_kv.errors import DiskFailed, StateUnusable
from twisted_kv.fasthttp.frames import Frame, Frames
from twisted_kv.hinting import Hints
from twisted_kv.identity import Identity
from twisted_kv.limits import Limits
from twisted_kv.membership import STATE_FORMAT, decode_state
from twisted_kv.names import Key, NodeId
from twisted_kv.register import Cell
from twisted_kv.ring import SLOTS, slot_of
from twisted_kv.storage.marks import MarkFile
from twisted_kv.storage.opening import Disk
from twisted_kv.storage.rows import decode_cell
from twisted_kv.versions import decode_record
from twisted_kv.wire.backups import KeptBackups
from twisted_kv.wire.batches import UNKNOWN_FORMAT
from twisted_kv.wire.header import FORMAT, Header, encode
from twisted_kv.wire.joining import Info, Join

ROOMS = [import_module(f"{wire.__name__}.{found.name}") for found in iter_modules(wire.__path__)]
DECODERS = {
    name.removesuffix("_decoder"): decoder
    for room in ROOMS
    for name, decoder in vars(room).items()
    if name.endswith("_decoder")
}
every_generation = pytest.mark.parametrize("generation", generations())
MAKE = "python -m tests.golden.make writes the formats of today beside the earlier ones"


def grown(old: Any, new: Any) -> bool:
    """Whether what was read is still all there, in its place: lists and maps may have more at their ends."""
    if isinstance(old, list) and isinstance(new, list):
        return len(old) <= len(new) and all(map(grown, old, new))
    if isinstance(old, dict) and isinstance(new, dict):
        return all(key in new and grown(value, new[key]) for key, value in old.items())
    return bool(old == new)


def test_what_this_code_writes_is_the_newest_generation() -> None:
    assert generations(), MAKE
    assert read_bytes(generations()[-1]) == dict(samples.lines()), (
        f"an encoding has changed. Where fields were added at an end, older builds skip them: {MAKE}. Anything else is"
        " a new format and needs another number (wire.header.FORMAT, membership.STATE_FORMAT, versions.RECORD_FORMAT,"
        " frames.PROTOCOL, and for whatever lies in a node's folder the one in storage/marks.py)"
    )


def test_every_message_has_a_sample() -> None:
    assert set(samples.MESSAGES) == set(DECODERS)


@every_generation
def test_every_message_is_read_and_loses_nothing(generation: int) -> None:
    found = read_bytes(generation)
    for name in samples.MESSAGES:
        data = found[f"message {name}"]
        message = DECODERS[name].decode(data)
        assert grown(msgspec.msgpack.decode(data, strict=False), msgspec.msgpack.decode(encode(message))), name
    for name, shape, sample in (
        ("info", Info, samples.INFO),
        ("join", Join, samples.JOIN),
        ("backups", KeptBackups, samples.KEPT),
    ):
        data = found[f"json {name}"]
        assert msgspec.json.decode(data, type=shape) == sample
        assert grown(msgspec.json.decode(data), msgspec.json.decode(msgspec.json.encode(sample)))


@every_generation
def test_older_builds_read_what_this_one_writes(generation: int) -> None:
    """They skip what stands at the end, and find the rest in its place."""
    found, now = read_bytes(generation), dict(samples.lines())
    for name in found:
        if name.startswith("message"):
            assert grown(msgspec.msgpack.decode(found[name]), msgspec.msgpack.decode(now[name])), name
        elif name.startswith(("json", "state")):
            assert grown(msgspec.json.decode(found[name]), msgspec.json.decode(now[name])), name
        else:
            assert now[name].startswith(found[name]) or name.startswith("cell"), name


def lengthened(value: Any) -> Any:
    """Give a message as a later build might send it: with one more field at the end of every list that is a struct."""
    return [*value, "a field of a later build"] if isinstance(value, list) else value


@pytest.mark.parametrize("name", samples.MESSAGES)
def test_fields_of_later_builds_are_skipped(name: str) -> None:
    message, decoder = samples.MESSAGES[name], DECODERS[name]
    parts = msgspec.msgpack.decode(encode(message))
    if isinstance(parts[0], list):
        parts[0] = lengthened(parts[0])  # the header
    assert decoder.decode(msgspec.msgpack.encode(lengthened(parts))) == message


def test_fields_of_later_builds_are_skipped_in_rows_operations_and_answers() -> None:
    parts = msgspec.msgpack.decode(encode(samples.MESSAGES["batch"]))
    parts[1] = [lengthened(op) for op in parts[1]]
    parts[3] = [lengthened(bundle) for bundle in parts[3]]
    assert DECODERS["batch"].decode(msgspec.msgpack.encode(parts)) == samples.MESSAGES["batch"]
    parts = msgspec.msgpack.decode(encode(samples.MESSAGES["batch_reply"]))
    parts[2] = [lengthened(reply) for reply in parts[2]]
    parts[7] = [lengthened(bundle) for bundle in parts[7]]
    assert DECODERS["batch_reply"].decode(msgspec.msgpack.encode(parts)) == samples.MESSAGES["batch_reply"]
    parts = msgspec.msgpack.decode(encode(samples.MESSAGES["page"]))
    parts[2] = [lengthened(row) for row in parts[2]]
    assert DECODERS["page"].decode(msgspec.msgpack.encode(parts)) == samples.MESSAGES["page"]


def test_fields_of_later_builds_are_skipped_in_what_is_json() -> None:
    more = {"from": "a later build"}
    info = msgspec.json.encode({**msgspec.to_builtins(samples.INFO), **more})
    assert msgspec.json.decode(info, type=Info) == samples.INFO
    state = {**msgspec.to_builtins(samples.STATE), **more}
    state["members"] = [{**member, **more} for member in state["members"]]
    assert decode_state(msgspec.json.encode(state)) == samples.STATE


@every_generation
def test_the_state_document_records_cells_and_frames_are_read(generation: int) -> None:
    found = read_bytes(generation)
    assert decode_state(found["state"]) == samples.STATE
    for name, record in samples.RECORDS.items():
        assert decode_record(found[f"record {name}"]) == record
        assert decode_record(found[f"record {name}"] + b"of a later build" * (not record.before)) is not None
        cell = decode_cell(Key(b"key"), found[f"cell {name}"])
        assert (cell.promised, cell.accepted) == (samples.ballot(5), samples.ballot(4))
        assert decode_record(cell.record) == record
    frames = Frames(1_000)
    assert frames.feed(found["frame question"]) == [Frame(7, 0, b"abc")]
    assert frames.feed(found["frame answer"]) == [Frame(2**32 - 1, 200, b"")]


@every_generation
def test_a_nodes_folder_is_opened_without_having_forgotten_anything(generation: int, tmp_path: Path) -> None:
    unpack_node(generation, tmp_path / "node")
    disk = Disk(tmp_path / "node", "always", "another boot", lambda: "i-new")
    engine = disk.engine
    try:
        assert (disk.forgot, disk.incarnation) == ("", samples.INCARNATION)
        for name, record in samples.NODE_KEYS.items():
            key = Key(name.encode())
            cell = engine.get(slot_of(key), key)
            assert cell == Cell(samples.ballot(200), samples.ballot(int.from_bytes(record.version[:8])), cell.record)
            assert decode_record(cell.record) == record
        values = [record for record in samples.NODE_KEYS.values() if record.value is not None]
        assert engine.totals().keys == len(values)
        assert [row.key for row in engine.keys(b"", b"", 100)] == sorted(name.encode() for name in samples.NODE_KEYS)
        assert [due.expires_ms for due in engine.due(2**62, None, 9)] == [samples.VALUE.expires_ms]
        slot, floor = samples.FLOORED
        assert engine.floors(slot, slot) == {slot: floor}
        assert all(engine.inspect(slot_of(Key(name.encode()))).right for name in samples.NODE_KEYS)
        hints = Hints(engine, Limits())
        assert hints.page(NodeId("n-2"), Key(b""), 9) == [samples.HINTED]
        assert hints.marks == {9}
        assert decode_state(engine.read_note("state") or b"") == samples.STATE
        assert len(engine.scan(0, SLOTS - 1, None, 100)) == len(samples.NODE_KEYS)
        engine.verify()
    finally:
        disk.close()


# What is newer than this build is refused, in a sentence with both numbers.


def test_a_state_document_of_a_later_format_is_refused() -> None:
    later = {**msgspec.to_builtins(samples.STATE), "format": STATE_FORMAT + 1}
    with pytest.raises(StateUnusable, match=rf"format {STATE_FORMAT + 1} .* knows {STATE_FORMAT} "):
        decode_state(msgspec.json.encode(later))


def test_a_node_refuses_messages_of_another_format() -> None:
    class Notes:
        def read_note(self, name: str) -> None:
            return None

    node = Identity(Notes(), None, "i-1")  # type: ignore[arg-type]
    refusal = node.refusal(Header(FORMAT + 1, "c-1", "n-1", "i-1", 7), copying=False)
    assert refusal is not None
    assert refusal.refusal == UNKNOWN_FORMAT
    assert refusal.detail == f"format {FORMAT + 1} is not known here, only {FORMAT} is"


@pytest.mark.parametrize(
    ("oldest", "newest", "readable"),
    [(0, 1, True), (1, 1, True), (1, 2, True), (0, 2, False), (2, 3, False), (0, 0, False)],
)
def test_a_proxy_speaks_with_nodes_that_read_its_format(oldest: int, newest: int, readable: bool) -> None:
    info = msgspec.structs.replace(samples.INFO, format=newest, oldest_format=oldest)
    assert info.reads(1) == readable


def test_a_nodes_folder_of_a_later_format_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    unpack_node(generations()[-1], tmp_path / "node")
    place = tmp_path / "node" / "synced"
    data = bytearray(place.read_bytes())
    known = data[0]
    for start in (0, 512):
        data[start] = known + 1
    place.write_bytes(data)
    before = {path.name: path.read_bytes() for path in (tmp_path / "node" / "data").iterdir()}
    with pytest.raises(DiskFailed, match=rf"format {known + 1}.* knows {known}\b") as refused:
        Disk(tmp_path / "node", "always", "boot", lambda: "i-new")
    assert "later one" in refused.value.hint
    assert {path.name: path.read_bytes() for path in (tmp_path / "node" / "data").iterdir()} == before


def test_one_mark_that_is_spoilt_passes_for_no_later_format(tmp_path: Path) -> None:
    unpack_node(generations()[-1], tmp_path / "node")
    place = tmp_path / "node" / "synced"
    data = bytearray(place.read_bytes())
    data[0] = 77
    place.write_bytes(data)
    marks = MarkFile(place)
    assert marks.read() is not None
    marks.close()
