"""Opening a node's folder: when it remembers, when it has forgotten, and that no crash makes it believe otherwise."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from random import Random

import pytest

from tests.contracts.test_engines import change, everything, value
from tests.contracts.test_rocks import copy, flip, tables
from twisted_kv.errors import DiskFailed
from twisted_kv.storage.manifest import Manifest, differs
from twisted_kv.storage.marks import ALWAYS, INTERVAL, NEVER, Mark, MarkFile
from twisted_kv.storage.opening import Disk
from twisted_kv.storage.rocks import RocksEngine

BOOT, NEXT_BOOT, UNKNOWN = "b76d7d21-3a14-4b0a-8c0e-7f4b3b0c2a11", "0f0f0f0f-3a14-4b0a-8c0e-7f4b3b0c2a11", ""
NOISE = Random(1).randbytes(2_000)


class Home:
    """A folder whose node starts, crashes, and loses this or that."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._copies = count()
        self._draws = count(1)
        self._open: list[Disk] = []
        self.folder = root / "node"
        self.folder.mkdir()

    def draw(self) -> str:
        return f"i-{next(self._draws)}"

    def start(self, sync: str = ALWAYS, boot: str = BOOT, kind: type[Disk] = Disk) -> Disk:
        disk = kind(self.folder, sync, boot, self.draw)
        self._open.append(disk)
        return disk

    def stop(self, disk: Disk) -> None:
        self._open.remove(disk)
        disk.close()

    def kill(self, disk: Disk) -> None:
        """End without closing anything: what was written to files stays, and nothing more is written."""
        self.move_to(self.photograph())
        self._open.remove(disk)
        disk.engine.close()

    def photograph(self) -> Path:
        """Copy the folder as it is now."""
        target = self._root / f"copy-{next(self._copies)}"
        target.mkdir()
        for part in self.folder.iterdir():
            if part.is_dir():
                copy(part, target / part.name)
            else:
                shutil.copy(part, target)
        return target

    def move_to(self, folder: Path) -> None:
        self.folder = folder

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def mark(self) -> Path:
        return self.folder / "synced"

    @property
    def suspect(self) -> Path:
        return self.folder / "suspect"

    def aside(self) -> list[str]:
        return sorted(path.name for path in self.folder.glob("data.damaged-*"))

    def close(self) -> None:
        for disk in self._open:
            disk.engine.close()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    home = Home(tmp_path)
    yield home
    home.close()


def write(disk: Disk, *keys: bytes) -> None:
    """Write, and sync as a node does before it answers."""
    disk.engine.apply(change(1, key, value(1, NOISE)) for key in keys)
    disk.engine.sync()


def keys(disk: Disk) -> list[bytes]:
    return [key for _, key, _ in everything(disk.engine)]


def garble(mark: Path, sector: int) -> None:
    data = bytearray(mark.read_bytes())
    data[sector * 512 + 20] ^= 1
    mark.write_bytes(data)


# Remembering.


def test_a_new_folder_draws_an_incarnation_and_says_why(home: Home) -> None:
    disk = home.start()

    assert (disk.incarnation, disk.forgot) == ("i-1", "its folder is new")
    assert disk.free_bytes() > 0


@pytest.mark.parametrize("sync", [ALWAYS, INTERVAL, NEVER])
def test_the_incarnation_is_kept_over_clean_and_unclean_ends(home: Home, sync: str) -> None:
    for end in (home.stop, home.kill, home.kill, home.stop, home.stop, home.kill):
        disk = home.start(sync)
        write(disk, b"key")
        end(disk)

    disk = home.start(sync)

    assert (disk.incarnation, disk.forgot) == ("i-1", "")
    assert keys(disk) == [b"key"]


def test_a_node_killed_before_anything_was_written_to_it_remembers_that(home: Home) -> None:
    home.kill(home.start())

    assert home.start().incarnation == "i-1"


def test_changes_that_were_never_synced_may_be_missing(home: Home) -> None:
    disk = home.start()
    write(disk, b"synced")
    before = home.photograph()
    disk.engine.apply([change(1, b"unsynced", value(1))])
    home.kill(disk)
    home.move_to(before)

    disk = home.start()

    assert (disk.incarnation, keys(disk)) == ("i-1", [b"synced"])


# Forgetting.


def lose_the_newest(home: Home) -> None:
    """Put back data that is older than the mark."""
    disk = home.start()
    write(disk, b"old")
    older = home.photograph() / "data"
    write(disk, b"new")
    home.kill(disk)
    shutil.rmtree(home.data)
    older.rename(home.data)


def lose_the_mark(home: Home) -> None:
    disk = home.start()
    write(disk, b"old")
    home.kill(disk)
    home.mark.unlink()


