"""The calls for single keys: what is sent, what is tried again, and what is made of the answers.

What may be tried again after an attempt of unknown outcome:

- a read, freely;
- a change under ``If-Match``, freely: versions never come back, so of all its attempts one at the most takes effect;
- nothing else. A plain put that is repeated may come after somebody else's write, which had come after its first
  attempt, and undo it; a put that demands an absent key may happen twice with a delete between. Who knows that it does
  no harm says ``repeat=True``.

After a failure that certainly changed nothing everything is tried again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote

from ..errors import KeyAbsent, KvError, PreconditionFailed
from .judging import Answer, Fate, Garbled, Told, Verdict, judge
from .trip import Home, Request, Steps, Trip
from .trouble import NotACounter
from .values import OCTETS, Delete, Get, Put, Text, Value, Written, bytes_of, tag_of, type_of
from .wording import Reply, bulk_request, line_of, read_reply

T = TypeVar("T")

OK = frozenset({200})
CHANGED = frozenset({204})
COUNTER_MIN, COUNTER_MAX = -(1 << 63), (1 << 63) - 1
"""What Redis's counters hold, which are the same ones here."""

_whole_etag = re.compile(r'"([0-9a-f]{32})"').fullmatch
_whole_replicas = re.compile(r"(\d{1,4})/(\d{1,4})").fullmatch
_whole_milliseconds = re.compile(r"[0-9]{1,19}").fullmatch
_whole_number = re.compile(rb"-?(0|[1-9][0-9]{0,18})").fullmatch


class End(NamedTuple):
    """How a call has ended: with its answer, or with what came of the last attempt."""

    answer: Any
    error: KvError | None


def path_of(key: Text) -> str:
    """Give a key's path. Every byte that is no plain letter is escaped, slashes too.

    ``.`` and ``..`` as they are would be taken for steps in the path by whoever stands between.
    """
    found = quote(bytes_of(key), safe="")
    return "/v1/kv/" + (found.replace(".", "%2E") if found in (".", "..") else found)


def parameters_of(**given: object) -> dict[str, str]:
    return {name: str(value) for name, value in given.items() if value is not None}


def get(home: Home, key: Text, consistency: str | None, timeout_s: float | None) -> Steps[Value | None]:
    trip = Trip(home, timeout_s)
    return (yield from _read(trip, key, consistency))


def put(
    home: Home,
    key: Text,
    value: Text,
    *,
    ttl: float | None,
    content_type: str | None,
    consistency: str | None,
    timeout_s: float | None,
    repeat: bool,
) -> Steps[Written]:
    trip = Trip(home, timeout_s)
    headers = {"Content-Type": type_of(value, content_type)}
    parameters = parameters_of(consistency=consistency, ttl=ttl)
    request = Request("PUT", path_of(key), parameters, headers, bytes_of(value))
    end = yield from carry(trip, request, CHANGED, _written, again=repeat)
    return (yield from _settled(trip, end, key))


def delete(home: Home, key: Text, *, consistency: str | None, timeout_s: float | None, repeat: bool) -> Steps[Written]:
    trip = Trip(home, timeout_s)
    request = Request("DELETE", path_of(key), parameters_of(consistency=consistency))
    end = yield from carry(trip, request, CHANGED, _deleted, again=repeat)
    return (yield from _settled(trip, end, key))


def cas(
    home: Home,
    key: Text,
    value: Text | None,
    expected: str | None,
    *,
    ttl: float | None,
    content_type: str | None,
    timeout_s: float | None,
) -> Steps[Written]:
    """Put a value in the place of a version, of none where ``expected`` is None. ``value`` is None to delete it."""
    if value is None and expected is None:
        raise ValueError("there is nothing to delete where no value is expected")
    trip = Trip(home, timeout_s)
    condition = {"If-Match": f'"{tag_of(expected)}"'} if expected is not None else {"If-None-Match": "*"}
    if value is None:
        request, take = Request("DELETE", path_of(key), {}, condition), _deleted
    else:
        headers = {"Content-Type": type_of(value, content_type), **condition}
        request = Request("PUT", path_of(key), parameters_of(ttl=ttl), headers, bytes_of(value))
        take = _written
    end = yield from carry(trip, request, CHANGED, take, again=expected is not None)
    return (yield from _settled(trip, end, key))


def increment(home: Home, key: Text, by: int, ttl: float | None, timeout_s: float | None) -> Steps[int]:
    """Read a counter and put its next value in the place of that version, until nobody has come between.

    It goes through ``bulk``, which lets it be said to the millisecond when a value expires: a counter keeps its expiry.
    """
    trip = Trip(home, timeout_s)
    while True:
        held = yield from _read_line(trip, key)
        number = _number(held) + by
        if not COUNTER_MIN <= number <= COUNTER_MAX:
            raise NotACounter(f"{number} has more than 64 bits", "keep such a number with cas")
        if held is None:
            line = Put(key, str(number), ttl=ttl, if_absent=True)
        else:
            line = Put(
                key,
                str(number),
                expires_ms=held.expires_ms or None,
                content_type=held.content_type,
                if_match=held.etag,
            )
        end = yield from _carry_line(trip, line, again=held is not None)
        if isinstance(end.error, PreconditionFailed) and not trip.in_doubt:
            # Somebody was faster. So nothing is open of ours, and it may be done on what is there now.
            trip.note(Verdict(Fate.AGAIN, end.error, end.error.detail))
            if not (yield from trip.breathe()):
                raise trip.gave_up()
            continue
        yield from _settled(trip, end, key)
        return number


