"""The Redis door's reader: any stream, cut anywhere, gives the commands that it holds."""

from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_kv.resp.inline import words
from twisted_kv.resp.requests import LINE_BYTES_MAX, Cutter, Requests, Unreadable

BULK_MAX, COMMAND_MAX = 200_000, 500_000


def spelt(*command: bytes) -> bytes:
    return b"*%d\r\n" % len(command) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in command)


def read(*pieces: bytes) -> list[list[bytes]]:
    requests = Requests(Cutter(), BULK_MAX, COMMAND_MAX)
    found: list[list[bytes]] = []
    for piece in pieces:
        requests.feed(piece, found)
    assert requests.held == 0
    return found


def fault(*pieces: bytes) -> tuple[bytes, list[list[bytes]]]:
    """Read what cannot be read to its end: why, and what was read before."""
    requests = Requests(Cutter(), BULK_MAX, COMMAND_MAX)
    found: list[list[bytes]] = []
    try:
        for piece in pieces:
            requests.feed(piece, found)
    except Unreadable as error:
        return error.text, found
    raise AssertionError("it was read")


def cut(data: bytes, rng: random.Random, longest: int) -> list[bytes]:
    pieces, at = [], 0
    while at < len(data):
        size = rng.randint(1, longest)
        pieces.append(data[at : at + size])
        at += size
    return pieces


class Large(bytes):
    """A word that comes in several reads; a report need not show all of it."""

    def __repr__(self) -> str:
        return "LARGE"


LARGE = Large(b"x" * (LINE_BYTES_MAX + 9))
WORD = st.one_of(st.binary(max_size=20), st.text("\r\n*$+-:1a\0", max_size=30).map(str.encode), st.just(LARGE))
COMMANDS = st.lists(st.lists(WORD, min_size=1, max_size=5), max_size=12)


@given(COMMANDS, st.integers(0, 1 << 32), st.sampled_from([1, 3, 40, 5_000, 200_000]))
def test_commands_come_out_as_they_went_in_wherever_the_stream_was_cut(
    commands: list[list[bytes]], seed: int, longest: int
) -> None:
    data = b"".join(spelt(*command) for command in commands)
    if len(data) > 5_000:
        longest = max(longest, 1_000)
    assert read(*cut(data, random.Random(seed), longest)) == commands
    assert read(data) == commands


def test_inline_commands_may_stand_between_the_others() -> None:
    stream = spelt(b"GET", b"a") + b"PING\r\nSET a 'b c'\n\r\n" + spelt(b"GET", b"b") + b"  ECHO  x \r\n"
    commands = [[b"GET", b"a"], [b"PING"], [b"SET", b"a", b"b c"], [b"GET", b"b"], [b"ECHO", b"x"]]
    for longest in (1, 7, 1_000):
        assert read(*cut(stream, random.Random(longest), longest)) == commands


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (b"", []),
        (b" \t ", []),
        (b"a  b", [b"a", b"b"]),
        (b'"a b" c', [b"a b", b"c"]),
        (b'"\\x41\\n\\r\\t\\b\\a\\q\\""', [b'A\n\r\t\b\aq"']),
        (b"'a\\'b\\n'", [b"a'b\\n"]),
        (b'a"b"', [b"ab"]),
        (b'""', [b""]),
        (b'"a"b', None),
        (b'"a', None),
        (b"'a", None),
        (b'"a\\', None),
        (b"a\0b", [b"a"]),
    ],
)
def test_inline_words_are_split_as_redis_does(line: bytes, found: list[bytes] | None) -> None:
    assert words(line) == found


def test_empty_commands_are_passed_over() -> None:
    assert read(b"*0\r\n*-1\r\n" + spelt(b"PING") + b"*0\r\n") == [[b"PING"]]


def test_what_stands_behind_a_word_in_the_place_of_a_lines_end_is_passed_over_as_in_redis() -> None:
    assert read(b"*1\r\n$4\r\nPINGxx" + spelt(b"PING")) == [[b"PING"], [b"PING"]]


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (b"*abc\r\n", b"invalid multibulk length"),
        (b"*01\r\n", b"invalid multibulk length"),
        (b"*1048577\r\n", b"invalid multibulk length"),
        (b"*99999999999999999999999\r\n", b"invalid multibulk length"),
        (b"*1\r\n:1\r\n", b"expected '$', got ':'"),
        (b"*1\r\n+PING\r\n", b"expected '$', got '+'"),
        (b"*1\r\n*1\r\n$1\r\na\r\n", b"expected '$', got '*'"),
        (b"*1\r\n$-1\r\n", b"invalid bulk length"),
        (b"*1\r\n$abc\r\n", b"invalid bulk length"),
        (b"*1\r\n$01\r\na\r\n", b"invalid bulk length"),
        (b"*1\r\n$%d\r\n" % (BULK_MAX + 1), b"invalid bulk length"),
        (b"*3\r\n" + b"".join(b"$%d\r\n%b\r\n" % (n, b"x" * n) for n in [BULK_MAX] * 3), b"the command is too large"),
        (b"*" + b"1" * (LINE_BYTES_MAX + 1), b"too big mbulk count string"),
        (b"*1\r\n$" + b"1" * (LINE_BYTES_MAX + 1), b"too big bulk count string"),
        (b"x" * (LINE_BYTES_MAX + 1), b"too big inline request"),
        (b'SET a "b\r\n', b"unbalanced quotes in request"),
    ],
)
def test_what_is_no_resp_is_told_in_redis_words_after_what_came_before_it(stream: bytes, why: bytes) -> None:
    before = spelt(b"SET", b"a", b"1") + spelt(b"GET", b"a")
    for pieces in ([before + stream], [before, stream], cut(before + stream, random.Random(1), 70_000)):
        assert fault(*pieces) == (why, [[b"SET", b"a", b"1"], [b"GET", b"a"]])


def test_nothing_is_made_room_for_that_was_only_announced() -> None:
    tracemalloc.start()
    try:
        for announced in (b"*1000000\r\n", b"*1\r\n$%d\r\n" % BULK_MAX, b"*2\r\n$1\r\na\r\n*1000000\r\n"):
            requests = Requests(Cutter(), BULK_MAX, COMMAND_MAX)
            try:
                requests.feed(announced, [])
            except Unreadable:
                pass
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_bytes_of_a_command_that_is_not_whole_are_counted() -> None:
    requests = Requests(Cutter(), BULK_MAX, COMMAND_MAX)
    found: list[list[bytes]] = []
    requests.feed(spelt(b"SET", b"a", b"x" * 100_000)[:50_000], found)
    assert 49_000 < requests.held <= 50_000
    requests.feed(spelt(b"SET", b"a", b"x" * 100_000)[50_000:], found)
    assert (requests.held, found) == (0, [[b"SET", b"a", b"x" * 100_000]])
