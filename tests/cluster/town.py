"""A whole cluster in one process: real rooms, a clock that only tests turn, and lines that can be cut.

Nodes are ``Replica`` over a memory engine or a paper disk, proxies are ``rooms.Rooms`` on a shared state file; between
them a transport that delays, loses, doubles and refuses by one seed. (The simulation proper, with disks and wire, comes
on top of this.)
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.failure import Failure

from tests.cluster.paper_disk import PaperDisk
from tests.strict_clock import StrictClock
from twisted_kv.commit import AtOnce, Commit, GroupCommit
from twisted_kv.config import ProxyConfig
from twisted_kv.errors import PeerSilent, PeerUnreachable, Unreached
from twisted_kv.limits import Limits
from twisted_kv.metrics import NodeMetrics
from twisted_kv.names import Key
from twisted_kv.operation import Done
from twisted_kv.peers.control import Control
from twisted_kv.peers.peer import Answer
from twisted_kv.proxy import founding
from twisted_kv.pulling import Puller
from twisted_kv.quorum import Level
from twisted_kv.replica import Replica
from twisted_kv.ring import SLOTS
from twisted_kv.rooms import Rooms
from twisted_kv.simulation.door import answered
from twisted_kv.simulation.linearizability import Event, Fate, Kind
from twisted_kv.state.file import FileStore
from twisted_kv.storage.memory import MemoryEngine
from twisted_kv.versions import decode_record

DAY_S = 86_400.0


class House:
    """One node: whether it runs, and what survives that: nothing, or on a paper disk what was synced."""

    def __init__(self, town: Town, url: str, durable: bool) -> None:
        self._town = town
        self.url = url
        self.durable = durable
        self.lives = 0
        self.up = True
        self.replica: Replica
        self.forget()

    def forget(self) -> None:
        """Start with an empty memory, or an empty disk."""
        self.engine = PaperDisk() if self.durable else MemoryEngine()
        self.incarnation = f"i-{self._town.random.getrandbits(64):016x}"
        self._start()

    def forget_tail(self, steps: int) -> None:
        """Start with less than was synced, and know it: the last steps are gone."""
        assert isinstance(self.engine, PaperDisk)
        self.engine = self.engine.without_tail(steps)
        self.incarnation = f"i-{self._town.random.getrandbits(64):016x}"
        self._start()

    def restart(self) -> None:
        """Start again, as the engine lets it: after a crash, of which it notices nothing itself."""
        if isinstance(self.engine, PaperDisk):
            self.engine = self.engine.after_crash(self._town.random)
            self._start()
        else:
            self.forget()

    def _start(self) -> None:
        self.lives += 1
        self.up = True
        town = self._town
        metrics = NodeMetrics()
        commit: Commit = AtOnce()
        if self.durable:
            commit = GroupCommit(town.clock, self.engine.sync, self._sync, raising, metrics)
        self.replica = Replica(
            town.clock,
            town.wall_ms,
            town.random.getrandbits(64),
            self.engine,
            commit,
            self.incarnation,
            town.limits,
            metrics,
            raising,
        )
        control = Control(Line(town, self.url), town.limits)
        self.puller = Puller(town.clock, town.limits, control, self.replica)

    def _sync(self, work: Callable[[], None]) -> Deferred[None]:
        """Make what is written now durable, in a while, if the node lives so long."""
        disk, life = self.engine, self.lives
        assert isinstance(disk, PaperDisk)
        covered = disk.written
        synced: Deferred[None] = Deferred()

        def done() -> None:
            if self.lives == life and self.up:
                disk.durable = max(disk.durable, covered)
                synced.callback(None)

        self._town.clock.callLater(self._town.delay_s(), done)
        return synced

    def crash(self) -> None:
        self.up = False

    def handle(self, path: str, body: bytes) -> Deferred[Answer]:
        """Answer as the node's routes do. A node that has crashed meanwhile answers nothing."""
        life = self.lives
        return answered(self.replica, self.puller, path, body, lambda: self.lives == life and self.up, raising)


def raising(failure: Failure) -> None:
    failure.raiseException()


class Line:
    """One proxy's transport: every message takes a while, and some never arrive."""

    def __init__(self, town: Town, proxy: str) -> None:
        self._town = town
        self._proxy = proxy

    def request(self, method: str, url: str, body: bytes, *, content_type: str, timeout_s: float) -> Deferred[Answer]:
        town, clock = self._town, self._town.clock
        base, _, path = url.partition("/node/v1/")
        done: Deferred[Answer] = Deferred()
        timer = clock.callLater(timeout_s, self._fire, done, Failure(PeerSilent("no answer in time")))

        def finish(result: Answer | Failure) -> None:
            if not done.called:
                timer.cancel()
                self._fire(done, result)

        def deliver(resent: bool) -> None:
            house = town.houses[base]
            if not house.up:
                finish(Failure(PeerUnreachable("connection refused")))
                return
            if (self._proxy, base) in town.cut:
                return
            house.handle(path, body).addCallback(back, resent)

        def back(answer: Answer, resent: bool) -> None:
            if town.random.random() >= town.loss:
                clock.callLater(town.delay_s(), finish, Answer(answer.code, answer.body, resent))

        if base not in town.houses or not town.houses[base].up:
            clock.callLater(town.delay_s(), finish, Failure(PeerUnreachable("connection refused")))
        elif town.random.random() < town.breaking.get(path, 0.0):
            clock.callLater(town.delay_s(), finish, Failure(PeerSilent("the connection broke")))
        elif town.random.random() >= town.loss:
            twice = town.random.random() < town.doubling
            first = town.delay_s() + town.slow_s.get(path, 0.0)
            clock.callLater(first, deliver, twice)
            if twice:
                clock.callLater(town.delay_s(), deliver, True)
        return done

    @staticmethod
    def _fire(done: Deferred[Answer], result: Answer | Failure) -> None:
        if not done.called:
            done.callback(result)


