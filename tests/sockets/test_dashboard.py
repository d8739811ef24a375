"""The dashboard as a person uses it: a real browser, a real cluster, of which a node is killed."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sockets.browsing import Visit, chromium, shown
from tests.sockets.daemons import PATIENCE_S, Daemon, Farm, call, farming, free_port, token_file, wait_until

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]

WRITER, READER = "writer" * 6, "reader" * 6
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with farming(tmp_path_factory.mktemp("cluster")) as built:
        built.cluster(5)
        yield built


@pytest.fixture(scope="module")
def proxy(farm: Farm) -> Daemon:
    return farm.proxies[0]


@pytest.fixture
def visit(browser: Any, proxy: Daemon) -> Iterator[Visit]:
    """A visitor who sees no error at all."""
    with Visit(browser, proxy.url) as page:
        yield page.live()


@pytest.fixture
def refused_visit(browser: Any, proxy: Daemon) -> Iterator[Visit]:
    """A visitor some of whose calls are refused: of keys that are not there, and of changes that came too late."""
    with Visit(browser, proxy.url, refused=(404, 412)) as page:
        yield page.live()


def held(proxy: Daemon, key: str) -> bytes | None:
    got = call("GET", f"{proxy.url}/v1/kv/{key}")
    return got.body if got.status == 200 else None


def write(proxy: Daemon, key: str, value: bytes, query: str = "", **headers: str) -> None:
    assert call("PUT", f"{proxy.url}/v1/kv/{key}{query}", value, **headers).status == 204


def test_the_page_shows_the_cluster_and_what_it_does(visit: Visit, farm: Farm, proxy: Daemon) -> None:
    visit.wait("#health-text", "All 5 nodes are up")
    assert visit.states() == {member["id"]: "up" for member in farm.members()}
    assert len(visit.page.query_selector_all("#ring .arc")) == 5
    write(proxy, "shown", b"v")
    # As soon as something was written the time that it took is drawn, and stands there.
    visit.page.wait_for_function(
        "() => ![...document.querySelectorAll('#times-legend b')].slice(2).some(one => one.innerText === '\\u2013')"
        " || (fetch('/v1/kv/shown', {method: 'PUT', body: 'v'}), false)",
        polling=200,
    )
    assert visit.page.evaluate("document.querySelectorAll('.canvas canvas').length") == 2
    assert {target for target in visit.targets if not target.startswith(proxy.url)} == set()


def test_a_node_that_is_killed_is_shown_and_so_is_its_return(visit: Visit, farm: Farm, proxy: Daemon) -> None:
    write(proxy, "missed", b"first")
    victim = farm.owners("missed")[0]
    member = next(one["id"] for one in farm.members() if one["url"] == victim.url)
    victim.kill()
    try:
        visit.wait("#health-text", "1 node down, 4 up")
        assert {node for node, state in visit.states().items() if state == "down"} == {member}
        assert "down" in visit.page.title()
        write(proxy, "missed", b"second")
        visit.wait("#hints", member)
        visit.open("missed")
        visit.page.wait_for_selector(".owner[data-silent]")
        assert member in visit.text(".owner[data-silent]")
        assert len(visit.page.query_selector_all(".owner[data-wins]")) == 2
    finally:
        victim.start()
    visit.wait("#health-text", "All 5 nodes are up")
    visit.wait("#hints", "None wait")
    assert visit.page.title() == "twisted_kv"


def test_a_key_is_written_listed_read_changed_and_deleted(refused_visit: Visit, proxy: Daemon) -> None:
    visit, page = refused_visit, refused_visit.page
    visit.open("story:1")
    visit.wait("#held", "holds no value")
    page.fill("#content-type", "text/plain")
    visit.write("once upon")
    visit.wait("#done", "Created")
    assert held(proxy, "story:1") == b"once upon"
    page.fill("#prefix", "story:")
    page.click("#browse button")
    visit.wait("#key-list", "story:1")
    page.click("#key-list button")
    visit.wait("#explain", "A strong read answers a value")
    assert page.input_value("#value") == "once upon"
    assert page.input_value("#content-type") == "text/plain"
    visit.write("once upon a time\n")
    visit.wait("#done", "Saved")
    got = call("GET", f"{proxy.url}/v1/kv/story:1")
    assert (got.body, got.headers["Content-Type"]) == (b"once upon a time\n", "text/plain")
    page.click("#remove")
    page.click("#delete-dialog button[value=no]")
    assert held(proxy, "story:1") is not None
    page.click("#remove")
    page.click("#delete-dialog button[value=yes]")
    visit.wait("#done", "Deleted")
    assert held(proxy, "story:1") is None
    visit.wait("#explain", "that it was deleted")
    visit.wait("#browse-empty", "No key begins with story:")


def test_what_somebody_else_wrote_meanwhile_is_not_overwritten_unseen(refused_visit: Visit, proxy: Daemon) -> None:
    visit, page = refused_visit, refused_visit.page
    write(proxy, "shared", b"first")
    visit.open("shared")
    visit.wait("#explain", "A strong read")
    write(proxy, "shared", b"theirs")
    visit.write("mine")
    visit.wait("#conflict", "Somebody else has changed this key since you read it")
    assert "theirs" in visit.text("#conflict pre")
    assert held(proxy, "shared") == b"theirs"
    page.click("text=Take theirs")
    page.wait_for_function("() => document.getElementById('value').value === 'theirs'")
    # Once more, and now the own one is wanted; and meanwhile there is a third one, which is not overwritten either.
    write(proxy, "shared", b"theirs again")
    visit.write("mine")
    visit.wait("#conflict", "theirs again")
    write(proxy, "shared", b"and again")
    page.click("text=Overwrite theirs")
    visit.wait("#conflict", "and again")
    assert held(proxy, "shared") == b"and again"
    page.click("text=Overwrite theirs")
    visit.wait("#done", "Saved")
    assert held(proxy, "shared") == b"mine"
    write(proxy, "shared", b"changed before it is deleted")
    page.click("#remove")
    page.click("#delete-dialog button[value=yes]")
    visit.wait("#conflict", "changed before it is deleted")
    assert held(proxy, "shared") == b"changed before it is deleted"


def test_a_key_that_was_created_meanwhile_is_not_overwritten_either(refused_visit: Visit, proxy: Daemon) -> None:
    visit = refused_visit
    visit.open("new")
    visit.wait("#held", "holds no value")
    write(proxy, "new", b"theirs")
    visit.write("mine")
    visit.wait("#conflict", "theirs")
    assert held(proxy, "new") == b"theirs"


def held_up(visit: Visit, method: str, key: str, of: str = "kv") -> Any:
    """Have a key's answers to a method wait; gives what lets go of those that have waited."""
    waiting: list[Any] = []

    def hold(route: Any) -> None:
        if route.request.method == method:
            waiting.append(route)
        else:
            route.continue_()

    visit.page.route(f"**/v1/{of}/{key}*", hold)

    def let_go() -> None:
        until = time.monotonic() + PATIENCE_S
        while not waiting and time.monotonic() < until:
            visit.page.wait_for_timeout(10)  # the browser has asked by now, and we may not have heard of it
        assert waiting, f"no {method} of {key} came"
        for route in waiting:
            with visit.page.expect_response(route.request.url):
                route.continue_()

    return let_go


