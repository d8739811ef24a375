"""A14: several changes of the ring at once, some of them cancelled, while whoever drives them and nodes are killed.

Clients write all the time. After each round everything has to end: every key lies on exactly its owners, and nothing
that was acknowledged is lost.
"""

from __future__ import annotations

import http.client
import json
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any

import pytest

from tests.sockets.copies import owned_alike
from tests.sockets.daemons import Daemon, Farm, call, farming, wait_until
from tests.sockets.steady import Steady, in_time

pytestmark = pytest.mark.system

SEED = int(os.environ.get("KV_SEED", "1"))
ROUNDS = int(os.environ.get("KV_ROUNDS", "10"))
NODES, MEMBERS_MIN = 6, 3
CLIENTS, KEYS_EACH = 4, 100
DONE = (200, 202, 204)
REFUSED = (400, 404, 409, 422, 502, 503, 504)
"""Answers that say why not: it is gone already, another one has it, somebody needed is dead, it was taken back."""
ROUND_S = 3.0
"""Within this time all of a round begins."""
PATIENCE_S = 120.0


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with farming(tmp_path) as built:
        yield built


class Operator:
    """Who asks for changes, and notes how each call was answered. A daemon that is dead answers nothing."""

    def __init__(self, farm: Farm) -> None:
        self._farm = farm
        self.answers: Counter[str] = Counter()
        self.odd: list[str] = []
        """Answers that there should not be."""

    def ask(self, what: str, method: str, proxy: Daemon, path: str, body: Any = None) -> None:
        try:
            got = call(method, f"{proxy.url}{path}", json.dumps(body).encode() if body is not None else None)
        except (OSError, http.client.HTTPException):
            self.answers[f"{what}: no answer"] += 1
            return
        self.answers[f"{what}: {got.status}"] += 1
        if got.status not in DONE and got.status not in REFUSED:
            self.odd.append(f"{what} {path}: {got.status} {got.body!r}")

    def add(self, proxy: Daemon, node: Daemon, weight: int = 1) -> None:
        self.ask("add", "POST", proxy, "/AddServer", {"url": node.url, "weight": weight})

    def weigh(self, proxy: Daemon, node: Daemon, weight: int) -> None:
        self.ask("weight", "POST", proxy, "/v1/cluster/nodes", {"url": node.url, "weight": weight})

    def leave(self, proxy: Daemon, member: str) -> None:
        self.ask("leave", "DELETE", proxy, f"/v1/cluster/nodes/{member}")

    def cancel(self, proxy: Daemon, random: Random) -> None:
        """Cancel one of the changes that run or wait, if there is any."""
        with suppress(OSError, http.client.HTTPException):
            tasks = [task for task in call("GET", f"{proxy.url}/v1/tasks").json()["tasks"] if task["kind"] != "repair"]
            if tasks:
                self.ask("cancel", "DELETE", proxy, f"/v1/tasks/{random.choice(tasks)['id']}")


def moves(operator: Operator, farm: Farm, random: Random, members: list[dict[str, Any]]) -> list[Callable[[], None]]:
    """Draw what is asked for in one round: some join, some leave, some get another weight, and some of it is taken
    back."""
    by_url = {node.url: node for node in farm.nodes}
    inside = [(by_url[member["url"]], member["id"]) for member in members]
    outside = [node for node in farm.nodes if node.url not in {member["url"] for member in members}]
    random.shuffle(inside)
    random.shuffle(outside)
    spare = inside[: max(0, len(inside) - MEMBERS_MIN)]

    def ask(deed: Callable[..., None], *what: Any) -> Callable[[], None]:
        return partial(deed, random.choice(farm.proxies), *what)

    drawn = [ask(operator.add, node) for node in outside[: random.randint(0, 2)]]
    drawn += [ask(operator.leave, member) for _, member in spare[: random.randint(0, 2)]]
    drawn += [ask(operator.weigh, node, random.randint(1, 3)) for node, _ in inside[-random.randint(1, 2) :]]
    drawn += [ask(operator.cancel, Random(random.random())) for _ in range(random.randint(0, 2))]
    return drawn


