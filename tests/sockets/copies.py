"""What each node holds by itself, and many keys at once through a proxy."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from http.client import HTTPConnection, HTTPException
from random import Random
from typing import NamedTuple

import msgspec

from tests.sockets.daemons import Daemon, Farm, call, wait_until
from twisted_kv.ring import SLOTS
from twisted_kv.versions import NONE, decode_record
from twisted_kv.wire.header import FORMAT, Header, encode
from twisted_kv.wire.pages import PageRequest, page_decoder

BULK_LINES = 1_000
MSGPACK = {"Content-Type": "application/msgpack"}


class Copy(NamedTuple):
    """One node's record of a key."""

    ballot: bytes
    value: bytes | None
    """None for a tombstone, and for what cannot be read."""
    readable: bool = True


def own_copies(node: Daemon) -> dict[str, Copy]:
    """Read all that one node holds, as whoever copies from it would.

    :raises OSError: if it does not answer, or does not give a part of it.
    """
    info = node.info()
    header = Header(FORMAT, info["cluster"], info["member"], info["incarnation"], info["epoch"])
    found: dict[str, Copy] = {}
    after = None
    while True:
        asked = encode(PageRequest(header, [(0, SLOTS - 1)], after))
        got = call("POST", f"{node.url}/node/v1/slots", asked)
        if got.status != 200:
            raise OSError(f"{node.url} gives no page: {got.status} {got.body!r}")
        page = page_decoder.decode(got.body)
        for row in page.rows:
            value = decode_record(row.record).value if row.record else None
            found[row.key.decode()] = Copy(row.ballot, value, row.ballot != NONE)
        if page.after is None:
            return found
        after = page.after


def values_in(copies: Mapping[str, Copy]) -> dict[str, bytes]:
    """Give the values among copies; what cannot be read is none."""
    return {key: copy.value for key, copy in copies.items() if copy.value is not None}


def alike(nodes: Iterable[Daemon], values: Mapping[str, bytes]) -> bool:
    """Whether each of the nodes holds exactly these values, and all of them under the same ballots."""
    try:
        held = [own_copies(node) for node in nodes]
    except (OSError, HTTPException, KeyError):
        return False
    ballots = [{key: copy.ballot for key, copy in copies.items() if copy.value is not None} for copies in held]
    return all(values_in(copies) == values for copies in held) and all(some == ballots[0] for some in ballots)


def owned_alike(farm: Farm, values: Mapping[str, bytes]) -> list[str]:
    """Describe what is not where it should be: each value on exactly its owners, with the ballot that they all have.

    All keys are looked up at the proxy; the nodes are those that are in the cluster now.
    """
    proxy = next(proxy for proxy in farm.proxies if proxy.process is not None)
    urls = {member["url"] for member in call("GET", f"{proxy.url}/v1/cluster").json()["members"]}
    held = {node.url: own_copies(node) for node in farm.nodes if node.url in urls}
    complaints = [
        f"{url} holds {key}, which nobody has written"
        for url, copies in held.items()
        for key in values_in(copies)
        if key not in values
    ]
    for key, located in zip(values, owners_of(proxy, values), strict=True):
        holders = {url for url, copies in held.items() if key in copies and copies[key].value is not None}
        if holders != located:
            complaints.append(f"{key} is owned by {sorted(located)} and held by {sorted(holders)}")
        elif len({held[url][key].ballot for url in holders}) != 1:
            complaints.append(f"{key} differs among its owners")
        elif {held[url][key].value for url in holders} != {values[key]}:
            complaints.append(f"{key} is {held[next(iter(holders))][key].value!r:.200}, and not {values[key]!r:.200}")
    return complaints


def owners_of(proxy: Daemon, keys: Iterable[str]) -> Iterator[set[str]]:
    """Give the URLs of each key's owners, as the proxy says."""
    connection = HTTPConnection("127.0.0.1", proxy.port, timeout=15)
    for key in keys:
        connection.request("GET", f"/v1/ring/locate?key={key}")
        yield {owner["url"] for owner in json.loads(connection.getresponse().read())["owners"]}
    connection.close()


def drawn_values(random: Random, keys: Iterable[str], turn: int, size: int = 200) -> dict[str, bytes]:
    """Draw a value for each key that names it and its turn, filled up with what no compression makes smaller."""
    made = {}
    for key in keys:
        head = f"{key} for the {turn}th time ".encode()
        made[key] = head + random.randbytes(max(0, size - len(head)))
    return made


def put_all(proxy: Daemon, values: Mapping[str, bytes], query: str = "") -> None:
    """Write each key once; all of it must be acknowledged."""
    lines = [{"op": "put", "key": key, "value": value} for key, value in values.items()]
    refused = [answer for answer in _bulk(proxy, lines, query) if answer["status"] != 204]
    assert refused == []


def get_all(proxy: Daemon, keys: Iterable[str], query: str = "") -> Iterator[tuple[str, int, bytes | None]]:
    """Read keys, and give each with the status of its answer and its value."""
    lines = [{"op": "get", "key": key} for key in keys]
    for line, answer in zip(lines, _bulk(proxy, lines, query), strict=True):
        yield line["key"], answer["status"], answer.get("value")


def _bulk(proxy: Daemon, lines: list[dict[str, object]], query: str) -> Iterator[dict[str, object]]:
    for first in range(0, len(lines), BULK_LINES):
        body = msgspec.msgpack.encode(lines[first : first + BULK_LINES])
        got = call("POST", f"{proxy.url}/v1/bulk{query}", body, **MSGPACK)
        assert got.status == 200, got.body
        yield from msgspec.msgpack.decode(got.body)


def misread(proxy: Daemon, values: Mapping[str, bytes], query: str = "") -> tuple[list[str], int]:
    """Read keys, and describe every answer that is wrong: another value, or none; say too how many had no answer.

    No answer is one with a status of 5xx: it says nothing wrong.
    """
    complaints, unanswered = [], 0
    for key, status, value in get_all(proxy, values, query):
        if status >= 500:
            unanswered += 1
        elif (status, value) != (200, values[key]):
            complaints.append(f"{key}: {status} {value!r:.200}, and not {values[key]!r:.200}")
    return complaints, unanswered


def limited(farm: Farm, name: str, **limits: float) -> list[str]:
    """Give the options of a daemon with limits of its own."""
    config = farm.folder / f"{name}.toml"
    config.write_text("[limits]\n" + "".join(f"{limit} = {value}\n" for limit, value in limits.items()))
    return ["--config", str(config)]


def metric(daemon: Daemon, name: str) -> float:
    """Give what a daemon counts under a name."""
    lines = call("GET", f"{daemon.url}/metrics").body.decode().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))


def wait_up(proxy: Daemon, nodes: int, patience_s: float) -> None:
    """Wait until a proxy finds every member up and no change under way."""

    def is_up() -> bool:
        cluster = call("GET", f"{proxy.url}/v1/cluster").json()
        states = [member["state"] for member in cluster["members"]]
        return states == ["up"] * nodes and cluster["change"] is None and not cluster["pending"]

    wait_until(is_up, f"{nodes} members to be up", patience_s)
