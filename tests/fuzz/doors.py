"""What a node's door is sent by those who are no proxies of ours: every route, by HTTP or by the link."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import NamedTuple

import msgspec
from msgspec.structs import replace
from twisted.internet.defer import Deferred, fail, maybeDeferred
from twisted.python.failure import Failure

from tests.contracts.test_lane import Wire
from tests.fuzz.kind import Taken
from tests.fuzz.spoiling import Spoiler, spoilt_bytes
from tests.golden import samples
from tests.streams import node_call
from tests.strict_clock import StrictClock
from twisted_kv.backups import Backups
from twisted_kv.commit import AtOnce
from twisted_kv.errors import PeerSilent
from twisted_kv.fasthttp.frames import Frames, head
from twisted_kv.fasthttp.upgrade import SWITCHED, request_to_switch
from twisted_kv.limits import Limits
from twisted_kv.metrics import NodeMetrics
from twisted_kv.names import Key
from twisted_kv.node import node_app
from twisted_kv.peers.control import Control
from twisted_kv.peers.peer import Answer
from twisted_kv.pulling import Puller
from twisted_kv.register import ACCEPT, FETCH, PREPARE, Cell, Op
from twisted_kv.replica import Replica
from twisted_kv.ring import SLOTS, slot_of
from twisted_kv.storage.engine import Engine
from twisted_kv.storage.memory import MemoryEngine
from twisted_kv.storage.rocks import RocksEngine
from twisted_kv.versions import NONE, Ballot, Record, Version, drawn_by_a_clock, is_value, is_whole
from twisted_kv.web.node import Batches
from twisted_kv.web.site import KvSite
from twisted_kv.wire.batches import Batch, BatchReply, batch_decoder, batch_reply_decoder
from twisted_kv.wire.header import encode
from twisted_kv.wire.joining import Join

ROUTES: dict[str, tuple[str, ...]] = {
    "batch": ("batch",),
    "epoch": ("announcement",),
    "slots": ("page_request",),
    "digests": ("digests_request",),
    "pull": ("pull_request",),
    "purge": ("purge_request",),
    "verify": ("verify_request",),
    "hints": ("hints_request",),
    "marks": ("marks_request",),
    "renew": ("marks_request",),
    "keys": ("keys_request",),
    "slotkeys": ("slot_keys_request",),
    "due": ("due_request",),
    "drop": ("drop_request",),
    "backup": ("backup_request",),
}
"""The routes that take msgpack, and what is sent to each."""
CHANGING = {"batch", "pull", "purge", "drop", "epoch"}
"""Those by which cells may change."""
ANSWERS_S = 20.0
"""How long anything may take: more than all that a node waits for."""
CELLS_MAX = 400
"""Cells from which on a node begins anew."""
MS = 1_000_000
HEADER = replace(samples.HEADER, open=True)


class Request(NamedTuple):
    """What is sent to a route."""

    route: str
    body: bytes


class Crash(Exception):
    """The node would have ended itself."""


class NodeScene:
    """One node, a member, with everything that it is made of.

    :param folder: where its engine keeps its data; None for one in memory.
    """

    def __init__(self, folder: Path | None) -> None:
        self.clock = StrictClock()
        self.limits = Limits(pull_slots_min=SLOTS, pull_slots_max=SLOTS)
        self.folder = folder
        self.engine: Engine
        self.asked: list[str] = []
        self._lives = 0
        self.begin()

    def begin(self) -> None:
        """Begin anew, with nothing but who it is."""
        self._lives += 1
        if self.folder is None:
            self.engine = MemoryEngine()
        else:
            if self._lives > 1:
                self.engine.close()
            self.engine = RocksEngine(self.folder / f"data-{self._lives}")
        metrics = NodeMetrics()
        self.replica = Replica(
            self.clock, self.now_ms, 1, self.engine, AtOnce(), HEADER.incarnation, self.limits, metrics, self._broken
        )
        self.puller = Puller(self.clock, self.limits, Control(self, self.limits), self.replica)
        place = self.folder / "backups" if self.folder is not None else None
        self.backups = Backups(place, self.engine, self.replica, lambda work: maybeDeferred(work), self.now_ms)
        app = node_app(self.replica, self.puller, metrics, self.limits, self.backups)
        self.site = KvSite(
            self.clock,
            app,
            self.limits,
            self.limits.node_body_bytes_max,
            link=Batches(self.replica, metrics).link(self.limits),
        )
        self.connect()
        self.replica.join(Join(HEADER.cluster, HEADER.member))
        self.replica.admit(HEADER)
        for number in range(20):
            self.put(b"k%d" % number, b"v", MS + number, expires_ms=(MS + 1) * (number % 2))
        self.serve(
            Batch(
                HEADER,
                [
                    Op(ACCEPT, Key(b"gone"), samples.ballot(4), samples.TOMBSTONE.encode()),
                    samples.OPS[2],
                    samples.OPS[4],
                ],
            )
        )
        self.replica._hints.mark([slot_of(b"k1")])

    @staticmethod
    def now_ms() -> int:
        return MS

    @staticmethod
    def _broken(failure: Failure) -> None:
        raise Crash(failure.getErrorMessage())

    def request(self, method: str, url: str, body: bytes, *, content_type: str, timeout_s: float) -> Deferred[Answer]:
        """Carry what this node asks of others: nobody is there."""
        self.asked.append(url)
        return fail(PeerSilent("nobody is there"))

    # What is good.

    def ballot(self, ms: int) -> Ballot:
        return Ballot((ms << 16).to_bytes(8, "big") + bytes(7) + b"\1")

    def put(self, key: bytes, value: bytes, ms: int, expires_ms: int = 0) -> bytes:
        record = Record(Version(self.ballot(ms)), value, expires_ms=expires_ms).encode()
        reply = self.serve(Batch(HEADER, [Op(ACCEPT, Key(key), self.ballot(ms), record)]))
        assert reply.replies[0].taken, reply
        return record

    def serve(self, batch: Batch) -> BatchReply:
        code, body = self.ask("batch", encode(batch))
        assert code == 200, (code, body)
        return batch_reply_decoder.decode(body)

    # The wire.

    def connect(self) -> None:
        self.wire = Wire()
        self.wire.setTcpKeepAlive = lambda on: None  # type: ignore[attr-defined]
        self.protocol = self.site.buildProtocol(None)
        self.protocol.makeConnection(self.wire)

    def ask(self, route: str, body: bytes) -> tuple[int, bytes]:
        """Send a request, and give what is answered.

        :raises AssertionError: if nothing is.
        """
        if self.wire.closed:
            self.connect()
        self.wire.clear()
        self.protocol.dataReceived(node_call(route.encode(), body))
        self.wait(lambda: b"\r\n\r\n" in self.wire.value())
        top, _, rest = self.wire.value().partition(b"\r\n\r\n")
        self.wait(lambda: True)
        return int(top[9:12]), rest

    def wait(self, holds: Callable[[], bool]) -> None:
        until_s = self.clock.seconds() + ANSWERS_S
        while not holds():
            calls = self.clock.getDelayedCalls()
            at_s = min((call.getTime() for call in calls), default=until_s + 1)
            assert at_s <= until_s, "it is not answered"
            self.clock.advance(max(0.0, at_s - self.clock.seconds()))

    # What must hold.

    def cells(self) -> dict[Key, Cell | None]:
        return {row.key: row.cell for row in self.engine.scan(0, SLOTS - 1, None, 1 << 20)}  # type: ignore[arg-type]

    def check(self) -> None:
        """See that what is kept is what may be kept, and that all that is counted is right."""
        values = 0
        for slot, key, cell in self.engine.scan(0, SLOTS - 1, None, 1 << 20):  # type: ignore[arg-type]
            assert cell is not None
            assert slot == slot_of(key)
            assert 0 < len(key) <= self.limits.key_bytes_max
            assert not cell.record or is_whole(cell.record)
            assert cell.promised == NONE or drawn_by_a_clock(cell.promised), cell
            assert cell.accepted == NONE or drawn_by_a_clock(cell.accepted), cell
            assert cell.accepted <= cell.promised
            values += is_value(cell.record)
            assert self.engine.inspect(slot).right, key
        assert self.engine.totals().keys == values
        assert len(self.engine.keys(b"", b"", 1 << 20)) <= len(self.cells())
        for slot, floor in self.engine.floors(0, SLOTS - 1).items():  # type: ignore[arg-type]
            assert all(ballot == NONE or drawn_by_a_clock(ballot) for ballot in floor), (slot, floor)
        hints = self.replica._hints
        kept = sum(1 for _ in hints._walk(b"h"))
        assert hints.counts.total() == kept, (hints.counts, kept)
        assert all(count > 0 for count in hints.counts.values())
        assert all(0 <= slot < SLOTS for slot in hints.marks)
        assert self.site.intake.bytes == 0

    def close(self) -> None:
        if self.folder is not None:
            self.engine.close()


class Doors:
    """See ``kind.Kind``: one request to any route of a node."""

    def __init__(self, folder: Path | None = None) -> None:
        self.scene = NodeScene(folder)
        self._spoilers = {
            route: Spoiler([encode(replace(samples.MESSAGES[name], header=HEADER)) for name in names], headed=True)
            for route, names in ROUTES.items()
        }
        self._spoilers["join"] = Spoiler([msgspec.json.encode(samples.JOIN)], json=True)
        self._routes = [*self._spoilers, *["batch"] * 6]
        self._round = 0

    def spoilt(self, rng: Random) -> Request:
        route = rng.choice(self._routes)
        return Request(route, self._spoilers[route].spoilt(rng))

    def take(self, frame: Request) -> Taken:
        scene, route = self.scene, frame.route
        highest, before = scene.engine.highest, None
        if route not in CHANGING:
            before = scene.engine.totals(), highest
        code, body = scene.ask(route, frame.body)
        assert code in (200, 400, 404, 409, 413, 429, 503, 504, 507), (code, body)
        if code != 200 and not (code == 409 and body[:1] != b"{"):
            problem = msgspec.json.decode(body)
            assert problem["status"] == code
            assert problem["type"] != "internal-error"
        if before is not None:
            assert (scene.engine.totals(), scene.engine.highest) == before, "something has changed"
        elif route == "batch" and scene.engine.highest != highest:
            assert code == 200
            asked = batch_decoder.decode(frame.body)
            shown = [op.ballot for op in asked.ops if op.verb in (PREPARE, ACCEPT)]
            shown += [Ballot(record[2:18]) for bundle in asked.bundles for record in bundle.records]
            assert scene.engine.highest in shown, "a ballot came from nowhere"
        if scene.replica.epoch != HEADER.epoch or not scene.replica._identity.open:
            scene.begin()
        return Taken(1, code == 200)

    def look(self) -> None:
        scene = self.scene
        scene.check()
        if len(scene.cells()) > CELLS_MAX or scene.engine.highest >= scene.ballot(2 * MS):
            scene.begin()
        self._round += 1
        key, value = b"good", b"%d" % self._round
        record = scene.put(key, value, MS + 1_000 + self._round % 1_000)
        reply = scene.serve(Batch(HEADER, [Op(FETCH, Key(key))]))
        assert reply.replies[0].record == record
        if self._round % 1_000 == 999:
            scene.begin()

    def close(self) -> None:
        self.scene.close()


class Questions:
    """See ``kind.Kind``: what comes by a link to a node, cut as the wire cuts it."""

    def __init__(self) -> None:
        self.scene = NodeScene(None)
        good = encode(replace(samples.MESSAGES["batch"], header=HEADER))
        self._good = [head(id_, 0, len(good)) + good for id_ in (1, 2, 2**32 - 1)]
        self._spoiler = Spoiler([good], headed=True)

    def spoilt(self, rng: Random) -> list[bytes]:
        bodies = [self._spoiler.spoilt(rng) for _ in range(rng.randrange(1, 4))]
        frames = b"".join(
            head(rng.choice((1, 2, 3, 2**32 - 1)), rng.choice((0, 0, 0, 0, 200)), len(body)) + body for body in bodies
        )
        if rng.random() < 0.4:
            frames = spoilt_bytes(rng, [frames, *self._good])
        cuts = sorted(rng.randrange(len(frames) + 1) for _ in range(rng.randrange(3)))
        return [frames[a:b] for a, b in zip([0, *cuts], [*cuts, len(frames)], strict=True)]

    def take(self, frame: list[bytes]) -> Taken:
        scene = self.scene
        scene.connect()
        scene.protocol.dataReceived(request_to_switch(b"/node/v1/link", b"localhost", None))
        assert scene.wire.value().startswith(SWITCHED)
        scene.wire.clear()
        for piece in frame:
            if not scene.wire.closed:
                scene.protocol.dataReceived(piece)
        answers = Frames(1 << 30).feed(scene.wire.value())
        for _, status, body in answers:
            assert status in (200, 400, 409, 413, 503, 507), (status, body)
        if not scene.wire.closed:
            scene.protocol.connectionLost(Failure(ConnectionError()))
        if scene.replica.epoch != HEADER.epoch or not scene.replica._identity.open:
            scene.begin()
        return Taken(1, any(status == 200 for _, status, _ in answers))

    def look(self) -> None:
        scene = self.scene
        scene.check()
        scene.begin()

    def close(self) -> None:
        self.scene.close()
