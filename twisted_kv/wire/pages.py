"""Pages of what a node holds: records by slot, keys, values that expire."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ..digest import EMPTY, moved, term
from ..names import Key
from ..versions import Ballot, Shown
from .header import Count, Header, KeyBytes, Limit, Place, Ranges, SlotNumber


class Row(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One key of a slot copy: its accepted ballot and record, and its promise.

    An accepted ballot of ``NONE`` says that something is there which cannot be read.
    """

    key: KeyBytes
    ballot: Shown
    record: bytes
    promised: Shown


class PageRequest(msgspec.Struct, array_like=True):
    """Asks for the accepted records in ranges of slots (both ends included, ascending), after the place ``after``."""

    header: Header
    ranges: Ranges
    after: Place | None = None
    bare: bool = False
    """Whether the records themselves are left out, and only the ballots wanted."""


class Page(msgspec.Struct, array_like=True):
    """Records in order of slot and key. ``after`` is None on the last page.

    ``digest`` is the sum of the rows' terms (see ``digest``): a page that was cut on its way is told by it (P17).
    """

    format: int
    epoch: int
    rows: list[Row]
    after: Place | None = None
    digest: int = 0

    @property
    def whole(self) -> bool:
        """Whether it holds what its sender put in."""
        return self.digest == rows_digest(self.rows)


def rows_digest(rows: Iterable[Row]) -> int:
    """Give the digest of rows; those that cannot be read are counted as nothing."""
    digest = EMPTY
    for row in rows:
        digest = moved(digest, 0, term(Key(row.key), Ballot(row.ballot)))
    return digest


class KeysRequest(msgspec.Struct, array_like=True):
    """Asks for keys that begin with ``prefix``, strictly after ``after``, in the order of their bytes."""

    header: Header
    prefix: bytes
    after: bytes
    limit: Limit


class KeyRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One key that holds a record here: whether it is a value, and when that expires (0 for never)."""

    key: KeyBytes
    is_value: bool
    expires_ms: int


class KeysPage(msgspec.Struct, array_like=True):
    """Keys in order, and whether more may follow: a node may give fewer than it was asked for."""

    format: int
    epoch: int
    rows: list[KeyRow]
    more: bool


class SlotKeysRequest(msgspec.Struct, array_like=True):
    """Asks for the keys of slots from ``first`` on: of whole slots, and of one at the least."""

    header: Header
    first: SlotNumber
    limit: Limit


class SlotKeysPage(msgspec.Struct, array_like=True):
    """Keys in order of slot and key, and the slot at which to go on, None at the end.

    A key that cannot be read is said to hold a value: who compares what owners say has to look then.
    """

    format: int
    epoch: int
    rows: list[KeyRow]
    next: SlotNumber | None = None


class DueRequest(msgspec.Struct, array_like=True):
    """Asks for values that expire by ``until_ms``, the earliest first, strictly after ``after``."""

    header: Header
    until_ms: Count
    after: tuple[Count, bytes] | None
    limit: Limit


class DuePage(msgspec.Struct, array_like=True):
    """When values expire, and their keys, and whether more may follow."""

    format: int
    epoch: int
    rows: list[tuple[Count, KeyBytes]]
    more: bool


page_request_decoder = msgspec.msgpack.Decoder(PageRequest)
page_decoder = msgspec.msgpack.Decoder(Page)
keys_request_decoder = msgspec.msgpack.Decoder(KeysRequest)
keys_page_decoder = msgspec.msgpack.Decoder(KeysPage)
slot_keys_request_decoder = msgspec.msgpack.Decoder(SlotKeysRequest)
slot_keys_page_decoder = msgspec.msgpack.Decoder(SlotKeysPage)
due_request_decoder = msgspec.msgpack.Decoder(DueRequest)
due_page_decoder = msgspec.msgpack.Decoder(DuePage)
