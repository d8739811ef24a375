"""What several doors say alike."""

from __future__ import annotations

from ... import errors
from ...errors import KvError
from ..answers import MSGPACK, PROBLEM
from ..openapi.described import Answer, Body, Content, Parameter
from ..parameters import Text

JSON_TYPE = "application/json"
MSGPACK_TYPE = MSGPACK.decode()
PROBLEM_TYPE = PROBLEM.decode()
ANY_TYPE = "*/*"

ORIGINAL, KEYS, CLUSTER, WORK, BACKUPS, HEALTH, PEOPLE, MORE = (
    "The original's calls",
    "Keys",
    "The cluster",
    "Long work",
    "Backups",
    "Health",
    "For people",
    "This description",
)
GROUPS = {
    ORIGINAL: "As the users of the original program know them. Names in bodies are taken in any case and unknown ones "
    "ignored. The content type is not looked at, since `curl -d` says `application/x-www-form-urlencoded` whatever it "
    "sends: what counts is that the body is JSON.",
    KEYS: "Single keys, pages of keys, and many operations at once. Keys and values are bytes.",
    CLUSTER: "Members, and where keys live.",
    WORK: "What takes its time: changes of the ring, repair, backups.",
    BACKUPS: "Checkpoints that every node keeps on its own disk.",
    HEALTH: "For whoever watches.",
    PEOPLE: "The dashboard at `/ui/`, and what it shows.",
    MORE: "The interface, for programs and for people.",
}

ETAG = Text(
    name="ETag", about="The value's version, a strong ETag.", place="header", pattern='^"[0-9a-f]{32}"$', required=True
)
ETAG_OF_VALUE = Text(name="ETag", about="The version that was written.", place="header", pattern='^"[0-9a-f]{32}"$')
REPLICAS = Text(
    name="KV-Replicas",
    about="How many owners have answered so far, and how many there are.",
    place="header",
    pattern="^[0-9]+/[0-9]+$",
    required=True,
)
EXPIRES = Text(
    name="KV-Expires-Ms",
    about="When the value expires, in milliseconds since 1970; not there where it never does.",
    place="header",
    pattern="^[1-9][0-9]*$",
)
SERVER_TIMING = Text(name="Server-Timing", about="What became of the request, step by step.", place="header")
ANSWERED_ID = Text(name="X-Request-Id", about="What the request is called in the logs, if anything.", place="header")

OPERATION: tuple[type[KvError], ...] = (
    errors.Unreached,
    errors.NoRoom,
    errors.DeadlinePassed,
    errors.Overloaded,
    errors.NoNodes,
    errors.ChangeUnderWay,
)
"""What an operation on keys may come to where too few replicas can do it."""

STATE: tuple[type[KvError], ...] = (
    errors.ChangeFailed,
    errors.ChangeWaits,
    errors.SlotsLost,
    errors.StateBehind,
    errors.StateUnusable,
    errors.WorkerSilent,
)
"""What a change of the cluster may come to."""


def json_body(shape: object, about: str, example: object, required: bool = True) -> Body:
    return Body(about=about, contents=(Content(shape=shape, example=example),), required=required)


def json_answer(shape: object, about: str, *heads: Parameter) -> Answer:
    return Answer(about=about, contents=(Content(shape=shape),), heads=heads)


def empty_answer(about: str, *heads: Parameter) -> Answer:
    return Answer(about=about, heads=heads)
