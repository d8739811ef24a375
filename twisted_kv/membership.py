"""The cluster's state as one value, and the changes of it.

Each function here takes a state and gives the next one; storing it is the store's matter (``state/``), carrying data
the mover's. Every step is a new epoch, and what two epochs answered is never counted together.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Annotated

import msgspec

from .errors import StateBehind, StateUnusable
from .names import ClusterId, NodeId
from .ring import HASH_VERSION, Member, Ring

STATE_FORMAT = 1

WEIGHT_MAX = 100
"""A hundred times the tokens of the lightest member; more would only make the ring slower to build."""
REPLICAS_MAX = 15
VNODES_MAX = 4096
"""A document that says more was not written by any of us, and its ring would take all of the memory."""

Weight = Annotated[int, msgspec.Meta(ge=1, le=WEIGHT_MAX)]
Replicas = Annotated[int, msgspec.Meta(ge=1, le=REPLICAS_MAX)]
Vnodes = Annotated[int, msgspec.Meta(ge=1, le=VNODES_MAX)]
Epochs = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""As a message can carry them."""
Named = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class Seat(msgspec.Struct, frozen=True):
    """One member: who it is, where it answers, how much it carries, and the memory that counts.

    A node whose incarnation is another one has forgotten something and is not counted until it was rebuilt. No node
    has the empty incarnation: it stands for a member that the operator has given up for lost.
    """

    id: Named
    url: str
    weight: Weight = 1
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
    closed: bool = False
    """Whether clients wait until it is done: where too few owners remember for them to be served anyway."""
    dead: tuple[str, ...] = ()
    """The members who leave and are gone for good: what they hold does not count any more, should they come back."""


class Wish(msgspec.Struct, frozen=True):
    """A change that waits for its turn: this seat as it shall be, new or replacing the one of the same id.

    With ``leaves`` the member goes, with ``dead`` without being asked for what it holds.
    """

    seat: Seat
    accept_loss: bool = False
    leaves: bool = False
    dead: bool = False


class State(msgspec.Struct, frozen=True):
    """The one document that says what the cluster is."""

    format: int
    cluster_id: Named
    epoch: Epochs
    replicas: Replicas = 3
    vnodes: Vnodes = 256
    hash_version: int = HASH_VERSION
    members: tuple[Seat, ...] = ()
    change: Change | None = None
    pending: tuple[Wish, ...] = ()

    @property
    def open(self) -> bool:
        """Whether clients are served in this epoch."""
        return self.change is None or not self.change.closed

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


def present_seats(state: State) -> tuple[Seat, ...]:
    """Give everybody who takes part: the members, as they are or are about to be, and who joins."""
    coming = {seat.id: seat for seat in (state.change.seats if state.change is not None else ())}
    return tuple(({seat.id: seat for seat in state.members} | coming).values())


def is_leaving(state: State, node: str) -> bool:
    """Whether a member is about to go, or shall when its turn comes."""
    stays = state.change is None or any(seat.id == node for seat in state.change.seats)
    return not stays or any(wish.leaves for wish in state.pending if wish.seat.id == node)


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
    seat = later.seat
    if base is not None:
        names = Seat.__struct_fields__
        changed = {name: value for name in names if (value := getattr(later.seat, name)) != getattr(base, name)}
        seat = msgspec.structs.replace(earlier.seat, **changed)
    flags = ("accept_loss", "leaves", "dead")
    return Wish(seat, **{flag: getattr(earlier, flag) or getattr(later, flag) for flag in flags})


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
        pending = (*pending, msgspec.structs.replace(wish, seat=rest))
    return msgspec.structs.replace(state, pending=pending)


def begun(state: State, change_id: str, closed: bool = False) -> State:
    """Take all that is pending together into one change, in a new epoch."""
    assert state.change is None
    assert state.pending
    wishes = {wish.seat.id: wish for wish in state.pending}
    known = {seat.id for seat in state.members}
    seats = [wishes[seat.id].seat if seat.id in wishes else seat for seat in state.members]
    seats += [wish.seat for wish in state.pending if wish.seat.id not in known]
    change = Change(
        change_id,
        _kind(state),
        tuple(seat for seat in seats if seat.id not in wishes or not wishes[seat.id].leaves),
        tuple(wish.seat.id for wish in state.pending if wish.accept_loss),
        closed,
        tuple(wish.seat.id for wish in state.pending if wish.dead),
    )
    return msgspec.structs.replace(state, epoch=state.epoch + 1, change=change, pending=())


def _kind(state: State) -> str:
    """Name a change by the most that it does."""
    if any(state.seat(wish.seat.id) is None for wish in state.pending):
        return "join"
    if any(wish.leaves for wish in state.pending):
        return "leave"
    lives = {seat.id: seat.incarnation for seat in state.members}
    return "rebuild" if any(lives[wish.seat.id] != wish.seat.incarnation for wish in state.pending) else "weight"


def finished(state: State) -> State:
    """All data has moved: the new seats, open, in a new epoch."""
    assert state.change is not None
    return msgspec.structs.replace(state, epoch=state.epoch + 1, members=state.change.seats, change=None)


def cancelled(state: State) -> State:
    """Take a change back: the old seats, open, in one more epoch."""
    assert state.change is not None
    return msgspec.structs.replace(state, epoch=state.epoch + 1, change=None)


def shelved(state: State) -> State:
    """Take a change back, in one more epoch, and wish for all of it again: one of its nodes is not what it was."""
    change = state.change
    assert change is not None
    again = cancelled(state)
    again = msgspec.structs.replace(again, pending=())
    stays = {seat.id: seat for seat in change.seats}
    wishes = [Wish(s, leaves=True, dead=s.id in change.dead) for s in state.members if s.id not in stays]
    wishes += [Wish(s, s.id in change.accepted) for s in change.seats if state.seat(s.id) != s]
    for wish in (*wishes, *state.pending):
        again = wished(again, wish)
    return again


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
    wished_for = [wish.seat for wish in state.pending]
    for seats in (state.members, state.change.seats if state.change is not None else (), wished_for):
        if len({seat.id for seat in seats}) < len(seats):
            raise StateUnusable("the state document names a member twice", "restore it from a copy")
    return state


@lru_cache(maxsize=8)
def _ring(seats: frozenset[tuple[str, int, str]], replicas: int, vnodes: int) -> Ring:
    return Ring([Member(NodeId(node), weight, zone) for node, weight, zone in seats], replicas, vnodes)


def ring_of(seats: Iterable[Seat], state: State) -> Ring:
    """The ring of these seats. Rings are values, and the last few are kept: a change asks for the same two often."""
    return _ring(frozenset((seat.id, seat.weight, seat.zone) for seat in seats), state.replicas, state.vnodes)
