"""The dashboard's files and its stream, as real proxies give them: heads, bounds, workers, tokens, and the end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from tests.sockets.daemons import Daemon, Farm, call, farming, token_file, wait_until
from twisted_kv.web.pages import FOLDER, POLICY, STYLE, read_pages

TOKEN, OTHER = "t" * 32, "o" * 32
SLOW_S = 60.0


@pytest.fixture(scope="module")
def farm() -> Iterator[Farm]:
    with tempfile.TemporaryDirectory(prefix="kv-") as folder, farming(Path(folder)) as built:
        built.cluster(3, "--engine", "memory")
        yield built


@pytest.fixture(scope="module")
def proxy(farm: Farm) -> Daemon:
    return farm.proxies[0]


class Stream:
    """One client of ``/v1/events``."""

    def __init__(self, proxy: Daemon, **headers: str) -> None:
        self._connection = HTTPConnection("127.0.0.1", proxy.port, timeout=15)
        self._connection.request("GET", "/v1/events", headers=headers)
        self.answer: HTTPResponse = self._connection.getresponse()

    def lines(self) -> Iterator[str]:
        while line := self.answer.readline():
            yield line.decode().rstrip("\n")

    def snapshots(self) -> Iterator[Any]:
        name = ""
        for line in self.lines():
            field, _, value = line.partition(": ")
            name = value if field == "event" else name
            if field == "data" and name == "snapshot":
                yield json.loads(value)

    def next(self) -> Any:
        return next(self.snapshots())

    def close(self) -> None:
        # A response keeps its socket open beyond its connection.
        self.answer.close()
        self._connection.close()


@pytest.fixture
def stream(proxy: Daemon) -> Iterator[Stream]:
    opened = Stream(proxy)
    yield opened
    opened.close()


def test_every_file_of_the_page_is_served_with_its_heads_and_an_etag(proxy: Daemon) -> None:
    pages = read_pages()
    assert {"index.html", "js/main.js", "css/base.css", "icon.svg", "vendor/uplot-1.6.32/LICENSE"} < set(pages)
    for name, page in pages.items():
        got = call("GET", f"{proxy.url}/ui/{name}")
        body = page.body if name == STYLE else (FOLDER / name).read_bytes()
        assert (got.status, got.body) == (200, body), name
        assert got.headers["Content-Type"] == page.content_type.decode()
        assert got.headers["Content-Security-Policy"] == POLICY.decode()
        assert got.headers["X-Content-Type-Options"] == "nosniff"
        assert got.headers["Referrer-Policy"] == "no-referrer"
        assert got.headers["Cache-Control"] == "no-cache"
        again = call("GET", f"{proxy.url}/ui/{name}", **{"If-None-Match": got.headers["ETag"]})
        assert (again.status, again.body) == (304, b"")
        other = call("GET", f"{proxy.url}/ui/{name}", **{"If-None-Match": '"another"'})
        assert other.status == 200


def test_the_page_is_found_at_its_folder_and_nothing_else_is(proxy: Daemon) -> None:
    index = (FOLDER / "index.html").read_bytes()
    assert call("GET", f"{proxy.url}/ui/").body == call("GET", f"{proxy.url}/ui").body == index
    for path in ("/ui/../README.md", "/ui/..%2f..%2fsite.py", "/ui//index.html", "/ui/js/", "/ui/js", "/ui/%00"):
        got = call("GET", proxy.url + path)
        assert (got.status, got.json()["type"]) == (404, "no-such-route"), path
    assert call("POST", f"{proxy.url}/ui/", b"").status == 405
    assert call("GET", f"{proxy.url}/ui/?x=1").status == 400


def test_the_address_alone_leads_to_the_page_but_not_for_ever(proxy: Daemon) -> None:
    for method, target in (("GET", "/"), ("HEAD", "/"), ("GET", "/?from=bookmark")):
        with closing(HTTPConnection("127.0.0.1", proxy.port, timeout=15)) as connection:
            connection.request(method, target)
            got = connection.getresponse()
            assert (got.status, got.getheader("Location"), got.read()) == (307, "/ui/", b""), target
    assert call("GET", f"{proxy.url}/").body == (FOLDER / "index.html").read_bytes()
    assert call("POST", f"{proxy.url}/", b"").status == 405
    for path in ("/nothing", "/nothing/", "//", "/index.html"):
        got = call("GET", proxy.url + path)
        assert (got.status, got.json()["type"]) == (404, "no-such-route"), path


def test_the_page_has_nothing_in_it_that_its_policy_forbids() -> None:
    pages = read_pages()
    for path in FOLDER.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"<style|\bstyle=|\bon\w+=|javascript:|https?://", text), path
        assert not re.search(r"<script(?![^>]*\bsrc=)", text), path
        for name in re.findall(r'(?:src|href)="([^"#]+)"', text):
            assert name in pages or name in ("/openapi.json", "/ui/"), name
    for path in (FOLDER / "js").rglob("*.js"):
        text = path.read_text(encoding="utf-8")
        forbidden = re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text)
        assert not forbidden, path


def test_the_style_sheets_go_out_as_one() -> None:
    style = read_pages()[STYLE].body
    sheets = [*(FOLDER / "css").glob("*.css"), *(FOLDER / "vendor").rglob("*.css")]
    assert len(sheets) > 5
    assert all(sheet.read_bytes() in style for sheet in sheets)
    assert style.count(b"{") == style.count(b"}")


def test_only_one_sheet_and_the_theme_are_fetched_before_the_page_is_painted() -> None:
    head = (FOLDER / "index.html").read_text(encoding="utf-8").partition("</head>")[0]
    assert re.findall(r'(?:src|href)="([^"]+)"', head) == ["icon.svg", STYLE, "js/theme.js"]


def test_the_stream_tells_how_things_are_and_then_what_has_changed(proxy: Daemon, stream: Stream) -> None:
    assert stream.answer.status == 200
    assert stream.answer.headers["Content-Type"] == "text/event-stream"
    assert stream.answer.headers["Cache-Control"] == "no-store"
    first = stream.next()
    assert first["workers"] == {"asked": 1, "answered": 1}
    assert [member["state"] for member in first["cluster"]["members"]] == ["up"] * 3
    for number in range(40):
        assert call("PUT", f"{proxy.url}/v1/kv/counted-{number}", b"v").status == 204

    def counted() -> float:
        rates = stream.next()["rates"]
        return float(rates["per_s"]["write"] * rates["seconds"]) if rates else 0.0

    seen = 0.0
    while seen < 40:
        seen += counted()
    assert seen == pytest.approx(40)


def test_two_who_watch_are_told_the_same(proxy: Daemon, stream: Stream) -> None:
    other = Stream(proxy)
    ours: set[int] = set()
    theirs: set[int] = set()

    def alike() -> bool:
        ours.add(stream.next()["now_ms"])
        theirs.add(other.next()["now_ms"])
        return len(ours & theirs) >= 2

    wait_until(alike, "two snapshots that both were given")
    other.close()


def test_a_snapshot_is_to_be_had_alone(proxy: Daemon) -> None:
    got = call("GET", f"{proxy.url}/v1/snapshot")
    assert got.status == 200
    assert got.headers["Cache-Control"] == "no-store"
    assert set(got.json()) == {"now_ms", "workers", "rates", "cluster", "troubles", "tasks"}
    assert got.json()["cluster"]["epoch"] == call("GET", f"{proxy.url}/v1/cluster").json()["epoch"]


def test_the_ring_is_given_by_its_arcs_once_for_each_epoch(farm: Farm, proxy: Daemon) -> None:
    got = call("GET", f"{proxy.url}/v1/ring")
    ring = got.json()
    assert sorted(ring["nodes"]) == sorted(member["id"] for member in farm.members())
    firsts = [first for first, _ in ring["arcs"]]
    assert firsts[0] == 0
    assert firsts == sorted(set(firsts))
    assert firsts[-1] < ring["slots"]
    for key in ("a", "user:1", "another"):
        located = call("GET", f"{proxy.url}/v1/ring/locate?key={key}").json()
        owner = [node for first, node in ring["arcs"] if first <= located["slot"]][-1]
        assert ring["nodes"][owner] == located["owners"][0]["id"]
    again = call("GET", f"{proxy.url}/v1/ring", **{"If-None-Match": got.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")


def test_a_head_of_the_stream_ends(proxy: Daemon) -> None:
    assert call("HEAD", f"{proxy.url}/v1/events").status == 200


def test_more_than_may_watch_are_told_so_until_one_goes(tmp_path: Path) -> None:
    bounds = tmp_path / "kvproxy.toml"
    bounds.write_text("[limits]\nviewers_max = 2\n")
    with farming(tmp_path) as built:
        proxy = built.proxy("--config", str(bounds))
        watching = [Stream(proxy), Stream(proxy)]
        for one in watching:
            one.next()
        refused = call("GET", f"{proxy.url}/v1/events")
        assert (refused.status, refused.json()["type"]) == (429, "overloaded")
        assert refused.headers["Retry-After"] == "1"
        assert b"kv_viewers 2.0" in call("GET", f"{proxy.url}/metrics").body
        watching[0].close()
        wait_until(lambda: b"kv_viewers 1.0" in call("GET", f"{proxy.url}/metrics").body, "one to have gone")
        newcomer = Stream(proxy)
        assert newcomer.answer.status == 200
        for one in (watching[1], newcomer):
            one.close()


def test_a_client_that_does_not_read_is_cut_off_and_takes_little_memory(tmp_path: Path) -> None:
    bounds = tmp_path / "kvproxy.toml"
    # Snapshots come so fast that a socket is full at once.
    bounds.write_text("[limits]\nevents_interval_s = 0.001\nstalled_s_max = 1.0\n")
    with farming(tmp_path) as built:
        proxy = built.proxy("--config", str(bounds))
        for _ in range(3):
            built.add(built.node("--engine", "memory"))
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", proxy.port))
            client.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            wait_until(lambda: b"kv_viewers 1.0" in call("GET", f"{proxy.url}/metrics").body, "it to watch")
            wait_until(lambda: b"kv_viewers 0.0" in call("GET", f"{proxy.url}/metrics").body, "it to be cut off", 200)
        assert "Traceback" not in proxy.log()


def test_a_stopping_proxy_ends_its_streams_at_once_and_stops_in_time(tmp_path: Path) -> None:
    patient = tmp_path / "kvproxy.toml"
    # Streams that were waited for would hold it up for as long as an operation may take.
    patient.write_text("[limits]\noperation_timeout_s = 600.0\noperation_timeout_s_max = 600.0\n")
    with farming(tmp_path) as built:
        proxy = built.proxy("--config", str(patient))
        watching = [Stream(proxy) for _ in range(3)]
        for one in watching:
            one.next()
        assert proxy.process is not None
        proxy.process.send_signal(signal.SIGTERM)
        for one in watching:
            list(one.snapshots())  # comes to its end, in good order
            one.close()
        assert proxy.process.wait(SLOW_S) == -signal.SIGTERM
        assert "Traceback" not in proxy.log()


def test_the_stream_shows_a_token_and_ends_when_that_holds_no_more(tmp_path: Path) -> None:
    tokens = token_file(tmp_path / "client.tokens", f"read-write {OTHER}", f"read-only {TOKEN}")
    with farming(tmp_path) as built:
        proxy = built.proxy("--token-file", str(tokens))
        assert call("GET", f"{proxy.url}/ui/").status == 200
        assert call("GET", f"{proxy.url}/v1/events").status == 401
        watching = Stream(proxy, Authorization=f"Bearer {TOKEN}")
        watching.next()
        token_file(tokens, f"read-write {OTHER}")
        assert proxy.process is not None
        os.kill(proxy.process.pid, signal.SIGHUP)
        list(watching.snapshots())
        watching.close()


def written(url: str) -> bool:
    return call("PUT", url, b"v").status == 204


def test_whichever_worker_is_met_its_figures_are_those_of_all() -> None:
    with tempfile.TemporaryDirectory(prefix="kv-") as folder, farming(Path(folder)) as built, ExitStack() as opened:
        patient = Path(folder) / "patient.toml"
        patient.write_text("[limits]\nworker_metrics_timeout_s = 30\nevents_heartbeat_s = 60\n")
        proxy = built.proxy("--workers", "2", "--config", str(patient))
        built.add(built.node("--engine", "memory"))

        def both() -> bool:
            told = [call("GET", f"{proxy.url}/v1/snapshot") for _ in range(4)]
            return all(one.status == 200 and one.json()["workers"] == {"asked": 2, "answered": 2} for one in told)

        wait_until(both, "both workers to be asked", SLOW_S)
        # The kernel spreads connections: of sixteen streams both workers have some, but for one time in 32,768.
        watching = [opened.enter_context(closing(Stream(proxy))) for _ in range(16)]
        told: list[set[int]] = [set() for _ in watching]
        writes = 60
        for one in watching:
            one.next()
        for number in range(writes):
            wait_until(partial(written, f"{proxy.url}/v1/kv/w{number}"), "a worker to hear of the node")
        for one, seen in zip(watching, told, strict=True):
            total = 0.0
            while total < writes:
                snapshot = one.next()
                assert snapshot["workers"] == {"asked": 2, "answered": 2}
                if snapshot["rates"] is not None and snapshot["now_ms"] not in seen:
                    seen.add(snapshot["now_ms"])
                    total += snapshot["rates"]["per_s"]["write"] * snapshot["rates"]["seconds"]
            assert total == pytest.approx(writes)


def test_another_site_s_page_may_change_nothing_through_the_dashboard(proxy: Daemon) -> None:
    foreign = call("PUT", f"{proxy.url}/v1/kv/k", b"v", Origin="http://elsewhere.example")
    assert foreign.status == 403
    own = call("PUT", f"{proxy.url}/v1/kv/k", b"v", Origin=proxy.url)
    assert own.status == 204
