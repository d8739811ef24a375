"""Clients of the simulation: what they ask for, what they are told, and the history that comes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ..conditional import Draft
from ..errors import KvError, Unreached
from ..names import Key
from ..operation import Done
from ..quorum import Level
from ..sharing import Changed
from ..versions import Record, Version, decode_record
from .cluster import Cluster, Proxy
from .linearizability import Event, Fate, Kind

EXPIRY_CLIENT, SOMEBODY = "expiry", "somebody"
"""Who has made what was not seen to be made by a client: the clock; whoever a tombstone of unknown origin is from."""

GONE = b"\0gone "
"""What begins the name of a tombstone in a history; its version follows. No client writes such a value."""

EXPIRING = b"e"
"""What begins the keys whose values expire. Who finds one expired puts a tombstone that nobody can foretell, so there
all tombstones count as one: absent."""


CLOCK_S = 0.001
"""How exact wall clocks are: they count in milliseconds."""


def number_in(value: bytes | None) -> int:
    """Read how far a counter has come."""
    return 0 if value is None or value.startswith(GONE) else int(value.split(b" ")[0])


@dataclass(frozen=True)
class Mix:
    """What clients do, and how often: weights that need not sum up to anything."""

    keys: int = 2
    clients: int = 4
    get: float = 4
    put: float = 4
    delete: float = 0
    swap: float = 0
    count: float = 0
    """Reads a number and adds one where nobody came between."""
    expiring: float = 0
    """Puts of a value that lives a second or so."""
    one: float = 0
    """The part of plain reads and writes at level ``one``."""
    all: float = 0.1
    """The part of them at level ``all``."""
    hang_up: float = 0
    """The part of operations whose client goes before it is answered."""
    think_s: float = 0.02
    """The longest time between two operations of a client; many have none between them."""


class Effects(Protocol):
    """An operation whose events are known only at the end."""

    key: bytes
    called: float

    def events(self) -> list[Event]:
        """Give the events that it comes to."""

    def never(self) -> set[tuple[bytes, bytes]]:
        """Name what was tried and certainly never took effect, so that nobody may see it."""


class Attempt:
    """A conditional change on its way. Each time that it is decided on it writes something else.

    :param accepts: says of what the key holds whether the change is to be done.
    """

    def __init__(
        self, history: History, name: str, key: bytes, accepts: Callable[[bytes | None], bool], counts: bool
    ) -> None:
        self._history = history
        self._name = name
        self.key = key
        self._accepts = accepts
        self._counts = counts
        self.called = history.now_s
        self._returned: float | None = None
        self._tried: dict[bytes, bytes | None] = {}
        self.result: Changed | Failure | None = None
        """What its client was told; None if it went before that."""

    def decide(self, held: Record | None) -> Draft | None:
        base = self._history.shown(self.key, held)
        if not self._accepts(base):
            return None
        number = number_in(base) + 1 if self._counts else 0
        value = b"%d %b/%d" % (number, self._name.encode(), len(self._tried))
        self._tried[value] = base
        return Draft(value)

    def told(self, result: Changed | Failure | None) -> None:
        self.result, self._returned = result, self._history.now_s

    def events(self) -> list[Event]:
        """Give the events that it comes to: what took effect, or what it saw, or all that may have taken effect.

        To be asked at the end: a change whose client has gone may go on trying.
        """
        name, key, called, returned, result = self._name, self.key, self.called, self._returned, self.result
        if not isinstance(result, Changed):
            fate = Fate.UNKNOWN if result is None or _in_doubt(result) else Fate.DROPPED
            return [
                Event(name, Kind.SWAP, key, value, called, returned, fate, base) for value, base in self._tried.items()
            ]
        value = self._history.shown(key, result.record)
        if not result.changed:
            return [Event(name, Kind.READ, key, value, called, returned)]
        assert value is not None
        return [Event(name, Kind.SWAP, key, value, called, returned, base=self._tried[value])]

    def never(self) -> set[tuple[bytes, bytes]]:
        """See ``Effects``."""
        if not isinstance(self.result, Changed):
            return set()
        kept = self.result.record.value if self.result.changed and self.result.record is not None else None
        return {(self.key, value) for value in self._tried if value != kept}


class History:
    """What all clients saw.

    :param names_tombstones: whether clients are shown the versions of tombstones; else all of them are one: absent.
    """

    def __init__(self, cluster: Cluster, names_tombstones: bool = True) -> None:
        self._cluster = cluster
        self._names_tombstones = names_tombstones
        self.events: list[Event] = []
        self.attempts: list[Effects] = []
        self.loose: list[tuple[bytes, bytes, float]] = []
        """What reads at level ``one`` answered, and when: key, value, time."""
        self.keys: set[bytes] = set()
        self.seen: dict[bytes, list[bytes | None]] = {}
        self.errors: dict[str, int] = {}
        self.counted: dict[bytes, int] = {}
        """How often a counter was counted up for certain."""
        self.versions: dict[tuple[bytes, bytes], dict[Version, None]] = {}
        """Under which versions each value was shown; the keys of a dict, since they keep their order."""
        self.expires: dict[tuple[bytes, bytes | None], float] = {}
        """When each value that lives for a while expires by right clocks: key and value, time."""
        self.clocks_agree = True
        """Whether no wall clock goes wrong in this run."""
        self.changed: set[bytes] = set()
        """Keys of conditional changes. Of what a round of several changes shows, only the last was ever stored."""
        self.settled: dict[bytes, Version] = {}
        """The newest version of each key that was acknowledged by, or read from, a majority."""

    @property
    def now_s(self) -> float:
        return self._cluster.world.now_s

    @property
    def operations(self) -> int:
        """How many operations of clients there is something to check of."""
        return sum(event.client not in (EXPIRY_CLIENT, SOMEBODY) for event in self.events) + len(self.loose)

    def shown(self, key: bytes, record: Record | None) -> bytes | None:
        """Name what a key holds: a value, a tombstone, or None if it was never written."""
        if record is None:
            return None
        if record.value is None and self._names_tombstones and not key.startswith(EXPIRING):
            return GONE + record.version.hex().encode()
        return record.value

    def saw(self, key: bytes, record: Record | None, settled: bool) -> bytes | None:
        """Take note of what a client was shown, and give the name that it has in the history.

        :param settled: whether a majority holds it, or something newer.
        """
        value = self.shown(key, record)
        known = self.seen.setdefault(key, [])
        known.append(value)
        del known[:-4]
        if record is not None:
            if record.value is not None:
                self.versions.setdefault((key, record.value), {})[record.version] = None
            if settled and record.version > self.settled.get(key, b""):
                self.settled[key] = record.version
        return value

    def saw_loosely(self, key: bytes, value: bytes | None) -> None:
        """Take note of what a read at level ``one`` was shown: it may lie on one owner only, and never be chosen."""
        if value is not None:
            self.loose.append((key, value, self.now_s))

    def failed(self, failure: Failure) -> None:
        failure.trap(KvError)
        slug = failure.value.slug
        self.errors[slug] = self.errors.get(slug, 0) + 1


def _in_doubt(failure: Failure) -> bool:
    error = failure.value
    return not isinstance(error, KvError) or (isinstance(error, Unreached) and bool(error.maybe_applied))


class Client:
    """One client: an operation after the other, at whatever proxy, until the work is done. It calls a proxy's rooms."""

    def __init__(self, cluster: Cluster, history: History, mix: Mix, name: str, left: list[int]) -> None:
        self._cluster = cluster
        self._history = history
        self._mix = mix
        self._name = name
        self._left = left
        self._number = 0
        self._random = cluster.world.random
        self._doing = ("", b"")
        self._wish: tuple[str, bytes] | None = None
        """Which kind of operation it does next, and on which key; None to draw them."""
        self._wait_s: float | None = None
        self.idle = False

    def go(self) -> None:
        """Begin the next operation."""
        if self._left[0] <= 0:
            self.idle = True
            return
        up = [proxy for proxy in self._cluster.proxies if proxy.ready]
        if not up:
            self._cluster.world_host.callLater(0.1, self.go)
            return
        self._left[0] -= 1
        self._number += 1
        self.operate(self._random.choice(up)).addBoth(self._next).addErrback(self._cluster.bug)

    def _next(self, _: object) -> None:
        pause_s = self._random.choice([0.0, 0.0, self._random.uniform(0, self._mix.think_s)])
        if self._wait_s is not None:
            pause_s, self._wait_s = max(0.0, self._wait_s), None
        self._cluster.world_host.callLater(pause_s, self.go)

    def operate(self, proxy: Proxy) -> Deferred[object]:
        """Do one operation, and fire when this client has its answer or has gone."""
        random, mix = self._random, self._mix
        kind, key = self._doing = self._wish or self._draw()
        self._wish = None
        self._history.keys.add(key)
        if kind in ("swap", "count"):
            return self._change(proxy, key, kind == "count")
        dice = random.random()
        level = Level.ONE if dice < mix.one else Level.ALL if dice < mix.one + mix.all else Level.STRONG
        if kind == "get":
            return self._get(proxy, key, level)
        return self._put(proxy, key, level, kind)

    def _draw(self) -> tuple[str, bytes]:
        random, mix = self._random, self._mix
        key = b"k%d" % min(int(random.expovariate(1.5)), mix.keys - 1) if mix.keys > 1 else b"k0"
        kinds = {name: getattr(mix, name) for name in ("get", "put", "delete", "swap", "count", "expiring")}
        kind = random.choices(list(kinds), list(kinds.values()))[0]
        if kind == "count":
            key = b"c" + key
        elif kind == "expiring":
            key = EXPIRING + key
        elif kind == "get":
            key = random.choice([b""] + [b"c"] * (mix.count > 0) + [EXPIRING] * (mix.expiring > 0)) + key
        return kind, key

    def _watch(
        self, asked: Deferred[Any], ended: Callable[[Any], object], patience_s: float = 20.0
    ) -> Deferred[object]:
        """Take an answer; or none, where the proxy ends or the client does not wait for it."""
        done: Deferred[object] = Deferred()

        def end(result: Any) -> None:
            if timer.active():
                timer.cancel()
                ended(result)
                done.callback(None)

        def give_up() -> None:
            ended(None)
            done.callback(None)
            if hangs_up:
                asked.cancel()
                if self._random.random() < 0.5:
                    self._wish = self._doing

        hangs_up = self._random.random() < self._mix.hang_up
        timer = self._cluster.world_host.callLater(
            self._random.choice([0.0, 0.002, 0.02, 0.2]) if hangs_up else patience_s, give_up
        )
        asked.addBoth(end).addErrback(self._cluster.bug)
        return done

    def _get(self, proxy: Proxy, key: bytes, level: Level) -> Deferred[object]:
        history, called = self._history, self._history.now_s

        def ended(result: Done | Failure | None) -> None:
            if isinstance(result, Failure):
                history.failed(result)
            elif result is not None:
                record = decode_record(result.record) if result.record else None
                if level is Level.ONE:
                    history.saw_loosely(key, history.shown(key, record))
                    return
                value = history.saw(key, record, settled=key not in history.changed)
                history.events.append(Event(self._name, Kind.READ, key, value, called, history.now_s))

        return self._watch(proxy.rooms.coordinator.get(Key(key), level), ended)

    def _put(self, proxy: Proxy, key: bytes, level: Level, kind: str) -> Deferred[object]:
        history, called = self._history, self._history.now_s
        value = None if kind == "delete" else f"{self._name}.{self._number}".encode()
        expires_ms = 0
        if kind == "expiring":
            lives_ms = self._random.randint(1, 2_000)
            expires_ms = proxy.host.wall_ms() + lives_ms
            history.expires[key, value] = called + lives_ms / 1000
            if self._random.random() < 0.5:
                # Look at it at the edge.
                self._wish = ("get", key)
                self._wait_s = lives_ms / 1000 - self._random.choice([0.0, 0.001, 0.01])

        def ended(result: Done | Failure | None) -> None:
            fate, returned, name = Fate.UNKNOWN, history.now_s, value
            if value is None:
                # The tombstone of a delete of unknown outcome has no name here; ``judging`` gives it one if it shows.
                name = GONE + f"of {self._name}.{self._number}".encode()
            if isinstance(result, Failure):
                history.failed(result)
                fate = Fate.UNKNOWN if _in_doubt(result) else Fate.DROPPED
            elif result is not None:
                name = history.saw(key, decode_record(result.record), level is not Level.ONE)
                # What one owner took may be overtaken, or be seen by everybody later.
                fate = Fate.DONE if level is not Level.ONE else Fate.UNKNOWN
                self._cluster.acknowledged()
            kind_ = Kind.DELETE if value is None else Kind.PUT
            history.events.append(Event(self._name, kind_, key, name, called, returned, fate))
            if expires_ms:
                # Whoever judges it expired makes it absent, from the moment on at which the first clock does.
                first_s = history.expires[key, value] - CLOCK_S if history.clocks_agree else called
                history.events.append(Event(EXPIRY_CLIENT, Kind.SWAP, key, None, first_s, None, Fate.UNKNOWN, value))

        put = proxy.rooms.coordinator.put(Key(key), value, b"", level, expires_ms)
        return self._watch(put, ended)

    def _change(self, proxy: Proxy, key: bytes, counts: bool) -> Deferred[object]:
        history, random = self._history, self._random
        known = random.choice([None, *history.seen.get(key, [])])
        anything = counts or random.random() < 0.7
        attempt = Attempt(history, f"{self._name}.{self._number}", key, lambda base: anything or base == known, counts)

        def ended(result: Changed | Failure | None) -> None:
            if isinstance(result, Failure):
                history.failed(result)
            elif result is not None:
                history.saw(key, result.record, settled=False)
                if result.changed:
                    self._cluster.acknowledged()
                if counts and result.changed:
                    history.counted[key] = history.counted.get(key, 0) + 1
            attempt.told(result)

        history.attempts.append(attempt)
        history.changed.add(key)
        timeout_s = random.choice([None, None, None, 0.2])
        return self._watch(proxy.rooms.coordinator.change(Key(key), attempt.decide, timeout_s), ended)
