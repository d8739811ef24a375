"""The courier: an owner that was away has what it missed soon after it is back. Nobody repairs here but the courier."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred

from tests.cluster.town import House, MakeTown, Town, value_of
from twisted_kv.names import Key
from twisted_kv.register import BLANK, Cell
from twisted_kv.ring import slot_of
from twisted_kv.storage.engine import Change
from twisted_kv.versions import Record, Version, decode_record

K = b"k"
KEYS = [b"k%d" % number for number in range(300)]
NEVER_S = 1e6


@pytest.fixture
def make_town(make_town: MakeTown) -> MakeTown:
    def make(proxies: int = 1, **limits: Any) -> Town:
        town = make_town(proxies=0)
        town.limits = replace(town.limits, repair_interval_s=NEVER_S, sweep_interval_s=NEVER_S, **limits)
        for _ in range(proxies):
            town.open_proxy()
        town.settle(3)
        town.run(1)
        return town

    return make


def cell(house: House, key: bytes = K) -> Cell:
    return house.engine.get(slot_of(Key(key)), Key(key)) or BLANK


def value(house: House, key: bytes = K) -> bytes | None:
    record = cell(house, key).record
    return decode_record(record).value if record else None


def hints(town: Town) -> int:
    """Count the hints that nodes keep for others."""
    return sum(sum(house.replica.info().hints.values()) for house in town.houses.values())


def away(town: Town) -> House:
    """Cut the lines to one of the nodes."""
    house = list(town.houses.values())[-1]
    town.cut |= {(f"proxy{number}", house.url) for number in range(len(town.proxies))}
    return house


def back(town: Town, seconds: float = 10.0) -> None:
    town.cut.clear()
    town.run(seconds)


def replayed(town: Town) -> float:
    return sum(rooms.metrics.registry.get_sample_value("kv_hints_replayed_total") or 0 for rooms in town.proxies)


def heard(house: House, path: str, monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Keep what comes to a path of a node from now on."""
    usual, seen = house.handle, []

    def handle(where: str, body: bytes) -> Deferred[Any]:
        if where == path:
            seen.append(body)
        return usual(where, body)

    monkeypatch.setattr(house, "handle", handle)
    return seen


def test_an_owner_that_was_away_has_what_it_missed_under_the_same_ballots(make_town: MakeTown) -> None:
    town = make_town()
    late = away(town)
    town.wait(town.put(K, b"v"))
    town.run(10)
    assert (cell(late), hints(town)) == (BLANK, 1)
    back(town)
    assert len({cell(house) for house in town.houses.values()}) == 1
    assert value(late) == b"v"
    assert (hints(town), replayed(town)) == (0, 1)


def test_a_value_that_was_deleted_meanwhile_does_not_come_back(make_town: MakeTown) -> None:
    town = make_town()
    town.wait(town.put(K, b"v"))
    town.run(1)
    late = away(town)
    town.wait(town.put(K, b"w"))
    town.wait(town.put(K, None))
    town.run(10)
    assert value(late) == b"v"
    back(town)
    assert decode_record(cell(late).record).value is None
    assert value_of(town.wait(town.get(K))) is None
    assert hints(town) == 0


def test_what_is_more_than_a_page_is_brought_page_by_page_and_once(make_town: MakeTown) -> None:
    town = make_town(hints_page_max=64)
    late = away(town)
    for key in KEYS:
        town.wait(town.put(key, key))
    town.run(10)
    assert hints(town) == len(KEYS)
    back(town)
    assert [value(late, key) for key in KEYS] == KEYS
    assert (hints(town), replayed(town)) == (0, len(KEYS))


def test_of_two_proxies_one_replays(make_town: MakeTown) -> None:
    town = make_town(proxies=2)
    late = away(town)
    for key in KEYS[:50]:
        town.wait(town.put(key, key, proxy=len(key) % 2))
    town.run(10)
    back(town)
    assert [value(late, key) for key in KEYS[:50]] == KEYS[:50]
    assert (hints(town), replayed(town)) == (0, 50)


