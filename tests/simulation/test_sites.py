"""The sites in the real rooms: inert outside of the simulation, and each of them fires in it."""

from __future__ import annotations

import re
from pathlib import Path
from random import Random

from twisted_kv.buggify import inert
from twisted_kv.limits import Limits
from twisted_kv.simulation.sites import TIGHT, Sites
from twisted_kv.simulation.story import Settings, Story

PACKAGE = Path(__file__).parent.parent.parent / "twisted_kv"
SEEDS_MAX = 400
PROFILES = ("moves", "changes", "damage", "everything")
SELDOM = {"purging: a purge is left half done", "clock: the counter is near its end", "filling: it begins again"}
"""Sites that come up in about one of three hundred such runs; longer campaigns meet them."""


def named_sites() -> set[str]:
    """All that the sources of the package name."""
    texts = (path.read_text() for path in PACKAGE.rglob("*.py"))
    return {site for text in texts for site in re.findall(r'buggify\(\s*"([^"]+)"', text)}


def test_every_site_and_every_tight_limit_comes_up_in_some_seed_and_nothing_is_wrong_there() -> None:
    missing = named_sites() | {f"limits: {name}" for name in TIGHT}
    assert len(missing) >= 25
    for seed in range(2_000, 2_000 + SEEDS_MAX):
        profile = PROFILES[seed % len(PROFILES)]
        verdict = Story(seed, Settings(operations=30, profile=profile, wire=False)).play()
        again = f"kvctl simulate --seeds {seed} --operations 30 --profile {profile} --messages"
        assert not verdict.trouble, f"repeat with: {again}\n{verdict.trouble}"
        missing -= verdict.sites.keys()
        if missing <= SELDOM:
            break
    assert missing <= SELDOM


def test_outside_of_the_simulation_nothing_rare_happens() -> None:
    assert not any(inert(site) for site in named_sites())


def test_a_site_fires_only_while_it_is_told_to_and_only_in_some_seeds() -> None:
    fired = 0
    for seed in range(400):
        sites = Sites(Random(seed))
        assert not any(sites("a site") for _ in range(100))
        sites.raging = True
        times = sum(sites("a site") for _ in range(1_000))
        assert times == sites.fired["a site"]
        assert times < 500
        fired += times > 0
    assert 50 < fired < 150


def test_quiet_sites_leave_everything_as_it_is() -> None:
    for seed in range(100):
        sites = Sites(Random(seed), quiet=True)
        sites.raging = True
        assert sites.tighten(Limits()) == Limits()
        assert not any(sites("a site") for _ in range(100))
