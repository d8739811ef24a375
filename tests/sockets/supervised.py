"""A daemon under a parent that does for it what systemd does: sockets by LISTEN_FDS, and an ear for sd_notify(3)."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.sockets.daemons import PATIENCE_S

START = """import fcntl, os, sys
count = int(sys.argv.pop(1))
given = [fcntl.fcntl(int(sys.argv.pop(1)), fcntl.F_DUPFD, 100) for _ in range(count)]
for place, fd in enumerate(given, 3):
    os.dup2(fd, place)
os.environ["WATCHDOG_PID"] = str(os.getpid())
if count:
    os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count))
from twisted.scripts.twistd import run
run()"""
"""Descriptors begin at 3 (sd_listen_fds(3)), and the process is named by its id, which only itself knows in time."""


def listening_socket(family: socket.AddressFamily = socket.AF_INET) -> socket.socket:
    """Open a port, as a .socket unit does."""
    found = socket.socket(family)
    found.bind(("127.0.0.1" if family == socket.AF_INET else "::1", 0))
    found.listen(100)
    return found


class Supervised:
    """One twistd process, and all that it has said."""

    def __init__(
        self,
        folder: Path,
        *command: str,
        sockets: Sequence[tuple[str, socket.socket]] = (),
        watchdog_s: float = 0.0,
        abstract: bool = False,
    ) -> None:
        self.said: list[str] = []
        self.folder = folder
        self._out = folder / "supervised.out"
        at = str(folder / "notify")
        self._ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ear.bind(f"\0{at}" if abstract else at)
        environ = {**os.environ, "NOTIFY_SOCKET": f"@{at}" if abstract else at}
        if sockets:
            environ["LISTEN_FDNAMES"] = ":".join(name for name, _ in sockets)
        if watchdog_s:
            environ["WATCHDOG_USEC"] = str(int(watchdog_s * 1_000_000))
        fds = [one.fileno() for _, one in sockets]
        with open(self._out, "wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-c", START, str(len(fds)), *map(str, fds), "--nodaemon", "--pidfile=", *command],
                cwd=folder,
                env=environ,
                pass_fds=fds,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def log(self) -> str:
        return self._out.read_text()

    def hears(self, line: str, patience_s: float = PATIENCE_S) -> str:
        """Wait for a message with such a line from now on, and give the message."""
        deadline = time.monotonic() + patience_s
        while True:
            left_s = deadline - time.monotonic()
            assert left_s > 0, f"waited in vain for {line}; heard {self.said}\n{self.log()}"
            self._ear.settimeout(min(left_s, 0.5))
            try:
                text = self._ear.recv(65_536).decode()
            except TimeoutError:
                continue
            self.said.append(text)
            if line in text.split("\n"):
                return text

    def everything(self) -> list[str]:
        """Take what there is to hear, and give all that was said so far."""
        self._ear.setblocking(False)
        try:
            while True:
                self.said.append(self._ear.recv(65_536).decode())
        except BlockingIOError:
            return self.said

    def silent_for(self, s: float) -> bool:
        self._ear.settimeout(s)
        try:
            self.said.append(self._ear.recv(65_536).decode())
        except TimeoutError:
            return True
        return False

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        self.process.send_signal(signal.SIGCONT)
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(PATIENCE_S)
        finally:
            self.process.kill()
            self._ear.close()
