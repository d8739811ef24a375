"""Suspicion: a node is avoided after failures in a row, and trusted again at its first answer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from twisted_kv.limits import Limits
from twisted_kv.liveness import Suspicion


def suspicion(failures: int = 3) -> Suspicion:
    return Suspicion(Limits(suspect_after_failures=failures))


def test_node_is_trusted_at_first() -> None:
    node = suspicion()
    assert not node.avoided
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
        assert node.confirm() is False
    assert not node.avoided


def test_first_answer_ends_the_avoidance_and_says_so_once() -> None:
    node = suspicion(1)
    assert node.refuse("refused", 5.0)
    assert node.confirm() is True
    assert node.confirm() is False
    assert not node.avoided
    assert node.refuse("refused", 6.0)
    assert node.avoided_since == 6.0


def test_last_error_is_kept_for_people() -> None:
    node = suspicion()
    node.refuse("timed out", 1.0)
    node.refuse("connection refused", 2.0)
    assert node.last_error == "connection refused"


@given(st.integers(1, 5), st.lists(st.booleans(), max_size=40))
def test_node_is_avoided_exactly_while_its_last_answers_were_that_many_failures(
    failures: int, answers: list[bool]
) -> None:
    node = suspicion(failures)
    in_a_row = 0
    for now, answered in enumerate(answers):
        changed = node.confirm() if answered else node.refuse("silent", now)
        before = in_a_row
        in_a_row = 0 if answered else in_a_row + 1
        assert node.avoided == (in_a_row >= failures)
        assert changed == ((before >= failures) != (in_a_row >= failures))
