"""Keys read, written and deleted by a person at the dashboard: nothing is lost, and nothing happens to another key."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.sockets.browsing import HeldUp, Visit
from tests.sockets.daemons import Daemon, call, wait_until
from tests.sockets.dashboard.keys import held, write

pytestmark = pytest.mark.system


def test_a_key_is_written_listed_read_changed_and_deleted(refused_visit: Visit, proxy: Daemon) -> None:
    visit, page = refused_visit, refused_visit.page
    visit.open("story:1")
    visit.wait("#held", "holds no value")
    page.fill("#content-type", "text/plain")
    visit.write("once upon")
    visit.wait("#done", "Created")
    assert held(proxy, "story:1") == b"once upon"
    page.reload()
    visit.live()
    visit.browse("story:", "1 key")
    page.click('#key-list [data-key="story:1"]')
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
    visit.wait_value("theirs")
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


def test_what_comes_of_a_key_after_another_was_opened_is_not_taken_for_that_ones(
    refused_visit: Visit, proxy: Daemon
) -> None:
    visit, page = refused_visit, refused_visit.page
    write(proxy, "slow", b"old")
    write(proxy, "other", b"the other's")
    visit.open("slow")
    visit.wait("#explain", "A strong read")
    waiting = HeldUp(visit, "PUT", "kv/slow")
    page.on("dialog", lambda dialog: dialog.accept())  # it is not saved yet
    visit.write("new")
    visit.open("other")
    visit.wait_value("the other's")
    waiting.let_go()
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
    waiting = HeldUp(visit, "DELETE", "kv/going")
    page.click("#remove")
    page.click("#delete-dialog button[value=yes]")
    visit.open("staying")
    visit.wait_value("stays")
    waiting.let_go()
    page.wait_for_function("() => !document.getElementById('save').disabled")
    assert (page.input_value("#value"), visit.text("#save"), held(proxy, "going")) == ("stays", "Save", None)


def test_what_is_deleted_is_the_key_that_was_asked_about_even_if_another_one_comes_meanwhile(
    refused_visit: Visit, proxy: Daemon
) -> None:
    visit, page = refused_visit, refused_visit.page
    write(proxy, "late-asked", b"goes")
    write(proxy, "late-other", b"stays")
    visit.browse("late-", "2 keys")
    page.click('#key-list [data-key="late-asked"]')
    visit.wait("#explain", "A strong read")
    waiting = HeldUp(visit, "GET", "kv/late-other")
    page.click('#key-list [data-key="late-other"]')
    page.click("#remove")
    waiting.let_go()
    visit.wait_value("stays")
    assert visit.text("#delete-key") == "late-asked"
    page.click("#delete-dialog button[value=yes]")
    wait_until(lambda: held(proxy, "late-asked") is None, "the deletion")
    page.wait_for_function("() => !document.getElementById('save').disabled")
    assert (page.input_value("#value"), visit.text("#save"), held(proxy, "late-other")) == ("stays", "Save", b"stays")


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


# What is typed while something is under way.


def test_a_key_that_is_typed_while_another_one_is_created_is_not_taken_for_that_one(
    refused_visit: Visit, proxy: Daemon
) -> None:
    visit, page = refused_visit, refused_visit.page
    waiting = HeldUp(visit, "PUT", "kv/first")
    page.fill("#key", "first")
    visit.write("the first one's")
    waiting.wait()
    page.fill("#key", "second")
    waiting.let_go()
    visit.write("the second one's")
    visit.wait("#done", "Created")
    assert (held(proxy, "first"), held(proxy, "second")) == (b"the first one's", b"the second one's")


def test_a_conflict_is_let_go_with_its_key(refused_visit: Visit, proxy: Daemon) -> None:
    visit, page = refused_visit, refused_visit.page
    write(proxy, "taken", b"precious")
    page.fill("#key", "taken")
    visit.write("for a free one")
    visit.wait("#conflict", "precious")
    page.fill("#key", "free")
    assert not page.is_visible("#conflict")
    page.click("#save")
    visit.wait("#done", "Created")
    assert (held(proxy, "taken"), held(proxy, "free")) == (b"precious", b"for a free one")


def test_a_late_answer_replaces_nothing_that_was_typed(refused_visit: Visit, proxy: Daemon) -> None:
    visit, page = refused_visit, refused_visit.page
    write(proxy, "late", b"its value")
    waiting = HeldUp(visit, "GET", "kv/late")
    visit.open("late")
    waiting.wait()
    page.fill("#value", "typed meanwhile")
    waiting.let_go()
    visit.wait("#editor-error", "you have typed meanwhile")
    assert page.input_value("#value") == "typed meanwhile"
    page.fill("#key", "later")
    page.fill("#value", "typed for another one")
    page.click("#save")
    visit.wait("#done", "Created")
    assert (held(proxy, "late"), held(proxy, "later")) == (b"its value", b"typed for another one")


def test_what_both_were_put_together_to_at_a_conflict_is_what_is_saved(refused_visit: Visit, proxy: Daemon) -> None:
    visit, page = refused_visit, refused_visit.page
    write(proxy, "merged", b"first")
    visit.open("merged")
    visit.wait("#explain", "A strong read")
    write(proxy, "merged", b"theirs")
    visit.write("mine")
    visit.wait("#conflict", "theirs")
    page.fill("#value", "theirs and mine")
    page.click("text=Overwrite theirs")
    visit.wait("#done", "Saved")
    assert held(proxy, "merged") == b"theirs and mine"


def test_what_could_not_be_written_over_is_open_all_the_same(refused_visit: Visit, proxy: Daemon) -> None:
    visit, page = refused_visit, refused_visit.page
    write(proxy, "stubborn", b"theirs", "?ttl=3000")
    page.fill("#key", "stubborn")
    visit.write("mine")
    visit.wait("#conflict", "theirs")
    visit.endures("net::ERR_FAILED")
    page.route("**/v1/kv/stubborn*", lambda route: route.abort())
    page.click("text=Overwrite theirs")
    visit.wait("#editor-error", "does not answer")
    assert "version" in visit.text("#held")
    assert int(page.input_value("#ttl")) > 2000, "theirs expires, and that is shown before it is written over"
    page.unroute("**/v1/kv/stubborn*")
    page.click("#save")
    visit.wait("#done", "Saved")
    got = call("GET", f"{proxy.url}/v1/kv/stubborn")
    assert (got.body, "KV-Expires-Ms" in got.headers) == (b"mine", True)


def test_a_value_that_has_expired_meanwhile_can_be_written_again_and_stays(refused_visit: Visit, proxy: Daemon) -> None:
    visit, page = refused_visit, refused_visit.page
    write(proxy, "expiring", b"v", "?ttl=3000")
    visit.open("expiring")
    visit.wait("#explain", "A strong read answers a value")
    page.evaluate("(now => { Date.now = () => now() + 4_000_000; })(Date.now)")
    assert call("DELETE", f"{proxy.url}/v1/kv/expiring").status == 204  # as its expiry would
    visit.write("w")
    visit.wait("#conflict", "Somebody else has deleted this key")
    page.click("text=Write mine again")
    visit.wait("#done", "Created")
    got = call("GET", f"{proxy.url}/v1/kv/expiring")
    assert (got.body, "KV-Expires-Ms" in got.headers, page.input_value("#ttl")) == (b"w", False, "")


def test_whoever_types_while_a_key_is_deleted_goes_on_typing(refused_visit: Visit, proxy: Daemon) -> None:
    visit, page = refused_visit, refused_visit.page
    write(proxy, "deleted", b"v")
    visit.open("deleted")
    visit.wait("#explain", "A strong read")
    waiting = HeldUp(visit, "DELETE", "kv/deleted")
    page.click("#remove")
    page.click("#delete-dialog button[value=yes]")
    waiting.wait()
    page.fill("#value", "the n")
    waiting.let_go()
    visit.wait("#done", "Deleted")
    page.keyboard.type("ext")
    assert (page.input_value("#key"), page.input_value("#value")) == ("deleted", "the next")


def test_what_is_not_saved_is_not_left_without_being_asked(refused_visit: Visit, proxy: Daemon) -> None:
    visit, page = refused_visit, refused_visit.page
    asked: list[str] = []
    wanted = False

    def answer(dialog: Any) -> None:
        asked.append(dialog.message)
        dialog.accept() if wanted else dialog.dismiss()

    page.on("dialog", answer)
    write(proxy, "draft:1", b"one")
    write(proxy, "draft:2", b"two")
    visit.browse("draft:", "2 keys")
    page.click('#key-list [data-key="draft:1"]')
    visit.wait("#explain", "A strong read")
    page.fill("#value", "an hour of work")
    page.click('#key-list [data-key="draft:2"]')
    page.click("#reread")
    assert page.input_value("#value") == "an hour of work"
    assert len(asked) == 2
    assert "not saved" in asked[0]
    wanted = True
    page.click('#key-list [data-key="draft:2"]')
    visit.wait_value("two")
    page.fill("#value", "two and a half")
    page.click("#save")
    visit.wait("#done", "Saved")
    page.click('#key-list [data-key="draft:1"]')
    visit.wait_value("one")
    assert len(asked) == 3, "what is saved can be left"
    page.check("input[name=kind][value=hex]")
    page.click('#key-list [data-key="draft:2"]')
    visit.wait_value("two and a half")
    assert len(asked) == 3, "and so can what was looked at in another way"
    wanted = False
    waiting = HeldUp(visit, "PUT", "kv/draft%3A2")
    visit.write("on its way")
    waiting.wait()
    page.click('#key-list [data-key="draft:1"]')
    assert len(asked) == 4, "what is on its way is not saved yet"
    waiting.let_go()
    visit.wait("#done", "Saved")
    assert held(proxy, "draft:2") == b"on its way"


def test_a_double_click_on_delete_deletes_nothing(refused_visit: Visit, proxy: Daemon) -> None:
    visit, page = refused_visit, refused_visit.page
    write(proxy, "clicked", b"v")
    visit.open("clicked")
    visit.wait("#explain", "A strong read")
    page.click("#remove")
    page.wait_for_selector("#delete-dialog[open]")
    page.evaluate(
        "document.querySelector('#delete-dialog [value=yes]')"
        ".dispatchEvent(new MouseEvent('click', {bubbles: true, cancelable: true, detail: 2}))"
    )
    assert page.is_visible("#delete-dialog")
    page.keyboard.press("Escape")
    assert held(proxy, "clicked") == b"v"


def test_buttons_wait_for_the_change_of_the_key_that_is_open(refused_visit: Visit, proxy: Daemon) -> None:
    visit, page = refused_visit, refused_visit.page
    write(proxy, "busy:1", b"one")
    write(proxy, "busy:2", b"two")
    visit.open("busy:1")
    visit.wait("#explain", "A strong read")
    page.on("dialog", lambda dialog: dialog.accept())
    first = HeldUp(visit, "PUT", "kv/busy%3A1")
    visit.write("one, changed")
    first.wait()
    visit.open("busy:2")
    visit.wait_value("two")
    assert page.is_enabled("#remove")
    second = HeldUp(visit, "PUT", "kv/busy%3A2")
    visit.write("two, changed")
    second.wait()
    first.let_go()
    wait_until(lambda: held(proxy, "busy:1") == b"one, changed", "the first one's change")
    assert page.is_disabled("#save")
    second.let_go()
    visit.wait("#done", "Saved")
    assert page.is_enabled("#save")


def test_the_explanation_is_that_of_the_key_that_is_open(refused_visit: Visit, proxy: Daemon) -> None:
    visit, page = refused_visit, refused_visit.page
    write(proxy, "explained", b"x" * 5000)
    visit.open("created")
    visit.wait("#held", "holds no value")
    waiting = HeldUp(visit, "GET", "keys")
    visit.write("tiny")
    waiting.wait()
    visit.open("explained")
    visit.wait("#explain", "4.88 KiB")
    waiting.let_go()
    visit.wait("#key-list", "created")
    slot = call("GET", f"{proxy.url}/v1/explain/explained").json()["slot"]
    assert f"slot {slot:,}" in visit.text("#explain-slot")
    page.fill("#key", "another")
    assert visit.text("#explain") == ""


def test_a_value_that_is_too_large_to_be_shown_stands_in_the_way_of_no_other_key(
    refused_visit: Visit, proxy: Daemon
) -> None:
    visit, page = refused_visit, refused_visit.page
    write(proxy, "large", b"x" * 200_000)
    visit.open("large")
    visit.wait("#value-note", "too large")
    page.fill("#key", "small")
    visit.write("v")
    visit.wait("#done", "Created")
    assert (held(proxy, "small"), held(proxy, "large")) == (b"v", b"x" * 200_000)


def test_whoever_saves_by_keyboard_can_go_on_typing(refused_visit: Visit, proxy: Daemon) -> None:
    visit, page = refused_visit, refused_visit.page
    focused = "document.activeElement.id || document.activeElement.innerText"
    write(proxy, "typed", b"v")
    visit.open("typed")
    visit.wait("#explain", "A strong read")
    page.focus("#save")
    page.keyboard.press("Enter")
    visit.wait("#done", "Saved")
    assert page.evaluate(focused) == "value"
    write(proxy, "typed", b"theirs")
    page.focus("#remove")
    page.keyboard.press("Enter")
    page.click("#delete-dialog button[value=yes]")
    visit.wait("#conflict", "theirs")
    assert page.evaluate(focused) in ("value", "Take theirs")


def test_a_change_whose_answer_was_lost_is_said_to_be_in_doubt(refused_visit: Visit, proxy: Daemon) -> None:
    visit, page = refused_visit, refused_visit.page
    write(proxy, "doubtful", b"v")
    visit.open("doubtful")
    visit.wait("#explain", "A strong read")
    visit.endures("net::ERR_FAILED")
    page.route("**/v1/kv/doubtful*", lambda route: route.abort())
    page.click("#remove")
    page.click("#delete-dialog button[value=yes]")
    visit.wait("#editor-error", "may have been done all the same")
    assert page.input_value("#value") == "v"


@pytest.mark.parametrize("ahead_s", [3600, -3600])
def test_a_value_keeps_its_time_whatever_the_clock_of_the_browser_says(
    visit: Visit, proxy: Daemon, ahead_s: int
) -> None:
    visit.page.evaluate(f"(now => {{ Date.now = () => now() + {1000 * ahead_s}; }})(Date.now)")
    write(proxy, "skewed", b"v", "?ttl=1800")
    visit.open("skewed")
    visit.wait("#explain", "A strong read")
    visit.write("w")
    visit.wait("#done", "Saved")
    expires_ms = int(call("GET", f"{proxy.url}/v1/kv/skewed").headers["KV-Expires-Ms"])
    assert 1000 < expires_ms / 1000 - time.time() < 1900


def test_a_content_type_that_cannot_be_sent_is_refused_in_words(refused_visit: Visit, proxy: Daemon) -> None:
    refused_visit.page.fill("#key", "typeless")
    refused_visit.page.fill("#content-type", "текст")
    refused_visit.write("v")
    refused_visit.wait("#editor-error", "A content type is made of ASCII characters")
    assert held(proxy, "typeless") is None
