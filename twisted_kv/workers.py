"""Several cores: a proxy as several processes that share its port.

The first worker is the process that twistd has started. It founds the state or agrees with it, looks after the cluster,
and starts the others, which serve clients and nothing else. The kernel spreads connections over all of them
(``SO_REUSEPORT``, socket(7)), so a client may meet any: for what the first one alone can say, the others ask it over a
socket in its folder.

What the others do not tell the first one is how long their clients wait: its changes, hints and repair make room for
its own clients, and as the kernel spreads them evenly, the others' wait as long.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Protocol

import msgspec
from twisted.application.internet import UNIXServer
from twisted.application.service import IService
from twisted.internet.defer import Deferred, maybeDeferred, succeed
from twisted.internet.error import CannotListenError
from twisted.logger import Logger

from .bodies import parse_json
from .children import Children
from .config import FIRST, EtcdPlace, ProxyConfig, worker_socket
from .counted import Counted
from .errors import BadConfig, KvError, PeerSilent, StateUnusable
from .fasthttp.gate import Gate
from .limits import Limits
from .membership import State
from .metrics import CONTENT_TYPE, Metrics, Workers
from .together import answers
from .web.answers import answer, answer_json
from .web.relay import WORKER_HOST, Relay, Relayed, StandIn
from .web.site import App, KvSite
from .web.viewers import Compose

OWN = (
    *("/PUT", "/GET", "/v1/kv/", "/v1/keys", "/v1/bulk"),
    *("/v1/ring", "/v1/events", "/ui", "/openapi.json", "/health/"),
)
"""What each worker answers by itself, as it does the root; of its health it asks the first one, too, and what it tells
those who watch. Whatever else there is, now or later, is the first one's."""

KILL_SPARE_S = 1.5
"""How much longer than an operation may take another worker has to end; see ``proxy.STOP_SPARE_S``."""

log = Logger(namespace="kvproxy")


class Health(msgspec.Struct):
    """What ``/health/ready`` says."""

    troubles: list[str]


class Part(Protocol):
    """What one process of a proxy does for the others."""

    drives: bool
    """Whether it looks after the cluster."""

    shares_port: bool

    def founding(self, step: Callable[[State | None], State]) -> Callable[[State | None], State]:
        """Give the first transaction of this process; ``step`` is that of a proxy of one process."""

    def app(self, metrics: Metrics) -> App:
        """Give a door without routes, which answers some of those that it is given in its own way."""

    async def troubles(self) -> list[str]:
        """Say what another process knows to be wrong, and this one may not."""

    async def counted(self) -> Mapping[int, Counted | None]:
        """Give what the other processes have counted, where this one speaks for all; None for one that is silent."""

    def composing(self, own: Compose) -> Compose:
        """Give who takes looks for those who watch here; ``own`` is this process."""

    def open(self, app: App, metrics: Metrics, counted: Callable[[], Counted]) -> None:
        """Begin to answer the others, once this process listens. ``app`` is its whole door."""

    def read_tokens_again(self) -> None:
        """Have the others read their token files, too."""

    async def stop(self) -> None:
        """Answer the others no more; the first one ends them before."""


class Alone:
    """The part of the only process."""

    drives = True
    shares_port = False

    def founding(self, step: Callable[[State | None], State]) -> Callable[[State | None], State]:
        return step

    def app(self, metrics: Metrics) -> App:
        return App()

    async def troubles(self) -> list[str]:
        return []

    async def counted(self) -> Mapping[int, Counted | None]:
        return {}

    def composing(self, own: Compose) -> Compose:
        return own

    def open(self, app: App, metrics: Metrics, counted: Callable[[], Counted]) -> None:
        """There is nobody to answer."""

    def read_tokens_again(self) -> None:
        """There is nobody to tell."""

    async def stop(self) -> None:
        """There is nobody to end."""


