"""Files that are not what was written: what is damaged on one node is never served, and comes back from the others.

By default a few thousand bytes are damaged; ``make test-damage`` does ten thousand.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from random import Random
from time import monotonic

import pytest

from tests.sockets.copies import (
    alike,
    drawn_values,
    get_all,
    limited,
    metric,
    misread,
    put_all,
    wait_up,
)
from tests.sockets.daemons import Daemon, Farm, farming, get, wait_until

pytestmark = pytest.mark.system

FLIPS = int(os.environ.get("KV_FLIPS", "2000"))
"""Bytes that are damaged in all rounds together, on one of three nodes each time."""
SEED = int(os.environ.get("KV_SEED", "1"))
FLIPS_A_ROUND = (1, 2, 5, 20, 100, 400)
RECORDS = 2_000
FRESH = 300
"""Records that are written anew in each round, so that the log holds something, too."""
LOOKED_AT = 100
"""Keys whose own copy the damaged node is asked for by itself."""
PATIENCE_S = 120.0
MEND_QUICKLY = {"repair_interval_s": 1.0}
SCRUB_QUICKLY = {"scrub_period_s": 10.0}
"""Of a node: it reads all of its data in that time. By default it takes a week."""


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with farming(tmp_path) as built:
        yield built


def three_nodes(farm: Farm, **node_limits: float) -> Daemon:
    proxy = farm.proxy(*limited(farm, "proxy", **MEND_QUICKLY))
    options = limited(farm, "node", **node_limits) if node_limits else []
    for _ in range(3):
        farm.add(farm.node(*options))
    return proxy


# Ways to spoil files.


def files_of(node: Daemon, pattern: str = "*") -> list[Path]:
    """The files of a node's data that are not empty; the engine's own diary is none."""
    found = sorted((node.home / "data").glob(pattern))
    return [path for path in found if path.name not in ("LOG", "LOCK") and path.is_file() and path.stat().st_size]


def flip(path: Path, offset: int, mask: int = 0xFF) -> None:
    """Turn bits of one byte over."""
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def flip_some(random: Random, paths: list[Path], times: int) -> None:
    """Flip bits of bytes, each file by its size as likely as the next one."""
    sizes = [path.stat().st_size for path in paths]
    for path in random.choices(paths, sizes, k=times):
        flip(path, random.randrange(path.stat().st_size), random.randrange(1, 256))


def zero_some(random: Random, paths: list[Path], times: int) -> None:
    """Overwrite a run of bytes with zeros, as a lost sector is."""
    path = random.choice(paths)
    first = random.randrange(path.stat().st_size)
    with open(path, "r+b") as file:
        file.seek(first)
        file.write(bytes(min(max(times, 512), path.stat().st_size - first)))


def truncate_one(random: Random, paths: list[Path], times: int) -> None:
    path = random.choice(paths)
    os.truncate(path, random.choice([0, random.randrange(path.stat().st_size), path.stat().st_size - 1]))


SPOILERS: list[Callable[[Random, list[Path], int], None]] = [flip_some, flip_some, flip_some, zero_some, truncate_one]
PATTERNS = ["*.sst", "*.sst", "*.log", "MANIFEST-*", "*"]


# What is asked meanwhile.


class Reader:
    """A client that reads all keys again and again, at one level and another, and notes whatever is wrong."""

    def __init__(self, proxy: Daemon, values: Mapping[str, bytes], random: Random) -> None:
        self.complaints: list[str] = []
        self.rounds = self.unanswered = 0
        self._proxy, self._values, self._random = proxy, dict(values), random
        self._stopped = threading.Event()
        self._failed: list[Exception] = []
        self._thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        try:
            while not self._stopped.is_set():
                wrong, unanswered = misread(self._proxy, self._values, self._random.choice(["", "?consistency=all"]))
                self.complaints += wrong
                self.unanswered += unanswered
                self.rounds += 1
        except Exception as error:
            self._failed.append(error)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        assert self._failed == []


@contextmanager
def reading(proxy: Daemon, values: Mapping[str, bytes], random: Random) -> Iterator[Reader]:
    reader = Reader(proxy, values, random)
    reader.start()
    try:
        yield reader
    finally:
        reader.stop()


def own_answers(node: Daemon, values: Mapping[str, bytes], random: Random, life: str) -> list[str]:
    """Ask a node for some of its own copies, and describe what is wrong.

    One that forgot, or begins anew, holds what it was given again; in this life it shows what it held, or an error.
    """
    wrong = []
    try:
        for key in random.sample(sorted(values), LOOKED_AT):
            got = get(node, key)
            if got.status < 500 and (got.status != 200 or got.json() != values[key].decode()):
                wrong.append(f"{key}: {got.status} {got.body!r}")
        return wrong if node.info()["incarnation"] == life else []
    except (OSError, HTTPException):
        return []


def texts(random: Random, keys: list[str], turn: int) -> dict[str, bytes]:
    """Draw values as text, which a node's own door can show, and of which compression leaves half."""
    return {key: f"{key} for the {turn}th time {random.randbytes(80).hex()}".encode() for key in keys}


