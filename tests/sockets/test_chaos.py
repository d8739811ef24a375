"""Everything at once: processes killed and stopped, lines disturbed, clients at work; and then the history is judged.

Each node is called at the address of a line (see ``lines``), which both proxies use and which tells them apart, and the
clients call each proxy by a line, too: so every directed link has faults of its own. Nodes call each other while
members join, which is over before the trouble begins.
"""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from os import getpid
from pathlib import Path
from random import Random
from time import monotonic

import pytest

from tests.sockets.daemons import Daemon, Farm, answers, farming, wait_until
from tests.sockets.lines import FAIR, Fault, Lines, Weather
from tests.sockets.witnesses import Witness, history
from twisted_kv.simulation.linearizability import violation

pytestmark = pytest.mark.system

SEED = 1
LENGTH_S = 60.0
CLIENTS = 8
KEYS = [f"key{number}" for number in range(6)]
DONE_MIN = {"get": 500, "put": 200, "delete": 100, "create": 50, "change": 100}
"""Operations of each kind that have to succeed amid all this, so that nothing passes by doing nothing."""

NODES = [f"node {number}" for number in range(1, 6)]
PROXIES = ["proxy 1", "proxy 2"]
CALLERS = "clients"


# What shall happen, as values.


@dataclass(frozen=True)
class Harm:
    """A process that is killed, or stopped, and some time later started again, or continued."""

    begins_s: float
    ends_s: float
    whom: str
    signal: signal.Signals


@dataclass(frozen=True)
class Storm:
    """Directions in which bytes meet a fault."""

    begins_s: float
    ends_s: float
    ways: tuple[tuple[str, str], ...]
    weather: Weather


def planned(random: Random) -> list[Harm | Storm]:
    """Draw all trouble of a run.

    One hand's troubles follow one another, those of different hands coincide: a key may have two of its three owners
    down and the lines to the third disturbed. One hand has both proxies, so that one of them is left to talk to.
    """
    plan: list[Harm | Storm] = []
    for group in (PROXIES, NODES[:2], NODES[2:]):
        plan += successive(random, 6.0, lambda now_s, group=group: harm(random, now_s, group))
    for proxy in PROXIES:
        plan += successive(random, 4.0, lambda now_s, proxy=proxy: storm(random, now_s, proxy, NODES))
    plan += successive(random, 6.0, lambda now_s: storm(random, now_s, CALLERS, PROXIES))
    return plan


def successive(random: Random, pause_s: float, draw: Callable[[float], Harm | Storm]) -> Iterator[Harm | Storm]:
    trouble = draw(random.uniform(0.0, pause_s))
    while trouble.ends_s < LENGTH_S:
        yield trouble
        trouble = draw(trouble.ends_s + random.uniform(0.1, pause_s))


def harm(random: Random, now_s: float, group: list[str]) -> Harm:
    whom = random.choice(group)
    if random.random() < 0.5:
        return Harm(now_s, now_s + random.uniform(0.0, 2.0), whom, signal.SIGKILL)
    return Harm(now_s, now_s + 10 ** random.uniform(-1.0, 1.0), whom, signal.SIGSTOP)


def storm(random: Random, now_s: float, caller: str, callees: list[str]) -> Storm:
    """Disturb the lines between a caller and one callee or several, in one direction or both."""
    some = random.sample(callees, random.choice([1, 1, 1, 2, len(callees)]))
    there, back = [(caller, callee) for callee in some], [(callee, caller) for callee in some]
    ways = random.choice([there, back, there + back])
    fault = random.choice([fault for fault in Fault if fault is not Fault.NONE])
    weather = Weather(fault, random.uniform(0.01, 1.0) if fault is Fault.DELAY else 0.0)
    return Storm(now_s, now_s + 10 ** random.uniform(-1.0, 0.8), tuple(ways), weather)


# Where it happens.