class First(Alone):
    """The part of the first of several."""

    shares_port = True

    def __init__(self, reactor: Any, config: ProxyConfig) -> None:
        self._reactor = reactor
        self._config = config
        self._folder = config.folder.absolute()
        self._children = Children(reactor, self._folder, log)
        self._children.killTime = config.limits.stop_notice_s + config.limits.operation_timeout_s + KILL_SPARE_S
        self._others = range(FIRST + 1, config.workers + 1)
        self._relays = {number: Relay(reactor, self._socket(number), config.limits) for number in self._others}
        self._started: list[str] = []
        self._inner: IService | None = None

    def _socket(self, number: int) -> Path:
        return worker_socket(self._folder, number)

    def app(self, metrics: Metrics) -> App:
        return StandIn(lambda url: (lambda request: self._counted(request, metrics)) if url == "/metrics" else None)

    def open(self, app: App, metrics: Metrics, counted: Callable[[], Counted]) -> None:
        config = self._config
        self._inner = answering(self._reactor, self._socket(FIRST), app, config.limits)
        for number in self._others:
            name = name_of(number)
            limits = self._folder / name / "limits.toml"
            try:
                limits.parent.mkdir(exist_ok=True)
                limits.write_text(places_toml(config) + limits_toml(config.limits), encoding="utf-8")
            except OSError as error:
                raise unusable(limits, error) from None
            self._children.add_daemon(name, "kvproxy", "--worker", str(number), *handed_down(config, limits))
            self._started.append(name)
        self._children.startService()

    def read_tokens_again(self) -> None:
        self._children.signal_all("HUP")

    async def stop(self) -> None:
        """End the others first: the last calls that they took may want the first one."""
        await self._children.stop_in_order(self._started)
        for relay in self._relays.values():
            relay.stop()
        if self._inner is not None:
            await shut(self._inner, self._socket(FIRST))

    async def counted(self) -> Mapping[int, Counted | None]:
        told = await self._asked(b"/counted")
        return {number: _counted_in(text) for number, text in told.items()}

    async def _counted(self, request: Any, metrics: Metrics) -> bytes:
        texts = {FIRST: metrics.render(), **await self._asked(b"/metrics")}
        return answer(request, Workers(texts).render(), CONTENT_TYPE)

    async def _asked(self, target: bytes) -> dict[int, bytes | None]:
        """Ask all others the same; None for one that does not answer."""
        timeout_s = self._config.limits.worker_metrics_timeout_s
        asked = {number: relay.ask(b"GET", target, timeout_s) for number, relay in self._relays.items()}
        told = await answers({number: one.addCallback(_text_of) for number, one in asked.items()})
        return {number: told.get(number) for number in self._others}


class Child:
    """The part of each other worker. Its folder lies in the first one's."""

    drives = False
    shares_port = True

    def __init__(self, reactor: Any, config: ProxyConfig, number: int) -> None:
        self._reactor = reactor
        self._limits = config.limits
        folder = config.folder.absolute().parent
        self._socket = worker_socket(folder, number)
        self._first = Relay(reactor, worker_socket(folder, FIRST), config.limits)
        self._inner: IService | None = None

    def founding(self, step: Callable[[State | None], State]) -> Callable[[State | None], State]:
        def agreed(state: State | None) -> State:
            if state is None:
                # A second cluster beside the first worker's would be the end of what was written.
                raise StateUnusable("the state that the first worker has founded is gone", "put its newest copy back")
            return step(state)

        return agreed

    def app(self, metrics: Metrics) -> App:
        return StandIn(lambda url: None if url == "/" or url.startswith(OWN) else self._first.answer)

    async def troubles(self) -> list[str]:
        try:
            told = await self._first.ask(b"GET", b"/health/ready", self._limits.worker_ready_timeout_s)
            return parse_json(told.body, Health).troubles
        except KvError as error:
            return [f"the first worker, which looks after the cluster, gave no answer: {error.detail}"]

    async def counted(self) -> Mapping[int, Counted | None]:
        return {}

    def composing(self, own: Compose) -> Compose:
        async def asked() -> bytes:
            told = await self._first.ask(b"GET", b"/v1/snapshot", self._limits.events_heartbeat_s)
            if told.code != 200:
                raise PeerSilent(f"the first worker answered with {told.code}")
            return told.body

        return asked

    def open(self, app: App, metrics: Metrics, counted: Callable[[], Counted]) -> None:
        inner = App()

        @inner.route("/counted", methods=["GET"])
        def figures(request: Any) -> bytes:
            return answer_json(request, counted())

        @inner.route("/metrics", methods=["GET"])
        def rendered(request: Any) -> bytes:
            return answer(request, metrics.render(), CONTENT_TYPE)

        self._inner = answering(self._reactor, self._socket, inner, self._limits)

    def read_tokens_again(self) -> None:
        """The first one tells everybody."""

    async def stop(self) -> None:
        self._first.stop()
        if self._inner is not None:
            await shut(self._inner, self._socket)


