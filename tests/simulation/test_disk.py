"""The simulated disk: what a power cut takes, and what becomes of cells that went bad."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from tests.contracts.test_engines import HIGHEST, LOWEST, change, everything, floor, graves, tombstone, value
from twisted_kv.errors import Damaged, DiskBusy
from twisted_kv.names import Key, Slot
from twisted_kv.simulation.disk import Disk
from twisted_kv.storage.engine import UNREADABLE, Inspection

K = Key(b"k")


def spoiled() -> Disk:
    """A disk with one cell, synced, that went bad."""
    disk = Disk()
    disk.apply([change(1, K, tombstone(1))])
    disk.sync()
    disk.spoil(Random(1))
    return disk


MENDS: dict[str, Callable[[Disk], object]] = {
    "replaced": lambda disk: disk.replace_damaged(Slot(1), K, value(2)),
    "removed": lambda disk: disk.replace_damaged(Slot(1), K, None),
    "dropped": lambda disk: disk.drop(LOWEST, HIGHEST, 9),
}


def test_a_bad_cell_is_shown_as_unreadable_and_counts_nothing_in_an_inspection() -> None:
    disk = spoiled()

    with pytest.raises(Damaged):
        disk.get(Slot(1), K)
    assert disk.scan(LOWEST, HIGHEST, None, 9)[0].cell is UNREADABLE
    assert disk.inspect(Slot(1)) == Inspection(1, [K], False)
    disk.mend_digest(Slot(1))
    assert disk.inspect(Slot(1)) == Inspection(1, [K], True)
    assert graves(disk) == {}


@pytest.mark.parametrize("cell", [value(2), None])
def test_a_bad_cell_is_not_replaced_unawares(cell: object) -> None:
    disk = spoiled()
    before = disk.written

    with pytest.raises(Damaged):
        disk.apply([change(2, b"other", value(1)), change(1, K, cell)])  # type: ignore[arg-type]
    with pytest.raises(Damaged):
        disk.set_floors({Slot(1): floor(2, 2)}, [change(1, K, cell)])  # type: ignore[arg-type]

    assert disk.written == before
    assert disk.floors(LOWEST, HIGHEST) == {}


@pytest.mark.parametrize("mend", MENDS.values(), ids=MENDS)
def test_a_bad_cell_that_was_mended_stays_so_whatever_happens_if_that_was_synced(
    mend: Callable[[Disk], object],
) -> None:
    disk = spoiled()
    mend(disk)
    disk.sync()

    for crashed in (disk, disk.after_crash(Random(1), power=True), disk.after_crash(Random(1), power=False)):
        assert crashed.bad == set()
        assert everything(crashed) == everything(disk)
        assert crashed.inspect(Slot(1)) == Inspection(len(everything(disk)), [], True)


@pytest.mark.parametrize("mend", MENDS.values(), ids=MENDS)
def test_a_bad_cell_is_bad_again_where_a_power_cut_takes_what_mended_it(mend: Callable[[Disk], object]) -> None:
    disk = spoiled()
    mend(disk)

    cut = disk.without_tail(1)

    assert cut.bad == {K}
    assert cut.inspect(Slot(1)) == Inspection(1, [K], False)
    cut.replace_damaged(Slot(1), K, value(3))
    cut.sync()
    assert cut.after_crash(Random(1), power=True).bad == set()


def test_a_cell_that_went_bad_after_it_was_mended_is_bad() -> None:
    disk = spoiled()
    disk.replace_damaged(Slot(1), K, value(2))
    disk.spoil(Random(1))
    disk.sync()

    assert disk.after_crash(Random(1), power=True).bad == {K}


def test_a_bad_cell_that_a_power_cut_takes_is_no_longer_there() -> None:
    disk = Disk()
    disk.apply([change(1, K, value(1))])
    disk.spoil(Random(1))

    assert disk.without_tail(1).bad == set()
    assert disk.without_tail(1).get(Slot(1), K) is None


def test_a_mended_digest_is_the_same_after_a_crash() -> None:
    disk = Disk()
    disk.apply([change(1, b"a", tombstone(1)), change(1, b"b", tombstone(2))])
    disk.spoil(Random(1))
    disk.mend_digest(Slot(1))
    (bad,) = disk.bad
    (digest,) = disk.digests(Slot(1), Slot(1))
    disk.replace_damaged(Slot(1), Key(bad), None)
    disk.mend_digest(Slot(1))

    crashed = disk.after_crash(Random(1), power=False)
    assert list(crashed.digests(Slot(1), Slot(1))) == [digest]
    assert graves(crashed) == graves(disk) == {1: 1}
    assert list(disk.without_tail(2).digests(Slot(1), Slot(1))) == [digest]
    assert disk.without_tail(3).inspect(Slot(1)).right is False


def test_what_is_refused_is_no_step() -> None:
    disk = spoiled()
    disk.busy = True
    before = disk.written

    for mend in [*MENDS.values(), lambda disk: disk.mend_digest(Slot(1)), lambda disk: disk.set_floors({}, [])]:
        with pytest.raises(DiskBusy):
            mend(disk)

    assert (disk.written, disk.bad) == (before, {K})


@pytest.mark.parametrize("mend", MENDS.values(), ids=MENDS)
def test_a_bad_tombstone_that_a_scrub_has_not_counted_may_go_like_any_other(mend: Callable[[Disk], object]) -> None:
    """Seeds 30279, 30314 and 30843."""
    disk = spoiled()
    disk.mend_digest(Slot(1))
    assert graves(disk) == {}
    mend(disk)
    assert graves(disk) == {}
    assert disk.inspect(Slot(1)).right
