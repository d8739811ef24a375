"""Long work: what runs and what waits, plans that are only shown, and repair by hand."""

from __future__ import annotations

from typing import Any

import msgspec
from klein import Klein

from ..bodies import parse_json
from ..errors import BadParameter, NoSuchMember, NoSuchTask, TaskStays
from ..limits import Limits
from ..membership import Seat, State, Wish, begun, is_leaving, wished
from ..mender import Mender
from ..mover import Mover
from ..names import NodeId
from ..planning import Load, previewed
from ..roster import Roster
from ..saving import Saver
from ..seating import checked_url, checked_weight, checked_zone
from .answers import answer_json
from .calls.tasks import CANCEL_TASK, LIST_TASKS, PLAN, REPAIR, SHOW_TASK, PlanBody
from .openapi.described import described
from .parameters import name_in, refuse_unknown

WAITS = "wait-"
"""What begins the ids of changes that wait for their turn; the member's id follows."""


PLAN_WEIGHT_MAX = 300
"""The weights in one plan, together. Each is hundreds of tokens of a ring that is worked out while all else waits, and
who may only read may ask for one."""


def task_of(state: State, node: str) -> str | None:
    """Name the task in which something becomes of a member; None where that has ended meanwhile."""
    if any(wish.seat.id == node for wish in state.pending):
        return WAITS + node
    return state.change.id if state.change is not None else None


class TaskDoor:
    """Answers about one proxy's long work, as plain values. How far a change is only its driver knows."""

    def __init__(self, roster: Roster, mover: Mover, mender: Mender, saver: Saver, limits: Limits) -> None:
        self._roster = roster
        self._mover = mover
        self._mender = mender
        self._saver = saver
        self._limits = limits

    def tasks(self) -> list[dict[str, Any]]:
        state, filling, mender = self._roster.state, self._mover.filling, self._mender
        found = []
        if state.change is not None:
            done, total = (filling.done, filling.total) if filling is not None else (0, 0)
            rate = filling.slots_per_s if filling is not None else 0.0
            found.append(_task(state.change.id, "rebalance", "running", done, total, rate, what=state.change.kind))
        found += [
            _task(WAITS + wish.seat.id, "rebalance", "pending", 0, 0, 0.0, what=_what(state, wish))
            for wish in state.pending
        ]
        saver = self._saver
        if saver.name:
            rate = saver.bytes_per_s
            found.append(_task(f"backup-{saver.name}", "backup", saver.state, saver.done, saver.total, rate))
            if saver.trouble:
                found[-1]["trouble"] = saver.trouble
        if mender.number:
            standing = "running" if mender.running else "cancelled" if mender.cancelled else "done"
            rate = mender.slots_per_s
            found.append(_task(f"repair-{mender.number}", "repair", standing, mender.done, mender.total, rate))
        return found

    def task(self, name: str) -> dict[str, Any]:
        """:raises NoSuchTask: if there is none of this id."""
        for task in self.tasks():
            if task["id"] == name:
                return task
        raise NoSuchTask(f"no task has the id {name[:60]!r}", "GET /v1/tasks lists them")

    async def cancel(self, name: str) -> None:
        """Take a task back. What it has copied already does no harm, and is dropped.

        :raises NoSuchTask: if there is none of this id.
        :raises TaskStays: if it is a backup.
        """
        if self.task(name)["kind"] == "backup":
            raise TaskStays("a backup cannot be taken back", "delete it when it is there: DELETE /v1/backups/NAME")
        if name == f"repair-{self._mender.number}":
            self._mender.cancel()
        elif name.startswith(WAITS):
            await self._roster.withdraw(name.removeprefix(WAITS))
        else:
            await self._roster.cancel(name)

    def repair(self) -> dict[str, Any]:
        """Begin a round of repair now, and say how to watch it."""
        self._mender.kick()
        return {"task": f"repair-{self._mender.number + 1}"}

    def plan(self, body: PlanBody) -> dict[str, Any]:
        """Say what changes would come to, without doing anything.

        :raises BadParameter: if they are none.
        :raises NoSuchMember: if they name somebody who is no member.
        """
        state = self._wished(body)
        if not state.pending:
            raise BadParameter("the plan changes nothing", "name nodes to add or remove, or weights")
        draft = begun(msgspec.structs.replace(state, change=None), "preview")
        infos = {NodeId(seat.id): self._roster.probes.info_of(seat) for seat in state.members}
        preview = previewed(draft, {node: info.bytes if info else 0 for node, info in infos.items()})
        assert draft.change is not None
        urls = {seat.id: seat.url for seat in (*state.members, *draft.change.seats)}
        return {
            "kind": preview.kind,
            "slots": preview.moved,
            "bytes": preview.bytes,
            "nodes": [{"id": load.node, "url": urls[load.node], **_slots_and_bytes(load)} for load in preview.loads],
            "weakest": preview.weakest._asdict(),
            "clients_wait": preview.closed,
            "slots_lost": preview.lost,
        }

    def _wished(self, body: PlanBody) -> State:
        asked = sum(node.weight for node in body.add) + sum(body.weights.values())
        if asked > PLAN_WEIGHT_MAX:
            raise BadParameter(f"the plan has weights of {asked} together", f"plan {PLAN_WEIGHT_MAX} at most at a time")
        state = msgspec.structs.replace(self._roster.state, pending=())
        for number, node in enumerate(body.add):
            checked_zone(node.zone, self._limits)
            seat = Seat(f"new-{number}", checked_url(node.url), checked_weight(node.weight), node.zone, "new")
            state = wished(state, Wish(seat))
        for name, weight in body.weights.items():
            seat = msgspec.structs.replace(_member(state, name), weight=checked_weight(weight))
            state = wished(state, Wish(seat))
        for name in dict.fromkeys((*body.remove, *body.dead)):
            state = wished(state, Wish(_member(state, name), leaves=True, dead=name in body.dead))
        if all(is_leaving(state, seat.id) for seat in state.members) and not body.add:
            raise BadParameter("nobody would be left", "add a node first")
        return state


