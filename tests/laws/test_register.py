"""The register: laws of an acceptor, conversations as stories, and a seeded simulation judged by the checker.

A failing seed is repeated, and any range of seeds run, from the repository's folder with

    python -m tests.laws.test_register FIRST LAST             # seeds FIRST to LAST - 1, each in six ways
    python -m tests.laws.test_register FIRST LAST MUTANT      # the first seed that catches a wrong variant
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_kv import conditional as conditional_changes
from twisted_kv import quorum, register
from twisted_kv.conditional import Conditional, Decided, Draft
from twisted_kv.conversation import NOTHING, Conversation, Outcome, Send
from twisted_kv.errors import DeadlinePassed, Unreached
from twisted_kv.names import Key, NodeId
from twisted_kv.proposing import Proposer
from twisted_kv.quorum import Electorate, Group, Level, Voters, blocking, met, required
from twisted_kv.reading import Read
from twisted_kv.register import ACCEPT, BLANK, FETCH, PREPARE, READ, Cell, Op, Reply, decide
from twisted_kv.simulation.linearizability import Event, Fate, Kind, violation
from twisted_kv.versions import NONE, Ballot, HybridClock, Record, Version, decode_record, record_expiry, record_version
from twisted_kv.writing import Write

KEY = Key(b"k")


# Laws of an acceptor.

ballots = st.integers(1, 6).map(lambda number: Ballot(number.to_bytes(16, "big")))
verbs = st.sampled_from((READ, FETCH, PREPARE, ACCEPT))


@st.composite
def questions(draw: st.DrawFn) -> Op:
    """Questions as proxies ask them: one ballot serves one record."""
    verb, ballot = draw(verbs), draw(ballots)
    if verb == ACCEPT:
        return Op(verb, KEY, ballot, Record(Version(ballot), b"value").encode())
    return Op(verb, KEY, ballot) if verb == PREPARE else Op(verb, KEY)


def after(asked: Sequence[Op]) -> Cell:
    cell = BLANK
    for op in asked:
        cell = decide(cell, op)[1]
    return cell


cells = st.lists(questions(), max_size=8).map(after)


@given(cells, questions())
def test_ballots_of_a_cell_only_grow(cell: Cell, op: Op) -> None:
    kept = decide(cell, op)[1]
    assert kept.promised >= cell.promised
    assert kept.accepted >= cell.accepted
    assert kept.promised >= kept.accepted


@given(cells, questions())
def test_record_changes_only_with_the_accepted_ballot(cell: Cell, op: Op) -> None:
    kept = decide(cell, op)[1]
    assert (kept.record != cell.record) == (kept.accepted != cell.accepted)


@given(cells, questions())
def test_refused_question_changes_nothing(cell: Cell, op: Op) -> None:
    reply, kept = decide(cell, op)
    assert reply.taken or kept is cell


@given(cells, questions())
def test_repeated_question_is_answered_as_the_first_was_and_changes_nothing(cell: Cell, op: Op) -> None:
    reply, kept = decide(cell, op)
    again, kept_again = decide(kept, op)
    assert again == reply
    assert kept_again is kept


@given(cells, questions(), st.lists(questions(), max_size=5))
def test_what_was_refused_once_is_refused_for_ever(cell: Cell, op: Op, later: list[Op]) -> None:
    reply, kept = decide(cell, op)
    for other in later:
        kept = decide(kept, other)[1]
    if not reply.taken:
        assert not decide(kept, op)[0].taken


@given(cells, questions())
def test_answer_shows_the_ballots_that_were_kept(cell: Cell, op: Op) -> None:
    reply, kept = decide(cell, op)
    assert (reply.accepted, reply.promised) == (kept.accepted, kept.promised)


@given(cells, questions())
def test_looking_changes_nothing_and_only_a_fetch_shows_the_record(cell: Cell, op: Op) -> None:
    assert decide(cell, Op(READ, KEY)) == (Reply(True, cell.accepted, cell.promised), cell)
    assert decide(cell, Op(FETCH, KEY)) == (Reply(True, cell.accepted, cell.promised, cell.record), cell)


@given(cells, ballots, st.lists(questions(), max_size=8))
def test_granted_prepare_keeps_every_lower_accept_out(cell: Cell, ballot: Ballot, later: list[Op]) -> None:
    reply, kept = decide(cell, Op(PREPARE, KEY, ballot))
    if reply.taken:
        assert reply.record == cell.record
        for op in later:
            answer, following = decide(kept, op)
            if op.verb == ACCEPT and op.ballot < ballot:
                assert not answer.taken or op.ballot == kept.accepted
                assert following is kept
            kept = following


@given(cells, ballots)
def test_accept_is_taken_exactly_if_no_promise_and_no_newer_record_forbids_it(cell: Cell, ballot: Ballot) -> None:
    op = Op(ACCEPT, KEY, ballot, Record(Version(ballot), b"value").encode())
    reply, kept = decide(cell, op)
    fresh = ballot >= cell.promised and ballot > cell.accepted
    assert reply.taken == (fresh or ballot == cell.accepted)
    assert kept == (Cell(ballot, ballot, op.record) if fresh else cell)


# Stories, message by message.

A, B, C = map(NodeId, "abc")
OLD = Ballot((50 << 16).to_bytes(8, "big") + bytes(7) + b"\x01")
NEW = Ballot((200 << 16).to_bytes(8, "big") + bytes(7) + b"\x01")
OTHERS = Record(Version(OLD), b"old").encode()
NEWER = Record(Version(NEW), b"newer").encode()


def clock_at(now_ms: int = 100) -> HybridClock:
    return HybridClock(lambda: now_ms, 7)


def ballot_at(number: int, now_ms: int = 100) -> Ballot:
    """The ballot that a clock standing still draws as its number-th, the first being 0."""
    return Ballot(((now_ms << 16) + number).to_bytes(8, "big") + (7).to_bytes(8, "big"))


def write_of(value: bytes | None = b"v", level: Level = Level.STRONG, owners: Sequence[NodeId] = (A, B, C)) -> Write:
    return Write(KEY, Electorate(owners), clock_at(), level, value)


def accepts(ballot: Ballot, record: bytes, owners: Sequence[NodeId] = (A, B, C)) -> list[Send]:
    return [(node, Op(ACCEPT, KEY, ballot, record)) for node in owners]


def prepares(ballot: Ballot, owners: Sequence[NodeId] = (A, B, C)) -> list[Send]:
    return [(node, Op(PREPARE, KEY, ballot)) for node in owners]


def put_record(ballot: Ballot, value: bytes | None = b"v") -> bytes:
    return Record(Version(ballot), value).encode()


def yes(ballot: Ballot) -> Reply:
    return Reply(True, ballot, ballot)


def no(accepted: Ballot, promised: Ballot | None = None) -> Reply:
    return Reply(False, accepted, promised or accepted)


def granted(accepted: Ballot, promised: Ballot, record: bytes = b"") -> Reply:
    return Reply(True, accepted, promised, record)


def failure_of(conversation: Conversation) -> Unreached:
    assert conversation.outcome is not None
    assert isinstance(conversation.outcome.error, Unreached)
    return conversation.outcome.error


def test_put_is_acknowledged_when_two_of_three_took_it() -> None:
    write = write_of()
    first = ballot_at(0)
    assert write.begin() == accepts(first, put_record(first))
    assert write.deliver(B, 1, yes(first)) == NOTHING
    assert write.outcome is None
    assert write.deliver(A, 1, yes(first)) == NOTHING
    assert write.outcome == Outcome(put_record(first), 2)
    assert write.deliver(C, 1, no(NEW)) == NOTHING
    assert write.outcome == Outcome(put_record(first), 2)


def test_delete_is_a_put_of_a_tombstone() -> None:
    write = write_of(None)
    assert write.begin() == accepts(ballot_at(0), put_record(ballot_at(0), None))


def test_put_that_all_refused_is_written_again_under_a_ballot_above_what_they_showed() -> None:
    write = write_of()
    write.begin()
    assert write.deliver(A, 1, no(NEW)) == NOTHING
    assert write.deliver(B, 1, no(OLD, NEW)) == NOTHING
    second = Ballot(((200 << 16) + 1).to_bytes(8, "big") + (7).to_bytes(8, "big"))
    assert write.deliver(C, 1, no(NEW)) == accepts(second, put_record(second))
    write.deliver(A, 2, yes(second))
    write.deliver(B, 2, yes(second))
    assert write.outcome == Outcome(put_record(second), 2)


def opened_write() -> tuple[Write, Ballot]:
    """A put that one owner took and two refused; it goes on by a prepare, whose ballot comes with it."""
    write = write_of()
    first = ballot_at(0)
    write.begin()
    assert write.deliver(A, 1, yes(first)) == NOTHING
    assert write.deliver(B, 1, no(OLD, ballot_at(3))) == NOTHING
    assert write.deliver(C, 1, no(OLD, ballot_at(3))) == prepares(ballot_at(4))
    return write, ballot_at(4)


def test_open_put_goes_on_by_a_prepare_and_finishes_the_version_it_finds() -> None:
    write, second = opened_write()
    first = put_record(ballot_at(0))
    assert write.deliver(C, 2, granted(OLD, second, OTHERS)) == NOTHING
    assert write.deliver(A, 2, granted(ballot_at(0), second, first)) == accepts(second, first)
    write.deliver(A, 3, yes(second))
    write.deliver(B, 3, yes(second))
    assert write.outcome == Outcome(first, 2)


def test_open_put_that_is_found_nowhere_is_written_under_the_prepared_ballot() -> None:
    write, second = opened_write()
    write.deliver(B, 2, granted(OLD, second, OTHERS))
    assert write.deliver(C, 2, granted(OLD, second, OTHERS)) == accepts(second, put_record(second))


def test_open_put_behind_a_newer_change_is_maybe_applied() -> None:
    write, second = opened_write()
    between = Ballot((ballot_at(2)[:8]) + (9).to_bytes(8, "big"))
    write.deliver(B, 2, granted(between, second, put_record(between, b"other")))
    assert write.deliver(C, 2, granted(OLD, second, OTHERS)) == NOTHING
    error = failure_of(write)
    assert error.maybe_applied is True
    assert error.etag == ballot_at(0).hex()
    assert "another change came between" in error.detail


def test_refusal_of_a_question_that_may_have_come_twice_leaves_the_put_open() -> None:
    write = write_of()
    write.begin()
    write.deliver(A, 1, no(NEW), True)
    sends = write.deliver(B, 1, no(NEW))
    assert {op.verb for _, op in sends} == {PREPARE}


def test_put_is_certainly_not_applied_when_two_of_three_were_never_reached() -> None:
    write = write_of()
    write.begin()
    write.fail(A, 1, "connection refused", arrived=False)
    write.fail(B, 1, "connection refused", arrived=False)
    assert write.outcome is None, "the third may refuse too, and then nothing has happened"
    write.fail(C, 1, "connection refused", arrived=False)
    error = failure_of(write)
    assert error.maybe_applied is False
    assert (error.acks, error.required) == (0, 2)
    assert error.replicas == dict.fromkeys((A, B, C), "connection refused")


@pytest.mark.parametrize("last", ["taken", "silent"])
def test_put_without_its_majority_is_maybe_applied_if_one_owner_took_it_or_may_have(last: str) -> None:
    write = write_of()
    write.begin()
    write.fail(A, 1, "connection refused", arrived=False)
    write.fail(B, 1, "connection refused", arrived=False)
    if last == "taken":
        write.deliver(C, 1, yes(ballot_at(0)))
    else:
        write.fail(C, 1, "no answer", arrived=True)
    error = failure_of(write)
    assert error.maybe_applied is True
    assert error.etag == ballot_at(0).hex()
    assert error.acks == (1 if last == "taken" else 0)


def test_level_all_needs_every_owner() -> None:
    write = write_of(level=Level.ALL)
    first = ballot_at(0)
    write.begin()
    write.deliver(A, 1, yes(first))
    write.deliver(B, 1, yes(first))
    assert write.outcome is None
    write.deliver(C, 1, yes(first))
    assert write.outcome == Outcome(put_record(first), 3)


def test_level_all_without_one_owner_is_maybe_applied() -> None:
    write = write_of(level=Level.ALL)
    write.begin()
    write.deliver(A, 1, yes(ballot_at(0)))
    write.deliver(B, 1, yes(ballot_at(0)))
    write.fail(C, 1, "connection refused", arrived=False)
    assert failure_of(write).maybe_applied is True
    assert failure_of(write).required == 3


def test_level_one_is_content_with_the_first_owner() -> None:
    write = write_of(level=Level.ONE)
    write.begin()
    write.fail(A, 1, "connection refused", arrived=False)
    write.deliver(C, 1, yes(ballot_at(0)))
    assert write.outcome == Outcome(put_record(ballot_at(0)), 1)


def test_write_that_meets_others_twice_pauses_and_then_prepares_again() -> None:
    write, _ = opened_write()
    write.deliver(A, 2, no(OLD, ballot_at(8)))
    assert write.deliver(B, 2, no(OLD, ballot_at(9))) == NOTHING
    assert write.paused
    assert write.outcome is None
    assert write.resume() == prepares(ballot_at(10))
    assert not write.paused


def test_answers_to_an_older_round_change_nothing() -> None:
    write, _ = opened_write()
    assert write.deliver(C, 1, yes(ballot_at(0))) == NOTHING
    assert write.fail(C, 1, "late", arrived=True) == NOTHING
    assert (write.confirmed, write.refused, write.outcome) == (0, 0, None)


def test_deadline_of_a_write_leaves_it_maybe_applied_and_names_the_silent() -> None:
    write = write_of()
    write.begin()
    write.deliver(A, 1, yes(ballot_at(0)))
    write.expire()
    error = failure_of(write)
    assert isinstance(error, DeadlinePassed)
    assert error.maybe_applied is True
    assert set(error.replicas) == {B, C}


def test_write_restarted_in_another_epoch_is_open_and_prepares_with_the_new_owners() -> None:
    write = write_of()
    write.begin()
    new = (B, C, NodeId("d"))
    assert write.restart(Electorate(new)) == prepares(ballot_at(1), new)
    assert write.deliver(A, 1, yes(ballot_at(0))) == NOTHING


def test_write_that_asked_nobody_yet_is_certain_after_a_restart() -> None:
    write = write_of()
    assert write.restart(Electorate((A,))) == accepts(ballot_at(0), put_record(ballot_at(0)), (A,))


def read_of(level: Level = Level.STRONG, owners: Sequence[NodeId] = (A, B, C)) -> Read:
    return Read(KEY, Electorate(owners), clock_at(), level)


LOOK, TAKE = Op(READ, KEY), Op(FETCH, KEY)


def holds(ballot: Ballot, record: bytes = b"") -> Reply:
    return Reply(True, ballot, ballot, record)


def test_read_asks_a_bare_majority_and_one_of_them_for_the_record() -> None:
    read = read_of()
    assert read.begin() == [(A, TAKE), (B, LOOK)]
    assert read.deliver(B, 1, holds(OLD)) == NOTHING
    assert read.deliver(A, 1, holds(OLD, OTHERS)) == NOTHING
    assert read.outcome == Outcome(OTHERS, 2)


def test_read_of_a_key_never_written_is_empty() -> None:
    read = read_of()
    read.begin()
    read.deliver(A, 1, holds(NONE))
    read.deliver(B, 1, holds(NONE))
    assert read.outcome == Outcome(b"", 2)


def test_read_writes_the_newest_back_before_it_answers() -> None:
    read = read_of()
    read.begin()
    read.deliver(B, 1, holds(OLD))
    assert read.deliver(A, 1, holds(NEW, NEWER)) == accepts(NEW, NEWER, (B, C))
    assert read.outcome is None
    read.deliver(C, 2, yes(NEW))
    assert read.outcome == Outcome(NEWER, 2)


def test_read_fetches_a_newer_record_and_asks_the_spared_owner_beside() -> None:
    read = read_of()
    read.begin()
    read.deliver(A, 1, holds(OLD, OTHERS))
    assert read.deliver(B, 1, holds(NEW)) == [(B, TAKE), (C, TAKE)]
    read.deliver(C, 1, holds(NEW, NEWER))
    assert read.outcome == Outcome(NEWER, 3)


def test_read_goes_on_without_the_holder_of_the_newest_if_it_falls_silent() -> None:
    read = read_of()
    read.begin()
    read.deliver(A, 1, holds(OLD, OTHERS))
    read.deliver(B, 1, holds(NEW))
    assert not read.fail(B, 1, "gone", arrived=True)
    assert read.outcome is None
    read.deliver(C, 1, holds(OLD, OTHERS))
    assert read.outcome == Outcome(OTHERS, 2)


def test_write_back_that_promises_forbid_becomes_a_proposal_under_a_new_ballot() -> None:
    read = read_of()
    read.begin()
    read.deliver(B, 1, holds(OLD))
    read.deliver(A, 1, holds(NEW, NEWER))
    promised = Ballot((300 << 16).to_bytes(8, "big") + bytes(8))
    assert read.deliver(B, 2, no(OLD, promised)) == NOTHING
    higher = Ballot(((300 << 16) + 1).to_bytes(8, "big") + (7).to_bytes(8, "big"))
    assert read.deliver(C, 2, no(OLD, promised)) == prepares(higher)
    read.deliver(A, 3, granted(NEW, higher, NEWER))
    assert read.deliver(B, 3, granted(OLD, higher, OTHERS)) == accepts(higher, NEWER)
    read.deliver(A, 4, yes(higher))
    read.deliver(B, 4, yes(higher))
    assert read.outcome == Outcome(NEWER, 2)


def test_nudge_asks_the_spared_owner_once() -> None:
    read = read_of()
    read.begin()
    assert read.nudge() == [(C, TAKE)]
    assert not read.nudge()


def test_nudge_tells_a_write_nothing() -> None:
    write = write_of()
    write.begin()
    assert write.nudge() == NOTHING


def test_read_asks_the_spared_owner_in_place_of_a_silent_one() -> None:
    read = read_of()
    read.begin()
    assert read.fail(A, 1, "gone", arrived=False) == [(C, TAKE)]
    read.deliver(B, 1, holds(OLD))
    read.deliver(C, 1, holds(OLD, OTHERS))
    assert read.outcome == Outcome(OTHERS, 2)


def test_read_without_a_majority_fails() -> None:
    read = read_of()
    read.begin()
    read.fail(A, 1, "gone", arrived=False)
    read.fail(C, 1, "gone", arrived=False)
    assert type(failure_of(read)) is Unreached
    assert failure_of(read).replicas == {A: "gone", C: "gone"}


def test_read_at_level_all_asks_everybody() -> None:
    read = read_of(Level.ALL)
    assert read.begin() == [(A, TAKE), (B, LOOK), (C, LOOK)]
    read.deliver(A, 1, holds(OLD, OTHERS))
    read.deliver(B, 1, holds(OLD))
    assert read.outcome is None
    read.deliver(C, 1, holds(OLD))
    assert read.outcome == Outcome(OTHERS, 3)


def test_read_at_level_all_leaves_every_owner_with_what_it_answers() -> None:
    read = read_of(Level.ALL)
    read.begin()
    read.deliver(A, 1, holds(OLD, OTHERS))
    read.deliver(B, 1, holds(OLD))
    assert read.deliver(C, 1, holds(NONE)) == accepts(OLD, OTHERS, (C,))
    assert read.outcome is None
    read.deliver(C, 2, yes(OLD))
    assert read.outcome == Outcome(OTHERS, 3)


def test_read_at_level_all_proposes_to_every_owner_where_a_promise_forbids_its_write_back() -> None:
    read = read_of(Level.ALL)
    read.begin()
    read.deliver(A, 1, holds(OLD, OTHERS))
    read.deliver(B, 1, holds(OLD))
    read.deliver(C, 1, holds(NONE))
    higher = Ballot(((200 << 16) + 1).to_bytes(8, "big") + (7).to_bytes(8, "big"))
    assert read.deliver(C, 2, no(NONE, NEW)) == prepares(higher)
    read.deliver(A, 3, granted(OLD, higher, OTHERS))
    assert read.deliver(B, 3, granted(OLD, higher, OTHERS)) == NOTHING
    assert read.deliver(C, 3, granted(NONE, higher)) == accepts(higher, OTHERS)
    read.deliver(A, 4, yes(higher))
    read.deliver(B, 4, yes(higher))
    assert read.outcome is None
    read.deliver(C, 4, yes(higher))
    assert read.outcome == Outcome(OTHERS, 3)


def test_read_at_level_all_fails_where_an_owner_falls_silent_before_it_holds_the_answer() -> None:
    read = read_of(Level.ALL)
    read.begin()
    read.deliver(A, 1, holds(OLD, OTHERS))
    read.deliver(B, 1, holds(OLD))
    read.deliver(C, 1, holds(NONE))
    assert read.fail(C, 2, "gone", arrived=True) == NOTHING
    assert (failure_of(read).required, failure_of(read).replicas) == (3, {C: "gone"})


def test_deadline_of_a_read_says_so() -> None:
    read = read_of()
    read.begin()
    read.deliver(A, 1, holds(OLD, OTHERS))
    read.expire()
    assert isinstance(failure_of(read), DeadlinePassed)
    assert set(failure_of(read).replicas) == {B}


def test_read_restarted_in_another_epoch_forgets_what_it_was_shown() -> None:
    read = read_of()
    read.begin()
    read.deliver(A, 1, holds(OLD, OTHERS))
    assert read.restart(Electorate((B, C, A))) == [(B, TAKE), (C, LOOK)]
    assert read.deliver(B, 1, holds(OLD)) == NOTHING
    read.deliver(C, 2, holds(NEW))
    assert read.outcome is None


# The simulation: real conversations, real acceptors, and between them a network that does anything.


class Proxy:
    """A process that draws ballots from a wall clock that is wrong and jumps."""

    def __init__(self, simulation: Simulation, name: str, skew_ms: int) -> None:
        self.simulation = simulation
        self.name = name
        self.skew_ms = skew_ms
        self.epoch = simulation.opened
        self.start()

    def start(self) -> None:
        """Start anew with a fresh writer id; what the clock had learned is forgotten."""
        self.clock = HybridClock(self.now_ms, self.simulation.random.getrandbits(64))

    def now_ms(self) -> int:
        return 10_000_000 + self.simulation.now // 4 + self.skew_ms


class Part:
    """One client's conditional change. Each time that it is decided on it writes something else.

    :param only_on: what it must find, where it does not take anything.
    """

    def __init__(self, client: str, only_on: bytes | None, anything: bool, expires_ms: int = 0) -> None:
        self.client = client
        self.only_on = only_on
        self.anything = anything
        self.expires_ms = expires_ms
        self.tried: dict[bytes, bytes | None] = {}
        self.found: list[bytes | None] = []
        self.withdrawn = False

    def decide(self, held: Record | None) -> Draft | None:
        base = held and name_of(held)
        self.found.append(base)
        if not self.anything and base != self.only_on:
            return None
        value = b"%b, form %d" % (self.client.encode(), len(self.tried))
        self.tried[value] = base
        return Draft(value, expires_ms=self.expires_ms)


class Burying(Conditional):
    """Changes that share a round, and that tell of the tombstones which they put in the place of what they found."""

    __slots__ = ("bury", "parts")

    bury: Callable[[bytes | None, bytes], None]
    parts: Sequence[Part]

    def _decide(self, found: Record | None) -> tuple[Record | None, list[Decided]]:
        for part in self.parts:
            part.found.clear()
        held, decided = super()._decide(found)
        base = found and name_of(found)
        for name in {held and name_of(held), *(name for part in self.parts for name in part.found)}:
            if name is not None and name != base and name.startswith(b"grave"):
                self.bury(base, name)
        return held, decided


@dataclass(eq=False, slots=True)
class Operation:
    """One conversation of one client, and what its client knows of it."""

    client: str
    proxy: Proxy
    kind: Kind
    value: bytes | None
    level: Level
    conversation: Conversation
    called: int
    epoch: int
    parts: Sequence[Part] = ()
    asked: set[tuple[int, NodeId]] = field(default_factory=set)
    """Questions that were neither answered nor failed yet."""


class Question(NamedTuple):
    """A question under way. It belongs to no operation if nobody waits for its answer."""

    operation: Operation | None
    round: int
    epoch: int
    node: NodeId
    op: Op
    resent: bool = False
    copied: bool = False


class Answer(NamedTuple):
    """An answer under way, or, without a reply, the news that there is none; ``doubt`` is ``resent`` or ``arrived``."""

    operation: Operation
    round: int
    node: NodeId
    reply: Reply | None
    doubt: bool


def copy_rule(cell: Cell, op: Op) -> Cell:
    """What an owner does with a record that another owner sends it: accept it, as always."""
    return register.decide(cell, op)[1]


def sources_needed(owners: int) -> int:
    """How many old owners a new one is filled from."""
    return blocking(owners)


def settles() -> bool:
    """Whether a new owner is filled by a proposal where the old ones differ."""
    return True


def both_vote() -> bool:
    """Whether old and new owners vote together while the new ones are filled."""
    return True


def buries() -> bool:
    """Whether a read that finds a value expired has it replaced by a tombstone before it calls it absent."""
    return True


def fills_who_stays() -> bool:
    """Whether those who stay are filled, too, where an owner goes without another one in its place.

    They have to be: an acknowledged record may then be on fewer than a majority of those who are left, and what a
    blocking set of them shows, or a majority after one more such change, may lack it.
    """
    return True


class Simulation:
    """One key, its owners, two or three proxies. Everything that happens is drawn from the seed.

    :param changing: whether owners change meanwhile; see ``_drive_change``.
    :param conditional: whether clients also make conditional changes.
    :param wild: whether values also expire, changes are withdrawn from rounds, and owners abstain.
    """

    def __init__(self, seed: int, changing: bool = False, conditional: bool = False, wild: bool = False) -> None:
        self.random = rng = random.Random(seed)
        self.now = 0
        self.wire: list[Question | Answer] = []
        self.strays: list[Question] = []
        self.running: list[Operation] = []
        self.history: list[Event] = []
        self.names = count(1)
        self.changing = changing
        self.owners = tuple(map(NodeId, "abcde"[: rng.choice((3, 3, 3, 3, 3, 1, 2, 5))]))
        self.electorates = [Electorate(self.owners)]
        self.cells: dict[NodeId, Cell] = dict.fromkeys(map(NodeId, "abcdefg"), BLANK)
        self.epochs: dict[NodeId, int] = dict.fromkeys(self.cells, 0)
        self.change: Iterator[None] | None = None
        self.slow: NodeId | None = None
        # The weather.
        self.loss = rng.choice((0.0, 0.1, 0.3))
        self.repeats = rng.choice((0.0, 0.1, 0.3))
        self.copies = rng.choice((0.0, 0.05, 0.2))
        self.crashes = rng.choice((0.0, 0.0, 0.02))
        self.nudges = rng.choice((0.0, 0.05, 0.2))
        self.expiries = rng.choice((0.0, 0.0, 0.01))
        self.jumps = rng.choice((0.0, 0.02))
        self.slowness = rng.choice((0.0, 0.0, 0.1))
        self.crowd = rng.choice((2, 4, 8))
        self.ones = rng.random() < 0.1
        self.left = rng.randrange(5, 16)
        self.superseded: set[bytes] = set()
        self.kinds = (Kind.PUT,) * 3 + (Kind.DELETE,) + (Kind.READ,) * 3
        skews = (0, 0, -5, 5, 40, -40, 3_600_000, -3_600_000)
        if rng.random() < 0.4:
            # Nobody gives up and clocks differ by little: most promises, refusals and second proposals meet here.
            skews = (0, 1, -1, 2, -2)
            self.loss, self.repeats = rng.choice((0.1, 0.3)), rng.choice((0.3, 0.5))
            self.copies, self.slowness = rng.choice((0.0, 0.2)), rng.choice((0.0, 0.1))
            self.crashes = self.expiries = self.jumps = 0.0
            self.crowd, self.left = rng.choice((5, 8)), rng.randrange(10, 16)
        if conditional:
            self.kinds = (*self.kinds[rng.choice((0, 2, 4)) :], *(Kind.SWAP,) * rng.choice((1, 4, 8)))
        self.proxies = [Proxy(self, f"p{i}", rng.choice(skews)) for i in range(rng.choice((2, 3)))]
        self.expiring = self.withdrawals = self.scratches = 0.0
        self.unreadable: NodeId | None = None
        if wild:
            self.expiring = rng.choice((0.0, 0.3, 0.7))
            self.withdrawals = rng.choice((0.0, 0.05, 0.2))
            self.scratches = rng.choice((0.0, 0.05))
            self.ones = rng.random() < 0.3

    @property
    def opened(self) -> int:
        """The newest epoch."""
        return len(self.electorates) - 1

    def run(self) -> list[Event]:
        while (self.left or self.running) and self.now < 3000:
            self._step()
        for operation in list(self.running):
            operation.conversation.expire()
            self._settle(operation, NOTHING)
        self._calm()
        for event in self.history:
            if event.fate is Fate.DROPPED and event.kind is not Kind.READ:
                for node, cell in self.cells.items():
                    assert shown(cell.record) != event.value, f"{node} holds a write that had no effect: {event}"
        assert_once(self.history, self.superseded)
        return self.history

    def _step(self) -> None:
        rng = self.random
        self.now += 1
        if self.left and (not self.running or (len(self.running) < self.crowd and rng.random() < 0.12)):
            self.left -= 1
            self._start(rng.choice(self.proxies))
        self._disturb()
        if self.running:
            operation = rng.choice(self.running)
            if operation.conversation.paused and rng.random() < 0.3:
                self._settle(operation, operation.conversation.resume())
        if self.strays and rng.random() < 0.05:
            self._carry(self.strays.pop(rng.randrange(len(self.strays))))
        self._move()

    def _move(self) -> None:
        """Let one thing on the wire arrive, whichever."""
        if not self.wire:
            return
        rng = self.random
        i = rng.randrange(len(self.wire))
        if self.wire[i].node == self.slow and rng.random() < 0.9:
            return
        self.wire[i], self.wire[-1] = self.wire[-1], self.wire[i]
        thing = self.wire.pop()
        if isinstance(thing, Question):
            self._carry(thing)
        else:
            self._hand_over(thing)

    def _disturb(self) -> None:
        rng = self.random
        if rng.random() < self.copies:
            self._copy()
        if self.running and rng.random() < self.nudges:
            operation = rng.choice(self.running)
            self._settle(operation, operation.conversation.nudge())
        if self.running and rng.random() < self.expiries:
            operation = rng.choice(self.running)
            operation.conversation.expire()
            self._settle(operation, NOTHING)
        if rng.random() < self.jumps:
            rng.choice(self.proxies).skew_ms += rng.choice((-3_600_000, -100, -3, 3, 100, 3_600_000))
        if rng.random() < self.crashes:
            self._crash(rng.choice(self.proxies))
        if rng.random() < self.slowness:
            self.slow = rng.choice((None, *self.electorates[-1].nodes))
        if self.withdrawals and self.running and rng.random() < self.withdrawals:
            self._withdraw(rng.choice(self.running))
        if self.scratches and rng.random() < self.scratches:
            self.unreadable = rng.choice((None, *self.electorates[-1].nodes))
        if self.changing:
            self._drive_change()

    # Operations.

    def _start(self, proxy: Proxy, kind: Kind | None = None) -> Operation:
        rng = self.random
        kind = kind or rng.choice(self.kinds)
        number = next(self.names)
        owners = self._owners(proxy.epoch)
        level = Level.ALL if rng.random() < 0.15 else Level.STRONG
        value: bytes | None = None
        conversation: Conversation
        parts: list[Part] = []
        if kind is Kind.READ:
            conversation = Read(KEY, owners, proxy.clock, level)
        elif kind is Kind.SWAP:
            level = Level.STRONG
            for name in range(rng.choice((1, 1, 2, 3))):
                known = [event.value for event in self.history if event.fate is Fate.DONE]
                only_on, anything = rng.choice([None, *known]), rng.random() < 0.6
                parts.append(Part(f"{number}.{name}", only_on, anything, self._expiry(proxy)))
            conversation = self._sharing(proxy, owners, parts)
        else:
            if self.ones and rng.random() < 0.3:
                level = Level.ONE
            # A tombstone is given a name, so that the checker knows one from another.
            value = b"%d" % number if kind is Kind.PUT else b"tombstone %d" % number
            written = value if kind is Kind.PUT else None
            named = b"" if kind is Kind.PUT else value
            expires_ms = self._expiry(proxy) if kind is Kind.PUT else 0
            conversation = Write(KEY, owners, proxy.clock, level, written, named, expires_ms)
        client = f"{proxy.name}#{number}"
        operation = Operation(client, proxy, kind, value, level, conversation, self.now, proxy.epoch, parts=parts)
        self.running.append(operation)
        self._settle(operation, conversation.begin())
        return operation

    def _owners(self, epoch: int) -> Electorate:
        """Give an epoch's electorate, to be asked in any order."""
        nodes = list(self.electorates[epoch].nodes)
        self.random.shuffle(nodes)
        return self.electorates[epoch].arranged(nodes)

    def _expiry(self, proxy: Proxy) -> int:
        rng = self.random
        if not self.expiring or rng.random() > self.expiring:
            return 0
        return max(1, proxy.now_ms() + rng.choice((0, 1, 5, 40)))

    def _sharing(self, proxy: Proxy, owners: Electorate, parts: Sequence[Part]) -> Conditional:
        called = self.now
        conversation = Burying(KEY, owners, proxy.clock, proxy.now_ms, [part.decide for part in parts])
        conversation.parts = parts
        conversation.bury = lambda base, name: self.history.append(
            Event(name.decode(), Kind.SWAP, KEY, name, called, None, Fate.UNKNOWN, base)
        )
        return conversation

    def _withdraw(self, operation: Operation) -> None:
        """Let one client of a round hear that its time is up."""
        conversation = operation.conversation
        left = [number for number, part in enumerate(operation.parts) if not part.withdrawn]
        if not isinstance(conversation, Conditional) or not left:
            return
        number = self.random.choice(left)
        part = operation.parts[number]
        certain = conversation.withdraw(number)
        part.withdrawn = True
        self._note_tried(operation, part, certain)

    def _note_tried(self, operation: Operation, part: Part, certain: bool) -> None:
        returned, fate = (self.now, Fate.DROPPED) if certain else (None, Fate.UNKNOWN)
        for tried, base in part.tried.items():
            self.history.append(Event(part.client, Kind.SWAP, KEY, tried, operation.called, returned, fate, base))

    def _bury(self, operation: Operation) -> None:
        """Read once more, in a round in which what has expired is replaced by its tombstone."""
        proxy = operation.proxy
        owners = self.electorates[proxy.epoch]
        part = Part(operation.client, b"nothing", False)
        conversation = self._sharing(proxy, owners, [part])
        reader = Operation(
            operation.client, proxy, Kind.SWAP, None, Level.STRONG, conversation, operation.called, proxy.epoch, [part]
        )
        self.running.append(reader)
        self._settle(reader, conversation.begin())

    def _settle(self, operation: Operation, sends: Sequence[Send]) -> None:
        """Send what a conversation asks, and see that it ended, pauses, or waits for somebody."""
        conversation = operation.conversation
        for node, op in sends:
            assert (conversation.round, node) not in operation.asked, f"{node} is asked twice in one round"
            operation.asked.add((conversation.round, node))
            self.wire.append(Question(operation, conversation.round, operation.epoch, node, op))
        if conversation.outcome is not None:
            self.running.remove(operation)
            self._note(operation, conversation.outcome)
        elif not conversation.paused:
            assert conversation.waiting, f"{operation.client} waits for nobody"
            for node in conversation.electorate.members(conversation.waiting):
                assert (conversation.round, node) in operation.asked, f"{operation.client} waits in vain for {node}"

    def _note(self, operation: Operation, outcome: Outcome) -> None:
        value, error = operation.value, outcome.error
        if operation.conversation.phase == ACCEPT:
            assert operation.conversation.ballot != NONE, "what owners took has a ballot, which a hint names"
        if operation.kind is Kind.SWAP:
            self._note_parts(operation, error)
            return
        if operation.kind is Kind.READ and error is None and outcome.record:
            expired = 0 < record_expiry(outcome.record) <= operation.proxy.now_ms()
            if expired and buries():
                self._bury(operation)
                return
            if expired:
                self.history.append(Event(operation.client, Kind.READ, KEY, None, operation.called, self.now))
                return
        if error is None:
            fate = Fate.DONE
            if operation.kind is Kind.READ:
                value = shown(outcome.record)
            else:
                assert shown(outcome.record) == value, "a write ends with the record it wrote"
                assert outcome.acks >= required(operation.conversation.electorate.quota(operation.level))
        elif operation.kind is Kind.READ:
            fate = Fate.DROPPED
        else:
            assert isinstance(error, Unreached)
            assert error.maybe_applied is not None
            assert not error.maybe_applied or error.etag
            fate = Fate.UNKNOWN if error.maybe_applied else Fate.DROPPED
        if operation.level is Level.ONE and fate is Fate.DONE:
            fate = Fate.UNKNOWN  # level one promises a copy, not an order
        self._write_down(operation, value, fate)

    def _note_parts(self, operation: Operation, error: Exception | None) -> None:
        """Write down what became of each change that shared a round, and all that it tried without effect."""
        conversation = operation.conversation
        assert isinstance(conversation, Conditional)
        for number, part in enumerate(operation.parts):
            if part.withdrawn:
                continue
            if error is None:
                record, changed, _ = conversation.decided[number]
                value = record and name_of(record)
                kind, base = (Kind.SWAP, part.tried.pop(value)) if changed and value else (Kind.READ, None)
                self.history.append(Event(part.client, kind, KEY, value, operation.called, self.now, base=base))
                # The other forms that it tried may lie about on a minority; nobody may ever see one.
                self.superseded |= part.tried.keys()
                continue
            assert isinstance(error, Unreached)
            self._note_tried(operation, part, not error.maybe_applied)

    def _write_down(self, operation: Operation, value: bytes | None, fate: Fate) -> None:
        returned = self.now if fate is not Fate.UNKNOWN else None
        self.history.append(Event(operation.client, operation.kind, KEY, value, operation.called, returned, fate))

    def _crash(self, proxy: Proxy) -> None:
        for operation in [operation for operation in self.running if operation.proxy is proxy]:
            self.running.remove(operation)
            if operation.kind is Kind.SWAP:
                self._note_parts(operation, Unreached("the proxy crashed", maybe_applied=True))
            else:
                self._write_down(operation, operation.value, Fate.UNKNOWN)
        proxy.start()

    # The network.

    def _carry(self, question: Question) -> None:
        """Let a question arrive, or not, once or twice; the answer, or the failure, is then under way."""
        rng = self.random
        operation = question.operation
        if question.node == self.unreadable:
            if operation is not None:
                self.wire.append(Answer(operation, question.round, question.node, None, question.resent))
        elif operation is None:
            self._apply(question)
        elif rng.random() < self.loss:
            applied = rng.random() < 0.5
            if applied:
                self._apply(question)
            doubt = applied or question.resent or rng.random() < 0.5
            self.wire.append(Answer(operation, question.round, question.node, None, doubt))
        elif rng.random() < self.repeats:
            again = question._replace(resent=True)
            if rng.random() < 0.5:
                self.strays.append(again._replace(operation=None))
                self._answer(operation, again)
            else:
                if rng.random() < 0.8:
                    self._apply(question)
                self.wire.append(again)
        else:
            self._answer(operation, question)

    def _answer(self, operation: Operation, question: Question) -> None:
        reply = self._apply(question)
        # A node that refuses the whole batch for its epoch did nothing, this time.
        self.wire.append(Answer(operation, question.round, question.node, reply, question.resent))

    def _apply(self, question: Question) -> Reply | None:
        node, op = question.node, question.op
        if question.epoch < self.epochs[node]:
            return None
        self.epochs[node] = question.epoch
        if question.copied:
            self.cells[node] = copy_rule(self.cells[node], op)
            return None
        reply, self.cells[node] = register.decide(self.cells[node], op)
        return reply

    def _hand_over(self, answer: Answer) -> None:
        operation, round_, node, reply, doubt = answer
        operation.asked.discard((round_, node))
        if operation not in self.running:
            return
        conversation = operation.conversation
        if reply is not None:
            sends = conversation.deliver(node, round_, reply, doubt)
        elif self.random.random() < 0.5 and operation.epoch < self.opened:
            operation.proxy.epoch = self.opened
            self._restart(operation)
            return
        else:
            sends = conversation.fail(node, round_, "no answer", doubt)
        self._settle(operation, sends)

    def _copy(self) -> None:
        """Repair: one owner sends another what it accepted, under the ballot it has."""
        rng = self.random
        nodes = self.electorates[-1].nodes
        source, target = rng.choice(nodes), rng.choice(nodes)
        cell = self.cells[source]
        if source != target and cell.accepted != NONE and self.epochs[source] <= self.opened:
            self.epochs[source] = self.opened
            op = Op(ACCEPT, KEY, cell.accepted, cell.record)
            rng.choice((self.wire, self.strays)).append(Question(None, 0, self.opened, target, op, copied=True))

    # Changes of the owners.

    def _drive_change(self) -> None:
        """Let proxies hear of the newest epoch, one by one, and a change take its next step."""
        rng = self.random
        late = [proxy for proxy in self.proxies if proxy.epoch < self.opened]
        if late and rng.random() < 0.05:
            rng.choice(late).epoch = self.opened
        behind = [operation for operation in self.running if operation.epoch < operation.proxy.epoch]
        if behind and rng.random() < 0.3:
            self._restart(rng.choice(behind))
        if self.change is None:
            if self.left and rng.random() < 0.02:
                self.change = self._changed(self._drawn())
        elif rng.random() < 0.2:
            next(self.change, None)

    def _drawn(self) -> tuple[NodeId, ...]:
        """Draw who shall be the owners: one more, one replaced by another, or one fewer."""
        rng, old = self.random, self.owners
        others = [node for node in self.cells if node not in old]
        gains = len(old) < 5 and rng.random() < 0.8
        loses = len(old) == 5 or (len(old) > 1 and (not gains or rng.random() < 0.6))
        lost = rng.choice(old) if loses else None
        gained = rng.choice(others) if gains or not loses else None
        kept = tuple(node for node in old if node != lost)
        return (*kept, gained) if gained is not None else kept

    def _changed(self, new: tuple[NodeId, ...]) -> Iterator[None]:
        """Change the owners, a step at each call.

        In one epoch old and new owners vote together. So many of the old ones as no majority can do without are shown
        it and read; what they agree on is copied to the new ones, who start empty, and what they do not is proposed
        again. In the next epoch the new ones vote alone.
        """
        rng, old = self.random, self.owners
        for node in new:
            if node not in old:
                self.cells[node], self.epochs[node] = BLANK, self.opened
        groups = [Group(owners, len(owners)) for owners in (old, new)]
        both = tuple(dict.fromkeys((*old, *new)))
        self.electorates.append(Electorate(both, groups if both_vote() else groups[1:]))
        epoch = self.opened
        fewer = len(new) < len(old) and fills_who_stays()
        targets = [node for node in new if fewer or node not in old]
        needed = sources_needed(len(old))
        for target in targets:
            sources: dict[NodeId, Cell] = {}
            for node in rng.sample(old, rng.randint(needed, len(old))):
                yield
                self.epochs[node] = epoch
                sources[node] = self.cells[node]
            yield
            self.epochs[target] = epoch
            newest = max(sources.values(), key=lambda cell: cell.accepted)
            holders = sum(cell.accepted == newest.accepted for cell in sources.values())
            if newest.accepted == NONE:
                continue
            if holders >= needed or not settles():
                op = Op(ACCEPT, KEY, newest.accepted, newest.record)
                self.cells[target] = copy_rule(self.cells[target], op)
                if self.cells[target].accepted >= newest.accepted:
                    continue
            if settles():
                yield from self._settled(self.electorates[epoch], target, epoch)
        yield
        self.electorates.append(Electorate(new))
        self.owners = new
        self.change = None

    def _settled(self, electorate: Electorate, target: NodeId, epoch: int) -> Iterator[None]:
        """Propose again what a key holds, with majorities of old and new owners, until a new one holds it."""
        clock = Proxy(self, "driver", 0).clock
        while True:
            ballot = clock.tick()
            best, voters, questions = BLANK, 0, [Op(PREPARE, KEY, ballot)]
            while questions:
                op, voters = questions.pop(), 0
                for node in self.random.sample(electorate.nodes, len(electorate.nodes)):
                    yield
                    self.epochs[node] = epoch
                    reply, self.cells[node] = register.decide(self.cells[node], op)
                    clock.learn(max(self.cells[node].accepted, self.cells[node].promised))
                    if reply.taken:
                        voters |= electorate.bits[node]
                    if op.verb == PREPARE and reply.taken and reply.accepted > best.accepted:
                        best = Cell(NONE, Ballot(reply.accepted), reply.record)
                if op.verb == PREPARE and met(electorate.quorum, voters) and best.accepted != NONE:
                    questions.append(Op(ACCEPT, KEY, ballot, best.record))
            if met(electorate.quorum, voters) and self.cells[target].accepted >= ballot:
                return

    def _restart(self, operation: Operation) -> None:
        operation.epoch = operation.proxy.epoch
        self._settle(operation, operation.conversation.restart(self._owners(operation.epoch)))

    # The end.

    def _calm(self) -> None:
        """Heal everything. Reads succeed while old messages still arrive; when all have arrived, writes do too."""
        self.loss = self.repeats = self.copies = self.crashes = 0.0
        self.nudges = self.expiries = self.jumps = self.slowness = 0.0
        self.slow = self.unreadable = None
        self.left = 0
        self.ones = False
        self.expiring = self.withdrawals = self.scratches = 0.0
        while self.change is not None:
            next(self.change, None)
        proxy = Proxy(self, "last", 0)
        for _ in range(3):
            assert self._finish(self._start(proxy, Kind.READ)) is None
        while self.wire or self.strays:
            self.now += 1
            self.wire += self.strays
            self.strays.clear()
            self._move()
        # A minority may hold an uncertain change of a clock far ahead: that makes one write uncertain too, and one at
        # level all fail, until the proxy's clock has learned of it.
        errors = [self._finish(self._start(proxy, Kind.PUT)) for _ in range(3)]
        assert None in errors, f"writes fail on a healed network: {errors}"
        assert self._finish(self._start(proxy, Kind.READ)) is None

    def _finish(self, operation: Operation) -> Exception | None:
        began = self.now
        while operation in self.running:
            self._step()
            assert self.now < began + 3000, f"{operation.client} does not end on a healed network"
        outcome = operation.conversation.outcome
        assert outcome is not None
        return outcome.error


