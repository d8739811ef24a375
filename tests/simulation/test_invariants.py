"""The invariants: each of them broken by hand once in a cluster that is well."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred, ensureDeferred

from twisted_kv.limits import Limits
from twisted_kv.membership import decode_state
from twisted_kv.names import Key
from twisted_kv.quorum import Level
from twisted_kv.register import Cell
from twisted_kv.ring import slot_of
from twisted_kv.simulation.cluster import Cluster
from twisted_kv.simulation.history import History
from twisted_kv.simulation.invariants import Invariants
from twisted_kv.simulation.judging import Broken
from twisted_kv.simulation.sites import Sites
from twisted_kv.simulation.world import World
from twisted_kv.storage.engine import Change
from twisted_kv.storage.memory import MemoryEngine
from twisted_kv.versions import NONE, Ballot, Record, Version, decode_record, record_version

K = Key(b"k0")


class Scene:
    """Three nodes and a proxy, in which one value was written."""

    def __init__(self) -> None:
        self.world = world = World(1)
        self.cluster = cluster = Cluster(world, Sites(world.random, quiet=True), Limits(), 3, durable=True)
        cluster.settle(3, 1)
        self.history = History(cluster)
        self.invariants = Invariants(cluster, self.history)
        self.proxy = cluster.proxies[0]
        written = self.proxy.rooms.coordinator.put(K, b"v", b"", Level.ALL)
        assert world.until(lambda: bool(written.called), 10)
        self.history.saw(K, decode_record(written.result.record), settled=True)  # type: ignore[attr-defined]
        self.invariants.check()

    def forget(self, number: int) -> None:
        """Let a node lose the record, as no node does."""
        engine = self.cluster.nodes[number].engine
        MemoryEngine.apply(engine, [Change(slot_of(K), K, Cell(NONE, NONE, b""))])

    def check(self) -> str:
        with pytest.raises(Broken) as caught:
            self.invariants.check()
        return caught.value.check


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_settled_version_may_be_lacking_on_a_minority_but_not_on_a_majority(scene: Scene) -> None:
    scene.forget(0)
    scene.invariants.check()
    scene.forget(2)
    assert scene.check() == "settled"


def test_node_that_lost_its_disk_and_says_so_is_not_counted(scene: Scene) -> None:
    scene.cluster.nodes[0].forget()
    scene.forget(1)
    scene.invariants.check()
    scene.forget(2)
    assert scene.check() == "settled"


def test_newer_version_stands_for_the_settled_one(scene: Scene) -> None:
    newer = Ballot((1 << 126).to_bytes(16, "big"))
    for node in scene.cluster.nodes[:2]:
        record = Record(Version(newer), b"w").encode()
        MemoryEngine.apply(node.engine, [Change(slot_of(K), K, Cell(newer, newer, record))])
    scene.forget(2)
    scene.invariants.check()


def test_promise_below_what_was_accepted_is_found(scene: Scene) -> None:
    engine = scene.cluster.nodes[1].engine
    cell = engine._cells[slot_of(K), K]
    assert record_version(cell.record) == cell.accepted
    engine._cells[slot_of(K), K] = replace(cell, promised=NONE)
    assert scene.check() == "acceptor"


def test_record_that_grows_without_bound_is_found(scene: Scene) -> None:
    engine = scene.cluster.nodes[1].engine
    cell = engine._cells[slot_of(K), K]
    engine._cells[slot_of(K), K] = replace(cell, record=cell.record + bytes(1_000))
    assert scene.check() == "limits"


def test_answer_that_waits_for_a_sync_that_nobody_runs_is_found(scene: Scene) -> None:
    commit = scene.cluster.nodes[1].replica._commit
    commit._next.append(Deferred())  # type: ignore[attr-defined]
    assert scene.check() == "unfired"


def test_books_of_a_proxy_that_do_not_add_up_are_found(scene: Scene) -> None:
    scene.proxy.rooms.coordinator._bytes = -1
    assert scene.check() == "limits"


def test_lane_that_outgrew_its_limit_is_found(scene: Scene) -> None:
    queue = next(iter(scene.proxy.rooms.queues.by_node.values()))
    queue._writes._under_way = [0.0] * (Limits().batches_in_flight_max + 1)
    assert scene.check() == "limits"


def test_lane_that_counts_bytes_which_are_not_there_is_found(scene: Scene) -> None:
    queue = next(iter(scene.proxy.rooms.queues.by_node.values()))
    queue._writes._bytes = 7
    assert scene.check() == "limits"


def test_target_that_was_filled_and_lacks_what_was_settled_before_is_found(scene: Scene) -> None:
    grown: list[object] = []
    joining = ensureDeferred(scene.proxy.rooms.roster.add(scene.cluster.build().url, 64))
    joining.addBoth(grown.append)
    shelf = scene.cluster.shelf

    def changes() -> bool:
        return shelf.document is not None and decode_state(shelf.document).change is not None

    assert scene.world.until(changes, 10)
    scene.invariants.check()
    assert scene.world.until(lambda: bool(grown), 10)
    assert not changes()
    scene.forget(3)
    assert scene.check() == "filled"
