"""Pictures of what ``kvctl`` prints, for the documentation: taken of real daemons, as a terminal of 80 columns has it.

Run from the project's folder: ``python -m benchmarks.terminal --out docs/pictures``. It takes half a minute.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from threading import Thread

from rich.console import Console

from twisted_kv.ctl.main import main as kvctl
from twisted_kv.ctl.progress import bar
from twisted_kv.ctl.showing import Showing, draw_on

from .servers import HOST, call, cluster, processes, wait_until

COLUMNS = 80
RECORDS, VALUE_BYTES, PER_REQUEST = 60_000, 400, 1_000


class Paper:
    """A terminal that is kept as a picture."""

    def __init__(self, out: Path, server: str) -> None:
        self._out = out
        self._server = server

    def take(self, name: str, *commands: Sequence[str]) -> None:
        """Run commands one under the other, and keep what they print."""
        console = self._console()
        for words in commands:
            console.print(f"$ kvctl {' '.join(words)}", markup=False)
            try:
                kvctl([*words, "--server", self._server])
            except SystemExit:
                pass  # it ends with what it found
        self._keep(console, name)

    def bar(self, name: str, words: str, title: str, done: int, total: int, rate: float) -> None:
        """Keep a bar as it was at some moment."""
        console = self._console()
        console.print(f"$ kvctl {words}", markup=False)
        progress = bar(Showing("table"), "slots")
        progress.add_task(title, total=total, completed=done, rate=rate)
        console.print(progress)
        self._keep(console, name)

    def _console(self) -> Console:
        sink = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        console = Console(record=True, width=COLUMNS, force_terminal=True, file=sink, highlight=False)
        draw_on(console)
        return console

    def _keep(self, console: Console, name: str) -> None:
        console.save_svg(str(self._out / f"kvctl-{name}.svg"), title="kvctl")
        console.file.close()


def fill(port: int) -> None:
    from http.client import HTTPConnection

    connection = HTTPConnection(HOST, port, timeout=60)
    for first in range(0, RECORDS, PER_REQUEST):
        lines = (
            json.dumps({"op": "put", "key": f"user/{number}", "value": "v" * VALUE_BYTES})
            for number in range(first, first + PER_REQUEST)
        )
        connection.request("POST", "/v1/bulk", "\n".join(lines), {"Content-Type": "application/x-ndjson"})
        connection.getresponse().read()
    connection.close()


def seen_half_way(port: int) -> tuple[int, int, float]:
    """Wait until a change is on its way, and say how far it is."""
    found: list[tuple[int, int, float]] = []

    def half() -> bool:
        tasks = json.loads(call(port, "GET", "/v1/tasks")[1])["tasks"]
        found.extend(
            (one["done"], one["total"], one["rate"]) for one in tasks if one["kind"] == "rebalance" and one["rate"]
        )
        return bool(found) and found[-1][0] > found[-1][1] / 3

    wait_until(half, "a change that is on its way", 60)
    return found[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/out"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with processes() as running:
        (door,), nodes = cluster(running, "pictures", size=5)
        fill(door)
        paper = Paper(options.out, f"http://{HOST}:{door}")
        leaver = json.loads(call(door, "GET", "/v1/cluster")[1])["members"][4]
        change = Thread(target=call, args=(door, "DELETE", f"/v1/cluster/nodes/{leaver['id']}"))
        change.start()
        done, total, rate = seen_half_way(door)
        paper.bar("bar", f"cluster remove {leaver['id']} --yes", "removing (leave)", done, total, rate)
        change.join()
        wait_until(lambda: len(json.loads(call(door, "GET", "/v1/cluster")[1])["members"]) == 4, "it to have left", 60)
        first = json.loads(call(door, "GET", "/v1/cluster")[1])["members"][0]["id"]
        paper.take("plan", ["cluster", "plan", "--weight", f"{first}=2"])
        paper.take("ring", ["ring", "plot"])
        paper.take("explain", ["explain", "user/17"])
        paper.take("doctor", ["doctor"])
        down = next(port for port in nodes if str(port) not in leaver["url"])
        running.by_name[f"pictures-kvnode-{down}"].kill()
        time.sleep(5)
        call(door, "POST", "/v1/bulk", {"op": "put", "key": "user/17", "value": "newer"})
        time.sleep(2)
        paper.take("status", ["cluster", "status"])


if __name__ == "__main__":
    main()
