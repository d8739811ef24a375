"""Carrying out a change of the ring, while clients go on.

In one epoch old and new owners vote together, and the new ones are filled with what a majority of the old ones holds;
in the next one the new ones vote alone. Everything that moves is an accept under the ballot it already has, so a change
may be interrupted anywhere, gone on with by another driver, or driven by two at once. Who may drive is decided by the
store. What a new owner may hold from an earlier time is dropped before the first of the two epochs, in which it is no
owner yet: an order that comes late is refused.

Where too few owners remember for clients to be served anyway, the first epoch is closed: they wait until it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial, reduce
from random import Random

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from .buggify import LATE_S, Buggify, inert
from .errors import ChangeFailed, KvError, SlotsLost, StateBehind, StateUnusable
from .filling import Filling, refuse_missing, sources
from .leading import Lead
from .limits import Limits
from .membership import (
    Seat,
    State,
    Wish,
    begun,
    behind,
    cancelled,
    finished,
    found,
    put_right,
    ring_of,
    shelved,
    without,
)
from .names import NodeId
from .peers.control import Control
from .periodic import Rounds
from .planning import Plan, planned, thinned
from .ring import SLOTS, runs
from .state.store import StateStore
from .throttle import Throttle
from .together import answers
from .verifying import verify_stayers
from .versions import HybridClock
from .views import foreign
from .wire.joining import Info


class Mover:
    """Drives changes, one at a time, while this process leads.

    :param hybrid: draws the ballots of what has to be proposed again.
    :param took: called with each state that this room has put into the store.
    :param known: gives the state that this process acts on.
    :param troubled: called with the reason when a change that waits cannot begin.
    :param wait_s: says how long clients wait at present; see ``throttle.py``.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        random: Random,
        limits: Limits,
        store: StateStore,
        lead: Lead,
        control: Control,
        hybrid: HybridClock,
        took: Callable[[State], None],
        known: Callable[[], State | None],
        troubled: Callable[[KvError], None],
        wait_s: Callable[[], float],
        buggify: Buggify = inert,
    ) -> None:
        self._clock = clock
        self._random = random
        self._limits = limits
        self._store = store
        self._lead = lead
        self._control = control
        self._hybrid = hybrid
        self._took = took
        self._known = known
        self._troubled = troubled
        self._wait_s = wait_s
        self._buggify = buggify
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
        return self._rounds.stop()

    async def _drive(self) -> None:
        if self._clock.seconds() < self._not_before:
            return
        try:
            state = await self._read()
            if state != self._known():
                # Of two states of one epoch the older one may have been heard last.
                self._took(state)
            if not (state.pending or state.change):
                self.trouble = None
                return
            if not await self._lead.take():
                return
        except KvError as error:
            self._waits(error)
            return
        under_way = False
        try:
            # Read again: whoever led until now may just have finished.
            state = await self._read()
            while state.pending or state.change is not None:
                present = await self._looked_at(state)
                begun_ = await self._begin(await self._put_right(state, present), present)
                if begun_ is None:
                    break
                if self._buggify("mover: gives the lead away"):
                    self._lead.give_away()
                under_way = True
                state = await self._carry_out(begun_, present)
                under_way = False
        except (StateBehind, SlotsLost, StateUnusable) as error:
            self._waits(error)
        except KvError as error:
            self._postpone()
            # Who has wished for something else is not told of it: that waits for its turn.
            (self._stuck if under_way else self._waits)(error)
        finally:
            self._lead.release()

    async def _read(self) -> State:
        return found(await self._store.read())

    async def _looked_at(self, state: State) -> dict[NodeId, Info]:
        """Ask everybody concerned who they are; give who answered as the member that they should be.

        :raises StateBehind: if one of them knows a newer epoch: then this is not the newest state, and what a change
            made of it could not be the truth.
        """
        seats = {seat.id: seat for seat in (*state.members, *(wish.seat for wish in state.pending))}
        if state.change is not None:
            seats |= {seat.id: seat for seat in state.change.seats}
        infos = await answers({NodeId(node): self._control.info(seat.url) for node, seat in seats.items()})
        present = {node: info for node, info in infos.items() if info.member == node}
        for node, info in present.items():
            if info.cluster == state.cluster_id and info.epoch > state.epoch:
                raise behind(state, info.epoch, node)
        return present

    async def _put_right(self, state: State, present: Mapping[NodeId, Info]) -> State:
        """Bring the wishes up to what the nodes said: who forgot is rebuilt, a wish whose node is gone is given up."""
        if state.change is not None:
            return state
        gone: list[str] = []
        renewed: list[Wish] = []
        wishes = {wish.seat.id: wish for wish in state.pending}
        for node, seat in ({seat.id: seat for seat in state.members} | {n: w.seat for n, w in wishes.items()}).items():
            info, known, wish = present.get(NodeId(node)), state.seat(node), wishes.get(node)
            if wish is not None and known is not None and not seat.incarnation and info is not None:
                self.log.warn("{node} at {url} was given up, but answers; its data counts", node=node, url=seat.url)
                gone.append(node)
            elif info is None:
                # A change of weight needs nothing of its node; to join or to be rebuilt, it must be there.
                needs_it = known is None or seat.incarnation not in ("", known.incarnation)
                if wish is not None and needs_it:
                    self.log.warn("{node} at {url} does not answer; its change is given up", node=node, url=seat.url)
                    gone.append(node)
            elif info.incarnation != seat.incarnation:
                now = msgspec.structs.replace(seat, incarnation=info.incarnation, forgetful=info.forgetful)
                renewed.append(msgspec.structs.replace(wish, seat=now) if wish is not None else Wish(now))

        def step(now: State) -> State:
            for node in gone:
                now = without(now, node)
            for wish in renewed:
                now = put_right(now, wish)
            return now

        return await self._step(state, step) if gone or renewed else state

    async def _begin(self, state: State, present: Mapping[NodeId, Info]) -> State | None:
        """Begin the change that waits, or go on with one whose driver is gone; None if it cannot be done now."""
        if state.change is not None:
            return state
        if not state.pending:
            return None
        change_id = f"c-{self._random.getrandbits(32):08x}"
        draft = begun(state, change_id)
        plan = planned(draft)
        try:
            self._check(plan, present)
        except KvError as error:
            await self._refuse(state, error)
            return None
        try:
            await verify_stayers(self._clock, self._control, state, thinned(draft))
        except KvError as error:
            await self._refuse(state, error)
            # What else is wished goes on, such as a rebuild that is needed to get back what cannot be read.
            await self._step(state, partial(_nobody_leaves, wishes=state.pending))
            return None
        await self._empty(state, draft, plan)
        # What was checked is what begins: a wish that came meanwhile waits for the next round, and its own check.
        after = await self._step(
            state, lambda now: begun(now, change_id, plan.closed) if now.pending == state.pending else now
        )
        return after if after.change is not None else None

    async def _refuse(self, state: State, error: KvError) -> None:
        """Tell whoever waits for what is pending in a state why it cannot be done now."""
        # Looking around takes a while; whoever wished something meanwhile gets an answer of his own next round.
        if (await self._read()).pending == state.pending:
            self._waits(error)

    def _check(self, plan: Plan, present: Collection[NodeId]) -> None:
        """Refuse a change that cannot succeed now.

        :raises SlotsLost: if too few owners remember some slots.
        :raises ChangeFailed: if too few of those who are needed answer.
        """
        refuse_lost(plan)
        for fill in plan.fills:
            sources(fill, present)
            refuse_missing(fill, present)

    async def _empty(self, state: State, draft: State, plan: Plan) -> None:
        """Let every target start its new slots empty, in the epoch before it owns them (P7)."""
        assert draft.change is not None
        seats = {seat.id: seat for seat in draft.change.seats}
        for node, slots in plan.gained().items():
            await self._control.drop(self._clock, seats[node], state, runs(slots))

    async def _carry_out(self, state: State, present: Mapping[NodeId, Info]) -> State:
        """Fill the new owners, and let them vote alone from the next epoch on; give the state that comes of it.

        :param present: who answered just now. The others are not waited for.
        """
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
            filling = await self._fill(state, plan, present)
        except KvError as error:
            return await self._failed(state, plan, present, error)
        finally:
            self.filling = None
        left = [seat for seat in state.members if seat.id not in {stays.id for stays in state.change.seats}]
        state = await self._step(state, finished)
        self._failures, self.trouble = 0, None
        await self._announce(state, state.members)
        await answers({seat.id: self._forget_foreign(seat, state) for seat in (*state.members, *left)})
        self.log.info(
            "{kind} done in {seconds:.1f} s: {count} members, {copied} records copied, {settled} settled",
            kind=kind,
            seconds=self._clock.seconds() - started,
            count=len(state.members),
            copied=filling.copied,
            settled=filling.settled,
        )
        return state

    async def _failed(self, state: State, plan: Plan, present: Mapping[NodeId, Info], error: KvError) -> State:
        """Take back what cannot go on as it was begun, and give the state after that.

        :raises KvError: what it was given, where the change is left as it is for the next round.
        """
        assert state.change is not None
        if not state.open:
            self.log.error("the {kind} was taken back: {error}", kind=state.change.kind, error=error.detail)
            state = await self._step(state, cancelled)
        else:
            targets = {node for fill in plan.fills for node in fill.targets}
            seats = {seat.id: seat for seat in state.change.seats}
            others = [
                node for node in targets if node in present and present[node].incarnation != seats[node].incarnation
            ]
            if not others:
                raise error
            self.log.warn("{nodes} forgot what was copied; the change begins again", nodes=others)
            state = await self._step(state, shelved)
        await self._announce(state, state.members)
        self._postpone()
        self._stuck(error)
        return state

    async def _forget_foreign(self, seat: Seat, state: State) -> None:
        """Let a node drop what it does not own."""
        await self._control.drop(self._clock, seat, state, foreign(ring_of(state.members, state), NodeId(seat.id)))

    async def _fill(self, state: State, plan: Plan, present: Mapping[NodeId, Info]) -> Filling:
        """Let every node concerned adopt the epoch, and fill the new owners.

        :raises ChangeFailed: if too few of those who are needed can be reached.
        """
        assert state.change is not None
        refuse_lost(plan)
        seats = {NodeId(seat.id): seat for seat in (*state.members, *state.change.seats)}
        adopted = await self._announce(state, [seat for node, seat in seats.items() if node in present])
        throttle = Throttle(self._clock, self._limits.rebalance_bytes_per_s, self._wait_s)
        self.filling = filling = Filling(
            self._clock, self._limits, self._control, self._hybrid, state, seats, adopted, throttle, self._buggify
        )
        await filling.run(plan)
        if self._buggify("mover: fails when all is filled"):
            raise ChangeFailed("it failed when all was filled")
        if state.open and self._buggify("mover: it waits when all is filled"):
            await deferLater(self._clock, LATE_S)
        return filling

    async def _announce(self, state: State, seats: Iterable[Seat]) -> set[NodeId]:
        """Show nodes an epoch, and give those who adopted it."""
        adopted = {*await answers({NodeId(seat.id): self._control.announce(seat, state) for seat in seats})}
        if adopted and self._buggify("mover: an acknowledgement of an epoch is lost"):
            adopted.remove(max(adopted))
        return adopted

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
        """Say why a change cannot begin: once to the log, and to whoever waits for it; the next round looks again."""
        if self.trouble is None or self.trouble.detail != error.detail:
            self.log.error("a change of the ring waits: {detail}; {hint}", detail=error.detail, hint=error.hint)
        self.trouble = error
        self._troubled(error)

    def _stuck(self, error: KvError) -> None:
        """Say once why a change that has begun does not go on now; nobody waits because of it."""
        if self.trouble is None or self.trouble.detail != error.detail:
            self.log.warn("the change under way waits: {detail}", detail=error.detail)
        self.trouble = error

    def _postpone(self) -> None:
        """Leave clients in peace for a while after a change failed half-way: each attempt makes them wait."""
        self._failures += 1
        longest_s = self._limits.change_retry_s_max
        self._not_before = self._clock.seconds() + min(longest_s, longest_s / 30 * 2 ** (self._failures - 1))


def refuse_lost(plan: Plan) -> None:
    """:raises SlotsLost: if a plan would go on without what too few owners remember."""
    if plan.lost:
        raise SlotsLost(
            f"{plan.lost} of {SLOTS} slots were forgotten by too many owners to know their newest values",
            "bring a member back that still has its data, or POST /v1/cluster/accept-loss to keep what is left",
        )


def _nobody_leaves(state: State, wishes: Iterable[Wish]) -> State:
    """Give up those of some wishes with which a member would leave, as far as they are wished still."""
    return reduce(without, (wish.seat.id for wish in wishes if wish.leaves and wish in state.pending), state)
