"""The cluster's state as one value, the changes of it, and what a change has to copy.

Each function here takes a state and gives the next one; storing it is the store's matter (``state/``), carrying data
the mover's. Every step is a new epoch, and what two epochs answered is never counted together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Annotated, NamedTuple

import msgspec

from .errors import StateBehind, StateUnusable
from .names import ClusterId, Epoch, NodeId, Slot
from .quorum import blocking, majority
from .ring import HASH_VERSION, Member, Ring, runs

STATE_FORMAT = 1


Count = Annotated[int, msgspec.Meta(ge=1)]


class Seat(msgspec.Struct, frozen=True):
    """One member: who it is, where it answers, how much it carries, and the memory that counts.

    A node whose incarnation is another one has forgotten something and is not counted until it was rebuilt. No node
    has the empty incarnation: it stands for a member that the operator has given up for lost.
    """

    id: str
    url: str
    weight: Count = 1
    zone: str = ""
    incarnation: str = ""
    forgetful: bool = False
    """Its engine keeps nothing over a restart, so that a slot which all its owners forgot starts empty by itself."""


class Change(msgspec.Struct, frozen=True):
    """The change in progress: the seats that will be when all data has moved."""

    id: str
    kind: str
    seats: tuple[Seat, ...]
    accepted: tuple[str, ...] = ()
    """The members whose forgetting the operator has accepted; that of others still counts as a loss."""


class Wish(msgspec.Struct, frozen=True):
    """A change that waits for its turn: this seat as it shall be, new or replacing the one of the same id."""

    seat: Seat
    accept_loss: bool = False


class State(msgspec.Struct, frozen=True):
    """The one document that says what the cluster is."""

    format: int
    cluster_id: str
    epoch: int
    replicas: Count = 3
    vnodes: Count = 256
    hash_version: int = HASH_VERSION
    members: tuple[Seat, ...] = ()
    change: Change | None = None
    pending: tuple[Wish, ...] = ()

    @property
    def open(self) -> bool:
        """Whether clients are served in this epoch: while a change copies, they wait."""
        return self.change is None

    def seat(self, node: str) -> Seat | None:
        return next((seat for seat in self.members if seat.id == node), None)


def found(state: State | None) -> State:
    """Give what a store holds.

    :raises StateUnusable: if it holds nothing any more.
    """
    if state is None:
        raise StateUnusable("the state document is gone", "restore it; nodes keep a copy of it")
    return state


def behind(state: State, shown: int, node: str = "a node") -> StateBehind:
    """Say that a node knows a newer epoch than the store."""
    return StateBehind(
        f"{node} is at epoch {shown}, the state store at {state.epoch}",
        "the store was set back or replaced: restore its newest document; nodes keep a copy of it",
    )


def founded(cluster_id: ClusterId, replicas: int, vnodes: int) -> State:
    """The state of a cluster that nobody has joined yet."""
    return State(STATE_FORMAT, cluster_id, 1, replicas, vnodes)


def base_of(state: State, node: str) -> Seat | None:
    """The seat that a new wish for a node starts from: the one it is about to have, else the one it has."""
    seats = state.change.seats if state.change is not None else state.members
    return next((seat for seat in seats if seat.id == node), None)


def wished(state: State, wish: Wish) -> State:
    """Record a change for later. No new epoch: nothing moves yet.

    Where another wish for the same node waits, the two become one: a new weight and a rebuild do not undo each other.
    """
    earlier = next((other for other in state.pending if other.seat.id == wish.seat.id), None)
    if earlier is not None:
        wish = _merged(base_of(state, wish.seat.id), earlier, wish)
    return put_right(state, wish)


def put_right(state: State, wish: Wish) -> State:
    """Record a wish in the place of whatever was wished for its node."""
    others = tuple(other for other in state.pending if other.seat.id != wish.seat.id)
    return msgspec.structs.replace(state, pending=(*others, wish))


def _merged(base: Seat | None, earlier: Wish, later: Wish) -> Wish:
    """Take from the later wish what it changes of the present seat, and the rest from the earlier one."""
    if base is None:
        return Wish(later.seat, earlier.accept_loss or later.accept_loss)
    names = Seat.__struct_fields__
    changed = {name: value for name in names if (value := getattr(later.seat, name)) != getattr(base, name)}
    return Wish(msgspec.structs.replace(earlier.seat, **changed), earlier.accept_loss or later.accept_loss)


def without(state: State, node: str, *fields: str) -> State:
    """Give up what was wished for these fields of a node; all of it, if none is named or it would be a new member."""
    wish = next((wish for wish in state.pending if wish.seat.id == node), None)
    base = base_of(state, node)
    if wish is None:
        return state
    pending = tuple(other for other in state.pending if other is not wish)
    rest = base
    if base is not None and fields:
        rest = msgspec.structs.replace(wish.seat, **{field: getattr(base, field) for field in fields})
    if rest != base:
        assert rest is not None
        pending = (*pending, Wish(rest, wish.accept_loss))
    return msgspec.structs.replace(state, pending=pending)


def begun(state: State, change_id: str) -> State:
    """Take all that is pending together into one change, in a new, closed epoch."""
    assert state.change is None
    assert state.pending
    wishes = {wish.seat.id: wish for wish in state.pending}
    kept = tuple(wishes[seat.id].seat if seat.id in wishes else seat for seat in state.members)
    known = {seat.id for seat in state.members}
    joining = tuple(wish.seat for wish in state.pending if wish.seat.id not in known)
    change = Change(
        change_id,
        "join" if joining else _kind(state.members, kept),
        (*kept, *joining),
        tuple(wish.seat.id for wish in state.pending if wish.accept_loss),
    )
    return msgspec.structs.replace(state, epoch=state.epoch + 1, change=change, pending=())


def _kind(old: Sequence[Seat], new: Sequence[Seat]) -> str:
    return "rebuild" if any(a.incarnation != b.incarnation for a, b in zip(old, new, strict=True)) else "weight"


def taken_over(state: State) -> State:
    """Go on with the change of a driver that is gone, in an epoch of one's own: its late orders are refused by it."""
    assert state.change is not None
    return msgspec.structs.replace(state, epoch=state.epoch + 1)


