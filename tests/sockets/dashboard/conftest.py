"""A cluster for each file of tests, and visitors of its dashboard."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.sockets.browsing import Visit, chromium
from tests.sockets.daemons import Daemon, Farm, farming


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with farming(tmp_path_factory.mktemp("cluster")) as built:
        built.cluster(5)
        yield built


@pytest.fixture(scope="module")
def proxy(farm: Farm) -> Daemon:
    return farm.proxies[0]


@pytest.fixture
def visit(browser: Any, proxy: Daemon) -> Iterator[Visit]:
    """A visitor who sees no error at all."""
    with Visit(browser, proxy.url) as page:
        yield page.live()


@pytest.fixture
def refused_visit(browser: Any, proxy: Daemon) -> Iterator[Visit]:
    """A visitor some of whose calls are refused: of keys that are not there, and of changes that came too late."""
    with Visit(browser, proxy.url, refused=(404, 412)) as page:
        yield page.live()