def shown(record: bytes) -> bytes | None:
    """What a record shows the checker: its value, a tombstone's name, or None for a key never written."""
    if not record:
        return None
    return name_of(decode_record(record))


def name_of(record: Record) -> bytes:
    """Give a record's value, or a tombstone's name: its own, or one that its version gives it."""
    if record.value is not None:
        return record.value
    return record.content_type or b"grave %b" % record.version.hex().encode()


def assert_once(history: Sequence[Event], superseded: Collection[bytes]) -> None:
    """See that no conditional change took effect twice, in two of the forms that it tried."""
    seen = {event.value for event in history if event.fate is Fate.DONE}
    seen |= {event.base for event in history if event.fate is Fate.DONE and event.kind is Kind.SWAP}
    assert seen.isdisjoint(superseded), f"not linearizable: took effect twice: {seen.intersection(superseded)}"
    effects: dict[str, bytes | None] = {}
    for event in history:
        if event.kind is Kind.SWAP and event.value in seen:
            assert event.fate is not Fate.DROPPED, f"not linearizable: this had no effect and was seen: {event}"
            first = effects.setdefault(event.client, event.value)
            assert first == event.value, f"not linearizable: it took effect as {first!r} and again: {event}"


def judge(seed: int, changing: bool = False, conditional: bool = False, wild: bool = False) -> list[Event]:
    """Run one seed. Its history is linearizable, or the assertion names the seed and how to repeat it."""
    repeat = f"python -m tests.laws.test_register {seed} {seed + 1}"
    again = f"seed {seed}, changing={changing}, conditional={conditional}, wild={wild}: {repeat}"
    try:
        history = Simulation(seed, changing, conditional, wild).run()
    except Exception as error:
        raise AssertionError(f"{again}: {error!r}") from error
    story = violation(history)
    assert story is None, f"{again}: {story}"
    return history


