"""``/v1/bulk`` on real daemons: a line in and a line out for each, in the same order."""

from __future__ import annotations

import json
import random
import re
from base64 import b64encode
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import msgspec
import pytest

from tests.sockets.daemons import Daemon, Farm, Got, call, farming, put, wait_until

MSGPACK = "application/msgpack"


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with farming(tmp_path_factory.mktemp("farm")) as built:
        built.cluster(3)
        yield built


@pytest.fixture
def proxy(farm: Farm) -> Daemon:
    return farm.proxies[0]


def send(proxy: Daemon, body: bytes, query: str = "", **headers: str) -> Got:
    return call("POST", f"{proxy.url}/v1/bulk{query}", body, **headers)


def bulk(proxy: Daemon, *lines: dict[str, Any], query: str = "") -> list[dict[str, Any]]:
    got = send(proxy, b"".join(json.dumps(line).encode() + b"\n" for line in lines), query)
    assert (got.status, got.headers["Content-Type"]) == (200, "application/x-ndjson")
    return [json.loads(line) for line in got.body.splitlines()]


def packed(proxy: Daemon, *maps: dict[str, Any]) -> list[dict[str, Any]]:
    got = send(proxy, msgspec.msgpack.encode(maps), **{"Content-Type": MSGPACK})
    assert (got.status, got.headers["Content-Type"]) == (200, MSGPACK)
    answers: list[dict[str, Any]] = msgspec.msgpack.decode(got.body)
    return answers


def test_each_line_is_answered_in_its_place(proxy: Daemon) -> None:
    puts = [{"op": "put", "key": f"order-{n}", "value": str(n)} for n in range(1_000)]
    gets = [{"op": "get", "key": f"order-{n}"} for n in range(1_000)]
    written, read = bulk(proxy, *puts), bulk(proxy, *reversed(gets))
    assert [answer["key"] for answer in written] == [line["key"] for line in puts]
    assert {answer["status"] for answer in written} == {204}
    assert [answer["value"] for answer in read] == [str(n) for n in reversed(range(1_000))]
    assert [answer["etag"] for answer in reversed(read)] == [answer["etag"] for answer in written]


@pytest.mark.parametrize("level", ["strong", "all"])
def test_operations_on_one_key_take_effect_in_the_order_of_their_lines(proxy: Daemon, level: str) -> None:
    draw = random.Random(3)
    model: dict[str, str] = {}
    lines, expected = [], []
    for number in range(1_500):
        key, op = f"{level}-{draw.randrange(4)}", draw.choice(["get", "put", "put", "delete", "absent", "present"])
        line = {"op": op if op in ("get", "delete") else "put", "key": key}
        if line["op"] == "put":
            line["value"] = f"v{number}"
        if op == "get":
            expected.append((200, model[key]) if key in model else (404, None))
        elif op == "delete":
            model.pop(key, None)
            expected.append((204, None))
        elif (op == "absent" and key in model) or (op == "present" and key not in model):
            expected.append((412, None))
        else:
            model[key] = line["value"]
            expected.append((204, None))
        if op in ("absent", "present"):
            line["if_none_match" if op == "absent" else "if_match"] = "*"
        lines.append(line)
    answers = bulk(proxy, *lines, query=f"?consistency={level}")
    assert [(answer["status"], answer.get("value")) for answer in answers] == expected


