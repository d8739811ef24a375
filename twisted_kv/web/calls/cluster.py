"""The cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, TypedDict

import msgspec

from ... import errors
from ...limits import Limits
from ...ring import SLOTS
from ...seating import ZONE_PATTERN
from ..openapi.described import Described, Parameter, Schema
from ..openapi.shapes import bounded, noted
from ..parameters import Flag, KeyText, Text
from .original import Url, Weight
from .shared import CLUSTER, STATE, empty_answer, json_answer, json_body

MemberState = Literal["up", "down", "joining", "leaving", "rebuilding"]
ChangeKind = Literal["join", "leave", "rebuild", "weight"]
Position = Annotated[int, noted(minimum=0, maximum=(1 << 32) - 1)]
Slot = Annotated[int, noted(minimum=0, maximum=SLOTS - 1)]
Zone = Annotated[str, bounded(maxLength="zone_chars_max"), noted(pattern=ZONE_PATTERN)]


class NodeBody(msgspec.Struct):
    url: Url
    weight: Weight = 1
    zone: Zone | None = None


class RoundTrip(TypedDict):
    """Within how many milliseconds half, and nearly all, of a member's answers came lately."""

    p50: float
    p99: float


class Member(TypedDict):
    """One storage node. What it says of itself is None while it does not answer."""

    id: str
    url: str
    weight: int
    zone: str | None
    state: MemberState
    error: str | None
    owned: float
    keys: int | None
    bytes: int | None
    hints: int
    marks: int | None
    epoch: int | None
    version: str | None
    engine: str | None
    sync: str | None
    uptime_s: float | None
    free_bytes: int | None
    clock_ahead_s: float | None
    round_trip_ms: RoundTrip | None


class Change(TypedDict):
    """What moves now, in slots."""

    kind: ChangeKind
    id: str
    done: int
    total: int


class Pending(TypedDict):
    """A member about whom something is wished for."""

    id: str
    url: str
    weight: int


class Cluster(TypedDict):
    """A cluster as this proxy sees it."""

    cluster_id: str
    epoch: int
    version: str
    replicas: int
    vnodes: int
    consistency: Literal["one", "strong", "all"]
    change: Change | None
    pending: list[Pending]
    trouble: str | None
    members: list[Member]


class Seated(TypedDict):
    """A member as it was taken in."""

    id: str
    url: str
    weight: int
    zone: str | None


class Leaving(TypedDict):
    """The task as which a member leaves; None where that has ended meanwhile."""

    task: str | None


class Rebuilt(TypedDict):
    """The members that are rebuilt."""

    rebuilt: list[str]


class Owner(TypedDict):
    """A node that holds a key."""

    id: str
    url: str
    state: MemberState


class Located(TypedDict):
    """Where a key lives: its owners in the order in which they are asked."""

    key: str
    hash: Position
    position: Position
    slot: Slot
    owners: list[Owner]


MEMBER = Text(name="id", about="The member's id.", place="path", required=True, example="n-1")


@dataclass(frozen=True, kw_only=True)
class Names(Parameter):
    """Ids of members: given several times, or with commas between them."""

    def schema(self, limits: Limits) -> Schema:
        return {"type": "array", "items": {"type": "string"}}


DESCRIBE = Described(
    group=CLUSTER,
    name="describeCluster",
    title="Describe the cluster",
    answers={200: json_answer(Cluster, "The cluster as this proxy sees it.")},
    errors=(errors.WorkerSilent,),
)

ADD_NODE = Described(
    group=CLUSTER,
    name="addNode",
    title="Add a storage node",
    about="It is answered when the node is a member; where data has to move, that goes on as a task. For one that is a "
    "member already its weight is set, and its zone where one is given.",
    body=json_body(NodeBody, "Where the node is.", {"url": "http://localhost:8081", "weight": 1, "zone": "a"}),
    answers={200: json_answer(Seated, "It is a member.")},
    errors=(
        errors.MalformedBody,
        errors.BadParameter,
        errors.NotANode,
        errors.ForeignNode,
        errors.NodeHasData,
        *STATE,
    ),
)

REMOVE_NODE = Described(
    group=CLUSTER,
    name="removeNode",
    title="Let a member go",
    about="The others get what it holds before it leaves.",
    query=(Flag(name="dead", about="Whether it is gone for good, and nothing can be had of it any more."),),
    tail=MEMBER,
    answers={
        202: json_answer(Leaving, "It leaves as a task."),
        204: empty_answer("It has left."),
    },
    errors=(errors.BadParameter, errors.NoSuchMember, errors.MayRemember, *STATE),
)

ACCEPT_LOSS = Described(
    group=CLUSTER,
    name="acceptLoss",
    title="Accept a loss",
    about="Where too few members remember a part of the data: the newest copies that are left become the truth. What "
    "only the others held is gone for good.",
    query=(Names(name="dead", about="Members that do not answer and never will."),),
    answers={200: json_answer(Rebuilt, "They are rebuilt from what is left.")},
    errors=(errors.BadParameter, errors.MayRemember, errors.NothingLost, *STATE),
)

LOCATE = Described(
    group=CLUSTER,
    name="locateKey",
    title="Find a key's owners",
    query=(KeyText(name="key", about="The key, whether or not it is there.", required=True, example="language"),),
    answers={200: json_answer(Located, "Where it lives.")},
    errors=(errors.BadParameter, errors.MalformedKey, errors.NoNodes),
)
