"""Contention: writers in one proxy, and in two, count one counter up by If-Match until each has succeeded so often.

Run from the project's folder: ``python -m benchmarks.counter``. The sum has to be exact. Every process runs on this
machine and shares its cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import threading
import time
from http.client import HTTPConnection
from typing import Any

from .servers import HOST, call, cluster, processes

KEY = "/v1/kv/counter"
PROCESSES = 4


class Writer(threading.Thread):
    """One client with one connection: reads, adds one, writes if nobody came between, and begins again if so."""

    def __init__(self, port: int, successes: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._successes = successes
        self.waits_s: list[float] = []
        self.refused = self.unsure = 0

    def run(self) -> None:
        connection = HTTPConnection(HOST, self._port, timeout=30)
        for _ in range(self._successes):
            began = time.monotonic()
            while not self._once(connection):
                pass
            self.waits_s.append(time.monotonic() - began)
        connection.close()

    def _once(self, connection: HTTPConnection) -> bool:
        connection.request("GET", KEY)
        got = connection.getresponse()
        body = got.read()
        if got.status != 200:
            self.unsure += 1
            return False
        connection.request("PUT", KEY, str(int(body) + 1), {"If-Match": got.headers["ETag"]})
        put = connection.getresponse()
        problem = put.read()
        if put.status not in (204, 412):
            self.unsure += 1
            return bool(json.loads(problem).get("maybe_applied")) and self._applied(connection, problem)
        self.refused += put.status == 412
        return put.status == 204

    def _applied(self, connection: HTTPConnection, problem: bytes) -> bool:
        """See whether a change of unknown outcome took effect: then the counter holds its version."""
        connection.request("GET", KEY)
        got = connection.getresponse()
        got.read()
        return got.headers["ETag"] == f'"{json.loads(problem).get("etag")}"'


def write(ports: list[int], successes: int, results: Any) -> None:
    writers = [Writer(port, successes) for port in ports]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    results.put([(writer.waits_s, writer.refused, writer.unsure) for writer in writers])


def count(ports: list[int], writers: int, successes: int) -> tuple[float, list[float], int, int]:
    """Let all count, and give successes a second, the slowest success of each writer, refusals, and the unsure."""
    call(ports[0], "PUT", "/PUT", {"Key": "counter", "Value": "0"})
    results: Any = multiprocessing.Queue()
    shares = [[ports[n % len(ports)] for n in range(start, writers, PROCESSES)] for start in range(PROCESSES)]
    began = time.monotonic()
    crew = [multiprocessing.Process(target=write, args=(share, successes, results)) for share in shares]
    for process in crew:
        process.start()
    rows = [row for _ in crew for row in results.get()]
    took_s = time.monotonic() - began
    for process in crew:
        process.join()
    _, body = call(ports[0], "GET", "/GET", {"Key": "counter"})
    held, meant = int(json.loads(body)), writers * successes
    unsure = sum(row[2] for row in rows)
    if held != meant:
        sys.exit(f"the counter holds {held}, {meant} were counted ({unsure} calls ended without certainty)")
    slowest = [max(waits) for waits, _, _ in rows]
    return meant / took_s, slowest, sum(row[1] for row in rows), unsure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writers", type=int, default=64)
    parser.add_argument("--successes", type=int, default=200)
    options = parser.parse_args()
    with processes() as running:
        doors, _ = cluster(running, "counter", proxies=2)
        for ports in (doors[:1], doors):
            rate, slowest, refused, unsure = count(ports, options.writers, options.successes)
            print(
                f"{len(ports)} proxies: {rate:.0f} successes/s, {refused} refused, {unsure} unsure, "
                f"slowest success of a writer: median {statistics.median(slowest):.2f} s, max {max(slowest):.2f} s"
            )


if __name__ == "__main__":
    main()
