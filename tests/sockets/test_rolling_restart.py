"""Every process is stopped and started again in turn, under load, and no client notices who asks once more."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from tests.golden import samples
from tests.golden.make import generations, unpack_node
from tests.sockets.daemons import Daemon, Farm, answers, farming, free_ports, get, wait_until
from tests.sockets.rolling import HttpClients, RedisClients, wait_settled

pytestmark = pytest.mark.system

HTTP_CLIENTS, REDIS_CLIENTS = 6, 3


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with farming(tmp_path) as built:
        yield built


def built(farm: Farm, *options: str) -> list[int]:
    """Start two proxies and three nodes; give the ports of the proxies' Redis doors."""
    first = free_ports(2)
    redis_ports = [first, first + 1]
    for port in redis_ports:
        farm.proxy("--resp-port", str(port), *options)
    for _ in range(3):
        farm.add(farm.node())
    wait_settled(farm.proxies)
    return redis_ports


@pytest.mark.parametrize("generation", generations())
def test_a_node_starts_on_a_folder_of_every_build_since_the_first_golden_one(farm: Farm, generation: int) -> None:
    node = farm.node()
    node.end()
    shutil.rmtree(node.home)
    unpack_node(generation, node.home)
    node.start()
    info = node.info()
    assert (info["member"], info["incarnation"]) == (samples.IDENTITY["member"], samples.INCARNATION)
    assert get(node, "language").body == b'"Go"'
    assert get(node, "gone").status == 404
    assert "does not vote" not in node.log().rpartition("starting up")[2]
    node.end()
    later = node.home / "synced"
    data = bytearray(later.read_bytes())
    data[0] = data[512] = data[0] + 1
    later.write_bytes(data)
    node.launch()
    wait_until(lambda: node.ended() is not None, "the node to say that this is beyond it")
    assert node.ended() == 1
    assert f"the node's folder has format {data[0]}, this version knows {data[0] - 1} " in node.log()
    assert "Traceback" not in node.log()


def restart(daemon: Daemon) -> None:
    daemon.end()
    daemon.start()


@pytest.mark.parametrize("options", [[], ["--workers", "2"], ["--lane", "false"], ["--transport", "link"]], ids=str)
@pytest.mark.timeout(900)
def test_a_rolling_restart_of_every_process_is_not_noticed_by_clients_that_ask_once_more(
    farm: Farm, options: list[str]
) -> None:
    redis_ports = built(farm, *options)
    random = Random(1)
    http = HttpClients([proxy.port for proxy in farm.proxies], HTTP_CLIENTS, random)
    redis = RedisClients(redis_ports, REDIS_CLIENTS, random)
    with http, redis:
        for daemon in (*farm.nodes, *farm.proxies):
            restart(daemon)
            wait_settled(farm.proxies)
            for proxy in farm.proxies:
                wait_until(lambda: answers(f"{proxy.url}/health/ready"), f"{proxy.url} to be ready")  # noqa: B023
            http.wait_for_more(200, "after a restart")
            redis.wait_for_more(100, "after a restart")
    assert http.complaints + redis.complaints == []
    for daemon in (*farm.nodes, *farm.proxies):
        assert "Traceback" not in daemon.log()
