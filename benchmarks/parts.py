"""What the parts of ``make bench`` share: their options, interleaved rounds, and the folder for their results."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol, TypeVar

from .load import Run
from .servers import HERE

OUT = HERE / "out"
VALUE_BYTES = 100
CLIENTS = 64

C = TypeVar("C")


class Part(Protocol):
    """A module that measures one thing, by itself or as a part of the whole."""

    __doc__: str | None
    NAME: str

    def add_options(self, parser: argparse.ArgumentParser) -> None: ...

    def planned_s(self, options: argparse.Namespace) -> float:
        """Say about how long it will take."""

    def run(self, options: argparse.Namespace) -> None: ...


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of the rounds, and how far they lay apart."""

    median: float
    lowest: float
    highest: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread:
        return cls(median(figures), min(figures), max(figures))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.lowest:.2f} to {self.highest:.2f})"


def interleaved(cells: Sequence[C], rounds: int, measure: Callable[[C], Run], tell: bool = True) -> dict[C, list[Run]]:
    """Measure each cell once a round, so that a noisy neighbour hits all of them; every other round runs backwards."""
    runs: dict[C, list[Run]] = {cell: [] for cell in cells}
    for number in range(rounds):
        for cell in cells if number % 2 == 0 else reversed(cells):
            runs[cell].append(measure(cell))
        if tell:
            print(f"round {number + 1} of {rounds} done", file=sys.stderr, flush=True)
    return runs


def ratios(of: Sequence[Run], to: Sequence[Run], figure: Callable[[Run], float]) -> Spread:
    """Compare two cells round by round."""
    return Spread.of([figure(one) / figure(other) for one, other in zip(of, to, strict=True)])


def middle(runs: Sequence[Run], figure: Callable[[Run], float]) -> float:
    return median(figure(run) for run in runs)


def per_s(run: Run) -> float:
    return run.per_s


def p50_ms(run: Run) -> float:
    return run.p50_ms


def tail(run: Run) -> float:
    """How many times longer the slowest hundredth waits than the half."""
    return run.p99_ms / run.p50_ms


def rows_of(runs: Sequence[Run]) -> list[dict[str, Any]]:
    return [asdict(run) for run in runs]


def saved(out: Path, name: str, **found: Any) -> None:
    """Write what was found as JSON, beside its pictures."""
    out.mkdir(parents=True, exist_ok=True)
    found["cores"], found["load_average"] = os.cpu_count(), os.getloadavg()[0]
    (out / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n")


def said(versions: dict[str, str]) -> str:
    """One line about what is measured and on what."""
    names = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{names}; {os.cpu_count()} cores with a load of {os.getloadavg()[0]:.1f} before"


def at_least_one(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("give 1 or more")
    return number


def counts(text: str) -> list[int]:
    return [at_least_one(part) for part in text.split(",")]


def shared_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=OUT, help="folder for JSON and pictures (benchmarks/out)")
    parser.add_argument("--rounds", type=at_least_one, default=5, help="interleaved rounds; medians are shown (5)")
    parser.add_argument("--seconds", type=at_least_one, default=2, help="length of one run (2)")


def stop_in_order() -> None:
    """Without this a SIGTERM would end us without the finally that ends the servers."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))


def main(part: Part) -> None:
    """Run one part by itself."""
    about = (part.__doc__ or "").split("\n\n")[0]
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{part.NAME}", description=about)
    shared_options(parser)
    part.add_options(parser)
    options = parser.parse_args()
    stop_in_order()
    print(f"{part.NAME}: about {part.planned_s(options) / 60:.1f} minutes, results in {options.out}\n", flush=True)
    began = time.monotonic()
    part.run(options)
    print(f"\n{part.NAME} took {(time.monotonic() - began) / 60:.1f} minutes", flush=True)
