"""Scenes that end with nothing left under way."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.rooms.street import Scene


@pytest.fixture
def scene_of() -> Iterator[Callable[..., Scene]]:
    scenes: list[Scene] = []

    def make(seed: int = 1, **limits: float) -> Scene:
        scenes.append(Scene(seed, **limits))
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.run(scene.limits.operation_timeout_s + scene.limits.batch_timeout_s + 1)
        assert scene.clock.getDelayedCalls() == []
        assert scene.coordinator.under_way == 0
        assert not scene.coordinator._sharing._waiting
        assert not scene.coordinator._sharing._running


@pytest.fixture
def scene(scene_of: Callable[..., Scene]) -> Scene:
    return scene_of()
