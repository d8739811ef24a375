"""Tokens on real daemons: every route of every role, the link, the Redis door, workers, and rotation."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest

from tests.sockets.daemons import TWISTD, Got, Silent, call, free_port, token_file, wait_until
from twisted_kv.fasthttp.gate import READING_POSTS
from twisted_kv.limits import Limits
from twisted_kv.metrics import NodeMetrics, ProxyMetrics
from twisted_kv.node import node_app
from twisted_kv.quorum import Level
from twisted_kv.rooms import Rooms
from twisted_kv.web.site import App

CLIENT, READER, NODE = "client" * 6, "reader" * 6, "node" * 8
ANY: Any = None


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


class Guarded:
    """A node and a proxy, each with tokens of its own."""

    def __init__(self, folder: Path, *options: str, of_node: Sequence[str] = ()) -> None:
        self.clients = token_file(folder / "client.tokens", f"read-write {CLIENT}", f"read-only {READER}")
        self.nodes = token_file(folder / "node.tokens", f"read-write {NODE}", f"read-only {READER}")
        self.resp_port = free_port()
        own = ("--engine", "memory", "--token-file", str(self.nodes))
        self.node = Silent(folder, "kvnode", free_port(), *own, *of_node)
        files = ("--token-file", str(self.clients), "--node-token-file", str(self.nodes))
        nodes = ("--nodes", self.node.url, "--resp-port", str(self.resp_port), "--replicas", "1")
        self.proxy = Silent(folder, "kvproxy", free_port(), *files, *nodes, *options)
        self.daemons = [self.node, self.proxy]
        wait_until(lambda: self.put("there").status == 200, "the proxy to serve")

    def put(self, value: str, token: str = CLIENT) -> Got:
        body = b'{"Key": "k", "Value": "%s"}' % value.encode()
        return call("PUT", f"{self.proxy.url}/PUT", body, **bearer(token))

    def stop(self) -> None:
        for daemon in reversed(self.daemons):
            daemon.end(signal.SIGTERM)


@pytest.fixture
def guarded(tmp_path: Path) -> Any:
    started = Guarded(tmp_path)
    yield started
    started.stop()


@pytest.fixture
def linked(tmp_path: Path) -> Any:
    """The same over links, which a node without the lane does not have."""
    started = Guarded(tmp_path, "--transport", "link", of_node=("--lane", "true"))
    yield started
    started.stop()


def routes(app: App) -> list[tuple[str, str]]:
    return [(method, rule.rule) for rule in app.url_map.iter_rules() for method in sorted(rule.methods or ())]


def proxy_app() -> App:
    """A proxy's door as ``Rooms`` makes it, over rooms that are not there: only its routes are looked at."""
    rooms = Rooms.__new__(Rooms)
    for name in ("coordinator", "roster", "listing", "mover", "mender", "saver", "explainer", "_now_ms", "_clock"):
        setattr(rooms, name, ANY)
    rooms.metrics = ProxyMetrics()
    return rooms.app(Limits(), Level.STRONG)


def test_every_route_of_every_role_asks_for_a_token(guarded: Guarded) -> None:
    apps = {guarded.node.url: node_app(Mock(), ANY, NodeMetrics(), Limits(), ANY), guarded.proxy.url: proxy_app()}
    seen = 0
    for url, app in apps.items():
        for method, path in routes(app):
            seen += 1
            if path in ("/", "/ui") or path.startswith("/ui/"):
                continue  # what it is made of holds no secret: see the test of the dashboard
            for shown in ({}, bearer("x" * 32), {"Authorization": f"Basic {CLIENT}"}):
                got = call(method, url + path, b"", **cast(dict[str, str], shown))
                assert got.status == 401, (method, path)
                assert got.headers["WWW-Authenticate"].startswith("Bearer")
            if method in ("GET", "HEAD", "QUERY") or (method == "POST" and path.encode() in READING_POSTS):
                continue
            weak = call(method, url + path, b"", **bearer(READER))
            assert (weak.status, weak.json()["type"]) == (403, "token-too-weak"), (method, path)
    assert seen > 30


