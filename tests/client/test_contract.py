"""What a client does, on a real cluster: the same suite for each of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import pytest_twisted
from twisted.web.client import Agent

from tests.client.both import MAKES, Make, reactor, using
from tests.sockets.daemons import Farm, Silent, call, farming, free_port, token_file, wait_until
from tests.sockets.test_tls import Pem
from twisted_kv.client import (
    BlockingClient,
    Client,
    Delete,
    Get,
    KvError,
    MaybeApplied,
    NobodyAnswers,
    NotACounter,
    PreconditionFailed,
    Put,
    TokenMissing,
    Value,
    Written,
)
from twisted_kv.errors import BadConfig, BadParameter, MalformedKey, TokenTooWeak, ValueTooLarge

pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")

NUMBERS = count()
READER, WRITER = "r" * 40, "w" * 40


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with farming(tmp_path_factory.mktemp("farm")) as built:
        built.cluster(3, "--engine", "memory")
        built.proxy()
        yield built


@pytest.fixture
def servers(farm: Farm) -> list[str]:
    return [proxy.url for proxy in farm.proxies]


@pytest.fixture(params=MAKES)
def make(request: pytest.FixtureRequest) -> Make:
    return MAKES[request.param]


@pytest.fixture
def key() -> str:
    return f"key-{next(NUMBERS)}"


@pytest_twisted.ensureDeferred
async def test_what_is_put_is_there_until_it_is_deleted(make: Make, servers: list[str], key: str) -> None:
    async with using(make, servers) as kv:
        assert await kv.get(key) is None
        written = await kv.put(key, b"\x00\xff", content_type="image/png")
        assert written.owners == 3
        assert await kv.get(key) == Value(b"\x00\xff", written.etag or "", "image/png")
        assert (await kv.delete(key)).etag is None
        assert await kv.get(key) is None
        assert (await kv.delete(key)).owners == 3


@pytest_twisted.ensureDeferred
async def test_text_is_utf8_and_says_so(make: Make, servers: list[str], key: str) -> None:
    async with using(make, servers) as kv:
        await kv.put(key, "schön")
        found = await kv.get(key)
        assert found is not None
        assert (found.text, found.content_type) == ("schön", "text/plain; charset=utf-8")
        await kv.put(key, "")
        assert (await kv.get(key) or found).value == b""


@pytest_twisted.ensureDeferred
async def test_keys_are_any_bytes(make: Make, servers: list[str], key: str) -> None:
    keys = [b"\x00", b"\xff/ .%?#&+", ".", "..", "a/../b", "//", "ü", "%2F", b"\r\n", b"x" * 1024, bytes(range(256))]
    async with using(make, servers) as kv:
        for name in keys:
            written = await kv.put(name, repr(name))
            assert (await kv.get(name) or Value(b"", "")).etag == written.etag
        found = await kv.scan()
        assert {name.encode() if isinstance(name, str) else name for name in keys} <= set(found)
        for name in keys:
            await kv.delete(name)


@pytest_twisted.ensureDeferred
async def test_levels_are_handed_on(make: Make, servers: list[str], key: str) -> None:
    async with using(make, servers) as kv:
        assert await kv.put(key, "v", consistency="all")
        written = await kv.put(key, "w", consistency="all")
        assert written.acks == 3
        assert (await kv.get(key, consistency="one") or Value(b"", "")).value == b"w"
        with pytest.raises(BadParameter):
            await kv.get(key, consistency="most & more")


@pytest_twisted.ensureDeferred
async def test_a_value_lives_as_long_as_it_was_told(make: Make, servers: list[str], key: str) -> None:
    async with using(make, servers) as kv:
        await kv.put(key, "v", ttl=3600)
        ((found),) = await kv.bulk([Get(key)])
        assert isinstance(found, Value)
        assert found.expires_ms
        assert await kv.get(key) == found
        await kv.put(key, "v", ttl=0.001)
        wait_until(lambda: call("GET", f"{servers[0]}/v1/kv/{key}").status == 404, "the value to expire")
        assert await kv.get(key) is None


@pytest_twisted.ensureDeferred
async def test_cas_goes_by_versions(make: Make, servers: list[str], key: str) -> None:
    async with using(make, servers) as kv:
        first = await kv.cas(key, "1", None)
        with pytest.raises(PreconditionFailed) as refused:
            await kv.cas(key, "2", None)
        assert refused.value.etag == first.etag
        second = await kv.cas(key, "2", first.etag, ttl=3600, content_type="a/b")
        with pytest.raises(PreconditionFailed):
            await kv.cas(key, "3", first.etag)
        found = await kv.get(key)
        assert found
        assert found.expires_ms
        assert found == Value(b"2", second.etag or "", "a/b", found.expires_ms)
        await kv.cas(key, None, second.etag)
        assert await kv.get(key) is None
        with pytest.raises(PreconditionFailed) as gone:
            await kv.cas(key, None, second.etag)
        assert gone.value.etag is None


@pytest_twisted.ensureDeferred
async def test_many_count_together(make: Make, servers: list[str], key: str) -> None:
    async with using(make, servers) as kv, using(make, servers[::-1]) as other:
        counting = [one.increment(key) for one in (kv, other) * 10]
        sums, in_doubt = [], 0
        for one in counting:
            try:
                sums.append(await one)
            except MaybeApplied:
                in_doubt += 1  # two proxies came between one another
        total = int((await kv.get(key) or Value(b"", "")).value)
        assert len(set(sums)) == len(sums) >= 10
        assert len(sums) <= total <= len(sums) + in_doubt
        assert await kv.increment(key, -30) == total - 30
        await kv.put(key, "no number")
        with pytest.raises(NotACounter):
            await kv.increment(key)


@pytest_twisted.ensureDeferred
async def test_a_counter_keeps_its_expiry(make: Make, servers: list[str], key: str) -> None:
    async with using(make, servers) as kv:
        await kv.increment(key, ttl=3600)
        (first,) = await kv.bulk([Get(key)])
        await kv.increment(key, ttl=5)
        (second,) = await kv.bulk([Get(key)])
        assert isinstance(first, Value)
        assert isinstance(second, Value)
        assert first.expires_ms
        assert (second.value, second.expires_ms) == (b"2", first.expires_ms)


@pytest_twisted.ensureDeferred
async def test_bulk_does_thousands_in_order(make: Make, servers: list[str], key: str) -> None:
    async with using(make, servers) as kv:
        results = await kv.bulk(Put(f"{key}/{number:04}", b"\xff" * (number % 50)) for number in range(2_500))
        assert {type(result) for result in results} == {Written}
        values = await kv.bulk(Get(f"{key}/{number:04}") for number in range(2_501))
        assert [value and value.value for value in values] == [  # type: ignore[union-attr]
            b"\xff" * (number % 50) for number in range(2_500)
        ] + [None]
        assert await kv.scan(f"{key}/", page=700) == [f"{key}/{number:04}".encode() for number in range(2_500)]
        assert {type(one) for one in await kv.bulk(Delete(f"{key}/{number:04}") for number in range(2_500))} == {
            Written
        }
        assert await kv.scan(f"{key}/") == []


@pytest_twisted.ensureDeferred
async def test_a_bad_line_of_bulk_leaves_the_others_alone(make: Make, servers: list[str], key: str) -> None:
    async with using(make, servers) as kv:
        given = [Put("", "v"), Put(key, "1"), Put(key, "2", if_absent=True), Put(key, "x" * (2 << 20)), Get(key)]
        results = await kv.bulk(given)
        assert [type(result) for result in results] == [MalformedKey, Written, PreconditionFailed, ValueTooLarge, Value]
        assert await kv.bulk([]) == []


@pytest_twisted.ensureDeferred
async def test_values_of_the_largest_size_go_both_ways(make: Make, servers: list[str], key: str) -> None:
    value = bytes(range(256)) * 4096
    async with using(make, servers) as kv:
        await kv.put(key, value)
        assert (await kv.get(key) or Value(b"", "")).value == value
        results = await kv.bulk(
            [*(Put(f"{key}/{n}", value) for n in range(10)), *(Get(f"{key}/{n}") for n in range(10))]
        )
        assert [result.value for result in results[10:]] == [value] * 10  # type: ignore[union-attr]
        with pytest.raises(ValueTooLarge):
            await kv.put(key, value + b"x")


@pytest_twisted.ensureDeferred
async def test_a_closed_client_says_so(make: Make, servers: list[str], key: str) -> None:
    async with using(make, servers) as kv:
        await kv.get(key)
    with pytest.raises(RuntimeError, match="closed"):
        await kv.get(key)


@pytest_twisted.ensureDeferred
async def test_a_proxy_that_is_gone_is_passed_over(make: Make, servers: list[str], key: str) -> None:
    gone = [f"http://127.0.0.1:{free_port()}" for _ in range(3)]
    async with using(make, [*gone, servers[0]]) as kv:
        await kv.put(key, "v")
        assert await kv.increment(f"{key}n") == 1
        assert await kv.get(key)
    async with using(make, gone, timeout=3) as kv:
        for waiting in (kv.get(key), kv.put(key, "v"), kv.cas(key, "v", None), kv.increment(key), kv.scan()):
            with pytest.raises(NobodyAnswers) as caught:
                await waiting
            assert len(caught.value.tried) >= 3


# What a client is given.


@pytest.mark.parametrize("servers", ["ftp://h", "", [], "http://h/path", "a,,b"])
def test_what_is_no_server_is_refused(servers: str | list[str]) -> None:
    for make in (BlockingClient, lambda given: Client(reactor, given)):
        with pytest.raises(BadConfig):
            make(servers)


@pytest.mark.parametrize(
    "how",
    [
        {"token": "a b"},
        {"token": "a\r\nb"},
        {"token": "a" * 20, "token_file": "x"},
        {"token_file": "/nowhere/tokens"},
        {"tls_authority": "/nowhere/authority.pem"},
    ],
)
def test_what_cannot_be_used_is_refused(how: dict[str, str]) -> None:
    for make in (BlockingClient, lambda given, **how: Client(reactor, given, **how)):
        with pytest.raises((BadConfig, OSError)):
            make("https://localhost:1", **how)


def test_an_agent_goes_by_its_own_rules_of_tls() -> None:
    with pytest.raises(BadConfig, match="agent"):
        Client(reactor, "https://localhost:1", agent=Agent(reactor), tls_authority="authority.pem")


def test_several_servers_may_stand_in_one_string_and_twice() -> None:
    client = BlockingClient("a:1, b:2,a:1")
    assert {place.url for place in client._home.route.places} == {"http://a:1", "http://b:2"}


class Guarded:
    """A proxy that asks for certificates and tokens, and shows a certificate."""

    def __init__(self, folder: Path, node_url: str) -> None:
        self.server, self.client, self.stranger = (Pem(folder, name) for name in ("localhost", "client", "stranger"))
        self.readers = token_file(folder / "readers", f"read-only {READER}")
        self.writers = token_file(folder / "tokens", f"read-only {READER}", f"read-write {WRITER}")
        port = free_port()
        self.proxy = Silent(
            folder,
            "kvproxy",
            port,
            *("--listen", self.server.endpoint("mtls", port, f"clientCA={self.client.authority}")),
            *("--token-file", str(self.writers), "--nodes", node_url, "--replicas", "1"),
        )
        self.url = f"https://localhost:{port}"
        self.tls = {"tls_authority": self.server.authority, "tls_identity": self.client.both}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    with farming(folder) as farm:
        built = Guarded(folder, farm.node("--engine", "memory").url)
        farm.proxies.append(built.proxy)
        with BlockingClient(built.url, **built.tls, token=WRITER) as kv:
            kv.put("first", "v", timeout=60)  # the node has to be let in
        yield built


@pytest_twisted.ensureDeferred
async def test_tokens_and_certificates_are_shown(make: Make, guarded: Guarded, key: str) -> None:
    for token in ({"token": WRITER}, {"token_file": guarded.writers}):
        async with using(make, guarded.url, **guarded.tls, **token) as kv:
            await kv.put(key, b"x" * 300_000)
            assert (await kv.get(key) or Value(b"", "")).value == b"x" * 300_000
    async with using(make, guarded.url, **guarded.tls, token_file=guarded.readers) as kv:
        assert await kv.get(key)
        with pytest.raises(TokenTooWeak):
            await kv.put(key, "v")
    async with using(make, guarded.url, **guarded.tls) as kv:
        for waiting in (kv.get(key), kv.put(key, "v"), kv.increment(key), kv.bulk([Get(key)]), kv.scan()):
            with pytest.raises(TokenMissing):
                await waiting


@pytest_twisted.ensureDeferred
async def test_nothing_is_sent_to_whom_nobody_trusts(make: Make, guarded: Guarded, key: str) -> None:
    identity = guarded.client.both
    for tls in ({"tls_authority": guarded.stranger.authority, "tls_identity": identity}, {"tls_identity": identity}):
        async with using(make, guarded.url, **tls, token=WRITER) as kv:
            with pytest.raises(NobodyAnswers, match=r"signed|issuer|certificate"):
                await kv.put(key, "v")


@pytest_twisted.ensureDeferred
async def test_who_shows_no_certificate_gets_no_answer(make: Make, guarded: Guarded, key: str) -> None:
    async with using(make, guarded.url, tls_authority=guarded.server.authority, token=WRITER, timeout=0.5) as kv:
        with pytest.raises(KvError):
            await kv.get(key)