def settled(farm: Farm) -> bool:
    """Whether both proxies know of no change any more, and find everybody up."""
    seen = []
    for proxy in farm.proxies:
        try:
            cluster = call("GET", f"{proxy.url}/v1/cluster").json()
        except (OSError, http.client.HTTPException):
            return False
        if cluster["change"] or cluster["pending"] or {member["state"] for member in cluster["members"]} != {"up"}:
            return False
        seen.append((cluster["epoch"], sorted(member["id"] for member in cluster["members"])))
    return seen[0] == seen[1]


def kill_and_start(daemon: Daemon) -> None:
    daemon.kill()
    daemon.start()


def misplaced(farm: Farm, steady: Steady) -> list[str]:
    """Describe what does not lie where it should; a key whose only write was not acknowledged may lie there or not."""
    uncertain = [f"holds {key}, which nobody has written" for key in steady.tried.keys() - steady.acknowledged.keys()]
    return [
        complaint for complaint in owned_alike(farm, steady.last_read()) if not complaint.endswith(tuple(uncertain))
    ]


def wait_placed(farm: Farm, steady: Steady, story: str) -> None:
    """Wait until every key lies on its owners: who has left a slot forgets it a moment after the change.

    Until then all is read again and again, since a write without an answer may still take effect.
    """
    left: list[str] = []

    def placed() -> bool:
        for proxy in farm.proxies:
            assert steady.wrong(proxy) == [], story
        left[:] = misplaced(farm, steady)
        return not left

    try:
        wait_until(placed, f"every key on its owners: {story}", PATIENCE_S)
    except AssertionError as error:
        raise AssertionError(f"{error}; {left[:10]}") from None


@pytest.mark.timeout(3600)
def test_changes_at_once_end_whoever_dies_and_every_key_lies_on_exactly_its_owners(farm: Farm) -> None:
    random = Random(SEED)
    farm.proxy()
    farm.proxy()
    for _ in range(NODES):
        farm.node()
    for node in farm.nodes[:4]:
        farm.add(node)
    operator = Operator(farm)
    steady = Steady(farm.proxies, CLIENTS, KEYS_EACH, random)
    killed: Counter[str] = Counter()
    epochs = []
    for number in range(1, ROUNDS + 1):
        story = f"seed {SEED}, round {number}"
        members = call("GET", f"{farm.proxies[0].url}/v1/cluster").json()["members"]
        victims = random.sample([*farm.proxies, *farm.nodes], random.randint(1, 2))
        began_s = monotonic()
        never = threading.Event()
        with steady:
            steady.wait_for_more(50, f"before {story}")
            threads = [in_time(random, ROUND_S, never, move) for move in moves(operator, farm, random, members)]
            threads += [in_time(random, ROUND_S, never, lambda one=one: kill_and_start(one)) for one in victims]
            for thread in threads:
                thread.join(PATIENCE_S)
                assert not thread.is_alive(), story
            wait_until(lambda: settled(farm), f"everything to end: {story}", PATIENCE_S)
        killed.update("proxy" if victim in farm.proxies else "node" for victim in victims)
        cluster = call("GET", f"{farm.proxies[0].url}/v1/cluster").json()
        epochs.append(cluster["epoch"])
        wait_placed(farm, steady, story)
        print(f"{story}: epoch {cluster['epoch']}, {len(cluster['members'])} members, {monotonic() - began_s:.1f} s")  # noqa: T201
    print(f"seed {SEED}: {ROUNDS} rounds, {dict(operator.answers)}, {dict(killed)}, {steady.count} writes")  # noqa: T201
    assert operator.odd == []
    assert epochs[-1] > ROUNDS, "the ring has changed"
    assert {daemon.url: daemon.log() for daemon in (*farm.nodes, *farm.proxies) if "Traceback" in daemon.log()} == {}
