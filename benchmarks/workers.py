"""What a second worker of the proxy brings: writes of keys that nobody has written, and of keys that both rewrite.

``python -m benchmarks.workers``. Two clusters, one behind a proxy of one process, one behind a proxy of two, under the
same load. On a machine of two cores the nodes and wrk want those cores, too.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from typing import NamedTuple

from .load import Run, Wrk, fill
from .parts import CLIENTS, VALUE_BYTES, interleaved, main, middle, p50_ms, per_s, ratios, rows_of, said, saved
from .peers import need, versions
from .pictures import draw_bars
from .servers import Processes, call, cluster, processes, wait_until

NAME = "workers"
KEYS = 10_000
WORKERS = (1, 2)
KINDS = ("fresh", "rewritten")
FRESH_KEYS = 10_000_000
"""Keys that each run of fresh ones has for itself."""


class Cell(NamedTuple):
    workers: int
    kind: str


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=("rocksdb", "memory"), default="memory", help="of the nodes (memory)")


def planned_s(options: argparse.Namespace) -> float:
    return 25 + len(WORKERS) * len(KINDS) * options.rounds * (options.seconds + 0.4)


def proxy(running: Processes, engine: str, workers: int) -> int:
    """Start a cluster behind so many workers, all of which know it; give their port."""
    (port,), _ = cluster(running, f"w{workers}", "--engine", engine, proxy_options=("--workers", str(workers)))
    # Each call is a connection of its own, which the kernel gives to any of them.
    wait_until(lambda: all(call(port, "GET", "/health/ready")[0] == 200 for _ in range(32)), "all workers to be ready")
    return port


def run(options: argparse.Namespace) -> None:
    need("wrk")
    found = versions("wrk")
    print(said(found))
    print(f"strong PUT, {options.engine}, {CLIENTS} clients; medians of {options.rounds} rounds", flush=True)
    firsts = itertools.count(FRESH_KEYS, FRESH_KEYS)
    with processes() as running:
        ports = {workers: proxy(running, options.engine, workers) for workers in WORKERS}
        for port in ports.values():
            fill(Wrk(port), KEYS, VALUE_BYTES)

        def measure(cell: Cell) -> Run:
            more = ("fresh=yes", "width=11", f"first={next(firsts)}") if cell.kind == "fresh" else ()
            return Wrk(ports[cell.workers], more=more).run("PUT", CLIENTS, options.seconds, KEYS, VALUE_BYTES)

        runs = interleaved([Cell(n, kind) for kind in KINDS for n in WORKERS], options.rounds, measure)
    print("\n| keys | workers | PUT/s | p50 | p99 | PUT/s to one worker's |\n|---|---|---|---|---|---|")
    for cell, seen in runs.items():
        print(
            f"| {cell.kind} | {cell.workers} | {middle(seen, per_s):,.0f} | {middle(seen, p50_ms):.2f} ms"
            f" | {middle(seen, lambda run: run.p99_ms):.2f} ms | {ratios(seen, runs[Cell(1, cell.kind)], per_s)} |"
        )
    bars = {f"{n} worker{'s' * (n > 1)}": [middle(runs[Cell(n, kind)], per_s) for kind in KINDS] for n in WORKERS}
    title = f"{CLIENTS} clients, {options.engine}, {VALUE_BYTES}-byte values, one machine"
    draw_bars(options.out, NAME, title, "PUT/s", bars, KINDS, list(bars))
    rows = [{"workers": cell.workers, "keys": cell.kind, "runs": rows_of(seen)} for cell, seen in runs.items()]
    saved(options.out, NAME, versions=found, engine=options.engine, seconds=options.seconds, cells=rows)


if __name__ == "__main__":
    main(sys.modules[__name__])  # type: ignore[arg-type]
