"""The dashboard in a headless Chromium: pages whose every complaint counts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = "/usr/bin/chromium"
"""Debian's. Playwright would fetch a browser of its own."""

PATIENCE_MS = 60_000
AXE = Path(__file__).parent.parent / "vendor" / "axe-core-4.14.1" / "axe.min.js"
GRAVE = ("serious", "critical")


@contextmanager
def chromium() -> Iterator[Any]:
    """Start a browser."""
    # Only these tests and the benchmark need it: it comes with the extra "ui-test".
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=3 * PATIENCE_MS)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """One visitor's page, in a browser context of its own.

    :param refused: statuses of calls that are to be refused: a browser complains of each.
    """

    def __init__(
        self,
        browser: Any,
        url: str,
        *,
        theme: str = "light",
        width: int = 1360,
        height: int = 900,
        refused: tuple[int, ...] = (),
    ) -> None:
        self.context = browser.new_context(color_scheme=theme, viewport={"width": width, "height": height})
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.complaints: list[str] = []
        self.targets: list[str] = []
        self._endured = tuple(f"the server responded with a status of {status}" for status in refused)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self._complain(f"uncaught: {error}"))
        self.page.on("request", lambda request: self.targets.append(request.url))
        self.page.goto(f"{url}/ui/")

    def endures(self, complaint: str) -> None:
        """From now on have one complaint not count."""
        self._endured += (complaint,)

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self._complain(f"{message.type}: {message.text} ({message.location})")

    def _complain(self, text: str) -> None:
        if not any(one in text for one in self._endured):
            self.complaints.append(text)

    def close(self) -> None:
        self.context.close()
        assert self.complaints == []

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if error is None:
            self.close()
        else:
            self.context.close()

    # What a visitor does and sees.

    def live(self) -> Visit:
        """Wait until the page shows the cluster."""
        self.page.wait_for_selector('#pulse[data-state="live"]')
        self.page.wait_for_selector("#members tr")
        self.page.wait_for_selector("#ring svg .arc")
        return self

    def text(self, selector: str) -> str:
        return str(self.page.inner_text(selector))

    def wait(self, selector: str, text: str) -> None:
        """Wait until an element says something."""
        shows = "([selector, text]) => document.querySelector(selector)?.innerText.includes(text)"
        self.page.wait_for_function(shows, arg=[selector, text])

    def states(self) -> dict[str, str]:
        """The members' states, by id."""
        rows = self.page.query_selector_all("#members tr")
        return {row.get_attribute("data-id"): row.query_selector(".state").inner_text() for row in rows}

    def open(self, key: str) -> None:
        self.page.fill("#key", key)
        self.page.click("#opener button")

    def wait_value(self, value: str) -> None:
        """Wait until the open value is this one."""
        self.page.wait_for_function("value => document.getElementById('value').value === value", arg=value)

    def browse(self, prefix: str, listed: str) -> None:
        """List keys, and wait until so many stand there as is said: other lists may come before."""
        self.page.fill("#prefix", prefix)
        self.page.click("#browse button")
        self.page.wait_for_function("listed => document.getElementById('listed').innerText === listed", arg=listed)

    def write(self, value: str) -> None:
        self.page.fill("#value", value)
        self.page.click("#save")

    def grave_faults(self) -> list[dict[str, Any]]:
        """Give what axe-core finds wrong, if it is serious or critical."""
        # It is evaluated by the browser's own protocol, which the page's policy does not bind.
        self.page.evaluate(AXE.read_text(encoding="utf-8"))
        found = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            {"id": one["id"], "nodes": [node["html"][:200] + " " + node["failureSummary"] for node in one["nodes"]]}
            for one in found["violations"]
            if one["impact"] in GRAVE
        ]


def shown(faults: list[dict[str, Any]]) -> str:
    return json.dumps(faults, indent=1)


class HeldUp:
    """A key's answers to a method, which wait until they are let go.

    :param call: below ``/v1/``: ``kv`` or ``explain``, with the key; or another call's path.
    """

    def __init__(self, visit: Visit, method: str, call: str) -> None:
        self._page = visit.page
        self._what = f"{method} {call}"
        self._waiting: list[Any] = []

        def hold(route: Any) -> None:
            if route.request.method == method:
                self._waiting.append(route)
            else:
                route.continue_()

        visit.page.route(f"**/v1/{call}*", hold)

    def wait(self, count: int = 1) -> HeldUp:
        """Wait until the browser has asked so often."""
        until = time.monotonic() + PATIENCE_MS / 1000
        while len(self._waiting) < count and time.monotonic() < until:
            self._page.wait_for_timeout(10)
        assert len(self._waiting) >= count, f"no {self._what} came"
        return self

    def let_go(self) -> None:
        """Have those that have waited answered."""
        self.wait()
        for route in self._waiting:
            with self._page.expect_response(route.request.url):
                route.continue_()
        self._waiting.clear()
