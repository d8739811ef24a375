"""Members that leave, drained or dead; changes that are taken back; and clients who notice nothing of either."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred

from tests.cluster.town import House, MakeTown, Town, value_of
from twisted_kv.errors import BadParameter, ChangeFailed, KvError, MayRemember, NoSuchMember, NoSuchTask
from twisted_kv.membership import Seat, State
from twisted_kv.names import Key, Slot
from twisted_kv.quorum import Level
from twisted_kv.ring import SLOTS, slot_of
from twisted_kv.simulation.linearizability import violation
from twisted_kv.web.tasks import task_of

KEYS = [b"k%d" % number for number in range(80)]


@pytest.fixture
def make_town(make_town: MakeTown) -> MakeTown:
    def make(count: int, seed: int = 1, proxies: int = 1) -> Town:
        town = make_town(seed, proxies=proxies)
        town.settle(count)
        town.run(1)
        for key in KEYS:
            town.wait(town.put(key, b"v" + key))
        return town

    return make


def state_of(town: Town) -> State:
    return town.proxies[0].roster.state


def seat_of(town: Town, house: House) -> Seat:
    return next(seat for seat in state_of(town).members if seat.url == house.url)


def leave(town: Town, house: House, dead: bool = False) -> Deferred[Any]:
    return ensureDeferred(town.proxies[0].roster.leave(seat_of(town, house).id, dead))


def cancel(town: Town) -> None:
    change = state_of(town).change
    assert change is not None
    town.wait(ensureDeferred(town.proxies[0].roster.cancel(change.id)))


def still(town: Town) -> bool:
    """Whether the ring neither changes nor shall."""
    return state_of(town).change is None and not state_of(town).pending


def houses_of(town: Town) -> list[House]:
    return list(town.houses.values())


def values(town: Town) -> set[bytes | None]:
    """What the keys hold, each without its own name: one value, if all is well."""
    found = {key: value_of(town.wait(town.get(key))) for key in KEYS}
    return {value.removesuffix(key) if value is not None else None for key, value in found.items()}


def stray(town: Town) -> list[tuple[str, bytes]]:
    """What nodes hold, members or not, that they do not own."""
    view = town.proxies[0].roster.view
    assert view is not None
    ids = {seat.url: seat.id for seat in state_of(town).members}
    return [
        (house.url, change.key)
        for house in houses_of(town)
        for change in house.engine.scan(Slot(0), Slot(SLOTS - 1), None, 1 << 20)
        if ids.get(house.url) not in view.ring.owners(change.key)
    ]


def copies(town: Town, key: bytes) -> int:
    cells = [house.engine.get(slot_of(key), Key(key)) for house in houses_of(town)]
    return sum(cell is not None and bool(cell.record) for cell in cells)


# Drained.


@pytest.mark.parametrize("seed", range(3))
def test_a_member_leaves_while_clients_write_and_every_value_is_where_it_belongs(
    make_town: MakeTown, seed: int
) -> None:
    town = make_town(4, seed=seed)
    house = houses_of(town)[1]
    town.slow_s["pull"] = 0.2
    leaving = leave(town, house)
    town.until(lambda: state_of(town).change is not None)
    served = 0
    while not still(town):
        key = town.random.choice(KEYS)
        town.wait(town.put(key, b"w%d" % served))
        town.wait(town.get(town.random.choice(KEYS)))
        served += 1
    town.wait(leaving)
    assert served > 20
    assert house.url not in {seat.url for seat in state_of(town).members}
    assert len(state_of(town).members) == 3
    for key in KEYS:
        town.wait(town.get(key))
    assert violation(town.history) is None
    town.run(5)
    assert stray(town) == []
    assert {copies(town, key) for key in KEYS} == {3}


def test_from_three_to_two_and_back_to_three_nothing_is_lost(make_town: MakeTown) -> None:
    town = make_town(3)
    house = houses_of(town)[0]
    town.cut.add(("proxy0", houses_of(town)[1].url))
    # What two of three acknowledged, one of whom is about to leave.
    for key in KEYS:
        town.wait(town.put(key, b"w" + key))
    town.cut.clear()
    town.wait(leave(town, house))
    town.until(lambda: still(town))
    assert len(state_of(town).members) == 2
    assert values(town) == {b"w"}
    assert house.engine.totals().keys == 0
    town.wait(ensureDeferred(town.proxies[0].roster.add(house.url, 1)))
    town.until(lambda: still(town))
    assert len(state_of(town).members) == 3
    assert values(town) == {b"w"}
    assert {copies(town, key) for key in KEYS} == {3}


def test_down_to_one_member_nothing_is_lost(make_town: MakeTown) -> None:
    town = make_town(3)
    for house in houses_of(town)[:2]:
        town.wait(leave(town, house))
        town.until(lambda: still(town))
    assert len(state_of(town).members) == 1
    assert values(town) == {b"v"}


def test_the_last_member_cannot_leave(make_town: MakeTown) -> None:
    town = make_town(1)
    with pytest.raises(BadParameter, match="last member"):
        town.wait(leave(town, houses_of(town)[0]))
    assert len(state_of(town).members) == 1
    assert still(town)
    assert values(town) == {b"v"}


def test_of_two_members_that_are_told_to_leave_at_once_one_stays(make_town: MakeTown) -> None:
    town = make_town(2)
    calls = [leave(town, house) for house in houses_of(town)]
    refused = 0
    for call in calls:
        try:
            town.wait(call)
        except BadParameter:
            refused += 1
    town.until(lambda: still(town))
    assert refused == 1
    assert len(state_of(town).members) == 1
    assert values(town) == {b"v"}


def test_who_is_no_member_cannot_leave(make_town: MakeTown) -> None:
    town = make_town(3)
    with pytest.raises(NoSuchMember):
        town.wait(ensureDeferred(town.proxies[0].roster.leave("n-nobody")))


def test_a_member_that_is_told_twice_to_leave_leaves_once(make_town: MakeTown) -> None:
    town = make_town(4, proxies=2)
    house = houses_of(town)[0]
    member = seat_of(town, house).id
    calls = [ensureDeferred(rooms.roster.leave(member)) for rooms in (*town.proxies, town.proxies[0])]
    for call in calls:
        town.wait(call)
    assert len(state_of(town).members) == 3
    assert values(town) == {b"v"}


def test_a_member_that_is_leaving_is_not_added_before_it_has_left(make_town: MakeTown) -> None:
    town = make_town(4)
    house = houses_of(town)[0]
    town.slow_s["pull"] = 0.5
    leaving = leave(town, house)
    town.until(lambda: state_of(town).change is not None)
    with pytest.raises(ChangeFailed, match="is leaving"):
        town.wait(ensureDeferred(town.proxies[0].roster.add(house.url, 2)))
    town.slow_s.clear()
    town.wait(leaving)
    town.until(lambda: still(town))
    assert len(state_of(town).members) == 3


def test_a_leave_that_waits_long_for_its_turn_stays_wished_for(make_town: MakeTown) -> None:
    town = make_town(4)
    house = list(town.houses.values())[1]
    mover = town.proxies[0].mover
    town.wait(mover.stop())
    asked = leave(town, house)
    assert town.wait(asked, 100) is False
    name = task_of(state_of(town), seat_of(town, house).id)
    assert name == f"wait-{seat_of(town, house).id}"
    mover.start()
    town.until(lambda: len(state_of(town).members) == 3)
    assert task_of(state_of(town), "n-who-has-left") is None


def test_who_has_left_starts_empty_when_it_is_added_again(make_town: MakeTown) -> None:
    town = make_town(4)
    house = houses_of(town)[0]
    member = seat_of(town, house).id
    kept = house.engine.totals().keys
    assert kept > 0
    town.wait(leave(town, house))
    town.until(lambda: still(town))
    town.run(2)
    assert house.engine.totals().keys == 0
    for key in KEYS:
        town.wait(town.put(key, None))
    town.wait(ensureDeferred(town.proxies[0].roster.add(house.url, 1)))
    town.until(lambda: still(town))
    assert seat_of(town, house).id == member, "it keeps its name"
    assert values(town) == {None}


def test_what_a_leaver_could_not_be_told_to_forget_does_not_come_back_with_it(make_town: MakeTown) -> None:
    town = make_town(4)
    house = houses_of(town)[0]
    kept = house.engine.totals().keys
    usual = house.handle

    def cut_before_it_forgets(path: str, body: bytes) -> Any:
        if path == "drop":
            town.cut.add(("proxy0", house.url))
            return Deferred()
        return usual(path, body)

    house.handle = cut_before_it_forgets  # type: ignore[method-assign]
    leaving = leave(town, house)
    town.until(lambda: len(state_of(town).members) == 3)
    town.wait(leaving)
    town.until(lambda: still(town))
    assert house.engine.totals().keys == kept > 0
    for key in KEYS:
        town.wait(town.put(key, None))
    house.handle = usual  # type: ignore[method-assign]
    town.cut.clear()
    town.run(20)
    town.wait(ensureDeferred(town.proxies[0].roster.add(house.url, 1)))
    town.until(lambda: still(town))
    assert values(town) == {None}
    assert house.engine.totals().keys == 0


# Dead.


def test_a_silent_member_does_not_leave_unless_it_is_said_to_be_dead(make_town: MakeTown) -> None:
    town = make_town(4)
    house = houses_of(town)[2]
    member = seat_of(town, house).id
    house.crash()
    with pytest.raises(MayRemember) as caught:
        town.wait(leave(town, house))
    assert f"/v1/cluster/nodes/{member}?dead=1" in caught.value.hint
    assert len(state_of(town).members) == 4
    assert still(town)


def test_a_dead_member_is_taken_out_and_the_others_have_all_copies(make_town: MakeTown) -> None:
    town = make_town(4)
    house = houses_of(town)[2]
    house.crash()
    town.wait(leave(town, house, dead=True))
    town.until(lambda: still(town))
    assert len(state_of(town).members) == 3
    assert values(town) == {b"v"}
    left = [other for other in houses_of(town) if other is not house]
    assert [other.engine.totals().keys for other in left] == [len(KEYS)] * 3


def test_who_answers_is_not_dead(make_town: MakeTown) -> None:
    town = make_town(4)
    with pytest.raises(BadParameter, match="answers, so it is not dead"):
        town.wait(leave(town, houses_of(town)[0], dead=True))
    assert len(state_of(town).members) == 4
    assert still(town)


def test_what_a_dead_member_alone_held_does_not_count_when_it_comes_back(make_town: MakeTown) -> None:
    town = make_town(4)
    house = houses_of(town)[2]
    others = [other for other in houses_of(town) if other is not house]
    town.run(1)
    town.cut = {("proxy0", other.url) for other in others}
    for key in KEYS:
        town.put(key, b"alone", level=Level.ONE).addErrback(lambda failure: failure.trap(KvError))
    town.run(20)
    town.cut.clear()
    town.cut.add(("proxy0", house.url))
    town.run(10)
    town.wait(leave(town, house, dead=True))
    town.until(lambda: still(town))
    for key in KEYS:
        town.wait(town.put(key, b"w" + key))
    town.cut.clear()
    town.run(20)
    assert len(state_of(town).members) == 3
    assert values(town) == {b"w"}


def test_a_dead_member_that_comes_back_in_the_middle_of_its_leaving_does_not_vote(make_town: MakeTown) -> None:
    town = make_town(4)
    house = houses_of(town)[2]
    member = seat_of(town, house).id
    town.cut.add(("proxy0", house.url))
    town.run(10)
    town.slow_s["pull"] = 0.3
    leaving = leave(town, house, dead=True)
    town.until(lambda: state_of(town).change is not None)
    town.cut.clear()
    view = town.proxies[0].roster.view
    assert view is not None
    assert all(member not in electorate.nodes for electorate in view.electorates)
    for key in KEYS[:20]:
        town.wait(town.put(key, b"v" + key))
    assert state_of(town).change is not None
    town.slow_s.clear()
    town.wait(leaving)
    town.until(lambda: still(town))
    assert values(town) == {b"v"}


def test_two_dead_of_four_cannot_be_taken_out_where_they_may_have_held_a_value_together(make_town: MakeTown) -> None:
    town = make_town(4)
    dead = houses_of(town)[:2]
    for house in dead:
        house.crash()
    with pytest.raises(KvError):
        town.wait(leave(town, dead[0], dead=True), 200)
    assert len(state_of(town).members) == 4
    for house in dead:
        house.up = True
    town.run(20)
    assert still(town)
    assert values(town) == {b"v"}


# Taken back.


@pytest.mark.parametrize("what", ["join", "leave", "weight"])
def test_a_change_that_is_taken_back_leaves_the_old_owners_in_charge_and_nothing_lost(
    make_town: MakeTown, what: str
) -> None:
    town = make_town(4)
    before = state_of(town).members
    (newcomer,) = town.build(1)
    town.slow_s["pull"] = 2.0
    roster = town.proxies[0].roster
    if what == "leave":
        asked = leave(town, houses_of(town)[0])
    else:
        asked = ensureDeferred(roster.add(newcomer.url if what == "join" else before[0].url, 3))
    asked.addErrback(lambda failure: failure.trap(KvError))
    town.until(lambda: state_of(town).change is not None)
    for key in KEYS[::2]:
        town.wait(town.put(key, b"w" + key))
    town.run(0.3)
    assert state_of(town).change is not None
    cancel(town)
    assert state_of(town).members == before
    assert state_of(town).open
    for key in KEYS[1::2]:
        town.wait(town.put(key, b"w" + key))
    assert values(town) == {b"w"}
    town.run(10)
    assert still(town), "it is not begun again"
    assert state_of(town).members == before
    # And what was copied does no harm when it is wished for again.
    for key in KEYS:
        town.wait(town.put(key, b"x" + key))
    town.slow_s.clear()
    town.wait(ensureDeferred(roster.add(newcomer.url, 2)))
    town.until(lambda: still(town))
    assert values(town) == {b"x"}


def test_deletes_after_a_change_was_taken_back_are_not_undone_by_the_next_one(make_town: MakeTown) -> None:
    town = make_town(3)
    (newcomer,) = town.build(1)
    town.slow_s["digests"] = 0.1
    asked = ensureDeferred(town.proxies[0].roster.add(newcomer.url, 1))
    asked.addErrback(lambda failure: failure.trap(KvError))
    town.until(lambda: newcomer.engine.totals().keys > 0)
    cancel(town)
    for key in KEYS:
        town.wait(town.put(key, None))
    town.slow_s.clear()
    town.run(10)
    town.wait(ensureDeferred(town.proxies[0].roster.add(newcomer.url, 1)))
    town.until(lambda: still(town))
    assert values(town) == {None}
    assert newcomer.engine.totals().keys == 0


def test_only_the_change_under_way_can_be_taken_back(make_town: MakeTown) -> None:
    town = make_town(3)
    with pytest.raises(NoSuchTask):
        town.wait(ensureDeferred(town.proxies[0].roster.cancel("c-nothing")))


def test_a_wish_that_came_during_a_change_is_carried_out_after_it_was_taken_back(make_town: MakeTown) -> None:
    town = make_town(3)
    first, second = town.build(2)
    town.slow_s["pull"] = 0.3
    roster = town.proxies[0].roster
    ensureDeferred(roster.add(first.url, 1)).addErrback(lambda failure: failure.trap(KvError))
    town.until(lambda: state_of(town).change is not None)
    adding = ensureDeferred(roster.add(second.url, 1))
    town.until(lambda: bool(state_of(town).pending))
    cancel(town)
    town.slow_s.clear()
    town.wait(adding)
    town.until(lambda: still(town))
    assert {seat.url for seat in state_of(town).members} == {
        house.url for house in houses_of(town) if house is not first
    }
    assert values(town) == {b"v"}


# Forgetting meanwhile.


@pytest.mark.parametrize("which", ["the target", "a source"])
def test_a_node_that_forgets_during_a_change_is_wished_for_and_filled(make_town: MakeTown, which: str) -> None:
    town = make_town(3)
    (newcomer,) = town.build(1)
    town.slow_s["pull"] = 0.3
    adding = ensureDeferred(town.proxies[0].roster.add(newcomer.url, 1))
    adding.addErrback(lambda failure: failure.trap(KvError))
    town.until(lambda: newcomer.engine.totals().keys > 0)
    forgetful = newcomer if which == "the target" else houses_of(town)[0]
    forgetful.restart()
    town.slow_s.clear()

    def whole() -> bool:
        lives = {house.url: house.incarnation for house in houses_of(town)}
        seats = state_of(town).members
        return still(town) and len(seats) == 4 and all(seat.incarnation == lives[seat.url] for seat in seats)

    town.until(whole, 120)
    assert values(town) == {b"v"}
    assert {copies(town, key) for key in KEYS} == {3}
    town.run(2)
    assert stray(town) == []
