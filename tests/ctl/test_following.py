"""Changes are watched until nothing moves, may be left to themselves or taken back, and are drawn on the way."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from typing import Any

import click
import pytest
from rich.console import Console

from tests.ctl.fakes import FakeProxy, kvctl
from twisted_kv.ctl import following
from twisted_kv.ctl.client import Client, place_of
from twisted_kv.ctl.common import Ctl
from twisted_kv.ctl.progress import bar
from twisted_kv.ctl.showing import Showing, draw_on
from twisted_kv.ctl.trouble import Exit, Trouble


def moving(done: int, state: str = "running") -> dict[str, Any]:
    task = {"id": "x-1", "kind": "rebalance", "state": state, "done": done, "total": 100, "rate": 10.0}
    return task | {"eta_s": 5.0, "what": "join"}


@pytest.fixture
def ctl(proxy: FakeProxy, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ctl]:
    monkeypatch.setattr(following, "LOOK_S", 0.001)
    client = Client(place_of(proxy.url))
    yield Ctl(client, Showing("table"))
    client.end()


def seen(proxy: FakeProxy, *looks: list[dict[str, Any]]) -> None:
    """Let the proxy's tasks be these, one look after the other; the last stays."""
    left = list(looks)
    proxy.replies["GET", "/v1/tasks"] = lambda body: (200, {"tasks": left.pop(0) if len(left) > 1 else left[0]})


def test_a_change_is_watched_from_its_turn_to_its_end(proxy: FakeProxy, ctl: Ctl) -> None:
    drawn = Console(file=io.StringIO(), force_terminal=True, width=80)
    draw_on(drawn)
    seen(proxy, [moving(0, "pending")], [moving(50)], [moving(90)], [])
    assert following.carry_out(ctl, "adding", lambda: "in") == "in"
    assert isinstance(drawn.file, io.StringIO)
    assert "adding (join)" in drawn.file.getvalue()
    assert "100" in drawn.file.getvalue()


def test_a_change_that_is_over_before_anybody_looked_claims_no_figures(proxy: FakeProxy, ctl: Ctl) -> None:
    drawn = Console(file=io.StringIO(), force_terminal=True, width=80)
    draw_on(drawn)
    seen(proxy, [])
    assert following.carry_out(ctl, "adding", lambda: "in") == "in"
    assert isinstance(drawn.file, io.StringIO)
    assert "100%" not in drawn.file.getvalue()


def test_a_call_that_is_refused_is_trouble_at_once(proxy: FakeProxy, ctl: Ctl) -> None:
    def refused() -> None:
        raise Trouble("no", "because", "try", Exit.PRECONDITION)

    seen(proxy, [moving(50)])
    with pytest.raises(Trouble, match="no"):
        following.carry_out(ctl, "adding", refused)


@pytest.mark.parametrize("taken_back", [True, False])
def test_whoever_interrupts_is_asked_whether_to_take_it_back(
    proxy: FakeProxy, ctl: Ctl, monkeypatch: pytest.MonkeyPatch, taken_back: bool
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    seen(proxy, [moving(50)])
    proxy.give("DELETE", "/v1/tasks/x-1", b"", 204)
    monkeypatch.setattr(following.time, "sleep", interrupt)
    monkeypatch.setattr(sys, "stdin", Console(force_terminal=True))  # anything that is a terminal
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(click, "confirm", lambda *args, **kwargs: taken_back)
    with pytest.raises(KeyboardInterrupt):
        following.carry_out(ctl, "adding")
    assert any(method == "DELETE" for method, *_ in proxy.asked) == taken_back


def test_a_repair_that_another_proxy_does_is_not_waited_for(
    proxy: FakeProxy, ctl: Ctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "REPAIR_PATIENCE_S", 0.0)
    seen(proxy, [])
    assert following.follow_repair(ctl, "repair-7") is None


@pytest.mark.parametrize("ended", ["done", "cancelled"])
def test_a_repair_is_watched_to_its_end(proxy: FakeProxy, ctl: Ctl, ended: str) -> None:
    repair = {"id": "repair-7", "kind": "repair", "done": 10, "total": 100, "rate": 5.0, "eta_s": None}
    seen(proxy, [], [repair | {"state": "running"}], [repair | {"state": ended}])
    found = following.follow_repair(ctl, "repair-7")
    assert found is not None
    assert found["state"] == ended


def test_a_bar_has_rate_and_time_left_and_is_drawn_for_people_only() -> None:
    drawn = Console(file=io.StringIO(), force_terminal=True, width=80)
    draw_on(drawn)
    progress = bar(Showing("table"), "slots")
    progress.add_task("moving", total=1_000, completed=400, rate=100.0)
    drawn.print(progress)
    assert isinstance(drawn.file, io.StringIO)
    text = drawn.file.getvalue()
    assert [part for part in ("400/1.0k slots", "100/s", "6s left") if part not in text] == []
    assert bar(Showing("json"), "slots").disable
    draw_on(Console(file=io.StringIO(), force_terminal=False))
    assert bar(Showing("table"), "slots").disable


def test_a_task_is_taken_back_by_its_name(proxy: FakeProxy) -> None:
    proxy.give("DELETE", "/v1/tasks/x-1", b"", 204)
    assert kvctl("cluster", "cancel", "x-1", "--server", proxy.url).exit_code == Exit.OK
    assert kvctl("cluster", "cancel", "x-2", "--server", proxy.url).exit_code == Exit.NOT_FOUND
