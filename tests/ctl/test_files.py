"""Files that are exported and imported: they are gone on with from anywhere, and not taken for what they are not."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest

from tests.ctl.fakes import FakeProxy, kvctl, three_lines
from twisted_kv.ctl import export as room
from twisted_kv.ctl.trouble import Exit

KEYS = [f"k{number:03}" for number in range(500)]
WHOLE = b"".join(b'{"key":"%s","value":"v"}\n' % key.encode() for key in KEYS)


@pytest.fixture
def store(proxy: FakeProxy) -> dict[str, bytes]:
    held = dict.fromkeys(KEYS, b"v")
    asked = proxy.asked

    def page(body: bytes) -> tuple[int, Any]:
        query = parse_qs(urlsplit(asked[-1][1]).query)
        after, limit = query.get("cursor", [""])[0], int(query["limit"][0])
        keys = sorted(key for key in held if key > after)
        return 200, {"keys": keys[:limit], "cursor": keys[limit - 1] if len(keys) > limit else None}

    def bulk(body: bytes) -> tuple[int, bytes]:
        answers: list[dict[str, Any]] = []
        for one in msgspec.msgpack.decode(body):
            key = one["key"].decode()
            if one["op"] == "put":
                held[key] = one["value"]
                answers.append({"status": 204})
            else:
                answers.append({"status": 200, "key": one["key"], "value": held[key]})
        return 200, msgspec.msgpack.encode(answers)

    members = [{"keys": len(KEYS), "state": "up"}]
    proxy.give("GET", "/v1/cluster", {"cluster_id": "c-1", "members": members, "replicas": 1})
    proxy.replies["GET", "/v1/keys"] = page
    proxy.replies["POST", "/v1/bulk"] = bulk
    return held


def broken_once(monkeypatch: pytest.MonkeyPatch, error: BaseException, at_call: int) -> None:
    """Let a write come half through, and fail."""
    write, calls = os.pwrite, [0]

    def pwrite(file: int, data: Any, at: int) -> int:
        calls[0] += 1
        if calls[0] == at_call:
            write(file, bytes(data)[: len(data) // 2 + 3], at)
            raise error
        return write(file, data, at)

    monkeypatch.setattr(room.os, "pwrite", pwrite)


@pytest.mark.parametrize("at_call", [1, 2, 3])
@pytest.mark.parametrize(
    ("error", "code"),
    [(KeyboardInterrupt(), Exit.INTERRUPTED), (OSError(28, "No space left on device"), Exit.DEGRADED)],
)
@pytest.mark.usefixtures("store")
def test_an_export_that_broke_off_in_mid_page_goes_on_with_whole_lines(
    proxy: FakeProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: Exit,
    at_call: int,
) -> None:
    file = tmp_path / "all"
    with monkeypatch.context() as patched:
        broken_once(patched, error, at_call)
        done = kvctl("export", file, "--server", proxy.url)
    assert done.exit_code == code, done.stderr
    assert file.read_bytes() != WHOLE
    refused = kvctl("import", file, "--yes", "--server", proxy.url)
    assert refused.exit_code == Exit.PRECONDITION
    assert "is not whole" in three_lines(refused.stderr)[0]
    again = kvctl("export", file, "--server", proxy.url)
    assert again.exit_code == 0, again.stderr
    assert file.read_bytes() == WHOLE
    assert os.listdir(tmp_path) == ["all"]


@pytest.mark.usefixtures("store")
def test_an_export_that_was_killed_at_once_can_be_told(
    proxy: FakeProxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "all"
    beside: list[Callable[[], bool]] = [(tmp_path / "all.export-resume").exists]
    seen: list[bool] = []
    write = os.pwrite

    def pwrite(number: int, data: Any, at: int) -> int:
        seen.append(beside[0]())
        return write(number, data, at)

    monkeypatch.setattr(room.os, "pwrite", pwrite)
    assert kvctl("export", file, "--server", proxy.url).exit_code == 0
    assert seen
    assert all(seen)


@pytest.mark.usefixtures("store")
def test_a_file_that_has_become_shorter_is_not_filled_up_with_zeros(proxy: FakeProxy, tmp_path: Path) -> None:
    file = tmp_path / "all"
    file.write_bytes(b"short")
    at = {"cursor": "k100", "bytes": 1_000, "records": 3}
    beside = tmp_path / "all.export-resume"
    beside.write_text(json.dumps({"of": {"cluster_id": "c-1", "prefix": ""}, "at": at}))
    done = kvctl("export", file, "--server", proxy.url)
    assert done.exit_code == Exit.USAGE
    assert "1,000 were written" in three_lines(done.stderr)[1]
    assert file.read_bytes() == b"short"
    assert kvctl("export", file, "--fresh", "--server", proxy.url).exit_code == 0
    assert file.read_bytes() == WHOLE


@pytest.mark.usefixtures("store")
def test_two_exports_do_not_write_one_file(proxy: FakeProxy, tmp_path: Path) -> None:
    file = tmp_path / "all"
    with open(file, "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        done = kvctl("export", file, "--fresh", "--server", proxy.url)
    assert done.exit_code == Exit.USAGE
    assert "is being written" in three_lines(done.stderr)[0]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("file", ["/dev/null", "/nonexistent/file"])
def test_what_is_no_file_is_not_exported_to(proxy: FakeProxy, file: str) -> None:
    done = kvctl("export", file, "--server", proxy.url)
    assert done.exit_code == Exit.USAGE
    assert file in three_lines(done.stderr)[0]


@pytest.mark.parametrize(
    "at", [{}, {"bytes": "x", "line": 1}, "abc", 5, None, {"bytes": 10**9, "line": 3}, {"bytes": -1, "line": -3}]
)
def test_a_bookmark_that_is_none_is_not_gone_on_from(
    proxy: FakeProxy, store: dict[str, bytes], tmp_path: Path, at: Any
) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b'{"key":"new","value":"w"}\n')
    found = file.stat()
    of = {"cluster_id": "c-1", "file_size": found.st_size, "file_time": found.st_mtime_ns}
    (tmp_path / "lines.import-resume").write_text(json.dumps({"of": of, "at": at}))
    done = kvctl("import", file, "--yes", "--server", proxy.url)
    assert done.exit_code == Exit.USAGE
    assert "--fresh" in three_lines(done.stderr)[2]
    assert kvctl("import", file, "--yes", "--fresh", "--server", proxy.url).exit_code == 0
    assert store["new"] == b"w"


def test_what_lies_where_nothing_can_be_written_is_imported_and_whoever_breaks_it_off_is_told(
    proxy: FakeProxy, store: dict[str, bytes], tmp_path: Path
) -> None:
    file = tmp_path / "lines"
    (tmp_path / "lines.import-resume.new").mkdir()  # stands for a disk that is mounted read-only
    file.write_bytes(b'{"key":"a","value":"1"}\n' * 8_000 + b"{")
    done = kvctl("import", file, "--yes", "--server", proxy.url)
    assert done.exit_code == Exit.USAGE
    assert "does not go on from there" in done.stderr
    file.write_bytes(b'{"key":"new","value":"w"}\n')
    assert kvctl("import", file, "--yes", "--server", proxy.url).exit_code == 0
    assert store["new"] == b"w"


@pytest.mark.parametrize("before", [1, 8_000, 20_000])
def test_the_lines_before_one_that_is_none_are_stored(
    proxy: FakeProxy, store: dict[str, bytes], tmp_path: Path, before: int
) -> None:
    file = tmp_path / "lines"
    lines = [b'{"key":"n%d","value":"w"}\n' % number for number in range(before)]
    file.write_bytes(b"".join(lines) + b"{\n" + b'{"key":"behind","value":"w"}\n')
    done = kvctl("import", file, "--yes", "--server", proxy.url)
    assert done.exit_code == Exit.USAGE
    what, _, then = three_lines(done.stderr)
    assert (what, "those before it are stored" in then) == (f"line {before + 1} is no record", True)
    assert sum(value == b"w" for value in store.values()) == before
    at = json.loads((tmp_path / "lines.import-resume").read_text())["at"]
    assert at == {"bytes": sum(map(len, lines)), "line": before}
