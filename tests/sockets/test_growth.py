"""A cluster that grows and shrinks while clients work and anything is killed: nothing fails, is lost, or is stale."""

from __future__ import annotations

import http.client
import json
import os
import random
import threading
import time
from base64 import b64decode, b64encode
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.sockets.daemons import Daemon, Farm, call, farming, wait_until
from tests.sockets.test_etcd import Etcd, add, proxy_on
from twisted_kv.membership import State, decode_state
from twisted_kv.names import Key, NodeId
from twisted_kv.peers.control import Control
from twisted_kv.ring import slot_of
from twisted_kv.views import View
from twisted_kv.wire.header import encode
from twisted_kv.wire.pages import KeysRequest, keys_page_decoder

pytestmark = pytest.mark.system

KEYS = int(os.environ.get("KV_GROWTH_KEYS", "20000"))
"""``make test-growth`` takes a hundred thousand."""
CLIENTS = 64
KILLED_EVERY_S = 2.0
MANY = 300.0
"""Patience in seconds for what takes long beside 64 clients and processes that are killed."""


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with farming(tmp_path) as built:
        yield built


@pytest.fixture
def etcd(tmp_path: Path) -> Iterator[Etcd]:
    started = Etcd(tmp_path)
    yield started
    started.kill()


def key_of(number: int) -> str:
    return f"k{number:06d}"


def load(proxy: Daemon) -> None:
    for first in range(0, KEYS, 5_000):
        lines = [{"op": "put", "key": key_of(n), "value": "0"} for n in range(first, first + 5_000)]
        body = b"\n".join(map(msgspec.json.encode, lines))
        told = call("POST", f"{proxy.url}/v1/bulk", body, **{"Content-Type": "application/x-ndjson"})
        assert told.body.count(b'"status":204') == 5_000, told.body[:300]


