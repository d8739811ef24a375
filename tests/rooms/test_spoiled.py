"""A node of whose tables a whole block is lost: it says so, abstains from what lies there, and serves the rest."""

from __future__ import annotations

import pytest

from tests.rooms.test_replica import ALL, ME, SickRoom, now, settled
from twisted_kv.errors import Damaged
from twisted_kv.names import Key
from twisted_kv.register import ABSTAIN
from twisted_kv.wire.pages import DueRequest, KeysRequest, PageRequest


@pytest.fixture
def sick(monkeypatch: pytest.MonkeyPatch) -> SickRoom:
    room = SickRoom()
    settled(room)

    def lost(*_: object) -> None:
        raise Damaged("what is stored cannot be read: block checksum mismatch")

    for name in ("replace_damaged", "scan", "keys", "due"):
        monkeypatch.setattr(room.engine, name, lost)
    assert not room.replica.info().spoiled
    return room


def test_a_write_into_what_is_lost_is_abstained_from_and_the_rest_of_its_batch_is_taken(sick: SickRoom) -> None:
    sick.engine.unreadable = {b"bad"}

    bad, good = sick.serve(sick.accept(b"bad", b"1"), sick.accept(b"good", b"1")).replies

    assert bad is ABSTAIN
    assert good.taken
    assert sick.replica.info().spoiled, "no record can be replaced there, so the node has to be renewed"


@pytest.mark.parametrize("call", ["page", "keys", "due"])
def test_whoever_finds_that_something_cannot_be_read_through_is_told_and_the_node_says_so(
    sick: SickRoom, call: str
) -> None:
    asked = {"page": PageRequest(ME, ALL), "keys": KeysRequest(ME, b"", b"", 9), "due": DueRequest(ME, 9, None, 9)}

    with pytest.raises(Damaged):
        now(getattr(sick.replica, call)(asked[call]))

    assert sick.replica.info().spoiled


def test_a_record_that_cannot_be_read_is_marked_for_repair_whoever_asks_for_it(sick: SickRoom) -> None:
    sick.engine.unreadable = {b"bad"}

    with pytest.raises(Damaged):
        now(sick.replica.read_local(Key(b"bad")))

    assert sick.replica.info().marks == 1
    assert not sick.replica.info().spoiled, "it can be replaced"
