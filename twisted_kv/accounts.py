"""What became of clients' operations: counted, timed, and written down where somebody may ask about it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from twisted.internet.interfaces import IReactorTime

from .errors import ChangeUnderWay, KvError, Unreached
from .limits import Limits
from .metrics import ProxyMetrics
from .names import Key
from .quorum import Level
from .slow import SlowLog
from .timeline import Step, told
from .tracing import Followed, Ids

KINDS = ("read", "write", "change", "refill")
"""What operations are counted as."""


class Accounts:
    """One proxy's."""

    def __init__(self, clock: IReactorTime, limits: Limits, metrics: ProxyMetrics, ids: Ids) -> None:
        self._clock = clock
        self._slow_s = limits.slow_operation_s
        self._log = SlowLog(clock, limits, ids)
        self._counts = metrics.operations.counts
        self._slow = {kind: metrics.slow.labels(kind) for kind in KINDS}
        pairs = ((kind, level.value) for kind in KINDS for level in Level)
        self._seconds = {pair: metrics.seconds.labels(*pair) for pair in pairs}

    def refused(self, kind: str, level: Level, error: KvError) -> None:
        """Count an operation that was not let in."""
        self._counts[kind, level.value, error.slug] += 1

    def count(self, kind: str, level: Level, error: KvError | None, seconds: float) -> None:
        """Count an end, and no more: there is another line about what it went with."""
        self._counts[kind, level.value, error.slug if error is not None else "ok"] += 1
        self._seconds[kind, level.value].observe(seconds)

    def ended(
        self,
        kind: str,
        level: Level,
        key: Key,
        since_s: float,
        steps: list[Step],
        error: KvError | None,
        followed: Followed | None,
    ) -> str:
        """Take note of an end; give what the operation is called in the log, if there is a line about it."""
        seconds = self._clock.seconds() - since_s
        self.count(kind, level, error, seconds)
        if followed is not None:
            followed.steps = told(since_s, steps)
        slow = seconds >= self._slow_s
        if slow:
            self._slow[kind].inc()
        if error is not None:
            if not isinstance(error, (Unreached, ChangeUnderWay)):
                return ""
            return self._log.failed(kind, level.value, key, seconds, since_s, steps, error, followed)
        if not slow:
            return ""
        return self._log.took_long(kind, level.value, [key], seconds, since_s, steps, followed)

    def ended_alike(self, kind: str, keys: Sequence[Key], since_s: float, steps: Iterable[Step]) -> str:
        """Do as ``ended`` for several that went as one at level strong, and ended well."""
        seconds = self._clock.seconds() - since_s
        self._counts[kind, Level.STRONG.value, "ok"] += len(keys)
        self._seconds[kind, Level.STRONG.value].observe_alike(seconds, len(keys))
        if seconds < self._slow_s:
            return ""
        self._slow[kind].inc(len(keys))
        return self._log.took_long(kind, Level.STRONG.value, keys, seconds, since_s, list(steps))
