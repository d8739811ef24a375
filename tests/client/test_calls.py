"""Calls, attempt by attempt: who is asked, what is tried again, and what a caller is told in the end."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from tests.client.scripts import (
    ETAG,
    OTHER,
    THIRD,
    Script,
    absent,
    failed,
    lines,
    ok,
    problem,
    unreached,
    written,
)
from twisted_kv.client import calls
from twisted_kv.client.judging import Answer, Lost, Told, Unsent
from twisted_kv.client.places import place_of
from twisted_kv.client.trip import Request, Route, Send, Steps
from twisted_kv.client.trouble import MaybeApplied, NobodyAnswers, NotACounter, UnknownProblem
from twisted_kv.client.values import Value, Written
from twisted_kv.client.wording import line_of
from twisted_kv.errors import Overloaded, PreconditionFailed, TokenMissing, Unreached

BROKEN = Lost("it broke")
GONE = Unsent("refused")


def put(script: Script, repeat: bool = False) -> Steps[Written]:
    return calls.put(
        script.home, "k", "v", ttl=None, content_type=None, consistency=None, timeout_s=None, repeat=repeat
    )


def cas(script: Script, expected: str | None, value: str | None = "v") -> Steps[Written]:
    return calls.cas(script.home, "k", value, expected, ttl=None, content_type=None, timeout_s=None)


def get(script: Script) -> Steps[Value | None]:
    return calls.get(script.home, "k", None, None)


def increment(script: Script, by: int = 1) -> Steps[int]:
    return calls.increment(script.home, "k", by, None, None)


# Reads.


def test_a_value_says_when_it_expires() -> None:
    status, headers, body = ok()
    told = Answer(status, {**headers, "kv-expires-ms": "1795944048276"}, body)
    assert Script().play(get(Script()), [told]) == Value(b"v", ETAG, "text/plain", 1795944048276)


@pytest.mark.parametrize("said", ["", "-1", "soon", "1.5", "\u0661", "9" * 5000])
def test_an_expiry_that_is_none_is_no_proxys(said: str) -> None:
    status, headers, body = ok()
    script = Script(servers=2)
    garbled = Answer(status, {**headers, "kv-expires-ms": said}, body)
    assert script.play(get(script), [garbled, ok()]) == Value(b"v", ETAG, "text/plain")
    assert len(script.asked) == 2


def test_a_value_comes_with_its_version_and_type_and_nothing_is_none() -> None:
    assert Script().play(get(script := Script()), [ok(b"\xff")]) == Value(b"\xff", ETAG, "text/plain")
    assert script.play(get(script), [absent()]) is None


@pytest.mark.parametrize(
    "told",
    [
        GONE,
        BROKEN,
        problem(503, "stopping", "1"),
        problem(429, "overloaded", "1"),
        problem(500, "internal-error"),
        Answer(502, {}, b"<html>"),
        Answer(200, {}, b"whoever this is, he has no ETag"),
        Answer(302, {"location": "elsewhere"}, b""),
    ],
)
def test_a_read_goes_to_the_next_proxy_at_once_whatever_becomes_of_the_first(told: Told) -> None:
    script = Script(servers=2)
    assert script.play(get(script), [told, ok()]) == Value(b"v", ETAG, "text/plain")
    assert (len(set(script.asked)), script.pauses) == (2, [])


def test_404_of_somebody_else_is_not_an_absent_key() -> None:
    with pytest.raises(UnknownProblem):
        Script().play(get(script := Script()), [Answer(404, {}, b"<html>not here</html>")])
    assert script.sent == []


def test_the_proxy_that_answered_is_asked_again_and_the_one_that_failed_is_not() -> None:
    script = Script(servers=3)
    script.play(get(script), [GONE, ok()])
    script.play(get(script), [ok()])
    first, second, third = script.asked
    assert first != second == third


def test_once_all_have_failed_there_is_a_pause_as_long_as_the_most_patient_of_them_wants() -> None:
    script = Script(servers=2)
    script.play(get(script), [problem(429, "overloaded", "3"), problem(503, "stopping", "1"), ok()])
    assert script.pauses == [3.0]


def test_pauses_double_and_are_drawn_by_chance() -> None:
    script = Script(timeout_s=60)
    script.play(get(script), [GONE] * 6 + [ok()])
    assert all(0.01 * 2**n <= pause <= 0.02 * 2**n for n, pause in enumerate(script.pauses))
    assert len(script.pauses) == 6


def test_a_call_ends_in_its_time_however_long_proxies_want_to_be_left_alone() -> None:
    script = Script(timeout_s=5)
    with pytest.raises(Overloaded):
        script.play(get(script), [problem(429, "overloaded", "4"), problem(429, "overloaded", "4")])
    assert script.now_s <= 5


def test_each_attempt_of_a_read_leaves_time_for_another_and_the_proxy_is_told_less_than_we_wait() -> None:
    script = Script(servers=3, timeout_s=10)
    script.play(get(script), [(4.0, BROKEN), (4.0, BROKEN), ok()])
    assert script.waits == [4.0, 4.0, 2.0]
    assert [float(request.parameters["timeout"]) for request in script.sent] == [3.2, 3.2, 1.6]


def test_nobody_there_says_what_was_tried() -> None:
    script = Script(servers=2, timeout_s=1)
    with pytest.raises(NobodyAnswers) as caught:
        script.play(get(script), [(0.5, GONE), (0.5, GONE)])
    assert [line.split(": ")[1] for line in caught.value.tried] == ["refused", "refused"]
    assert caught.value.hint


def test_what_will_not_change_is_told_at_once_unless_another_proxy_may_do_better() -> None:
    script = Script(servers=2)
    untrusted = Unsent("its certificate has expired", hopeless=True)
    with pytest.raises(NobodyAnswers):
        script.play(get(script), [untrusted, untrusted])
    assert script.play(get(script), [untrusted, GONE, untrusted, ok()]) == Value(b"v", ETAG, "text/plain")


def test_what_the_last_proxy_said_is_raised() -> None:
    script = Script(timeout_s=1)
    with pytest.raises(Unreached) as caught:
        script.play(get(script), [(1.0, unreached(False))])
    assert (caught.value.required, caught.value.acks) == (2, 1)


def test_a_refusal_is_raised_at_once() -> None:
    script = Script(servers=3)
    with pytest.raises(TokenMissing):
        script.play(get(script), [problem(401, "token-missing")])


# Plain changes.


def test_a_put_that_certainly_did_nothing_is_tried_again() -> None:
    script = Script(servers=2)
    nothing = [GONE, problem(429, "overloaded"), unreached(False), problem(503, "no-nodes")]
    assert script.play(put(script), [*nothing, written()]) == Written(ETAG, 2, 3)


@pytest.mark.parametrize(
    "told",
    [
        BROKEN,
        problem(500, "internal-error"),
        Answer(502, {}, b""),
        Answer(204, {}, b""),
        Answer(204, {"etag": '"1'}, b""),
    ],
)
def test_a_put_of_unknown_outcome_is_not_repeated(told: Told) -> None:
    script = Script(servers=3)
    with pytest.raises(MaybeApplied) as caught:
        script.play(put(script), [told, ok(b"somebody's", OTHER)])
    assert [request.method for request in script.sent] == ["PUT", "GET"]
    assert (caught.value.looked, caught.value.held) == (True, Value(b"somebody's", OTHER, "text/plain"))
    assert len(caught.value.tried) == 1


def test_a_put_of_unknown_outcome_is_done_if_its_version_is_found() -> None:
    script = Script(servers=2)
    assert script.play(put(script), [unreached(True, ETAG), ok(b"v", ETAG)]) == Written(ETAG)
    assert script.sent[1].parameters["consistency"] == "strong"


def test_that_nothing_is_found_proves_nothing() -> None:
    script = Script(servers=2)
    with pytest.raises(MaybeApplied) as caught:
        script.play(put(script), [unreached(True, ETAG), absent()])
    assert (caught.value.etags, caught.value.looked, caught.value.held) == ({ETAG}, True, None)


def test_who_cannot_look_says_so() -> None:
    script = Script(servers=2)
    with pytest.raises(MaybeApplied) as caught:
        script.play(put(script), [BROKEN, BROKEN])
    assert (caught.value.looked, caught.value.held) == (False, None)


@pytest.mark.parametrize(
    "told", [problem(503, "quorum-unreached", "60", maybe_applied=True), problem(429, "overloaded", "60")]
)
def test_who_may_not_look_in_time_says_so(told: Told) -> None:
    script = Script(servers=2)
    with pytest.raises(MaybeApplied) as caught:
        script.play(cas(script, OTHER), [BROKEN, told])
    assert (caught.value.looked, len(caught.value.tried)) == (False, 2)


def test_what_is_in_doubt_when_there_is_no_time_for_a_pause_is_told_as_that() -> None:
    script = Script(timeout_s=5)
    with pytest.raises(MaybeApplied) as caught:
        script.play(cas(script, ETAG), [(4.0, BROKEN), (0.97, BROKEN)])
    assert caught.value.looked is False


def test_a_put_has_all_the_time_since_there_is_no_second_attempt() -> None:
    script = Script(timeout_s=10)
    with pytest.raises(MaybeApplied):
        script.play(put(script), [(10.0, BROKEN)])
    assert script.waits == [10.0]


def test_who_says_that_it_does_no_harm_has_a_put_repeated() -> None:
    script = Script(servers=2)
    assert script.play(put(script, repeat=True), [BROKEN, unreached(True), written(OTHER)]) == Written(OTHER, 2, 3)


def test_a_repeated_put_that_fails_in_the_end_is_still_in_doubt() -> None:
    script = Script(timeout_s=1)
    with pytest.raises(MaybeApplied):
        script.play(put(script, repeat=True), [(0.5, BROKEN), (0.5, GONE)])


def test_a_delete_of_unknown_outcome_is_not_repeated_either() -> None:
    script = Script(servers=2)
    steps = calls.delete(script.home, "k", consistency=None, timeout_s=None, repeat=False)
    with pytest.raises(MaybeApplied):
        script.play(steps, [BROKEN, absent()])
    steps = calls.delete(script.home, "k", consistency="all", timeout_s=None, repeat=True)
    assert script.play(steps, [BROKEN, Answer(204, {"kv-replicas": "3/3"}, b"")]) == Written(None, 3, 3)


def test_a_deletion_that_somebody_else_acknowledges_is_in_doubt() -> None:
    script = Script()
    steps = calls.delete(script.home, "k", consistency=None, timeout_s=0.01, repeat=False)
    with pytest.raises(MaybeApplied):
        script.play(steps, [Answer(204, {}, b"")])


def test_what_was_tried_is_told_a_line_each_whatever_came_back() -> None:
    script = Script(timeout_s=0.01)
    with pytest.raises(NobodyAnswers) as caught:
        script.play(get(script), [Lost("no answer: HTTP/1.1 abc\r\n2026 all is well\x1b[2J")])
    assert caught.value.tried == ("http://a:1: no answer: HTTP/1.1 abc  2026 all is well [2J",)


def test_a_place_is_shown_without_its_token() -> None:
    place = place_of("http://a:1")._replace(token="secret")
    assert "secret" not in repr(Send(place, Request("GET", "/"), 1.0, 1.0))


# Conditional changes.


def test_cas_says_what_it_expects() -> None:
    script = Script()
    script.play(cas(script, ETAG), [written()])
    script.play(cas(script, f'"{ETAG}"'), [written()])
    script.play(cas(script, None), [written()])
    script.play(cas(script, ETAG, None), [Answer(204, {"kv-replicas": "2/3"}, b"")])
    conditions = [{k: v for k, v in r.headers.items() if k.startswith("If-")} for r in script.sent]
    expected = {"If-Match": f'"{ETAG}"'}
    assert conditions == [expected, expected, {"If-None-Match": "*"}, expected]
    assert [request.method for request in script.sent] == ["PUT", "PUT", "PUT", "DELETE"]


def test_a_version_that_is_gone_is_told_with_the_one_that_is_there() -> None:
    script = Script()
    with pytest.raises(PreconditionFailed) as caught:
        script.play(cas(script, ETAG), [failed(OTHER)])
    assert caught.value.etag == OTHER


def test_cas_on_a_version_is_repeated_since_at_most_one_attempt_finds_it() -> None:
    script = Script(servers=2)
    assert script.play(cas(script, ETAG), [BROKEN, written(OTHER)]) == Written(OTHER, 2, 3)


def test_cas_whose_own_version_stands_in_its_way_has_succeeded() -> None:
    script = Script(servers=2)
    assert script.play(cas(script, ETAG), [unreached(True, OTHER), failed(OTHER)]) == Written(OTHER)


def test_cas_that_finds_a_stranger_after_a_lost_answer_is_in_doubt() -> None:
    script = Script(servers=2)
    with pytest.raises(MaybeApplied) as caught:
        script.play(cas(script, ETAG), [BROKEN, failed(THIRD), ok(b"v", THIRD)])
    assert caught.value.held == Value(b"v", THIRD, "text/plain")


def test_cas_that_was_overtaken_while_it_was_asked_again_is_found_by_looking() -> None:
    script = Script(servers=2)
    told = [unreached(True, OTHER), problem(401, "token-missing"), ok(b"v", OTHER)]
    assert script.play(cas(script, ETAG), told) == Written(OTHER)


def test_a_put_that_demands_an_absent_key_is_not_repeated() -> None:
    script = Script(servers=2)
    with pytest.raises(MaybeApplied):
        script.play(cas(script, None), [BROKEN, absent()])
    assert script.play(cas(script, None), [unreached(True, ETAG), ok(b"v", ETAG)]) == Written(ETAG)
    assert script.play(cas(script, None), [unreached(False), written()]) == Written(ETAG, 2, 3)


@pytest.mark.parametrize("etag", ['a"b', "a\r\nX: y", "", "é"])
def test_a_version_that_is_none_is_refused_before_anything_is_sent(etag: str) -> None:
    script = Script()
    with pytest.raises(ValueError, match="is no version"):
        script.play(cas(script, etag), [])


def test_to_delete_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to delete"):
        Script().play(cas(Script(), None, None), [])


# Counters.


def counter(value: str = "5", etag: str = ETAG, **more: Any) -> Answer:
    return lines({"key": "k", "status": 200, "value": value, "etag": etag, **more})


def counted(etag: str = OTHER) -> Answer:
    return lines({"key": "k", "status": 204, "etag": etag})


def told_in_line(answer: Answer) -> Answer:
    import json

    return lines({"key": "k", "status": answer.status, "problem": json.loads(answer.body)})


def sent_lines(script: Script) -> list[dict[str, Any]]:
    import json

    return [json.loads(request.body or b"") for request in script.sent]


def test_a_counter_keeps_its_expiry_and_its_type() -> None:
    script = Script()
    assert script.play(increment(script, 3), [counter(expires_ms=99, content_type="text/x"), counted()]) == 8
    assert sent_lines(script)[1] == {
        "op": "put",
        "key": "k",
        "value": "8",
        "expires_ms": 99,
        "content_type": "text/x",
        "if_match": ETAG,
    }


def test_a_counter_begins_only_if_nobody_has_begun_it() -> None:
    script = Script()
    assert script.play(increment(script), [told_in_line(absent()), counted()]) == 1
    assert sent_lines(script)[1]["if_none_match"] == "*"


def test_who_was_overtaken_counts_on_what_is_there_now() -> None:
    script = Script()
    told = [counter("5"), told_in_line(failed(OTHER)), counter("6", OTHER), counted(THIRD)]
    assert script.play(increment(script), told) == 7
    assert len(script.pauses) == 1


def test_an_increment_of_unknown_outcome_is_counted_once_or_told() -> None:
    script = Script(servers=2)
    assert script.play(increment(script), [counter(), BROKEN, counted()]) == 6
    maybe = told_in_line(unreached(True, OTHER))
    assert script.play(increment(script), [counter(), maybe, told_in_line(failed(OTHER))]) == 6
    with pytest.raises(MaybeApplied):
        script.play(increment(script), [counter(), BROKEN, told_in_line(failed(THIRD)), ok(b"6", THIRD)])
    with pytest.raises(MaybeApplied):
        script.play(increment(script), [told_in_line(absent()), BROKEN, ok(b"1", THIRD)])


def test_a_version_that_a_failed_read_names_is_not_taken_for_the_increments_own() -> None:
    script = Script(servers=2)
    failing = told_in_line(problem(503, "quorum-unreached", etag=ETAG))
    with pytest.raises(MaybeApplied):
        script.play(increment(script), [failing, counter(), BROKEN, told_in_line(failed(ETAG)), ok(b"5", ETAG)])


def test_a_read_whose_answer_was_lost_leaves_an_increment_in_no_doubt() -> None:
    script = Script(servers=2)
    told = [BROKEN, counter(), told_in_line(failed(OTHER)), counter("9", OTHER), counted()]
    assert script.play(increment(script), told) == 10


@pytest.mark.parametrize("value", ["five", "", "1.5", "05", "+5", " 5", "9" * 30])
def test_what_is_no_number_is_not_counted(value: str) -> None:
    with pytest.raises(NotACounter):
        Script().play(increment(Script()), [counter(value)])


def test_a_counter_has_64_bits_as_in_redis() -> None:
    with pytest.raises(NotACounter, match="64 bits"):
        Script().play(increment(Script()), [counter(str((1 << 63) - 1))])


@pytest.mark.parametrize(
    "answer", [Answer(200, {}, b""), Answer(200, {}, b"<html>\n"), Answer(200, {}, b'{"status": 1}')]
)
def test_a_garbled_line_is_an_unknown_outcome(answer: Answer) -> None:
    script = Script(servers=2)
    assert script.play(increment(script), [counter(), answer, counted()]) == 6


# How keys and parameters are written.


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("a/b", "/v1/kv/a%2Fb"),
        (b"\x00\xff", "/v1/kv/%00%FF"),
        (".", "/v1/kv/%2E"),
        ("..", "/v1/kv/%2E%2E"),
        ("ü ?#%", "/v1/kv/%C3%BC%20%3F%23%25"),
    ],
)
def test_keys_are_escaped_whatever_they_hold(key: str | bytes, path: str) -> None:
    assert calls.path_of(key) == path


def test_what_was_asked_for_is_sent() -> None:
    script = Script()
    steps = calls.put(script.home, "k", b"v", ttl=1.5, content_type="a/b", consistency="all", timeout_s=5, repeat=False)
    script.play(steps, [written()])
    (request,) = script.sent
    assert request.target == "/v1/kv/k?consistency=all&ttl=1.5&timeout=4.000000"
    assert (request.headers, request.body) == ({"Content-Type": "a/b"}, b"v")


@pytest.mark.parametrize("content_type", ["", "a\r\nb", "ä/b"])
def test_a_content_type_that_no_header_holds_is_refused(content_type: str) -> None:
    script = Script()
    steps = calls.put(
        script.home, "k", b"v", ttl=None, content_type=content_type, consistency=None, timeout_s=None, repeat=False
    )
    with pytest.raises(ValueError, match="content type"):
        script.play(steps, [])


@pytest.mark.parametrize("wrong", [None, 5, ["v"]])
def test_what_is_neither_bytes_nor_text_is_refused_before_anything_is_sent(wrong: Any) -> None:
    script = Script()
    for key, value in (("k", wrong), (wrong, "v")):
        steps = calls.put(
            script.home, key, value, ttl=None, content_type=None, consistency=None, timeout_s=None, repeat=False
        )
        with pytest.raises(TypeError, match="bytes or strings"):
            script.play(steps, [])
    with pytest.raises(TypeError, match="Get, Put or Delete"):
        line_of(wrong)


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_a_time_out_that_is_none_is_refused(timeout_s: float) -> None:
    with pytest.raises(ValueError, match="time-out"):
        Script().play(calls.get(Script().home, "k", None, timeout_s), [])


def test_calls_at_the_same_time_ask_everybody_before_they_pause() -> None:
    script = Script(servers=3)
    slow, quick = get(script), get(script)
    first: Any = next(slow)
    script.play(quick, [GONE, GONE, ok()])
    second: Any = slow.send(GONE)
    third: Any = slow.send(GONE)
    assert {first.place.host, second.place.host, third.place.host} == {"a", "b", "c"}


def test_many_clients_begin_with_different_proxies() -> None:
    places = [place_of(f"http://{name}:1") for name in "abc"]
    assert {Route(places, Random(seed)).places[0].host for seed in range(20)} == {"a", "b", "c"}


class Interleaved(list[Any]):
    """Proxies of a route which another thread turns round just after the first of them was looked at."""

    def __init__(self, places: list[Any], turn: Any) -> None:
        super().__init__(places)
        self._turns = [turn]

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        if at == 0 and self._turns:
            self._turns.pop()()
        return found


def test_no_proxy_is_lost_when_two_threads_turn_away_from_one_at_once() -> None:
    route = Route([place_of(f"http://{name}:1") for name in "ab"], Random(1))
    first, second = route.places
    route.places = Interleaved(route.places, lambda: route.failed(first))
    route.failed(first)
    assert route.places == [second, first]
