"""Connections that are kept, up to a bound, and one request after the other over each of them."""

from __future__ import annotations

from collections.abc import Callable
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead
from threading import Condition
from typing import NamedTuple

from ..limits import MIB
from .deadlined import Deadlined, open_by
from .judging import Answer, Lost, Told, Unsent
from .places import Place, connection_to
from .trip import Send

IDLE_S_MAX = 30.0
"""How long an unused connection is kept: a proxy closes it after a minute."""
ANSWER_BYTES_MAX = 128 * MIB
"""The largest answer. A value has 64 MiB at the most, and grows by a third as base64."""
PIECE_BYTES = 1 << 16


class Kept(NamedTuple):
    """An open connection."""

    place: Place
    connection: HTTPConnection
    deadlined: Deadlined
    used_s: float


class Pool:
    """Sends requests for several threads. Each that uses a connection has it alone; those that find none free wait."""

    def __init__(self, now_s: Callable[[], float], connections: int) -> None:
        self._now_s = now_s
        self._connections = connections
        self._freed = Condition()
        self._busy = 0
        self._idle: list[Kept] = []
        """The one used last at the end."""
        self._closed = False

    def close(self) -> None:
        """Close those that nobody uses. The others are closed when they have brought their answers."""
        with self._freed:
            self._closed = True
            idle, self._idle = self._idle, []
        for kept in idle:
            kept.connection.close()

    def exchange(self, send: Send) -> Told:
        until_s = self._now_s() + send.wait_s
        if not self._enter(until_s):
            return Unsent(f"all {self._connections} connections of this client are busy")
        kept = None
        try:
            kept = self._kept(send.place)
            if kept is None:
                try:
                    kept = self._opened(send.place, min(send.connect_s, max(until_s - self._now_s(), 0.001)))
                except OSError as error:
                    return Unsent(f"cannot connect: {_said(error)}", hopeless=hasattr(error, "verify_message"))
            kept.deadlined.until_s = until_s
            told, goes_on = _asked(kept, send)
            if goes_on and self._keep(kept):
                kept = None
            return told
        finally:
            if kept is not None:
                kept.connection.close()
            with self._freed:
                self._busy -= 1
                self._freed.notify()

    def _enter(self, until_s: float) -> bool:
        with self._freed:
            while self._busy >= self._connections:
                if not self._freed.wait(max(until_s - self._now_s(), 0)):
                    return False
            self._busy += 1
            return True

    def _kept(self, place: Place) -> Kept | None:
        """Take a connection that is open and can be used, and close those that cannot."""
        now_s = self._now_s()
        with self._freed:
            known, self._idle = self._idle, []
            found, old = None, []
            for kept in reversed(known):
                if now_s - kept.used_s > IDLE_S_MAX:
                    old.append(kept)
                elif found is None and kept.place is place:
                    if kept.deadlined.at_rest:
                        found = kept
                    else:
                        old.append(kept)
                else:
                    self._idle.insert(0, kept)
        for kept in old:
            kept.connection.close()
        return found

    def _opened(self, place: Place, connect_s: float) -> Kept:
        connection = connection_to(place)
        try:
            deadlined = open_by(connection, connect_s, self._now_s)
        except BaseException:
            connection.close()
            raise
        return Kept(place, connection, deadlined, 0.0)

    def _keep(self, kept: Kept) -> bool:
        """Say whether a connection is kept."""
        with self._freed:
            if self._closed or len(self._idle) >= self._connections:
                return False
            self._idle.append(kept._replace(used_s=self._now_s()))
            return True


def _asked(kept: Kept, send: Send) -> tuple[Told, bool]:
    """Send a request and read its answer; the second says whether the connection may be used again."""
    request = send.request
    headers = dict(request.headers)
    if kept.place.token is not None:
        headers["Authorization"] = f"Bearer {kept.place.token}"
    try:
        kept.connection.request(request.method, request.target, request.body, headers)
        response = kept.connection.getresponse()
    except (OSError, HTTPException) as error:
        return Lost(f"no answer: {_said(error)}"), False
    names = {name.lower(): value for name, value in response.getheaders()}
    if "content-encoding" in names:
        return Lost("the answer is encoded, which was not asked for"), False
    if response.length is None and not response.chunked:
        return Lost("the answer does not say where it ends"), False
    body, why = _body(response)
    if why:
        return Lost(f"the answer was cut: {why}", body), False
    return Answer(response.status, names, body), not response.will_close


def _body(response: HTTPResponse) -> tuple[bytes, str]:
    """Read an answer's body, as far as it comes, and say why it is not whole."""
    parts: list[bytes] = []
    size = 0
    try:
        while part := response.read1(PIECE_BYTES):
            parts.append(part)
            size += len(part)
            if size > ANSWER_BYTES_MAX:
                return b"", f"it has more than {ANSWER_BYTES_MAX} bytes"
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, IncompleteRead):
            parts.append(error.partial)
        return b"".join(parts), _said(error)
    if response.length:
        return b"".join(parts), "its connection was closed"
    response.close()  # or its connection takes it for unread
    return b"".join(parts), ""


def _said(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "not in time"
    return (
        getattr(error, "verify_message", None) or getattr(error, "strerror", None) or str(error) or type(error).__name__
    )
