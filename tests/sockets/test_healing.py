"""A17: a node that missed one key of a hundred, and of whose misses no hint was kept, is made equal to the others."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import Random
from time import monotonic

import pytest

from tests.sockets.copies import alike, drawn_values, limited, put_all
from tests.sockets.daemons import Farm, call, farming, wait_until

pytestmark = pytest.mark.system

KEYS = int(os.environ.get("KV_KEYS", "20000"))
DIFFERENT = KEYS // 100
NO_HINTS = {"hints_max": 1}
"""Of each node. One hint is the least that it can be told to keep; for the rest it marks slots for repair."""
PATIENCE_S = 300.0


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with farming(tmp_path) as built:
        yield built


@pytest.mark.timeout(1200)
def test_a_node_that_missed_one_key_of_a_hundred_is_made_equal(farm: Farm) -> None:
    proxy = farm.proxy()
    for _ in range(3):
        farm.add(farm.node(*limited(farm, "node", **NO_HINTS)))
    random = Random(1)
    values = drawn_values(random, (f"key{number}" for number in range(KEYS)), 1, 100)
    put_all(proxy, values)
    away, *others = farm.nodes
    away.end()
    missed = drawn_values(random, random.sample(sorted(values), DIFFERENT), 2, 100)
    put_all(proxy, missed)
    values = values | missed
    away.start()
    began_s = monotonic()
    assert sum(sum(other.info()["hints"].values()) for other in others) <= 2
    repaired = f"{proxy.url}/metrics"

    def equal() -> bool:
        done = next(
            float(line.split()[1])
            for line in call("GET", repaired).body.decode().splitlines()
            if line.startswith("kv_repaired_keys_total ")
        )
        # A scan of all three is work that would keep the repair from its own.
        return done >= DIFFERENT / 2 and alike(farm.nodes, values)

    wait_until(equal, "all owners to be equal", PATIENCE_S)
    print(f"{DIFFERENT} of {KEYS} keys were different; all owners equal after {monotonic() - began_s:.1f} s")  # noqa: T201
    assert [node.info()["keys"] for node in farm.nodes] == [KEYS] * 3
