"""The judgement on a run: whether what its clients saw can be explained by what they were promised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from .history import CLOCK_S, EXPIRY_CLIENT, GONE, SOMEBODY, History, number_in
from .linearizability import Event, Fate, Kind, violation
from .zones import fits, zone_violation


class Broken(AssertionError):
    """A check that failed: which one, what it found, and where it can say so, on which key."""

    def __init__(self, check: str, what: str, key: bytes = b"") -> None:
        super().__init__(what)
        self.check = check
        self.key = key


ZONES = "zones"
SEARCH = "linearizability"
"""The two tests whose findings a shorter history shows as well."""


def judge(history: History) -> Counter[str]:
    """Check all that was promised to clients; complete the history by what is known only at the end.

    Gives how many keys each test has judged.

    :raises Broken: if something cannot be explained.
    """
    history.events += [event for attempt in history.attempts for event in attempt.events()]
    history.events += tombstones_of_unknown_origin(history)
    judged = Counter(judge_key(events) for _, events in sorted(by_key(history.events).items()))
    judge_versions(history)
    judge_once(history)
    judge_level_one(history)
    judge_expiry(history)
    judge_counters(history)
    return judged


def judge_key(events: Sequence[Event]) -> str:
    """See that there is an order of one key's operations that explains what every client saw; name the test."""
    test, found = (ZONES, zone_violation(events)) if fits(events) else (SEARCH, violation(events))
    if found:
        raise Broken(test, found)
    return test


def by_key(events: Sequence[Event]) -> dict[bytes, list[Event]]:
    keys: dict[bytes, list[Event]] = {}
    for event in events:
        keys.setdefault(event.key, []).append(event)
    return keys


def tombstones_of_unknown_origin(history: History) -> list[Event]:
    """Give a delete for each tombstone that was seen and that no successful delete has made.

    It is one of those of unknown outcome, each of which may have been tried under several versions; or it was put by
    a conditional change that found nothing and left nothing. Where there was neither it can only have been put in the
    place of what an owner could not read and nobody else held, which leaves the key as absent as it was.
    """
    made = {(event.key, event.value) for event in history.events if event.kind is not Kind.READ}
    seen: dict[tuple[bytes, bytes | None], None] = {}
    for event in history.events:
        seen |= {(event.key, shown): None for shown in (event.value, event.base) if shown and shown.startswith(GONE)}
    seen |= {(key, value): None for key, value, _ in history.loose if value.startswith(GONE)}
    makers: dict[bytes, float] = {}
    for event in history.events:
        uncertain = event.kind is Kind.DELETE and event.fate is Fate.UNKNOWN
        if uncertain or event.kind is Kind.SWAP:
            makers[event.key] = min(event.called, makers.get(event.key, event.called))
    for attempt in history.attempts:
        makers[attempt.key] = min(attempt.called, makers.get(attempt.key, attempt.called))
    unknown = [(key, value) for key, value in seen if (key, value) not in made]
    return [
        Event(SOMEBODY, Kind.DELETE, key, value, makers[key], None, Fate.UNKNOWN)
        if key in makers
        else Event(SOMEBODY, Kind.SWAP, key, value, history.spoiled[key], None, Fate.UNKNOWN, None)
        for key, value in unknown
        if key in makers or key in history.spoiled
    ]


def judge_versions(history: History) -> None:
    """See that a value keeps the version it was written with: an ETag holds for as long as its value does."""
    for (key, value), versions in history.versions.items():
        if len(versions) > 1:
            both = " and as ".join(version.hex() for version in versions)
            raise Broken("version", f"{value!r} of {key!r} was shown as {both}", key)


def judge_once(history: History) -> None:
    """See that no conditional change took effect twice, in two of the forms that it tried."""
    never = {shown for attempt in history.attempts for shown in attempt.never()}
    done = [event for event in history.events if event.fate is Fate.DONE]
    seen = {(event.key, event.value) for event in done}
    seen |= {(event.key, event.base) for event in done if event.kind is Kind.SWAP}
    for key, value in sorted(never):
        if (key, value) in seen:
            raise Broken("once", f"{value!r} of {key!r} was seen, and its client was told of another form", key)
    effects: dict[tuple[str, bytes], bytes | None] = {}
    for event in history.events:
        by_itself = event.client not in (EXPIRY_CLIENT, SOMEBODY)
        if event.kind is Kind.SWAP and by_itself and (event.key, event.value) in seen:
            first = effects.setdefault((event.client, event.key), event.value)
            if first != event.value:
                raise Broken("once", f"it took effect as {first!r} and again: {event}", event.key)


def judge_level_one(history: History) -> None:
    """See that whatever a read at level ``one`` answered had been written by then. No more is promised.

    It may be a form of a conditional change that its client was not told of: one owner took it, and it was given up.
    """
    written = {(event.key, event.value): event.called for event in history.events if event.kind is not Kind.READ}
    written |= {given_up: attempt.called for attempt in history.attempts for given_up in attempt.never()}
    for key, value, at_s in history.loose:
        if not written.get((key, value), float("inf")) <= at_s:
            raise Broken("level one", f"a read of {key!r} answered {value!r}, which nobody had written", key)


def judge_expiry(history: History) -> None:
    """See that nobody reads a value that had expired when he asked. Where clocks go wrong nothing is promised."""
    if not history.clocks_agree:
        return
    for event in history.events:
        expired_s = history.expires.get((event.key, event.value), float("inf"))
        if event.kind is Kind.READ and event.called > expired_s + CLOCK_S:
            what = f"{event.value!r} was read after it had expired at {expired_s:g}: {event}"
            raise Broken("expiry", what, event.key)


def judge_counters(history: History) -> None:
    """See that no counter has lost what was counted up for certain."""
    last = {event.key: event.value for event in history.events if event.client == "last"}
    for key, count in history.counted.items():
        value = last.get(key)
        if number_in(value) < count:
            raise Broken("counter", f"{key!r} holds {value!r}, and was counted up {count} times", key)
