"""The cluster's state in a real etcd: the store alone, and proxies that share it."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred
from twisted.internet.task import deferLater

from tests.contracts.test_stores import FIRST, found, grown
from tests.sockets.daemons import PATIENCE_S, Daemon, Farm, answers, call, farming, free_port, get, put, wait_until
from twisted_kv.errors import StateUnusable
from twisted_kv.limits import Limits
from twisted_kv.peers.http import HttpTransport
from twisted_kv.state.etcd import LEASE_S, EtcdStore
from twisted_kv.state.gateway import HttpGateway

pytestmark = pytest.mark.system


class Etcd:
    """One etcd process, on free ports."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self._ports[0]}"
        self.start()

    def start(self) -> None:
        peer = f"http://127.0.0.1:{self._ports[1]}"
        options = {
            "data-dir": str(self._folder / "etcd"),
            "listen-client-urls": self.url,
            "advertise-client-urls": self.url,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
        }
        command = ["etcd", *(f"--{name}={value}" for name, value in options.items())]
        with open(self._folder / "etcd.out", "ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(lambda: answers(f"{self.url}/health"), "etcd to answer")

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE_S)
            self.process = None


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    started = Etcd(tmp_path)
    yield started
    started.kill()


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with farming(tmp_path) as built:
        yield built


def waited(seconds: float) -> Deferred[None]:
    return deferLater(reactor, seconds)  # type: ignore[arg-type]


def until(holds: Callable[[], bool | Deferred[bool]]) -> Generator[Deferred[Any], Any, None]:
    """Wait until the answer is true, while the reactor runs."""
    deadline = time.monotonic() + PATIENCE_S
    while not (yield maybeDeferred(holds)):
        assert time.monotonic() < deadline
        yield waited(0.1)


@pytest_twisted.inlineCallbacks
def test_the_store_on_a_real_etcd(etcd: Etcd) -> Generator[Deferred[Any], Any, None]:
    """What ``tests/contracts`` holds the store to on an etcd in memory, in short."""
    transport = HttpTransport(reactor, Limits())
    nobody = f"http://127.0.0.1:{free_port()}"
    one, other = (
        EtcdStore(reactor, HttpGateway(transport, [nobody, etcd.url], Limits()), "/kv", name, Limits())  # type: ignore[arg-type]
        for name in ("one", "other")
    )
    assert (yield one.read()) is None
    assert (yield one.update(found)) == FIRST
    seen: list[int] = []
    stop = other.watch(lambda state: seen.append(state.epoch))
    yield waited(0.5)
    states = yield gatherResults([store.update(grown) for _ in range(5) for store in (one, other)])
    assert sorted(state.epoch for state in states) == list(range(2, 12))
    yield from until(lambda: seen[-1:] == [11])
    assert seen == sorted(set(seen))
    assert (yield one.lead()) is True
    assert (yield other.lead()) is False
    yield waited(LEASE_S + 1.5)
    assert (yield other.lead()) is False, "the lease is kept"
    one.resign()
    yield from until(other.lead)
    assert other._lease is not None
    other._lease._call.cancel()
    yield from until(one.lead)  # a lease that nobody keeps ends
    etcd.kill()
    trouble = yield one.update(grown).addErrback(lambda failure: failure.value)
    assert isinstance(trouble, StateUnusable)
    assert "etcd" in trouble.detail
    etcd.start()
    assert (yield one.update(grown)).epoch == 12
    yield from until(lambda: seen[-1] == 12)
    stop()
    one.resign()
    yield waited(0.3)
    yield transport.close()


def proxy_on(farm: Farm, etcd: Etcd) -> Daemon:
    place = f"etcd://{etcd.url.removeprefix('http://')}/kv"
    farm.proxies.append(Daemon(farm.folder, "kvproxy", free_port(), "--state", place))
    return farm.proxies[-1]


def add(proxy: Daemon, node: Daemon) -> Any:
    return call("POST", f"{proxy.url}/AddServer", json.dumps({"url": node.url, "weight": 1}).encode())


def test_proxies_share_an_etcd_and_outlive_each_other_and_it(farm: Farm, etcd: Etcd) -> None:
    one, other = proxy_on(farm, etcd), proxy_on(farm, etcd)
    for _ in range(3):
        assert add(one, farm.node()).status == 200
    assert put(one, "language", "Go").status == 200
    wait_until(lambda: get(other, "language").status == 200, "the other proxy to know the nodes")
    one.kill()
    assert add(other, farm.node()).status == 200, "the other one drives, when the lease of the dead one has ended"
    assert get(other, "language").json() == "Go"
    etcd.kill()
    assert put(other, "language", "Python").status == 200
    assert get(other, "language").json() == "Python"
    refused = add(other, farm.node())
    assert refused.status == 503
    assert "etcd" in refused.json()["detail"]
    etcd.start()
    assert add(other, farm.nodes[-1]).status == 200
    one.start()
    wait_until(lambda: get(one, "language").status == 200, "the proxy to be back")
    assert get(one, "language").json() == "Python"
    members = call("GET", f"{one.url}/v1/cluster").json()["members"]
    assert len(members) == 5


def test_a_proxy_that_finds_no_etcd_says_so_and_ends(farm: Farm) -> None:
    with pytest.raises(AssertionError, match="no etcd could be asked") as caught:
        Daemon(farm.folder, "kvproxy", free_port(), "--state", f"etcd://127.0.0.1:{free_port()}/kv")
    assert "Traceback" not in str(caught.value)
