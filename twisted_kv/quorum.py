"""Consistency levels, how many owners make a majority, and who votes on a key."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from enum import Enum
from typing import NamedTuple, TypeAlias

from .errors import BadParameter
from .names import NodeId


class Level(Enum):
    """How many owners must have taken a write, or answered a read, before the client is told.

    The names follow DynamoDB's and Cassandra's use. ``quorum`` is accepted as another name of ``strong``.
    """

    ONE = "one"
    STRONG = "strong"
    ALL = "all"

    def needed(self, owners: int) -> int:
        """Count the answers that this level needs of a key's owners."""
        if self is Level.STRONG:
            return majority(owners)
        return owners if self is Level.ALL else min(1, owners)


def majority(owners: int) -> int:
    """Count the owners of whom any two sets have one in common."""
    return owners // 2 + 1


def blocking(owners: int) -> int:
    """Count the owners without whom nobody else is a majority.

    Once that many carry a new epoch, no round of an older one can end; what that many show includes every change that
    was ever acknowledged (Gifford, SOSP 1979: a read quorum meets every write quorum).
    """
    return owners - majority(owners) + 1


Voters: TypeAlias = int
"""A set of an electorate's nodes, a bit for each: they are counted for every answer of every operation."""

Quota: TypeAlias = tuple[tuple[Voters, int], ...]
"""How many of which voters are needed, all of it together."""


def met(quota: Quota, voters: Voters) -> bool:
    """Whether voters are enough."""
    # A loop: it is run for each answer, and all() with a generator would take three times as long.
    for among, needed in quota:  # noqa: SIM110
        if (voters & among).bit_count() < needed:
            return False
    return True


class Group(NamedTuple):
    """Owners of one ring who vote, and how many owners there are: one that forgot is missed, and does not vote."""

    voters: tuple[NodeId, ...]
    size: int


class Electorate:
    """Who holds a key, and who of them is enough. Never changed.

    While a slot moves there are two groups, the old owners and the new ones, and every phase needs a majority of each
    (joint consensus: Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", 2014, section 6).

    :param nodes: everybody who is asked, in the order of asking.
    :param groups: who votes; without any, all of the nodes in one.
    """

    __slots__ = ("bits", "everybody", "fewest", "fewest_voters", "groups", "nodes", "quorum")

    def __init__(self, nodes: Sequence[NodeId], groups: Sequence[Group] = ()) -> None:
        self.nodes = tuple(nodes)
        self.groups = tuple(groups) or (Group(self.nodes, len(self.nodes)),)
        self.bits = {node: 1 << place for place, node in enumerate(self.nodes)}
        self.everybody: Voters = (1 << len(self.nodes)) - 1
        self.quorum: Quota = tuple((self.voters(group.voters), majority(group.size)) for group in self.groups)
        self.fewest = self._fewest()
        self.fewest_voters = self.voters(self.fewest)

    def voters(self, nodes: Collection[NodeId]) -> Voters:
        """Give the set of those of these nodes who are asked at all."""
        bits = self.bits
        return sum(bits[node] for node in nodes if node in bits)

    def members(self, voters: Voters) -> list[NodeId]:
        """Name the nodes of a set, in the order of asking."""
        return [node for node, bit in self.bits.items() if voters & bit]

    def quota(self, level: Level) -> Quota:
        """Say what a level needs; see ``Level``."""
        if level is Level.STRONG:
            return self.quorum
        needed = (self.everybody, level.needed(len(self.nodes)))
        # Everybody who is asked may be fewer than a majority, where members were given up.
        return (needed, *self.quorum) if level is Level.ALL else (needed,)

    def arranged(self, nodes: Sequence[NodeId]) -> Electorate:
        """Give the same electorate in another order of asking."""
        return Electorate(nodes, self.groups)

    def unordered(self) -> Hashable:
        """Give what is the same for all electorates of the same voters, in whatever order they are asked."""
        return frozenset(self.nodes), tuple((frozenset(group.voters), group.size) for group in self.groups)

    def seats_of(self, node: NodeId) -> int:
        """Count the groups in which a node votes."""
        return sum(node in group.voters for group in self.groups)

    def _fewest(self) -> tuple[NodeId, ...]:
        """Choose whom a read asks at first: from the first on, who brings a group nearer to its majority."""
        chosen: list[NodeId] = []
        lacking = [needed for _, needed in self.quorum]
        for node, bit in self.bits.items():
            helped = [place for place, (among, _) in enumerate(self.quorum) if among & bit and lacking[place]]
            if helped:
                chosen.append(node)
                for place in helped:
                    lacking[place] -= 1
        return tuple(chosen)


def required(quota: Quota) -> int:
    """Say how many a quota needs at the least, as a number for people."""
    return max((needed for _, needed in quota), default=0)


_NAMES = {"one": Level.ONE, "strong": Level.STRONG, "quorum": Level.STRONG, "all": Level.ALL}
LEVELS = tuple(_NAMES)


def parse_level(name: str) -> Level:
    """Read a level's name.

    :raises BadParameter: naming the levels that there are.
    """
    try:
        return _NAMES[name]
    except KeyError:
        raise BadParameter(
            f"consistency is {name[:40]!r}, which is no level", "use one, strong (also called quorum), or all"
        ) from None
