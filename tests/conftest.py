"""What every test is held to: nothing may fail in the dark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from twisted.logger import globalLogPublisher

# No law asserts a time: how long an example takes, the machine decides.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(autouse=True)
def no_logged_failure() -> Iterator[list[dict[str, Any]]]:
    """Fail a test during which any Failure was logged. A test that provokes one takes the fixture and clears it."""
    failures: list[dict[str, Any]] = []

    def observe(event: dict[str, Any]) -> None:
        if event.get("log_failure") is not None:
            failures.append(event)

    globalLogPublisher.addObserver(observe)
    try:
        yield failures
    finally:
        globalLogPublisher.removeObserver(observe)
    assert not failures, "\n".join(event["log_failure"].getTraceback() for event in failures)
