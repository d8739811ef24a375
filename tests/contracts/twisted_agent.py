"""Twisted's own agent, as the transport takes one: what ours is held against."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.web.client import Agent, HTTPConnectionPool, _HTTP11ClientFactory
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IBodyProducer, IResponse
from zope.interface import implementer

from twisted_kv.limits import Limits
from twisted_kv.peers.http import Endpoints


class _QuietFactory(_HTTP11ClientFactory):
    """Does not log each connection: there is one factory for every one of them."""

    noisy = False


@implementer(IAgent)
class TwistedAgent:
    """An agent and its pool. Hand it to ``HttpTransport`` as ``agent``."""

    def __init__(self, reactor: Any, limits: Limits) -> None:
        pool = HTTPConnectionPool(reactor)
        pool._factory = _QuietFactory
        pool.maxPersistentPerHost = 2 * limits.batches_in_flight_max + 2
        pool.retryAutomatically = False
        pool.cachedConnectionTimeout = limits.connection_idle_s
        self._agent = Agent.usingEndpointFactory(reactor, Endpoints(reactor, limits), pool)
        self.closeCachedConnections = pool.closeCachedConnections

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        return self._agent.request(method, uri, headers, bodyProducer)