def part_of(reactor: Any, config: ProxyConfig, number: int) -> Part:
    """Give a process's part.

    :param number: of this process among its proxy's workers.
    """
    if number > FIRST:
        return Child(reactor, config, number)
    return First(reactor, config) if config.workers > 1 else Alone()


def name_of(number: int) -> str:
    return f"worker-{number}"


def handed_down(config: ProxyConfig, limits: Path) -> list[str]:
    """Give the options with which a worker comes to the configuration of the first one, as that stands now.

    ``--nodes`` is not among them: the first one adds them.

    :param limits: a file with its limits, which no option can say, and with where its keys lie, which everybody could
        read in a command line.
    """
    place = config.state_place
    given = {
        "port": config.port,
        "interface": config.interface,
        "state": config.state if isinstance(place, EtcdPlace) else f"file:{place.absolute()}",
        "replicas": config.replicas,
        "vnodes": config.vnodes,
        "consistency": config.consistency,
        "resp-port": config.resp_port,
        "allow-flush": str(config.allow_flush).lower(),
        "lane": str(config.lane).lower(),
        "transport": config.transport,
        "log-format": config.log_format,
        "token-file": config.token_file and Path(config.token_file).absolute(),
        "node-token-file": config.node_token_file and Path(config.node_token_file).absolute(),
        "hosts": ",".join(config.hosts) or None,
        "node-networks": ",".join(config.node_networks) if config.node_networks is not None else None,
        "config": limits,
    }
    return [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]


def places_toml(config: ProxyConfig) -> str:
    """Write where the first one listens, and where its keys lie, as lines of a configuration file."""
    places = {
        "listen": config.listen,
        "resp_listen": config.resp_listen,
        "tls_authority": config.tls_authority and str(Path(config.tls_authority).absolute()),
        "tls_identity": config.tls_identity and str(Path(config.tls_identity).absolute()),
    }
    # JSON's strings are TOML's, but for this one byte.
    quoted = {name: json.dumps(place, ensure_ascii=False) for name, place in places.items() if place is not None}
    return "".join(f"{name} = {text}\n" for name, text in quoted.items()).replace("\x7f", "\\u007f")


def limits_toml(limits: Limits) -> str:
    """Write limits as the table of a configuration file. (Python and TOML write numbers, ``inf`` too, alike.)"""
    return "\n".join(["[limits]", *(f"{one.name} = {getattr(limits, one.name)!r}" for one in fields(limits)), ""])


def answering(reactor: Any, path: Path, app: App, limits: Limits) -> IService:
    """Answer other workers on a socket that only this user may use.

    A process that was killed leaves its socket behind: whoever holds the port, and with it the number, replaces it.

    :raises BadConfig: if there can be none.
    """
    site = KvSite(reactor, app, limits, limits.body_bytes_max, lane=False, gate=Gate(names=[WORKER_HOST]))
    inner: Any = UNIXServer(str(path), site, mode=0o600, reactor=reactor)
    try:
        path.unlink(missing_ok=True)
        inner.startService()
    except (OSError, CannotListenError) as error:
        raise unusable(path, error) from None
    return inner


def unusable(path: Path, error: Exception) -> BadConfig:
    return BadConfig(f"{path}, which the workers need, cannot be made: {error}", "check its folder's owner and room")


def shut(inner: IService, path: Path) -> Deferred[None]:
    """Close a socket for other workers."""
    try:
        # Twisted's port trips over a socket that somebody has removed, and would never say that it is closed.
        path.touch()
    except OSError:
        return succeed(None)
    return maybeDeferred(inner.stopService)


def _counted_in(text: bytes | None) -> Counted | None:
    """Read what a worker has counted; one that is stopping, or was just replaced by another version, may say less."""
    try:
        return msgspec.json.decode(text, type=Counted) if text is not None else None
    except msgspec.MsgspecError:
        return None


def _text_of(answered: Relayed) -> bytes:
    if answered.code != 200:
        raise PeerSilent(f"the worker answered with {answered.code}")
    return answered.body
