"""What goes wrong in a simulation: a swarm of faults, of which each seed draws some.

Runs with all faults on find less than runs with some (Groce et al., "Swarm Testing", ISSTA 2012).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from twisted.internet.defer import ensureDeferred
from twisted.python.failure import Failure

from ..errors import KvError
from ..membership import Seat, State, decode_state, is_leaving, present_seats
from ..quorum import met
from ..roster import Roster
from ..views import View
from .cluster import Cluster, Node
from .disk import Disk
from .network import Weather
from .store import ANSWER_S
from .world import Call

NODES_MAX = 7


class Swarm:
    """Draws which faults a run has, and lets them happen while it is told to."""

    def __init__(self, cluster: Cluster, profile: str) -> None:
        self._cluster = cluster
        self._random = random = cluster.world.random
        allowed = [name for name in PROFILES[profile] if cluster.durable or name not in DISK_FAULTS]
        self.on = [name for name in allowed if random.random() < (0.25 if profile == EVERYTHING else 0.7)]
        if cluster.carriage.tokens is not None and profile != CALM and random.random() < 0.7:
            self.on.append("rotate")
        self.pace_s = random.choice([0.3, 1.0, 3.0, 10.0] if profile == EVERYTHING else [0.1, 0.3, 1.0, 3.0])
        self.happened: Counter[str] = Counter()
        self.bands: list[tuple[str, float, float]] = []
        """What lasted for a while: name, begin and end in seconds."""
        self._lasts_s = 0.0
        self._raging = False
        self._next: Call | None = None

    def rage(self) -> None:
        """Begin."""
        self._raging = True
        self._again()

    def _again(self) -> None:
        if self._raging and self.on:
            self._next = self._cluster.world_host.callLater(self._random.expovariate(1 / self.pace_s), self._strike)

    def _strike(self) -> None:
        if self._raging:
            name = self._random.choice(self.on)
            fault: Callable[[], bool] = getattr(self, name)
            self._lasts_s = 0.0
            if fault():
                now_s = self._cluster.world.now_s
                self.happened[name] += 1
                self.bands.append((name, now_s, now_s + self._lasts_s))
            self._again()

    def _later(self, seconds: float, work: Callable[[], object]) -> None:
        self._lasts_s = max(self._lasts_s, seconds)
        self._cluster.world_host.callLater(seconds, work)

    def calm(self) -> None:
        """End all faults, and start again whatever does not run."""
        cluster = self._cluster
        self._raging = False
        if self._next is not None and self._next.active():
            self._next.cancel()
        self.heal()
        cluster.network.weather = Weather()
        cluster.shelf.unusable = False
        cluster.doom = None
        for node in cluster.nodes:
            node.host.paused_until_s = 0.0
            node.sync_s = (0.0005, 0.004)
            node.doom = None
            if isinstance(node.engine, Disk):
                node.engine.broken = node.engine.busy = node.engine.full = False
            node.restart()
        for proxy in cluster.proxies:
            proxy.host.paused_until_s = 0.0
            proxy.store.answer_s = ANSWER_S
            proxy.restart()

    def cut_off_one(self) -> bool:
        """Keep one member out of reach for good, if the others can do without it; say whether it is so."""
        cluster = self._cluster
        if cluster.replicas < 3 or self._random.random() < 0.5 or not self._all_remember():
            return False
        node, state = self._random.choice(self._members()), self._state()
        assert state is not None
        if not can_do_without(state, node.url):
            return False
        for proxy in cluster.proxies:
            cluster.network.deaf |= {(node.host.name, proxy.host.name), (proxy.host.name, node.host.name)}
        return True

    def heal(self) -> None:
        """Let everybody hear everybody, and at once."""
        self._cluster.network.deaf.clear()
        self._cluster.network.slow.clear()

    # The network.

    def weather(self) -> bool:
        """All lines become worse, or better."""
        random = self._random
        self._cluster.network.weather = Weather(
            delays_s=random.choice([(0.0005, 0.003), (0.0005, 0.05), (0.001, 0.4)]),
            loss=random.choice([0.0, 0.01, 0.05]),
            doubling=random.choice([0.0, 0.02, 0.2]),
            slow=random.choice([0.0, 0.02]),
            slow_s=random.choice([0.5, 10.0]),
        )
        return True

    def partition(self) -> bool:
        """Proxies and nodes fall into two groups that do not hear each other, some only in one direction."""
        cluster, random = self._cluster, self._random
        names = [*(node.host.name for node in cluster.nodes), *(proxy.host.name for proxy in cluster.proxies)]
        here = {name for name in names if random.random() < 0.4}
        one_way = random.random() < 0.3
        cut = {(a, b) for a in names for b in names if a in here and b not in here}
        if not one_way:
            cut |= {(b, a) for a, b in cut}
        cluster.network.deaf |= cut
        self._later(self.pace_s * random.choice([0.1, 0.5, 2.0]), lambda: cluster.network.deaf.difference_update(cut))
        return bool(cut)

    def cut_line(self) -> bool:
        """One proxy and one node do not hear each other, or one does not hear the other."""
        cluster, random = self._cluster, self._random
        ends = (random.choice(cluster.proxies).host.name, random.choice(cluster.nodes).host.name)
        cut = random.choice([{ends}, {ends[::-1]}, {ends, ends[::-1]}])
        cluster.network.deaf |= cut
        self._later(self.pace_s * random.choice([0.1, 0.5, 2.0]), lambda: cluster.network.deaf.difference_update(cut))
        return True

    def slow_node(self) -> bool:
        """What one node answers takes long for a while; the others are as fast as ever."""
        network, random = self._cluster.network, self._random
        name = random.choice(self._cluster.nodes).host.name
        network.slow[name] = random.choice([(0.02, 0.05), (0.02, 0.5), (0.3, 0.5)])
        self._later(min(30.0, self.pace_s * random.choice([0.5, 2.0, 10.0])), lambda: network.slow.pop(name, None))
        return True

    def flap(self) -> bool:
        """One node becomes deaf to all proxies, or to some, and comes back, again and again for a while."""
        cluster, random = self._cluster, self._random
        node = random.choice(cluster.nodes).host.name
        some = random.random() < 0.3
        proxies = [proxy.host.name for proxy in cluster.proxies if not some or random.random() < 0.5]
        cut = {line for proxy in proxies for line in ((node, proxy), (proxy, node))}
        until_s = cluster.world.now_s + min(30.0, self.pace_s * random.choice([2.0, 5.0, 10.0]))

        def turn(deaf: bool) -> None:
            # After the calm somebody may be out of reach for good, which is not to be undone here.
            if self._raging:
                (cluster.network.deaf.update if deaf else cluster.network.deaf.difference_update)(cut)
                if deaf or cluster.world.now_s < until_s:
                    cluster.world_host.callLater(random.uniform(0.3, 2.0), turn, not deaf)

        turn(True)
        self._lasts_s = until_s - cluster.world.now_s
        return bool(cut)

    # Processes.

    def crash_node(self) -> bool:
        """A node is killed and started again; with a memory engine it has then forgotten everything."""
        node = self._random.choice(self._cluster.nodes)
        return self._crash(node, False, self._random.choice([0.01, 0.5, 5.0]))

    def crash_after_answer(self) -> bool:
        """Nodes end right after they have answered, so that others act on what only their disks know now."""
        power = self._cluster.durable and self._random.random() < 0.3
        down_s = self._random.choice([0.01, 0.5])
        for node in self._cluster.nodes:
            if self._random.random() < 0.5:
                node.doom = partial(self._crash, node, power, down_s)
                node.doomed_by_promise = False
        return True

    def crash_after_promise(self) -> bool:
        """Nodes end right after each of their next promises, and are back before the proposal comes."""
        random, nodes = self._random, self._cluster.nodes

        def end(node: Node, left: int) -> None:
            node.doom = partial(end, node, left - 1) if left else None
            self._crash(node, False, 0.0005)

        for node in nodes if random.random() < 0.5 else [random.choice(nodes)]:
            node.doom, node.doomed_by_promise = partial(end, node, random.choice([0, 4, 19])), True
        return True

    def _crash(self, node: Node, power: bool, down_s: float) -> bool:
        if not node.up or not (self._cluster.durable or self._whole()):
            return False
        node.crash(power)
        self._later(down_s, node.restart)
        return True

    def crash_proxy(self) -> bool:
        proxy = self._random.choice(self._cluster.proxies)
        if not proxy.ready:
            return False
        proxy.crash()
        self._later(self._random.choice([0.01, 0.5, 5.0]), proxy.restart)
        return True

    def pause(self) -> bool:
        """A process stops, and goes on acting on what it believed."""
        process = self._random.choice([*self._cluster.nodes, *self._cluster.proxies])
        self._lasts_s = min(60.0, self.pace_s * self._random.choice([0.1, 0.5, 3.0, 20.0]))
        process.host.pause(self._lasts_s)
        return True

    def clocks(self) -> bool:
        """A wall clock jumps, or goes too fast or too slowly from now on."""
        random = self._random
        host = random.choice([*self._cluster.nodes, *self._cluster.proxies]).host
        host.skew_ms = random.choice([0, -5, 5, -50, 50, -500, 500, -60_000, 60_000, -3_600_000, 3_600_000])
        host.drift = random.choice([0.0, 0.0, -0.1, 0.1])
        return True

    # Disks.

    def power_cut(self) -> bool:
        """Some machines, or all of them, lose what was not synced."""
        cluster, random = self._cluster, self._random
        self._cut(cluster.nodes if random.random() < 0.3 else [random.choice(cluster.nodes)])
        return True

    def power_cut_after_write(self) -> bool:
        """All machines lose what was not synced, right after a client was told that its write is safe."""
        self._cluster.doom = lambda: self._cut(self._cluster.nodes)
        return True

    def _cut(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            node.crash(power=True)
            self._later(self._random.choice([0.05, 0.5, 2.0]), node.restart)

    def lose_disk(self) -> bool:
        if not self._whole():
            return False
        self._random.choice(self._members()).forget()
        return True

    def lose_tail(self) -> bool:
        if not self._whole():
            return False
        self._random.choice(self._members()).forget_tail(self._random.choice([1, 5, 100]))
        return True

    def slow_disk(self) -> bool:
        """The syncs of a node, or of all of them, become slow, or fast again."""
        random, nodes = self._random, self._cluster.nodes
        sync_s = random.choice([(0.0005, 0.004), (0.02, 0.2), (1.0, 5.0)])
        for node in nodes if random.random() < 0.4 else [random.choice(nodes)]:
            node.sync_s = sync_s
        return True

    def disk_trouble(self) -> bool:
        """A disk is behind, or full, for a while."""
        node, name = self._random.choice(self._cluster.nodes), self._random.choice(["busy", "full"])
        disk = node.engine
        assert isinstance(disk, Disk)
        setattr(disk, name, True)
        self._later(self._random.choice([0.1, 2.0]), lambda: setattr(disk, name, False))
        return True

    def disk_fails(self) -> bool:
        """A sync fails: the node ends, and has lost what was not synced."""
        disk = self._random.choice(self._cluster.nodes).engine
        assert isinstance(disk, Disk)
        disk.broken = True
        return True

    def flip_bit(self) -> bool:
        """One record of one member cannot be read any more, if there is one then of which others have missed something.

        No other member has one that cannot be read.
        """
        if not self._whole() or any(isinstance(node.engine, Disk) and node.engine.bad for node in self._cluster.nodes):
            return False
        disk = self._random.choice(self._members()).engine
        assert isinstance(disk, Disk)
        others = [node.engine._cells for node in self._members()]
        held = Counter((place, cell.accepted) for cells in others for place, cell in cells.items())
        missed = [place for place, cell in disk._cells.items() if held[place, cell.accepted] < self._cluster.replicas]
        disk.spoil(self._random, missed)
        for key in disk.bad:
            self._cluster.spoiled.setdefault(key, self._cluster.world.now_s)
        return True

    # The ring, and the store of its state.

    def grow(self) -> bool:
        """A node joins."""
        cluster = self._cluster
        if len(cluster.nodes) >= NODES_MAX:
            return False
        url, weight = cluster.build().url, self._random.choice([1, 1, 2])
        return self._asked(lambda roster: roster.add(url, weight))

    def weigh(self) -> bool:
        """A member's weight changes, or who had left comes back; data moves."""
        url, weight = self._random.choice(self._cluster.nodes).url, self._random.choice([1, 2, 3])
        return self._asked(lambda roster: roster.add(url, weight))

    def drain(self) -> bool:
        """A member leaves; the others get what it holds first."""
        leaving = self._random.choice(self._seats()).id
        return self._asked(lambda roster: roster.leave(leaving))

    def replace(self) -> bool:
        """A member is gone for good, disk and all, and is taken out."""
        if not self._whole() or len(self._members()) < 4:
            return False
        gone = self._random.choice(self._seats())
        node = next(node for node in self._cluster.nodes if node.url == gone.url)
        node.forget(start=False)
        return self._asked(lambda roster: roster.leave(gone.id, dead=True))

    def cancel(self) -> bool:
        """The change under way, or the next one, is taken back, at whatever moment of it."""
        world, after_s = self._cluster.world, self._random.choice([0.0, 0.003, 0.01, 0.05, 0.5])
        until_s = world.now_s + 20.0

        def look() -> None:
            state = self._state()
            if state is None or state.change is None or not state.open:
                if self._raging and world.now_s < until_s:
                    self._cluster.world_host.callLater(0.02, look)
                return
            self._cluster.world_host.callLater(after_s, take_back, state.change.id)

        def take_back(change_id: str) -> None:
            if self._raging:
                self._asked(lambda roster: roster.cancel(change_id))

        look()
        return True

    def _asked(self, ask: Callable[[Roster], Coroutine[Any, Any, object]]) -> bool:
        """Ask some proxy for a change of the ring, and do not wait for it."""
        up = [proxy for proxy in self._cluster.proxies if proxy.ready]
        if not up or not self._seats():
            return False
        asking = ask(self._random.choice(up).rooms.roster)
        ensureDeferred(asking).addErrback(expected).addErrback(self._cluster.bug)
        return True

    def slow_store(self) -> bool:
        """A proxy hears late of what the others have put into the store, and its own calls may take long."""
        random = self._random
        store = random.choice(self._cluster.proxies).store
        store.watch_s, store.answer_s = random.choice([0.25, 5.0, 60.0]), random.choice([ANSWER_S, 0.5, 10.0])
        return True

    def store_gone(self) -> bool:
        """The state store cannot be used for a while."""
        shelf = self._cluster.shelf
        shelf.unusable = True
        self._later(self._random.choice([0.5, 5.0]), lambda: setattr(shelf, "unusable", False))
        return True

    # The operator.

    def rotate(self) -> bool:
        """All tokens are exchanged, and each process hears of it when it does."""
        return self._cluster.carriage.rotate(self._cluster.world_host)

    # What may be done without losing what nobody could keep.

    def _seats(self) -> tuple[Seat, ...]:
        state = self._state()
        return state.members if state is not None else ()

    def _members(self) -> list[Node]:
        urls = {seat.url for seat in self._seats()}
        return [node for node in self._cluster.nodes if node.url in urls]

    def _state(self) -> State | None:
        document = self._cluster.shelf.document
        return decode_state(document) if document is not None else None

    def _whole(self) -> bool:
        """Whether every member counts: one more may forget only then, or a majority's memory could be gone."""
        if self._cluster.replicas < 3:
            return False
        state = self._state()
        if state is None or not state.open or state.pending or state.change is not None:
            return False
        return self._all_remember()

    def _all_remember(self) -> bool:
        """Whether every member, and there are three at least, has all that it ever acknowledged."""
        state, members = self._state(), self._members()
        lives = {seat.url: seat.incarnation for seat in state.members} if state is not None else {}
        bad = any(isinstance(node.engine, Disk) and node.engine.bad for node in members)
        return len(members) >= 3 and not bad and all(node.incarnation == lives[node.url] for node in members)


