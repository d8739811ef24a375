"""Bytes on the wire: they come back as they went, stay readable, and wrong ones are refused in time."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from twisted_kv.bodies import checked_key, checked_value, parse_json
from twisted_kv.errors import MalformedBody, MalformedKey, ValueTooLarge
from twisted_kv.limits import Limits
from twisted_kv.register import ACCEPT, FETCH, Op, Reply
from twisted_kv.ring import SLOTS
from twisted_kv.versions import Ballot, Record, Version
from twisted_kv.wire.batches import Batch, BatchReply, Bundle, BundleReply, batch_decoder, batch_reply_decoder
from twisted_kv.wire.header import FORMAT, Header, encode
from twisted_kv.wire.joining import Join
from twisted_kv.wire.pages import Page, Row, page_decoder

LIMITS = Limits()
ballots = st.binary(min_size=16, max_size=16)
small = st.integers(0, 2**31)
headers = st.builds(Header, small, st.text(), st.text(), st.text(), small, st.booleans(), small)
ops = st.builds(Op, st.integers(0, 3), st.binary(max_size=50), ballots, st.binary(max_size=50))
replies = st.builds(Reply, st.booleans(), ballots, ballots, st.binary(max_size=50))
batches = st.builds(Batch, headers, st.lists(ops), st.booleans())
batch_replies = st.builds(BatchReply, small, small, st.lists(replies), st.text(), st.text(), st.binary())
pages = st.builds(
    Page,
    small,
    small,
    st.lists(st.builds(Row, st.binary(min_size=1), ballots, st.binary(), ballots)),
    st.none() | st.tuples(st.integers(0, SLOTS - 1), st.binary()),
)


@given(batches)
def test_batch_comes_back_from_its_bytes(batch: Batch) -> None:
    assert batch_decoder.decode(encode(batch)) == batch


@given(batch_replies)
def test_answer_to_a_batch_comes_back_from_its_bytes(reply: BatchReply) -> None:
    assert batch_reply_decoder.decode(encode(reply)) == reply


@given(pages)
def test_page_comes_back_from_its_bytes(page: Page) -> None:
    assert page_decoder.decode(encode(page)) == page


def grown(message: object, by: list[Any]) -> object:
    """A message as a later version may write it: fields more at the end of every struct in it."""
    if isinstance(message, msgspec.Struct):
        return [*(grown(getattr(message, name), by) for name in message.__struct_fields__), *by]
    return [grown(part, by) for part in message] if isinstance(message, list) else message


trailing = st.lists(
    st.recursive(st.none() | st.integers(-1, 9) | st.binary() | st.text(), lambda inner: st.lists(inner, max_size=3)),
    min_size=1,
    max_size=3,
)


@given(batches, trailing)
def test_fields_that_later_versions_append_to_a_batch_are_skipped(batch: Batch, more: list[Any]) -> None:
    assert batch_decoder.decode(encode(grown(batch, more))) == batch


@given(batch_replies, trailing)
def test_fields_that_later_versions_append_to_an_answer_are_skipped(reply: BatchReply, more: list[Any]) -> None:
    assert batch_reply_decoder.decode(encode(grown(reply, more))) == reply


@given(batches, st.data())
def test_cut_batch_is_refused(batch: Batch, data: st.DataObject) -> None:
    encoded = encode(batch)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(msgspec.DecodeError):
        batch_decoder.decode(encoded[:cut])


@given(st.binary(max_size=200))
def test_random_bytes_are_decoded_or_refused_and_never_crash_the_decoder(data: bytes) -> None:
    try:
        batch_decoder.decode(data)
    except msgspec.DecodeError:
        pass


BALLOT = Ballot(bytes.fromhex("0123456789ab0001 1122334455667788"))
HEADER = Header(FORMAT, "cluster", "n-1", "life", 7, True, 4000)
GOLDEN_BATCH = Batch(
    HEADER,
    [Op(ACCEPT, b"language", BALLOT, Record(Version(BALLOT), b"Go").encode()), Op(FETCH, b"language")],
    bundles=[Bundle(ACCEPT, [b"language"], [Record(Version(BALLOT), b"Go").encode()])],
)
GOLDEN_REPLY = BatchReply(
    FORMAT,
    7,
    [Reply(True, BALLOT, BALLOT), Reply(False, bytes(16), BALLOT)],
    bundles=[BundleReply([BALLOT], [b""])],
)


def test_bytes_of_a_batch_stay_as_they_are() -> None:
    golden = bytes.fromhex(
        "949701a7636c7573746572a36e2d31a46c69666507c3cd0fa0929403c4086c616e6775616765c4100123456789ab0001"
        "1122334455667788c42201000123456789ab000111223344556677880000000000000000000000000002476f9401c408"
        "6c616e6775616765c41000000000000000000000000000000000c400c29193"
        "03"
        "91c4086c616e6775616765"
        "91c42201000123456789ab000111223344556677880000000000000000000000000002476f"
    )
    named = b"\x95" + golden[1:] + b"\x80"  # as much as nothing: none of its operations has a name
    assert encode(GOLDEN_BATCH).hex() == named.hex()
    assert batch_decoder.decode(golden) == batch_decoder.decode(named) == GOLDEN_BATCH


def test_bytes_of_an_answer_stay_as_they_are() -> None:
    golden = bytes.fromhex(
        "9801079295c3c4100123456789ab00011122334455667788c4100123456789ab00011122334455667788c400a095c2c4"
        "1000000000000000000000000000000000c4100123456789ab00011122334455667788c400a0a0a0c400c0"
        "9193"
        "91c4100123456789ab00011122334455667788"
        "91c400"
        "80"
    )
    assert encode(GOLDEN_REPLY).hex() == golden.hex()
    assert batch_reply_decoder.decode(golden) == GOLDEN_REPLY


def test_answer_of_a_node_before_abstentions_is_read() -> None:
    older = bytes.fromhex(
        "9601079294c3c4100123456789ab00011122334455667788c4100123456789ab00011122334455667788c40094c2c410"
        "00000000000000000000000000000000c4100123456789ab00011122334455667788c400a0a0c400"
    )
    assert batch_reply_decoder.decode(older) == replace(GOLDEN_REPLY, bundles=[])


def test_batch_of_the_first_version_with_its_required_fields_alone_is_read() -> None:
    short = encode([[FORMAT, "cluster", "n-1", "life", 7], [[FETCH, b"k"]]])
    assert batch_decoder.decode(short) == Batch(Header(FORMAT, "cluster", "n-1", "life", 7), [Op(FETCH, b"k")])


class Body(msgspec.Struct):
    key: str
    weight: int = 1


def test_json_of_a_known_shape_is_read_and_unknown_fields_are_ignored() -> None:
    assert parse_json(b'{"key": "k", "more": [1, {"a": null}]}', Body) == Body("k")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"{", id="cut"),
        pytest.param(b'{"key": "k"} x', id="trailing data"),
        pytest.param(b'{"key": "k"}{"key": "k"}', id="two bodies"),
        pytest.param(b'{"key": 1}', id="wrong type"),
        pytest.param(b'{"weight": 1}', id="missing field"),
        pytest.param(b"[]", id="wrong shape"),
        pytest.param(b"null", id="null"),
        pytest.param(b'{"key": "\\ud800"}', id="lone surrogate"),
        pytest.param(b'{"key": "\xed\xa0\x80"}', id="surrogate as bytes"),
        pytest.param(b'{"key": "\xff"}', id="no UTF-8"),
        pytest.param(b'{"key": "k", "weight": NaN}', id="NaN"),
        pytest.param(b'{"key": "k", "weight": 1e400}', id="endless number"),
        pytest.param(b'{"key": "k", "weight": ' + b"9" * 100_000 + b"}", id="a hundred thousand digits"),
        pytest.param(b'{"key": ' + b"[" * 100_000, id="deep arrays"),
        pytest.param(
            b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b', "key": "k"}', id="deep arrays in what is ignored"
        ),
        pytest.param(b'{"x": ' + b'{"x": ' * 100_000, id="deep objects in what is ignored"),
        pytest.param(b"[" * 100_000, id="nothing but brackets"),
    ],
)
def test_json_that_does_not_belong_here_is_a_malformed_body(data: bytes) -> None:
    with pytest.raises(MalformedBody) as caught:
        parse_json(data, Body)
    assert caught.value.hint
    assert len(caught.value.detail) < 300


@given(st.binary(max_size=100))
def test_any_bytes_are_read_as_json_or_refused(data: bytes) -> None:
    try:
        parse_json(data, Join)
    except MalformedBody:
        pass


@pytest.mark.parametrize("length", [1, LIMITS.key_bytes_max])
def test_key_within_its_bounds_is_taken_as_it_is(length: int) -> None:
    key = b"\xff" * length
    assert checked_key(key, LIMITS) == key


@pytest.mark.parametrize("length", [0, LIMITS.key_bytes_max + 1])
def test_key_beyond_its_bounds_is_refused_with_the_bounds(length: int) -> None:
    with pytest.raises(MalformedKey, match=f"{length} bytes") as caught:
        checked_key(b"k" * length, LIMITS)
    assert "1 to 1024" in caught.value.hint


@pytest.mark.parametrize("length", [0, 10])
def test_value_within_its_bound_is_taken_as_it_is(length: int) -> None:
    value = b"v" * length
    assert checked_value(value, Limits(value_bytes_max=10)) == value


def test_value_beyond_its_bound_is_refused_with_the_bound() -> None:
    with pytest.raises(ValueTooLarge, match="11 bytes, the most is 10"):
        checked_value(b"v" * 11, Limits(value_bytes_max=10))
