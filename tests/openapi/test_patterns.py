"""What the document's patterns and bounds allow is what the code that reads it takes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_kv.backups import checked_name
from twisted_kv.errors import BadParameter
from twisted_kv.limits import Limits
from twisted_kv.preconditions import TAGS, parse_precondition
from twisted_kv.seating import URL_CHARS_MAX, URL_PATTERN, ZONE_PATTERN, checked_url, checked_zone
from twisted_kv.web.calls.backups import NAME_PATTERN
from twisted_kv.web.calls.keys import LIST_KEYS
from twisted_kv.web.keys import _cursor
from twisted_kv.web.parameters import FLAGS, TIMEOUT, flag_of, seconds

CURSOR = next(one for one in LIST_KEYS.query if one.name == "cursor").schema(Limits())["pattern"]


class Asked:
    """As much of a request as parameters are read from."""

    def __init__(self, query: dict[bytes, list[bytes]]) -> None:
        self.args = query


@given(st.from_regex(URL_PATTERN, fullmatch=True).filter(lambda url: len(url) <= URL_CHARS_MAX))
def test_every_url_of_the_pattern_is_one(url: str) -> None:
    assert re.match(URL_PATTERN, checked_url(url))


@pytest.mark.parametrize("extra", ["[::1]*", "[::1]x:1", "[::1", "::1]", "host:", "host:1:2", "a[b]", "user@host"])
def test_what_stands_beside_a_host_is_refused_and_does_not_match_the_pattern(extra: str) -> None:
    assert not re.match(URL_PATTERN, f"http://{extra}")
    with pytest.raises(BadParameter):
        checked_url(f"http://{extra}")


@given(st.from_regex(ZONE_PATTERN, fullmatch=True).filter(lambda zone: len(zone) <= Limits().zone_chars_max))
def test_every_zone_of_the_pattern_is_one(zone: str) -> None:
    assert checked_zone(zone, Limits()) == zone


@pytest.mark.parametrize("zone", ["a\n", "\x1b[1m", "\u202egnol", "\x9b"])
def test_what_is_no_zone_is_refused(zone: str) -> None:
    with pytest.raises(BadParameter):
        checked_zone(zone, Limits())


@given(st.from_regex(TAGS, fullmatch=True), st.from_regex(TAGS, fullmatch=True))
def test_every_list_of_etags_of_the_pattern_is_one(if_match: str, if_none_match: str) -> None:
    assert parse_precondition(if_match.strip("\n"), if_none_match.strip("\n"))


@pytest.mark.parametrize("given", ['"a', "a", '"a" "b"', "*, *", '"a"; "b"', 'w/"a"', "\x00"])
def test_what_is_no_list_of_etags_is_refused_and_does_not_match_the_pattern(given: str) -> None:
    assert not re.match(TAGS, given)
    with pytest.raises(BadParameter):
        parse_precondition(given, None)


@given(st.from_regex(CURSOR, fullmatch=True))
def test_every_cursor_of_the_pattern_can_be_read(cursor: str) -> None:
    _cursor(cursor.strip("\n"))


@given(st.from_regex(NAME_PATTERN, fullmatch=True).filter(lambda name: not name.endswith((".begun", "\n"))))
def test_every_name_of_the_pattern_may_be_a_backup_s(name: str) -> None:
    assert checked_name(name) == name


@given(st.floats(min_value=0, max_value=60, exclude_min=True))
def test_every_number_within_the_bounds_is_taken(number: float) -> None:
    assert seconds("timeout", repr(number), 60) == number
    assert TIMEOUT.read(Asked({b"timeout": [str(number).encode()]}), Limits()) == number


@pytest.mark.parametrize(
    "given", ["", "0", "-1", "1_0", " 1", "1 ", "٣", "nan", "inf", "0x1", "1e999", "60.1", "never"]
)
def test_what_is_no_number_within_the_bounds_is_refused(given: str) -> None:
    with pytest.raises(BadParameter, match="timeout is"):
        TIMEOUT.read(Asked({b"timeout": [given.encode()]}), Limits())


@pytest.mark.parametrize("given", ["", "yes", "True", "01"])
def test_a_flag_is_on_or_off_and_nothing_else(given: str) -> None:
    assert {word: flag_of(Asked({b"dead": [word.encode()]}), b"dead") for word in FLAGS} == FLAGS
    assert flag_of(Asked({}), b"dead") is False
    with pytest.raises(BadParameter, match="dead is"):
        flag_of(Asked({b"dead": [given.encode()]}), b"dead")
