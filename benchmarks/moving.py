"""Data on the move: how fast records go from one node to another, and what clients feel of it; how soon a node that
lost its disk is whole again; how soon one that was down has what it missed.

Run from the project's folder: ``python -m benchmarks.moving``. Every process runs on this machine and shares its cores.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import threading
import time
from collections.abc import Callable
from http.client import HTTPConnection
from typing import Any

from .million import load
from .servers import HOST, TWISTD, Processes, call, cluster, free_ports, processes, wait_until

FOREGROUND_PER_S = 200
"""Reads and writes a second, at times fixed in advance: an answer's time counts from when it was due."""

CONNECTIONS = 8


class Foreground:
    """Clients that read and write at a steady pace, and note how long each answer took."""

    def __init__(self, port: int, keys: int) -> None:
        self._port = port
        self._keys = keys
        self._took: list[float] = []
        self._stop = False
        self.wrong = 0
        self._threads = [threading.Thread(target=self._run) for _ in range(CONNECTIONS)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        connection, due = HTTPConnection(HOST, self._port, timeout=30), time.monotonic()
        while not self._stop:
            due += CONNECTIONS / FOREGROUND_PER_S
            time.sleep(max(0.0, due - time.monotonic()))
            path = f"/v1/kv/k{random.randrange(self._keys):09d}"
            reads = random.random() < 0.5
            connection.request("GET" if reads else "PUT", path, None if reads else b"v" * 100)
            answer = connection.getresponse()
            body = answer.read()
            self.wrong += answer.status not in (200, 204) or (reads and body != b"v" * 100)
            self._took.append(time.monotonic() - due)
        connection.close()

    def p99_s(self) -> float:
        """Give the 99th percentile since this was asked last."""
        took, self._took = self._took, []
        return sorted(took)[int(len(took) * 0.99)] if took else 0.0

    def stop(self) -> None:
        self._stop = True
        for thread in self._threads:
            thread.join()


def until_moved(door: int) -> None:
    wait_for(lambda: not described(door)["change"] and not described(door)["pending"], "the data to have moved", 600)


def wait_for(holds: Callable[[], Any], what: str, patience_s: float) -> None:
    until = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > until:
            raise SystemExit(f"waited {patience_s:g} s in vain for {what}")
        time.sleep(0.05)


def described(door: int) -> Any:
    return json.loads(call(door, "GET", "/v1/cluster")[1])


def keys_of(node: int) -> int:
    return int(json.loads(call(node, "GET", "/node/v1/info")[1])["keys"])


def node_beside(running: Processes, name: str) -> int:
    (port,) = free_ports(1)
    folder = running.folder / f"{name}-kvnode-{port}"
    command = (*TWISTD, "kvnode", "--leash", "--port", str(port), "--data-dir", str(folder))
    running.started(f"{name}-kvnode-{port}", command, port, "/health/live")
    return port


def moving(keys: int, rounds: int) -> None:
    """Let a second node join a first one and leave again, over and over, beside a client."""
    with processes() as running:
        (door,), (first,) = cluster(running, "moving", size=1, replicas=1)
        load(door, keys)
        other = node_beside(running, "moving")
        client = Foreground(door, keys)
        rates, ratios, moved = [], [], 0
        for _ in range(rounds):
            client.p99_s()
            time.sleep(5)
            idle_s = client.p99_s()
            for joins in (True, False):
                began = time.monotonic()
                if joins:
                    status, answer = call(door, "POST", "/v1/cluster/nodes", {"url": f"http://{HOST}:{other}"})
                else:
                    member = next(m["id"] for m in described(door)["members"] if m["url"].endswith(str(other)))
                    status, answer = call(door, "DELETE", f"/v1/cluster/nodes/{member}")
                assert status in (200, 202, 204), answer
                until_moved(door)
                took_s = time.monotonic() - began
                # Clients feel it, too, when what was given away is forgotten.
                wait_for(lambda: keys_of(first) + keys_of(other) == keys, "the rest to be forgotten", 120)
                busy_s = client.p99_s()
                moved = moved if not joins else keys_of(other)
                rates.append(moved / took_s)
                ratios.append(busy_s / idle_s)
                print(
                    f"{'joined' if joins else 'left'}: {moved:,} records in {took_s:.1f} s, {rates[-1]:,.0f}/s;"
                    f" p99 {idle_s * 1e3:.1f} ms idle, {busy_s * 1e3:.1f} ms meanwhile"
                )
        client.stop()
        print(
            f"median: {statistics.median(rates):,.0f} records/s, p99 at {statistics.median(ratios):.2f} times idle;"
            f" {client.wrong} wrong answers"
        )


def replaced(keys: int) -> None:
    """Empty the disk of one node of three, and wait until it is whole."""
    with processes() as running:
        (door,), (node, *others) = cluster(running, "replaced")
        load(door, keys)
        name = f"replaced-kvnode-{node}"
        running.by_name[name].kill()
        running.by_name[name].wait()
        shutil.rmtree(running.folder / name)
        client = Foreground(door, keys)
        running.restart(name, hard=True)
        began = time.monotonic()
        wait_until(lambda: call(node, "GET", "/health/live")[0] == 200, "the node to live")
        wait_for(lambda: keys_of(node) == keys and not described(door)["change"], "the node to be whole", 900)
        took_s = time.monotonic() - began
        client.stop()
        assert all(keys_of(other) == keys for other in others)
        print(
            f"a node with an emptied disk had {keys:,} records again after {took_s:.1f} s; {client.wrong} wrong answers"
        )


def caught_up(writes: int) -> None:
    """Write while one node of three is down, and see how soon it has that when it is back."""
    with processes() as running:
        (door,), (node, *_) = cluster(running, "hints")
        name = f"hints-kvnode-{node}"
        running.by_name[name].kill()
        running.by_name[name].wait()
        load(door, writes)
        running.restart(name, hard=True)
        wait_until(lambda: call(node, "GET", "/health/live")[0] == 200, "the node to live")
        began = time.monotonic()
        wait_for(lambda: keys_of(node) == writes, "the hints to be replayed", 120)
        print(f"{writes:,} writes that a node had missed reached it {time.monotonic() - began:.2f} s after its return")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moved", type=int, default=300_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--only", choices=("moving", "replaced", "caught_up"), default=None)
    options = parser.parse_args()
    if options.only in (None, "caught_up"):
        for _ in range(3):
            caught_up(1_000)
    if options.only in (None, "moving"):
        moving(options.moved, options.rounds)
    if options.only in (None, "replaced"):
        replaced(options.keys)


if __name__ == "__main__":
    main()