class Clients:
    """64 clients, each of which owns some keys: it writes ever larger numbers, and reads its own and others' back."""

    def __init__(self, proxies: list[Daemon]) -> None:
        self._proxies = proxies
        self._stopped = threading.Event()
        self.least = [0] * KEYS
        """The number of each key that was acknowledged last, or read."""
        self.most = [0] * KEYS
        """The number that was tried last."""
        self.trouble: list[str] = []
        self.reads = self.writes = self.unsure = 0
        self._threads = [threading.Thread(target=self._work, args=(n,)) for n in range(CLIENTS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _work(self, client: int) -> None:
        dice = random.Random(client)
        while not self._stopped.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", dice.choice(self._proxies).port, timeout=20)
            try:
                while not self._stopped.is_set():
                    number = dice.randrange(KEYS // CLIENTS) * CLIENTS + client
                    self._write(connection, number) if dice.random() < 0.5 else self._read(connection, number)
            except (OSError, http.client.HTTPException):
                # The proxy was killed; another one is asked.
                time.sleep(0.05)
            finally:
                connection.close()

    def _write(self, connection: http.client.HTTPConnection, number: int) -> None:
        self.most[number] += 1
        tried = self.most[number]
        connection.request("PUT", f"/v1/kv/{key_of(number)}", str(tried).encode())
        answer = connection.getresponse()
        body = answer.read()
        if answer.status == 204:
            self.least[number] = tried
            self.writes += 1
        else:
            # A write may be refused for a moment, or stay uncertain: its number may show later, or not.
            self.unsure += 1
            if answer.status not in (503, 504):
                self.trouble.append(f"a write of {key_of(number)}: {answer.status} {body[:200]!r}")

    def _read(self, connection: http.client.HTTPConnection, number: int) -> None:
        least = self.least[number]
        connection.request("GET", f"/v1/kv/{key_of(number)}")
        answer = connection.getresponse()
        body = answer.read()
        self.reads += 1
        if answer.status != 200:
            self.trouble.append(f"a read of {key_of(number)}: {answer.status} {body[:900]!r}")
        elif not least <= int(body) <= self.most[number]:
            self.trouble.append(f"{key_of(number)} held {body!r}, after {least} and before {self.most[number]}")
        else:
            self.least[number] = max(least, int(body))


class Killer:
    """Kills a node or a proxy every two seconds, and starts it again; never two at once."""

    def __init__(self, farm: Farm) -> None:
        self._farm = farm
        self._stopped = threading.Event()
        self.killed: Counter[str] = Counter()
        self._thread = threading.Thread(target=self._kill)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _kill(self) -> None:
        dice = random.Random(1)
        while not self._stopped.wait(KILLED_EVERY_S):
            victim = dice.choice([*self._farm.nodes, *self._farm.proxies])
            victim.kill()
            victim.start()
            self.killed["node" if victim in self._farm.nodes else "proxy"] += 1


def described(farm: Farm) -> dict[str, object]:
    """What any proxy that is up says of the cluster."""
    for proxy in farm.proxies:
        try:
            told = call("GET", f"{proxy.url}/v1/cluster")
        except OSError:
            continue
        if told.status == 200:
            found: dict[str, object] = told.json()
            return found
    return {}


def at_rest(farm: Farm, members: int) -> bool:
    found = described(farm)
    listed = found.get("members", [])
    return len(listed) == members and found["change"] is None and not found["pending"]  # type: ignore[arg-type]


def asked(farm: Farm, method: str, path: str, body: bytes | None = None) -> None:
    """Ask for a change until a proxy has taken it."""

    def told() -> bool:
        for proxy in farm.proxies:
            try:
                answer = call(method, f"{proxy.url}{path}", body)
            except OSError:
                continue
            if answer.status in (200, 202, 204, 404):
                return True
        return False

    wait_until(told, f"{method} {path} to be taken", MANY)


def keys_on(node: Daemon, state: State) -> list[bytes]:
    """All keys that a node holds a value of."""
    seat = next(seat for seat in state.members if seat.url == node.url)
    keys: list[bytes] = []
    more = True
    while more:
        request = KeysRequest(Control.header(seat, state), b"", keys[-1] if keys else b"", 1_000)
        page = keys_page_decoder.decode(call("POST", f"{node.url}/node/v1/keys", encode(request)).body)
        keys += [row.key for row in page.rows if row.is_value]
        more = page.more
    return keys


def test_a_fourth_node_joins_and_the_first_one_leaves_while_anything_is_killed(farm: Farm, etcd: Etcd) -> None:
    """One node at a time is down, so every key has a majority, and no read may fail."""
    proxies = [proxy_on(farm, etcd), proxy_on(farm, etcd)]
    for _ in range(3):
        assert add(proxies[0], farm.node()).status == 200
    load(proxies[0])
    first, fourth = farm.members()[0]["id"], farm.node()
    clients, killer = Clients(farm.proxies), Killer(farm)
    try:
        asked(farm, "POST", "/AddServer", json.dumps({"url": fourth.url, "weight": 1}).encode())
        wait_until(lambda: at_rest(farm, 4), "the fourth node to be a member", MANY)
        asked(farm, "DELETE", f"/v1/cluster/nodes/{first}")
        wait_until(lambda: at_rest(farm, 3), "the first node to have left", MANY)
        wait_until(lambda: killer.killed.total() >= 10, "some more kills", MANY)
    finally:
        killer.stop()
        clients.stop()
    assert clients.trouble == [], f"{len(clients.trouble)} of {clients.reads} reads and {clients.writes} writes"
    assert clients.writes > CLIENTS
    assert killer.killed["node"]
    assert killer.killed["proxy"]
    assert_everything_is_there(farm, etcd, clients)


def state_in(etcd: Etcd) -> State:
    request = json.dumps({"key": b64encode(b"/kv/state").decode()}).encode()
    return decode_state(b64decode(call("POST", f"{etcd.url}/v3/kv/range", request).json()["kvs"][0]["value"]))


def assert_everything_is_there(farm: Farm, etcd: Etcd, clients: Clients) -> None:
    """Every key is on exactly its three owners, with the number that was acknowledged, or a later one."""
    nodes = {node.url: node for node in farm.nodes}

    def spread() -> bool:
        state = state_in(etcd)
        view = View(state)
        held = {NodeId(seat.id): set(keys_on(nodes[seat.url], state)) for seat in state.members}
        names = [Key(key_of(number).encode()) for number in range(KEYS)]
        return all({node for node in held if key in held[node]} == set(view.table[slot_of(key)]) for key in names)

    wait_until(spread, "every key to be on exactly its owners", MANY)
    for proxy in farm.proxies:
        # Who was killed last is avoided until a probe has found it again.
        every = f"{proxy.url}/v1/kv/{key_of(0)}?consistency=all"
        wait_until(lambda url=every: call("GET", url).status == 200, "all owners to be asked again")
        connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)
        for number in range(0, KEYS, 7):
            connection.request("GET", f"/v1/kv/{key_of(number)}?consistency=all")
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, f"{key_of(number)}: {body!r}"
            assert clients.least[number] <= int(body) <= clients.most[number], key_of(number)
        connection.close()
