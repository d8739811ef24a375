"""Frames that were too much for somebody once, each by its name."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from tests.fuzz.doors import HEADER, NodeScene
from tests.fuzz.files import Documents, Files, Rows, Spoilt
from tests.golden import samples
from tests.rooms.nodes import STATE, Nodes, ballot_at, record_of
from twisted_kv.ctl.bookmark import Bookmark
from twisted_kv.ctl.trouble import Trouble
from twisted_kv.errors import PeerSilent, StateUnusable
from twisted_kv.membership import decode_state
from twisted_kv.names import Key, NodeId
from twisted_kv.peers.pages import Pages, Place
from twisted_kv.peers.peer import Answer
from twisted_kv.register import FETCH, HINT, Op
from twisted_kv.ring import SLOTS, slot_of
from twisted_kv.versions import NONE, TIME_MAX, Ballot, HybridClock, drawn_by_a_clock
from twisted_kv.wire.batches import Batch, BatchReply
from twisted_kv.wire.header import FORMAT, encode
from twisted_kv.wire.moving import PullReply, PullRequest, Source
from twisted_kv.wire.pages import (
    DuePage,
    DueRequest,
    KeyRow,
    KeysPage,
    KeysRequest,
    Page,
    Row,
    SlotKeysPage,
    SlotKeysRequest,
    rows_digest,
)
from twisted_kv.wire.upkeep import Digests, FloorRow, HintsPage, HintsRequest, Marks, PurgeReply, VerifyReply

EVERYTHING = [(0, SLOTS - 1)]

# What a node was asked.


@pytest.fixture(params=["memory", "rocksdb"])
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[NodeScene]:
    scene = NodeScene(tmp_path if request.param == "rocksdb" else None)
    yield scene
    scene.check()
    scene.close()


REQUESTS: dict[str, tuple[str, Any]] = {
    "no keys of slots at all": ("slotkeys", SlotKeysRequest(HEADER, 6, 0)),
    "fewer keys of slots than none": ("slotkeys", SlotKeysRequest(HEADER, 6, -5)),
    "keys of a slot that there is not": ("slotkeys", SlotKeysRequest(HEADER, 2**31, 5)),
    "fewer keys than none": ("keys", KeysRequest(HEADER, b"", b"", -1)),
    "fewer values that expire than none": ("due", DueRequest(HEADER, 1, None, -1)),
    "values that expire after all time": ("due", DueRequest(HEADER, 2**64 - 1, None, 1)),
    "values that expire after a time below zero": ("due", DueRequest(HEADER, 1, (-1, b"a"), 1)),
    "fewer hints than none": ("hints", HintsRequest(HEADER, "n-2", b"", -1)),
    "a copy from nobody": ("pull", PullRequest(HEADER, EVERYTHING, 0, [], 0)),
    "a copy from fewer than are needed": (
        "pull",
        PullRequest(HEADER, EVERYTHING, 0, [Source("http://a", "a", "i")], 2),
    ),
    "a copy of a range that is none": ("pull", PullRequest(HEADER, [(9, 5)], 0, [Source("http://a", "a", "i")], 1)),
    "an epoch that no answer could tell": ("batch", Batch(replace(HEADER, epoch=2**64 - 1), [])),
    "a hint for a name that is read as another": (
        "batch",
        Batch(HEADER, [Op(HINT, Key(b"a"), samples.ballot(1), b"n-2\0b")]),
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_node_refuses(node: NodeScene, name: str) -> None:
    route, request = REQUESTS[name]
    code, body = node.ask(route, encode(request))
    assert (code, msgspec.json.decode(body)["type"]) == (400, "malformed-body")
    node.put(b"good", b"v", 2_000_000)


@pytest.mark.parametrize(
    "body", [b'{"cluster": "", "member": ""}', b'{"cluster": "c-1", "member": "%s"}' % (b"x" * 65)]
)
def test_a_node_takes_no_name_that_is_none(node: NodeScene, body: bytes) -> None:
    code, _ = node.ask("join", body)
    assert code == 400


def test_a_node_keeps_no_backup_of_a_cluster_that_nobody_can_read(tmp_path: Path) -> None:
    scene = NodeScene(tmp_path)
    code, body = scene.ask("backup", encode(replace(samples.MESSAGES["backup_request"], header=HEADER, state=b"\x80")))
    assert (code, msgspec.json.decode(body)["type"]) == (400, "malformed-body")
    assert scene.backups.kept().backups == []
    scene.close()


# What a proxy, or a node that copies, was answered.


def rows(*keys: bytes) -> list[Row]:
    return [Row(key, ballot_at(5), record_of(5), ballot_at(5)) for key in keys]


def page(*keys: bytes, after: tuple[int, bytes] | None = None) -> Page:
    found = rows(*keys)
    return Page(FORMAT, 2, found, after, rows_digest(found))


LOW, HIGH = sorted((b"a", b"b"), key=slot_of)
ANSWERS: dict[str, tuple[str, Any]] = {
    "rows that do not ascend, for which merging waits for ever": ("page", page(HIGH, LOW)),
    "the same row twice": ("page", page(LOW, LOW)),
    "a page that goes on where it began": ("page", page(after=(0, b""))),
    "a record that is cut": ("page", Page(FORMAT, 2, [Row(b"a", ballot_at(5), b"x", ballot_at(5))], None, 0)),
    "a ballot that no clock draws": ("page", Page(FORMAT, 2, [Row(b"a", b"\xff" * 16, record_of(5), NONE)], None, 0)),
    "a slot that there is not, with a mark": ("marks", Marks(FORMAT, 2, [SLOTS])),
    "a floor of a ballot that is none": ("digests", Digests(FORMAT, 2, {}, {}, [FloorRow(5, b"", b"")])),
    "a floor above all ballots": ("digests", Digests(FORMAT, 2, {}, {}, [FloorRow(5, b"\xff" * 16, NONE)])),
    "a highest ballot that is none": ("digests", Digests(FORMAT, 2, {}, {}, [], b"short")),
    "more keys to come, and none there": ("keys", KeysPage(FORMAT, 2, [], True)),
    "keys that do not begin so": ("keys", KeysPage(FORMAT, 2, [KeyRow(b"z", True, 0)], False)),
    "keys that were before": ("keys", KeysPage(FORMAT, 2, [KeyRow(b"k", True, 0)], True)),
    "slots that do not go on": ("slot_keys", SlotKeysPage(FORMAT, 2, [], 5)),
    "more values that expire, and none there": ("due", DuePage(FORMAT, 2, [], True)),
    "values that expire without a key": ("due", DuePage(FORMAT, 2, [(1, b"")], False)),
    "hints that were before": ("hints", HintsPage(FORMAT, 2, rows(b"a", b"a"), True)),
    "a copy that goes back": ("pull", PullReply(FORMAT, 2, 0, 0, [], 5)),
    "disputed keys that were not to be copied": ("pull", PullReply(FORMAT, 2, 0, 0, [b"a"])),
    "a copy of fewer records than none": ("pull", PullReply(FORMAT, 2, -1, 0, [])),
    "a verification that goes back": ("verify", VerifyReply(FORMAT, 2, 0, 0)),
    "a drop that never ends": ("drop", BatchReply(FORMAT, 2, next=5)),
    "what it is now, unreadably": ("join", b"{"),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_a_proxy_takes_for_silence(name: str) -> None:
    call, answer = ANSWERS[name]
    nodes = Nodes("a")
    seat, control = nodes.seats[NodeId("a")], nodes.control
    body = answer if isinstance(answer, bytes) else encode(answer)
    nodes.altered = lambda node, path, honest: Answer(200, body)
    calls: dict[str, Any] = {
        "page": lambda: control.page(seat, STATE, EVERYTHING, (0, b"")),
        "marks": lambda: control.marks(seat, STATE),
        "digests": lambda: control.digests(seat.url, samples_of_digests(nodes)),
        "keys": lambda: control.keys(seat, STATE, b"k", b"k1", 10),
        "slot_keys": lambda: control.slot_keys(seat, STATE, 5, 10),
        "due": lambda: control.due(seat, STATE, 5, None, 10),
        "hints": lambda: control.hints(seat, STATE, "b", b"", 10),
        "pull": lambda: control.pull(seat, STATE, [(5, 9)], 5, [], 1),
        "verify": lambda: control.verify(nodes.clock, seat, STATE, [(5, 9)]),
        "drop": lambda: control.drop(nodes.clock, seat, STATE, [(5, 9)]),
        "join": lambda: control.join(seat.url, "c-1", "a"),
    }
    with pytest.raises(PeerSilent):
        nodes.wait(calls[call]())


def samples_of_digests(nodes: Nodes) -> Any:
    return replace(samples.MESSAGES["digests_request"], header=nodes.control.header(nodes.seats[NodeId("a")], STATE))


def test_a_slot_that_is_said_twice_to_be_purged_counts_once() -> None:
    """Two of its owners would otherwise pass for three, and the third has not promised."""
    nodes = Nodes("a")
    nodes.altered = lambda node, path, honest: Answer(200, encode(PurgeReply(FORMAT, 2, [5, 5, 7])))
    asked = nodes.control.purge(nodes.seats[NodeId("a")], STATE, ballot_at(5), [(5, 0), (6, 0)], False)
    assert nodes.wait(asked) == [5]


def test_replies_that_no_owner_gives_are_no_answer_to_a_mover_either() -> None:
    nodes = Nodes("a")
    reply = [True, b"\xff" * 16, b"\xff" * 16, record_of(5), ""]
    nodes.altered = lambda node, path, honest: Answer(200, msgspec.msgpack.encode([FORMAT, 2, [reply]]))
    with pytest.raises(PeerSilent):
        nodes.wait(nodes.control.ask(nodes.seats[NodeId("a")], STATE, [Op(FETCH, Key(b"a"))]))


@pytest.mark.parametrize("time", [TIME_MAX - 1, TIME_MAX - 2, TIME_MAX, 2**64 - 1])
def test_one_ballot_that_was_made_up_does_not_end_a_proxys_writing(time: int) -> None:
    clock = HybridClock(lambda: 1_000, 1)
    clock.learn(Ballot(time.to_bytes(8, "big") + bytes(8)))
    assert all(drawn_by_a_clock(clock.tick()) for _ in range(10))


# What lay on a disk.

DISK: dict[str, tuple[str, bytes, bytes]] = {
    "a hint that is cut": ("hints", b"hn-2\0key", b"short"),
    "a hint for nobody who can be named": ("hints", b"h\xff\xfe\0key", bytes(24)),
    "a mark without a slot": ("hints", b"m", b""),
    "a digest without a slot": ("meta", b"d", bytes(12)),
    "a floor that is cut": ("meta", b"f\0\5", b"short"),
    "a floor above all ballots": ("meta", b"f\0\5", b"\xff" * 32),
    "a note whose name is no text": ("meta", b"n\xff\xfe", b""),
    "an identity that is no JSON": ("meta", b"nidentity", b"{"),
    "an identity of another shape": ("meta", b"nidentity", b'{"epoch": -1}'),
    "a key's row that is cut": ("keys", b"key0", b"\1"),
    "a row of expiry without a key": ("expiry", b"\0\0", b""),
    "a cell without a key": ("data", b"\0\5", b"cell"),
    "a cell in half a slot": ("data", b"\0", b"cell"),
}


@pytest.mark.parametrize("name", DISK)
def test_a_node_starts_or_says_why_it_does_not_with(name: str, tmp_path: Path) -> None:
    rows_ = Rows(tmp_path)
    rows_.take(DISK[name])
    rows_.look()
    rows_.close()


STATES: dict[str, dict[str, Any]] = {
    "so many vnodes that no ring would fit into memory": {"vnodes": 10**12},
    "a weight that none could": {"members": [{"id": "n", "url": "u", "weight": 10**9}]},
    "so many replicas": {"replicas": 10**6},
    "an epoch that no message can carry": {"epoch": 2**64},
    "an epoch below zero": {"epoch": -1},
    "a member without a name": {"members": [{"id": "", "url": "u"}]},
    "a member who shall be there twice": {
        "change": {"id": "c", "kind": "join", "seats": [{"id": "n", "url": "u"}, {"id": "n", "url": "v"}]}
    },
    "a member who is wished for twice": {"pending": [{"seat": {"id": "n", "url": url}} for url in "uv"]},
}


@pytest.mark.parametrize("name", STATES)
def test_a_state_is_refused_with(name: str) -> None:
    document = {"format": 1, "cluster_id": "c-1", "epoch": 3} | STATES[name]
    with pytest.raises(StateUnusable):
        decode_state(json.dumps(document).encode())


ETCD: dict[str, tuple[str, bytes]] = {
    "a transaction without answers": ("kv/txn", b"{}"),
    "answers that are none": ("kv/txn", b'{"responses": "x"}'),
    "more answers than were asked for": ("kv/txn", b'{"responses": [{}, {}, {"response_range": []}]}'),
    "a row without a revision": ("kv/txn", b'{"responses": [{"response_range": {"kvs": [{}]}}, {}]}'),
    "a revision that is no number": (
        "kv/txn",
        b'{"responses": [{"response_range": {"kvs": [{"mod_revision": "x"}]}}, {}]}',
    ),
    "a value that is no base64": (
        "kv/txn",
        b'{"responses": [{"response_range": {"kvs": [{"mod_revision": "1", "value": "\\u00e9"}]}}, {}]}',
    ),
    "a lease without a name": ("lease/grant", b"{}"),
    "a lease that is kept for no time that can be read": ("lease/keepalive", b'{"result": {"TTL": "x"}}'),
    "an event of nothing": ("watch", b'{"result": {"events": [{}]}}'),
    "a watch of another shape": ("watch", b'{"result": []}'),
}


@pytest.mark.parametrize("name", ETCD)
def test_etcd_may_answer(name: str, tmp_path: Path) -> None:
    Documents(tmp_path).take(Spoilt(*ETCD[name]))


BOOKMARKS: dict[str, bytes] = {
    "a place that is no object": b'{"of": {"cluster_id": "c-1"}, "at": "x"}',
    "what it is of, no object": b'{"of": 1, "at": {}}',
    "a place that says nothing": b'{"of": {"cluster_id": "c-1"}, "at": {}}',
    "a number that is text": b'{"of": {"cluster_id": "c-1"}, "at": {"bytes": "10", "line": 1}}',
    "a number below zero": b'{"of": {"cluster_id": "c-1"}, "at": {"bytes": -10, "line": 1}}',
    "a number that is a fact": b'{"of": {"cluster_id": "c-1"}, "at": {"bytes": true, "line": 1}}',
    "more depth than can be read": b"[" * 100_000,
}


@pytest.mark.parametrize("name", BOOKMARKS)
def test_a_bookmark_is_not_followed_with(name: str, tmp_path: Path) -> None:
    bookmark = Bookmark(tmp_path / "x", "import", {"cluster_id": "c-1"})
    bookmark.path.write_bytes(BOOKMARKS[name])
    with pytest.raises(Trouble) as trouble:
        bookmark.found()
    assert "--fresh" in trouble.value.lines()


@pytest.mark.parametrize(
    "key", ["not base64", "", "AA=="], ids=["a key that is no base64", "no key", "a key of another slot"]
)
def test_a_restore_does_not_go_on_from(key: str, tmp_path: Path) -> None:
    files = Files(tmp_path)
    at = {"slot": 5, "key": key, "stored": 1, "expired": 0}
    data = json.dumps({"of": {"cluster_id": "c-1"}, "at": at}).encode()
    assert files.take(Spoilt("restore", data)).passed == (not key)


@pytest.mark.parametrize("name", ["a\0b", "../x", "/etc/passwd", ""])
def test_a_backup_is_not_whole_whose_manifest_names_files_elsewhere(name: str, tmp_path: Path) -> None:
    files = Files(tmp_path)
    contents = json.loads(files._contents)
    contents["files"][0]["name"] = name
    assert files.take(Spoilt("contents", json.dumps(contents).encode())).passed == 0
    assert files.take(Spoilt("contents", b'{"x":' * 100_000)).passed == 0


def test_pages_that_hold_nothing_and_do_not_end_are_given_up() -> None:
    shown = itertools.count(1)

    async def fetch(after: Place | None) -> Page:
        return Page(FORMAT, 2, [], (5, b"%09d" % next(shown)))

    with pytest.raises(PeerSilent):
        Nodes().wait(Pages(fetch).turn())
    assert next(shown) < 2_000