SEEDS = 2000
CHANGING_SEEDS = 1000


@pytest.mark.parametrize("part", range(4))
def test_every_history_is_linearizable_whatever_the_network_and_the_clocks_do(part: int) -> None:
    for seed in range(part, SEEDS, 4):
        judge(seed)


@pytest.mark.parametrize("part", range(4))
def test_every_history_with_conditional_changes_is_linearizable(part: int) -> None:
    for seed in range(part, SEEDS, 4):
        judge(seed, changing=seed % 3 == 0, conditional=True)


@pytest.mark.parametrize("part", range(4))
def test_every_history_is_linearizable_where_values_expire_and_clients_leave(part: int) -> None:
    for seed in range(part, SEEDS, 4):
        judge(seed, changing=seed % 3 == 0, conditional=True, wild=True)


@pytest.mark.parametrize("part", range(2))
def test_every_history_is_linearizable_while_owners_change(part: int) -> None:
    for seed in range(part, CHANGING_SEEDS, 2):
        judge(seed, changing=True)


def test_the_simulation_reaches_every_fate_and_most_operations_succeed() -> None:
    fates: dict[tuple[Kind, Fate], int] = {}
    for seed in range(150):
        for event in judge(seed):
            fates[event.kind, event.fate] = fates.get((event.kind, event.fate), 0) + 1
    assert set(fates) >= {(kind, fate) for kind in (Kind.PUT, Kind.DELETE) for fate in Fate}
    done = sum(number for (_, fate), number in fates.items() if fate is Fate.DONE)
    assert done > 0.6 * sum(fates.values())


