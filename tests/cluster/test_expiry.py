"""Values that expire: absent for everybody from then on, whoever reads them, and buried where nobody does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.defer import ensureDeferred

from tests.cluster.town import House, MakeTown, Town, value_of
from twisted_kv.conditional import Draft, leave
from twisted_kv.errors import Unreached
from twisted_kv.names import Key
from twisted_kv.preconditions import Precondition, Verdict
from twisted_kv.quorum import Level
from twisted_kv.ring import slot_of
from twisted_kv.rooms import Rooms
from twisted_kv.sharing import Changed
from twisted_kv.versions import Record, decode_record

K = b"k"
TTL_S = 10.0
HOUR_MS = 3_600_000


@pytest.fixture
def make_town(make_town: MakeTown) -> MakeTown:
    def make(*skews_ms: int, sweep_s: float = 1e6) -> Town:
        """Build a town of three nodes, with a proxy for each skew, which sweeps when the test says so."""
        town = make_town(proxies=0)
        town.limits = replace(town.limits, sweep_interval_s=sweep_s)
        for skew_ms in skews_ms or (0,):
            town.open_proxy(skew_ms)
        town.settle(3)
        town.run(1)
        return town

    return make


def put(town: Town, key: bytes = K, value: bytes = b"v", ttl_s: float = TTL_S, level: Level = Level.ALL) -> None:
    expires_ms = town.wall_ms() + round(ttl_s * 1000)
    town.wait(town.proxies[0].coordinator.put(Key(key), value, b"", level, expires_ms))


def read(town: Town, key: bytes = K, level: Level = Level.STRONG, proxy: int = 0) -> bytes | None:
    return value_of(town.wait(town.get(key, proxy, level)))


def change(town: Town, precondition: Precondition, value: bytes | None, proxy: int = 0) -> Changed:
    def decide(held: Record | None) -> Draft | None:
        return Draft(value) if precondition.judge(held) is Verdict.MET else None

    changed: Changed = town.wait(town.proxies[proxy].coordinator.change(Key(K), decide))
    return changed


def sweep(rooms: Rooms, town: Town) -> None:
    town.wait(ensureDeferred(rooms.sweeper.sweep()))


def held(house: House, key: bytes = K) -> Record | None:
    cell = house.engine.get(slot_of(key), Key(key))
    return decode_record(cell.record) if cell is not None and cell.record else None


def tombstones(town: Town, key: bytes = K) -> int:
    """How many nodes hold a tombstone of a key."""
    records = [held(house, key) for house in town.houses.values()]
    return sum(record is not None and record.value is None for record in records)


def proposals(town: Town) -> list[Any]:
    return [house.engine.get(slot_of(K), Key(K)) for house in town.houses.values()]


def test_an_expired_value_is_absent_and_its_owners_hold_a_tombstone_once_it_was_read(make_town: MakeTown) -> None:
    town = make_town()
    put(town)
    town.run(TTL_S - 0.1)
    assert read(town) == b"v"
    town.run(0.2)
    assert tombstones(town) == 0
    assert read(town) is None
    town.run(1)
    assert tombstones(town) == 3


def test_a_value_without_a_ttl_outlives_everything(make_town: MakeTown) -> None:
    town = make_town(0, HOUR_MS)
    town.wait(town.put(K, b"v"))
    town.run(2 * TTL_S)
    for proxy in (0, 1):
        sweep(town.proxies[proxy], town)
        assert read(town, proxy=proxy) == b"v"


@pytest.mark.parametrize("level", [Level.STRONG, Level.ALL])
def test_the_record_of_an_expired_value_lists_the_version_that_it_replaced(make_town: MakeTown, level: Level) -> None:
    town = make_town()
    put(town)
    before = held(next(iter(town.houses.values())))
    town.run(TTL_S + 1)
    assert read(town, level=level) is None
    town.run(1)
    assert before is not None
    for house in town.houses.values():
        record = held(house)
        assert record is not None
        assert record.before == (before.version,)


def test_level_one_judges_by_its_own_clock_and_proposes_nothing(make_town: MakeTown) -> None:
    town = make_town(0, HOUR_MS)
    put(town)
    before = proposals(town)
    assert read(town, level=Level.ONE, proxy=1) is None
    assert read(town, level=Level.ONE, proxy=0) == b"v"
    town.run(TTL_S + 1)
    assert read(town, level=Level.ONE, proxy=0) is None
    assert proposals(town) == before


def test_a_clock_an_hour_ahead_expires_a_value_early_and_for_everybody(make_town: MakeTown) -> None:
    town = make_town(0, HOUR_MS)
    put(town)
    assert read(town, proxy=0) == b"v"
    assert read(town, proxy=1) is None
    for proxy in (0, 1, 0, 1):
        assert read(town, proxy=proxy) is None
        assert read(town, proxy=proxy, level=Level.ALL) is None


def test_a_clock_an_hour_behind_sees_a_value_until_somebody_has_expired_it(make_town: MakeTown) -> None:
    town = make_town(0, -HOUR_MS)
    put(town)
    town.run(TTL_S + 1)
    assert read(town, proxy=1) == b"v"
    assert read(town, proxy=0) is None
    assert read(town, proxy=1) is None


def test_readers_with_different_clocks_never_see_an_expired_value_again(make_town: MakeTown) -> None:
    """All read at once, over and over: once a read has ended with absent, no later one may find the value."""
    town = make_town(0, 700, -700)
    put(town)
    town.run(TTL_S - 1)
    reads: list[tuple[float, list[tuple[float, bytes | None]]]] = []
    for number in range(90):
        seen: list[tuple[float, bytes | None]] = []
        reads.append((town.clock.seconds(), seen))
        done = town.proxies[number % 3].coordinator.get(Key(K), Level.STRONG)
        done.addCallback(lambda done, seen=seen: seen.append((town.clock.seconds(), value_of(done))))
        town.run(0.02 if number % 5 else 0.05)
    town.run(3)
    first_absent = min(ended for _, seen in reads for ended, value in seen if value is None)
    assert [value for began, seen in reads if began < first_absent for _, value in seen].count(b"v") > 0
    assert {value for began, seen in reads if began > first_absent for _, value in seen} == {None}


def test_a_put_over_an_expired_value_holds(make_town: MakeTown) -> None:
    town = make_town()
    put(town)
    town.run(TTL_S + 1)
    town.wait(town.put(K, b"new"))
    sweep(town.proxies[0], town)
    town.run(TTL_S)
    sweep(town.proxies[0], town)
    assert read(town) == b"new"


def test_a_put_with_a_ttl_over_one_with_a_shorter_one_prolongs_it(make_town: MakeTown) -> None:
    town = make_town()
    put(town)
    put(town, ttl_s=5 * TTL_S)
    town.run(2 * TTL_S)
    sweep(town.proxies[0], town)
    assert read(town) == b"v"
    town.run(4 * TTL_S)
    assert read(town) is None


def test_if_match_on_an_expired_version_fails_and_makes_the_key_absent_for_everybody(make_town: MakeTown) -> None:
    town = make_town(0, -HOUR_MS)
    put(town)
    version = held(next(iter(town.houses.values()))).version  # type: ignore[union-attr]
    town.run(TTL_S + 1)
    changed = change(town, Precondition(match=frozenset({version.hex()})), b"new")
    assert not changed.changed
    assert changed.record is not None
    assert changed.record.value is None
    assert read(town, proxy=1) is None


def test_if_none_match_of_anything_succeeds_on_an_expired_value(make_town: MakeTown) -> None:
    town = make_town()
    put(town)
    town.run(TTL_S + 1)
    assert change(town, Precondition(none_match=frozenset({"*"})), b"new").changed
    assert read(town) == b"new"
    assert not change(town, Precondition(none_match=frozenset({"*"})), b"newer").changed


def test_an_expired_value_is_not_absent_where_no_majority_can_be_told_so(make_town: MakeTown) -> None:
    town = make_town()
    put(town)
    town.run(TTL_S + 1)
    houses = list(town.houses.values())
    for house in houses[:2]:
        house.crash()
    with pytest.raises(Unreached):
        read(town)
    assert read(town, level=Level.ONE) is None


def test_a_value_that_expires_while_an_owner_is_down_does_not_come_back_with_it(make_town: MakeTown) -> None:
    town = make_town()
    put(town)
    away = next(iter(town.houses.values()))
    town.cut.add(("proxy0", away.url))
    town.run(TTL_S + 1)
    assert read(town) is None
    assert held(away).value == b"v"  # type: ignore[union-attr]
    town.cut.clear()
    for _ in range(6):
        assert read(town) is None


# The sweep.


def test_values_that_nobody_reads_are_buried_by_themselves(make_town: MakeTown) -> None:
    town = make_town(sweep_s=2.0)
    keys = [b"k%d" % number for number in range(150)]
    for key in keys:
        put(town, key, ttl_s=1 + TTL_S)
    town.wait(town.put(b"stays", b"v"))
    town.run(3 * TTL_S)
    assert [tombstones(town, key) for key in keys] == [3] * len(keys)
    assert town.proxies[0].metrics.registry.get_sample_value("kv_expired_swept_total") == len(keys)
    assert read(town, b"stays") == b"v"


def test_an_owner_whom_tombstones_missed_is_given_them_when_it_is_back(make_town: MakeTown) -> None:
    """Hints name it; without them the sweep does it, which asks all owners."""
    town = make_town()
    keys = [b"k%d" % number for number in range(40)]
    for key in keys:
        put(town, key)
    away = next(iter(town.houses.values()))
    town.run(TTL_S + 1)
    town.cut.add(("proxy0", away.url))
    assert {read(town, key) for key in keys} == {None}
    town.run(20)  # what still waits for the line is lost on it too
    assert [tombstones(town, key) for key in keys] == [2] * len(keys)
    town.cut.clear()
    town.run(10)
    assert [tombstones(town, key) for key in keys] == [3] * len(keys)


def test_two_proxies_that_sweep_at_once_leave_one_tombstone(make_town: MakeTown) -> None:
    town = make_town(0, 0)
    put(town)
    town.run(TTL_S + 1)
    sweeps = [ensureDeferred(rooms.sweeper.sweep()) for rooms in town.proxies]
    for sweeping in sweeps:
        town.wait(sweeping)
    town.run(1)
    assert read(town) is None
    assert len({held(house) for house in town.houses.values()}) == 1


def test_the_sweep_goes_on_while_a_node_is_down(make_town: MakeTown) -> None:
    town = make_town(sweep_s=2.0)
    put(town)
    houses = list(town.houses.values())
    houses[0].crash()
    town.run(TTL_S + 20)
    assert tombstones(town) == 2


def test_a_majority_that_is_down_does_not_end_the_sweeps(make_town: MakeTown) -> None:
    town = make_town(sweep_s=2.0)
    put(town)
    lines = {("proxy0", house.url) for house in list(town.houses.values())[:2]}
    town.cut |= lines
    town.run(TTL_S + 30)
    assert tombstones(town) == 0
    town.cut.clear()
    town.run(30)
    assert tombstones(town) == 3


def test_a_sweep_takes_no_value_that_was_put_anew_meanwhile(make_town: MakeTown) -> None:
    town = make_town()
    put(town)
    town.run(TTL_S + 1)
    sweeping = ensureDeferred(town.proxies[0].sweeper.sweep())
    writing = town.put(K, b"new")
    town.wait(sweeping)
    town.wait(writing)
    sweep(town.proxies[0], town)
    assert read(town) == b"new"


def test_what_expires_while_a_node_joins_is_swept_at_its_old_and_new_owners(make_town: MakeTown) -> None:
    town = make_town()
    for number in range(100):
        put(town, b"k%d" % number)
    town.run(TTL_S + 1)
    (house,) = town.build(1)
    town.slow_s["pull"] = 1.0
    adding = ensureDeferred(town.proxies[0].roster.add(house.url, 1))
    town.until(lambda: town.proxies[0].mover.filling is not None)
    sweep(town.proxies[0], town)
    assert town.proxies[0].roster.state.change is not None
    assert min(tombstones(town, b"k%d" % number) for number in range(100)) >= 2
    town.slow_s.clear()
    town.wait(adding)
    town.until(lambda: len(town.proxies[0].roster.state.members) == 4)
    for _ in range(3):
        sweep(town.proxies[0], town)
    town.run(1)
    assert {read(town, b"k%d" % number, Level.ONE) for number in range(100)} == {None}
    assert [tombstones(town, b"k%d" % number) for number in range(100)] == [3] * 100


def test_nothing_is_swept_in_a_closed_epoch(make_town: MakeTown) -> None:
    town = make_town()
    put(town)
    town.run(TTL_S + 1)
    for house in town.houses.values():
        house.restart()
    town.until(lambda: not town.proxies[0].roster.state.open)
    sweep(town.proxies[0], town)
    assert tombstones(town) == 0
    town.until(lambda: town.proxies[0].roster.state.open)
    assert read(town) is None


def test_a_read_that_shares_its_round_and_changes_nothing_leaves_a_living_value_alone(make_town: MakeTown) -> None:
    town = make_town()
    put(town)
    before = proposals(town)
    town.wait(town.proxies[0].coordinator.change(Key(K), leave))
    assert [cell.record for cell in proposals(town)] == [cell.record for cell in before]
    assert read(town) == b"v"
