"""Who is avoided and who is slow: failures counted in a row, trials of nodes that flap, and paces."""

from __future__ import annotations

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_kv.limits import Limits
from twisted_kv.liveness import HEDGE_SHARE, HEDGES_SAVED_MAX, Allowance, Pace, Suspicion, slow_nodes
from twisted_kv.names import NodeId

LIMITS = Limits()
PROBE_S = LIMITS.probe_interval_s


def suspicion(failures: int = 3) -> Suspicion:
    return Suspicion(Limits(suspect_after_failures=failures))


# Who is avoided.


def test_node_is_trusted_at_first() -> None:
    node = suspicion()
    assert not node.avoided
    assert not node.on_trial
    assert node.avoided_since is None
    assert node.last_error == ""


def test_node_is_avoided_from_the_failure_that_is_one_too_many() -> None:
    node = suspicion()
    assert [node.refuse("timed out", now) for now in (1.0, 2.0, 3.0, 4.0)] == [False, False, True, False]
    assert node.avoided
    assert node.avoided_since == 3.0


def test_answer_between_failures_begins_the_count_again() -> None:
    node = suspicion()
    for now in range(10):
        node.refuse("timed out", now)
        node.refuse("timed out", now)
        assert node.confirm(now) is False
    assert not node.avoided


@pytest.mark.parametrize("probe", [False, True])
def test_first_answer_ends_the_first_avoidance_and_says_so_once(probe: bool) -> None:
    node = suspicion(1)
    assert node.refuse("refused", 5.0)
    assert node.confirm(5.5, probe) is True
    assert node.confirm(5.5, probe) is False
    assert not node.avoided
    assert node.refuse("refused", 6.0)
    assert node.avoided_since == 6.0


def test_last_error_is_kept_for_people() -> None:
    node = suspicion()
    node.refuse("timed out", 1.0)
    node.refuse("connection refused", 2.0)
    assert node.last_error == "connection refused"


@given(st.integers(1, 5), st.lists(st.booleans(), max_size=40))
def test_node_that_does_not_flap_is_avoided_exactly_while_its_last_answers_were_that_many_failures(
    failures: int, answers: list[bool]
) -> None:
    node = suspicion(failures)
    in_a_row = 0
    for number, answered in enumerate(answers):
        now = number * LIMITS.relapse_s
        changed = node.confirm(now) if answered else node.refuse("silent", now)
        before = in_a_row
        in_a_row = 0 if answered else in_a_row + 1
        assert node.avoided == (in_a_row >= failures)
        assert changed == ((before >= failures) != (in_a_row >= failures))


def test_answers_to_probes_do_not_forgive_the_failures_of_batches() -> None:
    node = suspicion()
    for now in range(2):
        node.refuse("the disk hangs", now)
        node.confirm(now, probe=True)
    assert node.refuse("the disk hangs", 3.0)


def test_probes_that_fail_now_and_then_are_forgiven_by_probes() -> None:
    node = suspicion()
    for now in range(10):
        assert not node.refuse("lost", now, probe=True)
        assert not node.refuse("lost", now, probe=True)
        node.confirm(now, probe=True)


# Who is on trial.


def back(node: Suspicion, now: float, fails_at: tuple[float, ...] = ()) -> float:
    """Probe a node until it is used again, and say when that is."""
    while not node.confirm(now, probe=True):
        now += PROBE_S
        if now in fails_at:
            node.refuse("silent", now, probe=True)
            now += PROBE_S
    return now


def test_each_relapse_doubles_the_trial_up_to_its_bound() -> None:
    node, now, trials = suspicion(1), 0.0, []
    for _ in range(8):
        node.refuse("refused", now)
        began, now = now, back(node, now)
        trials.append(now - began)
    assert trials == [0, 0.5, 1, 2, 4, 4, 4, 4]
    assert trials[-1] == LIMITS.trial_s_max


def test_node_that_stayed_well_for_a_minute_is_not_flapping() -> None:
    node, now = suspicion(1), 0.0
    for _ in range(4):
        node.refuse("refused", now)
        now = back(node, now)
    now += LIMITS.relapse_s
    node.refuse("refused", now)
    assert back(node, now) == now


def test_failure_begins_the_trial_anew() -> None:
    node, now = suspicion(1), 0.0
    for _ in range(3):
        node.refuse("refused", now)
        now = back(node, now)
    node.refuse("refused", now)
    assert back(node, now, fails_at=(now + 1.5,)) == now + 2.0 + 2.0


def test_answers_of_many_batches_end_no_trial_before_its_time() -> None:
    node = suspicion(1)
    node.refuse("refused", 0.0)
    node.confirm(0.0)
    node.refuse("refused", 1.0)
    assert not any(node.confirm(1.0 + number / 100) for number in range(50))
    assert node.avoided
    assert node.on_trial
    assert node.confirm(1.5)
    assert not node.on_trial