def lose_the_power(home: Home) -> None:
    """A mode that does not sync each answer, and the next start will be on another boot."""
    disk = home.start(INTERVAL, NEXT_BOOT)
    write(disk, b"old")
    home.kill(disk)


def damage_the_data(home: Home) -> None:
    disk = home.start()
    write(disk, b"old")
    home.stop(disk)
    home.stop(home.start())
    flip(tables(home.data), NOISE)
    home.suspect.touch()


def lose_the_data(home: Home) -> None:
    home.stop(home.start())
    shutil.rmtree(home.data)


def set_the_data_aside(home: Home) -> None:
    """Stop between setting damaged data aside and making a new folder for it."""
    damage_the_data(home)
    home.data.rename(home.folder / "data.damaged-1")


LOSSES = [lose_the_newest, lose_the_mark, lose_the_power, damage_the_data, lose_the_data, set_the_data_aside]
Loss = Callable[[Home], None]


@pytest.fixture(params=LOSSES, ids=[loss.__name__ for loss in LOSSES])
def loss(request: pytest.FixtureRequest) -> Loss:
    chosen: Loss = request.param
    return chosen


def test_who_forgot_draws_a_new_incarnation_says_why_and_keeps_it(home: Home, loss: Loss) -> None:
    loss(home)

    disk = home.start()
    assert disk.incarnation == "i-2"
    assert disk.forgot
    home.kill(disk)

    disk = home.start()
    assert (disk.incarnation, disk.forgot) == ("i-2", "")


def test_recovering_less_than_was_synced_is_said_in_numbers(home: Home) -> None:
    lose_the_newest(home)

    assert home.start().forgot.endswith("were recovered")


class Watched(Disk):
    """Has the folder photographed before and after each mark: what a crash there leaves."""

    photograph: Callable[[], object]

    def _reached(self, sequence: int) -> None:
        self.photograph()
        super()._reached(sequence)
        self.photograph()


