"""An open-loop generator: it sends at times fixed in advance, however slow the answers are, as a crowd does.

``python -m benchmarks.open_loop PORT PUT|GET KEYS BYTES CONNECTIONS RATE:SECONDS,...``. It makes the original's calls,
at one rate after another, and prints one line of JSON.

Each of many connections carries one request at a time. A request that is due while all of them wait for answers is not
sent, and counted: its client finds no way in. So times count from the sending, and nobody's waiting is left out. Where
the generator itself cannot keep up, it leaves out what it is late for, and says how much it did send.
"""

from __future__ import annotations

import errno
import itertools
import json
import re
import select
import socket
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .closed_loop import KEY, quiet
from .servers import HOST

BEHIND_S_MAX = 0.05
"""How late a request may leave. What is later is skipped, or the generator would send it all the same, in one burst."""
AT_ONCE = 256
"""Requests that are sent before answers are looked at again."""
OPENING = 32
"""Connections that are being opened at a time: fewer than a listener's backlog."""
DRAIN_S = 5.0
WINDOW_S = 0.25
"""The resolution of the course of things: answers accepted, refused and failed by when they came, and *prompt* ones,
accepted within ``PROMPT_S``, by when they were asked for."""
PROMPT_S = 1.0
STEP_MS = 0.1
"""The resolution of times."""

_length = re.compile(rb"(?i)\r\ncontent-length: *(\d+)").search
_closes = re.compile(rb"(?i)\r\nconnection: *close").search


@dataclass
class Stage:
    """One rate, and what became of its requests."""

    rate: float
    seconds: float
    sent: int = 0
    unsent: int = 0
    """No connection was free."""
    skipped: int = 0
    """The generator was too late for them."""
    lost: int = 0
    """Their connections broke, or no answer came until the end."""
    answers: dict[str, Counter[int]] = field(
        default_factory=lambda: {"accepted": Counter(), "refused": Counter(), "failed": Counter()}
    )
    """How many took how long, in steps: accepted (2xx), refused (429 and 503), failed (all others)."""

    def figures(self) -> dict[str, Any]:
        found: dict[str, Any] = {name: getattr(self, name) for name in ("rate", "seconds", "sent", "unsent", "skipped")}
        found["lost"] = self.lost
        for kind, took in self.answers.items():
            found[kind] = took.total()
            for share in (50, 99):
                found[f"{kind}_p{share}_ms"] = percentile(took, share)
        return found


def percentile(took: Counter[int], share: float) -> float | None:
    """Give a percentile in milliseconds, None where nothing was counted."""
    left = took.total() * share / 100
    for step in sorted(took):
        left -= took[step]
        if left <= 0:
            return round((step + 1) * STEP_MS, 1)
    return None


class Line:
    """One connection, and the request under way on it, if there is one."""

    __slots__ = ("gone", "opening", "received", "sent_s", "socket", "stage")

    def __init__(self) -> None:
        self.received = b""
        self.sent_s = 0.0
        self.stage: Stage | None = None
        self.opening = True
        self.gone = False
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