@pytest.mark.parametrize(
    ("line", "slug"),
    [
        (b"nonsense", "malformed-body"),
        (b"[]", "malformed-body"),
        (b'{"key": "a"}', "malformed-body"),
        (b'{"op": "get", "key": 7}', "malformed-body"),
        (b'{"op": "get", "key": "\xff"}', "malformed-body"),
        (b'{"op": "get", "key": "\\ud800"}', "malformed-body"),
        (b"[" * 5_000, "malformed-body"),
        (b'{"op": "move", "key": "a"}', "bad-parameter"),
        (b'{"op": "get"}', "bad-parameter"),
        (b'{"op": "get", "key": "a", "key_b64": "YQ=="}', "bad-parameter"),
        (b'{"op": "get", "key_b64": "!"}', "bad-parameter"),
        (b'{"op": "get", "key": ""}', "malformed-key"),
        (b'{"op": "put", "key": "a"}', "bad-parameter"),
        (b'{"op": "put", "key": "a", "value": "v", "ttl": 0}', "bad-parameter"),
        (b'{"op": "put", "key": "a", "value": "v", "ttl": 1e99}', "bad-parameter"),
        (b'{"op": "put", "key": "a", "value": "v", "if_match": "\\"x"}', "bad-parameter"),
        (b'{"op": "get", "key": "%b"}' % (b"k" * 1025), "malformed-key"),
    ],
)
def test_a_line_that_is_wrong_is_answered_by_itself(proxy: Daemon, line: bytes, slug: str) -> None:
    good = b'{"op": "put", "key": "good", "value": "v"}'
    got = send(proxy, b"\n".join((good, line, good)))
    first, wrong, last = map(json.loads, got.body.splitlines())
    assert (first["status"], last["status"]) == (204, 204)
    assert (wrong["status"], wrong["problem"]["type"]) == (400, slug)


def test_a_value_that_is_too_large_is_its_lines_own_413(proxy: Daemon) -> None:
    large, small = bulk(
        proxy,
        {"op": "put", "key": "large", "value": "v" * ((1 << 20) + 1)},
        {"op": "put", "key": "small", "value": "v" * (1 << 20)},
    )
    assert (large["status"], large["problem"]["type"], small["status"]) == (413, "value-too-large", 204)


def test_keys_and_values_of_any_bytes_go_as_base64(proxy: Daemon) -> None:
    key, value = b64encode(b"\xff\0/").decode(), b64encode(bytes(range(256))).decode()
    _, got = bulk(proxy, {"op": "put", "key_b64": key, "value_b64": value}, {"op": "get", "key_b64": key})
    assert (got["status"], got["key_b64"], got["value_b64"]) == (200, key, value)
    assert "key" not in got
    (text,) = bulk(proxy, {"op": "get", "key_b64": b64encode(b"none").decode()})
    assert (text["status"], text["key"], text["problem"]["type"]) == (404, "none", "key-absent")


def test_a_ttl_ends_a_value(proxy: Daemon) -> None:
    bulk(proxy, {"op": "put", "key": "brief", "value": "v", "ttl": 0.3}, {"op": "put", "key": "kept", "value": "v"})
    wait_until(lambda: bulk(proxy, {"op": "get", "key": "brief"})[0]["status"] == 404, "it to expire", 5)
    assert bulk(proxy, {"op": "get", "key": "kept"})[0]["status"] == 200


@pytest.mark.parametrize("form", ["{}", '"{}"', '"00", "{}"'])
def test_conditions_take_etags_as_answers_show_them_and_as_headers_do(proxy: Daemon, form: str) -> None:
    (stored,) = bulk(proxy, {"op": "put", "key": "conditional", "value": "1"})
    tag = form.format(stored["etag"])
    changed, stale = bulk(
        proxy,
        {"op": "put", "key": "conditional", "value": "2", "if_match": tag},
        {"op": "delete", "key": "conditional", "if_match": tag},
    )
    assert (changed["status"], stale["status"], stale["problem"]["type"]) == (204, 412, "precondition-failed")
    assert stale["problem"]["etag"] == changed["etag"]
    (gone,) = bulk(proxy, {"op": "delete", "key": "conditional", "if_match": changed["etag"]})
    assert gone == {"key": "conditional", "status": 204}


@pytest.mark.parametrize("body", [b"", b"\n", b" \n\r\n\n"])
def test_a_body_without_lines_is_answered_by_none(proxy: Daemon, body: bytes) -> None:
    got = send(proxy, body)
    assert (got.status, got.body) == (200, b"")


def test_blank_lines_are_passed_over_and_the_last_newline_may_be_missing(proxy: Daemon) -> None:
    line = b'{"op": "put", "key": "blank", "value": "v"}'
    got = send(proxy, b"\n\n" + line + b"\r\n\n \n" + line)
    assert [json.loads(answer)["status"] for answer in got.body.splitlines()] == [204, 204]


