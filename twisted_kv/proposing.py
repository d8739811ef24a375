"""What plain writes and conditional changes share: an accept of one's own, which may stay open.

A refused accept is *open* unless every owner refused it and it was sent once: it may still take effect, by a read that
writes back what one owner took. So its proposer goes on by a prepare, and ends as ``maybe_applied`` where the answers
cannot tell whether it already took effect and was replaced.
"""

from __future__ import annotations

from collections.abc import Sequence

from .conversation import NOTHING, Conversation, Send
from .errors import NoRoom, Unreached
from .names import Key
from .quorum import Electorate, Level, Quota, Voters, met, required
from .register import ACCEPT, Op, Reply
from .versions import Ballot, HybridClock, Version, record_version
from .wire.batches import DISK_FULL


class Proposer(Conversation):
    """Proposes records of its own.

    ``mine`` are the versions that were proposed and may still take effect, ``open_ballot`` the lowest ballot under
    which one of them was.
    """

    __slots__ = ("_doubtful", "_flying", "_newer", "level", "mine", "open_ballot")

    def __init__(self, key: Key, electorate: Electorate, clock: HybridClock, level: Level) -> None:
        self.level = level
        self.mine: set[Version] = set()
        self.open_ballot: Ballot | None = None
        self._flying: Version | None = None
        self._doubtful = False
        self._newer: Voters = 0
        super().__init__(key, electorate, clock)

    def restart(self, electorate: Electorate) -> Sequence[Send]:
        self._land(certain=not (self._doubtful or self.confirmed | self.waiting))
        return super().restart(electorate)

    def resume(self) -> Sequence[Send]:
        self.paused = False
        return self.begin()

    @property
    def in_doubt(self) -> bool:
        flies = self._flying is not None and (self._doubtful or bool(self.confirmed | self.waiting))
        return flies or bool(self.mine)

    @property
    def attempted(self) -> Version | None:
        """The version proposed last."""
        return self._flying or max(self.mine, default=None)

    def hides(self, best: Reply) -> bool:
        """Whether what a majority showed, none of it ours, leaves open if something of ours took effect before it.

        It does not where it lies below all that is open, nor where its version does: had one of ours been chosen,
        nobody could have proposed an older version again above it.
        """
        assert self.open_ballot is not None
        return best.accepted >= self.open_ballot and record_version(best.record) > min(self.mine)

    def _accept(self, ballot: Ballot, record: bytes, needed: Quota) -> Sequence[Send]:
        self.ballot = ballot
        self.proposed = record
        self.needed = needed
        self._flying = record_version(record)
        self._doubtful = False
        self._newer = 0
        return self._ask(ACCEPT, Op(ACCEPT, self.key, ballot, record))

    def _land(self, certain: bool) -> None:
        """Close the books on the accept under way: forget it if it certainly had no effect, else hold it open."""
        if self._flying is not None and not certain:
            self.mine.add(self._flying)
            self.open_ballot = self.open_ballot or self.ballot
        self._flying = None

    def _refused(self, bit: Voters, reply: Reply, resent: bool) -> Sequence[Send]:
        self._doubtful = self._doubtful or resent
        if self.phase == ACCEPT and reply.accepted > self.ballot:
            self._newer |= bit
        return self._weigh()

    def _silent(self, bit: Voters, arrived: bool) -> Sequence[Send]:
        self._doubtful = self._doubtful or arrived
        return self._weigh()

    def _weigh(self) -> Sequence[Send]:
        if self.phase != ACCEPT:
            return super()._weigh()
        if met(self.needed, self.confirmed | self.waiting):
            return NOTHING
        if met(self.quorum, self.confirmed) and met(self.needed, self.confirmed | self._newer):
            # Level all: a majority took it, so it has happened; the others already hold what came after it.
            self.confirmed |= self._newer
            return self._chosen()
        certain = not self.confirmed and not self._doubtful
        if certain and self.waiting:
            # All so far refused. If the rest do too, nothing has happened and no doubt is left: worth the wait.
            return NOTHING
        if not met(self.needed, self.confirmed | self.refused | self.waiting) or not self.refused:
            # Out of reach; but how many did take it is worth the wait for those who have yet to answer.
            if not self.waiting:
                self._end_unreached(Unreached, "the write did not reach its level")
            return NOTHING
        self._land(certain)
        return NOTHING if self._gives_way() else self.begin()

    def _end_hidden(self) -> Sequence[Send]:
        self._end_unreached(Unreached, "another change came between, which hides whether this one took effect")
        return NOTHING

    def _end_unreached(self, kind: type[Unreached], what: str) -> None:
        if kind is Unreached and any(error.startswith(DISK_FULL) for error in self.errors.values()):
            kind = NoRoom
        in_doubt = self.in_doubt
        acks = self.acks if self.phase == ACCEPT else 0
        attempted = self.attempted
        undone = "nothing was changed: try again, or ask for ?consistency=one if one copy is enough"
        if kind is NoRoom:
            undone = "nothing was changed: make room on these nodes' disks, or add a node; reads and deletes go on"
        error = kind(
            f"{what}: {acks} of the {len(self.owners)} owners took it, level {self.level.value} needs "
            f"{required(self.needed)}",
            "read the key to see which value holds, and write again if it is not yours" if in_doubt else undone,
            required=required(self.needed),
            acks=acks,
            maybe_applied=in_doubt,
            etag=attempted.hex() if attempted is not None else None,
            replicas=self.errors,
        )
        self._end(error, acks)
