"""Answers that are written piece by piece: no faster than the client reads, and cut where they cannot be finished."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer


class ClientGone(Exception):
    """The client has closed the connection."""


@implementer(IPushProducer)
class Outflow:
    """One request's answer. Whoever writes waits for ``room`` before the next piece."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._waiting: Deferred[None] | None = None
        self._paused = False
        self.gone = False
        request.notifyFinish().addErrback(self._lost)
        request.registerProducer(self, True)

    def pauseProducing(self) -> None:
        self._paused = True

    def resumeProducing(self) -> None:
        self._paused = False
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)

    def stopProducing(self) -> None:
        self.gone = True
        self.resumeProducing()

    def _lost(self, _: object) -> None:
        self.stopProducing()

    async def write(self, data: bytes) -> None:
        """Write a piece when there is room for it.

        :raises ClientGone: if nobody reads any more.
        """
        if self._paused and not self.gone:
            self._waiting = Deferred()
            await self._waiting
        if self.gone:
            raise ClientGone
        self._request.write(data)

    def finish(self) -> None:
        """End the answer. The door finishes the request."""
        if not self.gone:
            self._request.unregisterProducer()

    def cut(self) -> None:
        """Break the connection off, so that the client cannot take what it has for the whole."""
        if not self.gone:
            self.gone = True
            self._request.unregisterProducer()
            self._request.transport.abortConnection()