def _number(held: Value | None) -> int:
    if held is None:
        return 0
    if not _whole_number(held.value):
        raise NotACounter(f"the key holds {held.value[:40]!r}", "count in a key of its own")
    return int(held.value)


# What all calls are made of.


def carry(
    trip: Trip, request: Request, expected: frozenset[int], take: Callable[[Answer], Any], again: bool
) -> Steps[End]:
    """Have a request done.

    :param take: makes the call's result of an answer; raises ``Garbled`` if it is none.
    :param again: whether it may be sent once more after an attempt of unknown outcome.
    """
    while True:
        told = yield from trip.send(request, again)
        verdict, taken = _judged(told, expected, take)
        end = yield from _ended(trip, verdict, taken, again)
        if end is not None:
            return end


def _carry_line(trip: Trip, line: Get | Put | Delete, again: bool) -> Steps[End]:
    """The same for one line of ``bulk``."""
    request = bulk_request([line_of(line)], None)
    while True:
        told = yield from trip.send(request, again)
        verdict, reply = _judged(told, OK, read_reply)
        if verdict.fate is Fate.DONE:
            assert reply is not None
            verdict = reply.verdict
        end = yield from _ended(trip, verdict, reply, again)
        if end is not None:
            return end


def _ended(trip: Trip, verdict: Verdict, taken: Any, again: bool) -> Steps[End | None]:
    """Say how a call ends after this attempt; None if there is another one."""
    if verdict.fate is Fate.DONE:
        return End(taken, None)
    trip.note(verdict)
    if verdict.fate is Fate.REFUSED:
        assert verdict.error is not None
        return End(None, verdict.error)
    if verdict.fate is Fate.UNKNOWN and not again:
        return End(None, trip.gave_up())
    went_on = yield from trip.go_on()
    return None if went_on else End(None, trip.gave_up())


def _judged(told: Told, expected: frozenset[int], take: Callable[[Answer], T]) -> tuple[Verdict, T | None]:
    verdict = judge(told, expected)
    if verdict.fate is not Fate.DONE:
        return verdict, None
    assert isinstance(told, Answer)
    try:
        return verdict, take(told)
    except Garbled as error:
        return Verdict(Fate.UNKNOWN, None, f"the answer is none of a kvproxy: {error}"), None


def _settled(trip: Trip, end: End, key: Text) -> Steps[Written]:
    """Give a change's result, or raise; if its outcome is in doubt, try to find it out.

    An attempt of unknown outcome took effect if the key is found to hold its version: proxies tell the version that
    they tried to write. That the key holds another one proves nothing: it may have come after.
    """
    if end.error is None:
        written: Written = end.answer if isinstance(end.answer, Written) else end.answer.value
        return written  # what was in doubt before has not happened, and cannot any more; or was said to do no harm
    if not trip.in_doubt:
        raise end.error
    found = getattr(end.error, "etag", None) if isinstance(end.error, PreconditionFailed) else None
    if found in trip.etags:
        return Written(found)
    held, looked = yield from _look(trip, key)
    if held is not None and held.etag in trip.etags:
        return Written(held.etag)
    raise trip.doubt(held, looked)


def _look(trip: Trip, key: Text) -> Steps[tuple[Value | None, bool]]:
    """Read a key once, to find out what has become of it; the second says whether that was possible."""
    if not (yield from trip.go_on()):
        return None, False
    told = yield from trip.send(Request("GET", path_of(key), {"consistency": "strong"}), again=True)
    verdict, value = _judged(told, OK, _value)
    if isinstance(verdict.error, KeyAbsent):
        return None, True
    return value, verdict.fate is Fate.DONE


def _read(trip: Trip, key: Text, consistency: str | None) -> Steps[Value | None]:
    request = Request("GET", path_of(key), parameters_of(consistency=consistency))
    end = yield from carry(trip, request, OK, _value, again=True)
    if isinstance(end.error, KeyAbsent):
        return None
    if end.error is not None:
        raise end.error
    value: Value = end.answer
    return value


def _read_line(trip: Trip, key: Text) -> Steps[Value | None]:
    end = yield from _carry_line(trip, Get(key), again=True)
    if end.error is not None and not isinstance(end.error, KeyAbsent):
        raise end.error
    # What became of a read is no evidence about the change that follows.
    trip.in_doubt = False
    trip.tried.clear()
    trip.etags.clear()
    if end.error is not None:
        return None
    reply: Reply = end.answer
    assert isinstance(reply.value, Value)
    return reply.value


def _value(answer: Answer) -> Value:
    etag = _whole_etag(answer.headers.get("etag", ""))
    if etag is None:
        raise Garbled("it has no ETag")
    expires_ms = answer.headers.get("kv-expires-ms", "0")
    if _whole_milliseconds(expires_ms) is None:
        raise Garbled("it has an expiry that is none")
    return Value(answer.body, etag[1], answer.headers.get("content-type", OCTETS), int(expires_ms))


def _written(answer: Answer) -> Written:
    etag = _whole_etag(answer.headers.get("etag", ""))
    if etag is None:
        raise Garbled("it has no ETag")
    return Written(etag[1], *_replicas(answer.headers))


def _deleted(answer: Answer) -> Written:
    acks, owners = _replicas(answer.headers)
    if owners is None:
        raise Garbled("it does not say how many replicas took it")  # 204 alone is anybody's
    return Written(None, acks, owners)


def _replicas(headers: Mapping[str, str]) -> tuple[int | None, int | None]:
    found = _whole_replicas(headers.get("kv-replicas", ""))
    return (int(found[1]), int(found[2])) if found else (None, None)