def test_what_comes_of_a_key_after_another_was_opened_is_not_taken_for_that_ones(
    refused_visit: Visit, proxy: Daemon
) -> None:
    visit, page = refused_visit, refused_visit.page
    write(proxy, "slow", b"old")
    write(proxy, "other", b"the other's")
    visit.open("slow")
    visit.wait("#explain", "A strong read")
    let_go = held_up(visit, "PUT", "slow")
    visit.write("new")
    visit.open("other")
    page.wait_for_function("() => document.getElementById('value').value === \"the other's\"")
    let_go()
    page.wait_for_function("() => !document.getElementById('save').disabled")
    visit.write("the other's own")
    visit.wait("#done", "Saved")
    assert (held(proxy, "slow"), held(proxy, "other")) == (b"new", b"the other's own")


def test_a_deletion_that_ends_after_another_key_was_opened_empties_nothing(refused_visit: Visit, proxy: Daemon) -> None:
    visit, page = refused_visit, refused_visit.page
    write(proxy, "going", b"old")
    write(proxy, "staying", b"stays")
    visit.open("going")
    visit.wait("#explain", "A strong read")
    let_go = held_up(visit, "DELETE", "going")
    page.click("#remove")
    page.click("#delete-dialog button[value=yes]")
    visit.open("staying")
    page.wait_for_function("() => document.getElementById('value').value === 'stays'")
    let_go()
    page.wait_for_function("() => !document.getElementById('save').disabled")
    assert (page.input_value("#value"), visit.text("#save"), held(proxy, "going")) == ("stays", "Save", None)


