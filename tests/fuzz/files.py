"""What disks give back: rows, records, notes and marks of a node, documents of the cluster, files of the commands."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import msgspec
from rocksdict import WriteBatch
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from tests.fuzz.doors import HEADER, MS
from tests.fuzz.kind import Taken
from tests.fuzz.spoiling import Spoiler, spoilt_bytes
from tests.golden import samples
from tests.strict_clock import StrictClock
from twisted_kv.commit import AtOnce
from twisted_kv.config import ClusterConfig, NodeConfig, ProxyConfig, configured
from twisted_kv.ctl.bookmark import SHAPES, Bookmark
from twisted_kv.ctl.records import put_of
from twisted_kv.ctl.restoring import Opened, Restoring, checked
from twisted_kv.ctl.trouble import Trouble
from twisted_kv.errors import BadConfig, Damaged, DiskFailed, KvError, StateUnusable
from twisted_kv.hinting import Hint, Hints
from twisted_kv.limits import Limits
from twisted_kv.membership import decode_state, encode_state
from twisted_kv.metrics import NodeMetrics
from twisted_kv.names import Key, NodeId, Slot
from twisted_kv.register import Cell, Floor
from twisted_kv.replica import Replica
from twisted_kv.ring import SLOTS, slot_of
from twisted_kv.state.etcd import EtcdStore
from twisted_kv.state.file import FileStore
from twisted_kv.storage.checkpoints import Contents, record
from twisted_kv.storage.engine import Change
from twisted_kv.storage.manifest import Manifest, differs
from twisted_kv.storage.marks import Mark, MarkFile
from twisted_kv.storage.rocks import RocksEngine
from twisted_kv.storage.rows import SLOT, encode_cell
from twisted_kv.token_files import read_tokens
from twisted_kv.versions import (
    decode_record,
    is_expired,
    is_value,
    is_whole,
    record_expiry,
    record_value,
    record_version,
)
from twisted_kv.views import View
from twisted_kv.wire.header import FORMAT
from twisted_kv.wire.pages import DueRequest, KeysRequest, PageRequest, SlotKeysRequest
from twisted_kv.wire.upkeep import DigestsRequest, HintsRequest, MarksRequest, VerifyRequest

RINGS_EVERY = 20
"""Of so many documents one has its ring made, which takes a hundred times as long as reading it."""
TOKENS_MAX = 5_000
"""Tokens up to which a ring is made of a document: those of larger ones take long."""


class Spoilt(NamedTuple):
    """A thing that was spoilt, and what kind of thing it is."""

    what: str
    data: bytes


class Records:
    """See ``kind.Kind``: records and cells, as bytes."""

    def __init__(self) -> None:
        self._records = [one.encode() for one in samples.RECORDS.values()]

    def spoilt(self, rng: Random) -> bytes:
        return spoilt_bytes(rng, self._records)

    def take(self, frame: bytes) -> Taken:
        try:
            found = decode_record(frame)
        except ValueError:
            assert not is_whole(frame)
            return Taken(1, 0)
        assert is_whole(frame)
        assert record_value(frame) == found.value
        assert is_value(frame) == (found.value is not None)
        assert record_version(frame) == found.version
        assert record_expiry(frame) == found.expires_ms
        assert is_expired(frame, 5) == found.expired(5)
        again = decode_record(found.encode())
        assert again == found
        return Taken(1, 1)

    def look(self) -> None:
        assert all(self.take(one).passed for one in self._records)

    def close(self) -> None:
        pass


class Rows:
    """See ``kind.Kind``: a row of any of RocksDB's column families that is not what was written there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.clock = StrictClock()
        self._lives = 0
        self._begin()

    def _begin(self) -> None:
        if self._lives:
            self.close()
        self._lives += 1
        self.engine = engine = RocksEngine(self._folder / f"rows-{self._lives}")
        self._keys = [Key(b"key%d" % number) for number in range(8)]
        kinds = list(samples.CELLS.values())
        cells = {key: kinds[number % 3] for number, key in enumerate(self._keys)}
        engine.apply(Change(slot_of(key), key, cell) for key, cell in cells.items())
        engine.set_floors({Slot(5): Floor(samples.ballot(50), samples.ballot(40))})
        engine.write_note("incarnation", HEADER.incarnation.encode())
        engine.write_note("identity", json.dumps(samples.IDENTITY).encode())
        engine.write_note("state", encode_state(samples.STATE))
        hints = Hints(engine, Limits())
        hints.keep([Hint(NodeId("n-2"), self._keys[0], samples.ballot(3), 1_000)])
        hints.mark([Slot(9)])
        self._families = ("data", "keys", "expiry", "meta", "hints")
        self._open = {name: engine._db.get_column_family(name) for name in self._families}
        self._handles = {name: engine._db.get_column_family_handle(name) for name in self._families}
        self._rows = {name: list(family.items()) for name, family in self._open.items()}
        self._cells = [(SLOT.pack(slot_of(key)) + key, cell) for key, cell in cells.items()]

    def spoilt(self, rng: Random) -> tuple[str, bytes, bytes]:
        family = rng.choice(self._families)
        rows = self._rows[family]
        name, row = rng.choice(rows)
        kind = rng.randrange(3)
        if kind != 1:
            row = spoilt_bytes(rng, [row, *(other for _, other in rows)]) if row else rng.randbytes(rng.randrange(4))
        if kind != 0:
            name = spoilt_bytes(rng, [name])[:1_000] or name
        if family == "data" and rng.random() < 0.5:
            # With a checksum that is right.
            place, cell = rng.choice(self._cells)
            ballots = [spoilt_bytes(rng, [ballot])[:16].ljust(16, b"\0") for ballot in (cell.promised, cell.accepted)]
            promised, accepted = rng.choice([(cell.promised, cell.accepted), ballots])
            name, record_ = place, spoilt_bytes(rng, [cell.record])
            row = encode_cell(Key(name[2:]), Cell(promised, accepted, record_))  # type: ignore[arg-type]
        return family, name, row

    def take(self, frame: tuple[str, bytes, bytes]) -> Taken:
        family, name, row = frame
        self._put(family, name, row)
        try:
            passed = self._used()
        finally:
            # What was repaired on the way is taken back with it.
            self._restore()
        return Taken(1, passed)

    def _put(self, family: str, name: bytes, row: bytes | None) -> None:
        engine = self.engine
        handle = self._handles[family]
        batch = WriteBatch(raw_mode=True)
        if row is None:
            batch.delete(name, handle)
        else:
            batch.put(name, row, handle)
        engine._db.write(batch, engine._write_options)
        engine._recent.clear()

    def _restore(self) -> None:
        engine = self.engine
        for family in self._families:
            known, handle = dict(self._rows[family]), self._handles[family]
            batch, changed = WriteBatch(raw_mode=True), False
            found = dict(self._open[family].items())
            for name in found.keys() - known.keys():
                batch.delete(name, handle)
                changed = True
            for name, row in known.items():
                if found.get(name) != row:
                    batch.put(name, row, handle)
                    changed = True
            if changed:
                engine._db.write(batch, engine._write_options)
        engine._recent.clear()
        engine._load()

    def _used(self) -> bool:
        """Start a node on it, and ask it all that it may be asked."""
        engine = self.engine
        try:
            engine._load()
            replica = Replica(
                self.clock,
                lambda: MS,
                1,
                engine,
                AtOnce(),
                HEADER.incarnation,
                Limits(),
                NodeMetrics(),
                Failure.raiseException,
            )
        except (Damaged, DiskFailed):
            return False
        whole = True
        everything = [(0, SLOTS - 1)]
        some = [(5, 5), *((slot, slot) for slot in sorted(map(slot_of, self._keys)))]
        keys = [*self._keys, Key(b"nothing")]

        def asked(done: Deferred[Any]) -> None:
            nonlocal whole
            got: list[Any] = []
            done.addBoth(got.append)
            assert got, "it is not answered"
            if isinstance(got[0], Failure):
                got[0].trap(KvError)
                whole = False
            else:
                msgspec.msgpack.encode(got[0])

        if replica._identity.member != HEADER.member:
            return False
        known = msgspec.structs.replace(HEADER, cluster=replica._identity.cluster, epoch=replica.epoch)
        for key in keys:
            asked(replica.read_local(key))
        asked(replica.page(PageRequest(known, everything)))
        asked(replica.digests(DigestsRequest(known, some)))
        asked(replica.keys(KeysRequest(known, b"", b"", 100)))
        asked(replica.slot_keys(SlotKeysRequest(known, 0, 100)))
        asked(replica.due(DueRequest(known, 2**62, None, 100)))
        asked(replica.hints(HintsRequest(known, "n-2", b"", 100)))
        asked(replica.marks(MarksRequest(known)))
        asked(replica.verify(VerifyRequest(known, some)))
        msgspec.json.encode(replica.info())
        replica.tidy()
        asked(replica.write_local(self._keys[1], b"new"))
        return whole and not replica.spoiled and not replica._hints.marks - {9}

    def look(self) -> None:
        assert self._used()
        self._restore()
        if self._lives < 3:
            self._begin()

    def close(self) -> None:
        for family in self._open.values():
            family.close()
        self._handles.clear()
        self.engine.close()


