"""The mender: owners become alike without anybody reading, and forget together what nobody needs any more.

No hint is ever replayed here, but for where it is said.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred

from tests.cluster.town import House, MakeTown, Town, value_of
from tests.rooms.nodes import Spoilt
from twisted_kv.errors import ChangeFailed
from twisted_kv.membership import Wish, wished
from twisted_kv.names import Key, NodeId, Slot
from twisted_kv.quorum import Level
from twisted_kv.register import BLANK, NO_FLOOR, Cell
from twisted_kv.ring import SLOTS, slot_of
from twisted_kv.storage.engine import Change
from twisted_kv.versions import decode_record

K = b"k"
KEYS = [b"k%d" % number for number in range(60)]
GRACE_S = 30.0
NEVER_S = 1e6


class Scratched(Spoilt):
    """An engine some of whose keys cannot be read until they are replaced."""

    __slots__ = ()

    def replace_damaged(self, slot: Slot, key: Key, cell: Cell | None) -> None:
        self.unreadable.discard(key)
        super().replace_damaged(slot, key, cell)


@pytest.fixture
def make_town(make_town: MakeTown) -> MakeTown:
    def make(houses: int = 3, **limits: Any) -> Town:
        town = make_town(proxies=0)
        quiet = {"sweep_interval_s": NEVER_S, "purge_grace_s": GRACE_S}
        town.limits = replace(town.limits, **(quiet | limits))
        rooms = town.open_proxy()
        town.wait(rooms.courier.stop())
        for house in town.build(houses):
            house.engine = Scratched()
            house._start()
            town.settle_one(house)
        town.run(1)
        return town

    return make


def cell(house: House, key: bytes = K) -> Cell:
    return house.engine.get(slot_of(Key(key)), Key(key)) or BLANK


def value(house: House, key: bytes = K) -> bytes | None:
    record = cell(house, key).record
    return decode_record(record).value if record else None


def put_cell(house: House, key: bytes, held: Cell | None) -> None:
    house.engine.apply([Change(slot_of(Key(key)), Key(key), held)])


def scratch(house: House, key: bytes = K) -> None:
    assert isinstance(house.engine, Scratched)
    house.engine.unreadable.add(key)


def cut(town: Town, house: House) -> None:
    town.cut.add(("proxy0", house.url))


def alike(town: Town) -> bool:
    """Whether all nodes hold the same, cell by cell but for bare promises, under the same floors."""
    held = []
    for house in town.houses.values():
        cells = house.engine.scan(Slot(0), Slot(SLOTS - 1), None, 10**6)
        rows = [(key, each.accepted, each.record) for _, key, each in cells if each is not None and each.record]
        held.append(
            (rows, {slot: floor.accepted for slot, floor in house.engine.floors(Slot(0), Slot(SLOTS - 1)).items()})
        )
    return all(each == held[0] for each in held)


def graves(town: Town) -> int:
    """Count what is kept without being a value."""
    return sum(sum(house.engine.graves(Slot(0), Slot(SLOTS - 1))) for house in town.houses.values())


def repaired(town: Town) -> float | None:
    return town.proxies[0].metrics.registry.get_sample_value("kv_repaired_keys_total")


# Making owners alike.


@pytest.mark.parametrize("lacking", [1, 2])
def test_what_owners_lack_they_get_without_anybody_reading_it(make_town: MakeTown, lacking: int) -> None:
    town = make_town()
    for key in KEYS:
        town.wait(town.put(key, key, level=Level.ALL))
    for house in list(town.houses.values())[:lacking]:
        for key in KEYS:
            put_cell(house, key, None)
    town.run(30)
    assert [[value(house, key) for key in KEYS] for house in town.houses.values()] == [KEYS] * 3
    assert repaired(town) == len(KEYS)


def test_an_older_value_gives_way_to_the_newer_one_and_a_delete_is_not_undone(make_town: MakeTown) -> None:
    town = make_town(purge_grace_s=inf)
    late = list(town.houses.values())[-1]
    for key in (b"changed", b"deleted"):
        town.wait(town.put(key, b"old", level=Level.ALL))
    cut(town, late)
    town.wait(town.put(b"changed", b"new"))
    town.wait(town.put(b"deleted", None))
    town.run(10)
    assert (value(late, b"changed"), value(late, b"deleted")) == (b"old", b"old")
    town.cut.clear()
    town.run(40)
    assert (value(late, b"changed"), value(late, b"deleted")) == (b"new", None)
    assert alike(town)


def test_a_write_of_level_one_spreads_to_all_owners(make_town: MakeTown) -> None:
    town = make_town()
    first = next(iter(town.houses.values()))
    town.wait(first.replica.write_local(Key(K), b"v"))
    town.run(30)
    assert [value(house) for house in town.houses.values()] == [b"v"] * 3


def test_owners_who_agree_are_left_alone(make_town: MakeTown) -> None:
    town = make_town()
    for key in KEYS:
        town.wait(town.put(key, key, level=Level.ALL))
    before = [cell(house, key) for house in town.houses.values() for key in KEYS]
    batches: list[bytes] = []
    for house in town.houses.values():
        house.handle = _keeping(house.handle, "batch", batches)  # type: ignore[method-assign]
    number = town.proxies[0].mender.number
    town.run(60)
    assert town.proxies[0].mender.number > number
    assert (batches, repaired(town)) == ([], 0)
    rounds = town.proxies[0].metrics.registry.get_sample_value
    assert rounds("kv_repair_rounds_total", {"outcome": "ok"}) == rounds("kv_repair_round_seconds_count") > 0
    assert rounds("kv_repair_differing_slots_total") == 0
    assert [cell(house, key) for house in town.houses.values() for key in KEYS] == before


def _keeping(usual: Callable[[str, bytes], Deferred[Any]], path: str, seen: list[bytes]) -> Any:
    def handle(where: str, body: bytes) -> Deferred[Any]:
        if where == path:
            seen.append(body)
        return usual(where, body)

    return handle


def test_two_of_three_owners_are_made_alike_while_the_third_is_away(make_town: MakeTown) -> None:
    town = make_town()
    first, second, third = town.houses.values()
    town.wait(town.put(K, b"v", level=Level.ALL))
    put_cell(first, K, None)
    third.crash()
    town.run(5)
    # A read at level all needs all of them, so only a client's read or write makes these two alike.
    assert value_of(town.wait(town.get(K))) == b"v"
    third.up = True
    town.run(30)
    assert [value(house) for house in (first, second, third)] == [b"v"] * 3


def test_more_keys_than_one_round_looks_at_are_repaired_by_the_next_ones(make_town: MakeTown) -> None:
    town = make_town(repair_keys_max=10, repair_at_once=3)
    late = next(iter(town.houses.values()))
    for key in KEYS:
        town.wait(town.put(key, key, level=Level.ALL))
        put_cell(late, key, None)
    number = town.proxies[0].mender.number
    town.run(150)
    assert town.proxies[0].mender.number - number > 3
    assert [value(late, key) for key in KEYS] == KEYS


def test_what_a_member_does_not_own_it_forgets_once_a_proxy_has_looked(make_town: MakeTown) -> None:
    town = make_town(houses=4)
    view = town.proxies[0].roster.view
    assert view is not None
    town.wait(town.put(K, b"v", level=Level.ALL))
    owners = view.table[slot_of(Key(K))]
    (stranger,) = (house for house in town.houses.values() if house.url not in {view.seats[o].url for o in owners})
    held = next(cell(house) for house in town.houses.values() if house is not stranger)
    put_cell(stranger, K, held)
    town.open_proxy()
    town.wait(town.proxies[1].courier.stop())
    town.wait(town.proxies[0].mender.stop())
    town.run(30)
    assert cell(stranger) == BLANK
    assert sum(value(house) == b"v" for house in town.houses.values()) == 3


def test_the_mender_rests_while_the_ring_changes(make_town: MakeTown) -> None:
    town = make_town()
    (newcomer,) = town.build(1)
    newcomer.handle = _deaf(newcomer.handle, "pull")  # type: ignore[method-assign]
    adding = ensureDeferred(town.proxies[0].roster.add(newcomer.url, 1))
    town.until(lambda: town.proxies[0].roster.state.change is not None)
    number = town.proxies[0].mender.number
    town.run(60)
    assert town.proxies[0].roster.state.change is not None
    assert town.proxies[0].mender.number == number
    del newcomer.handle
    town.until(lambda: town.proxies[0].roster.state.change is None)
    town.wait(adding)
    town.run(30)
    assert town.proxies[0].mender.number > number


def _deaf(usual: Callable[[str, bytes], Deferred[Any]], path: str) -> Any:
    return lambda where, body: Deferred() if where == path else usual(where, body)


# What an owner cannot read.


def test_a_record_that_an_owner_cannot_read_is_given_to_it_again_under_a_new_ballot(make_town: MakeTown) -> None:
    town = make_town()
    first, *_ = town.houses.values()
    town.wait(town.put(K, b"v", level=Level.ALL))
    before = cell(first).accepted
    scratch(first)
    first.replica.scrub(slot_of(Key(K)))
    assert first.replica.info().marks == 1
    town.run(40)
    assert value(first) == b"v"
    assert cell(first).accepted > before
    assert {cell(house).accepted for house in town.houses.values()} == {cell(first).accepted}
    assert first.replica.info().marks == 0


def test_what_only_one_owner_held_and_cannot_read_was_never_acknowledged_and_becomes_a_delete(
    make_town: MakeTown,
) -> None:
    town = make_town()
    first, *_ = town.houses.values()
    town.wait(first.replica.write_local(Key(K), b"v"))
    scratch(first)
    first.replica.scrub(slot_of(Key(K)))
    town.run(40)
    assert value_of(town.wait(town.get(K))) is None
    assert first.replica.info().marks == 0


def test_a_slot_stays_marked_until_all_its_owners_can_be_given_the_record(make_town: MakeTown) -> None:
    town = make_town()
    first, _, third = town.houses.values()
    town.wait(town.put(K, b"v", level=Level.ALL))
    scratch(first)
    first.replica.scrub(slot_of(Key(K)))
    third.crash()
    town.run(40)
    assert first.replica.info().marks == 1
    third.up = True
    town.run(40)
    assert first.replica.info().marks == 0
    assert value(first) == b"v"


def test_a_member_that_cannot_read_part_of_its_data_is_renewed_when_all_others_are_whole(make_town: MakeTown) -> None:
    town = make_town()
    first, second, _ = town.houses.values()
    renewed: list[str] = []
    for house in town.houses.values():
        house.replica.on_renewal = lambda url=house.url: renewed.append(url)
    first.replica.spoiled = second.replica.spoiled = True
    town.run(40)
    assert renewed == [], "of two that cannot read, each may hold what the other one lost"
    second.replica.spoiled = False
    town.until(lambda: bool(renewed))
    assert set(renewed) == {first.url}


def test_no_member_is_renewed_while_another_one_has_slots_to_be_repaired_or_is_away(make_town: MakeTown) -> None:
    town = make_town()
    first, second, third = town.houses.values()
    renewed: list[str] = []
    first.replica.on_renewal = lambda: renewed.append(first.url)
    town.wait(town.put(K, b"v", level=Level.ALL))
    scratch(second)
    second.replica.scrub(slot_of(Key(K)))
    third.crash()
    first.replica.spoiled = True
    town.run(40)
    assert renewed == []
    third.up = True
    town.until(lambda: bool(renewed))
    assert second.replica.info().marks == 0


# Purging.


def test_deletes_are_forgotten_by_all_owners_when_they_are_old_enough(make_town: MakeTown) -> None:
    town = make_town()
    for key in KEYS:
        town.wait(town.put(key, key, level=Level.ALL))
        town.wait(town.put(key, None, level=Level.ALL))
    town.wait(town.put(b"stays", b"v", level=Level.ALL))
    town.run(GRACE_S / 2)
    assert graves(town) == 3 * len(KEYS)
    town.run(4 * GRACE_S)
    assert graves(town) == 0
    assert alike(town)
    assert {value_of(town.wait(town.get(key))) for key in KEYS} == {None}
    assert value_of(town.wait(town.get(b"stays"))) == b"v"


@pytest.mark.parametrize("level", list(Level))
def test_a_purged_key_is_written_and_read_as_any_other(make_town: MakeTown, level: Level) -> None:
    town = make_town()
    town.wait(town.put(K, b"old", level=Level.ALL))
    town.wait(town.put(K, None, level=Level.ALL))
    town.run(5 * GRACE_S)
    assert graves(town) == 0
    assert value_of(town.wait(town.get(K, level=level))) is None
    town.wait(town.put(K, b"new", level=level))
    town.run(1)
    assert value_of(town.wait(town.get(K, level=level))) == b"new"


def test_nothing_is_forgotten_while_an_owner_is_away_that_may_still_hold_the_value(make_town: MakeTown) -> None:
    town = make_town()
    late = list(town.houses.values())[-1]
    town.wait(town.put(K, b"v", level=Level.ALL))
    cut(town, late)
    town.wait(town.put(K, None))
    town.run(10 * GRACE_S)
    assert value(late) == b"v"
    assert graves(town) == 2
    town.cut.clear()
    town.run(5 * GRACE_S)
    assert graves(town) == 0
    assert [cell(house) for house in town.houses.values()] == [BLANK] * 3
    assert value_of(town.wait(town.get(K))) is None


def test_with_an_infinite_grace_nothing_is_ever_forgotten(make_town: MakeTown) -> None:
    town = make_town(purge_grace_s=inf)
    town.wait(town.put(K, None, level=Level.ALL))
    town.run(600)
    assert graves(town) == 3
    assert [house.engine.floor(slot_of(Key(K))) for house in town.houses.values()] == [NO_FLOOR] * 3


def test_a_purge_that_some_owners_have_only_promised_is_finished(make_town: MakeTown) -> None:
    town = make_town(purge_grace_s=inf)
    houses = list(town.houses.values())
    town.wait(town.put(K, None, level=Level.ALL))
    rooms, slot = town.proxies[0], slot_of(Key(K))
    state, floor = rooms.roster.state, rooms.mover._hybrid.tick()
    seats = {seat.url: seat for seat in state.members}
    for house in houses:
        slots = [(int(slot), house.engine.digests(slot, slot)[0])]
        town.wait(ensureDeferred(rooms.mover._control.purge(seats[house.url], state, floor, slots, final=False)))
    first = ensureDeferred(rooms.mover._control.purge(seats[houses[0].url], state, floor, [(int(slot), 0)], final=True))
    assert town.wait(first) == [slot]
    assert (cell(houses[0]), graves(town)) == (BLANK, 2)
    assert value_of(town.wait(town.get(K))) is None
    town.run(30)
    assert graves(town) == 0
    assert {house.engine.floor(slot).accepted for house in houses} == {floor}
    assert repaired(town) == 0, "who has forgotten and who has not yet agree"


def test_an_owner_that_takes_the_place_of_another_one_takes_the_floors_along(make_town: MakeTown) -> None:
    town = make_town()
    for key in KEYS:
        town.wait(town.put(key, key, level=Level.ALL))
        town.wait(town.put(key, None, level=Level.ALL))
    town.run(5 * GRACE_S)
    assert graves(town) == 0
    (newcomer,) = town.settle(1)
    view = town.proxies[0].roster.view
    assert view is not None
    me = next(NodeId(seat.id) for seat in view.seats.values() if seat.url == newcomer.url)
    mine = [slot for slot in map(slot_of, map(Key, KEYS)) if me in view.table[slot]]
    others = list(town.houses.values())[:3]
    assert mine
    for slot in mine:
        assert newcomer.engine.floor(slot).accepted == max(house.engine.floor(slot).accepted for house in others)
    town.run(60)
    assert {value_of(town.wait(town.get(key))) for key in KEYS} == {None}
    assert graves(town) == 0


# Before fewer hold something.


def test_a_cluster_is_not_shrunk_before_those_who_stay_can_read_what_they_hold(make_town: MakeTown) -> None:
    town = make_town()
    first, second, third = town.houses.values()
    roster = town.proxies[0].roster
    for key in KEYS:
        town.wait(town.put(key, b"v"))

    def leave(house: House) -> Deferred[Any]:
        (member,) = [seat.id for seat in roster.state.members if seat.url == house.url]
        return ensureDeferred(roster.leave(member))

    scratch(first, KEYS[0])
    for _ in range(2):
        # At the second time its digest is the one of nothing: it counts what could be read at the first.
        with pytest.raises(ChangeFailed, match=r"in 1 slots of n-\w+ something cannot be read"):
            town.wait(leave(third))
    assert len(roster.state.members) == 3
    assert isinstance(first.engine, Scratched)
    town.until(lambda: first.engine.unreadable == set())
    town.wait(leave(third))
    town.wait(leave(second))
    for key in KEYS:
        assert value_of(town.wait(town.get(key))) == b"v"


def test_a_refused_leave_that_nobody_waits_for_any_more_is_given_up(make_town: MakeTown) -> None:
    """It would keep all that is wished beside it from being done, such as the rebuild of a member."""
    town = make_town()
    first, _, third = town.houses.values()
    roster = town.proxies[0].roster
    for key in KEYS:
        town.wait(town.put(key, b"v"))
    scratch(first, KEYS[0])
    (seat,) = [seat for seat in roster.state.members if seat.url == third.url]
    town.wait(ensureDeferred(roster._update(lambda state: wished(state, Wish(seat, leaves=True)))))
    assert roster.state.pending
    town.until(lambda: not roster.state.pending)
    assert len(roster.state.members) == 3
