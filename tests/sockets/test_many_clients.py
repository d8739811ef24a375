"""Thousands of idle clients are cheap, slow ones are cut off, and others hardly notice."""

from __future__ import annotations

import os
import resource
import selectors
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.sockets.daemons import Daemon, Farm, call, farming, put
from tests.streams import get
from twisted_kv.limits import Limits

pytestmark = pytest.mark.system

IDLE = int(os.environ.get("KV_IDLE", "2000"))
SLOW = 1_000
KIB_EACH = 64
SHORT = """
[limits]
head_s_max = 2.0
body_s_max = 4.0
stalled_s_max = 4.0
body_bytes_per_s_min = 1000000
idle_s_max = 600.0
"""
LIMITS = Limits(head_s_max=2.0, body_s_max=4.0, stalled_s_max=4.0, body_bytes_per_s_min=1_000_000)
"""As ``SHORT`` says."""
VALUE = 1_000_000
PATIENCE_S = LIMITS.unread_s(VALUE) + 15


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with many_farming(tmp_path_factory.mktemp("many"), SHORT) as farm:
        yield farm


@contextmanager
def many_farming(folder: Path, config: str, *options: str) -> Iterator[Farm]:
    """A cluster whose proxy takes so many clients, as this process may then have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = max(IDLE, SLOW) + 500
    assert hard == resource.RLIM_INFINITY or hard >= wanted, f"{wanted} descriptors are needed, {hard} are allowed"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        (folder / "short.toml").write_text(config)
        with farming(folder) as farm:
            farm.proxy("--config", str(folder / "short.toml"), *options)
            for _ in range(3):
                farm.add(farm.node("--engine", "memory"))
            yield farm
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def connect(daemon: Daemon) -> socket.socket:
    return socket.create_connection(("127.0.0.1", daemon.port), timeout=20)


def closed_in_time(connections: list[socket.socket]) -> Counter[bytes]:
    """Wait until the daemon has closed all of them; count the statuses that it said before."""
    said: dict[socket.socket, bytes] = dict.fromkeys(connections, b"")
    deadline = time.monotonic() + PATIENCE_S
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            connection.setblocking(False)
            selector.register(connection, selectors.EVENT_READ)
        while selector.get_map():
            assert time.monotonic() < deadline, f"{len(selector.get_map())} of {len(connections)} are still open"
            for key, _ in selector.select(1):
                connection = key.fileobj
                assert isinstance(connection, socket.socket)
                try:
                    data = connection.recv(65_536)
                except ConnectionError:
                    data = b""
                said[connection] += data[:100]
                if not data:
                    selector.unregister(connection)
                    connection.close()
    return Counter(text[9:12] for text in said.values())


def test_thousands_of_idle_connections_take_little_memory_each(farm: Farm) -> None:
    proxy = farm.proxies[0]
    put(proxy, "a", "1")
    before = proxy.resident_kib()
    idle = [connect(proxy) for _ in range(IDLE)]
    for connection in idle:
        connection.sendall(get(b"/GET?Key=a"))
    for connection in idle:
        assert connection.recv(1_000).startswith(b"HTTP/1.1 200 ")
    each_kib = (proxy.resident_kib() - before) / IDLE
    assert each_kib < KIB_EACH
    for connection in idle:
        connection.sendall(get(b"/GET?Key=a"))
        assert connection.recv(1_000).startswith(b"HTTP/1.1 200 ")
    for connection in idle:
        connection.close()


SLOWLY = {
    "heads": (b"PUT /PUT HTTP/1.1\r\nHost: loc", b"408"),
    "heads of other calls": (b"GET /v1/cluster HTTP/1.1\r\nHost: loc", b"408"),
    "bodies": (get(b"/PUT", b"Content-Length: 100", method=b"PUT") + b'{"Key', b"408"),
    "bodies in chunks": (get(b"/v1/bulk", b"Transfer-Encoding: chunked", method=b"POST") + b"5\r\nab", b"408"),
}


@pytest.mark.parametrize("kind", SLOWLY)
def test_slow_clients_are_cut_off_and_others_are_served_meanwhile(farm: Farm, kind: str) -> None:
    proxy = farm.proxies[0]
    begun, status = SLOWLY[kind]
    slow = [connect(proxy) for _ in range(SLOW)]
    for connection in slow:
        connection.sendall(begun)
    for n in range(100):
        assert put(proxy, f"k{n}", "v").status == 200
    assert closed_in_time(slow) == {status: SLOW}


@pytest.mark.parametrize("field", [b"Connection: keep-alive", b"Connection: keep-alive, x"], ids=["lane", "guest"])
def test_clients_that_do_not_read_are_cut_off_and_others_are_served_meanwhile(farm: Farm, field: bytes) -> None:
    proxy = farm.proxies[0]
    assert call("PUT", f"{proxy.url}/v1/kv/large", bytes(VALUE)).status == 204
    before = proxy.resident_kib()
    deaf = []
    for _ in range(100):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        connection.settimeout(20)
        connection.connect(("127.0.0.1", proxy.port))
        connection.sendall(get(b"/v1/kv/large", field) * 20)
        deaf.append(connection)
    for n in range(100):
        assert put(proxy, f"k{n}", "v").status == 200
    # Of twenty answers that each asked for, one is in memory: the next is not begun before it was read.
    assert proxy.resident_kib() - before < 100 * 4 * 1_024
    deadline = time.monotonic() + PATIENCE_S
    while clients(proxy.port) > 5:
        assert time.monotonic() < deadline, "they are still connected"
        time.sleep(0.5)
    for connection in deaf:
        connection.close()
    assert put(proxy, "after", "v").status == 200


def clients(port: int) -> int:
    """How many connections a daemon's port has, as the kernel sees them on its side."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)
