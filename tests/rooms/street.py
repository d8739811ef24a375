"""One proxy's coordinator before three owners, any of whom may be told to misbehave."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from random import Random
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.strict_clock import StrictClock
from twisted_kv.answering import NO_ROOM, NOTED
from twisted_kv.buggify import Buggify, inert
from twisted_kv.coordinator import Coordinator
from twisted_kv.deadlines import BUCKETS_PER_S
from twisted_kv.errors import (
    PeerSilent,
    PeerUnreachable,
)
from twisted_kv.limits import Limits
from twisted_kv.membership import Seat, State
from twisted_kv.metrics import ProxyMetrics
from twisted_kv.names import Key, NodeId
from twisted_kv.operation import Done
from twisted_kv.peers.peer import Answer
from twisted_kv.peers.queue import Queues
from twisted_kv.quorum import Level
from twisted_kv.register import ACCEPT, AGAIN, BLANK, FETCH, HINT, PREPARE, Cell, Op, Reply, decide
from twisted_kv.tracing import Trace
from twisted_kv.versions import Ballot, HybridClock, Record, Version, decode_record, record_version
from twisted_kv.views import View
from twisted_kv.wire.batches import CLOSED_EPOCH, OLD_EPOCH, BatchReply, Bundle, BundleReply, batch_decoder
from twisted_kv.wire.header import FORMAT, encode

K = Key(b"k")
HOP_S = 0.001
ANSWERS, SILENT, REFUSED, OUTDATED = "answers", "silent", "refused", "outdated"


def on_time(at_s: Any) -> Any:
    """Give what equals a time, and times up to as much later as deadlines may be told."""
    return pytest.approx(at_s, abs=1.001 / BUCKETS_PER_S)


class Asked(NamedTuple):
    """One operation that reached a node, and when."""

    at_s: float
    node: str
    op: Op
    epoch: int


def ops_of(bundle: Bundle) -> list[Op]:
    """Give a bundle's operations one by one."""
    if bundle.verb == ACCEPT:
        pairs = zip(bundle.keys, bundle.records, strict=True)
        return [Op(ACCEPT, key, Ballot(record_version(record)), record) for key, record in pairs]
    return [Op(bundle.verb, key) for key in bundle.keys]


def bundle_reply(replies: Sequence[Reply], verb: int) -> BundleReply:
    """Give the answers to a bundle, of the answers to its operations."""
    if verb == ACCEPT:
        others = {place: reply for place, reply in enumerate(replies) if not reply.taken}
        return BundleReply(others=others)
    ballots = [reply.accepted for reply in replies]
    others = {place: reply for place, reply in enumerate(replies) if reply.abstains}
    return BundleReply(ballots, [reply.record for reply in replies] if verb == FETCH else [], others)


