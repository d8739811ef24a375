"""What an attempt comes to. Only what a proxy says itself is evidence that nothing was done."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.client.scripts import ETAG, absent, failed, problem, unreached, written
from twisted_kv.client.judging import NOT_BEGUN, Answer, Fate, Lost, Unsent, judge, retry_after_s
from twisted_kv.client.trouble import BY_SLUG, UnknownProblem, error_of
from twisted_kv.errors import KvError, Overloaded, PreconditionFailed, TokenMissing, Unreached
from twisted_kv.web.answers import STATUS, problem_body

CHANGED = frozenset({204})
HTML = b"<html>Bad Gateway</html>"


@pytest.mark.parametrize(
    ("told", "fate"),
    [
        (written(), Fate.DONE),
        (Unsent("refused"), Fate.AGAIN),
        (Lost("broke"), Fate.UNKNOWN),
        (problem(429, "overloaded"), Fate.AGAIN),
        (Answer(429, {}, HTML), Fate.AGAIN),
        (problem(408, "request-too-slow"), Fate.AGAIN),
        (Answer(408, {}, HTML), Fate.UNKNOWN),
        (Answer(499, {}, HTML), Fate.UNKNOWN),
        (problem(503, "no-nodes"), Fate.AGAIN),
        (problem(503, "stopping"), Fate.AGAIN),
        (problem(503, "change-under-way"), Fate.AGAIN),
        (problem(503, "worker-silent"), Fate.UNKNOWN),
        (unreached(False), Fate.AGAIN),
        (unreached(True, ETAG), Fate.UNKNOWN),
        (problem(503, "quorum-unreached"), Fate.UNKNOWN),
        (problem(507, "no-room", maybe_applied=False), Fate.AGAIN),
        (problem(500, "internal-error"), Fate.UNKNOWN),
        (problem(503, "something-new"), Fate.UNKNOWN),
        (Answer(502, {}, HTML), Fate.UNKNOWN),
        (Answer(503, {"retry-after": "1"}, b""), Fate.UNKNOWN),
        (Answer(503, {}, b'{"maybe_applied": false}'), Fate.UNKNOWN),
        (Answer(200, {}, HTML), Fate.UNKNOWN),
        (Answer(301, {}, b""), Fate.UNKNOWN),
        (failed(ETAG), Fate.REFUSED),
        (absent(), Fate.REFUSED),
        (problem(401, "token-missing"), Fate.REFUSED),
        (Answer(404, {}, HTML), Fate.REFUSED),
    ],
)
def test_an_attempt_comes_to(told: Answer | Lost | Unsent, fate: Fate) -> None:
    assert judge(told, CHANGED).fate is fate


@given(st.integers(100, 999), st.binary(max_size=60))
def test_nothing_that_comes_makes_it_fail(status: int, body: bytes) -> None:
    verdict = judge(Answer(status, {}, body), CHANGED)
    assert (verdict.fate is Fate.DONE) == (status == 204)


def test_an_unknown_outcome_tells_the_version_and_a_certain_one_does_not() -> None:
    assert judge(unreached(True, ETAG), CHANGED).etag == ETAG
    assert judge(unreached(False, ETAG), CHANGED).etag is None
    assert judge(failed(ETAG), CHANGED).etag is None


@pytest.mark.parametrize(
    ("given", "seconds"), [("2", 2.0), ("0", 0.0), ("", 0.0), ("-1", 0.0), ("Wed, 21 Oct", 0.0), ("999999", 60.0)]
)
def test_retry_after_is_read_and_bounded(given: str, seconds: float) -> None:
    assert retry_after_s({"retry-after": given}) == seconds


def test_every_problem_of_a_proxy_is_an_error_of_its_own() -> None:
    for kind, status in STATUS.items():
        document = problem_body(kind("it broke", "mend it"), status, "r-1")
        verdict = judge(Answer(status, {}, document), CHANGED)
        assert type(verdict.error) is kind
        assert verdict.error is not None
        assert (verdict.error.detail, verdict.error.hint, verdict.error.request_id) == ("it broke", "mend it", "r-1")
    assert set(BY_SLUG) >= NOT_BEGUN


def test_evidence_survives() -> None:
    error = error_of(503, {"type": "quorum-unreached", "required": 2, "acks": 1, "maybe_applied": True, "etag": ETAG,
                           "replicas": [{"node": "n-1", "error": "refused"}, "junk"]})  # fmt: skip
    assert isinstance(error, Unreached)
    assert (error.required, error.acks, error.maybe_applied, error.etag) == (2, 1, True, ETAG)
    assert error.replicas == {"n-1": "refused"}
    refused = error_of(412, {"type": "precondition-failed", "etag": ETAG})
    assert isinstance(refused, PreconditionFailed)
    assert refused.etag == ETAG


@given(
    st.dictionaries(
        st.sampled_from(["type", "etag", "replicas", "required", "acks", "maybe_applied", "detail"]),
        st.one_of(st.none(), st.integers(), st.text(), st.lists(st.integers()), st.sampled_from(sorted(BY_SLUG))),
    )
)
def test_a_document_of_anything_is_an_error(fields: dict[str, object]) -> None:
    assert isinstance(error_of(503, fields), KvError)


def test_what_is_not_known_says_its_status_and_what_to_look_for() -> None:
    error = error_of(418, {})
    assert isinstance(error, UnknownProblem)
    assert (error.status, "418" in error.detail, "kvproxy" in error.hint) == (418, True, True)
    assert isinstance(error_of(503, {"type": "a-newer-one", "title": "New"}), UnknownProblem)
    assert type(error_of(429, {"type": "overloaded"})) is Overloaded
    assert type(error_of(401, {"type": "token-missing"})) is TokenMissing
