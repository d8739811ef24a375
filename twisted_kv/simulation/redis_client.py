"""Clients that speak the Redis protocol, and believe no more than what they are told."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import hiredis
from twisted.internet.defer import Deferred, fail, gatherResults, succeed
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.error import ConnectError, DNSLookupError
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from ..quorum import Level
from .cluster import Cluster, Proxy
from .history import CLOCK_S, EXPIRY_CLIENT, History, number_in
from .level import RESP_PORT, Wire
from .linearizability import Event, Fate, Kind
from .tcp import Stack
from .wire_client import suffixed
from .workload import Client, Mix

COUNTER = b"n"
"""What begins the keys of INCR, whose values are bare numbers."""

KEPT = 0.95
"""How often a connection that is there is used again."""

LOOKS = 0.3
"""How often a client that writes reads at once what he has written."""

Words: TypeAlias = Sequence[bytes]


class Told:
    """A reply. (A Deferred that was given a bare error would take it for its own.)"""

    __slots__ = ("reply",)

    def __init__(self, reply: Any) -> None:
        self.reply = reply

    @property
    def error(self) -> str:
        return str(self.reply) if isinstance(self.reply, hiredis.ReplyError) else ""


Replies: TypeAlias = Sequence[Told | None]
"""What a client was told, None where he was told nothing."""


class Connection(Protocol):
    """One connection: commands go out, and replies come back in their order."""

    def __init__(self) -> None:
        self.level = Level.STRONG
        self.open = True
        self.shown = b""
        """The token that was shown."""
        self._reader = hiredis.Reader()
        self._asked: deque[Deferred[Told]] = deque()

    def ask(self, commands: Sequence[Words]) -> Deferred[list[Told]]:
        """Send commands in one piece, and give their replies."""
        asked: list[Deferred[Told]] = [Deferred() for _ in commands]
        self._asked += asked
        self.transport.write(b"".join(map(_packed, commands)))
        return gatherResults(asked, consumeErrors=True)

    def dataReceived(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self._asked.popleft().callback(Told(reply))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.open = False
        while self._asked:
            self._asked.popleft().errback(reason)


def _packed(words: Words) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def _fate(told: Told | None) -> Fate:
    """Say what is certain of a write."""
    if told is None or told.error.startswith("UNKNOWN "):
        return Fate.UNKNOWN
    return Fate.DROPPED if told.error else Fate.DONE


class Counting:
    """All that clients counted up in one key. See ``history.Effects``.

    Who was told a number has made it of the one before. A number that nobody was told was made by somebody of whose
    INCR nothing is known: there are no more of these than that.
    """

    def __init__(self, history: History, key: bytes) -> None:
        self._history = history
        self.key = key
        self.called = history.now_s
        self._told: list[Event] = []
        self._unknown: list[tuple[str, float]] = []

    def told(self, client: str, called: float, number: int) -> None:
        now_s, base = self._history.now_s, _before(number)
        self._told.append(Event(client, Kind.SWAP, self.key, b"%d" % number, called, now_s, base=base))

    def unknown(self, client: str, called: float) -> None:
        self._unknown.append((client, called))

    def events(self) -> list[Event]:
        """See ``Effects``."""
        known = {number_in(event.value) for event in self._told}
        seen = {number_in(event.value) for event in self._history.events if event.key == self.key}
        lacking = [number for number in range(1, max(known | seen, default=0) + 1) if number not in known]
        earliest = min((called for _, called in self._unknown), default=0.0)
        made = [
            Event(client, Kind.SWAP, self.key, b"%d" % number, earliest, None, Fate.UNKNOWN, _before(number))
            for number, (client, _) in zip(lacking, self._unknown, strict=False)
        ]
        return self._told + made

    def never(self) -> set[tuple[bytes, bytes]]:
        """See ``Effects``."""
        return set()


def _before(number: int) -> bytes | None:
    return b"%d" % (number - 1) if number > 1 else None


class RedisClient(Client):
    """One client that asks the proxies' Redis doors over simulated connections, most of which he keeps."""

    def __init__(self, cluster: Cluster, history: History, mix: Mix, name: str, left: list[int]) -> None:
        super().__init__(cluster, history, mix, name, left)
        assert isinstance(cluster.carriage, Wire)
        self._stack = Stack(cluster.carriage.tcp, cluster.world_host)
        self._connections: dict[str, Connection] = {}

    def go(self) -> None:
        super().go()
        if self.idle:
            for connection in self._connections.values():
                connection.transport.loseConnection()

    def _draw(self) -> tuple[str, bytes]:
        kind, key = super()._draw()
        if kind == "count":
            key = COUNTER + key
        elif kind == "get" and self._mix.count and self._random.random() < LOOKS:
            key = COUNTER + b"ck%d" % self._draw_number()
        return kind, suffixed(key)

    # Commands.

    def _connected(self, proxy: Proxy) -> Deferred[Connection]:
        host = proxy.host.name
        connection = self._connections.get(host)
        if connection is not None and connection.open:
            if self._random.random() < KEPT:
                return succeed(connection)
            connection.transport.loseConnection()

        def made(connection: Connection) -> Connection:
            self._connections[host] = connection
            return connection

        door = HostnameEndpoint(self._stack, host.encode(), RESP_PORT)
        return connectProtocol(door, Connection()).addCallback(made)

    def _greeting(self, connection: Connection, level: Level) -> list[Words]:
        """Give what has to be said before a command of some level."""
        first: list[Words] = []
        tokens = self._cluster.carriage.tokens
        if tokens is not None and not connection.shown:
            connection.shown = tokens.shown
            first.append((b"AUTH", connection.shown))
        if connection.level is not level:
            connection.level = level
            first.append((b"KV.LEVEL", level.value.encode()))
        return first

    def _greeted(self, connection: Connection, first: Sequence[Words], told: list[Told]) -> list[Told]:
        """Take the answers to a greeting from those to the commands."""
        if first and told[0].error:
            connection.transport.loseConnection()
        return told[len(first) :]

    def _ask(
        self, proxy: Proxy, level: Level, commands: Sequence[Words], ended: Callable[[Replies], object]
    ) -> Deferred[object]:
        """Send commands together.

        :param ended: given a reply for each; not called if nothing was sent.
        """
        sent = False

        def send(connection: Connection) -> Deferred[list[Told]]:
            nonlocal sent
            if not connection.open:
                return fail(ConnectError())
            sent = True
            first = self._greeting(connection, level)
            return connection.ask([*first, *commands]).addCallback(lambda told: self._greeted(connection, first, told))

        def finished(result: list[Told] | Failure | None) -> None:
            errors = self._history.errors
            if isinstance(result, Failure):
                errors["broken connection"] = errors.get("broken connection", 0) + 1
                if result.check(ConnectError, DNSLookupError) and not sent:
                    return
            if not isinstance(result, list):
                ended([None] * len(commands))
                return
            for told in result:
                if told.error:
                    kind = told.error.partition(" ")[0]
                    assert kind not in ("ERR", "WRONGTYPE"), told.error
                    errors[kind] = errors.get(kind, 0) + 1
            ended(result)

        return self._watch(self._connected(proxy).addCallback(send), finished)

    # Operations.

    def _read(self, key: bytes, told: Told | None, level: Level, called: float) -> None:
        """Take note of what GET has shown."""
        history = self._history
        if told is None or told.error:
            return
        if level is Level.ONE:
            history.saw_loosely(key, told.reply)
        else:
            history.events.append(Event(self._name, Kind.READ, key, told.reply, called, history.now_s))

    def _get(self, proxy: Proxy, key: bytes, level: Level) -> Deferred[object]:
        called = self._history.now_s
        return self._ask(proxy, level, [(b"GET", key)], lambda replies: self._read(key, replies[0], level, called))

    def _put(self, proxy: Proxy, key: bytes, level: Level, kind: str) -> Deferred[object]:
        if kind == "delete":
            return self._delete(proxy, key)
        history, called = self._history, self._history.now_s
        value = f"{self._name}.{self._number}".encode()
        lives_ms = self._random.randint(1, 2_000) if kind == "expiring" else 0

        def ended(replies: Replies) -> None:
            fate = _fate(replies[0])
            if fate is Fate.DONE:
                self._cluster.acknowledged()
                # What one owner took may be overtaken, or be seen by everybody later.
                fate = Fate.UNKNOWN if level is Level.ONE else fate
            history.events.append(Event(self._name, Kind.PUT, key, value, called, history.now_s, fate))
            if lives_ms:
                if replies[0] is not None:
                    history.expires[key, value] = history.now_s + lives_ms / 1000
                first_s = called + lives_ms / 1000 - CLOCK_S if history.clocks_agree else called
                history.events.append(Event(EXPIRY_CLIENT, Kind.SWAP, key, None, first_s, None, Fate.UNKNOWN, value))
            for looked in replies[1:]:
                self._read(key, looked, level, called)

        commands: list[Words] = [(b"SET", key, value, *((b"PX", b"%d" % lives_ms) if lives_ms else ()))]
        if self._random.random() < LOOKS:
            commands.append((b"GET", key))
        return self._ask(proxy, level, commands, ended)

    def _delete(self, proxy: Proxy, key: bytes) -> Deferred[object]:
        history, called, name = self._history, self._history.now_s, f"{self._name}.{self._number}"
        takes = self._random.random() < 0.5

        def ended(replies: Replies) -> None:
            [told] = replies
            fate = _fate(told)
            if fate is not Fate.DONE:
                event = Event(name, Kind.DELETE, key, None, called, history.now_s, fate)
            elif not told.reply:  # type: ignore[union-attr]  # what is done was told
                event = Event(name, Kind.READ, key, None, called, history.now_s)
            elif takes:
                event = Event(name, Kind.SWAP, key, None, called, history.now_s, base=told.reply)  # type: ignore[union-attr]
            else:
                event = Event(name, Kind.DELETE, key, None, called, history.now_s)
            history.events.append(event)

        history.changed.add(key)
        return self._ask(proxy, Level.STRONG, [(b"GETDEL" if takes else b"DEL", key)], ended)

    def _change(self, proxy: Proxy, key: bytes, counts: bool) -> Deferred[object]:
        self._history.changed.add(key)
        return self._count(proxy, key) if counts else self._set(proxy, key)

    def _set(self, proxy: Proxy, key: bytes) -> Deferred[object]:
        """Set a key and be told what it held; half of the time only where it holds nothing."""
        history, called, name = self._history, self._history.now_s, f"{self._name}.{self._number}"
        unless, value = self._random.random() < 0.5, name.encode()

        def ended(replies: Replies) -> None:
            [told] = replies
            fate, now_s = _fate(told), history.now_s
            if fate is not Fate.DONE:
                kind = Kind.SWAP if unless else Kind.PUT
                history.events.append(Event(name, kind, key, value, called, now_s, fate))
                return
            held = told.reply  # type: ignore[union-attr]  # what is done was told
            if unless and held is not None:
                history.events.append(Event(name, Kind.READ, key, held, called, now_s))
                return
            history.events.append(Event(name, Kind.SWAP, key, value, called, now_s, base=held))
            self._cluster.acknowledged()

        words = (b"SET", key, value, b"GET", *((b"NX",) if unless else ()))
        return self._ask(proxy, Level.STRONG, [words], ended)

    def _count(self, proxy: Proxy, key: bytes) -> Deferred[object]:
        history, called, name = self._history, self._history.now_s, f"{self._name}.{self._number}"
        known = (one for one in history.attempts if isinstance(one, Counting) and one.key == key)
        counting = next(known, None)
        if counting is None:
            counting = Counting(history, key)
            history.attempts.append(counting)

        def ended(replies: Replies) -> None:
            [told] = replies
            fate = _fate(told)
            if fate is Fate.UNKNOWN:
                counting.unknown(name, called)
            elif fate is Fate.DONE:
                counting.told(name, called, told.reply)  # type: ignore[union-attr]  # what is done was told
                history.counted[key] = history.counted.get(key, 0) + 1
                self._cluster.acknowledged()

        return self._ask(proxy, Level.STRONG, [(b"INCR", key)], ended)
