"""The command lines, as twistd sees them, and what is refused before anything starts."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any, ClassVar

from msgspec.structs import replace
from twisted.logger import FileLogObserver, Logger
from twisted.python import usage
from twisted.python.logfile import LogFile

from .config import (
    FIRST,
    SOCKET_BYTES_MAX,
    USUAL_RESP_PORT,
    ClusterConfig,
    NodeConfig,
    ProxyConfig,
    check_together,
    configured,
    worker_socket,
)
from .errors import BadConfig
from .logs import Format, observer
from .pidfile import tidy_pidfile
from .process import monotonic_reactor, wall_ms
from .tls import client_tls
from .token_files import read_tokens

log = Logger()

ELSEWHERE = "give this user the right to write there, or name another folder with --data-dir"
"""What to do about a folder that cannot be used."""


class RoleOptions(usage.Options):
    """What the three roles share: a TOML file, and everything they write in one folder."""

    shape: ClassVar[type[Any]]
    lists: ClassVar[tuple[str, ...]] = ()
    of_nodes: ClassVar[tuple[str, ...]] = ("node_token_file",)
    """Which token files hold what is shown to nodes."""
    config: Any

    def parseOptions(self, options: list[str] | None = None) -> None:
        """Read the command line, or end the process with status 1 and what is wrong with it.

        twistd would print all of its options in front, and the line that matters below them.
        """
        name = self.parent.subCommand if self.parent is not None else self.shape.__name__
        try:
            super().parseOptions(options)
        except BadConfig as error:
            raise SystemExit(f"{name}: {error.detail} ({error.hint})") from None
        except usage.UsageError as error:
            raise SystemExit(f"{name}: {error} (twistd {name} --help tells what there is)") from None

    def postOptions(self) -> None:
        given = {name.replace("-", "_"): value for name, value in self.items() if value is not None}
        file = given.pop("config", None)
        given.pop("leash", None)
        for name in self.lists:
            if name in given:
                given[name] = [part for part in str(given[name]).split(",") if part]
        self.config = configured(self.shape, given, file)
        for name in ("token_file", "node_token_file"):
            if getattr(self.config, name, None) is not None:
                read_tokens(Path(getattr(self.config, name)), name in self.of_nodes)
        client_tls(getattr(self.config, "tls_authority", None), getattr(self.config, "tls_identity", None))
        self.checked(self.config)
        self._settle_in(self.config.folder)
        self._settle_log(self.config.log_format)

    def checked(self, config: Any) -> None:
        """Refuse, before anything starts, what could not work.

        :raises BadConfig: saying what and why.
        """
        if config.listen is None:
            check_port(config.interface, config.port)

    def _settle_in(self, folder: Path) -> None:
        """Keep twistd's pid and log files in the role's own folder, so that several roles run from one place."""
        folder = folder.absolute()  # twistd may change its working directory before it uses them
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BadConfig(f"the folder {folder} cannot be made: {error.strerror}", ELSEWHERE) from None
        parent = self.parent
        if parent is None:
            return
        if parent.get("pidfile") == "twistd.pid":
            pidfile = folder / "twistd.pid"
            try:
                tidy_pidfile(pidfile, wall_ms() / 1000)
            except OSError as error:
                raise BadConfig(f"nothing can be written in {folder}: {error.strerror}", ELSEWHERE) from None
            parent["pidfile"] = str(pidfile)
        if not parent.get("nodaemon") and parent.get("logfile") is None and not parent.get("syslog"):
            parent["logfile"] = str(folder / "twistd.log")

    def _settle_log(self, format_: Format) -> None:
        """Have twistd write its log as we do, to where it would; unless it was told to log in another way."""
        parent = self.parent
        if parent is None or parent.get("logger") or parent.get("syslog"):
            return
        OwnLog.settle(parent.get("logfile"), bool(parent.get("nodaemon")), format_)
        parent["logger"] = f"{__name__}.OwnLog.open"


class OwnLog:
    """Where and how this process writes its log. twistd knows it by its name alone, and opens it when it has forked."""

    path: ClassVar[str | None] = None
    in_foreground: ClassVar[bool] = True
    format: ClassVar[Format] = "text"

    @classmethod
    def settle(cls, path: str | None, in_foreground: bool, format_: Format) -> None:
        """:raises BadConfig: if a daemon is to log to its standard output."""
        if path == "-" and not in_foreground:
            raise BadConfig("a daemon cannot log to its standard output", "name a file with --logfile")
        cls.path, cls.in_foreground, cls.format = path, in_foreground, format_

    @classmethod
    def open(cls) -> FileLogObserver:
        """Open what twistd would (``twisted.scripts._twistd_unix.UnixAppLogger``): SIGUSR1 begins a new file."""
        if cls.path in (None, "", "-"):
            return observer(sys.stdout, cls.format)
        file = LogFile.fromFullPath(cls.path)
        if not signal.getsignal(signal.SIGUSR1):
            reactor = monotonic_reactor()
            signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(file.rotate))
        return observer(file, cls.format)


RESP_PORT = ["resp-port", None, None, "Port of the Redis door; 0 leaves it closed (6380, where that is free)."]
ALLOW_FLUSH = ["allow-flush", None, None, "Whether FLUSHALL may delete every key: true or false (false)."]
LANE = ["lane", None, None, "Whether the fast lane answers common calls in front of klein: true or false (true)."]
TRANSPORT = ["transport", None, None, "How the proxy speaks to nodes: http, or link, its own kept connections (http)."]
WORKERS = ["workers", "w", None, "Processes that share the proxy's port, for machines with several cores (1)."]
TOKEN_FILE = ["token-file", None, None, "File of the tokens that clients have to show (none: everybody may come in)."]
HOSTS = ["hosts", None, None, "Names by which clients may call it without a token, beside localhost; with commas."]
NETWORKS = ["node-networks", None, None, "Networks in which nodes may be, with commas (loopback, this machine's own)."]
LISTEN = ["listen", None, None, "Endpoint to listen at, in the place of --interface and --port: ssl:, mtls:, systemd:."]
CLIENT_TLS = [
    ["tls-authority", None, None, "PEM file of those who sign the certificates of https nodes (the system's)."],
    ["tls-identity", None, None, "PEM file with a certificate and its key, for nodes that ask for one."],
]
LOG_FORMAT = ["log-format", None, None, "How log lines look: text, or json, an object a line (text)."]
LEASH = ["leash", None, "Stop when standard input ends, and ignore SIGINT: for a parent that holds the other end."]


class NodeOptions(RoleOptions):
    longdesc = "Runs one storage node. A proxy takes it into a cluster with POST /AddServer."
    shape = NodeConfig
    lists = ("hosts", "node_networks")
    of_nodes = ("token_file",)
    optFlags = [LEASH]
    optParameters = [
        ["port", "p", None, "Port to listen on (8081)."],
        ["interface", "i", None, "Address to listen on (127.0.0.1)."],
        ["data-dir", "d", None, "Folder for everything the node writes (./kvnode-PORT)."],
        ["engine", "e", None, "Where data is kept: rocksdb, or memory, which is empty after every start (rocksdb)."],
        ["sync", None, None, "When rocksdb syncs: always, before each answer; interval, every second; never (always)."],
        LANE,
        LISTEN,
        *CLIENT_TLS,
        [
            "token-file",
            None,
            None,
            "File of the tokens that proxies have to show; the first read-write one is shown to nodes.",
        ],
        HOSTS,
        NETWORKS,
        LOG_FORMAT,
        ["config", "c", None, "TOML file with the same options; a flag wins over it."],
    ]


class ProxyOptions(RoleOptions):
    longdesc = "Runs the proxy that clients talk to: it routes, replicates, and reads through failures."
    shape = ProxyConfig
    lists = ("nodes", "hosts", "node_networks")
    optFlags = [LEASH]
    optParameters = [
        ["port", "p", None, "Port to listen on (8080)."],
        ["interface", "i", None, "Address to listen on (127.0.0.1)."],
        ["data-dir", "d", None, "Folder for everything the proxy writes (./kvproxy-PORT)."],
        ["state", "s", None, "Where the cluster's state lives: file:PATH, or etcd://HOST:PORT[,HOST:PORT]/PREFIX."],
        ["nodes", None, None, "URLs of nodes to add when the cluster has none yet, with commas between them."],
        ["replicas", "r", None, "Copies of each key; fixed when the cluster is founded (3)."],
        ["vnodes", None, None, "Ring tokens of a node of weight 1; fixed when the cluster is founded (256)."],
        ["consistency", None, None, "Level of calls that name none: one, strong (also called quorum) or all (strong)."],
        RESP_PORT,
        ALLOW_FLUSH,
        LANE,
        TRANSPORT,
        WORKERS,
        LISTEN,
        ["resp-listen", None, None, "Endpoint of the Redis door, in the place of --interface and --resp-port."],
        *CLIENT_TLS,
        TOKEN_FILE,
        ["node-token-file", None, None, "The nodes' token file: its first read-write token is shown to them."],
        HOSTS,
        NETWORKS,
        LOG_FORMAT,
        ["config", "c", None, "TOML file with the same options; a flag wins over it."],
    ]
    worker = FIRST
    redis_is_named = True

    def opt_worker(self, number: str) -> None:
        """Serve as this one of a proxy's workers: for the first of them, which starts the others."""
        if not number.isdecimal() or int(number) <= FIRST:
            hint = "leave it out: the first worker gives the others 2 and so on"
            raise BadConfig(f"--worker is {number[:40]!r}", hint)
        self.worker = int(number)

    def postOptions(self) -> None:
        super().postOptions()
        self.redis_is_named = self.config.resp_port is not None
        self.config = with_usual_redis_door(self.config, {self.config.port})

    def checked(self, config: ProxyConfig) -> None:
        config.state_place  # noqa: B018  # which says what is wrong with it
        check_together(config)
        if self.worker == FIRST:  # the others share the ports that this one holds
            super().checked(config)
            if config.resp_port:
                check_port(config.interface, config.resp_port)
            check_sockets(config.folder, config.workers)


