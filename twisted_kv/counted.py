"""What proxies' processes have counted, as plain values that travel, and what happened between two such looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate

import msgspec
from prometheus_client import Counter

from .metrics import LAG_SECONDS, SECONDS, ProxyMetrics

KINDS = {"read": "read", "write": "write", "change": "write"}
"""What operations count as. Those that repair asks for are no client's."""

OVERLOADED = "overloaded"


class Counted(msgspec.Struct, frozen=True):
    """What one process has counted since it began; all of it only grows, but for ``under_way``."""

    ended: dict[str, int]
    """Operations that ended well, by what they count as."""

    failed: int
    refused: int
    """Operations that failed, and those that were refused at the door."""

    seconds: dict[str, list[int]]
    """How many took up to each bound of ``metrics.SECONDS``, and beyond, by what they count as."""

    lag: list[int]
    """How often the reactor was late up to each bound of ``LAG_SECONDS``, and beyond."""

    hedged: int
    hints_left: int
    hints_replayed: int
    repaired: int
    under_way: int


class Rates(msgspec.Struct, frozen=True):
    """What happened between two looks, in one process or several. Rates are per second, quantiles in milliseconds.

    A quantile is None where nothing happened.
    """

    seconds: float
    per_s: dict[str, float]
    failed_per_s: float
    refused_per_s: float
    p50_ms: dict[str, float | None]
    p99_ms: dict[str, float | None]
    lag_p99_ms: float | None
    hedged_per_s: float
    hints_left_per_s: float
    hints_replayed_per_s: float
    repaired_per_s: float
    under_way: int


def counted_by(metrics: ProxyMetrics, under_way: int) -> Counted:
    """Read what a process has counted so far."""
    ended = dict.fromkeys(KINDS.values(), 0)
    failed = refused = 0
    for (kind, _, outcome), count in metrics.operations.counts.items():
        if kind not in KINDS:
            continue
        if outcome == "ok":
            ended[KINDS[kind]] += count
        elif outcome == OVERLOADED:
            refused += count
        else:
            failed += count
    seconds = {name: [0] * (len(SECONDS) + 1) for name in KINDS.values()}
    for (kind, _), counts in metrics.seconds.counts():
        if kind in KINDS:
            seconds[KINDS[kind]] = _plus(seconds[KINDS[kind]], counts)
    return Counted(
        ended,
        failed,
        refused,
        seconds,
        list(metrics.reactor_lag.counts) if metrics.reactor_lag is not None else [0] * (len(LAG_SECONDS) + 1),
        _total(metrics.hedged),
        _total(metrics.hints),
        _total(metrics.replayed),
        _total(metrics.repaired),
        under_way,
    )


def rates(before: Mapping[int, Counted], after: Mapping[int, Counted], seconds: float) -> Rates | None:
    """Say what happened in processes, by their numbers, between two looks at them; None if none was looked at twice.

    One that has started anew meanwhile counts from its start.
    """
    pairs = [(before[number], now) for number, now in after.items() if number in before]
    if not pairs or seconds <= 0:
        return None
    moved = [_between(old, new) for old, new in pairs]
    took = {name: _sum([one.seconds[name] for one in moved]) for name in moved[0].seconds}
    lag = _sum([one.lag for one in moved])
    return Rates(
        seconds,
        {name: sum(one.ended[name] for one in moved) / seconds for name in moved[0].ended},
        sum(one.failed for one in moved) / seconds,
        sum(one.refused for one in moved) / seconds,
        {name: _ms(quantile(SECONDS, counts, 0.5)) for name, counts in took.items()},
        {name: _ms(quantile(SECONDS, counts, 0.99)) for name, counts in took.items()},
        _ms(quantile(LAG_SECONDS, lag, 0.99)),
        sum(one.hedged for one in moved) / seconds,
        sum(one.hints_left for one in moved) / seconds,
        sum(one.hints_replayed for one in moved) / seconds,
        sum(one.repaired for one in moved) / seconds,
        sum(one.under_way for one in moved),
    )


def quantile(bounds: Sequence[float], counts: Sequence[int], part: float) -> float | None:
    """Estimate a quantile from a histogram, None where it is empty.

    As Prometheus's ``histogram_quantile`` does: evenly spread between two bounds, and the last bound for what lies
    beyond it.

    :param counts: how many figures lie between each bound and the one before it, and how many beyond.
    """
    total = sum(counts)
    if not total:
        return None
    rank = part * total
    for index, reached in enumerate(accumulate(counts)):
        if reached >= rank and counts[index]:
            break
    if index >= len(bounds):
        return bounds[-1]
    low = bounds[index - 1] if index else 0.0
    return low + (bounds[index] - low) * (rank - (reached - counts[index])) / counts[index]


def _between(old: Counted, new: Counted) -> Counted:
    began_anew = any(new.ended[name] < count for name, count in old.ended.items()) or sum(new.lag) < sum(old.lag)
    if began_anew:
        return new
    return Counted(
        {name: count - old.ended[name] for name, count in new.ended.items()},
        new.failed - old.failed,
        new.refused - old.refused,
        {name: _minus(counts, old.seconds[name]) for name, counts in new.seconds.items()},
        _minus(new.lag, old.lag),
        new.hedged - old.hedged,
        new.hints_left - old.hints_left,
        new.hints_replayed - old.hints_replayed,
        new.repaired - old.repaired,
        new.under_way,
    )


def _total(counter: Counter) -> int:
    samples = (sample for family in counter.collect() for sample in family.samples)
    return int(sum(sample.value for sample in samples if sample.name.endswith("_total")))


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)


def _plus(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [a + b for a, b in zip(one, other, strict=True)]


def _minus(one: Sequence[int], other: Sequence[int]) -> list[int]:
    return [a - b for a, b in zip(one, other, strict=True)]


def _sum(rows: Sequence[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip(*rows, strict=True)]
