"""Requests that can be found again: what answers say of them, with the lane and without it, and what the log does."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.sockets.daemons import Daemon, Farm, call, farming, wait_until

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{SPAN}-01"
ID = {"X-Request-Id": "order-17"}


@pytest.fixture(scope="module", params=["true", "false"], ids=["lane", "klein"])
def farm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with farming(tmp_path_factory.mktemp("ids")) as farm:
        farm.proxy("--lane", request.param, "--log-format", "json")
        for _ in range(3):
            farm.add(farm.node("--lane", request.param))
        yield farm


@pytest.fixture
def proxy(farm: Farm) -> Daemon:
    return farm.proxies[0]


WAYS = [
    ("PUT", "/v1/kv/k", b"v", 204),
    ("GET", "/v1/kv/k", None, 200),
    ("GET", "/v1/kv/k?consistency=one", None, 200),
    ("GET", "/v1/kv/k?timeout=30", None, 200),
    ("DELETE", "/v1/kv/gone", None, 204),
    ("PUT", "/PUT", b'{"Key": "k", "Value": "v"}', 200),
    ("POST", "/GET", b'{"Key": "k"}', 200),
]


def test_an_answer_says_the_id_that_its_client_has_given_and_no_other(proxy: Daemon) -> None:
    for method, path, body, status in WAYS:
        for sent, said in (
            (ID, "order-17"),
            ({"traceparent": PARENT}, TRACE),
            ({}, None),
            ({"X-Request-Id": "a b"}, None),
        ):
            got = call(method, proxy.url + path, body, **sent)
            assert (got.status, got.headers["X-Request-Id"]) == (status, said), (path, sent)
            assert got.headers["Server-Timing"] is None


def test_a_condition_keeps_the_id_too(proxy: Daemon) -> None:
    got = call("PUT", f"{proxy.url}/v1/kv/conditional", b"v", **ID, **{"If-None-Match": "*"})
    again = call("PUT", f"{proxy.url}/v1/kv/conditional", b"v", **ID, **{"If-None-Match": "*"})

    assert (got.status, got.headers["X-Request-Id"]) == (204, "order-17")
    assert (again.status, again.headers["X-Request-Id"], again.json()["request_id"]) == (412, "order-17", "order-17")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/kv/absent", 404), ("GET", "/v1/kv/k?level=one", 400), ("GET", "/nowhere", 404), ("PUT", "/PUT", 400)],
)
def test_a_problem_says_the_id_where_there_is_one(proxy: Daemon, method: str, path: str, status: int) -> None:
    named, nameless = call(method, proxy.url + path, b"{", **ID), call(method, proxy.url + path, b"{")

    assert (named.status, nameless.status) == (status, status)
    assert (named.json()["request_id"], named.headers["X-Request-Id"]) == ("order-17", "order-17")
    assert "request_id" not in nameless.json()
    assert nameless.headers["X-Request-Id"] is None


@pytest.mark.parametrize("path", ["/v1/kv/k?explain=1", "/v1/kv/k?explain=1&consistency=one", "/GET?Key=k&explain=1"])
def test_an_operation_explains_where_its_time_went(proxy: Daemon, path: str) -> None:
    assert call("PUT", f"{proxy.url}/v1/kv/k", b"v").status == 204
    got = call("GET", proxy.url + path)

    assert got.status == 200
    timing = got.headers["Server-Timing"]
    assert timing.startswith("step1;dur=")
    assert "asks" in timing
    assert "queued" in timing
    assert "trip" in timing
    assert got.headers["X-Request-Id"] is None


def test_what_is_no_flag_is_refused(proxy: Daemon) -> None:
    assert call("GET", f"{proxy.url}/v1/kv/k?explain=perhaps").status == 400


def test_what_failed_is_found_in_the_log_by_the_id_of_its_answer(farm: Farm, proxy: Daemon) -> None:
    for node in farm.nodes[:2]:
        node.kill()
    try:
        url = f"{proxy.url}/v1/kv/k?timeout=1"
        drawn, named = call("PUT", url, b"v"), call("PUT", url, b"v", **ID)
        assert drawn.status >= 503
        assert drawn.headers["X-Request-Id"] == drawn.json()["request_id"]
        assert named.json()["request_id"] == "order-17"
        lines = [json.loads(line) for line in proxy.log().splitlines()]
        by_id = {line["request_id"]: line for line in lines if "request_id" in line}
        for answer in (drawn, named):
            assert by_id[answer.json()["request_id"]]["detail"] == answer.json()["detail"]
            assert by_id[answer.json()["request_id"]]["steps"]
    finally:
        for node in farm.nodes[:2]:
            node.start()
    wait_until(lambda: call("PUT", f"{proxy.url}/v1/kv/k", b"v").status == 204, "the nodes to be back")
