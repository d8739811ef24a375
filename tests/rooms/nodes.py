"""Nodes on engines that a test looks into: real replicas and pullers, and lines between them that answer at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any, TypeVar

from msgspec.structs import replace
from twisted.internet.defer import Deferred, ensureDeferred, fail
from twisted.python.failure import Failure

from tests.strict_clock import StrictClock
from twisted_kv.commit import AtOnce
from twisted_kv.errors import Damaged, DiskBusy, PeerSilent
from twisted_kv.limits import Limits
from twisted_kv.membership import Seat, State
from twisted_kv.metrics import NodeMetrics
from twisted_kv.names import Key, NodeId, Slot
from twisted_kv.peers.control import Control
from twisted_kv.peers.peer import Answer
from twisted_kv.pulling import Puller
from twisted_kv.register import BLANK, Cell
from twisted_kv.replica import Replica
from twisted_kv.ring import slot_of
from twisted_kv.simulation.door import answered
from twisted_kv.storage.engine import UNREADABLE, Change, Place
from twisted_kv.storage.memory import MemoryEngine
from twisted_kv.versions import Ballot, HybridClock, Record, Version, decode_record
from twisted_kv.wire.batches import batch_decoder
from twisted_kv.wire.joining import Join

T = TypeVar("T")
LIFE = "i-1"
STATE = State(1, "c-1", 2)


def ballot_at(ms: int) -> Ballot:
    return HybridClock(lambda: ms, 1).tick()


def record_of(ms: int, value: bytes | None = b"v") -> bytes:
    return Record(Version(ballot_at(ms)), value).encode()


class Spoilt(MemoryEngine):
    """An engine some of whose keys cannot be read, and that is behind for so many changes."""

    __slots__ = ("behind", "unreadable")

    def __init__(self) -> None:
        super().__init__()
        self.behind = 0
        self.unreadable: set[bytes] = set()

    def apply(self, changes: Iterable[Change]) -> None:
        if self.behind:
            self.behind -= 1
            raise DiskBusy("the disk is behind")
        super().apply(changes)

    def get(self, slot: Slot, key: Key) -> Cell | None:
        if key in self.unreadable:
            raise Damaged(f"the checksum of the record under {key!r} fails")
        return super().get(slot, key)

    def scan(
        self, first: Slot, last: Slot, after: Place | None, limit: int, bytes_max: int | None = None
    ) -> list[Change]:
        found = super().scan(first, last, after, limit, bytes_max)
        return [row._replace(cell=UNREADABLE) if row.key in self.unreadable else row for row in found]


class Nodes:
    """So many nodes, all of them members in epoch 2, and the transport to them.

    ``silent`` answer nothing. ``deaf`` misses questions of a path, or of a verb of batches, so many times.
    ``before`` is told of each request that arrives, ``altered`` may change each answer.
    """

    def __init__(self, *names: str, **limits: float) -> None:
        self.clock = StrictClock()
        self.limits = Limits(**limits)  # type: ignore[arg-type]
        self.control = Control(self, self.limits)
        self.engines: dict[str, Spoilt] = {}
        self.replicas: dict[str, Replica] = {}
        self.pullers: dict[str, Puller] = {}
        self.seats = {NodeId(name): Seat(name, f"http://{name}:80", incarnation=LIFE) for name in names}
        self.asked: list[tuple[str, str]] = []
        self.silent: set[str] = set()
        self.deaf: dict[tuple[str, str | int], int] = {}
        self.before: Callable[[str, str], None] = lambda node, path: None
        self.altered: Callable[[str, str, Answer], Answer] = lambda node, path, answer: answer
        for name in names:
            self._build(name)

    def _build(self, name: str) -> None:
        engine = self.engines[name] = Spoilt()
        replica = self.replicas[name] = Replica(
            self.clock,
            lambda: 100,
            1,
            engine,
            AtOnce(),
            LIFE,
            self.limits,
            NodeMetrics(),
            Failure.raiseException,
        )
        self.pullers[name] = Puller(self.clock, self.limits, self.control, replica)
        replica.join(Join("c-1", name))
        replica.admit(self.control.header(self.seats[NodeId(name)], STATE))

    def request(self, method: str, url: str, body: bytes, *, content_type: str, timeout_s: float) -> Deferred[Answer]:
        base, _, path = url.partition("/node/v1/")
        node = base.removeprefix("http://").removesuffix(":80")
        self.asked.append((node, path))
        self.before(node, path)
        what = {path, *(op.verb for op in batch_decoder.decode(body).ops)} if path == "batch" else {path}
        for each in what:
            if self.deaf.get((node, each), 0):
                self.deaf[node, each] -= 1
                return fail(PeerSilent("no answer"))
        if node in self.silent:
            return fail(PeerSilent("no answer"))
        answer = answered(self.replicas[node], self.pullers[node], path, body, lambda: True, Failure.raiseException)
        return answer.addCallback(lambda answer: self.altered(node, path, answer))

    def hold(
        self, node: str, key: bytes, ms: int, value: bytes | None = b"v", promised: int = 0, written: int = 0
    ) -> None:
        """Let a node have accepted a value under a ballot of so many milliseconds; its version may be an older one."""
        record = record_of(written or ms, value)
        cell = Cell(ballot_at(max(ms, promised)), ballot_at(ms), record)
        self.engines[node].apply([Change(slot_of(key), Key(key), cell)])

    def promise(self, node: str, key: bytes, ms: int) -> None:
        """Let a node have promised a ballot, and hold what it held."""
        cell = replace(self.cell(node, key), promised=ballot_at(ms))
        self.engines[node].apply([Change(slot_of(key), Key(key), cell)])

    def cell(self, node: str, key: bytes) -> Cell:
        return MemoryEngine.get(self.engines[node], slot_of(key), Key(key)) or BLANK

    def value(self, node: str, key: bytes) -> bytes | None:
        record = self.cell(node, key).record
        return decode_record(record).value if record else None

    def wait(self, work: Awaitable[T], patience_s: float = 60.0) -> T:
        """Turn the clock until something is done; give what came of it, or raise."""
        found: list[Any] = []
        ensureDeferred(work).addBoth(found.append)  # type: ignore[arg-type]
        until_s = self.clock.seconds() + patience_s
        while not found:
            calls = self.clock.getDelayedCalls()
            assert calls, "nothing is left that could bring it about"
            assert self.clock.seconds() < until_s, "it took too long"
            self.clock.advance(max(0.0, min(call.getTime() for call in calls) - self.clock.seconds()))
        if isinstance(found[0], Failure):
            found[0].raiseException()
        result: T = found[0]
        return result
