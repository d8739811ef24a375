"""GET, SET and what else takes a key's value as a string."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..conditional import Decide, Draft
from ..names import Key
from ..sharing import Changed
from ..versions import Record, record_value
from .arguments import SYNTAX, UNITS, expiry_of, key_of, number_of, too_large, value_of
from .plans import Change, Get, Outcome, Plan, Put, Refused, live, value_found
from .replies import OK, ONE, ZERO, array, bulk, integer, null, value
from .session import Session
from .table import TABLE

OCTETS = b"application/octet-stream"
"""The content type of what is written here, as HTTP clients will see it."""

ONE_KEY = (1, 1, 1)
GONE = Draft(None)


def put(key: Key, held: bytes, expires_ms: int, now_ms: int) -> Put:
    """Write a value; where it has expired already, that is to delete the key."""
    return Put(key, Draft(held, OCTETS, expires_ms) if not 0 < expires_ms <= now_ms else GONE)


def kept(record: Record, held: bytes) -> Draft:
    """Put another value in the place of a record's, which keeps its kind and its expiry."""
    return Draft(held, record.content_type, record.expires_ms)


def value_in(record: bytes) -> bytes | None:
    """Give the value in what a read has found, None where there is none."""
    return record_value(record) if record else None


def reading(key: Key, reply: Callable[[bytes | None], bytes]) -> Plan:
    """Read one key, and reply with what is made of its value."""
    return Plan((Get(key),), lambda records: reply(value_in(records[0])))


def ok(_: list[Any]) -> bytes:
    return OK


@TABLE.add("get", 2, "readonly fast", ONE_KEY)
def get(session: Session, words: list[bytes]) -> Outcome:
    """Give a key's value."""
    protocol = session.protocol
    return reading(key_of(session, words[1]), lambda held: value(protocol, held))


@TABLE.add("set", -3, "write denyoom", ONE_KEY)
def set_(session: Session, words: list[bytes]) -> Outcome:
    """Set a key's value, whatever it holds, or where it holds a value or none."""
    key, held = key_of(session, words[1]), value_of(session, words[2])
    if len(words) == 3:
        return Plan((Put(key, Draft(held, OCTETS)),), ok)
    expiry, options = _options(words, 3, (b"NX", b"XX", b"GET", b"KEEPTTL"))
    expires_ms = expiry_of(session, *expiry, "set") if expiry is not None else 0
    if not options:
        return Plan((put(key, held, expires_ms, session.server.now_ms()),), ok)
    expired = 0 < expires_ms <= session.server.now_ms()
    keeps = b"KEEPTTL" in options
    unless, only = b"NX" in options, b"XX" in options

    def decide(record: Record | None) -> Draft | None:
        found = live(record)
        if (found is not None and unless) or (found is None and only):
            return None
        if expired:
            return GONE
        return Draft(held, OCTETS, found.expires_ms if keeps and found is not None else expires_ms)

    protocol = session.protocol
    if b"GET" in options:
        return changing(key, decide, lambda changed: value(protocol, value_found(changed)), len(held))
    return changing(key, decide, lambda changed: OK if changed.changed else null(protocol), len(held))


def changing(key: Key, decide: Decide, reply: Callable[[Changed], bytes], size: int = 0) -> Plan:
    return Plan((Change(key, decide, size),), lambda answers: reply(answers[0]))


def _options(words: list[bytes], first: int, flags: Sequence[bytes]) -> tuple[tuple[bytes, bytes] | None, set[bytes]]:
    """Read options: one about the expiry, of which it gives number and name, None if there is none; and flags."""
    options: set[bytes] = set()
    expiry: tuple[bytes, bytes] | None = None
    at = first
    while at < len(words):
        option = words[at].upper()
        # The same one may be given again, and the last counts; two of different kinds exclude each other.
        timed = (expiry is not None and expiry[1] != option) or not options.isdisjoint((b"KEEPTTL", b"PERSIST"))
        if option in UNITS and not timed and at + 1 < len(words):
            expiry = words[at + 1], option
            at += 2
        elif option in flags and not (option in (b"KEEPTTL", b"PERSIST") and expiry is not None):
            options.add(option)
            at += 1
        else:
            raise Refused(SYNTAX)
    if {b"NX", b"XX"} <= options:
        raise Refused(SYNTAX)
    return expiry, options


