"""The time line is well-formed whatever is in it, and shows every operation and fault where it belongs."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from tests.laws.test_linearizability import KEY, delete, guessed_history, put, read, true_history
from twisted_kv.simulation.linearizability import Event, Fate, Kind
from twisted_kv.simulation.picture import FILL, Band, timeline

SVG = "{http://www.w3.org/2000/svg}"


def drawn(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)


def bars(picture: ElementTree.Element) -> dict[str, ElementTree.Element]:
    """The bars of the operations by their titles; those of the legend are titled otherwise."""
    return {title: group for group in picture.iter(f"{SVG}g") if ".." in (title := group.findtext(f"{SVG}title") or "")}


def bar(picture: ElementTree.Element, event: Event) -> ElementTree.Element:
    found = bars(picture)[str(event)].find(f"{SVG}rect")
    assert found is not None
    return found


def number(element: ElementTree.Element, name: str) -> float:
    return float(element.attrib[name])


def end(element: ElementTree.Element) -> float:
    return number(element, "x") + number(element, "width")


def texts(picture: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in picture.iter(f"{SVG}text")]


def clients(history: list[Event], count: int) -> list[Event]:
    return [replace(event, client=f"c{i % count}") for i, event in enumerate(history)]


@pytest.mark.parametrize("size", [0, 1, 2, 20, 200])
def test_every_operation_has_a_bar_inside_the_picture(size: int) -> None:
    history = clients(true_history(random.Random(size), size, overlap=3.0), 8)
    picture = drawn(timeline(history))
    assert set(bars(picture)) == {str(event) for event in history}
    for event in history:
        assert 0 < number(bar(picture, event), "x") < end(bar(picture, event)) <= number(picture, "width")
        assert 0 < number(bar(picture, event), "y") < number(picture, "height")


def test_operation_that_took_no_time_is_still_seen() -> None:
    history = [put(b"1", 0, 0), read(b"1", 100, 100)]
    picture = drawn(timeline(history))
    assert all(number(bar(picture, event), "width") >= 2 for event in history)


def test_bars_do_not_cover_one_another() -> None:
    for seed in range(30):
        history = list({str(event): event for event in guessed_history(random.Random(seed), 40)}.values())
        picture = drawn(timeline(history))
        by_lane: dict[float, list[tuple[float, float]]] = {}
        for event in history:
            found = bar(picture, event)
            by_lane.setdefault(number(found, "y"), []).append((number(found, "x"), end(found)))
        for lane in by_lane.values():
            lane.sort()
            assert all(one[1] <= other[0] + 0.2 for one, other in pairwise(lane))


def test_bars_stand_in_the_order_of_time() -> None:
    one, two, three = put(b"1", 0, 1), put(b"2", 2, 3), read(b"1", 4, 5)
    picture = drawn(timeline([three, one, two]))
    assert end(bar(picture, one)) < number(bar(picture, two), "x")
    assert end(bar(picture, two)) < number(bar(picture, three), "x")
    assert number(bar(picture, one), "y") == number(bar(picture, two), "y") < number(bar(picture, three), "y")


def test_each_client_has_a_row_in_the_order_of_their_numbers() -> None:
    history = [replace(put(b"%d" % i, i, i + 1), client=f"c{i}") for i in range(11)]
    names = [text for text in texts(drawn(timeline(history))) if text.startswith("c")]
    assert names == [f"c{i}" for i in range(11)]


def test_named_operations_of_a_client_share_its_row() -> None:
    history = [replace(put(b"%d" % i, 2 * i, 2 * i + 1), client=f"c0.{i}") for i in range(4)]
    picture = drawn(timeline(history))
    assert len({number(bar(picture, event), "y") for event in history}) == 1
    assert "c0" in texts(picture)


def test_operation_without_an_end_runs_dashed_to_the_right_edge() -> None:
    open_end, late = put(b"1", 0, None, Fate.UNKNOWN), read(b"1", 8, 9)
    picture = drawn(timeline([open_end, late]))
    assert end(bar(picture, open_end)) > end(bar(picture, late))
    assert "stroke-dasharray" in bar(picture, open_end).attrib
    assert "stroke-dasharray" not in bar(picture, late).attrib


def test_unknown_outcomes_are_paler_and_hatched_and_what_was_dropped_is_empty() -> None:
    fates = [put(b"1", 0, 1), put(b"2", 0, 1, Fate.UNKNOWN), put(b"3", 0, 1, Fate.DROPPED)]
    picture = drawn(timeline(fates))
    opacities = [number(bar(picture, event), "fill-opacity") for event in fates]
    assert opacities == sorted(opacities, reverse=True)
    assert opacities[2] == 0
    hatched = ["url(#doubt)" in ElementTree.tostring(bars(picture)[str(event)], "unicode") for event in fates]
    assert hatched == [False, True, False]


def test_colour_and_label_tell_kind_and_value() -> None:
    swap = Event("s", Kind.SWAP, KEY, b"2", 2, 3, base=b"1")
    history = [put(b"1", 0, 1), swap, read(b"2", 4, 5), delete(6, 7), read(None, 8, 9)]
    picture = drawn(timeline(history))
    assert [bar(picture, event).attrib["fill"] for event in history] == [FILL[event.kind] for event in history]
    labels = [bars(picture)[str(event)].findtext(f"{SVG}text") for event in history]
    assert labels == ["put 1", "swap 1→2", "read 2", "delete", "read ∅"]


def test_label_that_is_too_long_is_cut() -> None:
    crowd = [put(b"a long value, number %d" % i, i, i + 0.9) for i in range(30)]
    picture = drawn(timeline(crowd))
    for event in crowd:
        label = bars(picture)[str(event)].findtext(f"{SVG}text") or ""
        assert label.endswith("…")


def test_faults_are_bands_with_their_names() -> None:
    history = [put(b"1", 0, 1), put(b"2", 5, 6)]
    bands = [Band("partition", 2, 4), Band("slow disk", 3, float("inf")), Band("partition", 5, 5.5)]
    svg = timeline(history, bands)
    assert texts(drawn(svg)).count("partition") == 2
    assert texts(drawn(svg)).count("slow disk") == 1
    assert "inf" not in svg


def test_fault_outside_of_the_span_is_left_out() -> None:
    svg = timeline([put(b"1", 10, 11)], [Band("before", 0, 5), Band("after", 100, 200)])
    assert "before" not in svg
    assert "after" not in svg


def test_faults_alone_are_drawn() -> None:
    assert "partition" in texts(drawn(timeline([], [Band("partition", 2, 4)])))
    assert "partition" in texts(drawn(timeline([], [Band("partition", float("-inf"), float("inf"))])))


@pytest.mark.parametrize(("first", "last"), [(0, 0), (0, 1e-6), (0, 0.37), (-5, 3), (3600, 3605), (0, 86_400)])
def test_axis_has_a_few_seconds_on_it(first: float, last: float) -> None:
    ticks = [text for text in texts(drawn(timeline([put(b"1", first, last)]))) if text.endswith(" s")]
    assert 3 <= len(ticks) <= 20
    assert len(set(ticks)) == len(ticks)
    assert [float(tick.removesuffix(" s")) for tick in ticks] == sorted(
        float(tick.removesuffix(" s")) for tick in ticks
    )


def test_text_that_looks_like_markup_stays_text() -> None:
    event = Event("<c & \"d'>", Kind.PUT, KEY, b"</text>&\x00\xff]]>", 0, 10)
    picture = drawn(timeline([event], [Band("<b>&\x00\ud800\uffff", 0, 5)]))
    assert str(event) in bars(picture)
    assert "<c & \"d'>" in texts(picture)
    assert any(text.startswith("<b>&") for text in texts(picture))


def test_same_history_gives_the_same_picture() -> None:
    history = clients(true_history(random.Random(3), 50, overlap=3.0), 4)
    bands = [Band("a", 1, 2), Band("b", 1, 2)]
    assert timeline(history, bands) == timeline(list(reversed(history)), bands)
