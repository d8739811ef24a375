"""How a cluster is shown: a line for each member, in nodetool's manner, then what is not as it should be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from .members import Cluster, Warned, letters
from .plain import plain
from .showing import address, count, lasted, plain_table, share, size, trips

if TYPE_CHECKING:
    from rich.console import RenderableType

COLORS = {"D": "red", "J": "cyan", "L": "yellow", "R": "yellow"}
FIGURES = ("w", "owned", "keys", "size", "hints", "p50/p99", "up")


def heading(cluster: Cluster) -> str:
    epoch, replicas, level = cluster["epoch"], cluster["replicas"], cluster["consistency"]
    return f"cluster {cluster['cluster_id']}  epoch {epoch}  copies {replicas}  level {level}"


def drawn(cluster: Cluster, warned: Sequence[Warned]) -> list[RenderableType]:
    """Draw a cluster so that it fits 80 columns: addresses are cut where they must be, and figures never are."""
    from rich.text import Text

    members = cluster["members"]
    zones = any(one["zone"] for one in members)
    columns = ["", "node", "address", "w", *(["zone"] if zones else []), *FIGURES[1:]]
    table = plain_table(*columns, right=FIGURES, shrinks=("address", "zone"))
    for one in members:
        two = letters(one)
        color = COLORS["D"] if two[0] == "D" else COLORS.get(two[1], "green")
        table.add_row(
            Text(two, style=color),
            one["id"],
            address(one["url"]),
            str(one["weight"]),
            *([one["zone"] or "-"] if zones else []),
            share(one["owned"]),
            count(one["keys"]),
            size(one["bytes"]),
            count(one["hints"]),
            trips(one.get("round_trip_ms")),
            lasted(one.get("uptime_s")),
        )
    found: list[RenderableType] = [heading(cluster)]
    found.append("U up, D down; N normal, J joining, L leaving, R rebuilding; p50/p99 in ms")
    found.append(table if members else "no member yet: kvctl cluster add URL")
    return [*found, *remarks(warned)]


def remarks(warned: Sequence[Warned]) -> list[RenderableType]:
    from rich.text import Text

    lines: list[RenderableType] = []
    for one in warned:
        text = Text.assemble(("! " if one.degraded else "- ", "red" if one.degraded else "yellow"), plain(one.what))
        lines += [text, Text(f"  {plain(one.then)}", style="dim")]
    return lines
