"""What a route says of itself, as values: they stand beside what they describe, and parts of them decode it.

A schema is a JSON Schema (draft 2020-12). One that depends on the limits is a function of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias, TypeVar

from ...errors import KvError
from ...limits import Limits

Schema: TypeAlias = dict[str, Any]
V = TypeVar("V", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Parameter:
    """What is sent beside a body. Those that parse it are its subclasses (``parameters.py``).

    ``place`` is where OpenAPI says it is: ``query``, ``header`` or ``path``.
    """

    name: str
    about: str
    place: str = "query"
    required: bool = False
    example: Any = None

    def schema(self, limits: Limits) -> Schema:
        return {"type": "string"}


@dataclass(frozen=True, kw_only=True)
class Content:
    """A body of one media type: raw bytes, unless there is a shape.

    ``each`` says that it is a row of values of this shape, one a line, or the elements of an array.
    """

    media_type: str = "application/json"
    shape: Any = None
    each: bool = False
    example: Any = None


@dataclass(frozen=True, kw_only=True)
class Body:
    """What a request's body may be."""

    about: str
    contents: tuple[Content, ...]
    required: bool = True


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A body of a status that is no problem, and the fields of its head."""

    about: str
    contents: tuple[Content, ...] = ()
    heads: tuple[Parameter, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Described:
    """A route. ``errors`` are those that are its own: what any request may meet is known of the door.

    ``tail`` is what follows the path of a route that ends with a slash.
    """

    group: str
    name: str
    title: str
    about: str = ""
    query: tuple[Parameter, ...] = ()
    heads: tuple[Parameter, ...] = ()
    tail: Parameter | None = None
    body: Body | None = None
    answers: Mapping[int, Answer] = field(default_factory=dict)
    errors: tuple[type[KvError], ...] = ()
    original: bool = False
    """Whether it is one of the original program's, which know fewer statuses."""
    public: bool = False
    """Whether it is answered without a token where others ask for one."""

    @cached_property
    def known(self) -> tuple[bytes, ...]:
        """The names of its query's parameters, for whoever refuses others."""
        return tuple(parameter.name.encode() for parameter in self.query)


def described(said: Described) -> Callable[[V], V]:
    """Say what a view does. Its route's document is looked for there."""

    def mark(view: V) -> V:
        view.described = said  # type: ignore[attr-defined]
        return view

    return mark


def described_by(view: Any) -> Described | None:
    found: Described | None = getattr(view, "described", None)
    return found
