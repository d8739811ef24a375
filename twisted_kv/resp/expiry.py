"""EXPIRE, TTL and their kin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..conditional import Draft
from ..names import Key
from ..versions import Record
from .arguments import expires_at, key_of, number_of
from .plans import Get, Outcome, Plan, Refused, held_by, live
from .replies import ONE, ZERO, integer
from .session import Session
from .strings import GONE, ONE_KEY, changing
from .table import TABLE


def _conditions(words: list[bytes]) -> set[bytes]:
    """Read NX, XX, GT and LT."""
    given: set[bytes] = set()
    for word in words[3:]:
        option = word.upper()
        if option not in (b"NX", b"XX", b"GT", b"LT"):
            raise Refused(b"ERR Unsupported option %b" % word)
        given.add(option)
    if b"NX" in given and len(given) > 1:
        raise Refused("ERR NX and XX, GT or LT options at the same time are not compatible")
    if {b"GT", b"LT"} <= given:
        raise Refused("ERR GT and LT options at the same time are not compatible")
    return given


def _expiring(command: str, factor: int, absolute: bool) -> Callable[[Session, list[bytes]], Outcome]:
    def plan(session: Session, words: list[bytes]) -> Outcome:
        key, conditions = key_of(session, words[1]), _conditions(words)
        number = number_of(words[2])
        at_ms = expires_at(session, number, factor, absolute, command)
        gone = at_ms <= session.server.now_ms()

        def decide(record: Record | None) -> Draft | None:
            found = live(record)
            if found is None or not _allowed(conditions, found.expires_ms, at_ms):
                return None
            return GONE if gone else Draft(found.value, found.content_type, at_ms)

        return changing(key, decide, lambda changed: ONE if changed.changed else ZERO)

    return plan


def _allowed(conditions: set[bytes], now_ms: int, at_ms: int) -> bool:
    """Say whether an expiry may take the place of another one, 0 for never, which is later than any."""
    if b"NX" in conditions and now_ms:
        return False
    if b"XX" in conditions and not now_ms:
        return False
    if b"GT" in conditions and not (now_ms and at_ms > now_ms):
        return False
    return b"LT" not in conditions or not now_ms or at_ms < now_ms


for _name, _factor, _absolute, _summary in (
    ("expire", 1000, False, "Set in how many seconds a key expires."),
    ("pexpire", 1, False, "Set in how many milliseconds a key expires."),
    ("expireat", 1000, True, "Set at which second since 1970 a key expires."),
    ("pexpireat", 1, True, "Set at which millisecond since 1970 a key expires."),
):
    _plan = _expiring(_name, _factor, _absolute)
    _plan.__doc__ = _summary
    TABLE.add(_name, -3, "write fast", ONE_KEY)(_plan)


@TABLE.add("persist", 2, "write fast", ONE_KEY)
def persist(session: Session, words: list[bytes]) -> Outcome:
    """Let a key live for ever."""

    def decide(record: Record | None) -> Draft | None:
        found = live(record)
        return Draft(found.value, found.content_type) if found is not None and found.expires_ms else None

    return changing(key_of(session, words[1]), decide, lambda changed: ONE if changed.changed else ZERO)


def _looking(session: Session, key: Key, shown: Callable[[int], int]) -> Plan:
    """Look at a key's expiry: -2 if there is no key, -1 if it has none, else what is made of its milliseconds."""

    def reply(records: list[Any]) -> bytes:
        found = held_by(records[0])
        if found is None:
            return integer(-2)
        return integer(shown(found.expires_ms) if found.expires_ms else -1)

    return Plan((Get(key),), reply)


@TABLE.add("ttl", 2, "readonly fast", ONE_KEY)
def ttl(session: Session, words: list[bytes]) -> Outcome:
    """Give in how many seconds a key expires."""
    now_ms = session.server.now_ms
    return _looking(session, key_of(session, words[1]), lambda at_ms: (max(0, at_ms - now_ms()) + 500) // 1000)


@TABLE.add("pttl", 2, "readonly fast", ONE_KEY)
def pttl(session: Session, words: list[bytes]) -> Outcome:
    """Give in how many milliseconds a key expires."""
    now_ms = session.server.now_ms
    return _looking(session, key_of(session, words[1]), lambda at_ms: max(0, at_ms - now_ms()))


@TABLE.add("expiretime", 2, "readonly fast", ONE_KEY)
def expiretime(session: Session, words: list[bytes]) -> Outcome:
    """Give at which second since 1970 a key expires."""
    return _looking(session, key_of(session, words[1]), lambda at_ms: (at_ms + 500) // 1000)


@TABLE.add("pexpiretime", 2, "readonly fast", ONE_KEY)
def pexpiretime(session: Session, words: list[bytes]) -> Outcome:
    """Give at which millisecond since 1970 a key expires."""
    return _looking(session, key_of(session, words[1]), lambda at_ms: at_ms)
