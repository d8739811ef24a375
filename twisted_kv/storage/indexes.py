"""The two indexes of the engine on a disk: the keys in their order, and the values that expire."""

from __future__ import annotations

import struct

from rocksdict import Rdict, WriteBatch

from twisted_kv.errors import Damaged
from twisted_kv.names import Key
from twisted_kv.storage.engine import Due, Listed
from twisted_kv.storage.rows import END, NUMBER, walk
from twisted_kv.versions import expiry_bytes, is_value

_INDEX = struct.Struct(">BQ")
_VALUE = b"\1"
_NEVER = bytes(8)
_OTHER = b"\0" + _NEVER
"""The row of a tombstone."""
NOT_LISTED = b""
"""Stands for the row of a key that has no record."""


class Indexes:
    """Reads both indexes, and puts their changes into the batch of what they follow from.

    :param database: has the column families ``keys`` and ``expiry``.
    """

    def __init__(self, database: Rdict) -> None:
        self._keys, self._expiry = database.get_column_family("keys"), database.get_column_family("expiry")
        self._to_keys = database.get_column_family_handle("keys")
        self._to_expiry = database.get_column_family_handle("expiry")

    def move(self, batch: WriteBatch, key: Key, old: bytes, new: bytes) -> None:
        """Put what changes in both indexes into a batch.

        :param old, new: rows of the key index, as ``indexed`` gives them.
        """
        if new == old:
            return
        if new:
            batch.put(key, new, self._to_keys)
        else:
            batch.delete(key, self._to_keys)
        was, now = old[1:] or _NEVER, new[1:] or _NEVER
        if was != now:
            if was != _NEVER:
                batch.delete(was + key, self._to_expiry)
            if now != _NEVER:
                batch.put(now + key, b"", self._to_expiry)

    def listed(self, key: Key) -> bytes:
        """Give what the key index holds, in the form of ``indexed``: for when the cell itself cannot be read."""
        for _, row in walk(self._keys, key, key + b"\0", 1):
            return row[: _INDEX.size]
        return NOT_LISTED

    def keys(self, after: bytes, prefix: bytes, limit: int) -> list[Listed]:
        """See ``Engine``."""
        start = prefix if after < prefix else after + b"\0"
        page = []
        for key, data in walk(self._keys, start, prefix + END, limit):
            if len(data) < _INDEX.size:
                raise Damaged(f"the row of {key[:100]!r} in the index of keys is not what was written")
            _, expires_ms = _INDEX.unpack_from(data)
            page.append(Listed(Key(key), lists_value(data), expires_ms))
        return page

    def due(self, until_ms: int, after: Due | None, limit: int) -> list[Due]:
        """See ``Engine``."""
        start = NUMBER.pack(after.expires_ms) + after.key + b"\0" if after is not None else b""
        rows = walk(self._expiry, start, NUMBER.pack(until_ms + 1), limit)
        return [_due(name) for name, _ in rows]

    def verify(self) -> None:
        """Read both, past the cache.

        :raises Damaged: if part of them cannot be read.
        """
        for family in (self._keys, self._expiry):
            for _ in walk(family, b"", END, cached=False):
                pass

    @property
    def families(self) -> tuple[Rdict, Rdict]:
        return self._keys, self._expiry

    def release(self) -> tuple[Rdict, Rdict]:
        """Let go of the handles, and give what is to be closed: each would keep the folder locked."""
        del self._to_keys, self._to_expiry
        return self.families


def _due(name: bytes) -> Due:
    """Read the name of a row of the index of expiry.

    :raises Damaged: if it is none.
    """
    if len(name) <= NUMBER.size:
        raise Damaged(f"a row of the index of expiry is called {name!r}")
    return Due(NUMBER.unpack_from(name)[0], Key(name[NUMBER.size :]))


def indexed(record: bytes) -> bytes:
    """Give the row of the key index for a record: ``NOT_LISTED`` for a bare promise."""
    if is_value(record):
        return _VALUE + expiry_bytes(record)
    return _OTHER if record else NOT_LISTED


def lists_value(row: bytes) -> bool:
    """Whether a row of the key index stands for a value."""
    return row[:1] == _VALUE
