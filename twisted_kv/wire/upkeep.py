"""What keeps copies alike: digests, hints, marks, reading through, and forgetting what was deleted."""

from __future__ import annotations

import msgspec

from ..versions import NONE, Shown
from .header import Count, Header, Limit, Ranges, SlotNumber
from .pages import Row


class DigestsRequest(msgspec.Struct, array_like=True):
    """Asks for the digests of ranges of slots (both ends included, ascending)."""

    header: Header
    ranges: Ranges


class FloorRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A slot's floor."""

    slot: SlotNumber
    promised: Shown
    accepted: Shown


class Digests(msgspec.Struct, array_like=True):
    """Digests by slot, how many of a slot's cells hold no value, and the floors of those that have one.

    Blank slots are left out: in a small cluster most are.
    """

    format: int
    epoch: int
    digests: dict[SlotNumber, int]
    graves: dict[SlotNumber, int] = {}
    floors: list[FloorRow] = []
    highest: Shown = NONE
    """The highest ballot that the node was ever shown."""


class PurgeRequest(msgspec.Struct, array_like=True):
    """Orders a node to take a floor for slots, each with the digest that it must have; or, where ``final``, to forget
    what lies below it."""

    header: Header
    floor: Shown
    slots: list[tuple[SlotNumber, int]]
    final: bool


class PurgeReply(msgspec.Struct, array_like=True):
    """The slots of which it was done."""

    format: int
    epoch: int
    slots: list[SlotNumber]


class VerifyRequest(msgspec.Struct, array_like=True):
    """Has a node read all that it holds of ranges of slots (both ends included, ascending)."""

    header: Header
    ranges: Ranges


class VerifyReply(msgspec.Struct, array_like=True):
    """In how many of the slots something cannot be read, and the slot at which to go on, None at the end."""

    format: int
    epoch: int
    damaged: Count
    next: SlotNumber | None = None


class HintsRequest(msgspec.Struct, array_like=True):
    """Asks for hints for an owner, by key, strictly after ``after``; those in ``done`` are forgotten first, unless they
    have become newer than the ballot that is named."""

    header: Header
    owner: str
    after: bytes
    limit: Limit
    done: list[tuple[bytes, Shown]] = []


class HintsPage(msgspec.Struct, array_like=True):
    """What the keys hold now that an owner has missed; a key that is not held any more has the ballot ``NONE``."""

    format: int
    epoch: int
    rows: list[Row]
    more: bool


class MarksRequest(msgspec.Struct, array_like=True):
    """Asks which slots are marked for repair; those in ``done`` are unmarked first."""

    header: Header
    done: list[int] = []


class Marks(msgspec.Struct, array_like=True):
    """Slots that are marked for repair."""

    format: int
    epoch: int
    slots: list[SlotNumber]


digests_request_decoder = msgspec.msgpack.Decoder(DigestsRequest)
digests_decoder = msgspec.msgpack.Decoder(Digests)
purge_request_decoder = msgspec.msgpack.Decoder(PurgeRequest)
purge_reply_decoder = msgspec.msgpack.Decoder(PurgeReply)
verify_request_decoder = msgspec.msgpack.Decoder(VerifyRequest)
verify_reply_decoder = msgspec.msgpack.Decoder(VerifyReply)
hints_request_decoder = msgspec.msgpack.Decoder(HintsRequest)
hints_page_decoder = msgspec.msgpack.Decoder(HintsPage)
marks_request_decoder = msgspec.msgpack.Decoder(MarksRequest)
marks_decoder = msgspec.msgpack.Decoder(Marks)
