"""INCR and its kin."""

from __future__ import annotations

from ..conditional import Draft
from ..sharing import Changed
from ..versions import Record
from .arguments import NOT_A_FLOAT, NOT_AN_INTEGER, key_of, number_of
from .numbers import INTEGER_MAX, INTEGER_MIN, added, integer_of, printed, real_of
from .plans import Outcome, Refused, live, value_found
from .replies import bulk, integer
from .session import Session
from .strings import OCTETS, ONE_KEY, changing, kept, refused
from .table import TABLE

OVERFLOW = "ERR increment or decrement would overflow"


def summed(held: bytes | None, by: int) -> int | str:
    """Add to a value; an error's text where that cannot be."""
    number = integer_of(held) if held is not None else 0
    if number is None:
        return NOT_AN_INTEGER
    total = number + by
    return total if INTEGER_MIN <= total <= INTEGER_MAX else OVERFLOW


def counted(session: Session, word: bytes, by: int) -> Outcome:
    key = key_of(session, word)

    def decide(record: Record | None) -> Draft | None:
        found = live(record)
        total = summed(found.value if found is not None else None, by)
        if isinstance(total, str):
            return None
        text = b"%d" % total
        return kept(found, text) if found is not None else Draft(text, OCTETS)

    def reply(changed: Changed) -> bytes:
        total = summed(value_found(changed), by)
        return integer(total) if isinstance(total, int) else refused(Refused(total))

    return changing(key, decide, reply)


@TABLE.add("incr", 2, "write denyoom fast", ONE_KEY)
def incr(session: Session, words: list[bytes]) -> Outcome:
    """Add one to a key's number."""
    return counted(session, words[1], 1)


@TABLE.add("decr", 2, "write denyoom fast", ONE_KEY)
def decr(session: Session, words: list[bytes]) -> Outcome:
    """Take one from a key's number."""
    return counted(session, words[1], -1)


@TABLE.add("incrby", 3, "write denyoom fast", ONE_KEY)
def incrby(session: Session, words: list[bytes]) -> Outcome:
    """Add to a key's number."""
    return counted(session, words[1], number_of(words[2]))


@TABLE.add("decrby", 3, "write denyoom fast", ONE_KEY)
def decrby(session: Session, words: list[bytes]) -> Outcome:
    """Take from a key's number."""
    by = number_of(words[2])
    if by == INTEGER_MIN:
        raise Refused("ERR decrement would overflow")
    return counted(session, words[1], -by)


@TABLE.add("incrbyfloat", 3, "write denyoom fast", ONE_KEY)
def incrbyfloat(session: Session, words: list[bytes]) -> Outcome:
    """Add to a key's number, which may have a fraction."""
    key, word = key_of(session, words[1]), words[2]

    def total_of(held: bytes | None) -> bytes | str:
        number, by = real_of(held if held is not None else b"0"), real_of(word)
        if number is None or by is None:
            return NOT_A_FLOAT
        total = added(number, by)
        return printed(total) if total is not None else "ERR increment would produce NaN or Infinity"

    def decide(record: Record | None) -> Draft | None:
        found = live(record)
        total = total_of(found.value if found is not None else None)
        if isinstance(total, str):
            return None
        return kept(found, total) if found is not None else Draft(total, OCTETS)

    def reply(changed: Changed) -> bytes:
        total = total_of(value_found(changed))
        return bulk(total) if isinstance(total, bytes) else refused(Refused(total))

    return changing(key, decide, reply)
