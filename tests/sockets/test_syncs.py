"""One node on a real disk under Debian's strace: no answer before its sync, and no moment to die is a bad one."""

from __future__ import annotations

import http.client
import json
import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.sockets.daemons import Daemon, Farm, call, farming
from tests.sockets.tracing import Call, calls, traced
from twisted_kv.register import ACCEPT, FETCH, Op, Reply
from twisted_kv.versions import Ballot, HybridClock, Record, Version, decode_record
from twisted_kv.wire import FORMAT, Batch, BatchReply, Header, batch_reply_decoder, encode

pytestmark = pytest.mark.system

CLUSTER, MEMBER, EPOCH = "c-1", "n-1", 1
DEADLINE_MS = 4000


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with farming(tmp_path) as built:
        yield built


class Direct:
    """Speaks to one node as a proxy does, over one connection."""

    def __init__(self, node: Daemon) -> None:
        joined = call("POST", f"{node.url}/node/v1/join", json.dumps({"cluster": CLUSTER, "member": MEMBER}).encode())
        assert joined.status == 200, joined.body
        self._header = Header(FORMAT, CLUSTER, MEMBER, joined.json()["incarnation"], EPOCH, True, DEADLINE_MS)
        self._connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=15)
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


# No answer before its sync.

WRITERS, WRITES_EACH, READERS = 4, 12, 2
"""Few enough for all to stay within one block of the log (32 KiB): a value on its border would be cut in two."""
TRACED = "trace=fdatasync,fsync,write,writev,pwrite64,sendto,sendmsg,recvfrom"
SLOW_SYNC = "inject=fdatasync:delay_enter=10000"
"""Microseconds by which a sync is prolonged, so that many questions come while it runs. It waits in front of the
kernel: a sync that is over there, and held up on its way back, would excuse answers that do not know of it yet."""
tokens_in = re.compile(r"<w\d+-\d+>").findall


def test_no_answer_leaves_before_a_sync_of_what_it_says_that_began_after_its_write(farm: Farm) -> None:
    found = traced_answers(farm, "always")
    assert early(found) == []


def test_the_check_of_syncs_finds_the_answers_of_a_node_that_never_syncs(farm: Farm) -> None:
    found = traced_answers(farm, "never")
    assert len(early(found)) >= WRITERS * WRITES_EACH


def traced_answers(farm: Farm, mode: str) -> list[Call]:
    """Write and read the same keys from several clients at once, under strace."""
    node = farm.node("--sync", mode)
    with Direct(node) as direct:
        direct.write({"first": "adopts the epoch"})
    trace = farm.folder / "trace"
    written = threading.Event()

    def write(writer: int) -> None:
        with Direct(node) as direct:
            for number in range(WRITES_EACH):
                direct.write({f"key{writer}": f"<w{writer}-{number}>"})

    def read() -> None:
        with Direct(node) as direct:
            while not written.is_set():
                for writer in range(WRITERS):
                    direct.read(f"key{writer}")

    with traced(node, trace, "-y", "-s", "8192", "-e", TRACED, "-e", SLOW_SYNC), ThreadPoolExecutor() as pool:
        reading = [pool.submit(read) for _ in range(READERS)]
        try:
            for done in [pool.submit(write, writer) for writer in range(WRITERS)]:
                done.result()
        finally:
            written.set()
        for done in reading:
            done.result()
    return calls(trace)


def early(found: list[Call]) -> list[str]:
    """Describe the answers that say what was not synced: to a request with a token in it, or with one in themselves."""
    written: dict[str, int] = {}
    syncs: list[Call] = []
    asked: defaultdict[str, set[str]] = defaultdict(set)
    complaints = []
    answered = set()
    # An answer counts from its beginning, all else from its end.
    for one in sorted(found, key=lambda one: one.began if one.name == "sendto" else one.ended):
        if ".log>" in one.fd and one.name == "write":
            for token in tokens_in(one.rest):
                written.setdefault(token, one.ended)
        elif ".log>" in one.fd and one.name == "fdatasync" and one.result.startswith("0"):
            syncs.append(one)
        elif "socket:" in one.fd and one.name == "recvfrom":
            asked[one.fd].update(tokens_in(one.rest))
        elif "socket:" in one.fd and one.name == "sendto":
            said = asked.pop(one.fd, set()) | set(tokens_in(one.rest))
            answered |= said
            complaints += [
                f"line {one.began}: {token}, written at line {written.get(token)}"
                for token in said
                if token not in written or not any(sync.began > written[token] for sync in syncs)
            ]
    assert len(answered) == WRITERS * WRITES_EACH, "the trace shows every answer"
    return complaints
