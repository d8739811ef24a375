"""Who is asked last, or not at all, and when another one is asked besides. ``now`` is always handed in."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from enum import IntEnum
from math import ceil, inf

from .limits import Limits
from .names import NodeId

TAIL = 0.95
"""The part of a node's answers that a read waits for before it asks another owner (Dean and Barroso, "The Tail at
Scale", CACM 2013: a second request after the 95th percentile costs 5 % more load)."""

SLACK = 1.1
"""How much longer than that it waits: where all answers take about the same time, none of them is late."""

SLOW_TIMES = 10
"""How many times the median node's pace is slow. Less would tell nodes of other zones from those nearby."""

TAIL_ANSWERS_MIN = 20
"""Answers from which on their tail is more than the slowest one, which may have waited for a connection."""

MEDIAN_ANSWERS_MIN = 3
"""The same for their median."""

HEDGE_SHARE = 0.1
"""The part of all reads that may be hedged: twice what healthy nodes need, and no load to speak of."""

HEDGES_SAVED_MAX = 10.0
"""Hedges that may come at once after a quiet time."""


class Rank(IntEnum):
    """In which order a proxy asks. A node that is good has no rank."""

    SLOW = 1
    ON_TRIAL = 2
    AVOIDED = 3


class Suspicion:
    """One node's standing, as one proxy sees it (a circuit breaker: Nygard, "Release It!", 2007, chapter 5).

    After ``suspect_after_failures`` failures in a row the node is avoided: reads ask it last, writes count it as
    unreachable at once. An answer ends that, a probe's or that of a batch which was under way. A node that is avoided
    again soon after is put on trial: from its first answer on it has to answer for a time, twice as long with each
    relapse, and a failure begins that anew. So clients do not run into a flapping node again and again.

    The answers of probes do not forgive the failures of batches: a node whose disk hangs answers the probes still.
    """

    __slots__ = (
        "_answers_since",
        "_back_at",
        "_failures",
        "_limits",
        "_probes_failed",
        "_trial_s",
        "avoided_since",
        "last_error",
    )

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._failures = 0
        self._probes_failed = 0
        self._answers_since: float | None = None
        self._trial_s = 0.0
        self._back_at = -inf
        self.avoided_since: float | None = None
        self.last_error = ""

    @property
    def avoided(self) -> bool:
        return self.avoided_since is not None

    @property
    def on_trial(self) -> bool:
        """Whether it is avoided although it answered when it was last asked."""
        return self._answers_since is not None

    @property
    def silent(self) -> bool:
        """Whether it is avoided and did not answer when it was last asked."""
        return self.avoided_since is not None and self._answers_since is None

    def confirm(self, now: float, probe: bool = False) -> bool:
        """Count an answer. True if the node was avoided until now."""
        if self.avoided_since is None:
            self._probes_failed = 0
            if not probe:
                self._failures = 0
            return False
        if self._answers_since is None:
            self._answers_since = now
        if now - self._answers_since < self._trial_s:
            return False
        self.avoided_since = self._answers_since = None
        self._failures = self._probes_failed = 0
        self._back_at = now
        return True

    def refuse(self, error: str, now: float, probe: bool = False) -> bool:
        """Count a failure. True if the node is avoided from now on."""
        self.last_error = error
        if self.avoided_since is not None:
            self._answers_since = None
            return False
        if probe:
            self._probes_failed += 1
        else:
            self._failures += 1
        if self._failures + self._probes_failed < self._limits.suspect_after_failures:
            return False
        self.avoided_since = now
        self._trial_s = self._next_trial_s() if now - self._back_at < self._limits.relapse_s else 0.0
        return True

    def _next_trial_s(self) -> float:
        limits = self._limits
        return min(2 * self._trial_s, limits.trial_s_max) if self._trial_s else limits.probe_interval_s


class Pace:
    """How long a node takes to answer: the newest times, of which old ones are forgotten.

    What is forgotten makes a slow node good again, so that it is tried: nobody asks it meanwhile.
    """

    __slots__ = ("_limits", "_times")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._times: deque[tuple[float, float]] = deque(maxlen=limits.pace_answers_max)

    def add(self, now: float, took_s: float) -> None:
        """Take an answer into account, in the order in which they came."""
        self._times.append((now, took_s))

    def count(self, now: float) -> int:
        """Count the answers that are remembered."""
        times, oldest = self._times, now - self._limits.pace_s_max
        while times and times[0][0] < oldest:
            times.popleft()
        return len(times)

    def quantile(self, part: float, now: float) -> float | None:
        """Give the time within which this part of the answers came (nearest rank), None if none is remembered."""
        count = self.count(now)
        if not count:
            return None
        return sorted(took_s for _, took_s in self._times)[max(0, ceil(part * count) - 1)]

    def lately_s(self, part: float, now: float, seconds: float) -> float | None:
        """Give the same of the answers of the last seconds only."""
        took = sorted(took_s for at, took_s in self._times if at >= now - seconds)
        return took[max(0, ceil(part * len(took)) - 1)] if took else None

    def usual_s(self, now: float) -> float | None:
        """Give the time by which the node is compared with others; a single late answer does not change it."""
        count = self.count(now)
        if count < MEDIAN_ANSWERS_MIN:
            return None
        return self.quantile(TAIL if count >= TAIL_ANSWERS_MIN else 0.5, now)


def slow_nodes(paces_s: Mapping[NodeId, float], limits: Limits) -> list[NodeId]:
    """Name the nodes that are far slower than the median one.

    Where all became slow, as they do when the proxy or the cluster has too much to do, none of them is.

    :param paces_s: the usual time of each, or for how long it owes an answer, whichever is longer.
    """
    if not paces_s:
        return []
    paces = sorted(paces_s.values())
    bound_s = max(limits.slow_node_s_min, SLOW_TIMES * paces[(len(paces) - 1) // 2])
    return [node for node, pace_s in paces_s.items() if pace_s > bound_s]


class Allowance:
    """How many reads may be hedged: a share of all reads, with some saved up (a token bucket).

    An overloaded cluster answers late, and would get still more to do by a hedge for each late answer.
    """

    __slots__ = ("_counted", "_saved", "reads")

    def __init__(self) -> None:
        self._saved = HEDGES_SAVED_MAX
        self._counted = 0
        self.reads = 0
        """How many reads there were; who begins one adds to it, and that is all that it costs a read."""

    def take(self) -> bool:
        """Take a hedge, if one is left."""
        earned = HEDGE_SHARE * (self.reads - self._counted)
        self._counted = self.reads
        self._saved = min(HEDGES_SAVED_MAX, self._saved + earned)
        if self._saved < 1:
            return False
        self._saved -= 1
        return True
