"""Bars: how far something is, how fast, and how much longer it takes. They are drawn beside the results, on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .showing import Showing, console, count, lasted, size

if TYPE_CHECKING:
    from rich.progress import Progress, Task
    from rich.text import Text


def bar(showing: Showing, unit: str, in_bytes: bool = False) -> Progress:
    """Give a bar, as a context. Where there is no terminal, or a program reads, nothing is drawn.

    :param unit: what is counted.
    :param in_bytes: whether what is counted are bytes.
    """
    from rich.progress import BarColumn, Progress, ProgressColumn, TaskProgressColumn, TextColumn
    from rich.text import Text

    written = size if in_bytes else count

    class Done(ProgressColumn):
        """So much of how much."""

        def render(self, task: Task) -> Text:
            total = f"/{written(task.total)}" if task.total is not None else ""
            return Text(f"{written(task.completed)}{total} {unit}")

    class Rate(ProgressColumn):
        """How fast: as whoever does the work says, else as it is seen from here."""

        def render(self, task: Task) -> Text:
            told: Any = task.fields.get("rate")
            rate = told if told is not None else task.finished_speed or task.speed
            return Text(f"{written(rate)}/s" if rate else "-/s")

    class Left(ProgressColumn):
        """How much longer it takes at that rate."""

        def render(self, task: Task) -> Text:
            if task.finished:
                return Text(f"in {lasted(task.finished_time)}")
            told = task.fields.get("rate")
            left = (task.remaining or 0) / told if told and task.remaining is not None else task.time_remaining
            return Text(f"{lasted(left)} left" if left is not None else "")

    err = console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        Done(),
        Rate(),
        Left(),
        console=err,
        disable=showing.is_json or not err.is_terminal,
    )
