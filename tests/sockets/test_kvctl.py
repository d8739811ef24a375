"""``kvctl`` against real daemons: keys, members, and files of records that are gone on with."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from tests.ctl.fakes import kvctl, three_lines
from tests.sockets.daemons import Farm, farming, token_file, wait_until
from tests.sockets.test_tls import Encrypted
from tests.sockets.test_tokens import CLIENT
from twisted_kv.ctl.showing import forget_consoles
from twisted_kv.ctl.trouble import Exit

KVCTL = [sys.executable, "-c", "from twisted_kv.ctl.main import main; main(prog_name='kvctl')"]


@pytest.fixture(autouse=True)
def own_consoles() -> Iterator[None]:
    forget_consoles()
    yield
    forget_consoles()


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with farming(tmp_path_factory.mktemp("farm")) as made:
        made.cluster(3, "--engine", "memory")
        yield made


def run(farm: Farm, *arguments: object) -> Result:
    return kvctl(*arguments, "--server", farm.proxies[0].url)


def told(farm: Farm, *arguments: object) -> Any:
    done = run(farm, *arguments, "-o", "json")
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_value_is_put_read_and_deleted_under_conditions(farm: Farm) -> None:
    etag = told(farm, "put", "a/b c", "one", "--content-type", "text/plain", "--ttl", 600)["etag"]
    assert run(farm, "get", "a/b c").stdout == "one"
    found = told(farm, "get", "a/b c")
    assert (found["value"], found["etag"], found["content_type"]) == ("one", etag, "text/plain")
    assert found["expires_ms"] > 0
    assert run(farm, "put", "a/b c", "two", "--if-absent").exit_code == Exit.PRECONDITION
    assert run(farm, "put", "a/b c", "two", "--if-match", etag).exit_code == Exit.OK
    assert run(farm, "del", "a/b c", "--if-match", etag).exit_code == Exit.PRECONDITION
    assert run(farm, "del", "a/b c").exit_code == Exit.OK
    gone = run(farm, "get", "a/b c")
    assert gone.exit_code == Exit.NOT_FOUND
    assert three_lines(gone.stderr)[0] == "there is no such key"


def test_bytes_that_are_no_text_survive(farm: Farm, tmp_path: Path) -> None:
    value = bytes(range(256))
    (tmp_path / "value").write_bytes(value)
    assert run(farm, "put", "--b64", "a/8=", "--file", tmp_path / "value").exit_code == Exit.OK
    assert run(farm, "get", "--b64", "a/8=").stdout_bytes == value
    command = [*KVCTL, "get", b"k\xff", "--server", farm.proxies[0].url]
    assert subprocess.run(command, capture_output=True, timeout=60, check=True).stdout == value
    assert "b64:a/8=" in run(farm, "ls", "k").stdout.split()
    assert json.dumps({"b64": "a/8="}, separators=(",", ":")) in run(farm, "ls", "k", "-o", "json").stdout.split()
    assert run(farm, "del", "--b64", "a/8=").exit_code == Exit.OK


def test_keys_are_listed_by_prefix_and_no_more_than_asked_for(farm: Farm) -> None:
    for name in ("list/1", "list/2", "list/3"):
        assert run(farm, "put", name, "v").exit_code == Exit.OK
    assert run(farm, "ls", "list/").stdout.split() == ["list/1", "list/2", "list/3"]
    assert run(farm, "ls", "list/", "--limit", 2).stdout.split() == ["list/1", "list/2"]


def test_all_that_keys_hold_survives_an_export_and_an_import(farm: Farm, tmp_path: Path) -> None:
    run(farm, "put", "carry/text", "wörter", "--content-type", "text/plain", "--ttl", 6000)
    run(farm, "put", "--b64", "Y2Fycnkv/w==", "v")
    run(farm, "put", "carry/empty", "")
    before = [
        told(farm, "get", "carry/text"),
        told(farm, "get", "--b64", "Y2Fycnkv/w=="),
        told(farm, "get", "carry/empty"),
    ]
    file = tmp_path / "all"
    assert told(farm, "export", file, "--prefix", "carry/")["records"] == 3
    for name in (("carry/text",), ("--b64", "Y2Fycnkv/w=="), ("carry/empty",)):
        run(farm, "del", *name)
    assert told(farm, "export", tmp_path / "none", "--prefix", "carry/")["records"] == 0
    assert told(farm, "import", file, "--yes")["records"] == 3
    after = [
        told(farm, "get", "carry/text"),
        told(farm, "get", "--b64", "Y2Fycnkv/w=="),
        told(farm, "get", "carry/empty"),
    ]
    for old, new in zip(before, after, strict=True):
        assert old.pop("etag") != new.pop("etag")
        assert old == new
    assert list(tmp_path.glob("*resume*")) == []


def test_an_export_that_is_there_is_not_written_over(farm: Farm, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    done = run(farm, "export", tmp_path / "mine")
    assert done.exit_code == Exit.USAGE
    assert "--fresh" in three_lines(done.stderr)[2]
    assert (tmp_path / "mine").read_text() == "precious"


def test_what_has_expired_is_left_out_and_the_last_line_of_a_key_wins(farm: Farm, tmp_path: Path) -> None:
    lines = [{"key": "twice", "value": str(number)} for number in range(500)]
    lines.append({"key": "late", "value": "v", "expires_ms": 1})
    (tmp_path / "in").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    found = told(farm, "import", tmp_path / "in", "--yes")
    assert (found["records"], found["expired"]) == (500, 1)
    assert run(farm, "get", "twice").stdout == "499"
    assert run(farm, "get", "late").exit_code == Exit.NOT_FOUND


@pytest.mark.parametrize(
    "line",
    ["no json", '{"key": "k"}', '{"value": "v"}', '{"key": 1, "value": "v"}', '{"key": "k", "value_b64": "*"}', "[]"],
)
def test_a_line_that_is_no_record_is_named(farm: Farm, tmp_path: Path, line: str) -> None:
    (tmp_path / "in").write_text('{"key": "good", "value": "v"}\n\n' + line + "\n")
    done = run(farm, "import", tmp_path / "in", "--yes")
    assert done.exit_code == Exit.USAGE
    assert three_lines(done.stderr)[0] == "line 3 is no record"


def test_a_key_that_is_too_long_is_named_by_its_line(farm: Farm, tmp_path: Path) -> None:
    (tmp_path / "in").write_text('{"key": "good", "value": "v"}\n' + json.dumps({"key": "k" * 2000, "value": "v"}))
    done = run(farm, "import", tmp_path / "in", "--yes")
    assert done.exit_code == Exit.USAGE
    assert three_lines(done.stderr)[0].startswith("line 2: ")


def is_begun(bookmark: Path) -> bool:
    return bookmark.exists() and json.loads(bookmark.read_text())["at"]["bytes"] > 0


def interrupted(farm: Farm, wait_for: Path, *arguments: object) -> None:
    """Run a command until it has kept in a bookmark that something is done, and interrupt it as Ctrl-C does."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    command = [*KVCTL, *map(str, arguments), "--server", farm.proxies[0].url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        signal.signal(signal.SIGINT, before)
        try:
            wait_until(lambda: is_begun(wait_for) or process.poll() is not None, "a bookmark", 60)
            assert process.poll() is None, process.communicate()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == Exit.INTERRUPTED, said
    assert "Traceback" not in said
    assert "the same command goes on from there" in said


