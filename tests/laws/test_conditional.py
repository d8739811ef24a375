"""Conditional changes, message by message. Random histories of them are in ``test_register.py``."""

from __future__ import annotations

from collections.abc import Sequence

from twisted_kv.conditional import BEFORE_MAX, Conditional, Decide, Draft, leave
from twisted_kv.conversation import NOTHING, Send
from twisted_kv.errors import DeadlinePassed, Unreached
from twisted_kv.names import Key, NodeId
from twisted_kv.quorum import Electorate
from twisted_kv.register import ACCEPT, PREPARE, Op, Reply
from twisted_kv.versions import NONE, Ballot, HybridClock, Record, Version, decode_record

KEY = Key(b"k")
A, B, C = OWNERS = tuple(map(NodeId, "abc"))
NOW_MS = 100


def ballot(number: int, now_ms: int = NOW_MS) -> Ballot:
    """The ballot that a clock standing still draws as its number-th, the first being 0."""
    return Ballot(((now_ms << 16) + number).to_bytes(8, "big") + (7).to_bytes(8, "big"))


OLD = ballot(0, 50)
FOUND = Record(Version(OLD), b"old")


def conditional(*wanted: Decide) -> Conditional:
    return Conditional(KEY, Electorate(OWNERS), HybridClock(lambda: NOW_MS, 7), lambda: NOW_MS, wanted)


def replaces(expected: bytes | None, value: bytes | None) -> Decide:
    """A change that puts a value where the key holds the expected one."""
    return lambda held: Draft(value) if (held.value if held else None) == expected else None


def grant(best: Conditional, accepted: Ballot = NONE, record: Record | None = None) -> Reply:
    return Reply(True, accepted, best.ballot, record.encode() if record else b"")


def yes(conversation: Conditional) -> Reply:
    return Reply(True, conversation.ballot, conversation.ballot)


def no(promised: Ballot, accepted: Ballot = NONE) -> Reply:
    return Reply(False, accepted, promised)


def proposed(sends: Sequence[Send]) -> Record:
    assert {(node, op.verb) for node, op in sends} == {(node, ACCEPT) for node in OWNERS}
    return decode_record(sends[0][1].record)


def refused_after_one_took_it(change: Conditional) -> Sequence[Send]:
    """Let A take what is proposed and the others refuse it: it is open, and goes on after a pause."""
    change.deliver(A, change.round, yes(change))
    change.deliver(B, change.round, no(ballot(40)))
    change.deliver(C, change.round, no(ballot(40)))
    assert change.paused
    return change.resume()


def told(change: Conditional) -> list[tuple[Record | None, bool]]:
    return [(one.record, one.changed) for one in change.decided]


def test_change_is_prepared_decided_on_what_a_majority_holds_and_accepted() -> None:
    change = conditional(replaces(b"old", b"new"))
    assert change.begin() == [(node, Op(PREPARE, KEY, ballot(0))) for node in OWNERS]
    assert change.deliver(B, 1, grant(change, OLD, FOUND)) == NOTHING
    record = proposed(change.deliver(A, 1, grant(change)))
    assert record == Record(Version(ballot(0)), b"new", before=(Version(OLD),))
    change.deliver(A, 2, yes(change))
    assert change.outcome is None
    change.deliver(C, 2, yes(change))
    assert told(change) == [(record, True)]
    assert change.outcome is not None
    assert change.outcome.error is None


def test_change_whose_condition_fails_ends_at_once_where_a_majority_holds_what_it_found() -> None:
    change = conditional(replaces(b"other", b"new"))
    change.begin()
    change.deliver(A, 1, grant(change, OLD, FOUND))
    assert change.deliver(B, 1, grant(change, OLD, FOUND)) == NOTHING
    assert change.outcome is not None
    assert told(change) == [(FOUND, False)]


def test_change_whose_condition_fails_makes_certain_of_what_only_one_owner_held() -> None:
    change = conditional(replaces(b"other", b"new"))
    change.begin()
    change.deliver(A, 1, grant(change, OLD, FOUND))
    assert proposed(change.deliver(B, 1, grant(change))) == FOUND
    assert change.outcome is None
    change.deliver(B, 2, yes(change))
    change.deliver(C, 2, yes(change))
    assert told(change) == [(FOUND, False)]


