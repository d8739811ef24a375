"""Numbers and patterns as Redis has them."""

from __future__ import annotations

import fnmatch
import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_kv.resp.glob import literal_prefix, matcher
from twisted_kv.resp.numbers import added, integer_of, printed, real_of, rounded


@given(st.integers(-(1 << 65), 1 << 65))
def test_integers_of_64_bits_are_read_as_they_are_written(number: int) -> None:
    assert integer_of(b"%d" % number) == (number if -(1 << 63) <= number < 1 << 63 else None)


@pytest.mark.parametrize(
    "text", [b"", b"+1", b"01", b"-0", b" 1", b"1 ", b"1.0", b"0x1", b"--1", b"1\n", b"\xef\xbc\x91"]
)
def test_what_is_no_integer_to_redis_is_none(text: bytes) -> None:
    assert integer_of(text) is None


@given(st.integers(-(10**30), 10**30), st.integers(0, 25))
def test_a_long_double_keeps_64_bits(digits: int, behind: int) -> None:
    exact = Fraction(digits, 10**behind)
    number = rounded(exact)
    assert isinstance(number, Fraction)
    if exact:
        assert abs(number - exact) / abs(exact) <= Fraction(1, 1 << 64)
    assert number.numerator.bit_length() <= 64 or number.denominator == 1


@pytest.mark.parametrize(
    ("one", "other", "total"),
    [
        # As Redis 7.0.15 prints them.
        (b"0", b"0.1", b"0.1"),
        (b"3.0e3", b"200", b"3200"),
        (b"5.0e3", b"2.0e2", b"5200"),
        (b"10.5", b"-5", b"5.5"),
        (b"0.1", b"0.2", b"0.3"),
        (b"-0.1", b"0.1", b"0"),
        (b"0x10", b"0", b"16"),
        (b"1e-5", b"0", b"0.00001"),
        (b"123456789012345678901234567890", b"0", b"123456789012345678899921813504"),
    ],
)
def test_sums_have_the_digits_that_redis_gives(one: bytes, other: bytes, total: bytes) -> None:
    first, second = real_of(one), real_of(other)
    assert first is not None
    assert second is not None
    found = added(first, second)
    assert found is not None
    assert printed(found) == total


@pytest.mark.parametrize(
    "text", [b"", b"nan", b"1e5000", b"1e-5000", b"1e999999999", b" 1", b"1 ", b"abc", b"1" * 6000]
)
def test_what_is_no_long_double_to_redis_is_none(text: bytes) -> None:
    assert real_of(text) is None


def test_what_is_infinite_cannot_be_added_to() -> None:
    infinite = real_of(b"inf")
    assert infinite is not None
    assert added(infinite, Fraction(1)) is None
    largest = real_of(b"1.18e4932")
    assert largest is not None
    assert added(largest, largest) is None


@given(st.text("ab*?", max_size=8), st.text("abc", max_size=8))
def test_stars_and_question_marks_match_as_in_a_shell(pattern: str, key: str) -> None:
    assert bool(matcher(pattern.encode())(key.encode())) == fnmatch.fnmatchcase(key, pattern)


@pytest.mark.parametrize(
    ("pattern", "key", "matches"),
    [
        (b"h[ae]llo", b"hello", True),
        (b"h[^e]llo", b"hello", False),
        (b"h[a-b]llo", b"hbllo", True),
        (b"h[b-a]llo", b"hallo", True),
        (b"h\\*llo", b"h*llo", True),
        (b"h\\*llo", b"hxllo", False),
        (b"[\\]]", b"]", True),
        (b"[a", b"a", True),
        (b"a\\", b"a\\", True),
        (b"*\n", b"a\n", True),
        (b"?", b"\xff", True),
        (b"[]", b"", False),
    ],
)
def test_brackets_and_backslashes_match_as_in_redis(pattern: bytes, key: bytes, matches: bool) -> None:
    assert bool(matcher(pattern)(key)) is matches


def test_a_pattern_of_many_stars_takes_no_longer_than_its_key_is_long() -> None:
    matches = matcher(b"a*" * 30 + b"b")
    began = time.process_time()
    assert not matches(b"a" * 1000)
    assert time.process_time() - began < 5, "with backtracking it would take longer than the universe has been there"


def test_the_prefix_of_a_pattern_is_what_every_match_begins_with() -> None:
    assert [literal_prefix(pattern) for pattern in (b"user:*", b"*", b"a\\*", b"abc", b"x?")] == [
        b"user:",
        b"",
        b"a",
        b"abc",
        b"x",
    ]
