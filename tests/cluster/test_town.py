"""Whole clusters of real rooms on a clock that only the test turns."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.defer import ensureDeferred

from tests.cluster.town import MakeTown, Town, value_of
from twisted_kv.errors import ForeignNode, KvError, NodeHasData, NotANode, Unreached
from twisted_kv.names import Key, NodeId
from twisted_kv.quorum import Level
from twisted_kv.register import Cell
from twisted_kv.ring import slot_of
from twisted_kv.storage.engine import Change
from twisted_kv.versions import HybridClock, Record, Version, decode_record
from twisted_kv.wire.joining import Join


def owners_with(town: Town, key: bytes) -> list[str]:
    """The URLs of the nodes that hold a value for a key."""
    found = []
    for url, house in town.houses.items():
        cell = house.engine.get(slot_of(key), Key(key))
        if cell is not None and cell.record:
            found.append(url)
    return found


def moving(town: Town) -> bool:
    """Whether a change is under way of which all have heard."""
    change = town.proxies[0].roster.state.change
    return change is not None and town.proxies[0].mover.filling is not None


def test_a_value_put_through_one_proxy_is_read_through_another(make_town: MakeTown) -> None:
    town = make_town(proxies=2)
    town.settle(3)
    town.run(1)
    town.wait(town.put(b"language", b"Go", proxy=0))
    assert value_of(town.wait(town.get(b"language", proxy=1))) == b"Go"


def test_a_key_that_was_deleted_is_absent_although_an_owner_missed_the_delete(make_town: MakeTown) -> None:
    town = make_town()
    houses = town.settle(3)
    town.wait(town.put(b"k", b"v"))
    town.run(1)
    town.cut.add(("proxy0", houses[0].url))
    town.wait(town.put(b"k", None))
    town.cut.clear()
    for _ in range(5):
        assert value_of(town.wait(town.get(b"k"))) is None


def test_every_level_reads_what_strong_wrote_while_all_owners_live(make_town: MakeTown) -> None:
    town = make_town()
    town.settle(3)
    town.wait(town.put(b"k", b"v"))
    town.run(1)
    for level in Level:
        assert value_of(town.wait(town.get(b"k", level=level))) == b"v"


def test_strong_goes_on_with_one_owner_cut_off_and_refuses_with_two(make_town: MakeTown) -> None:
    town = make_town()
    houses = town.settle(3)
    town.cut.add(("proxy0", houses[0].url))
    town.wait(town.put(b"k", b"1"))
    assert value_of(town.wait(town.get(b"k"))) == b"1"
    town.cut.add(("proxy0", houses[1].url))
    with pytest.raises(Unreached) as caught:
        town.wait(town.put(b"k", b"2"))
    assert caught.value.maybe_applied
    assert caught.value.required == 2
    with pytest.raises(Unreached):
        town.wait(town.get(b"k"))


def test_level_one_answers_while_any_one_owner_lives(make_town: MakeTown) -> None:
    town = make_town()
    houses = town.settle(3)
    town.wait(town.put(b"k", b"v", level=Level.ALL))
    houses[0].crash()
    houses[1].crash()
    assert value_of(town.wait(town.get(b"k", level=Level.ONE))) == b"v"
    town.wait(town.put(b"k", b"w", level=Level.ONE))
    assert value_of(town.wait(town.get(b"k", level=Level.ONE))) == b"w"


def test_level_one_read_is_stopped_by_a_tombstone_but_not_by_an_absent_key(make_town: MakeTown) -> None:
    town = make_town()
    town.settle(3)
    primary, *others = town.proxies[0].coordinator.order(Key(b"k"), "write").nodes
    rooms = town.proxies[0]
    url = rooms.roster.view.seats[primary].url  # type: ignore[union-attr]
    # Nobody brings the primary what it is about to miss.
    town.wait(rooms.courier.stop())
    town.wait(rooms.mender.stop())
    town.cut.add(("proxy0", url))
    town.wait(town.put(b"k", b"v"))
    town.cut.clear()
    town.run(5)
    assert url not in owners_with(town, b"k")
    assert value_of(town.wait(town.get(b"k", level=Level.ONE))) == b"v"
    town.cut = {("proxy0", rooms.roster.view.seats[node].url) for node in others}  # type: ignore[union-attr]
    town.wait(town.put(b"k", None, level=Level.ONE))
    town.cut.clear()
    town.run(5)
    assert value_of(town.wait(town.get(b"k", level=Level.ONE))) is None


def test_level_all_needs_every_owner_and_says_who_was_silent(make_town: MakeTown) -> None:
    town = make_town()
    houses = town.settle(3)
    houses[2].crash()
    with pytest.raises(Unreached) as caught:
        town.wait(town.put(b"k", b"v", level=Level.ALL))
    silent = town.proxies[0].roster.state.members[2].id
    assert (caught.value.required, caught.value.acks, caught.value.maybe_applied) == (3, 2, True)
    assert list(caught.value.replicas) == [silent]


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_nodes_added_one_by_one_lose_no_key_and_give_each_its_owners(make_town: MakeTown, count: int) -> None:
    town = make_town()
    town.settle(1)
    keys = [b"key%d" % number for number in range(200)]
    for key in keys:
        town.wait(town.put(key, b"v" + key))
    for _ in range(count - 1):
        town.settle(1)
    town.run(1)
    for key in keys:
        assert value_of(town.wait(town.get(key))) == b"v" + key
        view = town.proxies[0].roster.view
        assert view is not None
        owners = sorted(view.seats[node].url for node in view.ring.owners(Key(key)))
        assert len(owners) == min(3, count)
        assert sorted(owners_with(town, key)) == owners


def test_an_acknowledged_value_survives_a_change_although_one_old_owner_missed_it(make_town: MakeTown) -> None:
    town = make_town(seed=3)
    houses = town.settle(3)
    town.cut.add(("proxy0", houses[1].url))
    keys = [b"key%d" % number for number in range(60)]
    for key in keys:
        town.wait(town.put(key, b"new"))
    town.cut.clear()
    town.run(3)
    town.settle(2)
    assert {value_of(town.wait(town.get(key))) for key in keys} == {b"new"}


def test_clients_are_served_while_data_moves(make_town: MakeTown) -> None:
    town = make_town()
    town.settle(3)
    for number in range(50):
        town.wait(town.put(b"key%d" % number, b"1"))
    (house,) = town.build(1)
    town.slow_s["pull"] = 0.5
    adding = ensureDeferred(town.proxies[0].roster.add(house.url, 1))
    town.until(lambda: moving(town))
    puts = [town.put(b"key%d" % number, b"2") for number in range(50)]
    reads = [town.get(b"key%d" % number, level=Level.ONE) for number in range(50)]
    for put in puts:
        town.wait(put)
    assert {value_of(town.wait(town.get(b"key%d" % number))) for number in range(50)} == {b"2"}
    assert moving(town), "they did not have to wait for it"
    for read in reads:
        assert value_of(town.wait(read)) in (b"1", b"2")
    town.wait(adding)
    assert {value_of(town.wait(town.get(b"key%d" % number))) for number in range(50)} == {b"2"}


def test_an_epoch_is_closed_while_nodes_that_all_forgot_start_empty(make_town: MakeTown) -> None:
    town = make_town()
    houses = town.settle(3)
    town.wait(town.put(b"k", b"v"))
    for house in houses:
        house.restart()
    town.until(lambda: not town.proxies[0].roster.state.open)
    read = town.get(b"k", level=Level.ONE)
    town.run(0)
    assert not read.called
    town.until(lambda: town.proxies[0].roster.state.open)
    assert value_of(town.wait(read)) is None


def test_a_change_of_weight_moves_slots_and_keeps_every_value(make_town: MakeTown) -> None:
    town = make_town()
    houses = town.settle(4)
    for number in range(100):
        town.wait(town.put(b"key%d" % number, b"v"))
    before = town.proxies[0].roster.view
    town.wait(ensureDeferred(town.proxies[0].roster.add(houses[0].url, 3)))
    after = town.proxies[0].roster.view
    assert before is not None
    assert after is not None
    assert before.ring != after.ring
    for number in range(100):
        assert value_of(town.wait(town.get(b"key%d" % number))) == b"v"


def test_a_node_that_forgot_is_rebuilt_before_it_counts_again(make_town: MakeTown) -> None:
    town = make_town()
    houses = town.settle(3)
    for number in range(100):
        town.wait(town.put(b"key%d" % number, b"v"))
    houses[0].restart()
    assert houses[0].engine.totals().keys == 0
    epoch = town.proxies[0].roster.state.epoch
    town.until(lambda: town.proxies[0].roster.state.epoch >= epoch + 2 and town.proxies[0].roster.state.open)
    assert houses[0].engine.totals().keys == 100
    houses[1].crash()
    for number in range(100):
        assert value_of(town.wait(town.get(b"key%d" % number))) == b"v"


def test_all_memory_nodes_that_forgot_start_empty_and_take_writes(make_town: MakeTown) -> None:
    town = make_town()
    houses = town.settle(3)
    town.wait(town.put(b"k", b"v"))
    for house in houses:
        house.restart()
    since = town.clock.seconds()
    town.run(4.0)
    town.wait(town.put(b"k", b"w"))
    assert town.clock.seconds() - since < 5.0
    assert value_of(town.wait(town.get(b"k"))) == b"w"


def test_two_of_three_that_forgot_need_the_operators_word(make_town: MakeTown) -> None:
    town = make_town()
    houses = town.settle(3)
    town.wait(town.put(b"k", b"v", level=Level.ALL))
    houses[0].restart()
    houses[1].restart()
    town.run(3)
    with pytest.raises(Unreached):
        town.wait(town.put(b"k", b"w"))
    assert town.proxies[0].mover.trouble is not None
    assert town.proxies[0].mover.trouble.slug == "slots-lost"
    assert town.proxies[0].roster.state.open, "a change that cannot succeed must not close the epoch"
    rebuilt = town.wait(ensureDeferred(town.proxies[0].roster.accept_loss()))
    assert len(rebuilt) == 2
    # The refused write was maybe applied: one owner took it, and the newest copy that is left is the truth now.
    assert value_of(town.wait(town.get(b"k"))) == b"w"


def test_a_change_whose_new_node_dies_waits_for_it_and_clients_go_on(make_town: MakeTown) -> None:
    town = make_town()
    town.settle(3)
    for number in range(200):
        town.wait(town.put(b"key%d" % number, b"v"))
    (house,) = town.build(1)
    adding = ensureDeferred(town.proxies[0].roster.add(house.url, 1))
    town.until(lambda: moving(town))
    house.crash()
    town.run(10)
    assert len(town.proxies[0].roster.state.members) == 3
    for number in range(200):
        town.wait(town.put(b"key%d" % number, b"w"))
        assert value_of(town.wait(town.get(b"key%d" % number))) == b"w"
    house.restart()
    town.until(lambda: len(town.proxies[0].roster.state.members) == 4, 120)
    assert {value_of(town.wait(town.get(b"key%d" % number))) for number in range(200)} == {b"w"}
    assert house.engine.totals().keys > 0
    adding.addErrback(lambda failure: failure.trap(KvError))


def test_a_change_whose_driver_dies_is_taken_over_by_another_proxy(make_town: MakeTown) -> None:
    town = make_town(proxies=2)
    town.settle(3)
    town.run(1)
    for number in range(100):
        town.wait(town.put(b"key%d" % number, b"v"))
    (house,) = town.build(1)
    adding = ensureDeferred(town.proxies[0].roster.add(house.url, 1))
    adding.addErrback(lambda failure: failure.trap(Exception))
    town.until(lambda: moving(town))
    dead = town.proxies.pop(0)
    ensureDeferred(dead.stop())
    town.until(lambda: len(town.proxies[0].roster.state.members) == 4)
    for number in range(100):
        assert value_of(town.wait(town.get(b"key%d" % number))) == b"v"
    assert house.engine.totals().keys > 0
    adding.cancel()


def test_an_order_of_an_older_epoch_is_refused(make_town: MakeTown) -> None:
    town = make_town()
    houses = town.settle(2)
    old = town.proxies[0].roster.state
    town.settle(1)
    town.wait(town.put(b"k", b"v"))
    control = town.proxies[0].mover._control
    seat = old.members[0]
    with pytest.raises(KvError, match="epoch"):
        town.wait(ensureDeferred(control.drop(town.clock, seat, old, [(0, 65_535)])))
    assert houses[0].engine.totals().keys == 1


def test_a_proxy_that_missed_a_change_finds_its_way(make_town: MakeTown) -> None:
    town = make_town(proxies=2)
    town.settle(3)
    town.run(1)
    late = town.proxies[1]
    late.roster._stop_watching()  # type: ignore[misc]
    town.settle(1)
    assert late.roster.state.epoch < town.proxies[0].roster.state.epoch
    town.wait(town.put(b"k", b"v", proxy=1))
    assert late.roster.state.epoch == town.proxies[0].roster.state.epoch
    assert value_of(town.wait(town.get(b"k", proxy=0))) == b"v"


def test_who_is_no_node_or_somebody_elses_is_refused(make_town: MakeTown, tmp_path: Path) -> None:
    town = make_town()
    town.settle(1)
    roster = town.proxies[0].roster
    with pytest.raises(NotANode):
        town.wait(ensureDeferred(roster.add("http://nobody:1", 1)))
    foreign, hoarder = town.build(2)
    foreign.replica.join(Join("c-other", "n-1"))
    ballot = HybridClock(town.wall_ms, 1).tick()
    own = Cell(ballot, ballot, Record(Version(ballot), b"v").encode())
    hoarder.engine.apply([Change(slot_of(b"mine"), Key(b"mine"), own)])
    with pytest.raises(ForeignNode):
        town.wait(ensureDeferred(roster.add(foreign.url, 1)))
    with pytest.raises(NodeHasData):
        town.wait(ensureDeferred(roster.add(hoarder.url, 1)))
    assert len(roster.state.members) == 1


def test_two_urls_of_one_node_are_one_member(make_town: MakeTown) -> None:
    town = make_town()
    (house,) = town.settle(1)
    town.houses["http://alias:80"] = house
    town.wait(ensureDeferred(town.proxies[0].roster.add("http://alias:80", 1)))
    assert [seat.url for seat in town.proxies[0].roster.state.members] == [house.url]


def test_a_node_that_fails_is_avoided_and_comes_back(make_town: MakeTown) -> None:
    town = make_town()
    houses = town.settle(3)
    town.cut.add(("proxy0", houses[0].url))
    town.run(20)
    node = NodeId(town.proxies[0].roster.state.members[0].id)
    assert town.proxies[0].queues.avoided() == {node}
    town.cut.clear()
    town.run(7)
    assert town.proxies[0].queues.avoided() == set()


def test_a_node_that_flaps_is_used_seldom_and_soon_when_it_is_well_again(make_town: MakeTown) -> None:
    town = make_town()
    flapping = town.settle(3)[0]
    queues = town.proxies[0].queues

    def avoided() -> set[NodeId]:
        return {node for node, queue in queues.by_node.items() if queue.suspicion.avoided}

    before, returns = avoided(), 0
    for step in range(600):
        # 2.4 s down, in which it fails some probes, and 1.2 s up, in which it answers some.
        flapping.up = step % 36 >= 24
        town.run(0.1)
        now = avoided()
        returns += len(before - now)
        before = now
    assert 1 <= returns <= 4, "it came back seventeen times"
    flapping.up = True
    town.run(town.limits.trial_s_max + 3 * town.limits.probe_interval_s)
    assert avoided() == set()


def test_a_node_that_answers_only_one_of_two_proxies_is_avoided_by_the_other_one(make_town: MakeTown) -> None:
    town = make_town(proxies=2)
    houses = town.settle(3)
    town.cut.add(("proxy0", houses[0].url))
    town.run(20)
    node = NodeId(town.proxies[0].roster.state.members[0].id)
    assert [proxy.queues.avoided() for proxy in town.proxies] == [{node}, set()]
    for number in range(2):
        town.wait(town.put(b"k%d" % number, b"v", proxy=number))
        read = town.wait(town.get(b"k%d" % number, proxy=1 - number))
        assert decode_record(read.record).value == b"v"
    assert town.proxies[0].roster.state.members == town.proxies[1].roster.state.members


def test_a_proxy_whose_store_was_set_back_says_so(make_town: MakeTown, tmp_path: Path) -> None:
    town = make_town()
    town.settle(2)
    early = (tmp_path / "state.json").read_bytes()
    town.settle(1)
    town.run(1)
    (tmp_path / "state.json").write_bytes(early)
    town.proxies.append(town.proxies[0])
    late = town.open_proxy()
    assert late.roster.state.epoch < town.proxies[0].roster.state.epoch
    # The nodes keep a copy of the newest state and show it to whoever is behind, so that clients are served.
    town.wait(late.coordinator.put(Key(b"k"), b"v", b"", Level.STRONG))
    town.run(0.1)
    assert late.roster.state.members == town.proxies[0].roster.state.members
    assert late.roster.ahead_of_store == town.proxies[0].roster.state.epoch
    (tmp_path / "state.json").unlink()