@TABLE.add("setnx", 3, "write denyoom fast", ONE_KEY)
def setnx(session: Session, words: list[bytes]) -> Outcome:
    """Set a key's value where it holds none."""
    key, held = key_of(session, words[1]), value_of(session, words[2])

    def decide(record: Record | None) -> Draft | None:
        return Draft(held, OCTETS) if live(record) is None else None

    return changing(key, decide, lambda changed: ONE if changed.changed else ZERO, len(held))


@TABLE.add("setex", 4, "write denyoom", ONE_KEY)
def setex(session: Session, words: list[bytes]) -> Outcome:
    """Set a key's value, and in how many seconds it expires."""
    return _set_for(session, words, b"EX", "setex")


@TABLE.add("psetex", 4, "write denyoom", ONE_KEY)
def psetex(session: Session, words: list[bytes]) -> Outcome:
    """Set a key's value, and in how many milliseconds it expires."""
    return _set_for(session, words, b"PX", "psetex")


def _set_for(session: Session, words: list[bytes], option: bytes, command: str) -> Outcome:
    key, held = key_of(session, words[1]), value_of(session, words[3])
    return Plan((put(key, held, expiry_of(session, words[2], option, command), session.server.now_ms()),), ok)


@TABLE.add("getset", 3, "write denyoom fast", ONE_KEY)
def getset(session: Session, words: list[bytes]) -> Outcome:
    """Set a key's value, and give the one that it held."""
    key, held, protocol = key_of(session, words[1]), value_of(session, words[2]), session.protocol
    draft = Draft(held, OCTETS)
    return changing(key, lambda _: draft, lambda changed: value(protocol, value_found(changed)), len(held))


@TABLE.add("getdel", 2, "write fast", ONE_KEY)
def getdel(session: Session, words: list[bytes]) -> Outcome:
    """Give a key's value, and delete it."""
    protocol = session.protocol
    key = key_of(session, words[1])
    return changing(key, delete, lambda changed: value(protocol, value_found(changed)))


def delete(record: Record | None) -> Draft | None:
    """Delete what holds a value."""
    return GONE if live(record) is not None else None


@TABLE.add("getex", -2, "write fast", ONE_KEY)
def getex(session: Session, words: list[bytes]) -> Outcome:
    """Give a key's value, and set when it expires."""
    key, protocol = key_of(session, words[1]), session.protocol
    expiry, options = _options(words, 2, (b"PERSIST",))
    if len(words) == 2:
        return reading(key, lambda held: value(protocol, held))
    expires_ms = 0
    if expiry is not None:
        try:
            expires_ms = expiry_of(session, *expiry, "getex")
        except Refused as error:
            # An absent key is looked for before the expiry is.
            wrong = error
            return reading(key, lambda held: refused(wrong) if held is not None else null(protocol))
    now_ms = session.server.now_ms()

    def decide(record: Record | None) -> Draft | None:
        found = live(record)
        if found is None or (options and not found.expires_ms):
            return None
        if 0 < expires_ms <= now_ms:
            return GONE
        return Draft(found.value, found.content_type, expires_ms)

    return changing(key, decide, lambda changed: value(protocol, value_found(changed)))


@TABLE.add("mget", -2, "readonly fast", (1, -1, 1))
def mget(session: Session, words: list[bytes]) -> Outcome:
    """Give the values of several keys, each as it is at some moment meanwhile."""
    protocol = session.protocol
    keys = [key_of(session, word) for word in words[1:]]
    unique = list(dict.fromkeys(keys))

    def reply(records: list[bytes]) -> bytes:
        found = {key: value(protocol, value_in(record)) for key, record in zip(unique, records, strict=True)}
        return array([found[key] for key in keys])

    return Plan([Get(key) for key in unique], reply)


