"""Bytes to messages and back: batches between proxy and node, and the size checks of keys and values.

Every message begins with a format number. Unknown trailing fields are skipped, so that a cluster may be upgraded one
node at a time; what is stored travels as bytes that nobody on the way decodes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from .digest import EMPTY, moved, term
from .errors import MalformedBody, MalformedKey, ValueTooLarge
from .limits import Limits
from .names import Key
from .register import Op, Reply
from .tracing import Trace
from .versions import NONE, Ballot

UNDECODED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What a decoder raises on bytes that are none of its shape."""

FORMAT = 1
"""The format of batches, pages and answers. Who asks chooses it."""

OLDEST_FORMAT = 1
"""The oldest one that is read. Nodes are upgraded before proxies, so a node has to read what the last build spoke."""


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
    epoch: int
    open: bool = True
    deadline_ms: int = 0


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

    ballots: list[Ballot] = []
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
    refusal: str = ""
    detail: str = ""
    state: bytes = b""
    next: int | None = None
    bundles: list[BundleReply] = []


OTHER_CLUSTER = "other-cluster"
OTHER_MEMBER = "other-member"
OTHER_INCARNATION = "other-incarnation"
OLD_EPOCH = "old-epoch"
CLOSED_EPOCH = "closed-epoch"
UNKNOWN_FORMAT = "unknown-format"
DISK_FULL = "disk-full"
DISK_BUSY = "disk-busy"