class Town:
    """Houses, proxies, and the history of what clients saw."""

    def __init__(self, seed: int, folder: Path, proxies: int = 1, replicas: int = 3, durable: bool = False) -> None:
        self.random = Random(seed)
        self.clock = StrictClock()
        # All slots at a time: most are blank here.
        self.limits = Limits(repair_slots_max=SLOTS, pull_slots_min=SLOTS, pull_slots_max=SLOTS)
        self.loss = 0.0
        self.breaking: dict[str, float] = {}
        """How likely the connection breaks under a request to a path of nodes, before it arrives."""
        self.doubling = 0.0
        self.delays_s = (0.0005, 0.005)
        self.slow_s: dict[str, float] = {}
        """How much longer requests to a path of nodes take to arrive."""
        self.cut: set[tuple[str, str]] = set()
        self.houses: dict[str, House] = {}
        self.proxies: list[Rooms] = []
        self.history: list[Event] = []
        self._folder = folder
        self._replicas = replicas
        self._durable = durable
        self._clients = 0
        for _ in range(proxies):
            self.open_proxy()

    def wall_ms(self) -> int:
        return int((self.clock.seconds() + 20_000 * DAY_S) * 1000)

    def delay_s(self) -> float:
        return self.random.uniform(*self.delays_s)

    # Building.

    def open_proxy(self, skew_ms: int = 0) -> Rooms:
        name = f"proxy{len(self.proxies)}"
        random = Random(self.random.getrandbits(64))
        store = FileStore(self.clock, self._folder / "state.json", self.limits)
        rooms = Rooms(self.clock, random, lambda: self.wall_ms() + skew_ms, self.limits, store, Line(self, name))
        self.proxies.append(rooms)
        config = ProxyConfig(replicas=self._replicas, vnodes=16)
        self.wait(ensureDeferred(rooms.start(founding(config, random))))
        return rooms

    def build(self, count: int) -> list[House]:
        """Build houses, without adding them to the cluster."""
        built = []
        for _ in range(count):
            url = f"http://node{len(self.houses)}:80"
            self.houses[url] = House(self, url, self._durable)
            built.append(self.houses[url])
        return built

    def settle(self, count: int) -> list[House]:
        """Build houses and add them to the cluster."""
        built = self.build(count)
        for house in built:
            self.settle_one(house)
        return built

    def settle_one(self, house: House) -> None:
        self.wait(ensureDeferred(self.proxies[0].roster.add(house.url, 1)))

    # Time.

    def step(self) -> None:
        """Advance exactly to the next timer: ``Clock.advance`` jumps first and runs the timers then."""
        calls = self.clock.getDelayedCalls()
        self.clock.advance(max(0.0, min(call.getTime() for call in calls) - self.clock.seconds()))

    def run(self, seconds: float) -> None:
        until = self.clock.seconds() + seconds
        while self.clock.getDelayedCalls() and min(c.getTime() for c in self.clock.getDelayedCalls()) <= until:
            self.step()
        self.clock.advance(max(0.0, until - self.clock.seconds()))

    def until(self, holds: Callable[[], bool], patience_s: float = 60.0) -> None:
        deadline = self.clock.seconds() + patience_s
        while not holds():
            assert self.clock.seconds() < deadline, "it did not come to that in time"
            self.step()

    def wait(self, waiting: Deferred[Any], patience_s: float = 60.0) -> Any:
        """Turn the clock until a Deferred fires; give its result or raise its failure."""
        results: list[Any] = []
        waiting.addBoth(results.append)
        self.until(lambda: bool(results), patience_s)
        if isinstance(results[0], Failure):
            results[0].raiseException()
        return results[0]

    def close(self) -> None:
        """Stop every proxy; nothing may be left on the clock but what is on its way through the air."""
        for rooms in self.proxies:
            self.wait(ensureDeferred(rooms.stop()))
        self.run(self.limits.operation_timeout_s + self.limits.control_timeout_s + 1)
        left = [str(call) for call in self.clock.getDelayedCalls()]
        assert left == [], left

    # Clients, whose story is kept.

    def put(self, key: bytes, value: bytes | None, proxy: int = 0, level: Level = Level.STRONG) -> Deferred[Done]:
        kind = Kind.PUT if value is not None else Kind.DELETE
        done = self.proxies[proxy].coordinator.put(Key(key), value, b"", level)
        return self._record(done, kind, key, value)

    def get(self, key: bytes, proxy: int = 0, level: Level = Level.STRONG) -> Deferred[Done]:
        return self._record(self.proxies[proxy].coordinator.get(Key(key), level), Kind.READ, key, None)

    def _record(self, done: Deferred[Done], kind: Kind, key: bytes, value: bytes | None) -> Deferred[Done]:
        self._clients += 1
        client, called, place = f"c{self._clients}", self.clock.seconds(), len(self.history)
        self.history.append(Event(client, kind, key, value, called, None, Fate.UNKNOWN))

        def ended(result: Done | Failure) -> Done | Failure:
            seen, fate = value, Fate.DONE
            if isinstance(result, Failure):
                error = result.value
                in_doubt = isinstance(error, Unreached) and error.maybe_applied
                fate = Fate.UNKNOWN if kind is not Kind.READ and in_doubt else Fate.DROPPED
            elif kind is Kind.READ:
                seen = decode_record(result.record).value if result.record else None
            self.history[place] = Event(client, kind, key, seen, called, self.clock.seconds(), fate)
            return result

        return done.addBoth(ended)


def value_of(done: Done) -> bytes | None:
    return decode_record(done.record).value if done.record else None


MakeTown = Callable[..., Town]
