"""``kvctl explain``: all that is known about a key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .common import Ctl, asks_proxy
from .data import B64, key_bytes, key_path, query
from .showing import address, lasted, plain_table, size, trips
from .trouble import Exit

if TYPE_CHECKING:
    from rich.console import RenderableType

ANSWERS = {
    "value": "the value of version {version}",
    "deleted": "404: it was deleted in version {version}",
    "expired": "404: version {version} has expired",
    "absent": "404: it was never written, or what was left of it was purged",
    "unreachable": "503: too few owners answer",
}


@click.command()
@click.argument("key")
@B64
@asks_proxy
@click.pass_context
def explain(ctx: click.Context, ctl: Ctl, key: str, b64: bool) -> None:
    """Tell all that is known about KEY: its owners, what each of them holds, and what a read would make of that.

    Ends with 1 where the owners do not hold the same, or do not all answer.
    """
    found = ctl.client.json("GET", f"/v1/explain/{key_path(key_bytes(key, b64))}{query(ctl)}")
    ctl.showing.show(found, lambda: drawn(found))
    if len({one.get("accepted") for one in found["owners"]}) > 1 or any("error" in one for one in found["owners"]):
        ctx.exit(Exit.DEGRADED)


def drawn(found: dict[str, Any]) -> list[RenderableType]:
    heading = f"hash {found['hash']:#010x}  position {found['position']:#010x}  slot {found['slot']}"
    table = plain_table(
        "",
        "node",
        "address",
        "state",
        "holds",
        "size",
        "age",
        "expires",
        "synced",
        "p50/p99",
        right=("", "size", "age"),
        shrinks=("address",),
    )
    for place, one in enumerate(found["owners"], 1):
        holds, synced = one.get("holds", "no answer"), one.get("synced")
        table.add_row(
            str(place),
            one["id"],
            address(one["url"]),
            one["state"],
            holds,
            size(one.get("bytes")),
            lasted(one["age_ms"] / 1000) if "age_ms" in one else "-",
            _expiry(one),
            "-" if synced is None else "yes" if synced else "no",
            trips(one.get("round_trip_ms")),
        )
    lines: list[RenderableType] = [f"{heading}  epoch {found['epoch']}", table]
    lines += [f"{one['id']}: {_held(one)}" for one in found["owners"]]
    for hint in found.get("hints", ()):
        lines.append(f"in flight: {hint['kept_by']} keeps a hint of it for {hint['for']}")
    verdict = found.get("verdict")
    if verdict:
        answers = [verdict, verdict.get("or")]
        told = " or ".join(ANSWERS[one["answer"]].format(version=one["version"]) for one in answers if one)
        lines.append(f"a read answers: {told}")
        lines.append(f"because: {verdict['why']}")
    purge = found.get("purge")
    if purge:
        lines += [f"not purged yet: {block}" for block in purge["blocked_by"]]
        lines += [] if purge["blocked_by"] else ["nothing keeps its tombstone: the next round of repair purges it"]
    return lines


def _held(one: dict[str, Any]) -> str:
    if "error" in one:
        return str(one["error"])
    same = one["accepted"] == one.get("version")
    accepted = "" if same or one["accepted"] is None else f", proposed again as {one['accepted']}"
    promised = f", promised {one['promised']}" if one["promised"] not in (None, one["accepted"]) else ""
    return f"{'version ' + one['version'] if 'version' in one else 'nothing accepted'}{accepted}{promised}"


def _expiry(one: dict[str, Any]) -> str:
    if not one.get("expires_ms"):
        return "-"
    if one.get("expired"):
        return "expired"
    import time

    return f"in {lasted(one['expires_ms'] / 1000 - time.time())}"
