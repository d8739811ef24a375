"""The dashboard: how soon its page is painted, what its viewers cost a proxy, and pictures of it for the documentation.

Run from the project's folder, with the extras "ui-test" and "bench": ``python -m benchmarks.ui``, and with ``--pictures
docs/pictures`` for pictures. Browser, cluster and this program share the machine's cores.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

from .parts import Spread
from .servers import HOST, Processes, call, cluster, processes, wait_until

CHROMIUM = "/usr/bin/chromium"
PAINTS = 11
VIEWERS = 10
ROUNDS = 4
ROUND_S = 15.0
NODES = 5
PICTURE_BYTES_MAX = 200_000
TICKS_PER_S = os.sysconf("SC_CLK_TCK")

FIRST_PAINT = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
"""Paint Timing, section 4: milliseconds from the start of the navigation."""


@contextmanager
def chromium() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def first_paints(browser: Any, door: int) -> list[float]:
    """Open the page with an empty cache, again and again; give the milliseconds to its first contentful paint."""
    found = []
    for _ in range(PAINTS + 1):
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://{HOST}:{door}/ui/")
        # ``wait_for_function`` has a function made of a string, and the page's policy lets nobody do that.
        wait_until(lambda: page.evaluate(FIRST_PAINT) is not None, "the first paint")  # noqa: B023
        found.append(float(page.evaluate(FIRST_PAINT)))
        context.close()
    return found[1:]  # the first one starts the browser's processes


class Viewer:
    """A client that reads the stream and does nothing with it."""

    def __init__(self, door: int) -> None:
        self._connection = HTTPConnection(HOST, door, timeout=30)
        self._connection.request("GET", "/v1/events")
        self._answer = self._connection.getresponse()
        self.events = self.bytes = 0
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            while line := self._answer.readline():
                self.events += line.startswith(b"event: snapshot")
                self.bytes += len(line)
        except (OSError, ValueError, HTTPException):
            pass  # it is closed under our hands, by ``close``

    def close(self) -> None:
        # The thread sits in the middle of a read: an end of the socket lets it go.
        sock = self._answer.fp.raw._sock  # type: ignore[union-attr]
        sock.shutdown(2)
        self._thread.join()
        self._answer.close()
        self._connection.close()


def cpu_s(pid: int) -> float:
    """Give the time that a process has had of a CPU (proc_pid_stat(5), utime and stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def share(pid: int, seconds: float) -> float:
    """Give the part of a CPU that a process takes."""
    began, had = time.monotonic(), cpu_s(pid)
    time.sleep(seconds)
    return (cpu_s(pid) - had) / (time.monotonic() - began)


def viewers_cost(door: int, pid: int, viewers: int) -> tuple[list[float], list[float], float]:
    """Measure a proxy's share of a CPU without viewers and with them, by turns.

    :returns: both, and how many bytes a viewer was sent a second.
    """
    without, with_them, bytes_per_s = [], [], 0.0
    for _ in range(ROUNDS):
        without.append(share(pid, ROUND_S))
        watching = [Viewer(door) for _ in range(viewers)]
        time.sleep(2)
        sent, began = sum(one.bytes for one in watching), time.monotonic()
        with_them.append(share(pid, ROUND_S))
        bytes_per_s = (sum(one.bytes for one in watching) - sent) / (time.monotonic() - began) / viewers
        for one in watching:
            one.close()
    return without, with_them, bytes_per_s


class Clients:
    """Some who read and write, so that there is something to see."""

    def __init__(self, door: int, count: int = 6) -> None:
        self._door = door
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        connection = HTTPConnection(HOST, self._door, timeout=30)
        while not self._stop.wait(random.expovariate(25)):
            path = f"/v1/kv/session%3A{random.randrange(400):04d}"
            value = b"x" * random.randrange(20, 2000) if random.random() < 0.35 else None
            try:
                connection.request("GET" if value is None else "PUT", path, value)
                connection.getresponse().read()
            except (OSError, HTTPException):
                connection.close()
        connection.close()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def compressed(picture: bytes) -> bytes:
    """Make a picture small: it has few colours."""
    from PIL import Image

    out = io.BytesIO()
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE).save(out, "PNG", optimize=True)
    return out.getvalue()


