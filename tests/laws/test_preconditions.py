"""``If-Match`` and ``If-None-Match``, as RFC 9110 has them in sections 8.8.3 and 13.1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def test_a_quoted_asterisk_is_a_tag_and_not_any_value() -> None:
    assert parse_precondition('"*"', None).judge(VALUE) is Verdict.FAILED
    assert parse_precondition(None, '"*"').judge(VALUE) is Verdict.MET


@pytest.mark.parametrize("tags", [f", {TAG}", f"{TAG}, ", f"{OTHER},,{TAG}", f" , {OTHER} ,\t, {TAG} ,"])
def test_empty_elements_of_a_list_are_passed_over(tags: str) -> None:
    assert parse_precondition(tags, None).judge(VALUE) is Verdict.MET
    assert parse_precondition(None, tags).judge(VALUE) is Verdict.UNCHANGED


@pytest.mark.parametrize("tags", ["", " ", ", ,"])
def test_a_list_of_nothing_matches_nothing(tags: str) -> None:
    assert parse_precondition(tags, None).judge(VALUE) is Verdict.FAILED
    assert parse_precondition(None, tags).judge(VALUE) is Verdict.MET


def test_a_tag_differs_from_one_that_begins_like_it_or_is_written_in_capitals() -> None:
    held = Record(Version(b"\xab" * 16), b"value")
    for other in (etag_of(held)[:-2] + '"', etag_of(held).upper(), '""'):
        assert parse_precondition(other, None).judge(held) is Verdict.FAILED


versions = st.binary(min_size=16, max_size=16).map(Version)
gaps = st.sampled_from([",", ", ", " ,\t", ",,", " , , "])


@given(st.lists(st.tuples(versions, st.booleans(), gaps), min_size=1, max_size=6), versions)
def test_any_list_of_tags_is_read_back(listed: list[tuple[Version, bool, str]], other: Version) -> None:
    text = "".join(f"{'W/' if weak else ''}{etag_of(Record(version, b''))}{gap}" for version, weak, gap in listed)
    strong = {version for version, weak, _ in listed if not weak}
    for version in {other, *(version for version, _, _ in listed)}:
        held = Record(version, b"value")
        met = parse_precondition(text, None).judge(held) is Verdict.MET
        unchanged = parse_precondition(None, text).judge(held) is Verdict.UNCHANGED
        assert (met, unchanged) == (version in strong, version in {listed_one for listed_one, _, _ in listed})


@given(st.text(st.characters(max_codepoint=255)))
def test_whatever_a_header_holds_is_read_or_refused(text: str) -> None:
    try:
        parse_precondition(text, text)
    except BadParameter:
        pass
