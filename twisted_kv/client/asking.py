"""Requests over an agent, each of them under one deadline, its body included."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http_headers import Headers

from ..errors import KvError
from ..fasthttp.exchange import CalledOff
from ..limits import MIB
from ..peers.http import NoCookies, PlainAgent, Url, WholeBody
from ..peers.verified import refusal_in, tls_fault_in
from .judging import Answer, Lost, Told, Unsent
from .trip import Send

T = TypeVar("T")

ANSWER_BYTES_MAX = 128 * MIB
"""The largest answer. A value has 64 MiB at the most, and grows by a third as base64."""


class Asking:
    """Sends requests, so many at a time at the most; the others wait.

    :param agent: see ``twisted.web.iweb.IAgent``.
    """

    def __init__(self, reactor: Any, agent: Any, connections: int) -> None:
        self._clock = reactor
        self._cookies = NoCookies()
        plain: Any = PlainAgent(agent)
        producer: Any = WholeBody
        self._treq = HTTPClient(plain, self._cookies, data_to_body_producer=producer)
        self._url = lru_cache(maxsize=1024)(Url.of)
        self._free = DeferredSemaphore(connections)
        self._connections = connections

    async def exchange(self, send: Send) -> Told:
        attempt = _Attempt()
        timer = self._clock.callLater(send.wait_s, attempt.time_out)
        try:
            await attempt.waits(self._free.acquire())
        except CancelledError:
            if not attempt.timed_out:
                raise
            return Unsent(f"all {self._connections} connections of this client are busy")
        else:
            try:
                return await self._asked(send, attempt)
            finally:
                self._free.release()
        finally:
            if timer.active():
                timer.cancel()

    async def _asked(self, send: Send, attempt: _Attempt) -> Told:
        """Send a request, and read its answer."""
        body = _Body()
        try:
            response = await attempt.waits(self._sent(send))
            response.original.deliverBody(body)
            await attempt.waits(body.done)
        except (CancelledError, ConnectingCancelledError) as error:
            if not attempt.timed_out:
                raise
            if isinstance(error, CancelledError) and not isinstance(error, CalledOff):
                return Lost("no answer in time", body.data)
            return Unsent("no connection in time")
        except (ConnectError, DNSLookupError) as error:
            return Unsent(f"cannot connect: {error}")
        except _Cut as error:
            return Lost(f"the answer was cut: {error}", body.data)
        except KvError as error:
            return Lost(error.detail)
        except Exception as error:
            failure = Failure(error)  # type: ignore[no-untyped-call]
            if refusal := refusal_in(failure):
                return Unsent(refusal, hopeless=True)
            return Lost(f"no answer: {tls_fault_in(failure) or _said(error)}")
        names = {
            name.decode("latin-1").lower(): values[-1].decode("latin-1")
            for name, values in response.headers.getAllRawHeaders()
        }
        return Answer(response.code, names, body.data)

    def _sent(self, send: Send) -> Deferred[Any]:
        request, place = send.request, send.place
        headers = Headers({name.encode(): [value.encode()] for name, value in request.headers.items()})
        if place.token is not None:
            headers.setRawHeaders(b"authorization", [b"Bearer " + place.token.encode()])
        return self._treq.request(
            request.method,
            self._url(place.url + request.target),
            data=request.body,
            cookies=self._cookies,
            headers=headers,
            allow_redirects=False,
            unbuffered=True,
            reactor=self._clock,
        )


class _Attempt:
    """What one attempt waits for now, and whether its time is up."""

    def __init__(self) -> None:
        self.timed_out = False
        self._awaited: Deferred[Any] | None = None

    def waits(self, what: Deferred[T]) -> Deferred[T]:
        self._awaited = what
        return what

    def time_out(self) -> None:
        self.timed_out = True
        if self._awaited is not None:
            self._awaited.cancel()


class _Cut(Exception):
    """An answer that is not whole."""


class _Body(Protocol):
    """Collects an answer's body. What came of one that was cut is kept."""

    def __init__(self) -> None:
        self.done: Deferred[None] = Deferred(self._cancelled)
        self._parts = bytearray()

    @property
    def data(self) -> bytes:
        return bytes(self._parts)

    def dataReceived(self, data: bytes) -> None:
        self._parts += data
        if len(self._parts) > ANSWER_BYTES_MAX:
            self._parts.clear()
            self._end(_Cut(f"it has more than {ANSWER_BYTES_MAX} bytes"))
            self._abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        # Not even PotentialDataLoss is good enough: every answer of a proxy says where it ends.
        done = reason.check(ResponseDone)  # type: ignore[no-untyped-call]
        self._end(None if done else _Cut("its connection was closed"))

    def _end(self, error: Exception | None) -> None:
        if self.done.called:
            return
        if error is None:
            self.done.callback(None)
        else:
            self.done.errback(error)

    def _cancelled(self, _: object) -> None:
        self._end(CancelledError())  # before the connection says that it is lost, which would be tried again
        self._abort()

    def _abort(self) -> None:
        abort = getattr(self.transport, "abortConnection", None) or getattr(self.transport, "loseConnection", None)
        if abort is not None:
            abort()


def _said(error: Exception) -> str:
    """Say why a request failed: Twisted's own text is a list of the reasons, as objects."""
    reasons = getattr(error, "reasons", None)
    return ", ".join(str(reason.getErrorMessage()) for reason in reasons) if reasons else str(error)