def test_what_the_owner_has_of_later_stays(make_town: MakeTown) -> None:
    town = make_town()
    late = away(town)
    town.wait(town.put(K, b"missed"))
    town.run(10)
    newer = town.proxies[0].mover._hybrid.tick()
    record = Record(Version(newer), b"newer").encode()
    late.engine.apply([Change(slot_of(Key(K)), Key(K), Cell(newer, newer, record))])
    back(town)
    assert value(late) == b"newer"
    assert hints(town) == 0


def test_where_the_owner_has_promised_not_to_take_it_the_key_is_proposed_again(make_town: MakeTown) -> None:
    town = make_town()
    late = away(town)
    town.wait(town.put(K, b"v"))
    town.run(10)
    promised = town.proxies[0].mover._hybrid.tick()
    late.engine.apply([Change(slot_of(Key(K)), Key(K), Cell(promised, BLANK.accepted, b""))])
    back(town)
    assert value(late) == b"v"
    assert cell(late).accepted > promised
    assert len({cell(house) for house in town.houses.values()}) == 1
    assert hints(town) == 0


def test_hints_for_who_does_not_answer_are_kept_and_not_read(
    make_town: MakeTown, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = make_town()
    away(town)
    town.wait(town.put(K, b"v"))
    seen = [heard(house, "hints", monkeypatch) for house in town.houses.values()]
    town.run(60)
    assert (sum(map(len, seen)), hints(town)) == (0, 1)


def test_a_hint_that_could_not_be_brought_is_brought_later(
    make_town: MakeTown, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = make_town()
    late = away(town)
    town.wait(town.put(K, b"v"))
    town.run(10)
    usual = late.handle

    def deaf_to_batches(path: str, body: bytes) -> Deferred[Any]:
        return usual(path, body) if path != "batch" else Deferred()

    monkeypatch.setattr(late, "handle", deaf_to_batches)
    back(town, 20)
    assert (cell(late), hints(town)) == (BLANK, 1)
    monkeypatch.undo()
    town.run(10)
    assert (value(late), hints(town)) == (b"v", 0)


def test_hints_for_who_has_left_are_brought_to_the_present_owners_and_forgotten(make_town: MakeTown) -> None:
    town = make_town()
    late = away(town)
    late.crash()
    for key in KEYS[:20]:
        town.wait(town.put(key, key))
    town.run(10)
    assert hints(town) > 0
    roster = town.proxies[0].roster
    gone = next(seat.id for seat in roster.state.members if seat.url == late.url)
    town.wait(ensureDeferred(roster.leave(gone, dead=True)))
    town.run(10)
    left = [house for house in town.houses.values() if house is not late]
    assert sum(sum(house.replica.info().hints.values()) for house in left) == 0
    assert [[value(house, key) for key in KEYS[:20]] for house in left] == [KEYS[:20]] * 2


def test_hints_for_who_forgot_all_are_no_hindrance_to_its_rebuild(make_town: MakeTown) -> None:
    town = make_town()
    late = away(town)
    for key in KEYS[:20]:
        town.wait(town.put(key, key))
    town.run(10)
    late.forget()
    back(town, 20)
    assert [value(late, key) for key in KEYS[:20]] == KEYS[:20]
    assert hints(town) == 0


def test_a_hint_of_a_key_that_its_keeper_does_not_hold_is_forgotten(make_town: MakeTown) -> None:
    town = make_town()
    late = away(town)
    town.wait(town.put(K, b"v"))
    town.run(10)
    for house in town.houses.values():
        house.engine.apply([Change(slot_of(Key(K)), Key(K), None)])
    back(town)
    assert (cell(late), hints(town)) == (BLANK, 0)


def test_a_write_that_everybody_took_leaves_no_hint(make_town: MakeTown) -> None:
    town = make_town()
    for key in KEYS[:30]:
        town.wait(town.put(key, key))
    town.run(5)
    assert (hints(town), replayed(town)) == (0, 0)
