"""The dashboard as a person uses it: a real browser, a real cluster, of which a node is killed."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.sockets.browsing import Visit, shown
from tests.sockets.daemons import Daemon, Farm, call, farming, free_port, token_file, wait_until
from tests.sockets.dashboard.keys import write

pytestmark = pytest.mark.system

WRITER, READER = "writer" * 6, "reader" * 6
HOSTILE = "<img src=x onerror=alert(1)>"


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


def test_keys_and_values_of_any_bytes_are_shown_as_what_they_are(visit: Visit, proxy: Daemon) -> None:
    page = visit.page
    hostile = f"odd:{HOSTILE}"
    write(proxy, "odd:%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E", f"<script>alert(1)</script>{HOSTILE}".encode())
    write(proxy, "odd:%00%FF%E2%80%AE%5C", b"\x00\xff\r\n", **{"Content-Type": "image/png"})
    write(proxy, "odd:%2F..%2F%3F%23%25", b"path")
    visit.browse("odd:", "3 keys")
    names = [one.text_content() for one in page.query_selector_all("#key-list button")]
    assert set(names) == {hostile, "odd:\\x00\\xff\\xe2\\x80\\xae\\\\", "odd:/../?#%"}
    page.click("#key-list button:has-text('onerror')")
    visit.wait("#explain", "A strong read")
    assert page.input_value("#value") == f"<script>alert(1)</script>{HOSTILE}"
    assert page.input_value("#key") == hostile
    page.click("#key-list button:has-text('\\\\x00')")
    visit.wait_value("00 ff 0d 0a")
    assert page.is_checked("input[name=kind][value=hex]")
    visit.write("00 fe 0d 0a")
    visit.wait("#done", "Saved")
    got = call("GET", f"{proxy.url}/v1/kv/odd:%00%FF%E2%80%AE%5C")
    assert (got.body, got.headers["Content-Type"]) == (b"\x00\xfe\r\n", "image/png")
    page.click("#key-list button:has-text('/../')")
    visit.wait_value("path")
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
    visit.browse("page:", "100 keys so far")
    visit.page.click("#more")
    visit.wait("#listed", "130 keys")
    names = [one.text_content() for one in visit.page.query_selector_all("#key-list button")]
    assert names == [f"page:{number:03d}" for number in range(130)]
    assert not visit.page.is_visible("#more")
    assert visit.page.evaluate("document.activeElement.innerText") == "page:129", "whoever turns pages is not lost"


def test_a_list_that_did_not_come_is_not_gone_on_with(visit: Visit, proxy: Daemon) -> None:
    page = visit.page
    for number in range(130):
        write(proxy, f"here:{number:03d}", b"v")
    write(proxy, "there:1", b"v")
    visit.browse("here:", "100 keys so far")
    visit.endures("net::ERR_FAILED")
    page.route("**/v1/keys*", lambda route: route.abort())
    page.fill("#prefix", "there:")
    page.click("#browse button")
    page.wait_for_selector("#browse-error:not([hidden])")
    page.unroute("**/v1/keys*")
    page.click("#more")
    visit.wait("#listed", "130 keys")
    names = [one.text_content() for one in page.query_selector_all("#key-list button")]
    assert names == [f"here:{number:03d}" for number in range(130)]


def test_a_call_that_hangs_is_given_up_and_an_answer_that_was_cut_is_called_so(visit: Visit) -> None:
    visit.page.route("**/v1/hangs", lambda route: None)
    visit.page.route("**/v1/cut", lambda route: route.fulfill(status=200, body='{"keys": ["a'))
    sayings = visit.page.evaluate(
        """async () => {
          const { read, sayable } = await import("/ui/js/api.js");
          const real = globalThis.setTimeout;
          globalThis.setTimeout = (call, ms) => real(call, ms / 100);
          const said = [];
          for (const path of ["/v1/hangs", "/v1/cut"]) await read(path).catch((error) => said.push(sayable(error)));
          globalThis.setTimeout = real;
          return said;
        }"""
    )
    assert [said.split(".")[0] for said in sayings] == ["The proxy does not answer", "The proxy's answer was cut short"]


def test_a_page_of_which_a_part_does_not_come_says_so(browser: Any, proxy: Daemon) -> None:
    with Visit(browser, proxy.url) as visit:
        visit.live()
        visit.endures("net::ERR_FAILED")
        visit.endures("Failed to fetch dynamically imported module")
        visit.page.route("**/ui/js/keys.js", lambda route: route.abort())
        visit.page.reload()
        visit.wait("#health-text", "load it again")


@pytest.mark.parametrize("width", [320, 601, 700, 768, 860, 1000])
def test_nothing_is_wider_than_the_window(browser: Any, proxy: Daemon, width: int) -> None:
    with Visit(browser, proxy.url, width=width) as visit:
        visit.live()
        visit.page.evaluate("document.getElementById('token-forget').hidden = false")
        for text in ("All 5 nodes are up", "Unknown: no connection to the proxy"):
            visit.page.evaluate("text => { document.getElementById('health-text').textContent = text; }", text)
            assert visit.page.evaluate("document.documentElement.scrollWidth") <= width, text


def test_the_page_of_calls_opens_at_any_address_and_has_curl_send_what_was_typed(browser: Any, proxy: Daemon) -> None:
    with Visit(browser, proxy.url) as visit:
        page = visit.live().page
        page.goto(f"{proxy.url}/ui/api.html#%")
        page.click("#putKey > summary")
        page.fill("#putKey .try textarea", "@/etc/hostname")
        visit.wait("#putKey .curl", "--data-raw @/etc/hostname")


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
    visit.wait_value("by hand")
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
            page.on("dialog", lambda dialog: dialog.accept())  # what is typed may be lost

            def show_token(token: str) -> None:
                page.fill("#token", token)
                page.click("#token-form button")

            page.wait_for_selector("#token-dialog[open]")
            page.keyboard.press("Escape")
            show_token("x\u2013y" * 20)
            visit.wait("#token-error", "a character that none has")
            show_token("x" * 20)
            visit.wait("#token-error", "does not know this token")
            show_token(READER)
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
            show_token(WRITER)
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
            visit.endures("net::ERR")  # a browser complains of each connection that is refused
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
