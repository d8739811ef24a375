"""Coalescing: what gathers for a node in one turn of the reactor leaves as one batch.

No timer and no added wait: an idle proxy sends at once, a busy one sends big batches, because the next batch grows
while ``batches_in_flight_max`` are under way. Reads have a lane of their own, so that they never wait for a sync.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..buggify import LATE_S, Buggify, inert
from ..errors import KvError, PeerUnreachable
from ..limits import Limits
from ..liveness import Suspicion
from ..membership import Seat
from ..metrics import ProxyMetrics
from ..names import NodeId
from ..register import PREPARE, Op
from ..views import View
from ..wire import (
    CLOSED_EPOCH,
    DISK_FULL,
    FORMAT,
    OLD_EPOCH,
    OTHER_CLUSTER,
    OTHER_INCARNATION,
    UNDECODED,
    Batch,
    BatchReply,
    Header,
    batch_reply_decoder,
    encode,
)
from .peer import Answer, Asker, Transport

MSGPACK = "application/msgpack"


class Question(NamedTuple):
    """One operation on its way, and who waits for the answer."""

    asker: Asker
    round: int
    op: Op


class Lane:
    """One node's queue of reads, or of writes."""

    __slots__ = ("_bytes", "_flush_due", "_in_flight", "_metrics_ops", "_metrics_s", "_queue", "_waiting", "name")

    def __init__(self, queue: PeerQueue, name: str, metrics: ProxyMetrics) -> None:
        self._queue = queue
        self.name = name
        self._waiting: deque[Question] = deque()
        self._bytes = 0
        self._in_flight = 0
        self._flush_due = False
        self._metrics_ops = metrics.batch_ops.labels(queue.node, name)
        self._metrics_s = metrics.batch_seconds.labels(queue.node, name)

    def put(self, question: Question) -> bool:
        """Take a question, unless the queue is full."""
        limits = self._queue.limits
        if len(self._waiting) >= limits.queue_ops_max or self._bytes > limits.queue_bytes_max:
            return False
        self._waiting.append(question)
        self._bytes += len(question.op.record)
        if not self._flush_due and self._in_flight < limits.batches_in_flight_max:
            self._flush_due = True
            late_s = LATE_S if self._queue.buggify("queue: a batch leaves late") else 0
            self._queue.clock.callLater(late_s, self._flush)
        return True

    def __len__(self) -> int:
        return len(self._waiting)

    def clear(self) -> None:
        """Forget what was not sent: it belongs to an older epoch, and its askers begin again."""
        self._waiting.clear()
        self._bytes = 0

    def _flush(self) -> None:
        self._flush_due = False
        while self._waiting and self._in_flight < self._queue.limits.batches_in_flight_max:
            self._send(self._gather())

    def _gather(self) -> list[Question]:
        limits = self._queue.limits
        waiting = self._waiting
        ops_max = 1 if self._queue.buggify("queue: a batch of one") else limits.batch_ops_max
        if len(waiting) <= ops_max and self._bytes <= limits.batch_bytes_max:
            questions = list(waiting)
            self.clear()
            return questions
        questions, size = [], 0
        while waiting and len(questions) < ops_max:
            record_bytes = len(waiting[0].op.record)
            if questions and size + record_bytes > limits.batch_bytes_max:
                break
            size += record_bytes
            questions.append(waiting.popleft())
        self._bytes -= size
        return questions

    def _send(self, questions: list[Question]) -> None:
        self._in_flight += 1
        self._metrics_ops.observe(len(questions))
        sent = self._queue.clock.seconds()
        body = encode(Batch(self._queue.header, [question.op for question in questions]))
        self._queue.post("batch", body).addBoth(self._returned, questions, sent).addErrback(self._bug)

    def _returned(self, result: Answer | Failure, questions: list[Question], sent: float) -> None:
        self._in_flight -= 1
        self._metrics_s.observe(self._queue.clock.seconds() - sent)
        try:
            self._queue.distribute(result, questions, self.name)
        finally:
            self._flush()

    def _bug(self, failure: Failure) -> None:
        self._queue.log.failure("a batch's answer was not handled", failure)


