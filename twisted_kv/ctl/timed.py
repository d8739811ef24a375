"""Answers that come in time or not at all, however slowly their bytes drip, and that are whole or said not to be."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse, IncompleteRead
from typing import Any

PIECE_BYTES = 1 << 16


class TooLarge(HTTPException):
    """An answer that nobody can have meant."""


class Patience:
    """How long is left until an answer has to be there. Each part of a stream has the whole time."""

    def __init__(self) -> None:
        self.timeout_s = 0.0
        self._until_s = 0.0
        self.stream = False

    def begin(self, timeout_s: float) -> None:
        self.timeout_s, self.stream = timeout_s, False
        self._until_s = time.monotonic() + timeout_s

    def left_s(self) -> float:
        """:raises TimeoutError: if none is left."""
        if self.stream:
            return self.timeout_s
        left_s = self._until_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the time is over")
        return left_s


class _Socket(io.RawIOBase):
    """The reading side of a socket: before each look at it, what is left of the time is worked out anew."""

    def __init__(self, sock: Any, patience: Patience) -> None:
        self._sock = sock
        self._raw = sock.makefile("rb", buffering=0)
        self._patience = patience

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_s = self._patience.left_s()
        if self._sock.fileno() >= 0:  # else the connection has let go of it, and only this file reads on
            self._sock.settimeout(left_s)
        read: int | None = self._raw.readinto(buffer)
        return read

    def close(self) -> None:
        self._raw.close()
        super().close()


class _File:
    """A socket as ``HTTPResponse`` wants one."""

    def __init__(self, sock: Any, patience: Patience) -> None:
        self._sock = sock
        self._patience = patience

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Socket(self._sock, self._patience))


def timed(patience: Patience) -> Callable[..., HTTPResponse]:
    """Give what makes a connection's responses, so that all their reading counts."""
    return lambda sock, *rest, **more: HTTPResponse(_File(sock, patience), *rest, **more)  # type: ignore[arg-type]


def pieces(response: HTTPResponse, most: int) -> Iterator[bytes]:
    """Read a body as it comes.

    :raises IncompleteRead: if it was cut off.
    :raises TooLarge: if it has more than ``most`` bytes.
    """
    taken = 0
    try:
        while piece := response.read1(PIECE_BYTES):
            taken += len(piece)
            if taken > most:
                raise TooLarge(f"the answer has more than {most:,} bytes")
            yield piece
        # Of a body whose length was told, the library takes the end of the connection for its end.
        if response.length:
            raise IncompleteRead(b"", response.length)
    finally:
        response.close()  # which by itself only a read to the end does: the connection may carry the next one