def can_do_without(state: State, url: str) -> bool:
    """Whether a member's silence leaves every slot its majorities, now and when all that is wished for is done."""
    view = View(state)
    silent = {node for node, seat in view.seats.items() if seat.url == url}
    left = [seat for seat in present_seats(state) if not is_leaving(state, seat.id)]
    return len(left) >= 3 and all(met(one.quorum, one.everybody & ~one.voters(silent)) for one in view.distinct)


def expected(failure: Failure) -> None:
    failure.trap(KvError)


POWER_FAULTS = ["power_cut", "power_cut_after_write"]
DISK_FAULTS = [*POWER_FAULTS, "lose_disk", "lose_tail", "slow_disk", "disk_trouble", "disk_fails", "flip_bit"]
NETWORK_FAULTS = ["weather", "partition", "cut_line", "slow_node", "flap"]
PROCESS_FAULTS = ["crash_node", "crash_after_answer", "crash_after_promise", "crash_proxy", "pause"]
RING_FAULTS = ["grow", "weigh", "drain", "replace", "cancel", "slow_store", "store_gone"]
EVERYTHING, CALM = "everything", "calm"
PROFILES: dict[str, list[str]] = {
    EVERYTHING: [*NETWORK_FAULTS, *PROCESS_FAULTS, "clocks", *DISK_FAULTS, *RING_FAULTS],
    CALM: [],
    "partitions": NETWORK_FAULTS,
    "crashes": [*PROCESS_FAULTS, "weather", *POWER_FAULTS],
    "disks": [*DISK_FAULTS, "crash_node"],
    "clocks": ["clocks", "pause", "weather"],
    "changes": [*RING_FAULTS, *PROCESS_FAULTS, "weather", "lose_disk"],
    "moves": ["grow", "weigh", "drain", "cancel", "slow_store", "weather", "flap"],
    "damage": ["flip_bit", "flap", "cut_line", "weather"],
    "shrinking": ["flip_bit", "drain", "grow", "weather"],
}
"""Which faults may be on; which of them are, each seed draws."""
