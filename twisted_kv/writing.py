"""A write of one key: one accept, and what becomes of it where it was refused."""

from __future__ import annotations

from collections.abc import Sequence

from .conversation import NOTHING, Conversation, Outcome, Send
from .errors import Unreached
from .names import Key, NodeId
from .quorum import Level
from .register import ACCEPT, Op, Reply
from .versions import Ballot, HybridClock, Record, Version, record_version


class Write(Conversation):
    """A plain put (or, with ``value`` None, delete): one accept under a fresh ballot, from any proxy.

    A refused accept is *open* unless every owner refused it and it was sent once: it may still take effect, by a read
    that writes back what one owner took. So it goes on by a prepare, and ends as ``maybe_applied`` where the answers
    cannot tell whether it already took effect and was replaced.
    """

    __slots__ = (
        "_doubtful",
        "_flying",
        "_newer",
        "content_type",
        "expires_ms",
        "level",
        "mine",
        "open_ballot",
        "value",
    )

    def __init__(
        self,
        key: Key,
        owners: Sequence[NodeId],
        clock: HybridClock,
        level: Level,
        value: bytes | None,
        content_type: bytes = b"",
        expires_ms: int = 0,
    ) -> None:
        self.level = level
        self.value = value
        self.content_type = content_type
        self.expires_ms = expires_ms
        self.mine: set[Version] = set()
        self.open_ballot: Ballot | None = None
        self._flying: Version | None = None
        self._doubtful = False
        self._newer = 0
        super().__init__(key, owners, clock)

    def begin(self) -> Sequence[Send]:
        if self.mine:
            return self._prepare()
        return self._accept_fresh(self.clock.tick(), self.level.needed(len(self.owners)))

    def restart(self, owners: Sequence[NodeId]) -> Sequence[Send]:
        self._land(certain=not (self._doubtful or self.confirmed or self.waiting))
        return super().restart(owners)

    def resume(self) -> Sequence[Send]:
        self.paused = False
        return self.begin()

    def _accept_fresh(self, ballot: Ballot, needed: int) -> Sequence[Send]:
        record = Record(Version(ballot), self.value, self.content_type, self.expires_ms)
        return self._accept(ballot, record.encode(), needed)

    def _accept(self, ballot: Ballot, record: bytes, needed: int) -> Sequence[Send]:
        self.ballot = ballot
        self.proposed = record
        self.needed = needed
        self._flying = record_version(record)
        self._doubtful = False
        self._newer = 0
        return self._ask(ACCEPT, Op(ACCEPT, self.key, ballot, record), self.owners)

    def _land(self, certain: bool) -> None:
        """Close the books on the accept under way: forget it if it certainly had no effect, else hold it open."""
        if self._flying is not None and not certain:
            self.mine.add(self._flying)
            self.open_ballot = self.open_ballot or self.ballot
        self._flying = None

    def _refused(self, reply: Reply, resent: bool) -> Sequence[Send]:
        self._doubtful = self._doubtful or resent
        self._newer += self.phase == ACCEPT and reply.accepted > self.ballot
        return self._weigh()

    def _silent(self, node: NodeId, arrived: bool) -> Sequence[Send]:
        self._doubtful = self._doubtful or arrived
        return self._weigh()

    def _weigh(self) -> Sequence[Send]:
        if self.phase != ACCEPT:
            return super()._weigh()
        if self.confirmed + len(self.waiting) >= self.needed:
            return NOTHING
        if self.confirmed >= self.quorum and self.confirmed + self._newer >= self.needed:
            # Level all: a majority took it, so it has happened; the others already hold what came after it.
            self.confirmed += self._newer
            return self._chosen()
        certain = not self.confirmed and not self._doubtful
        if certain and self.waiting:
            # All so far refused. If the rest do too, nothing has happened and no doubt is left: worth the wait.
            return NOTHING
        answered = self.confirmed + self.refused
        reachable = answered + len(self.waiting)
        if reachable < self.needed or not self.refused:
            # Out of reach; but how many did take it is worth the wait for those who have yet to answer.
            if not self.waiting:
                self._end_unreached(Unreached, "the write did not reach its level")
            return NOTHING
        self._land(certain)
        self.attempt += 1
        if self.attempt > 1:
            self.paused = True
            return NOTHING
        return self.begin()

    def _propose(self) -> Sequence[Send]:
        best = self.best
        assert best is not None
        needed = max(self.quorum, self.level.needed(len(self.owners)))
        if self.open_ballot is not None:
            if best.record and record_version(best.record) in self.mine:
                return self._accept(self.ballot, best.record, needed)
            if best.accepted >= self.open_ballot:
                self._end_unreached(Unreached, "another change came between, which hides whether this one took effect")
                return NOTHING
        return self._accept_fresh(self.ballot, needed)

    def _end_unreached(self, kind: type[Unreached], what: str) -> None:
        in_doubt = self._flying is not None and (self._doubtful or self.confirmed > 0 or bool(self.waiting))
        acks = self.confirmed if self.phase == ACCEPT else 0
        attempted = self._flying or max(self.mine, default=None)
        error = kind(
            f"{what}: {acks} of the {len(self.owners)} owners took it, level {self.level.value} needs {self.needed}",
            "read the key to see which value holds, and write again if it is not yours"
            if in_doubt or self.mine
            else "nothing was changed: try again, or ask for ?consistency=one if one copy is enough",
            required=self.needed,
            acks=acks,
            maybe_applied=in_doubt or bool(self.mine),
            etag=attempted.hex() if attempted is not None else None,
            replicas=self.errors,
        )
        self.outcome = Outcome(b"", acks, error)
