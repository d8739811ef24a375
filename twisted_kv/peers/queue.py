"""Coalescing: what gathers for a node in one turn of the reactor leaves as one batch.

No timer and no added wait: an idle proxy sends at once, a busy one sends big batches, because the next batch grows
while as many are under way as may be. Reads have a lane of their own, so that they never wait for a sync.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from math import inf
from typing import Literal

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..buggify import Buggify, inert
from ..errors import KvError, PeerUnreachable
from ..limits import Limits
from ..liveness import SLACK, TAIL, Allowance, Pace, Rank, Suspicion, slow_nodes
from ..membership import Seat
from ..metrics import ProxyMetrics
from ..names import NodeId
from ..register import ACCEPT, AGAIN, FETCH, PREPARE, Op, is_possible
from ..versions import UNDRAWN, is_held
from ..views import View
from ..wire.batches import (
    CLOSED_EPOCH,
    DISK_FULL,
    OLD_EPOCH,
    OTHER_CLUSTER,
    OTHER_INCARNATION,
    BatchReply,
    BundleReply,
    batch_reply_decoder,
)
from ..wire.header import FORMAT, UNDECODED, Header
from .lane import Cargo, Lane, Parcel, Question
from .peer import IMPOSSIBLE, Answer, Asker, Askers, Transit, Transport, denied

MSGPACK = "application/msgpack"
ALL_TAKEN = BundleReply()
"""What nearly every bundle of writes is answered."""
TOO_MUCH = "too much waits for this node already"


class PeerQueue:
    """What waits for one node, and the node's standing.

    :param on_outdated: told the node and its refusal when the node and this proxy disagree about epoch or identity.
    :param changed: told when the node is avoided from now on, or no more.
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
        changed: Callable[[], None],
        transit: Transit,
        buggify: Buggify,
    ) -> None:
        self.clock = clock
        self.transit = transit
        self.limits = limits
        self.buggify = buggify
        self.node = NodeId(seat.id)
        self.suspicion = Suspicion(limits)
        self._transport = transport
        self._on_outdated = on_outdated
        self._changed = changed
        self._metrics = metrics
        self._reads = Lane(self, "read", metrics)
        self._writes = Lane(self, "write", metrics)
        self.adopt(seat, view)

    def adopt(self, seat: Seat, view: View) -> None:
        """Speak in another epoch from now on."""
        self.url = seat.url
        timeout_ms = int(self.limits.batch_timeout_s * 1000)
        self.header = Header(FORMAT, view.cluster_id, seat.id, seat.incarnation, view.epoch, view.open, timeout_ms)

    @property
    def lanes(self) -> tuple[Lane, Lane]:
        return self._reads, self._writes

    def clear(self) -> None:
        self._reads.clear()
        self._writes.clear()

    def __len__(self) -> int:
        return len(self._reads) + len(self._writes)

    def ask(self, asker: Asker, round_: int, op: Op) -> None:
        """Put a question to the node. A node that is avoided, or whose queue is full, counts as unreachable at once.

        One that is on trial is asked, too: reads ask it last, writes do not wait for it, and a majority may need it.
        """
        suspicion = self.suspicion
        if suspicion.silent or self.buggify("queue: a node is avoided for nothing"):
            error = f"avoided since it failed: {suspicion.last_error}"
        elif self._lane_of(op.verb).put((asker, round_, op)):
            return
        else:
            error = TOO_MUCH
        # Never from inside the asker's own call: it has not yet noted that it asked.
        self.clock.callLater(0, asker.unanswered, self.node, round_, error, False)

    def refusal(self, verb: int) -> str:
        """Say why a bundle cannot be put to the node now, as in ``ask``; nothing if it can."""
        suspicion = self.suspicion
        if suspicion.silent:
            return f"avoided since it failed: {suspicion.last_error}"
        return TOO_MUCH if self._lane_of(verb).full else ""

    def ask_bundle(self, askers: Askers, verb: int) -> None:
        """Put a bundle to the node. It may grow until it leaves."""
        self._lane_of(verb).put_bundle(askers, verb)

    def _lane_of(self, verb: int) -> Lane:
        return self._writes if verb >= PREPARE else self._reads

    def post(self, path: str, body: bytes) -> Deferred[Answer]:
        return self._transport.request(
            "POST",
            f"{self.url}/node/v1/{path}",
            body,
            content_type=MSGPACK,
            timeout_s=self.limits.batch_timeout_s,
        )

    def distribute(self, result: Answer | Failure, cargo: Cargo, header: Header, lane: str) -> None:
        """Hand each asker its part of a batch's answer.

        :param header: the batch's: the epoch may have moved meanwhile.
        """
        if isinstance(result, Failure):
            result.trap(KvError)
            self._metrics.batch_failures.labels(self.node, lane).inc()
            self._fail(cargo, result.value.detail, not result.check(PeerUnreachable))
            return
        if result.code in (401, 403) and not result.resent:
            self._fail(cargo, denied(result), arrived=False)  # it was refused by its head, whatever is in it
            return
        try:
            reply = batch_reply_decoder.decode(result.body)
        except UNDECODED:
            self._fail(cargo, f"status {result.code} without a readable answer", arrived=True)
            return
        self.confirm()
        if reply.refusal:
            self._refused(reply, cargo, result.resent)
        elif len(reply.replies) != len(cargo.questions):
            error = f"{len(reply.replies)} answers to {len(cargo.questions)} questions"
            self._fail(cargo, error, arrived=True)
        elif not all(is_possible(op.verb, one) for (_, _, op), one in zip(cargo.questions, reply.replies, strict=True)):
            self._fail(cargo, IMPOSSIBLE, arrived=True)
        elif not _fits(cargo.parcels, reply.bundles):
            self._fail(cargo, "the answers to a bundle are not what it asked for", arrived=True)
        elif _says_nothing(cargo.parcels, reply):
            self._fail(cargo, "the node answers nothing of a batch", arrived=True)
        else:
            if cargo.questions:
                self._hand_out(cargo.questions, reply, header, result.resent)
            for (askers, verb), answers in zip(cargo.parcels, reply.bundles, strict=True):
                try:
                    askers.answered(self.node, verb, answers, result.resent)
                except Exception:
                    self.log.failure("the answers to a bundle were not handled")

    def _hand_out(self, questions: list[Question], reply: BatchReply, header: Header, resent: bool) -> None:
        node = self.node
        answered = list(zip(questions, reply.replies, strict=True))
        if self.buggify("queue: answers in another order"):
            answered.reverse()
        for (asker, round_, op), answer in answered:
            if not answer.abstains:
                asker.answered(node, round_, answer, resent)
            elif answer.abstains != AGAIN.abstains:
                asker.unanswered(node, round_, answer.abstains, resent)
            elif header is self.header:
                self.ask(asker, round_, op)
            else:
                asker.outdated(node, round_)

    def _refused(self, reply: BatchReply, cargo: Cargo, resent: bool) -> None:
        if reply.refusal in (OLD_EPOCH, CLOSED_EPOCH):
            for asker, round_, _ in cargo.questions:
                asker.outdated(self.node, round_)
        else:
            # Whoever asked tells a full disk from other reasons by the name.
            error = f"{DISK_FULL}: {reply.detail}" if reply.refusal == DISK_FULL else reply.detail
            self._tell(cargo, error, resent)
        if reply.refusal in (OLD_EPOCH, CLOSED_EPOCH, OTHER_INCARNATION, OTHER_CLUSTER):
            self._on_outdated(self.node, reply)

    def confirm(self, probe: bool = False) -> None:
        """Count an answer of the node, to a batch or to a probe."""
        if self.suspicion.confirm(self.clock.seconds(), probe):
            self.log.info("{node} is avoided no more", node=self.node)
            self._changed()

    def refuse(self, error: str, probe: bool = False) -> None:
        """Count a failure of the node."""
        if self.suspicion.refuse(error, self.clock.seconds(), probe):
            self.log.warn("avoiding {node}: {error}", node=self.node, error=error)
            self._changed()

    def rank(self) -> Rank | None:
        suspicion = self.suspicion
        if not suspicion.avoided:
            return None
        return Rank.ON_TRIAL if suspicion.on_trial else Rank.AVOIDED

    @property
    def pace(self) -> Pace:
        """How long its reads took lately."""
        return self._reads.pace

    def usual_s(self, now: float) -> float | None:
        """Say how long a read of the node takes, or for how long one is without an answer, whichever is longer."""
        usual_s, oldest_s = self._reads.pace.usual_s(now), self._reads.oldest_s
        if oldest_s is None:
            return usual_s
        return max(now - oldest_s, usual_s or 0.0)

    def tail_s(self, now: float) -> float | None:
        """Say within which time nearly all reads of the node are answered."""
        return self._reads.pace.quantile(TAIL, now)

    def lately_s(self, now: float) -> float | None:
        """Say within which time nine of ten reads of the last second were answered."""
        return self._reads.pace.lately_s(0.9, now, 1.0)

    def _fail(self, cargo: Cargo, error: str, arrived: bool) -> None:
        self.refuse(error)
        self._tell(cargo, error, arrived)

    def _tell(self, cargo: Cargo, error: str, arrived: bool) -> None:
        for asker, round_, _ in cargo.questions:
            asker.unanswered(self.node, round_, error, arrived)
        for askers, _ in cargo.parcels:
            askers.unanswered(self.node, error, arrived)


