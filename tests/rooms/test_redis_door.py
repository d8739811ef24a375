"""The Redis door before a store that answers when it is told to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from twisted_kv.conditional import Decide, Draft
from twisted_kv.errors import KvError, NoNodes, Overloaded, Unreached
from twisted_kv.limits import Limits
from twisted_kv.listing import KeyPage
from twisted_kv.names import Key
from twisted_kv.operation import Done, Told
from twisted_kv.quorum import Level
from twisted_kv.resp.connection import Client
from twisted_kv.resp.door import RedisDoor
from twisted_kv.sharing import Changed
from twisted_kv.versions import HybridClock, Record, Version, decode_record


class Asked:
    """One operation that the door has asked for."""

    def __init__(self, verb: str, key: Key, level: Level | None, run: Callable[[], Any]) -> None:
        self.name = f"{verb} {key.decode()}"
        self.level = level
        self.done: Deferred[Any] = Deferred()
        self._run = run

    def answer(self) -> None:
        self.done.callback(self._run())

    def fail(self, error: KvError) -> None:
        self.done.errback(Failure(error))


class Store:
    """Keeps records in a dict; what it is asked waits until it is told to answer."""

    def __init__(self) -> None:
        self.records: dict[Key, Record] = {}
        self.asked: list[Asked] = []
        self._hybrid = HybridClock(lambda: 1_000_000, 1)

    def take(self) -> list[Asked]:
        asked, self.asked = self.asked, []
        return asked

    def read(self, key: Key, level: Level, told: Told) -> None:
        def read() -> Done:
            record = self.records.get(key)
            return Done(record.encode() if record is not None else b"", 2, 3)

        self._ask("get", key, level, read).addBoth(told)

    def write(self, key: Key, draft: Draft, level: Level, told: Told) -> None:
        def written() -> Done:
            return Done(self._keep(key, *draft).encode(), 2, 3)

        self._ask("put", key, level, written).addBoth(told)

    def change(self, key: Key, decide: Decide, timeout_s: float | None, size: int) -> Deferred[Changed]:
        def changed() -> Changed:
            found = self.records.get(key)
            draft = decide(found)
            if draft is None:
                return Changed(found, False, 2, 3, found)
            return Changed(self._keep(key, *draft), True, 2, 3, found)

        return self._ask("change", key, None, changed)

    def _keep(self, key: Key, value: bytes | None, content_type: bytes, expires_ms: int) -> Record:
        record = self.records[key] = Record(Version(self._hybrid.tick()), value, content_type, expires_ms)
        return record

    def _ask(self, verb: str, key: Key, level: Level | None, run: Callable[[], Any]) -> Deferred[Any]:
        self.asked.append(Asked(verb, key, level, run))
        return self.asked[-1].done


class AllKeys:
    """All keys of the store, told when that is let."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.waiting: list[Deferred[None]] = []

    async def keys(self, prefix: bytes, after: bytes) -> KeyPage:
        self.waiting.append(Deferred())
        await self.waiting[-1]
        return KeyPage(sorted(key for key, record in self._store.records.items() if record.value is not None), None)


class Wire(StringTransport):
    """A client's end."""

    def __init__(self) -> None:
        super().__init__(hostAddress=IPv4Address("TCP", "127.0.0.1", 1), peerAddress=IPv4Address("TCP", "127.0.0.1", 2))
        self.writes = 0
        self.aborted = False

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def write(self, data: bytes) -> None:
        self.writes += 1
        super().write(data)

    def abortConnection(self) -> None:
        self.aborted = True


class Scene:
    """A door, and one client of it."""

    def __init__(self, **limits: int) -> None:
        self.clock = Clock()
        self.store = Store()
        self.all = AllKeys(self.store)
        self.door = RedisDoor(
            self.clock,
            lambda: 1_000_000 + int(self.clock.seconds() * 1000),
            Limits(**limits),  # type: ignore[arg-type]
            self.store,
            self.all,  # type: ignore[arg-type]
            Level.STRONG,
        )
        self.clients: list[Client] = []
        self.wires: list[Wire] = []
        self.wire = self.connect()

    def connect(self) -> Wire:
        client, wire = self.door.buildProtocol(None), Wire()
        client.makeConnection(wire)
        self.clients.append(client)
        self.wires.append(wire)
        return wire

    def send(self, *lines: str) -> None:
        self.clients[0].dataReceived("".join(f"{line}\r\n" for line in lines).encode())

    def said(self) -> bytes:
        """Give what came since the last time, after the turn has ended."""
        self.clock.advance(0)
        said = self.wire.value()
        self.wire.clear()
        return said

    def answer(self) -> list[str]:
        """Answer what is asked now; give its names."""
        asked = self.store.take()
        for one in asked:
            one.answer()
        return [one.name for one in asked]

    def end(self) -> None:
        for client in self.clients:
            client.connectionLost()
        self.clock.advance(0)
        assert self.clock.getDelayedCalls() == []


