"""What one call from process to process costs: grpc.aio, treq on Twisted's agent and on ours, and the link.

``python -m benchmarks.grpc_call``. Each calls a server process of its own that answers with the 1 KiB it was sent, one
call at a time and 64 at a time. It says what the wire under the proxy and its nodes was chosen for.
"""

from __future__ import annotations

import argparse
import sys
from importlib.metadata import version
from typing import NamedTuple

from .callers import KINDS
from .load import Own, Run
from .parts import CLIENTS, interleaved, main, middle, p50_ms, per_s, ratios, rows_of, said, saved
from .peers import versions
from .pictures import draw_bars
from .servers import Processes, accepts, free_ports, processes

NAME = "grpc_call"
BODY_BYTES = 1024
ROUNDS_MAX = 3
"""The sides are far apart, and nothing but two processes takes part."""
TO = "grpc"
"""Whom the others are compared with."""


class Cell(NamedTuple):
    kind: str
    port: int
    callers: int


def add_options(parser: argparse.ArgumentParser) -> None:
    pass


def rounds_of(options: argparse.Namespace) -> int:
    return int(min(options.rounds, ROUNDS_MAX))


def planned_s(options: argparse.Namespace) -> float:
    return 5 + len(KINDS) * 2 * (rounds_of(options) + 1) * (options.seconds + 0.7)


def echo(running: Processes, kind: str) -> int:
    (port,) = free_ports(1)
    serves = "grpc" if kind == "grpc" else "http"
    command = (sys.executable, "-m", "benchmarks.echo", str(port), serves, "--leash")
    running.started_when(f"echo-{kind}", command, lambda: accepts(port))
    return port


def run(options: argparse.Namespace) -> None:
    found = versions() | {"grpcio": version("grpcio")}
    print(f"{said(found)}\n{BODY_BYTES} bytes there and back; medians of {rounds_of(options)} rounds", flush=True)
    with processes() as running:
        ports = {kind: echo(running, kind) for kind in KINDS}
        cells = [Cell(kind, port, callers) for callers in (1, CLIENTS) for kind, port in ports.items()]

        def measure(cell: Cell) -> Run:
            return Own(cell.port, "callers", KINDS[cell.kind]).run(
                cell.kind, cell.callers, options.seconds, 0, BODY_BYTES
            )

        for cell in cells:
            measure(cell)
        runs = interleaved(cells, rounds_of(options), measure)
    print(f"\n| callers | by | calls/s | p50 | p99 | caller, cores | calls/s to {KINDS[TO]}'s |\n|{'---|' * 7}")
    for cell, seen in runs.items():
        ratio = ratios(seen, runs[Cell(TO, ports[TO], cell.callers)], per_s)
        p99_ms, cores = middle(seen, lambda run: run.p99_ms), middle(seen, lambda run: run.generator)
        print(
            f"| {cell.callers} | {KINDS[cell.kind]} | {middle(seen, per_s):,.0f} | {middle(seen, p50_ms):.3f} ms"
            f" | {p99_ms:.3f} ms | {cores:.2f} | {ratio} |"
        )
    bars = {
        name: [middle(runs[Cell(kind, ports[kind], callers)], per_s) for callers in (1, CLIENTS)]
        for kind, name in KINDS.items()
    }
    ours = [name for kind, name in KINDS.items() if kind != TO]
    series = ("1 caller:", f"{CLIENTS} callers:")
    draw_bars(options.out, NAME, f"{BODY_BYTES} bytes there and back, one machine", "calls/s", bars, series, ours)
    rows = [{"kind": cell.kind, "callers": cell.callers, "runs": rows_of(seen)} for cell, seen in runs.items()]
    saved(options.out, NAME, versions=found, body_bytes=BODY_BYTES, seconds=options.seconds, cells=rows)


if __name__ == "__main__":
    main(sys.modules[__name__])  # type: ignore[arg-type]
