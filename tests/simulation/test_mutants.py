"""The simulation is worth what it finds: one seed for each wrong variant."""

from __future__ import annotations

import pytest

from tests.simulation import mutants
from tests.simulation.mutants import Mutant, caught, settings_of

KEPT: dict[Mutant, int] = {
    mutants.last_writer_wins: 6,
    mutants.failure_is_certain: 1,
    mutants.retry_under_a_new_version: 1,
    mutants.same_writer_again: 8,
    mutants.repair_under_a_new_ballot: 4,
    mutants.answer_before_write_back: 0,
    mutants.answer_at_once: 5,
    mutants.complete_under_a_new_version: 9,
    mutants.read_by_version: 1,
    mutants.ignore_promises: 4,
    mutants.count_repeated_refusals: 28,
    mutants.mix_rounds: 5,
    mutants.empty_node_votes: 9,
    mutants.settle_for_less_than_a_majority: 0,
    mutants.silence_counts: 2,
    mutants.regained_slots_are_not_emptied: 5,
    mutants.unreadable_counts_as_absent: 10,
    mutants.checksums_are_not_compared: 1,
    mutants.digest_misses_deletes: 1,
    mutants.new_owners_vote_alone: 3,
    mutants.second_change_begins: 2,
    mutants.copy_from_one_owner: 5,
    mutants.serve_old_epochs: 3,
    mutants.answer_with_the_running_sync: 48,
    mutants.promise_forgotten_on_restart: 136,
    mutants.purge_without_promises: 172,
    mutants.replay_under_a_fresh_ballot: 7,
    mutants.sources_are_not_shown_the_epoch: 162,
    mutants.cut_page_is_whole: 96,
    mutants.drain_ends_early: 7,
    mutants.dropped_before_the_end: 3,
    mutants.floors_stay_behind: 70,
    mutants.shrunk_unread: 44,
    mutants.refusals_of_a_bundle_are_not_seen: 1,
    mutants.bundle_believes_one_owner: 1,
    mutants.who_leaves_a_bundle_was_never_sent: 3,
}
"""A seed that catches each, mostly the first. ``make mutants`` finds new ones for whoever changes the simulation."""


KEPT_WIRE: dict[Mutant, int] = {
    mutants.reset_is_unreachable: 22,
    mutants.door_denies_doubt: 4,
    mutants.etag_is_not_compared: 0,
    mutants.redis_door_denies_doubt: 1,
    mutants.redis_door_reads_and_then_writes: 6,
    mutants.strangers_may_read: 2,
}
"""The same for variants of what is there at the wire level only."""


@pytest.fixture(autouse=True)
def no_logged_failure() -> list[object]:
    """In place of the fixture of that name: a wrong variant may fail in any way."""
    return []


def test_all_variants_have_a_seed() -> None:
    assert [*KEPT] == mutants.MUTANTS
    assert [*KEPT_WIRE] == mutants.WIRE_MUTANTS


@pytest.mark.parametrize("mutant", [*KEPT, *KEPT_WIRE], ids=lambda mutant: mutant.__name__)
def test_a_wrong_variant_is_caught_and_the_right_one_is_not(mutant: Mutant) -> None:
    seed, settings = {**KEPT, **KEPT_WIRE}[mutant], settings_of(mutant)
    assert caught(lambda patch: None, [seed], settings) is None
    assert caught(mutant, [seed], settings) is not None
