"""``/v1/kv``, ``/v1/cluster``, ``/v1/ring``, health and metrics on real daemons."""

from __future__ import annotations

import http.client
import json
import random
import re
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.sockets.daemons import Daemon, Farm, call, farming, get, put, wait_until


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with farming(tmp_path_factory.mktemp("farm")) as built:
        built.cluster(3)
        yield built


@pytest.fixture
def proxy(farm: Farm) -> Daemon:
    return farm.proxies[0]


def test_a_value_comes_back_as_it_was_with_its_type_and_version(proxy: Daemon) -> None:
    value = bytes(range(256)) * 10
    stored = call("PUT", f"{proxy.url}/v1/kv/blob", value, **{"Content-Type": "image/png"})
    assert (stored.status, stored.body) == (204, b"")
    got = call("GET", f"{proxy.url}/v1/kv/blob")
    assert (got.status, got.body, got.headers["Content-Type"]) == (200, value, "image/png")
    assert got.headers["ETag"] == stored.headers["ETag"]
    assert re.fullmatch('"[0-9a-f]{32}"', got.headers["ETag"])
    assert re.fullmatch("[23]/3", got.headers["KV-Replicas"])


def test_a_browser_runs_nothing_of_a_value_and_shows_other_sites_none(proxy: Daemon) -> None:
    heads = ("Cross-Origin-Resource-Policy", "X-Content-Type-Options", "Content-Security-Policy")
    said = {}
    for kind in ("text/html", "application/octet-stream"):
        call("PUT", f"{proxy.url}/v1/kv/page", b"<script>1</script>", **{"Content-Type": kind})
        got = call("GET", f"{proxy.url}/v1/kv/page")
        said[kind] = [got.headers[name] for name in heads]
    assert said == {
        "text/html": ["same-site", "nosniff", "sandbox"],
        "application/octet-stream": ["same-site", None, None],
    }


def test_head_says_what_get_would_and_sends_no_body(proxy: Daemon) -> None:
    call("PUT", f"{proxy.url}/v1/kv/headed", b"12345")
    head, full = call("HEAD", f"{proxy.url}/v1/kv/headed"), call("GET", f"{proxy.url}/v1/kv/headed")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", "5")
    assert head.headers["ETag"] == full.headers["ETag"]
    assert call("HEAD", f"{proxy.url}/v1/kv/nothing").status == 404


def test_an_empty_value_is_a_value(proxy: Daemon) -> None:
    assert call("PUT", f"{proxy.url}/v1/kv/empty", b"").status == 204
    assert (call("GET", f"{proxy.url}/v1/kv/empty").status, get(proxy, "empty").body) == (200, b'""')


def test_delete_is_204_whether_or_not_the_key_was_there(proxy: Daemon) -> None:
    call("PUT", f"{proxy.url}/v1/kv/gone", b"v")
    assert call("DELETE", f"{proxy.url}/v1/kv/gone").status == 204
    assert call("DELETE", f"{proxy.url}/v1/kv/gone").status == 204
    got = call("GET", f"{proxy.url}/v1/kv/gone")
    assert (got.status, got.json()["type"]) == (404, "key-absent")
    assert get(proxy, "gone").status == 404


def test_a_deleted_key_can_be_put_again(proxy: Daemon) -> None:
    for value in (b"1", b"2"):
        call("PUT", f"{proxy.url}/v1/kv/phoenix", value)
        call("DELETE", f"{proxy.url}/v1/kv/phoenix")
    call("PUT", f"{proxy.url}/v1/kv/phoenix", b"3")
    assert call("GET", f"{proxy.url}/v1/kv/phoenix").body == b"3"


@pytest.mark.parametrize("level", ["one", "strong", "quorum", "all"])
def test_every_level_serves_every_call(proxy: Daemon, level: str) -> None:
    url = f"{proxy.url}/v1/kv/level-{level}?consistency={level}"
    assert call("PUT", url, b"v").status == 204
    wait_until(lambda: call("GET", url).body == b"v", "the primary to have it too")
    assert call("DELETE", url).status == 204


def test_keys_are_raw_bytes_and_no_two_become_one(proxy: Daemon) -> None:
    """Of RELIABILITY's B10: slashes, dots, escapes and zero bytes neither merge, nor redirect, nor climb."""
    draw = random.Random(7)
    keys = {b"a", b"/a", b"a/", b"//a", b"a//b", b"a/b", b"..", b"../a", b"./a", b"a%2Fb", b"\0", b"\xff\xfe", b"a b"}
    keys |= {"ключ".encode(), b"?", b"#", b"a?b", b"+", b"-", b"%"}
    keys |= {bytes(draw.choices(b"/.%\0a\xff+", k=draw.randint(1, 6))) for _ in range(300)}
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)

    def ask(method: str, key: bytes, body: bytes | None = None) -> tuple[int, bytes]:
        connection.request(method, "/v1/kv/" + quote(key, safe="/."), body)
        response = connection.getresponse()
        return response.status, response.read()

    for key in sorted(keys):
        assert ask("PUT", key, b"<" + key + b">") == (204, b"")
    for key in sorted(keys):
        assert ask("GET", key) == (200, b"<" + key + b">")
    connection.close()


