"""What an operator counts. One registry for each daemon, handed to the rooms that count.

Names carry their unit (Prometheus naming rules); nothing here is global, so that many daemons fit into one process.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from math import inf
from typing import Any, TypeAlias

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"

_BATCH_OPS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
LAG_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


class Tally:
    """A counter of what happens with each request: no more than a number in a dict, which one thread counts up.

    It is a collector of ``prometheus_client``'s, whose own counters take a lock each time.
    """

    def __init__(self, name: str, help_text: str, labels: Sequence[str], registry: CollectorRegistry) -> None:
        self._named = name, help_text
        self._labels = labels
        self.counts: defaultdict[tuple[str, ...], int] = defaultdict(int)
        """By the values of the labels."""
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        family = CounterMetricFamily(*self._named, labels=self._labels)
        for values, count in self.counts.items():
            family.add_metric(values, count)
        return [family]


class Spread:
    """A histogram of what happens with each batch, kept as ``Tally`` keeps its numbers."""

    def __init__(
        self, name: str, help_text: str, labels: Sequence[str], buckets: Sequence[float], registry: CollectorRegistry
    ) -> None:
        self._named = name, help_text
        self._labels = labels
        self._bounds = [*buckets, inf]
        self._series: dict[tuple[str, ...], Series] = {}
        registry.register(self)

    def labels(self, *values: str) -> Series:
        """Give the series of these values of the labels."""
        series = self._series.get(values)
        if series is None:
            series = self._series[values] = Series(self._bounds)
        return series

    def counts(self) -> Iterable[tuple[tuple[str, ...], list[int]]]:
        """Give how many figures there were up to each bound and above the one before it, by the labels' values."""
        return [(values, series.counts) for values, series in self._series.items()]

    def collect(self) -> Iterable[Metric]:
        family = HistogramMetricFamily(*self._named, labels=self._labels)
        for values, series in self._series.items():
            bounds = ["+Inf" if bound == inf else str(float(bound)) for bound in self._bounds]
            family.add_metric(values, list(zip(bounds, accumulate(series.counts), strict=True)), series.sum)
        return [family]


