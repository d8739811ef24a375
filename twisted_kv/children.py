"""Daemons that a daemon starts: on a leash, started again when they end, and stopped in order."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.runner.procmon import ProcessMonitor

from .notify import OF_THE_PARENT

GONE_RETRY_S = 0.02

# A virtual environment's bin need not be on PATH: twistd through the interpreter. The leash ignores SIGINT when the
# reactor runs; here it is ignored from the first moment.
TWISTD = """import signal, sys
signal.signal(signal.SIGINT, signal.SIG_IGN)
sys.argv[0] = "twistd"
from twisted.scripts.twistd import run
run()"""


class Children(ProcessMonitor):
    """Twisted's process monitor, with an end that waits: its own asks all to stop at once and returns.

    :param folder: where each daemon has a folder of its own, named like itself.
    :param log: hears what they say, and that one ended and is started again.
    """

    threshold = 5.0  # to fail takes a daemon a second or two: the default of one would take that for a success
    maxRestartDelay = 30.0
    killTime = 8.0  # a proxy lets its clients' operations end, which takes up to five seconds

    def __init__(self, reactor: Any, folder: Path, log: Logger) -> None:
        super().__init__(reactor)
        self._folder = folder
        self.log = log

    def add_daemon(self, name: str, role: str, *options: str) -> None:
        folder = self._folder / name
        own = ["--nodaemon", "--pidfile", str(folder / "twistd.pid"), "--logfile", str(folder / "twistd.log")]
        # Without -P the working directory would be searched for modules first.
        command = [sys.executable, "-P", "-c", TWISTD, *own, role, "--leash", "--data-dir", str(folder), *options]
        self.addProcess(name, command, env=own_environment())

    def startProcess(self, name: str) -> None:
        if name not in self.protocols:
            # After a kill -9 it is still there, and a stranger may have that process id by now.
            (self._folder / name / "twistd.pid").unlink(missing_ok=True)
            if name in self.timeStarted:
                self.log.warn("{name} ended and is started again", name=name)
        super().startProcess(name)

    def signal_all(self, signal: str) -> None:
        """Send all of them a signal, by its name without SIG."""
        for protocol in list(self.protocols.values()):
            try:
                protocol.transport.signalProcess(signal)
            except ProcessExitedAlready:
                pass  # it is started again, and reads everything then

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


def own_environment() -> dict[str, str]:
    """This process's environment, without what is between itself and systemd: a child that said that it stops, or took
    over the sockets, would do it in its parent's name."""
    return {name: value for name, value in os.environ.items() if name not in OF_THE_PARENT}
