"""Connections whose waits all end at one time, however slowly bytes trickle in.

A socket's own time-out begins anew with each byte.
"""

from __future__ import annotations

import io
import select
import socket
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any


class Deadlined:
    """A connected socket as ``http.client`` uses one."""

    def __init__(self, plain: socket.socket, now_s: Callable[[], float]) -> None:
        self._socket = plain
        self._now_s = now_s
        self.until_s = 0.0

    def arm(self) -> None:
        """:raises TimeoutError: if time is up."""
        left_s = self.until_s - self._now_s()
        if left_s <= 0:
            raise TimeoutError
        self._socket.settimeout(left_s)

    def sendall(self, data: bytes) -> None:
        self.arm()
        self._socket.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self, self._socket.makefile("rb", buffering=0)))

    def close(self) -> None:
        self._socket.close()

    @property
    def at_rest(self) -> bool:
        """Whether it is open and has nothing to say: what its server has closed meanwhile is not used any more."""
        watched = select.poll()
        watched.register(self._socket, select.POLLIN)
        return not watched.poll(0)


class _Reader(io.RawIOBase):
    """Reads what comes. The socket stays open as long as this is, although its connection has been closed."""

    def __init__(self, source: Deadlined, plain: socket.SocketIO) -> None:
        self._source = source
        self._plain = plain

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._source.arm()
        return self._plain.readinto(buffer)

    def close(self) -> None:
        if not self.closed:
            self._plain.close()
        super().close()


def open_by(connection: HTTPConnection, connect_s: float, now_s: Callable[[], float]) -> Deadlined:
    """Open a connection.

    :raises OSError: if that fails, or takes too long.
    """
    connection.timeout = connect_s
    connection.connect()
    deadlined = Deadlined(connection.sock, now_s)
    connection.sock = deadlined
    return deadlined
