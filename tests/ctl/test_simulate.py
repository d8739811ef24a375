"""``kvctl simulate``: what it runs, what it says, and what it leaves behind where something is wrong."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from tests.simulation.mutants import failure_is_certain, in_force, settle_for_less_than_a_majority
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


def test_what_is_found_wrong_is_shown_drawn_and_can_be_repeated(tmp_path: Path) -> None:
    with in_force(failure_is_certain):
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


def test_what_an_invariant_finds_is_shown_with_what_clients_last_did(tmp_path: Path) -> None:
    with in_force(settle_for_less_than_a_majority):
        found = kvctl("simulate", "--seeds", "0..4", "--messages", "--pictures", tmp_path)
        assert found.exit_code == 1
        assert "settled: " in found.output
        assert "what clients last did with that key:" in found.output
        assert "--messages" in next(line for line in found.output.splitlines() if line.startswith("repeat it with"))
        drawn = next(tmp_path.glob("seed-*.svg"))
        assert ElementTree.parse(drawn).getroot().tag.endswith("svg")


@pytest.mark.parametrize("told", [signal.SIGINT, signal.SIGTERM], ids=lambda told: told.name)
def test_a_campaign_that_is_told_to_end_says_what_it_has_done_and_leaves_no_process(told: signal.Signals) -> None:
    command = "from twisted_kv.ctl.main import main; main()"
    arguments = [sys.executable, "-c", command, "simulate", "--seeds", "0..100000", "--jobs", "2"]
    # Whoever starts the tests may have had SIGINT ignored, which children inherit.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as campaign:
        signal.signal(signal.SIGINT, before)
        try:
            children = Path(f"/proc/{campaign.pid}/task/{campaign.pid}/children")
            deadline = time.monotonic() + 60
            # Its workers are there when it has its helper and both of them.
            while len(workers := children.read_text().split()) < 3:
                assert campaign.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            campaign.send_signal(told)
            output, complaints = campaign.communicate(timeout=60)
        finally:
            campaign.kill()
    assert campaign.returncode == 130
    assert "interrupted after" in output
    assert "Traceback" not in output + complaints
    # The helper ends by itself as soon as it sees that nobody is left.
    while any(runs(pid) for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def runs(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("seeds", ["x", "1..", "..4", "5..5", "7..3", "-1", "1...3"])
def test_seeds_that_are_none_are_refused_in_a_sentence(seeds: str) -> None:
    done = kvctl("simulate", f"--seeds={seeds}")
    assert done.exit_code == 2
    assert "seed" in done.output
    assert "Traceback" not in done.output
