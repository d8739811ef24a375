"""One node's reads, or writes, that wait: what gathers while a batch is under way, and what the next one takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Protocol, TypeAlias

from msgspec.structs import astuple
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..buggify import LATE_S, Buggify
from ..limits import Limits
from ..liveness import Pace
from ..metrics import ProxyMetrics
from ..names import NodeId
from ..register import Op
from ..tracing import Trace
from ..wire.batches import Packed, PackedTraced
from ..wire.header import Header, encode
from .peer import Answer, Asker, Askers, Transit

Question: TypeAlias = tuple[Asker, int, Op]
"""One operation on its way: who waits for the answer, in which round of his, and what is asked. It is a plain tuple, as
there are three for each write."""

Parcel: TypeAlias = tuple[Askers, int]
"""A bundle on its way, and the verb with which it is asked."""


class Queue(Protocol):
    """What a lane needs of its node's queue."""

    clock: IReactorTime
    limits: Limits
    buggify: Buggify
    node: NodeId
    header: Header
    transit: Transit
    log: Logger

    def post(self, path: str, body: bytes) -> Deferred[Answer]:
        """Send a batch."""

    def distribute(self, result: Answer | Failure, cargo: Cargo, header: Header, lane: str) -> None:
        """Hand out what came back."""


class Cargo:
    """What goes into one batch, and how much more would fit."""

    __slots__ = ("bytes_left", "ops_left", "parcels", "questions")

    def __init__(self, ops_max: int, bytes_max: int) -> None:
        self.questions: list[Question] = []
        self.parcels: list[Parcel] = []
        self.ops_left = ops_max
        self.bytes_left = bytes_max

    def holds(self, ops: int, size: int) -> bool:
        """Whether there is room for so much, or nothing else in here."""
        empty = not self.questions and not self.parcels
        return empty or (ops <= self.ops_left and size <= self.bytes_left)

    def take(self, ops: int, size: int) -> None:
        self.ops_left -= ops
        self.bytes_left -= size


def traces_of(questions: Iterable[Question]) -> dict[int, Trace]:
    """Say what operations are called, by their places; of nearly all it is not known."""
    found = {place: getattr(asker, "trace", None) for place, (asker, _, _) in enumerate(questions)}
    return {place: trace for place, trace in found.items() if trace is not None}


