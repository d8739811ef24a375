"""The transport over HTTP: treq on an agent that keeps connections, with bounds that treq does not set."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from hyperlink import EncodedURL
from treq.client import HTTPClient, IndexableCookieJar
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.interfaces import IConsumer, IDelayedCall, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import URI, ResponseDone, ResponseNeverReceived
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from ..errors import KvError, PeerSilent, PeerUnreachable
from ..fasthttp.agent import PooledAgent
from ..limits import Limits
from ..networks import Networks
from ..tls import PUBLIC, ClientTls
from ..tokens import Keyring
from .allowed import AddressDenied, AllowedEndpoint
from .peer import Answer, unconnected
from .verified import Verified, refusal_in, tls_fault_in

PARTS_MAX = 4096
"""Parts of a body that are held one by one. 72 MiB come in some 1200 reads, but may come byte by byte, and each part
takes forty more."""


@implementer(IBodyProducer)
class WholeBody:
    """A request's bytes, which our agent takes as ``data``, and others are given at once.

    Twisted's own producer sends files in turns of the global Cooperator.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.length = len(data)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        consumer.write(self.data)
        return succeed(None)

    def stopProducing(self) -> None:
        pass

    pauseProducing = resumeProducing = stopProducing


@implementer(IAgent)
class PlainAgent:
    """Takes back treq's offer of gzip, which it would unpack without a bound, and refuses who sends it all the same."""

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: IBodyProducer | None = None
    ) -> Deferred[IResponse]:
        if headers is not None:
            headers.removeHeader(b"accept-encoding")  # from the copy that treq has made to put it in
        return self._agent.request(method, uri, headers, bodyProducer).addCallback(self._checked)

    def _checked(self, response: IResponse) -> IResponse:
        if response.headers.hasHeader(b"content-encoding"):
            body = Body(0)
            body.done.addErrback(lambda _: None)
            response.deliverBody(body)
            body.abort()
            raise PeerSilent("the answer is encoded, which was not asked for")
        return response


class NoCookies(IndexableCookieJar):
    """Nodes set no cookies; whoever answers in a node's place and does is not listened to."""

    def add_cookie_header(self, request: object) -> None:
        pass

    def extract_cookies(self, response: object, request: object) -> None:
        pass


class Url(EncodedURL):
    """A node's URL, which needs none of the encoding that hyperlink would do again for every request.

    (It would also take the colons of an IPv6 address for a fault.)
    """

    _text: str

    def to_uri(self) -> EncodedURL:
        return self

    def to_text(self, with_password: bool = False) -> str:
        return self._text

    @classmethod
    def of(cls, text: str) -> Url:
        url = cls.from_text(text)
        url._text = text
        return url


class Body(Protocol):
    """Collects an answer's body, up to a bound."""

    def __init__(self, bytes_max: int) -> None:
        self.done: Deferred[bytes] = Deferred(self.abort)
        self._bytes_max = bytes_max
        self._whole: list[bytes] = []
        self._parts: list[bytes] = []
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._bytes_max:
            self.abort()
            return
        self._parts.append(data)
        if len(self._parts) == PARTS_MAX:
            self._whole.append(b"".join(self._parts))
            self._parts.clear()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if self._size > self._bytes_max:
            self.done.errback(Failure(PeerSilent(f"the answer is larger than {self._bytes_max} bytes")))
        elif reason.check(ResponseDone):
            self.done.callback(b"".join(self._whole + self._parts))
        else:
            # Not even PotentialDataLoss is good enough: every answer of ours says its length (P17).
            self.done.errback(Failure(PeerSilent("the answer was cut")))

    def abort(self, _: object = None) -> None:
        abort = getattr(self.transport, "abortConnection", None) or getattr(self.transport, "loseConnection", None)
        if abort is not None:
            abort()


@implementer(IAgentEndpointFactory)
class Endpoints:
    """Connects to nodes by name or address; in allowed networks only, where there are such.

    Twisted's endpoint learns that a connection was refused only when its next attempt is due, which by default is
    after 0.3 s, on the only address there is as well: as long as three reads take.
    """

    def __init__(self, reactor: Any, limits: Limits, tls: ClientTls = PUBLIC, networks: Networks | None = None) -> None:
        self._reactor = reactor
        self._limits = limits
        self._tls = tls
        self._networks = networks

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        if self._networks is None:
            return self._endpoint_on(self._reactor, uri)
        return AllowedEndpoint(self._reactor, self._networks, lambda judged: self._endpoint_on(judged, uri))

    def _endpoint_on(self, reactor: Any, uri: URI) -> IStreamClientEndpoint:
        endpoint = HostnameEndpoint(
            reactor,
            uri.host.strip(b"[]"),
            uri.port,
            timeout=self._limits.control_timeout_s,
            attemptDelay=self._limits.connect_attempt_s,
        )
        if uri.scheme == b"https":
            return wrapClientTLS(Verified(uri.host.strip(b"[]").decode("ascii"), self._tls), endpoint)
        return endpoint


