"""Consistency levels, and how many owners make a majority."""

from __future__ import annotations

from enum import Enum

from .errors import BadParameter


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


_NAMES = {"one": Level.ONE, "strong": Level.STRONG, "quorum": Level.STRONG, "all": Level.ALL}


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
