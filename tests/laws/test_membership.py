"""The cluster's state, the steps from one to the next, and what a change has to copy."""

from __future__ import annotations

import json
from itertools import combinations
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twisted_kv.errors import StateUnusable
from twisted_kv.membership import (
    STATE_FORMAT,
    Change,
    Seat,
    State,
    Wish,
    begun,
    cancelled,
    decode_state,
    encode_state,
    finished,
    founded,
    ring_of,
    shelved,
    wished,
    without,
)
from twisted_kv.names import ClusterId, NodeId, Slot
from twisted_kv.planning import Fill, Plan, planned, thinned
from twisted_kv.quorum import Group, blocking, majority
from twisted_kv.ring import HASH_VERSION, SLOTS
from twisted_kv.views import View, foreign

# Two rings of 65,536 slots for each example: up to a tenth of a second on a busy machine.
few = settings(max_examples=25)

Pair = tuple[tuple[str, ...], tuple[str, ...]]


class Case(NamedTuple):
    """A change that has begun, and its slots grouped by who owned them and who will."""

    state: State
    pairs: dict[Pair, list[int]]

    @property
    def forgot(self) -> set[str]:
        assert self.state.change is not None
        lives = {seat.id: seat.incarnation for seat in self.state.members}
        renewed = {s.id for s in self.state.change.seats if lives.get(s.id, s.incarnation) != s.incarnation}
        return renewed | set(self.state.change.dead)

    @property
    def forgetful(self) -> set[str]:
        assert self.state.change is not None
        engines = {seat.id: seat.forgetful for seat in (*self.state.members, *self.state.change.seats)}
        return {node for node, forgetful in engines.items() if forgetful}

    def targets(self, pair: Pair) -> set[str]:
        had, gets = pair
        # With fewer owners, none of those who stay need hold all that was acknowledged.
        return set(gets) if len(gets) < len(had) else (set(gets) - set(had)) | (set(gets) & self.forgot)

    def remembering(self, pair: Pair) -> set[str]:
        return set(pair[0]) - self.forgot


def case_of(state: State) -> Case:
    assert state.change is not None
    pairs: dict[Pair, list[int]] = {}
    old, new = ring_of(state.members, state).table, ring_of(state.change.seats, state).table
    for slot, pair in enumerate(zip(old, new, strict=True)):
        pairs.setdefault(pair, []).append(slot)
    return Case(state, pairs)


def seat(number: int, life: int = 1, weight: int = 1, zone: str = "", forgetful: bool = False) -> Seat:
    return Seat(f"n-{number}", f"http://node{number}:80", weight, zone, f"i-{number}-{life}", forgetful)


@st.composite
def changes(draw: st.DrawFn) -> State:
    """A change that has begun: some members renewed, reweighted or leaving, some nodes joining, all at once."""
    zones = st.sampled_from(("", "", "east", "west"))
    weights = st.integers(1, 2)
    count = draw(st.integers(0, 6))
    members = [seat(n, 1, draw(weights), draw(zones)) for n in range(count)]
    state = State(STATE_FORMAT, "c-1", draw(st.integers(1, 9)), draw(st.integers(1, 5)), draw(st.integers(1, 3)))
    state = msgspec.structs.replace(state, members=tuple(members))
    touched = draw(st.lists(st.sampled_from(range(count + 2)), min_size=1, unique=True))
    for number in touched:
        life = draw(st.sampled_from((1, 2, 2)))
        wish = seat(number, life, draw(weights), draw(zones), forgetful=draw(st.booleans()))
        leaves = number < count - 1 and draw(st.sampled_from((False, False, False, True)))
        accept_loss, dead = draw(st.sampled_from((False, False, False, True))), leaves and draw(st.booleans())
        state = wished(state, Wish(wish, accept_loss, leaves, dead))
    return begun(state, "change")


def fill_of_each_slot(plan: Plan) -> dict[int, Fill]:
    filled: dict[int, Fill] = {}
    for fill in plan.fills:
        for slot in fill.slots:
            assert slot not in filled, f"slot {slot} is filled twice"
            filled[slot] = fill
    return filled


@few
@given(changes())
def test_a_slot_is_filled_exactly_where_somebody_gains_it_or_forgot_it(state: State) -> None:
    case, filled = case_of(state), fill_of_each_slot(planned(state))
    for pair, slots in case.pairs.items():
        targets = case.targets(pair)
        for slot in slots:
            assert (set(filled[slot].targets) if slot in filled else set()) == targets


