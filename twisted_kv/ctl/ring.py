"""``kvctl ring``: who owns what, how evenly, and a picture of it."""

from __future__ import annotations

from collections import Counter
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import click

from .cluster import state_of
from .common import Ctl, asks_proxy
from .data import B64, key_bytes
from .members import Cluster, letters
from .plain import plain
from .showing import address, plain_table, share

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..ring import Ring

ROWS, CELLS = 8, 64
CELL_SLOTS = 65_536 // (ROWS * CELLS)
"""The picture's: each of its 512 cells is 128 slots."""
COLORS = (
    "green",
    "blue",
    "magenta",
    "cyan",
    "yellow",
    "red",
    "bright_green",
    "bright_blue",
    "bright_magenta",
    "bright_cyan",
    "bright_yellow",
    "bright_red",
)
SIGNS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


class Part(NamedTuple):
    """What a member has of the ring: tokens, its share of all copies, and of those slots of which it is the first."""

    member: Any
    tokens: int
    owned: float
    fair: float
    first: float

    @property
    def balance(self) -> float:
        """How many times its fair share, by weight, it owns."""
        return self.owned / self.fair if self.fair else 0.0


@click.group()
def ring() -> None:
    """Look at the ring: who owns what."""


def ring_of(cluster: Cluster) -> Ring:
    """Work out the ring that a proxy has, from what it says of its members; one that says less has the usual tokens."""
    from ..names import NodeId
    from ..ring import Member, Ring

    seats = [one for one in cluster["members"] if one["state"] != "joining"]
    members = [Member(NodeId(one["id"]), one["weight"], one["zone"]) for one in seats]
    return Ring(members, cluster["replicas"], cluster.get("vnodes", 256))


def parts(cluster: Cluster, found: Ring) -> list[Part]:
    """Say what each member has of the ring, in the order in which the proxy names them."""
    from ..ring import SLOTS

    firsts: Counter[str] = Counter()
    for slots, owners in found.spans:
        if owners:
            firsts[owners[0]] += len(slots)
    shares = found.owned_share() if found.members else {}
    weights = sum(member.weight for member in found.members)
    by_id = {member.id: member for member in found.members}
    return [
        Part(
            one,
            by_id[one["id"]].weight * found.vnodes,
            shares[one["id"]],
            by_id[one["id"]].weight / weights,
            firsts[one["id"]] / SLOTS,
        )
        for one in cluster["members"]
        if one["id"] in by_id
    ]


@ring.command()
@asks_proxy
def show(ctl: Ctl) -> None:
    """Show each member's tokens and shares, and how even they are: 1.00 is exactly its part by weight."""
    now = state_of(ctl)
    found = parts(now, ring_of(now))
    told = [
        {
            "id": one.member["id"],
            "url": one.member["url"],
            "weight": one.member["weight"],
            "zone": one.member["zone"],
            "tokens": one.tokens,
            "owned": round(one.owned, 6),
            "first": round(one.first, 6),
            "balance": round(one.balance, 4),
        }
        for one in found
    ]

    def drawn() -> list[RenderableType]:
        figures = ("w", "tokens", "owned", "first", "balance")
        table = plain_table("", "node", "address", "zone", *figures, right=figures, shrinks=("address", "zone"))
        for one in found:
            member = one.member
            table.add_row(
                letters(member),
                member["id"],
                address(member["url"]),
                member["zone"] or "-",
                str(member["weight"]),
                f"{one.tokens:,}",
                share(one.owned),
                share(one.first),
                f"{one.balance:.2f}",
            )
        return [f"epoch {now['epoch']}, {now['replicas']} copies, 65,536 slots", table]

    ctl.showing.show({"epoch": now["epoch"], "replicas": now["replicas"], "members": told}, drawn)


@ring.command()
@click.argument("key")
@B64
@asks_proxy
def locate(ctl: Ctl, key: str, b64: bool) -> None:
    """Say where KEY lives: hash, position, slot, and its owners in the order in which they are asked."""
    found = ctl.client.json("GET", f"/v1/ring/locate?key={quote(key_bytes(key, b64), safe='')}")

    def drawn() -> list[RenderableType]:
        table = plain_table("owner", "node", "address", "state", right=("owner",), shrinks=("address",))
        for place, one in enumerate(found["owners"], 1):
            table.add_row(str(place), one["id"], one["url"], one["state"])
        return [f"hash {found['hash']:#010x}  position {found['position']:#010x}  slot {found['slot']}", table]

    ctl.showing.show(found, drawn)


@ring.command()
@click.option("--svg", type=click.Path(dir_okay=False, writable=True), help="Draw it into this file, too.")
@asks_proxy
def plot(ctl: Ctl, svg: str | None) -> None:
    """Draw the ring: each cell is 128 slots, in the colour of the member that is first in most of them."""
    now = state_of(ctl)
    found = ring_of(now)
    cells = firsts_by_cell(found)

    def drawn() -> list[RenderableType]:
        return picture(now, found, cells)

    if svg is not None:
        from rich.console import Console

        with open("/dev/null", "w", encoding="utf-8") as nowhere:
            paper = Console(record=True, width=80, force_terminal=True, file=nowhere)
            for one in drawn():
                paper.print(one)
            paper.save_svg(svg, title="kvctl ring plot")
    ctl.showing.show({"epoch": now["epoch"], "cells": cells}, drawn)


def firsts_by_cell(found: Ring) -> list[str | None]:
    """Name who is first in most slots of each cell, around the ring; None where nobody is."""
    from ..ring import SLOTS

    cells: list[str | None] = []
    for start in range(0, SLOTS, CELL_SLOTS):
        counted = Counter(owners[0] for owners in found.table[start : start + CELL_SLOTS] if owners)
        cells.append(counted.most_common(1)[0][0] if counted else None)
    return cells


def picture(cluster: Cluster, found: Ring, cells: list[str | None]) -> list[RenderableType]:
    from rich.text import Text

    names = [one["id"] for one in cluster["members"]]
    place = {name: number for number, name in enumerate(names)}
    lines: list[RenderableType] = []
    for row in range(ROWS):
        text = Text(f"{row * CELLS * CELL_SLOTS:6,} ")
        for name, alike in groupby(cells[row * CELLS : (row + 1) * CELLS]):
            number = place.get(name or "", -1)
            sign = SIGNS[number % len(SIGNS)] if number >= 0 else "."
            text.append(
                sign * len(list(alike)), style=f"reverse {COLORS[number % len(COLORS)]}" if number >= 0 else "dim"
            )
        lines.append(text)
    for one in parts(cluster, found):
        number = place[one.member["id"]]
        legend = Text(f"{SIGNS[number % len(SIGNS)]} ", style=COLORS[number % len(COLORS)])
        legend.append(
            f"{plain(one.member['id'])} {plain(address(one.member['url']))[:24]:24} owns {share(one.owned):>6} ",
            style="default",
        )
        legend.append("█" * max(1, round(one.owned * 30)), style=COLORS[number % len(COLORS)])
        lines.append(legend)
    return lines