def test_what_is_deleted_is_the_key_that_was_asked_about_even_if_another_one_comes_meanwhile(
    refused_visit: Visit, proxy: Daemon
) -> None:
    visit, page = refused_visit, refused_visit.page
    write(proxy, "late-asked", b"goes")
    write(proxy, "late-other", b"stays")
    page.fill("#prefix", "late-")
    page.click("#browse button")
    visit.wait("#key-list", "late-other")
    page.click('#key-list [data-key="late-asked"]')
    visit.wait("#explain", "A strong read")
    let_go = held_up(visit, "GET", "late-other")
    page.click('#key-list [data-key="late-other"]')
    page.click("#remove")
    let_go()
    page.wait_for_function("() => document.getElementById('value').value === 'stays'")
    assert visit.text("#delete-key") == "late-asked"
    page.click("#delete-dialog button[value=yes]")
    wait_until(lambda: held(proxy, "late-asked") is None, "the deletion")
    page.wait_for_function("() => !document.getElementById('save').disabled")
    assert (page.input_value("#value"), visit.text("#save"), held(proxy, "late-other")) == ("stays", "Save", b"stays")


def test_a_stream_of_which_something_cannot_be_shown_is_not_kept_beside_the_next(browser: Any, proxy: Daemon) -> None:
    with Visit(browser, proxy.url) as visit:
        visit.live()
        ended = """
            async () => {
              const { follow } = await import("/ui/js/stream.js");
              const real = globalThis.fetch;
              let signal = null;
              globalThis.fetch = (path, given) => { signal = given.signal; return real(path, given); };
              const fails = () => { throw new Error("no"); };
              await new Promise((resolve) => follow(fails, (state) => state === "lost" && resolve()));
              const ended = signal.aborted;
              globalThis.fetch = real;
              return ended;
            }
        """
        assert visit.page.evaluate(ended) is True


def test_a_call_without_an_end_is_tried_and_given_up_when_it_has_shown_something(browser: Any, proxy: Daemon) -> None:
    def watched() -> str:
        found = re.search(r"^kv_viewers (.*)$", call("GET", f"{proxy.url}/metrics").body.decode(), re.MULTILINE)
        assert found is not None
        return found[1]

    with Visit(browser, proxy.url) as visit:
        page = visit.live().page
        page.goto(f"{proxy.url}/ui/api.html")
        page.click("#watch > summary")
        page.click("#watch .try button")
        visit.wait("#watch .result", "event: snapshot")
        wait_until(lambda: watched() == "0.0", "nobody to watch any more")


def test_a_value_keeps_its_time_when_it_is_saved(visit: Visit, proxy: Daemon) -> None:
    write(proxy, "brief", b"v", "?ttl=3000")
    visit.open("brief")
    visit.page.wait_for_function("() => Number(document.getElementById('ttl').value) > 2000")
    visit.write("w")
    visit.wait("#done", "Saved")
    got = call("GET", f"{proxy.url}/v1/kv/brief")
    assert (got.body, "KV-Expires-Ms" in got.headers) == (b"w", True)


def test_a_value_keeps_its_time_however_long_it_was_open_and_has_another_one_that_was_typed(
    visit: Visit, proxy: Daemon
) -> None:
    def left_s() -> float:
        got = call("GET", f"{proxy.url}/v1/kv/open")
        return int(got.headers["KV-Expires-Ms"]) / 1000 - time.time() if "KV-Expires-Ms" in got.headers else 0.0

    write(proxy, "open", b"v", "?ttl=3000")
    visit.open("open")
    visit.wait("#explain", "A strong read")
    visit.page.evaluate("(now => { Date.now = () => now + 1_000_000; })(Date.now())")
    visit.write("w")
    visit.wait("#done", "Saved")
    assert 1000 < left_s() <= 2000
    visit.page.fill("#ttl", "5000")
    visit.page.click("#save")
    wait_until(lambda: left_s() > 2000, "the time that was typed")
    visit.wait("#done", "Saved")
    visit.page.fill("#ttl", "")
    visit.page.click("#save")
    wait_until(lambda: left_s() == 0, "to have no end")