@few
@given(changes())
def test_any_needed_sources_meet_every_majority_of_the_old_owners_unless_the_slot_is_lost(state: State) -> None:
    case, filled = case_of(state), fill_of_each_slot(planned(state))
    for pair, slots in case.pairs.items():
        had = pair[0]
        # By identity: a fill's hash would be that of its thousands of slots.
        for fill in {id(filled[slot]): filled[slot] for slot in slots if slot in filled}.values():
            if fill.rescue:
                assert case.remembering(pair) < set(fill.sources) <= set(had)
                continue
            assert set(fill.sources) == case.remembering(pair)
            assert len(fill.owners) < len(had) or not set(fill.targets) & set(fill.sources)
            assert set(fill.owners) == set(pair[1])
            if not had or len(fill.sources) < blocking(len(had)):
                assert fill.needed == len(fill.sources)
                continue
            assert blocking(len(had)) <= fill.needed <= fill.majority
            assert fill.majority == min(majority(len(had)), len(fill.sources))
            for chosen in combinations(fill.sources, fill.needed):
                for acknowledged in combinations(had, majority(len(had))):
                    assert set(chosen) & set(acknowledged)


@few
@given(changes())
def test_who_votes_is_a_majority_of_the_old_and_one_of_the_new_without_those_who_forgot(state: State) -> None:
    case, view = case_of(state), View(state)
    for (had, gets), slots in case.pairs.items():
        electorate = view.electorates[slots[0]]
        if set(had) == set(gets) and not case.forgot & set(had):
            assert electorate.groups == (Group(had, len(had)),)
            continue
        old, new = electorate.groups if had else (Group((), 0), *electorate.groups)
        assert (set(old.voters), old.size) == (set(had) - case.forgot, len(had))
        assert (set(new.voters), new.size) == (set(gets), len(gets))
        assert set(electorate.nodes) == set(old.voters) | set(new.voters)


@few
@given(changes())
def test_only_what_must_move_does_and_who_gains_a_slot_starts_it_empty(state: State) -> None:
    case, plan = case_of(state), planned(state)
    gains = {node: set(slots) for node, slots in plan.gained().items()}
    for (had, gets), slots in case.pairs.items():
        for node in set(gets) - set(had):
            assert set(slots) <= gains[node]
    copies = sum(len(fill.slots) * len(set(fill.targets) - set(fill.sources)) for fill in plan.fills)
    least = sum(len(s) * len((set(g) - set(h)) | (set(g) & case.forgot)) for (h, g), s in case.pairs.items())
    assert copies == least or any(fill.rescue for fill in plan.fills)


@few
@given(changes())
def test_a_node_may_drop_exactly_what_it_does_not_own(state: State) -> None:
    ring = View(state).ring
    for member in state.members:
        dropped = {slot for first, last in foreign(ring, NodeId(member.id)) for slot in range(first, last + 1)}
        assert dropped == {slot for slot, owners in enumerate(ring.table) if member.id not in owners}


@few
@given(changes())
def test_slots_that_too_few_remember_are_lost_or_start_empty_or_are_accepted(state: State) -> None:
    case, plan = case_of(state), planned(state)
    assert state.change is not None
    emptied = lost = 0
    for pair, slots in case.pairs.items():
        had, remembering = set(pair[0]), case.remembering(pair)
        if not case.targets(pair) or not had or len(remembering) >= blocking(len(had)):
            continue
        if not remembering and had <= case.forgetful:
            emptied += len(slots)
        elif had - remembering - set(state.change.accepted):
            lost += len(slots)
    assert (plan.emptied, plan.lost) == (emptied, lost)


def closed(members: list[Seat], seats: list[Seat], accepted: tuple[str, ...] = (), replicas: int = 3) -> State:
    return State(
        STATE_FORMAT,
        "c-1",
        7,
        replicas,
        1,
        members=tuple(members),
        change=Change("change", "join", tuple(seats), accepted),
    )


THREE = [seat(0), seat(1), seat(2)]


def test_the_first_member_of_a_cluster_takes_every_slot_empty() -> None:
    (fill,) = planned(closed([], [seat(0)])).fills
    assert (len(fill.slots), fill.sources, fill.needed, fill.targets) == (SLOTS, (), 0, ("n-0",))
    assert (planned(closed([], [seat(0)])).emptied, planned(closed([], [seat(0)])).lost) == (0, 0)


