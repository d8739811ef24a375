"""A15: proxies that know an old ring, and an etcd that is gone. What all clients saw is judged afterwards.

Two proxies share a real etcd, the first one by a line that can be cut. Clients speak to both.
"""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest

from tests.sockets.copies import metric
from tests.sockets.daemons import Daemon, Farm, Got, call, farming, free_port, wait_until
from tests.sockets.lines import Fault, Lines, Weather
from tests.sockets.test_etcd import Etcd
from tests.sockets.witnesses import Witness, history
from twisted_kv.simulation.linearizability import violation

pytestmark = pytest.mark.system

SEED = 1
CLIENTS = 6
KEYS = [f"key{number}" for number in range(8)]
DONE_BETWEEN = 200
"""Operations that have to succeed before things go on, so that clients have seen each state of the matter."""
PATIENCE_S = 60.0


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    started = Etcd(tmp_path)
    yield started
    started.kill()


class Scene:
    """Four nodes of which three are members at a time, two proxies on one etcd, and a line before one of these."""

    def __init__(self, farm: Farm, etcd: Etcd, lines: Lines) -> None:
        self.farm, self.lines = farm, lines
        self._pids: dict[int, str] = {}
        self._done: Counter[str] = Counter()
        etcd_port = int(etcd.url.rpartition(":")[2])
        self.cut_port = lines.lead("etcd", etcd_port, lambda: self._pids)
        self.stale = self._proxy(self.cut_port)
        self._pids[self.stale.process.pid] = "proxy"  # type: ignore[union-attr]
        self.stale.wait_alive()
        self.fresh = self._proxy(etcd_port)
        self.fresh.wait_alive()
        for _ in range(4):
            assert self.add(self.fresh, farm.node()).status == 200
        wait_until(lambda: self.epoch(self.stale) == self.epoch(self.fresh), "both to know the members")
        self.witnesses: list[Witness] = []

    def _proxy(self, etcd_port: int) -> Daemon:
        proxy = Launched(self.farm.folder, "kvproxy", free_port(), "--state", f"etcd://127.0.0.1:{etcd_port}/kv")
        self.farm.proxies.append(proxy)
        return proxy

    def add(self, proxy: Daemon, node: Daemon, weight: int = 1) -> Got:
        return call("POST", f"{proxy.url}/AddServer", json.dumps({"url": node.url, "weight": weight}).encode())

    def epoch(self, proxy: Daemon) -> int:
        return int(call("GET", f"{proxy.url}/v1/cluster").json()["epoch"])

    def change_twice(self) -> None:
        """Let a member go and take a new one in, so that owners change for most keys."""
        before = self.epoch(self.fresh)
        leaving = self.farm.nodes[0].info()["member"]
        left = call("DELETE", f"{self.fresh.url}/v1/cluster/nodes/{leaving}")
        assert left.status in (202, 204), left.body
        self._wait_for_rest()
        assert self.add(self.fresh, self.farm.node(), 2).status == 200
        self._wait_for_rest()
        assert self.epoch(self.fresh) >= before + 4

    def _wait_for_rest(self) -> None:
        def rests() -> bool:
            cluster = call("GET", f"{self.fresh.url}/v1/cluster").json()
            return not cluster["change"] and not cluster["pending"]

        wait_until(rests, "the change to be done", PATIENCE_S)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Let clients work meanwhile, and judge what they have seen."""
        ports = [self.stale.port, self.fresh.port]
        self.witnesses = [
            Witness(f"client{number}", ports, KEYS, Random(f"{SEED} {number}")) for number in range(CLIENTS)
        ]
        stopped = threading.Event()
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients: list[Future[None]] = [pool.submit(witness.work, stopped) for witness in self.witnesses]
            try:
                self.wait_for_more("at first")
                yield
            finally:
                stopped.set()
        for client in clients:
            client.result()
        last = Witness("last", ports, KEYS, Random(SEED))
        for port in ports:
            for key in KEYS:
                wait_until(lambda: last.get(key, port).status in (200, 404), f"{key} at {port}")  # noqa: B023
        last.close()
        self.witnesses.append(last)
        events = history(self.witnesses)
        print(f"{len(events)} events, {dict(self._outcomes())}")  # noqa: T201
        assert violation(events) is None
        assert [complaint for witness in self.witnesses for complaint in witness.complaints] == []
        for daemon in (self.stale, self.fresh, *self.farm.nodes):
            assert "Traceback" not in daemon.log(), daemon.log()

    def _outcomes(self) -> Counter[tuple[str, str]]:
        outcomes: Counter[tuple[str, str]] = Counter()
        for witness in self.witnesses:
            outcomes.update(dict(witness.outcomes))
        return outcomes

    def wait_for_more(self, when: str) -> None:
        """Wait until clients have done some more with success."""

        def done() -> int:
            return sum(count for (_, outcome), count in self._outcomes().items() if outcome == "done")

        enough = done() + DONE_BETWEEN
        wait_until(lambda: done() >= enough, f"{DONE_BETWEEN} operations {when}", PATIENCE_S)

    def serves(self, proxy: Daemon) -> None:
        """See that a proxy serves every key, for itself."""
        alone = Witness(f"alone at {proxy.port}", [proxy.port], KEYS, Random(SEED))
        self.witnesses.append(alone)
        for key in KEYS:
            wait_until(lambda: alone.put(key, proxy.port).status == 204, f"{key} to be written at {proxy.url}")  # noqa: B023
            wait_until(lambda: alone.get(key, proxy.port).status == 200, f"{key} to be read at {proxy.url}")  # noqa: B023
        alone.close()


class Launched(Daemon):
    """A daemon that is not waited for: its line has to know it first."""

    def start(self) -> None:
        self.launch()


@pytest.fixture
def scene(tmp_path: Path, etcd: Etcd) -> Iterator[Scene]:
    lines = Lines()
    try:
        with farming(tmp_path) as farm:
            built = Scene(farm, etcd, lines)
            try:
                yield built
            finally:
                for daemon in (*farm.proxies, *farm.nodes):
                    if daemon.process is not None:
                        daemon.process.send_signal(signal.SIGCONT)
    finally:
        lines.close()


def test_a_proxy_that_was_stopped_while_the_ring_changed_twice_goes_on_without_harm(scene: Scene) -> None:
    process = scene.stale.process
    assert process is not None
    with scene.watched():
        process.send_signal(signal.SIGSTOP)
        scene.change_twice()
        scene.wait_for_more("under the new ring")
        process.send_signal(signal.SIGCONT)
        scene.wait_for_more("while it finds out")
        scene.serves(scene.stale)
        wait_until(lambda: scene.epoch(scene.stale) == scene.epoch(scene.fresh), "it to know the ring", PATIENCE_S)


def test_a_proxy_that_is_cut_off_from_etcd_learns_of_changes_from_nodes(scene: Scene) -> None:
    with scene.watched():
        for way in (("proxy", "etcd"), ("etcd", "proxy")):
            scene.lines.set(*way, Weather(Fault.HOLE))
        scene.change_twice()
        scene.serves(scene.stale)
        scene.wait_for_more("while it is cut off")
        wait_until(lambda: scene.epoch(scene.stale) == scene.epoch(scene.fresh), "it to know the ring", PATIENCE_S)
        refused = scene.add(scene.stale, scene.farm.node())
        assert (refused.status, refused.json()["type"]) == (503, "state-unusable")
        assert "etcd" in refused.json()["detail"]
        scene.lines.heal()
        wait_until(lambda: scene.add(scene.stale, scene.farm.nodes[-1]).status == 200, "changes again", PATIENCE_S)
        scene.wait_for_more("when all is well again")


def test_while_etcd_is_gone_data_is_served_and_changes_are_refused(scene: Scene, etcd: Etcd) -> None:
    with scene.watched():
        etcd.kill()
        for proxy in (scene.stale, scene.fresh):
            scene.serves(proxy)
        extra = scene.farm.node()
        for proxy in (scene.stale, scene.fresh):
            refused = scene.add(proxy, extra)
            assert (refused.status, refused.json()["type"]) == (503, "state-unusable")
            assert "etcd" in refused.json()["detail"]
        leaving = scene.farm.nodes[0].info()["member"]
        assert call("DELETE", f"{scene.fresh.url}/v1/cluster/nodes/{leaving}").status == 503
        scene.farm.nodes[1].kill()
        scene.wait_for_more("with a node and etcd gone")
        scene.farm.nodes[1].start()
        scene.wait_for_more("without etcd")
        etcd.start()
        wait_until(lambda: scene.add(scene.fresh, extra).status == 200, "changes again", PATIENCE_S)
        wait_until(lambda: scene.epoch(scene.stale) == scene.epoch(scene.fresh), "both to know the ring", PATIENCE_S)
        scene.wait_for_more("when etcd is back")
    assert metric(scene.stale, "kv_members") == 5
