"""Clients of the simulation: what they ask for, and what they note of what they are told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ..names import Key
from ..operation import Done
from ..quorum import Level
from ..sharing import Changed
from ..versions import decode_record
from .cluster import Cluster, Proxy
from .history import CLOCK_S, EXPIRING, EXPIRY_CLIENT, GONE, Attempt, History, in_doubt
from .linearizability import Event, Fate, Kind


@dataclass(frozen=True)
class Mix:
    """What clients do, and how often: weights that need not sum up to anything."""

    keys: int = 2
    evenly: bool = False
    """Whether all keys are used alike, and not some much more than others."""
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
    faithful: bool = False
    """Whether each client keeps to one proxy while that is there, so that another one may have no clients at all."""
    think_s: float = 0.02
    """The longest time between two operations of a client; many have none between them."""


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
        self._place = self._random.randrange(1 << 16)
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
        proxies = self._cluster.proxies
        kept = proxies[self._place % len(proxies)]
        proxy = kept if self._mix.faithful and kept.ready else self._random.choice(up)
        self.operate(proxy).addBoth(self._next).addErrback(self._cluster.bug)

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

    def _draw_number(self) -> int:
        random, mix = self._random, self._mix
        if mix.keys == 1:
            return 0
        return random.randrange(mix.keys) if mix.evenly else min(int(random.expovariate(1.5)), mix.keys - 1)

    def _draw(self) -> tuple[str, bytes]:
        random, mix = self._random, self._mix
        key = b"k%d" % self._draw_number()
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
            if value is None and history.names_tombstones:
                # The tombstone of a delete of unknown outcome has no name here; ``judging`` gives it one if it shows.
                name = GONE + f"of {self._name}.{self._number}".encode()
            if isinstance(result, Failure):
                history.failed(result)
                fate = Fate.UNKNOWN if in_doubt(result) else Fate.DROPPED
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
