"""Every error has a slug, a title, a status, and evidence that reaches the client."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from twisted_kv import errors
from twisted_kv.errors import KvError, Unreached
from twisted_kv.names import NodeId
from twisted_kv.resp.refusals import CODES
from twisted_kv.web.answers import STATUS, problem_body, status_of


def family(kind: type[KvError]) -> Iterator[type[KvError]]:
    """Give the errors that daemons have; those of the Python clients are never answered."""
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from family(child)


NAMED = sorted({kind for kind in family(KvError) if kind.slug}, key=lambda kind: kind.slug)


def test_every_error_with_a_slug_is_mapped_to_http_and_nothing_else_is() -> None:
    assert set(STATUS) == set(NAMED)


def test_every_error_with_a_slug_has_a_code_for_redis_clients_and_nothing_else_has() -> None:
    assert set(CODES) == set(NAMED)
    assert [code for code in CODES.values() if not code.isupper()] == []


def test_slugs_are_unique_and_every_leaf_has_one() -> None:
    assert len({kind.slug for kind in NAMED}) == len(NAMED)
    leaves = [kind for kind in family(KvError) if not kind.__subclasses__()]
    assert [leaf for leaf in leaves if not (leaf.slug and leaf.title)] == []


@pytest.mark.parametrize("kind", NAMED, ids=lambda kind: kind.slug)
def test_a_problem_says_what_and_why_and_what_to_do(kind: type[KvError]) -> None:
    fields = json.loads(problem_body(kind("it broke", "mend it"), STATUS[kind]))
    assert (fields["type"], fields["title"], fields["status"]) == (kind.slug, kind.title, STATUS[kind])
    assert (fields["detail"], fields["hint"]) == ("it broke", "mend it")


def test_an_unreached_majority_shows_its_evidence() -> None:
    error = Unreached(
        "no", required=2, acks=1, maybe_applied=True, etag="ab", replicas={NodeId("n-1"): "refused to answer"}
    )
    fields = json.loads(problem_body(error, 503))
    assert (fields["required"], fields["acks"], fields["maybe_applied"], fields["etag"]) == (2, 1, True, "ab")
    assert fields["replicas"] == [{"node": "n-1", "error": "refused to answer"}]


def test_the_originals_calls_know_only_the_originals_statuses() -> None:
    assert status_of(errors.ValueTooLarge(""), original=True) == 400
    assert status_of(errors.DeadlinePassed(""), original=True) == 503
    assert status_of(errors.NotANode(""), original=True) == 422
    assert status_of(errors.KeyAbsent(""), original=True) == 404
