"""Whole clusters from seeds: nothing is found wrong in them, and one seed is one story."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from twisted_kv.simulation.faults import PROFILES
from twisted_kv.simulation.story import Settings, Story

SEEDS = 160
"""As many as one process runs in about a hundred seconds; ``make simulate`` is the campaign."""
PARTS = 20


@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_is_found_wrong_in_simulated_clusters(part: int) -> None:
    for seed in range(part, SEEDS, PARTS):
        verdict = Story(seed).play()
        assert not verdict.trouble, f"repeat with: kvctl simulate --seeds {seed}\n{verdict.trouble}"


@pytest.mark.parametrize("profile", sorted(PROFILES))
def test_every_profile_lets_its_faults_happen_and_most_operations_succeed(profile: str) -> None:
    happened: set[str] = set()
    operations = unknown = 0
    for seed in range(1_000, 1_012):
        verdict = Story(seed, Settings(operations=100, profile=profile)).play()
        assert not verdict.trouble, f"repeat with: kvctl simulate --seeds {seed} --operations 100 --profile {profile}"
        happened |= verdict.faults.keys()
        operations += verdict.operations
        unknown += verdict.unknown
    assert happened <= set(PROFILES[profile])
    assert bool(happened) == bool(PROFILES[profile])
    assert unknown < operations / 2


def test_one_seed_gives_one_story_whatever_the_order_of_sets() -> None:
    stories = []
    for hash_seed in ("0", "1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-m", "tests.simulation.digests", "0", "8"],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        stories.append(done.stdout.splitlines())
    assert stories[0] == stories[1] == stories[2]
    assert len({line.split()[1] for line in stories[0]}) == 9
