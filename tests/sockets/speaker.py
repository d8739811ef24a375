"""A Redis client for tests: it sends what it is told, and gives the replies as they are."""

from __future__ import annotations

import socket
from typing import Any

import hiredis

from tests.redis_commands import Words
from tests.sockets.daemons import PATIENCE_S


class Error(str):
    """An error's text."""


class Speaker:
    """One connection."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
        self._reader = hiredis.Reader(replyError=Error)

    def ask(self, commands: list[Words]) -> list[Any]:
        """Send commands in one piece, and give their replies."""
        self._socket.sendall(b"".join(map(spelt, commands)))
        replies: list[Any] = []
        while len(replies) < len(commands):
            reply = self._reader.gets()
            if reply is False:
                data = self._socket.recv(65_536)
                assert data, "the connection was closed"
                self._reader.feed(data)
            else:
                replies.append(reply)
        return replies

    def close(self) -> None:
        self._socket.close()


def spelt(words: Words) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)
