"""A10: a disk is lost, and one command has the node replaced; and what a node misses while it is down reaches it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.sockets.copies import alike, limited, put_all, wait_up
from tests.sockets.daemons import Daemon, Farm, call, farming, wait_until
from tests.sockets.steady import Steady, value_of

pytestmark = pytest.mark.system

CLIENTS, KEYS_EACH = 4, 50
HINTED = 1_000
PATIENCE_S = 60.0
NO_REPAIR = {"repair_interval_s": 3600.0}
"""So that it is the hints that are seen at work."""


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with farming(tmp_path) as built:
        yield built


def member_id(node: Daemon) -> str:
    return str(node.info()["member"])


def test_one_command_replaces_a_node_whose_disk_is_lost_while_clients_write(farm: Farm) -> None:
    proxy = farm.cluster(3)
    lost, *others = farm.nodes
    gone = member_id(lost)
    with Steady([proxy], CLIENTS, KEYS_EACH, Random(1)) as steady:
        steady.wait_for_more(1_000, "before the disk is lost")
        lost.kill()
        shutil.rmtree(lost.home)
        unsure = call("DELETE", f"{proxy.url}/v1/cluster/nodes/{gone}")
        assert (unsure.status, unsure.json()["type"]) == (409, "may-remember")
        assert call("DELETE", f"{proxy.url}/v1/cluster/nodes/{gone}?dead=1").status in (202, 204)
        fresh = farm.node()
        farm.add(fresh)
        steady.wait_for_more(500, "after it was replaced")
        wait_up(proxy, 3, PATIENCE_S)
        others[0].kill()
        steady.wait_for_more(500, "which rest on the fresh node")
        others[0].start()
    assert gone not in [member["id"] for member in farm.members()]
    wait_up(proxy, 3, PATIENCE_S)
    assert steady.wrong(proxy) == []
    steady.wait_alike(proxy, [*others, fresh], PATIENCE_S)


def test_a_node_that_starts_with_an_emptied_folder_is_rebuilt_while_clients_write(farm: Farm) -> None:
    proxy = farm.cluster(3)
    node = farm.nodes[0]
    life = node.info()["incarnation"]
    with Steady([proxy], CLIENTS, KEYS_EACH, Random(2)) as steady:
        steady.wait_for_more(1_000, "before the folder is emptied")
        node.kill()
        shutil.rmtree(node.home)
        node.start()
        wait_up(proxy, 3, PATIENCE_S)
        assert node.info()["incarnation"] != life
        farm.nodes[1].kill()
        steady.wait_for_more(500, "which rest on the rebuilt node")
        farm.nodes[1].start()
    wait_up(proxy, 3, PATIENCE_S)
    assert steady.wrong(proxy) == []
    steady.wait_alike(proxy, farm.nodes, PATIENCE_S)


@pytest.mark.parametrize("killed", [False, True], ids=["in peace", "keepers and proxy killed in between"])
def test_what_a_node_misses_while_it_is_down_reaches_it_by_hints(farm: Farm, killed: bool) -> None:
    proxy = farm.proxy(*limited(farm, "proxy", **NO_REPAIR))
    for _ in range(3):
        farm.add(farm.node())
    away, *keepers = farm.nodes
    away.kill()
    missed = {key: value_of(key, 1) for key in (f"key{number}" for number in range(HINTED))}
    put_all(proxy, missed)
    wait_until(lambda: hints_for(keepers) == HINTED, "every write to leave a hint", PATIENCE_S)
    if killed:
        for daemon in (proxy, *keepers):
            daemon.kill()
        for daemon in (*keepers, proxy):
            daemon.start()
        assert hints_for(keepers) == HINTED
    away.start()
    wait_until(lambda: away.info()["keys"] == HINTED, "the writes to reach the node", PATIENCE_S)
    wait_until(lambda: hints_for(keepers) == 0, "the hints to be forgotten", PATIENCE_S)
    assert alike(farm.nodes, missed)
    assert [node.info()["marks"] for node in farm.nodes] == [0, 0, 0]


def hints_for(keepers: list[Daemon]) -> int:
    return sum(sum(keeper.info()["hints"].values()) for keeper in keepers)
