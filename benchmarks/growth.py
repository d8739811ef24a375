"""How cost grows: with the number of keys, with the number of nodes, and with the size of values.

``python -m benchmarks.growth``. Three replicas on rocksdb, strong. What is measured alternates with the bare httptools
server under the same load, so that each point is a ratio of its own run; and it says what CPU a request took, since all
the nodes that are added share this machine's cores. ``--keys 1000,100000,5000000`` takes some ten minutes more.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from .costs import cpu_s
from .load import Run, Wrk, fill
from .million import load
from .parts import CLIENTS, VALUE_BYTES, Spread, counts, interleaved, main, middle, per_s, ratios, rows_of, said, saved
from .peers import bare, need, versions
from .pictures import draw_curves
from .servers import NODES, Processes, cluster, processes

NAME = "growth"
METHODS = ("PUT", "GET")
SAMPLE = 10_000
"""Keys that wrk asks for, spread over all there are."""
HELD_BYTES = 64 << 20
"""What wrk's requests may take, which it holds in memory."""
ROUNDS_MAX = 3
"""There are many points, whose course is what is looked at: fewer rounds than in a comparison, and half as long."""
BULK_PER_S = 12_000.0
"""A guess, to plan with."""


class Town(NamedTuple):
    """A cluster, and the bare server beside it."""

    running: Processes
    name: str
    port: int
    nodes: tuple[int, ...]
    bare: int

    def pids(self, role: str) -> list[int]:
        ports = (self.port,) if role == "kvproxy" else self.nodes
        return [self.running.by_name[f"{self.name}-{role}-{port}"].pid for port in ports]


@dataclass(frozen=True, slots=True)
class Point:
    """One measured point of one axis."""

    axis: str
    at: int
    method: str
    ours: list[Run]
    bare: list[Run]
    proxy_us: float
    """CPU of the proxy for a request."""
    nodes_us: float
    """CPU of all nodes for a request."""

    @property
    def ratio(self) -> Spread:
        return ratios(self.ours, self.bare, per_s)


LARGE_BYTES = 1 << 18
LARGE_S = 5


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keys", type=counts, default=[1_000, 100_000], help="numbers of keys (1000,100000)")
    parser.add_argument("--nodes", type=counts, default=[3, 10, 30], help="numbers of nodes (3,10,30)")
    parser.add_argument(
        "--bytes", type=counts, default=[16, 1_024, 65_536, 1 << 20], help="sizes of values (16,1024,65536,1048576)"
    )


def planned_s(options: argparse.Namespace) -> float:
    points = len(options.keys) + len(options.nodes) + len(options.bytes)
    loading_s = max(options.keys) / BULK_PER_S
    starting_s = 1.5 * (sum(options.nodes) + 2 * NODES)
    return loading_s + starting_s + points * len(METHODS) * 2 * (rounds_of(options) + 1) * (length_s(options) + 0.4)


def rounds_of(options: argparse.Namespace) -> int:
    return int(min(options.rounds, ROUNDS_MAX))


def length_s(options: argparse.Namespace) -> int:
    return max(1, int(options.seconds) // 2)


def long_enough_s(options: argparse.Namespace, value_bytes: int) -> int:
    """Give a run's length: the first of 64 values of a megabyte may take a second until three disks have it."""
    return length_s(options) if value_bytes < LARGE_BYTES else max(LARGE_S, length_s(options))


def town(running: Processes, name: str, size: int = NODES) -> Town:
    (port,), nodes = cluster(running, name, size=size)
    return Town(running, name, port, tuple(nodes), bare(running, "bare_httptools"))


def run(options: argparse.Namespace) -> None:
    need("wrk")
    found = versions("wrk")
    print(f"{said(found)}\nstrong, rocksdb, {CLIENTS} clients; medians of {rounds_of(options)} rounds\n", flush=True)
    print("| axis | at | call | calls/s | p50 | to bare httptools | proxy's CPU | all nodes' CPU |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    points = []
    for point in measured(options):
        points.append(point)
        print(
            f"| {point.axis} | {point.at:,} | {point.method} | {middle(point.ours, per_s):,.0f}"
            f" | {middle(point.ours, lambda run: run.p50_ms):.2f} ms | {point.ratio}"
            f" | {point.proxy_us:.0f} us | {point.nodes_us:.0f} us |",
            flush=True,
        )
    draw(options, points)
    rows = [
        {
            "axis": point.axis, "at": point.at, "method": point.method, "proxy_us": point.proxy_us,
            "nodes_us": point.nodes_us, "ours": rows_of(point.ours), "bare": rows_of(point.bare),
        }
        for point in points
    ]  # fmt: skip
    saved(options.out, NAME, versions=found, seconds=length_s(options), points=rows)


def measured(options: argparse.Namespace) -> Iterator[Point]:
    with processes() as running:
        here, held = town(running, "keys"), 0
        for keys in sorted(options.keys):
            load(here.port, keys, held)
            held, asked = keys, min(SAMPLE, keys)
            yield from measure(options, here, "keys", keys, asked, VALUE_BYTES, f"stride={keys // asked}", "width=9")
    for size in options.nodes:
        with processes() as running:
            yield from measure(options, town(running, f"n{size}", size), "nodes", size, SAMPLE, VALUE_BYTES)
    with processes() as running:
        here = town(running, "bytes")
        for size in options.bytes:
            asked = max(CLIENTS, min(SAMPLE, HELD_BYTES // size))
            yield from measure(options, here, "bytes", size, asked, size)


def measure(
    options: argparse.Namespace, here: Town, axis: str, at: int, keys: int, value_bytes: int, *more: str
) -> Iterator[Point]:
    """Measure both calls at one point, against the bare server under the same load."""
    ours, theirs = Wrk(here.port, more=more), Wrk(here.bare, more=more)
    spent: dict[str, float] = dict.fromkeys(("kvproxy", "kvnode"), 0.0)

    def one_run(wrk: Wrk) -> Run:
        before = {role: cpu_s(here.pids(role)) for role in spent}
        seen = wrk.run(method, CLIENTS, long_enough_s(options, value_bytes), keys, value_bytes)
        if wrk is ours:
            for role in spent:
                spent[role] += cpu_s(here.pids(role)) - before[role]
        return seen

    for wrk in (ours, theirs):
        fill(wrk, keys, value_bytes)
    for method in METHODS:
        spent = dict.fromkeys(spent, 0.0)
        runs = interleaved((ours, theirs), rounds_of(options), one_run, tell=False)
        answers = sum(seen.requests for seen in runs[ours])
        yield Point(
            axis,
            at,
            method,
            runs[ours],
            runs[theirs],
            spent["kvproxy"] / answers * 1e6,
            spent["kvnode"] / answers * 1e6,
        )


def draw(options: argparse.Namespace, points: list[Point]) -> None:
    def curves(axis: str, figure: Any) -> dict[str, tuple[list[int], list[float]]]:
        found = {}
        for method in METHODS:
            seen = [point for point in points if point.axis == axis and point.method == method]
            found[method] = ([point.at for point in seen], [figure(point) for point in seen])
        return found

    axes = {"keys": "keys", "nodes": "nodes", "bytes": "bytes in a value"}
    panels = [
        (f"cost and {axis}", label, "calls/s to bare httptools", curves(axis, lambda point: point.ratio.median))
        for axis, label in axes.items()
    ]
    draw_curves(options.out, NAME, panels, logarithmic=True)


if __name__ == "__main__":
    main(sys.modules[__name__])  # type: ignore[arg-type]