def test_who_stays_where_owners_get_fewer_is_named_with_all_slots_concerned() -> None:
    every = list(range(SLOTS))

    def stays(members: list[Seat], seats: list[Seat]) -> dict[str, list[int]]:
        return {node: sorted(map(int, slots)) for node, slots in thinned(closed(members, seats)).items()}

    assert stays(THREE, THREE[:2]) == {"n-0": every, "n-1": every}
    assert stays(THREE[:2], THREE[:1]) == {"n-0": every}
    assert stays([*THREE, seat(3)], THREE) == {}, "each slot has three owners again"
    assert stays(THREE[:2], THREE) == {}
    assert stays(THREE, [seat(0, life=2), seat(1)]) == {"n-1": every}, "who forgot is filled"
    state = closed(THREE, THREE[:2])
    assert state.change is not None
    without_third = msgspec.structs.replace(state, change=msgspec.structs.replace(state.change, dead=("n-2",)))
    assert thinned(without_third) == {}, "it may be too late to get back what one of the others cannot read"


def test_one_of_three_that_forgot_is_filled_from_both_others() -> None:
    plan = planned(closed(THREE, [seat(0, life=2), seat(1), seat(2)]))
    assert {(frozenset(fill.sources), fill.needed, fill.targets) for fill in plan.fills} == {
        (frozenset(("n-1", "n-2")), 2, ("n-0",))
    }
    assert (sum(len(fill.slots) for fill in plan.fills), plan.lost, plan.closed) == (SLOTS, 0, False)


def test_two_of_three_that_forgot_lose_every_slot_until_the_operator_accepts_it() -> None:
    seats = [seat(0, life=2, forgetful=True), seat(1, life=2, forgetful=True), seat(2, forgetful=True)]
    assert (planned(closed(THREE, seats)).lost, planned(closed(THREE, seats)).emptied) == (SLOTS, 0)
    assert planned(closed(THREE, seats, accepted=(seats[0].id,))).lost == SLOTS, "the other one's was not accepted"
    plan = planned(closed(THREE, seats, accepted=(seats[0].id, seats[1].id)))
    assert (plan.lost, plan.emptied) == (0, 0)
    assert {(fill.sources, fill.needed) for fill in plan.fills} == {(("n-2",), 1)}


def test_all_owners_that_forgot_start_empty_only_if_none_of_them_was_durable() -> None:
    forgetful = [seat(n, life=2, forgetful=True) for n in range(3)]
    assert (planned(closed(THREE, forgetful)).emptied, planned(closed(THREE, forgetful)).lost) == (SLOTS, 0)
    assert planned(closed(THREE, forgetful)).closed
    durable = [*forgetful[:2], seat(2, life=2)]
    assert (planned(closed(THREE, durable)).emptied, planned(closed(THREE, durable)).lost) == (0, SLOTS)


def test_a_change_of_weight_that_moves_nothing_plans_nothing() -> None:
    plan = planned(closed(THREE, [seat(0, weight=2), seat(1), seat(2)]))
    assert plan == Plan((), 0, 0)


# Steps.

seats_ = st.builds(seat, st.integers(0, 5), st.integers(1, 3), st.integers(1, 3), st.sampled_from(("", "z")))
wishes = st.builds(Wish, seats_, st.booleans(), st.sampled_from((False, False, True)))


def test_founded_is_the_first_epoch_open_and_empty() -> None:
    state = founded(ClusterId("c-1"), 3, 64)
    assert (state.epoch, state.open, state.members, state.pending) == (1, True, (), ())
    assert (state.replicas, state.vnodes) == (3, 64)
    assert View(state).table == ((),) * SLOTS


@given(st.lists(wishes, min_size=1))
def test_the_newest_wish_for_a_node_is_the_one_that_waits_and_no_epoch_begins(many: list[Wish]) -> None:
    state = founded(ClusterId("c-1"), 3, 1)
    for wish in many:
        state = wished(state, wish)
    assert {wish.seat.id: wish.seat for wish in state.pending} == {wish.seat.id: wish.seat for wish in many}
    for wish in state.pending:
        assert wish.accept_loss == any(other.accept_loss for other in many if other.seat.id == wish.seat.id)
    assert len({wish.seat.id for wish in state.pending}) == len(state.pending)
    assert (state.epoch, state.open) == (1, True)