def _member(state: State, name: str) -> Seat:
    seat = state.seat(name)
    if seat is None:
        raise NoSuchMember(f"no member has the id {name[:40]!r}", "GET /v1/cluster lists them")
    return seat


def _slots_and_bytes(load: Load) -> dict[str, int]:
    return {name: value for name, value in load._asdict().items() if name != "node"}


def _what(state: State, wish: Wish) -> str:
    if wish.leaves:
        return "leave"
    known = state.seat(wish.seat.id)
    return "join" if known is None else "rebuild" if known.incarnation != wish.seat.incarnation else "weight"


def _task(
    name: str, kind: str, state: str, done: int, total: int, rate: float, what: str | None = None
) -> dict[str, Any]:
    """Describe a task: done and total in slots, of a backup in bytes; the rate in these a second."""
    eta_s = round((total - done) / rate, 1) if state == "running" and rate > 0 else None
    task = {"id": name, "kind": kind, "state": state, "done": done, "total": total, "rate": round(rate, 1)}
    return task | {"eta_s": eta_s} | ({"what": what} if what is not None else {})


def add_tasks(app: Klein, door: TaskDoor) -> None:
    """Give a proxy's door the calls about long work."""

    @app.route("/v1/tasks", methods=["GET"])
    @described(LIST_TASKS)
    def tasks(request: Any) -> bytes:
        return answer_json(request, {"tasks": door.tasks()})

    @app.route("/v1/tasks/", methods=["GET"])
    @described(SHOW_TASK)
    def task(request: Any) -> bytes:
        return answer_json(request, door.task(name_in(request)))

    @app.route("/v1/tasks/", methods=["DELETE"])
    @described(CANCEL_TASK)
    async def cancel(request: Any) -> bytes:
        await door.cancel(name_in(request))
        request.setResponseCode(204)
        return b""

    @app.route("/v1/repair", methods=["POST"])
    @described(REPAIR)
    def repair(request: Any) -> bytes:
        refuse_unknown(request)
        request.setResponseCode(202)
        return answer_json(request, door.repair())

    @app.route("/v1/cluster/plan", methods=["POST"])
    @described(PLAN)
    def plan(request: Any) -> bytes:
        return answer_json(request, door.plan(parse_json(request.content.read(), PlanBody)))