class OpenLoop:
    """All connections, and whose turn it is to send."""

    def __init__(self, port: int, requests: list[bytes], connections: int) -> None:
        self._port = port
        self._following = itertools.cycle(requests).__next__
        self._poll = select.epoll()
        self._lines: dict[int, Line] = {}
        self._idle: list[Line] = []
        self._opening = 0
        self._windows: Counter[tuple[int, str]] = Counter()
        self._began_s = 0.0
        for _ in range(connections):
            self._open()
            self._until(lambda: self._opening < OPENING, "the server to accept connections")
        self._until(lambda: not self._opening, "the server to accept connections")

    def _until(self, holds: Any, what: str) -> None:
        until_s = time.monotonic() + 30
        while not holds():
            if time.monotonic() > until_s:
                sys.exit(f"waited in vain for {what}")
            self._answers(0.05)

    def run(self, stages: list[Stage]) -> dict[str, Any]:
        quiet()
        self._began_s = began_s = time.monotonic()
        for stage in stages:
            self._offer(stage, began_s)
            began_s += stage.seconds
        until_s = time.monotonic() + DRAIN_S
        while time.monotonic() < until_s and any(line.stage for line in self._lines.values()):
            self._answers(0.05)
        for line in self._lines.values():
            if line.stage is not None:
                line.stage.lost += 1
        last = max((window for window, _ in self._windows), default=0)
        course = {
            kind: [self._windows[window, kind] / WINDOW_S for window in range(last + 1)]
            for kind in ("accepted", "refused", "failed", "prompt")
        }
        return {"stages": [stage.figures() for stage in stages], "window_s": WINDOW_S, "course_per_s": course}

    def _offer(self, stage: Stage, began_s: float) -> None:
        """Send at one rate until its time is over."""
        due, total, clock = 0, round(stage.rate * stage.seconds), time.monotonic
        while due < total:
            late_s = clock() - began_s - due / stage.rate
            if late_s < 0:
                self._answers(min(-late_s, 0.01))
                continue
            if late_s > BEHIND_S_MAX:
                skipped = min(int((late_s - BEHIND_S_MAX) * stage.rate) + 1, total - due)
                stage.skipped += skipped
                due += skipped
                continue
            for _ in range(min(AT_ONCE, int(late_s * stage.rate) + 1, total - due)):
                due += 1
                if (line := self._free_line()) is not None:
                    self._send(line, stage)
                else:
                    stage.unsent += 1
            self._answers(0)
        # The last request was due a moment before the end.
        while (left_s := began_s + stage.seconds - clock()) > 0:
            self._answers(min(left_s, 0.01))

    def _free_line(self) -> Line | None:
        while self._idle:
            line = self._idle.pop()
            if not line.gone:
                return line
        return None

    def _send(self, line: Line, stage: Stage) -> None:
        request = self._following()
        line.stage, line.sent_s = stage, time.monotonic()
        stage.sent += 1
        try:
            # One request is far smaller than a socket's buffer, which is empty.
            assert line.socket.send(request) == len(request)
        except OSError:
            self._lose(line)

    def _answers(self, patience_s: float) -> None:
        """Take what has come."""
        for descriptor, _ in self._poll.poll(patience_s, 1024):
            line = self._lines[descriptor]
            if line.opening:
                self._opened(line)
            else:
                self._receive(line)

    def _receive(self, line: Line) -> None:
        try:
            data = line.socket.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose(line)
            return
        received = line.received + data if line.received else data
        end = received.find(b"\r\n\r\n")
        length = _length(received, 0, end) if end > 0 else None
        if end < 0 or len(received) < end + 4 + (int(length[1]) if length else 0):
            line.received = received
            return
        self._answered(line, received[9:12])
        if _closes(received, 0, end + 2):
            self._lose(line)
        else:
            self._idle.append(line)

    def _answered(self, line: Line, status: bytes) -> None:
        kind = "accepted" if status[:1] == b"2" else "refused" if status in (b"429", b"503") else "failed"
        now_s = time.monotonic()
        took_s = now_s - line.sent_s
        if line.stage is not None:
            line.stage.answers[kind][int(took_s * 1000 / STEP_MS)] += 1
        self._windows[self._window(now_s), kind] += 1
        if kind == "accepted" and took_s <= PROMPT_S:
            self._windows[self._window(line.sent_s), "prompt"] += 1
        line.stage, line.received = None, b""

    def _window(self, at_s: float) -> int:
        return int((at_s - self._began_s) / WINDOW_S)

    # Connections.

    def _open(self) -> None:
        line = Line()
        found = line.socket.connect_ex((HOST, self._port))
        if found not in (0, errno.EINPROGRESS):
            sys.exit(f"cannot connect to port {self._port}: {errno.errorcode.get(found, found)}")
        self._lines[line.socket.fileno()] = line
        self._poll.register(line.socket, select.EPOLLOUT)
        self._opening += 1

    def _opened(self, line: Line) -> None:
        self._opening -= 1
        line.opening = False
        if line.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._lose(line)
            return
        self._poll.modify(line.socket, select.EPOLLIN)
        self._idle.append(line)

    def _lose(self, line: Line) -> None:
        """Give a connection up, and open another one."""
        if line.stage is not None:
            line.stage.lost += 1
            line.stage = None
        del self._lines[line.socket.fileno()]
        line.gone = True
        line.socket.close()
        self._open()


def stages_of(text: str) -> list[Stage]:
    parts = (part.partition(":") for part in text.split(","))
    return [Stage(float(rate), float(seconds)) for rate, _, seconds in parts]


def requests_of(method: str, keys: int, value_bytes: int) -> list[bytes]:
    """The calls of calls.lua."""
    value = {"Value": "v" * value_bytes} if method == "PUT" else {}
    bodies = [json.dumps({"Key": KEY % number} | value).encode() for number in range(keys)]
    head = b"%b /%b HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
    name = method.encode()
    return [head % (name, name, HOST.encode(), len(body), body) for body in bodies]


if __name__ == "__main__":
    port, method, keys, value_bytes, connections, stages = sys.argv[1:]
    loop = OpenLoop(int(port), requests_of(method, int(keys), int(value_bytes)), int(connections))
    print(json.dumps(loop.run(stages_of(stages))))
