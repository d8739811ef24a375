"""What a command comes to: a reply at once, or questions about keys and what their answers make of it.

Commands only decide. A plan can be looked at, and run against anything that keeps keys: a proxy's coordinator, or in a
test a dict.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from msgspec import Struct

from ..conditional import Decide, Draft
from ..names import Key
from ..sharing import Changed
from ..versions import Record, decode_record


class Refused(Exception):
    """A command that cannot be done. Its text is Redis's own where Redis would say the same; nothing has happened."""

    def __init__(self, text: str | bytes) -> None:
        super().__init__(text)
        self.text = text


class NotForUs(Refused):
    """What has come is not Redis's protocol, and nothing that comes behind it on its connection is, either."""


class Get(Struct, frozen=True):
    """Read a key: the answer is its record's bytes, empty where there is none."""

    key: Key


class Put(Struct, frozen=True):
    """Write a key, whatever it holds. There is no answer but that it was done."""

    key: Key
    draft: Draft


class Change(Struct, frozen=True):
    """Change a key by what it holds: the answer is a ``Changed``."""

    key: Key
    decide: Decide
    size: int = 0
    """How many bytes ``decide`` keeps, or may make."""


Ask: TypeAlias = Get | Put | Change


class Plan(Struct, frozen=True):
    """Questions, all asked together, and the reply that their answers make, in the order of the questions."""

    asks: Sequence[Ask]
    reply: Callable[[list[Any]], bytes]


class Errand(NamedTuple):
    """Work that looks at all keys, or at the cluster. It begins when all commands before it have ended, and those after
    it wait."""

    run: Callable[[], Awaitable[bytes]]


Outcome: TypeAlias = bytes | Plan | Errand


def held_by(record: bytes) -> Record | None:
    """Give what a read has found, None where that is no value."""
    return live(decode_record(record)) if record else None


def live(record: Record | None) -> Record | None:
    """Give a record that holds a value, None for all others. What has expired comes as a tombstone."""
    return record if record is not None and record.value is not None else None


def value_found(changed: Changed) -> bytes | None:
    """Give what a key held before a change."""
    return changed.found.value if changed.found is not None else None
