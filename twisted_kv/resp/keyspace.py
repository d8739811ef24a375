"""Commands about keys, whatever they hold, and about all of them."""

from __future__ import annotations

import re
from typing import Any

from .arguments import SYNTAX, key_of, number_of
from .glob import literal_prefix, matcher
from .numbers import integer_of
from .plans import Change, Errand, Get, Outcome, Plan, Refused
from .replies import OK, array, bulk, bulks, integer, mapping, null, simple, value
from .session import Session
from .strings import ONE_KEY, delete, reading, value_in
from .table import TABLE

ALL_KEYS = (1, -1, 1)
EMBEDDED_BYTES_MAX = 44
"""The longest string that Redis keeps in one piece with its head (object.c: OBJ_ENCODING_EMBSTR_SIZE_LIMIT)."""
CURSOR_MAX = (1 << 64) - 1
SCAN_COUNT = 10

_number = re.compile(rb"(?:[+-]?[0-9]{1,30})?").fullmatch


def _deleting(session: Session, words: list[bytes]) -> Outcome:
    keys = dict.fromkeys(key_of(session, word) for word in words[1:])
    return Plan([Change(key, delete) for key in keys], lambda changes: integer(sum(one.changed for one in changes)))


@TABLE.add("del", -2, "write", ALL_KEYS)
def del_(session: Session, words: list[bytes]) -> Outcome:
    """Delete keys; give how many of them there were."""
    return _deleting(session, words)


@TABLE.add("unlink", -2, "write fast", ALL_KEYS)
def unlink(session: Session, words: list[bytes]) -> Outcome:
    """Delete keys; give how many of them there were."""
    return _deleting(session, words)


def _counting(session: Session, words: list[bytes]) -> Outcome:
    keys = [key_of(session, word) for word in words[1:]]
    place = {key: number for number, key in enumerate(dict.fromkeys(keys))}

    def reply(records: list[bytes]) -> bytes:
        there = [value_in(record) is not None for record in records]
        return integer(sum(there[place[key]] for key in keys))

    return Plan([Get(key) for key in place], reply)


@TABLE.add("exists", -2, "readonly fast", ALL_KEYS)
def exists(session: Session, words: list[bytes]) -> Outcome:
    """Count the keys that are there; one that is named twice counts twice."""
    return _counting(session, words)


@TABLE.add("touch", -2, "readonly fast", ALL_KEYS)
def touch(session: Session, words: list[bytes]) -> Outcome:
    """Count the keys that are there."""
    return _counting(session, words)


@TABLE.add("type", 2, "readonly fast", ONE_KEY)
def type_(session: Session, words: list[bytes]) -> Outcome:
    """Give a key's type: a string, or none."""
    return reading(key_of(session, words[1]), lambda held: simple("string" if held is not None else "none"))


@TABLE.add("object|encoding", 3, "readonly", (2, 2, 1))
def object_encoding(session: Session, words: list[bytes]) -> Outcome:
    """Say how Redis would keep a key's value, going by the value alone."""
    protocol = session.protocol
    return reading(key_of(session, words[2]), lambda held: value(protocol, None if held is None else _encoding(held)))


def _encoding(held: bytes) -> bytes:
    if integer_of(held) is not None:
        return b"int"
    return b"embstr" if len(held) <= EMBEDDED_BYTES_MAX else b"raw"


@TABLE.add("keys", 2, "readonly sort_for_script")
def keys(session: Session, words: list[bytes]) -> Outcome:
    """List the keys that match a pattern, up to a bound."""
    matches, prefix = matcher(words[1]), literal_prefix(words[1])
    server = session.server

    async def run() -> bytes:
        found, most, after = [], server.limits.resp_keys_max, b""
        while True:
            page = await server.keyspace.keys(prefix, after)
            found += [key for key in page.keys if matches(key)]
            if len(found) > most:
                raise Refused(f"ERR more than {most} keys match, which is too much for one reply: use SCAN")
            if page.after is None:
                return bulks(found)
            after = page.after

    return Errand(run)


