"""Spoils what is fine: bytes, and the values that msgpack and JSON hold. All goes by the random numbers given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any, TypeAlias

import msgspec

Path: TypeAlias = tuple[Any, ...]
"""Where in a tree something stands: indexes of lists and keys of dicts, from the root on."""

Encode: TypeAlias = Callable[[Any], bytes]

INTS = (
    0,
    1,
    -1,
    2,
    3,
    5,
    6,
    8,
    15,
    255,
    65_535,
    65_536,
    2**31,
    2**32 - 1,
    2**47,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -(2**63),
)
BYTES = (
    b"",
    b"\0",
    b"\xff",
    bytes(15),
    bytes(16),
    bytes(17),
    b"\xff" * 16,
    b"\x7f" + b"\xff" * 15,
    b"\x80" + bytes(15),
    b"key",
    b"a\0b",
    b"a\r\nX: y",
    bytes(1024),
    b"k" * 1025,
    b"\xff" * 1200,
)
TEXTS = ("", "x", "\0", "a\r\nb", "\u202e", "n-1", "n-2", "c-1", "i-1", "again", "http://[", "../..", "x" * 2000)
FLOATS = (0.0, -1.5, 1e308, float("nan"), float("inf"), float("-inf"))

PACKED = (
    b"\x91" * 5_000 + b"\xc0",
    b"\x81\xc0" * 5_000 + b"\xc0",
    b"\xa3\xff\xfe\xfd",
    b"\xa3\xed\xa0\x80",
    b"\xdb\x7f\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff\x01",
    b"\x82\x01\x01\x01\x02",
    b"\xd6\xff\0\0\0\0",
    b"\xc7\x10\x05" + bytes(16),
    b"\xc1",
)
"""What no encoder writes: nesting, text that is no UTF-8, lengths that are a lie, a field twice, extensions."""
WRITTEN = (
    b"[" * 5_000 + b"]" * 5_000,
    b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    b"1" * 5_000,
    b"-" + b"9" * 400,
    b"1e999",
    b"1e-999",
    b"-0",
    b"0.1e1",
    b"NaN",
    b"Infinity",
    b'"\\ud800"',
    b'"\\udfff\\ud800"',
    b'"\xff\xfe"',
    b'"\xed\xa0\x80"',
    b'{"a": 1, "a": []}',
    b"01",
    b'"\\u0000"',
)
"""The same for JSON."""


def packed(value: Any) -> bytes:
    return msgspec.msgpack.encode(value)


def written(value: Any) -> bytes:
    return msgspec.json.encode(value)


def spoilt_bytes(rng: Random, samples: Sequence[bytes]) -> bytes:
    """Give one of some samples with bytes flipped, cut out, put in, or taken from another one."""
    data = bytearray(rng.choice(samples))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(8)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(data):
            data[at] = rng.choice(b'\0\1\x7f\x80\x90\x9f\xa0\xc0\xc4\xc6\xcf\xd3\xd9\xdb\xdd\xdf\xe0\xff"{}[],:0')
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            data += rng.randbytes(rng.choice((1, 4, 40)))
        elif kind == 4:
            del data[at : at + rng.choice((1, 2, 4, 16))]
        elif kind == 5:
            data[at:at] = data[rng.randrange(len(data) + 1) :][: rng.choice((1, 4, 16, 64))]
        elif kind == 6:
            other = rng.choice(samples)
            data[at:] = other[rng.randrange(len(other) + 1) :]
        else:
            size = rng.choice((1, 2, 4, 8))
            number = rng.choice((0, 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1))
            data[at : at + size] = (number & ((1 << 8 * size) - 1)).to_bytes(size, "big")
    return bytes(data)


def paths(value: Any, at: Path = ()) -> Iterator[Path]:
    """Walk through a tree; of its root nothing is said."""
    rows: Any = enumerate(value) if isinstance(value, list) else value.items() if isinstance(value, dict) else ()
    for name, part in rows:
        yield (*at, name)
        yield from paths(part, (*at, name))


def like(rng: Random, value: Any) -> Any:
    """Give another value of the same type, near by or odd: decoders let it through."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + rng.choice((-1, 1, 2, 100)) if rng.random() < 0.3 else rng.choice(INTS)
    if isinstance(value, float):
        return rng.choice(FLOATS)
    if isinstance(value, bytes):
        return spoilt_bytes(rng, [value]) if value and rng.random() < 0.5 else rng.choice(BYTES)
    if isinstance(value, str):
        return rng.choice(TEXTS) if rng.random() < 0.8 else value[: len(value) // 2]
    if isinstance(value, list):
        some = list(value)
        kind = rng.randrange(5)
        if kind == 0:
            some *= rng.choice((0, 2, 300))
        elif kind == 1 and some:
            del some[rng.randrange(len(some))]
        elif kind == 2 and some:
            some.insert(rng.randrange(len(some) + 1), rng.choice(some))
        elif kind == 3:
            some.reverse()
        elif some:
            some = some[: rng.randrange(len(some))]
        return some
    if isinstance(value, dict):
        entries = {name: part for name, part in value.items() if rng.random() < 0.5}
        if value and rng.random() < 0.5:
            entries[like(rng, next(iter(value)))] = rng.choice(list(value.values()))
        return entries
    return odd(rng, ())


def odd(rng: Random, raw: Sequence[bytes]) -> Any:
    """Give any value at all.

    :param raw: encodings that no encoder writes.
    """
    kind = rng.randrange(9)
    if kind == 0 and raw:
        return msgspec.Raw(rng.choice(raw))
    simple: Sequence[Any] = (None, True, False, [], {}, [[]], [None] * 20, {"a": 1}, {"": None})
    return rng.choice((INTS, BYTES, TEXTS, FLOATS, simple, simple, INTS, BYTES, TEXTS)[kind])


def spoilt_tree(rng: Random, value: Any, raw: Sequence[bytes], spared: Callable[[Path], bool]) -> Any:
    """Give a copy of a tree in which some parts are others.

    :param spared: says which parts are mostly left alone.
    """
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(paths(value))
        free = [place for place in places if not spared(place)]
        place = rng.choice(free if free and rng.random() < 0.9 else places or [()])
        value = _changed(rng, value, place, raw)
    return value


def _changed(rng: Random, value: Any, place: Path, raw: Sequence[bytes]) -> Any:
    if not place:
        return like(rng, value) if rng.random() < 0.6 else odd(rng, raw)
    copy: Any = list(value) if isinstance(value, list) else dict(value)
    name = place[0]
    if len(place) == 1 and rng.random() < 0.1:
        if isinstance(copy, list):
            del copy[rng.randrange(len(copy)) :]
        else:
            del copy[name]
    else:
        copy[name] = _changed(rng, copy[name], place[1:], raw)
    return copy


class Spoiler:
    """Spoils messages of one encoding.

    :param samples: good ones, each as bytes.
    """

    def __init__(self, samples: Sequence[bytes], json: bool = False, headed: bool = False) -> None:
        self._samples = list(samples)
        self._raw = WRITTEN if json else PACKED
        self._encode: Encode = written if json else packed
        decode: Callable[[bytes], Any] = msgspec.json.decode if json else msgspec.msgpack.decode
        self._trees = [decode(sample) for sample in self._samples]
        self._headed = headed

    def _spared(self, place: Path) -> bool:
        return self._headed and place[0] == 0

    def spoilt(self, rng: Random) -> bytes:
        """Give a spoilt message: as a tree with parts changed, as bytes, or both."""
        if rng.random() < 0.15:
            return spoilt_bytes(rng, self._samples)
        tree = spoilt_tree(rng, rng.choice(self._trees), self._raw, self._spared)
        try:
            data = self._encode(tree)
        except (OverflowError, TypeError, ValueError):
            return spoilt_bytes(rng, self._samples)  # this encoding knows no such value
        return spoilt_bytes(rng, [data]) if rng.random() < 0.05 else data
