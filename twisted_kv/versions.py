"""Ballots, versions and records: what is compared, and what is stored under a key."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Annotated, NewType

import msgspec

Ballot = NewType("Ballot", bytes)
"""16 bytes, big-endian, so that comparing bytes compares ballots.

48 bits of milliseconds since 1970, 16 bits of counter (together a hybrid logical clock: Kulkarni et al., OPODIS 2014),
then 64 random bits of the process that drew it. A ballot serves one proposal.
"""

Version = NewType("Version", bytes)
"""The ballot that a record was first proposed with. It stays when others propose the record again; it is the ETag."""

Shown = Annotated[Ballot, msgspec.Meta(min_length=16, max_length=16)]
"""A ballot as somebody else shows it: decoders refuse bytes of another length."""

NONE = Ballot(bytes(16))
"""The ballot of a key that was never written; below every other."""

COUNTER_BITS = 16
TIME_MAX = 1 << 63
"""Half of what a ballot's clock can hold, which is the year 6429. What is above was never drawn by a clock."""
LEARNED_MAX = TIME_MAX - (1 << 48)
"""Up to where a clock follows others. From there on it may count for longer than any process lives before it draws what
nodes refuse; a single ballot that somebody made up would else keep it from ever writing again."""
_BALLOT = struct.Struct(">QQ")


class HybridClock:
    """Draws this process's ballots, each above every ballot it drew or was shown.

    :param now_ms: reads wall time in milliseconds. It may stand still or jump: ballots still grow, and safety never
        rests on them being near the truth.
    :param writer: 64 random bits, drawn afresh at every start of the process, so that no ballot is ever drawn twice.
    """

    __slots__ = ("_last", "_now_ms", "_writer")

    def __init__(self, now_ms: Callable[[], int], writer: int) -> None:
        self._now_ms = now_ms
        self._writer = writer
        self._last = 0

    def tick(self) -> Ballot:
        """Draw a fresh ballot. The counter overflows into the milliseconds, which is harmless."""
        time = self._now_ms() << COUNTER_BITS
        self._last = time if time > self._last else self._last + 1
        return _BALLOT.pack(self._last, self._writer)  # type: ignore[return-value]  # Ballot() would be a call

    def learn(self, shown: Ballot) -> None:
        """Make every later ballot larger than one that somebody else drew; one that no clock drew is passed over."""
        time: int = _BALLOT.unpack(shown)[0]
        if self._last < time < LEARNED_MAX:
            self._last = time


def drawn_by_a_clock(ballot: bytes) -> bool:
    """Whether bytes can be a proposal's ballot: of the right length, not ``NONE``, and with a time below the limit."""
    return len(ballot) == len(NONE) and ballot != NONE and ballot[0] < 0x80


UNDRAWN = Ballot(b"\x80" + bytes(15))
"""The lowest ballot that no clock draws."""

RECORD_FORMAT = 1
_HEAD = struct.Struct(">BB16sQHI")
_SIZES = struct.Struct(">B25xHI")
_VALUE = struct.Struct(">xB24xHI")
"""Parts of that head."""
_TOMBSTONE = 1


class Record(msgspec.Struct, frozen=True, gc=False):
    """What a key holds: a value, or a tombstone where ``value`` is None.

    ``expires_ms`` is wall time in milliseconds, 0 for never. ``before`` are the versions that a conditional change
    replaced one after the other, the last one first: whoever does not know what became of a change of its own finds
    it there (see ``conditional.py``).
    """

    version: Version
    value: bytes | None
    content_type: bytes = b""
    expires_ms: int = 0
    before: tuple[Version, ...] = ()

    def expired(self, now_ms: int) -> bool:
        return has_expired(self.expires_ms, now_ms)

    def encode(self) -> bytes:
        """Give the record's bytes, which owners store and copy as they are.

        ``format(1) flags(1) version(16) expires_ms(8) type_bytes(2) value_bytes(4) type value``, big-endian, and where
        there are any ``count(1) before(16 each)``. Later formats append; readers skip what follows, and copies keep
        it, since copies never decode.
        """
        tail = bytes((len(self.before),)) + b"".join(self.before) if self.before else b""
        return encode_record(self.version, self.value, self.content_type, self.expires_ms) + tail


