"""Conditional changes of one key: prepare, decide on what a majority holds, accept.

Several that wait for one key share a round: each is decided on what the one before it left, and the last state is
proposed. So they all took effect, one after the other and nothing between them, or none did.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from msgspec.structs import replace

from .conversation import NOTHING, Outcome, Send
from .names import Key
from .proposing import Proposer
from .quorum import Electorate, Level, Voters
from .register import ACCEPT, Op, Reply
from .versions import NONE, HybridClock, Record, Version, decode_record

BEFORE_MAX = 16
"""How many versions a record remembers. A change that was overtaken by more than so many is ``maybe_applied``.

With eight, 24 of 365,000 calls of 64 clients who count one counter up in two proxies ended so.
"""


class Draft(NamedTuple):
    """What a change puts in the place of what it found; a tombstone where ``value`` is None."""

    value: bytes | None
    content_type: bytes = b""
    expires_ms: int = 0

    @property
    def size(self) -> int:
        return len(self.value) if self.value is not None else 0


Decide: TypeAlias = Callable[[Record | None], Draft | None]
"""One change: given what the key holds (None if it was never written), what to put there, None to leave it.

It may be asked more than once, with what was found then; the last answer counts.
"""


class Decided(NamedTuple):
    """What became of one change: the record that it left, whether that is its own, and what it had found."""

    record: Record | None
    changed: bool
    found: Record | None = None


def leave(held: Record | None) -> None:
    """The change that changes nothing: a read that shares a round with changes."""


class Conditional(Proposer):
    """The changes of one key that share a round, always with majorities.

    When it has ended well, ``decided`` says of each change what became of it. An expired record is found as the
    tombstone that is put in its place: whoever judges it expired makes it so for everybody.

    :param now_ms: wall time, which expiry is judged by.
    """

    __slots__ = ("_bases", "_fates", "_now_ms", "_rivalled", "decided", "wanted")

    def __init__(
        self,
        key: Key,
        electorate: Electorate,
        clock: HybridClock,
        now_ms: Callable[[], int],
        wanted: Sequence[Decide],
    ) -> None:
        self.wanted = list(wanted)
        self.decided: list[Decided] = []
        self._now_ms = now_ms
        self._fates: dict[Version, list[Decided]] = {}
        self._bases: dict[Version, Version | None] = {}
        self._rivalled = False
        super().__init__(key, electorate, clock, Level.STRONG)

    def begin(self) -> Sequence[Send]:
        return self._prepare()

    def withdraw(self, number: int) -> bool:
        """Take one change out, since its client no longer waits; say whether it is certain that it had no effect."""
        self.wanted[number] = leave
        flying = [self._flying] if self._flying is not None else []
        return not any(self._fates[version][number].changed for version in (*self.mine, *flying))

    def _refused(self, bit: Voters, reply: Reply, resent: bool) -> Sequence[Send]:
        self._rivalled = self._rivalled or reply.promised > reply.accepted
        return super()._refused(bit, reply, resent)

    def _gives_way(self) -> bool:
        """Pause the first time too where somebody has prepared and not yet finished.

        To prepare above him at once would thwart him in turn; both would become open, and be overtaken by so many of
        each other's rounds that neither could say what became of its own.
        """
        gives_way = super()._gives_way() or self._rivalled
        self.paused, self._rivalled = gives_way, False
        return gives_way

    def _propose(self) -> Sequence[Send]:
        best = self.best
        assert best is not None
        found = decode_record(best.record) if best.record else None
        if self.mine:
            ours = next((version for version in _versions(found) if version in self.mine), None)
            if ours is not None:
                return self._confirm(self._fates[ours])
            if self.hides(best) and not self._passed_by(found):
                return self._end_hidden()
        held, decided = self._decide(found)
        if held is found:
            return self._confirm(decided)
        assert held is not None
        self._fates[held.version] = self.decided = decided
        self._bases[held.version] = found.version if found is not None else None
        return self._accept(self.ballot, held.encode(), self.quorum)

    def _passed_by(self, found: Record | None) -> bool:
        """Whether what was found goes back to what all that is open was built on, without having gone through it.

        Each conditional change lists what it replaced, back to the last plain write, or sixteen of them. Had one of
        ours been chosen, it would stand in the list right after what it replaced.
        """
        line = _versions(found)
        return all(self._bases[version] in line for version in self.mine)

    def _decide(self, found: Record | None) -> tuple[Record | None, list[Decided]]:
        """Decide one change after the other, and give what they leave, with what became of each."""
        before = _versions(found)[:BEFORE_MAX]
        held = found
        if held is not None and held.value is not None and held.expired(self._now_ms()):
            held = Record(self._fresh_version(), None, before=before)
        decided = []
        for decide in self.wanted:
            before_it = held
            draft = decide(held)
            if draft is not None:
                held = Record(self._fresh_version(), *draft, before=before)
            decided.append(Decided(held, draft is not None, before_it))
        if held is None and self.mine:
            # Nothing is there and nothing comes, but what is open has to be overtaken by something.
            held = Record(self._fresh_version(), None)
        if held is found:
            return held, decided
        assert held is not None
        # What is proposed has its proposal's ballot as its version; what it replaced in this round nobody will see.
        last = replace(held, version=Version(self.ballot))
        return last, [one._replace(record=last) if one.record is held else one for one in decided]

    def _fresh_version(self) -> Version:
        return Version(self.clock.tick())

    def _confirm(self, decided: list[Decided]) -> Sequence[Send]:
        """End with what was found, once it is certain that it stays: a majority holds it, or is made to.

        Where something of ours is open, they are made to hold it under our ballot in any case.
        """
        best = self.best
        assert best is not None
        self.decided = decided
        self.proposed = best.record
        # What is open lies on a minority, perhaps above what all the others hold: it could still come out from there.
        if self.alike and not self.mine:
            self.outcome = Outcome(best.record, self.acks)
            return NOTHING
        assert best.accepted != NONE
        self._doubtful = False
        return self._ask(ACCEPT, Op(ACCEPT, self.key, self.ballot, best.record))


def _versions(record: Record | None) -> tuple[Version, ...]:
    return (record.version, *record.before) if record is not None else ()
