"""One node without a proxy: batches as a proxy would send them."""

from __future__ import annotations

import http.client
import json
import time

from tests.sockets.daemons import PATIENCE_S, Daemon, call
from twisted_kv.register import ACCEPT, FETCH, Op, Reply
from twisted_kv.versions import Ballot, HybridClock, Record, Version, decode_record
from twisted_kv.wire.batches import Batch, BatchReply, batch_reply_decoder
from twisted_kv.wire.header import FORMAT, Header, encode

CLUSTER, MEMBER, EPOCH = "c-1", "n-1", 1
DEADLINE_MS = 4000


class Direct:
    """Speaks to one node as a proxy does, over one connection."""

    def __init__(self, node: Daemon) -> None:
        joined = call("POST", f"{node.url}/node/v1/join", json.dumps({"cluster": CLUSTER, "member": MEMBER}).encode())
        assert joined.status == 200, joined.body
        self._header = Header(FORMAT, CLUSTER, MEMBER, joined.json()["incarnation"], EPOCH, True, DEADLINE_MS)
        self._connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=PATIENCE_S)
        self._ballots = HybridClock(lambda: time.time_ns() // 1_000_000, id(self))

    def __enter__(self) -> Direct:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, *ops: Op) -> list[Reply]:
        """:raises OSError, http.client.HTTPException: if the node ends before it answers."""
        self._connection.request("POST", "/node/v1/batch", encode(Batch(self._header, list(ops))))
        reply: BatchReply = batch_reply_decoder.decode(self._connection.getresponse().read())
        assert not reply.refusal, reply.detail
        return reply.replies

    def write(self, values: dict[str, str]) -> None:
        """Write values in one batch; all of them must be taken."""
        replies = self.ask(*(self._accept(key, value) for key, value in values.items()))
        assert all(reply.taken for reply in replies)

    def _accept(self, key: str, value: str) -> Op:
        ballot: Ballot = self._ballots.tick()
        return Op(ACCEPT, key.encode(), ballot, Record(Version(ballot), value.encode()).encode())

    def read(self, *keys: str) -> list[str | None]:
        replies = self.ask(*(Op(FETCH, key.encode()) for key in keys))
        return [value_in(reply.record) for reply in replies]


def value_in(record: bytes) -> str | None:
    value = decode_record(record).value if record else None
    return value.decode() if value is not None else None
