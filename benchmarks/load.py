"""Who makes the load: wrk, redis-benchmark, and clients of our own for what those two cannot do.

Each runs in a process of its own and says how it went; a run in which anything but a good answer came back ends the
benchmark, since its figures would say nothing.
"""

from __future__ import annotations

import csv
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, Protocol

from .servers import CALL_TIMEOUT_S, HERE, HOST

SPARE_S = 30.0
"""How much longer than asked a generator may take, building its requests, before it counts as stuck."""


@dataclass(frozen=True, slots=True)
class Run:
    """What was seen in one run."""

    requests: int
    per_s: float
    p50_ms: float
    p99_ms: float
    generator: float
    """The CPU that the generator itself took, in cores: what it took was not there for the servers."""


class Generator(Protocol):
    """Loads one server. ``method`` is PUT or GET; a GET asks only for what a PUT as large has written."""

    door: str
    """What is spoken, and who speaks it."""
    passes: int
    """How many requests for each key it takes until all are written."""

    def run(self, method: str, clients: int, seconds: float, keys: int, value_bytes: int) -> Run: ...


@dataclass(frozen=True)
class Wrk:
    """wrk over HTTP with one of our scripts. ``more`` are NAME=VALUE pairs that the script takes."""

    port: int
    script: str = "calls.lua"
    door: str = "HTTP, wrk"
    more: tuple[str, ...] = ()
    passes: int = 1

    def run(self, method: str, clients: int, seconds: float, keys: int, value_bytes: int) -> Run:
        # wrk knows whole seconds only.
        whole_s = max(1, round(seconds))
        command = ["wrk", "-t1", f"-c{clients}", f"-d{whole_s}s", "--timeout", f"{CALL_TIMEOUT_S:.0f}s", "--latency"]
        command += ["-s", str(HERE / self.script), f"http://{HOST}:{self.port}"]
        command += ["--", method, str(keys), str(value_bytes), *self.more]
        saw, generator = _finished(command, whole_s, f"{method} on port {self.port}")
        # wrk's status count begins at 400; nothing here answers 1xx or 3xx.
        wrong = {name: saw[name] for name in ("status", "connect", "read", "write", "timeout") if saw[name]}
        if wrong or not saw["requests"]:
            sys.exit(f"{' '.join(command)}\n{saw['requests']} answers, and errors {wrong}; these figures say nothing")
        if method == "GET" and saw["bytes"] / saw["requests"] < value_bytes:
            sys.exit(f"{' '.join(command)}\nthe answers are smaller than the values that were read")
        return _run(saw, generator)


@dataclass(frozen=True)
class RedisBenchmark:
    """redis-benchmark, which takes a number of requests and no time: a short trial says how many fill the time.

    It draws keys at random: 12 requests for each key leave one in 160,000 unwritten.
    """

    port: int
    door: str = "RESP, redis-benchmark"
    passes: int = 12
    pipeline: int = 1
    """Commands that a client sends before it waits for their replies."""

    def run(self, method: str, clients: int, seconds: float, keys: int, value_bytes: int) -> Run:
        trial, _ = self._run(method, clients, 200 * clients * self.pipeline, keys, value_bytes)
        requests = max(int(float(trial["rps"]) * seconds), clients)
        saw, generator = self._run(method, clients, requests, keys, value_bytes)
        p50_ms, p99_ms = float(saw["p50_latency_ms"]), float(saw["p99_latency_ms"])
        return Run(requests, float(saw["rps"]), p50_ms, p99_ms, generator)

    def _run(
        self, method: str, clients: int, requests: int, keys: int, value_bytes: int
    ) -> tuple[dict[str, str], float]:
        command = ["redis-benchmark", "-h", HOST, "-p", str(self.port), "-c", str(clients), "-n", str(requests)]
        command += ["-d", str(value_bytes), "-r", str(keys), "-t", {"PUT": "set", "GET": "get"}[method], "--csv"]
        command += ["-P", str(self.pipeline)]
        output, generator = _output(command, 10 * SPARE_S)
        rows = list(csv.DictReader(line for line in output.splitlines() if line.startswith('"')))
        if len(rows) != 1:
            sys.exit(f"{' '.join(command)} failed\n{output}")
        return rows[0], generator


@dataclass(frozen=True)
class Own:
    """A client of our own: a module that takes PORT, what else it wants, and SECONDS, and prints what wrk prints."""

    port: int
    module: str
    door: str
    takes_method: bool = True
    passes: int = 1

    def run(self, method: str, clients: int, seconds: float, keys: int, value_bytes: int) -> Run:
        command = [sys.executable, "-m", f"benchmarks.{self.module}", str(self.port)]
        command += [method] if self.takes_method else []
        command += [str(keys), str(value_bytes), str(clients), str(seconds)]
        return _run(*_finished(command, seconds, f"{method} by {self.module}"))


def _run(saw: Any, generator: float) -> Run:
    per_s = saw["requests"] / saw["duration_us"] * 1e6
    return Run(saw["requests"], per_s, saw["p50_us"] / 1e3, saw["p99_us"] / 1e3, generator)


def _finished(command: list[str], seconds: float, what: str) -> tuple[Any, float]:
    """Give the last line that a generator printed, read as JSON, and the cores that it took."""
    output, generator = _output(command, seconds + SPARE_S)
    try:
        return json.loads(output.splitlines()[-1]), generator
    except (IndexError, ValueError):
        sys.exit(f"no figures came from {what}\n{output}")


def _output(command: list[str], patience_s: float) -> tuple[str, float]:
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    try:
        done = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, timeout=patience_s, check=False)
    except subprocess.TimeoutExpired:
        sys.exit(f"{' '.join(command)} did not end within {patience_s:g} s")
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with status {done.returncode}\n{done.stdout}{done.stderr}")
    after, took_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic() - began
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return done.stdout, cpu_s / took_s


def fill(generator: Generator, keys: int, value_bytes: int, clients: int = 64) -> None:
    """Write every key at least once, so that no read misses.

    Most generators go through the keys in order, so a run of more answers than there are keys has written each.
    """
    seconds = 1.0
    while generator.run("PUT", clients, seconds, keys, value_bytes).requests < generator.passes * keys + clients:
        seconds *= 2
