"""``/v1/keys`` on real daemons: pages, cursors, and a stream of all keys."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from http.client import HTTPConnection, IncompleteRead
from typing import Any
from urllib.parse import quote

import pytest

from tests.sockets.daemons import Daemon, Farm, call, farming, wait_until

NDJSON = "application/x-ndjson"
MANY = sorted(f"many/{number}" for number in range(3_000))
RAW = [b"raw/\0", b"raw/\x7f", "raw/é".encode(), b"raw/\xff", b"raw/\xff\xfe", b"raw/a b+%"]


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with farming(tmp_path_factory.mktemp("farm")) as built:
        proxy = built.cluster(3)
        lines = [{"op": "put", "key": key, "value": "v"} for key in MANY]
        lines += [{"op": "put", "key_b64": b64encode(key).decode(), "value": "v"} for key in RAW]
        body = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        got = call("POST", f"{proxy.url}/v1/bulk", body)
        assert {json.loads(line)["status"] for line in got.body.splitlines()} == {204}
        yield built


@pytest.fixture
def proxy(farm: Farm) -> Daemon:
    return farm.proxies[0]


def page(proxy: Daemon, query: str) -> Any:
    got = call("GET", f"{proxy.url}/v1/keys{query}")
    assert (got.status, got.headers["Content-Type"]) == (200, "application/json")
    return got.json()


def pages(proxy: Daemon, prefix: str, limit: int) -> Iterator[list[Any]]:
    cursor = ""
    while True:
        got = page(proxy, f"?prefix={prefix}&limit={limit}{cursor}")
        yield got["keys"]
        if got["cursor"] is None:
            return
        cursor = f"&cursor={quote(got['cursor'])}"


@pytest.mark.parametrize("limit", [1, 7, 1_000])
def test_cursors_lead_through_all_keys_in_the_order_of_their_bytes(proxy: Daemon, limit: int) -> None:
    prefix = "many/29" if limit < 1_000 else "many/"
    found = list(pages(proxy, prefix, limit))
    assert [key for keys in found for key in keys] == [key for key in MANY if key.startswith(prefix)]
    assert max(map(len, found)) == limit


def test_a_page_without_a_limit_has_a_hundred_keys(proxy: Daemon) -> None:
    got = page(proxy, "?prefix=many/")
    assert got["keys"] == MANY[:100]
    assert got["cursor"]


def test_a_prefix_is_bytes_and_need_be_no_whole_name(proxy: Daemon) -> None:
    assert page(proxy, "?prefix=many/299")["keys"] == ["many/299", *[f"many/299{n}" for n in range(10)]]
    assert page(proxy, "?prefix=raw/%ff")["keys"] == [{"b64": b64encode(key).decode()} for key in RAW[3:5]]
    assert page(proxy, "?prefix=nothing") == {"keys": [], "cursor": None}


def test_keys_that_are_no_text_are_shown_as_base64_and_lead_on_as_cursors(proxy: Daemon) -> None:
    shown: list[Any] = []
    for key in sorted(RAW):
        try:
            shown.append(key.decode())
        except UnicodeDecodeError:
            shown.append({"b64": b64encode(key).decode()})
    assert [key for keys in pages(proxy, "raw/", 1) for key in keys] == shown


def test_a_deleted_and_an_expired_key_are_not_listed(proxy: Daemon) -> None:
    for name in "abcd":
        call("PUT", f"{proxy.url}/v1/kv/mortal/{name}", b"v")
    call("DELETE", f"{proxy.url}/v1/kv/mortal/b")
    call("PUT", f"{proxy.url}/v1/kv/mortal/c?ttl=0.2", b"v")
    wait_until(lambda: page(proxy, "?prefix=mortal/")["keys"] == ["mortal/a", "mortal/d"], "one to expire", 5)


@pytest.mark.parametrize(
    "query",
    [
        "?limit=0",
        "?limit=-1",
        "?limit=x",
        "?limit=1.5",
        "?limit=",
        f"?limit={'0' * 19}1{'0' * 4_500}",
        "?limit=1&limit=2",
        "?cursor=!!!!",
        "?cursor=YQ",
        "?cursor=%ff",
        "?cursor=YQ==&cursor=YQ==",
        "?prefix=a&prefix=b",
        "?after=a",
    ],
)
@pytest.mark.parametrize("accept", ["application/json", NDJSON])
def test_bad_parameters_are_refused(proxy: Daemon, query: str, accept: str) -> None:
    got = call("GET", f"{proxy.url}/v1/keys{query}", Accept=accept)
    assert (got.status, got.json()["type"]) == (400, "bad-parameter")


def test_a_page_has_a_most_and_a_stream_has_none(proxy: Daemon) -> None:
    assert call("GET", f"{proxy.url}/v1/keys?limit=1001").status == 400
    assert call("GET", f"{proxy.url}/v1/keys?limit=1001", Accept=NDJSON).status == 200


def test_all_keys_come_as_one_stream(proxy: Daemon) -> None:
    got = call("GET", f"{proxy.url}/v1/keys?prefix=many/", Accept=NDJSON)
    assert (got.status, got.headers["Content-Type"]) == (200, NDJSON)
    assert [json.loads(line) for line in got.body.splitlines()] == MANY


def test_a_stream_takes_a_limit_beyond_a_page(proxy: Daemon) -> None:
    got = call("GET", f"{proxy.url}/v1/keys?prefix=many/&limit=1500", Accept=NDJSON)
    assert [json.loads(line) for line in got.body.splitlines()] == MANY[:1_500]


def test_a_stream_of_nothing_is_empty(proxy: Daemon) -> None:
    got = call("GET", f"{proxy.url}/v1/keys?prefix=nothing", Accept=NDJSON)
    assert (got.status, got.body) == (200, b"")


def test_a_listing_goes_on_with_a_majority_and_says_so_without_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    with farming(tmp_path_factory.mktemp("down")) as farm:
        proxy = farm.cluster(3)
        call("PUT", f"{proxy.url}/v1/kv/a?consistency=all", b"v")
        farm.nodes[0].kill()
        assert page(proxy, "")["keys"] == ["a"]
        farm.nodes[1].kill()
        for accept in ("application/json", NDJSON):
            got = call("GET", f"{proxy.url}/v1/keys", Accept=accept)
            assert (got.status, got.json()["type"]) == (503, "quorum-unreached")
            assert (got.json()["required"], got.json()["acks"]) == (2, 1)
            assert len(got.json()["replicas"]) == 2


def test_a_stream_that_cannot_be_finished_is_visibly_cut(tmp_path_factory: pytest.TempPathFactory) -> None:
    with farming(tmp_path_factory.mktemp("cut")) as farm:
        proxy = farm.cluster(3)
        # More than the sockets' buffers hold, so that the proxy has to ask for more pages while the client reads.
        keys = [f"{number:05d}" + "k" * 1_000 for number in range(20_000)]
        for first in range(0, len(keys), 5_000):
            lines = [b'{"op":"put","key":"%b","value":""}\n' % key.encode() for key in keys[first : first + 5_000]]
            assert call("POST", f"{proxy.url}/v1/bulk", b"".join(lines)).body.count(b'"status":204') == len(lines)
        client = HTTPConnection("127.0.0.1", proxy.port, timeout=30)
        client.request("GET", "/v1/keys", headers={"Accept": NDJSON})
        answer = client.getresponse()
        assert answer.read(10).startswith(b'"00000k')
        for node in farm.nodes[:2]:
            node.kill()
        with pytest.raises((IncompleteRead, ConnectionError)):
            answer.read()
        client.close()
        assert "an answer was cut off" in proxy.log()
        # The proxy goes on as before.
        assert call("GET", f"{proxy.url}/health/live").status == 200
