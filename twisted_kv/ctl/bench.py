"""``kvctl bench``: what this client, a Python program, gets from the cluster, and what each call takes."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from threading import Thread
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from .client import Client
from .common import YES, Ctl, asks_proxy
from .data import key_path, query
from .progress import bar
from .showing import count, millis, plain_table
from .trouble import Exit, Trouble

if TYPE_CHECKING:
    from rich.table import Table

LOOK_S = 0.2
LIFE_S = 3_600
"""The keys it writes are gone by then, should it not come to delete them."""


class Took(NamedTuple):
    """One call: what, for how long, and with which status; of how many operations it was made."""

    op: str
    seconds: float
    status: int
    operations: int


class Worker(Thread):
    """One client, one call after the other."""

    def __init__(self, client: Client, until_s: float, call: Callable[[Client], Took]) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._until_s = until_s
        self._call = call
        self.took: list[Took] = []
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            while time.monotonic() < self._until_s:
                self.took.append(self._call(self._client))
        except Exception as error:
            self.error = error
        finally:
            self._client.close()


@click.command()
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=5.0, show_default=True, help="For how long.")
@click.option("--clients", type=click.IntRange(1, 256), default=8, show_default=True, help="How many at once.")
@click.option("--size", type=click.IntRange(0, 1 << 20), default=100, show_default=True, help="Bytes of a value.")
@click.option("--reads", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="The part that are reads.")
@click.option("--keys", type=click.IntRange(1, 100_000), default=1_000, show_default=True, help="Different keys.")
@click.option("--batch", type=click.IntRange(1, 10_000), default=1, show_default=True, help="Operations in one call.")
@YES
@asks_proxy
def bench(ctl: Ctl, seconds: float, clients: int, size: int, reads: float, keys: int, batch: int, yes: bool) -> None:
    """Read and write for some seconds, and say how many operations and how long they took.

    It writes keys that begin with kvctl-bench/, and deletes them at the end. This client is a Python program and takes
    a core for itself: what the cluster can do at most is measured by make bench.
    """
    ctl.showing.say(f"plan: {clients} clients for {seconds:g} s, {keys:,} keys of {size:,} bytes in kvctl-bench/")
    ctl.confirm("do it?", yes)
    value = os.urandom(size)
    run = f"kvctl-bench/{os.getpid()}/"
    call = batch_call(run, keys, value, reads, batch) if batch > 1 else single_call(run, keys, value, reads, query(ctl))
    _prepare(ctl, run, keys, value)
    began_s = time.monotonic()
    crew = [Worker(ctl.client.another(), began_s + seconds, call) for _ in range(clients)]
    try:
        with bar(ctl.showing, "calls") as progress:
            shown = progress.add_task("bench", total=None)
            while any(one.is_alive() for one in crew):
                time.sleep(LOOK_S)
                past = min(1.0, (time.monotonic() - began_s) / seconds)
                done = sum(len(one.took) for one in crew)
                progress.update(shown, total=max(done, round(done / max(past, 1e-3))), completed=done)
        took_s = time.monotonic() - began_s
    finally:
        _tidy(ctl, run, keys)
    error = next((one.error for one in crew if one.error is not None), None)
    if error is not None:
        raise error
    told = summed([took for one in crew for took in one.took], took_s)
    ctl.showing.show(told, lambda: drawn(told))
    if any(row["failed"] for row in told["operations"]):
        raise Trouble("not every call succeeded", "see the column of failures", "kvctl doctor", Exit.DEGRADED)


def single_call(run: str, keys: int, value: bytes, reads: float, asked: str) -> Callable[[Client], Took]:
    def call(client: Client) -> Took:
        path = f"/v1/kv/{key_path(f'{run}{random.randrange(keys)}'.encode())}{asked}"
        reading = random.random() < reads
        began_s = time.monotonic()
        answer = client.request("GET", path) if reading else client.request("PUT", path, value, again=True)
        return Took("get" if reading else "put", time.monotonic() - began_s, answer.status, 1)

    return call


def batch_call(run: str, keys: int, value: bytes, reads: float, batch: int) -> Callable[[Client], Took]:
    from .records import bulk

    def call(client: Client) -> Took:
        reading = random.random() < reads
        names = [f"{run}{random.randrange(keys)}".encode() for _ in range(batch)]
        more: dict[str, Any] = {"op": "get"} if reading else {"op": "put", "value": value, "ttl": LIFE_S}
        began_s = time.monotonic()
        answers = bulk(client, [{**more, "key": name} for name in names])
        worst = max(one["status"] for one in answers)
        return Took("get" if reading else "put", time.monotonic() - began_s, worst, batch)

    return call


def _prepare(ctl: Ctl, run: str, keys: int, value: bytes) -> None:
    from .records import bulk

    for at in range(0, keys, 1_000):
        names = [f"{run}{number}".encode() for number in range(at, min(at + 1_000, keys))]
        bulk(ctl.client, [{"op": "put", "key": name, "value": value, "ttl": LIFE_S} for name in names])


def _tidy(ctl: Ctl, run: str, keys: int) -> None:
    from .records import bulk

    for at in range(0, keys, 1_000):
        names = [f"{run}{number}".encode() for number in range(at, min(at + 1_000, keys))]
        bulk(ctl.client, [{"op": "delete", "key": name} for name in names])


def summed(took: list[Took], seconds: float) -> dict[str, Any]:
    """Sum calls up: rates, percentiles (nearest rank) and failures."""
    rows = []
    for op in sorted({one.op for one in took}):
        of_op = [one for one in took if one.op == op]
        times = sorted(one.seconds * 1e3 for one in of_op)
        rows.append(
            {
                "op": op,
                "operations": sum(one.operations for one in of_op),
                "per_s": round(sum(one.operations for one in of_op) / seconds, 1),
                "failed": sum(one.operations for one in of_op if one.status >= 400),
                **{f"p{part}_ms": round(quantile(times, part / 100), 3) for part in (50, 90, 99)},
                "max_ms": round(times[-1], 3),
            }
        )
    return {"seconds": round(seconds, 3), "operations": rows}


def quantile(ordered: list[float], part: float) -> float:
    return ordered[max(0, -int(-part * len(ordered) // 1) - 1)]


def drawn(told: dict[str, Any]) -> Table:
    figures = ("operations", "per s", "p50 ms", "p90 ms", "p99 ms", "max ms", "failed")
    table = plain_table("op", *figures, right=figures)
    for row in told["operations"]:
        times = [millis(row[name]) for name in ("p50_ms", "p90_ms", "p99_ms", "max_ms")]
        table.add_row(row["op"], f"{row['operations']:,}", count(row["per_s"]), *times, f"{row['failed']:,}")
    return table
