"""Wrong variants of the real rooms: what the simulation has to find, or it is worth nothing.

Each is a function that patches the code as somebody could have written it. Names in brackets are the pitfalls that
other stores fell into.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from tests.laws.test_register import (
    ReadByVersion,
    answer_before_write_back,
    decide_without_promises,
    mix_rounds,
    settle_for_less_than_a_majority,
)
from twisted_kv import answering, coordinator, mover, pulling, views
from twisted_kv.bundles import Reads
from twisted_kv.commit import GroupCommit
from twisted_kv.conversation import Send
from twisted_kv.crowd import Crowd
from twisted_kv.errors import Damaged, KvError, PeerUnreachable, Unreached
from twisted_kv.fasthttp.gate import Gate, only_reads
from twisted_kv.fasthttp.heads import Fields
from twisted_kv.filling import Filling
from twisted_kv.identity import Identity
from twisted_kv.membership import Seat, State, finished, ring_of
from twisted_kv.mender import Mender
from twisted_kv.mover import Mover
from twisted_kv.names import Key, NodeId, Slot
from twisted_kv.operation import Done
from twisted_kv.peers import http
from twisted_kv.peers.control import Control
from twisted_kv.planning import Fill, Plan, planned
from twisted_kv.preconditions import Precondition, Verdict
from twisted_kv.proposing import Proposer
from twisted_kv.pulling import Puller
from twisted_kv.quorum import Electorate, Group, Level, Voters
from twisted_kv.reading import Read
from twisted_kv.register import ACCEPT, BLANK, Cell, Op, Reply, decide
from twisted_kv.replica import Replica
from twisted_kv.resp import connection, order
from twisted_kv.resp.plans import Ask, Change
from twisted_kv.sharing import Changed
from twisted_kv.simulation import cluster, story
from twisted_kv.simulation.campaign import quiet
from twisted_kv.simulation.cluster import Node
from twisted_kv.simulation.disk import Disk
from twisted_kv.simulation.story import DRAWN, Settings, Story
from twisted_kv.storage.engine import Change as Placed
from twisted_kv.storage.engine import Place
from twisted_kv.storage.memory import MemoryEngine
from twisted_kv.tokens import Ticket
from twisted_kv.versions import NONE, HybridClock, decode_record, is_value, record_version
from twisted_kv.views import Pair, electorate_of, foreign
from twisted_kv.web import answers
from twisted_kv.wire.batches import BatchReply, BundleReply
from twisted_kv.wire.header import Header
from twisted_kv.wire.joining import Info
from twisted_kv.wire.moving import PullReply
from twisted_kv.wire.pages import Page, Row
from twisted_kv.writing import Write

Patch = pytest.MonkeyPatch
Mutant = Callable[[Patch], None]


def last_writer_wins(patch: Patch) -> None:
    """(P1) Whoever has something of a later clock counts as agreeing with a write."""

    def wrong(self: Write, bit: Voters, reply: Reply, resent: bool) -> Sequence[Send]:
        if self.phase == ACCEPT and reply.accepted > self.ballot:
            self.confirmed |= bit
            return self._taken(NodeId(""), reply)
        return self._weigh()

    patch.setattr(Write, "_refused", wrong)


def failure_is_certain(patch: Patch) -> None:
    """(P3) A write that did not reach its level is said to have had no effect."""
    patch.setattr(Proposer, "in_doubt", False)


def retry_under_a_new_version(patch: Patch) -> None:
    """(P4) A write whose accept was refused by anybody forgets it and writes again."""
    patch.setattr(Proposer, "_land", lambda self, certain: setattr(self, "_flying", None))


def same_writer_again(patch: Patch) -> None:
    """(P8) Every proxy has the same writer id, and so has each one after a restart."""
    init = HybridClock.__init__
    patch.setattr(HybridClock, "__init__", lambda self, now_ms, writer: init(self, now_ms, 7))


def repair_under_a_new_ballot(patch: Patch) -> None:
    """(P9) A read writes back what it found under a ballot of its own, without asking for promises."""

    def wrong(self: Read, holders: Voters) -> Sequence[Send]:
        self.proposed = self._had
        self.needed = self._required
        self.ballot = self.clock.tick()
        return self._ask(ACCEPT, Op(ACCEPT, self.key, self.ballot, self._had))

    patch.setattr(Read, "_write_back", wrong)


def serve_old_epochs(patch: Patch) -> None:
    """(P14) A node serves whoever acts on an epoch that has passed."""
    refusal = Identity.refusal

    def wrong(self: Identity, header: Header, copying: bool) -> BatchReply | None:
        if header.epoch < self.epoch:
            header = Header(
                *(getattr(header, name) for name in ("format", "cluster", "member", "incarnation")), self.epoch
            )
            copying = True
        return refusal(self, header, copying)

    patch.setattr(Identity, "refusal", wrong)


def answer_at_once(patch: Patch) -> None:
    """(P15) An answer leaves before anything is synced."""
    patch.setattr(GroupCommit, "release", lambda self, answer, keys: succeed(answer))


def complete_under_a_new_version(patch: Patch) -> None:
    """A write that finds its own version proposes its value as another one."""

    def wrong(self: Write) -> Sequence[Send]:
        best = self.best
        assert best is not None
        if self.mine and not (best.record and record_version(best.record) in self.mine) and self.hides(best):
            return self._end_hidden()
        return self._accept_fresh(self.ballot, (*self.quorum, *self.electorate.quota(self.level)))

    patch.setattr(Write, "_propose", wrong)


def read_by_version(patch: Patch) -> None:
    """A fast read is content where a majority shows the same version, under whatever ballots."""
    patch.setattr(coordinator, "Read", ReadByVersion)


def ignore_promises(patch: Patch) -> None:
    """An owner takes plain writes below its promise."""
    patch.setattr(answering, "decide", decide_without_promises)
    patch.setattr(
        answering,
        "accepted",
        lambda cell, ballot, record: decide_without_promises(cell, Op(ACCEPT, Key(b""), ballot, record))[1],
    )


def count_repeated_refusals(patch: Patch) -> None:
    """A write takes the refusal of a repeated message for the answer to the first one."""
    patch.setattr(Proposer, "_refused", lambda self, bit, reply, resent: self._weigh())


def answer_with_the_running_sync(patch: Patch) -> None:
    """An answer leaves when the sync is done that ran while its change was written, which does not cover it."""
    waiting_for = GroupCommit._waiting_for

    def wrong(self: GroupCommit, keys: list[bytes]) -> list[Deferred[None]] | None:
        waiting = waiting_for(self, keys)
        return self._current if waiting is self._next and self._syncing else waiting

    patch.setattr(GroupCommit, "_waiting_for", wrong)


def promise_forgotten_on_restart(patch: Patch) -> None:
    """What a node promised is not on its disk."""
    after_crash = Disk.after_crash

    def wrong(self: Disk, random: object, power: bool) -> Disk:
        disk = after_crash(self, random, power)  # type: ignore[arg-type]
        for place, cell in disk._cells.items():
            disk._cells[place] = replace(cell, promised=cell.accepted)
        return disk

    patch.setattr(Disk, "after_crash", wrong)


def empty_node_votes(patch: Patch) -> None:
    """A node that lost its disk, or an end of it, comes back as if nothing had happened."""

    def wrong(self: Node, engine: MemoryEngine, start: bool) -> None:
        if self.up:
            self.up = False
            self.host.end()
        self.incarnation = self.incarnation or "i-always"
        identity, state = self.engine.read_note("identity"), self.engine.read_note("state")
        self.engine = engine
        if identity is not None:
            engine.write_note("identity", identity)
            engine.write_note("state", state or b"")
        if start:
            self.start()

    patch.setattr(cluster.Node, "_lose", wrong)


# Of hints, repair and purging.


def silence_counts(patch: Patch) -> None:
    """(P2) A hint counts as an acknowledgement: who is silent gets one, and counts as having taken a write."""
    silent = Proposer._silent

    def wrong(self: Proposer, bit: Voters, arrived: bool) -> Sequence[Send]:
        if self.phase != ACCEPT:
            return silent(self, bit, arrived)
        self.confirmed |= bit
        return self._taken(bit, Reply(True, self.ballot, self.ballot))

    patch.setattr(Proposer, "_silent", wrong)


def purge_without_promises(patch: Patch) -> None:
    """(P5) Tombstones are forgotten below a floor that not every owner has promised."""
    purge = Control.purge

    async def wrong(
        self: Control, seat: Seat, state: State, floor: bytes, slots: Sequence[tuple[int, int]], final: bool
    ) -> list[int]:
        done = await purge(self, seat, state, floor, slots, final)
        return done if final else [slot for slot, _ in slots]

    patch.setattr(Control, "purge", wrong)


def replay_under_a_fresh_ballot(patch: Patch) -> None:
    """(P6) A hint is replayed as a write of its own."""
    row_of = Replica._row

    def wrong(self: Replica, key: Key) -> Row:
        row = row_of(self, key)
        return row if row.ballot == NONE else Row(row.key, self._hybrid.tick(), row.record, row.promised)

    patch.setattr(Replica, "_row", wrong)


def regained_slots_are_not_emptied(patch: Patch) -> None:
    """(P7) Nobody forgets what it does not own any more, nor before it owns it again."""

    async def nothing(*_: object) -> None:
        return None

    patch.setattr(Mover, "_empty", nothing)
    patch.setattr(Mover, "_forget_foreign", nothing)
    patch.setattr(Mender, "_clean", nothing)


def unreadable_counts_as_absent(patch: Patch) -> None:
    """(P16) An owner answers of a record that it cannot read as of one that it never had."""

    def wrong(self: Replica, slot: Slot, op: Op, error: Damaged) -> Reply:
        self._note_damage(slot, error.detail)
        reply, kept = decide(BLANK, op)
        if kept is not BLANK:
            self._engine.replace_damaged(slot, Key(op.key), kept)
            self._commit.wrote([op.key])
        return reply

    patch.setattr(Replica, "_answer_damaged", wrong)


def checksums_are_not_compared(patch: Patch) -> None:
    """(P16) What a disk has spoiled is served, and copied."""

    def spoiled(disk: Disk, key: Key, cell: Cell | None) -> Cell | None:
        if cell is None or key not in disk.bad or not is_value(cell.record):
            return cell
        return replace(cell, record=cell.record[:-1] + bytes([cell.record[-1] ^ 1]))

    def get(self: Disk, slot: Slot, key: Key) -> Cell | None:
        return spoiled(self, key, MemoryEngine.get(self, slot, key))

    def scan(
        self: Disk, first: Slot, last: Slot, after: Place | None, limit: int, bytes_max: int | None = None
    ) -> list[Placed]:
        page = MemoryEngine.scan(self, first, last, after, limit, bytes_max)
        return [Placed(slot, key, spoiled(self, key, cell)) for slot, key, cell in page]

    patch.setattr(Disk, "get", get)
    patch.setattr(Disk, "scan", scan)
    patch.setattr(Disk, "_draw", lambda self, changes: list(changes))


def digest_misses_deletes(patch: Patch) -> None:
    """A slot's digest does not move where a value is deleted."""
    account = MemoryEngine._account

    def wrong(self: MemoryEngine, place: Place, old: Cell | None, new: Cell | None) -> None:
        before = self._digests[place[0]]
        account(self, place, old, new)
        if old is not None and new is not None and is_value(old.record) and not is_value(new.record):
            self._digests[place[0]] = before

    patch.setattr(MemoryEngine, "_account", wrong)


