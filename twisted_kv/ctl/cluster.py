"""``kvctl cluster``: the members, and every change of them."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from .client import CHANGE_TIMEOUT_S
from .common import YES, Ctl, asks_proxy
from .following import cancelled, carry_out, follow_repair, moving, tasks
from .members import letters, named, warnings
from .plans import AddedNode, NewWeight, agree, asked, drawn, full_url, refuse_loss
from .showing import address, count, lasted, plain_table, share
from .trouble import Exit, Trouble


@click.group()
def cluster() -> None:
    """Look at the members, and change them.

    What moves data shows its plan and asks. Ctrl-C leaves a change to itself, or takes it back; the same command, or
    kvctl cluster watch, goes on with it.
    """


def state_of(ctl: Ctl) -> dict[str, Any]:
    found: dict[str, Any] = ctl.client.json("GET", "/v1/cluster")
    if "members" not in found:
        raise Trouble(
            f"what answers at {ctl.client.place.url} is no kvproxy",
            "it does not describe a cluster",
            "name the proxy with --server URL, or KV_SERVER",
            Exit.UNREACHABLE,
        )
    return found


def troubles_of(ctl: Ctl) -> list[str]:
    """Give what keeps the proxy from serving every key; a status of 503 says here that there is something."""
    found: list[str] = ctl.client.request("GET", "/health/ready").problem().get("troubles", [])
    return found


@cluster.command()
@asks_proxy
@click.pass_context
def status(ctx: click.Context, ctl: Ctl) -> None:
    """Show each member in a line, and what is not as it should be. Ends with 1 if that is more than a remark."""
    from . import status as page

    found = state_of(ctl)
    warned = warnings(found, troubles_of(ctl))
    told = [{"what": one.what, "next": one.then, "degraded": one.degraded} for one in warned]
    members = [{**one, "status": letters(one)} for one in found["members"]]
    ctl.showing.show({**found, "members": members, "warnings": told}, lambda: page.drawn(found, warned))
    if any(one.degraded for one in warned):
        ctx.exit(Exit.DEGRADED)


@cluster.command()
@click.option("--add", "added", type=AddedNode(), multiple=True, help="A node to add.")
@click.option("--weight", "weights", type=NewWeight(), multiple=True, help="A member's new weight.")
@click.option("--remove", "removed", metavar="MEMBER", multiple=True, help="A member who leaves.")
@click.option("--dead", metavar="MEMBER", multiple=True, help="A member who is gone for good.")
@asks_proxy
def plan(
    ctl: Ctl, added: Any, weights: tuple[tuple[str, int], ...], removed: tuple[str, ...], dead: tuple[str, ...]
) -> None:
    """Say what changes would come to, together, without making any."""
    if not (added or weights or removed or dead):
        raise click.UsageError("name a change: --add, --weight, --remove or --dead")
    now = state_of(ctl)
    wanted = {
        "add": list(added),
        "weights": {named(now, name)["id"]: weight for name, weight in weights},
        "remove": [named(now, name)["id"] for name in removed],
        "dead": [named(now, name)["id"] for name in dead],
    }
    found = asked(ctl, wanted)
    ctl.showing.show(found, lambda: drawn(found))
    refuse_loss(found)


@cluster.command()
@click.argument("url")
@click.option("--weight", type=click.IntRange(1), default=1, show_default=True, help="How much it carries.")
@click.option("--zone", help="What it fails together with.")
@YES
@asks_proxy
def add(ctl: Ctl, url: str, weight: int, zone: str | None, yes: bool) -> None:
    """Add the node at URL, and watch until the data has moved.

    Asked for again it goes on where it was.
    """
    url = full_url(url)
    now = state_of(ctl)
    known = next((one for one in now["members"] if one["url"].rstrip("/") == url.rstrip("/")), None)
    if known is None:
        if now["members"]:
            agree(ctl, {"add": [{"url": url, "weight": weight, "zone": zone or ""}]}, yes)
    elif known["weight"] == weight and zone in (None, known["zone"]):
        ctl.showing.say(f"{url} is a member already: {known['id']}")
    else:
        raise Trouble(
            f"{url} is a member already",
            f"it is {known['id']}, of weight {known['weight']}",
            f"kvctl cluster weight {known['id']} {weight}",
            Exit.PRECONDITION,
        )
    body = {"url": url, "weight": weight} | ({"zone": zone} if zone is not None else {})
    seat = _change(ctl, "adding", "POST", "/v1/cluster/nodes", body)
    _stays(ctl, seat["id"], f"{seat['id']} at {seat['url']} is in")


@cluster.command()
@click.argument("member")
@click.option("--dead", is_flag=True, help="It is gone for good: the others copy from one another.")
@YES
@asks_proxy
def remove(ctl: Ctl, member: str, dead: bool, yes: bool) -> None:
    """Let MEMBER leave: the others copy what it holds first. Leave it running until then."""
    now = state_of(ctl)
    one = named(now, member)
    if one["state"] != "leaving":
        agree(ctl, {"dead" if dead else "remove": [one["id"]]}, yes)
        path = f"/v1/cluster/nodes/{quote(one['id'], safe='')}" + ("?dead=1" if dead else "")
        _change(ctl, "removing", "DELETE", path, None)
    else:
        ctl.showing.say(f"{one['id']} is leaving already")
        carry_out(ctl, "removing")
    if any(left["id"] == one["id"] for left in state_of(ctl)["members"]):
        raise Trouble(
            f"{one['id']} is still a member",
            "the change was taken back, or waits",
            "kvctl cluster tasks lists what is under way",
            Exit.DEGRADED,
        )
    ctl.showing.show({"id": one["id"], "removed": True}, lambda: f"{one['id']} has left; it may be stopped")


@cluster.command()
@click.argument("member")
@click.argument("weight", type=click.IntRange(1))
@YES
@asks_proxy
def weight(ctl: Ctl, member: str, weight: int, yes: bool) -> None:
    """Let MEMBER carry more or less, and watch until the data has moved."""
    one = named(state_of(ctl), member)
    if one["weight"] == weight and not moving(tasks(ctl.client)):
        ctl.showing.show({"id": one["id"], "weight": weight}, lambda: f"{one['id']} has weight {weight} already")
        return
    if one["weight"] != weight:
        agree(ctl, {"weights": {one["id"]: weight}}, yes)
    _change(ctl, "weighing", "POST", "/v1/cluster/nodes", {"url": one["url"], "weight": weight})
    _stays(ctl, one["id"], f"{one['id']} has weight {weight}", weight)


@cluster.command()
@YES
@asks_proxy
def repair(ctl: Ctl, yes: bool) -> None:
    """Compare the owners of all slots now, and make them alike. It also happens by itself."""
    now = state_of(ctl)
    marks, hints = (sum(one.get(name) or 0 for one in now["members"]) for name in ("marks", "hints"))
    ctl.showing.say(
        f"plan: compare all 65,536 slots on {len(now['members'])} members, and copy where they differ; "
        f"{marks:,} slots are marked, {hints:,} hints wait"
    )
    ctl.confirm("do it?", yes)
    name = ctl.client.json("POST", "/v1/repair")["task"]
    try:
        ended = follow_repair(ctl, name)
    except KeyboardInterrupt:
        ctl.showing.say(f"it goes on without this command; kvctl cluster cancel {name} breaks it off")
        raise
    if ended is None:
        ctl.showing.show(
            {"task": name, "state": "elsewhere"}, lambda: "another proxy repairs, or the ring is changing; it will be"
        )
        return
    if ended["state"] == "cancelled":
        raise cancelled(name)
    ctl.showing.show(ended, lambda: f"{ended['done']:,} slots compared and mended, {count(ended['rate'])} a second")


@cluster.command(name="tasks")
@asks_proxy
def tasks_(ctl: Ctl) -> None:
    """List what moves, what waits for its turn, and the last repair."""
    found = tasks(ctl.client)

    def drawn_tasks() -> Any:
        if not found:
            return "nothing is under way"
        figures = ("done", "slots/s", "left")
        table = plain_table("task", "kind", "state", *figures, right=figures, shrinks=("task",))
        for one in found:
            kind = f"{one['kind']} ({one['what']})" if one.get("what") else one["kind"]
            part = share(min(1.0, one["done"] / one["total"])) if one["total"] else "-"
            table.add_row(one["id"], kind, one["state"], part, count(one["rate"]), lasted(one["eta_s"]))
        return table

    ctl.showing.show({"tasks": found}, drawn_tasks)


@cluster.command()
@asks_proxy
def watch(ctl: Ctl) -> None:
    """Follow the changes of the ring until none is left."""
    carry_out(ctl, "moving")
    found = state_of(ctl)
    told = {"epoch": found["epoch"], "members": len(found["members"])}
    ctl.showing.show(told, lambda: f"nothing moves; epoch {found['epoch']}, {len(found['members'])} members")


@cluster.command()
@click.argument("task")
@asks_proxy
def cancel(ctl: Ctl, task: str) -> None:
    """Take TASK back: a change of the ring, or a repair. kvctl cluster tasks lists them."""
    ctl.client.checked("DELETE", f"/v1/tasks/{quote(task, safe='')}", timeout_s=CHANGE_TIMEOUT_S)
    ctl.showing.show({"task": task, "cancelled": True}, lambda: f"{task} is taken back")


def _change(ctl: Ctl, title: str, method: str, path: str, body: Any) -> Any:
    """Make a call that changes the ring, on a connection of its own, and watch."""
    other = ctl.client.another()
    return carry_out(ctl, title, lambda: other.json(method, path, body, timeout_s=CHANGE_TIMEOUT_S))


def _stays(ctl: Ctl, member: str, done: str, weight: int | None = None) -> None:
    """See that a member is what it was to become, and say so."""
    found = next((one for one in state_of(ctl)["members"] if one["id"] == member), None)
    if found is None or found["state"] == "joining" or weight not in (None, found["weight"]):
        raise Trouble(
            "the change was taken back",
            f"{member} is not what it was to become",
            "kvctl doctor looks for the reason; the same command tries again",
            Exit.DEGRADED,
        )
    ctl.showing.show({**found, "status": letters(found)}, lambda: f"{done} ({address(found['url'])})")
