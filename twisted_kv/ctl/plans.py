"""What a change would come to: asked of the proxy, shown, and agreed to before anything moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from .common import Ctl
from .showing import address, plain_table, size
from .trouble import Exit, Trouble

if TYPE_CHECKING:
    from rich.console import RenderableType

SLOTS = 65_536


def asked(ctl: Ctl, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """Have a change thought through. See ``POST /v1/cluster/plan``."""
    plan: dict[str, Any] = ctl.client.json("POST", "/v1/cluster/plan", dict(wanted))
    return plan


def agree(ctl: Ctl, wanted: Mapping[str, Any], yes: bool) -> None:
    """Show what a change comes to, and ask whether it is to be.

    :raises Trouble: if it would lose data, or nobody can be asked.
    :raises click.Abort: if it is not to be.
    """
    plan = asked(ctl, wanted)
    if not ctl.showing.is_json:
        from .showing import console

        for one in drawn(plan):
            console(stderr=True).print(one)
    refuse_loss(plan)
    ctl.confirm("do it?", yes)


def refuse_loss(plan: Mapping[str, Any]) -> None:
    if plan["slots_lost"]:
        raise Trouble(
            f"{plan['slots_lost']:,} of {SLOTS:,} slots would be lost",
            "too few of their owners would remember what they hold",
            "bring back who is down, or remove fewer at a time",
            Exit.PRECONDITION,
        )


def drawn(plan: Mapping[str, Any]) -> list[RenderableType]:
    """Draw a plan: what moves, for whom, and the weakest moment on the way."""
    figures = ("slots now", "then", "size now", "then ")
    table = plain_table("node", "address", *figures, right=figures, shrinks=("address",))
    for one in plan["nodes"]:
        table.add_row(
            one["id"],
            address(one["url"]),
            f"{one['slots_before']:,}",
            f"{one['slots_after']:,}",
            size(one["bytes_before"]),
            size(one["bytes_after"]),
        )
    lines: list[RenderableType] = [
        f"plan: {plan['kind']}: {plan['slots']:,} of {SLOTS:,} slots move, about {size(plan['bytes'])}B",
        table,
    ]
    weakest = plan["weakest"]
    survives = weakest["survives"]
    said = f"{survives} node{'s' * (survives > 1)} may fail" if survives else "no node may fail"
    lines.append(f"at the weakest moment ({weakest['when']}) {said} without keys becoming unreachable")
    if plan["clients_wait"]:
        lines.append("clients wait until it is done")
    return lines


class AddedNode(click.ParamType):
    """``URL`` or ``URL,weight=2,zone=east``."""

    name = "url[,weight=N][,zone=Z]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        url, *more = str(value).split(",")
        found: dict[str, Any] = {"url": full_url(url)}
        for one in more:
            name, _, given = one.partition("=")
            if name == "weight" and given.isdecimal():
                found["weight"] = int(given)
            elif name == "zone" and given:
                found["zone"] = given
            else:
                self.fail(f"{one!r} is neither weight=N nor zone=NAME", param, ctx)
        return found


class NewWeight(click.ParamType):
    """``MEMBER=WEIGHT``."""

    name = "member=weight"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        if isinstance(value, tuple):
            return value
        member, equals, weight = str(value).rpartition("=")
        if not equals or not weight.isdecimal() or not int(weight):
            self.fail(f"{value!r} is no MEMBER=WEIGHT, as n-1a2b3c4d=2", param, ctx)
        return member, int(weight)


def full_url(typed: str) -> str:
    """Take a node's address for its URL, too.

    :raises click.UsageError: for a mere port, which would pass for an address.
    """
    if typed.isdecimal():
        raise click.UsageError(f"{typed} is no URL: a node at that port of this machine is http://localhost:{typed}")
    return typed if "://" in typed else f"http://{typed}"
