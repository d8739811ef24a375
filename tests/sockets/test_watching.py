"""The dashboard and the alerts in etc/ are about what daemons really show; and each alert is made to fire."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.sockets.daemons import PATIENCE_S, Daemon, Farm, call, farming, free_port, put, wait_until
from tests.sockets.test_durability import biggest, flip
from tests.sockets.tracing import traced
from tests.sockets.watching import ALERTS, DASHBOARD, ETC, Sample, families, firing, names_in, scraped

DOCS = Path(__file__).parents[2] / "docs" / "metrics-and-logs.md"


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with farming(tmp_path) as farm:
        yield farm


# What there is.


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Iterator[set[str]]:
    """All series of a proxy with workers, links and a Redis door, and of a node on a disk."""
    with farming(tmp_path_factory.mktemp("shown")) as farm:
        proxy = farm.proxy("--workers", "2", "--transport", "link")
        farm.add(farm.node())
        alone = farm.proxy("--resp-port", str(free_port()))
        wait_until(lambda: put(proxy, "k", "v").status == 200, "a write to be taken")
        yield {name for daemon in (proxy, alone, *farm.nodes) for name in families(daemon)} | {"up"}


def test_every_metric_that_the_dashboard_and_the_alerts_name_is_shown(shown: set[str]) -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]

    for text in ("\n".join(expressions), ALERTS.read_text(encoding="utf-8")):
        named = names_in(text)
        assert len(named) > 10
        assert named - shown - {"kv_member_info"} == set()
    assert "kv_member_info" in shown


def test_the_docs_tell_of_every_metric_and_of_none_that_is_not_there(shown: set[str]) -> None:
    told = names_in(DOCS.read_text(encoding="utf-8"))
    own = {re.sub(r"_(bucket|sum|count)$", "", name) for name in shown if name.startswith("kv_")}
    own = {name for name in own if not name.endswith("_created")}

    assert own - told == set()
    assert {name for name in told if name.startswith("kv_")} - shown - own == set()


def test_the_dashboard_s_panels_lie_beside_one_another_and_say_what_they_show() -> None:
    panels = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]

    places = [(cell_x, cell_y) for panel in panels for cell_x, cell_y in cells(panel["gridPos"])]
    assert len(places) == len(set(places)), "two panels lie over one another"
    assert max(x for x, _ in places) < 24
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    assert all(target["legendFormat"] for panel in panels for target in panel["targets"])


def cells(place: dict[str, int]) -> Iterator[tuple[int, int]]:
    for x in range(place["x"], place["x"] + place["w"]):
        for y in range(place["y"], place["y"] + place["h"]):
            yield x, y


# Alerts, each made to fire.


class Watch:
    """A cluster that is looked at before and after something happens to it."""

    def __init__(self, farm: Farm) -> None:
        self.farm = farm
        self.before: dict[str, Sample] = {}

    def look(self) -> dict[str, Sample]:
        return scraped(self.farm.proxies, self.farm.nodes)

    def begin(self) -> None:
        self.before = self.look()

    def firing(self) -> set[str]:
        return firing(self.before, self.look(), self.farm.folder)

    def until(self, alert: str) -> None:
        wait_until(lambda: alert in self.firing(), f"{alert} to fire")

    @property
    def proxy(self) -> Daemon:
        return self.farm.proxies[0]

    def toml(self, name: str, **limits: float) -> tuple[str, str]:
        """Give the option of a configuration file with such limits."""
        file = self.farm.folder / name
        file.write_text("[limits]\n" + "".join(f"{limit} = {value}\n" for limit, value in limits.items()))
        return "--config", str(file)

    def start(self, nodes: int = 3, proxy: tuple[str, ...] = (), node: tuple[str, ...] = ()) -> None:
        self.farm.proxy(*proxy)
        for _ in range(nodes):
            self.farm.add(self.farm.node(*node))
        self.write()

    def write(self, count: int = 3) -> None:
        for number in range(count):
            # A worker hears of a member up to a second after the first one.
            wait_until(lambda: put(self.proxy, f"k{number}", "v").status == 200, "a write to be taken")  # noqa: B023

    def bulk(self, count: int, prefix: str) -> int:
        lines = [json.dumps({"op": "put", "key": f"{prefix}{number}", "value": "v"}) for number in range(count)]
        return call("POST", f"{self.proxy.url}/v1/bulk", "\n".join(lines).encode()).status


@pytest.fixture
def watch(farm: Farm) -> Watch:
    return Watch(farm)


@pytest.mark.system
def test_the_files_are_what_prometheus_takes() -> None:
    promtool = shutil.which("promtool")
    assert promtool, "this test needs Debian's promtool: apt-get install prometheus"
    for what, file in (("rules", ALERTS), ("config", ETC / "prometheus" / "prometheus.yml")):
        run = subprocess.run([promtool, "check", what, str(file)], capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.system
def test_a_cluster_that_is_well_fires_nothing(watch: Watch) -> None:
    watch.start(proxy=watch.toml("proxy.toml", repair_interval_s=0.5))
    ended = f'kv_repair_rounds_total{{outcome="ok",job="kvproxy",instance="127.0.0.1:{watch.proxy.port}"}}'

    def quiet() -> bool:
        """Whether nothing fires: where the machine stood still for a second, something does, and rightly."""
        watch.begin()
        rounds = watch.before[ended].value if ended in watch.before else 0.0
        watch.write(20)
        wait_until(lambda: ended in (now := watch.look()) and now[ended].value > rounds, "a round of repair to end")
        return watch.firing() == set()

    wait_until(quiet, "a while in which all is well")


@pytest.mark.system
def test_a_dead_node_is_told_twice_and_two_of_three_make_operations_fail(watch: Watch) -> None:
    watch.start(proxy=watch.toml("proxy.toml", operation_timeout_s=1))
    watch.begin()
    watch.farm.nodes[0].kill()
    watch.until("KvMemberDown")
    assert {"KvDaemonDown", "KvMemberDown"} <= watch.firing()
    assert "KvOperationsFail" not in watch.firing()

    watch.farm.nodes[1].kill()
    for number in range(3):
        assert put(watch.proxy, f"k{number}", "v").status in (503, 504)

    assert "KvOperationsFail" in watch.firing()


@pytest.mark.system
def test_a_worker_that_hangs_is_told(watch: Watch) -> None:
    watch.start(1, proxy=("--workers", "2"))
    watch.begin()
    assert watch.proxy.process is not None
    pid = watch.proxy.process.pid
    worker = int(Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()[0])
    with paused(worker):
        assert "KvWorkerDown" in watch.firing()
    wait_until(lambda: "KvWorkerDown" not in watch.firing(), "the worker to answer again")


class paused:  # noqa: N801
    """Holds a process up for a while."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def __enter__(self) -> None:
        os.kill(self._pid, signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        os.kill(self._pid, signal.SIGCONT)


def pause(daemon: Daemon) -> paused:
    assert daemon.process is not None
    return paused(daemon.process.pid)


@pytest.mark.system
def test_slow_owners_make_operations_slow(watch: Watch) -> None:
    watch.start()
    watch.begin()
    with pause(watch.farm.nodes[0]), pause(watch.farm.nodes[1]):
        writer = threading.Thread(target=watch.write)
        writer.start()
        time.sleep(1)
    writer.join(PATIENCE_S)

    assert "KvOperationsSlow" in watch.firing()


@pytest.mark.system
def test_a_proxy_with_too_much_to_do_is_told(watch: Watch) -> None:
    watch.start(proxy=watch.toml("proxy.toml", operations_max=1, operation_timeout_s=2))
    watch.begin()
    with pause(watch.farm.nodes[0]), pause(watch.farm.nodes[1]):
        with ThreadPoolExecutor(8) as clients:
            answers = clients.map(lambda number: put(watch.proxy, f"k{number}", "v").status, range(8))
        assert 429 in answers

    assert "KvOverloaded" in watch.firing()


@pytest.mark.system
def test_a_process_that_is_held_up_is_late(watch: Watch) -> None:
    watch.start()
    watch.begin()
    for _ in range(5):
        with pause(watch.proxy):
            time.sleep(0.5)
        call("GET", f"{watch.proxy.url}/health/live")

    assert "KvReactorLate" in watch.firing()


@pytest.mark.system
def test_what_waits_for_a_node_that_does_not_answer_is_told(watch: Watch) -> None:
    watch.start()
    watch.begin()
    with pause(watch.farm.nodes[0]):
        assert watch.bulk(5_000, "bulk") == 200
        assert "KvQueueDeep" in watch.firing()


@pytest.mark.system
def test_hints_for_a_member_that_stays_away_are_told(watch: Watch) -> None:
    watch.start()
    watch.begin()
    watch.farm.nodes[0].kill()
    wait_until(lambda: "KvMemberDown" in watch.firing(), "the proxy to notice")
    assert watch.bulk(4_000, "bulk") == 200

    watch.until("KvHintsPile")


@pytest.mark.system
def test_repair_that_stands_still_is_told(watch: Watch) -> None:
    watch.start(proxy=watch.toml("proxy.toml", repair_interval_s=3600))
    watch.begin()

    watch.write()

    assert "KvRepairStands" in watch.firing()


@pytest.mark.system
def test_a_record_that_cannot_be_read_is_told(watch: Watch) -> None:
    watch.start(1, proxy=("--replicas", "1"))
    for number in range(200):
        put(watch.proxy, f"damaged{number}", "v" * 500)
    (node,) = watch.farm.nodes
    node.end()
    node.start()  # recovery writes the log out into tables
    node.kill()
    table = biggest(node, "*.sst")
    flip(table, table.stat().st_size // 2)
    node.start()
    watch.begin()

    def met() -> bool:
        for number in range(200):
            call("GET", f"{watch.proxy.url}/v1/kv/damaged{number}?consistency=one")
        return "KvDamage" in watch.firing()

    wait_until(met, "KvDamage to fire")


@pytest.mark.system
def test_a_disk_with_little_room_is_told_and_then_a_full_one(watch: Watch) -> None:
    room = shutil.disk_usage(watch.farm.folder).free
    watch.start(1, node=watch.toml("node.toml", disk_free_bytes_min=room // 10))
    watch.begin()
    assert "KvDiskLow" in watch.firing()
    assert "KvDiskFull" not in watch.firing()

    watch.farm.node(*watch.toml("full.toml", disk_free_bytes_min=room * 10))

    watch.until("KvDiskFull")


@pytest.mark.system
def test_syncs_that_take_long_are_told(watch: Watch) -> None:
    watch.start(1, proxy=("--replicas", "1"))
    watch.begin()
    slow = ("-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_exit=400000")
    with traced(watch.farm.nodes[0], watch.farm.folder / "trace", *slow):
        watch.write(4)

    assert "KvDiskSlow" in watch.firing()


@pytest.mark.system
def test_a_change_that_takes_long_is_told(watch: Watch) -> None:
    watch.start(3, proxy=watch.toml("proxy.toml", rebalance_bytes_per_s=1_000, change_answer_s=0.5))
    for number in range(200):
        put(watch.proxy, f"moved{number}", "v" * 1_000)
    watch.begin()
    assert "KvChangeLong" not in watch.firing()
    new = watch.farm.node()
    body = json.dumps({"url": new.url, "weight": 1}).encode()
    assert call("POST", f"{watch.proxy.url}/v1/cluster/nodes", body).status in (200, 202)

    watch.until("KvChangeLong")


@pytest.mark.system
def test_descriptors_that_run_out_are_told(watch: Watch) -> None:
    watch.start(1, proxy=("--replicas", "1"))
    assert watch.proxy.process is not None
    pid = watch.proxy.process.pid
    used = len(os.listdir(f"/proc/{pid}/fd"))
    assert "KvDescriptorsShort" not in watch.firing()

    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 3, used + 3))

    watch.until("KvDescriptorsShort")


@pytest.mark.system
def test_clients_that_are_sent_away_for_want_of_descriptors_are_told(watch: Watch) -> None:
    most = 900  # fewer than twice what is spared, so that they are sent away long before four fifths are taken
    watch.start(1, proxy=("--replicas", "1"))
    assert watch.proxy.process is not None
    pid = watch.proxy.process.pid
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (most, most))
    watch.begin()
    idle = [socket.create_connection(("127.0.0.1", watch.proxy.port)) for _ in range(600)]
    try:
        watch.until("KvDescriptorsShort")
        assert len(os.listdir(f"/proc/{pid}/fd")) < 0.8 * most
    finally:
        for connection in idle:
            connection.close()


@pytest.mark.system
def test_every_alert_has_a_test_that_makes_it_fire() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    fired = set(re.findall(r'(?:until\(|assert |return |lambda: |[{ ])"(Kv\w+)"(?: in|[)},])', tests))

    assert set(re.findall(r"- alert: (\w+)", ALERTS.read_text(encoding="utf-8"))) - fired == set()