def encode_record(version: Version, value: bytes | None, content_type: bytes, expires_ms: int) -> bytes:
    """Give the bytes of a record of these parts; see ``Record.encode``."""
    if value is None:
        return _HEAD.pack(RECORD_FORMAT, _TOMBSTONE, version, expires_ms, len(content_type), 0) + content_type
    return _HEAD.pack(RECORD_FORMAT, 0, version, expires_ms, len(content_type), len(value)) + content_type + value


def decode_record(data: bytes) -> Record:
    """Read a record's bytes.

    :raises ValueError: if they are cut, or of a format whose head this version does not know.
    """
    if len(data) < _HEAD.size:
        raise ValueError(f"a record of {len(data)} bytes is shorter than its head")
    form, flags, version, expires_ms, type_bytes, value_bytes = _HEAD.unpack_from(data)
    if form != RECORD_FORMAT:
        raise ValueError(f"a record of format {form}, known is {RECORD_FORMAT}")
    start = _HEAD.size + type_bytes
    end = start + value_bytes
    if len(data) < end:
        raise ValueError(f"a record of {len(data)} bytes says it has {end}")
    value = None if flags & _TOMBSTONE else data[start:end]
    count = data[end] if len(data) > end else 0
    if len(data) < end + 1 + 16 * count:
        count = 0
    before = tuple(Version(data[at : at + 16]) for at in range(end + 1, end + 1 + 16 * count, 16))
    return Record(Version(version), value, data[_HEAD.size : start], expires_ms, before)


def record_value(data: bytes) -> bytes | None:
    """Read the value alone, None of a tombstone."""
    flags, type_bytes, value_bytes = _VALUE.unpack_from(data)
    if flags & _TOMBSTONE:
        return None
    start = _HEAD.size + type_bytes
    return data[start : start + value_bytes]


def is_whole(data: bytes) -> bool:
    """Whether bytes are a record that ``decode_record`` reads."""
    if len(data) < _HEAD.size:
        return False
    form, type_bytes, value_bytes = _SIZES.unpack_from(data)
    return bool(form == RECORD_FORMAT and len(data) >= _HEAD.size + type_bytes + value_bytes)


def is_held(ballot: bytes, data: bytes) -> bool:
    """Whether an owner can have accepted these bytes under this ballot: a whole record, or nothing under none."""
    return is_whole(data) and drawn_by_a_clock(ballot) if data else ballot == NONE


def is_proposable(data: bytes) -> bool:
    """Whether bytes are a whole record whose version can be a proposal's ballot."""
    if len(data) < _HEAD.size:
        return False
    form, type_bytes, value_bytes = _SIZES.unpack_from(data)
    whole = form == RECORD_FORMAT and len(data) >= _HEAD.size + type_bytes + value_bytes
    return bool(whole and data[2] < 0x80 and data[2:18] != NONE)


def record_version(data: bytes) -> Version:
    """Read the version alone; the hot path needs no more to know a record of its own."""
    return data[2:18]  # type: ignore[return-value]  # Version() would be a call


def record_expiry(data: bytes) -> int:
    """Read when a record expires, in milliseconds of wall time; 0 for never."""
    return int.from_bytes(data[18:26], "big")


NEVER = bytes(8)
"""What ``expiry_bytes`` gives of a record that does not expire."""


def expiry_bytes(data: bytes) -> bytes:
    """Give the same as eight bytes, big-endian."""
    return data[18:26]


def has_expired(expires_ms: int, now_ms: int) -> bool:
    """Judge an expiry by a clock; 0 is never."""
    return 0 < expires_ms <= now_ms


def is_expired(data: bytes, now_ms: int) -> bool:
    """Whether bytes are a record that has expired; empty bytes, of a key never written, are none."""
    return bool(data) and has_expired(record_expiry(data), now_ms)


def is_value(data: bytes) -> bool:
    """Whether bytes are a record that holds a value: neither a tombstone, nor empty."""
    return bool(data) and not is_tombstone(data)


def is_tombstone(data: bytes) -> bool:
    return bool(data[1] & _TOMBSTONE)