class PeerQueue:
    """What waits for one node, and the node's standing.

    :param on_outdated: told the node and its refusal when the node and this proxy disagree about epoch or identity.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        limits: Limits,
        transport: Transport,
        metrics: ProxyMetrics,
        seat: Seat,
        view: View,
        on_outdated: Callable[[NodeId, BatchReply], None],
        buggify: Buggify,
    ) -> None:
        self.clock = clock
        self.limits = limits
        self.buggify = buggify
        self.node = NodeId(seat.id)
        self.suspicion = Suspicion(limits)
        self._transport = transport
        self._on_outdated = on_outdated
        self._metrics = metrics
        self.adopt(seat, view)
        self._reads = Lane(self, "read", metrics)
        self._writes = Lane(self, "write", metrics)

    def adopt(self, seat: Seat, view: View) -> None:
        """Speak in another epoch from now on."""
        self.url = seat.url
        timeout_ms = int(self.limits.batch_timeout_s * 1000)
        self.header = Header(FORMAT, view.cluster_id, seat.id, seat.incarnation, view.epoch, view.open, timeout_ms)

    def clear(self) -> None:
        self._reads.clear()
        self._writes.clear()

    def __len__(self) -> int:
        return len(self._reads) + len(self._writes)

    def ask(self, asker: Asker, round_: int, op: Op) -> None:
        """Put a question to the node. A node that is avoided, or whose queue is full, counts as unreachable at once."""
        if self.suspicion.avoided or self.buggify("queue: a node is avoided for nothing"):
            error = f"avoided since it failed: {self.suspicion.last_error}"
        elif (self._writes if op.verb >= PREPARE else self._reads).put(Question(asker, round_, op)):
            return
        else:
            error = "too much waits for this node already"
        # Never from inside the asker's own call: it has not yet noted that it asked.
        self.clock.callLater(0, asker.unanswered, self.node, round_, error, False)

    def post(self, path: str, body: bytes) -> Deferred[Answer]:
        return self._transport.request(
            "POST",
            f"{self.url}/node/v1/{path}",
            body,
            content_type=MSGPACK,
            timeout_s=self.limits.batch_timeout_s,
        )

    def distribute(self, result: Answer | Failure, questions: list[Question], lane: str) -> None:
        """Hand each asker its part of a batch's answer."""
        if isinstance(result, Failure):
            result.trap(KvError)
            self._metrics.batch_failures.labels(self.node, lane).inc()
            self._fail(questions, result.value.detail, not result.check(PeerUnreachable))
            return
        try:
            reply = batch_reply_decoder.decode(result.body)
        except UNDECODED:
            self._fail(questions, f"status {result.code} without a readable answer", arrived=True)
            return
        self.suspicion.confirm()
        if reply.refusal:
            self._refused(reply, questions, result.resent)
        elif len(reply.replies) != len(questions):
            self._fail(questions, f"{len(reply.replies)} answers to {len(questions)} questions", arrived=True)
        else:
            node, resent = self.node, result.resent
            answered = list(zip(questions, reply.replies, strict=True))
            if self.buggify("queue: answers in another order"):
                answered.reverse()
            for (asker, round_, _), answer in answered:
                if answer.abstains:
                    asker.unanswered(node, round_, answer.abstains, resent)
                else:
                    asker.answered(node, round_, answer, resent)

    def _refused(self, reply: BatchReply, questions: list[Question], resent: bool) -> None:
        if reply.refusal in (OLD_EPOCH, CLOSED_EPOCH):
            for question in questions:
                question.asker.outdated(self.node, question.round)
        else:
            # Whoever asked tells a full disk from other reasons by the name.
            error = f"{DISK_FULL}: {reply.detail}" if reply.refusal == DISK_FULL else reply.detail
            for question in questions:
                question.asker.unanswered(self.node, question.round, error, resent)
        if reply.refusal in (OLD_EPOCH, CLOSED_EPOCH, OTHER_INCARNATION, OTHER_CLUSTER):
            self._on_outdated(self.node, reply)

    def _fail(self, questions: list[Question], error: str, arrived: bool) -> None:
        if self.suspicion.refuse(error, self.clock.seconds()):
            self.log.warn("avoiding {node}: {error}", node=self.node, error=error)
        for question in questions:
            question.asker.unanswered(self.node, question.round, error, arrived)


class Queues:
    """The queues of all members, kept in step with the view."""

    def __init__(
        self,
        clock: IReactorTime,
        limits: Limits,
        transport: Transport,
        metrics: ProxyMetrics,
        on_outdated: Callable[[NodeId, BatchReply], None],
        buggify: Buggify = inert,
    ) -> None:
        self._clock = clock
        self._limits = limits
        self._buggify = buggify
        self._transport = transport
        self._metrics = metrics
        self._on_outdated = on_outdated
        self.by_node: dict[NodeId, PeerQueue] = {}

    def adopt(self, view: View) -> None:
        """Speak for another view. What was not yet sent is forgotten: its askers begin again in the new epoch."""
        queues: dict[NodeId, PeerQueue] = {}
        for node, seat in view.seats.items():
            queue = self.by_node.get(node)
            if queue is None:
                queue = PeerQueue(
                    self._clock,
                    self._limits,
                    self._transport,
                    self._metrics,
                    seat,
                    view,
                    self._on_outdated,
                    self._buggify,
                )
            queue.clear()
            queue.adopt(seat, view)
            queues[node] = queue
        for node, queue in self.by_node.items():
            if node not in queues:
                queue.clear()
        self.by_node = queues

    def avoided(self) -> set[NodeId]:
        return {node for node, queue in self.by_node.items() if queue.suspicion.avoided}

    def waiting(self) -> int:
        return sum(len(queue) for queue in self.by_node.values())
