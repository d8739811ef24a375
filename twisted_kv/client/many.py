"""Many operations in few requests, and the keys of a prefix page by page.

Lines are done in their order where they speak of one key. So a line is only tried again together with all later lines
of its key that were sent with it: else it would come after them, and undo them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ..errors import BodyTooLarge, KeyAbsent, KvError
from ..limits import MIB
from .calls import OK, carry
from .judging import Answer, Fate, Garbled, Lost, Told, Verdict, judge
from .trip import Home, Steps, Trip
from .trouble import MaybeApplied, NobodyAnswers
from .values import Get, Line, Put, Result, bytes_of
from .wording import Page, Reply, bulk_request, keys_request, line_of, read_page, read_replies

LINES_MAX = 1_024
"""Lines in one request: a proxy has no more under way of one at a time."""
BYTES_MAX = 4 * MIB
"""Bytes of one request. A proxy takes eight MiB by default; one that takes less says so, and is sent less."""
GETS_FIRST = 32
"""Reads in the first request, as long as nobody knows how large the values are."""
ANSWER_BYTES = 4 * MIB
"""What an answer should have at the most. It is held in memory."""
PAGE_KEYS = 1_000
"""The most that a proxy puts into one page."""
CUT = Verdict(Fate.UNKNOWN, None, "the answer was cut before this line")


class Asked(NamedTuple):
    """One line, and how it is sent."""

    line: Line
    sent: bytes


class Cutter:
    """Cuts lines into requests: by bytes, by number, and reads by how large their answers were until now."""

    def __init__(self, lines: Iterable[Line], bytes_max: int = BYTES_MAX) -> None:
        self._lines = iter(lines)
        self._bytes_max = bytes_max
        self._held: Asked | None = None
        self._gets_max = GETS_FIRST

    def __iter__(self) -> Iterator[list[Asked]]:
        while True:
            part = self._part()
            if not part:
                return
            yield part

    def answered(self, results: Sequence[Result]) -> None:
        """Learn how large values are."""
        sizes = [len(value) for result in results if (value := getattr(result, "value", None)) is not None]
        if sizes:
            mean = max(1, sum(sizes) // len(sizes))
            self._gets_max = max(1, min(LINES_MAX, 2 * self._gets_max, ANSWER_BYTES // mean))

    def _part(self) -> list[Asked]:
        part: list[Asked] = []
        size = gets = 0
        while len(part) < LINES_MAX:
            asked, self._held = self._held or self._next(), None
            if asked is None:
                break
            size += len(asked.sent)
            gets += isinstance(asked.line, Get)
            if part and (size > self._bytes_max or gets > self._gets_max):
                self._held = asked
                break
            part.append(asked)
        return part

    def _next(self) -> Asked | None:
        line = next(self._lines, None)
        return Asked(line, line_of(line)) if line is not None else None


def bulk(
    home: Home, part: Sequence[Asked], consistency: str | None, timeout_s: float | None, repeat: bool
) -> Steps[list[Result]]:
    """Have the lines of one request done, and give what became of each.

    :raises KvError: if the request as such was refused.
    """
    trip = Trip(home, timeout_s)
    verdicts: dict[int, Verdict] = {}
    doubts: dict[int, set[str]] = {}
    """The versions of attempts of unknown outcome, by line."""
    results: dict[int, Result] = {}
    outcomes: dict[int, Result] = {}
    left = list(range(len(part)))
    while True:
        told = yield from trip.send(bulk_request([part[place].sent for place in left], consistency), repeat)
        whole, replies = judge_lines(told, len(left))
        if isinstance(whole.error, BodyTooLarge) and len(left) > 1:
            # It is too much for one request, and nothing of it was done.
            for some in (left[: len(left) // 2], left[len(left) // 2 :]):
                half = [part[place] for place in some]
                try:
                    found = yield from bulk(home, half, consistency, timeout_s, repeat)
                except KvError as error:  # of this half alone: something of the other one may have been done
                    found = [error] * len(some)
                for place, one in zip(some, found, strict=True):
                    outcomes[place] = _in_doubt(part[place].line, one, doubts.get(place))
            break
        if whole.fate is Fate.REFUSED and not verdicts:
            assert whole.error is not None
            raise whole.error
        for place, reply in zip(left, replies, strict=True):
            verdicts[place] = reply.verdict
            results[place] = reply.value
            if reply.verdict.fate is Fate.UNKNOWN:
                doubts.setdefault(place, set()).update(filter(None, [reply.verdict.etag]))
        lines = [part[place].line for place in left]
        again = [left[at] for at in to_repeat(lines, [reply.verdict for reply in replies], repeat)]
        if not again:
            break
        trip.note(whole if whole.fate is not Fate.DONE else verdicts[again[0]])
        if not (yield from trip.go_on()):
            break
        left = again
    for place, asked in enumerate(part):
        if place not in outcomes:
            outcomes[place] = _outcome(asked.line, verdicts[place], results[place], doubts.get(place))
    return [outcomes[place] for place in range(len(part))]


def judge_lines(told: Told, count: int) -> tuple[Verdict, list[Reply]]:
    """Judge an attempt as a whole, and line by line. Of an answer that broke off, what came is as good as ever."""
    verdict = judge(told, OK)
    if verdict.fate is not Fate.DONE and not isinstance(told, Lost):
        return verdict, [Reply(verdict)] * count
    assert isinstance(told, Answer | Lost)
    try:
        replies = read_replies(told.body, count)
    except Garbled as error:
        verdict = Verdict(Fate.UNKNOWN, None, f"the answer is none of a kvproxy: {error}")
        return verdict, [Reply(verdict)] * count
    missing = count - len(replies)
    return verdict, replies + [Reply(CUT if verdict.fate is Fate.DONE else verdict)] * missing


def to_repeat(lines: Sequence[Line], verdicts: Sequence[Verdict], repeat: bool) -> list[int]:
    """Say which lines are to be sent again, by their places.

    :param repeat: whether changes may be repeated whose outcome is not known. Reads always are.
    """
    found: list[int] = []
    settled: set[bytes] = set()
    """Keys of which a later line is not sent again."""
    for at in reversed(range(len(lines))):
        line, fate, key = lines[at], verdicts[at].fate, bytes_of(lines[at].key)
        may = fate is Fate.AGAIN or (
            fate is Fate.UNKNOWN and (isinstance(line, Get) or (repeat and not _depends(line)))
        )
        if may and key not in settled:
            found.append(at)
        else:
            settled.add(key)
    return found[::-1]


def _depends(line: Line) -> bool:
    return not isinstance(line, Get) and (line.if_match is not None or (isinstance(line, Put) and line.if_absent))


def _outcome(line: Line, verdict: Verdict, result: Result, doubts: set[str] | None) -> Result:
    """Say what became of a line, by its last attempt."""
    if verdict.fate is Fate.DONE:
        return result
    if isinstance(verdict.error, KeyAbsent) and isinstance(line, Get):
        return None
    error = verdict.error or NobodyAnswers(f"a line brought no answer: {verdict.why}", tried=[verdict.why])
    return _in_doubt(line, error, doubts, verdict.why)


def _in_doubt(line: Line, result: Result, doubts: set[str] | None, why: str = "") -> Result:
    """Give a line's result, where attempts before it leave no doubt.

    :param doubts: the versions of these attempts; None if there were none of unknown outcome.
    """
    if doubts is None or isinstance(line, Get) or not isinstance(result, KvError):
        return result
    etags = doubts | (result.etags if isinstance(result, MaybeApplied) else set())
    return MaybeApplied(f"a line was sent, and its outcome is not known: {why or result.detail}", etags=etags)


def keys(home: Home, prefix: bytes, limit: int, cursor: str | None, timeout_s: float | None) -> Steps[Page]:
    """Fetch a page of keys."""
    trip = Trip(home, timeout_s)
    page = yield from carry(trip, keys_request(prefix, limit, cursor), OK, read_page, again=True)
    if page.error is not None:
        raise page.error
    found: Page = page.answer
    return found
