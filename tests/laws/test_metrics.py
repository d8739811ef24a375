"""What is counted, and how it is shown."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from twisted_kv.metrics import Metrics, Spread


def shown(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.render().decode())
    return {(one.name, tuple(one.labels.items())): one.value for family in families for one in family.samples}


def test_figures_that_many_have_are_counted_as_if_one_by_one() -> None:
    together, one_by_one = (
        Spread(name, "", (), (1.0, 2.0), CollectorRegistry()).labels() for name in ("together", "one_by_one")
    )

    for figure, count in ((0.5, 3), (2.0, 2), (7.0, 1)):
        together.observe_alike(figure, count)
        for _ in range(count):
            one_by_one.observe(figure)

    assert together.counts == one_by_one.counts == [3, 2, 1]
    assert together.sum == one_by_one.sum


def test_what_is_read_when_somebody_asks_is_what_there_is_then() -> None:
    metrics, hints, commands = Metrics(), {"n-1": 2}, 5
    metrics.watch_each("hints", "", ("owner",), lambda: [((owner,), count) for owner, count in hints.items()])
    metrics.watch_total("commands", "", lambda: commands)

    first = shown(metrics)
    hints.clear()
    hints["n-2"] = 1
    commands = 6

    assert first == {("hints", (("owner", "n-1"),)): 2, ("commands_total", ()): 5}
    assert shown(metrics) == {("hints", (("owner", "n-2"),)): 1, ("commands_total", ()): 6}


def test_a_label_may_hold_any_text() -> None:
    metrics = Metrics()
    metrics.watch_each("zones", "", ("zone",), lambda: [(('a"b\\c\nd',), 1)])

    assert shown(metrics) == {("zones", (("zone", 'a"b\\c\nd'),)): 1}
