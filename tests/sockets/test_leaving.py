"""Members that leave, told so over HTTP, on real daemons."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.sockets.daemons import Daemon, Farm, call, farming, wait_until

KEYS = [f"leaving-{number}" for number in range(40)]


def member_of(farm: Farm, node: Daemon) -> Any:
    return next(member for member in farm.members() if member["url"] == node.url)


def remove(farm: Farm, name: str, query: str = "") -> Any:
    return call("DELETE", f"{farm.proxies[0].url}/v1/cluster/nodes/{name}{query}")


def values(farm: Farm) -> set[bytes]:
    return {call("GET", f"{farm.proxies[0].url}/v1/kv/{key}").body for key in KEYS}


def test_members_leave_drained_or_dead_and_nothing_is_lost(tmp_path: Path) -> None:
    with farming(tmp_path) as farm:
        proxy = farm.cluster(4)
        for key in KEYS:
            assert call("PUT", f"{proxy.url}/v1/kv/{key}", b"v").status == 204
        first, second, third, _ = farm.nodes

        unknown = remove(farm, "n-nobody")
        assert (unknown.status, unknown.json()["type"]) == (404, "no-such-member")
        for query in ("?dead=perhaps", "?force=1"):
            refused = remove(farm, member_of(farm, first)["id"], query)
            assert (refused.status, refused.json()["type"]) == (400, "bad-parameter")
        alive = remove(farm, member_of(farm, first)["id"], "?dead=1")
        assert (alive.status, alive.json()["type"]) == (400, "bad-parameter")

        # Drained: it answers as a node still, and holds nothing any more.
        assert remove(farm, member_of(farm, first)["id"]).status in (202, 204)
        wait_until(lambda: len(farm.members()) == 3, "the first to be gone")
        assert first.url not in [member["url"] for member in farm.members()]
        assert values(farm) == {b"v"}
        wait_until(lambda: first.info()["keys"] == 0, "the first to be empty")
        assert call("DELETE", f"{proxy.url}/v1/tasks/c-nothing").status == 404

        # Silent: it may come back, unless somebody says that it is dead.
        name = member_of(farm, second)["id"]
        second.kill()
        silent = remove(farm, name)
        assert (silent.status, silent.json()["type"]) == (409, "may-remember")
        assert f"/v1/cluster/nodes/{name}?dead=1" in silent.json()["hint"]
        assert remove(farm, name, "?dead=1").status in (202, 204)
        wait_until(lambda: len(farm.members()) == 2, "the second to be gone")
        assert values(farm) == {b"v"}

        # Back again, with another weight.
        farm.add(first)
        wait_until(lambda: farm.whole(len(KEYS)), "the first to hold everything again")

        for node in (first, third):
            assert remove(farm, member_of(farm, node)["id"]).status in (202, 204)
            wait_until(lambda: node.url not in [m["url"] for m in farm.members()], "another one to be gone")  # noqa: B023
        last = remove(farm, farm.members()[0]["id"])
        assert (last.status, last.json()["type"]) == (400, "bad-parameter")
        assert values(farm) == {b"v"}
