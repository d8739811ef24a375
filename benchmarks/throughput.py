"""What replication costs, and what syncing does: clusters of three memory and of three rocksdb nodes, each behind a
proxy, against a bare klein server.

Run from the project's folder, with Debian's wrk installed: ``python -m benchmarks.throughput``. Every process runs on
this machine and shares its cores, so the ratios hold for this machine only; the rounds alternate, so that a noisy
neighbour hits all sides.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import signal
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from importlib.metadata import version
from typing import Any

from .load import Run, Wrk
from .peers import need
from .servers import CALL_TIMEOUT_S, HOST, call, cluster, free_ports, processes

KEYS = 10_000
VALUE_BYTES = 100
CONNECTIONS = 64
FILLERS = 8


@dataclass(frozen=True, slots=True)
class Side:
    """One of the servers that are compared."""

    name: str
    port: int


@dataclass(frozen=True, slots=True)
class Field:
    """Everything that is measured, up and idle: the bare server first, then ours."""

    bare: Side
    ours: tuple[Side, ...]

    @property
    def sides(self) -> tuple[Side, ...]:
        return (self.bare, *self.ours)


@contextmanager
def field() -> Iterator[Field]:
    """Bring all servers up, the clusters complete and at rest; end them whatever happens."""
    with processes() as running:
        (bare,) = free_ports(1)
        running.started("bare", (sys.executable, "-m", "benchmarks.bare_klein", str(bare), "--leash"), bare, "/")
        (memory,), _ = cluster(running, "memory", "--engine", "memory")
        (synced,), _ = cluster(running, "rocksdb", "--engine", "rocksdb", "--sync", "always")
        yield Field(Side("bare klein", bare), (Side("memory", memory), Side("rocksdb, synced", synced)))


def fill(side: Side) -> None:
    """Write every key once, so that no read misses. The keys are those of calls.lua."""

    def write(numbers: range) -> None:
        connection = HTTPConnection(HOST, side.port, timeout=CALL_TIMEOUT_S)
        try:
            for number in numbers:
                connection.request("PUT", "/PUT", json.dumps({"Key": f"k{number:05d}", "Value": "v" * VALUE_BYTES}))
                response = connection.getresponse()
                body = response.read()
                if response.status // 100 != 2:
                    raise SystemExit(f"{side.name} answered {response.status} to a write: {body!r}")
        finally:
            connection.close()

    with ThreadPoolExecutor(FILLERS) as pool:
        list(pool.map(write, (range(first, KEYS, FILLERS) for first in range(FILLERS))))


def wrk(side: Side, method: str, seconds: int) -> Run:
    return Wrk(side.port).run(method, CONNECTIONS, seconds, KEYS, VALUE_BYTES)


BATCH_LINE = re.compile(r'^kv_batch_operations_(sum|count)\{.*?lane="(\w+)".*?\} (\S+)$', re.MULTILINE)


def batches(proxy: Side) -> Counter[tuple[str, str]]:
    """Read how many operations (sum) in how many batches (count) the proxy has sent on each lane, to all nodes."""
    read: Counter[tuple[str, str]] = Counter()
    for figure, lane, value in BATCH_LINE.findall(call(proxy.port, "GET", "/metrics")[1].decode()):
        read[lane, figure] += int(float(value))
    return read


def measure(field: Field, rounds: int, seconds: int) -> tuple[dict[tuple[str, Side], list[Run]], dict[Any, Counter]]:
    """Give each call's runs on each side, and what each call made each proxy send."""
    for side in field.sides:
        fill(side)
        for method in ("PUT", "GET"):
            wrk(side, method, min(2, seconds))
    runs: dict[tuple[str, Side], list[Run]] = {(method, side): [] for method in ("PUT", "GET") for side in field.sides}
    sent: dict[Any, Counter[tuple[str, str]]] = {key: Counter() for key in runs if key[1] is not field.bare}
    for number in range(rounds):
        for method, side in runs:
            before = batches(side) if side is not field.bare else Counter()
            runs[method, side].append(wrk(side, method, seconds))
            if side is not field.bare:
                sent[method, side].update(batches(side) - before)
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    return runs, sent


def print_tables(field: Field, runs: dict[tuple[str, Side], list[Run]], sent: dict[Any, Counter]) -> None:
    print("| call | server | requests/s | p50 | p99 |\n|---|---|---|---|---|")
    for (method, side), seen in runs.items():
        per_s = statistics.median(run.per_s for run in seen)
        p50, p99 = (statistics.median(getattr(run, name) for run in seen) for name in ("p50_ms", "p99_ms"))
        print(f"| {method} | {side.name} | {per_s:,.0f} | {p50:.1f} ms | {p99:.1f} ms |")

    print("\nRatios of requests/s in the same round\n")
    print("| call | of | to | median | lowest | highest |\n|---|---|---|---|---|---|")
    memory, synced = field.ours
    for method in ("PUT", "GET"):
        for one, other in ((memory, field.bare), (synced, field.bare), (synced, memory)):
            pairs = zip(runs[method, one], runs[method, other], strict=True)
            ratios = [ours.per_s / theirs.per_s for ours, theirs in pairs]
            shown = f"{statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f}"
            print(f"| {method} | {one.name} | {other.name} | {shown} |")

    print("\n| call | server | lane | batches to nodes | operations in one, mean |\n|---|---|---|---|---|")
    for (method, side), counted in sent.items():
        for lane in sorted({lane for lane, figure in counted}):
            count, total = counted[lane, "count"], counted[lane, "sum"]
            print(f"| {method} | {side.name} | {lane} | {count:,} | {total / count:.1f} |")


def at_least_one(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("give 1 or more")
    return number


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=at_least_one, default=5, help="rounds, each of four runs (5)")
    parser.add_argument("--seconds", type=at_least_one, default=5, help="length of one run (5)")
    options = parser.parse_args()
    need("wrk")
    # Otherwise a SIGTERM would end us without the finally that ends the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))

    print(
        f"Python {platform.python_version()}, Twisted {version('twisted')}, {os.cpu_count()} cores with a load of"
        f" {os.getloadavg()[0]:.1f} before; {CONNECTIONS} connections, {KEYS:,} keys, values of {VALUE_BYTES} bytes;"
        f" medians of {options.rounds} rounds of {options.seconds} s\n"
    )
    with field() as up:
        print_tables(up, *measure(up, options.rounds, options.seconds))


if __name__ == "__main__":
    main()
