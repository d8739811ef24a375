"""A plain write of one key: one accept, and what becomes of it where it was refused."""

from __future__ import annotations

from collections.abc import Sequence

from .conversation import Send
from .names import Key
from .proposing import Proposer
from .quorum import Electorate, Level, Quota
from .versions import Ballot, HybridClock, Record, Version, record_version


class Write(Proposer):
    """A plain put (or, with ``value`` None, delete): one accept under a fresh ballot, from any proxy."""

    __slots__ = ("content_type", "expires_ms", "value")

    def __init__(
        self,
        key: Key,
        electorate: Electorate,
        clock: HybridClock,
        level: Level,
        value: bytes | None,
        content_type: bytes = b"",
        expires_ms: int = 0,
    ) -> None:
        self.value = value
        self.content_type = content_type
        self.expires_ms = expires_ms
        super().__init__(key, electorate, clock, level)

    def begin(self) -> Sequence[Send]:
        if self.mine:
            return self._prepare()
        return self._accept_fresh(self.clock.tick(), self.electorate.quota(self.level))

    def join(self, record: bytes) -> None:
        """Be as after ``begin``, where the owners are asked by somebody else, to accept a record of this write."""
        self._accept(Ballot(record_version(record)), record, self.electorate.quota(self.level))

    def _accept_fresh(self, ballot: Ballot, needed: Quota) -> Sequence[Send]:
        record = Record(Version(ballot), self.value, self.content_type, self.expires_ms)
        return self._accept(ballot, record.encode(), needed)

    def _propose(self) -> Sequence[Send]:
        best = self.best
        assert best is not None
        needed = self.quorum if self.level is Level.ONE else self.electorate.quota(self.level)
        if self.open_ballot is not None:
            if best.record and record_version(best.record) in self.mine:
                return self._accept(self.ballot, best.record, needed)
            if self.hides(best):
                return self._end_hidden()
        return self._accept_fresh(self.ballot, needed)