def test_the_longest_key_and_the_largest_value_are_kept(proxy: Daemon) -> None:
    value = b"v" * (1 << 20)
    assert call("PUT", f"{proxy.url}/v1/kv/{'k' * 1024}", value).status == 204
    assert call("GET", f"{proxy.url}/v1/kv/{'k' * 1024}").body == value


def test_a_value_that_is_no_text_cannot_come_as_json(proxy: Daemon) -> None:
    call("PUT", f"{proxy.url}/v1/kv/binary", b"\xff\x00")
    assert get(proxy, "binary").status == 406


def test_names_are_taken_in_any_case_and_unknown_fields_ignored(proxy: Daemon) -> None:
    for number, body in enumerate((b'{"key": "case", "value": "%d"}', b'{"KEY": "case", "vALUE": "%d", "more": [1]}')):
        assert call("PUT", f"{proxy.url}/PUT", body % number).status == 200
        assert call("POST", f"{proxy.url}/GET", b'{"kEY": "case"}').json() == str(number)


def test_clients_that_cannot_send_a_body_with_get_have_other_ways(proxy: Daemon) -> None:
    put(proxy, "waysé", "many")
    quoted = quote("waysé")
    assert call("GET", f"{proxy.url}/GET?Key={quoted}").body == b'"many"'
    assert call("GET", f"{proxy.url}/GET?key={quoted}").body == b'"many"'
    assert call("QUERY", f"{proxy.url}/GET", json.dumps({"Key": "waysé"}).encode()).body == b'"many"'


def test_a_node_serves_the_one_replica_that_it_holds(farm: Farm, proxy: Daemon) -> None:
    put(proxy, "replicated", "thrice", "?consistency=all")
    for node in farm.nodes:
        assert get(node, "replicated").body == b'"thrice"'
    assert put(farm.nodes[0], "replicated", "alone").status == 200
    assert get(farm.nodes[0], "replicated").body == b'"alone"'
    # A write of level one: a strong read may miss it until one that asks that owner has spread it.
    assert get(proxy, "replicated", "?consistency=all").body == b'"alone"'
    assert get(proxy, "replicated").body == b'"alone"'


def test_the_cluster_describes_itself(farm: Farm, proxy: Daemon) -> None:
    described = call("GET", f"{proxy.url}/v1/cluster").json()
    assert (described["replicas"], described["consistency"], described["change"]) == (3, "strong", None)
    assert [member["url"] for member in described["members"]] == [node.url for node in farm.nodes]
    for member in described["members"]:
        stays = {"id", "url", "weight", "zone", "state", "owned", "keys", "bytes", "hints"}
        of_node = {"epoch", "marks", "version", "engine", "sync", "uptime_s", "free_bytes", "clock_ahead_s"}
        assert set(member) == {*stays, *of_node, "error", "round_trip_ms"}
        assert member["state"] == "up"
    assert sum(member["owned"] for member in described["members"]) == pytest.approx(1, abs=1e-4)


def test_a_member_added_again_gets_its_new_weight_and_its_data_moves(proxy: Daemon, farm: Farm) -> None:
    body = json.dumps({"url": farm.nodes[0].url, "weight": 2, "zone": "z1"}).encode()
    assert call("POST", f"{proxy.url}/v1/cluster/nodes", body).json()["weight"] == 2

    def taken() -> bool:
        member = call("GET", f"{proxy.url}/v1/cluster").json()["members"][0]
        return (member["weight"], member["zone"]) == (2, "z1")

    wait_until(taken, "the change of the ring")


def test_locate_names_hash_position_slot_and_owners(proxy: Daemon) -> None:
    located = call("GET", f"{proxy.url}/v1/ring/locate?key=language").json()
    plain = 0x811C9DC5
    for byte in b"language":
        plain = (plain ^ byte) * 0x01000193 & 0xFFFFFFFF
    assert located["hash"] == plain
    assert located["slot"] == located["position"] >> 16
    assert len({owner["id"] for owner in located["owners"]}) == 3
    assert {owner["state"] for owner in located["owners"]} == {"up"}
    assert call("GET", f"{proxy.url}/v1/ring/locate").status == 400


