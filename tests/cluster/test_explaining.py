"""What is told of one key, and of the members: by a whole cluster on a clock that only tests turn."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.defer import ensureDeferred

from tests.cluster.town import House, MakeTown, Town
from twisted_kv.errors import NoNodes
from twisted_kv.explaining import just_before
from twisted_kv.limits import Limits
from twisted_kv.names import Key
from twisted_kv.quorum import Level
from twisted_kv.web.cluster import ClusterDoor

K = b"k"
NEVER_S = 1e6


@pytest.fixture
def make_town(make_town: MakeTown) -> MakeTown:
    def make(nodes: int = 3, **limits: Any) -> Town:
        town = make_town(proxies=0)
        town.limits = replace(
            town.limits, repair_interval_s=NEVER_S, sweep_interval_s=NEVER_S, courier_interval_s=NEVER_S, **limits
        )
        town.open_proxy()
        town.settle(nodes)
        town.run(1)
        return town

    return make


def explained(town: Town, key: bytes = K) -> Any:
    return town.wait(ensureDeferred(town.proxies[0].explainer.explain(Key(key))))


def members(town: Town) -> list[dict[str, Any]]:
    rooms = town.proxies[0]
    found: list[dict[str, Any]] = ClusterDoor(rooms.roster, rooms.mover, town.limits, Level.STRONG).describe()[
        "members"
    ]
    return found


def of(found: Any, house: House) -> Any:
    return next(owner for owner in found["owners"] if owner["url"] == house.url)


def test_a_value_is_shown_with_version_age_and_expiry_on_every_owner(make_town: MakeTown) -> None:
    town = make_town()
    expires_ms = town.wall_ms() + 60_000
    done = town.wait(town.proxies[0].coordinator.put(Key(K), b"value", b"", Level.ALL, expires_ms))
    town.run(3)
    found = explained(town)
    assert len(found["owners"]) == 3
    for owner in found["owners"]:
        assert (owner["holds"], owner["bytes"], owner["expires_ms"], owner["expired"]) == (
            "value",
            5,
            expires_ms,
            False,
        )
        assert owner["version"] == done.record[2:18].hex()
        assert 3_000 <= owner["age_ms"] <= 4_000
        assert 0 < owner["round_trip_ms"]["p50"] <= owner["round_trip_ms"]["p99"]
    assert (found["verdict"]["answer"], found["verdict"]["version"]) == ("value", done.record[2:18].hex())
    assert (found["hints"], found["purge"]) == ([], None)


def test_who_missed_a_write_is_older_and_the_hint_for_it_is_named(make_town: MakeTown) -> None:
    town = make_town()
    town.wait(town.put(K, b"old", level=Level.ALL))
    away = town.houses[next(iter(town.houses))]
    town.cut.add(("proxy0", away.url))
    town.run(5)
    town.wait(town.put(K, b"new"))
    town.run(5)
    found = explained(town)
    assert "error" in of(found, away)
    assert {hint["for"] for hint in found["hints"]} == {of(found, away)["id"]}
    assert found["verdict"]["answer"] == "value"
    assert found["verdict"]["winners"] == [owner["id"] for owner in found["owners"] if owner["url"] != away.url]
    town.breaking["hints"] = 1.0  # or it would have what it missed by the time that it is asked
    town.cut.clear()
    town.run(5)
    found = explained(town)
    assert of(found, away)["holds"] == "value"
    assert of(found, away)["version"] < found["verdict"]["version"]
    assert "1 older" in found["verdict"]["why"]


def test_a_write_that_one_owner_alone_has_may_be_met_by_a_read_or_not(make_town: MakeTown) -> None:
    town = make_town()
    old = town.wait(town.proxies[0].coordinator.put(Key(K), b"old", b"", Level.ALL, 0)).record[2:18].hex()
    town.breaking["hints"] = 1.0
    away = list(town.houses.values())[:2]
    for house in away:
        town.cut.add(("proxy0", house.url))
    town.run(5)
    new = town.wait(town.proxies[0].coordinator.put(Key(K), b"new", b"", Level.ONE, 0)).record[2:18].hex()
    town.cut.clear()
    town.run(5)
    verdict = explained(town)["verdict"]
    assert (verdict["version"], verdict["or"]) == (new, {"answer": "value", "version": old})
    assert all(of(explained(town), house)["id"] in verdict["why"].partition("only")[2] for house in away)
    town.wait(town.proxies[0].coordinator.get(Key(K), Level.ALL))
    verdict = explained(town)["verdict"]
    assert (verdict["version"], verdict["or"], len(verdict["winners"])) == (new, None, 3)


def test_a_hint_of_a_key_before_or_after_it_is_none_of_it(make_town: MakeTown) -> None:
    town = make_town()
    away = town.houses[next(iter(town.houses))]
    town.cut.add(("proxy0", away.url))
    town.run(15)  # until it is avoided
    for key in (b"j\xff\xff", b"k\0", b"k0"):
        town.wait(town.put(key, b"v"))
    town.run(5)
    assert explained(town)["hints"] == []
    assert explained(town, b"k\0")["hints"] != []
    assert explained(town, b"j\xff\xff")["hints"] != []


@pytest.mark.parametrize("key", [b"\0", b"a", b"a\0", b"\xff\xff", b"k" * 1024, b"k" * 1023 + b"\0"])
def test_just_before_a_key_there_is_no_other_one(key: bytes) -> None:
    limits = Limits()
    before = just_before(Key(key), limits)
    assert before < key
    assert len(before) <= limits.key_bytes_max
    least_after = before + b"\0" if len(before) < limits.key_bytes_max else None
    # The key that follows directly is either too long to be one, or the key itself.
    assert least_after is None or least_after == key


def test_too_few_owners_make_no_verdict(make_town: MakeTown) -> None:
    town = make_town()
    town.wait(town.put(K, b"v", level=Level.ALL))
    for url in list(town.houses)[:2]:
        town.cut.add(("proxy0", url))
    town.run(5)
    found = explained(town)
    assert found["verdict"]["answer"] == "unreachable"
    assert found["verdict"]["why"] == "1 of 3 owners answer, and a read needs 2"


def test_what_keeps_a_tombstone_is_said_until_nothing_does(make_town: MakeTown) -> None:
    town = make_town(purge_grace_s=30.0)
    town.wait(town.put(K, b"v", level=Level.ALL))
    town.wait(town.put(K, None, level=Level.ALL))
    found = explained(town)
    assert found["verdict"]["answer"] == "deleted"
    assert len(found["purge"]["held_by"]) == 3
    assert found["purge"]["blocked_by"] == ["it is 0 s old, and is kept for 30 s at the least"]
    away = town.houses[next(iter(town.houses))]
    town.cut.add(("proxy0", away.url))
    town.run(40)
    (block,) = explained(town)["purge"]["blocked_by"]
    assert "does not answer" in block
    town.cut.clear()
    town.run(5)
    assert explained(town)["purge"]["blocked_by"] == []


def test_purging_that_is_switched_off_is_said(make_town: MakeTown) -> None:
    town = make_town(purge_grace_s=float("inf"))
    town.wait(town.put(K, None, level=Level.ALL))
    assert explained(town)["purge"]["blocked_by"] == ["purging is switched off: purge_grace_s is infinite"]


def test_a_key_that_was_never_written_is_absent(make_town: MakeTown) -> None:
    found = explained(make_town())
    assert found["verdict"]["answer"] == "absent"
    assert [owner["holds"] for owner in found["owners"]] == ["nothing"] * 3


def test_without_members_nothing_can_be_explained(make_town: MakeTown) -> None:
    with pytest.raises(NoNodes):
        explained(make_town(nodes=0))


def test_members_tell_how_long_they_are_up_and_how_fast_they_answer(make_town: MakeTown) -> None:
    town = make_town()
    town.run(20)
    for member in members(town):
        assert member["uptime_s"] >= 20
        assert 1 <= member["round_trip_ms"]["p50"] <= member["round_trip_ms"]["p99"] <= 11
        assert (member["error"], member["clock_ahead_s"]) == (None, pytest.approx(0, abs=0.02))
    town.houses[next(iter(town.houses))].crash()
    town.run(5)
    gone = [member for member in members(town) if member["state"] == "down"]
    assert [(member["error"], member["uptime_s"]) for member in gone] == [
        (f"{gone[0]['url']} does not answer as a kvnode: connection refused", None)
    ]