@given(st.lists(seats_, unique_by=lambda seat: seat.id), st.lists(wishes, min_size=1))
def test_all_that_is_pending_becomes_one_change(members: list[Seat], many: list[Wish]) -> None:
    state = State(STATE_FORMAT, "c-1", 4, members=tuple(members))
    for wish in many:
        state = wished(state, wish)
    waiting = {wish.seat.id: wish.seat for wish in state.pending}
    next_ = begun(state, "c-77")
    change = next_.change
    assert change is not None
    assert (next_.epoch, next_.open, next_.pending, next_.members) == (5, True, (), state.members)
    leaving = {wish.seat.id for wish in state.pending if wish.leaves}
    coming = {seat.id: seat for seat in members} | waiting
    assert {seat.id: seat for seat in change.seats} == {n: seat for n, seat in coming.items() if n not in leaving}
    stays = [seat.id for seat in members if seat.id not in leaving]
    assert [seat.id for seat in change.seats][: len(stays)] == stays, "nobody changes places"
    assert set(change.accepted) == {wish.seat.id for wish in state.pending if wish.accept_loss}
    lives = {seat.id: seat.incarnation for seat in members}
    if set(waiting) - set(lives):
        assert change.kind == "join"
    elif leaving:
        assert change.kind == "leave"
    else:
        renewed = any(lives[node] != seat.incarnation for node, seat in waiting.items())
        assert change.kind == ("rebuild" if renewed else "weight")


@given(st.lists(st.tuples(st.sampled_from(("wish", "begin", "shelve", "finish", "cancel")), wishes)))
def test_epochs_only_grow_and_members_change_only_when_a_change_is_finished(steps: list[tuple[str, Wish]]) -> None:
    state = founded(ClusterId("c-1"), 3, 1)
    for step, wish in steps:
        before = state
        if step == "wish":
            state = wished(state, wish)
            assert (state.epoch, state.change, state.members) == (before.epoch, before.change, before.members)
        elif step == "begin" and state.change is None and state.pending:
            state = begun(state, "c")
        elif step == "shelve" and before.change is not None:
            state = shelved(state)
            again = begun(state, "c").change if state.pending else None
            if again is not None and not before.pending:
                assert {seat.id: seat for seat in again.seats} == {seat.id: seat for seat in before.change.seats}
        elif step == "finish" and before.change is not None:
            state = finished(state)
            assert (state.members, state.pending) == (before.change.seats, before.pending)
        elif step == "cancel" and state.change is not None:
            state = cancelled(state)
            assert state.pending == before.pending
        if step != "wish" and state is not before:
            assert state.epoch == before.epoch + 1
        if step != "finish":
            assert state.members == before.members
        assert state.open


def test_a_finished_or_cancelled_change_is_gone_and_clients_are_served() -> None:
    state = begun(wished(founded(ClusterId("c-1"), 3, 1), Wish(seat(0))), "c", closed=True)
    assert not state.open
    for next_ in (finished(state), cancelled(state)):
        assert (next_.open, next_.change, next_.epoch) == (True, None, 3)
    assert finished(state).members == (seat(0),)
    assert cancelled(state).members == ()


# The document.

names = st.text(max_size=8)
ids = st.text(min_size=1, max_size=8)
any_seat = st.builds(Seat, ids, names, st.integers(1, 100), names, names, st.booleans())
any_change = st.builds(
    Change,
    names,
    names,
    st.lists(any_seat, max_size=3, unique_by=lambda seat: seat.id).map(tuple),
    st.lists(names, max_size=2).map(tuple),
    st.booleans(),
    st.lists(names, max_size=2).map(tuple),
)
any_state = st.builds(
    State,
    st.just(STATE_FORMAT),
    ids,
    st.integers(1, 2**53),
    st.integers(1, 15),
    st.integers(1, 4096),
    st.just(HASH_VERSION),
    st.lists(any_seat, max_size=3, unique_by=lambda seat: seat.id).map(tuple),
    st.none() | any_change,
    st.lists(
        st.builds(Wish, any_seat, st.booleans(), st.booleans(), st.booleans()),
        max_size=3,
        unique_by=lambda wish: wish.seat.id,
    ).map(tuple),
)

