"""A door's document: its routes, what they say of themselves, and what any request may meet there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from ... import __version__
from ...limits import Limits
from ..answers import Problem
from .described import Answer, Content, Described, Parameter, Schema, described_by
from .problems import HEADS, met_at_the_door, problem_answers
from .shapes import schemas_of

METHODS = frozenset(("GET", "PUT", "POST", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"))
"""What a path item knows (OpenAPI 3.1.1, section 4.8.9.1). Others stand beside them as extensions, with an ``x-``."""

ABOUT = """A replicated, sharded key-value store. Keys and values are bytes; every key is a register of its own, \
linearizable by default.

Every error is a problem document (RFC 9457): `detail` says what happened and why, `hint` what to do about it, and \
programs tell them apart by `type`. Whole numbers in a body are written as such: 64, not 64.0."""

OPEN = "This proxy asks for no token, and is for those who can connect to it."
GUARDED = "This proxy asks for a token. One that is read-only is refused by calls that change something."


class Route(NamedTuple):
    """One path of a router, and what is said of it by method."""

    path: str
    by_method: Mapping[str, Described]


def routes_of(rules: Iterable[Any], view_of: Callable[[str], Any]) -> list[Route]:
    """Give the routes of a router's rules, as OpenAPI writes their paths.

    :param view_of: gives the function of an endpoint.
    """
    found: dict[str, dict[str, Described]] = {}
    for rule in rules:
        said = described_by(view_of(rule.endpoint))
        assert said is not None, f"nothing describes {rule.rule}: see web/openapi/described.py"
        by_method = found.setdefault(path_of(rule.rule, said), {})
        by_method |= dict.fromkeys(rule.methods or (), said)
    return [Route(path, by_method) for path, by_method in found.items()]


def path_of(rule: str, said: Described) -> str:
    """Give a rule's path. One that ends with a slash stands for what follows it, but for the root."""
    folder = rule.removesuffix("-")
    assert (folder.endswith("/") and folder != "/") == (said.tail is not None), f"{rule} and what follows it"
    return folder + (f"{{{said.tail.name}}}" if said.tail is not None else "")


