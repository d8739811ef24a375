"""The towns that the tests of a cluster make; what a file needs beside is in a fixture of its own, over this one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.town import MakeTown, Town


@pytest.fixture
def make_town(tmp_path: Path) -> Iterator[MakeTown]:
    """Make towns that are closed with the test."""
    towns: list[Town] = []

    def make(seed: int = 1, **parts: Any) -> Town:
        towns.append(Town(seed, tmp_path, **parts))
        return towns[-1]

    yield make
    for town in towns:
        town.close()
