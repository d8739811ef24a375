"""A disk without room: a small file system of its own for one node, filled up and emptied again."""

from __future__ import annotations

import http.client
import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from tests.sockets.daemons import PATIENCE_S, Daemon, Farm, answers, call, farming, get, wait_until
from tests.sockets.direct import Direct
from tests.sockets.small_disk import SmallDisk
from tests.sockets.tracing import traced
from tests.sockets.writers import Writers, value_of, write, wrong

pytestmark = pytest.mark.system

DISK_MIB = 64
REFUSED = (503, 507)
"""What a write is answered with while there is no room: 507 where every owner says so, 503 for an unreached level."""
FULL_PATIENCE_S = 30.0
BACK_PATIENCE_S = 30.0
"""Within this time of space writes are taken again, where the node itself has stopped them."""
ENGINE_BACK_PATIENCE_S = 60.0
"""The same where RocksDB has met the end of the disk: it looks every five seconds whether there is room again."""
KEYS = [f"key{number}" for number in range(200)]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    small = SmallDisk(tmp_path / "disk", DISK_MIB)
    try:
        yield small
    finally:
        small.unmount()


@pytest.fixture
def farm(disk: SmallDisk, tmp_path: Path) -> Iterator[Farm]:
    with farming(tmp_path) as built:
        yield built


def only_node(farm: Farm, disk: SmallDisk, mode: str = "always", **limits: float) -> tuple[Daemon, Daemon]:
    """A proxy, and one node on the small disk that alone owns every key."""
    proxy = farm.proxy("--replicas", "1")
    node = node_on(farm, disk, mode, **limits)
    farm.add(node)
    return proxy, node


def node_on(farm: Farm, disk: SmallDisk, mode: str = "always", **limits: float) -> Daemon:
    config = farm.folder / "node.toml"
    config.write_text("[limits]\n" + "".join(f"{name} = {value}\n" for name, value in limits.items()))
    return farm.node("--data-dir", str(disk.folder / "node"), "--config", str(config), "--sync", mode)


def answer_to(proxy: Daemon, key: str, value: bytes) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=PATIENCE_S)) as connection:
        connection.request("PUT", f"/v1/kv/{key}", value)
        answer = connection.getresponse()
        return answer.status, answer.read()


def is_refused(proxy: Daemon, key: str, value: bytes) -> bool:
    status, body = answer_to(proxy, key, value)
    assert status in (204, *REFUSED), body
    return status in REFUSED


def is_first(key: str, value: bytes) -> bool:
    return value == value_of(key, 1)


