"""The store inside another Twisted program: a node and a proxy as services, to be put under a parent of one's own.

The daemons are made of the same services. These differ in three things: a service that cannot start says so to whoever
waits for it, and does not end the process; nothing that belongs to the whole process is touched (signals, the garbage
collector, limits on descriptors, the reactor's clock); and a program reads and writes without a request in between.

Importing this imports the reactor: a program that wants another one than Twisted's default installs it before.
"""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from .bodies import checked_key, checked_value
from .config import NodeConfig, ProxyConfig
from .errors import BadConfig, KvError, Stopping
from .membership import State
from .node import Node
from .operation import Done
from .options import check_port
from .process import fresh_random, wall_ms
from .proxy import Proxy
from .quorum import parse_level
from .versions import record_value, record_version

__all__ = ["NodeConfig", "NodeService", "ProxyConfig", "ProxyService"]


ELSEWHERE = "choose another port or endpoint"


class _Opening:
    """Whoever waits for a service to open, and what came of it.

    :param what: the service, as its log names it.
    """

    log = Logger()

    def __init__(self, what: str) -> None:
        self._what = what
        self._waiting: list[Deferred[None]] = []
        self._open = False
        self._trouble: Failure | None = None

    def wait(self) -> Deferred[None]:
        if self._trouble is not None:
            return fail(self._trouble)
        if self._open:
            return succeed(None)
        self._waiting.append(Deferred())
        return self._waiting[-1]

    def succeed(self) -> None:
        self._open, self._trouble = True, None
        for waiter in self._taken():
            waiter.callback(None)

    def fail(self, trouble: Failure) -> None:
        """Say it in the log, too: it may be that nobody waits."""
        self._open, self._trouble = False, trouble
        error = trouble.value
        if isinstance(error, KvError):
            self.log.error(
                "the {what} cannot start: {detail} ({hint})", what=self._what, detail=error.detail, hint=error.hint
            )
        else:
            self.log.failure("the {what} cannot start", trouble, what=self._what)
        for waiter in self._taken():
            waiter.errback(trouble)

    def begin(self) -> None:
        """The service starts: what kept it from that before does so no more."""
        self._open, self._trouble = False, None

    def begin_again(self) -> None:
        """The service has stopped: whoever waits now waits for its next start, and whoever did is told so."""
        self.begin()
        for waiter in self._taken():
            waiter.errback(Failure(Stopping(f"the {self._what} was stopped before it was open", "start it again")))

    def _taken(self) -> list[Deferred[None]]:
        waiting, self._waiting = self._waiting, []
        return waiting


def _check(config: NodeConfig | ProxyConfig) -> None:
    """:raises BadConfig: if the port is taken."""
    if config.listen is None:
        check_port(config.interface, config.port)


class NodeService(Node):
    """One storage node.

    It keeps everything in ``config.data_dir``, which one node at a time may use. A disk that fails ends the process at
    once, as it ends the daemon: what was not answered is not safe, and nobody may be told that it is.

    :param reactor: the program's own.
    :param config: what ``twistd kvnode`` would be told, by the same names.
    """

    def __init__(self, reactor: Any, config: NodeConfig) -> None:
        super().__init__(reactor, fresh_random(), wall_ms, config)
        self._opening = _Opening("node")

    def when_open(self) -> Deferred[None]:
        """Wait until it listens. Fails with ``BadConfig`` or ``DiskFailed`` where it cannot start."""
        return self._opening.wait()

    def startService(self) -> None:
        self._opening.begin()
        try:
            _check(self._config)
            super().startService()
        except KvError as error:
            self._cannot_start(error)
        except SystemExit as error:  # an endpoint at which nobody can listen; the disk is closed already
            self._cannot_start(BadConfig(str(error), ELSEWHERE))
            self._stop_rounds().addErrback(lambda failure: self.log.failure("the node could not be closed", failure))
        else:
            if self._door is not None:
                self._opening.succeed()

    def stopService(self) -> Any:
        self._opening.begin_again()
        return super().stopService()

    def _cannot_start(self, error: KvError) -> None:
        self._opening.fail(Failure(error))


class ProxyService(Proxy):
    """A proxy: it founds a cluster or joins the one in ``config.state``, and serves HTTP and, where ``resp_port`` is
    named, Redis's protocol.

    :param reactor: the program's own.
    :param config: what ``twistd kvproxy`` would be told, by the same names. ``workers`` stays 1.
    :raises BadConfig: if there were to be several workers, which are processes of their own.
    """

    def __init__(self, reactor: Any, config: ProxyConfig) -> None:
        if config.workers != 1:
            raise BadConfig(
                f"workers is {config.workers}, and an embedded proxy is one process",
                "run twistd kvproxy --workers beside the program",
            )
        super().__init__(reactor, fresh_random(), wall_ms, config)
        self._opening = _Opening("proxy")
        self._level = parse_level(config.consistency)

    def when_open(self) -> Deferred[None]:
        """Wait until it listens, and the nodes of its configuration are members or were refused (its log says why).

        Fails with ``BadConfig`` or ``StateUnusable`` where it cannot start.
        """
        return self._opening.wait()

    def startService(self) -> None:
        self._opening.begin()
        try:
            _check(self._config)
        except BadConfig:
            self._cannot_start(Failure())
        else:
            super().startService()

    def _open(self, state: State) -> None:
        super()._open(state)
        adding = gatherResults([joined.addErrback(lambda _: None) for joined in self._first_nodes])
        adding.addCallback(lambda _: self._opening.succeed() if self.running else None)

    def stopService(self) -> Any:
        self._opening.begin_again()
        return super().stopService()

    def _cannot_start(self, failure: Failure) -> None:
        if failure.check(SystemExit):
            failure = Failure(BadConfig(str(failure.value), ELSEWHERE))
        self._opening.fail(failure)

    def get(self, key: bytes) -> Deferred[bytes | None]:
        """Read a key at the configured level; None if there is no such key.

        Errors: ``MalformedKey``, ``Unreached`` and its kin, ``Overloaded``, ``NoNodes``, ``Stopping``.
        """
        return self._doing(lambda: self._rooms.coordinator.get(self._key(key), self._level).addCallback(_value))

    def put(self, key: bytes, value: bytes) -> Deferred[str]:
        """Write a value at the configured level, and give its version, which is its ETag over HTTP.

        Errors as in ``get``, and ``ValueTooLarge``; ``maybe_applied`` of an ``Unreached`` says whether the write may
        still take effect.
        """

        def write() -> Deferred[str]:
            checked = checked_value(value, self._config.limits)
            done = self._rooms.coordinator.put(self._key(key), checked, b"application/octet-stream", self._level)
            return done.addCallback(lambda done: record_version(done.record).hex())

        return self._doing(write)

    def delete(self, key: bytes) -> Deferred[None]:
        """Delete a key, whether or not it is there. Errors as in ``put``."""

        def delete() -> Deferred[None]:
            done = self._rooms.coordinator.put(self._key(key), None, b"", self._level)
            return done.addCallback(lambda _: None)

        return self._doing(delete)

    def _key(self, key: bytes) -> Any:
        return checked_key(key, self._config.limits)

    def _doing(self, what: Any) -> Deferred[Any]:
        if self._site is None or self._stopping:
            return fail(Stopping("the proxy does not run", "wait for when_open()"))
        try:
            found: Deferred[Any] = what()
        except KvError:
            return fail(Failure())
        return found


def _value(done: Done) -> bytes | None:
    return record_value(done.record) if done.record else None
