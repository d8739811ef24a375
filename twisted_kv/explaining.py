"""What is known about one key: where it lives, and what each of its owners holds of it."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .errors import ChangeUnderWay
from .names import Key, NodeId
from .peers.queue import Queues
from .register import FETCH, Op, Reply
from .ring import fnv1a, position, slot_of
from .versions import NONE, decode_record
from .views import View


class Explaining:
    """Asks a key's owners, all of them, and waits for each until it answers or time is up. See ``peers.peer.Asker``."""

    def __init__(self, clock: IReactorTime, queues: Queues, view: View, key: Key, timeout_s: float) -> None:
        self._key = key
        self._view = view
        self._owners = view.electorates[slot_of(key)].nodes
        self._said: dict[NodeId, dict[str, Any]] = {}
        self._standing = {node: rank.name.lower() for node, rank in queues.standing().items()}
        self.done: Deferred[dict[str, Any]] = Deferred()
        self._timer: IDelayedCall = clock.callLater(timeout_s, self._finish)
        for node in self._owners:
            queues.by_node[node].ask(self, 0, Op(FETCH, key))

    def answered(self, node: NodeId, round_: int, reply: Reply, resent: bool) -> None:
        found: dict[str, Any] = {"accepted": _shown(reply.accepted), "promised": _shown(reply.promised)}
        if reply.record:
            record = decode_record(reply.record)
            found["version"] = record.version.hex()
            found["holds"] = "value" if record.value is not None else "tombstone"
            if record.value is not None:
                found["bytes"] = len(record.value)
                found["expires_ms"] = record.expires_ms or None
        else:
            found["holds"] = "nothing"
        self._take(node, found)

    def unanswered(self, node: NodeId, round_: int, error: str, arrived: bool) -> None:
        self._take(node, {"error": error})

    def outdated(self, node: NodeId, round_: int) -> None:
        self._take(node, {"error": "the epoch has moved"})

    def _take(self, node: NodeId, found: dict[str, Any]) -> None:
        self._said.setdefault(node, found)
        if len(self._said) == len(self._owners):
            self._finish()

    def _finish(self) -> None:
        if self.done.called:
            return
        if self._timer.active():
            self._timer.cancel()
        self.done.callback(
            {
                "key": self._key.decode("utf-8", "backslashreplace"),
                "hash": fnv1a(self._key),
                "position": position(self._key),
                "slot": slot_of(self._key),
                "epoch": self._view.epoch,
                "owners": [
                    {
                        "id": node,
                        "url": self._view.seats[node].url,
                        "state": self._standing.get(node, "good"),
                        **self._said.get(node, {"error": "no answer in time"}),
                    }
                    for node in self._owners
                ],
            }
        )


def _shown(ballot: bytes) -> str | None:
    return ballot.hex() if ballot != NONE else None


def explain(
    clock: IReactorTime, queues: Queues, view: View | None, key: Key, timeout_s: float
) -> Deferred[dict[str, Any]]:
    """Tell all that is known about a key.

    :raises ChangeUnderWay: if the cluster is moving data.
    """
    if view is None or not view.open:
        raise ChangeUnderWay("the cluster is moving data, and clients wait until it has moved", "try again")
    return Explaining(clock, queues, view, key, timeout_s).done
