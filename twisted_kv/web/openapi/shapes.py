"""Types to schemas: msgspec says what its structs take, the limits say how much of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from math import isfinite
from typing import Any

import msgspec

from ...limits import Limits
from .described import Schema

REF = "#/components/schemas/{name}"
LIMIT = "x-limit"
"""Where a type names a limit, until the limit itself takes the place."""


def bounded(**limits: str) -> msgspec.Meta:
    """Annotate a field whose bounds are limits: the schema's keyword, and the limit's name.

    They are checked by whoever knows the limits, and whose words are better than a decoder's.
    """
    known = {one.name for one in fields(Limits)}
    assert known.issuperset(limits.values()), "a limit of this name"
    return msgspec.Meta(extra_json_schema={LIMIT: limits})


def noted(description: str = "", **schema: Any) -> msgspec.Meta:
    """Annotate a field with what its decoder does not check, and others do."""
    return msgspec.Meta(description=description or None, extra_json_schema=schema)


def schemas_of(shapes: Iterable[Any], limits: Limits) -> tuple[list[Schema], dict[str, Schema]]:
    """Give a schema for each type, and the components that these refer to."""
    found, components = msgspec.json.schema_components(list(shapes), ref_template=REF)
    resolved: dict[str, Schema] = {name: _resolved(schema, limits) for name, schema in sorted(components.items())}
    return [_resolved(schema, limits) for schema in found], resolved


def _resolved(schema: Any, limits: Limits) -> Any:
    if isinstance(schema, list):
        return [_resolved(one, limits) for one in schema]
    if not isinstance(schema, dict):
        return schema
    bounds = {keyword: getattr(limits, name) for keyword, name in schema.get(LIMIT, {}).items()}
    finite = {keyword: bound for keyword, bound in bounds.items() if isfinite(bound)}
    return {name: _resolved(one, limits) for name, one in schema.items() if name != LIMIT} | finite
