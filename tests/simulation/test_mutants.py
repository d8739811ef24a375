"""The simulation is worth what it finds: one seed for each wrong variant."""

from __future__ import annotations


import pytest

from tests.simulation.mutants import MUTANTS, Mutant, caught

KEPT: dict[str, int] = {}
"""The first seed that catches each. Whoever changes the simulation finds the new ones with ``make mutants``."""


@pytest.fixture(autouse=True)
def no_logged_failure() -> list[object]:
    """In place of the fixture of that name: a wrong variant may fail in any way."""
    return []


def test_every_mutant_has_a_kept_seed() -> None:
    assert sorted(KEPT) == sorted(mutant.__name__ for mutant in MUTANTS)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_wrong_variant_is_caught_and_the_right_one_is_not(mutant: Mutant) -> None:
    seed = KEPT[mutant.__name__]
    assert caught(lambda patch: None, range(seed, seed + 1)) is None
    assert caught(mutant, range(seed, seed + 1)) is not None