class Row(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One key of a slot copy: its accepted ballot and record, and its promise.

    An accepted ballot of ``NONE`` says that something is there which cannot be read.
    """

    key: bytes
    ballot: bytes
    record: bytes
    promised: bytes


class PageRequest(msgspec.Struct, array_like=True):
    """Asks for the accepted records in ranges of slots (both ends included, ascending), after the place ``after``."""

    header: Header
    ranges: list[tuple[int, int]]
    after: tuple[int, bytes] | None = None
    bare: bool = False
    """Whether the records themselves are left out, and only the ballots wanted."""


class Page(msgspec.Struct, array_like=True):
    """Records in order of slot and key. ``after`` is None on the last page.

    ``digest`` is the sum of the rows' terms (see ``digest``): a page that was cut on its way is told by it (P17).
    """

    format: int
    epoch: int
    rows: list[Row]
    after: tuple[int, bytes] | None = None
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


class DigestsRequest(msgspec.Struct, array_like=True):
    """Asks for the digests of ranges of slots (both ends included, ascending)."""

    header: Header
    ranges: list[tuple[int, int]]


class FloorRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A slot's floor."""

    slot: int
    promised: bytes
    accepted: bytes


class Digests(msgspec.Struct, array_like=True):
    """Digests by slot, how many of a slot's cells hold no value, and the floors of those that have one.

    Blank slots are left out: in a small cluster most are.
    """

    format: int
    epoch: int
    digests: dict[int, int]
    graves: dict[int, int] = {}
    floors: list[FloorRow] = []
    highest: bytes = NONE
    """The highest ballot that the node was ever shown."""


class PurgeRequest(msgspec.Struct, array_like=True):
    """Orders a node to take a floor for slots, each with the digest that it must have; or, where ``final``, to forget
    what lies below it."""

    header: Header
    floor: bytes
    slots: list[tuple[int, int]]
    final: bool


class PurgeReply(msgspec.Struct, array_like=True):
    """The slots of which it was done."""

    format: int
    epoch: int
    slots: list[int]


class VerifyRequest(msgspec.Struct, array_like=True):
    """Has a node read all that it holds of ranges of slots (both ends included, ascending)."""

    header: Header
    ranges: list[tuple[int, int]]


class VerifyReply(msgspec.Struct, array_like=True):
    """In how many of the slots something cannot be read, and the slot at which to go on, None at the end."""

    format: int
    epoch: int
    damaged: int
    next: int | None = None


class HintsRequest(msgspec.Struct, array_like=True):
    """Asks for hints for an owner, by key, strictly after ``after``; those in ``done`` are forgotten first, unless they
    have become newer than the ballot that is named."""

    header: Header
    owner: str
    after: bytes
    limit: int
    done: list[tuple[bytes, bytes]] = []


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
    slots: list[int]


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
    ranges: list[tuple[int, int]]
    first: int
    sources: list[Source]
    needed: int


class PullReply(msgspec.Struct, array_like=True):
    """How many records were copied, with how many bytes. ``next`` is the slot to go on from, None at the end.

    ``disputed`` are keys on which the sources differ, or which the node has promised not to take: somebody has to
    propose them again.
    """

    format: int
    epoch: int
    copied: int
    size: int
    disputed: list[bytes]
    next: int | None = None
    floors_left: int = 0
    """Slots whose floor has to wait, since some of their keys are disputed."""


class DropRequest(msgspec.Struct, array_like=True):
    """Orders a node to forget the slots of these ranges (both ends included).

    It owns none of them in this epoch, or what it holds does not count. So an order may come twice, or late: once the
    node owns them it carries another epoch, and refuses it.
    """

    header: Header
    ranges: list[tuple[int, int]]


class KeysRequest(msgspec.Struct, array_like=True):
    """Asks for keys that begin with ``prefix``, strictly after ``after``, in the order of their bytes."""

    header: Header
    prefix: bytes
    after: bytes
    limit: int


class KeyRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One key that holds a record here: whether it is a value, and when that expires (0 for never)."""

    key: bytes
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
    first: int
    limit: int


class SlotKeysPage(msgspec.Struct, array_like=True):
    """Keys in order of slot and key, and the slot at which to go on, None at the end.

    A key that cannot be read is said to hold a value: who compares what owners say has to look then.
    """

    format: int
    epoch: int
    rows: list[KeyRow]
    next: int | None = None


class DueRequest(msgspec.Struct, array_like=True):
    """Asks for values that expire by ``until_ms``, the earliest first, strictly after ``after``."""

    header: Header
    until_ms: int
    after: tuple[int, bytes] | None
    limit: int


class DuePage(msgspec.Struct, array_like=True):
    """When values expire, and their keys, and whether more may follow."""

    format: int
    epoch: int
    rows: list[tuple[int, bytes]]
    more: bool


class Announcement(msgspec.Struct, array_like=True):
    """Shows a node an epoch and the state document that belongs to it."""

    header: Header
    state: bytes


class BackupRequest(msgspec.Struct, array_like=True):
    """Asks a node to keep a backup of this name, or how far it is with it: the same question twice is harmless.

    ``state`` is the state document of the sender's epoch. Without ``begin`` nothing is begun. ``run`` is what the parts
    of one backup have in common, and no other backup has, be it of the same name; empty from who does not know it.
    """

    header: Header
    name: str
    state: bytes = b""
    begin: bool = True
    run: str = ""


class BackupReply(msgspec.Struct, array_like=True):
    """How far a node is with a backup: bytes read and written down of how many; ``folder`` is on the node's machine.

    ``trouble`` says why it failed.
    """

    format: int
    done: int
    total: int
    finished: bool
    folder: str = ""
    trouble: str = ""


class Kept(msgspec.Struct):
    """One backup that a node keeps, as JSON at ``/node/v1/backups``."""

    name: str
    made_ms: int
    epoch: int
    keys: int
    bytes: int
    file_bytes: int
    folder: str
    run: str = ""


class KeptBackups(msgspec.Struct):
    """All of them, by name."""

    backups: list[Kept]


class Info(msgspec.Struct):
    """Who a node is, as JSON at ``/node/v1/info``. ``cluster`` and ``member`` are empty until it has joined one."""

    role: str
    format: int
    cluster: str
    member: str
    incarnation: str
    epoch: int
    engine: str
    keys: int
    bytes: int
    now_ms: int
    version: str
    hints: dict[str, int] = {}
    """Hints by the member they are for."""
    marks: int = 0
    """Slots that are to be repaired."""
    spoiled: bool = False
    """Whether part of its data cannot be read at all, so that it has to be renewed."""
    uptime_s: float | None = None
    """How long it has been serving; None of a node that does not say, as those of before did not."""
    free_bytes: int | None = None
    """The room that is left on its disk; None as well for an engine without one."""
    sync: str = ""
    """When what it answers gets to its disk: ``always`` before, at an ``interval``, or ``never``; empty if unsaid."""
    oldest_format: int = 0
    """The oldest format that it reads, ``format`` being the newest; 0 of builds that read that one alone."""

    def reads(self, form: int) -> bool:
        """Say whether it understands messages of a format."""
        return (self.oldest_format or self.format) <= form <= self.format

    @property
    def forgetful(self) -> bool:
        """Whether a restart empties the node, so that nothing can be hoped for from its return."""
        return self.engine == "memory"


class Join(msgspec.Struct):
    """Gives a node its identity, as JSON to ``/node/v1/join``."""

    cluster: str
    member: str


encode = msgspec.msgpack.Encoder().encode
batch_decoder = msgspec.msgpack.Decoder(Batch)
batch_reply_decoder = msgspec.msgpack.Decoder(BatchReply)
page_request_decoder = msgspec.msgpack.Decoder(PageRequest)
page_decoder = msgspec.msgpack.Decoder(Page)
keys_request_decoder = msgspec.msgpack.Decoder(KeysRequest)
keys_page_decoder = msgspec.msgpack.Decoder(KeysPage)
slot_keys_request_decoder = msgspec.msgpack.Decoder(SlotKeysRequest)
slot_keys_page_decoder = msgspec.msgpack.Decoder(SlotKeysPage)
due_request_decoder = msgspec.msgpack.Decoder(DueRequest)
due_page_decoder = msgspec.msgpack.Decoder(DuePage)
digests_request_decoder = msgspec.msgpack.Decoder(DigestsRequest)
digests_decoder = msgspec.msgpack.Decoder(Digests)
pull_request_decoder = msgspec.msgpack.Decoder(PullRequest)
pull_reply_decoder = msgspec.msgpack.Decoder(PullReply)
purge_request_decoder = msgspec.msgpack.Decoder(PurgeRequest)
purge_reply_decoder = msgspec.msgpack.Decoder(PurgeReply)
verify_request_decoder = msgspec.msgpack.Decoder(VerifyRequest)
verify_reply_decoder = msgspec.msgpack.Decoder(VerifyReply)
hints_request_decoder = msgspec.msgpack.Decoder(HintsRequest)
hints_page_decoder = msgspec.msgpack.Decoder(HintsPage)
marks_request_decoder = msgspec.msgpack.Decoder(MarksRequest)
marks_decoder = msgspec.msgpack.Decoder(Marks)
drop_request_decoder = msgspec.msgpack.Decoder(DropRequest)
announcement_decoder = msgspec.msgpack.Decoder(Announcement)
backup_request_decoder = msgspec.msgpack.Decoder(BackupRequest)
backup_reply_decoder = msgspec.msgpack.Decoder(BackupReply)


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
