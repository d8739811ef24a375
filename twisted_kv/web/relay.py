"""Calls that another process of the same proxy answers: asked over its socket, and given back as it answered them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.endpoints import UNIXClientEndpoint
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure
from twisted.web.client import URI, ResponseFailed, ResponseNeverReceived
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory
from zope.interface import implementer

from ..errors import PeerSilent, PeerUnreachable, WorkerSilent
from ..fasthttp.agent import PooledAgent
from ..limits import Limits
from ..peers.http import Body, WholeBody
from ..peers.peer import unconnected
from .answers import JSON
from .site import App

WORKER_HOST = "worker"
"""What a worker is called at its socket."""

KEPT = (b"content-type", b"retry-after")
"""The fields of an answer that are its own; the others are the door's."""

AS_IT_IS = "/%:@!$&'()*+,;=~"
"""What stays in a path beside letters, digits, ``-``, ``.`` and ``_``: escapes, and what needs none (RFC 3986)."""


class Relayed(NamedTuple):
    """Another process's answer, read to its end."""

    code: int
    fields: dict[bytes, bytes]
    body: bytes


@implementer(IAgentEndpointFactory)
class _OneSocket:
    """Connects to one socket, whatever the URL."""

    def __init__(self, reactor: Any, path: Path, timeout_s: float) -> None:
        self._endpoint = UNIXClientEndpoint(reactor, str(path), timeout_s)

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        return self._endpoint


class Relay:
    """The way to one other process of this proxy.

    A connection serves one call: such calls are rare, and a fresh connection is never a stale one. Beyond
    ``connections_max`` calls wait for one another: a socket whose queue is full refuses who comes.

    :param path: its socket.
    """

    def __init__(self, reactor: Any, path: Path, limits: Limits) -> None:
        self._reactor = reactor
        self._limits = limits
        self._agent = PooledAgent(reactor, _OneSocket(reactor, path, limits.control_timeout_s), limits, keeps=False)
        self._under_way: set[Deferred[Relayed]] = set()

    def ask(
        self, method: bytes, target: bytes, timeout_s: float, body: bytes = b"", content_type: bytes = JSON
    ) -> Deferred[Relayed]:
        """Make one call. Errors: ``PeerUnreachable`` and ``PeerSilent``."""
        asked = ensureDeferred(self._ask(method, target, body, content_type))
        self._under_way.add(asked)

        def ended(result: Relayed | Failure) -> Relayed | Failure:
            self._under_way.discard(asked)
            return result

        asked.addTimeout(timeout_s, self._reactor, _late).addErrback(_told).addBoth(ended)
        return asked

    async def _ask(self, method: bytes, target: bytes, body: bytes, content_type: bytes) -> Relayed:
        heads = Headers({b"Content-Type": [content_type]})
        response = await self._agent.request(
            method, b"http://%b%b" % (WORKER_HOST.encode(), target), heads, WholeBody(body)
        )
        whole = Body(self._limits.relay_bytes_max)
        response.deliverBody(whole)
        found = {name: response.headers.getRawHeaders(name) for name in KEPT}
        return Relayed(response.code, {name: given[-1] for name, given in found.items() if given}, await whole.done)

    def answer(self, request: Any) -> Deferred[bytes]:
        """Answer a request of this process's door as the other process does. Errors: ``WorkerSilent``."""
        # twisted.web drops the body of an answer to HEAD, and keeps its length.
        method = b"GET" if request.method == b"HEAD" else request.method
        body, content_type = request.content.read(), request.getHeader(b"content-type") or JSON
        limits = self._limits
        patience_s = limits.change_patience_s + limits.change_answer_s + limits.relay_margin_s
        asked = self.ask(method, target_of(request), patience_s, body, content_type)
        return asked.addCallbacks(_give_back, _refuse, callbackArgs=(request,))

    def stop(self) -> None:
        """Wait for no answer any more: those who do are told at once."""
        for asked in list(self._under_way):
            asked.cancel()


class StandIn(App):
    """An app in which another function answers some of the routes that are added to it.

    :param instead: gives the function for a route's path, None where the route's own is to answer.
    """

    def __init__(self, instead: Callable[[str], Callable[[Any], Any] | None]) -> None:
        super().__init__()
        self._instead = instead

    def route(self, url: str, *args: Any, **kw: Any) -> Any:
        add = super().route(url, *args, **kw)
        answer = self._instead(url)
        if answer is None:
            return add

        def added(function: Any) -> Any:
            # Klein tells routes apart by their functions' names.
            add(wraps(function)(lambda request: answer(request)))
            return function

        return added


def target_of(request: Any) -> bytes:
    """Give a request's target in a form that any server takes.

    It is made anew from what was read of it: requests in the lane do not keep it.
    """
    path: bytes = quote(request.path, safe=AS_IT_IS).encode()
    return path + b"?" + urlencode(request.args, doseq=True).encode() if request.args else path


def _late(_: object, timeout_s: float) -> Failure:
    return Failure(PeerSilent(f"it took longer than {timeout_s:g} s"))


def _told(failure: Failure) -> Failure:
    """Turn what becomes of a call into the errors of this store; a bug stays what it is."""
    if failure.check(ConnectError):
        # Where a socket's queue is full Twisted has no error of its own, and a Failure's lines for a message.
        bare = type(failure.value) is ConnectError
        return Failure(
            PeerUnreachable(f"cannot connect: {'it takes no more connections' if bare else unconnected(failure.value)}")
        )
    if failure.check(CancelledError):
        return Failure(PeerSilent("this worker is stopping"))
    if failure.check(ResponseNeverReceived, ResponseFailed):
        return Failure(PeerSilent("the connection broke"))
    return failure


def _give_back(answered: Relayed, request: Any) -> bytes:
    request.setResponseCode(answered.code)
    for name, value in answered.fields.items():
        request.setHeader(name, value)
    if answered.code != 204:
        request.setHeader(b"content-length", b"%d" % len(answered.body))
    return answered.body


def _refuse(failure: Failure) -> Failure:
    """Say why nobody answered. (The client's own request was in order: 502 and 504 would speak of nodes.)"""
    failure.trap(PeerUnreachable, PeerSilent)
    effect = "nothing was done" if failure.check(PeerUnreachable) else "what was asked for may be done all the same"
    why = failure.value.detail
    return Failure(
        WorkerSilent(
            f"the proxy's first worker, which looks after the cluster, gave no answer: {why}; {effect}",
            "look with GET /v1/cluster, then send the call again; its log is twistd.log in the proxy's folder",
        )
    )
