"""Which rare things the sites in the real rooms let happen, and which limits are drawn smaller than anybody sets them.

A site is active in a quarter of the seeds, and fires there, as the seed says, every fourth, twentieth or hundredth time
that it is asked; where it is asked seldom, more often. (A quarter for all of them left half of the operations without
an answer, and found less.)
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

from ..limits import Limits

ACTIVE = 0.25
FIRES = (0.25, 0.05, 0.01)
SELDOM = dict.fromkeys(("mover", "filling", "mender", "purging"), (0.75, 0.5, 0.25))
"""How often those fire that are asked a few times in a run, by the rooms that they are in."""

TIGHT: dict[str, Any] = {
    "operations_max": 6,
    "operation_timeout_s": 0.05,
    "batch_ops_max": 1,
    "batch_timeout_s": 0.05,
    "reply_bytes_max": 1,
    "batches_in_flight_max": 3,
    "queue_ops_max": 1,
    "slow_read_s": 0.0005,
    "chain_step_s": 0.005,
    "suspect_after_failures": 1,
    "page_records_max": 1,
    "keys_page_max": 1,
    "drop_cells_max": 1,
    "sweep_at_once": 1,
    "hints_max": 1,
    "hints_page_max": 1,
    "pull_records_max": 1,
    "settled_at_once": 1,
    "repair_at_once": 1,
    "purge_slots_max": 1,
    "backoff_s": 0.0001,
}
"""Limits, and what each of them is in the seeds that draw it tight. Those of operations give way at the end."""


class Sites:
    """The dice of one run. See ``buggify.Buggify``.

    :param quiet: let nothing happen at all.
    """

    def __init__(self, random: Random, quiet: bool = False) -> None:
        self._random = random
        self._quiet = quiet
        self._rates: dict[str, float] = {}
        self.fired: Counter[str] = Counter()
        self.raging = False

    def __call__(self, site: str) -> bool:
        if not self.raging or self._quiet:
            return False
        rate = self._rates.get(site)
        if rate is None:
            rate = self._rates[site] = (
                self._random.choice(SELDOM.get(site.partition(":")[0], FIRES))
                if self._random.random() < ACTIVE
                else 0.0
            )
        if not rate or self._random.random() >= rate:
            return False
        self.fired[site] += 1
        return True

    def tighten(self, limits: Limits) -> Limits:
        """Draw some limits tight, in a quarter of the seeds; each counts as a site."""
        if self._quiet or self._random.random() >= ACTIVE:
            return limits
        tight = {name: value for name, value in TIGHT.items() if self._random.random() < ACTIVE}
        self.fired.update(f"limits: {name}" for name in tight)
        return replace(limits, **tight)
