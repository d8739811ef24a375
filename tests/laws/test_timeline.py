"""Where an operation's time went, in fields and in words."""

from __future__ import annotations

from twisted_kv.timeline import NEVER, STEPS_MAX, Step, sentence, server_timing, told

STEPS: list[Step] = [
    (10.0, "asks to accept", "", 1, NEVER),
    (10.003, "agreed", "n-1", 1, 10.001),
    (10.5, 'gave no answer: it "slept"\x1b', "n-2", 1, NEVER),
]


def test_each_answer_says_how_long_it_waited_here_and_how_long_it_was_away() -> None:
    assert told(9.9, STEPS) == [
        {"at_ms": 100.0, "what": "asks to accept", "round": 1},
        {"at_ms": 103.0, "what": "agreed", "node": "n-1", "round": 1, "queued_ms": 1.0, "trip_ms": 2.0},
        {"at_ms": 600.0, "what": 'gave no answer: it "slept"\x1b', "node": "n-2", "round": 1},
    ]
    assert sentence(told(9.9, STEPS)).startswith("100 asks to accept; 103 n-1 agreed (queued 1, trip 2); 600 n-2 gave")


def test_each_wait_is_counted_from_when_that_question_was_asked() -> None:
    steps: list[Step] = [
        (1.0, "asks to read", "", 1, NEVER),
        (1.5, "asks to read", "", 1, NEVER),  # others, too: it takes too long
        (1.6, "asks to prepare", "", 2, NEVER),
        (1.7, "agreed", "n-1", 1, 1.2),
        (1.8, "agreed", "n-2", 1, 1.55),
        (1.9, "agreed", "n-3", 2, 1.7),
    ]

    answers = [step for step in told(1.0, steps) if "node" in step]

    assert [(step["queued_ms"], step["trip_ms"]) for step in answers] == [(200, 500), (50, 250), (100, 200)]


def test_what_was_asked_before_a_round_began_was_not_queued_in_it() -> None:
    late: list[Step] = [(2.0, "asks to prepare", "", 2, NEVER), (2.1, "agreed", "n-1", 1, 1.5)]

    assert told(1.0, late)[1]["queued_ms"] == 0.0


def test_of_very_many_steps_those_in_the_middle_are_left_out() -> None:
    many: list[Step] = [(float(at), "pauses", "", at, NEVER) for at in range(1, 101)]

    found = told(0.0, many)

    assert len(found) == STEPS_MAX + 1
    assert [step.get("round") for step in (found[0], found[-1])] == [1, 100]
    assert found[STEPS_MAX // 2]["what"] == "(60 steps are left out)"


def test_a_header_holds_every_step_and_nothing_that_would_end_it() -> None:
    header = server_timing(told(9.9, STEPS))

    assert header.count(b'";') + header.count(b'",') + header.endswith(b'"') == len(STEPS)
    assert header.startswith(b'step1;dur=100;desc="100 asks to accept", step2;dur=103;desc="')
    assert all(0x20 <= byte < 0x7F for byte in header)