@pytest.mark.timeout(3600)
def test_whatever_is_damaged_on_one_node_is_never_served_and_all_of_it_comes_back(farm: Farm) -> None:
    """A8: bytes flipped, zeroed and cut off in tables, logs and manifests of one node after the other."""
    random = Random(SEED)
    proxy = three_nodes(farm, **SCRUB_QUICKLY)
    keys = [f"key{number}" for number in range(RECORDS)]
    values = texts(random, keys, 0)
    put_all(proxy, values)
    restart_all(farm, proxy)
    flips = rounds = 0
    seen: Counter[str] = Counter()
    while flips < FLIPS:
        rounds += 1
        node = random.choice(farm.nodes)
        fresh = texts(random, random.sample(keys, FRESH), rounds)
        put_all(proxy, fresh)
        values |= fresh
        life = node.info()["incarnation"]
        random.choice([node.kill, node.end])()
        pattern = PATTERNS[rounds % len(PATTERNS)]
        spoiler = random.choice(SPOILERS)
        times = min(FLIPS - flips, random.choice(FLIPS_A_ROUND))
        paths = files_of(node, pattern) or files_of(node)
        spoiler(random, paths, times)
        flips += times
        story = f"seed {SEED}, round {rounds}: {spoiler.__name__} x{times} of {pattern} on {node.url}"
        began_s = monotonic()
        node.start()
        forgot = node.info()["incarnation"] != life
        with reading(proxy, values, random) as reader:
            assert own_answers(node, values, random, life) == [], story
            wait_until(lambda: reader.rounds >= 2, f"the keys to be read: {story}", PATIENCE_S)
            wait_whole(farm, node, values, story)
        assert reader.complaints == [], story
        seen["forgot" if forgot else "remembered"] += 1
        seen["renewed"] += not forgot and node.info()["incarnation"] != life
        print(f"{story}: forgot {forgot}, {reader.unanswered} unanswered, whole after {monotonic() - began_s:.1f} s")  # noqa: T201
    print(f"{flips} bytes damaged in {rounds} rounds: {dict(seen)}")  # noqa: T201


def restart_all(farm: Farm, proxy: Daemon) -> None:
    """Start the nodes again one after the other: what was in their logs goes into tables."""
    for node in farm.nodes:
        node.end()
        node.start()
        wait_up(proxy, len(farm.nodes), PATIENCE_S)


def wait_whole(farm: Farm, node: Daemon, values: Mapping[str, bytes], story: str) -> None:
    """Wait until all nodes hold everything and vote again; one that ended by itself is started, as its operator would.

    A node that is rebuilt holds everything before it votes: were another one spoilt then, two of three had forgotten.
    """

    def whole() -> bool:
        if node.ended() is not None:
            assert "Traceback" not in node.log(), node.log()
            node.launch()
            node.wait_alive()
        try:
            infos = [one.info() for one in farm.nodes]
        except (OSError, HTTPException):
            return False  # one of them begins anew
        said = {(info["keys"], info["marks"], info["spoiled"]) for info in infos}
        voting = {member["state"] for member in farm.members()} == {"up"}
        return voting and said == {(len(values), 0, False)} and alike(farm.nodes, values)

    wait_until(whole, f"all nodes to hold everything: {story}", PATIENCE_S)


def test_tables_damaged_under_a_running_node_are_found_and_renewed_by_themselves(farm: Farm) -> None:
    """Nobody starts anything again by hand: the scrub or a read finds it, and the node begins anew in its process."""
    random = Random(SEED)
    proxy = three_nodes(farm, **SCRUB_QUICKLY)
    keys = [f"key{number}" for number in range(RECORDS)]
    values = texts(random, keys, 0)
    put_all(proxy, values)
    restart_all(farm, proxy)
    node = farm.nodes[0]
    assert node.process is not None
    life, pid = node.info()["incarnation"], node.process.pid
    with reading(proxy, values, random) as reader:
        flip_some(random, files_of(node, "*.sst"), 300)
        wait_until((node.home / "data.damaged-1").exists, "the node to begin anew", PATIENCE_S)
        wait_whole(farm, node, values, "damaged while it runs")
        assert own_answers(node, values, random, node.info()["incarnation"]) == []
    assert reader.complaints == []
    assert node.info()["incarnation"] != life
    assert node.process.pid == pid
    assert [path.name for path in node.home.glob("data.damaged-*")] == ["data.damaged-1"]


def test_a_record_that_nobody_can_read_is_an_error_and_never_absent(farm: Farm) -> None:
    """A9: the same record bad on all of its owners, as if whoever wrote it had a bad memory."""
    random = Random(SEED)
    proxy = three_nodes(farm)
    values = drawn_values(random, [f"key{number}" for number in range(500)], 0)
    put_all(proxy, values)
    restart_all(farm, proxy)
    bad = "key250"
    for node in farm.nodes:
        node.kill()
        spoil(node, values[bad])
        node.start()
    wait_up(proxy, 3, PATIENCE_S)
    for query in ("", "?consistency=all", "?consistency=one"):
        for _ in range(5):
            got = get(proxy, bad, query)
            assert got.status >= 500, (query, got)
        assert next(get_all(proxy, [bad], query))[1] >= 500
    for node in farm.nodes:
        assert get(node, bad).status >= 500
        assert metric(node, "kv_node_damaged_reads_total") > 0
    complaints, _ = misread(proxy, values)
    assert complaints == [], "whatever lies beside it is shown as it was, or not at all"


def spoil(node: Daemon, value: bytes) -> None:
    """Flip a byte in the middle of a value wherever it stands in a node's tables and logs."""
    found = 0
    for path in files_of(node, "*.sst") + files_of(node, "*.log"):
        at = path.read_bytes().find(value[-60:])
        if at >= 0:
            flip(path, at + 30)
            found += 1
    assert found, "the value stands in a file as it is"