GOLDEN = b"""{
  "format": 1,
  "cluster_id": "c-0011223344556677",
  "epoch": 12,
  "replicas": 3,
  "vnodes": 256,
  "hash_version": 1,
  "members": [
    {
      "id": "n-aa",
      "url": "http://127.0.0.1:8081",
      "weight": 2,
      "zone": "east",
      "incarnation": "i-1",
      "forgetful": true
    }
  ],
  "change": {
    "id": "c-bb",
    "kind": "join",
    "seats": [
      {
        "id": "n-aa",
        "url": "http://127.0.0.1:8081",
        "weight": 2,
        "zone": "east",
        "incarnation": "i-1",
        "forgetful": true
      },
      {
        "id": "n-cc",
        "url": "http://127.0.0.1:8082",
        "weight": 1,
        "zone": "",
        "incarnation": "i-2",
        "forgetful": false
      }
    ],
    "accepted": [
      "n-aa"
    ]
  },
  "pending": [
    {
      "seat": {
        "id": "n-dd",
        "url": "http://127.0.0.1:8083",
        "weight": 1,
        "zone": "",
        "incarnation": "i-3",
        "forgetful": false
      },
      "accept_loss": true
    }
  ]
}
"""
FIRST = Seat("n-aa", "http://127.0.0.1:8081", 2, "east", "i-1", True)
GOLDEN_STATE = State(
    1,
    "c-0011223344556677",
    12,
    3,
    256,
    1,
    (FIRST,),
    Change("c-bb", "join", (FIRST, Seat("n-cc", "http://127.0.0.1:8082", 1, "", "i-2")), ("n-aa",)),
    (Wish(Seat("n-dd", "http://127.0.0.1:8083", 1, "", "i-3"), True),),
)


@given(any_state)
def test_a_state_comes_back_from_its_document(state: State) -> None:
    assert decode_state(encode_state(state)) == state


def test_a_document_of_the_first_version_stays_readable() -> None:
    assert decode_state(GOLDEN) == GOLDEN_STATE
    assert decode_state(encode_state(GOLDEN_STATE)) == GOLDEN_STATE
    least = decode_state(b'{"format": 1, "cluster_id": "c-1", "epoch": 3, "members": [{"id": "n", "url": "u"}]}')
    assert least == State(1, "c-1", 3, 3, 256, 1, (Seat("n", "u", 1, "", "", False),), None, ())


def grown(part: Any) -> Any:
    """A document as a later version of the same format may write it."""
    if isinstance(part, dict):
        return {"0": [1], **{name: grown(inner) for name, inner in part.items()}, "later": {"more": None}}
    return [grown(inner) for inner in part] if isinstance(part, list) else part


@given(any_state)
def test_fields_that_this_version_does_not_know_are_ignored(state: State) -> None:
    assert decode_state(json.dumps(grown(json.loads(encode_state(state)))).encode()) == state


@pytest.mark.parametrize("changed", [{"format": STATE_FORMAT + 1}, {"hash_version": HASH_VERSION + 1}])
def test_a_document_of_a_later_format_or_of_another_hash_is_refused(changed: dict[str, int]) -> None:
    later = json.dumps(json.loads(GOLDEN) | changed).encode()
    with pytest.raises(StateUnusable) as caught:
        decode_state(later)
    assert "this version knows 1 and 1" in caught.value.detail
    assert caught.value.hint == "run the version that wrote it, or a later one"


@given(st.integers(0, len(GOLDEN) - 3))
def test_a_document_that_was_cut_is_refused(end: int) -> None:
    with pytest.raises(StateUnusable, match="cannot be read"):
        decode_state(GOLDEN[:end])


@pytest.mark.parametrize(
    "damaged",
    [b"", b"null", b"[]", b"\xff" * 40, b'{"format": 1}', b"[" * 100_000, GOLDEN.replace(b"12", b'"12"')],
    ids=["empty", "null", "a list", "no text", "fields missing", "deep", "text as epoch"],
)
def test_a_damaged_document_is_refused_with_a_reason(damaged: bytes) -> None:
    with pytest.raises(StateUnusable) as caught:
        decode_state(damaged)
    assert caught.value.hint


