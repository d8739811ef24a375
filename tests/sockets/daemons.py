"""Real daemons for tests: started as a user would, on free ports, waited for, and stopped by process id."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any, NamedTuple

TWISTD = [sys.executable, "-c", "from twisted.scripts.twistd import run; run()"]
PATIENCE_S = 60.0
"""How long a machine that does much else may take to what a free one does in two or three seconds."""


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    return free_ports(1)


def free_ports(count: int) -> int:
    """Give the first of so many consecutive free ports.

    They lie below those that the kernel gives to outgoing connections: one of these could take it meanwhile.
    """
    while True:
        first = random.randrange(20_000, 32_000 - count)
        if all(is_free(port) for port in range(first, first + count)):
            return first


def accepts(port: int) -> bool:
    """Whether somebody listens on it."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def token_file(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), encoding="ascii")
    path.chmod(0o600)
    return path


def wait_until(holds: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """Ask until the answer is true, and give it."""
    deadline = time.monotonic() + patience_s
    while True:
        found = holds()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {patience_s:g} s in vain: {what}"
        time.sleep(0.02)


class Got(NamedTuple):
    status: int
    body: bytes
    headers: Message

    def json(self) -> Any:
        return json.loads(self.body)


def call(method: str, url: str, body: bytes | None = None, **headers: str) -> Got:
    """Send one HTTP request; an error status is an answer like any other."""
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=75) as response:
            return Got(response.status, response.read(), response.headers)
    except urllib.error.HTTPError as error:
        return Got(error.code, error.read(), error.headers)


def answers(url: str) -> bool:
    try:
        return call("GET", url).status == 200
    except OSError:
        return False


class Daemon:
    """One twistd process in the foreground of its own session.

    ``KVNODE_OPTIONS`` and ``KVPROXY_OPTIONS`` in the environment are given to each daemon of that role: see ``make
    test-doors``.
    """

    def __init__(self, folder: Path, role: str, port: int, *options: str) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        more = os.environ.get(f"{role.upper()}_OPTIONS", "").split()
        if role != "kvnode" and "--resp-port" not in options:
            more += ["--resp-port", "0"]  # they would all ask for the usual one
        self._command = [*TWISTD, "--nodaemon", role, "--port", str(port), *more, *options]
        self._folder = folder
        self.home = folder / f"{role}-{port}"
        """Where it keeps everything, unless an option names another folder."""
        self._log = folder / f"{role}-{port}.out"
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self.launch()
        self.wait_alive()

    def launch(self, under: Sequence[str] = ()) -> None:
        """Start it, and do not wait.

        :param under: a command that becomes this one, in the same process.
        """
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                [*under, *self._command], cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def wait_alive(self) -> None:
        wait_until(lambda: answers(f"{self.url}/health/live") or self._died(), f"{self.url} to live")

    def ended(self) -> int | None:
        """The status with which it ended by itself, None while it runs."""
        assert self.process is not None
        return self.process.poll()

    def info(self) -> Any:
        """What a node says of itself."""
        return call("GET", f"{self.url}/node/v1/info").json()

    def _died(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        return False

    def resident_kib(self) -> int:
        """How much memory it takes."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS"))

    def log(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        """kill -9"""
        self.end(signal.SIGKILL)

    def end(self, with_signal: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None:
            self.process.send_signal(with_signal)
            self.process.wait(PATIENCE_S)
            self.process = None


class Silent(Daemon):
    """A daemon that answers nobody without more ado: it is there when its port is open."""

    def wait_alive(self) -> None:
        wait_until(lambda: accepts(self.port) or self._died(), f"port {self.port} to be open")


class Farm:
    """Nodes and proxies in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nodes: list[Daemon] = []
        self.proxies: list[Daemon] = []

    def node(self, *options: str) -> Daemon:
        self.nodes.append(Daemon(self.folder, "kvnode", free_port(), *options))
        return self.nodes[-1]

    def proxy(self, *options: str) -> Daemon:
        state = f"file:{self.folder}/state.json"
        kind = Silent if "--token-file" in options else Daemon
        self.proxies.append(kind(self.folder, "kvproxy", free_port(), "--state", state, *options))
        return self.proxies[-1]

    def cluster(self, nodes: int, *options: str) -> Daemon:
        """Start nodes and a proxy, and add them as the original's users do."""
        proxy = self.proxy()
        for _ in range(nodes):
            self.add(self.node(*options))
        return proxy

    def add(self, node: Daemon, url: str = "") -> None:
        """Add a node by its own URL, or by another one at which it can be reached."""
        member = {"url": url or node.url, "weight": 1}
        got = call("POST", f"{self.proxies[0].url}/AddServer", json.dumps(member).encode())
        assert (got.status, got.body) == (200, b"")

    def owners(self, key: str) -> list[Daemon]:
        """The nodes that own a key, the primary first."""
        located = call("GET", f"{self.proxies[0].url}/v1/ring/locate?key={key}").json()
        by_url = {node.url: node for node in self.nodes}
        return [by_url[owner["url"]] for owner in located["owners"]]

    def members(self) -> Any:
        return call("GET", f"{self.proxies[0].url}/v1/cluster").json()["members"]

    def whole(self, keys: int) -> bool:
        """Whether every member is up and holds that many keys."""
        return all((member["state"], member["keys"]) == ("up", keys) for member in self.members())

    def kill(self) -> None:
        """kill -9 to all at one moment, proxies too."""
        daemons = (*self.nodes, *self.proxies)
        for daemon in daemons:
            if daemon.process is not None:
                daemon.process.send_signal(signal.SIGKILL)
        for daemon in daemons:
            daemon.end()

    def restart(self) -> None:
        """Start all again, as they were, and wait until the whole cluster is served."""
        daemons = (*self.nodes, *self.proxies)
        for daemon in daemons:
            daemon.launch()
        for daemon in daemons:
            daemon.wait_alive()
        for proxy in self.proxies:
            wait_until(lambda: answers(f"{proxy.url}/health/ready"), f"{proxy.url} to be ready")  # noqa: B023

    def end(self) -> None:
        for daemon in (*self.proxies, *self.nodes):
            daemon.end()


@contextmanager
def farming(folder: Path) -> Iterator[Farm]:
    farm = Farm(folder)
    try:
        yield farm
    finally:
        farm.end()


def put(proxy: Daemon, key: str, value: str, query: str = "") -> Got:
    return call("PUT", f"{proxy.url}/PUT{query}", json.dumps({"Key": key, "Value": value}).encode())


def get(proxy: Daemon, key: str, query: str = "") -> Got:
    return call("GET", f"{proxy.url}/GET{query}", json.dumps({"Key": key}).encode())


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