def take_pictures(browser: Any, running: Processes, door: int, nodes: list[int], out: Path, watched_s: float) -> None:
    """Take pictures of a cluster at work: light, dark with a node that was killed, and from a phone."""
    for number, name in enumerate(("Ann", "Ben", "Cleo", "Dan"), 1):
        value = json.dumps({"name": name, "since": 2015 + number, "mail": f"{name.lower()}@example.org"}, indent=2)
        connection = HTTPConnection(HOST, door, timeout=30)
        connection.request("PUT", f"/v1/kv/user%3A{number}", value, {"Content-Type": "application/json"})
        connection.getresponse().read()
        connection.close()
    clients = Clients(door)
    try:
        for name, theme, width, height in (
            ("dashboard-light", "light", 1360, 900),
            ("dashboard-phone", "light", 360, 780),
            ("dashboard-dark", "dark", 1360, 900),
        ):
            context = browser.new_context(color_scheme=theme, viewport={"width": width, "height": height})
            page = context.new_page()
            page.goto(f"http://{HOST}:{door}/ui/")
            page.wait_for_selector("#ring .arc")
            time.sleep(watched_s if width > 400 else watched_s / 3)
            if theme == "dark":
                located = json.loads(call(door, "GET", "/v1/ring/locate?key=user:3")[1])
                victim = int(located["owners"][2]["url"].rpartition(":")[2])
                lost = next(one for name, one in running.by_name.items() if name.endswith(f"kvnode-{victim}"))
                lost.kill()
                assert victim in nodes
                page.wait_for_selector('.nodes .state[data-state="down"]')
                time.sleep(3)
            page.fill("#locate-key", "user:3")
            page.fill("#prefix", "user:" if width < 400 else "")
            page.click("#browse button")
            page.fill("#key", "user:3")
            page.click("#opener button")
            page.wait_for_selector(".owner")
            page.evaluate("document.activeElement.blur(), scrollTo({top: 0, behavior: 'instant'})")
            time.sleep(2)
            picture = compressed(page.screenshot(full_page=True))
            assert len(picture) < PICTURE_BYTES_MAX, (name, len(picture))
            (out / f"{name}.png").write_bytes(picture)
            context.close()
    finally:
        clients.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pictures", type=Path, help="a folder for pictures; nothing is measured then")
    parser.add_argument("--watched-s", type=float, default=90.0, help="how long a page is open before its picture")
    given = parser.parse_args()
    with processes() as running, chromium() as browser:
        (door,), nodes = cluster(running, "ui", "--sync", "always", size=NODES)
        pid = next(one.pid for name, one in running.by_name.items() if "kvproxy" in name)
        if given.pictures:
            take_pictures(browser, running, door, nodes, given.pictures, given.watched_s)
            return
        load = os.getloadavg()[0]
        paints = first_paints(browser, door)
        print(f"load before: {load:.1f} on {os.cpu_count()} cores")
        print(f"first contentful paint, ms, of {PAINTS} visits with an empty cache: {Spread.of(paints)}")
        without, with_them, bytes_per_s = viewers_cost(door, pid, VIEWERS)
        cost = [(after - before) * 100 for before, after in zip(without, with_them, strict=True)]
        print(f"the proxy's share of a CPU, %, with nobody there: {Spread.of([one * 100 for one in without])}")
        print(f"with {VIEWERS} viewers: {Spread.of([one * 100 for one in with_them])}")
        print(
            f"what {VIEWERS} viewers cost, % of a CPU: {Spread.of(cost)}; "
            f"each is sent {bytes_per_s:,.0f} bytes a second"
        )


if __name__ == "__main__":
    main()
