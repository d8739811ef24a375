"""Orders by which slots get to other nodes."""

from __future__ import annotations

import msgspec

from .header import Count, Header, KeyBytes, Limit, Ranges, SlotNumber


class Source(msgspec.Struct, array_like=True, frozen=True):
    """A node to copy from: where it answers, who it has to be, and the memory that counts."""

    url: str
    member: str
    incarnation: str


class PullRequest(msgspec.Struct, array_like=True):
    """Orders a node to copy slots from others, from the slot ``first`` on. It is forgotten when it is answered.

    ``needed`` of the sources hold together all that was ever acknowledged; only with so many is anything copied.
    """

    header: Header
    ranges: Ranges
    first: SlotNumber
    sources: list[Source]
    needed: Limit


class PullReply(msgspec.Struct, array_like=True):
    """How many records were copied, with how many bytes. ``next`` is the slot to go on from, None at the end.

    ``disputed`` are keys on which the sources differ, or which the node has promised not to take: somebody has to
    propose them again.
    """

    format: int
    epoch: int
    copied: Count
    size: Count
    disputed: list[KeyBytes]
    next: SlotNumber | None = None
    floors_left: Count = 0
    """Slots whose floor has to wait, since some of their keys are disputed."""


class DropRequest(msgspec.Struct, array_like=True):
    """Orders a node to forget the slots of these ranges (both ends included).

    It owns none of them in this epoch, or what it holds does not count. So an order may come twice, or late: once the
    node owns them it carries another epoch, and refuses it.
    """

    header: Header
    ranges: Ranges


pull_request_decoder = msgspec.msgpack.Decoder(PullRequest)
pull_reply_decoder = msgspec.msgpack.Decoder(PullReply)
drop_request_decoder = msgspec.msgpack.Decoder(DropRequest)
