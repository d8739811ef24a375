"""Inline commands: a line of words, as a person types them into a terminal (Redis: sdssplitargs)."""

from __future__ import annotations

_ESCAPES = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}
_SPACES = b" \n\r\t\v\f"
_HEX = b"0123456789abcdefABCDEF"


def words(line: bytes) -> list[bytes] | None:
    """Split a line into words; None if its quotes are not balanced.

    In double quotes ``\\n``, ``\\xFF`` and the like stand for bytes, in single ones only ``\\'``. A closing quote is
    followed by a space, or by nothing. A zero byte ends the line.
    """
    line = line.partition(b"\0")[0]
    found: list[bytes] = []
    at = 0
    while True:
        while at < len(line) and line[at] in _SPACES:
            at += 1
        if at == len(line):
            return found
        word = bytearray()
        while at < len(line) and line[at] not in _SPACES:
            quote = line[at : at + 1]
            if quote not in (b'"', b"'"):
                word += quote
                at += 1
                continue
            end = _quoted(line, at + 1, quote, word)
            if end is None:
                return None
            at = end
            break  # a closing quote ends the word
        found.append(bytes(word))


def _quoted(line: bytes, at: int, quote: bytes, word: bytearray) -> int | None:
    """Read up to the closing quote; give what is behind it, None if that is amiss."""
    while at < len(line):
        here = line[at : at + 1]
        if here == quote:
            at += 1
            return at if at == len(line) or line[at] in _SPACES else None
        if here == b"\\" and quote == b"'":
            if line[at + 1 : at + 2] == b"'":
                at += 1
                here = b"'"
        elif here == b"\\":
            hexed = line[at + 2 : at + 4]
            if line[at + 1 : at + 2] == b"x" and len(hexed) == 2 and all(digit in _HEX for digit in hexed):
                word += bytes.fromhex(hexed.decode())
                at += 4
                continue
            if at + 1 < len(line):
                at += 1
                here = _ESCAPES.get(line[at : at + 1], line[at : at + 1])
        word += here
        at += 1
    return None
