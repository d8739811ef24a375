"""``kvctl cluster status``: it fits a terminal, is fast with many members, and says what is not as it should be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ctl.fakes import FakeProxy, kvctl, simulated_members
from twisted_kv.ctl.members import letters, named, warnings
from twisted_kv.ctl.trouble import Exit, Trouble

KVCTL = [sys.executable, "-c", "from twisted_kv.ctl.main import main; main(prog_name='kvctl')"]


def member(number: int = 1, **fields: Any) -> dict[str, Any]:
    return {
        "id": f"n-{number:08x}",
        "url": f"http://10.100.200.{number}:65535",
        "weight": 1,
        "zone": "",
        "state": "up",
        "error": None,
        "owned": 0.333333,
        "keys": 123_456_789,
        "bytes": 123_456_789_012,
        "hints": 0,
        "round_trip_ms": {"p50": 12.345, "p99": 1234.5},
        "uptime_s": 12_345_678.9,
    } | fields


def cluster(*members: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "cluster_id": "c-0123456789abcdef",
        "epoch": 1_234_567,
        "replicas": 3,
        "consistency": "strong",
        "change": None,
        "pending": [],
        "trouble": None,
        "members": list(members),
    } | fields


def status(proxy: FakeProxy, described: Any, *options: str, troubles: tuple[str, ...] = ()) -> Any:
    proxy.give("GET", "/v1/cluster", described)
    proxy.give("GET", "/health/ready", {"status": "", "troubles": list(troubles)}, 503 if troubles else 200)
    return kvctl("cluster", "status", "--server", proxy.url, *options)


def test_fifty_simulated_members_are_shown_at_once_and_fit_eighty_columns(proxy: FakeProxy, tmp_path: Path) -> None:
    described = simulated_members(tmp_path, 50)
    proxy.give("GET", "/v1/cluster", described)
    proxy.give("GET", "/health/ready", {"status": "ok", "troubles": []})
    command = [*KVCTL, "cluster", "status", "--server", proxy.url]
    env = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert sum(line.startswith("UN n-") for line in lines) == 50
    assert max(map(len, lines)) <= 80
    for one in described["members"]:
        assert sum(one["id"] in line for line in lines) == 1
    # How long it takes is measured, not asserted (docs/kvctl.md); how often it asks decides that.
    assert [path for _, path, *_ in proxy.asked] == ["/v1/cluster", "/health/ready"]


def test_the_widest_figures_fit_eighty_columns_and_none_is_cut(proxy: FakeProxy) -> None:
    widest = member(1, zone="eu-central-1a", weight=100, hints=99_999, owned=1.0)
    shown = status(proxy, cluster(widest, member(2, zone="eu-central-1b")))
    lines = shown.stdout.splitlines()
    row = next(line for line in lines if line.startswith("UN n-00000001"))
    assert max(map(len, lines)) <= 80
    for figure in ("100.0%", "123M", "115G", "100k", "12.3/1234", "142d"):
        assert figure in row, row


def test_a_wide_terminal_shows_addresses_whole(proxy: FakeProxy) -> None:
    proxy.give("GET", "/v1/cluster", cluster(member(1, zone="eu-central-1a")))
    proxy.give("GET", "/health/ready", {"troubles": []})
    shown = kvctl("cluster", "status", "--server", proxy.url, columns=140)
    assert "10.100.200.1:65535" in shown.stdout
    assert "eu-central-1a" in shown.stdout


@pytest.mark.parametrize(
    ("state", "error", "two"),
    [
        ("up", None, "UN"),
        ("down", "connection refused", "DN"),
        ("joining", None, "UJ"),
        ("leaving", None, "UL"),
        ("leaving", "connection refused", "DL"),
        ("rebuilding", None, "UR"),
    ],
)
def test_a_member_has_two_letters(state: str, error: str | None, two: str) -> None:
    assert letters(member(state=state, error=error)) == two


def test_a_proxy_of_an_older_version_is_shown_with_what_it_says(proxy: FakeProxy) -> None:
    old = member()
    for name in ("error", "round_trip_ms", "uptime_s"):
        del old[name]
    described = cluster(old, member(2), member(3))
    del described["trouble"]
    shown = status(proxy, described)
    assert shown.exit_code == Exit.OK, shown.output
    assert "UN n-00000001" in shown.stdout


def test_who_is_down_is_said_with_what_to_do_and_the_status_is_degraded(proxy: FakeProxy) -> None:
    down = member(2, state="down", error="http://10.100.200.2:65535 does not answer as a kvnode: refused", hints=7)
    shown = status(proxy, cluster(member(1), down, member(3)), troubles=("12 of 65536 slots have no majority",))
    assert shown.exit_code == Exit.DEGRADED
    assert "n-00000002 at 10.100.200.2:65535 is down: refused" in shown.stdout
    assert "kvctl cluster remove --dead n-00000002" in shown.stdout
    assert "hints that wait for members: 7" in shown.stdout
    assert "12 of 65536 slots have no majority" in shown.stdout


def test_remarks_alone_are_no_degradation(proxy: FakeProxy) -> None:
    change = {"kind": "join", "id": "x", "done": 5, "total": 10}
    shown = status(proxy, cluster(member(1), change=change, pending=[{"id": "n-2"}]))
    assert shown.exit_code == Exit.OK
    assert "too few members for 3 copies of each key: 1" in shown.stdout
    assert "a change is under way: join, 5 of 10 slots" in shown.stdout
    assert "changes that wait for their turn: 1" in shown.stdout


def test_as_json_it_is_what_the_proxy_says_with_letters_and_warnings(proxy: FakeProxy) -> None:
    shown = status(proxy, cluster(member(1), member(2), member(3, state="rebuilding")), "-o", "json")
    found = json.loads(shown.stdout)
    assert [one["status"] for one in found["members"]] == ["UN", "UN", "UR"]
    assert [one["degraded"] for one in found["warnings"]] == [True]
    assert shown.exit_code == Exit.DEGRADED


def test_without_members_it_says_how_to_add_one(proxy: FakeProxy) -> None:
    assert "kvctl cluster add URL" in status(proxy, cluster()).stdout


def test_what_the_real_room_says_has_every_field_that_is_shown(tmp_path: Path) -> None:
    (found,) = simulated_members(tmp_path, 1)["members"]
    assert set(member()) <= set(found)
    assert set(cluster()) <= set(simulated_members(tmp_path / "again", 0))
    assert warnings(simulated_members(tmp_path / "more", 3)) == []


@pytest.mark.parametrize("name", ["n-00000002", "http://10.100.200.2:65535/", "10.100.200.2:65535", "n-00000002"[:10]])
def test_a_member_is_named_by_id_or_address(name: str) -> None:
    assert named(cluster(member(1), member(2)), name)["id"] == "n-00000002"


@pytest.mark.parametrize("name", ["n-0000000", "n-9", "", "n"])
def test_a_name_that_is_none_or_of_several_is_refused(name: str) -> None:
    with pytest.raises(Trouble) as refused:
        named(cluster(member(1), member(2)), name)
    assert refused.value.code is Exit.NOT_FOUND
