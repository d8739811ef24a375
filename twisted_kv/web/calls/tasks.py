"""Long work."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

import msgspec

from ... import errors
from ..openapi.described import Described
from ..parameters import Text
from .cluster import ChangeKind, Zone
from .original import Url, Weight
from .shared import WORK, empty_answer, json_answer, json_body


class Newcomer(msgspec.Struct, forbid_unknown_fields=True):
    """A node that might be added."""

    url: Url
    weight: Weight = 1
    zone: Zone = ""


class PlanBody(msgspec.Struct, forbid_unknown_fields=True):
    """Changes to think through together: nodes to add, weights by member, members who leave, and which are dead."""

    add: list[Newcomer] = []
    weights: dict[str, Weight] = {}
    remove: list[str] = []
    dead: list[str] = []


class Task(TypedDict):
    """Work that takes its time: ``done`` of ``total`` slots, or of a backup's bytes, and so many of them a second."""

    id: str
    kind: Literal["rebalance", "repair", "backup"]
    state: Literal["pending", "running", "done", "failed", "cancelled"]
    done: int
    total: int
    rate: float
    eta_s: float | None
    what: NotRequired[ChangeKind]
    trouble: NotRequired[str]


class Tasks(TypedDict):
    """All that runs, waits, or was the last of its kind."""

    tasks: list[Task]


class Begun(TypedDict):
    """The task as which it goes on."""

    task: str


class PlannedNode(TypedDict):
    """What one node carries before the changes and after them."""

    id: str
    url: str
    slots_before: int
    slots_after: int
    bytes_before: int
    bytes_after: int


class WeakestMoment(TypedDict):
    """When the fewest failures are survived: how many nodes may fail then, and how many slots survive no more."""

    when: Literal["before", "during", "after"]
    survives: int
    slots: int


class Plan(TypedDict):
    """What changes would come to."""

    kind: ChangeKind
    slots: int
    bytes: int
    nodes: list[PlannedNode]
    weakest: WeakestMoment
    clients_wait: bool
    slots_lost: int


TASK = Text(name="id", about="The task's id.", place="path", required=True, example="repair-1")

LIST_TASKS = Described(
    group=WORK,
    name="listTasks",
    title="List tasks",
    answers={200: json_answer(Tasks, "What there is.")},
    errors=(errors.WorkerSilent,),
)

SHOW_TASK = Described(
    group=WORK,
    name="showTask",
    title="Show a task",
    tail=TASK,
    answers={200: json_answer(Task, "How far it is.")},
    errors=(errors.NoSuchTask, errors.WorkerSilent),
)

CANCEL_TASK = Described(
    group=WORK,
    name="cancelTask",
    title="Take a task back",
    about="What it has copied already does no harm, and is dropped. A backup is not taken back, but deleted.",
    tail=TASK,
    answers={204: empty_answer("It ends.")},
    errors=(
        errors.NoSuchTask,
        errors.TaskStays,
        errors.StateBehind,
        errors.StateUnusable,
        errors.WorkerSilent,
    ),
)

REPAIR = Described(
    group=WORK,
    name="repair",
    title="Begin a round of repair",
    about="Owners are compared in any case, every few seconds; this does not wait for that.",
    answers={202: json_answer(Begun, "It has begun.")},
    errors=(errors.BadParameter, errors.WorkerSilent),
)

PLAN = Described(
    group=WORK,
    name="plan",
    title="Think changes through",
    about="Says what would move, what each node would carry, and when the fewest failures would be survived. Nothing "
    "is changed.",
    body=json_body(PlanBody, "The changes.", {"add": [{"url": "http://localhost:8089", "weight": 2}]}),
    answers={200: json_answer(Plan, "What it would come to.")},
    errors=(errors.MalformedBody, errors.BadParameter, errors.NoSuchMember, errors.WorkerSilent),
)
