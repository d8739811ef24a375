"""One run of the simulation: a cluster, clients and faults from one seed; then peace; then judgement."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from ..limits import Limits
from ..names import Key
from ..operation import Done
from ..quorum import Level
from ..ring import slot_of
from ..versions import decode_record
from .cluster import Cluster
from .disk import Disk
from .faults import EVERYTHING, Swarm
from .linearizability import Event, Fate, Kind, violation
from .workload import EXPIRY_CLIENT, Client, History, Mix
from .world import World

LIVENESS_S = 120.0
"""Within this simulated time after peace every operation has to succeed."""
SETTLE_S = 15.0
RAGE_S_MAX = 90.0


@dataclass(frozen=True)
class Settings:
    """What is said of a run in advance; what is 0 the seed draws."""

    nodes: int = 0
    proxies: int = 0
    operations: int = 0
    profile: str = EVERYTHING


DRAWN = Settings()


@dataclass
class Verdict:
    """What came of one run."""

    seed: int
    digest: str = ""
    operations: int = 0
    unknown: int = 0
    events: int = 0
    simulated_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    trouble: str = ""
    """What was found wrong; empty if nothing."""
    check: str = ""
    """Which check has found it."""
    bands: list[tuple[str, float, float]] = field(default_factory=list)
    """Faults that lasted: name, begin and end in seconds."""
    history: list[Event] = field(default_factory=list)


class Broken(AssertionError):
    """A check that failed: which one, and what it found."""

    def __init__(self, check: str, what: str) -> None:
        super().__init__(what)
        self.check = check


class Story:
    """One run."""

    def __init__(self, seed: int, settings: Settings = DRAWN) -> None:
        self.verdict = Verdict(seed)
        self.world = world = World(seed)
        random = world.random
        self.cluster = Cluster(world, Limits(), random.choice([1, 3, 3, 3, 3, 5]), durable=random.random() < 0.7)
        nodes = random.choice([3, 3, 4, 5]) if self.cluster.replicas < 5 else random.choice([5, 6])
        proxies, operations = random.choice([1, 2, 2, 3, 5]), random.choice([200, 400, 800])
        self.nodes, self.proxies = settings.nodes or nodes, settings.proxies or proxies
        self.operations = settings.operations or operations
        self.mix = draw_mix(random)
        self.history = History(self.cluster)
        self.swarm = Swarm(self.cluster, settings.profile)

    def play(self) -> Verdict:
        """Let it happen, and judge."""
        verdict = self.verdict
        failures: list[str] = []

        def observe(event: dict[str, Any]) -> None:
            if event.get("log_failure") is not None:
                failures.append(event["log_failure"].getTraceback())

        globalLogPublisher.addObserver(observe)
        try:
            self._rage()
            self._live()
            self._end()
            self._judge()
        except Broken as error:
            verdict.check, verdict.trouble = error.check, f"{error.check}: {error}"
        except Exception:
            verdict.check, verdict.trouble = "a bug", f"a bug: {Failure().getTraceback()}"
        finally:
            globalLogPublisher.removeObserver(observe)
        if failures and not verdict.trouble:
            verdict.check, verdict.trouble = "log", f"a failure was logged: {failures[0]}"
        verdict.digest = self.world.digest
        verdict.operations = len(self.history.events) + len(self.history.loose)
        verdict.unknown = sum(event.fate is Fate.UNKNOWN for event in self.history.events)
        verdict.bands = self.swarm.bands
        verdict.events = self.world.events
        verdict.simulated_s = self.world.now_s
        verdict.faults = self.swarm.happened
        verdict.errors = Counter(self.history.errors)
        verdict.history = self.history.events
        return verdict

    def _rage(self) -> None:
        """The safety phase: everything that is on in this seed goes wrong while clients work."""
        self.cluster.settle(self.nodes, self.proxies)
        left = [self.operations]
        clients = [
            Client(self.cluster, self.history, self.mix, f"c{number}", left) for number in range(self.mix.clients)
        ]
        self.swarm.rage()
        for client in clients:
            client.go()
        self.world.until(lambda: all(client.idle for client in clients), RAGE_S_MAX)
        left[0] = 0
        self.swarm.calm()
        self.world.until(lambda: all(client.idle for client in clients), 30.0)

    def _live(self) -> None:
        """The liveness phase: all is well again, and everything has to succeed."""
        cluster = self.cluster
        self.world.run(SETTLE_S)
        until_s = self.world.now_s + LIVENESS_S
        for proxy in cluster.proxies:
            self._must(lambda: proxy.ready, until_s, f"{proxy.host.name} is not ready")  # noqa: B023
        for key in sorted(self.history.keys):
            for proxy in cluster.proxies:
                self._read(proxy.rooms.coordinator.get, key, Level.STRONG, until_s)
        if not any(isinstance(node.engine, Disk) and node.engine.bad for node in cluster.nodes):
            for key in sorted(self.history.keys):
                self._read(cluster.proxies[0].rooms.coordinator.get, key, Level.ALL, until_s)
            differing = differing_owners(cluster)
            if differing:
                raise Broken("owners", f"they hold different records of {differing} after a read at level all")

    def _read(self, get: Callable[..., Deferred[Done]], key: bytes, level: Level, until_s: float) -> None:
        called = self.world.now_s
        while True:
            ended: list[Done | Failure] = []
            get(Key(key), level).addBoth(ended.append)
            self._must(lambda: bool(ended), until_s, f"a read of {key!r} does not end")  # noqa: B023
            result = ended[0]
            if isinstance(result, Failure):
                self.world.run(min(0.5, max(0.0, until_s - self.world.now_s)))
                if self.world.now_s >= until_s:
                    raise Broken("liveness", f"a read of {key!r} still fails: {result.value.detail}")
                continue
            value = decode_record(result.record).value if result.record else None
            self.history.events.append(Event("last", Kind.READ, key, value, called, self.world.now_s))
            return

    def _must(self, holds: Callable[[], bool], until_s: float, what: str) -> None:
        if not self.world.until(holds, max(0.0, until_s - self.world.now_s)):
            raise Broken("liveness", f"{what}, {LIVENESS_S:g} s after all faults have ended")

    def _end(self) -> None:
        """Stop everything; nothing may be left over."""
        cluster = self.cluster
        for proxy in cluster.proxies:
            stopped: list[object] = []
            ensureDeferred(proxy.rooms.stop()).addBoth(stopped.append)
            self._must(lambda: bool(stopped), self.world.now_s + 30, f"{proxy.host.name} does not stop")  # noqa: B023
        self.world.run(cluster.limits.operation_timeout_s_max + 1)
        left = [str(call._work) for call in self.world.waiting()]
        if left:
            raise Broken("left over", f"{left[:5]}")
        if cluster.bugs:
            raise Broken("a bug", f"{cluster.bugs[0]}")

    def _judge(self) -> None:
        history = self.history
        history.events += [event for attempt in history.attempts for event in attempt.events()]
        never = {shown for attempt in history.attempts for shown in attempt.never()}
        found = violation(history.events)
        if found:
            raise Broken("linearizability", f"{found}")
        self._judge_once(never)
        written = {(e.key, e.value): e.called for e in history.events if e.kind is not Kind.READ}
        for key, value, at_s in history.loose:
            if not written.get((key, value), float("inf")) <= at_s:
                raise Broken("level one", f"a read of {key!r} answered {value!r}, which nobody had written")
        last = {event.key: event.value for event in history.events if event.client == "last"}
        for key, count in history.counted.items():
            value = last.get(key)
            if int((value or b"0").split(b" ")[0]) < count:
                raise Broken("counter", f"{key!r} holds {value!r}, and was counted up {count} times")

    def _judge_once(self, never: set[tuple[bytes, bytes]]) -> None:
        """See that no conditional change took effect twice, in two of the forms that it tried."""
        done = [event for event in self.history.events if event.fate is Fate.DONE]
        seen = {(event.key, event.value) for event in done}
        seen |= {(event.key, event.base) for event in done if event.kind is Kind.SWAP}
        for key, value in sorted(never):
            if (key, value) in seen:
                raise Broken("once", f"{value!r} of {key!r} was seen, and its client was told of another form")
        effects: dict[tuple[str, bytes], bytes | None] = {}
        for event in self.history.events:
            if event.kind is Kind.SWAP and event.client != EXPIRY_CLIENT and (event.key, event.value) in seen:
                first = effects.setdefault((event.client, event.key), event.value)
                if first != event.value:
                    raise Broken("once", f"it took effect as {first!r} and again: {event}")


def draw_mix(random: Any) -> Mix:
    """Draw what clients do."""
    return Mix(
        keys=random.choice([1, 1, 2, 5, 20]),
        clients=random.choice([2, 4, 8]),
        delete=random.choice([0, 0, 1]),
        swap=random.choice([0, 0, 2, 8]),
        count=random.choice([0, 0, 2]),
        expiring=random.choice([0, 0, 1]),
        one=random.choice([0, 0, 0.1]),
        hang_up=random.choice([0, 0, 0.1]),
        think_s=random.choice([0.01, 0.1, 1.0]),
    )


def differing_owners(cluster: Cluster) -> list[str]:
    """Name the keys of which owners hold different records."""
    differing = []
    view = cluster.proxies[0].rooms.roster.view
    assert view is not None
    by_url = {node.url: node for node in cluster.nodes}
    owners = {node: by_url[seat.url] for node, seat in view.seats.items()}
    keys = {key for node in owners.values() for _, key in node.engine._cells}
    for key in sorted(keys):
        slot = slot_of(key)
        cells = [owners[name].engine.get(slot, key) for name in view.table[slot]]
        held = {cell.record if cell is not None else b"" for cell in cells}
        if len(held) > 1:
            differing.append(repr(key))
    return differing
