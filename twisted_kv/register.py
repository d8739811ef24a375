"""The register: what one key is, as the rules of an acceptor and the messages that it knows.

This is single-decree Paxos read as a register (Lamport, "Paxos Made Simple", 2001; the register form is CASPaxos,
Rystsov 2018): a change is an *accept* under a ballot; an owner keeps the highest ballot it promised and the record it
accepted last. How a proxy speaks with a key's owners is in ``conversation``, ``writing`` and ``reading``.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec

from .names import Key
from .versions import NONE, UNDRAWN, Ballot, Shown, is_held

READ, FETCH, PREPARE, ACCEPT, HINT = range(5)
"""The verbs: show the ballots; show the record too; promise; take this record; note that an owner (its id stands in the
place of the record) has missed this ballot of the key."""


Sentence = Annotated[str, msgspec.Meta(max_length=4_096)]
"""What a node says for people. It goes into logs and answers."""

SHOWING = (FETCH, PREPARE)
"""Those whose answers hold a record."""


class Op(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One question to one owner about one key."""

    verb: int
    key: Key
    ballot: Ballot = NONE
    record: bytes = b""


class Reply(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One owner's answer: whether it agreed, and its two ballots after that.

    ``record`` is there where it was asked for: by a fetch, and by a prepare that was granted. Empty bytes are the
    record of a key that was never written. An owner that cannot read what it has, or has no room for what it is to
    keep, abstains: it neither agrees nor refuses, and nothing has changed; ``abstains`` says why.
    """

    taken: bool
    accepted: Shown
    promised: Shown
    record: bytes = b""
    abstains: Sentence = ""


def is_possible(verb: int, reply: Reply) -> bool:
    """Whether an owner that goes by the rules can give an answer to a verb.

    Who passes on what one has made up is refused by the others, together with all else in the same batch.
    """
    if reply.accepted >= UNDRAWN or reply.promised >= UNDRAWN:
        return False
    if reply.record or (reply.taken and verb in SHOWING):
        return is_held(reply.accepted, reply.record)
    return True


AGAIN = Reply(False, NONE, NONE, abstains="again")
"""The answer to what would make a batch's answer too large: it was not looked at, and is to be asked again. The first
operation of a batch is never answered so."""

ABSTAIN = Reply(False, NONE, NONE, abstains="what it holds of this key cannot be read")


class Cell(msgspec.Struct, frozen=True, gc=False):
    """What one owner keeps for one key. There may be millions: the garbage collector need not know of them."""

    promised: Ballot
    accepted: Ballot
    record: bytes


BLANK = Cell(NONE, NONE, b"")


class Floor(NamedTuple):
    """What one owner keeps for a slot whose tombstones were purged.

    Every ballot up to ``promised`` is refused for each key of the slot. A key that has no cell counts as one whose
    tombstone was accepted at ``accepted``.
    """

    promised: Ballot
    accepted: Ballot


NO_FLOOR = Floor(NONE, NONE)
"""The floor of a slot in which nothing was ever purged."""


def accepted(cell: Cell, ballot: Ballot, record: bytes) -> Cell:
    """Give the cell after an accept: the same object where it is refused, or was there before."""
    if ballot >= cell.promised and ballot > cell.accepted:
        return Cell(ballot, ballot, record)
    return cell


def decide(cell: Cell, op: Op) -> tuple[Reply, Cell]:
    """Apply the acceptor's rules: the answer, and the cell that must be kept before the answer leaves.

    The same cell object comes back where nothing changed. A repeated message is answered as the first was.
    """
    verb, ballot = op.verb, op.ballot
    if verb == ACCEPT:
        kept = accepted(cell, ballot, op.record)
        if kept is not cell:
            return Reply(True, ballot, ballot), kept
        return Reply(ballot == cell.accepted, cell.accepted, cell.promised), cell
    if verb == READ:
        return Reply(True, cell.accepted, cell.promised), cell
    if verb == FETCH:
        return Reply(True, cell.accepted, cell.promised, cell.record), cell
    if ballot >= cell.promised and ballot > cell.accepted:
        kept = cell if ballot == cell.promised else Cell(ballot, cell.accepted, cell.record)
        return Reply(True, cell.accepted, ballot, cell.record), kept
    return Reply(False, cell.accepted, cell.promised), cell
