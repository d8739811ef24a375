"""The README's sessions run as they are written; only the ports are exchanged for free ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.sockets.terminal import Terminal, beside_make_run, sessions

pytestmark = pytest.mark.system

SESSIONS = sessions(Path(__file__).parent.parent.parent / "README.md")


def test_the_readme_shows_three_sessions_and_needs_only_curl() -> None:
    assert shutil.which("curl"), "the README's sessions use curl: install it"
    assert len(SESSIONS) == 3


def test_the_sessions_beside_make_run_run_as_written(tmp_path: Path) -> None:
    with beside_make_run(Terminal(tmp_path)) as terminal:
        for session in SESSIONS[:2]:
            terminal.play(session)


@pytest.mark.parametrize("foreground", [False, True], ids=["daemonized", "with -n"])
def test_the_session_by_hand_runs_as_written_from_one_folder(tmp_path: Path, foreground: bool) -> None:
    terminal = Terminal(tmp_path, foreground)
    try:
        terminal.play(SESSIONS[2])
        assert {path.name.split("-")[0] for path in tmp_path.iterdir()} == {"kvnode", "kvproxy", "output"}
    finally:
        terminal.end()
