"""One question and its answer, and the connection that carries one such exchange at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol as Contract

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed, ResponseNeverReceived
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IResponse

from .answer import Reader, Response, Unreadable

DONE = Failure(ResponseDone("the answer is whole"))


class Keeper(Contract):
    """Whom connections belong to, and exchanges wait at. See ``pool.Origin``."""

    def leave_line(self, exchange: Exchange) -> None: ...

    def release(self, connection: Connection) -> None: ...

    def leaving(self, connection: Connection) -> None: ...

    def gone(self, connection: Connection, stale: bool) -> None: ...


class Exchange:
    """One question and its answer.

    It waits in a line, for a connection that is being made, or for what comes over one; and is called off by cancelling
    ``answer``.
    """

    __slots__ = ("_keeper", "answer", "connecting", "connection", "question", "reader", "response")

    def __init__(self, keeper: Keeper, question: Sequence[bytes], reader: Reader) -> None:
        self._keeper = keeper
        self.question = question
        self.reader = reader
        self.answer: Deferred[IResponse] = Deferred(self._called_off)
        self.connecting: Deferred[Connection] | None = None
        self.connection: Connection | None = None
        self.response: Response | None = None

    def move_on(self, end: Failure | None) -> None:
        """Tell what the reader has found, and with what it has ended, if it has."""
        reader, response = self.reader, self.response
        if response is not None:
            parts = reader.body[:]
            reader.body.clear()
            response.received(parts)
            if end is not None:
                response.ended(end)
        elif reader.headed:
            response = self.response = Response(self, reader)
            response.received(reader.body)
            reader.body.clear()
            if end is not None:
                response.ended(end)
            self.answer.callback(response)
        elif end is not None:
            self.answer.errback(end)
        if response is not None and not response.taken:
            self.pause()

    def cut(self, reason: Failure) -> None:
        """The connection has gone before the answer was whole."""
        reader = self.reader
        error: Exception
        if not reader.begun:
            error = ResponseNeverReceived([reason])
        elif reader.headed and not reader.announced:
            error = PotentialDataLoss()
        else:
            error = ResponseFailed([reason], self.response)
        self.move_on(Failure(error))

    def _called_off(self, _: object) -> None:
        connecting, self.connecting = self.connecting, None
        if self.connection is not None:
            self.connection.drop()
        elif connecting is not None:
            connecting.cancel()
        else:
            self._keeper.leave_line(self)

    # What an answer may ask of its connection. See ``answer.Bearer``.

    def abort(self) -> None:
        if self.connection is not None:
            self.connection.abort()

    def pause(self) -> None:
        if self.connection is not None:
            self.connection.pause()

    def resume(self) -> None:
        if self.connection is not None:
            self.connection.resume()


class Connection(Protocol):
    """One connection, with one exchange on it at a time."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._exchange: Exchange | None = None
        self._paused = False
        self.idle_since = 0.0
        self.last = False
        """Its exchange is the last one."""

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)

    def carry(self, exchange: Exchange) -> None:
        self._exchange = exchange
        exchange.connection = self
        self.transport.writeSequence(exchange.question)

    def dataReceived(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            # Whatever this is, it would be taken for the answer to the next question.
            self.abort()
            return
        reader = exchange.reader
        try:
            reader.feed(data)
        except Unreadable as error:
            self.drop()
            exchange.move_on(Failure(ResponseFailed([Failure(error)], exchange.response)))
            return
        if reader.done:
            # First of all the connection is free again: who is told now may ask the next question.
            self._let_go(kept=reader.keeps and not reader.excess)
            exchange.move_on(DONE)
        else:
            exchange.move_on(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        exchange = self._detach()
        self._keeper.gone(self, stale=exchange is not None and not exchange.reader.begun)
        if exchange is not None:
            exchange.cut(reason)

    def close(self) -> None:
        """Hang up politely."""
        self._keeper.leaving(self)
        self.transport.loseConnection()

    def abort(self) -> None:
        """Hang up at once. The exchange hears of it with the end of the connection."""
        self._keeper.leaving(self)
        self.transport.abortConnection()

    def drop(self) -> None:
        """Hang up at once, and let the exchange hear no more of it."""
        self._detach()
        self.abort()

    def pause(self) -> None:
        self._paused = True
        self.transport.pauseProducing()

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            self.transport.resumeProducing()

    def _detach(self) -> Exchange | None:
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.connection = None
        return exchange

    def _let_go(self, kept: bool) -> None:
        self._detach()
        self.resume()
        if kept:
            self._keeper.release(self)
        else:
            self.close()