def test_health_and_metrics_speak(farm: Farm, proxy: Daemon) -> None:
    put(proxy, "counted", "v")
    for daemon in (proxy, *farm.nodes):
        assert call("GET", f"{daemon.url}/health/live").status == 200
        assert call("GET", f"{daemon.url}/health/ready").json() == {"status": "ok", "troubles": []}
    metrics = call("GET", f"{proxy.url}/metrics").body.decode()
    assert re.search(r'kv_batch_operations_count\{lane="write",node="n-[0-9a-f]{8}"\} [1-9]', metrics)
    assert re.search(r'kv_operations_total\{kind="write",level="strong",outcome="ok"\} [1-9]', metrics)
    assert re.search(r"kv_node_batch_operations_count [1-9]", call("GET", f"{farm.nodes[0].url}/metrics").body.decode())


def test_a_proxy_without_nodes_says_how_to_add_one(tmp_path_factory: pytest.TempPathFactory) -> None:
    with farming(tmp_path_factory.mktemp("empty")) as farm:
        proxy = farm.proxy()
        refused = put(proxy, "a", "v")
        assert (refused.status, refused.json()["type"]) == (503, "no-nodes")
        assert "AddServer" in refused.json()["hint"]
        assert call("GET", f"{proxy.url}/health/ready").status == 503
        assert call("GET", f"{proxy.url}/v1/ring/locate?key=a").status == 503
        assert call("POST", f"{proxy.url}/v1/cluster/accept-loss").status == 409


# Conditions.


def stored(proxy: Daemon, key: str, value: bytes = b"v") -> str:
    """Put a value and give its ETag."""
    etag: str = call("PUT", f"{proxy.url}/v1/kv/{key}", value).headers["ETag"]
    return etag


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_client_that_has_the_version_is_told_so_without_the_value(proxy: Daemon, method: str) -> None:
    url, etag = f"{proxy.url}/v1/kv/cached", stored(proxy, "cached")
    for tags in (etag, f"W/{etag}", f'"0", {etag}', "*"):
        got = call(method, url, **{"If-None-Match": tags})
        assert (got.status, got.body, got.headers["ETag"]) == (304, b"", etag)
    assert call(method, url, **{"If-None-Match": '"0"'}).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_read_whose_if_match_fails_is_412(proxy: Daemon, method: str) -> None:
    url, etag = f"{proxy.url}/v1/kv/matched", stored(proxy, "matched")
    for tags in (etag, "*", f'"0",{etag}'):
        assert call(method, url, **{"If-Match": tags}).status == 200
    for tags in ('"0"', f"W/{etag}"):
        got = call(method, url, **{"If-Match": tags})
        assert got.status == 412
        assert method == "HEAD" or got.json()["etag"] == etag.strip('"')
    absent = f"{proxy.url}/v1/kv/never-matched"
    assert call(method, absent, **{"If-Match": "*"}).status == 412
    assert call(method, absent, **{"If-None-Match": "*"}).status == 404


def test_a_put_with_if_none_match_makes_a_key_once(proxy: Daemon) -> None:
    url, once = f"{proxy.url}/v1/kv/once", {"If-None-Match": "*"}
    made = call("PUT", url, b"1", **once)
    again = call("PUT", url, b"2", **once)
    assert (made.status, again.status, again.json()["type"]) == (204, 412, "precondition-failed")
    assert f'"{again.json()["etag"]}"' == made.headers["ETag"]
    assert call("GET", url).body == b"1"
    call("DELETE", url)
    assert call("PUT", url, b"3", **once).status == 204


def test_a_put_with_if_match_replaces_only_that_version(proxy: Daemon) -> None:
    url, first = f"{proxy.url}/v1/kv/swapped", stored(proxy, "swapped")
    second = call("PUT", url, b"2", **{"If-Match": first, "Content-Type": "text/plain"})
    assert (second.status, second.body) == (204, b"")
    assert second.headers["ETag"] != first
    assert call("PUT", url, b"3", **{"If-Match": first}).status == 412
    got = call("GET", url)
    assert (got.body, got.headers["Content-Type"], got.headers["ETag"]) == (b"2", "text/plain", second.headers["ETag"])


def test_tags_in_several_header_lines_count_as_one_list(proxy: Daemon) -> None:
    held = call("PUT", f"{proxy.url}/v1/kv/lines", b"1").headers["ETag"]
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=15)
    for name, tags, status in (
        ("If-Match", ['"other"', held], 200),
        ("If-Match", [held, '"other"'], 200),
        ("If-Match", ['"other"', '"another"'], 412),
        ("If-None-Match", ['"other"', held], 304),
        ("If-None-Match", ['"other"', '"another"'], 200),
        ("If-None-Match", ['"other"', "no tag"], 400),
    ):
        connection.putrequest("GET", "/v1/kv/lines")
        for tag in tags:
            connection.putheader(name, tag)
        connection.endheaders()
        answer = connection.getresponse()
        answer.read()
        assert (name, tags, answer.status) == (name, tags, status)
    connection.close()


