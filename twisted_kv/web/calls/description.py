"""The document about all calls."""

from __future__ import annotations

from typing import Any

from ... import errors
from ..openapi.described import Described
from .shared import MORE, json_answer

DOCUMENT = Described(
    group=MORE,
    name="openapi",
    title="All calls",
    about="This document (OpenAPI 3.1), made of what decodes and checks the requests.",
    answers={200: json_answer(dict[str, Any], "The document.")},
    errors=(errors.BadParameter,),
)
