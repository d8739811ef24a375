"""Listings of whole clusters: what is listed, in which order, and while the cluster changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest
from twisted.internet.defer import ensureDeferred

from tests.cluster.town import MakeTown, Town
from twisted_kv.errors import Unreached
from twisted_kv.listing import KeyPage
from twisted_kv.names import Key
from twisted_kv.quorum import Level
from twisted_kv.register import Cell
from twisted_kv.ring import slot_of
from twisted_kv.storage.engine import Change
from twisted_kv.versions import NONE, HybridClock, Record, Version


@pytest.fixture
def make_town(make_town: MakeTown) -> MakeTown:
    def make(nodes: int = 3, proxies: int = 1) -> Town:
        town = make_town(proxies=proxies)
        town.settle(nodes)
        town.run(1)
        return town

    return make


def fill(town: Town, keys: list[bytes]) -> None:
    waiting = [town.put(key, b"v", level=Level.ALL) for key in keys]
    for done in waiting:
        town.wait(done)


def page(town: Town, prefix: bytes = b"", after: bytes = b"", limit: int = 100, proxy: int = 0) -> KeyPage:
    found: KeyPage = town.wait(ensureDeferred(town.proxies[proxy].listing.page(prefix, after, limit)))
    return found


def listed(
    town: Town, prefix: bytes = b"", limit: int = 100, between: Callable[[], object] = lambda: None, proxy: int = 0
) -> list[bytes]:
    keys: list[bytes] = []
    after = b""
    while True:
        found = page(town, prefix, after, limit, proxy)
        assert len(found.keys) <= limit
        keys += found.keys
        if found.after is None:
            return keys
        assert found.after > after
        after = found.after
        between()


def random_keys(count: int, seed: int = 1) -> list[bytes]:
    draw = Random(seed)
    return sorted({bytes(draw.choices(b"\0/a\x7f\x80\xff", k=draw.randint(1, 8))) for _ in range(count)})


@pytest.mark.parametrize("nodes", [1, 3, 5])
@pytest.mark.parametrize("limit", [1, 13, 1_000])
def test_all_keys_are_listed_once_in_the_order_of_their_bytes(make_town: MakeTown, nodes: int, limit: int) -> None:
    town = make_town(nodes)
    keys = random_keys(150)
    fill(town, keys)
    assert listed(town, limit=limit) == keys


def test_a_prefix_bounds_a_listing_even_at_the_last_byte(make_town: MakeTown) -> None:
    town = make_town()
    keys = random_keys(150)
    fill(town, keys)
    for prefix in (b"a", b"a/", b"\0", b"\xff", b"\xff\xff", b"\x7f\x80", b"none"):
        assert listed(town, prefix, 7) == [key for key in keys if key.startswith(prefix)]


def test_a_page_begins_strictly_after_a_key_that_need_not_exist(make_town: MakeTown) -> None:
    town = make_town()
    fill(town, [b"a", b"b", b"c", b"pre/a", b"pre/b"])
    assert page(town, after=b"b").keys == [b"c", b"pre/a", b"pre/b"]
    assert page(town, after=b"aa").keys == [b"b", b"c", b"pre/a", b"pre/b"]
    assert page(town, b"pre/", b"a").keys == [b"pre/a", b"pre/b"]
    assert page(town, b"pre/", b"z") == KeyPage([], None)


def test_keys_that_were_deleted_have_expired_or_were_only_promised_are_not_listed(make_town: MakeTown) -> None:
    town = make_town()
    fill(town, [b"kept", b"deleted"])
    town.wait(town.put(b"deleted", None))
    coordinator = town.proxies[0].coordinator
    town.wait(coordinator.put(Key(b"brief"), b"v", b"", Level.STRONG, town.wall_ms() + 100))
    promised, ballot = Key(b"promised"), HybridClock(town.wall_ms, 9).tick()
    for house in town.houses.values():
        house.engine.apply([Change(slot_of(promised), promised, Cell(ballot, NONE, b""))])
    assert page(town).keys == [b"brief", b"kept"]
    town.run(0.2)
    assert page(town).keys == [b"kept"]


def test_an_owner_that_missed_the_last_writes_is_outvoted(make_town: MakeTown) -> None:
    town = make_town()
    fill(town, [b"deleted", b"kept"])
    stale, other, _ = town.houses.values()
    town.cut.add(("proxy0", stale.url))
    town.wait(town.put(b"deleted", None))
    town.wait(town.put(b"new", b"v"))
    town.cut.clear()
    town.run(2)
    assert page(town).keys == [b"kept", b"new"]
    # With the others' help only: one of the two that took the last writes is gone.
    other.crash()
    assert page(town).keys == [b"kept", b"new"]


def test_a_minority_that_is_down_is_not_missed_and_a_majority_is(make_town: MakeTown) -> None:
    town = make_town()
    fill(town, [b"a", b"b"])
    first, second, _ = town.houses.values()
    first.crash()
    assert page(town).keys == [b"a", b"b"]
    second.crash()
    with pytest.raises(Unreached) as caught:
        page(town)
    assert (caught.value.required, caught.value.acks, len(caught.value.replicas)) == (2, 1, 2)


def test_with_five_nodes_and_three_replicas_any_two_down_may_hide_a_majority_of_some_key(make_town: MakeTown) -> None:
    town = make_town(5)
    keys = random_keys(100)
    fill(town, keys)
    first, second, *_ = town.houses.values()
    first.crash()
    assert listed(town, limit=30) == keys
    second.crash()
    with pytest.raises(Unreached):
        page(town)


def test_a_key_that_is_present_throughout_is_listed_once_while_others_come_and_go(make_town: MakeTown) -> None:
    town = make_town(5)
    draw = Random(5)
    lasting = [b"%04d" % number for number in range(0, 400, 2)]
    fill(town, lasting)

    def others() -> None:
        for _ in range(10):
            key = b"%04d" % draw.randrange(1, 400, 2)
            town.put(key, draw.choice([b"v", None])).addErrback(lambda _: None)
        # A value that is overwritten is present all the same.
        town.put(draw.choice(lasting), b"w").addErrback(lambda _: None)

    keys = listed(town, limit=11, between=others)
    assert keys == sorted(set(keys))
    assert [key for key in keys if int(key) % 2 == 0] == lasting
    town.run(6)


def test_a_key_that_is_present_throughout_is_listed_once_while_nodes_are_added(make_town: MakeTown) -> None:
    town = make_town(3)
    keys = [b"%04d" % number for number in range(200)]
    fill(town, keys)

    def grow() -> None:
        if len(town.houses) < 6:
            town.settle(1)

    assert listed(town, limit=40, between=grow) == keys
    assert len(town.houses) > 5


def test_what_a_node_still_holds_of_slots_that_it_lost_is_not_listed(make_town: MakeTown) -> None:
    town = make_town(5)
    keys = random_keys(60)
    fill(town, keys)
    left_over = [b"left/%d" % number for number in range(60)]
    ballot = HybridClock(town.wall_ms, 9).tick()
    record = Record(Version(ballot), b"v").encode()
    view = town.proxies[0].roster.view
    assert view is not None
    for node, seat in view.seats.items():
        strange = [Key(key) for key in left_over if node not in view.table[slot_of(Key(key))]]
        assert strange
        cells = [Change(slot_of(key), key, Cell(ballot, ballot, record)) for key in strange]
        town.houses[seat.url].engine.apply(cells)
    assert listed(town, limit=17) == keys
    assert listed(town, b"left/") == []


def test_a_listing_waits_while_data_moves(make_town: MakeTown) -> None:
    town = make_town(3)
    keys = random_keys(100)
    fill(town, keys)
    (newcomer,) = town.build(1)
    adding = ensureDeferred(town.proxies[0].roster.add(newcomer.url, 1))
    found = []
    for _ in range(5):
        found.append(listed(town, limit=50))
        town.run(0.003)
    town.wait(adding)
    assert found == [keys] * 5
    assert listed(town) == keys


def test_a_proxy_that_has_not_heard_of_the_newest_epoch_lists_all_the_same(make_town: MakeTown) -> None:
    town = make_town(3, proxies=2)
    keys = random_keys(100)
    fill(town, keys)
    for _ in range(2):
        town.settle(1)
        assert page(town, limit=1_000, proxy=1).keys == keys


def test_a_listing_of_one_proxy_stands_a_change_that_another_one_drives(make_town: MakeTown) -> None:
    town = make_town(3, proxies=2)
    keys = random_keys(100)
    fill(town, keys)
    for _ in range(3):
        (newcomer,) = town.build(1)
        adding = ensureDeferred(town.proxies[0].roster.add(newcomer.url, 1))
        ended: list[object] = []
        adding.addCallback(ended.append)
        while not ended:
            assert listed(town, limit=30, proxy=1) == keys
            town.run(0.003)


def test_nodes_that_give_smaller_pages_than_they_are_asked_for_hide_nothing(make_town: MakeTown) -> None:
    town = make_town(3)
    keys = random_keys(100)
    fill(town, keys)
    for house in town.houses.values():
        house.replica._limits = replace(town.limits, keys_page_max=7)
    assert listed(town, limit=1_000) == keys


def test_a_page_among_tombstones_ends_in_time_and_says_where_to_go_on(make_town: MakeTown) -> None:
    town = make_town(3)
    keys = [b"%03d" % number for number in range(300)]
    fill(town, keys)
    for key in keys[:-1]:
        town.put(key, None)
    town.run(1)
    for house in town.houses.values():
        house.replica._limits = replace(town.limits, keys_page_max=10)
    town.delays_s = (0.3, 0.4)  # a page of a node takes 0.7 s, and there are 30
    found = page(town, limit=5)
    assert found.keys == []
    assert found.after is not None
    assert listed(town, limit=5) == keys[-1:]


def test_a_listing_over_bad_lines_is_whole_or_an_error(make_town: MakeTown) -> None:
    town = make_town(3)
    keys = random_keys(60)
    fill(town, keys)
    town.loss = 0.1
    whole = 0
    for _ in range(20):
        try:
            assert page(town).keys == keys
            whole += 1
        except Unreached:
            town.run(1)
    assert whole
    town.loss = 0.0
