"""The original's three calls."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ... import errors
from ...membership import WEIGHT_MAX
from ...seating import URL_CHARS_MAX, URL_PATTERN
from ..openapi.described import Described
from ..openapi.shapes import bounded, noted
from ..parameters import CONSISTENCY, EXPLAIN, REQUEST_ID, TRACEPARENT, KeyText
from .shared import (
    ANSWERED_ID,
    OPERATION,
    ORIGINAL,
    SERVER_TIMING,
    STATE,
    empty_answer,
    json_answer,
    json_body,
)

KeyField = Annotated[str, noted("Its bytes in UTF-8 are counted.", minLength=1), bounded(maxLength="key_bytes_max")]
Weight = Annotated[int, noted("How much of the ring it owns.", minimum=1, maximum=WEIGHT_MAX)]
Url = Annotated[
    str,
    noted("`http` or `https`, a host and a port, and nothing more.", maxLength=URL_CHARS_MAX, pattern=URL_PATTERN),
]


class PutBody(msgspec.Struct):
    Key: KeyField
    Value: Annotated[str, bounded(maxLength="value_bytes_max")]


class GetBody(msgspec.Struct):
    Key: KeyField


class ServerBody(msgspec.Struct):
    url: Url
    weight: Weight = 1


PUT = Described(
    group=ORIGINAL,
    name="originalPut",
    title="Write a key",
    query=(CONSISTENCY, EXPLAIN),
    heads=(REQUEST_ID, TRACEPARENT),
    body=json_body(PutBody, "A key and its value.", {"Key": "language", "Value": "Go"}),
    answers={200: empty_answer("It is written.", SERVER_TIMING, ANSWERED_ID)},
    errors=(errors.MalformedBody, errors.MalformedKey, errors.ValueTooLarge, errors.BadParameter, *OPERATION),
    original=True,
)

GET = Described(
    group=ORIGINAL,
    name="originalGet",
    title="Read a key",
    about="The key is in the body, whatever the method; `?Key=` is for clients that cannot send a body with GET, and "
    "looked at where there is none. One of the two has to be there; the body counts where both are. The method QUERY "
    "does the same.",
    query=(
        KeyText(name="Key", about="The key, where there is no body.", example="language"),
        CONSISTENCY,
        EXPLAIN,
    ),
    heads=(REQUEST_ID, TRACEPARENT),
    body=json_body(GetBody, "The key.", {"Key": "language"}, required=False),
    answers={200: json_answer(str, "The value, which is UTF-8 text.", SERVER_TIMING, ANSWERED_ID)},
    errors=(
        errors.MalformedBody,
        errors.MalformedKey,
        errors.BadParameter,
        errors.KeyAbsent,
        errors.NotText,
        *OPERATION,
    ),
    original=True,
)

ADD_SERVER = Described(
    group=ORIGINAL,
    name="addServer",
    title="Add a storage node",
    about="It is answered when the node is a member; where data has to move, that goes on as a task. For one that is a "
    "member already the weight is set.",
    body=json_body(ServerBody, "Where the node is.", {"url": "http://localhost:8081", "weight": 1}),
    answers={200: empty_answer("It is a member.")},
    errors=(
        errors.MalformedBody,
        errors.BadParameter,
        errors.NotANode,
        errors.ForeignNode,
        errors.NodeHasData,
        *STATE,
    ),
    original=True,
)
