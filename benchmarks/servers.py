"""The servers that benchmarks measure: each a process of its own, on free ports, ended whatever happens."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
FIRST_PORT = 18_500
"""Ports are looked for from here up: below Linux's ephemeral ports, where wrk's own connections could take one."""
NODES = 3
START_PATIENCE_S = 30.0
STOP_PATIENCE_S = 5.0
CALL_TIMEOUT_S = 15.0

HERE = Path(__file__).resolve().parent
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "--nodaemon")


class Processes:
    """The processes of this benchmark, whose one owner ends each by its pid."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.by_name: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, tuple[str, ...]] = {}

    def start(self, name: str, command: tuple[str, ...]) -> subprocess.Popen[bytes]:
        # The pipe is the leash, whose end all of them notice. A session of its own keeps Ctrl-C for us.
        with open(self._log(name), "wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=HERE.parent, start_new_session=True
            )
        self.by_name[name] = process
        self._commands[name] = command
        return process

    def restart(self, name: str, hard: bool) -> None:
        """End a server in order, or with kill -9, and start it again."""
        process = self.by_name[name]
        process.send_signal(signal.SIGKILL if hard else signal.SIGTERM)
        process.wait(STOP_PATIENCE_S)
        assert process.stdin is not None
        process.stdin.close()
        self.start(name, self._commands[name])

    def started(self, name: str, command: tuple[str, ...], port: int, path: str) -> subprocess.Popen[bytes]:
        """Start a server that speaks HTTP, and wait until it answers at all."""
        return self.started_when(name, command, lambda: bool(call(port, "GET", path)))

    def started_when(self, name: str, command: tuple[str, ...], ready: Callable[[], bool]) -> subprocess.Popen[bytes]:
        """Start a server, and wait until it is ready."""
        process = self.start(name, command)

        def answers() -> bool:
            if process.poll() is not None:
                sys.exit(f"{name} ended at once:\n{self._log(name).read_text(errors='replace')[-2000:]}")
            return ready()

        wait_until(answers, f"{name} to answer")
        return process

    def stop(self) -> None:
        running = self.by_name.values()
        for process in running:
            process.terminate()
        until = time.monotonic() + STOP_PATIENCE_S
        for process in running:
            try:
                process.wait(max(until - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdin is not None
            process.stdin.close()

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"


def call(port: int, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
    connection = HTTPConnection(HOST, port, timeout=CALL_TIMEOUT_S)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def accepts(port: int) -> bool:
    """Whether somebody accepts connections there; it is an ``OSError`` if not."""
    with socket.create_connection((HOST, port), timeout=CALL_TIMEOUT_S):
        return True


def wait_until(holds: Callable[[], bool], what: str, patience_s: float = START_PATIENCE_S) -> None:
    until = time.monotonic() + patience_s
    while True:
        try:
            if holds():
                return
        except (OSError, HTTPException):
            pass
        if time.monotonic() > until:
            sys.exit(f"waited {patience_s:g} s in vain for {what}")
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    found: list[int] = []
    for port in range(FIRST_PORT, 32_768):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    sys.exit(f"no {count} free ports from {FIRST_PORT} up")


@contextmanager
def processes() -> Iterator[Processes]:
    """Give processes a folder of their own, and end them whatever happens."""
    with tempfile.TemporaryDirectory(prefix="kv-benchmark-") as folder:
        running = Processes(Path(folder))
        try:
            yield running
        finally:
            running.stop()


def cluster(
    running: Processes,
    name: str,
    *node_options: str,
    proxies: int = 1,
    size: int = NODES,
    replicas: int = NODES,
    proxy_options: tuple[str, ...] = (),
) -> tuple[list[int], list[int]]:
    """Bring up nodes and their proxies, complete and at rest; give the proxies' ports and the nodes'."""
    ports = free_ports(size + proxies)
    nodes, doors = ports[:size], ports[size:]

    # --leash ends a server even if this process is killed the hard way.
    def daemon(role: str, port: int, *options: str) -> None:
        folder = running.folder / f"{name}-{role}-{port}"
        command = (*TWISTD, role, "--leash", "--port", str(port), "--data-dir", str(folder), *options)
        running.started(f"{name}-{role}-{port}", command, port, "/health/live")

    for port in nodes:
        daemon("kvnode", port, *node_options)
    state = f"file:{running.folder / name}.json"
    urls = [f"http://{HOST}:{port}" for port in nodes]
    for port in doors:
        founded = ("--state", state, "--consistency", "strong", "--replicas", str(replicas))
        shut = () if "--resp-port" in proxy_options else ("--resp-port", "0")
        daemon("kvproxy", port, *founded, *shut, *proxy_options)
    for url in urls:
        status, answer = call(doors[0], "POST", "/AddServer", {"url": url})
        if status // 100 != 2:
            sys.exit(f"/AddServer answered {status}: {answer.decode(errors='replace')}")

    def at_rest() -> bool:
        found = json.loads(call(doors[0], "GET", "/v1/cluster")[1])
        ready = all(call(port, "GET", "/health/ready")[0] == 200 for port in doors)
        return ready and len(found["members"]) == size and not found["change"] and not found["pending"]

    # Each node may be a change of its own.
    wait_until(at_rest, "the nodes to be members", START_PATIENCE_S + 2 * size)
    return doors, nodes
