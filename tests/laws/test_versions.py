"""Ballots that only grow, and records whose bytes stay readable."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from twisted_kv.versions import (
    NONE,
    Ballot,
    HybridClock,
    Record,
    Version,
    decode_record,
    is_tombstone,
    record_version,
)

times = st.integers(-(10**6), 2**47)
writers = st.integers(0, 2**64 - 1)
ballots = st.builds(
    lambda time, writer: Ballot(time.to_bytes(8, "big") + writer.to_bytes(8, "big")), st.integers(0, 2**62), writers
)
records = st.builds(
    Record,
    st.binary(min_size=16, max_size=16).map(Version),
    st.none() | st.binary(max_size=300),
    st.binary(max_size=255),
    st.integers(0, 2**64 - 1),
    st.lists(st.binary(min_size=16, max_size=16).map(Version), max_size=9).map(tuple),
)


def ballot_ms(ballot: Ballot) -> int:
    """Milliseconds since 1970 of the clock that drew a ballot: its first 48 bits."""
    return int.from_bytes(ballot[:6], "big")


def clock_of(readings: list[int], writer: int) -> HybridClock:
    """A clock that reads these, then the last of them for ever."""

    def read() -> Iterator[int]:
        yield from readings
        while True:
            yield readings[-1]

    following = read()
    return HybridClock(lambda: next(following), writer)


@given(st.lists(times, min_size=1), writers)
def test_ballots_grow_whatever_wall_time_does(readings: list[int], writer: int) -> None:
    clock = clock_of(readings, writer)
    drawn = [clock.tick() for _ in range(len(readings) + 3)]
    assert drawn == sorted(set(drawn))
    assert drawn[0] > NONE


@given(st.lists(times, min_size=1), writers, st.lists(st.none() | ballots, max_size=10))
def test_ballots_are_above_all_that_the_clock_was_shown(
    readings: list[int], writer: int, shown: list[Ballot | None]
) -> None:
    clock = clock_of(readings, writer)
    highest: bytes = NONE
    for ballot in shown:
        if ballot is not None:
            clock.learn(ballot)
            highest = max(highest, ballot)
        drawn = clock.tick()
        assert drawn > highest
        highest = drawn


def test_ballot_follows_wall_time_where_that_goes_forward() -> None:
    clock = clock_of([1000, 1000, 2000], 7)
    assert [ballot_ms(clock.tick()) for _ in range(3)] == [1000, 1000, 2000]


def test_what_an_older_ballot_shows_does_not_set_a_clock_back() -> None:
    clock = clock_of([1000, 10], 7)
    first = clock.tick()
    clock.learn(NONE)
    assert clock.tick() > first


def test_counter_overflows_into_the_milliseconds() -> None:
    clock = clock_of([1], 7)
    drawn = [clock.tick() for _ in range(2**16 + 1)]
    assert drawn == sorted(drawn)
    assert (ballot_ms(drawn[-2]), ballot_ms(drawn[-1])) == (1, 2)


def test_two_writers_never_draw_the_same_ballot() -> None:
    one, other = clock_of([5], 1), clock_of([5], 2)
    assert not {one.tick() for _ in range(50)} & {other.tick() for _ in range(50)}


def test_bytes_of_a_ballot_stay_as_they_are() -> None:
    clock = clock_of([0x0123456789AB], 0x1122334455667788)
    clock.tick()
    assert clock.tick() == bytes.fromhex("0123456789ab0001 1122334455667788")


@given(records)
def test_record_comes_back_from_its_bytes(record: Record) -> None:
    data = record.encode()
    assert decode_record(data) == record
    assert record_version(data) == record.version
    assert is_tombstone(data) == (record.value is None)


@given(records, st.binary(max_size=20))
def test_bytes_after_a_record_are_skipped(record: Record, more: bytes) -> None:
    # A later format that appends something has to write a count of 0 before it where there are no versions.
    counted = record.encode() + (b"" if record.before else b"\0")
    assert decode_record(counted + more) == record


def test_a_record_without_versions_before_it_takes_no_more_room_than_it_did() -> None:
    assert Record(Version(NONE), b"v").encode() == Record(Version(NONE), b"v", before=()).encode()
    assert len(Record(Version(NONE), b"v", before=(Version(NONE),)).encode()) == len(
        Record(Version(NONE), b"v").encode()
    ) + (1 + 16)


def test_a_list_of_versions_that_is_cut_is_passed_over_and_the_value_is_read() -> None:
    before = (Version(b"1" * 16), Version(b"2" * 16))
    encoded = Record(Version(NONE), b"value", b"type", 7, before).encode()
    for cut in range(1, 2 * 16 + 1):
        assert decode_record(encoded[:-cut]) == Record(Version(NONE), b"value", b"type", 7)


def test_the_count_is_one_byte_so_that_255_versions_are_the_most() -> None:
    most = Record(Version(NONE), b"v", before=(Version(NONE),) * 255)
    assert decode_record(most.encode()) == most
    with pytest.raises(ValueError, match="range"):
        Record(Version(NONE), b"v", before=(Version(NONE),) * 256).encode()


@given(records, st.data())
def test_cut_record_is_refused(record: Record, data: st.DataObject) -> None:
    # What is cut behind the value is another story: see the list of versions above.
    encoded = replace(record, before=()).encode()
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(ValueError, match="a record of"):
        decode_record(encoded[:cut])


@pytest.mark.parametrize("form", [0, 2, 255])
def test_record_of_an_unknown_format_is_refused(form: int) -> None:
    encoded = Record(Version(NONE), b"v").encode()
    with pytest.raises(ValueError, match=f"format {form}, known is 1"):
        decode_record(bytes([form]) + encoded[1:])


def test_flags_not_known_yet_do_not_hide_the_value() -> None:
    encoded = bytearray(Record(Version(NONE), b"v").encode())
    encoded[1] |= 0b1000_0000
    assert decode_record(bytes(encoded)).value == b"v"


def test_empty_value_is_no_tombstone() -> None:
    assert decode_record(Record(Version(NONE), b"").encode()).value == b""
    assert decode_record(Record(Version(NONE), None).encode()).value is None


VERSION = Version(bytes.fromhex("0123456789ab0001 1122334455667788"))
GOLDEN = [
    (
        Record(VERSION, b"Go", b"text/plain", 1_700_000_000_000),
        "01000123456789ab000111223344556677880000018bcfe56800000a00000002746578742f706c61696e476f",
    ),
    (Record(VERSION, None), "01010123456789ab000111223344556677880000000000000000000000000000"),
]


@pytest.mark.parametrize(("record", "golden"), GOLDEN)
def test_bytes_of_a_record_stay_as_they_are(record: Record, golden: str) -> None:
    assert record.encode().hex() == golden
    assert decode_record(bytes.fromhex(golden)) == record
