"""Majorities meet, and blocking sets meet majorities; so do those of electorates, also while a slot moves."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from twisted_kv.errors import BadParameter
from twisted_kv.names import NodeId
from twisted_kv.quorum import Electorate, Group, Level, blocking, majority, met, parse_level, required
from twisted_kv.views import electorate_of

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


# Electorates.

NODES = tuple(map(NodeId, "abcdefgh"))


def owners_of(draw: st.DrawFn) -> tuple[NodeId, ...]:
    return tuple(draw(st.lists(st.sampled_from(NODES), min_size=1, max_size=5, unique=True)))


@st.composite
def groups(draw: st.DrawFn) -> Group:
    """Owners, of whom some may have forgotten what they held."""
    owners = owners_of(draw)
    return Group(tuple(node for node in owners if draw(st.integers(0, 4))), len(owners))


@st.composite
def electorates(draw: st.DrawFn) -> Electorate:
    seated = draw(st.lists(groups(), min_size=1, max_size=2))
    nodes = dict.fromkeys(node for group in seated for node in group.voters)
    return Electorate(draw(st.permutations(list(nodes))), seated)


@st.composite
def subsets(draw: st.DrawFn, electorate: Electorate) -> list[NodeId]:
    return [node for node in electorate.nodes if draw(st.booleans())]


def quorums(electorate: Electorate) -> list[set[NodeId]]:
    """Every set of voters that is enough."""
    nodes = electorate.nodes
    sets = [set(chosen) for count in range(len(nodes) + 1) for chosen in combinations(nodes, count)]
    return [chosen for chosen in sets if met(electorate.quorum, electorate.voters(chosen))]


@given(electorates(), st.data())
def test_voters_and_members_are_each_others_inverse(electorate: Electorate, data: st.DataObject) -> None:
    chosen = data.draw(subsets(electorate))
    assert electorate.members(electorate.voters(chosen)) == chosen
    assert electorate.voters([*chosen, NodeId("a stranger")]) == electorate.voters(chosen)
    assert electorate.members(electorate.everybody) == list(electorate.nodes)


@given(electorates())
def test_whom_a_read_asks_at_first_is_a_quorum_if_there_is_any_and_nobody_of_them_is_asked_in_vain(
    electorate: Electorate,
) -> None:
    fewest = electorate.fewest
    assert met(electorate.quorum, electorate.voters(fewest)) == met(electorate.quorum, electorate.everybody)
    assert not any(met(electorate.quorum, electorate.voters(fewest[:count])) for count in range(len(fewest)))
    assert list(fewest) == sorted(fewest, key=electorate.nodes.index), "the order of asking is kept"


@given(electorates())
def test_any_two_quorums_have_a_voter_of_each_group_in_common(electorate: Electorate) -> None:
    enough = quorums(electorate)
    for one, other in combinations(enough, 2):
        assert all(one & other & set(group.voters) for group in electorate.groups)


@given(electorates())
def test_a_quorum_with_more_voters_is_one_still(electorate: Electorate) -> None:
    enough = quorums(electorate)
    assert all(chosen | {node} in enough for chosen in enough for node in electorate.nodes)


@given(electorates(), st.data())
def test_another_order_of_asking_is_the_same_electorate(electorate: Electorate, data: st.DataObject) -> None:
    arranged = electorate.arranged(data.draw(st.permutations(electorate.nodes)))
    chosen = data.draw(subsets(electorate))
    assert arranged.groups == electorate.groups
    assert set(arranged.nodes) == set(electorate.nodes)
    assert met(arranged.quorum, arranged.voters(chosen)) == met(electorate.quorum, electorate.voters(chosen))
    for level in Level:
        same = met(electorate.quota(level), electorate.voters(chosen))
        assert met(arranged.quota(level), arranged.voters(chosen)) == same


@given(electorates(), st.data())
def test_what_level_all_is_content_with_is_enough_for_one_and_all_of_it_is_needed(
    electorate: Electorate, data: st.DataObject
) -> None:
    chosen = electorate.voters(data.draw(subsets(electorate)))
    everybody = chosen == electorate.everybody and met(electorate.quorum, chosen)
    assert met(electorate.quota(Level.ALL), chosen) == everybody, "all who are asked, and never less than majorities"
    assert met(electorate.quota(Level.ONE), chosen) == (bool(chosen) or not electorate.nodes)
    assert met(electorate.quota(Level.STRONG), chosen) == met(electorate.quorum, chosen)
    assert required(electorate.quota(Level.ALL)) >= len(electorate.nodes)


@given(st.lists(st.sampled_from(NODES), max_size=5, unique=True))
def test_an_electorate_without_groups_is_one_group_of_all(nodes: list[NodeId]) -> None:
    electorate = Electorate(nodes)
    assert electorate.groups == (Group(tuple(nodes), len(nodes)),)
    assert electorate.quorum == ((electorate.everybody, majority(len(nodes))),)
    assert electorate.fewest == tuple(nodes[: majority(len(nodes))])


# Electorates of one slot in epochs that follow one another.


@st.composite
def moves(draw: st.DrawFn) -> tuple[tuple[NodeId, ...], tuple[NodeId, ...], set[NodeId], set[NodeId]]:
    """Owners before and after, those who forgot, and those of them who are given up."""
    had, gets = owners_of(draw), owners_of(draw)
    forgot = {node for node in NODES if not draw(st.integers(0, 5))}
    return had, gets, forgot, {node for node in forgot if draw(st.booleans())}


def meets(one: Electorate, other: Electorate) -> bool:
    return all(chosen & rest for chosen in quorums(one) for rest in quorums(other))


@given(moves())
def test_quorums_of_a_moving_slot_meet_those_of_before_and_of_after(
    move: tuple[tuple[NodeId, ...], tuple[NodeId, ...], set[NodeId], set[NodeId]],
) -> None:
    had, gets, forgot, away = move
    joint = electorate_of((had, gets), forgot, away)
    # Who forgot votes in no epoch before it was rebuilt: it is refused, by its incarnation.
    before = Electorate([node for node in had if node not in forgot], [Group(had, len(had))])
    assert meets(before, joint)
    assert meets(joint, Electorate(gets))


@given(moves())
def test_a_member_who_forgot_does_not_count_among_those_who_remember(
    move: tuple[tuple[NodeId, ...], tuple[NodeId, ...], set[NodeId], set[NodeId]],
) -> None:
    had, gets, forgot, away = move
    assume(set(had) & forgot)
    old, new = electorate_of((had, gets), forgot, away).groups
    assert set(old.voters) == set(had) - forgot
    assert set(new.voters) == set(gets) - away
    assert (old.size, new.size) == (len(had), len(gets))


def seats(had: Sequence[str], gets: Sequence[str], node: str) -> int:
    pair = tuple(map(NodeId, had)), tuple(map(NodeId, gets))
    return electorate_of(pair, set(), set()).seats_of(NodeId(node))


def test_who_is_an_owner_before_and_after_counts_twice() -> None:
    assert [seats("abc", "bcd", node) for node in "abcde"] == [1, 2, 2, 1, 0]


def test_a_slot_that_does_not_move_has_one_group_whatever_moves_elsewhere() -> None:
    assert electorate_of((NODES[:3], NODES[2::-1]), {NODES[5]}, {NODES[5]}).groups == (Group(NODES[:3], 3),)
