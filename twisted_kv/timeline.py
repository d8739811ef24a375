"""Where an operation's time went: what was asked of whom, and who answered when. It is written down as it comes, which
costs a tuple for each answer, and put into words only where somebody wants to read it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeAlias

from .register import ACCEPT, FETCH, PREPARE, READ

Step: TypeAlias = tuple[float, str, str, int, float]
"""When, what, which node (empty where it is about none), in which round, when the question left (NEVER if not)."""

NEVER = -1.0

WORDS = {READ: "read", FETCH: "read", PREPARE: "prepare", ACCEPT: "accept"}


_unquotable = re.compile(r"[^ !#-\[\]-~]").sub
"""What cannot stand in a quoted string (RFC 9110, section 5.6.4) without more ado."""

STEPS_MAX = 40
"""Steps that are told: contended keys may make hundreds. Those that are left out lie in the middle."""


def told(since_s: float, steps: Sequence[Step]) -> list[dict[str, Any]]:
    """Put steps into fields: ``at_ms`` after the beginning, ``what``, and where it is about one ``node``, ``round``,
    ``queued_ms`` and ``trip_ms``."""
    asked: list[tuple[int, float]] = []
    found: list[dict[str, Any]] = []
    for at_s, what, node, round_, sent_s in steps:
        step: dict[str, Any] = {"at_ms": _ms(at_s - since_s), "what": what}
        if node:
            step |= {"node": node, "round": round_}
        elif round_:
            step["round"] = round_
            asked.append((round_, at_s))
        if sent_s != NEVER:
            # In one round some may have been asked later than others, and this answer may be of one that is over.
            asked_s = next(
                (when_s for which, when_s in reversed(asked) if which == round_ and when_s <= sent_s), sent_s
            )
            step |= {"queued_ms": _ms(sent_s - asked_s), "trip_ms": _ms(at_s - sent_s)}
        found.append(step)
    if len(found) > STEPS_MAX:
        left_out = {"at_ms": found[STEPS_MAX // 2]["at_ms"], "what": f"({len(found) - STEPS_MAX} steps are left out)"}
        found[STEPS_MAX // 2 : -STEPS_MAX // 2] = [left_out]
    return found


def sentence(steps: Sequence[dict[str, Any]]) -> str:
    """Put told steps into one line: ``0.1 asks to accept; 2.3 n-1 took (queued 0.1, trip 2.1)``."""
    return "; ".join(_phrase(step) for step in steps)


def _phrase(step: dict[str, Any]) -> str:
    subject = f"{step['node']} " if "node" in step else ""
    way = f" (queued {step['queued_ms']:g}, trip {step['trip_ms']:g})" if "trip_ms" in step else ""
    return f"{step['at_ms']:g} {subject}{step['what']}{way}"


def server_timing(steps: Sequence[dict[str, Any]]) -> bytes:
    """Give the value of a ``Server-Timing`` header (https://www.w3.org/TR/server-timing/): an entry for each step, with
    the time from the beginning."""
    entries = []
    for number, step in enumerate(steps, 1):
        shown = _unquotable(".", _phrase(step))[:200]
        entries.append(f'step{number};dur={step["at_ms"]:g};desc="{shown}"')
    return ", ".join(entries).encode()


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 2)