@pytest.fixture
def scene(request: pytest.FixtureRequest) -> Any:
    built = Scene(**getattr(request, "param", {}))
    yield built
    built.end()


def limits(**values: int) -> Any:
    return pytest.mark.parametrize("scene", [values], indirect=True)


def test_replies_keep_the_order_of_the_commands_whoever_answers_first(scene: Scene) -> None:
    scene.send("SET a 1", "PING", "GET b", "ECHO x")
    first, second = scene.store.take()
    second.answer()
    assert scene.said() == b""
    first.answer()
    assert scene.said() == b"+OK\r\n+PONG\r\n$-1\r\n$1\r\nx\r\n"


def test_replies_of_one_turn_leave_together(scene: Scene) -> None:
    scene.send("SET a 1", "SET b 2", "SET c 3")
    scene.answer()
    assert scene.said() == b"+OK\r\n" * 3
    assert scene.wire.writes == 1


def test_operations_on_one_key_take_effect_in_the_order_sent(scene: Scene) -> None:
    scene.send("SET a 1", "INCR a", "GET a", "DEL a", "GET a")
    order = []
    while scene.store.asked:
        order.append(scene.answer())
    assert order == [["put a"], ["change a"], ["get a"], ["change a"], ["get a"]]
    assert scene.said() == b"+OK\r\n:2\r\n$1\r\n2\r\n:1\r\n$-1\r\n"


def test_writes_of_one_key_are_under_way_together_and_so_are_changes(scene: Scene) -> None:
    scene.send("SET a 1", "SET a 2", "INCR a", "INCR a")
    assert scene.answer() == ["put a", "put a"]
    assert scene.answer() == ["change a", "change a"]
    assert scene.said() == b"+OK\r\n+OK\r\n:3\r\n:4\r\n"


def test_writes_of_one_key_at_another_level_go_one_after_the_other(scene: Scene) -> None:
    scene.send("KV.LEVEL one", "SET a 1", "SET a 2")
    assert [one.level for one in scene.store.asked] == [Level.ONE]
    assert scene.answer() == ["put a"]
    assert scene.answer() == ["put a"]


def test_reads_that_wait_together_are_answered_by_one(scene: Scene) -> None:
    scene.send("SET a 1", "GET a", "GET a", "GET a")
    assert scene.answer() == ["put a"]
    assert scene.answer() == ["get a"]
    assert scene.said() == b"+OK\r\n" + b"$1\r\n1\r\n" * 3


def test_a_read_does_not_share_one_that_began_before_it_was_asked(scene: Scene) -> None:
    scene.send("GET a")
    [first] = scene.store.take()
    scene.send("GET a")
    assert scene.store.asked == []
    first.answer()
    assert scene.answer() == ["get a"]


def test_what_looks_at_all_keys_sees_what_was_sent_before_and_nothing_that_comes_after(scene: Scene) -> None:
    scene.send("SET a 1", "KEYS *", "SET b 2", "PING")
    assert scene.all.waiting == []
    assert scene.answer() == ["put a"]
    assert scene.store.asked == []
    scene.all.waiting.pop().callback(None)
    assert scene.answer() == ["put b"]
    assert scene.said() == b"+OK\r\n*1\r\n$1\r\na\r\n+OK\r\n+PONG\r\n"


def test_a_command_of_several_keys_waits_for_all_of_them(scene: Scene) -> None:
    scene.send("MSET a 1 b 2", "MGET a b c")
    assert scene.answer() == ["put a", "put b", "get c"]
    assert scene.answer() == ["get a", "get b"]
    assert scene.said() == b"+OK\r\n*3\r\n$1\r\n1\r\n$1\r\n2\r\n$-1\r\n"


def test_a_write_of_unknown_outcome_is_an_error_that_says_so_and_the_connection_goes_on(scene: Scene) -> None:
    scene.send("INCR a", "GET b")
    first, second = scene.store.take()
    first.fail(Unreached("too few replicas answered", "read the key", maybe_applied=True))
    second.answer()
    assert scene.said() == (
        b"-UNKNOWN the write may have been applied: too few replicas answered (read the key)\r\n$-1\r\n"
    )
    assert not scene.wire.disconnecting


def test_other_trouble_is_an_error_under_a_code_that_clients_know(scene: Scene) -> None:
    scene.send("GET a", "SET b 1")
    first, second = scene.store.take()
    first.fail(NoNodes("there is no node", "add one"))
    second.fail(Unreached("too few", maybe_applied=False))
    assert scene.said() == b"-CLUSTERDOWN there is no node (add one)\r\n-NOREPLICAS too few\r\n"


