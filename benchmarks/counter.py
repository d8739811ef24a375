"""Contention: writers in one proxy, and in two, count one counter up by If-Match until each has succeeded so often.

Run from the project's folder: ``python -m benchmarks.counter``. The sum has to be exact; a write of unknown
outcome may be in it or not. Every process runs on this machine and shares its cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import socket
import statistics
import sys
import threading
import time
from collections import Counter
from typing import Any

from .servers import CALL_TIMEOUT_S, HOST, call, cluster, processes

KEY = b"/v1/kv/counter"
PROCESSES = 4

_length = re.compile(rb"(?i)\r\ncontent-length: *(\d+)").search
_etag: Any = re.compile(rb"(?i)\r\netag: *(\S+)").search
_NO_LENGTH = (b"", b"0")


class Line:
    """One connection, with as little work for each request as can be: what is measured shares the cores with it."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection((HOST, port), timeout=CALL_TIMEOUT_S)
        self._received = b""

    def ask(self, method: bytes, body: bytes = b"", head: bytes = b"") -> tuple[int, bytes, bytes]:
        """Give status, head and body of the answer."""
        self._socket.sendall(
            b"%b %b HTTP/1.1\r\nHost: x\r\n%bContent-Length: %d\r\n\r\n%b" % (method, KEY, head, len(body), body)
        )
        while b"\r\n\r\n" not in self._received:
            self._receive()
        got, _, self._received = self._received.partition(b"\r\n\r\n")
        length = int((_length(got) or _NO_LENGTH)[1])
        while len(self._received) < length:
            self._receive()
        content, self._received = self._received[:length], self._received[length:]
        return int(got[9:12]), got, content

    def _receive(self) -> None:
        data = self._socket.recv(65_536)
        if not data:
            raise ConnectionError("the proxy closed the connection")
        self._received += data

    def close(self) -> None:
        self._socket.close()


class Writer(threading.Thread):
    """One client with one connection: reads, adds one, writes if nobody came between, and begins again if so."""

    def __init__(self, port: int, successes: int) -> None:
        super().__init__(daemon=True)
        self._port = port
        self._successes = successes
        self.waits_s: list[float] = []
        self.refused = 0
        """Writes that somebody came before."""
        self.unsure: list[str] = []
        """What writes were answered of which it stayed unknown whether they took effect."""

    def run(self) -> None:
        line = Line(self._port)
        for _ in range(self._successes):
            began = time.monotonic()
            while not self._once(line):
                pass
            self.waits_s.append(time.monotonic() - began)
        line.close()

    def _once(self, line: Line) -> bool:
        status, head, body = line.ask(b"GET")
        if status != 200:
            return False
        status, _, problem = line.ask(b"PUT", b"%d" % (int(body) + 1), b"If-Match: %b\r\n" % _etag(head)[1])
        if status == 204:
            return True
        if status == 412:
            self.refused += 1
            return False
        fields = json.loads(problem)
        if not fields.get("maybe_applied"):
            return False
        # It took effect if the counter holds its version; if it holds another, it may have been there in between.
        status, head, _ = line.ask(b"GET")
        if status == 200 and _etag(head)[1] == b'"%b"' % fields["etag"].encode():
            return True
        self.unsure.append(fields["type"])
        return False


def write(ports: list[int], successes: int, results: Any) -> None:
    writers = [Writer(port, successes) for port in ports]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    results.put([(writer.waits_s, writer.refused, writer.unsure) for writer in writers])


def count(ports: list[int], writers: int, successes: int) -> str:
    """Let all count, and say how it went."""
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
    unsure = Counter(kind for row in rows for kind in row[2])
    if not meant <= held <= meant + unsure.total():
        sys.exit(f"THE SUM IS WRONG: the counter holds {held}, {meant} were counted, {unsure} without certainty")
    slowest = [max(waits) for waits, _, _ in rows]
    return (
        f"{len(ports)} proxies: {meant} successes, {meant / took_s:.0f} a second; the counter holds {held}; "
        f"{sum(row[1] for row in rows)} refused, without certainty {dict(unsure)}; "
        f"slowest success of a writer: median {statistics.median(slowest):.1f} s, longest {max(slowest):.1f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writers", type=int, default=64)
    parser.add_argument("--successes", type=int, default=200)
    options = parser.parse_args()
    with processes() as running:
        doors, _ = cluster(running, "counter", proxies=2)
        for ports in (doors[:1], doors):
            print(count(ports, options.writers, options.successes))


if __name__ == "__main__":
    main()