class Series:
    """How many figures were up to each bound and above the one before it, and what they come to."""

    __slots__ = ("_bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * len(bounds)
        self.sum = 0.0

    def observe(self, figure: float) -> None:
        self.counts[bisect_left(self._bounds, figure)] += 1
        self.sum += figure

    def observe_alike(self, figure: float, count: int) -> None:
        """Count one figure that so many have."""
        self.counts[bisect_left(self._bounds, figure)] += count
        self.sum += figure * count


Readings: TypeAlias = Iterable[tuple[Sequence[str], float]]
"""Figures of one family as they are now, each with the values of its labels."""


class Read:
    """Figures that are read when somebody asks for them, and cost nothing otherwise."""

    def __init__(self, family: Callable[[], Any], read: Callable[[], Readings], registry: CollectorRegistry) -> None:
        self._family = family
        self._read = read
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        family = self._family()
        for values, figure in self._read():
            family.add_metric(values, figure)
        return [family]


class Metrics:
    """One daemon's registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.reactor_lag: Series | None = None
        """Where nobody looks how late the reactor is, there is none."""

    def watch(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        Gauge(name, help_text, registry=self.registry).set_function(read)

    def watch_each(self, name: str, help_text: str, labels: Sequence[str], read: Callable[[], Readings]) -> None:
        """Show a gauge for each combination of labels that there is when somebody asks."""
        Read(lambda: GaugeMetricFamily(name, help_text, labels=labels), read, self.registry)

    def watch_total(self, name: str, help_text: str, read: Callable[[], float]) -> None:
        """Show what somebody else counts, and only ever counts up; ``_total`` is put behind its name."""
        Read(lambda: CounterMetricFamily(name, help_text, labels=()), lambda: [((), read())], self.registry)

    def watch_process(self, role: str, version: str) -> None:
        """Show what the process takes, and what it is."""
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.watch_each(
            "kv_build_info", "What runs here; always 1", ("role", "version"), lambda: [((role, version), 1)]
        )
        self.reactor_lag = Spread(
            "kv_reactor_lag_seconds", "How late the reactor ran what was due", (), LAG_SECONDS, self.registry
        ).labels()

    def render(self) -> bytes:
        return generate_latest(self.registry)


class NodeMetrics(Metrics):
    """What a storage node counts."""

    def __init__(self) -> None:
        super().__init__()
        spread = Spread("kv_node_batch_operations", "Operations in one batch", (), _BATCH_OPS, self.registry)
        self.batch_ops = spread.labels()
        self.sync_seconds = Histogram(
            "kv_node_sync_seconds", "How long a sync of the log took", buckets=SECONDS, registry=self.registry
        )
        self.damaged = Counter(
            "kv_node_damaged_reads", "Questions about records that could not be read", registry=self.registry
        )
        self.refilled = Counter(
            "kv_node_refilled_records", "Records that could not be read and were replaced", registry=self.registry
        )
        self.scrubbed = Counter("kv_node_scrubbed_slots", "Slots read to find damage", registry=self.registry)
        self.digests_mended = Counter(
            "kv_node_mended_digests", "Slots whose digest was not that of their records", registry=self.registry
        )
        self.refusals = Counter("kv_node_refused_batches", "Batches refused whole", ["reason"], registry=self.registry)
        self.stalled = Counter(
            "kv_node_stalled_batches", "Times that a batch waited since the disk was behind", registry=self.registry
        )
        self.slow = Counter("kv_node_slow_batches", "Batches that took too long", registry=self.registry)


class ProxyMetrics(Metrics):
    """What a proxy counts."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = Tally(
            "kv_operations",
            "Client operations by kind, level and how they ended",
            ("kind", "level", "outcome"),
            self.registry,
        )
        self.seconds = Spread(
            "kv_operation_seconds",
            "How long client operations took, those of a bundle as long as its first one",
            ("kind", "level"),
            SECONDS,
            self.registry,
        )
        self.slow = Counter(
            "kv_slow_operations", "Client operations that took too long", ["kind"], registry=self.registry
        )
        self.hints = Counter("kv_hints_left", "Hints left for owners that missed a write", registry=self.registry)
        self.replayed = Counter("kv_hints_replayed", "Hints brought to whom they were for", registry=self.registry)
        self.repaired = Counter("kv_repaired_keys", "Keys whose owners were made alike", registry=self.registry)
        self.refilled = Counter("kv_refilled_keys", "Keys that an owner could not read", registry=self.registry)
        self.repair_rounds = Counter(
            "kv_repair_rounds",
            "Rounds of repair, and whether they were broken off",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in ("ok", "broken-off", "failed"):
            self.repair_rounds.labels(outcome)  # where none ever ends, that is to be seen, too
        self.repair_seconds = Histogram(
            "kv_repair_round_seconds",
            "How long a round of repair took",
            buckets=(0.1, 0.5, 1.0, 5.0, 30.0, 120.0, 600.0),
            registry=self.registry,
        )
        self.differing = Counter(
            "kv_repair_differing_slots", "Slots whose owners differed, or that were marked", registry=self.registry
        )
        self.purged = Counter("kv_purged_slots", "Slots whose tombstones were purged", registry=self.registry)
        self.hedged = Counter(
            "kv_hedged_reads", "Reads that asked another node since an answer took too long", registry=self.registry
        )
        self.swept = Counter("kv_expired_swept", "Expired values that the sweep has found", registry=self.registry)
        each = ("node", "lane")
        self.batch_ops = Spread(
            "kv_batch_operations", "Operations in one batch to a node", each, _BATCH_OPS, self.registry
        )
        self.batch_seconds = Spread(
            "kv_batch_round_trip_seconds", "From sending a batch to its answer", each, SECONDS, self.registry
        )
        self.batch_failures = Counter(
            "kv_batch_failures", "Batches that got no answer", ["node", "lane"], registry=self.registry
        )


class Workers:
    """What several workers of one proxy have counted, each sample with the worker that it comes from.

    :param texts: what each of them has rendered, by its number; None for one that did not answer.
    """

    def __init__(self, texts: Mapping[int, bytes | None]) -> None:
        self._texts = texts

    def collect(self) -> Iterable[Metric]:
        """Give each family once, with the samples of all (``prometheus_client``'s contract of a collector)."""
        families: dict[str, Metric] = {}
        up = GaugeMetricFamily("kv_worker_up", "Whether this worker of the proxy answers", labels=["worker"])
        for number, text in self._texts.items():
            worker = str(number)
            up.add_metric([worker], float(text is not None))
            for one in text_string_to_metric_families((text or b"").decode()):
                family = families.setdefault(one.name, Metric(one.name, one.documentation, one.type))
                family.samples += [
                    sample._replace(labels={**sample.labels, "worker": worker}) for sample in one.samples
                ]
        return [*families.values(), up]

    def render(self) -> bytes:
        return generate_latest(self)
