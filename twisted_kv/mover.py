"""Carrying out a change of the ring, the plain way: clients wait while each new owner is filled.

One epoch is closed, in which the nodes refuse clients and the new owners get what a majority of the old ones holds;
the next one opens with the new ring. Everything that moves is an accept under the ballot it already has, so a change
may be interrupted anywhere and begun again. Who may drive is decided by the store; that an old driver's late orders do
no harm is decided by its epoch, which every newer driver leaves behind before its first order.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from random import Random
from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import Deferred, DeferredList, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from .errors import ChangeFailed, KvError, SlotsLost
from .filling import Filling, sources
from .limits import Limits
from .membership import Plan, Seat, State, Wish, begun, cancelled, finished, planned, taken_over, wished
from .names import NodeId
from .peers.control import Control
from .periodic import Rounds
from .ring import SLOTS
from .state.store import StateStore
from .versions import HybridClock

T = TypeVar("T")


class Mover:
    """Drives changes, one at a time, while this process leads.

    :param hybrid: draws the ballots of what has to be proposed again.
    :param took: called with each state that this room has put into the store.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        random: Random,
        limits: Limits,
        store: StateStore,
        control: Control,
        hybrid: HybridClock,
        took: Callable[[State], None],
    ) -> None:
        self._clock = clock
        self._random = random
        self._limits = limits
        self._store = store
        self._control = control
        self._hybrid = hybrid
        self._took = took
        self._not_before = 0.0
        self._failures = 0
        self._rounds = Rounds(clock, random, limits.drive_interval_s, self._drive, "changes of the ring")
        self.filling: Filling | None = None
        """How far the copying of the change under way is."""
        self.trouble: KvError | None = None
        """Why the change that waits cannot be carried out now."""

    def start(self) -> None:
        self._rounds.start()

    def kick(self) -> None:
        """Look at once whether there is something to drive."""
        self._rounds.kick()

    def stop(self) -> Deferred[None]:
        stopped = self._rounds.stop()
        self._store.resign()
        return stopped

    async def _drive(self) -> None:
        if self._clock.seconds() < self._not_before:
            return
        state = await self._store.read()
        if state is None or not (state.pending or state.change) or not await self._store.lead():
            return
        try:
            while state.pending or state.change is not None:
                closed = await self._begin(state)
                if closed is None:
                    break
                state = await self._carry_out(closed)
        except KvError as error:
            self._postpone(error)
        finally:
            self._store.resign()

    async def _begin(self, state: State) -> State | None:
        """Close the epoch for the change that waits, or for one whose driver is gone; None if it cannot be done now."""
        if state.change is not None:
            self.log.warn("taking over a change that was left at epoch {epoch}", epoch=state.epoch)
            return await self._step(state, taken_over)
        state, found = await self._looked_at(state)
        if not state.pending:
            return None
        change_id = f"c-{self._random.getrandbits(32):08x}"
        try:
            self._check(begun(state, change_id), found)
        except KvError as error:
            self._waits(error)
            return None
        return await self._step(state, lambda now: begun(now, change_id))

    def _check(self, state: State, found: set[NodeId]) -> None:
        """Refuse a change that cannot succeed now: it would close the epoch for the clients in vain.

        :raises SlotsLost: if too few owners remember some slots.
        :raises ChangeFailed: if too few of those who are needed answer.
        """
        assert state.change is not None
        plan = planned(state)
        if plan.lost:
            raise SlotsLost(
                f"{plan.lost} of {SLOTS} slots were forgotten by too many owners to know their newest values",
                "bring a member back that still has its data, or POST /v1/cluster/accept-loss to keep what is left",
            )
        for fill in plan.fills:
            sources(fill, found, state.change.accept_loss)

    async def _looked_at(self, state: State) -> tuple[State, set[NodeId]]:
        """Ask everybody concerned who they are, and put the wishes right: who forgot is rebuilt, who is gone waits.

        Gives the state, and who answered as the member that they should be.
        """
        wishes = {wish.seat.id: wish for wish in state.pending}
        seats = {seat.id: seat for seat in state.members} | {node: wish.seat for node, wish in wishes.items()}
        found = await self._each(seats.values(), lambda seat: self._control.info(seat.url))
        for node, seat in seats.items():
            info = found.get(NodeId(node))
            known = state.seat(node)
            if info is None or info.member != node:
                # A change of weight needs nothing of its node; to join or to be rebuilt, it must be there.
                if node in wishes and (known is None or seat.incarnation != known.incarnation):
                    self.log.warn("{node} at {url} does not answer; its change waits", node=node, url=seat.url)
                    del wishes[node]
            elif info.incarnation != seat.incarnation:
                renewed = msgspec.structs.replace(seat, incarnation=info.incarnation, forgetful=info.engine == "memory")
                wishes[node] = Wish(renewed, node in wishes and wishes[node].accept_loss)
        present = {node for node, info in found.items() if info.member == node}
        if tuple(wishes.values()) == state.pending:
            return state, present

        def put_right(now: State) -> State:
            now = msgspec.structs.replace(now, pending=())
            for wish in wishes.values():
                now = wished(now, wish)
            return now

        return await self._step(state, put_right), present

    async def _carry_out(self, state: State) -> State:
        """Fill the new owners and open the next epoch; or take the change back."""
        assert state.change is not None
        kind, started = state.change.kind, self._clock.seconds()
        plan = planned(state)
        if plan.emptied:
            self.log.critical(
                "ALL OWNERS FORGOT: {emptied} of {slots} slots start EMPTY, since every copy was in the memory of nodes"
                " that have restarted. Use a durable engine where data must outlive its processes.",
                emptied=plan.emptied,
                slots=SLOTS,
            )
        try:
            filling = await self._fill(state, plan)
        except KvError as error:
            self.log.error("the {kind} was taken back: {error}", kind=kind, error=error.detail)
            state = await self._step(state, cancelled)
            await self._announce(state, state.members)
            self._postpone(error)
            return state
        finally:
            self.filling = None
        state = await self._step(state, finished)
        self._failures, self.trouble = 0, None
        await self._announce(state, state.members)
        seats = {seat.id: seat for seat in state.members}
        losers = [seats[node] for node in plan.drops if node in seats]
        await self._each(losers, lambda seat: self._control.drop(seat, state, plan.drops[NodeId(seat.id)]))
        self.log.info(
            "{kind} done in {seconds:.1f} s: {count} members, {copied} records copied, {settled} settled",
            kind=kind,
            seconds=self._clock.seconds() - started,
            count=len(state.members),
            copied=filling.copied,
            settled=filling.settled,
        )
        return state

    async def _fill(self, state: State, plan: Plan) -> Filling:
        """Let every node concerned adopt the closed epoch, and fill the new owners.

        :raises ChangeFailed: if too few of those who are needed can be reached.
        """
        assert state.change is not None
        seats = {NodeId(seat.id): seat for seat in (*state.members, *state.change.seats)}
        adopted = await self._announce(state, seats.values())
        self.filling = filling = Filling(self._control, self._hybrid, state, seats, adopted)
        await filling.run(plan)
        return filling

    async def _announce(self, state: State, seats: Iterable[Seat]) -> set[NodeId]:
        """Show nodes an epoch, and give those who adopted it."""
        return set(await self._each(seats, lambda seat: self._control.announce(seat, state)))

    async def _each(self, seats: Iterable[Seat], ask: Callable[[Seat], Coroutine[Any, Any, T]]) -> dict[NodeId, T]:
        """Ask several nodes at once; who fails is left out."""
        asked = list(seats)
        results = await DeferredList([ensureDeferred(ask(seat)) for seat in asked], consumeErrors=True)
        answers = {}
        for seat, (succeeded, result) in zip(asked, results, strict=True):
            if succeeded:
                answers[NodeId(seat.id)] = result
            elif not result.check(KvError):
                result.raiseException()
        return answers

    async def _step(self, expected: State, step: Callable[[State], State]) -> State:
        """Put the next state into the store, unless somebody else has moved on."""

        def guarded(now: State | None) -> State:
            if now is None or now.epoch != expected.epoch:
                raise ChangeFailed("another proxy drives now")
            return step(now)

        state = await self._store.update(guarded)
        self._took(state)
        return state

    def _waits(self, error: KvError) -> None:
        """Say once why a change cannot begin; the next round looks again."""
        if self.trouble is None or self.trouble.detail != error.detail:
            self.log.error("a change of the ring waits: {detail}; {hint}", detail=error.detail, hint=error.hint)
        self.trouble = error

    def _postpone(self, error: KvError) -> None:
        """Leave clients in peace for a while after a change failed half-way: each attempt makes them wait."""
        self._failures += 1
        longest_s = self._limits.change_retry_s_max
        self._not_before = self._clock.seconds() + min(longest_s, longest_s / 30 * 2 ** (self._failures - 1))
        self._waits(error)
