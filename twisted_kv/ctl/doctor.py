"""``kvctl doctor``: gathers the facts, and shows what is to be made of them."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import click

from .cluster import state_of, troubles_of
from .common import Ctl, asks_proxy
from .diagnosis import BAD, GOOD, NOTE, WARN, Facts, Finding, diagnosed, summary
from .plain import plain
from .ring import parts, ring_of
from .trouble import Exit

if TYPE_CHECKING:
    from rich.console import RenderableType

STYLES = {BAD: "bold red", WARN: "yellow", NOTE: "cyan", GOOD: "green"}
LOOPBACK = ("localhost", "127.", "::1")


@click.command()
@asks_proxy
@click.pass_context
def doctor(ctx: click.Context, ctl: Ctl) -> None:
    """Check what an operator would check by hand, and give the next command for whatever is found.

    Ends with 1 if anything is bad, or to be looked at.
    """
    found = diagnosed(gathered(ctl))
    ctl.showing.show({"summary": summary(found), "findings": [one._asdict() for one in found]}, lambda: drawn(found))
    if any(one.level in (BAD, WARN) for one in found):
        ctx.exit(Exit.DEGRADED)


def gathered(ctl: Ctl) -> Facts:
    """Ask the proxy for everything. A token file was read by now, and refused if others may read it."""
    cluster = state_of(ctl)
    ring = ring_of(cluster)
    place = ctl.client.place
    return Facts(
        own_version(),
        cluster,
        troubles_of(ctl),
        clock_ahead_s(ctl),
        {one.member["id"]: one.balance for one in parts(cluster, ring)},
        place.token is not None and place.scheme == "http" and not place.host.startswith(LOOPBACK),
    )


def own_version() -> str:
    try:
        return version("twisted_kv")
    except PackageNotFoundError:
        from .. import __version__

        return __version__


def clock_ahead_s(ctl: Ctl) -> float | None:
    """Say how far the proxy's clock is ahead of this machine's, by the date of an answer: to the second."""
    before_s = time.time()
    date = ctl.client.request("GET", "/health/live").headers.get("date")
    if date is None:
        return None
    middle_s = (before_s + time.time()) / 2
    return parsedate_to_datetime(date).timestamp() + 0.5 - middle_s


def drawn(found: list[Finding]) -> list[RenderableType]:
    from rich.text import Text

    lines: list[RenderableType] = []
    for one in found:
        lines.append(Text.assemble((f"{one.level:4} ", STYLES[one.level]), (f"{one.check:9}", "bold"), plain(one.says)))
        if one.then:
            lines.append(Text(f"{'':14}{plain(one.then)}", style="dim"))
    return [*lines, summary(found)]
