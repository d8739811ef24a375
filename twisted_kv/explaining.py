"""What is known about one key: where it lives, what each of its owners holds, and what a read would make of that."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import isinf
from typing import Any, NamedTuple

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from .errors import ChangeUnderWay, KvError
from .limits import Limits
from .membership import Seat
from .names import Key, NodeId
from .peers.control import Control
from .peers.queue import Queues
from .quorum import Electorate, met, required
from .register import FETCH, Op, Reply
from .ring import fnv1a, position, slot_of
from .together import every
from .versions import COUNTER_BITS, NONE, Record, decode_record
from .views import View
from .wire.joining import Info

SYNCED_ALWAYS = "always"
"""What a node calls it where no answer leaves before what it shows is on disk."""


class Said(NamedTuple):
    """What one owner says of the key: its answer, or why there is none."""

    reply: Reply | None
    error: str = ""

    @property
    def record(self) -> Record | None:
        return decode_record(self.reply.record) if self.reply is not None and self.reply.record else None


class Asking:
    """Asks a key's owners, all of them, and waits for each until it answers or time is up. See ``peers.peer.Asker``."""

    def __init__(
        self, clock: IReactorTime, queues: Queues, owners: Sequence[NodeId], key: Key, timeout_s: float
    ) -> None:
        self._owners = owners
        self._said: dict[NodeId, Said] = {}
        self.done: Deferred[dict[NodeId, Said]] = Deferred()
        self._timer: IDelayedCall = clock.callLater(timeout_s, self._finish)
        for node in owners:
            queues.by_node[node].ask(self, 0, Op(FETCH, key))

    def answered(self, node: NodeId, round_: int, reply: Reply, resent: bool) -> None:
        self._take(node, Said(reply))

    def unanswered(self, node: NodeId, round_: int, error: str, arrived: bool) -> None:
        self._take(node, Said(None, error))

    def outdated(self, node: NodeId, round_: int) -> None:
        self._take(node, Said(None, "the epoch has moved"))

    def _take(self, node: NodeId, said: Said) -> None:
        self._said.setdefault(node, said)
        if len(self._said) == len(self._owners):
            self._finish()

    def _finish(self) -> None:
        if self.done.called:
            return
        if self._timer.active():
            self._timer.cancel()
        self.done.callback({node: self._said.get(node, Said(None, "no answer in time")) for node in self._owners})


class Explainer:
    """Tells all that one proxy can find out about a key.

    :param now_ms: wall time, by which ages are told and expiry is judged.
    :param view: gives the view that the proxy acts on now.
    :param info_of: gives what a member said of itself when it was last asked, if it answered.
    :param round_trips: gives within how many seconds half, and nearly all, of a member's answers came lately.
    """

    def __init__(
        self,
        clock: IReactorTime,
        now_ms: Callable[[], int],
        limits: Limits,
        queues: Queues,
        control: Control,
        view: Callable[[], View | None],
        info_of: Callable[[Seat], Info | None],
        round_trips: Callable[[Seat], tuple[float, float] | None],
    ) -> None:
        self._clock = clock
        self._now_ms = now_ms
        self._limits = limits
        self._queues = queues
        self._control = control
        self._view = view
        self._info_of = info_of
        self._round_trips = round_trips

    async def explain(self, key: Key, timeout_s: float | None = None) -> dict[str, Any]:
        """Tell all that is known about a key, in the shape that ``docs/kvctl.md`` describes.

        :raises ChangeUnderWay: if the cluster is moving data, and clients have to wait.
        :raises RingEmpty: if nobody could own it.
        """
        view = self._view()
        if view is None or not view.open:
            raise ChangeUnderWay("the cluster is moving data, and clients wait until it has moved", "try again")
        if not view.seats:
            view.ring.owners(key)  # which says so
        electorate = view.electorates[slot_of(key)]
        # Before the owners are asked: a clock of theirs may be read by what they hold.
        standing = {node: rank.name.lower() for node, rank in self._queues.standing().items()}
        timeout_s = timeout_s or self._limits.operation_timeout_s
        said = await Asking(self._clock, self._queues, electorate.nodes, key, timeout_s).done
        hints = await self._hints(view, electorate.nodes, key, said)
        now_ms = self._now_ms()
        return {
            "key": key.decode("utf-8", "backslashreplace"),
            "hash": fnv1a(key),
            "position": position(key),
            "slot": slot_of(key),
            "epoch": view.epoch,
            "owners": [
                self._owner(view.seats[node], standing.get(node, "good"), said[node], now_ms)
                for node in electorate.nodes
            ],
            "hints": hints,
            "verdict": verdict(electorate, said, now_ms),
            "purge": purge_blocks(said, hints, view, now_ms, self._limits),
        }

    def _owner(self, seat: Seat, standing: str, said: Said, now_ms: int) -> dict[str, Any]:
        info, trips = self._info_of(seat), self._round_trips(seat)
        found: dict[str, Any] = {
            "id": seat.id,
            "url": seat.url,
            "state": standing,
            "round_trip_ms": trips and {"p50": round(trips[0] * 1e3, 3), "p99": round(trips[1] * 1e3, 3)},
        }
        if said.reply is None:
            return found | {"error": said.error}
        found |= {"accepted": _shown(said.reply.accepted), "promised": _shown(said.reply.promised)}
        record = said.record
        if record is None:
            return found | {"holds": "nothing"}
        found |= {
            "version": record.version.hex(),
            "holds": "value" if record.value is not None else "tombstone",
            "age_ms": max(0, now_ms - drawn_ms(record.version)),
            "synced": None if info is None or not info.sync else info.sync == SYNCED_ALWAYS,
        }
        if record.value is not None:
            found |= {
                "bytes": len(record.value),
                "expires_ms": record.expires_ms or None,
                "expired": record.expired(now_ms),
            }
        return found

    async def _hints(
        self, view: View, owners: Sequence[NodeId], key: Key, said: Mapping[NodeId, Said]
    ) -> list[dict[str, str]]:
        """Look which owners keep a hint of this key for another one. Whoever does not answer is passed over."""
        found: list[dict[str, str]] = []

        async def look(keeper: NodeId, owner: NodeId) -> None:
            try:
                page = await self._control.hints(
                    view.seats[keeper], view.state, owner, just_before(key, self._limits), 1
                )
            except KvError:
                return
            if any(row.key == key for row in page.rows):
                found.append({"for": owner, "kept_by": keeper})

        pairs = [(keeper, owner) for keeper in owners for owner in owners if keeper != owner]
        await every(look(keeper, owner) for keeper, owner in pairs if said[keeper].reply is not None)
        return sorted(found, key=lambda hint: (hint["for"], hint["kept_by"]))


