"""What a proxy says of its members: finding one as an operator names it, and what is to be said about them all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from .showing import address
from .trouble import Exit, Trouble

Member: TypeAlias = Mapping[str, Any]
Cluster: TypeAlias = Mapping[str, Any]

LETTERS = {"joining": "J", "leaving": "L", "rebuilding": "R"}


class Warned(NamedTuple):
    """Something that is not as it should be, and what to do. ``degraded``: whether it is worse than a remark."""

    what: str
    then: str
    degraded: bool = True


def letters(member: Member) -> str:
    """Give a member's two letters, in nodetool's manner: Up or Down; Normal, Joining, Leaving or Rebuilding."""
    down = member["state"] == "down" or bool(member.get("error"))
    return ("D" if down else "U") + LETTERS.get(member["state"], "N")


def named(cluster: Cluster, name: str) -> Member:
    """Find a member by its id, its URL, or its address.

    :raises Trouble: if there is none, or more than one.
    """
    wanted = name.rstrip("/")
    members: Sequence[Member] = cluster["members"]
    found = [one for one in members if wanted in (one["id"], one["url"].rstrip("/"), address(one["url"]))]
    found = found or [one for one in members if len(wanted) > 3 and one["id"].startswith(wanted)]
    if len(found) != 1:
        why = "no member has that id or address" if not found else f"{len(found)} members' ids begin so"
        raise Trouble(f"{name!r} names no member", why, "kvctl cluster status lists them", Exit.NOT_FOUND)
    return found[0]


def warnings(cluster: Cluster, troubles: Sequence[str] = ()) -> list[Warned]:
    """Say what is not as it should be in a cluster, the worst first.

    :param troubles: what ``/health/ready`` names.
    """
    members: Sequence[Member] = cluster["members"]
    found = [Warned(text, "kvctl doctor tells what to do about it") for text in troubles]
    for one in members:
        where = f"{one['id']} at {address(one['url'])}"
        if letters(one)[0] == "D":
            why = f": {_short(one['error'], one['url'])}" if one.get("error") else ""
            found.append(
                Warned(
                    f"{where} is down{why}", f"start it again; if it is lost: kvctl cluster remove --dead {one['id']}"
                )
            )
        elif one["state"] == "rebuilding":
            found.append(Warned(f"{where} forgot data and is rebuilt", "kvctl cluster watch follows that"))
    waiting = sum(one["hints"] or 0 for one in members)
    if waiting:
        found.append(
            Warned(
                f"hints that wait for members: {waiting:,}",
                "they are replayed when these are back; nothing to do",
                False,
            )
        )
    staying = [one for one in members if one["state"] not in ("joining", "leaving")]
    if len(staying) < cluster["replicas"]:
        found.append(
            Warned(
                f"too few members for {cluster['replicas']} copies of each key: {len(staying)}",
                "kvctl cluster add URL adds one",
                False,
            )
        )
    change = cluster.get("change")
    if change:
        done = f", {change['done']:,} of {change['total']:,} slots" if change["total"] else ""
        found.append(Warned(f"a change is under way: {change['kind']}{done}", "kvctl cluster watch follows it", False))
    if cluster.get("pending"):
        found.append(
            Warned(f"changes that wait for their turn: {len(cluster['pending'])}", "kvctl cluster tasks", False)
        )
    if cluster.get("trouble"):
        found.append(Warned(str(cluster["trouble"]), "kvctl doctor tells what to do about it"))
    return found


def _short(error: str, url: str) -> str:
    """Leave out what is said already."""
    return error.removeprefix(f"{url} does not answer as a kvnode: ")
