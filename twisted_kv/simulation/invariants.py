"""What has to hold at every moment of a run, not only in what clients see at its end."""

from __future__ import annotations

from ..commit import GroupCommit
from ..conditional import BEFORE_MAX
from ..floors import over
from ..membership import decode_state
from ..names import Key
from ..quorum import met
from ..ring import slot_of
from ..storage.memory import MemoryEngine
from ..versions import record_version
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

    def check(self) -> None:
        """:raises Broken: if something does not hold."""
        self.check_settled()
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
        voters = {
            node.url: node.engine
            for node in self._cluster.nodes
            if any(seat.url == node.url and seat.incarnation == node.incarnation for seat in view.seats.values())
        }
        for name, version in self._history.settled.items():
            key = Key(name)
            slot = slot_of(key)
            electorate = view.electorates[slot]
            lacking = []
            for node in electorate.nodes:
                engine = voters.get(view.seats[node].url)
                if engine is None:
                    continue
                cell = over(engine.floor(slot), MemoryEngine.get(engine, slot, key))
                if cell.accepted < version:
                    lacking.append(node)
            if met(electorate.quorum, electorate.voters(lacking)):
                what = f"{', '.join(lacking)} of the owners of {key!r} lack what was settled: {version.hex()}"
                raise Broken("settled", what, key)

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
    for node, queue in rooms.queues.by_node.items():
        for lane in (queue._reads, queue._writes):
            under_way = len(lane._under_way)
            if len(lane) > limits.queue_ops_max or under_way > limits.batches_in_flight_max:
                raise Broken("limits", f"{len(lane)} wait and {under_way} are under way from {name} to {node}")
            if lane._bytes != sum(len(question.op.record) for question in lane._waiting):
                raise Broken("limits", f"the lane from {name} to {node} counts {lane._bytes} bytes")
    sharing = coordinator._sharing
    if len(sharing) != sum(map(len, sharing._waiting.values())):
        raise Broken("limits", f"{name} counts {len(sharing)} changes that wait")


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
