"""Queues towards one node: what gathers, what leaves together, and who hears what came back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from twisted_kv.errors import PeerSilent, PeerUnreachable
from twisted_kv.limits import Limits
from twisted_kv.liveness import SLACK, Rank
from twisted_kv.membership import Seat, State
from twisted_kv.metrics import ProxyMetrics
from twisted_kv.names import Key, NodeId
from twisted_kv.peers.peer import Answer
from twisted_kv.peers.queue import PeerQueue, Queues
from twisted_kv.register import ACCEPT, AGAIN, FETCH, PREPARE, READ, Op, Reply
from twisted_kv.versions import NONE, UNDRAWN, Ballot, Record, Version, record_value
from twisted_kv.views import View
from twisted_kv.wire.batches import (
    CLOSED_EPOCH,
    OLD_EPOCH,
    OTHER_CLUSTER,
    OTHER_INCARNATION,
    OTHER_MEMBER,
    UNKNOWN_FORMAT,
    Batch,
    BatchReply,
    Bundle,
    BundleReply,
    batch_decoder,
)
from twisted_kv.wire.header import FORMAT, Header, encode

A, B, C = NodeId("n-a"), NodeId("n-b"), NodeId("n-c")


BALLOT = Ballot(bytes(7) + bytes((1,)) + bytes(8))


def record_of(value: bytes) -> bytes:
    return Record(Version(BALLOT), value).encode()


def held(value: bytes) -> Reply:
    return Reply(True, BALLOT, BALLOT, record_of(value))


class Sent(NamedTuple):
    """One batch on its way, which the test answers when it likes."""

    url: str
    batch: Batch
    done: Deferred[Answer]

    @property
    def keys(self) -> list[bytes]:
        return [op.key for op in self.batch.ops]

    def answer(self, reply: BatchReply, resent: bool = False) -> None:
        self.done.callback(Answer(409 if reply.refusal else 200, encode(reply), resent))

    def agree(self, resent: bool = False) -> None:
        """Answer each operation with a reply that tells which one it was for."""
        replies = [held(op.key) for op in self.batch.ops]
        self.answer(BatchReply(FORMAT, 1, replies), resent)

    def refuse(self, refusal: str, resent: bool = False) -> None:
        self.answer(BatchReply(FORMAT, 9, [], refusal, "not you", b"state"), resent)


class Post:
    """A transport that keeps what it is given."""

    def __init__(self) -> None:
        self.sent: list[Sent] = []

    def request(self, method: str, url: str, body: bytes, *, content_type: str, timeout_s: float) -> Deferred[Answer]:
        assert (method, content_type, timeout_s) == ("POST", "application/msgpack", Limits().batch_timeout_s)
        self.sent.append(Sent(url, batch_decoder.decode(body), Deferred()))
        return self.sent[-1].done

    def take(self) -> list[Sent]:
        """What was sent since the last time."""
        taken, self.sent = self.sent, []
        return taken


class Ear:
    """An asker that notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[tuple[Any, ...]] = []

    def answered(self, node: NodeId, round_: int, reply: Reply, resent: bool) -> None:
        value = record_value(reply.record) if reply.record else b""
        self.heard.append(("answered", node, round_, value, resent))

    def unanswered(self, node: NodeId, round_: int, error: str, arrived: bool) -> None:
        self.heard.append(("unanswered", node, round_, error, arrived))

    def outdated(self, node: NodeId, round_: int) -> None:
        self.heard.append(("outdated", node, round_))


