"""``kvctl backup``: have backups made, look at them, check their files, and restore one into an empty cluster."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from .common import YES, Ctl, asks_proxy
from .following import LOOK_S, tasks
from .progress import bar
from .showing import count, plain_table, size
from .trouble import Exit, Trouble

FOLDERS = click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False))


@click.group()
def backup() -> None:
    """Make, list, verify, restore and remove backups.

    A backup is a folder on each node, under its data folder in backups/NAME. To keep it elsewhere copy these folders,
    one of each node; verify and restore read them wherever they lie.
    """


@backup.command()
@click.argument("name", default="")
@asks_proxy
def create(ctl: Ctl, name: str) -> int:
    """Have every node keep a backup; NAME is the time of day if it is left out.

    It holds all writes that were acknowledged before, and none of those that came after the end.
    """
    began = ctl.client.json("POST", "/v1/backups", {"name": name})
    with bar(ctl.showing, "", in_bytes=True) as progress:
        shown = progress.add_task("backup", total=None)
        while (task := _task(ctl, began["task"])) and task["state"] == "running":
            progress.update(shown, total=task["total"] or None, completed=task["done"], rate=task["rate"] or None)
            time.sleep(LOOK_S)
        if task:
            progress.update(shown, total=task["total"] or 1, completed=task["done"] or 1)
    if task and task["state"] != "done":
        raise Trouble(
            f"the backup {began['name']} could not be made",
            task.get("trouble") or "too few members have kept it",
            f"mend what it says, then kvctl backup remove {began['name']}, and create it once more",
            Exit.QUORUM,
        )
    # A member that was away until now may keep an older one of that name.
    made = max(
        (one for one in _known(ctl) if one["name"] == began["name"]), key=lambda one: one["made_ms"], default=None
    )
    if made is None:
        raise Trouble(
            f"nobody keeps the backup {began['name']}", "the nodes do not answer", "kvctl cluster status", Exit.QUORUM
        )
    ctl.showing.show(made, lambda: [_folders(made), f"kept: {made['name']}", *_warnings(made)])
    return Exit.OK if not made["missing"] else Exit.DEGRADED


@backup.command(name="list")
@asks_proxy
def list_(ctl: Ctl) -> None:
    """List the backups that the nodes keep."""
    found = _known(ctl)

    def drawn() -> Any:
        if not found:
            return "no backups; kvctl backup create makes one"
        table = plain_table("name", "made", "nodes", "size", "whole", right=("nodes", "size"))
        for one in found:
            made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one["made_ms"] / 1000))
            whole = "yes" if one["whole"] else "no"
            table.add_row(one["name"], made, str(len(one["nodes"])), f"{size(one['bytes'])}B", whole)
        return table

    ctl.showing.show({"backups": found}, drawn)


@backup.command()
@click.argument("name")
@YES
@asks_proxy
def remove(ctl: Ctl, name: str, yes: bool) -> None:
    """Have the nodes delete the backup NAME."""
    ctl.confirm(f"delete the backup {name} on all nodes?", yes)
    told = ctl.client.json("DELETE", f"/v1/backups/{quote(name, safe='')}")
    ctl.showing.show(told, lambda: f"deleted on {len(told['removed_by'])} nodes")


@backup.command()
@FOLDERS
@asks_proxy
def verify(ctl: Ctl, folders: tuple[str, ...]) -> None:
    """Check the folders of a backup, and whether they are enough.

    Every file is compared with its checksum, and every record with its own. No cluster is asked.
    """
    from .restoring import Opened, found_in

    places = found_in(folders)
    _check(ctl, places)
    with Opened(places) as opened:
        opened.must_suffice()
        with bar(ctl.showing, "records") as progress:
            shown = progress.add_task("read", total=opened.keys)
            records = 0
            for records, _ in enumerate(opened.records(), 1):
                if records % 1000 == 0:
                    progress.update(shown, completed=records)
            progress.update(shown, total=records or 1, completed=records or 1)
        told = {"name": opened.name, "nodes": len(places), "records": records, "cluster_id": opened.view.cluster_id}
    ctl.showing.show(told, lambda: f"{told['name']}: whole, {records:,} records in {len(places)} folders")


@backup.command()
@FOLDERS
@click.option("--into-existing", is_flag=True, help="Let the cluster hold something: the backup's keys are replaced.")
@click.option("--no-check", is_flag=True, help="Do not compare the files with their checksums first.")
@click.option("--fresh", is_flag=True, help="Begin with the first record, whatever was done already.")
@YES
@asks_proxy
def restore(ctl: Ctl, folders: tuple[str, ...], into_existing: bool, no_check: bool, fresh: bool, yes: bool) -> None:
    """Write what the folders of a backup hold into a cluster, of any size.

    It is another cluster with an id of its own: etags begin anew. Interrupted, the same command goes on where it was.
    """
    from .restoring import Opened, Restoring, bookmark_of, found_in

    now = ctl.client.json("GET", "/v1/cluster")
    if not now["members"]:
        raise Trouble(
            "the cluster has no nodes", "there is nothing to restore into", "kvctl cluster add URL", Exit.USAGE
        )
    places = found_in(folders)
    if not no_check:
        _check(ctl, places)
    with Opened(places) as opened:
        opened.must_suffice()
        bookmark = bookmark_of(places, opened, now["cluster_id"])
        at = None if fresh else bookmark.found(slot=int, key=str, stored=int, expired=int)
        if at is None and not into_existing and ctl.client.json("GET", "/v1/keys?limit=1")["keys"]:
            raise Trouble(
                "the cluster is not empty",
                "what it holds would be mixed with the backup",
                "restore into an empty cluster, or add --into-existing",
                Exit.PRECONDITION,
            )
        copies = min(now["replicas"], len(now["members"]))
        ctl.showing.say(
            f"plan: write about {opened.keys:,} records of {opened.name}, of cluster {opened.view.cluster_id}, into"
            f" cluster {now['cluster_id']}, {copies} copies each"
        )
        ctl.confirm("do it?", yes)
        restoring = Restoring(ctl.client, opened, bookmark, at)
        began_s = time.monotonic()
        with bar(ctl.showing, "records") as progress:
            shown = progress.add_task("restore", total=opened.keys)
            try:
                for done in restoring.run():
                    progress.update(shown, completed=done)
            except BaseException:
                ctl.showing.say(f"{restoring.stored:,} records are stored; {bookmark.goes_on()}")
                raise
            progress.update(shown, total=restoring.stored or 1, completed=restoring.stored or 1)
        took_s = time.monotonic() - began_s
    told = {
        "records": restoring.stored,
        "expired": restoring.expired,
        "seconds": round(took_s, 3),
        "records_per_s": round(restoring.written / max(took_s, 1e-9)),
        "cluster_id": now["cluster_id"],
    }
    left_out = f"; {restoring.expired:,} had expired and were left out" if restoring.expired else ""
    ctl.showing.show(
        told, lambda: f"{restoring.stored:,} records restored, {count(told['records_per_s'])} a second{left_out}"
    )


def _known(ctl: Ctl) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ctl.client.json("GET", "/v1/backups")["backups"]
    return found


def _task(ctl: Ctl, name: str) -> Any:
    return next((one for one in tasks(ctl.client) if one["id"] == name), None)


def _folders(made: dict[str, Any]) -> Any:
    table = plain_table("node", "keys", "size", "folder", right=("keys", "size"), folds=("folder",))
    for one in made["nodes"]:
        table.add_row(one["id"], count(one["keys"]), f"{size(one['bytes'])}B", one["folder"])
    return table


def _warnings(made: dict[str, Any]) -> list[str]:
    if not made["missing"]:
        return []
    return [f"warning: {', '.join(made['missing'])} kept nothing; what the others have is enough to restore"]


def _check(ctl: Ctl, places: list[Path]) -> None:
    """Compare all files with their checksums.

    :raises Trouble: naming the first that differs.
    """
    from .restoring import checked

    with bar(ctl.showing, "", in_bytes=True) as progress:
        for place in places:
            shown = progress.add_task(f"check {place.name}", total=None)
            checked(place, lambda done, total: progress.update(shown, completed=done, total=total or 1))  # noqa: B023
