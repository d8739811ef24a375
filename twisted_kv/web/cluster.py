"""The cluster: its members, where keys live, whether it is well, and what it counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from klein import Klein

from .. import __version__
from ..bodies import checked_key, parse_json
from ..errors import MalformedKey, SlotsLost, StateBehind, StateUnusable
from ..limits import Limits
from ..membership import Seat, behind, is_leaving
from ..metrics import CONTENT_TYPE, ProxyMetrics
from ..mover import Mover
from ..names import NodeId
from ..quorum import Level, met
from ..ring import SLOTS, fnv1a, position, slot_of
from ..roster import Roster
from ..views import View
from .answers import answer, answer_json
from .calls.cluster import ACCEPT_LOSS, ADD_NODE, DESCRIBE, LOCATE, REMOVE_NODE, NodeBody
from .calls.health import METRICS, READY
from .health import add_liveness, answer_health
from .openapi.described import described
from .parameters import bytes_of, flag_of, name_in, refuse_unknown
from .tasks import task_of

Elsewhere: TypeAlias = Callable[[], Awaitable[list[str]]]
"""Gives the troubles that another process of this proxy knows of."""


async def nowhere() -> list[str]:
    """There is no other process."""
    return []


class ClusterDoor:
    """Answers about one proxy's cluster, as plain values."""

    def __init__(self, roster: Roster, mover: Mover, limits: Limits, default: Level) -> None:
        self.roster = roster
        self._mover = mover
        self._limits = limits
        self._default = default
        self._judged: tuple[View, frozenset[NodeId], int] | None = None

    def member_state(self, seat: Seat) -> str:
        """One of ``up``, ``down``, ``joining``, ``leaving`` and ``rebuilding``."""
        state = self.roster.state
        counted = state.seat(seat.id)
        if counted is None:
            return "joining"
        if is_leaving(state, seat.id):
            return "leaving"
        info = self.roster.probes.info_of(seat)
        if info is None:
            return "down"
        return "up" if info.incarnation == counted.incarnation else "rebuilding"

    def describe(self) -> dict[str, Any]:
        state, view = self.roster.state, self.roster.view
        assert view is not None
        shares = view.ring.owned_share() if state.members else {}
        joining = [seat for seat in state.change.seats if state.seat(seat.id) is None] if state.change else []
        joining += [wish.seat for wish in state.pending if state.seat(wish.seat.id) is None]
        progress = self._mover.filling
        change = state.change and {
            "kind": state.change.kind,
            "id": state.change.id,
            "done": progress.done if progress else 0,
            "total": progress.total if progress else 0,
        }
        return {
            "cluster_id": state.cluster_id,
            "epoch": state.epoch,
            "version": __version__,
            "replicas": state.replicas,
            "vnodes": state.vnodes,
            "consistency": self._default.value,
            "change": change,
            "pending": [
                {"id": wish.seat.id, "url": wish.seat.url, "weight": wish.seat.weight} for wish in state.pending
            ],
            "trouble": self._mover.trouble and self._mover.trouble.detail,
            "members": [self._member(seat, shares.get(NodeId(seat.id), 0.0)) for seat in (*state.members, *joining)],
        }

    def _member(self, seat: Seat, owned: float) -> dict[str, Any]:
        info = self.roster.probes.info_of(seat)
        sighting = self.roster.probes.sightings.get(NodeId(seat.id))
        trips = self.roster.probes.round_trips(seat)
        return {
            "id": seat.id,
            "url": seat.url,
            "weight": seat.weight,
            "zone": seat.zone,
            "state": self.member_state(seat),
            "error": sighting.error if sighting and sighting.error else None,
            "owned": round(owned, 6),
            "keys": info.keys if info else None,
            "bytes": info.bytes if info else None,
            "hints": self._hints_for(seat.id),
            "marks": info.marks if info else None,
            "epoch": info.epoch if info else None,
            "version": info.version if info else None,
            "engine": info.engine if info else None,
            "sync": info.sync or None if info else None,
            "uptime_s": info.uptime_s if info else None,
            "free_bytes": info.free_bytes if info else None,
            "clock_ahead_s": round(sighting.ahead_s, 3) if sighting and info else None,
            "round_trip_ms": trips and {"p50": round(trips.p50_s * 1e3, 3), "p99": round(trips.p99_s * 1e3, 3)},
        }

    def _hints_for(self, node: str) -> int:
        """Count the hints that wait for a member, as their keepers said when they were last asked."""
        infos = [self.roster.probes.info_of(seat) for seat in self.roster.state.members]
        return sum(info.hints.get(node, 0) for info in infos if info is not None)

    def locate(self, raw: bytes) -> dict[str, Any]:
        """Where a key lives.

        :raises MalformedKey: if it is none.
        :raises NoNodes: if nobody could own it.
        """
        key = checked_key(raw, self._limits)
        view = self.roster.view
        assert view is not None
        owners = view.ring.owners(key)
        return {
            "key": key.decode("utf-8", "backslashreplace"),
            "hash": fnv1a(key),
            "position": position(key),
            "slot": slot_of(key),
            "owners": [
                {"id": node, "url": view.seats[node].url, "state": self.member_state(view.seats[node])}
                for node in owners
            ],
        }

    def troubles(self) -> list[str]:
        """Why this proxy could not serve every key now; empty if it can."""
        view = self.roster.view
        if self.roster.awaited:
            return [f"{url} is not added yet" for url in sorted(self.roster.awaited)]
        if view is None or not view.seats:
            return ["no storage node has joined this cluster yet: POST /AddServer"]
        found = [] if view.open else ["the cluster is moving data; clients wait"]
        states = {node: self.member_state(seat) for node, seat in view.seats.items()}
        down = {node for node, said in states.items() if said in ("down", "rebuilding")}
        short = self._short_of(view, frozenset(down)) if down else 0
        if short:
            found.append(f"{short} of {SLOTS} slots have no majority of owners up: {', '.join(sorted(down))}")
        if isinstance(self._mover.trouble, (SlotsLost, StateBehind, StateUnusable)):
            found.append(f"{self._mover.trouble.detail}; {self._mover.trouble.hint}")
        if self.roster.ahead_of_store is not None:
            error = behind(self.roster.state, self.roster.ahead_of_store)
            found.append(f"{error.detail}; {error.hint}")
        ahead_s = self.roster.probes.clock_ahead_s()
        if ahead_s > self._limits.clock_ahead_s_max:
            found.append(f"this proxy's clock is {ahead_s:.0f} s ahead of most nodes'; set it right")
        return found

    def _short_of(self, view: View, down: frozenset[NodeId]) -> int:
        """Count the slots that have no majority of owners up. Whoever watches asks every second: what was counted for
        the same view and nodes still holds."""
        judged = self._judged
        if judged is None or judged[0] is not view or judged[1] != down:
            up = [node for node in view.seats if node not in down]
            electorates = Counter(view.electorates)
            short = sum(slots for one, slots in electorates.items() if not met(one.quorum, one.voters(up)))
            judged = self._judged = view, down, short
        return judged[2]


