"""Words of commands, read and checked as Redis does."""

from __future__ import annotations

from ..names import Key
from .numbers import INTEGER_MAX, INTEGER_MIN, integer_of
from .plans import Refused
from .session import Session

SYNTAX = "ERR syntax error"
NOT_AN_INTEGER = "ERR value is not an integer or out of range"
NOT_A_FLOAT = "ERR value is not a valid float"
TOO_LONG = "ERR string exceeds maximum allowed size (proto-max-bulk-len)"


def key_of(session: Session, word: bytes) -> Key:
    """:raises Refused: if a key is empty or too long, as this store has it."""
    most = session.server.limits.key_bytes_max
    if not 0 < len(word) <= most:
        raise Refused(f"ERR the key has {len(word)} bytes: keys have 1 to {most} here, see docs/redis.md")
    return Key(word)


def value_of(session: Session, word: bytes) -> bytes:
    """:raises Refused: if a value is too long."""
    if len(word) > session.server.limits.value_bytes_max:
        raise too_large(session, len(word))
    return word


def too_large(session: Session, size: int) -> Refused:
    most = session.server.limits.value_bytes_max
    return Refused(f"{TOO_LONG}: {size} bytes, the most is {most}, see value_bytes_max")


def number_of(word: bytes) -> int:
    """:raises Refused: if a word is no 64-bit integer."""
    number = integer_of(word)
    if number is None:
        raise Refused(NOT_AN_INTEGER)
    return number


UNITS = {b"EX": (1000, False), b"PX": (1, False), b"EXAT": (1000, True), b"PXAT": (1, True)}
"""Of the options that set an expiry: milliseconds of one, and whether it is a point in time."""


def expiry_of(session: Session, word: bytes, option: bytes, command: str) -> int:
    """Read when a value is to expire, in milliseconds of wall time. It may have passed.

    :raises Refused: if that is no positive number, or no time.
    """
    number = number_of(word)
    factor, absolute = UNITS[option]
    return expires_at(session, number, factor, absolute, command, at_least=1)


def expires_at(
    session: Session, number: int, factor: int, absolute: bool, command: str, at_least: int = INTEGER_MIN
) -> int:
    """Say when that is, in milliseconds of wall time.

    :raises Refused: if it is below ``at_least``, or out of the range of times.
    """
    at_ms = number * factor + (0 if absolute else session.server.now_ms())
    if number < at_least or not INTEGER_MIN <= number * factor <= INTEGER_MAX or at_ms > INTEGER_MAX:
        raise Refused(f"ERR invalid expire time in '{command}' command")
    return at_ms
