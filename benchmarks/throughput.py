"""What replication costs: a cluster of three memory nodes behind a proxy, against a bare klein server.

Run from the project's folder, with Debian's wrk installed: ``python -m benchmarks.throughput``. Every process runs on
this machine and shares its cores, so the ratio holds for this machine only; the rounds alternate, so that a noisy
neighbour hits both sides.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from importlib.metadata import version
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
FIRST_PORT = 18_500
"""Ports are looked for from here up: below Linux's ephemeral ports, where wrk's own connections could take one."""
NODES = 3
KEYS = 10_000
VALUE_BYTES = 100
CONNECTIONS = 64
FILLERS = 8
START_PATIENCE_S = 30.0
STOP_PATIENCE_S = 5.0
CALL_TIMEOUT_S = 15.0
WRK_SPARE_S = 30.0
"""How much longer than asked wrk may take, building its requests, before it counts as stuck."""

HERE = Path(__file__).resolve().parent
TWISTD = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()", "--nodaemon")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two servers that are compared."""

    name: str
    port: int


@dataclass(frozen=True, slots=True)
class Run:
    """What wrk saw in one run."""

    per_s: float
    p50_ms: float
    p99_ms: float


class Processes:
    """The processes of this benchmark, whose one owner ends each by its pid."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, command: tuple[str, ...]) -> subprocess.Popen[bytes]:
        # The pipe is the leash, whose end all of them notice. A session of its own keeps Ctrl-C for us.
        with open(self._log(name), "wb") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=log, stderr=log, cwd=HERE.parent, start_new_session=True
            )
        self._running.append(process)
        return process

    def started(self, name: str, command: tuple[str, ...], port: int, path: str) -> subprocess.Popen[bytes]:
        """Start a server and wait until it answers at all."""
        process = self.start(name, command)

        def answers() -> bool:
            if process.poll() is not None:
                sys.exit(f"{name} ended at once:\n{self._log(name).read_text(errors='replace')[-2000:]}")
            call(port, "GET", path)
            return True

        wait_until(answers, f"{name} to answer on port {port}")
        return process

    def stop(self) -> None:
        for process in self._running:
            process.terminate()
        until = time.monotonic() + STOP_PATIENCE_S
        for process in self._running:
            try:
                process.wait(max(until - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdin is not None
            process.stdin.close()

    def _log(self, name: str) -> Path:
        return self._folder / f"{name}.log"


def call(port: int, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
    connection = HTTPConnection(HOST, port, timeout=CALL_TIMEOUT_S)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def wait_until(holds: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + START_PATIENCE_S
    while True:
        try:
            if holds():
                return
        except (OSError, HTTPException):
            pass
        if time.monotonic() > until:
            sys.exit(f"waited {START_PATIENCE_S:g} s in vain for {what}")
        time.sleep(0.05)


def free_ports(count: int) -> list[int]:
    found: list[int] = []
    for port in range(FIRST_PORT, 32_768):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    sys.exit(f"no {count} free ports from {FIRST_PORT} up")


@dataclass(frozen=True, slots=True)
class Field:
    """Everything that is measured, up and idle."""

    bare: Side
    ours: Side
    pids: dict[str, int]


@contextmanager
def field() -> Iterator[Field]:
    """Bring both servers up, the cluster complete and at rest; end them whatever happens."""
    with tempfile.TemporaryDirectory(prefix="kv-throughput-") as folder:
        processes = Processes(Path(folder))
        try:
            yield _brought_up(processes, folder)
        finally:
            processes.stop()


def _brought_up(processes: Processes, folder: str) -> Field:
    bare, proxy, *nodes = free_ports(2 + NODES)
    pids: dict[str, int] = {}

    # --leash ends a server even if this process is killed the hard way.
    def up(name: str, command: tuple[str, ...], port: int, path: str = "/health/live") -> None:
        pids[name] = processes.started(name, command, port, path).pid

    def daemon(name: str, role: str, port: int, *options: str) -> None:
        folder_option = ("--data-dir", f"{folder}/{name}-data")
        up(name, (*TWISTD, role, "--leash", "--port", str(port), *folder_option, *options), port)

    up("bare", (sys.executable, "-m", "benchmarks.bare_klein", str(bare), "--leash"), bare, "/")
    for number, port in enumerate(nodes):
        daemon(f"node{number}", "kvnode", port, "--engine", "memory")
    daemon("proxy", "kvproxy", proxy, "--consistency", "strong", "--replicas", str(NODES))
    for port in nodes:
        status, answer = call(proxy, "POST", "/AddServer", {"url": f"http://{HOST}:{port}"})
        if status // 100 != 2:
            sys.exit(f"/AddServer answered {status}: {answer.decode(errors='replace')}")

    def at_rest() -> bool:
        cluster = json.loads(call(proxy, "GET", "/v1/cluster")[1])
        ready = call(proxy, "GET", "/health/ready")[0] == 200
        return ready and len(cluster["members"]) == NODES and not cluster["change"] and not cluster["pending"]

    wait_until(at_rest, "the three nodes to be members")
    return Field(Side("bare klein", bare), Side("3 replicas, strong", proxy), pids)


def fill(side: Side) -> None:
    """Write every key once, so that no read misses. The keys are those of calls.lua."""

    def write(numbers: range) -> None:
        connection = HTTPConnection(HOST, side.port, timeout=CALL_TIMEOUT_S)
        try:
            for number in numbers:
                connection.request("PUT", "/PUT", json.dumps({"Key": f"k{number:05d}", "Value": "v" * VALUE_BYTES}))
                response = connection.getresponse()
                body = response.read()
                if response.status // 100 != 2:
                    raise SystemExit(f"{side.name} answered {response.status} to a write: {body!r}")
        finally:
            connection.close()

    with ThreadPoolExecutor(FILLERS) as pool:
        list(pool.map(write, (range(first, KEYS, FILLERS) for first in range(FILLERS))))


def wrk(side: Side, method: str, seconds: int) -> Run:
    """Load one server, and refuse a run in which anything but a good answer came back."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--timeout", f"{CALL_TIMEOUT_S:.0f}s"]
    command += ["-s", str(HERE / "calls.lua"), f"http://{HOST}:{side.port}", "--", method, str(KEYS), str(VALUE_BYTES)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + WRK_SPARE_S, check=False)
    except subprocess.TimeoutExpired:
        sys.exit(f"wrk did not end: {method} on {side.name}")
    try:
        saw = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        sys.exit(f"wrk failed: {method} on {side.name}\n{done.stdout}{done.stderr}")
    wrong = {name: saw[name] for name in ("status", "connect", "read", "write", "timeout") if saw[name]}
    # wrk's status count begins at 400; nothing here answers 1xx or 3xx.
    if wrong or not saw["requests"]:
        sys.exit(f"{method} on {side.name}: {saw['requests']} answers, and errors {wrong}; these figures say nothing")
    return Run(saw["requests"] / saw["duration_us"] * 1e6, saw["p50_us"] / 1e3, saw["p99_us"] / 1e3)


