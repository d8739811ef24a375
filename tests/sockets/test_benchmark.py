"""The benchmark against a bare klein server runs with Debian's wrk, and every request of it is answered well."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.system


def test_the_throughput_benchmark_prints_its_table() -> None:
    assert shutil.which("wrk"), "this test needs Debian's wrk: apt-get install wrk"
    command = [sys.executable, "-m", "benchmarks.throughput", "--rounds", "1", "--seconds", "1"]
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr
    rows = re.findall(
        r"^\| (PUT|GET) \| (bare klein|memory|rocksdb, synced) \| ([\d,]+) \| [\d.]+ ms", done.stdout, re.MULTILINE
    )
    assert [row[:2] for row in rows] == [
        ("PUT", "bare klein"),
        ("PUT", "memory"),
        ("PUT", "rocksdb, synced"),
        ("GET", "bare klein"),
        ("GET", "memory"),
        ("GET", "rocksdb, synced"),
    ]
    assert all(int(row[2].replace(",", "")) > 0 for row in rows)
