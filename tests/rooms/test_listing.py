"""The listing before owners whose pages take their time."""

from __future__ import annotations

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import Clock, deferLater

from twisted_kv.limits import Limits
from twisted_kv.listing import KeyPage, Listing
from twisted_kv.membership import Seat, State
from twisted_kv.names import Key
from twisted_kv.views import View
from twisted_kv.wire.header import FORMAT
from twisted_kv.wire.pages import KeyRow, KeysPage

SEATS = tuple(Seat(node, f"http://{node}:1", incarnation="i") for node in "abc")


class Owners:
    """Three owners who read their page when they are asked; it arrives after a while."""

    def __init__(self, clock: Clock, page: list[KeyRow], arrives_s: dict[str, float]) -> None:
        self._clock = clock
        self._page = page
        self._arrives_s = arrives_s

    async def keys(self, seat: Seat, state: State, prefix: bytes, after: bytes, limit: int) -> KeysPage:
        await deferLater(self._clock, self._arrives_s[seat.id])
        return KeysPage(FORMAT, state.epoch, self._page, more=False)


def test_a_value_that_expires_while_a_slow_page_is_under_way_is_not_missed() -> None:
    clock = Clock()
    owners = Owners(clock, [KeyRow(b"refreshed", True, 10_000)], {"a": 0.0, "b": 0.0, "c": 20.0})
    view = View(State(1, "c-1", 4, vnodes=1, members=SEATS))

    def holds_value(key: Key) -> Deferred[bool]:
        raise AssertionError("the owners agree")

    listing = Listing(
        clock,
        lambda: int(clock.seconds() * 1000),
        Limits(),
        owners,
        lambda: view,
        lambda: None,
        set,
        holds_value,  # type: ignore[arg-type]
    )
    pages: list[KeyPage] = []
    ensureDeferred(listing.page(b"", b"", 9)).addCallback(pages.append)
    clock.pump([1.0] * 21)
    # Whoever refreshed it in time did so after the owners had read their pages: it was present throughout.
    assert pages == [KeyPage([Key(b"refreshed")], None)]