# Of changes of the ring.


def new_owners_vote_alone(patch: Patch) -> None:
    """(P11) While a slot moves, a majority of its new owners is enough."""

    def wrong(pair: Pair, forgot: Collection[str], away: Collection[str]) -> Electorate:
        had, gets = pair
        if set(had) == set(gets):
            return electorate_of(pair, forgot, away)
        new = tuple(node for node in gets if node not in away)
        return Electorate(new, [Group(new, len(gets))])

    patch.setattr(views, "electorate_of", wrong)


def sources_are_not_shown_the_epoch(patch: Patch) -> None:
    """(P12) Who is only copied from does not hear that a change has begun, so rounds of before it may still end."""
    admit, announce = Identity.admit, Mover._announce

    def wrong(self: Identity, header: Header, copying: bool) -> None:
        if copying and header.epoch > self.epoch:
            header = msgspec.structs.replace(header, epoch=self.epoch, open=self.open)
        admit(self, header, copying)

    async def announced(self: Mover, state: State, seats: Iterable[Seat]) -> set[NodeId]:
        asked = list(seats)
        if state.change is None:
            return await announce(self, state, asked)
        targets = {node for fill in planned(state).fills for node in fill.targets}
        adopted = await announce(self, state, [seat for seat in asked if seat.id in targets])
        return adopted | {NodeId(seat.id) for seat in asked if seat.id not in targets}

    patch.setattr(Identity, "admit", wrong)
    patch.setattr(Mover, "_announce", announced)


