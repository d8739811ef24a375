"""The same load for everybody: three replicas of ours on each engine, level and transport; Redis with two replicas; a
three-member etcd; twemproxy over three Redis; bare twisted.web and bare httptools as ceilings.

``python -m benchmarks.compare``. Every process runs on this machine and shares its cores with the generators, so the
ratios hold for this machine only; how much of a core a generator took is shown, since some take much and some little.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import NamedTuple

from .costs import cpu_s
from .load import Generator, Own, RedisBenchmark, Run, Wrk, fill
from .parts import (
    CLIENTS,
    VALUE_BYTES,
    Spread,
    at_least_one,
    interleaved,
    main,
    middle,
    p50_ms,
    per_s,
    ratios,
    rows_of,
    said,
    saved,
    tail,
)
from .peers import bare, etcd, need, nutcracker, redis_replicated, versions
from .pictures import draw_bars
from .servers import Processes, cluster, processes

NAME = "compare"
METHODS = ("PUT", "GET")
SERVERS_S = 60.0
"""About how long it takes to bring everything up and to fill it."""
BETWEEN_RUNS_S = 0.4
"""What a run takes beside its time: a generator starts, and puts its requests together."""
IDLE_S = 5.0


@dataclass(frozen=True)
class Side:
    """One of those who are compared. Redis answers reads the same whether writes wait or not, so they are read once."""

    name: str
    generator: Generator
    ours: bool = False
    methods: tuple[str, ...] = METHODS


class Cell(NamedTuple):
    side: Side
    method: str
    clients: int


Raise = Callable[[Processes], list[Side]]


def ours(engine: str, transport: str, *levels: str) -> Raise:
    """Three replicas, whose levels are sides of their own. What names no level is strong, the default."""

    def up(running: Processes) -> list[Side]:
        options = ("--transport", transport)
        (port,), _ = cluster(running, f"{engine}-{transport}", "--engine", engine, proxy_options=options)
        return [
            Side(
                f"{engine}, {level}, {transport}",
                Wrk(port, more=() if level == "strong" else (f"query=?consistency={level}",)),
                ours=True,
            )
            for level in levels
        ]

    return up


def redis_sides(running: Processes) -> list[Side]:
    port = redis_replicated(running)
    waits = Own(port, "redis_wait", "RESP, asyncio", takes_method=False)
    return [
        Side("Redis, 2 replicas, async", RedisBenchmark(port)),
        Side("Redis, 2 replicas, WAIT 1", waits, methods=("PUT",)),
    ]


def etcd_sides(running: Processes) -> list[Side]:
    port = etcd(running)
    return [
        Side("etcd, 3 members, JSON", Wrk(port, "etcd.lua", "JSON gateway, wrk")),
        Side("etcd, 3 members, gRPC", Own(port, "etcd_grpc", f"gRPC, grpcio {version('grpcio')}")),
    ]


GROUPS: dict[str, Raise] = {
    "rocksdb-http": ours("rocksdb", "http", "strong", "one"),
    "rocksdb-link": ours("rocksdb", "link", "strong", "one"),
    "memory-http": ours("memory", "http", "strong"),
    "memory-link": ours("memory", "link", "strong"),
    "redis": redis_sides,
    "etcd": etcd_sides,
    "nutcracker": lambda running: [Side("twemproxy, 3 Redis", RedisBenchmark(nutcracker(running)))],
    "web": lambda running: [Side("bare twisted.web", Wrk(bare(running, "bare_web")))],
    "httptools": lambda running: [Side("bare httptools", Wrk(bare(running, "bare_httptools")))],
}
"""Who is brought up together, in the order of the tables."""


def groups(text: str) -> list[str]:
    for name in (names := text.split(",")):
        if name not in GROUPS:
            raise argparse.ArgumentTypeError(f"there is no {name!r}: {', '.join(GROUPS)}")
    return names


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--keys", type=at_least_one, default=10_000, help="keys that are written and read (10000)")
    parser.add_argument("--only", type=groups, default=list(GROUPS), help=f"of {', '.join(GROUPS)} (all)")


def one_client_s(seconds: int) -> int:
    """One client needs half the time: it sees little of what makes rounds differ."""
    return max(1, seconds // 2)


def planned_s(options: argparse.Namespace) -> float:
    cells = 25 * len(options.only) / len(GROUPS)  # for either number of clients, as GROUPS stand
    both = options.seconds + one_client_s(options.seconds) + 2 * BETWEEN_RUNS_S
    return SERVERS_S + cells * both * (options.rounds + 1)


def run(options: argparse.Namespace) -> None:
    need("wrk", "redis-server", "redis-benchmark", "nutcracker", "etcd", "setpriv")
    found = versions("wrk", "redis-server", "nutcracker", "etcd") | {"grpcio": version("grpcio")}
    print(said(found))
    print(
        f"{VALUE_BYTES}-byte values, {options.keys:,} keys; medians of {options.rounds} rounds of {options.seconds} s"
        f" ({one_client_s(options.seconds)} s at one client)"
    )
    if left_out := [name for name in GROUPS if name not in options.only]:
        print(f"LEFT OUT as asked for: {', '.join(left_out)}")
    with processes() as running:
        sides = [side for name in options.only for side in GROUPS[name](running)]
        idle = idle_share(running)
        print(f"all servers together take {idle:.2f} cores while nobody asks anything\n", flush=True)
        cells = [Cell(side, method, n) for n in (CLIENTS, 1) for side in sides for method in side.methods]

        def measure(cell: Cell) -> Run:
            seconds = options.seconds if cell.clients > 1 else one_client_s(options.seconds)
            return cell.side.generator.run(cell.method, cell.clients, seconds, options.keys, VALUE_BYTES)

        for side in sides:
            fill(side.generator, options.keys, VALUE_BYTES)
        print("all keys are written", file=sys.stderr, flush=True)
        for cell in cells:
            measure(cell)  # warms everybody up; it does not count
        runs = interleaved(cells, options.rounds, measure)
    show(sides, runs)
    draw(options, sides, runs)
    saved(
        options.out,
        NAME,
        versions=found,
        idle_cores=idle,
        keys=options.keys,
        value_bytes=VALUE_BYTES,
        seconds=options.seconds,
        cells=[
            {
                "side": cell.side.name,
                "door": cell.side.generator.door,
                "method": cell.method,
                "clients": cell.clients,
                "runs": rows_of(seen),
            }
            for cell, seen in runs.items()
        ],
    )


def idle_share(running: Processes) -> float:
    """Say how many cores all servers take at rest: those that wait for their turn take it from those that have it."""
    pids = [process.pid for process in running.by_name.values()]
    before, began = cpu_s(pids), time.monotonic()
    time.sleep(IDLE_S)
    return (cpu_s(pids) - before) / (time.monotonic() - began)


Runs = dict[Cell, list[Run]]


def show(sides: Sequence[Side], runs: Runs) -> None:
    for clients in (CLIENTS, 1):
        print(f"\n### {clients} client{'s' * (clients > 1)}\n")
        print("| call | server | door | calls/s | p50 | p99 | p99/p50 | generator, cores |")
        print("|---|---|---|---|---|---|---|---|")
        for method in METHODS:
            for side in sides:
                if (seen := runs.get(Cell(side, method, clients))) is not None:
                    print(
                        f"| {method} | {side.name} | {side.generator.door} | {middle(seen, per_s):,.0f}"
                        f" | {middle(seen, p50_ms):.2f} ms | {middle(seen, lambda run: run.p99_ms):.2f} ms"
                        f" | {middle(seen, tail):.1f} | {middle(seen, lambda run: run.generator):.2f} |"
                    )
    show_ratios(sides, runs, "calls/s in the same round, ours to theirs", CLIENTS, per_s)
    show_ratios(sides, runs, "p50 in the same round, ours to theirs (less is better)", 1, p50_ms)


def show_ratios(sides: Sequence[Side], runs: Runs, title: str, clients: int, figure: Callable[[Run], float]) -> None:
    theirs = [side for side in sides if not side.ours]
    print(f"\n### {title}: {clients} client{'s' * (clients > 1)}; median (lowest to highest)\n")
    print(f"| call | ours | {' | '.join(side.name for side in theirs)} |\n|---|---|{'---|' * len(theirs)}")
    for method in METHODS:
        for one in (side for side in sides if side.ours):
            row = [against(runs, Cell(one, method, clients), Cell(other, method, clients), figure) for other in theirs]
            print(f"| {method} | {one.name} | {' | '.join(str(found or '') for found in row)} |")


def against(runs: Runs, one: Cell, other: Cell, figure: Callable[[Run], float]) -> Spread | None:
    return ratios(runs[one], runs[other], figure) if other in runs else None


def draw(options: argparse.Namespace, sides: Sequence[Side], runs: Runs) -> None:
    names = [side.name for side in sides if side.ours]
    for clients, figure, label in ((CLIENTS, per_s, "calls/s"), (1, p50_ms, "p50, ms")):
        bars = {
            side.name: [
                middle(runs[cell], figure) if (cell := Cell(side, method, clients)) in runs else 0.0
                for method in METHODS
            ]
            for side in sides
        }
        title = f"{clients} client{'s' * (clients > 1)}, {VALUE_BYTES}-byte values, one machine"
        draw_bars(options.out, f"compare-{clients}", title, label, bars, METHODS, names)


if __name__ == "__main__":
    main(sys.modules[__name__])  # type: ignore[arg-type]
