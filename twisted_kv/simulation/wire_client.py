"""Clients that speak HTTP, and believe no more than what they are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes

import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool
from twisted.web.http_headers import Headers

from ..limits import Limits
from ..peers.http import Body, Endpoints, WholeBody
from ..quorum import Level
from ..versions import Record, Version
from .cluster import Cluster, Proxy
from .history import CLOCK_S, EXPIRY_CLIENT, History, number_in
from .level import PORT, Wire
from .linearizability import Event, Fate, Kind
from .tcp import Stack
from .workload import Client, Mix

STRANGERS = 0.02
"""How many requests show no token where one is asked for."""

SUFFIXES = (b"", b"/a//b", b"%2F", b"\xff\x00 ?#", b"/../.")
"""What keys end with: a path is taken as it is, and its escapes are undone once."""


def suffixed(key: bytes) -> bytes:
    """Give a key of the workload the end that is its own."""
    number = int(key.rpartition(b"k")[2])
    return key + SUFFIXES[(number + 1) % len(SUFFIXES)]


class Told(NamedTuple):
    """What a client was told: the answer's status, version and body."""

    code: int
    etag: bytes
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        fields: dict[str, Any] = msgspec.json.decode(self.body)
        return fields

    @property
    def in_doubt(self) -> bool:
        return bool(self.problem.get("maybe_applied"))


class Guess:
    """A conditional change that was refused: its client saw that the key held another value than he thought.

    He is told that value's version, and whose it is, is known at the end. See ``history.Effects``.
    """

    def __init__(self, history: History, client: str, key: bytes, called: float, etag: str | None) -> None:
        self._history = history
        self._client = client
        self._etag = etag
        self._returned = history.now_s
        self.key = key
        self.called = called

    def events(self) -> list[Event]:
        """See ``Effects``. Nobody may have told what the version belongs to; then it says nothing."""
        value: bytes | None = None
        if self._etag is not None:
            version = Version(bytes.fromhex(self._etag))
            named = (
                name
                for (key, name), versions in self._history.versions.items()
                if key == self.key and version in versions
            )
            value = next(named, None)
            if value is None:
                return []
        return [Event(self._client, Kind.READ, self.key, value, self.called, self._returned)]

    def never(self) -> set[tuple[bytes, bytes]]:
        """See ``Effects``."""
        return set()


