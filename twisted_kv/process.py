"""What a daemon does with its process; and the one place that reaches for the real clock, reactor and randomness."""

from __future__ import annotations

import gc
import os
import resource
import secrets
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet import stdio
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from .notify import Notices, silent

DESCRIPTORS_MAX = 65_536
"""More clients than one process can serve; where there is no limit, one is needed (see ``fasthttp.descriptors``)."""


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
