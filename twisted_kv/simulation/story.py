"""One run of the simulation: a cluster, clients and faults from one seed; then peace; then judgement."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import cycle
from math import inf
from random import Random
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from ..floors import over
from ..limits import Limits
from ..names import Key
from ..operation import Done
from ..quorum import Level
from ..ring import SLOTS, slot_of
from ..versions import decode_record, is_value
from .cluster import Cluster
from .disk import Disk
from .faults import CALM, EVERYTHING, Swarm
from .history import History
from .invariants import Invariants
from .judging import Broken, judge
from .linearizability import Event, Fate, Kind
from .redis_client import RedisClient
from .sites import Sites
from .wire_client import WireClient
from .workload import Client, Mix
from .world import World

LIVENESS_S = 120.0
"""Within this simulated time after peace every operation has to succeed."""
SETTLE_S = 15.0
RAGE_S_MAX = 90.0
PURGING = 0.6
"""The part of the seeds in which tombstones are purged."""
GRACE_S = 3.0
"""How old they become there."""
WIRE = 0.05
"""The part of the seeds that simulate bytes."""


@dataclass(frozen=True)
class Settings:
    """What is said of a run in advance; what is 0 the seed draws."""

    nodes: int = 0
    proxies: int = 0
    operations: int = 0
    profile: str = EVERYTHING
    wire: bool | None = None
    """Whether bytes are simulated, or messages; None to let the seed say."""
    keys: int = 0
    """How many keys there are; where it is said, they are used alike."""


DRAWN = Settings()


@dataclass
class Verdict:
    """What came of one run."""

    seed: int
    wire: bool = False
    cut_off: bool = False
    """Whether one member was out of reach in the first part of the liveness phase."""
    digest: str = ""
    operations: int = 0
    unknown: int = 0
    events: int = 0
    simulated_s: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    sites: Counter[str] = field(default_factory=Counter)
    """What the sites in the real rooms let happen."""
    judged: Counter[str] = field(default_factory=Counter)
    """Keys by the test that judged them."""
    errors: Counter[str] = field(default_factory=Counter)
    trouble: str = ""
    """What was found wrong; empty if nothing."""
    check: str = ""
    """Which check has found it."""
    key: bytes = b""
    """On which key, if that says something."""
    bands: list[tuple[str, float, float]] = field(default_factory=list)
    """Faults that lasted: name, begin and end in seconds."""
    history: list[Event] = field(default_factory=list)


class Story:
    """One run."""

    def __init__(self, seed: int, settings: Settings = DRAWN) -> None:
        # A generator of its own: what a seed does at the message level does not hang on how many go to the wire level.
        wire = Random(2 * seed + 1).random() < WIRE if settings.wire is None else settings.wire
        self.verdict = Verdict(seed, wire=wire)
        self.world = world = World(seed)
        random = world.random
        sites = Sites(random, quiet=settings.profile == CALM)
        replicas, durable = random.choice([1, 3, 3, 3, 3, 5]), random.random() < 0.7
        purges = random.random() < PURGING
        limits = replace(
            sites.tighten(Limits()),
            purge_grace_s=GRACE_S if purges else inf,
            repair_slots_max=SLOTS,
            # So that an order may end between two parts of what it is to copy.
            pull_slots_min=SLOTS // 8,
            pull_slots_max=SLOTS,
        )
        self.cluster = Cluster(world, sites, limits, replicas, durable, wire)
        nodes = random.choice([3, 3, 4, 5]) if self.cluster.replicas < 5 else random.choice([5, 6])
        proxies, operations = random.choice([1, 2, 2, 3, 5]), random.choice([200, 400, 800])
        self.nodes, self.proxies = settings.nodes or nodes, settings.proxies or proxies
        self.operations = settings.operations or (operations // 4 if wire else operations)
        self.mix = draw_mix(random)
        if settings.keys:
            self.mix = replace(self.mix, keys=settings.keys, evenly=True)
        # A tombstone that was purged has no version of its own any more.
        self.history = History(self.cluster, names_tombstones=not (wire or purges))
        self.swarm = Swarm(self.cluster, settings.profile)
        self.history.clocks_agree = "clocks" not in self.swarm.on
        world.inspect = Invariants(self.cluster, self.history).check

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
            verdict.judged = judge(self.history)
            # A Deferred that failed and that nobody asked says so when it goes.
            gc.collect()
        except Broken as error:
            verdict.check, verdict.trouble, verdict.key = error.check, f"{error.check}: {error}", error.key
        except Exception:
            verdict.check, verdict.trouble = "a bug", f"a bug: {Failure().getTraceback()}"
        finally:
            globalLogPublisher.removeObserver(observe)
        if failures and not verdict.trouble:
            verdict.check, verdict.trouble = "log", f"a failure was logged: {failures[0]}"
        verdict.digest = self.world.digest
        verdict.operations = self.history.operations
        verdict.unknown = sum(event.fate is Fate.UNKNOWN for event in self.history.events)
        verdict.bands = self.swarm.bands
        verdict.events = self.world.events
        verdict.simulated_s = self.world.now_s
        verdict.faults = self.swarm.happened
        verdict.sites = self.cluster.sites.fired
        verdict.errors = Counter(self.history.errors)
        verdict.history = self.history.events
        return verdict

    def _rage(self) -> None:
        """The safety phase: everything that is on in this seed goes wrong while clients work."""
        self.cluster.settle(self.nodes, self.proxies)
        left = [self.operations]
        kinds: list[type[Client]] = [Client]
        if self.verdict.wire:
            kinds = self.world.random.choice([[WireClient], [RedisClient], [WireClient, RedisClient]])
        clients = [
            kind(self.cluster, self.history, self.mix, f"c{number}", left)
            for number, kind in zip(range(self.mix.clients), cycle(kinds), strict=False)
        ]
        self.swarm.rage()
        self.cluster.sites.raging = True
        for client in clients:
            client.go()
        self.world.until(lambda: all(client.idle for client in clients), RAGE_S_MAX)
        left[0] = 0
        self.swarm.calm()
        self.cluster.sites.raging = False
        self.world.until(lambda: all(client.idle for client in clients), 30.0)

    def _live(self) -> None:
        """The liveness phase: a majority is well again, and everything has to succeed; then all are."""
        self.verdict.cut_off = self.swarm.cut_off_one()
        self._all_reads_succeed()
        if self.verdict.cut_off:
            self.swarm.heal()
            self._all_reads_succeed()
        self._owners_agree()

    def _all_reads_succeed(self) -> None:
        cluster = self.cluster
        self.world.run(SETTLE_S)
        until_s = self.world.now_s + LIVENESS_S
        for proxy in cluster.proxies:
            self._must(lambda: proxy.ready, until_s, f"{proxy.host.name} is not ready")  # noqa: B023
        for key in sorted(self.history.keys):
            for proxy in cluster.proxies:
                self._read(proxy.rooms.coordinator.get, key, Level.STRONG, until_s)

    def _owners_agree(self) -> None:
        cluster, until_s = self.cluster, self.world.now_s + LIVENESS_S
        if not any(isinstance(node.engine, Disk) and node.engine.bad for node in cluster.nodes):
            for key in sorted(self.history.keys):
                self._read(cluster.proxies[0].rooms.coordinator.get, key, Level.ALL, until_s)
            differing = differing_owners(cluster)
            if differing:
                raise Broken("owners", f"they hold different records of {differing} after a read at level all")
        for node in cluster.nodes:
            # What the scrub does within a week.
            for slot in {slot for slot, _ in node.engine._cells}:
                if not (isinstance(node.engine, Disk) and node.engine.bad) and not node.engine.inspect(slot).right:
                    raise Broken("digests", f"that of slot {slot} in {node.host.name} is not that of its cells")
                node.replica.scrub(slot)
        if not self.world.until(lambda: not unlike(cluster), LIVENESS_S):
            raise Broken("alike", f"{LIVENESS_S:g} s after all faults have ended: {'; '.join(unlike(cluster)[:5])}")

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
            value = self.history.shown(key, decode_record(result.record) if result.record else None)
            self.history.events.append(Event("last", Kind.READ, key, value, called, self.world.now_s))
            return

    def _must(self, holds: Callable[[], bool], until_s: float, what: str) -> None:
        if not self.world.until(holds, max(0.0, until_s - self.world.now_s)):
            raise Broken("liveness", f"{what}, {LIVENESS_S:g} s after all faults have ended")

    def _end(self) -> None:
        """Stop everything; nothing may be left over."""
        cluster = self.cluster
        until_s = self.world.now_s + LIVENESS_S
        self._must(lambda: all(node.up for node in cluster.nodes), until_s, "a node does not come back")
        for proxy in cluster.proxies:
            stopped: list[object] = []
            ensureDeferred(proxy.stop()).addBoth(stopped.append)
            self._must(lambda: bool(stopped), self.world.now_s + 30, f"{proxy.host.name} does not stop")  # noqa: B023
        for node in cluster.nodes:
            node.transport.close()
            ensureDeferred(node.scrubber.stop())
        self.world.run(cluster.limits.operation_timeout_s_max + 1)
        for proxy in cluster.proxies:
            coordinator = proxy.rooms.coordinator
            if coordinator.under_way or coordinator._bytes:
                what = f"{coordinator.under_way} operations with {coordinator._bytes} bytes in {proxy.host.name}"
                raise Broken("left over", what)
        left = [str(call._work) for call in self.world.waiting()]
        if left:
            raise Broken("left over", f"{left[:5]}")
        if cluster.bugs:
            raise Broken("a bug", f"{cluster.bugs[0]}")


def draw_mix(random: Any) -> Mix:
    """Draw what clients do."""
    return Mix(
        keys=random.choice([1, 1, 2, 5, 20]),
        evenly=random.random() < 0.3,
        clients=random.choice([2, 4, 8, 24]),
        get=random.choice([2, 4, 8]),
        delete=random.choice([0, 0, 1, 3]),
        swap=random.choice([0, 0, 2, 8]),
        count=random.choice([0, 0, 2]),
        expiring=random.choice([0, 0, 1]),
        one=random.choice([0, 0, 0.1]),
        hang_up=random.choice([0, 0, 0.1]),
        faithful=random.random() < 0.3,
        think_s=random.choice([0.01, 0.1, 1.0]),
    )


def unlike(cluster: Cluster) -> list[str]:
    """Say in what owners are not alike, or what is still to be done for others; nothing, in the end."""
    view = cluster.proxies[0].rooms.roster.view
    assert view is not None
    if view.state.change is not None or view.state.pending:
        return ["the ring changes"]
    nodes = {node.url: node for node in cluster.nodes}
    members = {name: nodes[seat.url] for name, seat in view.seats.items()}
    found = []
    for name, node in members.items():
        hints, marks = node.replica._hints.counts, node.replica._hints.marks
        bad = isinstance(node.engine, Disk) and node.engine.bad
        if hints or marks or bad:
            found.append(f"{name} has hints {dict(hints)}, marks {marks}, and cannot read {bad or 'nothing'}")
    slots = sorted({slot for node in members.values() for slot, _ in node.engine._cells})
    for slot in slots:
        owners = view.electorates[slot].nodes
        digests = {name: members[name].engine.digests(slot, slot)[0] for name in owners}
        floors = {name: members[name].engine.floor(slot).accepted for name in owners}
        if len(set(digests.values())) > 1 or len(set(floors.values())) > 1:
            found.append(f"owners of slot {slot} differ: {digests}, {floors}")
        found += [
            f"{name} holds slot {slot}, which it does not own"
            for name, node in members.items()
            if name not in owners and any(True for s, _ in node.engine._cells if s == slot)
        ]
        graves = {name: members[name].engine.graves(slot, slot)[0] for name in owners}
        if cluster.limits.purge_grace_s <= GRACE_S and any(graves.values()):
            found.append(f"owners of slot {slot} keep {graves}")
    return found


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
        engines = [owners[name].engine for name in view.electorates[slot].nodes]
        cells = [over(engine.floor(slot), engine.get(slot, key)) for engine in engines]
        held = {cell.record if is_value(cell.record) else b"" for cell in cells}
        if len(held) > 1:
            differing.append(repr(key))
    return differing
