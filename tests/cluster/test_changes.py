"""Changes of the ring that meet trouble: what a review, and the seeds, have found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, ensureDeferred, succeed

from tests.cluster.town import House, Line, MakeTown, Town, value_of
from twisted_kv.errors import (
    ChangeFailed,
    ChangeUnderWay,
    KvError,
    MayRemember,
    NotAMember,
    SlotsLost,
    StateBehind,
    Unreached,
)
from twisted_kv.names import Key
from twisted_kv.quorum import Level
from twisted_kv.register import PREPARE, Op
from twisted_kv.web.cluster import ClusterDoor


def add(town: Town, house: House, weight: int = 1) -> Deferred[Any]:
    return ensureDeferred(town.proxies[0].roster.add(house.url, weight))


def troubles(town: Town, proxy: int) -> list[str]:
    rooms = town.proxies[proxy]
    return ClusterDoor(rooms.roster, rooms.mover, town.limits, Level.STRONG).troubles()


def slow_infos(monkeypatch: pytest.MonkeyPatch, proxy: str, url: str, delay_s: float) -> None:
    """Let one proxy's question who a node is take a while to arrive."""
    usual = Line.request

    def request(line: Line, method: str, target: str, body: bytes, **how: Any) -> Deferred[Any]:
        if (line._proxy, target) != (proxy, f"{url}/node/v1/info"):
            return usual(line, method, target, body, **how)
        late: Deferred[Any] = Deferred()

        def go() -> None:
            usual(line, method, target, body, **how).addBoth(late.callback)

        line._town.clock.callLater(delay_s, go)
        return late

    monkeypatch.setattr(Line, "request", request)


def test_a_state_file_that_was_set_back_changes_nothing_and_loses_nothing(make_town: MakeTown, tmp_path: Path) -> None:
    town = make_town()
    town.settle(3)
    early = (tmp_path / "state.json").read_bytes()
    town.settle(3)
    for number in range(60):
        town.wait(town.put(b"k%d" % number, b"v"))
    newest = (tmp_path / "state.json").read_bytes()
    town.wait(ensureDeferred(town.proxies.pop().stop()))
    (tmp_path / "state.json").write_bytes(early)
    town.open_proxy()
    (house,) = town.build(1)
    for _ in range(4):
        with pytest.raises(StateBehind):
            town.wait(add(town, house))
        town.run(31)
    assert any("set back" in trouble for trouble in troubles(town, 0))
    (tmp_path / "state.json").write_bytes(newest)
    town.run(2)
    assert {value_of(town.wait(town.get(b"k%d" % number))) for number in range(60)} == {b"v"}


