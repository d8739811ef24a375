"""Many keys: loading them by /v1/bulk, one node's memory with a million, its start, and a page of a listing.

Run from the project's folder: ``python -m benchmarks.million``. Every process runs on this machine and shares its
cores.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import threading
import time
from base64 import urlsafe_b64encode
from http.client import HTTPConnection

from .costs import resident_mib
from .servers import HOST, call, cluster, processes, wait_until

VALUE = b"v" * 100
LINES = 5_000
"""Lines in one request: about 750 KiB."""
CLIENTS = 4


def body_of(first: int, count: int) -> bytes:
    return b"".join(b'{"op":"put","key":"k%09d","value":"%b"}\n' % (n, VALUE) for n in range(first, first + count))


def load(port: int, total: int, already: int = 0) -> float:
    """Load keys from several clients until there are so many, and give records a second.

    Bodies are put together before the clock starts.
    """
    lines = min(LINES, (total - already) // CLIENTS)
    firsts = range(already, total, lines)
    seconds = 0.0
    for start in range(0, len(firsts), 10):
        bodies = [body_of(first, min(lines, total - first)) for first in firsts[start : start + 10]]
        began = time.monotonic()
        crew = [threading.Thread(target=send, args=(port, bodies[n::CLIENTS])) for n in range(CLIENTS)]
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()
        seconds += time.monotonic() - began
    return (total - already) / seconds


def send(port: int, bodies: list[bytes]) -> None:
    connection = HTTPConnection(HOST, port, timeout=120)
    for body in bodies:
        connection.request("POST", "/v1/bulk", body, {"Content-Type": "application/x-ndjson"})
        answer = connection.getresponse().read()
        assert answer.count(b'"status":204') == body.count(b"\n"), answer[:300]
    connection.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--bulk", type=int, default=100_000)
    options = parser.parse_args()
    with processes() as running:
        (door,), _ = cluster(running, "bulk")
        rates = [load(door, options.bulk) for _ in range(3)]
        print(f"/v1/bulk into three synced nodes: {[f'{rate:,.0f}' for rate in rates]} records/s")
    with processes() as running:
        (door,), (node, *_) = cluster(running, "million", size=1, replicas=1)
        rate = load(door, options.keys)
        pid = running.by_name[f"million-kvnode-{node}"].pid
        print(f"{options.keys:,} records on one node: loaded at {rate:,.0f}/s, resident {resident_mib(pid):.0f} MiB")
        took = []
        for n in range(20):
            began = time.monotonic()
            status, answer = call(door, "GET", f"/v1/keys?prefix=k0&limit=1000&cursor={cursor(n * options.keys // 25)}")
            took.append(time.monotonic() - began)
            assert status == 200
            assert len(json.loads(answer)["keys"]) == 1000
        print(f"a page of 1,000 keys: median {statistics.median(took) * 1e3:.1f} ms, longest {max(took) * 1e3:.1f} ms")
        for ended in ("SIGTERM", "SIGKILL"):
            running.restart(f"million-kvnode-{node}", hard=ended == "SIGKILL")
            began = time.monotonic()
            wait_until(lambda: call(node, "GET", "/health/live")[0] == 200, "the node to live")
            print(f"start to ready after {ended}: {time.monotonic() - began:.2f} s")
            wait_until(lambda: call(door, "GET", "/v1/kv/k000000007")[0] == 200, "the value to be there")
            pid = running.by_name[f"million-kvnode-{node}"].pid
            print(f"  resident {resident_mib(pid):.0f} MiB, {os.getloadavg()[0]:.1f} load")


def cursor(number: int) -> str:
    return urlsafe_b64encode(b"k%09d" % number).decode()


if __name__ == "__main__":
    main()