@TABLE.add("scan", -2, "readonly")
def scan(session: Session, words: list[bytes]) -> Outcome:
    """List some keys, from a cursor on; give the next cursor, 0 at the end."""
    first = _cursor(words[1])
    count, matches, strings = SCAN_COUNT, matcher(b"*"), True
    for option, given in _scan_options(words):
        if option == b"COUNT":
            count = number_of(given)
            if count < 1:
                raise Refused(SYNTAX)
        elif option == b"MATCH":
            matches = matcher(given)
        else:
            strings = given.lower() == b"string"
    server = session.server

    async def run() -> bytes:
        found, following = await server.keyspace.scan(first, min(count, server.limits.keys_page_max))
        shown = [key for key in found if strings and matches(key)]
        return array([bulk(b"%d" % following), bulks(shown)])

    return Errand(run)


def _cursor(word: bytes) -> int:
    """Read a cursor as strtoul(3) does: nothing is 0, and what is below 0 is counted from the end.

    :raises Refused: if it is none.
    """
    if not _number(word) or abs(number := int(word or b"0")) > CURSOR_MAX:
        raise Refused("ERR invalid cursor")
    return number % (CURSOR_MAX + 1)


def _scan_options(words: list[bytes]) -> list[tuple[bytes, bytes]]:
    options = [(words[at].upper(), words[at + 1]) for at in range(2, len(words) - 1, 2)]
    if len(words) % 2 or any(option not in (b"COUNT", b"MATCH", b"TYPE") for option, _ in options):
        raise Refused(SYNTAX)
    return options


@TABLE.add("dbsize", 1, "readonly fast")
def dbsize(session: Session, words: list[bytes]) -> Outcome:
    """Say about how many keys there are."""

    async def run() -> bytes:
        return integer(await session.server.keyspace.count())

    return Errand(run)


@TABLE.add("randomkey", 1, "readonly")
def randomkey(session: Session, words: list[bytes]) -> Outcome:
    """Give some key."""

    async def run() -> bytes:
        return value(session.protocol, await session.server.keyspace.random())

    return Errand(run)


def _flushing(session: Session, words: list[bytes], command: str) -> Outcome:
    if len(words) > 2 or (len(words) == 2 and words[1].upper() not in (b"ASYNC", b"SYNC")):
        raise Refused(SYNTAX)
    server = session.server
    if not server.allow_flush:
        raise Refused(
            f"ERR {command} deletes every key of the cluster, and is not allowed here: start the proxy with"
            " --allow-flush true"
        )

    async def run() -> bytes:
        await server.keyspace.flush()
        return OK

    return Errand(run)


@TABLE.add("flushall", -1, "write")
def flushall(session: Session, words: list[bytes]) -> Outcome:
    """Delete every key, one after the other, if that is allowed."""
    return _flushing(session, words, "FLUSHALL")


@TABLE.add("flushdb", -1, "write")
def flushdb(session: Session, words: list[bytes]) -> Outcome:
    """Delete every key, one after the other, if that is allowed."""
    return _flushing(session, words, "FLUSHDB")


@TABLE.add("kv.explain", 2, "readonly", ONE_KEY)
def kv_explain(session: Session, words: list[bytes]) -> Outcome:
    """Tell a key's hash, slot and owners, and what each of them holds of it."""
    key = key_of(session, words[1])

    async def run() -> bytes:
        return shown(await session.server.keyspace.explain(key), session.protocol)

    return Errand(run)


def shown(found: Any, protocol: int) -> bytes:
    """Give what JSON could hold as a reply; maps as arrays of names and values in RESP2."""
    if isinstance(found, dict):
        return mapping(protocol, [(bulk(name.encode()), shown(one, protocol)) for name, one in found.items()])
    if isinstance(found, list):
        return array([shown(one, protocol) for one in found])
    if found is None:
        return null(protocol)
    if isinstance(found, int):
        return integer(found)
    return bulk(str(found).encode())
