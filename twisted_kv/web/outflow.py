"""Answers that are written piece by piece: no faster than the client reads, and cut where they cannot be finished."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from ..errors import KvError
from .answers import log_bug


class ClientGone(Exception):
    """The client has closed the connection."""


@implementer(IPushProducer)
class Outflow:
    """One request's answer, as a context in which its pieces are written.

    Where the context is left by an error, the connection is broken off, so that the client cannot take what it has for
    the whole. A client that has gone ends the context, and is no error.
    """

    log = Logger()

    def __init__(self, request: Any) -> None:
        self._request = request
        self._waiting: Deferred[None] | None = None
        self._paused = False
        self.gone = False
        """Nobody reads any more."""
        self._parted = False
        """The request knows it, too; its transport may have said it before."""
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
        self._parted = True
        self.stopProducing()

    async def room(self) -> None:
        """Wait until the client has read what was written.

        :raises ClientGone: if nobody reads any more.
        """
        if self._paused and not self.gone:
            self._waiting = Deferred()
            await self._waiting
        if self.gone:
            raise ClientGone

    async def write(self, data: bytes) -> None:
        """Write a piece when there is room for it. Errors as in ``room``."""
        await self.room()
        self._request.write(data)

    def break_off(self) -> None:
        """End the connection where its client does not read: what waits for it would wait on."""
        if self._paused and not self.gone:
            self._request.transport.abortConnection()

    async def __aenter__(self) -> Outflow:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        """End the answer. The door finishes the request."""
        if isinstance(error, GeneratorExit):
            return False
        if isinstance(error, KvError):
            self.log.warn("an answer was cut off: {error}", error=error.detail)
        elif error is not None and not isinstance(error, ClientGone):
            log_bug(Failure(error), "an answer that was under way")
        if not self._parted:
            self._request.unregisterProducer()
        if error is not None and not self.gone:
            self.gone = True
            self._request.transport.abortConnection()
        return True
