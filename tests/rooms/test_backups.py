"""A node's backups: what a crash at any moment leaves, and what is not taken for the backup that is asked for."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.rooms.nodes import LIFE, STATE
from twisted_kv import backups as room
from twisted_kv.backups import Backups
from twisted_kv.commit import AtOnce
from twisted_kv.errors import BackupExists, BackupFailed, DiskFull, NoSuchBackup
from twisted_kv.limits import Limits
from twisted_kv.membership import encode_state
from twisted_kv.metrics import NodeMetrics
from twisted_kv.replica import Replica
from twisted_kv.storage.checkpoints import DATA, MANIFEST, check_files, contents_of
from twisted_kv.storage.rocks import RocksEngine
from twisted_kv.wire.backups import BackupRequest
from twisted_kv.wire.header import FORMAT, Header
from twisted_kv.wire.joining import Join

ME = Header(FORMAT, STATE.cluster_id, "n-1", LIFE, STATE.epoch)


class House:
    """A node's backups, on a real engine; whatever is done aside is done at once."""

    def __init__(self, home: Path) -> None:
        self.engine = RocksEngine(home / "data")
        self.replica = Replica(
            Clock(), lambda: 100, 1, self.engine, AtOnce(), LIFE, Limits(), NodeMetrics(), Failure.raiseException
        )
        self.replica.join(Join(STATE.cluster_id, "n-1"))
        self.folder = home / "backups"
        self.backups = self.opened()

    def opened(self) -> Backups:
        return Backups(self.folder, self.engine, self.replica, self.aside, lambda: 1_000)

    @staticmethod
    def aside(work: Callable[[], None]) -> Deferred[None]:
        return execute(work)

    def make(self, name: str, run: str = "b-1") -> None:
        self.backups.ask(BackupRequest(ME, name, encode_state(STATE), run=run))

    def names(self) -> list[str]:
        return [one.name for one in self.backups.kept().backups]


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.engine.close()


def test_a_backup_has_its_name_on_the_disk_before_it_is_there(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bool]] = []
    sync = room.sync_folder

    def watched(folder: Path) -> None:
        seen.append((folder.name, (house.folder / "one").exists()))
        sync(folder)

    monkeypatch.setattr(room, "sync_folder", watched)
    house.make("one")
    assert ("backups", True) in seen, "else a power cut takes the name back, and the next start clears it away"
    assert (house.folder.parent.name, True) in seen


def test_what_is_half_deleted_is_no_backup(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.make("one")

    def half(folder: Path, ignore_errors: bool = False) -> None:
        if folder.exists():
            next((folder / DATA).glob("*")).unlink()
            raise OSError(5, "the disk is gone")

    with monkeypatch.context() as patched:
        patched.setattr(room.shutil, "rmtree", half)
        with pytest.raises(BackupFailed, match="the disk is gone"):
            house.backups.remove("one")
    assert house.names() == []
    with pytest.raises(NoSuchBackup):
        house.backups.remove("one")
    house.opened()
    assert list(house.folder.iterdir()) == [], "the next start clears the rest away"


def test_another_backup_of_that_name_is_not_the_one_that_is_asked_for(house: House) -> None:
    house.make("one", "b-1")
    house.make("one", "b-1")
    assert contents_of(house.folder / "one").run == "b-1"
    with pytest.raises(BackupExists, match="another backup 'one'"):
        house.make("one", "b-2")
    with pytest.raises(BackupExists):
        house.backups.ask(BackupRequest(ME, "one", begin=False, run="b-2"))
    assert house.backups.ask(BackupRequest(ME, "one")).finished, "proxies of before name no run"


def test_a_folder_that_is_no_backup_is_said_to_be_in_the_way(house: House) -> None:
    (house.folder / "one").mkdir(parents=True)
    with pytest.raises(BackupFailed, match="in the way"):
        house.make("one")


def test_what_only_leads_to_a_backup_is_taken_away_and_the_backup_is_not(house: House, tmp_path: Path) -> None:
    house.make("one")
    elsewhere = tmp_path / "elsewhere"
    shutil.move(house.folder / "one", elsewhere)
    (house.folder / "one").symlink_to(elsewhere)
    assert house.names() == ["one"]
    house.backups.remove("one")
    assert house.names() == []
    check_files(elsewhere)


def test_nothing_is_left_where_there_was_no_room(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        path.mkdir()
        raise DiskFull("there is no room")

    monkeypatch.setattr(house.engine, "checkpoint", full)
    with pytest.raises(DiskFull):
        house.make("one")
    assert list(house.folder.iterdir()) == []


def test_a_folder_with_its_manifest_is_no_backup_before_it_has_its_name(house: House) -> None:
    house.make("one")
    (house.folder / "one").rename(house.folder / "one.begun")
    assert (house.folder / "one.begun" / MANIFEST).exists()
    assert house.names() == []
