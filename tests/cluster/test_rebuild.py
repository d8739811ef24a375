"""Nodes that lost their disk, or a part of it, and clusters that make them whole the plain way."""

from __future__ import annotations

from functools import partial

import pytest
from twisted.internet.defer import ensureDeferred

from tests.cluster.paper_disk import PaperDisk
from tests.cluster.town import House, MakeTown, Town, value_of
from twisted_kv.errors import ChangeFailed, Damaged, SlotsLost, Unreached
from twisted_kv.names import Key, Slot
from twisted_kv.quorum import Level
from twisted_kv.register import Cell
from twisted_kv.storage.engine import UNREADABLE, Change, Place

KEYS = [b"k%d" % number for number in range(200)]


@pytest.fixture
def make_town(make_town: MakeTown) -> MakeTown:
    return partial(make_town, durable=True)


def filled(town: Town) -> list[House]:
    houses = town.settle(3)
    for key in KEYS:
        town.wait(town.put(key, key + b"!", level=Level.ALL))
    return houses


def values(town: Town) -> list[bytes | None]:
    return [value_of(town.wait(town.get(key))) for key in KEYS]


def whole(town: Town) -> bool:
    """Whether every member counts in the life that it has."""
    state = town.proxies[0].roster.state
    lives = {house.url: house.incarnation for house in town.houses.values()}
    return state.open and all(seat.incarnation == lives[seat.url] for seat in state.members)


class Scratched(PaperDisk):
    """A paper disk on which one key cannot be read."""

    __slots__ = ("scratched",)

    def get(self, slot: Slot, key: Key) -> Cell | None:
        if key == self.scratched:
            raise Damaged("its checksum fails")
        return super().get(slot, key)

    def scan(
        self, first: Slot, last: Slot, after: Place | None, limit: int, bytes_max: int | None = None
    ) -> list[Change]:
        page = super().scan(first, last, after, limit, bytes_max)
        return [row._replace(cell=UNREADABLE) if row.key == self.scratched else row for row in page]


class Unscannable(PaperDisk):
    """A paper disk of which a whole block cannot be read."""

    __slots__ = ()

    def scan(
        self, first: Slot, last: Slot, after: Place | None, limit: int, bytes_max: int | None = None
    ) -> list[Change]:
        raise Damaged("a block's checksum fails")


def spoil(house: House, kind: type[PaperDisk], key: bytes = b"") -> None:
    """Start a node again on a disk that was spoilt meanwhile, of which it has noticed nothing."""
    assert isinstance(house.engine, PaperDisk)
    house.engine = kind(house.engine._log)
    if isinstance(house.engine, Scratched):
        house.engine.scratched = Key(key)
    house._start()


def test_a_crashed_node_goes_on_where_it_was_and_nothing_is_rebuilt(make_town: MakeTown) -> None:
    town = make_town()
    houses = filled(town)
    epoch = town.proxies[0].roster.state.epoch
    for house in houses:
        house.restart()
    town.run(5)
    assert values(town) == [key + b"!" for key in KEYS]
    assert town.proxies[0].roster.state.epoch == epoch


def test_a_node_that_lost_its_disk_is_made_whole(make_town: MakeTown) -> None:
    town = make_town()
    house, *_ = filled(town)
    house.forget()
    town.until(lambda: whole(town))
    assert house.engine.totals().keys == len(KEYS)
    assert values(town) == [key + b"!" for key in KEYS]


def test_a_node_that_lost_a_synced_tail_does_not_vote_before_it_is_whole(make_town: MakeTown) -> None:
    town = make_town()
    house, *_ = filled(town)
    house.forget_tail(100)
    assert house.engine.totals().keys < len(KEYS)
    assert values(town) == [key + b"!" for key in KEYS]
    town.until(lambda: whole(town))
    assert house.engine.totals().keys == len(KEYS)


def test_nodes_that_all_lost_a_tail_serve_nothing_until_the_loss_is_accepted_and_then_what_is_left(
    make_town: MakeTown,
) -> None:
    town = make_town()
    houses = filled(town)
    for house, steps in zip(houses, (100, 50, 10), strict=True):
        house.forget_tail(steps)
    town.run(5)
    assert isinstance(town.proxies[0].mover.trouble, SlotsLost)
    with pytest.raises(Unreached):
        town.wait(town.get(KEYS[0]))
    town.wait(ensureDeferred(town.proxies[0].roster.accept_loss()))
    assert whole(town)
    # Each key's writes are one or two steps of a node's log: the last ones are gone from all three disks.
    left = values(town)
    assert left[:150] == [key + b"!" for key in KEYS[:150]]
    assert left[-1] is None
    assert len({house.engine.totals().keys for house in houses}) == 1


def test_a_record_that_cannot_be_read_does_not_vote_and_the_others_serve_it(make_town: MakeTown) -> None:
    town = make_town()
    house, *_ = filled(town)
    spoil(house, Scratched, KEYS[0])
    for _ in range(20):
        assert value_of(town.wait(town.get(KEYS[0]))) == KEYS[0] + b"!"
    town.wait(town.put(KEYS[0], b"new"))
    assert value_of(town.wait(town.get(KEYS[0]))) == b"new"


def test_a_record_that_too_many_owners_cannot_read_is_an_error_and_never_absent(make_town: MakeTown) -> None:
    town = make_town()
    first, second, _ = filled(town)
    for house in (first, second):
        spoil(house, Scratched, KEYS[0])
    with pytest.raises(Unreached) as caught:
        town.wait(town.get(KEYS[0]))
    assert list(caught.value.replicas.values()) == ["what it holds of this key cannot be read"] * 2
    assert value_of(town.wait(town.get(KEYS[1]))) == KEYS[1] + b"!"


def test_a_record_that_one_source_cannot_read_is_copied_from_another_whose_digest_is_the_same(
    make_town: MakeTown,
) -> None:
    town = make_town()
    _, second, third = filled(town)
    spoil(second, Scratched, KEYS[0])
    third.forget()
    town.until(lambda: whole(town), 120)
    assert third.engine.totals().keys == len(KEYS)
    assert values(town) == [key + b"!" for key in KEYS]


def test_a_rebuild_waits_where_the_only_source_of_the_newest_cannot_read_it(make_town: MakeTown) -> None:
    town = make_town()
    first, second, third = filled(town)
    town.cut.add(("proxy0", first.url))
    town.wait(town.put(KEYS[0], b"newer"))
    town.cut.clear()
    spoil(second, Scratched, KEYS[0])
    third.forget()
    town.run(5)
    # What the second cannot read is what it and the third had acknowledged together.
    assert isinstance(town.proxies[0].mover.trouble, ChangeFailed)
    assert not whole(town)
    with pytest.raises(Unreached):
        town.wait(town.get(KEYS[0]))
    spoil(second, PaperDisk)
    town.until(lambda: whole(town), 120)
    assert values(town) == [b"newer", *(key + b"!" for key in KEYS[1:])]
    assert first.engine.totals().keys == third.engine.totals().keys == len(KEYS)


def test_a_source_that_cannot_be_scanned_is_left_out_while_the_others_are_enough(make_town: MakeTown) -> None:
    town = make_town()
    _, second, _ = filled(town)
    spoil(second, Unscannable)
    (newcomer,) = town.build(1)
    town.settle_one(newcomer)
    assert newcomer.engine.totals().keys > 0
    assert values(town) == [key + b"!" for key in KEYS]
