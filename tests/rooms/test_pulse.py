"""How late the reactor is."""

from __future__ import annotations

from tests.strict_clock import StrictClock
from twisted_kv.pulse import Pulse


def test_each_beat_says_how_late_it_came() -> None:
    clock, late = StrictClock(), []
    pulse = Pulse(clock, 0.25, late.append)
    pulse.start()

    clock.advance(0.25)
    clock.advance(1.0)  # a reactor that was held up runs its timers when it can
    clock.advance(0.25)
    pulse.stop()

    assert late == [0.0, 0.75, 0.0]
    assert clock.getDelayedCalls() == []


def test_a_pulse_that_was_stopped_says_nothing_more() -> None:
    clock, late = StrictClock(), []
    pulse = Pulse(clock, 0.25, late.append)
    pulse.start()

    pulse.stop()
    pulse.stop()
    clock.advance(1)

    assert late == []