def second_change_begins(patch: Patch) -> None:
    """(P13) A change that waits does not wait for the one under way, whose seats are taken for the present ones."""
    begin = Mover._begin

    async def wrong(self: Mover, state: State, present: Mapping[NodeId, Info]) -> State | None:
        if state.change is not None and state.pending:
            state = await self._step(state, finished)
        return await begin(self, state, present)

    patch.setattr(Mover, "_begin", wrong)


def cut_page_is_whole(patch: Patch) -> None:
    """(P17) Nobody looks whether what came of a page, and of a slot, is all that was sent."""
    copy = Puller._copy

    async def wrong(self: Puller, *args: Any) -> dict[int, int]:
        await copy(self, *args)
        return {}

    patch.setattr(Page, "whole", True)
    patch.setattr(pulling, "rows_digest", _WhateverWasSaid)
    patch.setattr(Puller, "_copy", wrong)
    _one_pass(patch)


class _WhateverWasSaid:
    """A digest that is equal to all others."""

    def __init__(self, rows: object) -> None:
        pass

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


def _one_pass(patch: Patch) -> None:
    async def wrong(self: Filling, target: NodeId, work: Sequence[tuple[Fill, list[NodeId]]]) -> None:
        for fill, chosen in work:
            await self._pull(target, fill, chosen, counts=True)

    patch.setattr(Filling, "_pull_all", wrong)


