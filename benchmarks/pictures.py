"""Draws what was measured, each picture as PNG and as SVG. Nothing is shown: there may be no screen."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

try:
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter
except ImportError:
    sys.exit("matplotlib is missing, which draws the pictures: pip install -e '.[bench]'")

# The same figures give the same file; and an SVG's text stays text.
matplotlib.rcParams.update({"svg.hashsalt": "twisted_kv", "svg.fonttype": "none", "font.size": 9})

OURS, THEIRS = "#1f6f8b", "#b8b8b8"
PALE = {OURS: "#8fc1d0", THEIRS: "#dddddd"}
LINES = ("#1f6f8b", "#d1603d", "#7a7a7a", "#4f9d69")

Bars = Mapping[str, Sequence[float]]
"""A row of bars for each name, one bar for each series."""

Curves = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""A line for each name: where its points lie, and how high."""


def _thousands(value: float, _: object) -> str:
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:g}"


def _save(figure: Figure, out: Path, name: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    figure.savefig(out / f"{name}.png", dpi=150)
    figure.savefig(out / f"{name}.svg", metadata={"Date": None})


def draw_bars(
    out: Path, name: str, title: str, label: str, bars: Bars, series: Sequence[str], ours: Sequence[str]
) -> None:
    """Draw horizontal bars, the first name on top; those of ``ours`` stand out."""
    figure = Figure(figsize=(8, 0.9 + 0.42 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    thickness = 0.8 / len(series)
    longest = max(max(row) for row in bars.values())
    for row, (label_of_row, values) in enumerate(bars.items()):
        strong = OURS if label_of_row in ours else THEIRS
        for number, value in enumerate(values):
            if value <= 0:
                continue  # it cannot do that
            at = row + (number - (len(series) - 1) / 2) * thickness
            axes.barh(at, value, thickness, color=(strong, PALE[strong])[number % 2])
            axes.text(value + longest * 0.01, at, f"{series[number]} {_thousands(value, 0)}", va="center", fontsize=7)
    axes.set_yticks(range(len(bars)), list(bars))
    axes.invert_yaxis()
    axes.set_xlim(0, longest * 1.2)
    axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    axes.set_xlabel(label)
    axes.set_title(title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, out, name)


def draw_curves(
    out: Path, name: str, panels: Sequence[tuple[str, str, str, Curves]], logarithmic: bool = False
) -> None:
    """Draw panels side by side, each with a title, the labels of its two axes, and its lines."""
    figure = Figure(figsize=(4.2 * len(panels), 3.2), layout="constrained")
    for number, (title, across, up, curves) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        for colour, (line, (at, height)) in zip(LINES, curves.items(), strict=False):
            axes.plot(at, height, color=colour, label=line, marker="o" if len(at) < 30 else None, markersize=4)
        if logarithmic:
            axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(FuncFormatter(_thousands))
        axes.set_title(title, loc="left")
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    _save(figure, out, name)
