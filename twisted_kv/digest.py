"""Digests of slots: one number that is equal on two owners who hold the same records.

A slot's digest is the sum of one term for each accepted record, modulo 2^64, so that it can be kept up to date with
each change and does not depend on their order. Terms must not be linear in what they are made of: with a CRC, two keys
that swap their ballots would cancel out.
"""

from __future__ import annotations

from xxhash import xxh3_64_intdigest

from .names import Key
from .versions import NONE, Ballot

EMPTY = 0
"""The digest of a slot without records."""

_MASK = (1 << 64) - 1


def term(key: Key, accepted: Ballot) -> int:
    """Give a record's part in its slot's digest: 64 bits; 0 for a bare promise, which is no record.

    It is XXH3 (github.com/Cyan4973/xxHash, doc/xxhash_spec.md), whose result is the same on every machine and in every
    version. A cryptographic hash would take five times as long, and keep nobody from anything: a client who found two
    keys of one term could hide nothing but a difference between copies of keys of his own.
    """
    if accepted == NONE:
        return 0
    return xxh3_64_intdigest(accepted + key)


def replaced(digest: int, key: Key, gone: Ballot, come: Ballot) -> int:
    """Give a slot's digest after another ballot was accepted for a key."""
    if gone != NONE:
        digest -= xxh3_64_intdigest(gone + key)
    if come != NONE:
        digest += xxh3_64_intdigest(come + key)
    return digest & _MASK


def moved(digest: int, gone: int, come: int) -> int:
    """Give a slot's digest after one term took the place of another."""
    return (digest - gone + come) & _MASK