def test_the_dashboard_s_files_are_read_without_a_token_and_nothing_else_is(guarded: Guarded) -> None:
    for method in ("GET", "HEAD"):
        for path in ("/", "/ui", "/ui/", "/ui/js/main.js"):
            assert call(method, guarded.proxy.url + path).status == 200
    assert call("GET", f"{guarded.proxy.url}/ui/nothing.js").status == 404
    for method, path in (
        ("POST", "/ui/"),
        ("POST", "/"),
        ("PUT", "/ui/js/main.js"),
        ("GET", "/v1/events"),
        ("GET", "/v1/snapshot"),
    ):
        assert call(method, guarded.proxy.url + path, b"").status == 401, (method, path)
    for path in ("/ui/../v1/cluster", "/ui/%2e%2e/v1/cluster", "/ui//v1/cluster", "/ui/..;/v1/kv/k"):
        assert call("GET", guarded.proxy.url + path).status == 404, path
    for path in ("/", "/ui/"):
        assert call("GET", guarded.node.url + path).status == 401, path


def test_each_role_s_token_opens_its_own_doors_only(guarded: Guarded) -> None:
    assert call("GET", f"{guarded.proxy.url}/v1/cluster", **bearer(READER)).status == 200
    assert call("GET", f"{guarded.proxy.url}/v1/cluster", **bearer(NODE)).status == 401
    assert call("GET", f"{guarded.node.url}/node/v1/info", **bearer(NODE)).status == 200
    assert call("GET", f"{guarded.node.url}/node/v1/info", **bearer(CLIENT)).status == 401


