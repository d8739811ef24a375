"""Clients for Python programs: ``Client`` for those that run a reactor, ``BlockingClient`` for scripts that do not.

Both do the same: what is asked of whom, and what is tried again, is decided in rooms without I/O (``calls``, ``many``),
and each client carries it out in its own way. Whoever imports the one does not load what the other one needs: names are
looked up when they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..errors import KvError, Overloaded, PreconditionFailed, TokenMissing, Unreached
    from .blocking import BlockingClient
    from .deferred import Client
    from .trouble import MaybeApplied, NobodyAnswers, NotACounter, UnknownProblem
    from .values import Delete, Get, Put, Value, Written

ROOMS = {
    "Client": ".deferred",
    "BlockingClient": ".blocking",
    "Value": ".values",
    "Written": ".values",
    "Get": ".values",
    "Put": ".values",
    "Delete": ".values",
    "MaybeApplied": ".trouble",
    "NobodyAnswers": ".trouble",
    "NotACounter": ".trouble",
    "UnknownProblem": ".trouble",
    "KvError": "..errors",
    "Overloaded": "..errors",
    "PreconditionFailed": "..errors",
    "TokenMissing": "..errors",
    "Unreached": "..errors",
}
"""Where each public name is."""

__all__ = [
    "BlockingClient",
    "Client",
    "Delete",
    "Get",
    "KvError",
    "MaybeApplied",
    "NobodyAnswers",
    "NotACounter",
    "Overloaded",
    "PreconditionFailed",
    "Put",
    "TokenMissing",
    "UnknownProblem",
    "Unreached",
    "Value",
    "Written",
]


def __getattr__(name: str) -> object:
    if name not in ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(ROOMS[name], __name__), name)