def test_files_that_were_interrupted_are_gone_on_with(farm: Farm, tmp_path: Path) -> None:
    count = 120_000
    lines = (json.dumps({"key": f"many/{number:06}", "value": "v" * 20}) for number in range(count))
    (tmp_path / "in").write_text("\n".join(lines) + "\n")
    bookmark = tmp_path / "in.import-resume"
    interrupted(farm, bookmark, "import", tmp_path / "in", "--yes")
    at = json.loads(bookmark.read_text())["at"]
    assert 0 < at["line"] < count
    found = told(farm, "import", tmp_path / "in", "--yes")
    assert (found["records"], found["lines"]) == (count - at["line"], count)
    assert not bookmark.exists()

    out, bookmark = tmp_path / "out", tmp_path / "out.export-resume"
    interrupted(farm, bookmark, "export", out, "--prefix", "many/")
    at = json.loads(bookmark.read_text())["at"]
    assert 0 < at["records"] < count
    with open(out, "ab") as stream:
        stream.write(b'{"key": "cut off in the mid')  # as a kill would have left it
    refused = run(farm, "export", out, "--prefix", "other/")
    assert refused.exit_code == Exit.USAGE
    assert "another prefix" in three_lines(refused.stderr)[0]
    assert told(farm, "export", out, "--prefix", "many/")["records"] == count
    assert out.read_text().replace(":", ": ").replace(",", ", ") == (tmp_path / "in").read_text()


def test_members_come_weigh_more_and_go(farm: Farm) -> None:
    node = farm.node("--engine", "memory")
    seat = told(farm, "cluster", "add", node.url, "--zone", "", "--yes")
    assert (seat["status"], seat["url"]) == ("UN", node.url)
    again = run(farm, "cluster", "add", node.url, "--yes")
    assert again.exit_code == Exit.OK
    assert told(farm, "cluster", "weight", node.url, 2, "--yes")["weight"] == 2
    planned = told(farm, "cluster", "plan", "--remove", seat["id"], "--weight", f"{farm.nodes[0].url}=2")
    assert planned["slots"] > 0
    assert told(farm, "cluster", "tasks")["tasks"] is not None
    assert told(farm, "cluster", "watch")["members"] == 4
    assert told(farm, "cluster", "remove", seat["id"], "--yes") == {"id": seat["id"], "removed": True}
    assert [member["url"] for member in told(farm, "cluster", "status")["members"]] == [
        member["url"] for member in farm.members()
    ]
    assert run(farm, "cluster", "remove", seat["id"], "--yes").exit_code == Exit.NOT_FOUND
    assert run(farm, "cluster", "add", "127.0.0.1:1", "--yes").exit_code == Exit.UNREACHABLE
    assert told(farm, "cluster", "repair", "--yes")["state"] == "done"


