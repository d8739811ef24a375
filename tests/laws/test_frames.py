"""Frames: however the bytes were cut the same comes out, and what cannot be read is known before it is kept."""

from __future__ import annotations

from itertools import pairwise
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_kv.fasthttp.frames import ID_MAX, Frame, Frames, head

BYTES_MAX = 1_000
frames = st.builds(Frame, st.integers(0, ID_MAX), st.integers(0, 2**16 - 1), st.binary(max_size=BYTES_MAX))


def encoded(frame: Frame) -> bytes:
    return head(frame.id, frame.status, len(frame.payload)) + frame.payload


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """Cut bytes at places given as parts of 10,000."""
    at = [0, *sorted(place * len(data) // 10_000 for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(at)]


places = st.lists(st.integers(0, 10_000), max_size=30)


def read(reader: Frames, pieces: list[bytes]) -> list[Frame]:
    return [frame for piece in pieces for frame in reader.feed(piece)]


def test_a_frame_has_the_layout_that_other_versions_expect() -> None:
    assert encoded(Frame(0x01020304, 409, b"abc")) == bytes.fromhex("00000009 01020304 0199") + b"abc"


@given(st.lists(frames, max_size=8), places)
def test_frames_come_out_as_they_went_in_however_they_were_cut(sent: list[Frame], where: list[int]) -> None:
    reader = Frames(BYTES_MAX)
    got = read(reader, cut(b"".join(map(encoded, sent)), where))
    assert got == sent
    assert all(type(frame.payload) is bytes for frame in got)
    assert reader.finished == len(sent)
    assert reader.begun_bytes == 0
    assert reader.fault == ""


@given(st.lists(frames, max_size=3))
def test_frames_come_out_byte_by_byte(sent: list[Frame]) -> None:
    data = b"".join(map(encoded, sent))
    assert read(Frames(BYTES_MAX), [data[at : at + 1] for at in range(len(data))]) == sent


@given(st.binary(max_size=200), places)
def test_any_bytes_give_the_same_frames_and_the_same_fault_however_they_were_cut(data: bytes, where: list[int]) -> None:
    whole, pieces = Frames(BYTES_MAX), Frames(BYTES_MAX)
    assert read(whole, [data]) == read(pieces, cut(data, where))
    assert whole.fault == pieces.fault
    assert whole.begun_bytes == pieces.begun_bytes


too_large = st.integers(6 + BYTES_MAX + 1, 2**32 - 1)
lengths_that_may_not_be = st.builds(pack, st.just(">I"), st.integers(0, 5) | too_large)


@given(lengths_that_may_not_be, st.lists(frames, max_size=3), places)
def test_a_length_that_may_not_be_is_a_fault_and_what_came_before_it_is_given(
    length: bytes, sent: list[Frame], where: list[int]
) -> None:
    reader = Frames(BYTES_MAX)
    data = b"".join(map(encoded, sent)) + length
    got = [frame for piece in cut(data, where) for frame in reader.feed(piece)]
    assert got == sent
    assert reader.fault
    # What follows is neither read nor kept.
    assert reader.feed(encoded(Frame(1, 200, b"after"))) == []
    assert reader.begun_bytes == 0


def test_a_frame_as_large_as_it_may_be_is_read_and_one_byte_more_is_refused_with_its_length() -> None:
    reader = Frames(BYTES_MAX)
    largest = Frame(1, 0, bytes(BYTES_MAX))
    assert reader.feed(encoded(largest)) == [largest]
    assert reader.feed(head(2, 0, BYTES_MAX + 1)[:4]) == []
    assert reader.fault == f"a payload of {BYTES_MAX + 1} bytes is larger than {BYTES_MAX}"


def test_of_a_frame_that_was_begun_is_known_how_much_has_come() -> None:
    reader = Frames(BYTES_MAX)
    reader.feed(head(1, 0, 100)[:3])
    assert reader.begun_bytes == 3
    reader.feed(head(1, 0, 100)[3:] + b"x")
    assert reader.begun_bytes == 11
    reader.feed(bytes(99) + b"xyz")
    assert reader.begun_bytes == 3


@pytest.mark.timeout(60)
def test_a_large_frame_in_bytes_is_not_copied_again_for_each_of_them() -> None:
    """Copied again each time it would be two terabytes, which no machine does in the time that the test has."""
    size = 2_000_000
    reader = Frames(size)
    data = encoded(Frame(7, 0, bytes(size)))
    assert sum(len(reader.feed(data[at : at + 1])) for at in range(len(data))) == 1


@pytest.mark.timeout(60)
def test_a_crowd_of_small_frames_is_not_copied_again_for_each_of_them() -> None:
    count = 400_000
    assert len(Frames(0).feed(encoded(Frame(7, 0, b"")) * count)) == count
