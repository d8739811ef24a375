"""A node's folder with damage in it: it opens all the same, and never shows what was not written."""

from __future__ import annotations

import os
import shutil
from itertools import count
from pathlib import Path
from random import Random

import pytest

from twisted_kv.errors import Damaged
from twisted_kv.names import Key
from twisted_kv.register import Cell
from twisted_kv.ring import slot_of
from twisted_kv.storage.engine import Change
from twisted_kv.storage.opening import Disk
from twisted_kv.versions import Ballot, Record, Version

KEYS = [Key(b"key%d" % number) for number in range(400)]
SYNC, BOOT = "always", "this-boot"
DAMAGES_EACH = 8
"""Damages tried for each kind of file."""


def cell_of(key: Key) -> Cell:
    ballot = Ballot(b"\1" + key.rjust(15, b"\0"))
    return Cell(ballot, ballot, Record(Version(ballot), b"the value of %s" % key, expires_ms=1 << 40).encode())


def opened(folder: Path) -> Disk:
    numbers = count(len(list(folder.glob("data.damaged-*"))))
    return Disk(folder, SYNC, BOOT, lambda: f"i-{folder.name}-{next(numbers)}")


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a killed node leaves it: half of its data in tables, half in the log."""
    running = tmp_path_factory.mktemp("node")
    for keys in (KEYS[::2], KEYS[1::2]):
        disk = opened(running)
        disk.engine.apply([Change(slot_of(key), key, cell_of(key)) for key in keys])
        disk.engine.write_note("state", b"s" * 3000)
        disk.engine.sync()
        crashed = running.with_name("crashed")
        shutil.rmtree(crashed, ignore_errors=True)
        shutil.copytree(running, crashed)
        disk.close()
    return crashed


@pytest.mark.parametrize("kind", ["*.log", "*.sst", "MANIFEST-*", "CURRENT", "IDENTITY", "OPTIONS-*", "../synced"])
def test_whatever_is_damaged_the_folder_opens_and_shows_what_was_written_or_that_it_forgot(
    crashed: Path, tmp_path: Path, kind: str
) -> None:
    random = Random(f"damage to {kind}")
    life = incarnation_of(crashed, tmp_path / "whole")
    for number in range(DAMAGES_EACH * (5 if kind in ("*.sst", "MANIFEST-*") else 1)):
        folder = tmp_path / str(number)
        shutil.copytree(crashed, folder)
        damage(random.choice(sorted((folder / "data").glob(kind))), random)
        disk = opened(folder)
        if disk.incarnation == life:
            assert all(shown(disk, key) in (cell_of(key), None) for key in KEYS)
        else:
            assert disk.forgot
        disk.close()
        shutil.rmtree(folder)


def incarnation_of(crashed: Path, folder: Path) -> str:
    shutil.copytree(crashed, folder)
    disk = opened(folder)
    assert not disk.forgot, "what is whole is remembered"
    disk.close()
    return disk.incarnation


def damage(path: Path, random: Random) -> None:
    size = path.stat().st_size
    how, offset = random.choice(["flip", "flip", "zero", "cut", "lose"]), random.randrange(size)
    if how == "lose":
        path.unlink()
    elif how == "cut":
        os.truncate(path, offset)
    else:
        data = bytearray(path.read_bytes())
        end = min(size, offset + 512)
        data[offset:end] = (
            bytes(end - offset) if how == "zero" else bytes([data[offset] ^ 0x10]) + data[offset + 1 : end]
        )
        path.write_bytes(data)


def shown(disk: Disk, key: Key) -> Cell | None:
    """What is shown of a key: None if it is said to be damaged. A key that is just not there would be forgotten."""
    try:
        cell = disk.engine.get(slot_of(key), key)
    except Damaged:
        return None
    assert cell is not None
    return cell


def test_a_suspect_folder_with_a_damaged_table_is_set_aside(crashed: Path, tmp_path: Path) -> None:
    folder = tmp_path / "node"
    shutil.copytree(crashed, folder)
    (folder / "suspect").touch()
    table = max((folder / "data").glob("*.sst"), key=lambda path: path.stat().st_size)
    data = bytearray(table.read_bytes())
    data[len(data) // 2] ^= 0x10
    table.write_bytes(data)
    disk = opened(folder)
    assert "data.damaged-1" in disk.forgot
    assert disk.engine.totals().keys == 0
    assert not (folder / "suspect").exists()
    disk.close()
