"""What may be wrong with a cluster, found in what was gathered: facts in, findings out, nobody is asked here."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from .members import LETTERS, Cluster, letters
from .showing import address, count, size

BAD, WARN, NOTE, GOOD = "bad", "warn", "note", "good"

CLOCK_WARN_S, CLOCK_BAD_S = 1.0, 60.0
FREE_WARN_BYTES, FREE_BAD_BYTES = 1 << 30, 64 << 20
"""A node takes no more values below the second one (``disk_free_bytes_min``)."""
UNEVEN = 1.25
"""How many times its fair share a member owns that is worth a word. 256 tokens keep all within 1.10."""
SLOW_TIMES, SLOW_MS = 10, 50.0


class Facts(NamedTuple):
    """What was gathered.

    :param version: this command's.
    :param clock_ahead_s: how far the proxy's clock is ahead of this machine's, None if nobody knows.
    :param troubles: what ``/health/ready`` names.
    :param shares: how many times its fair share each member owns, by id.
    :param plain: whether a token is shown over plain HTTP to another machine.
    """

    version: str
    cluster: Cluster
    troubles: Sequence[str]
    clock_ahead_s: float | None
    shares: Mapping[str, float]
    plain: bool = False


class Finding(NamedTuple):
    """One check's result: how bad, what was looked at, what was found, and what to do."""

    level: str
    check: str
    says: str
    then: str = ""


def diagnosed(facts: Facts) -> list[Finding]:
    """Make every check; each says at least that all is well."""
    found: list[Finding] = []
    for name, check in CHECKS.items():
        said = list(check(facts))
        found += said or [Finding(GOOD, name, GOOD_WORDS[name])]
    return found


def _place(member: Mapping[str, Any]) -> str:
    return f"{member['id']} at {address(member['url'])}"


def _ready(facts: Facts) -> Iterator[Finding]:
    for text in facts.troubles:
        yield Finding(BAD, "ready", text, _cure(text))


CURES = (
    ("no majority of owners up", "start the nodes again that are named; kvctl cluster status shows where they are"),
    ("no storage node has joined", "kvctl cluster add URL"),
    ("clock is", "set the machine's clock; ntp or chrony keeps it"),
    ("is not added yet", "start the node at that URL"),
    ("moving data", "kvctl cluster watch follows it"),
    ("epoch", "restore the newest state document; nodes keep a copy of it"),
)


def _cure(text: str) -> str:
    return next((cure for words, cure in CURES if words in text), "the README's section on operating it tells more")


def _members(facts: Facts) -> Iterator[Finding]:
    for one in facts.cluster["members"]:
        if letters(one)[0] == "D":
            why = f": {one['error']}" if one.get("error") else ""
            then = f"start it again; if it is lost: kvctl cluster remove --dead {one['id']}"
            yield Finding(BAD, "members", f"{_place(one)} is down{why}", then)
        elif one["state"] == "rebuilding":
            yield Finding(WARN, "members", f"{_place(one)} forgot data and is rebuilt", "kvctl cluster watch")
    staying = [one for one in facts.cluster["members"] if one["state"] not in ("joining", "leaving")]
    copies = facts.cluster["replicas"]
    if len(staying) < copies:
        yield Finding(
            WARN, "members", f"{len(staying)} members for {copies} copies of each key", "kvctl cluster add URL"
        )
    if copies < 3:
        yield Finding(
            NOTE, "members", f"{copies} copies of each key: no node may fail", "found a cluster with 3 or more"
        )


def _versions(facts: Facts) -> Iterator[Finding]:
    proxy = facts.cluster.get("version")
    versions = {one["version"] for one in facts.cluster["members"] if one.get("version")} | (
        {proxy} if proxy else set()
    )
    if len(versions) > 1:
        named = ", ".join(sorted(versions))
        yield Finding(WARN, "versions", f"daemons of versions {named} are together", "upgrade one node after the other")
    elif versions and facts.version not in versions:
        says = f"this command is of version {facts.version}, the daemons of {versions.pop()}"
        yield Finding(NOTE, "versions", says, "install the same version here")


def _clocks(facts: Facts) -> Iterator[Finding]:
    then = "set the machine's clock; ntp or chrony keeps it"
    for one in facts.cluster["members"]:
        ahead_s = one.get("clock_ahead_s")
        if ahead_s is not None and abs(ahead_s) > CLOCK_WARN_S:
            level = BAD if abs(ahead_s) > CLOCK_BAD_S else WARN
            which = "ahead of" if ahead_s > 0 else "behind"
            yield Finding(level, "clocks", f"{_place(one)} is {abs(ahead_s):.1f} s {which} the proxy", then)
    if facts.clock_ahead_s is not None and abs(facts.clock_ahead_s) > CLOCK_WARN_S + 1:
        says = f"the proxy's clock and this machine's are {abs(facts.clock_ahead_s):.0f} s apart"
        yield Finding(NOTE, "clocks", says, then)


