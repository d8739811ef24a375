"""What a proxy is answered by nodes that lie: to batches, over HTTP and over links, and to everything else it asks."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, ensureDeferred, succeed
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from tests.cluster.town import House, Town
from tests.contracts.test_lane import Wire
from tests.fuzz.kind import Taken
from tests.fuzz.spoiling import Spoiler, spoilt_bytes
from tests.golden import samples
from tests.rooms.street import Scene
from tests.strict_clock import StrictClock
from twisted_kv.conditional import Draft
from twisted_kv.errors import KvError, PeerSilent
from twisted_kv.fasthttp.frames import head
from twisted_kv.fasthttp.upgrade import SWITCHED
from twisted_kv.limits import Limits
from twisted_kv.liveness import Suspicion
from twisted_kv.names import Key
from twisted_kv.operation import Done
from twisted_kv.peers.link import Link
from twisted_kv.peers.peer import Answer
from twisted_kv.peers.queue import Queues
from twisted_kv.quorum import Level
from twisted_kv.throttle import Throttle
from twisted_kv.versions import decode_record
from twisted_kv.wire.batches import batch_reply_decoder
from twisted_kv.wire.header import UNDECODED, encode

STEPS_MAX = 20_000
"""Timers within which an operation has ended, whatever it is told."""


class Lies:
    """A transport between a street's owners and their proxy, that spoils what some of them answer."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.rng = Random(0)
        self.liars: set[str] = set()
        self.told: list[bytes] = []
        self._pool = [encode(samples.MESSAGES["batch_reply"])]

    def request(self, method: str, url: str, body: bytes, **how: Any) -> Deferred[Answer]:
        done: Deferred[Answer] = self._inner.request(method, url, body, **how)
        node = url.removeprefix("http://").partition(":")[0]
        return done.addCallback(self._spoilt) if node in self.liars else done

    def _spoilt(self, answer: Answer) -> Answer:
        rng = self.rng
        if len(self._pool) < 64:
            self._pool.append(answer.body)
        else:
            self._pool[rng.randrange(1, 64)] = answer.body
        good = answer.body if rng.random() < 0.9 else rng.choice(self._pool)
        body = Spoiler([good, samples_of_reply()]).spoilt(rng) if rng.random() < 0.05 else Spoiler([good]).spoilt(rng)
        self.told.append(body)
        return Answer(rng.choice((200, 200, 200, 200, 409, 400, 401, 500)), body, rng.random() < 0.1)


def samples_of_reply() -> bytes:
    return encode(samples.MESSAGES["batch_reply"])