class ClusterOptions(RoleOptions):
    longdesc = "Runs a whole cluster on this machine: nodes, each a process of its own, and a proxy."
    shape = ClusterConfig
    lists = ("hosts",)
    optParameters = [
        ["nodes", "n", None, "How many storage nodes (3)."],
        ["base-port", "b", None, "Port of the first node; the others follow it (8081)."],
        ["port", "p", None, "Port of the proxy (8080)."],
        RESP_PORT,
        ALLOW_FLUSH,
        ["interface", "i", None, "Address to listen on (127.0.0.1)."],
        ["engine", "e", None, "Where data is kept: rocksdb, or memory, which is empty after every start (rocksdb)."],
        ["sync", None, None, "When rocksdb syncs: always, before each answer; interval, every second; never (always)."],
        LANE,
        TRANSPORT,
        WORKERS,
        TOKEN_FILE,
        HOSTS,
        ["data-dir", "d", None, "Folder for everything the cluster writes (./kvcluster)."],
        LOG_FORMAT,
        ["config", "c", None, "TOML file with the same options; a flag wins over it."],
    ]

    def postOptions(self) -> None:
        super().postOptions()
        self.redis_is_named = self.config.resp_port is not None
        self.config = with_usual_redis_door(self.config, {self.config.port, *self.config.node_ports})

    def checked(self, config: ClusterConfig) -> None:
        check_together(config)
        for port in filter(None, (config.port, config.resp_port, *config.node_ports)):
            check_port(config.interface, port)
        check_sockets(config.folder / "proxy", config.workers)


