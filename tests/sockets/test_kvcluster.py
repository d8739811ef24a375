"""``twistd kvcluster`` as a user runs it: real processes, real ports, real signals."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sockets.daemons import free_ports, is_free

TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
PATIENCE_S = 60.0
"""Starting takes four interpreters' imports; a shared machine may need a multiple of the usual four seconds."""


def wait_until(holds: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Ask until the answer is true, and give it."""
    deadline = time.monotonic() + patience_s
    while not (found := holds()):
        assert time.monotonic() < deadline, f"waited {patience_s:g} s in vain: {what}"
        time.sleep(0.05)
    return found


def processes_of(session: int) -> list[int]:
    """The living processes of a session, whoever their parent is by now."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, sid = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if state != "Z" and int(sid) == session:
            found.append(int(stat.parent.name))
    return found


def call(method: str, url: str, body: str | None = None) -> tuple[int, bytes]:
    """Send what ``curl -X METHOD URL -d BODY`` sends."""
    data = None if body is None else body.encode()
    request = urllib.request.Request(url, data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=15) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


class RunningCluster:
    """One kvcluster in a session of its own, so that its processes can be told from all others."""

    def __init__(self, folder: Path, nodes: int = 3, first: int | None = None, port: int | None = None) -> None:
        self.folder = folder
        first = first or free_ports(nodes + 1)
        self.node_ports = range(first, first + nodes)
        self.port = port or first + nodes
        self.url = f"http://127.0.0.1:{self.port}"
        options = ["--nodes", str(nodes), "--base-port", str(first), "--port", str(self.port), "--data-dir", "data"]
        options += ["--resp-port", "0"]
        self._out = folder / f"terminal-{first}.out"
        with open(self._out, "wb") as out:
            self.process = subprocess.Popen(
                [*TWISTD, "-n", "kvcluster", *options],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    @property
    def ports(self) -> list[int]:
        return [*self.node_ports, self.port]

    def terminal(self) -> str:
        return self._out.read_text()

    def wait_ready(self) -> None:
        def ready() -> bool:
            assert self.process.poll() is None, self.terminal()
            return "the cluster is ready" in self.terminal()

        wait_until(ready, "kvcluster to be ready")

    def log_of(self, name: str) -> Path:
        return self.folder / "data" / name / "twistd.log"

    def pid_of(self, name: str) -> int:
        """The process id that a daemon wrote down, or 0 while there is none."""
        try:
            return int(self.log_of(name).with_name("twistd.pid").read_text() or 0)
        except FileNotFoundError:
            return 0

    def all_up(self) -> bool:
        status, body = call("GET", f"{self.url}/v1/cluster")
        return status == 200 and {member["state"] for member in json.loads(body)["members"]} == {"up"}

    def wait_gone(self, patience_s: float = PATIENCE_S) -> None:
        """Wait until no process is left, nor a taken port."""
        self.process.wait(patience_s)
        wait_until(lambda: not processes_of(self.process.pid), "the last process to end", patience_s)
        assert [port for port in self.ports if not is_free(port)] == []

    def end(self) -> None:
        for pid in processes_of(self.process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCluster]:
    """A ready cluster, for the tests that leave it whole."""
    cluster = RunningCluster(tmp_path_factory.mktemp("shared"))
    try:
        cluster.wait_ready()
        yield cluster
    finally:
        cluster.end()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningCluster]]:
    """Starts clusters in one folder, waits until they are ready, and leaves nothing behind."""
    started: list[RunningCluster] = []

    def start(nodes: int = 3, first: int | None = None, port: int | None = None) -> RunningCluster:
        started.append(RunningCluster(tmp_path, nodes, first, port))
        started[-1].wait_ready()
        return started[-1]

    try:
        yield start
    finally:
        for cluster in started:
            cluster.end()


def test_the_originals_calls_are_answered(shared: RunningCluster) -> None:
    for port in shared.node_ports:
        server = json.dumps({"url": f"http://127.0.0.1:{port}", "weight": 1})
        assert call("POST", f"{shared.url}/AddServer", server) == (200, b"")

    assert call("PUT", f"{shared.url}/PUT", '{"Key": "language", "Value": "Go"}') == (200, b"")

    status, body = call("GET", f"{shared.url}/GET", '{"Key": "language"}')
    assert (status, json.loads(body)) == (200, "Go")


def test_the_curl_lines_on_the_terminal_work_as_shown(shared: RunningCluster) -> None:
    lines = [shlex.split(line) for line in shared.terminal().splitlines() if "curl" in line]

    answers = [call(method, url, data) for _, _, method, url, _, data in lines]

    assert answers == [(200, b""), (200, b'"Go"')]


def test_the_terminal_names_every_address_and_log_in_short_lines(shared: RunningCluster) -> None:
    shown = shared.terminal()

    for name, port in [("proxy", shared.port), *((f"node-{port}", port) for port in shared.node_ports)]:
        assert f"{name} " in shown
        assert f"http://127.0.0.1:{port} " in shown
        assert f"data/{name}/twistd.log\n" in shown
        assert shared.log_of(name).stat().st_size > 0
    assert "Starting factory" not in shown
    own_lines = [line for line in shown.splitlines() if "[twisted." not in line]
    assert max(map(len, own_lines)) <= 100