class Batches:
    """See ``kind.Kind``: operations of clients, some of whose owners answer what is spoilt. A frame is one round of a
    few operations; ``told`` are the answers."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.scene = scene = Scene()
        self.lies = Lies(scene.street)
        for queue in scene.queues.by_node.values():
            queue._transport = self.lies
        scene.queues._transport = self.lies
        self._age = 0

    def spoilt(self, rng: Random) -> Any:
        return rng.getrandbits(64)

    def take(self, frame: int) -> Taken:
        scene, rng = self.scene, Random(frame)
        self.lies.rng, self.lies.told = rng, []
        trust_again(scene.queues, scene.limits)
        self.lies.liars = {"a", "b", "c"} if rng.random() < 0.3 else {rng.choice("abc")}
        waiting = [self._operation(rng) for _ in range(rng.randrange(1, 5))]
        ended: list[Any] = []  # in the order of their ends
        for one in waiting:
            one.addBoth(ended.append)
        steps = 0
        while len(ended) < len(waiting):
            calls = scene.clock.getDelayedCalls()
            assert calls, f"an operation hangs; told {[body.hex() for body in self.lies.told]}"
            scene.clock.advance(max(0.0, min(call.getTime() for call in calls) - scene.clock.seconds()))
            steps += 1
            assert steps < STEPS_MAX, "an operation never ends"
        for result in ended:
            if isinstance(result, Failure):
                assert result.check(KvError), f"{result.getTraceback()} told {[body.hex() for body in self.lies.told]}"
            elif isinstance(result, Done) and result.record:
                decode_record(result.record)
        return Taken(len(self.lies.told), sum(map(is_reply, self.lies.told)))

    def _operation(self, rng: Random) -> Deferred[Any]:
        coordinator = self.scene.coordinator
        key = Key(b"key%d" % rng.randrange(4))
        timeout_s = rng.choice((None, None, 1.0))
        level = rng.choice((Level.STRONG, Level.STRONG, Level.ALL, Level.ONE))
        kind = rng.randrange(6)
        if kind <= 1:
            return coordinator.put(key, b"v%d" % rng.randrange(100), b"text/plain", level, 0, timeout_s)
        if kind <= 3:
            return coordinator.get(key, level, timeout_s)
        if kind == 4:
            return coordinator.change(key, lambda found: Draft(b"changed", b"", 0), 1.0)
        return coordinator.refill(key)

    def look(self) -> None:
        """With everybody honest all is well again, unless what was made up is now what holds."""
        scene = self.scene
        self.lies.liars = set()
        scene.run(scene.limits.operation_timeout_s + scene.limits.batch_timeout_s + 1)
        assert scene.clock.getDelayedCalls() == []
        assert scene.coordinator.under_way == 0
        trust_again(scene.queues, scene.limits)
        put = scene.put(b"good", Key(b"good%d" % self._age))
        scene.run(5)
        assert isinstance(put.result, Done), put.result
        got = scene.get(Key(b"good%d" % self._age))
        scene.run(5)
        assert got.value == b"good"
        self._age += 1
        if self._age == 10:
            self._begin()

    def close(self) -> None:
        pass


def trust_again(queues: Queues, limits: Limits) -> None:
    """Avoid nobody: in the end no lie would reach anybody any more."""
    for queue in queues.by_node.values():
        queue.suspicion = Suspicion(limits)


def is_reply(body: bytes) -> bool:
    try:
        batch_reply_decoder.decode(body)
    except UNDECODED:
        return False
    return True


class Linked:
    """See ``kind.Kind``: what comes by a link from a node, cut as the wire cuts it, while questions wait."""

    def __init__(self) -> None:
        self.clock = StrictClock()
        body = samples_of_reply()
        self._good = [head(id_, 200, len(body)) + body for id_ in (1, 2, 3)]
        self._spoiler = Spoiler([body])

    def spoilt(self, rng: Random) -> list[bytes]:
        data = b"" if rng.random() < 0.1 else SWITCHED
        for _ in range(rng.randrange(1, 5)):
            body = self._spoiler.spoilt(rng)
            data += head(
                rng.choice((0, 1, 2, 3, 3, 4, 2**32 - 1)), rng.choice((0, 99, 200, 200, 409, 599, 600)), len(body)
            )
            data += body
        if rng.random() < 0.5:
            data = spoilt_bytes(rng, [data, SWITCHED, *self._good])
        cuts = sorted(rng.randrange(len(data) + 1) for _ in range(rng.randrange(3)))
        return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True)]

    def take(self, frame: list[bytes]) -> Taken:
        ended: list[str] = []
        opened: list[Link] = []
        limits = Limits()
        link = Link(self.clock, limits, b"", opened.append, lambda link, why: ended.append(why))
        wire = Wire()
        wire.setTcpKeepAlive = lambda on: None  # type: ignore[attr-defined]
        link.makeConnection(wire)
        answers: list[Any] = []
        asked = False
        for piece in frame:
            if opened and not ended and not asked:
                asked = True
                self._ask(link, answers)
            if not wire.closed:
                link.dataReceived(piece)
        if opened and not ended and not asked:
            self._ask(link, answers)
        if not wire.closed:
            link.connectionLost(Failure(ConnectionDone()))
        assert len(ended) == 1, ended
        assert self.clock.getDelayedCalls() == []
        assert not asked or len(answers) == 3, answers
        for answer in answers:
            if isinstance(answer, Failure):
                answer.trap(PeerSilent)
        return Taken(1, any(isinstance(answer, Answer) for answer in answers))

    @staticmethod
    def _ask(link: Link, answers: list[Any]) -> None:
        for _ in range(3):
            link.ask(b"question", 1.0).addBoth(answers.append)

    def look(self) -> None:
        taken = self.take([SWITCHED, *self._good])
        assert taken.passed

    def close(self) -> None:
        pass


class Whispers:
    """A house that answers what is spoilt, with what it was asked last as a pattern."""

    def __init__(self, house: House) -> None:
        self._house = house
        self.rng = Random(0)
        self.told: list[tuple[str, bytes]] = []
        self.asked = 0
        self.lies = False
        house.handle = self.handle  # type: ignore[method-assign]

    def handle(self, path: str, body: bytes) -> Deferred[Answer]:
        self.asked += 1
        if path.startswith("backup"):  # what a house in memory has none of
            good = encode(samples.MESSAGES["backup_reply"]) if path == "backup" else msgspec.json.encode(samples.KEPT)
            answer = succeed(Answer(200, good))
        else:
            answer = House.handle(self._house, path, body)
        return answer.addCallback(self._spoilt, path) if self.lies else answer

    def _spoilt(self, answer: Answer, path: str) -> Answer:
        rng = self.rng
        if rng.random() < 0.3:
            return answer
        json = answer.body[:1] == b"{"
        if json:
            good = [answer.body]
        else:
            name = PAGES.get(path)
            good = [answer.body, encode(samples.MESSAGES[name])] if name and rng.random() < 0.3 else [answer.body]
        body = Spoiler(good, json=json).spoilt(rng)
        self.told.append((path, body))
        return Answer(answer.code if rng.random() < 0.9 else rng.choice((200, 400, 401, 409, 500)), body)


PAGES = {
    "slots": "page",
    "digests": "digests",
    "keys": "keys_page",
    "slotkeys": "slot_keys_page",
    "due": "due_page",
    "hints": "hints_page",
    "marks": "marks",
    "purge": "purge_reply",
    "verify": "verify_reply",
    "pull": "pull_reply",
    "backup": "backup_reply",
    "batch": "batch_reply",
}


class Conversations:
    """See ``kind.Kind``: all that a proxy does besides clients' operations, with one of three nodes lying.

    A frame is one such work; ``told`` are the answers.
    """

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._folder = TemporaryDirectory()
        self.town = town = Town(1, Path(self._folder.name))
        self._houses = town.settle(3)
        self.whispers = [Whispers(house) for house in self._houses]
        self.rooms = town.proxies[0]
        for number in range(30):
            town.wait(town.put(b"key%d" % number, b"v"))
        town.wait(town.put(b"gone", None))
        self.ages = 0

    def spoilt(self, rng: Random) -> Any:
        return rng.getrandbits(64)

    def take(self, frame: int) -> Taken:
        rng, town = Random(frame), self.town
        liar = rng.choice(self.whispers)
        liar.rng, liar.told, liar.asked, liar.lies = rng, [], 0, True
        trust_again(self.rooms.queues, town.limits)
        name, work = rng.choice(self._works(rng))
        result: list[Any] = []
        doing = ensureDeferred(work)  # type: ignore[arg-type]
        doing.addBoth(result.append)
        steps, began_s = 0, town.clock.seconds()
        try:
            while not result:
                town.step()
                steps += 1
                assert max(steps // 10, liar.asked) < ASKED_MAX, f"{name} never ends"
            assert town.clock.seconds() - began_s < WORK_S_MAX, f"{name} takes too long"
            for one in result:
                if isinstance(one, Failure):
                    assert one.check(KvError), f"{name}: {one.getTraceback()}"
            town.run(0.1)
        except AssertionError as error:
            doing.cancel()
            raise AssertionError(
                f"{error}\ntold {[(path, body.hex()[:3000]) for path, body in liar.told[-3:]]}"
            ) from None
        finally:
            liar.lies = False
        return Taken(len(liar.told), not isinstance(result[0], Failure))

    def _works(self, rng: Random) -> list[tuple[str, Awaitable[Any]]]:
        rooms, town = self.rooms, self.town
        view = rooms.roster.view
        assert view is not None
        name = rng.choice(
            (
                "mend",
                "mend",
                "probe",
                "sweep",
                "hints",
                "list",
                "slots",
                "explain",
                "kept",
                "save",
                "weight",
                "ballots",
                "add",
            )
        )
        url = rng.choice(self._houses).url

        async def hinted() -> None:
            for keeper in view.seats.values():
                for owner in view.seats:
                    try:
                        await rooms.courier._replay(view, keeper, owner, Throttle(town.clock, 1e9, lambda: 0.0))
                    except KvError:
                        continue

        async def ballots() -> None:
            for seat in view.seats.values():
                await rooms.mender._control.ballots(seat, view.state, view.table.index(view.table[0]))

        works: dict[str, Callable[[], Awaitable[Any]]] = {
            "mend": lambda: rooms.mender._round_of(view),
            "probe": rooms.roster.probes.ask_all,
            "sweep": rooms.sweeper.sweep,
            "hints": hinted,
            "list": lambda: rooms.listing.page(b"", b"", rng.choice((1, 5, 100))),
            "slots": lambda: rooms.listing.slots(rng.randrange(65_536), 20),
            "explain": lambda: rooms.explainer.explain(Key(b"key%d" % rng.randrange(30))),
            "kept": rooms.saver.kept,
            "save": lambda: rooms.saver.save("x"),
            "weight": lambda: rooms.roster.add(url, rng.choice((1, 2))),
            "add": lambda: rooms.roster.add(url, 1),
            "ballots": ballots,
        }
        return [(name, works[name]())]

    def look(self) -> None:
        """With everybody honest all is well again."""
        self._close()
        self._begin()

    def _close(self) -> None:
        town = self.town
        trust_again(self.rooms.queues, town.limits)
        town.run(HEALS_S)  # a change that a liar has kept from its end comes to it
        trust_again(self.rooms.queues, town.limits)
        try:
            town.wait(town.put(b"good", b"good"))
            assert decode_record(town.wait(town.get(b"good")).record).value == b"good"
            town.close()
        finally:
            self._folder.cleanup()

    def close(self) -> None:
        self._close()


HEALS_S = 5.0
WORK_S_MAX = 7_200.0
"""How long any of these works takes, on the simulated clock."""
ASKED_MAX = 3_000
"""Questions to one node within which any of these works has ended."""
