"""The Redis door beside Redis with two asynchronous replicas: one command at a time, and sixteen at once.

``python -m benchmarks.redis_door``. Three replicas in memory, strong, behind a proxy whose batches go over links; the
same load on both, on the same cores.
"""

from __future__ import annotations

import argparse
import sys
from typing import NamedTuple

from .load import RedisBenchmark, Run, fill
from .parts import CLIENTS, VALUE_BYTES, interleaved, main, middle, p50_ms, per_s, ratios, rows_of, said, saved, tail
from .peers import need, redis_replicated, versions
from .pictures import draw_bars
from .servers import NODES, accepts, cluster, free_ports, processes, wait_until

NAME = "redis_door"
KEYS = 10_000
PIPELINES = (1, 16)
METHODS = {"PUT": "SET", "GET": "GET"}
OURS, THEIRS = "twisted_kv, 3 replicas, strong", "Redis, 2 replicas, async"


class Cell(NamedTuple):
    side: str
    method: str
    pipeline: int


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=("rocksdb", "memory"), default="memory", help="of the nodes (memory)")


def planned_s(options: argparse.Namespace) -> float:
    # The number of requests for a run is found by a short one before it.
    return 25 + 2 * len(METHODS) * len(PIPELINES) * options.rounds * (options.seconds + 1.5)


def run(options: argparse.Namespace) -> None:
    need("redis-server", "redis-benchmark")
    found = versions("redis-server")
    print(said(found))
    with processes() as running:
        *_, port = free_ports(NODES + 2)  # behind those that the cluster takes
        ways = ("--transport", "link", "--resp-port", str(port))
        cluster(running, "redis-door", "--engine", options.engine, proxy_options=ways)
        wait_until(lambda: accepts(port), "the Redis door to be open")
        ports = {OURS: port, THEIRS: redis_replicated(running)}
        for side in ports.values():
            fill(RedisBenchmark(side, pipeline=16), KEYS, VALUE_BYTES)
        cells = [Cell(side, method, pipeline) for pipeline in PIPELINES for method in METHODS for side in ports]

        def measure(cell: Cell) -> Run:
            generator = RedisBenchmark(ports[cell.side], pipeline=cell.pipeline)
            return generator.run(cell.method, CLIENTS, options.seconds, KEYS, VALUE_BYTES)

        runs = interleaved(cells, options.rounds, measure)
    print("\n| command | pipeline | server | commands/s | p50 | p99 | p99/p50 |\n|---|---|---|---|---|---|---|")
    for cell, seen in runs.items():
        print(
            f"| {METHODS[cell.method]} | {cell.pipeline} | {cell.side} | {middle(seen, per_s):,.0f}"
            f" | {middle(seen, p50_ms):.2f} ms | {middle(seen, lambda run: run.p99_ms):.2f} ms"
            f" | {middle(seen, tail):.1f} |"
        )
    print("\n| command | pipeline | commands/s, ours to theirs: median (lowest to highest) |\n|---|---|---|")
    for pipeline in PIPELINES:
        for method, name in METHODS.items():
            ours, theirs = (runs[Cell(side, method, pipeline)] for side in (OURS, THEIRS))
            print(f"| {name} | {pipeline} | {ratios(ours, theirs, per_s)} |")
    for pipeline in PIPELINES:
        bars = {
            side: [middle(runs[Cell(side, method, pipeline)], per_s) for method in METHODS] for side in (OURS, THEIRS)
        }
        title = f"{CLIENTS} clients, pipeline {pipeline}, {VALUE_BYTES}-byte values, one machine"
        draw_bars(options.out, f"{NAME}-{pipeline}", title, "commands/s", bars, list(METHODS.values()), [OURS])
    saved(
        options.out,
        NAME,
        versions=found,
        engine=options.engine,
        cells=[{**cell._asdict(), "runs": rows_of(seen)} for cell, seen in runs.items()],
    )


if __name__ == "__main__":
    main(sys.modules[__name__])  # type: ignore[arg-type]