def add_cluster(app: Klein, door: ClusterDoor, metrics: ProxyMetrics, elsewhere: Elsewhere = nowhere) -> None:
    """Give a proxy's door the calls about the cluster."""

    @app.route("/v1/cluster", methods=["GET"])
    @described(DESCRIBE)
    def cluster(request: Any) -> bytes:
        return answer_json(request, door.describe())

    @app.route("/v1/cluster/nodes", methods=["POST"])
    @described(ADD_NODE)
    async def add_node(request: Any) -> bytes:
        body = parse_json(request.content.read(), NodeBody)
        seat = await door.roster.add(body.url, body.weight, body.zone)
        return answer_json(request, {"id": seat.id, "url": seat.url, "weight": seat.weight, "zone": seat.zone})

    @app.route("/v1/cluster/nodes/", methods=["DELETE"])
    @described(REMOVE_NODE)
    async def remove_node(request: Any) -> bytes:
        refuse_unknown(request, *REMOVE_NODE.known)
        node = name_in(request)
        if await door.roster.leave(node, flag_of(request, b"dead")):
            request.setResponseCode(204)
            return b""
        request.setResponseCode(202)
        return answer_json(request, {"task": task_of(door.roster.state, node)})

    @app.route("/v1/cluster/accept-loss", methods=["POST"])
    @described(ACCEPT_LOSS)
    async def accept_loss(request: Any) -> bytes:
        refuse_unknown(request, *ACCEPT_LOSS.known)
        dead = {node for given in request.args.get(b"dead", ()) for node in given.decode("utf-8", "replace").split(",")}
        return answer_json(request, {"rebuilt": await door.roster.accept_loss(dead)})

    @app.route("/v1/ring/locate", methods=["GET"])
    @described(LOCATE)
    def locate(request: Any) -> bytes:
        refuse_unknown(request, *LOCATE.known)
        key = bytes_of(request, b"key")
        if key is None:
            raise MalformedKey("no key was given", "ask for /v1/ring/locate?key=KEY")
        return answer_json(request, door.locate(key))

    @app.route("/health/ready", methods=["GET"])
    @described(READY)
    async def ready(request: Any) -> bytes:
        told = await elsewhere()
        return answer_health(request, list(dict.fromkeys([*door.troubles(), *told])))  # what both know is said once

    add_liveness(app)

    @app.route("/metrics", methods=["GET"])
    @described(METRICS)
    def counted(request: Any) -> bytes:
        return answer(request, metrics.render(), CONTENT_TYPE)