def document(routes: Iterable[Route], groups: Mapping[str, str], limits: Limits, tokens: bool) -> Schema:
    """Make a door's document.

    :param groups: what the groups of calls are about, in their order.
    :param tokens: whether it asks for a token.
    """
    routes = list(routes)
    every = {id(said): said for route in routes for said in route.by_method.values()}
    contents = [content for said in every.values() for content in _contents(said) if content.shape is not None]
    shapes, components = schemas_of([Problem, *(content.shape for content in contents)], limits)
    schemas = {id(content): schema for content, schema in zip(contents, shapes[1:], strict=True)}
    writer = _Writer(limits, schemas, tokens)
    paths = {route.path: _path_item(writer, route) for route in routes}
    answers = _named_answers(paths)
    used = {said.group for said in every.values()}
    found: Schema = {
        "openapi": "3.1.1",
        "info": {
            "title": "twisted_kv",
            "version": __version__,
            "description": f"{ABOUT}\n\n{GUARDED if tokens else OPEN}",
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "jsonSchemaDialect": "https://spec.openapis.org/oas/3.1/dialect/base",
        "servers": [{"url": "/"}],
        "tags": [{"name": group, "description": about} for group, about in groups.items() if group in used],
        "paths": paths,
        "components": {"schemas": components, "headers": HEADS, "responses": answers},
    }
    if tokens:
        bearer = {"type": "http", "scheme": "bearer", "description": "From the file that --token-file names."}
        found["components"]["securitySchemes"] = {"token": bearer}
        found["security"] = [{"token": []}]
    return found


def _contents(said: Described) -> Iterator[Content]:
    if said.body is not None:
        yield from said.body.contents
    for answer in said.answers.values():
        yield from answer.contents


def _path_item(writer: _Writer, route: Route) -> Schema:
    found: Schema = {}
    named: set[str] = set()
    for method in sorted(route.by_method, key=lambda method: (method == "HEAD", method)):
        said = route.by_method[method]
        field = method.lower() if method in METHODS else f"x-{method.lower()}"
        name = said.name if said.name not in named else f"{said.name}_{method.lower()}"
        named.add(name)
        found[field] = writer.operation(route.path, method, said, name)
    return found


def _named_answers(paths: Mapping[str, Schema]) -> dict[str, Schema]:
    """Give the answers that several operations have alike, by names that take their places."""
    places: dict[bytes, list[tuple[dict[str, Schema], str]]] = {}
    for item in paths.values():
        for operation in item.values():
            for status, found in operation["responses"].items():
                places.setdefault(msgspec.json.encode((status, found)), []).append((operation["responses"], status))
    named: dict[str, Schema] = {}
    numbers: Counter[str] = Counter()
    for alike in places.values():
        responses, status = alike[0]
        if len(alike) == 1:
            continue
        numbers[status] += 1
        name = f"Status{status}" + (f"_{numbers[status]}" if numbers[status] > 1 else "")
        named[name] = responses[status]
        for responses, _ in alike:
            responses[status] = {"$ref": f"#/components/responses/{name}"}
    return named


class _Writer:
    """Writes operations down."""

    def __init__(self, limits: Limits, schemas: Mapping[int, Schema], tokens: bool) -> None:
        self._limits = limits
        self._schemas = schemas
        self._tokens = tokens

    def operation(self, path: str, method: str, said: Described, name: str) -> Schema:
        found: Schema = {
            "tags": [said.group],
            "operationId": name,
            "summary": said.title,
        }
        if said.about:
            found["description"] = said.about
        if said.public and self._tokens:
            found["security"] = []
        parameters = [self._parameter(one) for one in (said.tail, *said.query, *said.heads) if one is not None]
        if parameters:
            found["parameters"] = parameters
        if said.body is not None:
            contents = {one.media_type: self._content(one) for one in said.body.contents}
            found["requestBody"] = {
                "description": said.body.about,
                "required": said.body.required,
                "content": contents,
            }
        met = met_at_the_door(said, method.encode(), path.encode(), self._tokens)
        answers = problem_answers((*said.errors, *met), said.original)
        for status, answer in said.answers.items():
            answers[str(status)] = _both(self._answer(answer), answers.get(str(status)))
        if method == "HEAD":
            answers = {
                status: {name: part for name, part in answer.items() if name != "content"}
                for status, answer in answers.items()
            }
        found["responses"] = dict(sorted(answers.items()))
        return found

    def _parameter(self, one: Parameter) -> Schema:
        found: Schema = {
            "name": one.name,
            "in": one.place,
            "description": one.about,
            "schema": one.schema(self._limits),
        }
        if one.required:
            found["required"] = True
        return found | ({"example": one.example} if one.example is not None else {})

    def _answer(self, answer: Answer) -> Schema:
        found: Schema = {"description": answer.about}
        if answer.heads:
            found["headers"] = {
                one.name: {"description": one.about, "schema": one.schema(self._limits)}
                | ({"required": True} if one.required else {})
                for one in answer.heads
            }
        if answer.contents:
            found["content"] = {one.media_type: self._content(one) for one in answer.contents}
        return found

    def _content(self, one: Content) -> Schema:
        example = {"example": one.example} if one.example is not None else {}
        if one.shape is None:
            return example
        schema = self._schemas[id(one)]
        if not one.each:
            return {"schema": schema} | example
        # A row of values has no schema of its own before OpenAPI 3.2, which calls this itemSchema.
        return {"schema": {"type": "array", "items": schema}, "x-itemSchema": schema} | example


def _both(answer: Schema, problem: Schema | None) -> Schema:
    """Give an answer for a status that is also that of problems."""
    if problem is None:
        return answer
    return {
        "description": f"{answer['description']} Or: {problem['description']}",
        "headers": problem["headers"] | answer.get("headers", {}),
        "content": answer.get("content", {}) | problem["content"],
    }
