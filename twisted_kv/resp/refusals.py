"""Errors to RESP, in one place.

What Redis has a code for goes under that one. An operation of unknown outcome is an error of its own: clients send
again what a lost connection has left open, and would count twice.
"""

from __future__ import annotations

from .. import errors
from ..errors import KvError, Unreached
from .replies import error

UNKNOWN = "UNKNOWN the write may have been applied"
"""Begins the reply to a write that too few owners have confirmed, and some may have taken."""

CODES: dict[type[KvError], str] = {
    errors.MalformedBody: "ERR",
    errors.MalformedKey: "ERR",
    errors.MalformedRequest: "ERR",
    errors.HeadTooLarge: "ERR",
    errors.RequestTooSlow: "ERR",
    errors.BadParameter: "ERR",
    errors.BadConfig: "ERR",
    errors.ValueTooLarge: "ERR",
    errors.BodyTooLarge: "ERR",
    errors.NoSuchRoute: "ERR",
    errors.WrongMethod: "ERR",
    errors.NotText: "ERR",
    errors.KeyAbsent: "ERR",
    errors.PreconditionFailed: "ERR",
    errors.ForeignOrigin: "ERR",
    errors.ForeignHost: "ERR",
    errors.TokenMissing: "NOAUTH",
    errors.TokenTooWeak: "NOPERM",
    errors.Unreached: "NOREPLICAS",
    errors.DeadlinePassed: "NOREPLICAS",
    errors.NoRoom: "OOM",
    errors.Overloaded: "TRYAGAIN",
    errors.NoNodes: "CLUSTERDOWN",
    errors.ChangeUnderWay: "TRYAGAIN",
    errors.NotAMember: "CLUSTERDOWN",
    errors.SlotsLost: "CLUSTERDOWN",
    errors.Damaged: "ERR",
    errors.DiskBusy: "TRYAGAIN",
    errors.DiskFull: "OOM",
    errors.DiskFailed: "ERR",
    errors.Stopping: "TRYAGAIN",
    errors.WorkerSilent: "TRYAGAIN",
    errors.NotANode: "ERR",
    errors.ForeignNode: "ERR",
    errors.NodeHasData: "ERR",
    errors.ChangeFailed: "TRYAGAIN",
    errors.ChangeWaits: "TRYAGAIN",
    errors.StateBehind: "CLUSTERDOWN",
    errors.StateUnusable: "CLUSTERDOWN",
    errors.NothingLost: "ERR",
    errors.MayRemember: "ERR",
    errors.NoSuchMember: "ERR",
    errors.NoSuchTask: "ERR",
    errors.TaskStays: "ERR",
    errors.NoSuchBackup: "ERR",
    errors.BackupExists: "ERR",
    errors.BackupFailed: "ERR",
    errors.PeerRefused: "TRYAGAIN",
    errors.OtherEpoch: "TRYAGAIN",
    errors.PeerUnreachable: "TRYAGAIN",
    errors.PeerSilent: "TRYAGAIN",
}
"""Every leaf of the tree; a test demands it."""

BUG = error("ERR this is a bug: the request ran into a fault of the program, and the proxy's log holds the details")


def reply_to(trouble: KvError) -> bytes:
    """Give the reply that an error makes."""
    text = f"{trouble.detail} ({trouble.hint})" if trouble.hint else trouble.detail
    if isinstance(trouble, Unreached) and trouble.maybe_applied:
        return error(f"{UNKNOWN}: {text}")
    return error(f"{CODES[type(trouble)]} {text}")
