"""Pid files that were left behind, and whether the process still runs that wrote one."""

from __future__ import annotations

import os
from pathlib import Path


def tidy_pidfile(path: Path, now_s: float) -> None:
    """Remove a pid file that would keep twistd from starting, though nobody runs who wrote it.

    twistd would remove most of them by itself, and say so on its output in a line of its own, though the log there may
    be JSON. A full disk leaves an empty one. After a kill its number may be another process's by now; in a container,
    where numbers begin anew with each start, it is likely to be, and may be our own. Where a clock that was set makes
    this wrong, the port and the lock on the data still keep a second daemon out.

    :param now_s: wall time.
    :raises OSError: if a new one could not be written either.
    """
    trial = path.with_name(f"{path.name}.new")
    try:
        trial.write_text(str(os.getpid()), encoding="ascii")
    finally:
        trial.unlink(missing_ok=True)
    try:
        pid = int(path.read_text(encoding="ascii"))
        written_s = path.stat().st_mtime
    except FileNotFoundError:
        return
    except ValueError:
        pid, written_s = os.getpid(), 0.0
    if pid == os.getpid() or not runs(pid) or started_s(pid, now_s) > written_s + START_SPREAD_S:
        path.unlink(missing_ok=True)


START_SPREAD_S = 2.0
"""How far a process's start may seem off, since wall time and uptime are read one after the other, and are rounded."""


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # somebody else's, or no number that twistd would take either
    return True


def started_s(pid: int, now_s: float) -> float:
    """When a process started, in wall time; 0 where that cannot be known."""
    try:
        # The name, in parentheses, may hold anything; proc(5) counts the start as the 22nd field, in ticks since boot.
        ticks = int(
            Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19]
        )
        uptime_s = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return now_s - uptime_s + ticks / os.sysconf("SC_CLK_TCK")