def test_changes_that_share_a_round_see_one_another_and_only_the_last_state_is_proposed() -> None:
    change = conditional(replaces(None, b"1"), leave, replaces(b"1", b"2"), replaces(b"1", b"3"))
    change.begin()
    change.deliver(A, 1, grant(change))
    last = proposed(change.deliver(B, 1, grant(change)))
    assert (last.version, last.value, last.before) == (ballot(0), b"2", ())
    for node in (A, B):
        change.deliver(node, 2, yes(change))
    values = [(record and record.value, changed) for record, changed, _ in change.decided]
    assert values == [(b"1", True), (b"1", False), (b"2", True), (b"2", False)]
    assert [one.found and one.found.value for one in change.decided] == [None, b"1", b"1", b"2"]
    first, second = change.decided[0].record, change.decided[2].record
    assert first is not None
    assert second == last
    assert first.version != last.version, "nobody may take the first one's ETag for the last one's"


def test_open_change_that_finds_itself_is_finished_and_not_decided_anew() -> None:
    change = conditional(replaces(b"old", b"new"))
    change.begin()
    change.deliver(A, 1, grant(change, OLD, FOUND))
    first = proposed(change.deliver(B, 1, grant(change, OLD, FOUND)))
    assert {op.verb for _, op in refused_after_one_took_it(change)} == {PREPARE}
    change.deliver(C, 3, grant(change, OLD, FOUND))
    assert proposed(change.deliver(A, 3, grant(change, ballot(0), first))) == first
    for node in (A, B):
        change.deliver(node, 4, yes(change))
    assert change.decided == [(first, True, FOUND)], "what it had found, not what was found last"


def test_open_change_that_is_found_in_the_list_of_its_successor_has_happened() -> None:
    change = conditional(replaces(b"old", b"new"))
    change.begin()
    change.deliver(A, 1, grant(change, OLD, FOUND))
    first = proposed(change.deliver(B, 1, grant(change, OLD, FOUND)))
    refused_after_one_took_it(change)
    later = Record(Version(ballot(39)), b"later", before=(Version(ballot(38)), first.version))
    change.deliver(A, 3, grant(change, ballot(39), later))
    # The successor has to stay for this one to stay.
    assert proposed(change.deliver(B, 3, grant(change, ballot(39), later))) == later
    for node in (A, B):
        change.deliver(node, 4, yes(change))
    assert told(change) == [(first, True)]


def test_open_change_that_is_nowhere_to_be_found_is_decided_anew() -> None:
    change = conditional(replaces(b"old", b"new"), replaces(b"other", b"newer"))
    change.begin()
    change.deliver(A, 1, grant(change, OLD, FOUND))
    change.deliver(B, 1, grant(change, OLD, FOUND))
    refused_after_one_took_it(change)
    other = Record(Version(ballot(1, 60)), b"other")
    change.deliver(B, 3, grant(change, ballot(1, 60), other))
    assert proposed(change.deliver(C, 3, grant(change))).value == b"newer"


def test_open_change_below_an_older_version_proposed_again_is_decided_anew() -> None:
    change = conditional(replaces(b"old", b"new"))
    change.begin()
    change.deliver(A, 1, grant(change, OLD, FOUND))
    change.deliver(B, 1, grant(change, OLD, FOUND))
    refused_after_one_took_it(change)
    change.deliver(B, 3, grant(change, ballot(39), FOUND))
    assert proposed(change.deliver(C, 3, grant(change))).value == b"new"


def test_open_change_behind_a_newer_plain_put_is_maybe_applied() -> None:
    change = conditional(replaces(b"old", b"new"))
    change.begin()
    change.deliver(A, 1, grant(change, OLD, FOUND))
    change.deliver(B, 1, grant(change, OLD, FOUND))
    refused_after_one_took_it(change)
    change.deliver(B, 3, grant(change, ballot(39), Record(Version(ballot(39)), b"put")))
    assert change.deliver(C, 3, grant(change)) == NOTHING
    assert change.outcome is not None
    error = change.outcome.error
    assert isinstance(error, Unreached)
    assert (error.maybe_applied, error.etag) == (True, ballot(0).hex())


def test_open_change_that_a_line_of_changes_has_passed_by_is_decided_anew() -> None:
    change = conditional(replaces(b"old", b"new"), replaces(b"later", b"latest"))
    change.begin()
    change.deliver(A, 1, grant(change, OLD, FOUND))
    change.deliver(B, 1, grant(change, OLD, FOUND))
    refused_after_one_took_it(change)
    later = Record(Version(ballot(39)), b"later", before=(Version(ballot(38)), Version(OLD)))
    change.deliver(B, 3, grant(change, ballot(39), later))
    record = proposed(change.deliver(C, 3, grant(change)))
    assert (record.value, record.before[0]) == (b"latest", later.version)


