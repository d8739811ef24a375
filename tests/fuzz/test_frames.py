"""Spoilt frames by the thousand, of every kind: nobody crashes, hangs, swells, or tells a lie that he was not told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fuzz.answers import Batches, Conversations, Linked
from tests.fuzz.copies import Copies
from tests.fuzz.doors import Doors, Questions
from tests.fuzz.files import Documents, Files, Records, Rows
from tests.fuzz.kind import Kind, run

FRAMES = int(os.environ.get("KV_FRAMES", "20000"))
"""Of all kinds together."""

KINDS: dict[str, tuple[int, Callable[[Path], Kind]]] = {
    "requests to a node": (36, lambda folder: Doors()),
    "requests to a node on a disk": (10, Doors),
    "questions by a link": (15, lambda folder: Questions()),
    "answers to batches": (12, lambda folder: Batches()),
    "answers by a link": (12, lambda folder: Linked()),
    "answers to all else": (1, lambda folder: Conversations()),
    "answers to a node that copies": (1, lambda folder: Copies()),
    "records": (4, lambda folder: Records()),
    "rows on a disk": (1, Rows),
    "the cluster's state": (4, Documents),
    "files": (4, Files),
}
"""Of a hundred frames so many are of a kind: those that are fast are many."""


def test_the_shares_are_a_whole() -> None:
    assert sum(share for share, _ in KINDS.values()) == 100


@pytest.mark.parametrize("name", KINDS)
def test_no_spoilt_frame_is_more_than_an_error(name: str, tmp_path: Path, no_logged_failure: list[object]) -> None:
    share, make = KINDS[name]
    complaints: list[str] = []
    kind = make(tmp_path)
    try:
        taken = run(name, kind, FRAMES * share // 100, complaints.append)
    finally:
        kind.close()
    no_logged_failure.clear()  # each was noted with its frame
    print(f"{name}: {taken.frames} frames, {taken.passed} passed for good ones")  # noqa: T201
    assert not complaints, "\n\n".join([f"{len(complaints)} frames were too much; the first of them:", *complaints[:3]])
    assert taken.frames >= FRAMES * share // 100
    assert 0 < taken.passed < taken.frames
