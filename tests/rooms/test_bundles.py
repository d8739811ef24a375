"""Bundles: what travels together, who leaves, and that nobody can tell whether he was in one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rooms.street import ANSWERS, HOP_S, OUTDATED, REFUSED, SILENT, K, Outcome, Scene, on_time
from twisted_kv.conditional import Draft
from twisted_kv.errors import DeadlinePassed, Unreached
from twisted_kv.names import Key
from twisted_kv.operation import Done
from twisted_kv.quorum import Level
from twisted_kv.register import ACCEPT, FETCH, HINT, PREPARE, Op

KEYS = [Key(b"k%d" % number) for number in range(12)]


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.run(10)


def batches(scene: Scene) -> list[tuple[str, int]]:
    """Say which bundles left since the last time: to whom, and how many operations are in each."""
    taken, scene.street.bundled = scene.street.bundled, []
    return taken


def test_writes_of_one_turn_leave_as_one_bundle_for_each_owner_whatever_the_order_of_their_owners(
    scene: Scene,
) -> None:
    assert len({scene.coordinator.order(key, "write").nodes for key in KEYS}) > 1
    outcomes = [scene.put(key=key) for key in KEYS]
    scene.run(1)
    assert sorted(batches(scene)) == [("a", 12), ("b", 12), ("c", 12)]
    assert all(outcome.value == b"v" for outcome in outcomes)
    assert scene.coordinator.under_way == 0
    assert scene.counted("write", "ok") == len(KEYS)


def test_what_comes_while_batches_are_under_way_gathers_in_the_next_bundle() -> None:
    scene = Scene(batches_in_flight_max=1)
    for key in KEYS:
        scene.put(key=key)
        scene.run(HOP_S / 20)
    scene.run(1)
    assert [size for node, size in batches(scene) if node == "a"] == [1, len(KEYS) - 1]


def test_a_bundle_holds_no_more_than_a_batch_may() -> None:
    scene = Scene(batch_ops_max=5)
    outcomes = [scene.put(key=key) for key in KEYS]
    scene.run(1)
    assert [size for node, size in batches(scene) if node == "a"] == [5, 5, 2]
    assert all(outcome.value == b"v" for outcome in outcomes)


def test_a_bundle_has_no_more_bytes_than_a_batch_may_have_but_for_a_value_that_is_larger_alone() -> None:
    scene = Scene(batch_bytes_max=100)
    sizes = [40, 40, 40, 250, 10]
    outcomes = [scene.put(bytes(size), key) for size, key in zip(sizes, KEYS, strict=False)]
    scene.run(1)
    assert [size for node, size in batches(scene) if node == "a"] == [2, 1, 1, 1]
    assert all(isinstance(outcome.result, Done) for outcome in outcomes)


def test_reads_of_one_turn_ask_two_owners_one_of_them_for_the_records(scene: Scene) -> None:
    for node in "abc":
        for key in KEYS:
            scene.street.hold(node, b"v", key)
    outcomes = [scene.get(key) for key in KEYS]
    scene.run(0)
    asked = scene.street.take()
    assert sorted(size for _, size in batches(scene)) == [12, 12]
    assert len({asked.node for asked in asked if asked.op.verb == FETCH}) == 1
    scene.run(1)
    assert all(outcome.value == b"v" for outcome in outcomes)


def test_who_is_refused_leaves_and_is_written_above_what_is_there_and_the_others_end(scene: Scene) -> None:
    for node in "abc":
        scene.street.hold(node, b"newer", KEYS[3], ms=9_000_000)
    outcomes = [scene.put(key=key) for key in KEYS]
    scene.run(HOP_S)
    assert [outcome.result is None for outcome in outcomes] == [key == KEYS[3] for key in KEYS]
    scene.run(1)
    asked = [asked.op.verb for asked in scene.street.take() if asked.op.key == KEYS[3]]
    assert asked == [ACCEPT] * 6, "every owner has refused it: nothing is in doubt, and it needs no prepare"
    assert all(outcome.value == b"v" for outcome in outcomes)
    assert scene.coordinator.under_way == 0


def test_readers_whose_owners_differ_write_back_and_the_others_end(scene: Scene) -> None:
    for node in "abc":
        for key in KEYS:
            scene.street.hold(node, b"v", key)
    scene.street.hold("b", b"newer", KEYS[5], ms=7)
    outcomes = [[scene.get(key) for key in KEYS] for _ in range(3) if not scene.run(1)]
    scene.run(1)
    for reads in outcomes:
        values = {key: read.value for key, read in zip(KEYS, reads, strict=True)}
        assert {values[key] for key in KEYS if key != KEYS[5]} == {b"v"}
    assert outcomes[2][5].value == b"newer", "one of three pairs of owners has shown it"
    assert len(scene.street.holders(b"newer", KEYS[5])) >= 2


def test_owners_that_answer_late_or_not_at_all_are_left_a_hint_for_each_key(scene: Scene) -> None:
    scene.street.manner["c"] = REFUSED
    scene.street.hop_s["a"] = scene.street.hop_s["b"] = HOP_S / 4
    outcomes = [scene.put(key=key) for key in KEYS]
    scene.run(HOP_S / 2)
    assert all(outcome.value == b"v" for outcome in outcomes)
    scene.run(1)
    hinted = [asked.op for asked in scene.street.take() if asked.op.verb == HINT]
    assert sorted(op.key for op in hinted) == sorted(KEYS)
    assert {op.record for op in hinted} == {b"c"}


def test_an_owner_that_abstains_after_a_majority_has_taken_it_is_left_a_hint(scene: Scene) -> None:
    scene.street.abstains = {("c", KEYS[2]), ("c", KEYS[4])}
    scene.street.hop_s["c"] = 5 * HOP_S
    outcomes = [scene.put(key=key) for key in KEYS]
    scene.run(2 * HOP_S)
    assert all(outcome.value == b"v" for outcome in outcomes)
    scene.run(1)
    hinted = [asked.op for asked in scene.street.take() if asked.op.verb == HINT]
    assert sorted((op.key, op.record) for op in hinted) == [(KEYS[2], b"c"), (KEYS[4], b"c")]


def test_what_is_to_be_asked_again_of_a_node_that_has_left_is_not(scene: Scene) -> None:
    scene.street.again = {KEYS[1]}
    scene.street.hop_s = dict.fromkeys("abc", 3 * HOP_S)
    for node in "abc":
        scene.street.hold(node, b"v", KEYS[1])
    reads = [scene.get(key) for key in KEYS[:3]]
    scene.run(HOP_S)
    scene.adopt(2, nodes=("d", "e", "f"))
    scene.street.again = set()
    scene.run(1)
    assert all(isinstance(read.result, Done) for read in reads)
    assert not [asked for asked in scene.street.take() if asked.epoch == 2 and asked.node in "abc"]


def test_what_is_not_shown_at_first_is_asked_again_of_the_same_owner(scene: Scene) -> None:
    for node in "abc":
        scene.street.hold(node, b"v", KEYS[1])
    scene.street.again = {KEYS[1]}
    reads = [scene.get(key) for key in KEYS[:3]]
    scene.run(HOP_S / 2)
    scene.street.again = set()
    scene.run(1)
    assert reads[1].value == b"v"
    asked = [asked.node for asked in scene.street.take() if asked.op == Op(FETCH, KEYS[1])]
    assert len(asked) == 2
    assert len(set(asked)) == 1


def test_who_begins_something_while_an_epoch_ends_begins_it_in_the_next_one(scene: Scene) -> None:
    scene.street.manner = {"a": SILENT, "b": SILENT}
    scene.street.hop_s["c"] = 10.0
    later: list[Outcome] = []
    first = scene.coordinator.put(KEYS[0], b"v", b"", Level.STRONG)
    first.addBoth(lambda _: later.append(scene.put(key=KEYS[1])))
    scene.run(0.01)
    bundle = next(iter(scene.coordinator._bundles.books.live))
    bundle._until_s = scene.clock.seconds()  # its deadline passes as the epoch ends
    scene.coordinator.go_alone = ends_at_once(scene.coordinator.go_alone)  # type: ignore[method-assign]
    scene.street.manner, scene.street.hop_s = {}, {}
    scene.adopt(2)
    scene.run(1)
    assert later[0].value == b"v"


def ends_at_once(go_alone: Any) -> Any:
    """Have whoever leaves a bundle end from inside of that."""

    def wrong(*given: Any) -> Any:
        operation = go_alone(*given)
        operation.tell_early()
        return operation

    return wrong


def test_what_cannot_be_encoded_is_not_put_into_a_bundle(scene: Scene) -> None:
    electorate = scene.coordinator.order(K, "write")
    beyond = Draft(b"v", b"", 1 << 64)
    assert not scene.coordinator._bundles.write(electorate, K, beyond, lambda result: None)
    assert scene.coordinator.under_way == 0


def test_owners_that_are_avoided_are_not_asked_and_left_a_hint_for_each_key(scene: Scene) -> None:
    for _ in range(5):
        scene.queues.by_node[scene.owners[0]].refuse("connection refused")
    assert scene.queues.by_node[scene.owners[0]].suspicion.silent
    outcomes = [scene.put(key=key) for key in KEYS]
    scene.run(1)
    asked = scene.street.take()
    assert scene.owners[0] not in {asked.node for asked in asked if asked.op.verb == ACCEPT}
    assert len([asked for asked in asked if asked.op.verb == HINT]) == len(KEYS)
    assert {outcome.result.acks for outcome in outcomes} == {2}


def test_without_a_majority_each_is_told_so_for_himself(scene: Scene) -> None:
    scene.street.manner |= {"a": REFUSED, "b": REFUSED}
    outcomes = [scene.put(key=key) for key in KEYS]
    scene.run(1)
    for outcome in outcomes:
        assert type(outcome.error) is Unreached
        assert outcome.error.maybe_applied
        assert outcome.error.acks == 1
        assert set(outcome.error.replicas) == {"a", "b"}
    assert len({outcome.error.etag for outcome in outcomes}) == len(KEYS)
    assert scene.coordinator.under_way == 0


def test_a_deadline_tells_each_what_is_known(scene: Scene) -> None:
    scene.street.manner |= {"a": SILENT, "b": SILENT}
    scene.street.hop_s["c"] = 7.0
    outcomes = [scene.put(key=key) for key in KEYS]
    scene.run(8)
    for outcome in outcomes:
        assert type(outcome.error) is DeadlinePassed
        assert outcome.error.maybe_applied
        assert set(outcome.error.replicas) == {"a", "b", "c"}
        assert outcome.at_s == on_time(5.0)


@pytest.mark.parametrize("open_", [True, False])
def test_an_epoch_that_moves_has_everybody_begin_again_in_the_next_one(scene: Scene, open_: bool) -> None:
    scene.street.manner = dict.fromkeys("abc", OUTDATED)
    sent = [scene.put(key=key) for key in KEYS[:6]]
    scene.run(HOP_S / 2)
    unsent = [scene.put(key=key) for key in KEYS[6:]]
    scene.street.take()
    scene.adopt(2, open_=open_)
    assert scene.coordinator.under_way == len(KEYS)
    scene.street.manner = {}
    if not open_:
        scene.run(1)
        assert not any(asked.op.verb == ACCEPT and asked.epoch == 2 for asked in scene.street.take())
        scene.adopt(3)
    scene.run(1)
    assert all(outcome.value == b"v" for outcome in (*sent, *unsent))
    prepared = {asked.op.key for asked in scene.street.take() if asked.op.verb == PREPARE}
    assert prepared == set(KEYS[:6]), "what was never sent needs no prepare"


def test_bundles_wait_in_full_queues_no_more_than_operations_do() -> None:
    scene = Scene(queue_ops_max=4, batches_in_flight_max=1, batch_ops_max=4)
    scene.street.hop_s = dict.fromkeys("abc", 1.0)
    outcomes = [scene.put(key=key) for key in KEYS]
    scene.run(6)
    assert any(isinstance(outcome.result, Done) for outcome in outcomes)
    refused = [outcome for outcome in outcomes if not isinstance(outcome.result, Done)]
    assert all("too much waits" in str(outcome.error.replicas) for outcome in refused)


manners = st.fixed_dictionaries({node: st.sampled_from([ANSWERS] * 4 + [SILENT, REFUSED]) for node in "abc"})
hops = st.fixed_dictionaries({node: st.sampled_from([0.0004, 0.001, 0.0023, 0.15, 4.5]) for node in "abc"})
held = st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(KEYS[:4]), st.sampled_from([1, 5, 9_000_000])))
calls = st.lists(st.tuples(st.sampled_from(["put", "get"]), st.sampled_from(KEYS[:6])), min_size=1, max_size=8)


def story(
    alone: bool, manner: dict[str, str], hop_s: dict[str, float], holds: Any, asked: Any, moves: bool
) -> list[Any]:
    """Play a story; in one telling of it everybody goes alone."""
    sites = {"preferring: another owner is read first"}  # always the same one, in both tellings
    if alone:
        sites |= {"bundles: a write alone", "bundles: a read alone"}
    scene = Scene(buggify=sites.__contains__)
    scene.street.manner, scene.street.hop_s = dict(manner), dict(hop_s)
    for node, key, ms in holds:
        scene.street.hold(node, b"%d" % ms, key, ms)
    outcomes = [scene.put(b"new", key) if kind == "put" else scene.get(key) for kind, key in asked]
    scene.run(0.0006)
    if moves:
        scene.adopt(2)
    scene.run(12)
    assert scene.coordinator.under_way == 0
    assert scene.coordinator._bytes == scene.coordinator._bundles.books.size == 0
    told = []
    for (kind, _), outcome in zip(asked, outcomes, strict=True):
        if isinstance(outcome.result, Done):
            told.append((kind, outcome.value))
        else:
            told.append((kind, outcome.error.slug, outcome.error.maybe_applied, sorted(outcome.error.replicas)))
    return told


@settings(max_examples=300)
@given(manners, hops, held, calls, st.booleans())
def test_nobody_can_tell_whether_he_was_in_a_bundle(
    manner: dict[str, str], hop_s: dict[str, float], holds: Any, asked: Any, moves: bool
) -> None:
    # Each key is asked for once: which of two that meet comes first is a matter of luck.
    once = list({key: (kind, key) for kind, key in asked}.values())
    by_himself, bundled = (story(alone, manner, hop_s, holds, once, moves) for alone in (True, False))
    for one, other in zip(by_himself, bundled, strict=True):
        # In a new epoch a write prepares anew, and may meet what hides its fate: with whichever majority answers first.
        assert one == other or (moves and ("put", "quorum-unreached", True, []) in (one, other))


def test_other_levels_and_times_of_their_own_go_alone(scene: Scene) -> None:
    scene.put(level=Level.ALL)
    scene.get(level=Level.ALL)
    scene.coordinator.put(KEYS[0], b"v", b"", Level.STRONG, timeout_s=1.0)
    scene.run(1)
    assert batches(scene) == []
    assert len(scene.street.take()) == 3 + 3 + 3
