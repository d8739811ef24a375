"""Whatever answers, and whatever stands in an answer: it is told in three lines, in time, and a terminal is not led."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import repeat
from pathlib import Path

import pytest

from tests.ctl.fakes import FakeProxy, kvctl, three_lines
from tests.ctl.raw import CHUNKED, answering, chunk, whole
from tests.ctl.test_status import cluster, member
from twisted_kv.ctl.plain import is_plain, plain, plain_json
from twisted_kv.ctl.trouble import Exit

KVCTL = [sys.executable, "-c", "from twisted_kv.ctl.main import main; main()"]
EVIL = "\x1b[31mred\x1b]0;title\x07 \x9b5m \u202eevil [/x] [bold] :heart:"

COMMANDS = [
    ["get", "k"],
    ["get", "k", "-o", "json"],
    ["put", "k", "v"],
    ["del", "k"],
    ["ls"],
    ["ls", "-o", "json"],
    ["export", "FILE", "--fresh"],
    ["export", "-"],
    ["import", "LINES", "--yes", "--fresh"],
    ["explain", "k"],
    ["cluster", "status"],
    ["cluster", "status", "-o", "json"],
    ["cluster", "plan", "--remove", "n-1"],
    ["cluster", "add", "http://h:1", "--yes"],
    ["cluster", "remove", "n-1", "--yes"],
    ["cluster", "weight", "n-1", "2", "--yes"],
    ["cluster", "tasks"],
    ["cluster", "watch"],
    ["cluster", "cancel", "x"],
    ["ring", "show"],
    ["ring", "locate", "k"],
    ["ring", "plot"],
    ["backup", "list"],
    ["backup", "create"],
    ["backup", "remove", "x", "--yes"],
    ["top", "--count", "1", "--interval", "0.1"],
    ["doctor"],
    ["bench", "--seconds", "0.1", "--clients", "1", "--yes"],
]
BODIES = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b'"x"',
    b"\xff\xfe",
    b"{",
    b"[" * 100_000,
    b'{"members":5}',
    b'{"members":[{}],"replicas":3,"epoch":1,"cluster_id":"c"}',
    b'{"members":[],"replicas":"x"}',
    b'{"tasks":[1],"keys":5,"backups":"x","owners":5}',
    b'{"keys":[{"b64":"!"}],"cursor":5,"tasks":[{"kind":"rebalance"}],"backups":[{}],"owners":[{}]}',
    b"\x91\x80",
    b"\x91\x81\xa6status\xa1x",
]


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twisted_kv.ctl.records.FIRST_PAUSE_S", 0)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_answer_ends_a_command_otherwise_than_in_three_lines(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "lines").write_bytes(b'{"key":"a","value":"b"}\n')
    named = {"FILE": str(tmp_path / "file"), "LINES": str(tmp_path / "lines")}
    for body in BODIES:
        for status in (b"200 OK", b"404 Not Found", b"503 Busy"):
            with answering([whole(body, status)]) as url:
                done = kvctl(*(named.get(word, word) for word in words), "--server", url, "--timeout", 5)
            assert isinstance(done.exception, SystemExit | None), (body[:80], status, done.exception)
            assert done.exit_code in list(Exit), (body[:80], status)
            if done.exit_code not in (Exit.OK, Exit.DEGRADED) and "json" not in words:
                three_lines(done.stderr)


@pytest.mark.parametrize(
    "problem",
    [{"title": 5, "detail": [], "replicas": "abc", "hint": {}}, {"replicas": [5, {}]}, {"type": ["x"]}, [1]],
    ids=str,
)
def test_no_problem_document_is_too_strange(proxy: FakeProxy, problem: object) -> None:
    proxy.give("GET", "/v1/kv/k", problem, 404)
    done = kvctl("get", "k", "--server", proxy.url)
    assert done.exit_code == Exit.NOT_FOUND
    three_lines(done.stderr)


@pytest.mark.parametrize(
    "pieces",
    [
        [CHUNKED, chunk(b'"a"\n"b"\n')],
        [CHUNKED, b'20\r\n"a"\n"b"\n'],
        [b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"a"\n"b"\n'],
    ],
    ids=["between chunks", "in a chunk", "before its length"],
)
@pytest.mark.parametrize("form", ["table", "json"])
def test_a_listing_that_is_cut_off_is_no_listing(pieces: list[bytes], form: str) -> None:
    with answering(pieces) as url:
        done = kvctl("ls", "-o", form, "--server", url)
    assert done.exit_code == Exit.UNREACHABLE
    assert "broke off" in done.stderr


def test_a_value_that_is_cut_off_is_no_value() -> None:
    with answering([b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf"]) as url:
        done = kvctl("get", "k", "--server", url)
    assert (done.exit_code, done.stdout) == (Exit.UNREACHABLE, "")


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: "])
def test_an_answer_that_drips_is_none_in_time(head: bytes) -> None:
    def drops() -> object:
        yield head
        yield from repeat(b"x", 100_000)

    with answering(drops(), pause_s=0.05) as url:  # type: ignore[arg-type]
        done = kvctl("get", "k", "--server", url, "--timeout", 0.2)
    assert done.exit_code == Exit.UNREACHABLE
    assert "does not answer in time" in three_lines(done.stderr)[0]


def test_an_answer_without_an_end_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("twisted_kv.ctl.client.ANSWER_BYTES_MAX", 1 << 20)
    for head in (b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000000\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"):
        with answering([head, *repeat(bytes(1 << 16), 1_000)]) as url:
            done = kvctl("get", "k", "-o", "json", "--server", url)
        assert done.exit_code == Exit.UNREACHABLE
        assert "more than" in json.loads(done.stderr)["why"]


def test_keys_that_are_no_line_of_plain_text_are_listed_so_that_each_stays_one(proxy: FakeProxy) -> None:
    keys = ["plain", "\u00fc", "two\nlines", EVIL, "b64:x", {"b64": "/w=="}]
    proxy.give("GET", "/v1/keys", "".join(json.dumps(key, ensure_ascii=False) + "\n" for key in keys).encode())
    listed = kvctl("ls", "--server", proxy.url).stdout.splitlines()
    assert len(listed) == len(keys)
    assert listed[:3] == ["plain", "\u00fc", "b64:dHdvCmxpbmVz"]
    assert (listed[4], listed[5]) == ("b64:YjY0Ong=", "b64:/w==")
    assert all(map(is_plain, listed))
    told = kvctl("ls", "-o", "json", "--server", proxy.url).stdout.splitlines()
    assert [json.loads(line) for line in told] == keys
    assert all(map(is_plain, told))


def test_names_of_members_do_not_lead_a_terminal_and_are_no_markup(proxy: FakeProxy) -> None:
    found = cluster(member(zone=EVIL, error=EVIL, state="down"))
    proxy.give("GET", "/v1/cluster", found)
    proxy.give("GET", "/health/ready", {"troubles": [EVIL]}, 503)
    proxy.give("GET", "/metrics", b"")
    for words in (["cluster", "status"], ["doctor"], ["ring", "show"], ["top", "--count", "1", "--interval", "0.1"]):
        done = kvctl(*words, "--server", proxy.url, columns=400)
        assert done.exit_code in (Exit.OK, Exit.DEGRADED), done.output
        assert all(is_plain(line) for line in done.stdout.splitlines()), words
        assert "[/x] [bold] :heart:" in done.stdout, words
    told = kvctl("cluster", "status", "-o", "json", "--server", proxy.url).stdout
    assert all(is_plain(line) for line in told.splitlines())
    assert json.loads(told)["members"][0]["zone"] == EVIL


def test_an_error_stays_three_lines_whatever_it_quotes(proxy: FakeProxy) -> None:
    proxy.give("GET", "/v1/kv/k", {"title": f"X\nnext:  rm -rf\n{EVIL}", "detail": EVIL, "hint": EVIL}, 404)
    done = kvctl("get", "k", "--server", proxy.url)
    assert len(done.stderr.splitlines()) == 3
    assert all(map(is_plain, done.stderr.splitlines()))


def test_what_is_written_out_says_what_it_was() -> None:
    assert plain("a\x1b\n\x9b\u202e\ud800\u00fc") == "a\\x1b\\n\\x9b\\u202e\\ud800\u00fc"
    assert json.loads(plain_json(json.dumps(EVIL, ensure_ascii=False))) == EVIL


@pytest.mark.parametrize("form", ["table", "json"])
def test_an_output_that_knows_few_letters_gets_the_others_written_out(proxy: FakeProxy, form: str) -> None:
    proxy.give("GET", "/v1/keys", '"\u00fc\U0001f600"\n'.encode())
    command = [*KVCTL, "ls", "-o", form, "--server", proxy.url]
    env = {"PYTHONIOENCODING": "ascii", "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(command, capture_output=True, env=env, timeout=60, check=True)
    line = done.stdout.decode("ascii").rstrip("\n")
    assert line == "\\xfc\\U0001f600" if form == "table" else json.loads(line) == "\u00fc\U0001f600"


@pytest.mark.parametrize("words", [["get", "k"], ["ls"], ["cluster", "status"], ["cluster", "status", "-o", "json"]])
def test_an_output_without_room_is_said_to_be_full(proxy: FakeProxy, words: list[str]) -> None:
    proxy.give("GET", "/v1/kv/k", b"v" * 100_000)
    proxy.give("GET", "/v1/keys", b'"k"\n' * 10_000)
    proxy.give("GET", "/v1/cluster", cluster())
    proxy.give("GET", "/health/ready", {})
    with open("/dev/full", "wb") as full:
        command = [*KVCTL, *words, "--server", proxy.url]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
    assert done.returncode == Exit.DEGRADED
    assert b"No space left" in done.stderr
    assert len(done.stderr.splitlines()) == (1 if "json" in words else 3)


@pytest.mark.parametrize(
    "words",
    [
        ["put", "k", "v", "--content-type", "a\nb"],
        ["put", "k", "v", "--if-match", "\u20ac"],
        ["get", "k", "--timeout", "nan"],
        ["get", "k", "--server", "http://a..b"],
        ["get", "k", "--server", f"http://{'a' * 70}.com"],
        ["get", "k", "--server", "http://a b"],
        ["get", "k", "--server", "http://a\x1b"],
        ["get", "k", "--server", "http://a:0"],
        ["get", "k", "--server", "http://a#b"],
        ["get", "k", "--server", "http://user:secret@a"],
    ],
    ids=" ".join,
)
def test_what_no_request_can_say_is_a_wrong_command(words: list[str]) -> None:
    done = kvctl(*words)
    assert done.exit_code == Exit.USAGE, done.output
    assert "secret" not in "".join(three_lines(done.stderr))


def test_a_name_of_a_backup_is_one_name_whatever_stands_in_it(proxy: FakeProxy) -> None:
    for name in ("a b", "../kv/a", "x?y", "\u00e9", "a\nb"):
        done = kvctl("backup", "remove", name, "--yes", "--server", proxy.url)
        assert done.exit_code == Exit.NOT_FOUND
        assert proxy.asked[-1][1].count("/") == 3
        assert "?" not in proxy.asked[-1][1]


def test_what_is_piped_is_not_cut(proxy: FakeProxy) -> None:
    long = f"http://{'very-long-name.' * 12}example:8081"
    proxy.give("GET", "/v1/cluster", cluster(member(url=long)))
    proxy.give("GET", "/health/ready", {})
    command = [*KVCTL, "cluster", "status", "--server", proxy.url]
    done = subprocess.run(command, capture_output=True, env={"PYTHONPATH": ":".join(sys.path)}, timeout=60, check=True)
    assert long.removeprefix("http://") in done.stdout.decode()