def drain_ends_early(patch: Patch) -> None:
    """(P18) Who copies is given one order, and what it brings is taken for all."""
    pull = Control.pull

    async def wrong(self: Control, *args: Any) -> PullReply:
        reply = await pull(self, *args)
        reply.next = None
        return reply

    patch.setattr(Control, "pull", wrong)
    _one_pass(patch)


def copy_from_one_owner(patch: Patch) -> None:
    """A new owner copies what a single old one holds, which may have missed what the others acknowledged."""
    pull = Control.pull

    async def wrong(
        self: Control,
        seat: Seat,
        state: State,
        ranges: Sequence[tuple[int, int]],
        first: int,
        sources: list[Seat],
        needed: int,
    ) -> PullReply:
        return await pull(self, seat, state, ranges, first, sources[:1], 1)

    patch.setattr(Control, "pull", wrong)


def dropped_before_the_end(patch: Patch) -> None:
    """Old owners forget what they are about to give away, in an epoch that may still be taken back."""
    run = Filling.run

    async def wrong(self: Filling, plan: Plan) -> None:
        await run(self, plan)
        assert self._state.change is not None
        ring = ring_of(self._state.change.seats, self._state)
        for node in self._adopted:
            await self._control.drop(self._clock, self._seats[node], self._state, foreign(ring, node))

    patch.setattr(Filling, "run", wrong)


def floors_stay_behind(patch: Patch) -> None:
    """(P7) A slot's floor does not move with it."""
    patch.setattr(pulling, "_highest", lambda said: {})


def shrunk_unread(patch: Patch) -> None:
    """Members leave before those who are going to hold something alone have read it."""

    async def wrong(*_: object) -> None: ...

    patch.setattr(mover, "verify_stayers", wrong)


# Of bundles.


def refusals_of_a_bundle_are_not_seen(patch: Patch) -> None:
    """An answer to a bundle counts for everybody in it."""
    answered = Crowd.answered

    def wrong(self: Crowd, node: NodeId, verb: int, reply: BundleReply, resent: bool) -> None:
        answered(self, node, verb, BundleReply(reply.ballots, reply.records), resent)

    patch.setattr(Crowd, "answered", wrong)


