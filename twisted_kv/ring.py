"""The ring: which nodes hold a key, as a pure function of the members.

Every proxy computes it for itself and must come to the same answer, on any machine and in any later version: what a
key's position or a slot's owners are is part of the format of the data on disk. ``HASH_VERSION`` stands for it.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice, pairwise
from typing import NamedTuple, NoReturn

from fnv_hash_fast import fnv1a_32

from .errors import RingEmpty
from .names import NodeId, Slot

HASH_VERSION = 1
"""Names this way of placing keys. Another way needs another number: under it, stored data would be looked for
elsewhere."""

SLOTS = 65_536
"""Parts into which the ring is cut. Data is stored, compared and moved by slot; see ``Ring.table``."""

FNV_IS_COMPILED: bool = not isinstance(fnv1a_32, partial)
"""Whether the hash runs in C. The pure one, a ``partial``, gives the same answers fifty times slower."""

Owners = tuple[NodeId, ...]


class Span(NamedTuple):
    """Neighbouring slots with the same owners."""

    slots: range
    owners: Owners


def fnv1a(key: bytes) -> int:
    """Hash bytes with plain 32-bit FNV-1a, as the original does (draft-eastlake-fnv)."""
    return fnv1a_32(key)


def position(key: bytes) -> int:
    """Place a key on the ring of 2**32 positions: FNV-1a, then murmur3's 32-bit finalizer.

    FNV-1a alone leaves short keys that differ in their last byte close together, which starves some nodes. The
    finalizer (MurmurHash3, ``fmix32``) is a bijection, so it adds no collision.
    """
    h = fnv1a_32(key)
    h = (h ^ h >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    h = (h ^ h >> 13) * 0xC2B2AE35 & 0xFFFFFFFF
    return h ^ h >> 16


def slot_of(key: bytes) -> Slot:
    """Name a key's slot, ``position(key) >> 16``.

    Written out, since every operation comes through here. The finalizer's last step changes the lower half alone, so
    it is left off.
    """
    h = fnv1a_32(key)
    h = (h ^ h >> 16) * 0x85EBCA6B & 0xFFFFFFFF
    return ((h ^ h >> 13) * 0xC2B2AE35 & 0xFFFFFFFF) >> 16  # type: ignore[return-value]  # Slot() would be a call


@dataclass(frozen=True, slots=True)
class Member:
    """A node's place in the ring.

    ``weight`` multiplies its share of the data. ``zone`` names what it would fail together with; ``""`` means that
    none was given, and such a node counts as a zone of its own.

    :raises ValueError: if the weight is below 1.
    """

    id: NodeId
    weight: int = 1
    zone: str = ""

    def __post_init__(self) -> None:
        if self.weight < 1:
            raise ValueError(f"member {self.id} has weight {self.weight}; the least is 1")


@dataclass(frozen=True, slots=True, init=False)
class Ring:
    """An immutable assignment of slots to nodes. Rings of the same members, replicas and vnodes are equal."""

    members: tuple[Member, ...]
    """The members, by id."""

    replicas: int
    """How many nodes hold a key, N in Dynamo's terms. With fewer members, all of them do."""

    vnodes: int
    """Tokens for each unit of weight. More of them even the shares out, and cost time to build."""

    spans: tuple[Span, ...] = field(repr=False, compare=False)
    """The table as runs of slots with the same owners: some thousand, where walking 65,536 slots would take long."""

    table: tuple[Owners, ...] = field(repr=False, compare=False)
    """The owners of each slot: 65,536 tuples, equal ones shared. Without members, each of them is empty.

    All keys of a slot have the owners of the slot's first position, even where a token lies inside the slot. So
    one index answers for a key, and a move is a list of slots.
    """

    def __init__(self, members: Iterable[Member], replicas: int = 3, vnodes: int = 256) -> None:
        """Build the ring.

        :raises ValueError: if two members have one id, or if ``replicas`` or ``vnodes`` is below 1.
        """
        by_id = tuple(sorted(members, key=lambda member: member.id))
        for one, next_one in pairwise(by_id):
            if one.id == next_one.id:
                raise ValueError(f"two members have the id {one.id}")
        if replicas < 1 or vnodes < 1:
            raise ValueError(f"replicas is {replicas} and vnodes is {vnodes}; the least is 1")
        object.__setattr__(self, "members", by_id)
        object.__setattr__(self, "replicas", replicas)
        object.__setattr__(self, "vnodes", vnodes)
        object.__setattr__(self, "spans", _spans(by_id, replicas, vnodes))
        object.__setattr__(self, "table", tuple(chain.from_iterable([s.owners] * len(s.slots) for s in self.spans)))

    def owners(self, key: bytes) -> Owners:
        """Name the N distinct nodes that hold a key, nearest clockwise first.

        They are in distinct zones while zones are left (Dynamo, SOSP 2007, sections 4.3 and 4.6); when zones run out,
        the nearest of the nodes passed over make up the number.

        :raises RingEmpty: if the ring has no node.
        """
        return self.table[slot_of(key)] or _refuse()

    def owners_of_slot(self, slot: Slot) -> Owners:
        """Name the nodes that hold a slot, as ``owners`` does.

        :raises RingEmpty: if the ring has no node.
        """
        return self.table[slot] or _refuse()

    def owned_share(self) -> dict[NodeId, float]:
        """Give each member's part of all copies of all slots; the parts sum to 1."""
        copies = dict.fromkeys((member.id for member in self.members), 0)
        for slots, owners in self.spans:
            for node in owners:
                copies[node] += len(slots)
        whole = SLOTS * min(self.replicas, len(self.members))
        return {node: count / whole for node, count in copies.items()}


