"""Calls without any I/O: a test says what comes back of each attempt, and sees what was sent, and to whom."""

from __future__ import annotations

import json
from collections.abc import Iterable
from random import Random
from typing import Any, TypeVar

from twisted_kv.client.judging import Answer, Told
from twisted_kv.client.places import place_of
from twisted_kv.client.trip import Bounds, Home, Pause, Request, Route, Send, Steps

T = TypeVar("T")

ETAG, OTHER, THIRD = "a" * 32, "b" * 32, "c" * 32


class Script:
    """One client, its proxies, and time that goes on only as calls wait.

    :param servers: how many proxies there are: ``a``, ``b``, ``c``.
    """

    def __init__(self, servers: int = 1, timeout_s: float = 10.0) -> None:
        self.now_s = 0.0
        random = Random(1)
        route = Route([place_of(f"http://{name}:1") for name in "abc"[:servers]], random)
        self.home = Home(route, lambda: self.now_s, random, Bounds(timeout_s))
        self.sent: list[Request] = []
        self.asked: list[str] = []
        self.waits: list[float] = []
        self.pauses: list[float] = []

    def play(self, steps: Steps[T], told: Iterable[Told | tuple[float, Told]]) -> T:
        """Carry steps out. An answer may come with the seconds that it takes; one more than is asked for is a fault."""
        answers = iter(told)
        try:
            step = next(steps)
            while True:
                if isinstance(step, Pause):
                    self.pauses.append(step.seconds)
                    self.now_s += step.seconds
                    step = steps.send(None)
                    continue
                assert isinstance(step, Send)
                self.sent.append(step.request)
                self.asked.append(step.place.host)
                self.waits.append(step.wait_s)
                answer = next(answers)
                took_s, answer = answer if not isinstance(answer[0], str | int) else (0.0, answer)  # type: ignore[assignment]
                self.now_s += took_s
                step = steps.send(answer)
        except StopIteration as end:
            assert list(answers) == [], "more was foreseen than was asked"
            result: T = end.value
            return result


def ok(body: bytes = b"v", etag: str = ETAG, content_type: str = "text/plain") -> Answer:
    return Answer(200, {"etag": f'"{etag}"', "content-type": content_type}, body)


def written(etag: str = ETAG) -> Answer:
    return Answer(204, {"etag": f'"{etag}"', "kv-replicas": "2/3"}, b"")


def problem(status: int, slug: str, retry_after: str = "", **fields: Any) -> Answer:
    headers = {"retry-after": retry_after} if retry_after else {}
    return Answer(status, headers, json.dumps({"type": slug, "title": slug, "detail": "so", **fields}).encode())


def absent() -> Answer:
    return problem(404, "key-absent")


def failed(etag: str | None = None) -> Answer:
    return problem(412, "precondition-failed", **({"etag": etag} if etag is not None else {}))


def unreached(maybe_applied: bool, etag: str | None = None) -> Answer:
    more = {"etag": etag} if etag is not None else {}
    return problem(503, "quorum-unreached", maybe_applied=maybe_applied, required=2, acks=1, **more)


def lines(*fields: dict[str, Any]) -> Answer:
    return Answer(200, {}, b"".join(json.dumps(line).encode() + b"\n" for line in fields))
