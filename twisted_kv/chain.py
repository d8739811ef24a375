"""Level ``one`` reads: chained failover, as the original has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from .errors import ChangeUnderWay, KvError, PeerSilent, PeerUnreachable, Unreached
from .limits import Limits
from .names import Key, NodeId
from .operation import Done, changing
from .peers.queue import Queues
from .register import FETCH, Op, Reply
from .ring import slot_of
from .timeline import NEVER, Step
from .tracing import Trace
from .views import View

STEP_TIMES = 4
"""How many times as long as a strong read a level-one read waits before it asks the next owner. It has asked only one
so far, and forgets its answer by going on."""


def read_one(owners: Sequence[NodeId], fetch: Callable[[NodeId], Deferred[Reply]]) -> Deferred[Reply]:
    """Ask the primary, then the replicas in turn, until one holds a record.

    The next owner is asked on a failure and where the key is absent; a tombstone is an answer and ends the search.
    The last owner's answer, or failure, is the chain's, except that a key which any owner called absent is absent.
    """
    absent: list[Reply] = []

    def go_on(result: Reply | Failure, node: NodeId) -> Reply | Deferred[Reply]:
        if isinstance(result, Reply):
            if result.record:
                return result
            absent.append(result)
        return fetch(node)

    def settle(failure: Failure) -> Reply | Failure:
        return absent[0] if absent else failure

    chain = fetch(owners[0])
    for node in owners[1:]:
        chain.addBoth(go_on, node)
    return chain.addErrback(settle)


class Chains:
    """The level-one reads of one proxy, over changes of the epoch."""

    def __init__(self, clock: IReactorTime, limits: Limits, queues: Queues) -> None:
        self._clock = clock
        self._limits = limits
        self._queues = queues
        self._view: View | None = None
        self._openings: list[Deferred[None]] = []
        self.under_way = 0

    def adopt(self, view: View) -> None:
        """Act on another view; who waits for an open one goes on when it comes."""
        self._view = view
        if view.open:
            openings, self._openings = self._openings, []
            for opening in openings:
                opening.callback(None)

    async def read(self, key: Key, timeout_s: float, steps: list[Step], trace: Trace | None) -> Done:
        """Read one copy. Errors: ``Unreached``, and ``ChangeUnderWay`` if data was moved for longer than it waits.

        :param steps: is told who answered when.
        :param trace: what the nodes are to call it.
        """
        self.under_way += 1
        try:
            return await self._chained(key, self._clock.seconds() + timeout_s, steps, trace)
        finally:
            self.under_way -= 1

    async def _chained(self, key: Key, deadline: float, steps: list[Step], trace: Trace | None) -> Done:
        """Go along the owners; where the epoch moves meanwhile, wait for the next view and go again."""
        while True:
            view = self._view
            assert view is not None
            owners = view.electorates[slot_of(key)].nodes
            self._queues.allowance.reads += 1
            if standing := self._queues.standing():
                owners = tuple(sorted(owners, key=lambda node: standing.get(node, 0)))
            try:
                if not view.open:
                    raise changing()
                reply = await read_one(owners, partial(self._fetch, owners, key, deadline, steps, trace))
            except ChangeUnderWay:
                if self._view is view:
                    await self._next_opening(deadline - self._clock.seconds())
            except KvError as error:
                raise Unreached(
                    f"no owner of the key answered; the last said: {error.detail}",
                    "start one of its nodes again",
                    required=1,
                    acks=0,
                ) from None
            else:
                return Done(reply.record, 1, len(owners))

    def _fetch(
        self,
        owners: tuple[NodeId, ...],
        key: Key,
        deadline: float,
        steps: list[Step],
        trace: Trace | None,
        node: NodeId,
    ) -> Deferred[Reply]:
        if node not in self._queues.by_node:
            # It has left since this chain began: who owns the key now is asked in another one.
            return fail(Failure(changing()))
        left = deadline - self._clock.seconds()
        if left <= 0:
            return fail(Failure(PeerUnreachable("the deadline passed before it was asked")))
        queues, step_s = self._queues, min(left, self._limits.chain_step_s)
        # The last one is waited for in full: going on early would be giving up early.
        rest = owners[owners.index(node) + 1 :]
        early_s = STEP_TIMES * queues.hedge_s((node,)) if rest else step_s
        fetch = _Fetch(self._clock, min(early_s, step_s), step_s, lambda: queues.may_hedge((node,), rest), trace)
        steps.append((self._clock.seconds(), f"asks {node}", "", len(steps) + 1, NEVER))
        queues.by_node[node].ask(fetch, 0, Op(FETCH, key))
        return fetch.done.addBoth(self._noted, node, steps)

    def _noted(self, result: Reply | Failure, node: NodeId, steps: list[Step]) -> Reply | Failure:
        if isinstance(result, Failure):
            steps.append((self._clock.seconds(), f"gave no answer: {result.value}", node, len(steps), NEVER))
        else:
            transit = self._queues.transit
            steps.append(
                (transit.back_s, "has it" if result.record else "has it not", node, len(steps), transit.sent_s)
            )
        return result

    async def _next_opening(self, patience_s: float) -> None:
        if patience_s <= 0:
            raise changing()
        opening: Deferred[None] = Deferred()
        self._openings.append(opening)
        timer = self._clock.callLater(patience_s, self._give_up, opening)
        try:
            await opening
        finally:
            if timer.active():
                timer.cancel()

    def _give_up(self, opening: Deferred[None]) -> None:
        self._openings.remove(opening)
        opening.errback(Failure(changing()))


class _Fetch:
    """One question of a chain.

    :param early_s: when it gives up, if ``may`` says so then.
    :param timeout_s: when it gives up in any case.
    """

    __slots__ = ("_clock", "_may", "_timer", "_until_s", "done", "trace")

    def __init__(
        self, clock: IReactorTime, early_s: float, timeout_s: float, may: Callable[[], bool], trace: Trace | None
    ) -> None:
        self.trace = trace
        self.done: Deferred[Reply] = Deferred()
        self._clock = clock
        self._until_s = clock.seconds() + timeout_s
        self._may = may
        self._timer = clock.callLater(early_s, self._tick)

    def _tick(self) -> None:
        left = self._until_s - self._clock.seconds()
        if left > 0 and not self._may():
            self._timer = self._clock.callLater(left, self._tick)
        else:
            self._end(Failure(PeerSilent("no answer in time")))

    def answered(self, node: NodeId, round_: int, reply: Reply, resent: bool) -> None:
        self._end(reply)

    def unanswered(self, node: NodeId, round_: int, error: str, arrived: bool) -> None:
        self._end(Failure(PeerSilent(error) if arrived else PeerUnreachable(error)))

    def outdated(self, node: NodeId, round_: int) -> None:
        self._end(Failure(changing()))

    def _end(self, result: Reply | Failure) -> None:
        if self.done.called:
            return
        if self._timer.active():
            self._timer.cancel()
        self.done.callback(result)