def test_the_time_of_one_key_is_not_taken_for_another_ones(refused_visit: Visit, proxy: Daemon) -> None:
    page = refused_visit.page
    write(proxy, "timed", b"v", "?ttl=3000")
    refused_visit.open("timed")
    refused_visit.wait("#explain", "A strong read")
    assert page.input_value("#ttl")
    page.fill("#key", "untimed")
    assert page.input_value("#ttl") == ""
    page.click("#save")
    refused_visit.wait("#done", "Created")
    assert "KV-Expires-Ms" not in call("GET", f"{proxy.url}/v1/kv/untimed").headers


def test_keys_and_values_of_any_bytes_are_shown_as_what_they_are(visit: Visit, proxy: Daemon) -> None:
    page = visit.page
    hostile = f"odd:{HOSTILE}"
    write(proxy, "odd:%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E", f"<script>alert(1)</script>{HOSTILE}".encode())
    write(proxy, "odd:%00%FF%E2%80%AE%5C", b"\x00\xff\r\n", **{"Content-Type": "image/png"})
    write(proxy, "odd:%2F..%2F%3F%23%25", b"path")
    page.fill("#prefix", "odd:")
    page.click("#browse button")
    visit.wait("#key-list", "odd:")
    names = [one.text_content() for one in page.query_selector_all("#key-list button")]
    assert set(names) == {hostile, "odd:\\x00\\xff\\xe2\\x80\\xae\\\\", "odd:/../?#%"}
    page.click("#key-list button:has-text('onerror')")
    visit.wait("#explain", "A strong read")
    assert page.input_value("#value") == f"<script>alert(1)</script>{HOSTILE}"
    assert page.input_value("#key") == hostile
    page.click("#key-list button:has-text('\\\\x00')")
    page.wait_for_function("() => document.getElementById('value').value === '00 ff 0d 0a'")
    assert page.is_checked("input[name=kind][value=hex]")
    visit.write("00 fe 0d 0a")
    visit.wait("#done", "Saved")
    got = call("GET", f"{proxy.url}/v1/kv/odd:%00%FF%E2%80%AE%5C")
    assert (got.body, got.headers["Content-Type"]) == (b"\x00\xfe\r\n", "image/png")
    page.click("#key-list button:has-text('/../')")
    page.wait_for_function("() => document.getElementById('value').value === 'path'")
    page.fill("#locate-key", hostile)
    visit.wait("#located", "Clockwise from there")
    assert page.query_selector("main img, main script, main a[href^=javascript]") is None


def test_bytes_come_back_from_how_they_are_shown(visit: Visit) -> None:
    wrong = visit.page.evaluate(
        """async () => {
          const {show, parse, hex, unhex, editable, encode, same} = await import("/ui/js/bytes.js");
          const wrong = [];
          for (let length = 0; length < 400; length++) {
            const bytes = crypto.getRandomValues(new Uint8Array(length % 40));
            if (length % 3 === 0) bytes.forEach((byte, at) => { bytes[at] = byte & 0x7f; });
            const text = show(bytes);
            if (!same(parse(text), bytes) || !same(unhex(hex(bytes)), bytes)) wrong.push(text);
            if (/[^\\P{C}]|[\\p{Zl}\\p{Zp}]/u.test(text)) wrong.push("unseen: " + text);
            const value = editable(bytes);
            if (value !== null && !same(encode(value), bytes)) wrong.push("edited: " + text);
          }
          const texts = ["é", "日本", "👍", "a b", "\\u202e", "\\u00a0", "\\ufeff", "\\\\x41", "\\ud83d\\udc4d\\ufe0f"];
          for (const text of texts) {
            if (!same(parse(show(encode(text))), encode(text))) wrong.push(text);
          }
          return wrong;
        }"""
    )
    assert wrong == []


def test_events_are_read_in_whatever_pieces_they_come(visit: Visit) -> None:
    wrong = visit.page.evaluate(
        """async () => {
          const {EventReader} = await import("/ui/js/stream.js");
          const wanted = JSON.stringify([["a", "1\\n2"], ["message", "x: y"], ["b", ""]]);
          const wrong = [];
          for (const end of ["\\n", "\\r\\n", "\\r"]) {
            const text = [
              "retry: 1", "", ": note", "event: a", "data: 1", "data:2", "",
              "data: x: y", "", "event: b", "data", "", "event: none", "", "",
            ].join(end);
            for (let size = 1; size < 20; size++) {
              const reader = new EventReader();
              const found = [];
              for (let at = 0; at < text.length; at += size) {
                found.push(...reader.feed(text.slice(at, at + size)));
              }
              if (JSON.stringify(found) !== wanted) wrong.push([end, size, found]);
            }
          }
          return wrong;
        }"""
    )
    assert wrong == []