def bundle_believes_one_owner(patch: Patch) -> None:
    """Readers in a bundle are given what one owner holds, whatever the others say."""
    count = Reads._count

    def wrong(self: Reads) -> None:
        said = next((heard.reply.ballots for heard in self._heard if heard.reply is not None), [])
        for heard in self._heard:
            if heard.reply is not None:
                heard.reply.ballots = said
        count(self)

    patch.setattr(Reads, "_count", wrong)


def who_leaves_a_bundle_was_never_sent(patch: Patch) -> None:
    """Who leaves a bundle begins anew, as if nobody had been asked for him."""
    patch.setattr(Write, "join", lambda self, record: None)


MUTANTS: list[Mutant] = [
    last_writer_wins,
    failure_is_certain,
    retry_under_a_new_version,
    same_writer_again,
    repair_under_a_new_ballot,
    answer_before_write_back,
    answer_at_once,
    complete_under_a_new_version,
    read_by_version,
    ignore_promises,
    count_repeated_refusals,
    mix_rounds,
    empty_node_votes,
    settle_for_less_than_a_majority,
    silence_counts,
    regained_slots_are_not_emptied,
    unreadable_counts_as_absent,
    checksums_are_not_compared,
    digest_misses_deletes,
    new_owners_vote_alone,
    second_change_begins,
    copy_from_one_owner,
    serve_old_epochs,
    answer_with_the_running_sync,
    promise_forgotten_on_restart,
    purge_without_promises,
    replay_under_a_fresh_ballot,
    sources_are_not_shown_the_epoch,
    cut_page_is_whole,
    drain_ends_early,
    dropped_before_the_end,
    floors_stay_behind,
    shrunk_unread,
    refusals_of_a_bundle_are_not_seen,
    bundle_believes_one_owner,
    who_leaves_a_bundle_was_never_sent,
]


# Wrong variants of what only the wire level has.


def reset_is_unreachable(patch: Patch) -> None:
    """A request whose connection broke is said to have never left."""

    def wrong(self: http._Request, failure: Failure) -> None:
        self._finish(Failure(PeerUnreachable(f"the connection broke: {failure.getErrorMessage()}")))

    patch.setattr(http._Request, "_failed", wrong)


def door_denies_doubt(patch: Patch) -> None:
    """A door says of every write that failed that it had no effect."""
    fields = answers.problem_fields

    def wrong(error: KvError, status: int, request_id: str = "") -> dict[str, object]:
        return fields(error, status, request_id) | {"maybe_applied": False}

    patch.setattr(answers, "problem_fields", wrong)


def etag_is_not_compared(patch: Patch) -> None:
    """A door takes any value for the one that If-Match names."""
    patch.setattr(Precondition, "judge", lambda self, held: Verdict.MET)


def redis_door_denies_doubt(patch: Patch) -> None:
    """An error reply never says that a write may have been applied."""
    reply_to = connection.reply_to

    def wrong(trouble: KvError) -> bytes:
        if isinstance(trouble, Unreached):
            trouble = type(trouble)(trouble.detail, maybe_applied=False)
        return reply_to(trouble)

    patch.setattr(connection, "reply_to", wrong)


def redis_door_reads_and_then_writes(patch: Patch) -> None:
    """INCR, SET with NX and their kin look at a key, and write it afterwards."""
    start = order._Line.start

    def wrong(self: order._Line, ask: Ask, level: Level, hears: Callable[[Any], None]) -> None:
        if not isinstance(ask, Change):
            start(self, ask, level, hears)
            return

        self.under_way += 1
        ended = order._Asked(self, hears).ended

        def looked(done: Any) -> None:
            found = decode_record(done.record) if isinstance(done, Done) and done.record else None
            draft = ask.decide(found) if isinstance(done, Done) else None
            if draft is None:
                ended(Changed(found, False, 2, 3, found) if isinstance(done, Done) else done)
                return

            def written(done: Any) -> None:
                ended(Changed(decode_record(done.record), True, 2, 3, found) if isinstance(done, Done) else done)

            self.store.write(self.key, draft, level, written)

        self.store.read(self.key, level, looked)

    patch.setattr(order._Line, "start", wrong)


