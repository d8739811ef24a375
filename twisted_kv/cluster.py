"""``twistd kvcluster``: a whole cluster on one machine, each node and the proxy a process of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from twisted.application.service import IService, Service
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.logger import Logger

from .children import Children
from .config import ClusterConfig
from .errors import BadConfig, KvError, PeerSilent
from .limits import Limits
from .notify import Notices, silent
from .options import ClusterOptions
from .peers.http import HttpTransport
from .peers.peer import denied
from .periodic import Rounds
from .process import end_with_failure, fresh_random, fresh_token, monotonic_reactor, notices_of, on_hangup, stop_once
from .token_files import TokenFile

Options = ClusterOptions

WATCH_INTERVAL_S = 1.0
READY_RETRY_S = 0.2
READY_PATIENCE_S = 10.0  # then the terminal says what is waited for
ANSWER_TIMEOUT_S = 2.0

ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Where those who listen on every address are found from here."""

log = Logger(namespace="kvcluster")


class Cluster(Service):
    """The processes of one cluster, and what the terminal hears about them.

    :param redis_is_named: whether its operator has named the Redis door's port, and wants it or nothing.
    """

    def __init__(
        self,
        reactor: Any,
        random: Random,
        config: ClusterConfig,
        redis_is_named: bool = True,
        notices: Notices = silent,
    ) -> None:
        self._reactor = reactor
        self._notices = notices
        self._redis_is_named = redis_is_named
        self._config = config
        self._folder = config.folder.absolute()  # twistd may change the working directory before the start
        host = ANYWHERE.get(config.interface, config.interface)
        host = f"[{host}]" if ":" in host else host
        self._proxy = f"http://{host}:{config.port}"
        self._nodes = {f"node-{port}": f"http://{host}:{port}" for port in config.node_ports}
        self._children = Children(reactor, self._folder, log)
        self._tokens = TokenFile(config.token_file)
        self._transport = HttpTransport(reactor, Limits(), keyring=self._tokens.keyring)
        self._rounds = Rounds(reactor, random, WATCH_INTERVAL_S, self._look, "kvcluster's watch")
        self._seen: Mapping[str, Any] | None = None
        self._silent = False
        self._warned = False

    def read_tokens_again(self) -> None:
        self._tokens.read_again()
        if self._config.token_file is not None:  # or they would have nothing to read again, and end (``on_hangup``)
            self._children.signal_all("HUP")

    def startService(self) -> None:
        super().startService()
        try:
            self._tokens.read()
        except BadConfig as error:
            log.critical("the cluster cannot start: {detail} ({hint})", detail=error.detail, hint=error.hint)
            end_with_failure(self._reactor)
            return
        config, add = self._config, self._children.add_daemon
        state = self._folder / "proxy" / "state.json"
        if config.engine == "memory" and state.exists():
            # The cluster that it describes ended with the memory of its nodes, which may have had other ports.
            state.replace(state.with_suffix(".json.old"))
        lane = ("--lane", str(config.lane).lower())
        place = (*lane, "--log-format", config.log_format, "--interface", config.interface, "--port")
        shown: tuple[str, ...] = ()
        asked: tuple[str, ...] = ()
        if config.token_file is not None:
            node_tokens = str(drawn_tokens(self._folder / "node.tokens"))
            asked = ("--token-file", node_tokens)
            shown = ("--token-file", str(Path(config.token_file).absolute()), "--node-token-file", node_tokens)
        for name, port in zip(self._nodes, config.node_ports, strict=True):
            add(name, "kvnode", *place, str(port), "--engine", config.engine, "--sync", config.sync, *asked)
        ways = ("--transport", config.transport, "--workers", str(config.workers))
        if config.hosts:
            ways += ("--hosts", ",".join(config.hosts))
        ways += ("--allow-flush", str(config.allow_flush).lower())
        if self._redis_is_named or not config.resp_port:
            ways += ("--resp-port", str(config.resp_port))
        add("proxy", "kvproxy", *place, str(config.port), *ways, *shown, "--nodes", ",".join(self._nodes.values()))
        self._children.startService()
        self._rounds.start()
        log.info("starting {count} nodes and a proxy", count=config.nodes)

    def stopService(self) -> Deferred[None]:
        super().stopService()
        return ensureDeferred(self._stop())

    async def _stop(self) -> None:
        """End the proxy first: while it runs down, its clients' last requests still want the nodes."""
        log.info("stopping the proxy, then the nodes")
        self._notices.stopping()
        await self._rounds.stop()
        await self._children.stop_in_order(["proxy"], list(self._nodes))
        await self._transport.close()
        self._notices.stop()

    async def _look(self) -> None:
        if self._seen is None:
            await self._until_ready()
        try:
            now = await self._ask("/v1/cluster")
        except KvError as error:
            if not self._silent:
                log.warn("the proxy does not answer: {detail}", detail=error.detail)
            self._silent = True
            return
        if self._silent:
            log.info("the proxy answers again")
        for sentence in changes(self._seen or now, now):
            log.info("{sentence}", sentence=sentence)
            self._notices.status(sentence)
        self._seen, self._silent = now, False

    async def _until_ready(self) -> None:
        said, patient_until = "", self._reactor.seconds() + READY_PATIENCE_S
        # A stop cancels what is waited for, which passes for a proxy that does not answer.
        while (lacking := await self._lacking()) and self.running:
            if lacking != said and self._reactor.seconds() > patient_until:
                log.warn("not ready yet: {lacking}; the logs are in {folder}", lacking=lacking, folder=self._folder)
                said = lacking
                self._notices.status(f"not ready yet: {lacking}")
            await deferLater(self._reactor, READY_RETRY_S)
        if self.running:
            log.info("{welcome}", welcome=self._welcome(), lines=True)
            self._notices.ready(f"serving on {self._proxy}, with {len(self._nodes)} nodes")

    async def _lacking(self) -> str:
        """Say why the cluster is not ready. A proxy is ready for one node already; here all are waited for."""
        try:
            troubles = (await self._ask("/health/ready"))["troubles"]
            members = (await self._ask("/v1/cluster"))["members"]
        except KvError as error:
            return f"the proxy does not answer: {error.detail}"
        up = {member["url"] for member in members if member["state"] == "up"}
        own = self._nodes.values()
        strangers = ", ".join(member["url"] for member in members if member["url"] not in up.union(own))
        if strangers and not self._warned:
            self._warned = True
            log.warn(
                "members of this cluster that are down and not started here: {strangers}; start them, or kvcluster with"
                " the --nodes and --base-port it had",
                strangers=strangers,
            )
        return "; ".join([*troubles, *(f"{url} is not in" for url in own if url not in up)])

    async def _ask(self, path: str) -> Any:
        """:raises KvError: if the proxy does not answer, not in JSON, or does not let this process in."""
        url, kind = self._proxy + path, "application/json"
        answer = await self._transport.request("GET", url, b"", content_type=kind, timeout_s=ANSWER_TIMEOUT_S)
        if answer.code in (401, 403):
            raise PeerSilent(denied(answer), "has it read its token file again? (SIGHUP)")
        try:
            return msgspec.json.decode(answer.body)
        except msgspec.DecodeError:
            raise PeerSilent(f"{path} was answered with {answer.code} and no JSON") from None

    def _welcome(self) -> str:
        local = self._proxy.replace("127.0.0.1", "localhost")
        rows = {"proxy": self._proxy, **self._nodes}.items()
        lines = [f"  {name:<10} {url}   {self._config.folder / name / 'twistd.log'}" for name, url in rows]
        by_http = by_redis = token = ""
        if self._config.token_file is not None:
            by_http, by_redis = ' -H "Authorization: Bearer $TOKEN"', ' -a "$TOKEN" --no-auth-warning'
            token = f", with TOKEN one of those in {self._config.token_file}"
        put = f"""  curl{by_http} -X PUT {local}/PUT -d '{{"Key": "language", "Value": "Go"}}'"""
        get = f"""  curl{by_http} -X GET {local}/GET -d '{{"Key": "language"}}'"""
        port = self._config.resp_port
        redis = [f"  redis-cli -p {port}{by_redis} get language"] if port else []
        page = f"or look at it in a browser: {local}/ui/"
        return "\n".join(["the cluster is ready", *lines, f"try{token}", put, get, *redis, page])


def drawn_tokens(path: Path) -> Path:
    """Give a file with a token that nobody else knows; it is drawn where there is none yet."""
    if not path.exists():
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as stream:
            stream.write(f"read-write {fresh_token()}\n")
    return path


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What happened between two answers of ``/v1/cluster``, in sentences."""
    was = {member["url"]: member["state"] for member in before["members"]}
    now = {member["url"]: member["state"] for member in after["members"]}
    said = [f"{url} has left" for url in was if url not in now]
    for url, state in now.items():
        if state == "up" != was.get(url):
            said.append(f"{url} is up again" if was.get(url) in ("down", "rebuilding") else f"{url} has joined")
        elif state != was.get(url):
            said.append(f"{url} came back empty and is rebuilt" if state == "rebuilding" else f"{url} is {state}")
    return said + [f"epoch {after['epoch']}, {len(now)} members"] * (after["epoch"] != before["epoch"])


def makeService(options: ClusterOptions) -> IService:
    reactor = monotonic_reactor()
    stop_once(reactor)
    notices = notices_of(reactor)
    cluster = Cluster(reactor, fresh_random(), options.config, options.redis_is_named, notices)
    on_hangup(reactor, cluster.read_tokens_again, options.config.token_file, notices=notices)
    return cluster