def finished(state: State) -> State:
    """All data has moved: the new seats, open, in a new epoch."""
    assert state.change is not None
    return msgspec.structs.replace(state, epoch=state.epoch + 1, members=state.change.seats, change=None)


def cancelled(state: State) -> State:
    """Take a change back: the old seats, open, in one more epoch."""
    assert state.change is not None
    return msgspec.structs.replace(state, epoch=state.epoch + 1, change=None)


class _Format(msgspec.Struct):
    """What every format of the document will begin with; the rest may change its shape."""

    format: int
    hash_version: int = HASH_VERSION


_encode = msgspec.json.Encoder(order="deterministic").encode
_decoder = msgspec.json.Decoder(State)
_format_decoder = msgspec.json.Decoder(_Format)


def encode_state(state: State) -> bytes:
    return msgspec.json.format(_encode(state), indent=2) + b"\n"


def decode_state(data: bytes) -> State:
    """Read a state document.

    :raises StateUnusable: if it is damaged, of a later format, or of another hash.
    """
    try:
        form = _format_decoder.decode(data)
        if form.format > STATE_FORMAT or form.hash_version != HASH_VERSION:
            raise StateUnusable(
                f"the state document has format {form.format} and hash {form.hash_version}; "
                f"this version knows {STATE_FORMAT} and {HASH_VERSION}",
                "run the version that wrote it, or a later one",
            )
        state = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StateUnusable(f"the state document cannot be read: {error}", "restore it from a copy") from None
    ids = [seat.id for seat in state.members]
    if len(set(ids)) < len(ids):
        raise StateUnusable("the state document names a member twice", "restore it from a copy")
    return state


@lru_cache(maxsize=8)
def _ring(seats: frozenset[tuple[str, int, str]], replicas: int, vnodes: int) -> Ring:
    return Ring([Member(NodeId(node), weight, zone) for node, weight, zone in seats], replicas, vnodes)


def ring_of(seats: Iterable[Seat], state: State) -> Ring:
    """The ring of these seats. Rings are values, and the last few are kept: a change asks for the same two often."""
    return _ring(frozenset((seat.id, seat.weight, seat.zone) for seat in seats), state.replicas, state.vnodes)


@lru_cache(maxsize=8)
def owner_sets(ring: Ring) -> frozenset[tuple[NodeId, ...]]:
    """Give a ring's groups of owners."""
    return frozenset(ring.table)


class View:
    """What one proxy acts on: an epoch, whether it is open, and who owns what. Never changed, only replaced."""

    __slots__ = ("cluster_id", "epoch", "open", "ring", "seats", "state", "table")

    def __init__(self, state: State) -> None:
        self.state = state
        self.cluster_id = ClusterId(state.cluster_id)
        self.epoch = Epoch(state.epoch)
        self.open = state.open
        self.seats: Mapping[NodeId, Seat] = {NodeId(seat.id): seat for seat in state.members}
        self.ring = ring_of(state.members, state)
        self.table = self.ring.table

    @property
    def owner_sets(self) -> Collection[tuple[NodeId, ...]]:
        """The groups of owners that there are."""
        return owner_sets(self.ring)


