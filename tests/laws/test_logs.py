"""Log lines: text and JSON, and nothing in them that a terminal or another program would take for something else."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.logger import Logger, LogLevel
from twisted.python.failure import Failure

from twisted_kv.logs import FIELD_CHARS_MAX, escaped, json_line, observer, text_line

AT_S = 1_700_000_000.25


def event(format_: str, **fields: Any) -> dict[str, Any]:
    """One event, as ``twisted.logger`` makes it."""
    base = {"log_time": AT_S, "log_level": LogLevel.warn, "log_namespace": "a.Room", "log_format": format_}
    return {**base, "time": AT_S, "format": "%(x)s", **fields}


def parsed(one: dict[str, Any]) -> dict[str, Any]:
    line = json_line(one)
    assert line is not None
    assert line.count("\n") == 1
    found: dict[str, Any] = json.loads(line)
    return found


def test_a_line_of_text_says_when_where_and_how_grave() -> None:
    assert text_line(event("{node} is down", node="n-1")) == "2023-11-14T22:13:20Z [a.Room#warn] n-1 is down\n"


def test_a_line_of_json_holds_the_fields_too() -> None:
    fields = {"node": "n-1", "epoch": 7, "ids": ("a", b"\xff"), "ratio": float("inf"), "key_hash": None}

    assert parsed(event("{node} is down", **fields)) == {
        "time": "2023-11-14T22:13:20.250Z",
        "level": "warn",
        "room": "a.Room",
        "message": "n-1 is down",
        "node": "n-1",
        "epoch": 7,
        "ids": ["a", "\\xff"],
        "ratio": "inf",
        "key_hash": None,
    }


def test_a_field_does_not_take_the_place_of_what_every_line_has() -> None:
    found = parsed(event("hello", level="one", room="kitchen"))

    assert (found["level"], found["level_"], found["room"], found["room_"]) == ("warn", "one", "a.Room", "kitchen")


def test_a_failure_is_text_whose_lines_no_line_of_the_log_looks_like() -> None:
    try:
        raise ValueError("one\n2023-11-14T22:13:20Z [forged#info] all is well\x1b[2J")
    except ValueError:
        broken = event("it broke", log_failure=Failure())

    text = text_line(broken)
    assert text is not None
    first, *rest = text.splitlines()
    assert first == "2023-11-14T22:13:20Z [a.Room#warn] it broke"
    assert all(line.startswith("\t") for line in rest)
    assert "\tTraceback (most recent call last):" in rest
    assert "\x1b" not in text
    assert "ValueError: one" in parsed(broken)["failure"]


def test_an_event_that_says_nothing_is_no_line() -> None:
    assert text_line(event("")) is None
    assert json_line(event("")) is None


def test_what_is_meant_to_have_lines_keeps_them() -> None:
    welcome = event("{text}", text="ready\n  a  b", lines=True)

    assert text_line(welcome) == "2023-11-14T22:13:20Z [a.Room#warn] ready\n\t  a  b\n"
    assert parsed(welcome)["message"] == "ready\n  a  b"


@pytest.mark.parametrize(
    "hostile", ["a\nb", "a\rb", "a\x00b", "a\x1b[2Jb", "a\x7fb", "a\x9bb", "a\u2028b", "a\u202eb", "a\ud800b"]
)
def test_what_is_not_to_be_printed_is_written_as_an_escape(hostile: str) -> None:
    line = text_line(event("{host} is strange", host=hostile))

    assert line is not None
    assert line.endswith(f"a{ascii(hostile[1:-1])[1:-1]}b is strange\n")
    assert parsed(event("{host} is strange", host=hostile))["host"] == hostile


TEXTS = st.text(st.characters(exclude_categories=()), max_size=40)


@given(TEXTS, TEXTS, TEXTS)
def test_whatever_comes_in_a_line_is_one_line_without_control_bytes(one: str, other: str, room: str) -> None:
    strange = event("{one} and {other}", one=one, other=other.encode("utf-8", "surrogatepass"), log_namespace=room)
    for format_ in ("text", "json"):
        stream = BytesIO()
        observer(stream, format_)(strange)  # type: ignore[arg-type]
        written = stream.getvalue()
        assert written.count(b"\n") == 1
        assert all(byte >= 0x20 and byte != 0x7F for byte in written[:-1])
        assert escaped(written.decode()[:-1]) == written.decode()[:-1]
    assert parsed(strange)["one"] == one


def test_a_text_without_an_end_is_cut() -> None:
    assert len(parsed(event("x", text="y" * 1_000_000))["text"]) == FIELD_CHARS_MAX + 3


def test_a_field_that_lies_too_deep_is_told_in_words() -> None:
    deep: Any = "end"
    for _ in range(100):
        deep = [deep]

    assert json.dumps(parsed(event("x", deep=deep))["deep"]).count("[") < 200


def test_a_logger_writes_through_an_observer() -> None:
    stream = BytesIO()
    Logger("own", observer=observer(stream, "json")).info("{count} things", count=3)  # type: ignore[arg-type]

    found = json.loads(stream.getvalue())
    assert (found["message"], found["count"], found["room"], found["level"]) == ("3 things", 3, "own", "info")