def test_a_thousand_commands_that_are_refused_at_once_do_not_nest(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.send("GET a")
    [first] = scene.store.take()

    def refuse(*_: object) -> Deferred[Any]:
        return fail(Overloaded("too much is under way"))

    monkeypatch.setattr(scene.store, "read", lambda key, level, told: refuse().addBoth(told))
    monkeypatch.setattr(scene.store, "change", refuse)
    scene.send(*["INCR a", "GET a"] * 400)
    first.answer()
    assert scene.said() == b"$-1\r\n" + b"-TRYAGAIN too much is under way\r\n" * 800
    scene.send("GET b")
    assert scene.said() == b"-TRYAGAIN too much is under way\r\n"


def test_bare_command_lists_all_commands_as_command_info_does(scene: Scene) -> None:
    scene.send("COMMAND")
    listed = scene.said()
    scene.send("COMMAND INFO")
    assert scene.said() == listed
    scene.send("COMMAND COUNT")
    assert listed.startswith(scene.said().replace(b":", b"*"))


def test_a_bug_is_told_as_one_and_logged(scene: Scene, no_logged_failure: list[dict[str, Any]]) -> None:
    scene.send("GET a", "PING")
    scene.store.take()[0].done.errback(Failure(ZeroDivisionError()))
    assert scene.said().startswith(b"-ERR this is a bug")
    assert len(no_logged_failure) == 1
    no_logged_failure.clear()


def test_quit_is_answered_after_all_that_was_sent_before_it_and_nothing_after(scene: Scene) -> None:
    scene.send("SET a 1", "QUIT", "SET b 2")
    assert not scene.wire.disconnecting
    assert scene.answer() == ["put a"]
    assert scene.said() == b"+OK\r\n+OK\r\n"
    assert scene.wire.disconnecting


@pytest.mark.parametrize(
    "head",
    [
        ["POST / HTTP/1.1", "Host: 127.0.0.1:6380"],
        ["post /"],
        ["Host: evil.example"],
        ["GET / HTTP/1.1", "Host: evil.example"],
        ["PUT /x HTTP/1.1"],
        ["OPTIONS * HTTP/1.0"],
    ],
)
@pytest.mark.parametrize("at_once", [True, False])
def test_a_page_in_a_browser_cannot_have_it_send_commands_in_the_body_of_a_request(
    scene: Scene, head: list[str], at_once: bool
) -> None:
    scene.send("SET a 1")
    body = ["Content-Type: text/plain", "", "SET pwned 1", "GET a"]
    for lines in [head + body] if at_once else [head, body]:
        scene.send(*lines)

    assert scene.answer() == ["put a"]
    assert scene.said() == b"+OK\r\n-ERR this port speaks Redis's protocol, and HTTP is spoken at another one\r\n"
    assert scene.wire.disconnecting
    assert scene.answer() == []


def test_what_is_no_resp_is_told_after_the_replies_before_it_and_the_connection_ends(scene: Scene) -> None:
    scene.send("SET a 1", "*x")
    scene.send("SET b 2")
    assert scene.answer() == ["put a"]
    assert scene.said() == b"+OK\r\n-ERR Protocol error: invalid multibulk length\r\n"
    assert scene.wire.disconnecting


@limits(resp_pipeline_max=2)
def test_a_client_has_so_many_commands_under_way_and_the_rest_waits_in_its_socket(scene: Scene) -> None:
    scene.send("SET a 1", "SET b 2", "SET c 3", "PING")
    assert scene.wire.producerState == "paused"
    assert scene.answer() == ["put a", "put b"]
    scene.said()
    assert scene.answer() == ["put c"]
    assert scene.said() == b"+OK\r\n+PONG\r\n"
    assert scene.wire.producerState == "producing"


@limits(resp_output_bytes_max=8_000, value_bytes_max=2_000)
def test_a_client_that_does_not_read_is_begun_nothing_more_for_and_cut_off_when_too_much_is_ready(
    scene: Scene,
) -> None:
    scene.send("SET a " + "v" * 2_000)
    scene.answer()
    scene.send("GET b", "MGET a a a a")
    asked = scene.store.take()
    scene.wire.producer.pauseProducing()
    scene.send("GET c")
    for one in asked:
        one.answer()
    scene.clock.advance(0)
    assert scene.store.asked == []
    assert scene.wire.aborted


@limits(resp_output_bytes_max=8_000, value_bytes_max=2_000)
def test_a_client_is_cut_off_when_too_much_waits_behind_one_reply(scene: Scene) -> None:
    scene.send("SET a " + "v" * 2_000)
    scene.answer()
    scene.send("GET b", "MGET a a a a")
    first, *others = scene.store.take()
    for one in others:
        one.answer()
    assert scene.wire.aborted
    first.answer()


@limits(resp_outputs_bytes_max=5_000)
def test_clients_that_do_not_read_are_cut_off_when_too_much_is_kept_for_all_and_others_are_not(scene: Scene) -> None:
    scene.send("SET a " + "v" * 2_000)
    scene.answer()
    for _ in range(3):
        scene.connect()
    for client, wire in zip(scene.clients[:3], scene.wires, strict=False):
        client.dataReceived(b"GET a\r\n")
        wire.producer.pauseProducing()
    scene.answer()
    scene.clients[3].dataReceived(b"GET a\r\n" * 3)
    while scene.store.asked:
        scene.answer()
    assert [wire.aborted for wire in scene.wires] == [False, False, True, False]
    for client in scene.clients[:2]:
        client.resumeProducing()
    assert scene.door.output == scene.door.promised == 0


@limits(resp_outputs_bytes_max=10_000, value_bytes_max=2_000)
def test_clients_together_have_no_more_under_way_than_can_be_kept_but_each_has_one(scene: Scene) -> None:
    for _ in range(9):
        scene.connect()
    for client in scene.clients:
        client.dataReceived(b"GET a\r\nGET b\r\nGET c\r\n")
    assert len(scene.store.asked) == 3 + 2 + 8
    assert scene.door.promised == 26_000
    while scene.store.asked:
        scene.answer()
        scene.clock.advance(0)
    assert [wire.value() for wire in scene.wires] == [b"$-1\r\n" * 3] * 10
    assert scene.door.promised == 0


@limits(resp_output_bytes_max=100_000, value_bytes_max=10_000)
def test_no_more_commands_are_under_way_than_their_replies_can_be_kept_if_they_are_as_large_as_the_last(
    scene: Scene,
) -> None:
    scene.send("SET a " + "v" * 9_000)
    scene.answer()
    scene.send(*(f"GET a{number}" for number in range(100)))
    under_way = []
    while scene.store.asked:
        under_way.append(len(scene.answer()))
        scene.clock.advance(0)
    assert under_way[0] == 5, "a value may be as large as it may be"
    assert max(under_way) > 30, "they were small, as it turned out"
    scene.send("GET a")
    scene.answer()
    scene.send(*(f"GET a{number}" for number in range(100)))
    assert len(scene.answer()) == 5


def test_a_client_that_does_not_read_for_too_long_is_cut_off(scene: Scene) -> None:
    scene.wire.producer.pauseProducing()
    scene.clock.pump([0.5] * int(scene.door.limits.unread_s(0) * 2 - 4))
    assert not scene.wire.aborted
    scene.clock.pump([0.5] * 10)
    assert scene.wire.aborted


def test_a_command_that_does_not_come_to_its_end_is_cut_off_and_an_idle_client_is_not(scene: Scene) -> None:
    idle = scene.connect()
    scene.clients[0].dataReceived(b"*2\r\n$3\r\nGET\r\n")
    scene.clock.pump([0.5] * int(scene.door.limits.body_s(20) * 2 + 4))
    assert scene.wire.aborted
    assert not idle.aborted


def test_who_goes_on_sending_is_not_cut_off_where_each_piece_ends_within_a_command(scene: Scene) -> None:
    piece = b"*1\r\n$4\r\nPING\r\n"
    scene.clients[0].dataReceived(piece[:7])
    for _ in range(int(scene.door.limits.body_s(20)) * 2):
        scene.clock.advance(1)
        scene.clients[0].dataReceived(piece[7:] + piece[:7])
    assert not scene.wire.aborted


@limits(resp_clients_max=1)
def test_one_client_too_many_is_told_so(scene: Scene) -> None:
    wire = scene.connect()
    assert wire.value() == b"-ERR max number of clients reached\r\n"
    assert wire.disconnecting


def test_what_is_under_way_goes_on_when_its_client_has_gone(scene: Scene) -> None:
    scene.send("SET a 1", "INCR a")
    scene.clients[0].connectionLost()
    assert scene.answer() == ["put a"]
    assert scene.answer() == ["change a"]
    assert scene.store.records[Key(b"a")].value == b"2"
    scene.clients.clear()


def test_values_that_were_set_to_expire_keep_their_expiry_through_changes(scene: Scene) -> None:
    scene.send("SET a 1 PX 5000", "INCR a", "APPEND a 0", "SETRANGE a 0 9", "TTL a")
    while scene.answer():
        pass
    record = decode_record(scene.store.records[Key(b"a")].encode())
    assert (record.value, record.expires_ms) == (b"90", 1_005_000)
    assert scene.said() == b"+OK\r\n:2\r\n:2\r\n:2\r\n:5\r\n"