class Scene:
    """The queues of a small cluster, on a clock."""

    def __init__(self, limits: Limits) -> None:
        self.clock = Clock()
        self.post = Post()
        self.metrics = ProxyMetrics()
        self.complaints: list[tuple[NodeId, BatchReply]] = []
        self.queues = Queues(
            self.clock, limits, self.post, self.metrics, lambda node, reply: self.complaints.append((node, reply))
        )
        self.adopt(1, A)

    def adopt(self, epoch: int, *nodes: NodeId, port: int = 80, open_: bool = True) -> None:
        seats = tuple(Seat(node, f"http://{node}:{port}", incarnation=f"i-{node}") for node in nodes)
        view = View(State(1, "c-1", epoch, 3, 1, members=seats))
        view.open = open_
        self.queues.adopt(view)

    @property
    def queue(self) -> PeerQueue:
        return self.queues.by_node[A]

    def ask(self, *ops: Op, round_: int = 1) -> list[Ear]:
        """Ask node A, each question with an ear of its own."""
        ears = [Ear() for _ in ops]
        for ear, op in zip(ears, ops, strict=True):
            self.queue.ask(ear, round_, op)
        return ears

    def turn(self) -> list[Sent]:
        """Let one turn of the reactor pass, and give what left in it."""
        self.clock.advance(0)
        return self.post.take()

    def fail(self, times: int) -> None:
        for _ in range(times):
            self.ask(read(b"x"))
            (sent,) = self.turn()
            sent.done.errback(Failure(PeerUnreachable("refused")))

    def exchange(self, hops_s: dict[NodeId, float]) -> None:
        """Read from each of these nodes, and let each answer after its time."""
        for node in hops_s:
            self.queues.by_node[node].ask(Ear(), 1, read(b"x"))
        sent = {batch.batch.header.member: batch for batch in self.turn()}
        began = self.clock.seconds()
        for node, hop_s in sorted(hops_s.items(), key=lambda item: item[1]):
            self.clock.advance(began + hop_s - self.clock.seconds())
            sent[node].agree()

    def counted(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


@pytest.fixture
def scene_of() -> Iterator[Callable[..., Scene]]:
    scenes: list[Scene] = []

    def make(**limits: int) -> Scene:
        scenes.append(Scene(Limits(**({"batches_in_flight_max": 2} | limits))))  # type: ignore[arg-type]
        return scenes[-1]

    yield make
    for scene in scenes:
        assert scene.clock.getDelayedCalls() == []


@pytest.fixture
def scene(scene_of: Callable[..., Scene]) -> Scene:
    return scene_of()


def read(key: bytes) -> Op:
    return Op(READ, key)


def write(key: bytes, size: int = 1) -> Op:
    return Op(ACCEPT, key, b"b" * 16, bytes(size))


# What leaves, and when.


def test_nothing_leaves_before_the_turn_ends_and_then_all_of_it_as_one_batch(scene: Scene) -> None:
    ops = [write(b"1"), Op(PREPARE, b"2", b"b" * 16), write(b"3")]
    scene.ask(*ops)
    assert scene.post.take() == []
    assert len(scene.queue) == 3
    (sent,) = scene.turn()
    assert sent.url == "http://n-a:80/node/v1/batch"
    assert sent.batch == Batch(Header(FORMAT, "c-1", A, "i-n-a", 1, True, 4000), ops)
    assert len(scene.queue) == 0
    assert scene.turn() == []


def test_a_later_turn_sends_a_batch_of_its_own_while_the_first_is_under_way(scene: Scene) -> None:
    scene.ask(read(b"1"))
    (first,) = scene.turn()
    scene.ask(read(b"2"))
    (second,) = scene.turn()
    assert (first.keys, second.keys) == ([b"1"], [b"2"])


def test_while_two_batches_are_under_way_the_next_one_grows(scene: Scene) -> None:
    under_way = []
    for key in (b"1", b"2"):
        scene.ask(read(key))
        under_way += scene.turn()
    for key in (b"3", b"4", b"5"):
        scene.ask(read(key))
        assert scene.turn() == []
    assert scene.queues.waiting() == 3
    assert ((A, "read"), 3) in scene.queues.depths("ops")
    assert dict(scene.queues.depths("bytes")) == dict.fromkeys(dict(scene.queues.depths("ops")), 0)
    under_way[0].agree()
    (third,) = scene.turn()
    assert third.keys == [b"3", b"4", b"5"]
    scene.ask(read(b"6"))
    assert scene.turn() == []
    third.agree()
    assert [sent.keys for sent in scene.turn()] == [[b"6"]]


def test_a_batch_that_fails_makes_room_for_the_next_one(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of(batches_in_flight_max=1)
    scene.ask(read(b"1"))
    (first,) = scene.turn()
    scene.ask(read(b"2"))
    assert scene.turn() == []
    first.done.errback(Failure(PeerSilent("nothing")))
    assert [sent.keys for sent in scene.turn()] == [[b"2"]]


def test_reads_do_not_wait_for_writes(scene: Scene) -> None:
    for key in (b"1", b"2", b"3"):
        scene.ask(write(key))
        scene.turn()
    scene.ask(read(b"4"), Op(FETCH, b"5"))
    assert [sent.keys for sent in scene.turn()] == [[b"4", b"5"]]
    assert len(scene.queue) == 1


def test_a_read_and_a_write_of_one_turn_leave_in_batches_of_their_own(scene: Scene) -> None:
    scene.ask(read(b"1"), write(b"2"), read(b"3"))
    assert sorted(sent.keys for sent in scene.turn()) == [[b"1", b"3"], [b"2"]]


def test_a_batch_holds_no_more_than_batch_ops_max_operations(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of(batch_ops_max=3)
    scene.ask(*(read(b"%d" % number) for number in range(8)))
    first, second = scene.turn()
    assert (first.keys, second.keys) == ([b"0", b"1", b"2"], [b"3", b"4", b"5"])
    first.agree()
    (third,) = scene.turn()
    assert third.keys == [b"6", b"7"]


def test_a_batch_holds_no_more_than_batch_bytes_max_but_a_larger_operation_goes_alone(
    scene_of: Callable[..., Scene],
) -> None:
    scene = scene_of(batch_bytes_max=100, batches_in_flight_max=9)
    sizes = {b"a": 60, b"b": 40, b"c": 1, b"huge": 1000, b"d": 50, b"e": 51}
    scene.ask(*(write(key, size) for key, size in sizes.items()))
    assert [sent.keys for sent in scene.turn()] == [[b"a", b"b"], [b"c"], [b"huge"], [b"d"], [b"e"]]


def test_a_queue_that_is_full_of_operations_refuses_newcomers_and_only_those(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of(queue_ops_max=2)
    kept_1, kept_2, refused = scene.ask(read(b"1"), read(b"2"), read(b"3"), round_=5)
    assert refused.heard == [], "never from inside ask()"
    (sent,) = scene.turn()
    assert refused.heard == [("unanswered", A, 5, "too much waits for this node already", False)]
    sent.agree()
    assert [kept_1.heard[0][0], kept_2.heard[0][0]] == ["answered", "answered"]
    scene.ask(read(b"4"))
    assert [sent.keys for sent in scene.turn()] == [[b"4"]], "there is room again"


def test_a_queue_that_is_full_of_bytes_refuses_newcomers_of_that_lane(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of(queue_bytes_max=100)
    full, refused = scene.ask(write(b"1", 101), write(b"2", 1))
    (reading,) = scene.ask(read(b"3"))
    sent = scene.turn()
    assert sorted(batch.keys for batch in sent) == [[b"1"], [b"3"]]
    assert refused.heard == [("unanswered", A, 1, "too much waits for this node already", False)]
    assert (full.heard, reading.heard) == ([], [])


def test_what_left_in_an_earlier_batch_takes_no_room_any_more(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of(queue_bytes_max=100, batch_bytes_max=60, batches_in_flight_max=1)
    scene.ask(write(b"1", 60), write(b"2", 41))
    (first,) = scene.turn()
    (ear,) = scene.ask(write(b"3", 1))
    scene.turn()
    assert ear.heard == []
    first.agree()
    assert [sent.keys for sent in scene.turn()] == [[b"2", b"3"]]


def test_a_node_that_is_avoided_counts_as_unreachable_at_once_and_nothing_is_sent(scene: Scene) -> None:
    scene.fail(3)
    assert scene.queues.avoided() == {A}
    (ear,) = scene.ask(write(b"k"), round_=2)
    assert ear.heard == [], "never from inside ask()"
    assert scene.turn() == []
    assert ear.heard == [("unanswered", A, 2, "avoided since it failed: refused", False)]
    scene.queue.confirm(probe=True)
    scene.ask(write(b"k"))
    assert len(scene.turn()) == 1


def test_answers_to_probes_do_not_hide_that_batches_fail(scene: Scene) -> None:
    for _ in range(2):
        scene.fail(1)
        scene.queue.confirm(probe=True)
        assert scene.queues.avoided() == set()
    scene.fail(1)
    assert scene.queues.avoided() == {A}


def test_a_node_that_flaps_is_left_alone_for_longer_each_time_and_used_within_seconds_when_it_is_well(
    scene: Scene,
) -> None:
    scene.adopt(2, A, B, C)
    waited = []
    for _ in range(7):
        scene.fail(3)
        began = scene.clock.seconds()
        while scene.queue.suspicion.avoided:
            scene.clock.advance(0.5)
            scene.queue.confirm(probe=True)
        waited.append(scene.clock.seconds() - began)
    assert waited == [0.5, 1.0, 1.5, 2.5, 4.5, 4.5, 4.5]


def test_a_node_on_trial_is_asked_last_but_asked_since_a_majority_may_need_it(scene: Scene) -> None:
    scene.adopt(2, A, B, C)
    scene.fail(3)
    scene.queue.confirm(probe=True)
    scene.fail(3)
    (ear,) = scene.ask(write(b"k"))
    assert scene.turn() == []
    assert ear.heard[0][0] == "unanswered", "it has not answered since it failed"
    scene.queue.confirm(probe=True)
    scene.clock.advance(0.2)
    assert scene.queues.standing() == {A: Rank.ON_TRIAL}
    assert scene.queues.avoided() == set()
    scene.ask(write(b"k"))
    assert len(scene.turn()) == 1


def test_a_node_that_is_alone_is_on_trial_for_nobody(scene: Scene) -> None:
    scene.fail(3)
    scene.queue.confirm(probe=True)
    scene.fail(3)
    scene.queue.confirm(probe=True)
    assert scene.queue.suspicion.on_trial
    scene.ask(read(b"k"))
    assert len(scene.turn()) == 1


def test_two_failures_in_a_row_are_forgiven_by_an_answer(scene: Scene) -> None:
    for _ in range(2):
        scene.fail(2)
        scene.ask(read(b"x"))
        (sent,) = scene.turn()
        sent.agree()
    assert scene.queues.avoided() == set()


# Who is slow.


def test_a_node_whose_answers_take_far_longer_than_the_others_is_slow_and_then_forgiven(scene: Scene) -> None:
    scene.adopt(2, A, B, C)
    for _ in range(20):
        scene.exchange({A: 0.3, B: 0.002, C: 0.004})
    assert scene.queues.standing() == {A: Rank.SLOW}
    assert scene.queues.slow() == 1
    assert scene.queues.avoided() == set()
    assert scene.queues.hedge_s((B, C)) == pytest.approx(0.004 * SLACK)
    assert scene.queues.hedge_s((A, B)) == pytest.approx(0.1), "no more than slow_read_s"
    scene.clock.advance(Limits().pace_s_max + 1)
    assert scene.queues.standing() == {}


def test_a_cluster_that_is_slow_as_a_whole_has_no_slow_nodes(scene: Scene) -> None:
    scene.adopt(2, A, B, C)
    for _ in range(20):
        scene.exchange({A: 0.9, B: 0.3, C: 0.5})
    assert scene.queues.standing() == {}


def test_a_node_that_owes_an_answer_is_slow_before_it_has_failed(scene: Scene) -> None:
    scene.adopt(2, A, B, C)
    for _ in range(3):
        scene.exchange({A: 0.001, B: 0.001, C: 0.001})
    scene.ask(read(b"k"))
    (sent,) = scene.turn()
    assert scene.queues.standing() == {}
    scene.clock.advance(0.2)
    assert scene.queues.standing() == {A: Rank.SLOW}
    sent.agree()
    scene.clock.advance(0.1)
    assert scene.queues.standing() == {}


def test_waiting_in_the_queue_counts_as_time_that_an_answer_takes(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of(batches_in_flight_max=1)
    scene.ask(read(b"1"))
    (first,) = scene.turn()
    scene.ask(read(b"2"))
    scene.clock.advance(0.03)
    first.agree()
    (second,) = scene.turn()
    scene.clock.advance(0.03)
    second.agree()
    assert scene.queue.tail_s(scene.clock.seconds()) == pytest.approx(0.06)


def test_the_pace_of_reads_is_not_that_of_writes(scene: Scene) -> None:
    scene.ask(write(b"1"))
    (sent,) = scene.turn()
    scene.clock.advance(0.5)
    sent.agree()
    assert scene.queue.tail_s(scene.clock.seconds()) is None
    assert scene.queues.hedge_s((A,)) == Limits().slow_read_s


# What comes back.


def test_each_asker_gets_the_answer_to_its_own_question(scene: Scene) -> None:
    ears = [*scene.ask(read(b"1"), read(b"2"), round_=3), *scene.ask(read(b"3"), round_=4)]
    (sent,) = scene.turn()
    sent.agree()
    assert [ear.heard for ear in ears] == [
        [("answered", A, 3, b"1", False)],
        [("answered", A, 3, b"2", False)],
        [("answered", A, 4, b"3", False)],
    ]


def test_what_found_no_room_in_an_answer_is_asked_again_and_the_rest_is_passed_on(scene: Scene) -> None:
    ears = scene.ask(write(b"1"), write(b"2"), write(b"3"))
    (sent,) = scene.turn()
    sent.answer(BatchReply(FORMAT, 1, [AGAIN, held(b"2"), AGAIN]))
    assert [len(ear.heard) for ear in ears] == [0, 1, 0]
    (sent,) = scene.turn()
    assert sent.keys == [b"1", b"3"]
    sent.agree()
    assert [[said[3] for said in ear.heard] for ear in ears] == [[b"1"], [b"2"], [b"3"]]


def test_what_is_to_be_asked_again_in_another_epoch_is_for_its_asker_to_ask(scene: Scene) -> None:
    ears = scene.ask(write(b"1"), write(b"2"))
    (sent,) = scene.turn()
    scene.adopt(2, A)
    sent.answer(BatchReply(FORMAT, 1, [held(b"1"), AGAIN]))
    assert [ear.heard[0][0] for ear in ears] == ["answered", "outdated"]
    assert scene.turn() == []


def test_a_node_that_answers_nothing_of_a_batch_is_not_asked_for_ever(scene: Scene) -> None:
    (ear,) = scene.ask(write(b"1"))
    (sent,) = scene.turn()
    sent.answer(BatchReply(FORMAT, 1, [AGAIN]))
    assert ear.heard[0][0] == "unanswered"
    assert scene.turn() == []


def test_that_a_batch_was_sent_twice_is_passed_on(scene: Scene) -> None:
    (ear,) = scene.ask(write(b"k"))
    (sent,) = scene.turn()
    sent.agree(resent=True)
    assert ear.heard == [("answered", A, 1, b"k", True)]


@pytest.mark.parametrize(("error", "arrived"), [(PeerUnreachable, False), (PeerSilent, True)])
def test_who_could_not_be_reached_took_nothing_and_who_is_silent_may_have(
    scene: Scene, error: type[PeerSilent], arrived: bool
) -> None:
    ears = scene.ask(write(b"1"), write(b"2"))
    (sent,) = scene.turn()
    sent.done.errback(Failure(error("why")))
    assert [ear.heard for ear in ears] == [[("unanswered", A, 1, "why", arrived)]] * 2
    assert scene.counted("kv_batch_failures_total", node=A, lane="write") == 1


@pytest.mark.parametrize("replies", [1, 3])
def test_a_wrong_number_of_answers_is_given_to_nobody(scene: Scene, replies: int) -> None:
    ears = scene.ask(write(b"1"), write(b"2"))
    (sent,) = scene.turn()
    sent.answer(BatchReply(FORMAT, 1, [Reply(True, NONE, NONE)] * replies))
    assert [ear.heard for ear in ears] == [[("unanswered", A, 1, f"{replies} answers to 2 questions", True)]] * 2


class Crowd:
    """Who asks a bundle, and notes what is heard of it."""

    size = 0

    def __init__(self, *keys: bytes) -> None:
        self.keys = [Key(key) for key in keys]
        self.heard: list[tuple[Any, ...]] = []

    def __len__(self) -> int:
        return len(self.keys)

    def pack(self, verb: int) -> msgspec.Raw:
        return msgspec.Raw(encode(Bundle(verb, self.keys, [b"r"] * len(self.keys) if verb == ACCEPT else [])))

    def answered(self, node: NodeId, verb: int, reply: BundleReply, resent: bool) -> None:
        self.heard.append(("answered", node, verb, reply, resent))

    def unanswered(self, node: NodeId, error: str, arrived: bool) -> None:
        self.heard.append(("unanswered", node, error, arrived))


def test_bundles_travel_with_the_questions_of_their_lane_and_each_hears_its_own_answers(scene: Scene) -> None:
    queue = scene.queues.by_node[A]
    first, second, written = Crowd(b"a", b"b"), Crowd(b"c"), Crowd(b"d")
    queue.ask_bundle(first, FETCH)
    queue.ask_bundle(second, READ)
    queue.ask_bundle(written, ACCEPT)
    (ear,) = scene.ask(Op(READ, b"e"))
    assert len(queue) == 5
    reads, writes = sorted(scene.turn(), key=lambda sent: len(sent.batch.bundles), reverse=True)
    assert [(bundle.verb, bundle.keys) for bundle in reads.batch.bundles] == [(FETCH, [b"a", b"b"]), (READ, [b"c"])]
    assert reads.keys == [b"e"]
    assert [(bundle.verb, bundle.keys) for bundle in writes.batch.bundles] == [(ACCEPT, [b"d"])]
    answers = [BundleReply([BALLOT, BALLOT], [record_of(b"1"), record_of(b"2")]), BundleReply([NONE], [], {0: AGAIN})]
    reads.answer(BatchReply(FORMAT, 1, [Reply(True, NONE, NONE)], bundles=answers), resent=True)
    assert first.heard == [("answered", A, FETCH, answers[0], True)]
    assert second.heard == [("answered", A, READ, answers[1], True)]
    assert [heard[0] for heard in ear.heard] == ["answered"]
    writes.done.errback(Failure(PeerSilent("why")))
    assert written.heard == [("unanswered", A, "why", True)]


def test_a_batch_holds_what_may_be_in_one_and_bundles_and_questions_are_first_by_turns() -> None:
    scene = Scene(Limits(batch_ops_max=3, batches_in_flight_max=1))
    queue = scene.queues.by_node[A]
    crowds = [Crowd(b"a", b"b"), Crowd(b"c", b"d"), Crowd(*[b"%d" % number for number in range(5)])]
    for crowd in crowds:
        queue.ask_bundle(crowd, READ)
    scene.ask(*[Op(READ, b"q%d" % number) for number in range(4)])
    batches = []
    while sent := scene.turn():
        [one] = sent
        batches.append(([len(bundle.keys) for bundle in one.batch.bundles], len(one.keys)))
        bundles = [BundleReply([NONE] * len(bundle.keys)) for bundle in one.batch.bundles]
        one.answer(BatchReply(FORMAT, 1, [Reply(True, NONE, NONE)] * len(one.keys), bundles=bundles))
    assert batches == [([2], 1), ([], 3), ([2], 0), ([5], 0)], "what is larger than a batch may be goes alone"


@pytest.mark.parametrize(
    ("verb", "wrong"),
    [
        (FETCH, []),
        (FETCH, [BundleReply([NONE], [b""]), BundleReply()]),
        (FETCH, [BundleReply([NONE], [b"", b""])]),
        (FETCH, [BundleReply([NONE, NONE], [b""])]),
        (FETCH, [BundleReply([NONE, NONE], [b"", b""], {2: AGAIN})]),
        (FETCH, [BundleReply([NONE, BALLOT], [b"", b""])]),
        (FETCH, [BundleReply([NONE, BALLOT], [b"", record_of(b"cut")[:-1]])]),
        (FETCH, [BundleReply([NONE, NONE], [b"", record_of(b"v")])]),
        (FETCH, [BundleReply([UNDRAWN, NONE], [record_of(b"v"), b""])]),
        (FETCH, [BundleReply([NONE, NONE], [b"", b""], {0: Reply(True, BALLOT, BALLOT)})]),
        (READ, [BundleReply([UNDRAWN, NONE])]),
        (READ, [BundleReply([NONE, NONE], others={0: Reply(False, NONE, UNDRAWN)})]),
        (READ, [BundleReply([NONE, NONE], [b"", b""])]),
        (ACCEPT, [BundleReply([NONE, NONE])]),
        (ACCEPT, [BundleReply(others={-1: AGAIN})]),
    ],
)
def test_answers_that_do_not_fit_a_bundle_are_given_to_nobody(
    scene: Scene, verb: int, wrong: list[BundleReply]
) -> None:
    crowd = Crowd(b"a", b"b")
    scene.queues.by_node[A].ask_bundle(crowd, verb)
    (sent,) = scene.turn()
    sent.answer(BatchReply(FORMAT, 1, [], bundles=wrong))
    assert crowd.heard == [("unanswered", A, "the answers to a bundle are not what it asked for", True)]


@pytest.mark.parametrize("ballot", [b"", bytes(15), bytes(17)])
def test_ballots_of_another_length_are_no_answer(scene: Scene, ballot: bytes) -> None:
    crowd = Crowd(b"a")
    scene.queues.by_node[A].ask_bundle(crowd, READ)
    (sent,) = scene.turn()
    sent.answer(BatchReply(FORMAT, 1, [], bundles=[BundleReply([Ballot(ballot)])]))
    assert crowd.heard == [("unanswered", A, "status 200 without a readable answer", True)]
    (ear,) = scene.ask(Op(READ, b"e"))
    (sent,) = scene.turn()
    sent.answer(BatchReply(FORMAT, 1, [Reply(True, NONE, Ballot(ballot))]))
    assert ear.heard == [("unanswered", A, 1, "status 200 without a readable answer", True)]


@pytest.mark.parametrize(
    "wrong",
    [
        Reply(True, UNDRAWN, UNDRAWN, record_of(b"v")),
        Reply(True, BALLOT, UNDRAWN, record_of(b"v")),
        Reply(True, BALLOT, BALLOT, b"no record"),
        Reply(True, BALLOT, BALLOT),
        Reply(True, NONE, NONE, record_of(b"v")),
        Reply(False, UNDRAWN, UNDRAWN),
    ],
)
def test_what_no_owner_can_hold_is_given_to_nobody(scene: Scene, wrong: Reply) -> None:
    """Written back, it would be refused by the others, with all that is in the same batch."""
    ears = scene.ask(Op(FETCH, b"a"), Op(FETCH, b"b"))
    (sent,) = scene.turn()
    sent.answer(BatchReply(FORMAT, 1, [held(b"a"), wrong]))
    assert [ear.heard[0][3] for ear in ears] == ["no owner can hold what the node says that it does"] * 2


def test_a_bundle_of_which_nothing_is_answered_is_not_asked_for_ever(scene: Scene) -> None:
    crowd = Crowd(b"a")
    scene.queues.by_node[A].ask_bundle(crowd, FETCH)
    (sent,) = scene.turn()
    sent.answer(BatchReply(FORMAT, 1, [], bundles=[BundleReply([NONE], [b""], {0: AGAIN})]))
    assert crowd.heard == [("unanswered", A, "the node answers nothing of a batch", True)]


@pytest.mark.parametrize("refusal", [OLD_EPOCH, CLOSED_EPOCH])
def test_a_bundle_of_another_epoch_waits_for_the_next_view(scene: Scene, refusal: str) -> None:
    crowd = Crowd(b"a")
    scene.queues.by_node[A].ask_bundle(crowd, FETCH)
    (sent,) = scene.turn()
    sent.refuse(refusal)
    assert crowd.heard == []
    assert [node for node, _ in scene.complaints] == [A]


@pytest.mark.parametrize("body", [b"", b"<html>busy</html>", b"\x93\x01", encode([1, 1, [[True, b"", 7]]])])
def test_an_answer_that_cannot_be_read_leaves_the_question_open(scene: Scene, body: bytes) -> None:
    (ear,) = scene.ask(write(b"1"))
    (sent,) = scene.turn()
    sent.done.callback(Answer(503, body))
    assert ear.heard == [("unanswered", A, 1, "status 503 without a readable answer", True)]


def test_nodes_that_answer_nonsense_are_avoided_like_silent_ones(scene: Scene) -> None:
    for _ in range(3):
        scene.ask(read(b"x"))
        (sent,) = scene.turn()
        sent.done.callback(Answer(200, b"?"))
    assert scene.queues.avoided() == {A}


@pytest.mark.parametrize("refusal", [OLD_EPOCH, CLOSED_EPOCH])
def test_askers_of_another_epoch_are_told_to_wait_and_the_roster_to_look(scene: Scene, refusal: str) -> None:
    ears = scene.ask(write(b"1"), write(b"2"), round_=6)
    (sent,) = scene.turn()
    sent.refuse(refusal)
    assert [ear.heard for ear in ears] == [[("outdated", A, 6)]] * 2
    assert [(node, reply.refusal, reply.epoch, reply.state) for node, reply in scene.complaints] == [
        (A, refusal, 9, b"state")
    ]


@pytest.mark.parametrize("resent", [False, True])
@pytest.mark.parametrize(
    ("refusal", "complains"),
    [(OTHER_INCARNATION, True), (OTHER_CLUSTER, True), (OTHER_MEMBER, False), (UNKNOWN_FORMAT, False)],
)
def test_a_refusal_took_nothing_unless_the_batch_was_sent_twice(
    scene: Scene, refusal: str, complains: bool, resent: bool
) -> None:
    (ear,) = scene.ask(write(b"1"))
    (sent,) = scene.turn()
    sent.refuse(refusal, resent)
    assert ear.heard == [("unanswered", A, 1, "not you", resent)]
    assert len(scene.complaints) == complains
    assert scene.queues.avoided() == set()


def test_a_bug_in_the_transport_is_logged_and_does_not_stop_the_lane(
    scene_of: Callable[..., Scene], no_logged_failure: list[dict[str, Any]]
) -> None:
    scene = scene_of(batches_in_flight_max=1)
    scene.ask(read(b"1"))
    (sent,) = scene.turn()
    sent.done.errback(Failure(ZeroDivisionError()))
    assert [event["log_failure"].type for event in no_logged_failure] == [ZeroDivisionError]
    no_logged_failure.clear()
    scene.ask(read(b"2"))
    assert [sent.keys for sent in scene.turn()] == [[b"2"]]


# Another view.


def test_a_new_view_drops_what_was_not_sent_and_speaks_in_the_new_epoch(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of(batches_in_flight_max=1)
    (sent_before,) = scene.ask(write(b"1"))
    (first,) = scene.turn()
    dropped = scene.ask(write(b"2"), read(b"3"))
    scene.adopt(2, A, B, port=81, open_=False)
    assert scene.queues.waiting() == 0
    assert scene.turn() == []
    first.agree()
    assert sent_before.heard == [("answered", A, 1, b"1", False)], "what is under way still ends"
    assert scene.turn() == []
    assert [ear.heard for ear in dropped] == [[], []], "their askers begin again by themselves"
    scene.ask(write(b"4"))
    (second,) = scene.turn()
    assert second.url == "http://n-a:81/node/v1/batch"
    assert second.batch.header == Header(FORMAT, "c-1", A, "i-n-a", 2, False, 4000)


def test_a_full_queue_that_was_dropped_takes_questions_again(scene_of: Callable[..., Scene]) -> None:
    scene = scene_of(queue_bytes_max=10)
    scene.ask(write(b"1", 11))
    scene.adopt(2, A)
    scene.ask(write(b"2", 5))
    assert [sent.keys for sent in scene.turn()] == [[b"2"]]


def test_a_node_stays_avoided_in_the_next_view_and_who_leaves_is_forgotten(scene: Scene) -> None:
    scene.adopt(2, A, B)
    scene.fail(3)
    scene.adopt(3, A)
    assert set(scene.queues.by_node) == {A}
    assert scene.queues.avoided() == {A}


def test_batches_are_counted_by_node_and_lane(scene: Scene) -> None:
    scene.ask(read(b"1"), read(b"2"), write(b"3"))
    reads, writes = sorted(scene.turn(), key=lambda sent: sent.keys)
    scene.clock.advance(0.2)
    reads.agree()
    writes.agree()
    assert scene.counted("kv_batch_operations_sum", node=A, lane="read") == 2
    assert scene.counted("kv_batch_operations_count", node=A, lane="write") == 1
    assert scene.counted("kv_batch_round_trip_seconds_sum", node=A, lane="read") == pytest.approx(0.2)