def overlaid(old: Ring, new: Ring) -> Iterator[tuple[range, Owners, Owners]]:
    """Walk two rings at once: all slots, in runs that have the same owners in each, with these owners."""
    ends = sorted({slots.stop for ring in (old, new) for slots, _ in ring.spans})
    for first, end in pairwise([0, *ends]):
        yield range(first, end), old.table[first], new.table[first]


def runs(slots: Iterable[int]) -> list[tuple[int, int]]:
    """Write slots, in any order, as sorted ranges that include both ends."""
    ranges: list[tuple[int, int]] = []
    ordered = sorted(set(slots))
    first = 0
    while first < len(ordered):
        # Up to the end of its run a slot is as far from the first one as its place is: that end is searched, not
        # walked to, since there are up to 65,536 slots and few runs.
        end = bisect_right(range(len(ordered)), ordered[first] - first, first, key=lambda at: ordered[at] - at)
        ranges.append((ordered[first], ordered[end - 1]))
        first = end
    return ranges


def onward(ranges: Iterable[tuple[int, int]], slot: int) -> list[tuple[int, int]]:
    """Give what of ranges of slots lies at a slot or after it."""
    return [(max(first, slot), last) for first, last in ranges if last >= slot]


def _refuse() -> NoReturn:
    raise RingEmpty(
        "the ring has no storage node, so no node can hold the key", "add one: POST /AddServer with its url and weight"
    )


def _tokens(members: tuple[Member, ...], vnodes: int) -> list[int]:
    """Compute the sorted tokens, each as ``position * len(members) + index of its member``.

    Such numbers sort fast. A position that two members share goes to the lower id first, whoever was named first.
    """
    count = len(members)
    return sorted(
        position(f"{member.id}#{i}".encode()) * count + index
        for index, member in enumerate(members)
        for i in range(vnodes * member.weight)
    )


def _spans(members: tuple[Member, ...], replicas: int, vnodes: int) -> tuple[Span, ...]:
    """Compute the owners of all slots in one sweep, from the last slot to the first.

    Counterclockwise, the token met last is the nearest one clockwise. So a dict in which each token moves its node to
    the end always holds the nodes by distance, and no slot needs a walk, however far away its last zone lies.
    """
    if not members:
        return (Span(range(SLOTS), ()),)
    count = len(members)
    tokens = _tokens(members, vnodes)
    zones = [member.zone or index for index, member in enumerate(members)]
    zones_used = min(replicas, len(set(zones)))
    to_fill = min(replicas, count) - zones_used

    nearest: dict[str | int, int] = {}  # zone -> its nearest member, farthest zone first
    distance: dict[int, int] = {}  # member -> number of its nearest token, farthest member first
    shared: dict[Owners, Owners] = {}

    def meet(number: int) -> None:
        member = tokens[number % len(tokens)] % count
        nearest.pop(zones[member], None)
        nearest[zones[member]] = member
        if to_fill:
            distance.pop(member, None)
            distance[member] = number

    def choose() -> Owners:
        chosen = list(islice(reversed(nearest.values()), zones_used))
        if to_fill:
            passed_over = (member for member in reversed(distance) if member not in chosen)
            chosen = sorted([*chosen, *islice(passed_over, to_fill)], key=distance.__getitem__)
        owners = tuple(members[member].id for member in chosen)
        return shared.setdefault(owners, owners)

    # Beyond its last token the ring begins again, so one turn goes ahead.
    for number in reversed(range(len(tokens), 2 * len(tokens))):
        meet(number)
    owners = choose()
    spans: list[Span] = []
    end = SLOTS
    number = len(tokens)
    while number:
        slot = tokens[number - 1] // count >> 16
        # Down to the slot of the next token, owners are the same; a token lies at or after the start of its own.
        while number and tokens[number - 1] >= (slot << 16) * count:
            number -= 1
            meet(number)
        chosen = choose()
        if chosen != owners:
            if slot + 1 < end:
                spans.append(Span(range(slot + 1, end), owners))
                end = slot + 1
            owners = chosen
    spans.append(Span(range(end), owners))
    return tuple(reversed(spans))