class Fill(msgspec.Struct, frozen=True):
    """Slots that the same targets get from the same sources."""

    slots: tuple[Slot, ...]
    sources: tuple[NodeId, ...]
    """The old owners who remember. None at all: the slots start empty."""
    needed: int
    """So many of the sources hold together every acknowledged change (see ``quorum.blocking``)."""
    majority: int
    """So many of the sources are a majority of the old owners; in a rescue all of them."""
    targets: tuple[NodeId, ...]
    """Who must be filled."""
    owners: tuple[NodeId, ...]
    """All the new owners, the targets among them."""
    rescue: bool = False
    """Whether the operator has accepted the loss of what the sources do not show: then targets which forgot only a part
    are sources too, and the newest of all that is left becomes the truth."""


class Plan(msgspec.Struct, frozen=True):
    """What a change has to do, as a value: what to fill, what may be dropped afterwards, what is lost for good."""

    fills: tuple[Fill, ...]
    drops: Mapping[NodeId, tuple[tuple[Slot, Slot], ...]]
    emptied: int
    """Slots that every owner forgot and that start empty."""
    lost: int
    """Slots of which too few owners remember to know the newest value."""


class _Wants(NamedTuple):
    """What the slots of one pair of owner sets, old and new, need."""

    sources: tuple[NodeId, ...]
    needed: int
    majority: int
    targets: tuple[NodeId, ...]
    owners: tuple[NodeId, ...]
    rescue: bool = False


def planned(state: State) -> Plan:
    """Work out what the change of a state has to copy, slot by slot.

    A target gets what ``blocking`` of the old owners hold together: a source alone may lack what a majority without it
    acknowledged. Where an owner forgot, the others must still be that many, or the slot counts as lost; a plan with
    lost slots must not be carried out.
    """
    assert state.change is not None
    old, new = ring_of(state.members, state), ring_of(state.change.seats, state)
    lives = {seat.id: seat.incarnation for seat in state.members}
    away = {seat.id for seat in state.change.seats if not seat.incarnation}
    forgot = away | {seat.id for seat in state.change.seats if lives.get(seat.id, seat.incarnation) != seat.incarnation}
    accepted = away | set(state.change.accepted)
    empties = {seat.id for seat in state.change.seats if seat.forgetful}
    pairs: dict[tuple[tuple[NodeId, ...], tuple[NodeId, ...]], list[Slot]] = {}
    first = 0
    # Neighbouring slots mostly have the same owners: it is their runs that are walked, not all slots one by one.
    for pair, run in groupby(zip(old.table, new.table, strict=True)):
        last = first + len(list(run))
        pairs.setdefault(pair, []).extend(map(Slot, range(first, last)))
        first = last
    groups: dict[_Wants, list[Slot]] = {}
    losers: dict[NodeId, list[Slot]] = {}
    emptied = lost = 0
    for (had, gets), slots in pairs.items():
        for node in had:
            if node not in gets:
                losers.setdefault(node, []).extend(slots)
        wants = _wants(had, gets, forgot, away)
        if wants is None:
            continue
        if len(wants.sources) < wants.needed:
            left = tuple(sorted(node for node in had if node not in away and not (node in forgot and node in empties)))
            if not wants.sources and all(node in empties for node in had):
                emptied += len(slots)
            elif not accepted.issuperset(node for node in had if node in forgot):
                lost += len(slots)
            elif left != wants.sources:
                # What is left of a change may be on any single one of them.
                wants = wants._replace(sources=left, majority=len(left), rescue=True)
            wants = wants._replace(needed=len(wants.sources))
        groups.setdefault(wants, []).extend(slots)
    return Plan(
        tuple(Fill(tuple(sorted(slots)), *wants) for wants, slots in groups.items()),
        {node: tuple(runs(slots)) for node, slots in losers.items()},
        emptied,
        lost,
    )


def _wants(
    had: tuple[NodeId, ...], gets: tuple[NodeId, ...], forgot: Collection[str], away: Collection[str]
) -> _Wants | None:
    """Say who must be filled and from whom, None where nobody must."""
    # With fewer owners than before, those who stay would have to be filled as well: what two of three acknowledged may
    # be missing on the one that is left. Nothing removes a member yet.
    assert len(gets) >= len(had)
    targets = tuple(sorted(node for node in gets if (node in forgot or node not in had) and node not in away))
    sources = tuple(sorted(node for node in had if node not in forgot))
    if not targets and len(sources) == len(had):
        return None
    # Who forgot votes in no epoch before it was rebuilt, so those who remember are majority enough among the old.
    enough = min(majority(len(had)), len(sources))
    return _Wants(sources, blocking(len(had)) if had else 0, enough, targets, tuple(sorted(gets)))
