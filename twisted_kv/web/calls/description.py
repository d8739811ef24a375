"""The document about all calls, and the page that shows it."""

from __future__ import annotations

from typing import Any

from ... import errors
from ..openapi.described import Answer, Content, Described
from ..parameters import Text
from .shared import MORE, json_answer

DOCUMENT = Described(
    group=MORE,
    name="openapi",
    title="All calls",
    about="This document (OpenAPI 3.1), made of what decodes and checks the requests.",
    answers={200: json_answer(dict[str, Any], "The document.")},
    errors=(errors.BadParameter,),
)

PAGE = Described(
    group=MORE,
    name="page",
    title="Pages for people",
    about="`/ui/api.html` shows this document, and lets one try the calls. Files hold no secret, and are read without "
    "a token.",
    tail=Text(name="file", about="A file's name.", place="path", required=True, example="api.html"),
    answers={
        200: Answer(
            about="The file.",
            contents=tuple(Content(media_type=one) for one in ("text/html", "text/css", "text/javascript")),
        )
    },
    errors=(errors.BadParameter, errors.NoSuchRoute),
    public=True,
)
