"""What every message between proxies and nodes begins with, and what its fields are made of."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from ..ring import SLOTS

UNDECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder raises on bytes that are none of its shape."""

FORMAT = 1
"""The format of batches, pages and answers. Who asks chooses it."""

OLDEST_FORMAT = 1
"""The oldest one that is read. Nodes are upgraded before proxies, so a node has to read what the last build spoke."""

SlotNumber = Annotated[int, msgspec.Meta(ge=0, lt=SLOTS)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Limit = Annotated[int, msgspec.Meta(ge=1)]
"""How many of something are asked for."""
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
"""The id of a cluster or a member; those that are drawn are shorter."""
Label = Annotated[str, msgspec.Meta(max_length=256)]
KeyBytes = Annotated[bytes, msgspec.Meta(min_length=1)]
"""A key; how long it may be says the configuration."""
Ranges: TypeAlias = list[tuple[SlotNumber, SlotNumber]]
"""Ranges of slots, both ends included."""
Place: TypeAlias = tuple[SlotNumber, bytes]
"""A slot and a key, or nothing before the first of its keys."""


def formats(oldest: int, newest: int) -> str:
    """Name a range of formats."""
    return str(newest) if oldest == newest else f"{oldest} to {newest}"


class Header(msgspec.Struct, array_like=True, frozen=True):
    """Whom a message means, and what its sender believes.

    ``open`` says whether clients are served in this epoch; while it is False only copies move. ``deadline_ms`` is what
    is left of the sender's patience.
    """

    format: int
    cluster: str
    member: str
    incarnation: str
    epoch: Count
    open: bool = True
    deadline_ms: Count = 0


encode = msgspec.msgpack.Encoder().encode