def _headers(content_type: str, token: str | None) -> Headers:
    """Give a request's headers. Nobody changes them: treq makes a copy for what it adds."""
    headers = Headers({b"content-type": [content_type.encode()]})
    if token is not None:
        headers.setRawHeaders(b"authorization", [b"Bearer " + token.encode()])
    return headers


class HttpTransport:
    """Requests over a pool of connections. See ``peer.Transport``.

    :param keyring: holds the token to show, if any.
    :param tls: what is gone by where a URL is an ``https`` one.
    :param networks: where those who are asked have to be; None for anywhere.
    :param agent: makes the requests, instead of one of the transport's own; is closed with it, as a pool of
        connections that are kept (``closeCachedConnections``).
    """

    def __init__(
        self,
        reactor: Any,
        limits: Limits,
        agent: Any = None,
        keyring: Keyring | None = None,
        tls: ClientTls = PUBLIC,
        networks: Networks | None = None,
    ) -> None:
        self.endpoints = Endpoints(reactor, limits, tls, networks)
        self._clock: IReactorTime = reactor
        self._limits = limits
        self.keyring = keyring or Keyring()
        self._agent = agent if agent is not None else PooledAgent(reactor, self.endpoints, limits)
        self._cookies = NoCookies()
        self._client = HTTPClient(PlainAgent(self._agent), self._cookies, data_to_body_producer=WholeBody)
        self._url = lru_cache(maxsize=1024)(Url.of)
        self._headers = lru_cache(maxsize=16)(_headers)

    def request(
        self,
        method: str,
        url: str,
        body: bytes,
        *,
        content_type: str,
        timeout_s: float,
    ) -> Deferred[Answer]:
        return _Request(self, method, url, body, content_type, timeout_s).done

    def close(self) -> Deferred[None]:
        done: Deferred[None] = self._agent.closeCachedConnections()
        return done

    def send(self, method: str, url: str, body: bytes, content_type: str) -> Deferred[Any]:
        return self._client.request(
            method,
            self._url(url),
            data=body,
            cookies=self._cookies,
            headers=self._headers(content_type, self.keyring.shown),
            allow_redirects=False,
            unbuffered=True,
            reactor=self._clock,
        )

    def call_later(self, delay_s: float, call: Callable[[], None]) -> IDelayedCall:
        return self._clock.callLater(delay_s, call)

    @property
    def body_bytes_max(self) -> int:
        return self._limits.node_body_bytes_max


class _Request:
    """One request under one deadline, sent once more if it hit a stale connection."""

    def __init__(
        self, transport: HttpTransport, method: str, url: str, body: bytes, content_type: str, timeout_s: float
    ) -> None:
        self._transport = transport
        self._request = (method, url, body, content_type)
        self._timeout_s = timeout_s
        self._resent = False
        self._timed_out = False
        self.done: Deferred[Answer] = Deferred()
        self._timer = transport.call_later(timeout_s, self._time_out)
        self._step: Deferred[Any] | None = None
        self._send()

    def _send(self) -> None:
        try:
            self._step = self._transport.send(*self._request)
        except Exception as error:
            # treq and hyperlink refuse some URLs by raising; nothing has left now.
            self._finish(self._not_sent(f"the request could not be made: {error}"))
            return
        self._step.addCallbacks(self._headers, self._failed)

    def _headers(self, response: Any) -> None:
        body = Body(self._transport.body_bytes_max)
        self._step = body.done
        code = response.code
        body.done.addCallbacks(lambda data: self._finish(Answer(code, data, self._resent)), self._failed)
        response.original.deliverBody(body)

    def _failed(self, failure: Failure) -> None:
        if failure.check(KvError):
            self._finish(failure)
        elif self._timed_out or failure.check(CancelledError):
            self._finish(Failure(PeerSilent(f"no answer within {self._timeout_s:g} s")))
        elif failure.check(AddressDenied):
            self._finish(self._not_sent(str(failure.value), "allow its network with --node-networks"))
        elif refusal := refusal_in(failure):
            self._finish(self._not_sent(refusal, "name who signs the nodes' certificates with --tls-authority"))
        elif failure.check(ConnectError, DNSLookupError):
            self._finish(self._not_sent(f"cannot connect: {unconnected(failure.value)}"))
        elif failure.check(ResponseNeverReceived) and not self._resent:
            self._resent = True
            self._send()
        else:
            why = tls_fault_in(failure)
            hint = "is its URL http or https as it listens, and does it take our --tls-identity?" if why else ""
            self._finish(Failure(PeerSilent(f"the connection broke: {why or failure.getErrorMessage()}", hint)))

    def _not_sent(self, why: str, hint: str = "") -> Failure:
        """Say that nothing has left; a copy that left before may have arrived all the same."""
        return Failure(PeerSilent(why, hint) if self._resent else PeerUnreachable(why, hint))

    def _time_out(self) -> None:
        self._timed_out = True
        assert self._step is not None
        self._step.cancel()

    def _finish(self, result: Answer | Failure) -> None:
        if self._timer.active():
            self._timer.cancel()
        if not self.done.called:
            self.done.callback(result)  # a Failure here makes it an errback
