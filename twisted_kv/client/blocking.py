"""A client for programs without a reactor. It may be used by several threads at once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from types import TracebackType
from typing import TypeVar

from . import calls, many
from .opening import home_of
from .places import connection_to
from .pool import Pool
from .trip import Bounds, Send, Steps
from .values import Line, Result, Text, Value, Written, bytes_of

T = TypeVar("T")

CONNECTIONS_MAX = 8


class BlockingClient:
    """Asks the proxies of one cluster, one after the other until one answers; see ``docs/client.md``.

    :param servers: URLs of proxies, or hosts and ports.
    :param timeout: seconds that a call may take as a whole, where it does not say otherwise.
    :param token: shown to proxies that want one; ``token_file`` names a file of tokens as the daemons read it.
    :param tls_authority: a PEM file of who signed the proxies' certificates; None for whom the system trusts.
    :param tls_identity: a PEM file with a certificate and its key, for proxies that ask for one.
    :param connections: how many connections there are at the most; further threads wait.
    :param random: draws the pauses between attempts.
    :raises BadConfig: if any of these cannot be used.
    """

    def __init__(
        self,
        servers: str | Sequence[str] = "http://127.0.0.1:8080",
        *,
        timeout: float = Bounds().timeout_s,
        token: str | None = None,
        token_file: str | Path | None = None,
        tls_authority: str | Path | None = None,
        tls_identity: str | Path | None = None,
        connections: int = CONNECTIONS_MAX,
        random: Random | None = None,
    ) -> None:
        bounds = Bounds(timeout)
        self._home = home_of(servers, token, token_file, tls_authority, tls_identity, bounds, time.monotonic, random)
        for place in self._home.route.places:
            connection_to(place)  # says now what is wrong with certificates
        self._pool = Pool(time.monotonic, connections)
        self._closed = False

    def get(self, key: Text, *, consistency: str | None = None, timeout: float | None = None) -> Value | None:
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
    ) -> Written:
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
    ) -> Written:
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
    ) -> Written:
        """Write a value in the place of the version ``expected``, or only if there is none yet where that is None.

        :param value: None to delete that version.
        :raises PreconditionFailed: if the key holds something else; ``etag`` says what.
        :raises MaybeApplied: if nobody knows whether it was written.
        """
        return self._run(
            calls.cas(self._home, key, value, expected, ttl=ttl, content_type=content_type, timeout_s=timeout)
        )

    def increment(self, key: Text, by: int = 1, *, ttl: float | None = None, timeout: float | None = None) -> int:
        """Count a number up, from 0 where there is none yet, and give the sum. It counts once, or not at all.

        :param ttl: seconds that it lives, if it begins now; one that is there keeps its expiry.
        :raises NotACounter: if the key holds something else.
        :raises MaybeApplied: if nobody knows whether it was counted.
        """
        return self._run(calls.increment(self._home, key, by, ttl, timeout))

    def bulk(
        self,
        lines: Iterable[Line],
        *,
        consistency: str | None = None,
        timeout: float | None = None,
        repeat: bool = False,
    ) -> Iterator[Result]:
        """Have many operations done, and give what became of each, in order: a value, or an error.

        Those on one key are done in their order, others beside one another. Nothing is sent before it is asked for.

        :param timeout: seconds for each request of up to 1,024 lines.
        """
        parts = many.Cutter(lines)
        for part in parts:
            results = self._run(many.bulk(self._home, part, consistency, timeout, repeat))
            parts.answered(results)
            yield from results

    def scan(self, prefix: Text = b"", *, page: int = many.PAGE_KEYS, timeout: float | None = None) -> Iterator[bytes]:
        """Give the keys that begin so, in the order of their bytes. It is no snapshot.

        :param timeout: seconds for each page.
        """
        cursor: str | None = None
        while True:
            found = self._run(many.keys(self._home, bytes_of(prefix), page, cursor, timeout))
            yield from found.keys
            cursor = found.cursor
            if cursor is None:
                return

    def close(self) -> None:
        """Close the connections that nobody uses; those in use end with their answers. Nothing can be asked after."""
        self._closed = True
        self._pool.close()

    def __enter__(self) -> BlockingClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # How steps are carried out.

    def _run(self, steps: Steps[T]) -> T:
        if self._closed:
            raise RuntimeError("this client is closed")
        try:
            step = next(steps)
            while True:
                if isinstance(step, Send):
                    step = steps.send(self._pool.exchange(step))
                else:
                    time.sleep(step.seconds)
                    step = steps.send(None)
        except StopIteration as end:
            result: T = end.value
            return result
