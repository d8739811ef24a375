"""The listing."""

from __future__ import annotations

from typing import TypedDict

from ... import errors
from ..openapi.described import Answer, Content, Described
from ..parameters import Text, Whole
from .shared import KEYS

NDJSON_TYPE = "application/x-ndjson"


class KeyBytes(TypedDict):
    """A key that is no UTF-8."""

    b64: str


class KeysPage(TypedDict):
    """Keys in the order of their bytes. ``cursor`` is None on the last page."""

    keys: list[str | KeyBytes]
    cursor: str | None


LIST_KEYS = Described(
    group=KEYS,
    name="listKeys",
    title="List keys",
    about="In the order of their bytes. It is no snapshot, but a key that is there throughout is listed once. With "
    "`Accept: application/x-ndjson` all of them come as a stream, one a line; `limit` may then be any number.",
    query=(
        Text(name="prefix", about="What the keys begin with.", example="gr"),
        Whole(name="limit", about="The most keys in a page.", most=lambda limits: limits.keys_page_max, example=10),
        Text(
            name="cursor",
            about="That of the page before. It says nothing to anybody else.",
            pattern="^([A-Za-z0-9_-]{4})*([A-Za-z0-9_-]{2}==|[A-Za-z0-9_-]{3}=)?$",
        ),
    ),
    answers={
        200: Answer(
            about="A page of keys, or all of them.",
            contents=(Content(shape=KeysPage), Content(media_type=NDJSON_TYPE, shape=str | KeyBytes, each=True)),
        )
    },
    errors=(errors.BadParameter, errors.ChangeUnderWay, errors.Unreached),
)
