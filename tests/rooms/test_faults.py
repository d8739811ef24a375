"""What a port writes down of requests that it could not answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, globalLogPublisher

from twisted_kv.errors import KvError, NoNodes, NoSuchTask
from twisted_kv.limits import Limits
from twisted_kv.tracing import Ids
from twisted_kv.web.site import EXPLAIN_ROUTE, App, KvSite


class Port:
    """A port whose calls fail, all of them."""

    def __init__(self, fails: Callable[[], KvError] = lambda: NoNodes("there is none"), **limits: float) -> None:
        self.clock = Clock()
        app = App()

        @app.route(EXPLAIN_ROUTE.decode(), methods=["GET"])
        def explain(request: Any) -> bytes:
            raise fails()

        @app.route("/v1/keys", methods=["GET"])
        def keys(request: Any) -> bytes:
            raise fails()

        self._site = KvSite(self.clock, app, Limits(**limits), 1024, ids=Ids(1))  # type: ignore[arg-type]

    def ask(self, path: str, **fields: str) -> bytes:
        protocol, wire = self._site.buildProtocol(None), StringTransport()
        wire.setTcpNoDelay = lambda enabled: None  # type: ignore[attr-defined]
        protocol.makeConnection(wire)
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        protocol.dataReceived(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\r\n".encode())
        said = wire.value()
        protocol.connectionLost(None)
        return said


@contextmanager
def heard() -> Iterator[list[LogEvent]]:
    events: list[LogEvent] = []

    def keep(event: LogEvent) -> None:
        if event["log_namespace"].startswith("twisted_kv"):
            events.append(event)

    globalLogPublisher.addObserver(keep)
    try:
        yield events
    finally:
        globalLogPublisher.removeObserver(keep)


def test_no_key_comes_into_the_log() -> None:
    with heard() as events:
        answer = Port().ask("/v1/explain/secret%0Akey")

    assert b" 503 " in answer
    assert [event["call"] for event in events] == ["GET /v1/explain/..."]


def test_many_failures_are_few_lines_and_the_next_one_says_how_many_were_left_out() -> None:
    port = Port(slow_lines_max=3, slow_lines_s=10.0)
    with heard() as events:
        for _ in range(10):
            assert b"X-Request-Id: 0000000000000001-" in port.ask("/v1/keys")
        port.clock.advance(10)
        port.ask("/v1/keys")

    assert [event["suppressed"] for event in events] == [0, 0, 0, 7]
    assert [event["request_id"][-2:] for event in events] == ["-1", "-2", "-3", "11"]


def test_a_failure_is_found_by_the_id_that_its_client_has_given() -> None:
    with heard() as events:
        answer = Port().ask("/v1/keys", **{"X-Request-Id": "order-17"})

    assert b"X-Request-Id: order-17" in answer
    assert [event["request_id"] for event in events] == ["order-17"]


def test_what_a_client_has_done_wrong_is_none_of_the_log_s_business() -> None:
    with heard() as events:
        assert b" 404 " in Port(lambda: NoSuchTask("there is none")).ask("/v1/keys", **{"X-Request-Id": "order-17"})

    assert events == []


def test_an_operation_that_has_a_line_of_its_own_has_no_second_one() -> None:
    def fails() -> KvError:
        error = NoNodes("there is none")
        error.request_id = "drawn"
        return error

    with heard() as events:
        assert b"X-Request-Id: drawn" in Port(fails).ask("/v1/keys")

    assert events == []
