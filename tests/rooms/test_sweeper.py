"""The sweep alone: what the owners show as due, what is buried, what is spread, and what a bad round leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from twisted_kv.errors import PeerSilent, Unreached
from twisted_kv.limits import Limits
from twisted_kv.membership import Seat, State
from twisted_kv.metrics import ProxyMetrics
from twisted_kv.names import Key
from twisted_kv.peers.control import Control
from twisted_kv.peers.peer import Answer
from twisted_kv.ring import slot_of
from twisted_kv.sweeper import Sweeper
from twisted_kv.views import View
from twisted_kv.wire.header import FORMAT, encode
from twisted_kv.wire.pages import DuePage, due_request_decoder

NOW_MS = 1_000


class Yard:
    """A sweeper before nodes that show what the test lays out, and a list of what it asked to be done."""

    def __init__(self, nodes: str = "abc", **limits: float) -> None:
        self.clock = Clock()
        self.limits = Limits(**limits)  # type: ignore[arg-type]
        self.due: dict[str, list[bytes]] = {node: [] for node in nodes}
        self.silent: set[str] = set()
        self.asked: list[str] = []
        self.buried: list[bytes] = []
        self.spread: list[bytes] = []
        self.under_way: list[Deferred[Any]] = []
        self.holding = False
        """Whether what is asked for stays under way until the test ends it."""
        self.failing: set[bytes] = set()
        self.missed: set[bytes] = set()
        """What a majority has buried before."""
        self.metrics = ProxyMetrics()
        seats = tuple(Seat(node, f"http://{node}:80") for node in nodes)
        self.view: View | None = View(State(1, "c-1", 1, 3, 1, members=seats))
        self.sweeper = Sweeper(
            self.clock,
            Random(1),
            lambda: NOW_MS,
            self.limits,
            Control(self, self.limits),
            self.metrics,
            lambda: self.view,
            lambda key: self._do(self.buried, key),
            lambda key: self._do(self.spread, key),
        )

    def request(self, method: str, url: str, body: bytes, *, content_type: str, timeout_s: float) -> Deferred[Answer]:
        node = url.removeprefix("http://")[0]
        request = due_request_decoder.decode(body)
        self.asked.append(node)
        assert request.until_ms == NOW_MS
        if node in self.silent:
            return fail(Failure(PeerSilent("no answer")))
        rows = [(NOW_MS - 1, key) for key in self.due[node] if key > (request.after or (0, b""))[1]]
        page = DuePage(FORMAT, 1, rows[: request.limit], len(rows) >= request.limit)
        return succeed(Answer(200, encode(page)))

    def _do(self, done: list[bytes], key: Key) -> Deferred[Any]:
        done.append(key)
        if key in self.failing:
            return fail(Failure(Unreached("too few")))
        if not self.holding:
            return succeed(key not in self.missed)
        self.under_way.append(Deferred())
        return self.under_way[-1]

    def sweep(self) -> Deferred[None]:
        return ensureDeferred(self.sweeper.sweep())

    @property
    def swept(self) -> float:
        return self.metrics.registry.get_sample_value("kv_expired_swept_total") or 0.0


@pytest.fixture
def yard_of() -> Iterator[Callable[..., Yard]]:
    yards: list[Yard] = []

    def make(nodes: str = "abc", **limits: float) -> Yard:
        yards.append(Yard(nodes, **limits))
        return yards[-1]

    yield make
    for yard in yards:
        yard.sweeper.stop()
        assert yard.clock.getDelayedCalls() == []


@pytest.fixture
def yard(yard_of: Callable[..., Yard]) -> Yard:
    return yard_of()


def test_what_several_owners_show_is_buried_once(yard: Yard) -> None:
    yard.due = {"a": [b"1", b"2"], "b": [b"2", b"3"], "c": [b"1"]}
    yard.sweep()
    assert yard.buried == [b"1", b"2", b"3"]
    assert (yard.spread, yard.swept) == ([], 3)


def test_what_was_buried_before_is_spread_to_every_owner(yard: Yard) -> None:
    yard.due["c"] = [b"1", b"2", b"3"]
    yard.missed = {b"2"}
    yard.sweep()
    assert (yard.buried, yard.spread, yard.swept) == ([b"1", b"2", b"3"], [b"2"], 2)


def test_a_round_goes_through_all_that_is_due_past_what_cannot_be_buried(yard_of: Callable[..., Yard]) -> None:
    yard = yard_of(keys_page_max=3)
    keys = [b"%02d" % number for number in range(10)]
    yard.due = {"a": keys, "b": keys[:4], "c": []}
    yard.failing = set(keys[:3])
    yard.sweep()
    assert yard.buried == keys
    assert (yard.asked.count("a"), yard.asked.count("b"), yard.asked.count("c")) == (4, 2, 1)
    assert yard.swept == 7


def test_a_round_ends_where_the_view_changes(yard_of: Callable[..., Yard]) -> None:
    yard = yard_of(keys_page_max=1)
    yard.holding = True
    yard.due["a"] = [b"1", b"2"]
    yard.sweep()
    yard.view = None
    yard.under_way.pop().callback(True)
    assert yard.buried == [b"1"]


def test_a_silent_node_is_passed_over(yard: Yard) -> None:
    yard.silent = {"a"}
    yard.due["b"] = [b"1"]
    yard.sweep()
    assert (yard.asked, yard.buried) == (["a", "b", "c"], [b"1"])


def test_left_over_rows_of_a_node_that_owns_them_no_longer_are_none_of_its_business(
    yard_of: Callable[..., Yard],
) -> None:
    yard = yard_of("abcde")
    assert yard.view is not None
    keys = sorted(Key(b"%d" % number) for number in range(50))
    yard.due["a"] = list(keys)
    yard.sweep()
    assert yard.buried == [key for key in keys if "a" in yard.view.table[slot_of(key)]]
    assert 0 < len(yard.buried) < len(keys)


def test_no_more_than_sweep_at_once_are_under_way(yard_of: Callable[..., Yard]) -> None:
    yard = yard_of(sweep_at_once=2)
    yard.holding = True
    yard.due["a"] = [b"1", b"2", b"3"]
    ended: list[object] = []
    yard.sweep().addCallback(ended.append)
    assert yard.buried == [b"1", b"2"]
    yard.under_way[0].callback(True)
    assert yard.buried == [b"1", b"2"]
    yard.under_way[1].errback(Failure(Unreached("too few")))
    assert yard.buried == [b"1", b"2", b"3"]
    yard.under_way[2].callback(True)
    assert ended == [None]


def test_one_key_that_cannot_be_buried_keeps_none_of_the_others(yard: Yard) -> None:
    yard.failing = {b"1"}
    yard.due["a"] = [b"1", b"2"]
    yard.sweep()
    assert yard.buried == [b"1", b"2"]


@pytest.mark.parametrize("known", [True, False])
def test_nobody_is_asked_in_a_closed_view_or_without_one(yard: Yard, known: bool) -> None:
    assert yard.view is not None
    yard.view.open = False
    yard.view = yard.view if known else None
    yard.sweep()
    assert yard.asked == []


def test_the_next_round_comes_after_a_bad_one_and_none_after_the_stop(yard: Yard) -> None:
    yard.silent = set("abc")
    yard.sweeper.start()
    for _ in range(3):
        yard.clock.advance(yard.limits.sweep_interval_s * 1.2)
    assert len(yard.asked) == 3 * 3
    yard.sweeper.stop()
    yard.clock.advance(60)
    assert len(yard.asked) == 3 * 3


def test_a_stop_in_the_middle_of_a_round_ends_it(yard: Yard) -> None:
    yard.holding = True
    yard.due["a"] = [b"1"]
    yard.sweeper.start()
    yard.clock.advance(yard.limits.sweep_interval_s)
    assert len(yard.under_way) == 1
    stopped: list[object] = []
    yard.sweeper.stop().addCallback(stopped.append)
    assert stopped == [None]
