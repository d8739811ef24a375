"""The thread beside the reactor's: what is done there, in which order, and what is told of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event, current_thread
from typing import Any

import pytest

from twisted_kv.aside import Aside


class Calls:
    """Stands for the reactor: keeps what threads want to have called."""

    def __init__(self) -> None:
        self.waiting: list[tuple[Callable[..., object], tuple[object, ...]]] = []

    def callFromThread(self, call: Callable[..., object], *args: object) -> None:
        self.waiting.append((call, args))

    def turn(self) -> None:
        waiting, self.waiting = self.waiting, []
        for call, args in waiting:
            call(*args)


@pytest.fixture
def calls() -> Calls:
    return Calls()


@pytest.fixture
def aside(calls: Calls) -> Iterator[Aside]:
    aside = Aside(calls, "beside")
    yield aside
    aside.stop()


def test_work_is_done_on_the_thread_in_order_and_told_on_the_reactors(calls: Calls) -> None:
    aside, seen, told = Aside(calls, "beside"), list[Any](), list[Any]()
    for number in range(3):
        aside.do(lambda number=number: seen.append((number, current_thread().name))).addBoth(told.append)
    aside.stop()
    assert seen == [(0, "beside"), (1, "beside"), (2, "beside")]
    assert told == [], "nothing is told from the thread"
    calls.turn()
    assert told == [None, None, None]


def test_whoever_hands_something_over_does_not_wait_for_it(aside: Aside, calls: Calls) -> None:
    may_end = Event()
    told: list[Any] = []
    aside.do(lambda: may_end.wait(10) and None).addBoth(told.append)
    assert calls.waiting == []
    may_end.set()
    aside.do(lambda: None)
    aside.stop()
    calls.turn()
    assert told == [None]
    aside.do(lambda: None)  # stopped threads do nothing


@pytest.mark.parametrize("error", [ZeroDivisionError("why"), SystemExit("why")])
def test_an_error_is_told_and_the_thread_goes_on(aside: Aside, calls: Calls, error: BaseException) -> None:
    def fails() -> None:
        raise error

    told: list[Any] = []
    aside.do(fails).addErrback(lambda failure: told.append(failure.value))
    aside.do(lambda: None).addCallback(told.append)
    aside.stop()
    calls.turn()
    assert told == [error, None]


def test_who_was_cancelled_is_told_nothing_more(aside: Aside, calls: Calls) -> None:
    told: list[Any] = []
    waiting = aside.do(lambda: None)
    waiting.addBoth(lambda result: told.append(type(result).__name__))
    waiting.cancel()
    aside.stop()
    calls.turn()
    assert told == ["Failure"]
