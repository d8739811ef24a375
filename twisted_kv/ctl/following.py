"""Changes of the ring while they are carried out: a bar that follows them, and a way to take them back."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from threading import Thread
from typing import Any, TypeAlias

import click

from .client import Client
from .common import Ctl
from .progress import bar
from .trouble import Exit, Trouble

Task: TypeAlias = Mapping[str, Any]

LOOK_S = 0.3
REPAIR_PATIENCE_S = 15.0
"""How long a repair may take to begin: a round that is under way is ended first."""


def tasks(client: Client) -> list[Task]:
    found: list[Task] = client.json("GET", "/v1/tasks")["tasks"]
    return found


def moving(found: Sequence[Task]) -> list[Task]:
    """Pick the changes of the ring, the one that runs first."""
    return [one for one in found if one["kind"] == "rebalance"]


class Call(Thread):
    """A call that answers when its change is done, while somebody else watches."""

    def __init__(self, call: Callable[[], Any]) -> None:
        super().__init__(daemon=True)  # if the operator leaves, nobody waits for its answer
        self._call = call
        self.answer: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self.answer = self._call()
        except BaseException as error:
            self.error = error

    def result(self) -> Any:
        self.join()
        if self.error is not None:
            raise self.error
        return self.answer


def carry_out(ctl: Ctl, title: str, call: Callable[[], Any] | None = None) -> Any:
    """Make a call that changes the ring, and watch until nothing moves any more; give its answer.

    The change does not need whoever watches: it goes on without, and may be watched again.

    :raises Trouble: as the call, or any look, does.
    """
    asked = Call(call) if call is not None else None
    try:
        _watch(ctl, title, asked)
    except KeyboardInterrupt:
        _leave(ctl)
        raise
    return asked.result() if asked is not None else None


def _watch(ctl: Ctl, title: str, asked: Call | None) -> None:
    with bar(ctl.showing, "slots") as progress:
        shown = progress.add_task(title, total=None)
        while True:
            called = asked is None or not asked.is_alive()
            if asked is not None and called and asked.error is not None:
                return
            found = moving(tasks(ctl.client))
            if found:
                one = found[0]
                what = one.get("what", "") if one["state"] == "running" else "waits"
                total = one["total"] or None
                progress.update(
                    shown, description=f"{title} ({what})", total=total, completed=one["done"], rate=one["rate"] or None
                )
            elif called:
                total = progress.tasks[0].total
                # Nobody has seen how much moved where it was over between two looks.
                progress.update(shown, description=title, completed=total or 0, visible=total is not None)
                return
            time.sleep(LOOK_S)


def _leave(ctl: Ctl) -> None:
    """Ask whether what was begun is to be taken back; without a terminal it goes on."""
    if ctl.showing.is_json or not sys.stdin.isatty():
        return
    ctl.showing.say("it goes on without this command, and kvctl cluster watch follows it again")
    if click.confirm("take it back instead?", default=False, err=True):
        for one in moving(tasks(ctl.client)):
            ctl.client.checked("DELETE", f"/v1/tasks/{one['id']}")
        ctl.showing.say("taken back: the owners of before own everything again")


def follow_repair(ctl: Ctl, name: str) -> Task | None:
    """Watch a round of repair until it ends; None if another proxy does it, of which this one knows nothing."""
    until_s = time.monotonic() + REPAIR_PATIENCE_S
    with bar(ctl.showing, "slots") as progress:
        shown = progress.add_task("repair", total=None)
        while True:
            found = next((one for one in tasks(ctl.client) if one["id"] == name), None)
            if found is None:
                if time.monotonic() >= until_s:
                    return None
            else:
                until_s = float("inf")
                progress.update(
                    shown, total=found["total"] or None, completed=found["done"], rate=found["rate"] or None
                )
                if found["state"] != "running":
                    return found
                if progress.finished:
                    progress.update(shown, completed=found["done"])
            time.sleep(LOOK_S)


def cancelled(name: str) -> Trouble:
    return Trouble(
        f"{name} was taken back", "somebody, or the proxy itself, cancelled it", "kvctl doctor", Exit.DEGRADED
    )
