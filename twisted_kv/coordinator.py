"""Clients' operations: which are let in, whom they ask, and what becomes of them when the epoch moves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from random import Random

from msgspec.structs import replace
from twisted.internet.defer import Deferred, ensureDeferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from .accounts import Accounts
from .buggify import Buggify, inert
from .bundles import Bundles
from .chain import Chains
from .conditional import Conditional, Decide, Draft, leave
from .conversation import Conversation
from .deadlines import Deadlines
from .errors import DeadlinePassed, KvError, NoNodes, Overloaded, Unreached
from .limits import Limits
from .metrics import ProxyMetrics
from .names import Key, NodeId
from .operation import Done, Operation, Told, changing
from .peers.queue import Queues
from .preferring import Preferring
from .quorum import Electorate, Level, Voters
from .reading import Read
from .refilling import Refill
from .register import HINT, Op, Reply
from .ring import slot_of
from .sharing import Changed, Sharing
from .timeline import Step
from .tracing import Followed, Ids
from .turns import Turns
from .versions import Ballot, HybridClock, Version, is_expired
from .views import View
from .writing import Write


class _Nobody:
    """Waits for no answer: whether a hint was kept is nothing to whoever left it. See ``peers.peer.Asker``."""

    def answered(self, node: NodeId, round_: int, reply: Reply, resent: bool) -> None: ...

    def unanswered(self, node: NodeId, round_: int, error: str, arrived: bool) -> None: ...

    def outdated(self, node: NodeId, round_: int) -> None: ...


NOBODY = _Nobody()


OPEN_PHASES = 4
"""How long a change pauses, on average and at the most, that may have taken effect: so many times as long as its last
phase took. Others' are about as fast, and each two of them are one version by which it is overtaken."""


