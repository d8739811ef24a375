"""Disks of 8 MiB that fill up, turn read-only or refuse a write, and descriptors that run out: on real processes.

``test_full_disk`` looks at the very end of a disk, ``test_syncs`` and ``test_sync_failure`` at syncs that fail.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPException
from pathlib import Path
from random import Random

import pytest

from tests.sockets.copies import limited, wait_up
from tests.sockets.daemons import TWISTD, Daemon, Farm, answers, call, farming, free_ports, get, put, wait_until
from tests.sockets.rolling import Plain
from tests.sockets.small_disk import SmallDisk
from tests.sockets.steady import Steady
from tests.sockets.tracing import traced
from tests.sockets.writers import value_of, write, wrong

pytestmark = pytest.mark.system

MIB = 1024 * 1024
KEYS = [f"key{number}" for number in range(50)]
KEPT_BYTES = 2 * MIB
BACK_PATIENCE_S = 30.0


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    small = SmallDisk(tmp_path / "disk", 8)
    try:
        yield small
    finally:
        small.unmount()


@pytest.fixture
def farm(disk: SmallDisk, tmp_path: Path) -> Iterator[Farm]:
    with farming(tmp_path) as built:
        yield built


def node_on(farm: Farm, disk: SmallDisk, kept_bytes: int = KEPT_BYTES) -> Daemon:
    """Start a node on the small disk. It looks at the room often: a client fills 8 MiB in less than a second."""
    limits = limited(farm, "node", disk_free_bytes_min=kept_bytes, disk_check_interval_s=0.02)
    return farm.node("--data-dir", str(disk.folder / "node"), *limits)


def is_first(key: str, value: bytes) -> bool:
    return value == value_of(key, 1)


def untroubled(*daemons: Daemon) -> None:
    for daemon in daemons:
        assert daemon.ended() is None, daemon.log()
        assert "Traceback" not in daemon.log()


def fill(proxy: Daemon) -> dict[str, bytes]:
    """Write until that is refused for want of room; give what was acknowledged."""
    random = Random(1)
    acknowledged = {}
    for number in range(1_000):
        key, value = f"fill{number}", random.randbytes(50_000)
        got = call("PUT", f"{proxy.url}/v1/kv/{key}", value)
        if got.status == 507:
            problem = got.json()
            assert problem["type"] == "no-room"
            assert problem["maybe_applied"] is False
            assert "make room" in problem["hint"]
            assert got.headers["Retry-After"]
            return acknowledged
        assert got.status == 204, got.body
        acknowledged[key] = value
    pytest.fail("the disk does not end")


def test_a_node_on_8_mib_refuses_values_with_507_and_takes_them_again_when_there_is_room(
    farm: Farm, disk: SmallDisk
) -> None:
    ballast = disk.folder / "ballast"
    ballast.write_bytes(bytes(3 * MIB))
    proxy = farm.proxy("--replicas", "1")
    node = node_on(farm, disk)
    farm.add(node)
    write(proxy, KEYS)
    acknowledged = fill(proxy)
    assert acknowledged, "some of it found room"
    wait_until(lambda: call("GET", f"{node.url}/health/ready").status == 503, "the node to say so")
    assert call("GET", f"{node.url}/health/live").status == 200
    assert wrong(proxy, KEYS, is_first) == []
    assert wrong(proxy, acknowledged, lambda key, value: value == acknowledged[key]) == []
    gone = next(iter(acknowledged))
    assert call("DELETE", f"{proxy.url}/v1/kv/{gone}").status == 204
    assert call("GET", f"{proxy.url}/v1/kv/{gone}").status == 404
    del acknowledged[gone]
    ballast.unlink()
    wait_until(lambda: put(proxy, "more", "more").status == 200, "values to be taken again", BACK_PATIENCE_S)
    assert call("GET", f"{node.url}/health/ready").status == 200
    untroubled(node, proxy)
    assert "the disk is full: " in node.log()
    assert "there is room again" in node.log()
    node.kill()
    node.start()
    wait_until(lambda: get(proxy, "more").status == 200, "the proxy to find the node again")
    assert wrong(proxy, KEYS, is_first) == []
    assert wrong(proxy, acknowledged, lambda key, value: value == acknowledged[key]) == []


def test_a_node_that_met_the_very_end_of_8_mib_finds_back_by_itself(farm: Farm, disk: SmallDisk) -> None:
    """RocksDB would wait for more room than this disk has."""
    ballast = disk.folder / "ballast"
    ballast.write_bytes(bytes(5 * MIB))
    proxy = farm.proxy("--replicas", "1")
    node = node_on(farm, disk, kept_bytes=1)
    farm.add(node)
    life, process = node.info()["incarnation"], node.process
    write(proxy, KEYS)
    acknowledged = fill(proxy)
    assert wrong(proxy, KEYS, is_first) == []
    ballast.unlink()
    wait_until(lambda: put(proxy, "more", "more").status == 200, "values to be taken again", 3 * BACK_PATIENCE_S)
    assert (node.info()["incarnation"], node.process) == (life, process)
    assert wrong(proxy, KEYS, is_first) == []
    assert wrong(proxy, acknowledged, lambda key, value: value == acknowledged[key]) == []
    untroubled(node, proxy)


def test_a_full_disk_on_one_node_of_three_is_no_clients_business_and_it_catches_up(farm: Farm, disk: SmallDisk) -> None:
    proxy = farm.proxy()
    node = node_on(farm, disk)
    for one in (node, farm.node(), farm.node()):
        farm.add(one)
    with Steady([proxy], 3, 30, Random(1)) as steady:
        steady.wait_for_more(200, "before the disk is full")
        disk.fill(leave_bytes=KEPT_BYTES // 2)
        wait_until(lambda: "the disk is full" in node.log(), "the node to notice")
        steady.wait_for_more(500, "without its disk")
        disk.make_room()
        wait_until(lambda: "there is room again" in node.log(), "the node to notice", BACK_PATIENCE_S)
        steady.wait_for_more(200, "with it")
    assert steady.refused == []
    assert steady.wrong(proxy) == []
    steady.wait_alike(proxy, farm.nodes, 60.0)
    untroubled(*farm.nodes, proxy)


@pytest.mark.parametrize(
    ("fault", "said"), [("EROFS", "Read-only file system"), ("EIO", "Input/output error")], ids=["read-only", "EIO"]
)
def test_a_node_whose_disk_refuses_a_write_leaves_and_comes_back_when_it_may_write_again(
    farm: Farm, disk: SmallDisk, fault: str, said: str
) -> None:
    proxy = farm.proxy()
    node = node_on(farm, disk)
    for one in (node, farm.node(), farm.node()):
        farm.add(one)
    life = node.info()["incarnation"]
    write(proxy, KEYS)
    logs = [str(path) for path in (disk.folder / "node" / "data").glob("*.log")]
    with Steady([proxy], 3, 30, Random(1)) as steady:
        steady.wait_for_more(100, "before the disk fails")
        failing = ["-P", *logs, "-e", "trace=write", "-e", f"inject=write:error={fault}"]
        with traced(node, farm.folder / "trace", *failing):
            wait_until(lambda: node.ended() is not None, "the node to end")
        assert node.ended() == 1
        assert "the disk has failed, the node ends: " in node.log()
        assert said in node.log()
        steady.wait_for_more(200, "without the node")
        disk.remount("ro")
        node.launch()
        wait_until(lambda: node.ended() is not None, "the node to end")
        assert node.ended() == 1
        assert "Read-only file system" in node.log()
        disk.remount("rw")
        node.start()
        wait_up(proxy, 3, 60.0)
        steady.wait_for_more(200, "with it")
    assert node.info()["incarnation"] == life, "it has forgotten nothing"
    assert steady.refused == []
    assert steady.wrong(proxy) == []
    assert wrong(proxy, KEYS, is_first) == []
    untroubled(*farm.nodes, proxy)


def test_a_write_for_which_the_kernel_has_no_room_is_refused_and_nothing_acknowledged_is_lost(
    farm: Farm, disk: SmallDisk
) -> None:
    proxy = farm.proxy("--replicas", "1")
    node = node_on(farm, disk)
    farm.add(node)
    write(proxy, KEYS)
    logs = [str(path) for path in (disk.folder / "node" / "data").glob("*.log")]
    failing = ["-P", *logs, "-e", "trace=write", "-e", "inject=write:error=ENOSPC"]
    with traced(node, farm.folder / "trace", *failing):
        statuses = {put(proxy, f"more{number}", "more").status for number in range(3)}
        assert statuses <= {503, 507}
        assert wrong(proxy, KEYS, is_first) == []
    wait_until(lambda: put(proxy, "more", "more").status == 200, "values to be taken again", 3 * BACK_PATIENCE_S)
    untroubled(node, proxy)
    node.kill()
    node.start()
    wait_until(lambda: get(proxy, "more").status == 200, "the proxy to find the node again")
    assert wrong(proxy, KEYS, is_first) == []


def test_a_proxy_whose_state_has_no_room_serves_data_and_changes_members_when_there_is_room(
    farm: Farm, disk: SmallDisk
) -> None:
    state = disk.folder / "proxy" / "state.json"
    proxy = Daemon(farm.folder, "kvproxy", free_ports(1), "--state", f"file:{state}", "--data-dir", str(state.parent))
    farm.proxies.append(proxy)
    for _ in range(3):
        farm.add(farm.node())
    write(proxy, KEYS)
    before = state.read_bytes()
    disk.fill()
    fourth = farm.node()
    refused = call("POST", f"{proxy.url}/AddServer", json.dumps({"url": fourth.url, "weight": 1}).encode())
    assert refused.status == 503
    assert "No space left" in refused.json()["detail"]
    assert "free space" in refused.json()["hint"]
    assert state.read_bytes() == before
    write(proxy, KEYS, turn=2)
    proxy.kill()
    proxy.launch()
    wait_until(lambda: proxy.ended() is not None, "the proxy to say that it cannot start")
    assert "No space left" in proxy.log()
    disk.make_room()
    proxy.start()
    wait_until(lambda: get(proxy, KEYS[0]).status == 200, "the proxy to serve")
    farm.add(fourth)
    wait_up(proxy, 4, 60.0)
    assert wrong(proxy, KEYS, lambda key, value: value == value_of(key, 2)) == []
    untroubled(*farm.nodes, proxy)


def test_kvcluster_starts_a_node_again_that_ended_by_itself(tmp_path: Path) -> None:
    first = free_ports(4)
    options = ["--base-port", str(first), "--port", str(first + 3), "--resp-port", "0", "--data-dir", "data"]
    with open(tmp_path / "out", "wb") as out:
        process = subprocess.Popen([*TWISTD, "-n", "kvcluster", *options], cwd=tmp_path, stdout=out, stderr=out)
    try:
        wait_until(lambda: "the cluster is ready" in (tmp_path / "out").read_text(), "kvcluster to be ready")
        home = tmp_path / "data" / f"node-{first}"
        pid = int((home / "twistd.pid").read_text())
        url = f"http://127.0.0.1:{first + 3}/v1/kv/key"
        command = ["strace", "-f", "-p", str(pid), "-o", "/dev/null", "-e", "inject=fdatasync:error=EIO"]
        with open(tmp_path / "said", "wb") as said:
            tracer = subprocess.Popen(command, stdout=said, stderr=said)
        try:
            wait_until(lambda: "attached" in (tmp_path / "said").read_text(), "strace to be attached")
            assert call("PUT", url, b"value").status == 204
            tracer.wait(20)  # it ends with the node
        finally:
            tracer.kill()
            tracer.wait()
        wait_until(lambda: f"{first} is up again" in (tmp_path / "out").read_text(), "the node to be up again", 40.0)
        assert int((home / "twistd.pid").read_text()) != pid
        assert "the disk has failed, the node ends" in (home / "twistd.log").read_text()
        assert call("GET", url).body == b"value"
    finally:
        process.terminate()
        process.wait(40)


# Descriptors.

SPARE = 5
"""Descriptors that are not to be taken by clients, at the least."""


def descriptors(daemon: Daemon) -> int:
    assert daemon.process is not None
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def allow(daemon: Daemon, most: int) -> None:
    assert daemon.process is not None
    subprocess.run(["prlimit", f"--pid={daemon.process.pid}", f"--nofile={most}:"], check=True)


@contextmanager
def idle_clients(port: int, count: int) -> Iterator[None]:
    """Connect, and ask nothing."""
    with ExitStack() as stack:
        for _ in range(count):
            try:
                stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            except OSError:
                pass  # who is not let in has no descriptor
        yield


@pytest.mark.parametrize("lane", ["true", "false"])
@pytest.mark.parametrize("who", ["proxy", "node"])
def test_idle_clients_leave_a_daemon_the_descriptors_that_it_needs(farm: Farm, who: str, lane: str) -> None:
    first = free_ports(1)
    proxy = farm.proxy("--resp-port", str(first), "--lane", lane)
    for _ in range(3):
        farm.add(farm.node("--lane", lane))
    write(proxy, KEYS)
    crowded = proxy if who == "proxy" else farm.nodes[0]
    most = 2 * descriptors(crowded) + 100  # it goes on to connect to nodes
    allow(crowded, most)
    with idle_clients(crowded.port, 3 * most):
        wait_until(lambda: descriptors(crowded) < most - SPARE, "its own files and calls to have some left")
        # Who comes in the very moment of the rush may find no room.
        wait_until(lambda: answers(f"{proxy.url}/health/live"), "clients who ask something to be let in")
        for turn in range(2, 12):
            write(proxy, KEYS, turn)
        assert _reads(proxy, 11)
        if who == "proxy":
            with idle_clients(first, 3 * most):
                wait_until(lambda: descriptors(crowded) < most - SPARE, "some to be left")
                wait_until(lambda: _reads(proxy, 11), "clients who ask something to be let in")
                with idle_clients(first, most):
                    wait_until(lambda: greeting(first) == b"-ERR max number of clients reached\r\n", "a refusal")
    write(proxy, KEYS, 12)
    assert wrong(proxy, KEYS, lambda key, value: value == value_of(key, 12)) == []
    if who == "proxy":
        wait_until(lambda: _pings(first), "Redis clients to be let in again")
    untroubled(*farm.nodes, proxy)
    assert "file descriptors are short" in crowded.log()


def _reads(proxy: Daemon, turn: int) -> bool:
    """Whether all keys can be read; each has to hold what was written then. Who comes in a rush may find no room."""
    try:
        assert wrong(proxy, KEYS, lambda key, value: value == value_of(key, turn)) == []
    except (OSError, HTTPException):
        return False
    return True


def greeting(port: int) -> bytes:
    """What the Redis door says before anything was asked: nothing to those whom it lets in."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=3) as client:
            return client.recv(100)
    except OSError:
        return b""


def _pings(port: int) -> bool:
    try:
        client = Plain(port)
    except OSError:
        return False
    try:
        return client.ask(b"PING\r\n") == b"+PONG"
    except OSError:
        return False
    finally:
        client.close()


def test_a_node_that_may_open_no_file_at_all_loses_nothing(farm: Farm) -> None:
    """Not even those that it had: its log grows on, its tables cannot be written out, and it may have to leave."""
    proxy = farm.cluster(3)
    node = farm.nodes[0]
    life = node.info()["incarnation"]
    with Steady([proxy], 3, 30, Random(1)) as steady:
        steady.wait_for_more(100, "before")
        allow(node, descriptors(node) // 2)
        steady.wait_for_more(500, "without descriptors")
        if node.ended() is None:
            allow(node, 1024)
        else:
            node.start()
        wait_up(proxy, 3, 60.0)
        steady.wait_for_more(200, "after")
    assert node.info()["incarnation"] == life
    assert steady.wrong(proxy) == []
    assert "Traceback" not in node.log()
