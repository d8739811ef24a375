"""Who a node is, and who may speak to it.

A node keeps no list of the others. What it knows of the cluster is who it is itself, the highest epoch it was shown,
and the newest state document as bytes that it hands to proxies which are behind.
"""

from __future__ import annotations

import msgspec
from twisted.logger import Logger

from .commit import NOTES, Commit
from .errors import DiskFailed, ForeignNode, OtherEpoch, PeerRefused
from .names import Epoch
from .storage.engine import Engine
from .wire.batches import (
    CLOSED_EPOCH,
    OLD_EPOCH,
    OTHER_CLUSTER,
    OTHER_INCARNATION,
    OTHER_MEMBER,
    UNKNOWN_FORMAT,
    BatchReply,
)
from .wire.header import FORMAT, OLDEST_FORMAT, UNDECODED, Count, Header, Label, formats
from .wire.joining import Join


class _Notes(msgspec.Struct, frozen=True):
    """What a node keeps about itself beside the data."""

    cluster: Label = ""
    member: Label = ""
    epoch: Count = 0
    open: bool = True


class Identity:
    """A node's name, life and epoch. What changes here is synced before any answer leaves that rests on it.

    :param incarnation: the name of this life of the node's memory.
    :raises DiskFailed: if what was noted of it cannot be read.
    """

    log = Logger()

    def __init__(self, engine: Engine, commit: Commit, incarnation: str) -> None:
        self._engine = engine
        self._commit = commit
        self.incarnation = incarnation
        kept = engine.read_note("identity")
        try:
            self._notes = msgspec.json.decode(kept, type=_Notes) if kept else _Notes()
        except UNDECODED as error:
            raise DiskFailed(
                f"what this node has noted of who it is cannot be read: {error}",
                "move its folder away and start it empty: it is given back what it held by the others",
            ) from None
        self._state = engine.read_note("state") or b""

    @property
    def cluster(self) -> str:
        return self._notes.cluster

    @property
    def member(self) -> str:
        """Empty before the node has joined a cluster."""
        return self._notes.member

    @property
    def epoch(self) -> Epoch:
        return Epoch(self._notes.epoch)

    @property
    def open(self) -> bool:
        """Whether clients are served in this epoch; not before this node was shown one."""
        return self._notes.open and self._notes.epoch > 0

    def take(self, join: Join) -> None:
        """Become a member; becoming the same one twice is harmless.

        :raises ForeignNode: if this node is somebody else already.
        """
        notes = self._notes
        if not notes.member:
            self._keep(_Notes(join.cluster, join.member))
            self.log.info("joined cluster {cluster} as {member}", cluster=join.cluster, member=join.member)
        elif (notes.cluster, notes.member) != (join.cluster, join.member):
            raise ForeignNode(
                f"this node is member {notes.member} of cluster {notes.cluster}",
                "remove it there first, or start it with an empty data directory",
            )

    def keep_state(self, state: bytes) -> None:
        """Keep the state document of the present epoch."""
        self._engine.write_note("state", state)
        self._commit.wrote([NOTES])
        self._state = state

    def refusal(self, header: Header, copying: bool) -> BatchReply | None:
        """Say why a message is not for this node as it is now, or adopt its epoch and say nothing."""
        notes = self._notes
        if not OLDEST_FORMAT <= header.format <= FORMAT:
            known = formats(OLDEST_FORMAT, FORMAT)
            return self.refuse(UNKNOWN_FORMAT, f"format {header.format} is not known here, only {known} is")
        if header.cluster != notes.cluster or not notes.cluster:
            return self.refuse(OTHER_CLUSTER, f"this node belongs to cluster {notes.cluster or '(none yet)'}")
        if header.member != notes.member:
            return self.refuse(OTHER_MEMBER, f"this node is member {notes.member}")
        if header.incarnation != self.incarnation:
            return self.refuse(OTHER_INCARNATION, "this node forgot what it held and waits to be rebuilt")
        if header.epoch < notes.epoch:
            return self.refuse(OLD_EPOCH, f"this node is at epoch {notes.epoch}")
        if header.epoch > notes.epoch:
            self._keep(_Notes(notes.cluster, notes.member, header.epoch, header.open))
        if not self._notes.open and not copying:
            return self.refuse(CLOSED_EPOCH, "data is being moved; clients wait")
        return None

    def refuse(self, refusal: str, detail: str) -> BatchReply:
        return BatchReply(FORMAT, self._notes.epoch, [], refusal, detail, self._state)

    def admit(self, header: Header, copying: bool) -> None:
        """:raises PeerRefused: if the message means another node or life; ``OtherEpoch`` if another epoch."""
        refusal = self.refusal(header, copying)
        if refusal is not None:
            kind = OtherEpoch if refusal.refusal in (OLD_EPOCH, CLOSED_EPOCH) else PeerRefused
            raise kind(refusal.detail)

    def _keep(self, notes: _Notes) -> None:
        self._engine.write_note("identity", msgspec.json.encode(notes))
        self._commit.wrote([NOTES])
        self._notes = notes
