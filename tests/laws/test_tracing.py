"""What requests are called: headers that can be used, and ids that are drawn."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twisted_kv.tracing import ID_CHARS_MAX, Followed, Ids, Trace, trace_of

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{PARENT}-01"


def test_a_request_id_is_taken_as_it_is() -> None:
    assert trace_of([b"order-17/a"], None) == Trace("order-17/a")
    assert trace_of([b"x" * ID_CHARS_MAX], []) == Trace("x" * ID_CHARS_MAX)


@pytest.mark.parametrize(
    "lines", [[], [b""], [b"a", b"b"], [b"a b"], [b"a\nb"], [b"\x1b[31m"], ["ä".encode()], [b"x" * (ID_CHARS_MAX + 1)]]
)
def test_an_id_that_cannot_be_used_is_left_out(lines: list[bytes]) -> None:
    assert trace_of(lines, None) is None
    assert trace_of(lines, [GOOD.encode()]) == Trace(TRACE, GOOD)


def test_a_traceparent_is_passed_on_and_names_the_request_if_nothing_else_does() -> None:
    assert trace_of(None, [GOOD.encode()]) == Trace(TRACE, GOOD)
    assert trace_of([b"own"], [GOOD.encode()]) == Trace("own", GOOD)


@pytest.mark.parametrize(
    "header",
    [
        "",
        GOOD.upper(),
        GOOD + "-more",
        GOOD + " ",
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{PARENT}-01",
        f"00-{TRACE}-{PARENT}",
        f"01-{TRACE}-{PARENT}-01x",
    ],
)
def test_a_traceparent_that_is_none_is_left_out(header: str) -> None:
    assert trace_of(None, [header.encode()]) is None


def test_a_later_version_is_passed_on_as_far_as_it_is_known() -> None:
    later = f"cc-{TRACE}-{PARENT}-03-what-comes-later"

    assert trace_of(None, [later.encode()]) == Trace(TRACE, GOOD)


@given(st.lists(st.binary(max_size=200), max_size=3), st.lists(st.binary(max_size=200), max_size=3))
def test_whatever_is_sent_what_is_kept_is_short_and_visible(ids: list[bytes], parents: list[bytes]) -> None:
    trace = trace_of(ids, parents)

    if trace is not None:
        for text in (trace.request_id, trace.traceparent):
            assert len(text) <= ID_CHARS_MAX
            assert all("!" <= char <= "~" for char in text)


def test_ids_differ_within_a_process_and_between_processes() -> None:
    one, other = Ids(1), Ids(2)

    drawn = {one.draw(), one.draw(), other.draw(), other.draw()}

    assert len(drawn) == 4
    assert {trace_of([text.encode()], None) for text in drawn} == {Trace(text) for text in drawn}


def test_nobody_has_told_a_followed_request_anything_at_first() -> None:
    assert Followed(None, explains=True).steps == []