def test_everything_that_only_looks_has_a_page_and_json(farm: Farm) -> None:
    run(farm, "put", "looked at", "v", "--ttl", 60)
    looks: list[tuple[object, ...]] = [
        ("cluster", "status"),
        ("cluster", "tasks"),
        ("ring", "show"),
        ("ring", "locate", "looked at"),
        ("ring", "plot"),
        ("explain", "looked at"),
        ("explain", "never written"),
        ("doctor",),
        ("top", "--count", 1, "--interval", 0.1),
    ]
    for words in looks:
        drawn = run(farm, *words)
        assert drawn.exit_code == Exit.OK, drawn.output
        assert drawn.stdout.strip(), words
        assert max(map(len, drawn.stdout.splitlines())) <= 80 or words[0] in ("explain", "doctor"), drawn.stdout
        json.loads(run(farm, *words, "-o", "json").stdout)


def test_a_key_is_explained_over_http_whatever_its_bytes(farm: Farm) -> None:
    run(farm, "put", "a/../b?c", "v", "--consistency", "all")
    found = told(farm, "explain", "a/../b?c")
    assert found["key"] == "a/../b?c"
    assert [owner["holds"] for owner in found["owners"]] == ["value"] * 3
    assert [owner["synced"] for owner in found["owners"]] == [False] * 3  # memory never is
    assert found["verdict"]["answer"] == "value"
    run(farm, "del", "a/../b?c")
    assert told(farm, "explain", "a/../b?c")["purge"]["blocked_by"] != []


def test_a_benchmark_leaves_nothing_behind(farm: Farm) -> None:
    for batch in (1, 50):
        found = told(farm, "bench", "--seconds", 0.3, "--clients", 2, "--keys", 50, "--batch", batch, "--yes")
        assert all(row["per_s"] > 0 and row["failed"] == 0 for row in found["operations"])
    assert run(farm, "ls", "kvctl-bench/").stdout == ""


def test_a_member_that_dies_is_shown_down_and_too_few_are_no_quorum(tmp_path: Path) -> None:
    with farming(tmp_path) as farm:
        farm.cluster(3, "--engine", "memory")
        run(farm, "put", "k", "v")
        farm.nodes[0].kill()
        wait_until(lambda: run(farm, "cluster", "status").exit_code == Exit.DEGRADED, "it is seen")
        shown = run(farm, "cluster", "status").stdout
        assert sum(line.startswith("DN n-") for line in shown.splitlines()) == 1
        assert run(farm, "explain", "k").exit_code == Exit.DEGRADED
        assert run(farm, "doctor").exit_code == Exit.DEGRADED
        farm.nodes[1].kill()
        failed = run(farm, "get", "k", "--timeout", 1)
        assert failed.exit_code == Exit.QUORUM
        assert "kvctl cluster status" in three_lines(failed.stderr)[2]


@pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")
def test_tls_and_tokens(tmp_path: Path) -> None:
    encrypted = Encrypted(tmp_path)
    try:
        server = f"https://localhost:{encrypted.port}"
        tokens = token_file(tmp_path / "mine", f"read-write {CLIENT}")
        trusted = ("--server", server, "--tls-authority", encrypted.server.authority)
        assert kvctl("put", "k", "v", *trusted, "--token-file", tokens).exit_code == Exit.OK
        assert kvctl("get", "k", *trusted, KV_TOKEN_FILE=str(tokens)).stdout == "v"
        nameless = kvctl("get", "k", *trusted)
        assert nameless.exit_code == Exit.USAGE
        assert "--token-file" in three_lines(nameless.stderr)[2]
        unknown = kvctl("get", "k", "--server", server, "--token-file", tokens)
        assert unknown.exit_code == Exit.UNREACHABLE
        assert "--tls-authority" in three_lines(unknown.stderr)[2]
        plain = kvctl("get", "k", "--server", f"http://localhost:{encrypted.port}", "--token-file", tokens)
        assert plain.exit_code == Exit.UNREACHABLE
    finally:
        encrypted.stop()


def test_output_that_nobody_reads_any_more_is_no_trouble(farm: Farm) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [*KVCTL, "ring", "plot", "--server", farm.proxies[0].url]
    with os.fdopen(writing, "wb") as closed:
        done = subprocess.run(command, stdout=closed, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