class Documents:
    """See ``kind.Kind``: the cluster's state, in a file and in etcd."""

    def __init__(self, folder: Path) -> None:
        self._spoiler = Spoiler([encode_state(samples.STATE)], json=True)
        document = b64encode(encode_state(samples.STATE)).decode()
        rows = [
            {"key": "a", "value": document, "mod_revision": "7"},
            {"key": "b", "value": "bmFtZS8x", "mod_revision": "7"},
        ]
        txn = {"succeeded": True, "responses": [{"response_range": {"kvs": [row]}} for row in rows]}
        event = {"type": "PUT", "kv": rows[0]}
        self._etcd = {
            "kv/txn": Spoiler([msgspec.json.encode(txn)], json=True),
            "lease/grant": Spoiler([b'{"ID": "1", "TTL": "6"}'], json=True),
            "lease/keepalive": Spoiler([b'{"result": {"ID": "1", "TTL": "6"}}'], json=True),
            "lease/revoke": Spoiler([b"{}"], json=True),
            "watch": Spoiler([msgspec.json.encode({"result": {"events": [event], "canceled": False}})], json=True),
        }
        self.clock = StrictClock()
        self._path = folder / "state.json"
        self._file = FileStore(self.clock, self._path, Limits())
        self._states = 0

    def spoilt(self, rng: Random) -> Spoilt:
        if rng.random() < 0.6:
            return Spoilt("state", self._spoiler.spoilt(rng))
        what = rng.choice(list(self._etcd))
        return Spoilt(what, self._etcd[what].spoilt(rng))

    def take(self, frame: Spoilt) -> Taken:
        if frame.what != "state":
            return self._of_etcd(frame)
        try:
            state = decode_state(frame.data)
        except StateUnusable:
            return Taken(1, 0)
        seats = [*state.members, *(state.change.seats if state.change is not None else ())]
        self._states += 1
        if self._states % RINGS_EVERY == 0 and sum(seat.weight for seat in seats) * state.vnodes <= TOKENS_MAX:
            assert len(View(state).table) == SLOTS
        assert decode_state(encode_state(state)) == state
        msgspec.msgpack.encode(HEADER.__class__(FORMAT, state.cluster_id, "n", "i", state.epoch, state.open))
        return Taken(1, 1)

    def _of_etcd(self, frame: Spoilt) -> Taken:
        gateway = Spoken(self.clock, frame)
        store = EtcdStore(self.clock, gateway, "p", "name", Limits())
        got: list[Any] = []
        works: list[Callable[[], Deferred[Any]]] = [
            store.read,
            lambda: store.update(lambda old: samples.STATE if old is None else old),
            lambda: store.update(lambda old: msgspec.structs.replace(samples.STATE, epoch=9)),
            store.lead,
        ]
        for place, work in enumerate(works):
            work().addBoth(got.append)
            for _ in range(CALLS_MAX):
                if len(got) > place:
                    break
                self.clock.advance(CALL_S)
        if store._lease is not None:
            ensureDeferred(store._lease._kept(0.0)).addErrback(lambda failure: None)
        stop = store.watch(lambda state: None)
        self.clock.advance(2.5)
        self.clock.advance(2.5)
        stop()
        store.resign()
        for call in self.clock.getDelayedCalls():
            call.cancel()
        assert len(got) == len(works)
        for one in got:
            if isinstance(one, Failure):
                one.trap(StateUnusable)
        return Taken(1, not any(isinstance(one, Failure) for one in got))

    def look(self) -> None:
        self._path.write_bytes(encode_state(samples.STATE))
        got: list[Any] = []
        self._file.read().addCallback(got.append)
        assert got == [samples.STATE]

    def close(self) -> None:
        pass