def test_a_token_is_asked_for_before_the_body_comes(guarded: Guarded) -> None:
    with socket.create_connection(("127.0.0.1", guarded.proxy.port), timeout=10) as client:
        client.sendall(b"PUT /PUT HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        answer = client.recv(4096)
    assert answer.startswith(b"HTTP/1.1 401 ")


def test_over_links(linked: Guarded) -> None:
    wait_until(
        lambda: "kv_links 1.0" in call("GET", f"{linked.proxy.url}/metrics", **bearer(CLIENT)).body.decode(), "a link"
    )
    with socket.create_connection(("127.0.0.1", linked.node.port), timeout=60) as client:
        client.sendall(
            b"GET /node/v1/link HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: kv-link/1\r\n"
            b"Authorization: Bearer " + READER.encode() + b"\r\n\r\n"
        )
        assert client.recv(4096).startswith(b"HTTP/1.1 403 ")


def test_tokens_are_rotated_without_a_restart(tmp_path: Path) -> None:
    started = Guarded(tmp_path, "--workers", "2")
    new = "renewed" * 5
    try:
        token_file(started.clients, f"read-write {new}", f"read-write {CLIENT}")
        for daemon in started.daemons:
            assert daemon.process is not None
            os.kill(daemon.process.pid, signal.SIGHUP)

        def everywhere(token: str, status: int) -> bool:
            # The kernel spreads connections over both workers.
            return all(started.put("a", token).status == status for _ in range(20))

        wait_until(lambda: everywhere(new, 200), "the new token to hold")
        assert everywhere(CLIENT, 200)

        token_file(started.clients, f"read-write {new}")
        assert started.proxy.process is not None
        os.kill(started.proxy.process.pid, signal.SIGHUP)
        wait_until(lambda: everywhere(CLIENT, 401), "the old token to hold no more")
        assert everywhere(new, 200)

        started.clients.write_text("read-write no\n", encoding="ascii")
        os.kill(started.proxy.process.pid, signal.SIGHUP)
        wait_until(lambda: "the tokens stay as they were" in started.proxy.log(), "a complaint")
        assert everywhere(new, 200)
    finally:
        started.stop()
    for daemon in started.daemons:
        assert not any(secret in daemon.log() for secret in (CLIENT, READER, NODE, new))


class Resp:
    """One Redis client of a few lines."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)

    def __call__(self, *words: str) -> bytes:
        said = b"".join(b"$%d\r\n%b\r\n" % (len(word), word.encode()) for word in words)
        self._socket.sendall(b"*%d\r\n%b" % (len(words), said))
        return self.hears()

    def hears(self) -> bytes:
        """Take what comes; nothing if the connection ends."""
        try:
            return self._socket.recv(65536)
        except ConnectionResetError:
            return b""

    def close(self) -> None:
        self._socket.close()


def test_a_redis_client_shows_its_token_with_auth(guarded: Guarded) -> None:
    redis = Resp(guarded.resp_port)
    assert redis("GET", "k") == b"-NOAUTH Authentication required.\r\n"
    assert redis("HELLO", "3").startswith(b"-NOAUTH HELLO must be called")
    assert redis("AUTH", "x" * 32).startswith(b"-WRONGPASS ")
    assert redis("AUTH", "other", CLIENT).startswith(b"-WRONGPASS ")
    assert redis("AUTH", READER) == b"+OK\r\n"
    assert redis("GET", "k") == b"$5\r\nthere\r\n"
    assert redis("SET", "k", "v").startswith(b"-NOPERM ")
    assert redis("AUTH", "default", CLIENT) == b"+OK\r\n"
    assert redis("SET", "k", "v") == b"+OK\r\n"
    assert redis("RESET") == b"+RESET\r\n"
    assert redis("SET", "k", "v").startswith(b"-NOAUTH ")
    assert redis("HELLO", "3", "AUTH", "default", CLIENT).startswith(b"%7\r\n")
    redis.close()


def test_a_redis_client_without_a_token_is_kept_short(guarded: Guarded) -> None:
    for said, why in ((b"*11\r\n", b"multibulk"), (b"*2\r\n$4\r\nAUTH\r\n$16385\r\n", b"bulk")):
        with socket.create_connection(("127.0.0.1", guarded.resp_port), timeout=10) as client:
            client.sendall(said)
            assert client.recv(4096) == b"-ERR Protocol error: unauthenticated %b length\r\n" % why


def test_a_redis_client_whose_token_is_taken_away_is_cut_off(guarded: Guarded) -> None:
    redis = Resp(guarded.resp_port)
    assert redis("AUTH", READER) == b"+OK\r\n"
    token_file(guarded.clients, f"read-write {CLIENT}")
    assert guarded.proxy.process is not None
    os.kill(guarded.proxy.process.pid, signal.SIGHUP)

    def cut() -> bool:
        try:
            return redis("PING") == b""
        except OSError:
            return True

    wait_until(cut, "the connection to end")
    redis.close()


def test_a_redis_client_that_shows_no_token_in_time_is_cut_off(tmp_path: Path) -> None:
    bounds = tmp_path / "kvproxy.toml"
    bounds.write_text("[limits]\nresp_token_s_max = 5.0\n")
    started = Guarded(tmp_path, "--config", str(bounds))
    try:
        known, forgetful = Resp(started.resp_port), Resp(started.resp_port)
        assert known("AUTH", READER) == forgetful("AUTH", READER) == b"+OK\r\n"
        assert forgetful("RESET") == b"+RESET\r\n"
        for stranger in (Resp(started.resp_port), forgetful):
            assert stranger.hears() == b""
            stranger.close()
        assert known("PING") == b"+PONG\r\n"
        known.close()
    finally:
        started.stop()


def test_a_link_ends_when_its_token_may_only_read(linked: Guarded) -> None:
    assert linked.node.process is not None
    with socket.create_connection(("127.0.0.1", linked.node.port), timeout=60) as client:
        client.sendall(
            b"GET /node/v1/link HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: kv-link/1\r\n"
            b"Authorization: Bearer " + NODE.encode() + b"\r\n\r\n"
        )
        assert client.recv(4096).startswith(b"HTTP/1.1 101 ")
        token_file(linked.nodes, f"read-write {'x' * 20}", f"read-only {NODE}")
        os.kill(linked.node.process.pid, signal.SIGHUP)
        with contextlib.suppress(ConnectionResetError):
            assert client.recv(4096) == b""


def test_a_write_that_no_node_let_in_is_known_to_have_had_no_effect(guarded: Guarded) -> None:
    assert guarded.node.process is not None
    token_file(guarded.nodes, f"read-write {'x' * 20}")
    os.kill(guarded.node.process.pid, signal.SIGHUP)

    def refused() -> Got | None:
        got = guarded.put("a")
        return None if got.status == 200 else got

    got = wait_until(refused, "the node to let the proxy in no more")
    assert got.status == 503
    assert got.json()["maybe_applied"] is False
    assert b"we are not let in (status 401)" in got.body


def test_who_may_only_read_cannot_have_a_ring_of_any_size_worked_out(guarded: Guarded) -> None:
    nodes = [{"url": f"http://h{number}:1", "weight": 100} for number in range(4)]
    body = json.dumps({"add": nodes}).encode()
    got = call("POST", f"{guarded.proxy.url}/v1/cluster/plan", body, **bearer(READER))
    assert (got.status, got.json()["type"]) == (400, "bad-parameter")


@pytest.mark.parametrize(("role", "option"), [("kvnode", "--token-file"), ("kvproxy", "--node-token-file")])
def test_what_is_shown_to_nodes_has_to_be_read_write(tmp_path: Path, role: str, option: str) -> None:
    path = token_file(tmp_path / "tokens", f"read-only {READER}")
    assert "holds no read-write token" in refusal(tmp_path, role, option, str(path))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (f"# ü\nread-write {CLIENT}".encode(), "line 1 holds more than ASCII"),
        (b"\xef\xbb\xbf" + f"read-write {CLIENT}".encode(), "line 1 holds more than ASCII"),
        (b"#" * 65_510 + f"\nread-write {CLIENT}".encode(), "has more than 65536 bytes"),
    ],
)
def test_an_odd_token_file_is_refused_by_what_is_odd(tmp_path: Path, data: bytes, why: str) -> None:
    path = token_file(tmp_path / "tokens")
    path.write_bytes(data)
    assert why in refusal(tmp_path, "kvproxy", "--token-file", str(path))


@pytest.mark.parametrize(
    ("text", "mode", "why"),
    [
        (f"read-write {CLIENT}", 0o644, "others than its owner may read"),
        ("nothing", 0o600, "line 1 is no token"),
        (None, 0o600, "cannot be read"),
    ],
)
@pytest.mark.parametrize("role", ["kvnode", "kvproxy", "kvcluster"])
def test_a_bad_token_file_stops_the_start_with_a_sentence(
    tmp_path: Path, role: str, text: str | None, mode: int, why: str
) -> None:
    path = tmp_path / "tokens"
    if text is not None:
        path.write_text(text, encoding="ascii")
        path.chmod(mode)

    told = refusal(tmp_path, role, "--token-file", str(path))

    assert why in told
    assert CLIENT not in told


@pytest.mark.parametrize("role", ["kvnode", "kvproxy", "kvcluster"])
def test_strangers_are_let_in_with_tokens_only(tmp_path: Path, role: str) -> None:
    told = refusal(tmp_path, role, "--interface", "0.0.0.0")

    assert "there is no token file" in told
    assert "--token-file" in told


def refusal(folder: Path, role: str, *options: str) -> str:
    done = subprocess.run(
        [*TWISTD, "--nodaemon", role, *options], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("access", ["read-write", "read-only"])
def test_a_cluster_gives_its_nodes_a_token_of_their_own(tmp_path: Path, access: str) -> None:
    path = token_file(tmp_path / "tokens", f"{access} {CLIENT}")
    port, base, resp = free_port(), free_port(), free_port()
    log = tmp_path / "out"
    options = ("--port", str(port), "--base-port", str(base), "--resp-port", str(resp), "--nodes", "1")
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [*TWISTD, "--nodaemon", "kvcluster", "--token-file", str(path), "--engine", "memory", *options],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    try:
        wait_until(lambda: "the cluster is ready" in log.read_text(), "the cluster")
        assert call("GET", f"http://127.0.0.1:{base}/node/v1/info", **bearer(CLIENT)).status == 401
        assert call("GET", f"http://127.0.0.1:{port}/v1/cluster").status == 401
        assert call("GET", f"http://127.0.0.1:{port}/v1/cluster", **bearer(CLIENT)).status == 200
        assert (tmp_path / "kvcluster" / "node.tokens").stat().st_mode & 0o777 == 0o600
        assert 'curl -H "Authorization: Bearer $TOKEN"' in log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