def test_a_crash_at_any_point_of_a_start_that_draws_a_new_incarnation_leaves_a_new_one(
    home: Home, loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss(home)
    photographs: list[Path] = []

    def photograph(*_: object) -> None:
        photographs.append(home.photograph())

    class Drawing(Watched):
        def __init__(self, folder: Path, sync: str, boot: str, draw: Callable[[], str]) -> None:
            super().__init__(folder, sync, boot, lambda: (photograph(), draw())[1])

    monkeypatch.setattr(Watched, "photograph", photograph, raising=False)
    home.start(kind=Drawing)

    # When it draws, when the note is synced, when that is marked: and each of them has to be one it did not have.
    assert len(photographs) == 3
    for crashed in photographs:
        home.move_to(crashed)
        disk = home.start()
        assert disk.incarnation != "i-1"
        home.kill(disk)
        assert home.start().incarnation == disk.incarnation


def test_crashes_in_every_start_after_a_loss_do_not_bring_the_old_incarnation_back(home: Home) -> None:
    lose_the_newest(home)

    class Dies(Disk):
        def _reached(self, sequence: int) -> None:
            raise KeyboardInterrupt

    # Each of them writes one change more, until the numbers are those from before the loss.
    for _ in range(12):
        with pytest.raises(KeyboardInterrupt):
            home.start(kind=Dies)
        home.move_to(home.photograph())

    disk = home.start()
    assert (disk.incarnation != "i-1", disk.forgot) == (True, "")


# The mark.


@pytest.fixture
def marks(tmp_path: Path) -> Iterator[MarkFile]:
    marks = MarkFile(tmp_path / "synced")
    yield marks
    marks.close()


def test_there_is_no_mark_in_a_new_file(marks: MarkFile) -> None:
    assert marks.read() is None


@pytest.mark.parametrize("sync", [ALWAYS, INTERVAL, NEVER])
@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("boot", [BOOT, UNKNOWN])
def test_a_mark_is_read_as_it_was_written(marks: MarkFile, sync: str, clean: bool, boot: str) -> None:
    marks.write(Mark(2**40, sync, boot, clean))

    assert marks.read() == Mark(2**40, sync, boot, clean)


def test_the_newest_mark_counts_and_if_it_is_torn_the_one_before(marks: MarkFile, tmp_path: Path) -> None:
    for sequence in range(1, 8):
        marks.write(Mark(sequence, ALWAYS, BOOT))
        assert marks.read() == Mark(sequence, ALWAYS, BOOT)
    # The seventh was written where the first was: to the first sector.
    garble(tmp_path / "synced", 0)
    assert marks.read() == Mark(6, ALWAYS, BOOT)
    garble(tmp_path / "synced", 1)

    assert marks.read() is None


def test_settling_replaces_higher_marks(marks: MarkFile, tmp_path: Path) -> None:
    marks.write(Mark(7, ALWAYS, BOOT))
    marks.write(Mark(8, ALWAYS, BOOT))

    marks.settle(Mark(3, NEVER, BOOT, clean=True))

    for sector in (0, 1):
        assert marks.read() == Mark(3, NEVER, BOOT, clean=True)
        garble(tmp_path / "synced", sector)
    assert marks.read() is None


@pytest.mark.parametrize("sector", [0, 1])
def test_if_one_of_two_marks_is_torn_the_other_counts(home: Home, sector: int) -> None:
    disk = home.start()
    write(disk, b"key")
    home.kill(disk)
    garble(home.mark, sector)

    assert home.start().forgot == ""


@pytest.mark.parametrize("sector", [0, 1])
def test_a_loss_is_noticed_by_the_mark_that_is_left(home: Home, sector: int) -> None:
    disk = home.start()
    older = home.photograph() / "data"
    write(disk, b"new")
    write(disk, b"newer")
    home.kill(disk)
    garble(home.mark, sector)
    shutil.rmtree(home.data)
    older.rename(home.data)

    assert home.start().forgot.endswith("were recovered")


def test_two_torn_marks_are_as_good_as_none(home: Home) -> None:
    disk = home.start()
    write(disk, b"key")
    home.kill(disk)
    garble(home.mark, 0)
    garble(home.mark, 1)

    assert home.start().forgot == "nothing says how much of its data was synced"


def test_a_sync_is_marked_before_anybody_hears_of_it(home: Home) -> None:
    disk = home.start()
    disk.engine.apply([change(1, b"key", value(1))])
    assert newest_mark(home).sequence < disk.engine.sequence

    disk.engine.sync()

    assert newest_mark(home)[:4] == (disk.engine.sequence, ALWAYS, BOOT, False)


def newest_mark(home: Home) -> Mark:
    marks = MarkFile(home.mark)
    found = marks.read()
    marks.close()
    assert found is not None
    return found


# The manifest.


def manifest_of(home: Home) -> Path:
    return home.data / (home.data / "CURRENT").read_text().strip()


def cut(path: Path, bytes_: int) -> None:
    os.truncate(path, path.stat().st_size - bytes_)


def zero(path: Path, bytes_: int) -> None:
    path.write_bytes(path.read_bytes()[:-bytes_] + bytes(bytes_))


def flip_from_the_end(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[-place] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("spoil", [cut, zero, flip_from_the_end])
@pytest.mark.parametrize("bytes_", [1, 2, 9, 40, 150, 350])
def test_a_manifest_that_lost_its_end_is_noticed(home: Home, spoil: Callable[[Path, int], None], bytes_: int) -> None:
    disk = home.start()
    write(disk, *(b"key%d" % number for number in range(100)))
    home.kill(disk)
    # All is in the log. Without the family that it belongs to, RocksDB passes over it.
    spoil(manifest_of(home), bytes_)

    again = home.start()

    assert again.forgot.startswith("its manifest is damaged: ")
    assert keys(again) == []
    assert home.aside() == ["data.damaged-1"]


def test_a_manifest_that_names_no_table_any_more_is_noticed(home: Home) -> None:
    write(disk := home.start(), b"in a table")
    before = manifest_of(home).stat().st_size
    disk.engine._data.flush()
    write(disk, b"in the log")
    disk.engine.sync()
    home.kill(disk)
    os.truncate(manifest_of(home), before)

    assert home.start().forgot.startswith("its manifest is damaged: ")


def test_a_manifest_that_grew_since_it_was_seen_is_none_to_wonder_about(home: Home) -> None:
    write(disk := home.start(), b"key")
    home.kill(disk)
    seen = newest_mark(home).manifest
    with open(manifest_of(home), "ab") as file:
        file.write(b"what a crash has torn")

    assert differs(home.data, seen) == ""
    assert home.start().forgot == ""


def test_an_older_manifest_than_the_one_that_was_seen_is_noticed(home: Home) -> None:
    home.stop(home.start())
    older = (home.data / "CURRENT").read_text()
    write(disk := home.start(), b"key")
    home.kill(disk)
    newer = (home.data / "CURRENT").read_text().strip()
    (home.data / older.strip()).write_bytes((home.data / newer).read_bytes())
    (home.data / "CURRENT").write_text(older)

    assert "CURRENT names the manifest" in home.start().forgot


def test_what_was_appended_counts_once_it_was_there_before(home: Home) -> None:
    write(disk := home.start(), b"key")
    manifest = Manifest(home.data)
    whole = manifest.whole()
    assert whole.size == manifest_of(home).stat().st_size
    disk.engine._data.flush()

    assert manifest.seen() == whole
    assert manifest.seen().size == manifest_of(home).stat().st_size > whole.size
    assert differs(home.data, manifest.seen()) == ""


# Modes that do not sync before each answer.


@pytest.mark.parametrize("sync", [INTERVAL, NEVER])
@pytest.mark.parametrize(
    ("before", "clean", "after", "keeps"),
    [
        (BOOT, False, BOOT, True),
        (BOOT, False, NEXT_BOOT, False),
        (BOOT, True, NEXT_BOOT, True),
        (BOOT, True, BOOT, True),
        (UNKNOWN, False, UNKNOWN, False),
        (BOOT, False, UNKNOWN, False),
        (UNKNOWN, False, BOOT, False),
        (UNKNOWN, True, UNKNOWN, True),
    ],
)
def test_without_a_sync_before_each_answer_a_machine_that_went_down_has_forgotten(
    home: Home, sync: str, before: str, clean: bool, after: str, keeps: bool
) -> None:
    disk = home.start(sync, before)
    disk.engine.apply([change(1, b"key", value(1))])
    (home.stop if clean else home.kill)(disk)

    disk = home.start(sync, after)

    assert disk.incarnation == ("i-1" if keeps else "i-2")
    assert bool(disk.forgot) is not keeps


def test_a_clean_end_counts_once(home: Home) -> None:
    home.stop(home.start(NEVER, BOOT))
    home.kill(home.start(NEVER, BOOT))

    assert home.start(NEVER, NEXT_BOOT).incarnation == "i-2"


@pytest.mark.parametrize(("was", "becomes", "forgets"), [(NEVER, ALWAYS, True), (ALWAYS, NEVER, False)])
def test_what_the_last_life_did_counts_and_not_what_the_next_one_will(
    home: Home, was: str, becomes: str, forgets: bool
) -> None:
    home.kill(home.start(was, BOOT))

    assert bool(home.start(becomes, NEXT_BOOT).forgot) is forgets


def test_with_a_sync_before_each_answer_it_does_not_matter_that_the_machine_went_down(home: Home) -> None:
    disk = home.start(ALWAYS, UNKNOWN)
    write(disk, b"key")
    home.kill(disk)

    assert home.start(ALWAYS, UNKNOWN).incarnation == "i-1"


# Damage.


def test_damaged_data_is_set_aside_numbered_and_never_deleted(home: Home) -> None:
    for number in (1, 2, 3):
        disk = home.start()
        write(disk, b"key")
        home.stop(disk)
        home.stop(home.start())
        flip(list(home.data.glob("MANIFEST-*")), b"leveldb.BytewiseComparator")

        disk = home.start()

        assert disk.incarnation == f"i-{number + 1}"
        assert home.aside()[-1] == f"data.damaged-{number}"
        assert f"data.damaged-{number}" in disk.forgot
        assert keys(disk) == []
        home.stop(disk)
    assert home.aside() == ["data.damaged-1", "data.damaged-2", "data.damaged-3"]
    assert all(NOISE in b"".join(table.read_bytes() for table in tables(home.folder / name)) for name in home.aside())


def test_after_doubt_the_next_start_verifies_and_the_one_after_it_does_not(home: Home) -> None:
    disk = home.start()
    write(disk, b"key")
    disk.doubt()
    assert home.suspect.exists()
    home.kill(disk)

    disk = home.start()

    assert (disk.incarnation, home.suspect.exists(), home.aside()) == ("i-1", False, [])
    home.stop(disk)
    flip(tables(home.data), NOISE)
    assert home.start().incarnation == "i-1"
    assert home.aside() == []


def test_damage_that_nobody_would_have_read_is_found_after_doubt(home: Home) -> None:
    damage_the_data(home)

    disk = home.start()

    assert (disk.incarnation, home.suspect.exists()) == ("i-2", False)
    assert home.aside() == ["data.damaged-1"]
    assert "data.damaged-1" in disk.forgot
    assert keys(disk) == []


def test_a_start_that_was_killed_while_it_verified_verifies_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    damage_the_data(home)

    def killed(engine: RocksEngine) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(RocksEngine, "verify", killed)
        with pytest.raises(KeyboardInterrupt):
            home.start()
    home.move_to(home.photograph())

    assert home.start().incarnation == "i-2"


def test_doubt_about_a_disk_that_is_gone_is_no_further_trouble(home: Home) -> None:
    disk = home.start()
    shutil.rmtree(home.folder)

    disk.doubt()

    assert not home.folder.exists()


# What an operator has to mend.


def test_a_folder_in_use_is_refused_and_left_as_it_is(home: Home) -> None:
    disk = home.start()
    write(disk, b"key")

    with pytest.raises(DiskFailed, match="another process"):
        Disk(home.folder, ALWAYS, BOOT, home.draw)

    assert home.aside() == []
    write(disk, b"goes on")


def test_a_mark_that_cannot_be_written_is_refused_in_a_plain_sentence(home: Home) -> None:
    home.mark.mkdir()

    with pytest.raises(DiskFailed, match=os.strerror(21)):
        home.start()
