"""``twistd kvcluster``: a whole cluster on one machine, each node and the proxy a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.runner.procmon import ProcessMonitor

from .config import ClusterConfig
from .errors import KvError, PeerSilent
from .limits import Limits
from .options import ClusterOptions, fresh_random, monotonic_reactor
from .peers.http import HttpTransport
from .periodic import Rounds

Options = ClusterOptions

WATCH_INTERVAL_S = 1.0
READY_RETRY_S = 0.2
READY_PATIENCE_S = 10.0
"""How long a start may take before the terminal says what it waits for."""
ANSWER_TIMEOUT_S = 2.0
GONE_RETRY_S = 0.02

TWISTD = """
import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.argv[0] = "twistd"
from twisted.scripts.twistd import run
run()
"""
"""``twistd`` through the interpreter, since a virtual environment's bin need not be on PATH. SIGINT is ignored from the
first moment: the leash does it only when the reactor runs."""

STATES = {
    "up": "is up again",
    "down": "is down",
    "joining": "is joining",
    "leaving": "is leaving",
    "rebuilding": "came back empty and is being rebuilt",
}


class Children(ProcessMonitor):
    """Twisted's process monitor, with an end that waits: its own asks all to stop at once and returns."""

    log = Logger(namespace="kvcluster")
    threshold = 5.0
    """A daemon that fails at once needs a second or two for that: the default of one would take it for a success."""
    maxRestartDelay = 30.0

    def __init__(self, reactor: Any, folder: Path) -> None:
        super().__init__(reactor)
        self._folder = folder
        self._begun: set[str] = set()

    def add_daemon(self, name: str, role: str, *options: str) -> None:
        folder = self._folder / name
        own = ["--nodaemon", "--pidfile", str(folder / "twistd.pid"), "--logfile", str(folder / "twistd.log")]
        # Without -P the working directory would be searched for modules first.
        command = [sys.executable, "-P", "-c", TWISTD, *own, role, "--leash", "--data-dir", str(folder), *options]
        self.addProcess(name, command, env=dict(os.environ))

    def startProcess(self, name: str) -> None:
        if name not in self.protocols:
            # After a kill -9 it is still there, and a stranger may have that process id by now.
            (self._folder / name / "twistd.pid").unlink(missing_ok=True)
            if name in self._begun:
                self.log.warn("{name} ended and is started again", name=name)
            self._begun.add(name)
        super().startProcess(name)

    async def stop_in_order(self, *groups: list[str]) -> None:
        """Start nobody again, end one group after the other, and return when all are gone."""
        Service.stopService(self)
        for start in self.restart.values():
            if start.active():
                start.cancel()
        for names in groups:
            for name in names:
                self.removeProcess(name)
            # Whoever does not listen is killed after killTime; the second is for the kernel.
            until = self._clock.seconds() + self.killTime + 1
            while not self.protocols.keys().isdisjoint(names) and self._clock.seconds() < until:
                await deferLater(self._clock, GONE_RETRY_S)