def test_a_second_node_that_forgets_while_the_first_is_looked_at_is_not_rebuilt_from_too_few(
    make_town: MakeTown, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = make_town(proxies=2)
    first, second, third = town.settle(3)
    town.run(2)
    town.cut = {("proxy0", third.url), ("proxy1", third.url)}
    town.wait(town.put(b"k", b"acknowledged"))
    town.cut.clear()
    town.run(6)
    slow_infos(monkeypatch, "proxy0", third.url, 1.5)
    town.proxies[1].mover._store.lead = lambda: succeed(False)  # type: ignore[method-assign]
    first.restart()
    town.until(lambda: bool(town.proxies[0].roster.state.pending))
    town.run(0.6)
    second.restart()
    town.run(20)
    assert isinstance(town.proxies[0].mover.trouble, SlotsLost)
    with pytest.raises(Unreached):
        town.wait(town.get(b"k"))


def test_accepting_a_loss_waits_for_who_may_remember_unless_he_is_named_dead(make_town: MakeTown) -> None:
    town = make_town()
    first, second, third = town.settle(3)
    town.wait(town.put(b"k", b"v", level=Level.ALL))
    town.cut.add(("proxy0", third.url))
    first.restart()
    second.restart()
    town.run(12)
    roster = town.proxies[0].roster
    lost = roster.state.members[2].id
    with pytest.raises(MayRemember) as caught:
        town.wait(ensureDeferred(roster.accept_loss()))
    assert f"accept-loss?dead={lost}" in caught.value.hint
    assert len(town.wait(ensureDeferred(roster.accept_loss([lost])))) == 3
    assert value_of(town.wait(town.get(b"k"))) is None
    town.cut.clear()
    town.run(10)
    # He is back, and what he alone held does not count any more.
    assert roster.state.members[2].incarnation == third.replica.incarnation
    assert {value_of(town.wait(town.get(b"k"))) for _ in range(48)} == {None}


def test_two_nodes_with_a_leftover_promise_are_whole_again_after_one_forgot(make_town: MakeTown) -> None:
    town = make_town()
    houses = town.settle(2)
    town.wait(town.put(b"k", b"v"))
    rooms = town.proxies[0]
    ballot = rooms.mover._hybrid.tick()
    for seat in rooms.roster.state.members:
        town.wait(ensureDeferred(rooms.mover._control.ask(seat, rooms.roster.state, [Op(PREPARE, b"k", ballot)])))
    houses[0].restart()
    town.run(10)
    assert troubles(town, 0) == []
    assert value_of(town.wait(town.get(b"k"))) == b"v"


def test_a_join_that_is_cut_off_half_way_goes_on_when_it_can_and_nobody_waits_for_it(make_town: MakeTown) -> None:
    town = make_town()
    town.settle(3)
    for number in range(50):
        town.wait(town.put(b"k%d" % number, b"v"))
    (house,) = town.build(1)
    usual = house.handle

    def cut_after_the_first_copies(path: str, body: bytes) -> Any:
        if path == "pull":
            town.cut.add(("proxy0", house.url))
        return usual(path, body)

    house.handle = cut_after_the_first_copies  # type: ignore[method-assign]
    town.wait(add(town, house))
    assert town.proxies[0].roster.state.change is not None, "the call was answered, the change goes on"
    assert house.engine.totals().keys > 0
    for number in range(50):
        asked = town.clock.seconds()
        town.wait(town.put(b"k%d" % number, b"w"))
        assert town.clock.seconds() - asked < 1
    house.handle = usual  # type: ignore[method-assign]
    town.cut.clear()
    town.until(lambda: town.proxies[0].roster.state.change is None)
    assert len(town.proxies[0].roster.state.members) == 4
    assert {value_of(town.wait(town.get(b"k%d" % number))) for number in range(50)} == {b"w"}


def test_two_calls_for_one_new_node_make_one_member(make_town: MakeTown) -> None:
    town = make_town(proxies=2)
    town.settle(3)
    town.run(1)
    (house,) = town.build(1)
    calls = [ensureDeferred(rooms.roster.add(house.url, 1)) for rooms in (*town.proxies, town.proxies[0])]
    assert len({town.wait(call).id for call in calls}) == 1
    assert len(town.proxies[0].roster.state.members) == 4


def test_a_call_whose_change_cannot_begin_is_told_why_at_once_and_leaves_nothing_behind(make_town: MakeTown) -> None:
    town = make_town()
    houses = town.settle(3)
    houses[0].restart()
    houses[1].restart()
    town.run(5)
    (house,) = town.build(1)
    asked = town.clock.seconds()
    with pytest.raises(SlotsLost):
        town.wait(add(town, house))
    assert town.clock.seconds() - asked < 2
    assert all(wish.seat.url != house.url for wish in town.proxies[0].roster.state.pending)


def test_a_trouble_that_another_proxy_has_cured_is_forgotten(make_town: MakeTown) -> None:
    town = make_town(proxies=2)
    houses = town.settle(3)
    town.run(1)
    houses[0].restart()
    houses[1].restart()
    town.run(10)
    assert troubles(town, 0)
    town.wait(ensureDeferred(town.proxies[1].roster.accept_loss()))
    town.run(5)
    assert (troubles(town, 0), troubles(town, 1)) == ([], [])


def test_a_silent_member_does_not_keep_the_clients_waiting_while_a_node_joins(make_town: MakeTown) -> None:
    town = make_town()
    houses = town.settle(3)
    for number in range(20):
        town.wait(town.put(b"k%d" % number, b"v"))
    town.cut.add(("proxy0", houses[2].url))
    town.run(20)
    (house,) = town.build(1)
    adding = add(town, house)
    town.until(lambda: town.proxies[0].roster.state.change is not None)
    asked = town.clock.seconds()
    for number in range(20):
        town.wait(town.put(b"k%d" % number, b"w"))
    assert town.clock.seconds() - asked < 1
    town.wait(adding)
    assert town.proxies[0].roster.state.change is None
    assert {value_of(town.wait(town.get(b"k%d" % number))) for number in range(20)} == {b"w"}


def test_a_refusing_node_is_not_asked_who_it_is_for_every_batch(
    make_town: MakeTown, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = make_town()
    houses = town.settle(3)
    houses[0].restart()
    houses[1].restart()
    town.run(5)
    usual, infos = Line.request, []

    def request(line: Line, method: str, url: str, body: bytes, **how: Any) -> Deferred[Any]:
        infos.extend([url] if url.endswith("/info") else [])
        return usual(line, method, url, body, **how)

    monkeypatch.setattr(Line, "request", request)
    for _ in range(1000):
        town.get(b"k").addErrback(lambda failure: failure.trap(KvError))
        town.run(0.01)
    rounds_a_second = len(infos) / 10 / 6  # three members, asked by the roster and by the mover
    assert rounds_a_second <= 1 / town.limits.kick_pause_s


def test_a_node_that_forgot_takes_no_write_of_its_own_until_it_is_filled(make_town: MakeTown) -> None:
    town = make_town()
    houses = town.settle(3)
    town.wait(town.put(b"k", b"v"))
    houses[0].restart()
    with pytest.raises(NotAMember):
        town.wait(houses[0].replica.write_local(Key(b"stray"), b"1"))
    town.until(lambda: houses[0].replica.info().member)
    with pytest.raises(ChangeUnderWay):
        town.wait(houses[0].replica.write_local(Key(b"x"), b"1"))
    town.run(10)
    assert houses[0].engine.totals().keys == 1
    town.wait(houses[0].replica.write_local(Key(b"x"), b"1"))


def test_a_weight_whose_call_was_refused_is_not_set_later(make_town: MakeTown) -> None:
    town = make_town()
    houses = town.settle(3)
    for house in houses[1:]:
        house.restart()
    town.run(3)
    with pytest.raises(SlotsLost):
        town.wait(add(town, houses[1], weight=5))
    town.wait(ensureDeferred(town.proxies[0].roster.accept_loss()))
    assert [seat.weight for seat in town.proxies[0].roster.state.members] == [1, 1, 1]


def test_a_weight_asked_for_while_its_node_is_rebuilt_is_set(make_town: MakeTown) -> None:
    town = make_town()
    houses = town.settle(3)
    for number in range(100):
        town.wait(town.put(b"k%d" % number, b"v"))
    houses[0].restart()
    town.until(lambda: town.proxies[0].roster.state.change is not None)
    town.wait(add(town, houses[0], weight=5))
    assert town.proxies[0].roster.state.members[0].weight == 5
    assert town.proxies[0].roster.state.members[0].incarnation == houses[0].replica.incarnation


def test_a_zone_is_kept_by_a_later_call_that_names_none(make_town: MakeTown) -> None:
    town = make_town()
    houses = town.settle(3)
    first = ensureDeferred(town.proxies[0].roster.add(houses[0].url, 2, "z"))
    town.until(lambda: town.proxies[0].roster.state.change is not None)
    town.wait(add(town, houses[0], weight=3))
    first.addErrback(lambda failure: failure.trap(ChangeFailed))
    seat = town.proxies[0].roster.state.members[0]
    assert (seat.weight, seat.zone) == (3, "z")


def test_a_member_given_up_does_not_stand_in_the_way_of_the_next_rebuild(make_town: MakeTown) -> None:
    town = make_town()
    first, second, third = town.settle(3)
    town.wait(town.put(b"k", b"v", level=Level.ALL))
    third.crash()
    first.restart()
    town.run(8)
    roster = town.proxies[0].roster
    town.wait(ensureDeferred(roster.accept_loss([roster.state.members[2].id])))
    assert value_of(town.wait(town.get(b"k"))) == b"v"
    second.restart()
    town.run(8)
    town.wait(ensureDeferred(roster.accept_loss([roster.state.members[2].id])))
    assert value_of(town.wait(town.get(b"k"))) == b"v"


def test_a_loss_that_could_not_be_accepted_is_not_accepted_later(make_town: MakeTown) -> None:
    town = make_town()
    first, second, third = town.settle(3)
    town.wait(town.put(b"k", b"v", level=Level.ALL))
    third.crash()
    first.restart()
    town.run(8)
    roster = town.proxies[0].roster
    accepting = ensureDeferred(roster.accept_loss([roster.state.members[2].id]))
    town.until(lambda: any(wish.accept_loss for wish in roster.state.pending))
    second.crash()
    with pytest.raises(KvError):
        town.wait(accepting)
    assert not any(wish.accept_loss for wish in roster.state.pending)
    third.up = True
    town.run(5)
    second.restart()
    town.run(20)
    assert third.engine.totals().keys == 1, "the only good copy is still there"


def test_accepting_the_loss_of_one_member_is_not_accepting_that_of_another(
    make_town: MakeTown, monkeypatch: pytest.MonkeyPatch
) -> None:
    town = make_town()
    first, second, third = town.settle(3)
    town.cut.add(("proxy0", third.url))
    town.wait(town.put(b"k", b"acknowledged"))
    town.cut.clear()
    town.run(6)
    slow_infos(monkeypatch, "proxy0", third.url, 1.5)
    first.restart()
    town.until(lambda: bool(town.proxies[0].roster.state.pending))
    accepting = ensureDeferred(town.proxies[0].roster.accept_loss())
    accepting.addErrback(lambda failure: failure.trap(KvError))
    town.until(lambda: any(wish.accept_loss for wish in town.proxies[0].roster.state.pending))
    second.restart()
    town.run(20)
    with pytest.raises(Unreached):
        town.wait(town.get(b"k"))
    assert isinstance(town.proxies[0].mover.trouble, SlotsLost)


def test_a_proxy_that_stops_answers_everybody_who_waits_for_a_change(make_town: MakeTown) -> None:
    town = make_town(proxies=2)
    town.settle(1)
    town.proxies[0].mover._store.lead = lambda: succeed(False)  # type: ignore[method-assign]
    town.wait(ensureDeferred(town.proxies[1].stop()))
    waiting = [add(town, house) for house in town.build(3)]
    town.run(1)
    stopping = town.proxies.pop(0)
    town.proxies.pop(0)
    town.wait(ensureDeferred(stopping.stop()))
    for call in waiting:
        with pytest.raises(ChangeFailed, match="stopping"):
            town.wait(call)


def test_a_wish_that_cannot_begin_does_not_keep_the_store_busy(make_town: MakeTown, tmp_path: Path) -> None:
    town = make_town()
    houses = town.settle(3)
    houses[0].restart()
    houses[1].restart()
    town.run(5)
    seen: set[int] = set()
    for _ in range(100):
        town.run(0.1)
        seen.add((tmp_path / "state.json").stat().st_ino)
    assert len(seen) == 1


def test_a_node_that_forgets_while_the_state_cannot_be_read_is_rebuilt_when_it_can(
    make_town: MakeTown, tmp_path: Path
) -> None:
    town = make_town()
    first, *_ = town.settle(3)
    town.wait(town.put(b"k", b"v"))
    state, aside = tmp_path / "state.json", tmp_path / "aside"
    state.rename(aside)
    state.mkdir()
    first.forget()
    town.run(3)
    assert value_of(town.wait(town.get(b"k"))) == b"v"
    state.rmdir()
    aside.rename(state)
    town.until(lambda: first.engine.totals().keys == 1)


def test_a_call_that_gets_to_waiting_after_the_stop_is_told_so_too(make_town: MakeTown) -> None:
    town = make_town()
    town.settle(3)
    (newcomer,) = town.build(1)
    adding = add(town, newcomer)
    stopped = ensureDeferred(town.proxies[0].stop())
    with pytest.raises(ChangeFailed, match="stopping"):
        town.wait(adding, 10.0)
    town.wait(stopped)
