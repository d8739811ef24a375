"""A client for programs that run a reactor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater

from ..errors import BadConfig
from ..fasthttp.agent import PooledAgent
from ..limits import Limits
from ..peers.http import Endpoints
from ..tls import client_tls
from . import calls, many
from .asking import Asking
from .opening import home_of
from .trip import CONNECT_S_MAX, Bounds, Send, Steps
from .values import Line, Result, Text, Value, Written, bytes_of

T = TypeVar("T")

CONNECTIONS_MAX = 32


class Client:
    """Asks the proxies of one cluster, one after the other until one answers; see ``docs/client.md``.

    Each call gives a Deferred, which may be awaited, and cancelled: a change that was sent goes on then.

    :param reactor: waits, and connects where no agent is given.
    :param servers: URLs of proxies, or hosts and ports.
    :param agent: makes the requests (``IAgent``), instead of one of the client's own. It is not closed with the client,
        and goes by its own rules of TLS.
    :param timeout: seconds that a call may take as a whole, where it does not say otherwise.
    :param token: shown to proxies that want one; ``token_file`` names a file of tokens as the daemons read it.
    :param tls_authority: a PEM file of who signed the proxies' certificates; None for whom the system trusts.
    :param tls_identity: a PEM file with a certificate and its key, for proxies that ask for one.
    :param connections: how many requests are under way at the most; further calls wait.
    :param random: draws the pauses between attempts.
    :raises BadConfig: if any of these cannot be used.
    """

    def __init__(
        self,
        reactor: Any,
        servers: str | Sequence[str] = "http://127.0.0.1:8080",
        *,
        agent: Any = None,
        timeout: float = Bounds().timeout_s,
        token: str | None = None,
        token_file: str | Path | None = None,
        tls_authority: str | Path | None = None,
        tls_identity: str | Path | None = None,
        connections: int = CONNECTIONS_MAX,
        random: Random | None = None,
    ) -> None:
        self._reactor = reactor
        bounds = Bounds(timeout)
        self._home = home_of(servers, token, token_file, tls_authority, tls_identity, bounds, reactor.seconds, random)
        if agent is not None and (tls_authority is not None or tls_identity is not None):
            raise BadConfig("an agent and files for TLS are given", "have the agent go by these files itself")
        self._own: PooledAgent | None = None
        if agent is None:
            # All connections are kept that there may be: its pool keeps twice as many as a node has batches, and two.
            limits = Limits(
                connections_max=connections, batches_in_flight_max=connections, control_timeout_s=CONNECT_S_MAX
            )
            endpoints: Any = Endpoints(reactor, limits, client_tls(_text(tls_authority), _text(tls_identity)))
            agent = self._own = PooledAgent(reactor, endpoints, limits)
        self._asking = Asking(reactor, agent, connections)
        self._closed = False

    def get(self, key: Text, *, consistency: str | None = None, timeout: float | None = None) -> Deferred[Value | None]:
        """Give what a key holds, None for nothing."""
        return self._run(calls.get(self._home, key, consistency, timeout))

    def put(
        self,
        key: Text,
        value: Text,
        *,
        ttl: float | None = None,
        content_type: str | None = None,
        consistency: str | None = None,
        timeout: float | None = None,
        repeat: bool = False,
    ) -> Deferred[Written]:
        """Write a value, whatever the key holds.

        :param ttl: seconds that it lives.
        :param repeat: whether it may be written again where nobody knows whether it was: what others have written
            between is overwritten then.
        :raises MaybeApplied: if nobody knows whether it was written.
        """
        return self._run(
            calls.put(
                self._home,
                key,
                value,
                ttl=ttl,
                content_type=content_type,
                consistency=consistency,
                timeout_s=timeout,
                repeat=repeat,
            )
        )

    def delete(
        self, key: Text, *, consistency: str | None = None, timeout: float | None = None, repeat: bool = False
    ) -> Deferred[Written]:
        """Delete a key, whether or not it is there. Parameters and errors as in ``put``."""
        return self._run(calls.delete(self._home, key, consistency=consistency, timeout_s=timeout, repeat=repeat))

    def cas(
        self,
        key: Text,
        value: Text | None,
        expected: str | None,
        *,
        ttl: float | None = None,
        content_type: str | None = None,
        timeout: float | None = None,
    ) -> Deferred[Written]:
        """Write a value in the place of the version ``expected``, or only if there is none yet where that is None.

        :param value: None to delete that version.
        :raises PreconditionFailed: if the key holds something else; ``etag`` says what.
        :raises MaybeApplied: if nobody knows whether it was written.
        """
        return self._run(
            calls.cas(self._home, key, value, expected, ttl=ttl, content_type=content_type, timeout_s=timeout)
        )

    def increment(
        self, key: Text, by: int = 1, *, ttl: float | None = None, timeout: float | None = None
    ) -> Deferred[int]:
        """Count a number up, from 0 where there is none yet, and give the sum. It counts once, or not at all.

        :param ttl: seconds that it lives, if it begins now; one that is there keeps its expiry.
        :raises NotACounter: if the key holds something else.
        :raises MaybeApplied: if nobody knows whether it was counted.
        """
        return self._run(calls.increment(self._home, key, by, ttl, timeout))

    async def bulk(
        self,
        lines: Iterable[Line],
        *,
        consistency: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - it is for the proxy as well
        repeat: bool = False,
    ) -> AsyncIterator[Result]:
        """Have many operations done, and give what became of each, in order: a value, or an error.

        Those on one key are done in their order, others beside one another. Nothing is sent before it is asked for.

        :param timeout: seconds for each request of up to 1,024 lines.
        """
        parts = many.Cutter(lines)
        for part in parts:
            results = await self._run(many.bulk(self._home, part, consistency, timeout, repeat))
            parts.answered(results)
            for result in results:
                yield result

    async def scan(
        self,
        prefix: Text = b"",
        *,
        page: int = many.PAGE_KEYS,
        timeout: float | None = None,  # noqa: ASYNC109 - as above
    ) -> AsyncIterator[bytes]:
        """Give the keys that begin so, in the order of their bytes. It is no snapshot.

        :param timeout: seconds for each page.
        """
        cursor: str | None = None
        while True:
            found = await self._run(many.keys(self._home, bytes_of(prefix), page, cursor, timeout))
            for key in found.keys:
                yield key
            cursor = found.cursor
            if cursor is None:
                return

    def close(self) -> Deferred[None]:
        """Close the connections that nobody uses; those in use end with their answers. Nothing can be asked after."""
        self._closed = True
        return self._own.closeCachedConnections() if self._own is not None else succeed(None)

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    # How steps are carried out.

    def _run(self, steps: Steps[T]) -> Deferred[T]:
        return Deferred.fromCoroutine(self._carried_out(steps))

    async def _carried_out(self, steps: Steps[T]) -> T:
        if self._closed:
            raise RuntimeError("this client is closed")
        try:
            step = next(steps)
            while True:
                if isinstance(step, Send):
                    step = steps.send(await self._asking.exchange(step))
                else:
                    await deferLater(self._reactor, step.seconds)
                    step = steps.send(None)
        except StopIteration as end:
            result: T = end.value
            return result


def _text(path: str | Path | None) -> str | None:
    return str(path) if path is not None else None
