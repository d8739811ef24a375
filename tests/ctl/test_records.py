"""Records are stored in their order, whatever is refused for a moment; and those come back that were ever taken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest

from tests.ctl.fakes import FakeProxy
from twisted_kv.ctl.client import Client, place_of
from twisted_kv.ctl.records import EXPIRES_MS_MAX, TTL_S_MAX, bulk, put_of

NOW_MS = 1_000_000


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twisted_kv.ctl.records.FIRST_PAUSE_S", 0)


@pytest.fixture
def client(proxy: FakeProxy) -> Iterator[Client]:
    made = Client(place_of(proxy.url))
    yield made
    made.end()


def puts(*pairs: tuple[bytes, bytes]) -> list[dict[str, Any]]:
    return [{"op": "put", "key": key, "value": value} for key, value in pairs]


def test_the_last_of_several_records_of_one_key_wins_if_the_first_was_refused_for_a_moment(
    proxy: FakeProxy, client: Client
) -> None:
    held: dict[bytes, bytes] = {}
    refusals = [True]

    def answer(body: bytes) -> tuple[int, bytes]:
        answers = []
        for put in msgspec.msgpack.decode(body):
            if put["value"] == b"first" and refusals:
                refusals.pop()
                answers.append({"status": 503, "problem": {}})
                continue
            held[put["key"]] = put["value"]
            answers.append({"status": 204})
        return 200, msgspec.msgpack.encode(answers)

    proxy.replies["POST", "/v1/bulk"] = answer
    told = bulk(client, puts((b"k", b"first"), (b"other", b"x"), (b"k", b"last")))
    assert held == {b"k": b"last", b"other": b"x"}
    assert [one["status"] for one in told] == [204, 204, 204]
    assert len(msgspec.msgpack.decode(proxy.asked[1][3])) == 2, "what was stored, and nothing came before, is not again"


def test_what_a_proxy_finds_too_large_is_sent_in_parts_and_a_single_value_as_it_is(
    proxy: FakeProxy, client: Client
) -> None:
    held: dict[bytes, bytes] = {}

    def answer(body: bytes) -> tuple[int, bytes]:
        if len(body) > 1_000:
            return 413, b"{}"
        operations = msgspec.msgpack.decode(body)
        held.update({put["key"]: put["value"] for put in operations})
        return 200, msgspec.msgpack.encode([{"status": 204}] * len(operations))

    proxy.replies["POST", "/v1/bulk"] = answer
    proxy.give("PUT", "/v1/kv/big%2Fone", b"", 204)
    wanted = puts((b"a", b"a" * 400), (b"b", b"b" * 400), (b"big/one", b"x" * 1_000), (b"c", b"c" * 400))
    wanted[2] |= {"ttl": 60.5, "expires_ms": NOW_MS, "content_type": "text/plain"}
    told = bulk(client, wanted, "?consistency=all")
    assert [one["status"] for one in told] == [204] * 4
    assert held == {name: name * 400 for name in (b"a", b"b", b"c")}
    (alone,) = [asked for asked in proxy.asked if asked[0] == "PUT"]
    assert unquote(alone[1]) == "/v1/kv/big/one?consistency=all&ttl=60.5"
    assert (alone[2]["Content-Type"], alone[3]) == ("text/plain", b"x" * 1_000)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"key":"a","value":"b","expires_ms":99999999999999999999999}', "expires_ms"),
        (b'{"key":"a","value":"b","expires_ms":0}', "expires_ms"),
        (b'{"key":"a","value":"b","ttl":5}', "ttl"),
        (b'{"key":"a","value":"b","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
        (b'{"key":"a","value":"\\ud800"}', "truncated"),
        (b'{"key":"a","value_b64":"AA"}', "base64"),
        (b"[]", "object"),
        (b'{"key":"a","value":"\xff"}', "(?i)utf-8"),
    ],
)
def test_a_line_that_is_none_says_why(line: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        put_of(line, NOW_MS)


def test_an_expiry_is_told_to_the_millisecond_and_as_a_time_to_live_that_every_proxy_takes() -> None:
    put = put_of(b'{"key":"a","value":"","expires_ms":%d}' % EXPIRES_MS_MAX, NOW_MS)
    assert put is not None
    assert (put["expires_ms"], put["ttl"]) == (EXPIRES_MS_MAX, TTL_S_MAX)
    assert put_of(b'{"key":"a","value":"","expires_ms":%d}' % NOW_MS, NOW_MS) is None
