"""Membership: who is in the cluster, who they are today, and which epoch holds.

The state lives in a store that several proxies share; this room takes each newer one up, asks the members who they
are, and records what should change as wishes. Carrying a change out is the mover's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import reduce
from random import Random

import msgspec
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from .awaiting import Waiters
from .buggify import LATE_S, Buggify, inert
from .errors import (
    BadParameter,
    ChangeFailed,
    ChangeWaits,
    ForeignNode,
    KvError,
    MayRemember,
    NodeHasData,
    NoSuchMember,
    NoSuchTask,
    NothingLost,
    StateUnusable,
)
from .limits import Limits
from .membership import (
    Seat,
    State,
    Wish,
    base_of,
    behind,
    cancelled,
    decode_state,
    found,
    is_leaving,
    wished,
    without,
)
from .names import Epoch, NodeId
from .peers.control import Control
from .peers.queue import Queues
from .probing import Probes
from .seating import checked_url, checked_weight, checked_zone
from .state.store import StateStore
from .views import View
from .wire.batches import OTHER_CLUSTER, OTHER_INCARNATION, BatchReply
from .wire.joining import Info


class Roster:
    """The members as this proxy knows them.

    :param adopted: called with each newer view, first of all with the one at start.
    :param drive: called when a change waits that somebody should drive.
    :param back: called when a member answers again.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        random: Random,
        now_ms: Callable[[], int],
        limits: Limits,
        store: StateStore,
        control: Control,
        queues: Queues,
        adopted: Callable[[View], None],
        drive: Callable[[], None],
        back: Callable[[], None],
        buggify: Buggify = inert,
    ) -> None:
        self._clock = clock
        self._random = random
        self._limits = limits
        self._store = store
        self._control = control
        self._adopted = adopted
        self._drive = drive
        self._buggify = buggify
        self._stop_watching: Callable[[], None] | None = None
        self.probes = Probes(
            clock, random, now_ms, limits, control, queues, lambda: self.state, self._look_again, self._forgot, back
        )
        self._refreshing = False
        self.waiters = Waiters(clock)
        self.view: View | None = None
        self.awaited: set[str] = set()
        """URLs of nodes that this proxy was told at its start to add, and has not added yet."""
        self.ahead_of_store: Epoch | None = None
        """The highest epoch that a node showed, where the store knows none so high."""

    async def start(self, founding: Callable[[State | None], State]) -> State:
        """Read the state, or found a cluster, and begin to watch.

        :param founding: a store transaction that gives the state to start with, or refuses what it finds.
        """
        state = await self._store.update(founding)
        self.take_up(state)
        self._stop_watching = self._store.watch(self._heard)
        self.probes.start()
        return state

    def stop(self) -> Deferred[None]:
        if self._stop_watching is not None:
            self._stop_watching()
        self.waiters.stop()
        return self.probes.stop()

    def _heard(self, state: State) -> None:
        if self._buggify("roster: a state is heard again, late"):
            self._clock.callLater(LATE_S, self.take_up, state)
        self.take_up(state)

    @property
    def state(self) -> State:
        assert self.view is not None
        return self.view.state

    def take_up(self, state: State) -> None:
        """Act on a state from now on, unless it is older than the present one."""
        view = self.view
        if view is not None and state.epoch < view.epoch:
            return
        if view is None or state.epoch > view.epoch:
            self.view = View(state)
            self.probes.forget_all_but(self.view.seats)
            if self.ahead_of_store is not None and state.epoch >= self.ahead_of_store:
                self.ahead_of_store = None
            self._adopted(self.view)
            self.probes.kick()
        else:
            view.state = state
        if state.pending or state.change is not None:
            self._drive()
        self.waiters.look(state)

    # What clients of /AddServer and /v1/cluster ask.

    async def add(self, url: str, weight: int, zone: str | None = None) -> Seat:
        """Take a node in, or change the weight of one that is in, and give its seat when the change is done.

        :raises BadParameter: if URL or weight is none.
        :raises NotANode: if no kvnode answers there.
        :raises ForeignNode: if it is a member of another cluster.
        :raises NodeHasData: if it holds data that is not this cluster's.
        :raises ChangeFailed: if the change could not be carried out.
        """
        url = checked_url(url)
        checked_weight(weight)
        checked_zone(zone, self._limits)
        info = await self._control.info(url)
        seat = self._known(info)
        if seat is None:
            seat = await self._join(url, info, weight, zone or "")
            return await self._fulfilled(seat.id, lambda base: seat, seat)
        if is_leaving(self.state, seat.id):
            raise ChangeFailed(f"{seat.id} at {seat.url} is leaving", "wait until it has left, then add it again")
        wanted = msgspec.structs.replace(seat, weight=weight, zone=seat.zone if zone is None else zone)
        if wanted == seat and base_of(self.state, seat.id) == seat:
            return seat
        changes = {"weight": weight} if zone is None else {"weight": weight, "zone": zone}
        return await self._fulfilled(
            seat.id, lambda base: msgspec.structs.replace(base or wanted, **changes), wanted, *changes
        )

    async def leave(self, node: str, dead: bool = False) -> bool:
        """Let a member go: the others get what it holds first; or, where it is gone for good, what they hold.

        Says whether it has left; if not, its data is on the move, or it waits for its turn.

        :raises NoSuchMember: if there is none of this id.
        :raises MayRemember: if it does not answer and is not said to be dead.
        :raises BadParameter: if it is said to be dead and answers, or is the last one.
        :raises ChangeFailed: if the change could not be carried out.
        """
        seat = self.state.seat(node)
        if seat is None:
            raise NoSuchMember(f"no member has the id {node[:40]!r}", "GET /v1/cluster lists them")
        await self.probes.ask_all()
        answers = self.probes.info_of(seat) is not None
        if answers and dead:
            raise BadParameter(f"{node} answers, so it is not dead", "leave out ?dead=1: its data is copied first")
        if not answers and not dead:
            raise MayRemember(
                f"{node} does not answer, so what it holds cannot be copied",
                f"bring it back; if it is gone for good, DELETE /v1/cluster/nodes/{node}?dead=1",
            )

        def left(state: State) -> State:
            stays = [one for one in state.members if one.id != node and not is_leaving(state, one.id)]
            if not stays:
                raise BadParameter(f"{node} is the last member", "add another one first")
            return wished(state, Wish(base_of(state, node) or seat, leaves=True, dead=dead))

        await self._update(left)
        try:
            state = await self._carried_out(node)
        except ChangeWaits:
            # Another change may be before it, or those who stay have much to read (``verifying``): it stays wished for.
            return False
        except KvError:
            await self._update(lambda state: without(state, node))
            raise
        if not is_leaving(state, node) and state.seat(node) is not None:
            raise ChangeFailed(f"{node} did not leave: the change was taken back", "look into the proxy's log")
        return state.seat(node) is None

    async def cancel(self, change_id: str) -> None:
        """Take the change under way back: the owners of before it own everything again.

        :raises NoSuchTask: if no change of this id is under way.
        """

        def step(state: State) -> State:
            if state.change is None or state.change.id != change_id:
                raise NoSuchTask(f"no change {change_id[:40]!r} is under way", "GET /v1/tasks lists them")
            return cancelled(state)

        await self._update(step)

    async def withdraw(self, node: str) -> None:
        """Give up what is wished for a node and has not begun."""
        await self._update(lambda state: without(state, node))

    async def accept_loss(self, dead: Collection[str] = ()) -> list[str]:
        """Rebuild the members who forgot from whatever copies are left, and name them.

        :param dead: members that are gone for good. What they alone hold is given up, and does not count any more
            should they come back.
        :raises MayRemember: if a member that is not named so does not answer.
        :raises NothingLost: if nobody forgot anything.
        """
        members = self.state.members
        await self.probes.ask_all()
        silent = [seat for seat in members if self.probes.info_of(seat) is None]
        unsaid = [seat for seat in silent if seat.id not in dead]
        if unsaid:
            names = ",".join(seat.id for seat in unsaid)
            raise MayRemember(
                f"{names} did not answer and may hold what the others forgot",
                f"bring it back; if it is gone for good, POST /v1/cluster/accept-loss?dead={names}",
            )
        seats = [seat for seat in map(self.probes.renewed, members) if seat is not None]
        seats += [msgspec.structs.replace(seat, incarnation="") for seat in silent]
        if not seats:
            raise NothingLost("every member that answers remembers what it held", "GET /v1/cluster shows the members")
        self.log.warn("the operator accepts the loss of what only {nodes} held", nodes=[seat.id for seat in seats])
        await self._update(lambda state: self._rebuilding(state, seats, accept_loss=True))
        try:
            for seat in seats:
                await self._settled(seat, "incarnation")
        except KvError:
            # What was accepted was accepted as things stood; the probes wish for the rebuilds again.
            await self._update(lambda state: reduce(without, [seat.id for seat in seats], state))
            raise
        return [seat.id for seat in seats]

    @staticmethod
    def _rebuilding(state: State, seats: Iterable[Seat], accept_loss: bool = False) -> State:
        """Wish for the incarnations of these seats, and for nothing else of them."""
        for seat in seats:
            base = base_of(state, seat.id)
            if base is not None:
                now = msgspec.structs.replace(base, incarnation=seat.incarnation, forgetful=seat.forgetful)
                state = wished(state, Wish(now, accept_loss))
        return state

    def outdated(self, node: NodeId, reply: BatchReply) -> None:
        """A node knows another epoch or another life than this proxy: look at the store, or at the node, again."""
        if reply.refusal in (OTHER_INCARNATION, OTHER_CLUSTER):
            self.probes.look_around()
        else:
            self._learn(reply.state)
            self._look_again(Epoch(reply.epoch))

    def _learn(self, document: bytes) -> None:
        """Act on what a node was given to keep, where this proxy has not heard of it yet: the store may be gone."""
        try:
            state = decode_state(document) if document else None
        except StateUnusable:
            return
        if state is not None and state.cluster_id == self.state.cluster_id and state.epoch > self.state.epoch:
            self.take_up(state)

    def _look_again(self, shown: Epoch) -> None:
        """Read the store again, since a node has shown an epoch that this proxy does not know."""
        if not self._refreshing:
            self._refreshing = True
            ensureDeferred(self._refresh(shown)).addErrback(
                lambda failure: self.log.error("the state cannot be read: {error}", error=failure.getErrorMessage())
            )

    async def _refresh(self, shown: Epoch) -> None:
        try:
            state = await self._store.read()
            if state is not None:
                self.take_up(state)
            is_behind = state is None or state.epoch < shown
            if is_behind and (self.ahead_of_store is None or self.ahead_of_store < shown):
                error = behind(self.state, shown)
                self.log.error("{detail}; {hint}", detail=error.detail, hint=error.hint)
                self.ahead_of_store = shown
        finally:
            self._refreshing = False

    def _known(self, info: Info) -> Seat | None:
        """Find the seat of whoever answered, however it was addressed.

        :raises ForeignNode: if it is another cluster's.
        :raises NodeHasData: if it holds data and belongs to no cluster.
        """
        state = self.state
        if info.cluster and info.cluster != state.cluster_id:
            raise ForeignNode(
                f"the node is member {info.member} of cluster {info.cluster}, and this is {state.cluster_id}",
                "remove it there first, or start it with an empty data directory",
            )
        if not info.cluster and info.bytes:
            raise NodeHasData(
                f"the node holds {info.keys} keys and is no member of this cluster",
                "copy what you need to the cluster, then start the node with an empty data directory",
            )
        return state.seat(info.member) if info.member else None

    async def _join(self, url: str, info: Info, weight: int, zone: str) -> Seat:
        """Give a node its identity. One that has ours already, from a join that did not end, keeps it."""
        state = self.state
        # A blank node at a member's own address has lost its memory, its name included: it is that member.
        seats = (*state.members, *(wish.seat for wish in state.pending))
        namesake = next((seat for seat in seats if seat.url == url and not info.member), None)
        member = info.member or (namesake.id if namesake else f"n-{self._random.getrandbits(32):08x}")
        try:
            info = await self._control.join(url, state.cluster_id, member)
        except ForeignNode:
            # Another call for the same node may have come between.
            info = await self._control.info(url)
            if info.cluster != state.cluster_id:
                raise
        return Seat(info.member, url, weight, zone, info.incarnation, forgetful=info.forgetful)

    async def _forgot(self, seats: Sequence[Seat]) -> None:
        """Wish for the rebuild of members who forgot what they held."""
        pending = {wish.seat.id: wish.seat.incarnation for wish in self.state.pending}
        fresh = [seat for seat in seats if pending.get(seat.id) != seat.incarnation]
        if not fresh:
            return
        for seat in fresh:
            self.log.warn("{node} at {url} forgot what it held; it is rebuilt", node=seat.id, url=seat.url)
        try:
            await self._update(lambda state: self._rebuilding(state, fresh))
        except StateUnusable as error:
            self.log.error("that cannot be recorded now: {error}; the next round tries again", error=error.detail)

    async def _update(self, step: Callable[[State], State]) -> None:
        self.take_up(await self._store.update(lambda state: step(found(state))))

    async def _fulfilled(self, node: str, seat_of: Callable[[Seat | None], Seat], wanted: Seat, *fields: str) -> Seat:
        """Record a wish and wait for its change; one that cannot be fulfilled now is given up again.

        :param seat_of: makes the wished seat of the newest one, in the transaction that records it.
        """
        await self._update(lambda state: wished(state, Wish(seat_of(base_of(state, node)))))
        try:
            return await self._settled(wanted, *fields)
        except KvError:
            await self._update(lambda state: without(state, node, *fields))
            raise

    async def _settled(self, seat: Seat, *fields: str) -> Seat:
        """Wait until no wish for a seat is left, and see that its fields became what was wished."""
        state = await self._carried_out(seat.id)
        waiting = (wish.seat for wish in state.pending if wish.seat.id == seat.id)
        now = next(waiting, base_of(state, seat.id))
        if now is None or any(getattr(now, field) != getattr(seat, field) for field in fields):
            raise ChangeFailed(
                f"the change for {seat.url} was taken back, the cluster is as it was",
                "look into the proxy's log for the reason, then send the call again",
            )
        return now

    async def _carried_out(self, node: str) -> State:
        """Wait until what was wished for a node is done; or, where clients are served meanwhile, is on its way."""

        def waits(state: State) -> bool:
            return any(wish.seat.id == node for wish in state.pending)

        def begun(state: State) -> bool:
            return not waits(state) and (state.open or state.change is None)

        state = await self.waiters.until(begun, self.state, self._limits.change_patience_s)
        if state.change is None:
            return state
        try:
            # A change that was taken back to begin anew waits for its turn once more.
            return await self.waiters.until(
                lambda now: now.change is None and not waits(now), state, self._limits.change_answer_s
            )
        except (ChangeFailed, ChangeWaits):
            return self.state
