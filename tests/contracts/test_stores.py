"""The contract of state stores. Each store goes through the same tests; what is the file's alone follows.

``test_etcd.py`` has what is etcd's alone.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from tests.contracts.fake_etcd import FakeEtcd
from twisted_kv.errors import StateUnusable
from twisted_kv.limits import Limits
from twisted_kv.membership import Seat, State, Wish, encode_state, founded, wished
from twisted_kv.names import ClusterId
from twisted_kv.state.etcd import EtcdStore
from twisted_kv.state.file import FileStore
from twisted_kv.state.store import StateStore

LIMITS = Limits()
FIRST = founded(ClusterId("c-1"), 3, 16)


class Place(NamedTuple):
    """A clock, and stores at one place of it: what several proxies have."""

    clock: Clock
    open: Callable[[], StateStore]


def files(folder: Path) -> Place:
    clock = Clock()
    return Place(clock, lambda: FileStore(clock, folder / "deep" / "state.json", LIMITS))


def etcd(folder: Path) -> Place:
    clock = Clock()
    gateway, names = FakeEtcd(clock), count()
    return Place(clock, lambda: EtcdStore(clock, gateway, "/kv", f"proxy {next(names)}", LIMITS))


@pytest.fixture(params=[files, etcd], ids=["file", "etcd"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    made = request.param(tmp_path)
    yield made
    assert made.clock.getDelayedCalls() == []


def result(fired: Deferred[Any]) -> Any:
    """What a Deferred that has fired gave; its failure is raised."""
    results: list[Any] = []
    fired.addBoth(results.append)
    assert results, "it has not fired"
    if isinstance(results[0], Failure):
        results[0].raiseException()
    return results[0]


def run(clock: Clock, seconds: float) -> None:
    clock.pump([0.01] * round(seconds * 100))


def found(state: State | None) -> State:
    return state or FIRST


def grown(state: State | None) -> State:
    assert state is not None
    return msgspec.structs.replace(state, epoch=state.epoch + 1)


def test_a_store_that_nobody_wrote_has_no_state(place: Place) -> None:
    assert result(place.open().read()) is None


def test_an_update_is_seen_by_every_store_of_the_same_place(place: Place) -> None:
    one, other = place.open(), place.open()
    assert result(one.update(found)) == FIRST
    assert result(other.read()) == FIRST
    assert result(place.open().read()) == FIRST
    second = result(other.update(grown))
    assert (second.epoch, result(one.read())) == (2, second)


def test_a_step_is_given_the_newest_state_and_nothing_comes_between(place: Place) -> None:
    one, other = place.open(), place.open()
    result(one.update(found))
    updates = [store.update(grown) for _ in range(10) for store in (one, other)]
    run(place.clock, 1)
    assert sorted(result(update).epoch for update in updates) == list(range(2, 22))
    assert result(one.read()).epoch == 21


def test_wishes_of_two_proxies_are_both_kept(place: Place) -> None:
    stores = [place.open(), place.open()]
    result(stores[0].update(found))
    for number, store in enumerate(stores):
        seat = Seat(f"n-{number}", f"http://node{number}:80")
        store.update(lambda state, seat=seat: wished(state or FIRST, Wish(seat)))
    assert [wish.seat.id for wish in result(place.open().read()).pending] == ["n-0", "n-1"]


def test_a_step_that_raises_changes_nothing_and_its_error_comes_back(place: Place) -> None:
    store = place.open()
    result(store.update(found))

    def refuse(state: State | None) -> State:
        raise LookupError("not now")

    with pytest.raises(LookupError, match="not now"):
        result(store.update(refuse))
    assert result(store.read()) == FIRST
    assert result(store.update(grown)).epoch == 2, "the lock is free again"


def test_watch_shows_the_present_state_and_each_newer_one_within_a_second(place: Place) -> None:
    store, other = place.open(), place.open()
    seen: list[int] = []
    stop = store.watch(lambda state: seen.append(state.epoch))
    run(place.clock, 1)
    assert seen == []
    result(other.update(found))
    run(place.clock, 1)
    assert seen == [1]
    for epoch in (2, 3, 4):
        result(other.update(grown))
        run(place.clock, 1)
        assert seen[-1] == epoch
    run(place.clock, 5)
    assert seen == [1, 2, 3, 4]
    stop()


def test_watch_may_skip_states_but_never_goes_back(place: Place) -> None:
    store, other = place.open(), place.open()
    result(other.update(found))
    seen: list[int] = []
    stop = store.watch(lambda state: seen.append(state.epoch))
    for _ in range(40):
        result(other.update(grown))
        run(place.clock, 0.07)
    run(place.clock, 1)
    stop()
    assert seen == sorted(set(seen))
    assert seen[-1] == 41


def test_a_watch_that_was_stopped_says_nothing_more(place: Place) -> None:
    store = place.open()
    result(store.update(found))
    seen: list[int] = []
    stop = store.watch(lambda state: seen.append(state.epoch))
    run(place.clock, 1)
    stop()
    result(store.update(grown))
    run(place.clock, 2)
    stop()
    assert seen == [1]


def test_a_watch_may_stop_itself(place: Place) -> None:
    store = place.open()
    result(store.update(found))
    seen: list[int] = []

    def once(state: State) -> None:
        seen.append(state.epoch)
        stop()

    stop = store.watch(once)
    run(place.clock, 1)
    assert seen == [1]


def test_a_watcher_that_fails_is_logged_and_hears_of_the_next_state(
    place: Place, no_logged_failure: list[dict[str, Any]]
) -> None:
    store = place.open()
    result(store.update(found))
    seen: list[int] = []

    def stumbling(state: State) -> None:
        seen.append(state.epoch)
        if len(seen) == 1:
            raise ZeroDivisionError

    stop = store.watch(stumbling)
    run(place.clock, 1)
    assert [event["log_failure"].type for event in no_logged_failure] == [ZeroDivisionError]
    no_logged_failure.clear()
    result(store.update(grown))
    run(place.clock, 1)
    stop()
    assert seen[-1] == 2


def test_one_store_leads_until_it_resigns(place: Place) -> None:
    one, other = place.open(), place.open()
    other.resign()
    assert result(one.lead()) is True
    assert result(one.lead()) is True
    assert result(other.lead()) is False
    other.resign()
    assert result(other.lead()) is False, "who does not lead cannot resign for another"
    one.resign()
    assert result(other.lead()) is True
    assert result(one.lead()) is False
    other.resign()


def test_who_leads_does_not_keep_others_from_updating(place: Place) -> None:
    one, other = place.open(), place.open()
    result(one.lead())
    assert result(other.update(found)) == FIRST
    one.resign()


# The file's alone.


@pytest.fixture
def clock() -> Iterator[Clock]:
    made = Clock()
    yield made
    assert made.getDelayedCalls() == []


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state.json"


@pytest.fixture
def store(clock: Clock, path: Path) -> FileStore:
    return FileStore(clock, path, LIMITS)


def test_the_file_is_the_document_and_no_draft_is_left_beside_it(store: FileStore, path: Path) -> None:
    result(store.update(found))
    result(store.update(grown))
    assert path.read_bytes() == encode_state(grown(FIRST))
    assert json.loads(path.read_text())["epoch"] == 2
    assert {file.name for file in path.parent.iterdir()} == {"state.json", "state.json.lock"}


def test_the_same_state_back_writes_nothing(store: FileStore, path: Path) -> None:
    result(store.update(found))
    before = path.stat()
    assert result(store.update(lambda state: state or FIRST)) == FIRST
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_draft_that_a_dead_process_left_is_harmless(store: FileStore, path: Path) -> None:
    result(store.update(found))
    draft = Path(f"{path}.new")
    draft.write_bytes(b'{"format": 1, "cluster_id": "half a docum' + b"x" * 10_000)
    assert result(store.read()) == FIRST
    assert result(store.update(grown)).epoch == 2
    assert path.read_bytes() == encode_state(grown(FIRST))
    assert not draft.exists()


def test_a_document_is_replaced_whole_and_never_written_into(store: FileStore, path: Path) -> None:
    result(store.update(found))
    with open(path, "rb") as reader:
        result(store.update(grown))
        assert reader.read() == encode_state(FIRST), "who opened it before still reads the old one to its end"


def test_a_lock_that_somebody_holds_is_waited_for_while_the_reactor_turns(
    store: FileStore, clock: Clock, path: Path
) -> None:
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        update = store.update(found)
        run(clock, LIMITS.control_timeout_s / 2)
        assert not update.called
        assert result(store.read()) is None
    run(clock, 0.05)
    assert result(update) == FIRST


def test_a_lock_that_is_never_given_back_makes_the_store_unusable_after_a_bound(
    store: FileStore, clock: Clock, path: Path
) -> None:
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        update = store.update(found)
        run(clock, LIMITS.control_timeout_s - 0.05)
        assert not update.called
        run(clock, 0.15)
        with pytest.raises(StateUnusable, match="another process holds the lock"):
            result(update)
        assert clock.getDelayedCalls() == []
    assert not path.exists()
    assert result(store.update(found)) == FIRST


def test_a_driver_that_holds_the_other_lock_excludes_this_one(store: FileStore, path: Path) -> None:
    with open(f"{path}.driver", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert result(store.lead()) is False
    assert result(store.lead()) is True
    store.resign()


@pytest.mark.parametrize("damage", [b"", b"{", b"\x00" * 100, encode_state(FIRST)[:-20]])
def test_a_damaged_document_is_refused_and_never_overwritten(store: FileStore, path: Path, damage: bytes) -> None:
    path.write_bytes(damage)
    with pytest.raises(StateUnusable, match="cannot be read"):
        result(store.read())
    with pytest.raises(StateUnusable, match="cannot be read"):
        result(store.update(found))
    assert path.read_bytes() == damage
    path.write_bytes(encode_state(FIRST))
    assert result(store.update(grown)).epoch == 2


def test_a_watch_outlives_a_damaged_document(store: FileStore, clock: Clock, path: Path) -> None:
    result(store.update(found))
    seen: list[int] = []
    stop = store.watch(lambda state: seen.append(state.epoch))
    run(clock, 1)
    path.write_bytes(b"{")
    run(clock, 2)
    path.unlink()
    run(clock, 1)
    path.write_bytes(encode_state(grown(FIRST)))
    run(clock, 1)
    stop()
    assert seen == [1, 2]


def test_a_folder_that_cannot_be_used_is_said_with_its_path(clock: Clock, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"no folder")
    path = tmp_path / "file" / "state.json"
    store = FileStore(clock, path, LIMITS)
    for call in (store.read, store.lead, lambda: store.update(found)):
        with pytest.raises(StateUnusable) as caught:
            result(call())
        assert str(path) in caught.value.detail
        assert caught.value.hint
    stop = store.watch(lambda state: pytest.fail("there is no state"))
    run(clock, 1)
    stop()
    store.resign()


def test_a_folder_in_place_of_the_document_is_unusable(store: FileStore, path: Path) -> None:
    path.mkdir()
    with pytest.raises(StateUnusable, match="Is a directory"):
        result(store.read())


def test_no_file_stays_open(store: FileStore, path: Path) -> None:
    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    result(store.update(found))
    before = opened()
    for _ in range(5):
        result(store.update(grown))
        result(store.read())
        result(store.lead())
        store.resign()
        with pytest.raises(ZeroDivisionError):
            result(store.update(lambda state: 1 / 0))  # type: ignore[arg-type, return-value]
    with open(f"{path}.driver", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result(store.lead())
    assert opened() == before
