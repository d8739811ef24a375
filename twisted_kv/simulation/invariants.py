"""What has to hold at every moment of a run, not only in what clients see at its end."""

from __future__ import annotations

import msgspec

from ..commit import GroupCommit
from ..conditional import BEFORE_MAX
from ..floors import over
from ..membership import State, decode_state, finished, ring_of
from ..names import Key, NodeId
from ..planning import planned
from ..quorum import met
from ..ring import slot_of
from ..storage.memory import MemoryEngine
from ..versions import Version, record_version
from ..views import View
from .cluster import Cluster, Node, Proxy
from .history import History
from .judging import Broken


class Invariants:
    """Looks at the insides of a running cluster."""

    def __init__(self, cluster: Cluster, history: History) -> None:
        self._cluster = cluster
        self._history = history
        self._document: bytes | None = None
        self._view: View | None = None
        self._before: dict[bytes, Version] = {}
        """What was settled when no change was under way."""
        self._began: State | None = None
        """The state in which the change that was seen last began."""

    def check(self) -> None:
        """:raises Broken: if something does not hold."""
        self.check_settled()
        self.check_filled()
        self.check_dropped()
        for proxy in self._cluster.proxies:
            if proxy.up:
                check_proxy(proxy)
        for node in self._cluster.nodes:
            if node.up:
                check_node(node)

    def check_settled(self) -> None:
        """See that what clients know to be settled lies on so many owners that every majority holds it.

        Owners who lost what they had do not vote until they are filled again, so those count who did not. In a closed
        epoch nobody is answered.
        """
        view = self._present_view()
        if view is None or not view.open:
            return
        voters = self._voters(view)
        for name, version in self._history.settled.items():
            key = Key(name)
            slot = slot_of(key)
            electorate = view.electorates[slot]
            lacking = []
            for node in electorate.nodes:
                engine = voters.get(node)
                if engine is not None and not has(engine, key, version):
                    lacking.append(node)
            if met(electorate.quorum, electorate.voters(lacking)):
                what = f"{', '.join(lacking)} of the owners of {key!r} lack what was settled: {version.hex()}"
                raise Broken("settled", what, key)

    def check_filled(self) -> None:
        """See that whoever a change has filled holds all that was settled before it began."""
        view = self._present_view()
        if view is None:
            return
        state, began = view.state, self._began
        if state.change is not None:
            if began is None or began.epoch != state.epoch:
                self._began = state
            return
        if began is not None and finished(began) == msgspec.structs.replace(state, pending=began.pending):
            self._check_targets(view, began)
        self._began, self._before = None, dict(self._history.settled)

    def _check_targets(self, view: View, began: State) -> None:
        voters = self._voters(view)
        targets = {slot: fill.targets for fill in planned(began).fills if not fill.rescue for slot in fill.slots}
        for name, version in self._before.items():
            key = Key(name)
            for node in targets.get(slot_of(key), ()):
                engine = voters.get(node)
                if engine is not None and not has(engine, key, version):
                    raise Broken("filled", f"{node} was filled, and lacks {version.hex()} of {key!r}", key)

    def check_dropped(self) -> None:
        """See that nobody was made to forget what it owned, as long as its memory counted.

        A change may still be taken back until the last of its epochs: then its old owners are the owners.
        """
        dropped, self._cluster.dropped = self._cluster.dropped, []
        for url, incarnation, document, ranges in dropped:
            state = decode_state(document)
            seat = next((s for s in state.members if (s.url, s.incarnation) == (url, incarnation)), None)
            table = ring_of(state.members, state).table
            for name in self._history.keys if seat is not None else ():
                slot = slot_of(name)
                if seat.id in table[slot] and any(first <= slot <= last for first, last in ranges):
                    what = f"{seat.id} was made to forget slot {slot}, which it owns in epoch {state.epoch}"
                    raise Broken("dropped", what, Key(name))

    def _voters(self, view: View) -> dict[NodeId, MemoryEngine]:
        """Give the disks of those members whose memory counts."""
        nodes = {node.url: node for node in self._cluster.nodes}
        return {
            name: nodes[seat.url].engine
            for name, seat in view.seats.items()
            if seat.url in nodes and seat.incarnation == nodes[seat.url].incarnation
        }

    def _present_view(self) -> View | None:
        document = self._cluster.shelf.document
        if document is not self._document:
            self._document = document
            # A view that some proxy has is as good, and its table is made already.
            state = decode_state(document) if document is not None else None
            known = [proxy.rooms.roster.view for proxy in self._cluster.proxies if proxy.up]
            alike = (view for view in known if view is not None and state is not None and view.state == state)
            self._view = next(alike, None) or (View(state) if state is not None else None)
        return self._view


def has(engine: MemoryEngine, key: Key, version: Version) -> bool:
    """Whether a disk holds a version of a key, or a newer one."""
    slot = slot_of(key)
    return over(engine.floor(slot), MemoryEngine.get(engine, slot, key)).accepted >= version


def check_proxy(proxy: Proxy) -> None:
    """See that nothing in a proxy has outgrown its limit, and that its books add up."""
    rooms = proxy.rooms
    limits, coordinator = rooms.coordinator.limits, rooms.coordinator
    name = proxy.host.name
    # Reads that go on as another conversation are not admitted again, and begin when the first one has ended.
    if coordinator.under_way > 2 * limits.operations_max:
        raise Broken("limits", f"{coordinator.under_way} operations are under way in {name}")
    if coordinator._bytes < 0:
        raise Broken("limits", f"{name} counts {coordinator._bytes} bytes under way")
    books = coordinator._bundles.books
    counted = sum(len(bundle) - len(bundle._strays) for bundle in books.live)
    if books.ops != counted or books.size < 0 or (not books.live and books.size):
        raise Broken("limits", f"{name} counts {books.ops} operations with {books.size} bytes in {counted}'s bundles")
    for node, queue in rooms.queues.by_node.items():
        for lane in (queue._reads, queue._writes):
            under_way = len(lane._under_way)
            # A bundle is let in while there is room, and may be filled then.
            most = limits.queue_ops_max + len(lane._bundles) * limits.batch_ops_max
            if len(lane) > most or under_way > limits.batches_in_flight_max:
                raise Broken("limits", f"{len(lane)} wait and {under_way} are under way from {name} to {node}")
            if lane._bytes != sum(len(op.record) for _, _, op in lane._waiting):
                raise Broken("limits", f"the lane from {name} to {node} counts {lane._bytes} bytes")
    sharing = coordinator._sharing
    if sharing.waiting != sum(map(len, sharing._waiting.values())):
        raise Broken("limits", f"{name} counts {sharing.waiting} changes that wait")


def check_node(node: Node) -> None:
    """See that no answer waits for a sync that nobody runs, and that what is kept obeys the acceptor's rules."""
    commit = node.replica._commit
    if isinstance(commit, GroupCommit) and not commit._running and (commit._current or commit._next):
        raise Broken("unfired", f"answers of {node.host.name} wait, and no sync runs")
    for (_, key), cell in node.engine._cells.items():
        if cell.promised < cell.accepted or (cell.record and record_version(cell.record) > cell.accepted):
            raise Broken("acceptor", f"{node.host.name} keeps {cell} under {key!r}")
        if len(cell.record) > 26 + 6 + 64 + 1 + 16 * BEFORE_MAX:
            raise Broken("limits", f"{node.host.name} keeps {len(cell.record)} bytes under {key!r}")
