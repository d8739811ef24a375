"""Whether a daemon is well, and what it counts."""

from __future__ import annotations

from typing import Literal, TypedDict

from ... import errors
from ...metrics import CONTENT_TYPE
from ..openapi.described import Answer, Content, Described
from .shared import HEALTH, json_answer


class Health(TypedDict):
    """What is wrong, in sentences; nothing where all is well."""

    status: Literal["ok", "not ready"]
    troubles: list[str]


LIVE = Described(
    group=HEALTH,
    name="live",
    title="Is the process alive?",
    answers={200: json_answer(Health, "It is.")},
)

READY = Described(
    group=HEALTH,
    name="ready",
    title="Can every key be served?",
    answers={200: json_answer(Health, "It can."), 503: json_answer(Health, "It cannot, and why.")},
)

METRICS = Described(
    group=HEALTH,
    name="metrics",
    title="What is counted",
    about="In Prometheus's text format. See docs/metrics-and-logs.md.",
    answers={200: Answer(about="The figures.", contents=(Content(media_type=CONTENT_TYPE.decode()),))},
    errors=(errors.WorkerSilent,),
)
