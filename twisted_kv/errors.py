"""One tree of errors. Each leaf has a stable slug and carries its evidence.

``web/answers.py`` maps every leaf to HTTP, and a test demands that it does. What is not in this tree is a bug.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import ClassVar

from .names import NodeId


class KvError(Exception):
    """Expected trouble: ``detail`` says what happened and why, ``hint`` what to do about it."""

    slug: ClassVar[str] = ""
    title: ClassVar[str] = ""
    request_id: str = ""
    """What the operation is called in the log, where there is a line about it."""

    def __init__(self, detail: str, hint: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.hint = hint


# What the caller sent cannot be served; nothing was stored and no replica was asked.


class BadInput(KvError):
    """The request itself is wrong. Nothing was contacted, nothing was stored."""


class MalformedBody(BadInput):
    slug = "malformed-body"
    title = "The body could not be read"


class MalformedKey(BadInput):
    slug = "malformed-key"
    title = "The key is not usable"


class ValueTooLarge(BadInput):
    slug = "value-too-large"
    title = "The value is too large"


class BodyTooLarge(BadInput):
    slug = "body-too-large"
    title = "The request body is too large"


class MalformedRequest(BadInput):
    slug = "malformed-request"
    title = "The request is not HTTP, or not beyond doubt"


class HeadTooLarge(BadInput):
    slug = "head-too-large"
    title = "The request's head is too large"


class RequestTooSlow(BadInput):
    slug = "request-too-slow"
    title = "The request did not come in time"


class BadParameter(BadInput):
    slug = "bad-parameter"
    title = "A parameter is wrong"


class ForeignOrigin(BadInput):
    slug = "foreign-origin"
    title = "The call comes from another site's page"


class ForeignHost(BadInput):
    slug = "foreign-host"
    title = "The call is meant for another host"


class TokenMissing(BadInput):
    """``shown`` says whether there was one, which is not known here."""

    slug = "token-missing"
    title = "A token is needed here"

    def __init__(self, detail: str, hint: str = "", *, shown: bool = False) -> None:
        super().__init__(detail, hint)
        self.shown = shown


class TokenTooWeak(BadInput):
    slug = "token-too-weak"
    title = "The token does not allow this"


class NoSuchRoute(BadInput):
    slug = "no-such-route"
    title = "There is nothing at this path"


class WrongMethod(BadInput):
    slug = "wrong-method"
    title = "This path does not take that method"


class BadConfig(BadInput):
    slug = "bad-config"
    title = "The configuration is wrong"


# What the store answers.


class KeyAbsent(KvError):
    slug = "key-absent"
    title = "There is no such key"


class PreconditionFailed(KvError):
    """A condition of the request does not hold; nothing was changed. ``etag`` is what the key holds, if a value."""

    slug = "precondition-failed"
    title = "The key does not hold what was expected"

    def __init__(self, detail: str, hint: str = "", *, etag: str | None = None) -> None:
        super().__init__(detail, hint)
        self.etag = etag


class NotText(KvError):
    slug = "not-text"
    title = "The value is not UTF-8 text"


class Unreached(KvError):
    """Too few owners answered for the consistency level.

    ``maybe_applied`` is False only if it is certain that the change can never take effect.
    """

    slug = "quorum-unreached"
    title = "Too few replicas answered"

    def __init__(
        self,
        detail: str,
        hint: str = "",
        *,
        required: int = 0,
        acks: int = 0,
        maybe_applied: bool | None = None,
        etag: str | None = None,
        replicas: Mapping[NodeId, str] | None = None,
    ) -> None:
        super().__init__(detail, hint)
        self.required = required
        self.acks = acks
        self.maybe_applied = maybe_applied
        self.etag = etag
        self.replicas = dict(replicas or {})

    def about(self, etag: str) -> Unreached:
        """Say the same to whoever attempted another version."""
        error = copy(self)
        error.etag = etag
        return error


class NoRoom(Unreached):
    slug = "no-room"
    title = "Too few replicas have room left"


class DeadlinePassed(Unreached):
    slug = "deadline-passed"
    title = "The deadline passed before enough replicas answered"


class Overloaded(KvError):
    slug = "overloaded"
    title = "Too much is under way"


class NoNodes(KvError):
    slug = "no-nodes"
    title = "The cluster has no storage node yet"


RingEmpty = NoNodes
"""The ring's own name for the same trouble."""


class ChangeUnderWay(KvError):
    slug = "change-under-way"
    title = "The cluster is moving data"


class NotAMember(KvError):
    slug = "not-a-member"
    title = "The node belongs to no cluster"


class SlotsLost(KvError):
    slug = "slots-lost"
    title = "Too few replicas remember this part of the data"


# What a node's disk does.


class Damaged(KvError):
    """What is stored cannot be read, or its checksum fails: it is not shown, not copied, and does not vote."""

    slug = "record-damaged"
    title = "What is stored here cannot be read"


class DiskBusy(KvError):
    slug = "disk-busy"
    title = "The disk cannot keep up"


class DiskFull(KvError):
    slug = "disk-full"
    title = "The disk is full"


class DiskFailed(KvError):
    slug = "disk-failed"
    title = "The disk has failed"


class WorkerSilent(KvError):
    slug = "worker-silent"
    title = "The proxy's first worker does not answer"


class Stopping(KvError):
    slug = "stopping"
    title = "The daemon is stopping"


# What a change of the cluster runs into.


class NotANode(KvError):
    slug = "not-a-node"
    title = "No storage node answers at this URL"


class ForeignNode(KvError):
    slug = "foreign-node"
    title = "The node belongs to another cluster"


class NodeHasData(KvError):
    slug = "node-has-data"
    title = "The node holds data that is not this cluster's"


class ChangeWaits(KvError):
    """Nobody has begun it so far."""

    slug = "change-waits"
    title = "The change waits for its turn"


class ChangeFailed(KvError):
    slug = "change-failed"
    title = "The change was not carried out"


class StateBehind(KvError):
    slug = "state-behind"
    title = "The state store is behind the nodes"


class StateUnusable(KvError):
    slug = "state-unusable"
    title = "The cluster's state cannot be used"


class MayRemember(KvError):
    slug = "may-remember"
    title = "A member that does not answer may hold the newest values"


class NothingLost(KvError):
    slug = "nothing-lost"
    title = "There is no loss to accept"


class NoSuchMember(KvError):
    slug = "no-such-member"
    title = "There is no such member"


class NoSuchBackup(BadInput):
    slug = "no-such-backup"
    title = "There is no such backup"


class BackupExists(KvError):
    slug = "backup-exists"
    title = "There is a backup of that name"


class BackupFailed(KvError):
    slug = "backup-failed"
    title = "The backup could not be made"


class NoSuchTask(KvError):
    slug = "no-such-task"
    title = "There is no such task"


class TaskStays(KvError):
    slug = "task-stays"
    title = "The task cannot be taken back"


# What becomes of a request to a node.


class PeerRefused(KvError):
    slug = "peer-refused"
    title = "The node refused the whole batch"


class OtherEpoch(PeerRefused):
    """Proxy and node disagree about the epoch, or the node is in one in which clients wait. It passes."""

    slug = "other-epoch"
    title = "The node is in another epoch"


class PeerUnreachable(KvError):
    """The request did not leave, so it is certain that it had no effect."""

    slug = "peer-unreachable"
    title = "The node could not be reached"


class PeerSilent(KvError):
    """The request may have arrived; its effect is unknown."""

    slug = "peer-silent"
    title = "The node did not answer"
