"""What processes cost, read from Linux's /proc: CPU time and resident memory, their children's with them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """Name a process and all that descend from it, such as a proxy and its workers."""
    found = [pid]
    for parent in found:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            found += map(int, children.read_text().split())
    return found


def resident_mib(pid: int) -> float:
    """Give the memory that a process and its descendants have in RAM; what they share counts for each."""
    return sum(_status_kib(one, "VmRSS") for one in family(pid)) / 1024


def cpu_s(pids: Iterable[int]) -> float:
    """Give the CPU time that processes and their descendants have taken since they began."""
    return sum(_ticks(one) for pid in pids for one in family(pid)) / TICKS_PER_S


def _status_kib(pid: int, name: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith(name)).split()[1])


def _ticks(pid: int) -> int:
    # The name, in parentheses, may hold anything; proc(5) counts utime and stime as fields 14 and 15.
    fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])
