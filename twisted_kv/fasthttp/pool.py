"""Connections to one origin: some under way, some kept for the next question, and a line of those who wait for one."""

from __future__ import annotations

from collections import deque

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from ..limits import Limits
from .exchange import Connection, Exchange


class Origin:
    """The connections to one scheme, host and port (RFC 9110, section 4.3.1).

    Of those kept the one used last is used next; so the others grow old, and are closed before their server does it.
    One timer sees to all of them.

    :param keeps: whether any are kept.
    """

    def __init__(self, clock: IReactorTime, endpoint: IStreamClientEndpoint, limits: Limits, keeps: bool) -> None:
        self._clock = clock
        self._endpoint = endpoint
        self._limits = limits
        self._keeps = keeps
        self._idle_max = min(2 * limits.batches_in_flight_max + 2, limits.connections_max)
        """As many as a node's queue has batches under way, and some for control calls."""
        self._factory = Factory()
        self._factory.noisy = False
        self._factory.protocol = lambda: Connection(self)  # type: ignore[assignment]
        self._open: set[Connection] = set()
        self._leaving: set[Connection] = set()
        """Those that were hung up on and are not gone yet."""
        self._connecting = 0
        self._idle: deque[Connection] = deque()
        """By the time of their last use, the latest at the right."""
        self._line: dict[Exchange, None] = {}
        self._serving = False
        self._timer: IDelayedCall | None = None

    @property
    def at_rest(self) -> bool:
        return not (self._open or self._leaving or self._connecting or self._line) and self._timer is None

    def ask(self, exchange: Exchange) -> None:
        if self._idle:
            self._idle.pop().carry(exchange)
        else:
            self._line[exchange] = None
            self._serve()

    def leave_line(self, exchange: Exchange) -> None:
        self._line.pop(exchange, None)

    def close(self) -> list[Deferred[None]]:
        """Keep none from now on; give what fires when those that nobody uses are gone."""
        self._keeps = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._idle:
            self._idle[0].abort()
        return [connection.lost for connection in self._leaving]

    # What connections say.

    def release(self, connection: Connection) -> None:
        """It has brought an answer and may be used again."""
        if self._keeps and self._line:
            connection.carry(self._next())
        elif not self._keeps or len(self._idle) >= self._idle_max:
            connection.abort()
        else:
            connection.idle_since = self._clock.seconds()
            self._idle.append(connection)
            if self._timer is None:
                self._timer = self._clock.callLater(self._limits.connection_idle_s, self._sweep)

    def leaving(self, connection: Connection) -> None:
        """It is being hung up on: another one may take its place."""
        if connection in self._open:
            self._open.remove(connection)
            self._leaving.add(connection)
            if connection in self._idle:
                self._idle.remove(connection)
            self._serve()

    def gone(self, connection: Connection, stale: bool) -> None:
        """It is closed.

        :param stale: it took a question and was closed without a byte of an answer. Then the others that are idle
            lead to the same process that has ended, and the question is about to be sent once more.
        """
        self.leaving(connection)
        self._leaving.discard(connection)
        while stale and self._idle:
            self._idle[0].abort()

    # Making new ones.

    def _next(self) -> Exchange:
        exchange = next(iter(self._line))
        del self._line[exchange]
        return exchange

    def _serve(self) -> None:
        """Make connections for those in the line, as many as there may be."""
        if self._serving:
            return  # one that failed at once: the loop below goes on
        self._serving = True
        while self._line and len(self._open) + self._connecting < self._limits.connections_max:
            self._connect(self._next())
        self._serving = False

    def _connect(self, exchange: Exchange) -> None:
        self._connecting += 1
        exchange.connecting = connecting = maybeDeferred(self._endpoint.connect, self._factory)
        connecting.addCallbacks(self._connected, self._not_connected, callbackArgs=(exchange,), errbackArgs=(exchange,))

    def _connected(self, connection: Connection, exchange: Exchange) -> None:
        self._connecting -= 1
        self._open.add(connection)
        if exchange.connecting is None:
            self.release(connection)  # it was called off at the last moment
        else:
            exchange.connecting = None
            connection.carry(exchange)

    def _not_connected(self, failure: Failure, exchange: Exchange) -> None:
        self._connecting -= 1
        self._serve()
        if exchange.connecting is not None:
            exchange.connecting = None
            exchange.answer.errback(failure)

    def _sweep(self) -> None:
        self._timer = None
        idle_s, now = self._limits.connection_idle_s, self._clock.seconds()
        while self._idle and self._idle[0].idle_since + idle_s <= now:
            self._idle[0].abort()
        if self._idle:
            self._timer = self._clock.callLater(self._idle[0].idle_since + idle_s - now, self._sweep)
