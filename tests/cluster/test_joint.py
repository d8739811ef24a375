"""Clients at all levels while the ring changes for a long time: their histories are judged."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.python.failure import Failure

from tests.cluster.town import MakeTown, Town
from twisted_kv.conditional import Draft
from twisted_kv.errors import KvError, Unreached
from twisted_kv.names import Key
from twisted_kv.quorum import Level
from twisted_kv.sharing import Changed
from twisted_kv.simulation.linearizability import Event, Fate, Kind, violation
from twisted_kv.versions import Record

KEYS = [b"k%d" % number for number in range(6)]
CLIENTS = 6


@pytest.fixture
def make_town(make_town: MakeTown) -> MakeTown:
    def make(seed: int) -> Town:
        town = make_town(seed, proxies=2)
        town.settle(3 + seed % 2)
        town.run(1)
        return town

    return make


class Client:
    """Does one thing after another on a few keys, and keeps what came of it.

    What a read at level ``one`` shows may be old, and is not judged; what a write at that level did, is: it may be
    seen from then on, or be gone, so that its fate counts as unknown.
    """

    def __init__(self, town: Town, number: int) -> None:
        self._town = town
        self._number = number
        self._turn = 0
        self.done = 0
        self.stopped = False
        self.idle = True

    def go(self) -> None:
        if self.stopped:
            self.idle = True
            return
        self.idle = False
        self._turn += 1
        town, random = self._town, self._town.random
        key, value = random.choice(KEYS), b"c%d.%d" % (self._number, self._turn)
        proxy = random.randrange(len(town.proxies))
        level = random.choice([Level.STRONG, Level.STRONG, Level.ALL, Level.ONE])
        action = random.random()
        if action < 0.4:
            work: Deferred[object] = self._read(key, proxy, level)
        elif action < 0.75:
            work = self._put(key, value if random.random() < 0.85 else None, proxy, level)
        else:
            work = self._change(key, value, proxy)
        work.addErrback(lambda failure: failure.trap(KvError) and None).addCallback(self._ended)

    def _ended(self, _: object) -> None:
        self.done += 1
        self._town.clock.callLater(self._town.random.uniform(0, 0.1), self.go)

    def _read(self, key: bytes, proxy: int, level: Level) -> Deferred[object]:
        if level is Level.ONE:
            return self._town.proxies[proxy].coordinator.get(Key(key), level)  # type: ignore[return-value]
        return self._town.get(key, proxy, level)  # type: ignore[return-value]

    def _put(self, key: bytes, value: bytes | None, proxy: int, level: Level) -> Deferred[object]:
        if level is not Level.ONE:
            return self._town.put(key, value, proxy, level)  # type: ignore[return-value]
        kind = Kind.PUT if value is not None else Kind.DELETE
        town = self._town
        town.history.append(Event(f"w{self._number}.{self._turn}", kind, key, value, self._now_s, None, Fate.UNKNOWN))
        return town.proxies[proxy].coordinator.put(Key(key), value, b"", level)  # type: ignore[return-value]

    def _change(self, key: bytes, value: bytes, proxy: int) -> Deferred[object]:
        """Append to what is there, whatever that is."""
        town, client, called = self._town, f"s{self._number}.{self._turn}", self._now_s
        tried: list[tuple[bytes | None, bytes]] = []

        def decide(held: Record | None) -> Draft | None:
            base = held.value if held is not None else None
            tried.append((base, b"%s<%s" % (value, (base or b"")[:12])))
            return Draft(tried[-1][1])

        place = len(town.history)
        town.history.append(Event(client, Kind.SWAP, key, value, called, None, Fate.DROPPED))

        def ended(result: Changed | Failure) -> object:
            base, left = tried[-1] if tried else (None, value)
            fate, returned = Fate.DONE, self._now_s
            if isinstance(result, Failure):
                error = result.value
                in_doubt = isinstance(error, Unreached) and error.maybe_applied
                fate = Fate.UNKNOWN if in_doubt and tried else Fate.DROPPED
            town.history[place] = Event(client, Kind.SWAP, key, left, called, returned, fate, base)
            return result

        changing: Deferred[Changed] = town.proxies[proxy].coordinator.change(Key(key), decide)
        return changing.addBoth(ended)

    @property
    def _now_s(self) -> float:
        return self._town.clock.seconds()


def at_work(town: Town) -> list[Client]:
    clients = [Client(town, number) for number in range(CLIENTS)]
    for client in clients:
        client.go()
    return clients


def rest(town: Town, clients: list[Client]) -> None:
    for client in clients:
        client.stopped = True
    town.until(lambda: all(client.idle for client in clients))


def judge(town: Town) -> None:
    """Read all keys once more; then no history may be other than one of a single copy."""
    for key in KEYS:
        town.wait(town.get(key))
    story = violation(town.history)
    assert story is None, story


def still(town: Town) -> bool:
    state = town.proxies[0].roster.state
    return state.change is None and not state.pending


@pytest.mark.parametrize("seed", range(10))
def test_clients_go_on_while_a_change_takes_long_and_see_a_single_copy_of_each_key(
    make_town: MakeTown, seed: int
) -> None:
    town = make_town(seed)
    roster = town.proxies[0].roster
    town.breaking = {"batch": 0.05}
    clients = at_work(town)
    town.run(1)
    before = sum(client.done for client in clients)
    town.slow_s = {"pull": 2.0, "digests": 0.3, "slots": 0.3}
    town.doubling = 0.05
    (newcomer,) = town.build(1)
    asked = [ensureDeferred(roster.add(newcomer.url, 1 + seed % 3))]
    if seed % 3 == 1:
        town.until(lambda: roster.state.change is not None)
        asked.append(ensureDeferred(roster.leave(roster.state.members[0].id)))
    for call in asked:
        call.addErrback(lambda failure: failure.trap(KvError))
    town.until(lambda: roster.state.change is not None)
    town.run(1.5)
    assert roster.state.change is not None
    assert roster.state.open
    assert sum(client.done for client in clients) > before + 20, "they go on"
    if seed % 5 == 4:
        change = roster.state.change
        town.wait(ensureDeferred(roster.cancel(change.id)))
    town.run(0.5)
    town.until(lambda: still(town), 120)
    town.run(1)
    rest(town, clients)
    town.breaking.clear()
    town.run(15)
    judge(town)


@pytest.mark.parametrize("seed", range(6))
def test_clients_see_a_single_copy_where_lines_break_and_nodes_restart_while_the_ring_changes(
    make_town: MakeTown, seed: int
) -> None:
    town = make_town(100 + seed)
    roster = town.proxies[0].roster
    clients = at_work(town)
    town.slow_s = {"pull": 0.2}
    houses = list(town.houses.values())
    (newcomer,) = town.build(1)
    ensureDeferred(roster.add(newcomer.url, 1)).addErrback(lambda failure: failure.trap(KvError))
    town.until(lambda: roster.state.change is not None)
    town.loss = 0.02
    cut = town.random.choice(houses)
    town.cut = {("proxy0", cut.url), ("proxy1", cut.url)} if seed % 2 else {("proxy1", newcomer.url)}
    town.run(3)
    town.cut.clear()
    if seed % 3 == 0:
        newcomer.restart()
    town.run(3)
    town.loss = 0.0
    town.until(lambda: still(town), 180)
    town.run(1)
    rest(town, clients)
    judge(town)
    assert len(roster.state.members) == len(town.houses)
