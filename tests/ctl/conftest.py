"""Consoles are looked for anew by each test: its outputs are its own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ctl.fakes import FakeProxy, fake_proxy
from twisted_kv.ctl.showing import forget_consoles


@pytest.fixture(autouse=True)
def own_consoles() -> Iterator[None]:
    forget_consoles()
    yield
    forget_consoles()


@pytest.fixture
def proxy() -> Iterator[FakeProxy]:
    with fake_proxy() as made:
        yield made