def _fits(parcels: list[Parcel], bundles: list[BundleReply]) -> bool:
    """Whether there is an answer for each operation of each bundle, and it may be one."""
    if len(bundles) != len(parcels):
        return False
    for (askers, verb), answers in zip(parcels, bundles, strict=True):
        if verb == ACCEPT and answers == ALL_TAKEN:
            continue
        size = len(askers)
        if len(answers.ballots) != (0 if verb == ACCEPT else size):
            return False
        if len(answers.records) != (size if verb == FETCH else 0):
            return False
        if not all(0 <= place < size for place in answers.others):
            return False
        if answers.ballots and max(answers.ballots) >= UNDRAWN:
            return False
        if verb == FETCH and not all(map(is_held, answers.ballots, answers.records)):
            return False
        if not all(is_possible(verb, one) for one in answers.others.values()):
            return False
    return True


def _says_nothing(parcels: list[Parcel], reply: BatchReply) -> bool:
    """Whether everything is to be asked again."""
    if reply.bundles and not reply.bundles[0].others:
        return False
    again = AGAIN.abstains
    if any(answer.abstains != again for answer in reply.replies):
        return False
    for (askers, _), answers in zip(parcels, reply.bundles, strict=True):
        if len(answers.others) < len(askers) or any(one.abstains != again for one in answers.others.values()):
            return False
    return True


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
        self.allowance = Allowance()
        self.transit = Transit()
        self._standing: dict[NodeId, Rank] = {}
        self._hedge_s: dict[NodeId, float] = {}
        self._hedges_s: dict[Sequence[NodeId], float] = {}
        self._looked_s = -inf

    def adopt(self, view: View) -> None:
        """Speak for another view. What was not yet sent is forgotten: its askers begin again in the new epoch."""
        self._look_again()
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
                    self._look_again,
                    self.transit,
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
        return {node for node, queue in self.by_node.items() if queue.rank() is Rank.AVOIDED}

    def standing(self) -> Mapping[NodeId, Rank]:
        """Rank the nodes that are not good: the higher, the later they are asked. Looked at ten times a second."""
        now = self._clock.seconds()
        if now - self._looked_s >= self._limits.standing_s:
            self._look(now)
        return self._standing

    def hedge_s(self, asked: tuple[NodeId, ...]) -> float:
        """Say how long a read waits for those whom it asks first before it asks another one.

        That is a little more than the tail of the slowest of them, as of the last call of ``standing``.
        """
        hedge_s = self._hedges_s.get(asked)
        if hedge_s is None:
            longest_s = self._limits.slow_read_s
            hedge_s = max((self._hedge_s.get(node, longest_s) for node in asked), default=longest_s)
            self._hedges_s[asked] = hedge_s
        return hedge_s

    def may_hedge(self, waiting: Collection[NodeId], spared: Sequence[NodeId]) -> bool:
        """Say whether a read that waits for some nodes may ask one that it had spared, and count it.

        Where that one is better it always may: that takes a load from a node, instead of doubling it.
        """
        if not waiting or not spared:
            return False
        standing = self.standing()
        worst, best = max(standing.get(node, 0) for node in waiting), min(standing.get(node, 0) for node in spared)
        if best >= worst and (best >= Rank.ON_TRIAL or not self.allowance.take()):
            return False
        self._metrics.hedged.inc()
        return True

    def wait_s(self) -> float:
        """Say how long clients wait for nodes at present: for the slowest of them, 0 if nobody asks."""
        now = self._clock.seconds()
        return max((queue.lately_s(now) or 0.0 for queue in self.by_node.values()), default=0.0)

    def _look(self, now: float) -> None:
        limits = self._limits
        self._looked_s = now
        self._hedges_s.clear()
        usual_s, self._hedge_s, self._standing = {}, {}, {}
        for node, queue in self.by_node.items():
            rank, node_s, tail_s = queue.rank(), queue.usual_s(now), queue.tail_s(now)
            if rank is not None:
                self._standing[node] = rank
            elif node_s is not None:
                usual_s[node] = node_s
            if tail_s is not None:
                self._hedge_s[node] = min(limits.slow_read_s, max(limits.hedge_s_min, SLACK * tail_s))
        for node in slow_nodes(usual_s, limits):
            self._standing[node] = Rank.SLOW

    def _look_again(self) -> None:
        self._looked_s = -inf

    def slow(self) -> int:
        """Count the nodes that are slow."""
        return sum(rank is Rank.SLOW for rank in self.standing().values())

    def waiting(self) -> int:
        return sum(len(queue) for queue in self.by_node.values())

    def depths(self, what: Literal["ops", "bytes"]) -> list[tuple[tuple[str, str], float]]:
        """Say how much waits for each node, in each of its lanes."""
        lanes = [(node, lane) for node, queue in self.by_node.items() for lane in queue.lanes]
        return [((node, lane.name), len(lane) if what == "ops" else lane.size) for node, lane in lanes]
