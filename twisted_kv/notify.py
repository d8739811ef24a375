"""What systemd hears of a daemon: sd_notify(3), spoken to the socket that the environment names.

A daemon that nobody supervises so has no such socket, and tells nobody.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

UNSENT_RETRY_S = 0.1
"""How long it waits with what does not fit into the socket: systemd is behind, as it is while it loads its units."""
BEATS_IN_TIME = 3
"""How many signs of life are sent in the time after which systemd wants to have had one; sd_watchdog_enabled(3) asks
for two, and one may be late."""

OF_THE_PARENT = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
"""What in a daemon's environment is between itself and systemd, and not for processes that it starts."""


class Notices:
    """A daemon's voice.

    :param clock: what the reactor runs its timers on: when it is stuck, the signs of life stop, and systemd starts the
        daemon again. Where ``reload`` is to be understood, it is the system's monotonic clock.
    :param environ: the daemon's environment.
    :param pid: the daemon's own. With another one's environment it gives no sign of life.
    """

    log = Logger()

    def __init__(self, clock: Any, environ: Mapping[str, str], pid: int) -> None:
        self._clock = clock
        self._address = address(environ.get("NOTIFY_SOCKET", ""))
        self._beat_s = watchdog_s(environ, pid) / BEATS_IN_TIME if self.heard else 0.0
        self._ready = False
        self._unsent: list[bytes] = []
        self._retry: IDelayedCall | None = None
        self._timer: IDelayedCall | None = None
        self._complained = False

    @property
    def heard(self) -> bool:
        """Whether there is somebody to tell."""
        return bool(self._address)

    def ready(self, status: str) -> None:
        """Say that the daemon serves, with a sentence for ``systemctl status``."""
        self._ready = True
        self._tell("READY=1", f"STATUS={one_line(status)}")
        self._watch()

    def status(self, status: str) -> None:
        self._tell(f"STATUS={one_line(status)}")

    def pause(self, status: str) -> None:
        """Say that the reactor is going to be busy for longer than any watchdog waits, until ``ready`` is called."""
        self._rest()
        self._tell(*(["WATCHDOG_USEC=0"] if self._beat_s else []), f"STATUS={one_line(status)}")

    def reloading(self) -> None:
        if self.heard:
            self._tell("RELOADING=1", f"MONOTONIC_USEC={int(self._clock.seconds() * 1_000_000)}")

    def reloaded(self) -> None:
        """Say that it has read again what there is. Before it serves, that makes it no readier."""
        if self._ready:
            self._tell("READY=1")

    def stopping(self) -> None:
        """Say that the daemon runs down. It goes on giving signs of life."""
        self._ready = False
        self._tell("STOPPING=1", "STATUS=stopping")

    def stop(self) -> None:
        """Fall silent."""
        self._rest()
        if self._retry is not None and self._retry.active():
            self._retry.cancel()
        self._retry = None

    def _watch(self) -> None:
        if self._beat_s and self._timer is None:
            self._tell(f"WATCHDOG_USEC={round(self._beat_s * BEATS_IN_TIME * 1_000_000)}", "WATCHDOG=1")
            self._timer = self._clock.callLater(self._beat_s, self._beat)

    def _beat(self) -> None:
        self._timer = self._clock.callLater(self._beat_s, self._beat)
        if not self._unsent:
            self._tell("WATCHDOG=1")

    def _rest(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _tell(self, *lines: str) -> None:
        if self.heard:
            self._unsent.append("\n".join(lines).encode())
            self._send()

    def _send(self) -> None:
        """Send what there is, in order, and never wait for systemd."""
        if self._retry is not None and self._retry.active():
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.setblocking(False)
                while self._unsent:
                    out.sendto(self._unsent[0], self._address)
                    del self._unsent[0]
        except BlockingIOError:
            self._retry = self._clock.callLater(UNSENT_RETRY_S, self._send)
        except OSError as error:
            self._unsent.clear()
            if not self._complained:
                self._complained = True
                self.log.warn("systemd cannot be told how this daemon is: {why}", why=error.strerror or str(error))


def address(named: str) -> str:
    """Give a socket's address as socket(7) has it: ``@`` stands for the byte that begins an abstract one.

    Empty for what is neither a path nor abstract: sd_notify(3) knows another kind, for virtual machines.
    """
    if named.startswith("@"):
        return "\0" + named[1:]
    return named if named.startswith("/") else ""


def watchdog_s(environ: Mapping[str, str], pid: int) -> float:
    """Say after how long without a sign of life systemd takes this process for stuck; 0 if it does not look."""
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return 0.0
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1_000_000 if text.isdecimal() and text.isascii() else 0.0


def one_line(text: str) -> str:
    """What follows a line's end would be another message."""
    return " ".join(text.split())


silent = Notices(None, {}, 0)
"""The voice of whom nobody supervises."""