CALL_S = 0.5
"""How long a call to etcd takes."""
CALLS_MAX = 200
"""Calls after which an operation has ended."""


class Spoken:
    """An etcd gateway that answers one call with what is spoilt, and the others well."""

    def __init__(self, clock: StrictClock, frame: Spoilt) -> None:
        self._clock = clock
        self._frame = frame

    async def call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        await deferLater(self._clock, CALL_S)
        if path == self._frame.what:
            try:
                return msgspec.json.decode(self._frame.data, type=dict[str, Any])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise StateUnusable(f"no etcd: {error}") from None  # as the real one does
        if path == "kv/txn":
            return {"responses": [{"response_range": {}}, {"response_range": {}}]}
        return {"ID": "1", "TTL": "6", "result": {"TTL": "6"}}

    def stream(
        self, path: str, body: dict[str, Any], line: Callable[[dict[str, Any]], None], ended: Callable[[], None]
    ) -> Callable[[], None]:
        if self._frame.what == "watch":
            try:
                message = msgspec.json.decode(self._frame.data, type=dict[str, Any])
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                ended()
            else:
                line(message)
        return lambda: None


WHATS = ("mark", "manifest", "contents", "toml", "tokens", "line", "line", "export", "import", "restore")


class Files:
    """See ``kind.Kind``: what lies beside a node's data, in its backups, and what the commands read."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._turns = 0
        (folder / "data").mkdir()
        (folder / "data" / "CURRENT").write_bytes(b"MANIFEST-000005\n")
        (folder / "data" / "MANIFEST-000005").write_bytes(bytes(range(256)) * 4)
        self._part = Manifest(folder / "data").whole()
        marks = MarkFile(folder / "synced")
        marks.settle(Mark(77, "always", "boot-1", True, self._part))
        marks.close()
        self._mark = (folder / "synced").read_bytes()
        self._backup()
        etc = Path(__file__).parents[2] / "etc"
        self._toml = {
            shape: [(etc / f"{name}.toml").read_bytes(), _uncommented(etc / f"{name}.toml")]
            for name, shape in (("kvnode", NodeConfig), ("kvproxy", ProxyConfig), ("kvcluster", ClusterConfig))
        }
        self._tokens = [b"# mine\nread-write 0123456789abcdef0123\nread-only abcdefghijklmnopqrst==\n"]
        lines = [
            b'{"key": "a", "value": "b", "expires_ms": 4102444800000, "content_type": "text/plain"}',
            b'{"key_b64": "AP8=", "value_b64": "AP8="}',
        ]
        self._lines = Spoiler(lines, json=True)
        of = {"cluster_id": "c-1"}
        at = {
            "export": {"cursor": "abc", "bytes": 10, "records": 1},
            "import": {"bytes": 10, "line": 1},
            "restore": {"slot": slot_of(b"key"), "key": "a2V5", "stored": 1, "expired": 0},
        }
        self._bookmarks = {
            kind: Spoiler([json.dumps({"of": of, "at": one}).encode()], json=True) for kind, one in at.items()
        }

    def _backup(self) -> None:
        """Make a small backup of one node."""
        place = self._folder / "backup"
        engine = RocksEngine(self._folder / "engine")
        cell = samples.CELLS["a value"]
        engine.apply([Change(slot_of(Key(b"key")), Key(b"key"), cell)])
        engine.set_floors({Slot(5): Floor(samples.ballot(50), samples.ballot(40))})
        place.mkdir()
        engine.checkpoint(place / "data")
        engine.close()
        state = msgspec.structs.replace(samples.STATE, members=samples.SEATS[:1], change=None, pending=())
        contents = Contents(1, "first", 1, "0.1.0", "c-1", "n-1", 7, 1, 10, encode_state(state).decode())
        record(place, contents)
        self._place = place
        self._contents = (place / "manifest.json").read_bytes()
        self._manifest_spoiler = Spoiler([self._contents], json=True)

    def spoilt(self, rng: Random) -> Spoilt:
        what = rng.choice(
            (
                "mark",
                "manifest",
                "contents",
                "contents",
                "toml",
                "tokens",
                "line",
                "line",
                "line",
                "export",
                "import",
                "restore",
            )
        )
        if what == "mark":
            return Spoilt(what, spoilt_bytes(rng, [self._mark]))
        if what == "manifest":
            return Spoilt(what, spoilt_bytes(rng, [b"MANIFEST-000005\n", b"MANIFEST-000004\n", b"../../x"]))
        if what == "contents":
            return Spoilt(what, self._manifest_spoiler.spoilt(rng))
        if what == "toml":
            shape = rng.choice(list(self._toml))
            data = spoilt_bytes(rng, self._toml[shape])
            return Spoilt(f"toml {shape.__name__}", data)
        if what == "tokens":
            return Spoilt(what, spoilt_bytes(rng, self._tokens))
        if what == "line":
            return Spoilt(what, self._lines.spoilt(rng))
        return Spoilt(what, self._bookmarks[what].spoilt(rng))

    def take(self, frame: Spoilt) -> Taken:
        what, _, more = frame.what.partition(" ")
        takers = {
            "mark": self._marked,
            "manifest": self._manifested,
            "contents": self._contented,
            "tokens": self._token,
            "line": self._lined,
        }
        if what == "toml":
            return Taken(1, self._configured(more, frame.data))
        if what in takers:
            return Taken(1, takers[what](frame.data))
        return Taken(1, self._bookmarked(what, frame.data))

    def _marked(self, data: bytes) -> bool:
        path = self._folder / "spoilt-mark"
        path.write_bytes(data)
        marks = MarkFile(path)
        try:
            return marks.read() is not None
        except DiskFailed:
            return False
        finally:
            marks.close()

    def _manifested(self, data: bytes) -> bool:
        path = self._folder / "data" / "CURRENT"
        path.write_bytes(data)
        return not differs(self._folder / "data", self._part)

    def _contented(self, data: bytes) -> bool:
        (self._place / "manifest.json").write_bytes(data)
        try:
            checked(self._place, lambda done, total: None)
        except Trouble:
            pass
        try:
            opened = Opened([self._place])
            assert opened.keys >= 0
            if self._turns % 50 == 0:
                with opened:
                    opened.must_suffice()
                    assert [place[1] for place, _ in opened.records()] == [b"key"]
            self._turns += 1
        except Trouble:
            return False
        return True

    def _token(self, data: bytes) -> bool:
        path = self._folder / "tokens"
        path.write_bytes(data)
        path.chmod(0o600)
        try:
            read_tokens(path)
        except BadConfig:
            return False
        return True

    def _configured(self, name: str, data: bytes) -> bool:
        path = self._folder / "config.toml"
        path.write_bytes(data)
        shape = next(shape for shape in self._toml if shape.__name__ == name)
        try:
            configured(shape, {}, str(path))
        except BadConfig:
            return False
        return True

    def _lined(self, data: bytes) -> bool:
        try:
            put = put_of(data, MS)
        except ValueError:
            return False
        if put is not None:
            msgspec.msgpack.encode(put)
        return True

    def _bookmarked(self, kind: str, data: bytes) -> bool:
        bookmark = Bookmark(self._folder / "x", kind, {"cluster_id": "c-1"})
        bookmark.path.write_bytes(data)
        try:
            at = bookmark.found()
        except Trouble:
            return False
        assert at is not None
        assert at.keys() >= SHAPES[kind].keys()
        if kind == "restore":
            try:
                Restoring(Another(), None, bookmark, at)  # type: ignore[arg-type]
            except Trouble:
                return False
        elif kind == "import":
            f"{at['line']:,}"
        return True

    def look(self) -> None:
        assert self._contented(self._contents)
        assert self._marked(self._mark)
        assert self._lined(b'{"key": "a", "value": "b"}')

    def close(self) -> None:
        pass


class Another:
    """A client of which there is always another one."""

    def another(self) -> Another:
        return self


def _uncommented(path: Path) -> bytes:
    """Give a shipped file with all keys set that it tells of."""
    lines = path.read_bytes().splitlines()
    return b"\n".join(line.removeprefix(b"# ") if b" = " in line and line.startswith(b"# ") else line for line in lines)
