"""Fields that are remembered are what a head's judge reads in them."""

from __future__ import annotations

import random

import pytest

from twisted_kv.errors import BadInput, HeadTooLarge, MalformedRequest
from twisted_kv.fasthttp.heads import REMEMBERED_BYTES_MAX, REMEMBERED_MAX, Remembered, read_head

HOST = b"Host: here\r\n"
LINES = (
    HOST,
    b"Accept: */*\r\n",
    b"Content-Type: application/json\r\n",
    b"Connection: keep-alive\r\n",
    b"Connection: close\r\n",
    b"Content-Length: 12\r\n",
    b"content-length:7\r\n",
    b"CONTENT-LENGTH: 7\r\n",
    b"Content-Length: \t3\r\n",
    b"Content-Length: 3 \r\n",
    b"Content-Length: +3\r\n",
    b"Content-Length: 99999999999999999999\r\n",
    b"Content-Length:\r\n",
    b"X-Content-Length: 9\r\n",
    b"If-Content-Length: Content-Length: 9\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\n",
    b"No colon\r\n",
    b" folded: 1\r\n",
)


@pytest.mark.parametrize("seed", range(400))
def test_what_is_given_is_what_the_judge_reads_and_what_he_refuses_is_not_given(seed: int) -> None:
    rng = random.Random(seed)
    lines = [HOST] * (rng.random() < 0.9) + rng.choices(LINES, k=rng.randrange(5))
    rng.shuffle(lines)
    block = b"".join(lines) + b"\r\n"
    remembered = Remembered(100)
    for _ in range(2):  # the second time it is remembered
        try:
            head = read_head(b"PUT /PUT HTTP/1.1\r\n" + block, 100)
        except MalformedRequest:
            with_doubt: object = None
            try:
                with_doubt = remembered.read(block)
            except BadInput:
                pass
            assert with_doubt is None
            continue
        found = remembered.read(block)
        if found is None:
            continue
        fields, length = found
        assert length == head.length
        assert fields.fields == {name: values for name, values in head.fields.items() if name != b"content-length"}
        for name in (b"transfer-encoding", b"expect", b"upgrade"):
            assert name not in head.fields
        assert head.fields.get(b"connection", [b"keep-alive"]) == [b"keep-alive"]


@pytest.mark.parametrize("said", [b"Content-Length: %d\r\n", b"content-length: %d\r\n", b"Content-Length:%d\r\n"])
@pytest.mark.parametrize("place", range(3))
def test_one_entry_serves_bodies_of_every_length(said: bytes, place: int) -> None:
    remembered = Remembered(100)
    for length in (0, 1, 12_345_678):
        lines = [HOST, b"Accept: */*\r\n"]
        lines.insert(place, said % length)
        found = remembered.read(b"".join(lines) + b"\r\n")
        assert found is not None
        assert found[1] == length
    assert len(remembered._known) == 1


def test_what_is_remembered_is_bounded() -> None:
    remembered = Remembered(100)
    for number in range(3 * REMEMBERED_MAX):
        assert remembered.read(HOST + b"X-Number: %d\r\n\r\n" % number) is not None
        assert len(remembered._known) <= REMEMBERED_MAX
    before = len(remembered._known)
    assert remembered.read(HOST + b"X-Long: " + bytes(b"x" * REMEMBERED_BYTES_MAX) + b"\r\n\r\n") is not None
    assert len(remembered._known) == before, "it is read, and not kept"


def test_too_many_fields_are_refused_each_time() -> None:
    remembered = Remembered(3)
    for _ in range(2):
        with pytest.raises(HeadTooLarge):
            remembered.read(HOST + b"A: 1\r\n" * 3 + b"\r\n")