class Coordinator:
    """Runs the operations of one proxy's clients.

    :param random: spreads reads and pauses; handed in, so that a simulation can repeat itself.
    :param now_ms: wall time, which expiry goes by.
    :param hybrid: its clock draws the ballots.
    """

    def __init__(
        self,
        clock: IReactorTime,
        random: Random,
        now_ms: Callable[[], int],
        hybrid: HybridClock,
        limits: Limits,
        queues: Queues,
        metrics: ProxyMetrics,
        buggify: Buggify = inert,
        ids: Ids | None = None,
    ) -> None:
        self.clock = clock
        self.limits = limits
        self.queues = queues
        self.buggify = buggify
        self.deadlines = Deadlines(clock)
        self._random = random
        self._now_ms = now_ms
        self.hybrid = hybrid
        self._hints = metrics.hints
        self._accounts = accounts = Accounts(clock, limits, metrics, ids or Ids(0))
        self._preferring = Preferring(queues, buggify)
        self._operations: dict[Operation, None] = {}
        self._bytes = 0
        self._view: View | None = None
        self._chains = Chains(clock, limits, queues)
        self._sharing = Sharing(
            clock,
            lambda key, wanted: Conditional(key, self.order(key, "change"), hybrid, now_ms, wanted),
            lambda conversation, timeout_s, *more: self._start("change", conversation, 0, timeout_s, *more),
            limits.batch_ops_max,
            buggify,
        )
        usual_s = limits.operation_timeout_s
        self._turns = Turns(clock, hybrid, usual_s, self._write, partial(accounts.count, "write", Level.STRONG))
        self._bundles = Bundles(self)

    @property
    def under_way(self) -> int:
        single = len(self._operations) + self._chains.under_way + self._sharing.waiting + self._turns.waiting
        return single + self._bundles.books.ops

    def adopt(self, view: View) -> None:
        """Act on another view. While it is closed operations wait; when it opens they begin again in its epoch."""
        self._bundles.scatter()  # what that puts into the queues is forgotten with all that waits there
        self._view = view
        self._preferring.forget()
        self.queues.adopt(view)
        if view.open:
            for operation in list(self._operations):
                operation.restart()
        self._chains.adopt(view)

    def put(
        self,
        key: Key,
        value: bytes | None,
        content_type: bytes,
        level: Level,
        expires_ms: int = 0,
        timeout_s: float | None = None,
        followed: Followed | None = None,
    ) -> Deferred[Done]:
        """Write a value, or with None a tombstone, at a level.

        Errors: ``Unreached`` and ``DeadlinePassed`` (with ``maybe_applied``), ``Overloaded``, ``NoNodes``,
        ``ChangeUnderWay`` if the cluster moved data for longer than the operation could wait.

        :param expires_ms: wall time in milliseconds, 0 for never.
        :param timeout_s: how long it may take, where the client said so.
        :param followed: what it is called, and who wants to know how it went, where somebody does.
        """
        # A client that hangs up cancels this Deferred and nothing else: its write must not stop half-way.
        done: Deferred[Done] = Deferred()
        self.write(key, Draft(value, content_type, expires_ms), level, done.callback, timeout_s, followed)
        return done

    def write(
        self,
        key: Key,
        draft: Draft,
        level: Level,
        told: Told,
        timeout_s: float | None = None,
        followed: Followed | None = None,
    ) -> None:
        """Do as ``put`` does, for somebody who is told of the end. That may be before this returns."""
        try:
            self._admit(draft.size)
        except KvError as error:
            self._accounts.refused("write", level, error)
            told(Failure())
            return
        if level is Level.STRONG:
            self._turns.write(key, draft, timeout_s, told, followed)
        else:
            self._write_alone(key, draft, level, timeout_s, told, followed, None)

    def _write(
        self,
        key: Key,
        draft: Draft,
        timeout_s: float | None,
        told: Told,
        followed: Followed | None,
        since_s: float | None,
    ) -> None:
        """Begin a write at level strong."""
        view = self._view
        assert view is not None
        usual = timeout_s is None and followed is None
        if usual and view.open and self._bundles.write(view.electorates[slot_of(key)], key, draft, told):
            return
        self._write_alone(key, draft, Level.STRONG, timeout_s, told, followed, since_s)

    def _write_alone(
        self,
        key: Key,
        draft: Draft,
        level: Level,
        timeout_s: float | None,
        told: Told,
        followed: Followed | None,
        since_s: float | None,
    ) -> None:
        write = Write(key, self.order(key, "write"), self.hybrid, level, *draft)
        self._start("write", write, draft.size, timeout_s, followed, since_s).addBoth(told)

    def get(
        self, key: Key, level: Level, timeout_s: float | None = None, followed: Followed | None = None
    ) -> Deferred[Done]:
        """Read a key at a level. Errors as in ``put``; a key that is absent is no error here.

        A value that has expired is made absent for everybody before it is called so, except at level ``one``.
        """
        done: Deferred[Done] = Deferred()
        self.read(key, level, done.callback, timeout_s, followed)
        return done

    def read(
        self,
        key: Key,
        level: Level,
        told: Told,
        timeout_s: float | None = None,
        followed: Followed | None = None,
    ) -> None:
        """Do as ``get`` does, for somebody who is told of the end. That may be before this returns."""
        try:
            self._admit(0)
        except KvError as error:
            self._accounts.refused("read", level, error)
            told(Failure())
            return
        if level is Level.ONE:
            one = self._get_one(key, timeout_s or self.limits.operation_timeout_s, followed)
            ensureDeferred(one).addBoth(told)
            return
        shares = self._sharing.expects(key) or self.buggify("coordinator: a read shares a round of changes")
        self.queues.allowance.reads += 1
        view = self._view
        assert view is not None
        usual = timeout_s is None and followed is None
        bundled = usual and level is Level.STRONG and view.open and not shares
        if bundled and self._bundles.read(view.electorates[slot_of(key)], key, told):
            return
        until_s = self.clock.seconds() + (timeout_s or self.limits.operation_timeout_s)
        if level is Level.STRONG and shares:
            self._get_shared(key, until_s, followed).addBoth(told)
            return
        read = Read(key, self.order(key, "read"), self.hybrid, level)
        self._start("read", read, 0, timeout_s, followed).addCallback(self._unexpired, key, until_s).addBoth(told)

    def change(
        self,
        key: Key,
        decide: Decide,
        timeout_s: float | None = None,
        size: int = 0,
        followed: Followed | None = None,
    ) -> Deferred[Changed]:
        """Change a key by what it holds, always with majorities.

        Errors as in ``put``.

        :param size: how many bytes ``decide`` keeps in memory, or may make.
        """
        try:
            self._admit(size)
        except KvError as error:
            self._accounts.refused("change", Level.STRONG, error)
            return fail(Failure())
        self._bytes += size

        def ended(result: Changed | Failure) -> Changed | Failure:
            self._bytes -= size
            return result

        patience_s = timeout_s or self.limits.operation_timeout_s
        return self._sharing.change(key, decide, patience_s, followed).addBoth(ended)

    def refill(self, key: Key) -> Deferred[Done]:
        """Propose what a key holds again, to every owner: one of them cannot read it. Errors as in ``put``."""
        return self._start("refill", Refill(key, self.order(key, "write"), self.hybrid), 0, None)

    def go_alone(
        self,
        kind: str,
        conversation: Conversation,
        size: int,
        since_s: float,
        until_s: float,
        patience_s: float,
        told: Told,
    ) -> Operation:
        """See ``crowd.Home``."""
        left_s = max(0.0, until_s - self.clock.seconds())
        operation = Operation(self, kind, conversation, size, left_s, max(0.0, patience_s), None, since_s)
        self._take_in(operation)
        if kind == "read":
            operation.done.addCallback(self._unexpired, conversation.key, until_s)
        operation.done.addBoth(told)
        return operation

    def ended(self, kind: str, keys: Sequence[Key], since_s: float, steps: Iterable[Step]) -> str:
        """See ``crowd.Home``."""
        if kind == "write":
            over = self._turns.over
            for key in keys:
                over(key)
        return self._accounts.ended_alike(kind, keys, since_s, steps)

    def expires(self, key: Key, done: Done, until_s: float, told: Told) -> None:
        """See ``crowd.Home``."""
        if self._expired(done.record):
            self._get_shared(key, until_s).addBoth(told)
        else:
            told(done)

    def missed_by(self, key: Key, ballot: Ballot, electorate: Electorate, confirmed: Voters, node: NodeId) -> None:
        """Leave a hint for an owner that did not take what the others took."""
        keeper = next(iter(electorate.members(confirmed)), None)
        queue = self.queues.by_node.get(keeper) if keeper is not None else None
        if queue is not None and self._view is not None and node in self._view.seats:
            self._hints.inc()
            queue.ask(NOBODY, 0, Op(HINT, key, ballot, node.encode()))

    async def bury(self, key: Key) -> bool:
        """Put a tombstone in the place of what has expired; say whether that was done now, and not found done.

        Errors as in ``put``.
        """
        before = Version(self.hybrid.tick())
        found = await self.change(key, leave)
        return found.record is not None and found.record.version > before

    def order(self, key: Key, kind: str) -> Electorate:
        """Say who votes on a key; for a read those to ask first come first: the good ones, in turn."""
        assert self._view is not None
        electorate = self._view.electorates[slot_of(key)]
        if kind != "read":
            return electorate
        return self._preferring.arranged(electorate)

    def pause(self, operation: Operation) -> None:
        """Let a contended key rest: full jitter, doubling (Brooker, "Exponential Backoff and Jitter", 2015)."""
        limits, conversation = self.limits, operation.conversation
        longest_s = limits.backoff_s_max
        if conversation.in_doubt:
            longest_s = min(limits.backoff_open_s_max, OPEN_PHASES * (self.clock.seconds() - operation.asked_s))
        mean = min(longest_s, limits.backoff_s * 2 ** min(conversation.attempt, 16))
        if self.buggify("coordinator: a long pause"):
            mean *= 50
        pause_s = self._random.uniform(0, 2 * mean)
        self.clock.callLater(pause_s, operation.resume, conversation.round)

    def finished(self, operation: Operation, error: KvError | None) -> str:
        """See ``operation.Home``."""
        del self._operations[operation]
        self._bytes -= operation.size
        conversation, followed = operation.conversation, operation.followed
        kind, key = operation.kind, conversation.key
        level: Level = conversation.level  # type: ignore[attr-defined]
        if kind == "write" and level is Level.STRONG:
            self._turns.over(key)
        if operation.trace is not None:
            self.queues.transit.traced -= 1
        return self._accounts.ended(kind, level, key, operation.since_s, operation.steps, error, followed)

    def _admit(self, size: int) -> None:
        view = self._view
        if view is None or not view.seats:
            if view is not None and not view.open:
                raise changing()
            raise NoNodes("no storage node has joined this cluster yet", "add one with POST /AddServer")
        limits = self.limits
        under_way, size_now = self.under_way, self._bytes + self._turns.size + self._bundles.books.size
        if under_way >= limits.operations_max or size_now + size > limits.operation_bytes_max:
            raise Overloaded(
                f"{under_way} operations with {size_now} bytes are under way in this proxy",
                "try again after a pause; another proxy may have room",
            )

    def _start(
        self,
        kind: str,
        conversation: Conversation,
        size: int,
        timeout_s: float | None,
        followed: Followed | None = None,
        since_s: float | None = None,
    ) -> Deferred[Done]:
        patience_s = timeout_s or self.limits.operation_timeout_s
        operation = Operation(self, kind, conversation, size, patience_s, None, followed, since_s)
        self._take_in(operation)
        done = operation.done
        assert self._view is not None
        if self._view.open:
            operation.begin()
        return done

    def _take_in(self, operation: Operation) -> None:
        """Count an operation until it has ``finished``."""
        self._operations[operation] = None
        if operation.trace is not None:
            self.queues.transit.traced += 1
        self._bytes += operation.size

    def _unexpired(self, done: Done, key: Key, until_s: float) -> Done | Deferred[Done]:
        return self._get_shared(key, until_s) if self._expired(done.record) else done

    def _expired(self, record: bytes) -> bool:
        return is_expired(record, self._now_ms())

    def _get_shared(self, key: Key, until_s: float, followed: Followed | None = None) -> Deferred[Done]:
        """Read in a round of changes, in which what has expired is replaced by its tombstone.

        Half of the time that is left goes to the round; a read that is still without an answer then goes on alone.
        """

        def read(found: Changed) -> Done:
            record = found.record.encode() if found.record is not None else b""
            return Done(record, found.acks, found.owners, found.request_id)

        def read_alone(failure: Failure) -> Deferred[Done]:
            # What became of the others' changes is nothing to a reader.
            failure.trap(Unreached)
            left_s = until_s - self.clock.seconds()
            if left_s <= 0:
                return fail(_unread(failure.value))
            conversation = Read(key, self.order(key, "read"), self.hybrid, Level.STRONG)
            return self._start("read", conversation, 0, left_s, followed).addCallback(still_there, failure.value)

        def still_there(done: Done, why_not: Unreached) -> Done:
            # Absent by this clock only: another proxy may still read the value, so it must not be called absent here.
            if self._expired(done.record):
                raise _unread(why_not)
            return done

        left_s = until_s - self.clock.seconds()
        if left_s <= 0:
            return fail(DeadlinePassed("the deadline passed before an expired value was made absent", "try again"))
        return self.change(key, leave, left_s / 2, 0, followed).addCallbacks(read, read_alone)

    async def _get_one(self, key: Key, timeout_s: float, followed: Followed | None) -> Done:
        trace = followed.trace if followed is not None else None
        transit, since_s = self.queues.transit, self.clock.seconds()
        steps: list[Step] = []
        transit.traced += trace is not None
        failed: KvError | None = None
        try:
            done = await self._chains.read(key, timeout_s, steps, trace)
        except KvError as error:
            failed = error
            raise
        finally:
            transit.traced -= trace is not None
            request_id = self._accounts.ended("read", Level.ONE, key, since_s, steps, failed, followed)
            if failed is not None:
                failed.request_id = request_id
        return replace(done, record=b"" if self._expired(done.record) else done.record, request_id=request_id)


def _unread(error: Unreached) -> Unreached:
    """Say to a reader why a round of changes failed that it shared."""
    return type(error)(
        error.detail, "try again in a moment", required=error.required, acks=error.acks, replicas=error.replicas
    )
