"""One question and its answer, and the connection that carries one such exchange at a time."""

from __future__ import annotations

from typing import Protocol as Contract

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IProtocol, IPushProducer, ITCPTransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone, ResponseFailed, ResponseNeverReceived
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IResponse
from zope.interface import implementer

from .answer import Reader, Unreadable
from .outlet import Outlet

DONE = Failure(ResponseDone("the answer is whole"))


class CalledOff(CancelledError):
    """An exchange was cancelled before it had a connection: nothing of its question has left."""


class Keeper(Contract):
    """Whom connections belong to, and exchanges wait at. See ``pool.Origin``."""

    def leave_line(self, exchange: Exchange) -> None: ...

    def release(self, connection: Connection) -> None: ...

    def leaving(self, connection: Connection) -> None: ...

    def gone(self, connection: Connection, stale: bool) -> None: ...


@implementer(IResponse)
class Response:
    """An answer whose head has arrived. Its ``headers`` are all of them, also those that concern the connection."""

    request = None
    previousResponse: IResponse | None = None

    def __init__(self, exchange: Exchange) -> None:
        reader = exchange.reader
        self.version = (b"HTTP", 1, int(reader.modern))
        self.code = reader.code
        self.phrase = reader.phrase
        self.headers = reader.headers
        self.length = reader.length
        self._exchange = exchange

    def setPreviousResponse(self, response: IResponse) -> None:
        self.previousResponse = response

    def deliverBody(self, protocol: IProtocol) -> None:
        """Give the body to a protocol, whose connection then ends with ``ResponseDone`` if it was whole."""
        self._exchange.deliver(protocol)


@implementer(IPushProducer)
class Exchange:
    """One question and its answer; and the transport of who reads the answer's body.

    It waits in a line, for a connection that is being made, or for what comes over one; and is called off by cancelling
    ``answer``.
    """

    __slots__ = (
        "_body",
        "_end",
        "_given",
        "_keeper",
        "answer",
        "connecting",
        "connection",
        "disconnecting",
        "question",
        "reader",
        "response",
    )

    def __init__(self, keeper: Keeper, question: bytes, reader: Reader) -> None:
        self._keeper = keeper
        self.question = question
        self.reader = reader
        self.answer: Deferred[IResponse] = Deferred(self._called_off)
        self.connecting: Deferred[Connection] | None = None
        self.connection: Connection | None = None
        self.response: Response | None = None
        self.disconnecting = False
        self._body: IProtocol | None = None
        self._given = False
        self._end: Failure | None = None

    def move_on(self, end: Failure | None) -> None:
        """Tell what the reader has found, and with what it has ended, if it has."""
        self._end = end
        if self._body is not None:
            self._pass_on(self._body)
            return
        if self.response is None and self.reader.headed:
            self.response = Response(self)
            self.answer.callback(self.response)
        elif self.response is None and end is not None:
            self.answer.errback(end)
        if self.response is not None and self._body is None:
            self.pauseProducing()  # until somebody takes the body

    def deliver(self, body: IProtocol) -> None:
        """Give the answer's body to a protocol, as much of it as there is, and what comes."""
        if self._given:
            raise RuntimeError("the body of an answer is given away once")
        self._given = True
        self._body = body
        self.resumeProducing()  # before it is told anything: it may pause
        body.makeConnection(self)
        self._pass_on(body)

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

    def _pass_on(self, body: IProtocol) -> None:
        if self.reader.body and not self.disconnecting:
            body.dataReceived(self.reader.take())
        if self._end is not None:
            # Who is at its end holds nobody any more. Circles would be for the garbage collector to find, which runs
            # seldom here and then stops everything for 20 ms.
            self._body = self.response = None
            body.connectionLost(self._end)

    def _called_off(self, _: object) -> None:
        connecting, self.connecting = self.connecting, None
        if self.connection is not None:
            self.connection.drop()
            return
        self.answer.errback(Failure(CalledOff()))
        if connecting is not None:
            connecting.cancel()
        else:
            self._keeper.leave_line(self)

    # What a body's protocol does with its transport. Once the answer is whole its connection belongs to others.

    def abortConnection(self) -> None:
        self.disconnecting = True
        if self.connection is not None:
            self.connection.abort()

    loseConnection = stopProducing = abortConnection

    def pauseProducing(self) -> None:
        if self.connection is not None:
            self.connection.pause()

    def resumeProducing(self) -> None:
        if self.connection is not None:
            self.connection.resume()


class Connection(Protocol):
    """One connection, with one exchange on it at a time."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._exchange: Exchange | None = None
        self._paused = False
        self.idle_since = 0.0
        self.lost: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
        self._outlet = Outlet(self.transport)

    def carry(self, exchange: Exchange) -> None:
        self._exchange = exchange
        exchange.connection = self
        self._outlet.write(exchange.question)

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
        self.lost.callback(None)
        if exchange is not None:
            exchange.cut(reason)

    def abort(self) -> None:
        """Hang up at once. The exchange, if there is one, hears of it with the end of the connection.

        A polite end would wait until all has left, over TLS also for the other side's end, and so for ever on one that
        reads no more. It would gain nothing: no answer is on its way here, or nobody wants it.
        """
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
            self.abort()