def test_one_seed_gives_one_history() -> None:
    for seed in range(20):
        assert judge(seed, changing=True) == judge(seed, changing=True)


# Mutants: the simulation is worth what it catches.


def decide_without_promises(cell: Cell, op: Op) -> tuple[Reply, Cell]:
    """The acceptor's rules, but that plain writes are taken below the promise."""
    plain = op.verb == ACCEPT and record_version(op.record) == op.ballot
    if plain and op.ballot > cell.accepted:
        kept = Cell(max(Ballot(op.ballot), cell.promised), Ballot(op.ballot), op.record)
        return Reply(True, kept.accepted, kept.promised), kept
    return decide(cell, op)


def ignore_promises(patch: pytest.MonkeyPatch) -> None:
    """An acceptor takes plain writes below its promise."""
    patch.setattr(register, "decide", decide_without_promises)


def forget_promises(patch: pytest.MonkeyPatch) -> None:
    """An acceptor grants a prepare and does not keep it."""

    def wrong(cell: Cell, op: Op) -> tuple[Reply, Cell]:
        reply, kept = decide(cell, op)
        return reply, cell if op.verb == PREPARE else kept

    patch.setattr(register, "decide", wrong)


def believe_refusing_majority(patch: pytest.MonkeyPatch) -> None:
    """A write takes the refusal of a majority for certainty that nothing happened."""
    land = Write._land
    patch.setattr(Write, "_land", lambda self, certain: land(self, certain or met(self.quorum, self.refused)))


