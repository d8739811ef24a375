"""Overload: 5 and 20 times what a cluster can carry, from an open-loop generator that shares its cores.

``python -m benchmarks.overload``. First the rate climbs until answers stop following: the most of them is the peak, and
all else is compared with it. Then come five times the peak, calm, twenty times the peak, and calm again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from .load import SPARE_S, Wrk, fill
from .parts import CLIENTS, VALUE_BYTES, at_least_one, main, said, saved
from .peers import need, versions
from .pictures import draw_curves
from .servers import HERE, cluster, processes

NAME = "overload"
KEYS = 10_000
CLIMB = (0.4, 0.6, 0.8, 1.0, 1.2, 1.5)
"""Rates to begin with, of what wrk got in a closed loop. The generator takes more of the cores than wrk does."""
CLIMB_S = 3
CALM = 0.7
"""The rate between and after, of the peak, or of what answers followed if that is less."""
CALM_S = 10
FACTORS = (5, 20)
FOLLOWS = 0.95
"""From which share of what is offered on answers follow it."""
BACK_WINDOWS = 4
"""For how many windows in a row they have to until it counts as recovered: one second."""


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--engine", choices=("rocksdb", "memory"), default="rocksdb", help="of the nodes (rocksdb)")
    parser.add_argument("--transport", choices=("http", "link"), default="http", help="of the proxy (http)")
    parser.add_argument("--method", choices=("PUT", "GET"), default="PUT", help="the call (PUT)")
    parser.add_argument("--connections", type=at_least_one, default=12_000, help="of the generator (12000)")
    parser.add_argument("--storm", type=at_least_one, default=15, help="seconds of each overload (15)")


def lasting(seconds: int, options: argparse.Namespace) -> int:
    """Nothing lasts longer than the storm itself, which is short where only the way through is tried."""
    return int(min(seconds, options.storm))


def planned_s(options: argparse.Namespace) -> float:
    climb_s, calm_s = lasting(CLIMB_S, options), lasting(CALM_S, options)
    seconds = len(CLIMB) * climb_s + (len(FACTORS) + 1) * calm_s + len(FACTORS) * options.storm
    return 30 + options.rounds * options.seconds + seconds


def run(options: argparse.Namespace) -> None:
    need("wrk")
    found = versions("wrk")
    print(f"{said(found)}\n{options.engine}, {options.transport}, strong {options.method}", flush=True)
    with processes() as running:
        proxy_options = ("--transport", options.transport)
        (port,), _ = cluster(running, "overload", "--engine", options.engine, proxy_options=proxy_options)
        wrk = Wrk(port)
        fill(wrk, KEYS, VALUE_BYTES)
        closed = max(
            wrk.run(options.method, CLIENTS, options.seconds, KEYS, VALUE_BYTES).per_s for _ in range(options.rounds)
        )
        print(f"wrk, {CLIENTS} clients in a closed loop: {closed:,.0f} answers/s", flush=True)
        climb = offered(port, options, [(closed * share, lasting(CLIMB_S, options)) for share in CLIMB])
        peak, steady = best(climb)
        print(f"the peak in an open loop: {peak:,.0f} answers/s")
        print(
            f"answers followed up to {steady['rate']:,.0f} requests/s: p99 {steady['accepted_p99_ms']} ms\n", flush=True
        )
        calm = (min(peak, steady["rate"]) * CALM, lasting(CALM_S, options))
        plan = [calm]
        for factor in FACTORS:
            plan += [(peak * factor, options.storm), calm]
        storm = offered(port, options, plan)
    show(climb, storm, peak, steady["accepted_p99_ms"])
    backs = {factor: back_after(storm, 2 * number + 2) for number, factor in enumerate(FACTORS)}
    for factor, back_s in backs.items():
        after = f"after {back_s:g} s" if back_s is not None else f"not within {lasting(CALM_S, options)} s"
        print(f"when {factor} times the peak end, {FOLLOWS:.0%} of what is offered are answered again {after}")
    at = [number * storm["window_s"] for number in range(len(storm["course_per_s"]["accepted"]))]
    courses = {kind: (at, storm["course_per_s"][kind]) for kind in ("accepted", "refused", "failed")}
    curves = {kind: course for kind, course in courses.items() if any(course[1])}
    title = f"{FACTORS[0]} and {FACTORS[1]} times what it can carry"
    draw_curves(options.out, NAME, [(title, "seconds", "answers/s", curves)])
    asked = {name: getattr(options, name) for name in ("engine", "transport", "method", "connections")}
    figures = {"closed_per_s": closed, "peak_per_s": peak, "back_s": backs, "climb": climb, "storm": storm}
    saved(options.out, NAME, versions=found, **asked, **figures)


def offered(port: int, options: argparse.Namespace, plan: list[tuple[float, int]]) -> Any:
    """Let a generator go through a plan of rates and seconds, and give what it saw."""
    stages = ",".join(f"{rate:.1f}:{seconds}" for rate, seconds in plan)
    command = [sys.executable, "-m", "benchmarks.open_loop", str(port), options.method, str(KEYS), str(VALUE_BYTES)]
    command += [str(options.connections), stages]
    patience_s = sum(seconds for _, seconds in plan) + 2 * SPARE_S
    done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, timeout=patience_s, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with status {done.returncode}\n{done.stdout}{done.stderr}")
    return json.loads(done.stdout)


def windows_of(seen: Any, number: int) -> tuple[int, int]:
    """Give the first window of a stage, and the first that is not its own any more."""
    lengths = [round(stage["seconds"] / seen["window_s"]) for stage in seen["stages"]]
    return sum(lengths[:number]), sum(lengths[: number + 1])


def goodput(seen: Any, number: int) -> float:
    """Give the accepted answers a second that came during a stage, whenever they were asked for."""
    first, end = windows_of(seen, number)
    return float(sum(seen["course_per_s"]["accepted"][first:end]) / (end - first))


def best(climb: Any) -> tuple[float, Any]:
    """Give the most answers a second there were, and the last stage whose answers followed what was offered."""
    got = [goodput(climb, number) for number in range(len(climb["stages"]))]
    steady = climb["stages"][0]
    for stage, answers in zip(climb["stages"], got, strict=True):
        if answers < FOLLOWS * stage["rate"]:
            break
        steady = stage
    return max(got), steady


def show(climb: Any, storm: Any, peak: float, p99_ms: float) -> None:
    names = ["offered/s", "sent", "no connection free", "skipped", "goodput/s", "to the peak"]
    names += ["p50, p99 of the accepted", "p99 to the steady one", "refused", "p50, p99 of refusals", "failed", "lost"]
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for seen in (climb, storm):
        for number, stage in enumerate(seen["stages"]):
            total, good = stage["rate"] * stage["seconds"], goodput(seen, number)
            row = [f"{stage['rate']:,.0f}", *(f"{stage[name] / total:.0%}" for name in ("sent", "unsent", "skipped"))]
            row += [f"{good:,.0f}", f"{good / peak:.2f}", times(stage, "accepted")]
            row += [f"{(stage['accepted_p99_ms'] or 0) / p99_ms:.1f}", f"{stage['refused']:,}", times(stage, "refused")]
            row += [f"{stage['failed']:,}", f"{stage['lost']:,}"]
            print(f"| {' | '.join(row)} |")


def times(stage: Any, kind: str) -> str:
    return f"{stage[f'{kind}_p50_ms']}, {stage[f'{kind}_p99_ms']} ms" if stage[kind] else ""


def back_after(storm: Any, number: int) -> float | None:
    """Say how long into a calm stage it took until what was asked was answered promptly, for a second; None if never.

    Answers to what was asked in the storm do not count.
    """
    prompt, (first, end) = storm["course_per_s"]["prompt"], windows_of(storm, number)
    least = FOLLOWS * storm["stages"][number]["rate"]
    for at in range(first, end - BACK_WINDOWS + 1):
        following = prompt[at : at + BACK_WINDOWS]
        if sum(following) / BACK_WINDOWS >= least:
            return float((at - first) * storm["window_s"])
    return None


if __name__ == "__main__":
    main(sys.modules[__name__])  # type: ignore[arg-type]
