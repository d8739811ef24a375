"""Probes: the members are asked who they are, and what they say is acted on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

import msgspec
import pytest

from tests.rooms.nodes import Nodes
from twisted_kv.membership import Change, Seat, State
from twisted_kv.metrics import ProxyMetrics
from twisted_kv.names import Epoch, NodeId
from twisted_kv.peers.peer import Answer
from twisted_kv.peers.queue import Queues
from twisted_kv.probing import Probes
from twisted_kv.views import View

A, B, C, D = map(NodeId, "abcd")


class Scene:
    """One proxy's probes before three members and one who may join."""

    def __init__(self) -> None:
        self.nodes = Nodes(A, B, C, D)
        self.seats = self.nodes.seats
        self.state = State(1, "c-1", 2, members=tuple(self.seats[node] for node in (A, B, C)))
        self.now_ms = 100
        self.ahead: list[Epoch] = []
        self.forgot: list[list[Seat]] = []
        self.back = 0
        clock, limits = self.nodes.clock, self.nodes.limits
        self.queues = Queues(clock, limits, self.nodes, ProxyMetrics(), lambda node, reply: None)
        self.queues.adopt(View(self.state))
        self.probes = Probes(
            clock,
            Random(1),
            lambda: self.now_ms,
            limits,
            self.nodes.control,
            self.queues,
            lambda: self.state,
            self.ahead.append,
            self._forgot,
            self._back,
        )

    async def _forgot(self, seats: Sequence[Seat]) -> None:
        self.forgot.append(list(seats))

    def _back(self) -> None:
        self.back += 1

    def ask(self) -> None:
        self.nodes.wait(self.probes.ask_all())

    def say(self, node: str, **fields: object) -> None:
        """Let a node say something else of itself from now on."""
        altered = self.nodes.altered

        def said(asked: str, path: str, answer: Answer) -> Answer:
            answer = altered(asked, path, answer)
            if (asked, path) != (node, "info"):
                return answer
            info = msgspec.json.decode(answer.body) | fields
            return Answer(200, msgspec.json.encode(info))

        self.nodes.altered = said

    def change(self, *seats: Seat) -> None:
        self.state = msgspec.structs.replace(self.state, change=Change("c-1", "join", seats))


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    assert made.nodes.clock.getDelayedCalls() == []


def test_what_members_say_is_seen(scene: Scene) -> None:
    scene.ask()
    infos = [scene.probes.info_of(scene.seats[node]) for node in (A, B, C, D)]
    assert [info and info.member for info in infos] == ["a", "b", "c", None]
    assert (scene.ahead, scene.forgot) == ([], [])


def test_who_joins_or_is_about_to_change_is_asked_too(scene: Scene) -> None:
    scene.change(*scene.seats.values())
    scene.ask()
    assert scene.probes.info_of(scene.seats[D]) is not None


def test_a_member_that_forgot_is_named_with_the_life_that_it_has_now(scene: Scene) -> None:
    scene.say(B, incarnation="i-9")
    scene.ask()
    assert scene.forgot == [[msgspec.structs.replace(scene.seats[B], incarnation="i-9", forgetful=True)]]


def test_a_node_that_forgets_during_a_change_is_named_though_it_is_no_member_yet(scene: Scene) -> None:
    heavier = msgspec.structs.replace(scene.seats[A], weight=3)
    scene.change(heavier, scene.seats[B], scene.seats[C], scene.seats[D])
    for node in (A, D):
        scene.say(node, incarnation="i-9")
    scene.ask()
    (seats,) = scene.forgot
    assert [(seat.id, seat.weight, seat.incarnation) for seat in seats] == [("a", 3, "i-9"), ("d", 1, "i-9")]


def test_a_target_whose_new_life_the_change_has_already_is_not_named(scene: Scene) -> None:
    scene.change(*(msgspec.structs.replace(seat, incarnation="i-9") for seat in scene.state.members))
    for node in (A, B, C):
        scene.say(node, incarnation="i-9")
    scene.ask()
    assert scene.forgot == []


def test_a_node_that_forgot_even_its_name_is_given_it_again(scene: Scene) -> None:
    scene.say(C, cluster="", member="", incarnation="i-9")
    scene.ask()
    assert (C, "join") in scene.nodes.asked


def test_who_is_somebody_else_counts_as_silent(scene: Scene) -> None:
    scene.say(C, member="x")
    scene.ask()
    assert scene.probes.info_of(scene.seats[C]) is None
    assert "member x of cluster c-1" in scene.probes.sightings[C].error
    assert scene.forgot == []


def test_a_silent_member_is_seen_as_such_and_called_back_when_it_answers(scene: Scene) -> None:
    scene.ask()
    assert scene.back == 3, "all answer for the first time"
    scene.nodes.silent = {B}
    scene.ask()
    assert scene.probes.info_of(scene.seats[B]) is None
    scene.nodes.silent = set()
    scene.ask()
    assert scene.back == 4


def test_a_member_that_fails_probes_is_avoided_and_one_that_answers_is_not(scene: Scene) -> None:
    scene.nodes.silent = {B}
    for _ in range(scene.nodes.limits.suspect_after_failures):
        scene.ask()
    assert scene.queues.avoided() == {B}


def test_a_member_of_a_newer_epoch_is_told_of(scene: Scene) -> None:
    scene.say(A, epoch=9)
    scene.ask()
    assert scene.ahead == [9]


def test_who_takes_part_no_more_is_forgotten(scene: Scene) -> None:
    scene.ask()
    scene.probes.forget_all_but([A])
    assert set(scene.probes.sightings) == {A}


@pytest.mark.parametrize(("now_ms", "ahead_s"), [(100, 0.0), (5_100, 5.0), (0, -0.1)])
def test_a_clock_is_compared_with_that_of_most_nodes(scene: Scene, now_ms: int, ahead_s: float) -> None:
    scene.now_ms = now_ms
    assert scene.probes.clock_ahead_s() == 0.0, "before anybody has answered"
    scene.say(C, now_ms=10**9)
    scene.ask()
    assert scene.probes.clock_ahead_s() == pytest.approx(ahead_s)


def test_a_node_of_an_older_version_says_less_and_is_as_welcome(scene: Scene) -> None:
    altered = scene.nodes.altered

    def without(asked: str, path: str, answer: Answer) -> Answer:
        answer = altered(asked, path, answer)
        if path != "info":
            return answer
        info = msgspec.json.decode(answer.body)
        for name in ("uptime_s", "free_bytes", "sync"):
            del info[name]
        return Answer(200, msgspec.json.encode(info))

    scene.nodes.altered = without
    scene.ask()
    info = scene.probes.info_of(scene.seats[A])
    assert info is not None
    assert (info.uptime_s, info.free_bytes, info.sync) == (None, None, "")


def test_it_is_known_how_far_clocks_are_apart_and_how_long_answers_take(scene: Scene) -> None:
    scene.say(A, now_ms=5_100)
    scene.ask()
    assert scene.probes.sightings[A].ahead_s == 5.0
    trips = scene.probes.round_trips(scene.seats[A])
    assert trips is not None
    assert 0 <= trips.p50_s <= trips.p99_s
    assert scene.probes.round_trips(scene.seats[D]) is None
