"""Wrong variants of the real rooms: what the simulation has to find, or it is worth nothing.

Each is a function that patches the code as somebody could have written it. Names in brackets are the pitfalls that
other stores fell into.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from multiprocessing import get_context

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from tests.laws.test_register import (
    ReadByVersion,
    answer_before_write_back,
    decide_without_promises,
    mix_rounds,
    settle_for_less_than_a_majority,
)
from twisted_kv import coordinator, replica
from twisted_kv.commit import GroupCommit
from twisted_kv.conversation import Send
from twisted_kv.errors import KvError, PeerUnreachable
from twisted_kv.identity import Identity
from twisted_kv.names import NodeId
from twisted_kv.peers import http
from twisted_kv.preconditions import Precondition, Verdict
from twisted_kv.proposing import Proposer
from twisted_kv.quorum import Voters
from twisted_kv.reading import Read
from twisted_kv.register import ACCEPT, Op, Reply
from twisted_kv.simulation import cluster, story
from twisted_kv.simulation.campaign import quiet
from twisted_kv.simulation.cluster import Node
from twisted_kv.simulation.disk import Disk
from twisted_kv.simulation.story import DRAWN, Settings, Story
from twisted_kv.storage.memory import MemoryEngine
from twisted_kv.versions import HybridClock, record_version
from twisted_kv.web import answers
from twisted_kv.wire import BatchReply, Header
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

    def wrong(self: Read, holders: Sequence[NodeId]) -> Sequence[Send]:
        self.proposed = self._had
        self.needed = self._required
        ballot = self.clock.tick()
        return self._ask(ACCEPT, Op(ACCEPT, self.key, ballot, self._had))

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
    patch.setattr(replica, "decide", decide_without_promises)


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
            disk._cells[place] = cell._replace(promised=cell.accepted)
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


MUTANTS: list[Mutant] = [
    last_writer_wins,
    failure_is_certain,
    retry_under_a_new_version,
    same_writer_again,
    repair_under_a_new_ballot,
    answer_before_write_back,
    serve_old_epochs,
    answer_at_once,
    complete_under_a_new_version,
    read_by_version,
    ignore_promises,
    count_repeated_refusals,
    mix_rounds,
    answer_with_the_running_sync,
    promise_forgotten_on_restart,
    empty_node_votes,
    settle_for_less_than_a_majority,
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

    def wrong(error: KvError, status: int) -> dict[str, object]:
        return fields(error, status) | {"maybe_applied": False}

    patch.setattr(answers, "problem_fields", wrong)


def etag_is_not_compared(patch: Patch) -> None:
    """A door takes any value for the one that If-Match names."""
    patch.setattr(Precondition, "judge", lambda self, held: Verdict.MET)


WIRE_MUTANTS: list[Mutant] = [reset_is_unreachable, door_denies_doubt, etag_is_not_compared]


def caught(mutant: Mutant, seeds: range, settings: Settings = DRAWN) -> story.Verdict | None:
    """Run seeds with a wrong variant until one finds something, and give what it found."""
    with pytest.MonkeyPatch.context() as patch:
        mutant(patch)
        for seed in seeds:
            verdict = Story(seed, settings).play()
            if verdict.trouble:
                return verdict
    return None


WIRE = Settings(wire=True)


def search(work: tuple[str, int]) -> tuple[str, story.Verdict | None]:
    quiet()
    name, most = work
    mutant = next(mutant for mutant in (*MUTANTS, *WIRE_MUTANTS) if mutant.__name__ == name)
    return name, caught(mutant, range(most), WIRE if mutant in WIRE_MUTANTS else DRAWN)


def main(most: int) -> int:
    """Look for the first seed that catches each."""
    missed = 0
    with get_context("spawn").Pool(2) as pool:
        for name, verdict in pool.imap_unordered(
            search, [(mutant.__name__, most) for mutant in (*MUTANTS, *WIRE_MUTANTS)]
        ):
            missed += verdict is None
            what = f"seed {verdict.seed}, by {verdict.check}" if verdict is not None else f"NOT CAUGHT in {most} seeds"
            sys.stdout.write(f"{name}: {what}\n")
            sys.stdout.flush()
    return missed


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
