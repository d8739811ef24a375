"""A client's operation: it puts a conversation's questions into the nodes' queues, under a deadline and an epoch.

The conversations (``register.py``) decide; this room only carries. An operation is a small object that answers are
delivered to, because there are thousands of them at once; what is seldom is ``async def``.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import NamedTuple

from twisted.internet.defer import Deferred, ensureDeferred, fail
from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.python.failure import Failure

from .chain import read_one
from .conversation import Conversation, Send
from .errors import ChangeUnderWay, KvError, NoNodes, Overloaded, PeerSilent, PeerUnreachable, Unreached
from .limits import Limits
from .membership import View
from .metrics import ProxyMetrics
from .names import Key, NodeId
from .peers.queue import Queues
from .quorum import Level
from .reading import Read
from .register import FETCH, Op, Reply
from .ring import slot_of
from .versions import HybridClock
from .writing import Write

READS_OF_A_TURN = 16


class Done(NamedTuple):
    """A finished operation: the record that holds (empty if the key was never written), and who agreed of how many."""

    record: bytes
    acks: int
    owners: int


class Operation:
    """One client's read or write on its way. It is its own Asker."""

    __slots__ = ("_bytes", "_coordinator", "_deadline", "_timer", "conversation", "done", "kind")

    def __init__(self, coordinator: Coordinator, kind: str, conversation: Conversation, size: int) -> None:
        self._coordinator = coordinator
        self.kind = kind
        self.conversation = conversation
        self._bytes = size
        # A client that hangs up cancels this Deferred and nothing else: its write must not stop half-way.
        self.done: Deferred[Done] = Deferred()
        clock, limits = coordinator.clock, coordinator.limits
        self._deadline = clock.seconds() + limits.operation_timeout_s
        first = limits.slow_read_s if kind == "read" else limits.operation_timeout_s
        self._timer: IDelayedCall = clock.callLater(first, self._tick)

    @property
    def size(self) -> int:
        return self._bytes

    def begin(self) -> None:
        self._go(self.conversation.begin())

    def restart(self) -> None:
        """Begin in another epoch; what was asked in the one before may have had its effect."""
        conversation, coordinator = self.conversation, self._coordinator
        if self.kind == "read":
            left = self._deadline - coordinator.clock.seconds()
            self._timer.reset(max(0.0, min(left, coordinator.limits.slow_read_s)))
        self._go(conversation.restart(coordinator.order(conversation.key, self.kind)))

    def answered(self, node: NodeId, round_: int, reply: Reply, resent: bool) -> None:
        self._go(self.conversation.deliver(node, round_, reply, resent))

    def unanswered(self, node: NodeId, round_: int, error: str, arrived: bool) -> None:
        self._go(self.conversation.fail(node, round_, error, arrived))

    def outdated(self, node: NodeId, round_: int) -> None:
        """Wait: the view of the node's epoch is on its way, and begins every unfinished operation again."""

    def _go(self, sends: Sequence[Send]) -> None:
        conversation = self.conversation
        if sends:
            queues = self._coordinator.queues.by_node
            round_ = conversation.round
            for node, op in sends:
                queues[node].ask(self, round_, op)
        elif conversation.outcome is not None:
            self._finish()
        elif conversation.paused:
            self._coordinator.pause(self)

    def resume(self, round_: int) -> None:
        conversation = self.conversation
        if conversation.paused and conversation.round == round_ and conversation.outcome is None:
            self._go(conversation.resume())

    def _tick(self) -> None:
        left = self._deadline - self._coordinator.clock.seconds()
        if left > 0:
            self._timer = self._coordinator.clock.callLater(left, self._tick)
            if self.conversation.round:
                self._go(self.conversation.nudge())
            return
        if self.conversation.round:
            self.conversation.expire()
        self._finish()

    def _finish(self) -> None:
        done, self.done = self.done, None  # type: ignore[assignment]
        if done is None:
            return
        try:
            self._timer.cancel()
        except (AlreadyCalled, AlreadyCancelled):
            pass
        conversation = self.conversation
        outcome = conversation.outcome
        error = outcome.error if outcome is not None else _changing()
        self._coordinator.finished(self, error)
        if error is None:
            assert outcome is not None
            done.callback(Done(outcome.record, outcome.acks, len(conversation.owners)))
        else:
            done.errback(Failure(error))


