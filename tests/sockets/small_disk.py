"""A file system in memory of a few megabytes, for daemons whose disk is to end."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest


class SmallDisk:
    """A file system in memory, and the file that fills it."""

    def __init__(self, folder: Path, mib: int) -> None:
        self.folder = folder
        self._filler = folder / "filler"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "kv-test", str(folder)]
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
        if mounted.returncode != 0:
            pytest.fail(f"this test mounts a small tmpfs and must run as root: {mounted.stderr.strip()}")

    def free_bytes(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def fill(self, leave_bytes: int = 0) -> None:
        room = self.free_bytes() - leave_bytes
        if room > 0:
            with open(self._filler, "ab") as file:
                os.posix_fallocate(file.fileno(), file.tell(), room)

    def make_room(self) -> None:
        self._filler.unlink()

    def remount(self, how: str) -> None:
        """Make it read-only (``ro``), while nobody has a file open for writing on it, or writable again (``rw``)."""
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.folder)], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.folder)], check=True)