def with_usual_redis_door(config: Any, others: set[int]) -> Any:
    """Give a configuration that names no port for the Redis door the usual one, or none where somebody has that.

    :param others: ports that are to be opened, too.
    """
    if config.resp_port is not None:
        return config
    if getattr(config, "resp_listen", None) is not None:
        return replace(config, resp_port=0)
    try:
        if USUAL_RESP_PORT in others:
            raise BadConfig(f"port {USUAL_RESP_PORT} is another one of its ports")
        check_port(config.interface, USUAL_RESP_PORT)
    except BadConfig as error:
        log.warn("there is no Redis door: {why} (name another port with --resp-port)", why=error.detail)
        return replace(config, resp_port=0)
    return replace(config, resp_port=USUAL_RESP_PORT)


def check_port(interface: str, port: int) -> None:
    """Say plainly, and before anything starts, that a port is taken.

    :raises BadConfig: if nobody can listen there now.
    """
    family = socket.AF_INET6 if ":" in interface else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((interface, port))
        except OSError as error:
            raise BadConfig(
                f"port {port} on {interface} cannot be used: {error.strerror}",
                "stop the program that holds it, or choose another port",
            ) from None


def check_sockets(folder: Path, workers: int) -> None:
    """Say plainly, and before anything starts, that workers could not reach one another.

    :raises BadConfig: if the path of a socket is longer than the system takes.
    """
    length = len(os.fsencode(worker_socket(folder.absolute(), workers)))
    if workers > 1 and length > SOCKET_BYTES_MAX:
        raise BadConfig(
            f"--workers {workers} needs sockets in {folder.absolute()}, whose path is too long: with their names it has"
            f" {length} bytes, and the system takes {SOCKET_BYTES_MAX}",
            "name a folder with a shorter path with --data-dir, or leave out --workers",
        )
