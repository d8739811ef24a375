"""Single keys."""

from __future__ import annotations

from ... import errors
from ..openapi.described import Answer, Body, Content, Described
from ..parameters import (
    CONSISTENCY,
    EXPLAIN,
    IF_MATCH,
    IF_NONE_MATCH,
    REQUEST_ID,
    TIMEOUT,
    TRACEPARENT,
    TTL,
    KeyText,
    Text,
)
from .shared import (
    ANSWERED_ID,
    ANY_TYPE,
    ETAG,
    EXPIRES,
    KEYS,
    OPERATION,
    REPLICAS,
    SERVER_TIMING,
    empty_answer,
)

KEY = KeyText(
    name="key",
    about="The key's bytes, percent-encoded once. Slashes and dots may stand as they are.",
    place="path",
    required=True,
    example="greeting",
)
HEADS = (IF_MATCH, IF_NONE_MATCH, REQUEST_ID, TRACEPARENT)
REFUSED = (errors.BadParameter, errors.MalformedKey, errors.PreconditionFailed)
FOLLOWED = (SERVER_TIMING, ANSWERED_ID)
HELD = (ETAG, EXPIRES, REPLICAS)
CONFINED = (
    Text(name="Cross-Origin-Resource-Policy", about="`same-site`: other sites' pages get none of it.", place="header"),
    Text(name="X-Content-Type-Options", about="`nosniff`, where the value has a content type.", place="header"),
    Text(name="Content-Security-Policy", about="`sandbox`: a browser runs nothing in a value.", place="header"),
)

KV_GET = Described(
    group=KEYS,
    name="getKey",
    title="Read a key",
    query=(CONSISTENCY, TIMEOUT, EXPLAIN),
    heads=HEADS,
    tail=KEY,
    answers={
        200: Answer(
            about="The value's bytes, with the content type that they were written with.",
            contents=(Content(media_type=ANY_TYPE),),
            heads=(*HELD, *CONFINED, *FOLLOWED),
        ),
        304: empty_answer("The key still holds a version that If-None-Match names.", *HELD, *FOLLOWED),
    },
    errors=(*REFUSED, errors.KeyAbsent, *OPERATION),
)

KV_PUT = Described(
    group=KEYS,
    name="putKey",
    title="Write a key",
    about="An empty body is a value, too. With If-Match or If-None-Match it is written only where that holds.",
    query=(CONSISTENCY, TIMEOUT, TTL, EXPLAIN),
    heads=HEADS,
    tail=KEY,
    body=Body(
        about="The value's bytes. Their content type is kept.",
        contents=(Content(media_type="application/octet-stream", example="hello"),),
        required=False,
    ),
    answers={204: empty_answer("It is written.", *HELD, *FOLLOWED)},
    errors=(*REFUSED, errors.ValueTooLarge, *OPERATION),
)

KV_DELETE = Described(
    group=KEYS,
    name="deleteKey",
    title="Delete a key",
    query=(CONSISTENCY, TIMEOUT, EXPLAIN),
    heads=HEADS,
    tail=KEY,
    answers={204: empty_answer("It is not there any more, if ever it was.", REPLICAS, *FOLLOWED)},
    errors=(*REFUSED, *OPERATION),
)
