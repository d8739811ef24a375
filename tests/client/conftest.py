"""Whatever becomes of a client, nothing of it is left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import pytest_twisted
from twisted.internet.task import deferLater

from tests.client.both import reactor

LOOKS = 100


@pytest.fixture(autouse=True)
def no_timer_left() -> Iterator[None]:
    before = set(reactor.getDelayedCalls())
    yield
    for _ in range(LOOKS):
        left = [call for call in reactor.getDelayedCalls() if call not in before]
        if not left:
            return
        # An attempt to connect that was called off leaves a timer of Twisted's for some milliseconds.
        pytest_twisted.blockon(deferLater(reactor, 0.02))
    raise AssertionError([str(call) for call in left])