def test_below_the_room_to_be_kept_values_are_refused_and_reads_and_deletes_go_on(farm: Farm, disk: SmallDisk) -> None:
    kept_bytes = 16 * 1024 * 1024
    proxy, node = only_node(farm, disk, disk_free_bytes_min=kept_bytes)
    life = node.info()["incarnation"]
    write(proxy, KEYS)
    assert call("PUT", f"{proxy.url}/v1/kv/brief?ttl=1", b"v").status == 204
    disk.fill(leave_bytes=kept_bytes // 2)
    wait_until(lambda: is_refused(proxy, "more", b"more"), "writes to be refused", FULL_PATIENCE_S)
    assert wrong(proxy, KEYS, is_first) == []
    # What a read of an expired value writes, and a delete, make room.
    wait_until(lambda: get(proxy, "brief").status == 404, "the value to expire")
    assert call("DELETE", f"{proxy.url}/v1/kv/{KEYS[-1]}").status == 204
    assert get(proxy, KEYS[-1]).status == 404
    disk.make_room()
    wait_until(lambda: not is_refused(proxy, "more", b"more"), "writes to be taken again", BACK_PATIENCE_S)
    write(proxy, KEYS)
    assert node.ended() is None
    assert node.info()["incarnation"] == life
    assert "Traceback" not in node.log()


def test_at_the_very_end_of_the_disk_nothing_acknowledged_is_lost_and_writes_come_back(
    farm: Farm, disk: SmallDisk
) -> None:
    proxy, node = only_node(farm, disk, disk_free_bytes_min=1)
    life = node.info()["incarnation"]
    write(proxy, KEYS)
    disk.fill(leave_bytes=256 * 1024)
    acknowledged: dict[str, bytes] = {}

    def overrun(round_: str) -> str:
        """Write until the disk ends; give what the refusal said."""
        for number in range(10_000):
            key = f"{round_}{number}"
            value = key.encode().ljust(5_000, b".")
            status, body = answer_to(proxy, key, value)
            if status != 204:
                assert status in REFUSED
                return str(json.loads(body))
            acknowledged[key] = value
        pytest.fail("the disk does not end")

    assert "no room left" in overrun("first")
    assert wrong(proxy, KEYS, is_first) == []
    assert wrong(proxy, acknowledged, lambda key, value: value == acknowledged[key]) == []
    assert is_refused(proxy, "more", b"more" * 2000)
    disk.make_room()
    wait_until(lambda: not is_refused(proxy, "more", b"more"), "writes to be taken again", ENGINE_BACK_PATIENCE_S)
    disk.fill(leave_bytes=256 * 1024)
    overrun("second")
    assert node.ended() is None
    assert "Traceback" not in node.log()
    disk.make_room()
    node.kill()
    node.start()
    assert node.info()["incarnation"] == life
    wait_until(lambda: not wrong(proxy, KEYS[:1], is_first), "the proxy to find the node again")
    assert wrong(proxy, KEYS, is_first) == []
    assert wrong(proxy, acknowledged, lambda key, value: value == acknowledged[key]) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
def test_a_node_that_ended_on_a_full_disk_starts_when_there_is_room_again(
    farm: Farm, disk: SmallDisk, how: signal.Signals
) -> None:
    proxy, node = only_node(farm, disk, disk_free_bytes_min=1)
    life = node.info()["incarnation"]
    write(proxy, KEYS)
    disk.fill()
    node.end(how)
    disk.fill()
    node.launch()
    wait_until(lambda: node.ended() is not None or answers(f"{node.url}/health/live"), "the node to live or to end")
    assert "Traceback" not in node.log()
    if node.ended() is None:
        node.kill()
    disk.make_room()
    node.start()
    assert node.info()["incarnation"] == life
    wait_until(lambda: not wrong(proxy, KEYS[:1], is_first), "the proxy to find the node again")
    assert wrong(proxy, KEYS, is_first) == []


def test_many_clients_that_write_beyond_the_end_of_the_disk_lose_nothing_acknowledged(
    farm: Farm, disk: SmallDisk
) -> None:
    proxy, node = only_node(farm, disk, disk_free_bytes_min=1)
    life = node.info()["incarnation"]
    write(proxy, KEYS)
    disk.fill(leave_bytes=256 * 1024)
    writers = Writers(proxy, clients=8, keys=50)
    try:
        for _ in range(2):
            refused = len(writers.refused)
            wait_until(lambda: len(writers.refused) > refused + 50, "the end of the disk")  # noqa: B023
            # Of a key whose last write waits for its sync nothing can be shown before that; of all others it can.
            assert wrong(proxy, KEYS, is_first) == []
            disk.make_room()
            count = writers.count
            wait_until(lambda: writers.count > count + 50, "writes to be taken again", ENGINE_BACK_PATIENCE_S)  # noqa: B023
            disk.fill(leave_bytes=256 * 1024)
        assert node.ended() is None, node.log()
        node.kill()
    finally:
        writers.stop()
    assert set(writers.refused) <= set(REFUSED)
    disk.make_room()
    node.start()
    assert node.info()["incarnation"] == life
    wait_until(lambda: not is_refused(proxy, "more", b"more"), "the proxy to find the node again")
    assert writers.lost(proxy) == []
    assert "Traceback" not in node.log()


@pytest.mark.parametrize("mode", ["always", "interval"])
def test_a_node_stopped_while_its_engine_is_out_of_room_ends_in_order(farm: Farm, disk: SmallDisk, mode: str) -> None:
    proxy, node = only_node(farm, disk, mode, disk_free_bytes_min=1)
    life = node.info()["incarnation"]
    disk.fill(leave_bytes=256 * 1024)
    writers = Writers(proxy, clients=8, keys=50)
    try:
        wait_until(lambda: len(writers.refused) > 50, "the end of the disk")
    finally:
        writers.stop()
    node.end()
    assert "Traceback" not in node.log()
    disk.make_room()
    node.start()
    assert node.info()["incarnation"] == life
    wait_until(lambda: not is_refused(proxy, "more", b"more"), "the proxy to find the node again")
    assert writers.lost(proxy) == []


SYNC_S = 3.0
"""How long the running sync takes: what else is to come while it runs takes a tenth of it."""


def test_a_write_that_waits_for_its_sync_when_the_room_ends_is_answered_when_there_is_room_again(
    farm: Farm, disk: SmallDisk
) -> None:
    node = node_on(farm, disk, disk_free_bytes_min=1, disk_check_interval_s=3600.0)
    slow = f"inject=fdatasync:delay_enter={int(SYNC_S * 1e6)}"
    with Direct(node) as one, Direct(node) as two, Direct(node) as three, ThreadPoolExecutor() as pool:
        one.write({"first": "adopts the epoch"})
        with traced(node, farm.folder / "trace", "-e", "trace=fdatasync", "-e", slow):
            syncing = pool.submit(one.write, {"a": "whose sync runs"})
            wait_until(lambda: node.info()["keys"] == 2, "the first to be written")
            waiting = pool.submit(two.write, {"b": "whose sync is the next"})
            wait_until(lambda: node.info()["keys"] == 3, "the second to be written")
            disk.fill()
            with pytest.raises(AssertionError, match="there is no room left"):
                three.write({"c": "for which there is no room" * 1000})
            assert not syncing.done(), "all of it came within one sync"
            syncing.result()
        assert three.read("first") == ["adopts the epoch"]
        assert not waiting.done()
        disk.make_room()
        waiting.result(ENGINE_BACK_PATIENCE_S)
        assert three.read("a", "b", "c") == ["whose sync runs", "whose sync is the next", None]
    assert node.ended() is None
    assert "Traceback" not in node.log()
