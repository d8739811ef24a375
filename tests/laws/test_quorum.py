"""Majorities meet, and blocking sets meet majorities."""

from __future__ import annotations

from itertools import combinations

import pytest

from twisted_kv.errors import BadParameter
from twisted_kv.quorum import Level, blocking, majority, parse_level

SIZES = range(1, 8)


@pytest.mark.parametrize("owners", SIZES)
def test_any_two_majorities_have_an_owner_in_common(owners: int) -> None:
    sets = [set(chosen) for chosen in combinations(range(owners), majority(owners))]
    assert all(one & other for one in sets for other in sets)


@pytest.mark.parametrize("owners", SIZES)
def test_sets_one_smaller_than_a_majority_may_miss_each_other(owners: int) -> None:
    assert 2 * (majority(owners) - 1) <= owners


@pytest.mark.parametrize("owners", SIZES)
def test_blocking_set_meets_every_majority(owners: int) -> None:
    majorities = [set(chosen) for chosen in combinations(range(owners), majority(owners))]
    blocks = [set(chosen) for chosen in combinations(range(owners), blocking(owners))]
    assert all(block & most for block in blocks for most in majorities)


@pytest.mark.parametrize("owners", SIZES)
def test_one_less_than_a_blocking_set_leaves_a_majority_without_it(owners: int) -> None:
    left = owners - (blocking(owners) - 1)
    assert left >= majority(owners)


@pytest.mark.parametrize("owners", SIZES)
def test_level_one_is_within_strong_and_strong_within_all(owners: int) -> None:
    needed = [level.needed(owners) for level in (Level.ONE, Level.STRONG, Level.ALL)]
    assert needed == [1, majority(owners), owners]
    assert needed == sorted(needed)


def test_majorities_of_the_usual_sizes() -> None:
    assert [majority(owners) for owners in SIZES] == [1, 2, 2, 3, 3, 4, 4]
    assert [blocking(owners) for owners in SIZES] == [1, 1, 2, 2, 3, 3, 4]


@pytest.mark.parametrize(
    ("name", "level"), [("one", Level.ONE), ("strong", Level.STRONG), ("quorum", Level.STRONG), ("all", Level.ALL)]
)
def test_level_is_read_from_its_name(name: str, level: Level) -> None:
    assert parse_level(name) is level


@pytest.mark.parametrize("name", ["", "ONE", "two", "x" * 10_000])
def test_level_of_another_name_is_refused_with_the_levels_there_are(name: str) -> None:
    with pytest.raises(BadParameter, match="which is no level") as caught:
        parse_level(name)
    assert "one, strong (also called quorum), or all" in caught.value.hint
    assert len(caught.value.detail) < 100
