"""``kvctl simulate``: whole clusters from seeds, judged."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..simulation.campaign import Totals, runs
from ..simulation.faults import EVERYTHING, PROFILES
from ..simulation.judging import SEARCH, ZONES
from ..simulation.linearizability import Event
from ..simulation.picture import Band, timeline
from ..simulation.shortest import shortest
from ..simulation.story import Settings, Verdict

FAILED, INTERRUPTED = 1, 130
LAST_SHOWN = 20
"""Operations that are shown of a key where there is no shorter history that says the same."""


class Seeds(click.ParamType):
    """``17``, or ``0..1000``, the last one excluded."""

    name = "seeds"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> range:
        if isinstance(value, range):
            return value
        first, dots, last = str(value).partition("..")
        if not first.isdecimal() or (dots and not last.isdecimal()):
            self.fail(f"{value!r} is neither a seed like 17 nor a range like 0..1000", param, ctx)
        seeds = range(int(first), int(last) if dots else int(first) + 1)
        if not seeds:
            self.fail(f"{value!r} holds no seed: the last one is excluded", param, ctx)
        return seeds


@click.command()
@click.option("--seeds", type=Seeds(), default="0..100", show_default=True, help="A seed, or FIRST..LAST without LAST.")
@click.option("--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes beside one another.")
@click.option("--nodes", type=click.IntRange(1, 9), help="Nodes at the start. [default: drawn]")
@click.option("--proxies", type=click.IntRange(1, 9), help="Proxies. [default: drawn]")
@click.option("--operations", type=click.IntRange(1, 100_000), help="Clients' operations. [default: drawn]")
@click.option(
    "--profile", type=click.Choice(sorted(PROFILES)), default=EVERYTHING, show_default=True, help="The faults."
)
@click.option("--wire/--messages", default=None, help="Simulate bytes, or messages. [default: bytes in 1 of 20 seeds]")
@click.option("--pictures", type=click.Path(file_okay=False, path_type=Path), default=".", help="Where pictures go.")
def simulate(
    seeds: range,
    jobs: int,
    nodes: int | None,
    proxies: int | None,
    operations: int | None,
    profile: str,
    wire: bool | None,
    pictures: Path,
) -> None:
    """Run whole clusters from seeds, with everything going wrong, and judge what their clients saw.

    The same seed gives the same run. Ends with status 1 if anything was found, 130 if it was interrupted before that.
    """
    settings = Settings(nodes or 0, proxies or 0, operations or 0, profile, wire)
    console = Console(highlight=False)
    totals = Totals()
    began, interrupted = time.monotonic(), False
    # Both ways to be told to end leave a table of what was done.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("seeds", total=len(seeds))
        try:
            for verdict in runs(seeds, settings, jobs):
                totals.add(verdict)
                progress.advance(task)
                if verdict.trouble:
                    progress.console.print(report(verdict, settings, pictures), markup=False, soft_wrap=True)
        except KeyboardInterrupt:
            interrupted = True
    console.print(table(totals, time.monotonic() - began))
    if interrupted:
        console.print(f"interrupted after {totals.seeds:,} of {len(seeds):,} seeds")
    if totals.failed or interrupted:
        sys.exit(FAILED if totals.failed else INTERRUPTED)


def report(verdict: Verdict, settings: Settings, pictures: Path) -> str:
    """Say what is wrong with a run, in as few operations as show it, and how to repeat it."""
    options = [f"--{name} {value}" for name in ("nodes", "proxies", "operations") if (value := getattr(settings, name))]
    options += [f"--profile {settings.profile}"]
    if settings.wire is not None:
        options.append("--wire" if settings.wire else "--messages")
    again = " ".join(["kvctl simulate --seeds", str(verdict.seed), *options])
    lines = [f"seed {verdict.seed}: {verdict.trouble.splitlines()[0]}"]
    few: list[Event] = []
    if verdict.check in (ZONES, SEARCH):
        few = shortest(verdict.history)
        lines.append("the shortest history that cannot be explained:")
    else:
        lines += verdict.trouble.splitlines()[1:]
        if verdict.key:
            of_key = [event for event in verdict.history if event.key == verdict.key]
            few = sorted(of_key, key=lambda event: event.called)[-LAST_SHOWN:]
            lines.append("what clients last did with that key:")
    if few:
        picture = pictures / f"seed-{verdict.seed}.svg"
        pictures.mkdir(parents=True, exist_ok=True)
        picture.write_text(timeline(few, [Band(*band) for band in verdict.bands]), encoding="utf-8")
        lines += [*(f"    {event}" for event in few), f"drawn in {picture}"]
    return "\n".join([*lines, f"repeat it with: {again}"])


def table(totals: Totals, took_s: float) -> Table:
    """Put together what was done, and what was found."""
    shown = Table("what", "how much", title="simulated clusters", show_header=False, min_width=50)
    shown.add_row("seeds", f"{totals.seeds:,}")
    shown.add_row("of these at the wire level", f"{totals.wire:,}")
    shown.add_row("alive with a member out of reach", f"{totals.cut_off:,}")
    shown.add_row("operations checked", f"{totals.operations:,}")
    shown.add_row("of these of unknown outcome", f"{totals.unknown:,}")
    shown.add_row("operations a second", f"{totals.operations / max(took_s, 1e-9):,.0f}")
    shown.add_row("simulated hours", f"{totals.simulated_s / 3600:,.1f}")
    shown.add_row("real seconds", f"{took_s:,.1f}")
    shown.add_row("events", f"{totals.events:,}")
    for test, count in sorted(totals.judged.items()):
        shown.add_row(f"keys judged: {test}", f"{count:,}")
    shown.add_row("sites that fired", f"{len(totals.sites):,}")
    shown.add_row("pairs of site and fault in one run", f"{len(totals.pairs):,}")
    shown.add_section()
    for name, count in sorted(totals.faults.items()):
        shown.add_row(f"fault: {name.replace('_', ' ')}", f"{count:,}")
    shown.add_section()
    for name, count in sorted(totals.sites.items()):
        shown.add_row(f"site: {name}", f"{count:,}")
    shown.add_section()
    for name, count in sorted(totals.errors.items()):
        shown.add_row(f"answer: {name}", f"{count:,}")
    shown.add_section()
    shown.add_row("failed seeds", ", ".join(str(verdict.seed) for verdict in totals.failed) or "none")
    return shown