def retry_blindly(patch: pytest.MonkeyPatch) -> None:
    """A write whose accept was refused by anybody forgets it and writes again."""
    patch.setattr(Write, "_land", lambda self, certain: setattr(self, "_flying", None))


def count_repeated_refusals(patch: pytest.MonkeyPatch) -> None:
    """A write takes the second answer to a question for the first."""
    patch.setattr(Write, "_refused", lambda self, bit, reply, resent: self._weigh())


def ignore_silence(patch: pytest.MonkeyPatch) -> None:
    """A write takes every silence for a question that never arrived."""
    patch.setattr(Write, "_silent", lambda self, node, arrived: self._weigh())


def repair_by_version(patch: pytest.MonkeyPatch) -> None:
    """Repair takes the record of the higher version, whatever its ballot."""

    def wrong(cell: Cell, op: Op) -> Cell:
        if cell.record and record_version(op.record) <= record_version(cell.record):
            return cell
        return Cell(max(cell.promised, Ballot(op.ballot)), Ballot(op.ballot), op.record)

    patch.setattr(sys.modules[__name__], "copy_rule", wrong)


class ReadByVersion(Read):
    """A fast read that is content where a majority shows the same version, under whatever ballots."""

    __slots__ = ("records",)

    def begin(self) -> Sequence[Send]:
        self.records: dict[Voters, bytes] = {}
        nodes = [node for node, _ in super().begin()]
        self._fetching = self.electorate.voters(nodes)
        return [(node, Op(FETCH, self.key)) for node in nodes]

    def _taken(self, bit: Voters, reply: Reply) -> Sequence[Send]:
        if self.phase == READ:
            self.records[bit] = reply.record
            alike = sum(voter for voter, record in self.records.items() if record[2:18] == reply.record[2:18])
            if met(self._required, sum(self.records)) and met(self.quorum, alike):
                self.outcome = Outcome(reply.record, len(self.records))
                return NOTHING
        return super()._taken(bit, reply)


