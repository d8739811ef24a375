"""What goes wrong, in three lines, what happened, why, and the next command to try; and the status to end with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import IntEnum
from typing import Any

from .plain import plain


class Exit(IntEnum):
    """With what ``kvctl`` ends."""

    OK = 0
    DEGRADED = 1
    USAGE = 2
    UNREACHABLE = 3
    QUORUM = 4
    NOT_FOUND = 5
    PRECONDITION = 6
    INTERRUPTED = 130


class Trouble(Exception):
    """Expected trouble: its three lines, and the status to end with."""

    def __init__(self, what: str, why: str, then: str, code: Exit) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.then = then
        self.code = code

    def lines(self) -> str:
        return f"error: {plain(self.what)}\nwhy:   {plain(self.why)}\nnext:  {plain(self.then)}"

    def as_json(self) -> str:
        return json.dumps({"error": self.what, "why": self.why, "next": self.then, "exit_code": int(self.code)})


BY_STATUS: dict[int, Exit] = {
    404: Exit.NOT_FOUND,
    409: Exit.PRECONDITION,
    412: Exit.PRECONDITION,
    422: Exit.UNREACHABLE,
    429: Exit.QUORUM,
    500: Exit.DEGRADED,
    502: Exit.UNREACHABLE,
    503: Exit.QUORUM,
    504: Exit.QUORUM,
    507: Exit.QUORUM,
}
"""The statuses of the proxy's answers; all others say that the call itself was wrong."""

NEXT: dict[str, str] = {
    "key-absent": "kvctl ls shows the keys that are there",
    "precondition-failed": "kvctl get KEY -o json shows what the key holds now, with its etag",
    "no-such-member": "kvctl cluster status lists the members",
    "no-such-backup": "kvctl backup list shows those that are there",
    "backup-exists": "kvctl backup list shows those that are there",
    "backup-failed": "kvctl doctor looks for the reason",
    "change-under-way": "kvctl cluster watch follows what is under way",
    "no-such-task": "kvctl cluster tasks lists what is under way",
    "quorum-unreached": "kvctl cluster status shows who is down",
    "no-nodes": "kvctl cluster add URL adds the first node",
    "change-waits": "kvctl cluster watch follows what is under way",
    "change-failed": "kvctl doctor looks for the reason",
    "token-missing": "name the file that holds it: --token-file FILE, or KV_TOKEN_FILE",
    "overloaded": "try again in a moment; kvctl top shows the load",
    "deadline-passed": "kvctl cluster status shows who is slow; --timeout SECONDS waits longer",
    "disk-full": "kvctl doctor shows how much room there is",
}
"""What to try next, by the slug of a problem; where it is not here, the problem's own hint is taken."""


def of_problem(status: int, problem: Mapping[str, Any]) -> Trouble:
    """Make trouble of a problem document (RFC 9457), or of what came in the place of one."""
    what = str(problem.get("title") or f"the server answered with status {status}")
    why = str(problem.get("detail") or f"status {status} without a problem document")
    hint = str(problem.get("hint") or "")
    slug = str(problem.get("type") or "")
    if problem.get("maybe_applied") is not None:
        why += "; it may still take effect" if problem["maybe_applied"] else "; nothing has changed"
    replicas = problem.get("replicas")
    for replica in replicas if isinstance(replicas, list) else ():
        why += f"; {replica.get('node')}: {replica.get('error')}" if isinstance(replica, dict) else f"; {replica}"
    then = NEXT.get(slug) or hint or "kvctl doctor looks for the reason"
    if hint and hint not in then and slug not in ("key-absent", "quorum-unreached"):
        then = f"{hint}; {then}" if slug in NEXT else then
    return Trouble(what[:1].lower() + what[1:], why, then, BY_STATUS.get(status, Exit.USAGE))
