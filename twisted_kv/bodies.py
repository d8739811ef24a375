"""JSON of a known shape, and the sizes of keys and values."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from .errors import MalformedBody, MalformedKey, ValueTooLarge
from .limits import Limits
from .names import Key

T = TypeVar("T")


def parse_json(data: bytes, shape: type[T]) -> T:
    """Read a JSON body of a known shape. Unknown fields are ignored, depth and integer sizes are bounded.

    :raises MalformedBody: saying what was wrong and where.
    """
    try:
        return msgspec.json.decode(data, type=shape)
    except RecursionError:
        raise MalformedBody("the body is nested too deeply", "send a flat JSON object") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedBody(f"the body is not the JSON that belongs here: {error}", "send a JSON object") from None


def checked_key(key: bytes, limits: Limits) -> Key:
    """Check a key's length.

    :raises MalformedKey: if it is empty or too long.
    """
    if not 0 < len(key) <= limits.key_bytes_max:
        raise MalformedKey(
            f"the key has {len(key)} bytes",
            f"keys have 1 to {limits.key_bytes_max} bytes; put what is longer in the value",
        )
    return Key(key)


def checked_value(value: bytes, limits: Limits) -> bytes:
    """Check a value's length.

    :raises ValueTooLarge: if it is over the limit.
    """
    if len(value) > limits.value_bytes_max:
        raise ValueTooLarge(
            f"the value has {len(value)} bytes, the most is {limits.value_bytes_max}",
            "split it over several keys, or raise value_bytes_max in the proxies' and nodes' configuration",
        )
    return value