def test_a_key_that_is_typed_lights_up_its_owners(visit: Visit, farm: Farm, proxy: Daemon) -> None:
    visit.page.fill("#locate-key", "user:3")
    visit.wait("#located", "Clockwise from there")
    owners = [owner["id"] for owner in call("GET", f"{proxy.url}/v1/ring/locate?key=user:3").json()["owners"]]
    named = [one.inner_text() for one in visit.page.query_selector_all("#located li .mono")]
    assert named == owners
    lit = [one.get_attribute("data-id") for one in visit.page.query_selector_all("#members tr[data-lit]")]
    assert set(lit) == set(owners)
    assert len(visit.page.query_selector_all("#ring .arc[data-lit]")) == len(owners)
    visit.page.fill("#locate-key", "")
    visit.page.wait_for_function("() => !document.querySelector('[data-lit]')")
    visit.page.fill("#locate-key", "\\x")
    visit.wait("#located", "A backslash begins")


def test_a_key_is_explained_by_what_each_owner_holds(visit: Visit, farm: Farm, proxy: Daemon) -> None:
    write(proxy, "plain", b"twelve bytes")
    visit.open("plain")
    visit.wait("#explain", "A strong read answers a value")
    told = call("GET", f"{proxy.url}/v1/explain/plain").json()
    cards = [one.inner_text() for one in visit.page.query_selector_all(".owner .id")]
    assert cards == [owner["id"] for owner in told["owners"]]
    assert "12 B" in visit.text(".owner .holds")
    assert str(told["slot"]) in visit.text("#explain-slot").replace(",", "")


def test_the_list_goes_on_page_by_page(visit: Visit, proxy: Daemon) -> None:
    for number in range(130):
        write(proxy, f"page:{number:03d}", b"v")
    visit.page.fill("#prefix", "page:")
    visit.page.click("#browse button")
    visit.wait("#listed", "100 keys so far")
    visit.page.click("#more")
    visit.wait("#listed", "130 keys")
    names = [one.text_content() for one in visit.page.query_selector_all("#key-list button")]
    assert names == [f"page:{number:03d}" for number in range(130)]
    assert not visit.page.is_visible("#more")


@pytest.mark.parametrize(("theme", "width"), [("light", 1360), ("dark", 1360), ("light", 360), ("dark", 360)])
def test_axe_finds_no_serious_fault(browser: Any, proxy: Daemon, theme: str, width: int) -> None:
    write(proxy, "axe", b"v")
    with Visit(browser, proxy.url, theme=theme, width=width, refused=(412,)) as visit:
        visit.live()
        assert visit.page.evaluate("document.documentElement.dataset.theme") == theme
        visit.page.fill("#locate-key", "axe")
        visit.open("axe")
        visit.wait("#explain", "A strong read")
        visit.wait("#located", "Clockwise")
        faults = visit.grave_faults()
        assert faults == [], shown(faults)
        write(proxy, "axe", b"theirs")
        visit.write("mine")
        visit.wait("#conflict", "theirs")
        visit.page.click("#remove")
        faults = visit.grave_faults()
        assert faults == [], shown(faults)
        # Nothing is wider than the window.
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width


def test_axe_would_find_a_fault(visit: Visit) -> None:
    visit.page.evaluate("document.querySelector('label[for=key]').remove()")
    visit.page.evaluate("document.getElementById('notation').style.color = '#ddd'")
    assert {fault["id"] for fault in visit.grave_faults()} >= {"label", "color-contrast"}


def test_the_page_is_usable_by_keyboard(visit: Visit, proxy: Daemon) -> None:
    page = visit.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    write(proxy, "typed", b"by hand")
    page.focus("#key")
    page.keyboard.type("typed")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('value').value === 'by hand'")
    # Whatever takes the focus shows it, and has a name.
    nameless = page.evaluate(
        """() => [...document.querySelectorAll('button, input, textarea, a')]
          .filter(one => one.offsetParent && !one.labels?.length && !one.innerText && !one.ariaLabel)
          .map(one => one.outerHTML)"""
    )
    assert nameless == []