class Cluster(Service):
    """The processes of one cluster, and what the terminal hears about them."""

    log = Logger(namespace="kvcluster")

    def __init__(self, reactor: Any, random: Random, config: ClusterConfig) -> None:
        self._reactor = reactor
        self._random = random
        self._config = config
        # twistd may change the working directory before the service starts.
        self._folder = config.folder.absolute()
        host = f"[{config.interface}]" if ":" in config.interface else config.interface
        self._proxy = f"http://{host}:{config.port}"
        self._nodes = {f"node-{port}": f"http://{host}:{port}" for port in config.node_ports}
        self._seen: Mapping[str, Any] | None = None
        self._silent = False

    def startService(self) -> None:
        super().startService()
        config = self._config
        self._set_aside_old_state()
        self._children = Children(self._reactor, self._folder)
        place = ("--interface", config.interface)
        for port in config.node_ports:
            self._children.add_daemon(
                f"node-{port}", "kvnode", *place, "--port", str(port), "--engine", config.engine
            )
        urls = ",".join(self._nodes.values())
        self._children.add_daemon("proxy", "kvproxy", *place, "--port", str(config.port), "--nodes", urls)
        self._children.startService()
        self._transport = HttpTransport(self._reactor, Limits())
        self._rounds = Rounds(self._reactor, self._random, WATCH_INTERVAL_S, self._look, "kvcluster's watch")
        self._rounds.start()
        self.log.info("starting {count} nodes and a proxy", count=config.nodes)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return ensureDeferred(self._stop())

    async def _stop(self) -> None:
        """End the proxy first: while it runs down, its clients' last requests still want the nodes."""
        self.log.info("stopping the proxy, then the nodes")
        await self._rounds.stop()
        await self._children.stop_in_order(["proxy"], list(self._nodes))
        await self._transport.close()

    def _set_aside_old_state(self) -> None:
        """Found a new cluster where the old one's members cannot come back: their memory ended with them."""
        state = self._folder / "proxy" / "state.json"
        if self._config.engine == "memory" and state.exists():
            state.replace(state.with_suffix(".json.old"))

    async def _look(self) -> None:
        if self._seen is None:
            await self._until_ready()
        try:
            now = await self._ask("/v1/cluster")
        except KvError as error:
            if not self._silent:
                self.log.warn("the proxy does not answer: {detail}", detail=error.detail)
            self._silent = True
            return
        if self._silent:
            self.log.info("the proxy answers again")
        self._silent = False
        for sentence in changes(self._seen or now, now):
            self.log.info("{sentence}", sentence=sentence)
        self._seen = now

    async def _until_ready(self) -> None:
        said, patient_until = "", self._reactor.seconds() + READY_PATIENCE_S
        while lacking := await self._lacking():
            if lacking != said and self._reactor.seconds() > patient_until:
                self.log.warn("not ready yet: {lacking}; the logs are in {folder}", lacking=lacking, folder=self._folder)
                said = lacking
            await deferLater(self._reactor, READY_RETRY_S)
        self.log.info("{text}", text=self._welcome())

    async def _lacking(self) -> str:
        """Say why the cluster is not ready. A proxy is ready for one node already; here all are waited for."""
        try:
            ready = await self._ask("/health/ready")
            members = (await self._ask("/v1/cluster"))["members"]
        except KvError as error:
            return f"the proxy does not answer: {error.detail}"
        up = {member["url"] for member in members if member["state"] == "up"}
        return "; ".join([*ready["troubles"], *(f"{url} is not in" for url in self._nodes.values() if url not in up)])

    async def _ask(self, path: str) -> Any:
        """:raises KvError: if the proxy does not answer, or not in JSON."""
        answer = await self._transport.request(
            "GET", self._proxy + path, b"", content_type="application/json", timeout_s=ANSWER_TIMEOUT_S
        )
        try:
            return msgspec.json.decode(answer.body)
        except msgspec.DecodeError:
            raise PeerSilent(f"{path} was answered with {answer.code} and no JSON") from None

    def _welcome(self) -> str:
        rows = [f"{url:<24} {self._config.folder / name / 'twistd.log'}" for name, url in self._nodes.items()]
        proxy = f"{self._proxy:<24} {self._config.folder / 'proxy' / 'twistd.log'}"
        local = self._proxy.replace("127.0.0.1", "localhost")
        return "\n".join(
            [
                "ready",
                f"proxy  {proxy}",
                *(f"node   {row}" for row in rows),
                "try",
                f"""curl -X PUT {local}/PUT -d '{{"Key": "language", "Value": "Go"}}'""",
                f"""curl -X GET {local}/GET -d '{{"Key": "language"}}'""",
            ]
        )


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What happened between two answers of ``/v1/cluster``, in sentences."""
    was = {member["url"]: member["state"] for member in before["members"]}
    now = {member["url"]: member["state"] for member in after["members"]}
    said = [f"{url} has left" for url in was if url not in now]
    for url, state in now.items():
        if state == "up" and was.get(url) in (None, "joining"):
            said.append(f"{url} has joined")
        elif state != was.get(url):
            said.append(f"{url} {STATES.get(state, state)}")
    if after["epoch"] != before["epoch"]:
        said.append(f"epoch {after['epoch']}, {len(now)} members")
    return said


def makeService(options: ClusterOptions) -> IService:
    return Cluster(monotonic_reactor(), fresh_random(), options.config)