def just_before(key: Key, limits: Limits) -> Key:
    """Give the greatest key, no longer than one may be, that comes before a key: pages begin strictly after one."""
    last = key[-1]
    if not last:
        return Key(key[:-1])
    head = key[:-1] + bytes([last - 1])
    return Key(head + b"\xff" * (limits.key_bytes_max - len(head)))


def drawn_ms(ballot: bytes) -> int:
    """Say when a ballot was drawn, by the clock of whoever drew it, in milliseconds of wall time."""
    return int.from_bytes(ballot[:8], "big") >> COUNTER_BITS


def verdict(electorate: Electorate, said: Mapping[NodeId, Said], now_ms: int) -> dict[str, Any]:
    """Say what a read at ``strong`` would answer on what the owners say now, and why.

    Newer always means the accepted ballot, which every movement of data keeps; the version is the name of what was
    written under it. A read asks a bare majority: where one can be found that has not seen the newest, ``or`` says what
    it would answer. Both are right, since whoever wrote the newest has no answer yet.
    """
    replies = {node: one.reply for node, one in said.items() if one.reply is not None}
    needed = required(electorate.quorum)
    if not met(electorate.quorum, electorate.voters(replies)):
        why = f"{len(replies)} of {len(electorate.nodes)} owners answer, and a read needs {needed}"
        return {"answer": "unreachable", "version": None, "or": None, "winners": [], "why": why}
    newest = max(reply.accepted for reply in replies.values())
    winners = [node for node, reply in replies.items() if reply.accepted == newest]
    rest = [node for node in replies if node not in winners]
    other = (
        max(rest, key=lambda node: replies[node].accepted) if met(electorate.quorum, electorate.voters(rest)) else None
    )
    return {
        **_answer(said[winners[0]].record, now_ms),
        "or": _answer(said[other].record, now_ms) if other is not None else None,
        "winners": winners,
        "why": _why(electorate, replies, newest, winners)
        + (f"; one that asks only {', '.join(rest)} does not meet it" if other is not None else ""),
    }


def _answer(record: Record | None, now_ms: int) -> dict[str, Any]:
    if record is None:
        return {"answer": "absent", "version": None}
    if record.value is None:
        return {"answer": "deleted", "version": record.version.hex()}
    return {"answer": "expired" if record.expired(now_ms) else "value", "version": record.version.hex()}


def _why(electorate: Electorate, replies: Mapping[NodeId, Reply], newest: bytes, winners: Sequence[NodeId]) -> str:
    who, count, needed = ", ".join(winners), len(electorate.nodes), required(electorate.quorum)
    if newest == NONE:
        return f"none of {len(replies)} owners has ever accepted anything for it, or what they had was purged"
    if met(electorate.quorum, electorate.voters(winners)):
        others = len(replies) - len(winners)
        rest = f"; {others} older, which repair or a hint brings up" if others else ""
        return f"the same accepted ballot on {len(winners)} of {count} owners, where {needed} are enough{rest}"
    promised = [node for node, reply in replies.items() if reply.promised > newest]
    if promised:
        return (
            f"the highest accepted ballot is on {who} alone, and {', '.join(promised)} promised a higher one: "
            "a read that meets it proposes that record again before it answers"
        )
    return (
        f"the highest accepted ballot is on {who} alone: a read that meets it writes it to the others before it answers"
    )


def purge_blocks(
    said: Mapping[NodeId, Said], hints: Sequence[Mapping[str, str]], view: View, now_ms: int, limits: Limits
) -> dict[str, Any] | None:
    """Say what keeps a tombstone from being forgotten (``purging.py``); None where no owner holds one."""
    graves = {node: one.record for node, one in said.items() if one.record is not None and one.record.value is None}
    if not graves:
        return None
    blocks = [f"{node} does not answer: {one.error}" for node, one in said.items() if one.reply is None]
    if len({one.reply.accepted for one in said.values() if one.reply is not None}) > 1:
        blocks.append("its owners do not hold the same; repair makes them alike")
    if view.state.change is not None or view.state.pending:
        blocks.append("the ring is changing; nothing is purged meanwhile")
    blocks += [f"{hint['kept_by']} keeps a hint of it for {hint['for']}" for hint in hints]
    if isinf(limits.purge_grace_s):
        blocks.append("purging is switched off: purge_grace_s is infinite")
    else:
        age_s = (now_ms - max(drawn_ms(record.version) for record in graves.values())) / 1000
        if age_s < limits.purge_grace_s:
            blocks.append(
                f"it is {max(0.0, age_s):.0f} s old, and is kept for {limits.purge_grace_s:.0f} s at the least"
            )
    return {"held_by": list(graves), "blocked_by": blocks}


def _shown(ballot: bytes) -> str | None:
    return ballot.hex() if ballot != NONE else None