def test_what_is_open_is_overtaken_before_anybody_is_told_that_nothing_changed() -> None:
    change = conditional(replaces(b"old", b"new"), replaces(b"new", b"newer"))
    change.begin()
    change.deliver(A, 1, grant(change, OLD, FOUND))
    change.deliver(B, 1, grant(change, OLD, FOUND))
    refused_after_one_took_it(change)
    # The first client is gone; without it the second one's condition does not hold, and both are open at A.
    assert change.withdraw(0) is False
    change.deliver(B, 3, grant(change, OLD, FOUND))
    assert proposed(change.deliver(C, 3, grant(change, OLD, FOUND))) == FOUND
    assert change.outcome is None
    for node in (B, C):
        change.deliver(node, 4, yes(change))
    assert told(change)[1] == (FOUND, False)


def test_what_is_open_on_a_key_that_is_absent_is_overtaken_by_a_tombstone() -> None:
    change = conditional(replaces(None, b"new"), replaces(b"new", b"newer"))
    change.begin()
    change.deliver(A, 1, grant(change))
    change.deliver(B, 1, grant(change))
    refused_after_one_took_it(change)
    change.withdraw(0)
    change.deliver(B, 3, grant(change))
    assert proposed(change.deliver(C, 3, grant(change))).value is None


def test_change_withdrawn_before_it_was_proposed_certainly_has_no_effect() -> None:
    change = conditional(replaces(b"old", b"new"), leave)
    change.begin()
    assert change.withdraw(0) is True
    change.deliver(A, 1, grant(change, OLD, FOUND))
    change.deliver(B, 1, grant(change, OLD, FOUND))
    assert told(change) == [(FOUND, False), (FOUND, False)]


def test_expired_record_is_found_as_the_tombstone_that_replaces_it() -> None:
    expired = Record(Version(OLD), b"old", expires_ms=NOW_MS)
    change = conditional(leave, replaces(b"old", b"wrong"))
    change.begin()
    change.deliver(A, 1, grant(change, OLD, expired))
    record = proposed(change.deliver(B, 1, grant(change, OLD, expired)))
    assert (record.value, record.before) == (None, (Version(OLD),))
    change.deliver(A, 2, yes(change))
    change.deliver(B, 2, yes(change))
    assert told(change) == [(record, False), (record, False)]


def test_record_that_expires_a_moment_later_is_left_alone() -> None:
    alive = Record(Version(OLD), b"old", expires_ms=NOW_MS + 1)
    change = conditional(leave)
    change.begin()
    change.deliver(A, 1, grant(change, OLD, alive))
    change.deliver(B, 1, grant(change, OLD, alive))
    assert told(change) == [(alive, False)]


def test_record_remembers_no_more_than_so_many_versions() -> None:
    before = tuple(Version(ballot(number, 40)) for number in range(BEFORE_MAX))
    long = Record(Version(OLD), b"old", before=before)
    change = conditional(replaces(b"old", b"new"))
    change.begin()
    change.deliver(A, 1, grant(change, OLD, long))
    record = proposed(change.deliver(B, 1, grant(change, OLD, long)))
    assert record.before == (Version(OLD), *before[:-1])


def test_prepare_refused_by_who_has_finished_pauses_from_the_second_time_on() -> None:
    change = conditional(replaces(None, b"new"))
    change.begin()
    for round_, paused in ((1, False), (2, True)):
        finished = ballot(round_ + 10)
        change.deliver(A, round_, no(finished, finished))
        change.deliver(B, round_, no(finished, finished))
        assert change.paused is paused
    assert change.resume()[0][1].ballot > ballot(12)


def test_prepare_refused_by_who_has_not_finished_gives_way_to_him_at_once() -> None:
    change = conditional(replaces(None, b"new"))
    change.begin()
    change.deliver(A, 1, no(ballot(11), ballot(10)))
    assert change.deliver(B, 1, no(ballot(11), ballot(10))) == NOTHING
    assert change.paused
    assert change.resume()[0][1].ballot > ballot(11)


def test_deadline_of_a_change_that_was_not_proposed_leaves_no_doubt() -> None:
    change = conditional(replaces(None, b"new"))
    change.begin()
    change.deliver(A, 1, grant(change))
    change.expire()
    assert change.outcome is not None
    error = change.outcome.error
    assert isinstance(error, DeadlinePassed)
    assert error.maybe_applied is False
