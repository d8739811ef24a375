"""``If-Match`` and ``If-None-Match``, as RFC 9110 has them in sections 8.8.3 and 13.1."""

from __future__ import annotations

import pytest

from twisted_kv.errors import BadParameter
from twisted_kv.preconditions import Verdict, etag_of, parse_precondition
from twisted_kv.versions import Record, Version

VALUE = Record(Version(bytes(15) + b"\x07"), b"value")
TOMBSTONE = Record(Version(bytes(15) + b"\x08"), None)
TAG, OTHER = etag_of(VALUE), '"00"'


@pytest.mark.parametrize("tags", [TAG, f"{OTHER}, {TAG}", f"{TAG},{OTHER}", "*", f" {TAG} "])
def test_if_match_is_met_by_the_version_that_the_key_holds(tags: str) -> None:
    assert parse_precondition(tags, None).judge(VALUE) is Verdict.MET


@pytest.mark.parametrize("tags", [OTHER, f"W/{TAG}"])
def test_if_match_fails_on_other_versions_and_on_weak_tags(tags: str) -> None:
    assert parse_precondition(tags, None).judge(VALUE) is Verdict.FAILED


@pytest.mark.parametrize("tags", [TAG, f"{OTHER}, {TAG}", "*", f"W/{TAG}"])
def test_if_none_match_excludes_the_version_that_the_key_holds(tags: str) -> None:
    assert parse_precondition(None, tags).judge(VALUE) is Verdict.UNCHANGED


@pytest.mark.parametrize("held", [None, TOMBSTONE])
def test_a_key_without_a_value_matches_nothing(held: Record | None) -> None:
    assert parse_precondition("*", None).judge(held) is Verdict.FAILED
    assert parse_precondition(etag_of(TOMBSTONE), None).judge(held) is Verdict.FAILED
    assert parse_precondition(None, "*").judge(held) is Verdict.MET


def test_if_match_is_judged_before_if_none_match() -> None:
    assert parse_precondition(OTHER, TAG).judge(VALUE) is Verdict.FAILED
    assert parse_precondition(TAG, TAG).judge(VALUE) is Verdict.UNCHANGED


@pytest.mark.parametrize("tags", ["abc", '"abc', 'x"abc"', '"a" "b"', "*, *", 'w/"a"'])
def test_what_is_no_list_of_etags_is_refused(tags: str) -> None:
    with pytest.raises(BadParameter):
        parse_precondition(tags, None)


def test_no_header_is_no_precondition() -> None:
    assert not parse_precondition(None, None)
    assert parse_precondition(None, None).judge(None) is Verdict.MET