def test_a_body_beyond_the_limit_is_refused_as_a_whole(proxy: Daemon) -> None:
    line = b'{"op": "put", "key": "beyond", "value": "%b"}\n' % (b"v" * 1_000)
    got = send(proxy, line * 9_000)
    assert (got.status, got.json()["type"]) == (413, "body-too-large")
    assert bulk(proxy, {"op": "get", "key": "beyond"})[0]["status"] == 404


def test_parameters_that_do_not_exist_are_refused(proxy: Daemon) -> None:
    for query in ("?ttl=1", "?consistency=most", "?timeout=0", "?timeout=1&timeout=2"):
        got = send(proxy, b"", query)
        assert (got.status, got.json()["type"]) == (400, "bad-parameter")


def test_msgpack_takes_and_gives_bytes_as_they_are(proxy: Daemon) -> None:
    key, value = b"\xff\0packed", bytes(range(256)) * 300
    stored, got, gone, absent = packed(
        proxy,
        {"op": "put", "key": key, "value": value},
        {"op": "get", "key": key},
        {"op": "delete", "key": key},
        {"op": "get", "key": key},
    )
    assert (stored["status"], stored["key"]) == (204, key)
    assert (got["status"], got["value"], got["etag"]) == (200, value, stored["etag"])
    assert (gone["status"], absent["status"]) == (204, 404)


def test_msgpack_elements_that_are_wrong_are_answered_by_themselves(proxy: Daemon) -> None:
    body = msgspec.msgpack.encode([7, {"op": "get", "key": 7}, {"op": "put", "key": "p", "value": 1}, {"op": "get"}])
    got = send(proxy, body, **{"Content-Type": MSGPACK})
    assert [answer["status"] for answer in msgspec.msgpack.decode(got.body)] == [400] * 4


def test_an_empty_msgpack_array_is_answered_by_one(proxy: Daemon) -> None:
    assert packed(proxy) == []


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\x81", b"\x90\x90", b"\x91" * 5_000])
def test_what_is_no_msgpack_array_is_refused_as_a_whole(proxy: Daemon, body: bytes) -> None:
    got = send(proxy, body, **{"Content-Type": MSGPACK})
    assert (got.status, got.json()["type"]) == (400, "malformed-body")


def test_many_operations_that_fail_on_one_key_each_say_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    with farming(tmp_path_factory.mktemp("down")) as farm:
        proxy = farm.cluster(3)
        for node in farm.nodes[:2]:
            node.kill()
        answers = bulk(proxy, *[{"op": "put", "key": "one", "value": "v"}] * 600, query="?timeout=2")
        assert len(answers) == 600
        assert {answer["status"] for answer in answers} <= {503, 504}


def test_a_client_that_reads_slowly_is_waited_for_and_one_that_goes_is_not(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    value, count = "v" * 65_536, 1_500
    with farming(tmp_path_factory.mktemp("slow")) as farm:
        proxy = farm.cluster(3)
        put(proxy, "large", value)
        body = b'{"op":"get","key":"large"}\n' * count

        def reads() -> float:
            text = call("GET", f"{proxy.url}/metrics").body.decode()
            lines = re.findall(r'^kv_operations_total\{.*kind="read".*outcome="ok".*\} (\S+)$', text, re.MULTILINE)
            return sum(map(float, lines))

        def at_rest() -> bool:
            """Whether no further value is fetched: two looks, with a thousand other calls' time between."""
            before = reads()
            for _ in range(100):
                put(proxy, "other", "v")
            return before == reads() > 0

        for goes in (True, False):
            begun = reads()
            client = HTTPConnection("127.0.0.1", proxy.port, timeout=30)
            client.request("POST", "/v1/bulk", body)
            answer = client.getresponse()
            wait_until(at_rest, "the proxy to wait for its client")
            assert reads() - begun < count
            if goes:
                client.sock.close()
                answer.close()
                wait_until(at_rest, "the proxy to be done with a client that went")
                assert reads() - begun < count
            else:
                lines = answer.read().splitlines()
                assert len(lines) == count
                assert {json.loads(line)["status"] for line in lines} == {200}
                assert reads() - begun == count
            client.close()