def test_a_theme_that_is_chosen_stays(visit: Visit) -> None:
    def theme() -> str:
        return str(visit.page.evaluate("document.documentElement.dataset.theme"))

    assert theme() == "light"
    visit.page.click("#theme")
    assert theme() == "dark"
    visit.page.reload()
    visit.live()
    assert theme() == "dark"
    assert visit.text("#theme") == "Light theme"


def test_a_proxy_that_asks_for_tokens_has_the_page_ask_for_one(
    browser: Any, tmp_path: Path, no_logged_failure: object
) -> None:
    tokens = token_file(tmp_path / "client.tokens", f"read-write {WRITER}", f"read-only {READER}")
    with farming(tmp_path) as built:
        node = built.node("--engine", "memory")
        proxy = built.proxy("--token-file", str(tokens), "--nodes", node.url, "--replicas", "1")
        shown_token = {"Authorization": f"Bearer {WRITER}"}
        wait_until(lambda: call("GET", f"{proxy.url}/health/ready", **shown_token).status == 200, "the proxy to serve")
        with Visit(browser, proxy.url, refused=(401, 403, 404)) as visit:
            page = visit.page
            page.wait_for_selector("#token-dialog[open]")
            page.keyboard.press("Escape")
            page.fill("#token", "x" * 20)
            page.click("#token-form button")
            visit.wait("#token-error", "does not know this token")
            page.fill("#token", READER)
            page.click("#token-form button")
            visit.live()
            visit.open("k")
            visit.wait("#held", "holds no value")
            visit.write("v")
            visit.wait("#editor-error", "allows to read, and nothing else")
            # It is kept for this tab, and is in no URL.
            page.reload()
            visit.live()
            page.click("#token-forget")
            page.wait_for_selector("#token-dialog[open]")
            page.fill("#token", WRITER)
            page.click("#token-form button")
            visit.live()
            visit.open("k")
            visit.wait("#held", "holds no value")
            visit.write("v")
            visit.wait("#done", "Created")
            assert not [target for target in visit.targets if READER in target or WRITER in target]
            assert page.evaluate("JSON.stringify(localStorage) + document.cookie") == "{}"


def test_a_proxy_that_goes_away_and_comes_back_is_followed(browser: Any, tmp_path: Path) -> None:
    with farming(tmp_path) as built:
        proxy = built.cluster(1, "--engine", "memory")
        with Visit(browser, proxy.url) as visit:
            visit.live()
            visit._refused = ("net::ERR",)  # a browser complains of each connection that is refused
            assert proxy.process is not None
            os.kill(proxy.process.pid, signal.SIGTERM)
            proxy.end()
            visit.wait("#pulse", "no connection")
            visit.wait("#trouble", "as it was")
            proxy.start()
            visit.wait("#pulse", "live")
            visit.page.wait_for_selector("#trouble", state="hidden")


def test_an_empty_cluster_says_what_to_do(browser: Any, tmp_path: Path) -> None:
    with farming(tmp_path) as built:
        proxy = built.proxy()
        with Visit(browser, proxy.url, refused=(503,)) as visit:
            visit.wait("#health-text", "No node yet")
            visit.wait("#members-empty", "kvctl cluster add")
            visit.page.fill("#locate-key", "k")
            visit.wait("#located", "no storage node")


def test_a_node_that_joins_is_seen_to_be_filled(browser: Any, tmp_path: Path) -> None:
    with farming(tmp_path) as built:
        slow = tmp_path / "kvproxy.toml"
        slow.write_text("[limits]\nrebalance_bytes_per_s = 100000\nchange_answer_s = 0.1\n")
        proxy = built.proxy("--config", str(slow))
        for _ in range(3):
            built.add(built.node("--engine", "memory"))
        for number in range(200):
            write(proxy, f"moved:{number}", b"x" * 10_000)
        newcomer = Daemon(tmp_path, "kvnode", free_port(), "--engine", "memory")
        built.nodes.append(newcomer)
        with Visit(browser, proxy.url) as visit:
            visit.live()
            assert call("POST", f"{proxy.url}/AddServer", b'{"url": "%s"}' % newcomer.url.encode()).status == 200
            visit.wait("#moves", "A node joins")
            visit.wait("#moves", "slots")
            visit.wait("#health-text", "Data is moving")
            visit.page.wait_for_function("() => document.querySelectorAll('#ring .arc').length === 4")
            visit.wait("#health-text", "All 4 nodes are up")
