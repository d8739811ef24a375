"""The state file under Debian's strace: what the proxy calls done is on the disk, and no moment to die is a bad one."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system

WRITER = """
import sys
from pathlib import Path
from twisted.internet.task import Clock
from twisted_kv.limits import Limits
from twisted_kv.membership import founded, wished, Wish, Seat
from twisted_kv.names import ClusterId
from twisted_kv.state.file import FileStore

def step(state):
    if state is None:
        return founded(ClusterId("c-1"), 3, 16)
    return wished(state, Wish(Seat(f"n-{len(state.pending)}", "http://127.0.0.1:1")))

store = FileStore(Clock(), Path(sys.argv[1]), Limits())
for number in range(int(sys.argv[2])):
    store.update(step)
    print("done", number, flush=True)
"""
READER = """
import sys
from pathlib import Path
from twisted_kv.membership import decode_state
print(len(decode_state(Path(sys.argv[1]).read_bytes()).pending))
"""
UPDATES = 4
CALLS = "fsync,fdatasync,rename,renameat,renameat2,write"


def strace(*options: str) -> list[str]:
    found = shutil.which("strace")
    assert found, "this test needs Debian's strace: apt-get install strace"
    return [found, *options]


def run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_an_update_is_done_only_after_file_and_folder_were_synced(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    state = tmp_path / "state.json"
    done = run([*strace("-y", "-e", f"trace={CALLS}", "-o", str(trace)), sys.executable, "-c", WRITER, str(state), "1"])
    assert done.stdout == "done 0\n"
    assert _story(trace.read_text()) == ["write", "fsync file", "rename", "fsync folder", "done"]


def _story(trace: str) -> list[str]:
    """Name the system calls of a trace that matter, in their order."""
    patterns = {
        "write": r"^write\(\d+<[^>]*state\.json\.new>",
        "fsync file": r"^fsync\(\d+<[^>]*state\.json\.new>\)\s+= 0",
        "rename": r"^rename\(.*state\.json\.new.*state\.json\"\)\s+= 0",
        "fsync folder": r"^fsync\(\d+<[^>]*>\)\s+= 0",
        "done": r"^write\(1<.*\"done",
    }
    named = (next((name for name, p in patterns.items() if re.search(p, line)), None) for line in trace.splitlines())
    return [name for name in named if name is not None]


@pytest.mark.parametrize("call", ["fsync", "rename"])
def test_a_kill_at_any_sync_or_rename_leaves_every_update_that_was_called_done(tmp_path: Path, call: str) -> None:
    moments = UPDATES * (2 if call == "fsync" else 1)
    for moment in range(1, moments + 1):
        state = tmp_path / f"{call}-{moment}.json"
        inject = f"inject={call}:signal=SIGKILL:when={moment}"
        command = strace("-o", "/dev/null", "-e", f"trace={call}", "-e", inject)
        killed = run([*command, sys.executable, "-c", WRITER, str(state), str(UPDATES)])
        assert killed.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
        done = killed.stdout.count("done")
        if done == 0 and not state.exists():
            continue
        wishes = int(run([sys.executable, "-c", READER, str(state)]).stdout)
        assert wishes in (done - 1, done), f"{done} updates were done, {wishes} wishes are there (the first founds)"
        again = run([sys.executable, "-c", WRITER, str(state), "1"])
        assert again.stdout == "done 0\n", "the next process goes on from there"
    assert moment == moments