def test_a_delete_with_if_match_deletes_only_that_version(proxy: Daemon) -> None:
    url, first = f"{proxy.url}/v1/kv/deleted-if", stored(proxy, "deleted-if")
    second = stored(proxy, "deleted-if")
    assert call("DELETE", url, **{"If-Match": first}).status == 412
    gone = call("DELETE", url, **{"If-Match": second})
    assert (gone.status, gone.headers["ETag"]) == (204, None)
    assert call("DELETE", url, **{"If-Match": second}).status == 412
    assert call("GET", url).status == 404


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_condition_that_is_no_list_of_etags_is_refused(proxy: Daemon, method: str) -> None:
    url = f"{proxy.url}/v1/kv/conditions"
    for name in ("If-Match", "If-None-Match"):
        got = call(method, url, b"v" if method == "PUT" else None, **{name: "unquoted"})
        assert (got.status, got.json()["type"]) == (400, "bad-parameter")


# Time.


def test_a_value_with_a_ttl_is_there_and_then_is_not(proxy: Daemon) -> None:
    url = f"{proxy.url}/v1/kv/brief"
    assert call("PUT", f"{url}?ttl=5", b"v").status == 204
    assert call("GET", url).body == b"v"
    for level in ("strong", "all", "one"):
        wait_until(lambda: call("GET", f"{url}?consistency={level}").status == 404, "it to expire")  # noqa: B023
    assert call("PUT", url, b"again", **{"If-None-Match": "*"}).status == 204
    assert call("GET", url).body == b"again"


def test_whoever_writes_or_reads_a_value_that_expires_is_told_when(proxy: Daemon) -> None:
    url = f"{proxy.url}/v1/kv/told"
    before_ms = time.time() * 1000
    put = call("PUT", f"{url}?ttl=3600", b"v")
    expires_ms = put.headers["KV-Expires-Ms"]
    assert before_ms + 3_599_000 < int(expires_ms) < time.time() * 1000 + 3_601_000
    for level in ("strong", "all", "one"):
        for method in ("GET", "HEAD"):
            assert call(method, f"{url}?consistency={level}").headers["KV-Expires-Ms"] == expires_ms
    same = call("GET", url, **{"If-None-Match": put.headers["ETag"]})
    assert (same.status, same.headers["KV-Expires-Ms"]) == (304, expires_ms)
    for answer in (call("PUT", url, b"v"), call("GET", url), call("DELETE", url)):
        assert "KV-Expires-Ms" not in answer.headers


def test_a_put_without_a_ttl_ends_the_one_before(proxy: Daemon) -> None:
    url = f"{proxy.url}/v1/kv/lasting"
    call("PUT", f"{url}?ttl=0.3", b"brief")
    call("PUT", f"{proxy.url}/v1/kv/lasting-not?ttl=0.3", b"brief")
    call("PUT", url, b"lasting")
    wait_until(lambda: call("GET", f"{url}-not").status == 404, "the other one to expire")
    assert call("GET", url).body == b"lasting"


@pytest.mark.parametrize("given", ["0", "-1", "x", "", "nan", "inf", "1e99", "1&{}=1"])
@pytest.mark.parametrize("name", ["ttl", "timeout"])
def test_bad_times_are_refused_and_nothing_is_written(proxy: Daemon, name: str, given: str) -> None:
    url = f"{proxy.url}/v1/kv/bad-times"
    got = call("PUT", f"{url}?{name}={given.format(name)}", b"v")
    assert (got.status, got.json()["type"]) == (400, "bad-parameter")
    assert call("GET", url).status == 404


def test_only_a_put_takes_a_ttl(proxy: Daemon) -> None:
    for method in ("GET", "HEAD", "DELETE"):
        assert call(method, f"{proxy.url}/v1/kv/any?ttl=1", None).status == 400


def test_every_call_takes_a_timeout(proxy: Daemon) -> None:
    url = f"{proxy.url}/v1/kv/patient?timeout=59.5"
    answers = [
        call("PUT", url, b"v"),
        call("GET", url),
        call("PUT", url, b"w", **{"If-Match": "*"}),
        call("DELETE", url),
    ]
    assert [got.status for got in answers] == [204, 200, 204, 204]
    assert call("GET", f"{proxy.url}/v1/kv/patient?timeout=61").status == 400


@pytest.mark.parametrize("key", ["headed", "never-headed"])
def test_head_sends_no_body_on_the_wire(proxy: Daemon, key: str) -> None:
    call("PUT", f"{proxy.url}/v1/kv/headed", b"12345")
    connection = http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=10)
    for _ in range(2):
        # Bytes of a body would be taken for the beginning of the second answer.
        connection.request("HEAD", f"/v1/kv/{key}")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200 if key == "headed" else 404, b"")
    connection.request("GET", "/v1/kv/headed")
    assert connection.getresponse().read() == b"12345"
    connection.close()
