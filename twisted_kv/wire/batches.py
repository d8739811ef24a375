"""Operations on their way to a node, and its answers."""

from __future__ import annotations

import msgspec

from ..names import Key
from ..register import Op, Reply, Sentence
from ..tracing import Trace
from ..versions import Shown
from .header import Header, Label, SlotNumber


class Bundle(msgspec.Struct, array_like=True):
    """Many operations of one kind, column by column, which costs a third of so many ``Op``.

    ``verb`` is READ, FETCH or ACCEPT. An accept's ballot is the version of its record, as a plain write's is.
    """

    verb: int
    keys: list[Key]
    records: list[bytes] = []


class Batch(msgspec.Struct, array_like=True):
    """Operations for one node, those in bundles after the others. ``copying`` marks the mover's, which alone are served
    while an epoch is closed."""

    header: Header
    ops: list[Op]
    copying: bool = False
    bundles: list[Bundle] = []

    traces: dict[int, Trace] = {}
    """What operations are called whose clients have said so, by their places in ``ops``; seldom any are."""

    @property
    def keys(self) -> list[Key]:
        keys = [op.key for op in self.ops]
        for bundle in self.bundles:
            keys += bundle.keys
        return keys


class Packed(msgspec.Struct, array_like=True):
    """A ``Batch`` as its sender makes it: bundles go to several nodes, and are encoded once."""

    header: Header
    ops: list[Op]
    copying: bool
    bundles: list[msgspec.Raw]


class PackedTraced(Packed):
    """The same, where some operations have a name to be found by."""

    traces: dict[int, Trace]


class BundleReply(msgspec.Struct, array_like=True, gc=False):
    """The answers to a bundle's operations, in their order.

    To reads ``ballots`` are those that were accepted, and ``records`` what was fetched. To accepts there is nothing:
    each was taken. ``others`` are the answers, by their places, that are not so.
    """

    ballots: list[Shown] = []
    records: list[bytes] = []
    others: dict[int, Reply] = {}


class BatchReply(msgspec.Struct, array_like=True):
    """A node's answers, in the order of the operations; or, where ``refusal`` is not empty, why it did none of them.

    ``refusal`` is one of the names below, ``detail`` a sentence for people, ``state`` the newest cluster state that
    the node was given, as opaque bytes. ``next`` says of an order to drop slots from which slot on it has to be given
    again, None where it is done. ``bundles`` are the answers to those of the batch.
    """

    format: int
    epoch: int
    replies: list[Reply] = []
    refusal: Label = ""
    detail: Sentence = ""
    state: bytes = b""
    next: SlotNumber | None = None
    bundles: list[BundleReply] = []


OTHER_CLUSTER = "other-cluster"
OTHER_MEMBER = "other-member"
OTHER_INCARNATION = "other-incarnation"
OLD_EPOCH = "old-epoch"
CLOSED_EPOCH = "closed-epoch"
UNKNOWN_FORMAT = "unknown-format"
DISK_FULL = "disk-full"
DISK_BUSY = "disk-busy"
batch_decoder = msgspec.msgpack.Decoder(Batch)
batch_reply_decoder = msgspec.msgpack.Decoder(BatchReply)
