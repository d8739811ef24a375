"""Level ``one`` reads: chained failover, as the original has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from .names import NodeId
from .register import Reply


def read_one(owners: Sequence[NodeId], fetch: Callable[[NodeId], Deferred[Reply]]) -> Deferred[Reply]:
    """Ask the primary, then the replicas in turn, until one holds a record.

    The next owner is asked on a failure and where the key is absent; a tombstone is an answer and ends the search.
    The last owner's answer, or failure, is the chain's, except that a key which any owner called absent is absent.
    """
    absent: list[Reply] = []

    def go_on(result: Reply | Failure, node: NodeId) -> Reply | Deferred[Reply]:
        if isinstance(result, Reply):
            if result.record:
                return result
            absent.append(result)
        return fetch(node)

    def settle(failure: Failure) -> Reply | Failure:
        return absent[0] if absent else failure

    chain = fetch(owners[0])
    for node in owners[1:]:
        chain.addBoth(go_on, node)
    return chain.addErrback(settle)