BATCH_LINE = re.compile(r'^kv_batch_operations_(sum|count)\{.*?lane="(\w+)".*?\} (\S+)$', re.MULTILINE)


def batches(proxy: Side) -> Counter[tuple[str, str]]:
    """Read how many operations (sum) in how many batches (count) the proxy has sent on each lane, to all nodes."""
    read: Counter[tuple[str, str]] = Counter()
    for figure, lane, value in BATCH_LINE.findall(call(proxy.port, "GET", "/metrics")[1].decode()):
        read[lane, figure] += int(float(value))
    return read


def measure(field: Field, rounds: int, seconds: int) -> tuple[dict[tuple[str, Side], list[Run]], dict[str, Counter]]:
    """Give each call's runs on each side, and what each call made the proxy send."""
    sides = (field.bare, field.ours)
    for side in sides:
        fill(side)
        for method in ("PUT", "GET"):
            wrk(side, method, min(2, seconds))
    runs: dict[tuple[str, Side], list[Run]] = {(method, side): [] for method in ("PUT", "GET") for side in sides}
    sent: dict[str, Counter[tuple[str, str]]] = {"PUT": Counter(), "GET": Counter()}
    for number in range(rounds):
        for method, side in runs:
            before = batches(field.ours)
            runs[method, side].append(wrk(side, method, seconds))
            if side is field.ours:
                sent[method].update(batches(field.ours) - before)
        print(f"round {number + 1} of {rounds} done", file=sys.stderr)
    return runs, sent


def print_tables(field: Field, runs: dict[tuple[str, Side], list[Run]], sent: dict[str, Counter]) -> None:
    print("| call | server | requests/s | p50 | p99 |\n|---|---|---|---|---|")
    for (method, side), seen in runs.items():
        per_s = statistics.median(run.per_s for run in seen)
        p50, p99 = (statistics.median(getattr(run, name) for run in seen) for name in ("p50_ms", "p99_ms"))
        print(f"| {method} | {side.name} | {per_s:,.0f} | {p50:.1f} ms | {p99:.1f} ms |")

    print("\nOurs against bare klein, requests/s in the same round\n")
    print("| call | median | lowest | highest |\n|---|---|---|---|")
    for method in sent:
        pairs = zip(runs[method, field.ours], runs[method, field.bare], strict=True)
        ratios = [ours.per_s / bare.per_s for ours, bare in pairs]
        print(f"| {method} | {statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |")

    print("\n| call | lane | batches to nodes | operations in one, mean |\n|---|---|---|---|")
    for method, counted in sent.items():
        for lane in sorted({lane for lane, figure in counted}):
            count, total = counted[lane, "count"], counted[lane, "sum"]
            print(f"| {method} | {lane} | {count:,} | {total / count:.1f} |")


def at_least_one(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("give 1 or more")
    return number


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.throughput", description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=at_least_one, default=5, help="rounds, each of four runs (5)")
    parser.add_argument("--seconds", type=at_least_one, default=5, help="length of one run (5)")
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        sys.exit("wrk is missing, which makes the load: apt-get install wrk")
    # Otherwise a SIGTERM would end us without the finally that ends the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped by SIGTERM"))

    print(
        f"Python {platform.python_version()}, Twisted {version('twisted')}, {os.cpu_count()} cores with a load of"
        f" {os.getloadavg()[0]:.1f} before; {CONNECTIONS} connections, {KEYS:,} keys, values of {VALUE_BYTES} bytes;"
        f" medians of {options.rounds} rounds of {options.seconds} s\n"
    )
    with field() as up:
        print_tables(up, *measure(up, options.rounds, options.seconds))


if __name__ == "__main__":
    main()