def strangers_may_read(patch: Patch) -> None:
    """A door asks for a token only where something changes."""
    judge = Gate.judge

    def wrong(self: Gate, method: bytes, path: bytes, fields: Fields) -> Ticket | None:
        return None if only_reads(method, path) else judge(self, method, path, fields)

    patch.setattr(Gate, "judge", wrong)


WIRE_MUTANTS: list[Mutant] = [
    reset_is_unreachable,
    door_denies_doubt,
    etag_is_not_compared,
    redis_door_denies_doubt,
    redis_door_reads_and_then_writes,
    strangers_may_read,
]


WIRE = Settings(wire=True)

MOVES = Settings(profile="moves", keys=40, wire=False)
RIVALS = Settings(profile="moves", keys=40, wire=False, proxies=3)
CHANGES = Settings(profile="changes", keys=40, wire=False)
DISKS = Settings(profile="damage", wire=False)
SHRINKING = Settings(profile="shrinking", wire=False)
CRASHES = Settings(profile="crashes", wire=False)
CLOCKS = Settings(profile="clocks", wire=False)
PARTITIONS = Settings(profile="partitions", wire=False)

SETTINGS: dict[Mutant, Settings] = {
    serve_old_epochs: MOVES,
    regained_slots_are_not_emptied: MOVES,
    new_owners_vote_alone: MOVES,
    sources_are_not_shown_the_epoch: RIVALS,
    second_change_begins: CHANGES,
    cut_page_is_whole: MOVES,
    drain_ends_early: MOVES,
    copy_from_one_owner: MOVES,
    dropped_before_the_end: MOVES,
    floors_stay_behind: MOVES,
    unreadable_counts_as_absent: DISKS,
    shrunk_unread: SHRINKING,
    checksums_are_not_compared: DISKS,
    promise_forgotten_on_restart: CRASHES,
    count_repeated_refusals: PARTITIONS,
    mix_rounds: PARTITIONS,
    complete_under_a_new_version: PARTITIONS,
    read_by_version: PARTITIONS,
    last_writer_wins: CLOCKS,
}
"""Where a variant is looked for that seldom shows among all faults; the others are looked for there."""


def settings_of(mutant: Mutant) -> Settings:
    return WIRE if mutant in WIRE_MUTANTS else SETTINGS.get(mutant, DRAWN)


@contextmanager
def in_force(mutant: Mutant) -> Iterator[None]:
    """Have the code be wrong for a while. What the wrong functions worked out is forgotten with them, and what the
    right ones did is before."""
    _forget_what_is_kept()
    try:
        with pytest.MonkeyPatch.context() as patch:
            mutant(patch)
            yield
    finally:
        _forget_what_is_kept()


def _forget_what_is_kept() -> None:
    views._electorates_of.cache_clear()
    views._pairs.cache_clear()


def caught(mutant: Mutant, seeds: Iterable[int], settings: Settings = DRAWN) -> story.Verdict | None:
    """Run seeds with a wrong variant until one finds something, and give what it found."""
    with in_force(mutant):
        for seed in seeds:
            verdict = Story(seed, settings).play()
            if verdict.trouble:
                return verdict
    return None


def search(work: tuple[str, int]) -> tuple[str, story.Verdict | None]:
    quiet()
    name, most = work
    mutant = next(mutant for mutant in (*MUTANTS, *WIRE_MUTANTS) if mutant.__name__ == name)
    return name, caught(mutant, range(most), settings_of(mutant))


def main(most: int, *names: str) -> int:
    """Look for the first seed that catches each, or each that is named."""
    missed = 0
    wanted = [m.__name__ for m in (*MUTANTS, *WIRE_MUTANTS) if not names or m.__name__ in names]
    with get_context("spawn").Pool(2) as pool:
        for name, verdict in pool.imap_unordered(search, [(name, most) for name in wanted]):
            missed += verdict is None
            what = f"seed {verdict.seed}, by {verdict.check}" if verdict is not None else f"NOT CAUGHT in {most} seeds"
            sys.stdout.write(f"{name}: {what}\n")
            sys.stdout.flush()
    return missed


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), *sys.argv[2:]))
