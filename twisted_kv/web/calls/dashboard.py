"""What the dashboard is made of, and what it is fed with."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from ... import errors
from ...ring import SLOTS
from ..openapi.described import Answer, Content, Described
from ..openapi.shapes import noted
from ..parameters import Text
from ..viewers import EVENT_STREAM
from .cluster import Cluster
from .shared import PEOPLE, empty_answer, json_answer
from .tasks import Task

EVENT_STREAM_TYPE = EVENT_STREAM.decode()


class Asked(TypedDict):
    """How many processes of this proxy were asked what they have counted, and how many answered."""

    asked: int
    answered: int


class Snapshot(TypedDict):
    """How things are. ``rates`` tells what was counted since the look before; None where there was none."""

    now_ms: int
    workers: Asked
    rates: dict[str, Any] | None
    cluster: Cluster
    troubles: list[str]
    tasks: list[Task]


Arc = Annotated[list[int], noted(minItems=2, maxItems=2)]


class Ring(TypedDict):
    """Who is the first owner of which slots: an arc begins at a slot, and ends where the next one begins."""

    epoch: int
    slots: Annotated[int, noted(enum=[SLOTS])]
    nodes: list[str]
    arcs: list[Arc]


VERSION = Text(name="ETag", about="By which to ask whether it still holds.", place="header", required=True)
SINCE = Text(name="If-None-Match", about="What the client has.", place="header", example='"none"')
UNCHANGED = empty_answer("The client has it.", VERSION)

EVENTS = Described(
    group=PEOPLE,
    name="watch",
    title="Watch how things are",
    about="Server-sent events (HTML Living Standard, section 9.2): `snapshot` once a second, with what `/v1/snapshot` "
    "gives; `trouble` with a `detail` where there is none. It ends when the proxy stops, or the token holds no more.",
    answers={200: Answer(about="The events.", contents=(Content(media_type=EVENT_STREAM_TYPE),))},
    errors=(errors.BadParameter, errors.Overloaded, errors.Stopping),
)

SNAPSHOT = Described(
    group=PEOPLE,
    name="snapshot",
    title="See how things are",
    answers={200: json_answer(Snapshot, "The newest snapshot, a second old at the most.")},
    errors=(errors.BadParameter, errors.Stopping, errors.WorkerSilent),
)

RING = Described(
    group=PEOPLE,
    name="ring",
    title="See the ring's arcs",
    heads=(SINCE,),
    answers={200: json_answer(Ring, "The ring. It is another one in another epoch.", VERSION), 304: UNCHANGED},
    errors=(errors.BadParameter, errors.NoNodes),
)

TO_UI = Answer(
    about="It is at `/ui/`.",
    contents=(Content(media_type="text/plain"),),
    heads=(Text(name="Location", about="Where.", place="header", required=True),),
)

FRONT = Described(
    group=PEOPLE,
    name="front",
    title="Go to the dashboard from the address alone",
    answers={307: TO_UI},
    public=True,
)

TO_PAGES = Described(
    group=PEOPLE,
    name="pages",
    title="Go to the dashboard",
    answers={308: TO_UI},
    public=True,
)

PAGE = Described(
    group=PEOPLE,
    name="page",
    title="Pages for people",
    about="`/ui/` is the dashboard; `/ui/api.html` shows this document, and lets one try the calls. Files hold no "
    "secret, and are read without a token.",
    tail=Text(name="file", about="A file's name.", place="path", required=True, example="api.html"),
    heads=(SINCE,),
    answers={
        200: Answer(
            about="The file.",
            contents=tuple(
                Content(media_type=one)
                for one in ("text/html", "text/css", "text/javascript", "image/svg+xml", "text/plain")
            ),
            heads=(VERSION,),
        ),
        304: UNCHANGED,
    },
    errors=(errors.BadParameter, errors.NoSuchRoute),
    public=True,
)
