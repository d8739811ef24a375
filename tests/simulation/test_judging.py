"""The judgement: what clients were promised, each promise broken by hand once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from twisted_kv.limits import Limits
from twisted_kv.sharing import Changed
from twisted_kv.simulation.cluster import Cluster
from twisted_kv.simulation.history import GONE, Attempt, History
from twisted_kv.simulation.judging import Broken, judge
from twisted_kv.simulation.linearizability import Event, Fate, Kind
from twisted_kv.simulation.sites import Sites
from twisted_kv.simulation.world import World
from twisted_kv.versions import Record, Version

K = b"k0"


def version(number: int) -> Version:
    return Version(number.to_bytes(16, "big"))


@pytest.fixture
def history() -> History:
    world = World(1)
    return History(Cluster(world, Sites(world.random, quiet=True), Limits(), 3, durable=True))


def event(
    kind: Kind, value: bytes | None, called: float, returned: float | None, fate: Fate = Fate.DONE, **more: bytes
) -> Event:
    return Event("c0", kind, K, value, called, returned, fate, more.get("base"))


def verdict(history: History) -> str:
    try:
        judge(history)
    except Broken as error:
        return error.check
    return ""


def test_what_can_be_explained_is_well_and_each_key_has_a_test_that_fits(history: History) -> None:
    history.events += [
        event(Kind.PUT, b"a", 0, 1),
        event(Kind.READ, b"a", 2, 3),
        Event("c0", Kind.SWAP, b"k1", b"b", 0, 1, Fate.DONE, None),
    ]
    assert judge(history) == {"zones": 1, "linearizability": 1}


def test_stale_read_is_found_by_the_zones(history: History) -> None:
    history.events += [event(Kind.PUT, b"a", 0, 1), event(Kind.PUT, b"b", 2, 3), event(Kind.READ, b"a", 4, 5)]
    assert verdict(history) == "zones"


def test_stale_read_beside_a_conditional_change_is_found_by_the_search(history: History) -> None:
    history.events += [
        event(Kind.PUT, b"a", 0, 1),
        event(Kind.SWAP, b"b", 2, 3, base=b"a"),
        event(Kind.READ, b"a", 4, 5),
    ]
    assert verdict(history) == "linearizability"


def test_tombstone_seen_again_behind_a_value_is_a_violation(history: History) -> None:
    """Both are absent to a client; but it is the first delete that came back."""
    gone = GONE + b"01"
    history.events += [
        event(Kind.DELETE, gone, 0, 1),
        event(Kind.PUT, b"a", 2, 3),
        event(Kind.DELETE, GONE + b"02", 4, 5),
        event(Kind.READ, gone, 6, 7),
    ]
    assert verdict(history) == "zones"


def test_tombstone_of_a_delete_of_unknown_outcome_may_show(history: History) -> None:
    history.events += [
        event(Kind.PUT, b"a", 0, 1),
        event(Kind.DELETE, GONE + b"of c0.2", 2, None, Fate.UNKNOWN),
        event(Kind.READ, GONE + b"77", 3, 4),
    ]
    assert verdict(history) == ""


def test_tombstone_that_nobody_can_have_made_is_a_violation(history: History) -> None:
    history.events += [event(Kind.PUT, b"a", 0, 1), event(Kind.READ, GONE + b"77", 3, 4)]
    assert verdict(history) == "zones"


def test_tombstone_in_the_place_of_what_nobody_could_read_leaves_an_absent_key_absent(history: History) -> None:
    history._cluster.spoiled[K] = 2.0
    history.events += [
        event(Kind.READ, None, 0, 1),
        event(Kind.PUT, b"a", 1, None, Fate.UNKNOWN),
        event(Kind.READ, GONE + b"1", 3, 4),
    ]
    assert verdict(history) == ""


def test_tombstone_in_the_place_of_what_was_acknowledged_is_a_violation(history: History) -> None:
    history._cluster.spoiled[K] = 2.0
    history.events += [event(Kind.PUT, b"a", 0, 1), event(Kind.READ, GONE + b"1", 3, 4)]
    assert verdict(history) == "linearizability"


def test_tombstone_seen_before_anything_went_bad_is_a_violation(history: History) -> None:
    history._cluster.spoiled[K] = 2.0
    history.events.append(event(Kind.READ, GONE + b"1", 0, 1))
    assert verdict(history) == "linearizability"


def test_tombstone_seen_before_anybody_deleted_is_a_violation(history: History) -> None:
    history.events += [
        event(Kind.READ, GONE + b"77", 0, 1),
        event(Kind.DELETE, GONE + b"of c0.2", 2, None, Fate.UNKNOWN),
    ]
    assert verdict(history) == "zones"


def test_value_shown_under_two_versions_is_found(history: History) -> None:
    history.saw(K, Record(version(1), b"a"), settled=True)
    history.saw(K, Record(version(2), b"b"), settled=True)
    assert verdict(history) == ""
    history.saw(K, Record(version(3), b"a"), settled=True)
    assert verdict(history) == "version"


def attempt(history: History, accepts: Callable[[bytes | None], bool] = lambda base: True) -> Attempt:
    made = Attempt(history, "c0.1", K, accepts, counts=False)
    history.attempts.append(made)
    return made


def test_change_that_is_seen_in_another_form_than_its_client_was_told_is_found(history: History) -> None:
    change = attempt(history)
    first, second = change.decide(None), change.decide(Record(version(1), b"a"))
    assert first is not None
    assert second is not None
    change.told(Changed(Record(version(2), second.value), True, 3, 3))
    # As if somebody else had written the other form too, so that an order can be found.
    history.events += [event(Kind.PUT, b"a", 0, 1), event(Kind.PUT, first.value, 4, 5)]
    history.events += [event(Kind.READ, second.value, 2, 3), event(Kind.READ, first.value, 6, 7)]
    assert verdict(history) == "once"


def test_change_of_unknown_outcome_that_took_effect_twice_is_found(history: History) -> None:
    change = attempt(history)
    first, second = change.decide(None), change.decide(Record(version(1), b"a"))
    assert first is not None
    assert second is not None
    history.events += [
        event(Kind.READ, first.value, 2, 3),
        event(Kind.PUT, b"a", 4, 5),
        event(Kind.READ, second.value, 6, 7),
    ]
    assert verdict(history) == "once"


def test_read_at_level_one_answers_what_somebody_had_begun_to_write(history: History) -> None:
    history.events.append(event(Kind.PUT, b"a", 2, None, Fate.UNKNOWN))
    history.loose.append((K, b"a", 3.0))
    assert verdict(history) == ""
    history.loose.append((K, b"a", 1.0))
    assert verdict(history) == "level one"


def test_read_at_level_one_may_see_a_form_of_a_change_that_was_given_up(history: History) -> None:
    change = attempt(history)
    first, second = change.decide(None), change.decide(Record(version(1), b"a"))
    assert first is not None
    assert second is not None
    assert first.value is not None
    change.told(Changed(Record(version(2), second.value), True, 3, 3))
    history.events.append(event(Kind.PUT, b"a", 0, 1))
    history.loose.append((K, first.value, 1.0))
    assert verdict(history) == ""


def test_value_read_behind_its_expiry_is_found_unless_clocks_go_wrong(history: History) -> None:
    history.events += [event(Kind.PUT, b"a", 0, 1), event(Kind.READ, b"a", 4.5, 6), event(Kind.READ, b"a", 7, 8)]
    history.expires[K, b"a"] = 5.0
    assert verdict(history) == "expiry"
    history.clocks_agree = False
    assert verdict(history) == ""


def test_counter_that_lost_a_count_is_found(history: History) -> None:
    history.counted[K] = 2
    history.events += [event(Kind.PUT, b"1 c0.1/0", 0, 1), Event("last", Kind.READ, K, b"1 c0.1/0", 2, 3)]
    assert verdict(history) == "counter"
