"""Whether the proxy's memory stays flat: ten minutes of reads and writes as fast as they go, beside the second minute.

``python -m benchmarks.flat``. Two wrk share the connections, one writes and one reads.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from .costs import resident_mib
from .load import Wrk, fill
from .parts import CLIENTS, VALUE_BYTES, main, said, saved
from .peers import need, versions
from .pictures import draw_curves
from .servers import cluster, processes

NAME = "flat"
KEYS = 10_000
SAMPLE_S = 1.0
PARTS = 10
"""The second of ten parts is compared with the last: in the first one a process still grows into its work."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=10.0, help="how long (10)")
    parser.add_argument("--engine", choices=("rocksdb", "memory"), default="rocksdb", help="of the nodes (rocksdb)")
    parser.add_argument("--transport", choices=("http", "link"), default="http", help="of the proxy (http)")


def planned_s(options: argparse.Namespace) -> float:
    return 15 + options.minutes * 60


def run(options: argparse.Namespace) -> None:
    need("wrk")
    found, seconds = versions("wrk"), max(options.minutes * 60, PARTS * SAMPLE_S)
    print(said(found))
    print(f"{options.engine}, {options.transport}, strong PUT and GET at once for {seconds:g} s", flush=True)
    with processes() as running, ThreadPoolExecutor(2) as pool:
        proxy_options = ("--transport", options.transport)
        (port,), nodes = cluster(running, NAME, "--engine", options.engine, proxy_options=proxy_options)
        fill(Wrk(port), KEYS, VALUE_BYTES)
        daemons = {"proxy": running.by_name[f"{NAME}-kvproxy-{port}"].pid}
        daemons |= {f"node {n + 1}": running.by_name[f"{NAME}-kvnode-{node}"].pid for n, node in enumerate(nodes)}
        began = time.monotonic()
        loads = [
            pool.submit(Wrk(port).run, method, CLIENTS // 2, seconds, KEYS, VALUE_BYTES) for method in ("PUT", "GET")
        ]
        at: list[float] = []
        sizes: dict[str, list[float]] = {name: [] for name in daemons}
        while not all(load.done() for load in loads) and time.monotonic() - began < seconds:
            at.append(time.monotonic() - began)
            for name, pid in daemons.items():
                sizes[name].append(resident_mib(pid))
            time.sleep(SAMPLE_S)
        answers = sum(load.result().requests for load in loads)
    print(f"{answers:,} answers, {answers / seconds:,.0f}/s\n")
    print("| process | second tenth | last tenth | ratio |\n|---|---|---|---|")
    ratios = {}
    for name, seen in sizes.items():
        second, last = (median(part_of(seen, number)) for number in (1, PARTS - 1))
        ratios[name] = last / second
        print(f"| {name} | {second:.1f} MiB | {last:.1f} MiB | {ratios[name]:.3f} |")
    curves = {name: (at, seen) for name, seen in sizes.items() if name in ("proxy", "node 1")}
    draw_curves(options.out, NAME, [(f"{CLIENTS} clients as fast as they go", "seconds", "resident, MiB", curves)])
    figures = {"answers": answers, "seconds": seconds, "at_s": at, "resident_mib": sizes, "ratios": ratios}
    saved(options.out, NAME, versions=found, **figures)


def part_of(samples: list[float], number: int) -> list[float]:
    return samples[number * len(samples) // PARTS : (number + 1) * len(samples) // PARTS] or samples


if __name__ == "__main__":
    main(sys.modules[__name__])  # type: ignore[arg-type]