@given(st.lists(st.tuples(st.floats(0.01, 90), st.booleans(), st.booleans()), max_size=60))
def test_whatever_happened_a_node_that_only_answers_from_now_on_is_used_within_the_longest_trial(
    past: list[tuple[float, bool, bool]],
) -> None:
    node, now = suspicion(2), 0.0
    for after_s, answers, probe in past:
        now += after_s
        if answers:
            node.confirm(now, probe)
        else:
            node.refuse("silent", now, probe)
        assert node.avoided or not node.on_trial
    began = now
    while node.avoided:
        node.confirm(now, probe=True)
        now += PROBE_S
    assert now - began <= LIMITS.trial_s_max + PROBE_S


@given(st.lists(st.integers(1, 8), min_size=20, max_size=20))
def test_flapping_node_is_used_again_seldom(runs: list[int]) -> None:
    """It answers some probes in a row, then fails once: how often it is used grows with the minutes, not the flaps."""
    node, now, times = suspicion(1), 0.0, 0
    for answers in runs:
        node.refuse("silent", now)
        for _ in range(answers):
            now += PROBE_S
            times += node.confirm(now, probe=True)
    assert times <= 4


# How fast they are.


def test_pace_of_a_node_that_was_not_asked_is_unknown() -> None:
    pace = Pace(LIMITS)
    assert pace.quantile(0.95, 0.0) is None
    assert pace.usual_s(0.0) is None


@given(st.lists(st.floats(0, 100), min_size=1, max_size=400), st.floats(0, 1))
def test_quantile_is_the_smallest_time_that_this_part_of_the_newest_answers_kept(
    times_s: list[float], part: float
) -> None:
    pace = Pace(LIMITS)
    for took_s in times_s:
        pace.add(0.0, took_s)
    newest = sorted(times_s[-LIMITS.pace_answers_max :])
    found = pace.quantile(part, 0.0)
    assert found in newest
    assert sum(took_s <= found for took_s in newest) >= max(1, ceil(part * len(newest)))
    assert sum(took_s < found for took_s in newest) <= part * len(newest)


def test_old_answers_are_forgotten() -> None:
    pace = Pace(LIMITS)
    pace.add(0.0, 5.0)
    pace.add(6.0, 1.0)
    assert pace.quantile(0.95, 7.0) == 5.0
    assert pace.quantile(0.95, 1.0 + LIMITS.pace_s_max) == 1.0
    assert pace.quantile(0.95, 7.0 + LIMITS.pace_s_max) is None


def test_one_late_answer_does_not_make_a_node_usually_late() -> None:
    pace = Pace(LIMITS)
    for number in range(1, 41):
        pace.add(float(number) / 10, 9.0 if number == 1 else 0.001)
        assert pace.usual_s(4.0) == (None if number < 3 else 0.001)


A, B, C, D = (NodeId(name) for name in "abcd")


@pytest.mark.parametrize(
    ("paces_s", "slow"),
    [
        ({}, []),
        ({A: 9.0}, []),
        ({A: 9.0, B: 0.01}, [A]),
        ({A: 0.001, B: 0.003, C: 0.06}, [C]),
        ({A: 0.001, B: 0.003, C: 0.05}, []),
        ({A: 0.01, B: 0.02, C: 0.19}, []),
        ({A: 0.01, B: 0.02, C: 0.21}, [C]),
        ({A: 1.0, B: 2.0, C: 3.0}, []),
        ({A: 0.01, B: 0.01, C: 0.3, D: 0.4}, [C, D]),
    ],
)
def test_slow_is_who_takes_ten_times_as_long_as_the_median_node_and_more_than_50_ms(
    paces_s: dict[NodeId, float], slow: list[NodeId]
) -> None:
    assert slow_nodes(paces_s, LIMITS) == slow


@given(st.dictionaries(st.sampled_from([A, B, C, D]), st.floats(0, 10)))
def test_never_are_more_than_half_of_the_nodes_slow(paces_s: dict[NodeId, float]) -> None:
    assert 2 * len(slow_nodes(paces_s, LIMITS)) <= len(paces_s)


# How many reads are hedged.


@given(st.lists(st.tuples(st.integers(0, 200), st.integers(0, 30)), max_size=50))
def test_hedges_are_no_more_than_a_share_of_the_reads_and_some_saved_up(steps: list[tuple[int, int]]) -> None:
    allowance, taken = Allowance(), 0
    for reads, wanted in steps:
        allowance.reads += reads
        taken += sum(allowance.take() for _ in range(wanted))
        assert taken <= HEDGES_SAVED_MAX + HEDGE_SHARE * allowance.reads + 1e-6


def test_who_never_hedges_saves_no_more_than_the_cap() -> None:
    allowance = Allowance()
    allowance.reads += 1_000_000
    assert sum(allowance.take() for _ in range(100)) == HEDGES_SAVED_MAX


def test_every_tenth_read_earns_a_hedge() -> None:
    allowance = Allowance()
    while allowance.take():
        pass
    hedged = 0
    for _ in range(1_000):
        allowance.reads += 1
        hedged += allowance.take()
    assert hedged in (99, 100)
