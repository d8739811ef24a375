"""What is fuzzed: one kind of thing that comes from elsewhere, and who takes it in earnest."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, NamedTuple, Protocol

from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

LOOK_EVERY = 200
"""Frames after which it is looked whether all is still as it should be."""


class Taken(NamedTuple):
    """How many frames that were, and how many of them passed for good ones."""

    frames: int
    passed: int


class Kind(Protocol):
    """One kind of frames, and the real rooms that take them."""

    def spoilt(self, rng: Random) -> Any:
        """Give a frame. What has a ``hex`` or a ``repr`` is shown with it when it is too much for somebody."""

    def take(self, frame: Any) -> Taken:
        """Give it to whoever takes such; say what became of it.

        :raises AssertionError: if anything came of it that may not.
        """

    def look(self) -> None:
        """Look whether what is good is still answered rightly, and nothing has grown. Errors as in ``take``."""

    def close(self) -> None:
        """Give back what is held."""


def shown(frame: Any) -> str:
    return frame.hex() if isinstance(frame, bytes) else repr(frame)


@contextmanager
def bugs_noted() -> Iterator[list[str]]:
    """Give the tracebacks of all failures that are logged meanwhile: what is no expected trouble ends there."""
    found: list[str] = []

    def observe(event: dict[str, Any]) -> None:
        failure = event.get("log_failure")
        if isinstance(failure, Failure):
            found.append(failure.getTraceback())

    globalLogPublisher.addObserver(observe)
    try:
        yield found
    finally:
        globalLogPublisher.removeObserver(observe)


def run(name: str, kind: Kind, count: int, complain: Callable[[str], None]) -> Taken:
    """Have so many frames taken, or a few more; say what became of them.

    :param complain: told of each frame that was too much, with its number and its bytes.
    """
    frames = passed = 0
    with bugs_noted() as bugs:
        for number in itertools.count():
            if frames >= count:
                break
            frame = kind.spoilt(Random(f"{name}/{number}"))
            try:
                taken = kind.take(frame)
                frames, passed = frames + taken.frames, passed + taken.passed
                if number % LOOK_EVERY == LOOK_EVERY - 1:
                    kind.look()
                trouble = "\n".join(bugs)
            except Exception:
                frames += 1
                trouble = "\n".join([*bugs, Failure().getTraceback()])
            if trouble:
                bugs.clear()
                complain(f"{name}/{number}: {shown(frame)[:2_000]}\n{trouble}")
    return Taken(frames, passed)
