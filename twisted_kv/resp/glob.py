"""Patterns of keys, as Redis matches them (util.c: stringmatchlen)."""

from __future__ import annotations

import re
from collections.abc import Callable


def matcher(pattern: bytes) -> Callable[[bytes], object]:
    """Give what tells whether a key matches a pattern: ``*``, ``?``, ``[a-c]``, ``[^x]``, ``\\`` before the next byte.

    It runs in time that grows with the key alone: stars are taken one after the other, each as short as it can be.
    """
    parts: list[bytes] = []
    at = 0
    while at < len(pattern):
        here = pattern[at : at + 1]
        at += 1
        if here == b"*":
            if not parts or parts[-1] != _STAR:
                parts.append(_STAR)
        elif here == b"?":
            parts.append(b"(?s:.)")
        elif here == b"[":
            part, at = _class(pattern, at)
            parts.append(part)
        else:
            if here == b"\\" and at < len(pattern):
                here = pattern[at : at + 1]
                at += 1
            parts.append(re.escape(here))
    return re.compile(_without_backtracking(parts)).fullmatch


_STAR = b"*"
_NOTHING = b"(?!)"


def _without_backtracking(parts: list[bytes]) -> bytes:
    """Put a pattern together: between two stars the first place that fits is taken for good (re: ``(?>...)``)."""
    runs: list[bytes] = [b""]
    for part in parts:
        if part == _STAR:
            runs.append(b"")
        else:
            runs[-1] += part
    if len(runs) == 1:
        return runs[0]
    first, *middle, last = runs
    return first + b"".join(b"(?>(?s:.)*?%b)" % run for run in middle) + b"(?s:.)*" + last


def _class(pattern: bytes, at: int) -> tuple[bytes, int]:
    """Read what stands in brackets; what has no end goes on to the end of the pattern."""
    negated = pattern[at : at + 1] == b"^"
    at += negated
    chosen: set[int] = set()
    while True:
        if pattern[at : at + 1] == b"\\" and at + 1 < len(pattern):
            chosen.add(pattern[at + 1])
            at += 2
        elif at >= len(pattern):
            break
        elif pattern[at : at + 1] == b"]":
            at += 1
            break
        elif len(pattern) - at >= 3 and pattern[at + 1 : at + 2] == b"-":
            low, high = sorted((pattern[at], pattern[at + 2]))
            chosen.update(range(low, high + 1))
            at += 3
        else:
            chosen.add(pattern[at])
            at += 1
    if negated:
        chosen = set(range(256)) - chosen
    if not chosen:
        return _NOTHING, at
    return b"[" + b"".join(b"\\x%02x" % byte for byte in sorted(chosen)) + b"]", at


def literal_prefix(pattern: bytes) -> bytes:
    """Give what every key that matches begins with."""
    end = next((place for place, byte in enumerate(pattern) if byte in b"*?[\\"), len(pattern))
    return pattern[:end]
