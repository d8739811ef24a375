"""Bulk: how lines are cut into requests, what is sent again, and what each line is told. Pages of keys."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.scripts import ETAG, OTHER, Script, lines, problem
from twisted_kv.client import many
from twisted_kv.client.judging import Answer, Fate, Garbled, Lost, Unsent, Verdict
from twisted_kv.client.many import Cutter, to_repeat
from twisted_kv.client.trouble import MaybeApplied, NobodyAnswers
from twisted_kv.client.values import Delete, Get, Line, Put, Result, Value, Written
from twisted_kv.client.wording import line_of, read_page, read_replies
from twisted_kv.errors import BodyTooLarge, KvError, Overloaded, PreconditionFailed, TokenMissing
from twisted_kv.web.bulk import _decode_text

DONE = {"status": 204, "etag": ETAG}


def run(script: Script, given: list[Line], told: list[Any], repeat: bool = False) -> list[Result]:
    (part,) = Cutter(given)
    return script.play(many.bulk(script.home, part, None, None, repeat), told)


def said(status: int, slug: str, **more: Any) -> dict[str, Any]:
    return {"status": status, "problem": {"type": slug, "title": slug, "detail": "so", **more}}


BUSY = said(429, "overloaded")
MAYBE = said(503, "quorum-unreached", maybe_applied=True, etag=OTHER)


def sent(script: Script) -> list[list[str]]:
    """What was sent in each request, as key and value."""
    return [
        [f"{line['key']}={line.get('value', '')}" for line in map(json.loads, (request.body or b"").splitlines())]
        for request in script.sent
    ]


# What becomes of lines.


def test_each_line_is_told_its_own() -> None:
    answer = lines(
        {"key": "a", **DONE},
        {"key": "a", "status": 200, "value_b64": "/w==", "etag": ETAG, "expires_ms": 5, "content_type": "a/b"},
        {"key": "b", **said(404, "key-absent")},
        {"key": "a", "status": 204},
        {"key": "c", **said(412, "precondition-failed", etag=OTHER)},
    )
    given: list[Line] = [Put("a", b"\xff"), Get("a"), Get("b"), Delete("a"), Put("c", "1", if_match=ETAG)]
    written, value, nothing, deleted, refused = run(Script(), given, [answer])
    assert (written, value, nothing) == (Written(ETAG), Value(b"\xff", ETAG, "a/b", 5), None)
    assert deleted == Written(None)
    assert isinstance(refused, PreconditionFailed)
    assert refused.etag == OTHER


def test_lines_that_did_nothing_are_sent_again() -> None:
    script = Script(servers=2)
    assert run(script, [Put("a", "1"), Put("b", "2")], [lines({**DONE}, BUSY), lines(DONE)]) == [Written(ETAG)] * 2
    assert sent(script) == [["a=1", "b=2"], ["b=2"]]


def test_a_line_is_not_sent_again_after_a_later_one_of_its_key() -> None:
    script = Script(servers=2)
    first, second = run(script, [Put("a", "1"), Put("a", "2")], [lines(BUSY, DONE)])
    assert isinstance(first, Overloaded)
    assert second == Written(ETAG)


def test_lines_of_a_key_are_sent_again_together() -> None:
    script = Script(servers=2)
    assert run(script, [Put("a", "1"), Put("a", "2")], [lines(BUSY, BUSY), lines(DONE, DONE)]) == [Written(ETAG)] * 2
    assert sent(script) == [["a=1", "a=2"]] * 2


def test_an_answer_that_breaks_off_is_good_as_far_as_it_goes() -> None:
    script = Script(servers=2)
    cut = Lost("it broke", lines(DONE, {"status": 200, "value": "v", "etag": ETAG}).body + b'{"status": 20')
    again = lines({"status": 200, "value": "w", "etag": OTHER, "expires_ms": 0})
    done, got, maybe, reread = run(script, [Put("a", "1"), Get("b"), Put("c", "3"), Get("d")], [cut, again])
    assert (done, reread) == (Written(ETAG), Value(b"w", OTHER, expires_ms=0))
    assert isinstance(got, Value)
    assert isinstance(maybe, MaybeApplied)
    assert sent(script)[1] == ["d="]


def test_a_line_of_unknown_outcome_tells_its_version_and_is_repeated_only_if_that_does_no_harm() -> None:
    (maybe,) = run(Script(), [Put("a", "1")], [lines(MAYBE)])
    assert isinstance(maybe, MaybeApplied)
    assert maybe.etags == {OTHER}
    assert run(Script(servers=2), [Put("a", "1")], [lines(MAYBE), lines(DONE)], repeat=True) == [Written(ETAG)]
    (maybe,) = run(Script(), [Put("a", "1", if_absent=True)], [lines(MAYBE)], repeat=True)
    assert isinstance(maybe, MaybeApplied)


def test_nobody_there_is_told_to_every_line() -> None:
    script = Script(timeout_s=1)
    results = run(script, [Put("a", "1"), Get("b")], [(1.0, Unsent("refused"))])
    assert [type(result) for result in results] == [NobodyAnswers, NobodyAnswers]


def test_a_garbled_answer_leaves_changes_in_doubt() -> None:
    for body in (b"<html>\n", b'{"status": 204}\n{"status": 204}\n', b"[]\n", b'{"status": 200, "etag": "x"}\n'):
        (result,) = run(Script(), [Put("a", "1")], [Answer(200, {}, body)])
        assert isinstance(result, MaybeApplied), body


def test_a_request_that_is_refused_as_such_is_raised() -> None:
    with pytest.raises(TokenMissing):
        run(Script(), [Put("a", "1")], [problem(401, "token-missing")])


def test_a_proxy_that_takes_less_is_sent_less() -> None:
    script = Script()
    large = problem(413, "body-too-large")
    given: list[Line] = [Put(key, "v") for key in "abc"]
    assert run(script, given, [large, lines(DONE), large, lines(DONE), lines(DONE)]) == [Written(ETAG)] * 3
    assert [len(request) for request in sent(script)] == [3, 1, 2, 1, 1]


def test_a_single_line_that_is_too_large_is_told_so() -> None:
    with pytest.raises(KvError, match="so"):
        run(Script(), [Put("a", "1")], [problem(413, "body-too-large")])


def test_a_half_that_is_refused_takes_nothing_from_what_the_other_was_told() -> None:
    given: list[Line] = [Put("a", "1"), Put("b", "2")]
    large = problem(413, "body-too-large")
    written, refused = run(Script(), given, [large, lines(DONE), large])
    assert (written, type(refused)) == (Written(ETAG), BodyTooLarge)
    refused, written = run(Script(), given, [large, problem(401, "token-missing"), lines(DONE)])
    assert (type(refused), written) == (TokenMissing, Written(ETAG))


def test_a_doubt_outlives_a_proxy_that_takes_less() -> None:
    given: list[Line] = [Put("a", "1"), Put("b", "2"), Get("a")]
    large = problem(413, "body-too-large")
    told = [lines(MAYBE, MAYBE, MAYBE), large, problem(401, "token-missing"), lines(DONE, said(404, "key-absent"))]
    first, second, third = run(Script(servers=2), given, told, repeat=True)
    assert isinstance(first, MaybeApplied)
    assert (first.etags, second, third) == ({OTHER}, Written(ETAG), None)


KEYS = st.sampled_from("ab")
FATES = st.sampled_from(list(Fate))


@given(st.lists(st.tuples(KEYS, FATES, st.booleans()), max_size=8), st.booleans())
def test_what_is_sent_again_is_the_end_of_what_was_sent_for_its_key(
    drawn: list[tuple[str, Fate, bool]], repeat: bool
) -> None:
    given = [Get(key) if reads else Put(key, "v") for key, _, reads in drawn]
    again = to_repeat(given, [Verdict(fate) for _, fate, _ in drawn], repeat)
    assert again == sorted(again)
    for key in "ab":
        own = [at for at, line in enumerate(given) if line.key == key]
        chosen = [at for at in again if at in own]
        assert chosen == own[len(own) - len(chosen) :]
    for at in again:
        fate, reads = drawn[at][1:]
        assert fate is Fate.AGAIN or (fate is Fate.UNKNOWN and (reads or repeat))


# How lines are cut.


def test_requests_are_cut_by_lines_and_bytes_and_nothing_is_lost() -> None:
    given = [Put(f"k{number}", "v" * (number % 300)) for number in range(3_000)]
    parts = list(Cutter(given, bytes_max=50_000))
    assert [asked.line for part in parts for asked in part] == given
    assert all(len(part) <= many.LINES_MAX for part in parts)
    assert all(sum(len(asked.sent) for asked in part) <= 50_000 for part in parts)
    assert len(list(Cutter(given))) == 3


def test_a_line_larger_than_a_request_goes_alone() -> None:
    parts = list(Cutter([Put("a", "1"), Put("b", "v" * 100), Put("c", "1")], bytes_max=60))
    assert [[asked.line.key for asked in part] for part in parts] == [["a"], ["b"], ["c"]]


def test_reads_are_few_until_it_is_known_how_large_values_are() -> None:
    cutter = Cutter(Get(f"k{number}") for number in range(100_000))
    parts = iter(cutter)
    sizes = [len(next(parts))]
    for size in (10, 10, 10, 10, 10, 10, 1 << 20, 1 << 30):
        cutter.answered([Value(bytes(min(size, 1 << 23)), ETAG)])
        sizes.append(len(next(parts)))
    assert sizes == [32, 64, 128, 256, 512, 1024, 1024, 4, 1]


def test_lines_are_taken_no_earlier_than_their_request_is_made() -> None:
    taken: list[int] = []

    def endless() -> Any:
        for number in range(10**9):
            taken.append(number)
            yield Get(str(number))

    next(iter(Cutter(endless())))
    assert len(taken) == many.GETS_FIRST + 1


# How lines are written and read.


@given(st.binary(min_size=1, max_size=40), st.one_of(st.binary(max_size=60), st.text(max_size=30)))
def test_a_proxy_reads_a_line_as_it_was_meant(key: bytes, value: bytes | str) -> None:
    from base64 import b64decode

    read = _decode_text(line_of(Put(key, value)))
    found = [
        plain.encode() if plain is not None else b64decode(coded or "")
        for plain, coded in ((read.key, read.key_b64), (read.value, read.value_b64))
    ]
    assert found == [key, value.encode() if isinstance(value, str) else value]


@given(st.binary(max_size=200))
def test_an_answer_of_anything_is_lines_or_garbled(body: bytes) -> None:
    try:
        replies = read_replies(body, 3)
    except Garbled:
        return
    assert len(replies) <= 3


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"keys": [1]}', b'{"keys": [], "cursor": 1}', b'{"keys": [{}]}'])
def test_a_page_that_is_none_is_garbled(body: bytes) -> None:
    with pytest.raises(Garbled):
        read_page(Answer(200, {}, body))


def test_pages_follow_one_another() -> None:
    script = Script(servers=2)
    page = Answer(200, {}, b'{"keys": ["a", {"b64": "/w=="}], "cursor": "x="}')
    found = script.play(many.keys(script.home, b"p\xff&", 2, "w=", None), [Lost("it broke"), page])
    assert (found.keys, found.cursor) == ([b"a", b"\xff"], "x=")
    assert script.sent[0].target == "/v1/keys?prefix=p%FF%26&limit=2&cursor=w%3D"
