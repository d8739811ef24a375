"""The command lines, as twistd sees them; and the one place that reaches for the real clock, reactor and randomness."""

from __future__ import annotations

import gc
import os
import resource
import secrets
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, ClassVar

from msgspec.structs import replace
from twisted.internet import stdio
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import FileLogObserver, Logger
from twisted.python import usage
from twisted.python.failure import Failure
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
from .notify import Notices, silent
from .tls import client_tls
from .token_files import read_tokens

log = Logger()

DESCRIPTORS_MAX = 65_536
"""More clients than one process can serve; where there is no limit, one is needed (see ``fasthttp.descriptors``)."""


ELSEWHERE = "give this user the right to write there, or name another folder with --data-dir"
"""What to do about a folder that cannot be used."""


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def fresh_random() -> Random:
    """A generator that no other process shares."""
    return Random(os.urandom(32))


def fresh_token() -> str:
    return secrets.token_hex(32)


def notices_of(reactor: Any) -> Notices:
    """Give this process's voice to systemd. A daemon that forks after this is another process, and gives no signs of
    life: systemd's units have it stay in the foreground."""
    return Notices(reactor, os.environ, os.getpid())


def on_hangup(reactor: Any, call: Callable[[], None], *files: str | None, notices: Notices = silent) -> None:
    """Call that whenever the process is sent SIGHUP, from when the reactor runs.

    Without a file to read again it ends the process, as ever: so does the terminal that is closed over it. Where
    systemd listens there is no terminal, and SIGHUP is its ``reload``.
    """

    def read_again() -> None:
        notices.reloading()
        call()
        notices.reloaded()

    if any(files) or notices.heard:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nobody has read them yet
        reactor.callWhenRunning(signal.signal, signal.SIGHUP, lambda *_: reactor.callFromThread(read_again))


def boot_id() -> str:
    """Name this boot of the machine; empty where that cannot be known."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def end_at_once() -> None:
    """End the process with status 1 and nothing else: no answer may leave any more, and nothing may be tidied up."""
    os._exit(1)


def spare_the_collector() -> None:
    """Let the garbage collector look seldom, and never again at what the start has built.

    Requests, operations and batches are freed by their reference counts; by default the collector walks thousands of
    live ones every few hundred allocations to find that out.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def take_descriptors() -> None:
    """Take as many file descriptors as the system lets this process have: each client needs one.

    What a shell or a service gives at first (1,024, on macOS 256) is for programs that use select(2).
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < most:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError):
            pass  # then it has to do with what it has


def let_threads_in() -> None:
    """Let a thread that waits for the interpreter have it soon.

    By default it waits 5 ms while the reactor is busy, which is ten times as long as most syncs take; and every answer
    that waits for a sync waits for the thread that has done it.
    """
    sys.setswitchinterval(0.0002)


def end_with_failure(reactor: Any) -> None:
    """End the process in order, with status 1 for whoever supervises it. Twisted itself knows no status but 0."""
    reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
    reactor.callWhenRunning(reactor.stop)


def monotonic_reactor() -> Any:
    """The reactor, running its timers on monotonic time.

    By itself it uses wall time: set back by an hour, every deadline freezes for an hour.
    """
    from twisted.internet import reactor

    reactor.seconds = time.monotonic  # type: ignore[attr-defined]
    return reactor


def stop_once(reactor: Any) -> None:
    """Leave signals that would end the process unheard while it ends.

    To be told twice does not hurry a stop, which is bounded; Twisted would only answer it with a traceback.
    """
    for told in (signal.SIGTERM, signal.SIGINT):
        reactor.addSystemEventTrigger("before", "shutdown", signal.signal, told, signal.SIG_IGN)


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
                tidy_pidfile(pidfile)
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
        ["token-file", None, None, "File of the tokens that proxies have to show; the first is shown to other nodes."],
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


def tidy_pidfile(path: Path) -> None:
    """Remove a pid file that would keep twistd from starting, though nobody runs who wrote it.

    twistd would remove most of them by itself, and say so on its output in a line of its own, though the log there may
    be JSON. A full disk leaves an empty one. After a kill its number may be another process's by now; in a container,
    where numbers begin anew with each start, it is likely to be, and may be our own. Where a clock that was set makes
    this wrong, the port and the lock on the data still keep a second daemon out.

    :raises OSError: if a new one could not be written either.
    """
    trial = path.with_name(f"{path.name}.new")
    try:
        trial.write_text(str(os.getpid()), encoding="ascii")
    finally:
        trial.unlink(missing_ok=True)
    try:
        pid = int(path.read_text(encoding="ascii"))
        written_s = path.stat().st_mtime
    except FileNotFoundError:
        return
    except ValueError:
        pid, written_s = os.getpid(), 0.0
    if pid == os.getpid() or not runs(pid) or started_s(pid) > written_s + START_SPREAD_S:
        path.unlink(missing_ok=True)


START_SPREAD_S = 2.0
"""How far a process's start may seem off, since wall time and uptime are read one after the other, and are rounded."""


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # somebody else's, or no number that twistd would take either
    return True


def started_s(pid: int) -> float:
    """When a process started, in wall time; 0 where that cannot be known."""
    try:
        # The name, in parentheses, may hold anything; proc(5) counts the start as the 22nd field, in ticks since boot.
        ticks = int(
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19]
        )
        uptime_s = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return time.time() - uptime_s + ticks / os.sysconf("SC_CLK_TCK")


class Leash(Protocol):
    """Ends the process when its parent is gone, and leaves SIGINT, which a terminal sends to all, to the parent."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    @classmethod
    def put_on(cls, reactor: Any) -> None:
        """Wear it from the moment the reactor runs: twistd installs its own signal handlers just before."""

        def start() -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            stdio.StandardIO(cls(reactor), reactor=reactor)

        reactor.callWhenRunning(start)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._reactor.running:
            self._reactor.stop()