def _epochs(facts: Facts) -> Iterator[Finding]:
    now = facts.cluster["epoch"]
    for one in facts.cluster["members"]:
        epoch = one.get("epoch")
        if epoch is None or epoch == now or one["state"] in LETTERS:
            continue
        if epoch > now:
            says = f"{_place(one)} knows epoch {epoch}, the proxy {now}"
            yield Finding(BAD, "epochs", says, "the state was set back: restore its newest document")
        else:
            says = f"{_place(one)} is at epoch {epoch}, the cluster at {now}"
            yield Finding(NOTE, "epochs", says, "it learns the newest one with the next request; kvctl cluster repair")
    if facts.cluster.get("trouble"):
        yield Finding(BAD, "epochs", f"a change cannot go on: {facts.cluster['trouble']}", "kvctl cluster tasks")
    change = facts.cluster.get("change")
    if change:
        yield Finding(NOTE, "epochs", f"a change is under way: {change['kind']}", "kvctl cluster watch")


def _hints(facts: Facts) -> Iterator[Finding]:
    for one in facts.cluster["members"]:
        if one["hints"]:
            up = letters(one)[0] == "U"
            then = "they are replayed now; kvctl top shows it" if up else "start it again within three hours"
            yield Finding(NOTE if up else WARN, "hints", f"{count(one['hints'])} hints wait for {_place(one)}", then)
        if one.get("marks"):
            says = f"{count(one['marks'])} slots are marked for repair at {_place(one)}"
            yield Finding(WARN, "hints", says, "kvctl cluster repair")


def _room(facts: Facts) -> Iterator[Finding]:
    for one in facts.cluster["members"]:
        free = one.get("free_bytes")
        if free is None or free >= FREE_WARN_BYTES:
            continue
        level = BAD if free < FREE_BAD_BYTES else WARN
        says = f"{_place(one)} has {size(free)}B of room left"
        yield Finding(level, "room", says, "make room on its disk, or kvctl cluster add URL")


def _safety(facts: Facts) -> Iterator[Finding]:
    for one in facts.cluster["members"]:
        if one.get("engine") == "memory":
            yield Finding(NOTE, "safety", f"{_place(one)} keeps data in memory only", "start it with --engine rocksdb")
        elif one.get("sync") in ("interval", "never"):
            says = f"{_place(one)} syncs with --sync {one['sync']}: a power cut may take what it acknowledged"
            yield Finding(NOTE, "safety", says, "start it with --sync always")


def _balance(facts: Facts) -> Iterator[Finding]:
    cluster = facts.cluster
    zones = {one["zone"] for one in cluster["members"] if one["zone"]}
    if zones and len(zones) < cluster["replicas"]:
        says = f"{len(zones)} zones for {cluster['replicas']} copies: one that fails may take two of them"
        yield Finding(
            NOTE, "balance", says, f"add nodes in {cluster['replicas']} zones: kvctl cluster add URL --zone Z"
        )
    if len(cluster["members"]) <= cluster["replicas"]:
        return  # each has everything
    by_id = {one["id"]: one for one in cluster["members"]}
    for node, times in facts.shares.items():
        if times > UNEVEN or times < 1 / UNEVEN:
            says = f"{_place(by_id[node])} owns {times:.2f} times its fair share"
            then = "even the zones out" if zones else "kvctl ring show; kvctl cluster weight MEMBER WEIGHT"
            yield Finding(WARN, "balance", says, then)


def _pace(facts: Facts) -> Iterator[Finding]:
    slowest = {one["id"]: one["round_trip_ms"]["p99"] for one in facts.cluster["members"] if one.get("round_trip_ms")}
    if len(slowest) < 2:
        return
    usual = statistics.median(slowest.values())
    for one in facts.cluster["members"]:
        p99 = slowest.get(one["id"], 0.0)
        if p99 > SLOW_MS and p99 > SLOW_TIMES * usual:
            says = f"{_place(one)} takes {p99:.0f} ms, the others about {usual:.1f}"
            yield Finding(WARN, "pace", says, "look at its disk and its load; kvctl top")


def _tokens(facts: Facts) -> Iterator[Finding]:
    if facts.plain:
        says = "the token goes over the network as plain text"
        yield Finding(BAD, "tokens", says, "let the proxy speak TLS (docs/security.md), and name it as https://")


CHECKS: dict[str, Callable[[Facts], Iterator[Finding]]] = {
    "ready": _ready,
    "members": _members,
    "versions": _versions,
    "clocks": _clocks,
    "epochs": _epochs,
    "hints": _hints,
    "room": _room,
    "safety": _safety,
    "balance": _balance,
    "pace": _pace,
    "tokens": _tokens,
}

GOOD_WORDS = {
    "ready": "every key can be served now",
    "members": "all are up, and enough for the copies of each key",
    "versions": "all daemons and this command are alike",
    "clocks": "all within a second",
    "epochs": "all are in the same one, and nothing is changing",
    "hints": "none waits, and no slot is marked for repair",
    "room": "every disk has room that is known of",
    "safety": "what is acknowledged is on disk",
    "balance": "shares are as even as weights want",
    "pace": "no member is far slower than the others",
    "tokens": "the token file, if any, is its owner's alone, and no token goes over the network in the clear",
}


def summary(found: Sequence[Finding]) -> str:
    """Say in a line how it is."""
    counted = {level: sum(one.level == level for one in found) for level in (BAD, WARN, NOTE)}
    if not any(counted.values()):
        return "all is well"
    return f"{counted[BAD]} bad, {counted[WARN]} to look at, {counted[NOTE]} to know"
