"""``kvctl top``: members and operations, looked at again and again."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from .cluster import state_of, troubles_of
from .common import Ctl, asks_proxy
from .members import warnings
from .showing import console, count, plain_table, write_json
from .status import drawn

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

_operations = re.compile(rb"^kv_operations_total\{([^}]*)\} (\S+)$", re.MULTILINE)
_label = re.compile(r'(\w+)="([^"]*)"')


def operations(text: bytes) -> Counter[tuple[str, str]]:
    """Read from ``/metrics`` how many operations there were, by kind and how they ended, of all workers together."""
    found: Counter[tuple[str, str]] = Counter()
    for labels, number in _operations.findall(text):
        named = dict(_label.findall(labels.decode()))
        found[named.get("kind", "?"), named.get("outcome", "?")] += int(float(number))
    return found


class Looking:
    """Looks, and knows what it saw before, so that rates can be told."""

    def __init__(self, ctl: Ctl) -> None:
        self._ctl = ctl
        self._counted: Counter[tuple[str, str]] | None = None
        self._at_s = 0.0

    def look(self) -> dict[str, Any]:
        counted = operations(self._ctl.client.checked("GET", "/metrics").body)
        now_s = time.monotonic()
        rates = []
        if self._counted is not None:
            past_s = max(1e-3, now_s - self._at_s)
            for kind, outcome in sorted(counted):
                # A proxy that was started again counts from nothing.
                more = max(0, counted[kind, outcome] - self._counted[kind, outcome])
                rates.append({"kind": kind, "outcome": outcome, "per_s": round(more / past_s, 1)})
        self._counted, self._at_s = counted, now_s
        cluster = state_of(self._ctl)
        return {"cluster": cluster, "troubles": troubles_of(self._ctl), "operations": rates}


@click.command()
@click.option("--interval", type=click.FloatRange(0.1), default=1.0, show_default=True, help="Seconds between looks.")
@click.option("--count", "looks", type=click.IntRange(1), help="Look so many times. [default: until Ctrl-C]")
@asks_proxy
def top(ctl: Ctl, interval: float, looks: int | None) -> None:
    """Watch members and operations. With -o json a line for each look."""
    from rich.live import Live

    looking = Looking(ctl)
    looking.look()
    seen = 0
    try:
        if ctl.showing.is_json:
            while looks is None or seen < looks:
                time.sleep(interval)
                write_json(json.dumps(looking.look()))
                seen += 1
            return
        with Live(console=console(), auto_refresh=False, screen=looks is None and console().is_terminal) as live:
            while looks is None or seen < looks:
                time.sleep(interval)
                live.update(page(looking.look()), refresh=True)
                seen += 1
    except KeyboardInterrupt:
        return  # which is how one leaves it


def page(seen: dict[str, Any]) -> Group:
    from rich.console import Group

    table = plain_table("operations", "ended", "per s", right=("per s",))
    busy = [one for one in seen["operations"] if one["per_s"]]
    for one in busy:
        table.add_row(one["kind"], one["outcome"], count(one["per_s"]))
    lines: list[RenderableType] = drawn(seen["cluster"], warnings(seen["cluster"], seen["troubles"]))
    return Group(*lines, "", table if busy else "no operations just now")