class Coordinator:
    """Runs the operations of one proxy's clients.

    :param random: spreads reads and pauses; handed in, so that a simulation can repeat itself.
    :param writer: see ``HybridClock``; its clock draws the ballots.
    """

    def __init__(
        self,
        clock: IReactorTime,
        random: Random,
        hybrid: HybridClock,
        limits: Limits,
        queues: Queues,
        metrics: ProxyMetrics,
    ) -> None:
        self.clock = clock
        self.limits = limits
        self.queues = queues
        self._random = random
        self._hybrid = hybrid
        self._metrics = metrics
        self._counters: dict[tuple[str, str, str], object] = {}
        self._operations: dict[Operation, None] = {}
        self._bytes = 0
        self._chains = 0
        self._turn = 0
        self._sorted: dict[tuple[NodeId, ...], tuple[NodeId, ...]] = {}
        self._view: View | None = None
        self._openings: list[Deferred[None]] = []

    @property
    def under_way(self) -> int:
        return len(self._operations) + self._chains

    def adopt(self, view: View) -> None:
        """Act on another view. While it is closed operations wait; when it opens they begin again in its epoch."""
        self._view = view
        self._sorted.clear()
        self.queues.adopt(view)
        if not view.open:
            return
        for operation in list(self._operations):
            operation.restart()
        openings, self._openings = self._openings, []
        for opening in openings:
            opening.callback(None)

    def put(self, key: Key, value: bytes | None, content_type: bytes, level: Level) -> Deferred[Done]:
        """Write a value, or with None a tombstone, at a level.

        Errors: ``Unreached`` and ``DeadlinePassed`` (with ``maybe_applied``), ``Overloaded``, ``NoNodes``,
        ``ChangeUnderWay`` if the cluster moved data for longer than the operation could wait.
        """
        size = len(value) if value is not None else 0
        try:
            self._admit(size)
        except KvError:
            return fail(Failure())
        owners = self.order(key, "write")
        return self._start("write", Write(key, owners, self._hybrid, level, value, content_type), size)

    def get(self, key: Key, level: Level) -> Deferred[Done]:
        """Read a key at a level. Errors as in ``put``; a key that is absent is no error here."""
        try:
            self._admit(0)
        except KvError:
            return fail(Failure())
        if level is Level.ONE:
            return ensureDeferred(self._get_one(key))
        return self._start("read", Read(key, self.order(key, "read"), self._hybrid, level), 0)

    def order(self, key: Key, kind: str) -> tuple[NodeId, ...]:
        """Name a key's owners; for a read those to ask first come first: the healthy ones, in turn."""
        assert self._view is not None
        owners = self._view.table[slot_of(key)]
        if kind != "read" or not owners:
            return owners
        # Reads that follow one another ask the same nodes, then the next ones: fewer and larger batches.
        self._turn += 1
        turn = self._turn // READS_OF_A_TURN % len(owners)
        nearby = self._sorted.get(owners)
        if nearby is None:
            nearby = self._sorted[owners] = tuple(sorted(owners))
        nearby = nearby[turn:] + nearby[:turn]
        avoided = self.queues.avoided()
        return tuple(sorted(nearby, key=avoided.__contains__)) if avoided else nearby

    def _admit(self, size: int) -> None:
        if self._view is None or not self._view.seats:
            if self._view is not None and not self._view.open:
                raise _changing()
            raise NoNodes("no storage node has joined this cluster yet", "add one with POST /AddServer")
        limits = self.limits
        if self.under_way >= limits.operations_max or self._bytes + size > limits.operation_bytes_max:
            raise Overloaded(
                f"{self.under_way} operations with {self._bytes} bytes are under way in this proxy",
                "try again after a pause; another proxy may have room",
            )

    def _start(self, kind: str, conversation: Conversation, size: int) -> Deferred[Done]:
        operation = Operation(self, kind, conversation, size)
        self._operations[operation] = None
        self._bytes += size
        done = operation.done
        assert self._view is not None
        if self._view.open:
            operation.begin()
        return done

    def finished(self, operation: Operation, error: KvError | None) -> None:
        del self._operations[operation]
        self._bytes -= operation.size
        level = operation.conversation.level.value  # type: ignore[attr-defined]
        self._count(operation.kind, level, error.slug if error is not None else "ok")

    def _count(self, *labels: str) -> None:
        counter = self._counters.get(labels)  # type: ignore[arg-type]
        if counter is None:
            counter = self._counters[labels] = self._metrics.operations.labels(*labels)  # type: ignore[index]
        counter.inc()  # type: ignore[attr-defined]

    def pause(self, operation: Operation) -> None:
        """Let a contended key rest: full jitter, doubling (Brooker, "Exponential Backoff and Jitter", 2015)."""
        limits = self.limits
        mean = min(limits.backoff_s_max, limits.backoff_s * 2 ** min(operation.conversation.attempt, 16))
        pause_s = self._random.uniform(0, 2 * mean)
        self.clock.callLater(pause_s, operation.resume, operation.conversation.round)

    async def _get_one(self, key: Key) -> Done:
        self._chains += 1
        try:
            done = await self._chained(key, self.clock.seconds() + self.limits.operation_timeout_s)
        except KvError as error:
            self._count("read", Level.ONE.value, error.slug)
            raise
        finally:
            self._chains -= 1
        self._count("read", Level.ONE.value, "ok")
        return done

    async def _chained(self, key: Key, deadline: float) -> Done:
        """Go along the owners; where the epoch moves meanwhile, wait for the next view and go again."""
        while True:
            view = self._view
            assert view is not None
            owners = view.table[slot_of(key)]
            try:
                if not view.open:
                    raise _changing()
                reply = await read_one(owners, lambda node: self._fetch(node, key, deadline))
            except ChangeUnderWay:
                if self._view is view:
                    await self._next_opening(deadline - self.clock.seconds())
            except KvError as error:
                raise Unreached(
                    f"no owner of the key answered; the last said: {error.detail}",
                    "start one of its nodes again",
                    required=1,
                    acks=0,
                ) from None
            else:
                return Done(reply.record, 1, len(owners))

    def _fetch(self, node: NodeId, key: Key, deadline: float) -> Deferred[Reply]:
        left = deadline - self.clock.seconds()
        if left <= 0:
            return fail(Failure(PeerUnreachable("the deadline passed before it was asked")))
        fetch = _Fetch(self.clock, min(left, self.limits.chain_step_s))
        self.queues.by_node[node].ask(fetch, 0, Op(FETCH, key))
        return fetch.done

    async def _next_opening(self, patience_s: float) -> None:
        if patience_s <= 0:
            raise _changing()
        opening: Deferred[None] = Deferred()
        self._openings.append(opening)
        timer = self.clock.callLater(patience_s, self._give_up, opening)
        try:
            await opening
        finally:
            if timer.active():
                timer.cancel()

    def _give_up(self, opening: Deferred[None]) -> None:
        self._openings.remove(opening)
        opening.errback(Failure(_changing()))


class _Fetch:
    """One question of a chain."""

    __slots__ = ("_timer", "done")

    def __init__(self, clock: IReactorTime, timeout_s: float) -> None:
        self.done: Deferred[Reply] = Deferred()
        self._timer = clock.callLater(timeout_s, self._end, Failure(PeerSilent(f"no answer within {timeout_s:g} s")))

    def answered(self, node: NodeId, round_: int, reply: Reply, resent: bool) -> None:
        self._end(reply)

    def unanswered(self, node: NodeId, round_: int, error: str, arrived: bool) -> None:
        self._end(Failure(PeerSilent(error) if arrived else PeerUnreachable(error)))

    def outdated(self, node: NodeId, round_: int) -> None:
        self._end(Failure(_changing()))

    def _end(self, result: Reply | Failure) -> None:
        if self.done.called:
            return
        if self._timer.active():
            self._timer.cancel()
        self.done.callback(result)


def _changing() -> ChangeUnderWay:
    return ChangeUnderWay("the cluster is moving data, and clients wait until it has moved", "try again in a moment")
