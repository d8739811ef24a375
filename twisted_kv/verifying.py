"""Verifying: before fewer nodes hold something, those who are going to hold it alone read it.

Owners are compared by digests, which say what each of them once wrote, not what it can still read. What one of them has
lost without noticing is got back from the others (``refilling.py``) as long as there are enough of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from twisted.internet.interfaces import IReactorTime

from .errors import ChangeFailed
from .membership import State
from .names import NodeId, Slot
from .peers.control import Control
from .ring import runs
from .together import every


async def verify_stayers(
    clock: IReactorTime, control: Control, state: State, stays: Mapping[NodeId, Sequence[Slot]]
) -> None:
    """Have members read slots; what they find is marked for repair.

    :raises ChangeFailed: if something cannot be read.
    :raises PeerSilent: if one of them does not answer.
    """
    readers = [seat for seat in state.members if seat.id in stays]
    said = await every(control.verify(clock, seat, state, runs(stays[NodeId(seat.id)])) for seat in readers)
    for seat, damaged in zip(readers, said, strict=True):
        if damaged:
            raise ChangeFailed(
                f"in {damaged} slots of {seat.id} something cannot be read, and fewer nodes are to hold them",
                "it is being got back from the others; send the call again in a moment",
            )