@TABLE.add("mset", -3, "write denyoom", (1, -1, 2))
def mset(session: Session, words: list[bytes]) -> Outcome:
    """Set the values of several keys, each by itself."""
    return Plan(list(_pairs(session, words, "mset").values()), ok)


@TABLE.add("msetnx", -3, "write denyoom", (1, -1, 2))
def msetnx(session: Session, words: list[bytes]) -> Outcome:
    """Is refused: it would have to look at several keys at once."""
    _pairs(session, words, "msetnx")
    raise Refused(
        "ERR MSETNX sets all of its keys or none, and this store changes one key at a time: use SET with NX for each"
    )


def _pairs(session: Session, words: list[bytes], command: str) -> dict[Key, Put]:
    """Read keys and values; of a key that comes twice the last value counts."""
    if len(words) % 2 == 0:
        raise Refused(f"ERR wrong number of arguments for '{command}' command")
    pairs = zip(words[1::2], words[2::2], strict=True)
    return {(key := key_of(session, word)): Put(key, Draft(value_of(session, held), OCTETS)) for word, held in pairs}


@TABLE.add("append", 3, "write denyoom fast", ONE_KEY)
def append(session: Session, words: list[bytes]) -> Outcome:
    """Append to a key's value; give how long it is then."""
    key, more = key_of(session, words[1]), words[2]
    most = session.server.limits.value_bytes_max

    def decide(record: Record | None) -> Draft | None:
        found = live(record)
        if found is None:
            return Draft(more, OCTETS) if len(more) <= most else None
        assert found.value is not None
        return kept(found, found.value + more) if len(found.value) + len(more) <= most else None

    def reply(changed: Changed) -> bytes:
        size = len(value_found(changed) or b"") + len(more)
        return integer(size) if changed.changed else refused(too_large(session, size))

    return changing(key, decide, reply, len(more))


def refused(error: Refused) -> bytes:
    """Refuse what was found to be impossible only when the key was looked at."""
    raise error


@TABLE.add("strlen", 2, "readonly fast", ONE_KEY)
def strlen(session: Session, words: list[bytes]) -> Outcome:
    """Give how long a key's value is."""
    return reading(key_of(session, words[1]), lambda held: integer(len(held or b"")))


@TABLE.add("getrange", 4, "readonly", ONE_KEY)
def getrange(session: Session, words: list[bytes]) -> Outcome:
    """Give a part of a key's value: from one place up to and with another, below 0 counted from the end."""
    start, end = number_of(words[2]), number_of(words[3])
    return reading(key_of(session, words[1]), lambda held: bulk(_part(held or b"", start, end)))


TABLE.add("substr", 4, "readonly", ONE_KEY)(getrange)


def _part(held: bytes, start: int, end: int) -> bytes:
    if start < 0 and end < 0 and start > end:
        return b""
    size = len(held)
    first = max(0, size + start if start < 0 else start)
    last = max(0, size + end if end < 0 else end)
    return held[first : last + 1]


@TABLE.add("setrange", 4, "write denyoom", ONE_KEY)
def setrange(session: Session, words: list[bytes]) -> Outcome:
    """Write over a part of a key's value, which grows as it must; give how long it is then."""
    key, offset, part = key_of(session, words[1]), number_of(words[2]), words[3]
    if offset < 0:
        raise Refused("ERR offset is out of range")
    most = session.server.limits.value_bytes_max

    def laid_over(held: bytes) -> bytes:
        return held[:offset].ljust(offset, b"\0") + part + held[offset + len(part) :]

    def decide(record: Record | None) -> Draft | None:
        found = live(record)
        if not part or offset + len(part) > most:
            return None
        if found is None:
            return Draft(laid_over(b""), OCTETS)
        assert found.value is not None
        return kept(found, laid_over(found.value))

    def reply(changed: Changed) -> bytes:
        size = len(value_found(changed) or b"")
        if not part:
            return integer(size)
        size = max(size, offset + len(part))
        return integer(size) if changed.changed else refused(too_large(session, size))

    return changing(key, decide, reply, min(most, offset + len(part)))
