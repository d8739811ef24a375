"""What systemd hears, on a real socket and a simulated clock."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.strict_clock import StrictClock
from twisted_kv.children import own_environment
from twisted_kv.notify import BEATS_IN_TIME, OF_THE_PARENT, UNSENT_RETRY_S, Notices, address, silent

PID = 4321
WATCHED = {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(PID)}


class Systemd:
    """The other end of a daemon's voice."""

    def __init__(self, at: str) -> None:
        self.named = at
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("\0" + at[1:] if at.startswith("@") else at)
        self._socket.setblocking(False)

    def environ(self, **more: str) -> dict[str, str]:
        return {"NOTIFY_SOCKET": self.named, **more}

    def heard(self) -> list[str]:
        found = []
        while True:
            try:
                found.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Systemd]:
    path = tmp_path / "notify"
    systemd = Systemd(str(path) if request.param == "path" else f"@{path}")
    yield systemd
    systemd.close()


def test_a_daemon_tells_how_it_is_in_the_words_of_sd_notify(systemd: Systemd) -> None:
    clock = StrictClock()
    clock.advance(12.5)
    notices = Notices(clock, systemd.environ(), PID)

    notices.status("opening its folder")
    notices.ready("serving on http://127.0.0.1:8081")
    notices.reloading()
    notices.reloaded()
    notices.stopping()
    notices.stop()

    assert systemd.heard() == [
        "STATUS=opening its folder",
        "READY=1\nSTATUS=serving on http://127.0.0.1:8081",
        "RELOADING=1\nMONOTONIC_USEC=12500000",
        "READY=1",
        "STOPPING=1\nSTATUS=stopping",
    ]
    assert clock.getDelayedCalls() == []


def test_a_reload_makes_nobody_ready_who_does_not_serve(systemd: Systemd) -> None:
    notices = Notices(StrictClock(), systemd.environ(), PID)

    notices.reloaded()
    notices.ready("serving")
    notices.stopping()
    notices.reloaded()

    assert [text for text in systemd.heard() if "READY=1" in text] == ["READY=1\nSTATUS=serving"]


def test_a_status_is_one_line_and_cannot_say_anything_else(systemd: Systemd) -> None:
    Notices(StrictClock(), systemd.environ(), PID).status("a\nREADY=1")

    assert systemd.heard() == ["STATUS=a READY=1"]


def test_signs_of_life_come_three_times_as_often_as_they_are_wanted(systemd: Systemd) -> None:
    clock = StrictClock()
    notices = Notices(clock, systemd.environ(**WATCHED), PID)
    clock.advance(10)
    assert systemd.heard() == []  # whoever does not serve yet is not watched

    notices.ready("serving")
    clock.pump([1.0] * BEATS_IN_TIME)
    notices.stopping()
    clock.pump([1.0])
    notices.stop()
    clock.pump([1.0] * 3)

    beats = [text for text in systemd.heard() if "WATCHDOG" in text]
    assert beats == ["WATCHDOG_USEC=3000000\nWATCHDOG=1", *["WATCHDOG=1"] * 4]
    assert clock.getDelayedCalls() == []


def test_a_pause_ends_the_watch_until_the_daemon_serves_again(systemd: Systemd) -> None:
    clock = StrictClock()
    notices = Notices(clock, systemd.environ(**WATCHED), PID)
    notices.ready("serving")
    systemd.heard()

    notices.pause("its folder is verified")
    clock.advance(100)
    assert systemd.heard() == ["WATCHDOG_USEC=0\nSTATUS=its folder is verified"]
    notices.ready("serving")
    assert systemd.heard() == ["READY=1\nSTATUS=serving", "WATCHDOG_USEC=3000000\nWATCHDOG=1"]
    notices.stop()


@pytest.mark.parametrize(
    "environ",
    [{}, {**WATCHED, "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "-5"}, {"WATCHDOG_USEC": "²"}],
    ids=["none", "another process", "no number", "negative", "no digit"],
)
def test_without_a_watchdog_of_its_own_there_is_no_sign_of_life(environ: dict[str, str], systemd: Systemd) -> None:
    clock = StrictClock()
    notices = Notices(clock, systemd.environ(**environ), PID)

    notices.ready("serving")
    notices.pause("busy")

    assert systemd.heard() == ["READY=1\nSTATUS=serving", "STATUS=busy"]
    assert clock.getDelayedCalls() == []


def test_what_a_busy_systemd_does_not_take_is_sent_later_and_in_order(systemd: Systemd) -> None:
    clock = StrictClock()
    notices = Notices(clock, systemd.environ(**WATCHED), PID)
    sent = [f"STATUS={number}" for number in range(2000)]  # far more than net.unix.max_dgram_qlen

    for text in sent:
        notices.status(text.removeprefix("STATUS="))
    heard = systemd.heard()
    assert len(heard) < len(sent)
    while clock.getDelayedCalls():
        clock.advance(UNSENT_RETRY_S)
        heard += systemd.heard()

    assert heard == sent


def test_a_systemd_that_is_gone_is_complained_of_once(tmp_path: Path) -> None:
    said: list[object] = []
    notices = Notices(StrictClock(), {"NOTIFY_SOCKET": str(tmp_path / "gone")}, PID)
    notices.log = type("Said", (), {"warn": lambda self, text, **more: said.append(more["why"])})()

    notices.status("a")
    notices.ready("b")

    assert said == ["No such file or directory"]


def test_nobody_is_told_where_no_socket_is_named() -> None:
    for notices in (silent, Notices(None, {"NOTIFY_SOCKET": ""}, PID), Notices(None, WATCHED, PID)):
        assert not notices.heard
        notices.ready("serving")
        notices.reloading()
        notices.reloaded()
        notices.pause("busy")
        notices.stopping()
        notices.stop()


@pytest.mark.parametrize("named", ["vsock:2:1234", "relative/path", ""])
def test_other_kinds_of_addresses_are_nobody(named: str) -> None:
    assert address(named) == ""


def test_children_hear_nothing_of_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in OF_THE_PARENT:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("LANG", "C")

    environ = own_environment()

    assert environ["LANG"] == "C"
    assert environ.keys().isdisjoint(OF_THE_PARENT)