class Lane:
    """One node's queue of reads, or of writes."""

    __slots__ = (
        "_bundles",
        "_bundles_first",
        "_bytes",
        "_flush_due",
        "_metrics_ops",
        "_metrics_s",
        "_queue",
        "_since_s",
        "_under_way",
        "_waiting",
        "name",
        "pace",
    )

    def __init__(self, queue: Queue, name: str, metrics: ProxyMetrics) -> None:
        self._queue = queue
        self.name = name
        self._waiting: deque[Question] = deque()
        self._bytes = 0
        """Of the records in ``_waiting``."""
        self._bundles: deque[Parcel] = deque()
        self._bundles_first = False
        self._since_s = 0.0
        self._under_way: list[float] = []
        self._flush_due = False
        self.pace = Pace(queue.limits)
        """How long the oldest question of each batch waited for its answer, here and there."""
        self._metrics_ops = metrics.batch_ops.labels(queue.node, name)
        self._metrics_s = metrics.batch_seconds.labels(queue.node, name)

    def put(self, question: Question) -> bool:
        """Take a question, unless the queue is full."""
        limits, waiting = self._queue.limits, self._waiting
        if not waiting and not self._bundles:
            self._since_s = self._queue.clock.seconds()
        elif len(waiting) >= limits.queue_ops_max or self._bytes > limits.queue_bytes_max:
            return False
        waiting.append(question)
        self._bytes += len(question[2].record)
        self._come()
        return True

    def put_bundle(self, askers: Askers, verb: int) -> None:
        """Take a bundle, which may grow until it leaves."""
        if not self._bundles and not self._waiting:
            self._since_s = self._queue.clock.seconds()
        self._bundles.append((askers, verb))
        self._come()

    @property
    def full(self) -> bool:
        if not self._bundles and not self._waiting:
            return False
        limits = self._queue.limits
        return len(self) >= limits.queue_ops_max or self.size > limits.queue_bytes_max

    @property
    def size(self) -> int:
        """Bytes of the records that wait."""
        return self._bytes + sum(askers.size for askers, _ in self._bundles)

    def _come(self) -> None:
        """See that what has come leaves at the end of this turn, unless a batch is under way."""
        if not self._flush_due and len(self._under_way) < self._queue.limits.batches_in_flight_max:
            self._flush_due = True
            late_s = LATE_S if self._queue.buggify("queue: a batch leaves late") else 0
            self._queue.clock.callLater(late_s, self._flush)

    def __len__(self) -> int:
        return len(self._waiting) + sum(len(askers) for askers, _ in self._bundles)

    @property
    def oldest_s(self) -> float | None:
        """Since when a batch is under way, None if none is."""
        return min(self._under_way, default=None)

    def clear(self) -> None:
        """Forget what was not sent: it belongs to an older epoch, and its askers begin again."""
        self._waiting.clear()
        self._bundles.clear()
        self._bytes = 0

    def _flush(self) -> None:
        self._flush_due = False
        while (self._waiting or self._bundles) and len(self._under_way) < self._queue.limits.batches_in_flight_max:
            self._send(self._gather())

    def _gather(self) -> Cargo:
        """Take what fits into a batch; whatever comes first may be larger than that alone.

        Questions and bundles come first by turns: neither keeps the others waiting for ever.
        """
        limits = self._queue.limits
        if len(self._bundles) == 1 and not self._waiting:
            # What nearly every batch is.
            cargo = Cargo(limits.batch_ops_max, limits.batch_bytes_max)
            cargo.parcels.append(self._bundles.popleft())
            return cargo
        ops_max = 1 if self._queue.buggify("queue: a batch of one") else limits.batch_ops_max
        cargo = Cargo(ops_max, limits.batch_bytes_max)
        self._bundles_first = not self._bundles_first
        if self._bundles_first:
            self._load_bundles(cargo)
            self._load_questions(cargo)
        else:
            self._load_questions(cargo)
            self._load_bundles(cargo)
        return cargo

    def _load_questions(self, cargo: Cargo) -> None:
        waiting, questions = self._waiting, cargo.questions
        if len(waiting) <= cargo.ops_left and self._bytes <= cargo.bytes_left:
            questions += waiting
            cargo.take(len(waiting), self._bytes)
            waiting.clear()
            self._bytes = 0
            return
        while waiting:
            record_bytes = len(waiting[0][2].record)
            if not cargo.holds(1, record_bytes):
                break
            cargo.take(1, record_bytes)
            self._bytes -= record_bytes
            questions.append(waiting.popleft())

    def _load_bundles(self, cargo: Cargo) -> None:
        bundles = self._bundles
        while bundles:
            askers, _ = bundles[0]
            if not cargo.holds(len(askers), askers.size):
                break
            cargo.take(len(askers), askers.size)
            cargo.parcels.append(bundles.popleft())

    def _send(self, cargo: Cargo) -> None:
        self._metrics_ops.observe(len(cargo.questions) + sum(len(askers) for askers, _ in cargo.parcels))
        sent, since = self._queue.clock.seconds(), self._since_s
        header = self._queue.header
        ops = [op for _, _, op in cargo.questions]
        packed = Packed(header, ops, False, [askers.pack(verb) for askers, verb in cargo.parcels])
        if self._queue.transit.traced and (traces := traces_of(cargo.questions)):
            packed = PackedTraced(*astuple(packed), traces)
        body = encode(packed)
        self._since_s = sent
        self._under_way.append(since)
        answer = self._queue.post("batch", body)
        answer.addBoth(self._returned, cargo, header, sent, since).addErrback(self._bug)

    def _returned(self, result: Answer | Failure, cargo: Cargo, header: Header, sent: float, since: float) -> None:
        now = self._queue.clock.seconds()
        self._under_way.remove(since)
        self._metrics_s.observe(now - sent)
        transit = self._queue.transit
        transit.sent_s, transit.back_s = sent, now
        if not isinstance(result, Failure):
            self.pace.add(now, now - since)
        try:
            self._queue.distribute(result, cargo, header, self.name)
        finally:
            self._flush()

    def _bug(self, failure: Failure) -> None:
        self._queue.log.failure("a batch's answer was not handled", failure)
