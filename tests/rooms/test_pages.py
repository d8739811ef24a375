"""One source's records, read page by page and one page ahead."""

from __future__ import annotations

from itertools import pairwise

from twisted.internet.defer import Deferred, ensureDeferred

from tests.rooms.nodes import STATE, Nodes, ballot_at
from twisted_kv.errors import PeerSilent
from twisted_kv.names import NodeId
from twisted_kv.peers.pages import END, Pages, Place
from twisted_kv.ring import SLOTS, slot_of
from twisted_kv.wire.header import FORMAT
from twisted_kv.wire.pages import Page, Row

KEYS = sorted((b"k%d" % number for number in range(9)), key=lambda key: (slot_of(key), key))
PLACES = [(int(slot_of(key)), key) for key in KEYS]


class Source:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[Place | None] = []
        self._waiting: list[Deferred[Page]] = []

    async def fetch(self, after: Place | None) -> Page:
        self.asked.append(after)
        self._waiting.append(Deferred())
        return await self._waiting[-1]

    def show(self, first: int, last: int, *, more: bool) -> None:
        rows = [Row(key, ballot_at(1), b"r", b"") for key in KEYS[first:last]]
        self._waiting.pop(0).callback(Page(FORMAT, 2, rows, PLACES[last - 1] if more else None))

    def fail(self) -> None:
        self._waiting.pop(0).errback(PeerSilent("no answer"))


def turned(pages: Pages) -> list[object]:
    """Turn the page; what comes of it will be in the list."""
    found: list[object] = []
    ensureDeferred(pages.turn()).addBoth(found.append)
    return found


def test_the_next_page_is_asked_for_while_one_is_worked_on_and_no_further_one() -> None:
    source = Source()
    pages = Pages(source.fetch)
    first = turned(pages)
    assert source.asked == [None]
    source.show(0, 3, more=True)
    assert first == [None]
    assert source.asked == [None, PLACES[2]], "one page ahead"
    assert turned(pages) == [None], "this one is not used up"
    assert [(slot, row.key) for slot, row in pages.take(pages.horizon)] == PLACES[:3]
    second = turned(pages)
    assert second == [], "it is still on its way"
    source.show(3, 6, more=True)
    assert second == [None]
    assert source.asked == [None, PLACES[2], PLACES[5]]
    assert [row.key for _, row in pages.take(PLACES[4])] == KEYS[3:5]
    source.show(6, 9, more=False)
    assert [row.key for _, row in pages.take(pages.horizon)] == KEYS[5:6]
    assert turned(pages) == [None]
    assert pages.horizon == END
    assert [row.key for _, row in pages.take(END)] == KEYS[6:]
    assert pages.ended
    assert len(source.asked) == 3


def test_a_page_that_fails_ahead_of_its_turn_raises_when_it_is_wanted() -> None:
    source = Source()
    pages = Pages(source.fetch)
    turned(pages)
    source.show(0, 3, more=True)
    source.fail()
    assert [row.key for _, row in pages.take(pages.horizon)] == KEYS[:3], "what had come is not lost"
    (failure,) = turned(pages)
    assert failure.check(PeerSilent)  # type: ignore[attr-defined]


def test_a_page_that_fails_when_nobody_wants_it_any_more_disturbs_nobody() -> None:
    source = Source()
    pages = Pages(source.fetch)
    turned(pages)
    source.show(0, 3, more=True)
    del pages
    source.fail()  # a failure that nobody takes would be logged, and fail the test


def test_a_node_that_forgets_slots_is_left_in_peace_for_as_long_as_each_part_took() -> None:
    nodes = Nodes("a", drop_cells_max=2)
    for key in KEYS:
        nodes.hold("a", key, 10)
    began: list[float] = []

    def slow(node: str, path: str) -> None:
        began.append(nodes.clock.seconds())
        nodes.clock.rightNow += 0.25  # what the order takes

    nodes.before = slow
    seat = nodes.seats[NodeId("a")]
    nodes.wait(nodes.control.drop(nodes.clock, seat, STATE, [(0, SLOTS - 1)]))
    assert nodes.engines["a"].totals().bytes == 0
    assert len(began) > 4
    assert {round(later - earlier, 6) for earlier, later in pairwise(began)} == {0.5}
