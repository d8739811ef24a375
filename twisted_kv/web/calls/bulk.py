"""Many operations at once."""

from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

import msgspec

from ... import errors
from ..answers import Problem
from ..openapi.described import Answer, Body, Content, Described
from ..openapi.shapes import bounded, noted
from ..parameters import CONSISTENCY, TIMEOUT
from .keys import NDJSON_TYPE
from .shared import KEYS, MSGPACK_TYPE

OPS = ("get", "put", "delete")
EXPIRES_MS_MAX = (1 << 63) - 1
"""What the Redis door takes: what was stored there has to come back from an export or a backup."""


class Line(msgspec.Struct):
    """One operation. Keys and values are text, or with `_b64` any bytes."""

    op: Annotated[str, noted(enum=list(OPS))]
    key: Annotated[str | None, noted("This or `key_b64`."), bounded(maxLength="key_bytes_max")] = None
    key_b64: str | None = None
    value: Annotated[str | None, noted("For `put`: this or `value_b64`."), bounded(maxLength="value_bytes_max")] = None
    value_b64: str | None = None
    ttl: Annotated[
        float | None, noted("How long the value lives, in seconds.", exclusiveMinimum=0), bounded(maximum="ttl_s_max")
    ] = None
    expires_ms: Annotated[
        int | None,
        noted(
            "When the value expires, in milliseconds of wall time; it wins over `ttl`.",
            minimum=1,
            maximum=EXPIRES_MS_MAX,
        ),
    ] = None
    content_type: Annotated[str | None, bounded(maxLength="content_type_bytes_max")] = None
    if_match: Annotated[str | None, noted("An ETag as a bulk answer shows it, or the header.")] = None
    if_none_match: Annotated[str | None, noted("The same for If-None-Match.")] = None


class PackedLine(Line):
    """The same in msgpack, where keys and values may also be bytes as they are."""

    key: Any = None
    value: Any = None


class LineAnswer(TypedDict):
    """What became of one operation. ``_b64`` is for what is no UTF-8."""

    key: NotRequired[str]
    key_b64: NotRequired[str]
    status: int
    etag: NotRequired[str]
    value: NotRequired[str]
    value_b64: NotRequired[str]
    content_type: NotRequired[str]
    expires_ms: NotRequired[int]
    problem: NotRequired[Problem]


class PackedAnswer(TypedDict):
    """The same in msgpack, where keys and values are bytes."""

    key: NotRequired[Any]
    status: int
    etag: NotRequired[str]
    value: NotRequired[Any]
    content_type: NotRequired[str]
    expires_ms: NotRequired[int]
    problem: NotRequired[Problem]


BULK = Described(
    group=KEYS,
    name="bulk",
    title="Many operations at once",
    about="A line in and a line out for each, in the same order. What is wrong with a line is said in its own answer, "
    "and the others go on. Operations on one key take effect in the order of the lines. An answer that is cut leaves "
    "the rest unknown. The content type says which form the body has, and the answer has the same: a msgpack array, or "
    "for every other type lines of JSON.",
    query=(CONSISTENCY, TIMEOUT),
    body=Body(
        about="The operations.",
        contents=(
            Content(
                media_type=NDJSON_TYPE,
                shape=Line,
                each=True,
                example=[{"op": "put", "key": "a", "value": "1"}, {"op": "get", "key": "a"}],
            ),
            Content(media_type=MSGPACK_TYPE, shape=PackedLine, each=True),
        ),
        required=False,
    ),
    answers={
        200: Answer(
            about="What became of each.",
            contents=(
                Content(media_type=NDJSON_TYPE, shape=LineAnswer, each=True),
                Content(media_type=MSGPACK_TYPE, shape=PackedAnswer, each=True),
            ),
        )
    },
    errors=(errors.MalformedBody, errors.BadParameter),
)