class Stage:
    """Five nodes and two proxies on one state file, with lines between all who call and are called."""

    def __init__(self, farm: Farm, lines: Lines) -> None:
        self.farm = farm
        self.lines = lines
        self.proxies = {name: farm.proxy() for name in PROXIES}
        self.nodes = {name: farm.node("--engine", "rocksdb", "--sync", "always") for name in NODES}
        self.daemons: dict[str, Daemon] = {**self.proxies, **self.nodes}
        self.happened: Counter[str] = Counter()
        for name, node in self.nodes.items():
            farm.add(node, f"http://127.0.0.1:{lines.lead(name, node.port, self._pids)}")
        self.ports = [lines.lead(name, proxy.port, lambda: {getpid(): CALLERS}) for name, proxy in self.proxies.items()]
        self.wait_ready()

    def _pids(self) -> dict[int, str]:
        running = ((daemon.process, name) for name, daemon in self.daemons.items())
        return {process.pid: name for process, name in running if process is not None}

    def wait_ready(self) -> None:
        for daemon in self.daemons.values():
            daemon.wait_alive()
        for proxy in self.proxies.values():
            wait_until(lambda: answers(f"{proxy.url}/health/ready"), f"{proxy.url} to be ready")  # noqa: B023

    def begin(self, trouble: Harm | Storm) -> None:
        if isinstance(trouble, Storm):
            self.happened[trouble.weather.fault.value] += 1
            for source, sink in trouble.ways:
                self.lines.set(source, sink, trouble.weather)
            return
        self.happened[f"{trouble.signal.name} to a {trouble.whom.split()[0]}"] += 1
        daemon = self.daemons[trouble.whom]
        assert daemon.ended() is None, f"{trouble.whom} ended by itself: {daemon.log()}"
        if trouble.signal is signal.SIGKILL:
            daemon.kill()
        else:
            assert daemon.process is not None
            daemon.process.send_signal(trouble.signal)

    def end(self, trouble: Harm | Storm) -> None:
        if isinstance(trouble, Storm):
            for source, sink in trouble.ways:
                self.lines.set(source, sink, FAIR)
        elif trouble.signal is signal.SIGKILL:
            self.daemons[trouble.whom].launch()
        else:
            self.go_on(trouble.whom)

    def go_on(self, whom: str) -> None:
        process = self.daemons[whom].process
        if process is not None:
            process.send_signal(signal.SIGCONT)

    def tracebacks(self) -> dict[str, str]:
        """The first of each daemon that logged one, with what follows it."""
        cut = {name: daemon.log().partition("Traceback")[1:] for name, daemon in self.daemons.items()}
        return {name: mark + rest[:4000] for name, (mark, rest) in cut.items() if mark}

    def lives(self) -> dict[str, str]:
        return {name: node.info()["incarnation"] for name, node in self.nodes.items()}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    lines = Lines()
    try:
        with farming(tmp_path) as farm:
            built = Stage(farm, lines)
            try:
                yield built
            finally:
                for name in built.daemons:
                    built.go_on(name)  # a process that is stopped does not hear that it shall end
    finally:
        lines.close()


def perform(stage: Stage, plan: list[Harm | Storm], clients: list[Future[None]]) -> None:
    """Let all of it happen at its time, and stay until the end."""
    began_s = monotonic()
    moments = [(trouble.begins_s, stage.begin, trouble) for trouble in plan]
    moments += [(trouble.ends_s, stage.end, trouble) for trouble in plan]
    ended = threading.Event()
    for client in clients:
        client.add_done_callback(lambda _: ended.set())
    for at_s, act, trouble in sorted(moments, key=lambda moment: moment[0]):
        if ended.wait(max(0.0, began_s + at_s - monotonic())):
            return  # a client never ends by itself: it has failed
        act(trouble)
    ended.wait(max(0.0, began_s + LENGTH_S - monotonic()))


def test_what_clients_see_is_linearizable_while_processes_die_and_stall_and_lines_fail(stage: Stage) -> None:
    lives = stage.lives()
    witnesses = [
        Witness(f"client{number}", stage.ports, KEYS, Random(f"{SEED}, client {number}")) for number in range(CLIENTS)
    ]
    stopped = threading.Event()
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(witness.work, stopped) for witness in witnesses]
        try:
            perform(stage, planned(Random(SEED)), clients)
        finally:
            stopped.set()
            stage.lines.heal()
    for client in clients:
        client.result()
    stage.wait_ready()
    witnesses.append(last_look(stage))
    outcomes: Counter[tuple[str, str]] = Counter()
    for witness in witnesses:
        outcomes += witness.outcomes
    events = history(witnesses)
    struck = {fault.value: chunks for fault, chunks in stage.lines.struck.items()}
    (stage.farm.folder / "history").write_text("".join(f"{event.key!r} {event}\n" for event in events))
    print(f"seed {SEED}: {len(events)} events, {dict(outcomes)}, {dict(stage.happened)}, chunks struck {struck}")  # noqa: T201
    found = violation(events)
    assert found is None, f"seed {SEED}: {found}"
    assert [complaint for witness in witnesses for complaint in witness.complaints] == []
    assert stage.tracebacks() == {}
    assert stage.lives() == lives, "who keeps what it has synced is nobody else after a kill"
    assert {deed: outcomes[deed, "done"] for deed, least in DONE_MIN.items() if outcomes[deed, "done"] < least} == {}
    assert {fault for fault in Fault if stage.lines.struck[fault] == 0} == {Fault.NONE}


def last_look(stage: Stage) -> Witness:
    """Read every key through both proxies when all is well again, write it, and read it again."""
    witness = Witness("last", stage.ports, KEYS, Random(f"{SEED}, last"))
    for deed, right in ((witness.get, (200, 404)), (witness.put, (204,)), (witness.get, (200,))):
        for key in KEYS:
            for port in stage.ports:
                wait_until(lambda: deed(key, port).status in right, f"{key} at {port}")  # noqa: B023
    witness.close()
    return witness