def read_by_version(patch: pytest.MonkeyPatch) -> None:
    """A read compares versions."""
    patch.setattr(sys.modules[__name__], "Read", ReadByVersion)


def answer_before_write_back(patch: pytest.MonkeyPatch) -> None:
    """A read answers the newest record that it saw and writes it back to nobody."""

    def wrong(self: Read, holders: Voters) -> Sequence[Send]:
        self.outcome = Outcome(self._had, holders.bit_count())
        return NOTHING

    patch.setattr(Read, "_write_back", wrong)


def settle_for_less_than_a_majority(patch: pytest.MonkeyPatch) -> None:
    """A majority is one too few."""

    def wrong(owners: int) -> int:
        return max(1, owners // 2)

    patch.setattr(quorum, "majority", wrong)


def mix_rounds(patch: pytest.MonkeyPatch) -> None:
    """An answer counts for whatever round is under way."""
    deliver = Conversation.deliver

    def wrong(self: Conversation, node: NodeId, round_: int, reply: Reply, resent: bool = False) -> Sequence[Send]:
        return deliver(self, node, self.round, reply, resent)

    patch.setattr(Conversation, "deliver", wrong)


def propose_over_newer(patch: pytest.MonkeyPatch) -> None:
    """A write that is open is proposed again on whatever was found."""

    def wrong(self: Write) -> Sequence[Send]:
        return self._accept_fresh(self.ballot, self.quorum)

    patch.setattr(Write, "_propose", wrong)


def forget_what_was_promised(patch: pytest.MonkeyPatch) -> None:
    """A proposer accepts its own record without looking at what the prepare showed: a read writes back what it had."""

    def wrong(self: Read) -> Sequence[Send]:
        self.proposed = self._had
        return self._ask(ACCEPT, Op(ACCEPT, self.key, self.ballot, self._had))

    patch.setattr(Read, "_propose", wrong)


def forget_at_restart(patch: pytest.MonkeyPatch) -> None:
    """A write that begins again in a new epoch forgets the accept that was under way."""
    restart = Conversation.restart

    def wrong(self: Write, electorate: Electorate) -> Sequence[Send]:
        self._land(certain=True)
        return restart(self, electorate)

    patch.setattr(Write, "restart", wrong)


def fill_from_one(patch: pytest.MonkeyPatch) -> None:
    """A new owner is filled from a single old one."""
    patch.setattr(sys.modules[__name__], "sources_needed", lambda owners: 1)


def shrink_without_copies(patch: pytest.MonkeyPatch) -> None:
    """Owners are taken away one by one, and nothing is copied among those who stay."""
    patch.setattr(sys.modules[__name__], "fills_who_stays", lambda: False)


def new_owners_vote_alone(patch: pytest.MonkeyPatch) -> None:
    """(P11) The new owners vote alone while they are being filled."""
    patch.setattr(sys.modules[__name__], "both_vote", lambda: False)


def serve_old_epochs(patch: pytest.MonkeyPatch) -> None:
    """A node goes on serving the epochs before the one it was shown."""
    apply = Simulation._apply

    def wrong(self: Simulation, question: Question) -> Reply | None:
        return apply(self, question._replace(epoch=max(question.epoch, self.epochs[question.node])))

    patch.setattr(Simulation, "_apply", wrong)


def decide_anew(patch: pytest.MonkeyPatch) -> None:
    """A conditional change that finds its own version decides once more, on what it made itself."""
    propose = Conditional._propose

    def wrong(self: Conditional) -> Sequence[Send]:
        self.mine.clear()
        return propose(self)

    patch.setattr(Conditional, "_propose", wrong)


def answer_unconfirmed(patch: pytest.MonkeyPatch) -> None:
    """A conditional change that changes nothing ends with the newest that it saw, wherever that is."""

    def wrong(self: Conditional, decided: list[Decided]) -> Sequence[Send]:
        assert self.best is not None
        self.decided, self.outcome = decided, Outcome(self.best.record, self.acks)
        return NOTHING

    patch.setattr(Conditional, "_confirm", wrong)


def copy_the_newest(patch: pytest.MonkeyPatch) -> None:
    """A new owner gets the newest of what the old ones hold, also where they differ."""
    patch.setattr(sys.modules[__name__], "settles", lambda: False)


def list_cut_at_the_wrong_end(patch: pytest.MonkeyPatch) -> None:
    """A record's list keeps the oldest two versions."""
    versions = conditional_changes._versions
    patch.setattr(conditional_changes, "_versions", lambda record: versions(record)[-2:])


def pass_by_unchecked(patch: pytest.MonkeyPatch) -> None:
    """A conditional change that is not in the list of what it finds takes it that it had no effect."""
    patch.setattr(Conditional, "_passed_by", lambda self, found: True)


def hidden_by_older(patch: pytest.MonkeyPatch) -> None:
    """An open write compares versions the wrong way round."""

    def wrong(self: Proposer, best: Reply) -> bool:
        assert self.open_ballot is not None
        return best.accepted >= self.open_ballot and record_version(best.record) < min(self.mine)

    patch.setattr(Proposer, "hides", wrong)


def keep_the_step_between(patch: pytest.MonkeyPatch) -> None:
    """The last state of a round is proposed under the version that it was drafted with, above its ballot."""
    patch.setattr(conditional_changes, "replace", lambda record, version: record)


def tell_a_wrong_fate(patch: pytest.MonkeyPatch) -> None:
    """A round that finds an own form tells its clients what came of the form proposed last."""
    confirm = Conditional._confirm

    def wrong(self: Conditional, decided: list[Decided]) -> Sequence[Send]:
        return confirm(self, self.decided or decided)

    patch.setattr(Conditional, "_confirm", wrong)


def propose_the_withdrawn(patch: pytest.MonkeyPatch) -> None:
    """A change whose client was told that nothing has happened is proposed all the same."""
    withdraw = Conditional.withdraw

    def wrong(self: Conditional, number: int) -> bool:
        decide = self.wanted[number]
        certain = withdraw(self, number)
        self.wanted[number] = decide
        return certain

    patch.setattr(Conditional, "withdraw", wrong)


def withdraw_for_certain(patch: pytest.MonkeyPatch) -> None:
    """A client who leaves a round is told that nothing has happened, although it is open."""
    withdraw = Conditional.withdraw

    def wrong(self: Conditional, number: int) -> bool:
        withdraw(self, number)
        return True

    patch.setattr(Conditional, "withdraw", wrong)


def withdraw_by_the_flying(patch: pytest.MonkeyPatch) -> None:
    """A client who leaves a round is told of what is under way, and not of what is open since earlier."""
    withdraw = Conditional.withdraw

    def wrong(self: Conditional, number: int) -> bool:
        mine, self.mine = self.mine, set()
        certain = withdraw(self, number)
        self.mine = mine
        return certain

    patch.setattr(Conditional, "withdraw", wrong)


def call_absent_alone(patch: pytest.MonkeyPatch) -> None:
    """A read calls absent what has expired by its own clock, and leaves it there for the others."""
    patch.setattr(sys.modules[__name__], "buries", lambda: False)


def count_silence_as_refusal(patch: pytest.MonkeyPatch) -> None:
    """Whoever stays silent, or abstains from a question that came twice, is taken never to have agreed."""
    fail_ = Conversation.fail

    def wrong(self: Conversation, node: NodeId, round_: int, error: str, arrived: bool) -> Sequence[Send]:
        return fail_(self, node, round_, error, arrived and self.phase != ACCEPT)

    patch.setattr(Conversation, "fail", wrong)


class Mode(NamedTuple):
    """What a simulation has to have in it."""

    changing: bool
    conditional: bool
    wild: bool = False


PLAIN, CHANGING, CONDITIONAL, BOTH = Mode(False, False), Mode(True, False), Mode(False, True), Mode(True, True)

WILD, WILD_CHANGING = Mode(False, True, True), Mode(True, True, True)

MUTANTS: dict[Callable[[pytest.MonkeyPatch], None], tuple[Mode, int]] = {
    list_cut_at_the_wrong_end: (CONDITIONAL, 46),
    pass_by_unchecked: (CONDITIONAL, 61),
    hidden_by_older: (PLAIN, 329),
    keep_the_step_between: (BOTH, 5200),
    tell_a_wrong_fate: (CONDITIONAL, 12),
    propose_the_withdrawn: (WILD, 2),
    withdraw_for_certain: (WILD, 18),
    withdraw_by_the_flying: (WILD, 106),
    call_absent_alone: (WILD, 5),
    count_silence_as_refusal: (WILD, 16),
    decide_anew: (CONDITIONAL, 9),
    answer_unconfirmed: (CONDITIONAL, 11),
    copy_the_newest: (BOTH, 28),
    ignore_promises: (PLAIN, 1825),
    forget_promises: (PLAIN, 3069),
    believe_refusing_majority: (PLAIN, 125),
    retry_blindly: (PLAIN, 107),
    count_repeated_refusals: (PLAIN, 2946),
    ignore_silence: (PLAIN, 34),
    repair_by_version: (PLAIN, 88852),
    answer_before_write_back: (PLAIN, 51),
    settle_for_less_than_a_majority: (PLAIN, 1),
    mix_rounds: (PLAIN, 412),
    propose_over_newer: (PLAIN, 329),
    forget_what_was_promised: (PLAIN, 72),
    forget_at_restart: (CHANGING, 256),
    fill_from_one: (CHANGING, 166),
    shrink_without_copies: (CHANGING, 3184),
    serve_old_epochs: (CHANGING, 1537),
    new_owners_vote_alone: (CHANGING, 218),
}
"""Wrong variants, what must happen for them to show, and the first seed that catches each.

Whoever changes the simulation finds the new seeds with ``python -m tests.laws.test_register 0 100000 MUTANT``.
"""


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_wrong_variant_spoils_a_history(mutant: Callable[[pytest.MonkeyPatch], None]) -> None:
    seed = MUTANTS[mutant][1]
    judge(seed, *MUTANTS[mutant][0])
    assert seed_that_catches(mutant, seed, seed + 1) == seed


def two_reads_after_two_proposals(patched: bool) -> list[bytes | None]:
    """What two reads see where one version is held under two ballots, and an older value under one between these.

    Old stood on a majority, a put reached A alone, and two readers proposed again what each had found, each reaching
    one owner: rare enough to be told instead of waited for. ``patched``: the reads compare versions.
    """
    first, second, third = ballot_at(1), ballot_at(2), ballot_at(3)
    new = put_record(first, b"new")
    owners = {A: Cell(third, first, new), B: Cell(second, second, OTHERS), C: Cell(third, third, new)}
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        if patched:
            read_by_version(patch)
        for order in ((A, C, B), (A, B, C)):
            read = Read(KEY, Electorate(order), clock_at(), Level.STRONG)
            asked = list(read.begin())
            while read.outcome is None:
                round_, (node, op) = read.round, asked.pop(0)
                reply, owners[node] = decide(owners[node], op)
                following = read.deliver(node, round_, reply)
                if read.round != round_:
                    asked = []
                asked += following
            assert read.outcome.error is None
            seen.append(shown(read.outcome.record))
    return seen


def test_reads_that_compare_ballots_see_a_version_under_two_ballots_and_stay_with_it() -> None:
    assert two_reads_after_two_proposals(patched=False) == [b"new", b"new"]


def test_reads_that_compare_versions_go_back_to_an_older_value() -> None:
    assert two_reads_after_two_proposals(patched=True) == [b"new", b"old"]


def seed_that_catches(mutant: Callable[[pytest.MonkeyPatch], None], first: int, last: int) -> int | None:
    """Find the first seed whose history a wrong variant spoils."""
    with pytest.MonkeyPatch.context() as patch:
        mutant(patch)
        for seed in range(first, last):
            try:
                judge(seed, *MUTANTS[mutant][0])
            except AssertionError as error:
                if "not linearizable" in str(error) or "had no effect" in str(error):
                    return seed
                raise
    return None


def main(arguments: Sequence[str]) -> int:
    first, last = int(arguments[0]), int(arguments[1])
    if len(arguments) > 2:
        mutant = next(mutant for mutant in MUTANTS if mutant.__name__ == arguments[2])
        caught = seed_that_catches(mutant, first, last)
        sys.stdout.write(f"{arguments[2]}: {'not caught' if caught is None else f'caught by seed {caught}'}\n")
        return caught is None
    bad = operations = unknown = 0
    for seed in range(first, last):
        for mode in (PLAIN, CHANGING, CONDITIONAL, BOTH, WILD, WILD_CHANGING):
            try:
                history = judge(seed, *mode)
            except AssertionError as error:
                bad += 1
                sys.stdout.write(f"{error}\n")
            else:
                operations += len(history)
                unknown += sum(event.fate is Fate.UNKNOWN for event in history)
    seeds = last - first
    sys.stdout.write(
        f"{seeds} seeds six times, {operations} operations, {unknown} of unknown outcome, {bad} violations\n"
    )
    return bad > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