class Street:
    """A transport to three honest owners, any of whom may be told to misbehave."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.cells: dict[tuple[str, bytes], Cell] = {}
        self.manner: dict[str, str] = {}
        self.hop_s: dict[str, float] = {}
        self.asked: list[Asked] = []
        self.bundled: list[tuple[str, int]] = []
        """The bundles that came: to which node, and how large."""
        self.traces: list[dict[bytes, Trace]] = []
        """What operations were called that came: by their keys, batch by batch."""
        self.abstains: set[tuple[str, bytes]] = set()
        """Nodes that have no room for keys."""
        self.again: set[bytes] = set()
        """Keys whose records do not fit into an answer."""
        self.rival = False
        """Somebody else promises a higher ballot before each change of ours arrives."""

    def request(self, method: str, url: str, body: bytes, *, content_type: str, timeout_s: float) -> Deferred[Answer]:
        batch = batch_decoder.decode(body)
        node = batch.header.member
        done: Deferred[Answer] = Deferred()
        bundles = [ops_of(bundle) for bundle in batch.bundles]
        self.bundled += [(node, len(ops)) for ops in bundles]
        for op in chain(batch.ops, *bundles):
            self.asked.append(Asked(self._clock.seconds(), node, op, batch.header.epoch))
        self.traces.append({batch.ops[place].key: trace for place, trace in batch.traces.items()})
        manner = self.manner.get(node, ANSWERS)
        if manner == SILENT:
            self._clock.callLater(timeout_s, done.errback, Failure(PeerSilent("no answer")))
        elif manner == REFUSED:
            self._clock.callLater(HOP_S, done.errback, Failure(PeerUnreachable("connection refused")))
        elif manner == OUTDATED or not batch.header.open:
            refusal = CLOSED_EPOCH if not batch.header.open else OLD_EPOCH
            answer = Answer(409, encode(BatchReply(FORMAT, 9, [], refusal, "another epoch")))
            self._clock.callLater(HOP_S, done.callback, answer)
        else:
            replies = [self._decide(node, op) for op in batch.ops]
            bundled = [bundle_reply([self._decide(node, op) for op in ops], ops[0].verb) for ops in bundles]
            answer = Answer(200, encode(BatchReply(FORMAT, batch.header.epoch, replies, bundles=bundled)))
            self._clock.callLater(self.hop_s.get(node, HOP_S), done.callback, answer)
        return done

    def _decide(self, node: str, op: Op) -> Any:
        if op.verb == HINT:
            return NOTED
        if (node, op.key) in self.abstains:
            return NO_ROOM
        if op.verb == FETCH and op.key in self.again:
            return AGAIN
        cell = self.cells.get((node, op.key), BLANK)
        if self.rival and op.verb >= PREPARE:
            cell = replace(cell, promised=Ballot((int.from_bytes(op.ballot, "big") + 1).to_bytes(16, "big")))
        reply, self.cells[node, op.key] = decide(cell, op)
        return reply

    def hold(self, node: str, value: bytes | None, key: bytes = K, ms: int = 1) -> None:
        """Let a node hold a value that was written before."""
        ballot = HybridClock(lambda: ms, 1).tick()
        self.cells[node, key] = Cell(ballot, ballot, Record(Version(ballot), value).encode())

    def holders(self, value: bytes | None, key: bytes = K) -> set[str]:
        return {
            node
            for (node, held), cell in self.cells.items()
            if held == key and cell.record and decode_record(cell.record).value == value
        }

    def take(self) -> list[Asked]:
        taken, self.asked = self.asked, []
        return taken


class Scene:
    """One proxy's coordinator before three owners."""

    def __init__(self, seed: int = 1, buggify: Buggify = inert, **limits: float) -> None:
        self.clock = StrictClock()
        self.limits = Limits(**({"batches_in_flight_max": 2} | limits))  # type: ignore[arg-type]
        self.street = Street(self.clock)
        self.metrics = ProxyMetrics()
        self.complaints: list[str] = []
        self.queues = Queues(
            self.clock, self.limits, self.street, self.metrics, lambda node, reply: self.complaints.append(node)
        )
        hybrid = HybridClock(self.now_ms, 5)
        self.coordinator = Coordinator(
            self.clock, Random(seed), self.now_ms, hybrid, self.limits, self.queues, self.metrics, buggify
        )
        self.adopt(1)

    def now_ms(self) -> int:
        return int(self.clock.seconds() * 1000) + 1_000_000

    def adopt(self, epoch: int, open_: bool = True, nodes: tuple[str, ...] = ("a", "b", "c")) -> None:
        seats = tuple(Seat(node, f"http://{node}:80") for node in nodes)
        view = View(State(1, "c-1", epoch, 3, 1, members=seats))
        view.open = open_
        self.coordinator.adopt(view)

    @property
    def owners(self) -> tuple[NodeId, ...]:
        """The owners of K, the primary first."""
        return self.coordinator.order(K, "write").nodes

    def put(self, value: bytes | None = b"v", key: Key = K, level: Level = Level.STRONG) -> Outcome:
        return Outcome(self.coordinator.put(key, value, b"", level), self.clock)

    def get(self, key: Key = K, level: Level = Level.STRONG) -> Outcome:
        return Outcome(self.coordinator.get(key, level), self.clock)

    def run(self, seconds: float) -> None:
        """Advance from timer to timer: ``Clock.advance`` jumps first and runs the timers then."""
        until = self.clock.seconds() + seconds
        while (calls := self.clock.getDelayedCalls()) and min(call.getTime() for call in calls) <= until:
            self.clock.advance(max(0.0, min(call.getTime() for call in calls) - self.clock.seconds()))
        self.clock.advance(max(0.0, until - self.clock.seconds()))

    def counted(self, kind: str, outcome: str, level: str = "strong") -> float:
        labels = {"kind": kind, "level": level, "outcome": outcome}
        return self.metrics.registry.get_sample_value("kv_operations_total", labels) or 0.0


class Outcome:
    """What a client sees in the end, and when."""

    def __init__(self, done: Deferred[Done], clock: Clock) -> None:
        self.deferred = done
        self.result: Any = None
        self.at_s: float | None = None

        def ended(result: Done | Failure) -> None:
            self.result = result
            self.at_s = clock.seconds()

        done.addBoth(ended)

    @property
    def value(self) -> bytes | None:
        assert isinstance(self.result, Done), self.result
        return decode_record(self.result.record).value if self.result.record else None

    @property
    def error(self) -> Any:
        assert isinstance(self.result, Failure), self.result
        return self.result.value
