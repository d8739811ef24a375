"""``kvctl simulate``: what it runs, what it says, and what it leaves behind where something is wrong."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from tests.laws.test_register import settle_for_less_than_a_majority
from twisted_kv.ctl.main import main
from twisted_kv.simulation import campaign


@pytest.fixture(autouse=True)
def loud(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command takes the process's log for itself, which may be done once in a process only."""
    monkeypatch.setattr(campaign, "quiet", lambda: None)


def kvctl(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_seeds_are_run_counted_and_found_well() -> None:
    done = kvctl("simulate", "--seeds", "3..6", "--operations", 40, "--nodes", 3, "--proxies", 1, "--profile", "calm")
    assert done.exit_code == 0, done.output
    rows = {
        cells[0].strip(): cells[1].strip() for line in done.output.splitlines() if len(cells := line.split("│")[1:]) > 1
    }
    assert rows["seeds"] == "3"
    assert int(rows["operations checked"].replace(",", "")) >= 120
    assert rows["failed seeds"] == "none"


def test_what_is_found_wrong_is_shown_drawn_and_can_be_repeated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settle_for_less_than_a_majority(monkeypatch)
    options = ("--seeds", "0..40", "--profile", "partitions", "--pictures", tmp_path / "pictures")
    found = kvctl("simulate", *options)
    assert found.exit_code == 1
    assert "cannot be explained" in found.output
    again = next(line for line in found.output.splitlines() if line.startswith("repeat it with: kvctl simulate"))
    assert "--profile partitions" in again
    drawn = sorted((tmp_path / "pictures").glob("seed-*.svg"))
    assert drawn
    assert ElementTree.parse(drawn[0]).getroot().tag.endswith("svg")
    arguments = again.removeprefix("repeat it with: kvctl ").split()
    repeated = kvctl(*arguments, "--pictures", tmp_path / "again")
    assert repeated.exit_code == 1
    assert again in repeated.output


@pytest.mark.parametrize("seeds", ["x", "1..", "..4", "5..5", "7..3", "-1", "1...3"])
def test_seeds_that_are_none_are_refused_in_a_sentence(seeds: str) -> None:
    done = kvctl("simulate", f"--seeds={seeds}")
    assert done.exit_code == 2
    assert "seed" in done.output
    assert "Traceback" not in done.output