def test_every_file_lies_in_the_data_directory(shared: RunningCluster) -> None:
    outside = {path.name for path in shared.folder.iterdir()}
    assert {name for name in outside if not name.startswith("terminal-")} == {"data"}

    folders = {path.name for path in (shared.folder / "data").iterdir() if path.is_dir()}
    assert folders == {"proxy", *(f"node-{port}" for port in shared.node_ports)}
    assert int((shared.folder / "data" / "twistd.pid").read_text()) == shared.process.pid


def test_a_killed_node_comes_back_and_the_data_is_still_there(shared: RunningCluster) -> None:
    assert call("PUT", f"{shared.url}/PUT", '{"Key": "survivor", "Value": "here"}') == (200, b"")
    name = f"node-{shared.node_ports[1]}"
    killed = shared.pid_of(name)

    os.kill(killed, signal.SIGKILL)

    wait_until(lambda: shared.pid_of(name) not in (0, killed), "the node to be started again")
    wait_until(shared.all_up, "the node to be a full member again")
    wait_until(lambda: call("GET", f"{shared.url}/health/ready")[0] == 200, "the cluster to be ready again")
    assert call("GET", f"{shared.url}/GET", '{"Key": "survivor"}') == (200, b'"here"')
    assert f"{name} ended and is started again" in shared.terminal()


def test_a_killed_proxy_comes_back_with_its_cluster(shared: RunningCluster) -> None:
    assert call("PUT", f"{shared.url}/PUT", '{"Key": "beyond", "Value": "proxies"}') == (200, b"")
    killed = shared.pid_of("proxy")

    os.kill(killed, signal.SIGKILL)

    wait_until(lambda: shared.pid_of("proxy") not in (0, killed), "the proxy to be started again")
    wait_until(lambda: not is_free(shared.port) and shared.all_up(), "the proxy to see its nodes")
    assert call("GET", f"{shared.url}/GET", '{"Key": "beyond"}') == (200, b'"proxies"')


def test_ctrl_c_stops_everything_and_frees_every_port(start: Callable[..., RunningCluster]) -> None:
    cluster = start()

    os.killpg(cluster.process.pid, signal.SIGINT)

    cluster.wait_gone()
    assert cluster.process.returncode == -signal.SIGINT
    assert list((cluster.folder / "data").rglob("twistd.pid")) == []
    shown = cluster.terminal()
    assert "stopping the proxy, then the nodes" in shown
    assert "Traceback" not in shown
    assert "started again" not in shown


def test_the_proxy_ends_before_the_nodes_and_who_does_not_listen_is_killed(
    start: Callable[..., RunningCluster],
) -> None:
    """Two nodes of three are frozen, so that a write keeps the proxy busy for as long as it waits for its clients."""
    cluster = start()
    alert, *frozen = [f"node-{port}" for port in cluster.node_ports]
    for name in frozen:
        os.kill(cluster.pid_of(name), signal.SIGSTOP)
    client = http.client.HTTPConnection("127.0.0.1", cluster.port, timeout=PATIENCE_S)
    try:
        client.request("PUT", "/PUT", '{"Key": "a", "Value": "b"}')
        under_way = b"\nkv_operations_under_way 1.0\n"
        wait_until(lambda: under_way in call("GET", f"{cluster.url}/metrics")[1], "the write to be under way")

        cluster.process.send_signal(signal.SIGTERM)

        cluster.wait_gone()
    finally:
        client.close()
    # Stopped at once, the node would have ended while the proxy still waited.
    assert cluster.log_of(alert).stat().st_mtime_ns > cluster.log_of("proxy").stat().st_mtime_ns
    assert "Server Shut Down" in cluster.log_of(alert).read_text()
    assert "Server Shut Down" in cluster.log_of("proxy").read_text()


def test_a_kill_of_kvcluster_leaves_no_process_and_no_taken_port_and_it_goes_on_when_started_again(
    start: Callable[..., RunningCluster],
) -> None:
    cluster = start()
    assert len(processes_of(cluster.process.pid)) == 5
    assert call("PUT", f"{cluster.url}/PUT", '{"Key": "a", "Value": "b"}') == (200, b"")

    cluster.process.kill()

    cluster.wait_gone()
    again = start(first=cluster.node_ports[0])
    assert call("GET", f"{again.url}/GET", '{"Key": "a"}') == (200, b'"b"')


def test_a_taken_port_is_said_plainly_and_nothing_is_started(tmp_path: Path) -> None:
    first = free_ports(4)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first + 1))
        taken.listen()

        process = subprocess.Popen(
            [*TWISTD, "-n", "kvcluster", "--base-port", str(first), "--port", str(first + 3), "--resp-port", "0"],
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            text=True,
        )
        try:
            shown, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()

    assert process.returncode == 1
    (line,) = shown.splitlines()
    assert line.startswith(f"kvcluster: port {first + 1} on 127.0.0.1 cannot be used: Address already in use (")
    assert processes_of(process.pid) == []
    assert list(tmp_path.iterdir()) == []


def test_members_that_are_not_started_here_any_more_are_named(start: Callable[..., RunningCluster]) -> None:
    cluster = start()
    cluster.process.send_signal(signal.SIGTERM)
    cluster.process.wait(PATIENCE_S)
    smaller = start(nodes=2, first=cluster.node_ports[0], port=cluster.port)
    assert f"down and not started here: http://127.0.0.1:{cluster.node_ports[2]};" in smaller.terminal()
