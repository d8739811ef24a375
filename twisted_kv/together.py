"""Together: several things are done at once, and each of them has ended before anybody goes on."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, TypeAlias, TypeVar

from twisted.internet.defer import Deferred, DeferredList, ensureDeferred

from .errors import KvError

K = TypeVar("K")
T = TypeVar("T")
Work: TypeAlias = Coroutine[Any, Any, T] | Deferred[T]


async def every(work: Iterable[Work[T]]) -> list[T]:
    """Give what each gave; an error of one of them is raised."""
    return await _ended(work)


async def tried(work: Iterable[Work[T]]) -> list[T | KvError]:
    """Give what each gave, or the error of this store with which it ended; any other error is raised."""
    return await _ended(work, KvError)


async def answers(work: Mapping[K, Work[T]]) -> dict[K, T]:
    """Give what each gave, by name; who ended with an error of this store is left out."""
    results = await tried(work.values())
    return {name: result for name, result in zip(work, results, strict=True) if not isinstance(result, KvError)}


async def _ended(work: Iterable[Work[Any]], *given: type[Exception]) -> list[Any]:
    """Give results, and errors of these kinds in their place; any other error is raised."""
    results = await DeferredList([ensureDeferred(one) for one in work], consumeErrors=True)
    for succeeded, result in results:
        if not succeeded and not result.check(*given):
            result.raiseException()
    return [result if succeeded else result.value for succeeded, result in results]