def test_a_view_is_a_state_to_act_on() -> None:
    state = finished(begun(wished(founded(ClusterId("c-1"), 3, 4), Wish(seat(0))), "c"))
    view = View(state)
    assert (view.cluster_id, view.epoch, view.open) == ("c-1", 3, True)
    assert view.seats == {"n-0": seat(0)}
    assert set(view.table) == {("n-0",)}
    assert view.table[Slot(0)] == view.ring.owners_of_slot(Slot(0))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b'"replicas": 3', b'"replicas": 0', "replicas"),
        (b'"weight": 1', b'"weight": 0', "weight"),
        (b'"format": 1', b'"format": 2, "replicas": {}', "format 2"),
    ],
)
def test_a_document_that_cannot_be_is_refused_with_what_is_wrong(old: bytes, new: bytes, said: str) -> None:
    seat = Seat("n-1", "http://localhost:1")
    document = encode_state(State(STATE_FORMAT, "c-1", 4, members=(seat,)))
    assert old in document
    with pytest.raises(StateUnusable, match=said):
        decode_state(document.replace(old, new))


def test_a_member_named_twice_is_refused() -> None:
    seat = Seat("n-1", "http://localhost:1")
    with pytest.raises(StateUnusable, match="twice"):
        decode_state(encode_state(State(STATE_FORMAT, "c-1", 4, members=(seat, seat))))


def test_a_new_weight_and_a_rebuild_of_one_member_do_not_undo_each_other() -> None:
    member = Seat("n-1", "http://localhost:1", incarnation="i-1")
    state = State(STATE_FORMAT, "c-1", 4, members=(member,))
    heavier = Wish(msgspec.structs.replace(member, weight=5))
    rebuilt = Wish(msgspec.structs.replace(member, incarnation="i-2"), accept_loss=True)
    both = Wish(msgspec.structs.replace(member, weight=5, incarnation="i-2"), accept_loss=True)
    assert wished(wished(state, heavier), rebuilt).pending == (both,)
    assert wished(wished(state, rebuilt), heavier).pending == (both,)
    assert without(wished(state, heavier), "n-1") == state
    assert without(wished(wished(state, heavier), rebuilt), "n-1", "weight", "zone").pending == (rebuilt,)
    assert without(wished(state, heavier), "n-1", "weight", "zone") == state
    assert without(wished(state, heavier), "n-2").pending == (heavier,)


def test_a_member_given_up_for_lost_remembers_nothing_when_another_one_forgets() -> None:
    seats = tuple(Seat(f"n-{number}", f"http://localhost:{number}", incarnation="i") for number in range(3))
    given_up = (msgspec.structs.replace(seats[0], incarnation=""), *seats[1:])
    state = State(STATE_FORMAT, "c-1", 4, vnodes=1, members=given_up)
    forgot = msgspec.structs.replace(seats[1], incarnation="i-2", forgetful=True)
    assert planned(begun(wished(state, Wish(forgot)), "c")).lost == SLOTS
    plan = planned(begun(wished(state, Wish(forgot, accept_loss=True)), "c"))
    assert {(fill.sources, fill.targets) for fill in plan.fills} == {(("n-2",), ("n-1",))}


def test_a_member_given_up_for_lost_is_neither_read_nor_filled() -> None:
    seats = tuple(Seat(f"n-{number}", f"http://localhost:{number}", incarnation="i") for number in range(3))
    gone = msgspec.structs.replace(seats[0], incarnation="")
    forgot = msgspec.structs.replace(seats[1], incarnation="i-2", forgetful=True)
    state = State(STATE_FORMAT, "c-1", 4, vnodes=1, members=seats)
    for seat in (gone, forgot):
        state = wished(state, Wish(seat, accept_loss=True))
    plan = planned(begun(state, "c"))
    assert plan.lost == 0
    assert {(fill.sources, fill.needed, fill.targets) for fill in plan.fills} == {(("n-2",), 1, ("n-1",))}


def test_an_accepted_loss_reads_what_is_left_on_the_disks_of_those_who_forgot_a_part() -> None:
    seats = tuple(Seat(f"n-{number}", f"http://localhost:{number}", incarnation="i") for number in range(3))
    state = State(STATE_FORMAT, "c-1", 4, vnodes=1, members=seats)
    for seat in seats:
        state = wished(state, Wish(msgspec.structs.replace(seat, incarnation="i-2")))
    assert planned(begun(state, "c")).lost == SLOTS
    for seat in seats:
        state = wished(state, Wish(msgspec.structs.replace(seat, incarnation="i-2"), accept_loss=True))
    plan = planned(begun(state, "c"))
    everybody = ("n-0", "n-1", "n-2")
    assert (plan.lost, plan.emptied) == (0, 0)
    assert {(fill.sources, fill.needed, fill.targets, fill.rescue) for fill in plan.fills} == {
        (everybody, 3, everybody, True)
    }
