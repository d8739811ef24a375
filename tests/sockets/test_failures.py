"""Real processes, killed for real."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sockets.daemons import PATIENCE_S, Farm, call, farming, get, put, wait_until


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with farming(tmp_path) as built:
        yield built


def test_the_key_is_read_after_its_primary_was_killed(farm: Farm) -> None:
    proxy = farm.cluster(4)
    assert put(proxy, "language", "Go").status == 200
    farm.owners("language")[0].kill()
    got = get(proxy, "language")
    assert (got.status, got.body) == (200, b'"Go"')
    assert put(proxy, "language", "Python").status == 200
    assert get(proxy, "language").body == b'"Python"'


def test_level_one_answers_with_two_of_three_nodes_killed_and_strong_says_how(farm: Farm) -> None:
    proxy = farm.cluster(3)
    assert put(proxy, "language", "Go", "?consistency=all").status == 200
    for node in farm.owners("language")[:2]:
        node.kill()
    got = get(proxy, "language", "?consistency=one")
    assert (got.status, got.body) == (200, b'"Go"')
    refused = get(proxy, "language")
    assert refused.status == 503
    assert "consistency=one" in refused.json()["hint"]
    refused = put(proxy, "language", "Python")
    problem = refused.json()
    assert refused.status == 503
    assert (problem["required"], problem["acks"], problem["maybe_applied"]) == (2, 1, True)
    assert len(problem["replicas"]) == 2
    assert refused.headers["Retry-After"]
    assert put(proxy, "language", "Ruby", "?consistency=one").status == 200


def test_a_thousand_keys_survive_growth_from_one_node_to_four(farm: Farm) -> None:
    proxy = farm.cluster(1)
    for number in range(1000):
        assert put(proxy, f"key{number}", f"value{number}").status == 200
    for _ in range(3):
        farm.add(farm.node())
    members = call("GET", f"{proxy.url}/v1/cluster").json()["members"]
    assert len(members) == 4
    for number in range(1000):
        assert get(proxy, f"key{number}").json() == f"value{number}"
        assert len(set(farm.owners(f"key{number}"))) == 3

    def copies() -> int:
        return sum(member["keys"] for member in call("GET", f"{proxy.url}/v1/cluster").json()["members"])

    wait_until(lambda: copies() == 3000, "three copies of each key and no more")


def test_memory_nodes_that_all_restarted_take_writes_again(farm: Farm) -> None:
    proxy = farm.cluster(3, "--engine", "memory")
    assert put(proxy, "language", "Go").status == 200
    for node in farm.nodes:
        node.kill()
    for node in farm.nodes:
        node.start()
    wait_until(lambda: put(proxy, "language", "Go").status == 200, "a PUT after the restart")
    assert get(proxy, "language").body == b'"Go"'
    assert "ALL OWNERS FORGOT" in proxy.log()


def test_a_memory_node_that_was_killed_is_rebuilt_and_carries_the_cluster_afterwards(farm: Farm) -> None:
    proxy = farm.cluster(3, "--engine", "memory")
    for number in range(100):
        assert put(proxy, f"key{number}", "v").status == 200
    first, second, _ = farm.nodes
    first.kill()
    first.start()

    def whole() -> bool:
        members = call("GET", f"{proxy.url}/v1/cluster").json()["members"]
        return [(member["state"], member["keys"]) for member in members] == [("up", 100)] * 3

    wait_until(whole, "the node to be rebuilt")
    second.kill()
    for number in range(100):
        assert get(proxy, f"key{number}").body == b'"v"'


def test_two_proxies_on_one_state_file_see_the_same_cluster_and_values(farm: Farm) -> None:
    one = farm.cluster(2)
    two = farm.proxy()
    assert put(one, "language", "Go").status == 200
    assert get(two, "language").body == b'"Go"'
    farm.add(farm.node())

    def epochs() -> bool:
        first, second = (call("GET", f"{proxy.url}/v1/cluster").json() for proxy in (one, two))
        return (first["epoch"], len(second["members"])) == (second["epoch"], 3)

    wait_until(epochs, "the second proxy to see the third node")
    assert put(two, "language", "Python").status == 200
    assert get(one, "language").body == b'"Python"'


def test_a_proxy_that_was_killed_comes_back_to_its_cluster(farm: Farm) -> None:
    proxy = farm.cluster(3)
    assert put(proxy, "language", "Go").status == 200
    before = call("GET", f"{proxy.url}/v1/cluster").json()
    proxy.kill()
    proxy.start()
    after = call("GET", f"{proxy.url}/v1/cluster").json()
    assert (after["cluster_id"], after["epoch"]) == (before["cluster_id"], before["epoch"])
    assert get(proxy, "language").body == b'"Go"'


def test_an_option_that_contradicts_the_state_stops_the_proxy_with_a_sentence(farm: Farm) -> None:
    farm.cluster(1)
    with pytest.raises(AssertionError) as caught:
        farm.proxy("--replicas", "5")
    assert "--replicas 5 contradicts the cluster's state, which says 3" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_who_is_told_twice_to_stop_stops_once_and_in_order(farm: Farm) -> None:
    proxy = farm.cluster(1)
    assert put(proxy, "k", "v").status == 200
    with socket.create_connection(("127.0.0.1", proxy.port)) as idle:
        idle.settimeout(PATIENCE_S)
        assert proxy.process is not None
        # Whoever keeps a connection is waited for, and hears of the end when it is too late for a second signal.
        for _ in range(3):
            proxy.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "shutting down" in proxy.log(), "the proxy to have heard it")
        proxy.process.send_signal(signal.SIGTERM)
        proxy.process.send_signal(signal.SIGINT)
        assert idle.recv(1) == b""
    assert proxy.process.wait(PATIENCE_S) == -signal.SIGTERM
    assert "Traceback" not in proxy.log()
    proxy.process = None
