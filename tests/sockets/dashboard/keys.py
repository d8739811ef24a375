"""Keys that somebody else writes and reads while the dashboard is looked at."""

from __future__ import annotations

from tests.sockets.daemons import Daemon, call


def held(proxy: Daemon, key: str) -> bytes | None:
    got = call("GET", f"{proxy.url}/v1/kv/{key}")
    return got.body if got.status == 200 else None


def write(proxy: Daemon, key: str, value: bytes, query: str = "", **headers: str) -> None:
    assert call("PUT", f"{proxy.url}/v1/kv/{key}{query}", value, **headers).status == 204