class WireClient(Client):
    """One client that asks over simulated connections, some of them kept, some new for each request."""

    def __init__(self, cluster: Cluster, history: History, mix: Mix, name: str, left: list[int]) -> None:
        super().__init__(cluster, history, mix, name, left)
        assert isinstance(cluster.carriage, Wire)
        stack = Stack(cluster.carriage.tcp, cluster.world_host)
        self._pool = HTTPConnectionPool(stack, persistent=self._random.random() < 0.5)
        self._pool.retryAutomatically = False
        self._pool.cachedConnectionTimeout = 5
        self._agent = Agent.usingEndpointFactory(stack, Endpoints(stack, Limits()), self._pool)
        self._known: dict[bytes, tuple[bytes, bytes]] = {}
        """What each key held when this client saw it last: ETag and value."""

    def _draw(self) -> tuple[str, bytes]:
        kind, key = super()._draw()
        return kind, suffixed(key)

    # Requests.

    def _ask(
        self,
        proxy: Proxy,
        method: bytes,
        target: bytes,
        body: bytes | None,
        ended: Callable[[Told | None], object],
        **headers: bytes,
    ) -> Deferred[object]:
        """Make a request.

        :param ended: told what was answered, or None where that is unknown; not called if nothing was sent.
        """
        url = b"http://%b:%d%b" % (proxy.host.name.encode(), PORT, target)
        tokens = self._cluster.carriage.tokens
        stranger = tokens is not None and self._random.random() < STRANGERS
        if tokens is not None and not stranger:
            headers["authorization"] = b"Bearer " + tokens.shown
        sent = Headers({name.replace("_", "-").encode(): [value] for name, value in headers.items()})
        producer = WholeBody(body) if body is not None else None
        asked: Deferred[Any] = self._agent.request(method, url, sent, producer)
        etag = b""

        def heads(response: Any) -> Deferred[Any]:
            nonlocal etag
            etag = (response.headers.getRawHeaders(b"etag") or [b""])[0].strip(b'"')
            # Twisted's readBody fires twice where it is cancelled and the connection ends after that.
            body = Body(Limits().body_bytes_max)
            response.deliverBody(body)
            return body.done.addCallback(lambda data: Told(response.code, etag, data))

        def finished(result: Told | Failure | None) -> None:
            if isinstance(result, Failure):
                self._history.errors["broken connection"] = self._history.errors.get("broken connection", 0) + 1
                if result.check(ConnectError, DNSLookupError):
                    return  # it was never sent
                ended(None)
            else:
                assert result is None or not stranger or result.code == 401, result
                if result is not None and result.code >= 400 and result.code not in (404, 412):
                    slug = str(result.problem["type"])
                    self._history.errors[slug] = self._history.errors.get(slug, 0) + 1
                    assert slug != "internal-error", result
                ended(result)

        return self._watch(asked.addCallback(heads), finished)

    def _target(self, key: bytes, level: Level = Level.STRONG, **parameters: object) -> bytes:
        query = "&".join(f"{name}={value}" for name, value in ({"consistency": level.value} | parameters).items())
        return b"/v1/kv/" + quote_from_bytes(key).encode() + b"?" + query.encode()

    def _saw(self, key: bytes, etag: bytes, value: bytes, settled: bool) -> None:
        self._known[key] = (etag, value)
        version = Version(bytes.fromhex(etag.decode()))
        self._history.saw(key, Record(version, value), settled and key not in self._history.changed)

    # Operations.

    def _get(self, proxy: Proxy, key: bytes, level: Level) -> Deferred[object]:
        history, called = self._history, self._history.now_s

        def ended(told: Told | None) -> None:
            if told is None or told.code not in (200, 404):
                return
            value = told.body if told.code == 200 else None
            if level is Level.ONE:
                history.saw_loosely(key, value)
                return
            if value is not None:
                self._saw(key, told.etag, value, settled=True)
            history.events.append(Event(self._name, Kind.READ, key, value, called, history.now_s))

        return self._ask(proxy, b"GET", self._target(key, level), None, ended)

    def _put(self, proxy: Proxy, key: bytes, level: Level, kind: str) -> Deferred[object]:
        history, called = self._history, self._history.now_s
        value = None if kind == "delete" else f"{self._name}.{self._number}".encode()
        lives_s = self._random.randint(1, 2_000) / 1000 if kind == "expiring" else 0.0

        def ended(told: Told | None) -> None:
            fate = Fate.UNKNOWN
            if told is not None and told.code == 204:
                fate = Fate.DONE if level is not Level.ONE else Fate.UNKNOWN
                if value is not None:
                    self._saw(key, told.etag, value, level is not Level.ONE)
                self._cluster.acknowledged()
            elif told is not None:
                fate = Fate.UNKNOWN if told.in_doubt else Fate.DROPPED
            kind_ = Kind.DELETE if value is None else Kind.PUT
            history.events.append(Event(self._name, kind_, key, value, called, history.now_s, fate))
            if lives_s:
                if told is not None:
                    history.expires[key, value] = history.now_s + lives_s
                first_s = called + lives_s - CLOCK_S if history.clocks_agree else called
                history.events.append(Event(EXPIRY_CLIENT, Kind.SWAP, key, None, first_s, None, Fate.UNKNOWN, value))

        target = self._target(key, level, **({"ttl": lives_s} if lives_s else {}))
        if value is None:
            return self._ask(proxy, b"DELETE", target, None, ended)
        return self._ask(proxy, b"PUT", target, value, ended)

    def _change(self, proxy: Proxy, key: bytes, counts: bool) -> Deferred[object]:
        """Change what this client saw last, if that is still there; or make what is not there."""
        history, called = self._history, self._history.now_s
        name = f"{self._name}.{self._number}"
        etag, base = self._known.get(key, (b"", None))
        if self._random.random() < 0.2:
            etag, base = b"", None
        value = b"%d %b/0" % (number_in(base) + 1 if counts else 0, name.encode())

        def ended(told: Told | None) -> None:
            if told is not None and told.code == 412:
                refused = told.problem.get("etag")
                history.attempts.append(Guess(history, self._name, key, called, refused))
                # What he believed is wrong; let him look before he tries again.
                self._known.pop(key, None)
                self._wish = ("get", key)
                return
            fate = Fate.UNKNOWN
            if told is not None and told.code == 204:
                fate = Fate.DONE
                self._saw(key, told.etag, value, settled=False)
                self._cluster.acknowledged()
                if counts:
                    history.counted[key] = history.counted.get(key, 0) + 1
            elif told is not None:
                fate = Fate.UNKNOWN if told.in_doubt else Fate.DROPPED
            history.events.append(Event(name, Kind.SWAP, key, value, called, history.now_s, fate, base))

        history.changed.add(key)
        condition = {"if_match": b'"%b"' % etag} if etag else {"if_none_match": b"*"}
        return self._ask(proxy, b"PUT", self._target(key), value, ended, **condition)
