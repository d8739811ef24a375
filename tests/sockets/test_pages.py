"""The sessions of the pages in ``docs/`` run as they are written, against real daemons on free ports."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.sockets.terminal import Terminal, beside_make_run, sessions, stories

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

DOCS = Path(__file__).parent.parent.parent / "docs"
BESIDE_MAKE_RUN = ["quick-start", "guarantees", "failure-handbook"]
"""Pages whose sessions follow one another, in the project's folder, while ``make run`` runs."""
BY_HAND = ["operating"]
"""Pages that start their daemons themselves."""
TOOLS = ["curl", "redis-cli", "openssl"]


def test_the_tools_that_the_pages_use_are_there() -> None:
    assert [tool for tool in TOOLS if shutil.which(tool) is None] == []


@pytest.mark.parametrize("page", BESIDE_MAKE_RUN)
def test_the_sessions_beside_make_run_run_as_written(page: str, tmp_path: Path) -> None:
    found = sessions(DOCS / f"{page}.md")
    assert found
    with beside_make_run(Terminal(tmp_path)) as terminal:
        for session in found:
            terminal.play(session)


@pytest.mark.parametrize(
    ("page", "number"), [(page, number) for page in BY_HAND for number in range(len(stories(DOCS / f"{page}.md")))]
)
def test_the_sessions_by_hand_run_as_written_one_after_the_other(page: str, number: int, tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    try:
        for session in stories(DOCS / f"{page}.md")[number]:
            terminal.play(session)
    finally:
        terminal.end()
