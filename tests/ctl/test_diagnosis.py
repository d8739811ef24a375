"""``kvctl doctor``: each check finds what it is for, names a next command, and says so where all is well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.ctl.fakes import FakeProxy, kvctl, simulated_members
from tests.ctl.test_status import cluster, member
from twisted_kv.ctl.diagnosis import BAD, CHECKS, GOOD, GOOD_WORDS, NOTE, WARN, Facts, Finding, diagnosed, summary
from twisted_kv.ctl.trouble import Exit


def facts(*members: dict[str, Any], **changed: Any) -> Facts:
    given = {"troubles": (), "shares": {}, "clock_ahead_s": 0.2, "plain": False, **changed}
    about = given.pop("about", {})
    seats = members or tuple(well(number) for number in (1, 2, 3))
    return Facts("1.0", cluster(*seats, version="1.0", **about), **given)


def well(number: int, **fields: Any) -> dict[str, Any]:
    here = {"version": "1.0", "epoch": 1_234_567, "clock_ahead_s": 0.01, "marks": 0, "free_bytes": 1 << 40}
    return member(
        number, **{**here, "engine": "rocksdb", "sync": "always", "round_trip_ms": {"p50": 1, "p99": 2}, **fields}
    )


def found(given: Facts) -> list[Finding]:
    return [one for one in diagnosed(given) if one.level != GOOD]


def test_where_all_is_well_every_check_says_so() -> None:
    assert [one.check for one in diagnosed(facts())] == list(CHECKS)
    assert found(facts()) == []
    assert summary(diagnosed(facts())) == "all is well"
    assert set(CHECKS) == set(GOOD_WORDS)


OTHERS = (well(2), well(3))
CASES: list[tuple[str, Facts, str, str]] = [
    ("trouble", facts(troubles=["3 of 65536 slots have no majority of owners up: n-1"]), BAD, "no majority"),
    ("down", facts(well(1, state="down", error="refused"), *OTHERS), BAD, "is down: refused"),
    ("leaving and down", facts(well(1, state="leaving", error="refused"), *OTHERS, well(4)), BAD, "is down"),
    ("rebuilding", facts(well(1, state="rebuilding"), *OTHERS), WARN, "rebuilt"),
    ("too few", facts(well(1), well(2)), WARN, "2 members for 3 copies"),
    ("one copy", facts(about={"replicas": 1}), NOTE, "no node may fail"),
    ("version", facts(well(1, version="0.9"), *OTHERS), WARN, "versions 0.9, 1.0"),
    ("clock", facts(well(1, clock_ahead_s=-5.0), *OTHERS), WARN, "5.0 s behind"),
    ("clock far off", facts(well(1, clock_ahead_s=3600.0), *OTHERS), BAD, "3600.0 s ahead"),
    ("own clock", facts(clock_ahead_s=-30.0), NOTE, "30 s apart"),
    ("old epoch", facts(well(1, epoch=5), *OTHERS), NOTE, "at epoch 5"),
    ("newer epoch", facts(well(1, epoch=1_234_568), *OTHERS), BAD, "knows epoch 1234568"),
    ("stuck", facts(about={"trouble": "a node is full"}), BAD, "a node is full"),
    ("change", facts(about={"change": {"kind": "join"}}), NOTE, "under way: join"),
    ("hints", facts(well(1, hints=12), *OTHERS), NOTE, "12 hints wait"),
    ("marks", facts(well(1, marks=4), *OTHERS), WARN, "4 slots are marked"),
    ("room", facts(well(1, free_bytes=500 << 20), *OTHERS), WARN, "500MB of room"),
    ("no room", facts(well(1, free_bytes=1 << 20), *OTHERS), BAD, "1.0MB of room"),
    ("memory", facts(well(1, engine="memory", sync="never"), *OTHERS), NOTE, "memory only"),
    ("unsynced", facts(well(1, sync="interval"), *OTHERS), NOTE, "--sync interval"),
    ("zones", facts(well(1, zone="a"), well(2, zone="b"), well(3, zone="a")), NOTE, "2 zones for 3 copies"),
    ("uneven", facts(*OTHERS, well(4), well(5), shares={"n-00000004": 1.6}), WARN, "1.60 times"),
    ("slow", facts(well(1, round_trip_ms={"p50": 1, "p99": 900}), *OTHERS), WARN, "takes 900 ms"),
    ("plain", facts(plain=True), BAD, "plain text"),
]


@pytest.mark.parametrize(("given", "level", "says"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_is_wrong_is_found_alone_and_has_a_cure(given: Facts, level: str, says: str) -> None:
    (one,) = found(given)
    assert (one.level, says in one.says) == (level, True), one
    assert one.then


def test_a_proxy_of_an_older_version_says_less_and_nothing_of_it_is_wrong() -> None:
    old = [member(number) for number in (1, 2, 3)]
    for one in old:
        del one["error"], one["round_trip_ms"], one["uptime_s"]
    described = cluster(*old)
    assert [one for one in diagnosed(Facts("1.0", described, (), None, {})) if one.level != GOOD] == []


def test_it_asks_a_proxy_and_ends_with_what_it_found(proxy: FakeProxy, tmp_path: Path) -> None:
    proxy.give("GET", "/v1/cluster", simulated_members(tmp_path, 3))
    proxy.give("GET", "/health/ready", {"troubles": []})
    proxy.give("GET", "/health/live", {})
    done = kvctl("doctor", "--server", proxy.url)
    assert done.exit_code == Exit.OK, done.output
    assert "good members" in done.stdout
    proxy.give("GET", "/health/ready", {"troubles": ["the cluster is moving data; clients wait"]}, 503)
    done = kvctl("doctor", "--server", proxy.url)
    assert done.exit_code == Exit.DEGRADED
    assert "bad  ready" in done.stdout
    assert "kvctl cluster watch" in done.stdout
