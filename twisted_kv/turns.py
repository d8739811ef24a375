"""Plain writes of one key take turns in a proxy: two under way at once would refuse each other at the owners.

What comes while one is under way waits, and all that waited is written as one, which is the last of them: the others
took effect just before it, and were replaced by it before anybody could read.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from .conditional import Draft
from .errors import DeadlinePassed, KvError, Unreached
from .names import Key
from .operation import Done, Told
from .sharing import GRACE_S
from .tracing import Followed
from .versions import HybridClock, Record, Version


class _Writer:
    """A client who waits for the key's turn, or has it together with others."""

    __slots__ = ("_told", "begun", "deadline_s", "draft", "followed", "since_s", "timer")

    def __init__(
        self,
        clock: IReactorTime,
        draft: Draft,
        timeout_s: float,
        told: Told,
        followed: Followed | None,
        passed: Callable[[_Writer], None],
    ) -> None:
        self.draft = draft
        self.followed = followed
        self.since_s = clock.seconds()
        self.deadline_s = self.since_s + timeout_s
        self.begun = False
        self._told: Told | None = told
        self.timer = clock.callLater(timeout_s + GRACE_S, passed, self)

    def end(self, result: Done | Failure) -> None:
        told, self._told = self._told, None
        if told is not None:
            if self.timer.active():
                self.timer.cancel()
            told(result)


class Turns:
    """The plain writes of one proxy that go to a majority.

    :param usual_s: the patience of writes of which their client says nothing.
    :param start: begins a write, with its patience in seconds, None for the usual one, and since when it has waited,
        None for not at all.
    :param ended: told how those ended that were not begun for their own sake, None for well, and how long they took.
    """

    def __init__(
        self,
        clock: IReactorTime,
        hybrid: HybridClock,
        usual_s: float,
        start: Callable[[Key, Draft, float | None, Told, Followed | None, float | None], None],
        ended: Callable[[KvError | None, float], None],
    ) -> None:
        self._clock = clock
        self._hybrid = hybrid
        self._usual_s = usual_s
        self._start = start
        self._ended = ended
        self._waiting: dict[Key, list[_Writer]] = {}
        """Who waits, for each key whose turn somebody has."""
        self.waiting = 0
        """How many writes wait for their turn, or are told with another one."""
        self.size = 0
        """Bytes of their values."""

    def write(
        self, key: Key, draft: Draft, timeout_s: float | None, told: Told, followed: Followed | None = None
    ) -> None:
        """Write when it is the key's turn. Errors as in ``Coordinator.put``."""
        waiting = self._waiting.get(key)
        if waiting is None:
            self._waiting[key] = []
            self._start(key, draft, timeout_s, told, followed, None)
            return
        patience_s = timeout_s or self._usual_s
        waiting.append(
            _Writer(self._clock, draft, patience_s, told, followed, lambda writer: self._passed(key, writer))
        )
        self.waiting += 1
        self.size += draft.size

    def over(self, key: Key) -> None:
        """Let the key's next writes begin: the one that was under way has ended."""
        everybody = self._waiting[key]
        if not everybody:
            del self._waiting[key]
            return
        now_s = self._clock.seconds()
        # Who is out of time by now is told so at the end of his grace; a write can do nothing for him any more.
        writers = [writer for writer in everybody if writer.deadline_s > now_s]
        self._forget([writer for writer in everybody if writer.deadline_s <= now_s])
        if not writers:
            del self._waiting[key]
            return
        self._waiting[key] = []
        for writer in writers:
            writer.begun = True
        *replaced, last = writers
        self._forget([last])  # from here on it is an operation
        # Each has a version of its own, below the one that is written: no two writes share an ETag.
        versions = [Version(self._hybrid.tick()) for _ in replaced]
        patience_s = max(writer.deadline_s for writer in writers) - now_s
        self._start(
            key,
            last.draft,
            patience_s,
            lambda result: self._tell(result, replaced, versions, last),
            last.followed,
            last.since_s,
        )

    def _passed(self, key: Key, writer: _Writer) -> None:
        """Tell a client that his time is up, and take his write out of what has not begun."""
        waiting = self._waiting.get(key, [])
        if writer in waiting:
            waiting.remove(writer)
            self._forget([writer])
        if not writer.begun:
            self._ended(DeadlinePassed(""), self._clock.seconds() - writer.since_s)
        writer.end(
            Failure(
                DeadlinePassed(
                    "the deadline passed while other writes of the key were under way",
                    "read the key to see which value holds" if writer.begun else "nothing was changed: try again",
                    maybe_applied=writer.begun,
                )
            )
        )

    def _forget(self, writers: list[_Writer]) -> None:
        self.waiting -= len(writers)
        self.size -= sum(writer.draft.size for writer in writers)

    def _tell(self, result: Done | Failure, replaced: list[_Writer], versions: list[Version], last: _Writer) -> None:
        """Tell all who wrote together what became of it."""
        self._forget(replaced)
        error = result.value if isinstance(result, Failure) else None
        for writer, version in zip(replaced, versions, strict=True):
            self._ended(error, self._clock.seconds() - writer.since_s)
            if isinstance(result, Failure):
                # Nobody will find this version. Under that of the last one he would take another's value for his own.
                writer.end(Failure(error.about(version.hex())) if isinstance(error, Unreached) else result)
            else:
                writer.end(replace(result, record=Record(version, *writer.draft).encode()))
        last.end(result)
