"""The simulation is worth what it finds: one seed for each wrong variant."""

from __future__ import annotations

import pytest

from tests.simulation import mutants
from tests.simulation.mutants import Mutant, caught

KEPT: dict[Mutant, int] = {
    mutants.last_writer_wins: 17,
    mutants.failure_is_certain: 0,
    mutants.retry_under_a_new_version: 4,
    mutants.same_writer_again: 2,
    mutants.repair_under_a_new_ballot: 3,
    mutants.answer_before_write_back: 0,
    mutants.serve_old_epochs: 55,
    mutants.answer_at_once: 8,
    mutants.read_by_version: 0,
    mutants.ignore_promises: 1,
    mutants.mix_rounds: 12,
    mutants.empty_node_votes: 7,
    mutants.settle_for_less_than_a_majority: 0,
}
"""The first seed that catches each. Whoever changes the simulation finds the new ones with ``make mutants``."""


@pytest.fixture(autouse=True)
def no_logged_failure() -> list[object]:
    """In place of the fixture of that name: a wrong variant may fail in any way."""
    return []


@pytest.mark.parametrize("mutant", KEPT, ids=lambda mutant: mutant.__name__)
def test_a_wrong_variant_is_caught_and_the_right_one_is_not(mutant: Mutant) -> None:
    seed = KEPT[mutant]
    assert caught(lambda patch: None, range(seed, seed + 1)) is None
    assert caught(mutant, range(seed, seed + 1)) is not None
