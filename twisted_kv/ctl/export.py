"""``kvctl export``: all keys and values as lines, page after page; it goes on where it was interrupted."""

from __future__ import annotations

import base64
import errno
import fcntl
import os
import stat
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import local
from types import NoneType
from typing import Any, NamedTuple
from urllib.parse import urlencode

import click

from .bookmark import EXPORT, Bookmark
from .client import Client
from .cluster import state_of
from .common import Ctl, asks_proxy
from .data import CONSISTENCY, query
from .progress import bar
from .showing import count
from .trouble import Exit, Trouble

LANES = 4
"""Requests for values that are under way at once."""
PAGE_KEYS_FIRST, PAGE_KEYS_MAX = 16, 1_000
PAGE_BYTES = 4 << 20
"""About how much one answer may hold: pages have fewer keys where values are large."""


class Page(NamedTuple):
    """What one page of keys became, and where the next one begins; None after the last."""

    lines: list[bytes]
    cursor: str | None


class Exporting:
    """Reads the keys of a cluster, and their values, in order and several pages at once."""

    def __init__(self, client: Client, prefix: bytes, asked: str) -> None:
        self._client = client
        self._prefix = prefix
        self._query = asked
        self._of_thread = local()
        self._page_keys = PAGE_KEYS_FIRST

    def pages(self, cursor: str | None) -> Iterator[Page]:
        """Give pages from a cursor on, None for the beginning. Errors as in ``records.bulk``."""
        waiting: deque[tuple[Future[list[bytes]], str | None]] = deque()
        with ThreadPoolExecutor(LANES) as threads:
            more = True
            try:
                while more or waiting:
                    while more and len(waiting) < LANES + 2:
                        keys, cursor = self._keys(cursor)
                        waiting.append((threads.submit(self._values, keys), cursor))
                        more = cursor is not None
                    reading, after = waiting.popleft()
                    lines = reading.result()
                    self._adapt(lines)
                    yield Page(lines, after)
            finally:
                for reading, _ in waiting:
                    reading.cancel()

    def _adapt(self, lines: list[bytes]) -> None:
        if lines:
            average = sum(map(len, lines)) / len(lines)
            self._page_keys = int(max(1, min(PAGE_KEYS_MAX, PAGE_BYTES / average, 4 * self._page_keys)))

    def _keys(self, cursor: str | None) -> tuple[list[bytes], str | None]:
        asked: dict[str, Any] = {"limit": self._page_keys}
        if self._prefix:
            asked["prefix"] = self._prefix
        if cursor is not None:
            asked["cursor"] = cursor
        page = self._client.json("GET", f"/v1/keys?{urlencode(asked)}")
        keys = [key.encode() if isinstance(key, str) else base64.b64decode(key["b64"]) for key in page["keys"]]
        return keys, page["cursor"]

    def _values(self, keys: list[bytes]) -> list[bytes]:
        from .records import bulk, line_of

        client = getattr(self._of_thread, "client", None)
        if client is None:
            client = self._of_thread.client = self._client.another()
        if not keys:
            return []
        answers = bulk(client, [{"op": "get", "key": key} for key in keys], self._query)
        # What was deleted since it was listed is not there, and that is right.
        bad = next((one for one in answers if one["status"] not in (200, 404)), None)
        if bad is not None:
            from .trouble import of_problem

            raise of_problem(bad["status"], bad.get("problem", {}))
        return [line_of(one) for one in answers if one["status"] == 200]


@click.command()
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--prefix", default="", help="Only keys that begin so.")
@click.option("--fresh", is_flag=True, help="Begin anew, and write over what is there.")
@CONSISTENCY
@asks_proxy
def export(ctl: Ctl, file: str, prefix: str, fresh: bool, consistency: str | None) -> None:
    """Write all keys and values to FILE, a line of JSON each; - for standard output.

    It is no snapshot: a key that is there throughout is written once, as it was at some moment meanwhile. Interrupted,
    the same command goes on where it was.
    """
    exporting = Exporting(ctl.client, os.fsencode(prefix), query(ctl, consistency=consistency))
    if file == "-":
        records = 0
        for page in exporting.pages(None):
            sys.stdout.buffer.write(b"".join(page.lines))
            records += len(page.lines)
        sys.stdout.buffer.flush()
        ctl.showing.say(f"{records:,} records")
        return
    now = state_of(ctl)
    expected = expected_keys(now) if not prefix else None
    bookmark = Bookmark(Path(file), EXPORT, {"cluster_id": now["cluster_id"], "prefix": prefix})
    at = None if fresh else bookmark.found(bytes=int, records=int, cursor=(str, NoneType))
    paper = Paper(file)
    try:
        begun_at = _beginning(paper, bookmark, at, fresh)
        if begun_at.records:
            ctl.showing.say(f"going on after {begun_at.records:,} records")
        began_s = time.monotonic()
        with bar(ctl.showing, "records") as progress:
            shown = progress.add_task("export", total=expected, completed=begun_at.records)
            done = begun_at
            try:
                for page in exporting.pages(done.cursor):
                    end = paper.write(b"".join(page.lines), done.bytes)
                    done = Reached(page.cursor, end, done.records + len(page.lines))
                    total = max(expected, done.records) if expected else None
                    progress.update(shown, completed=done.records, total=total)
                    if bookmark.due() and done.cursor is not None:
                        paper.sync()
                        bookmark.write(**done._asdict())
                paper.sync()
            except BaseException:
                # Only as far as whole pages go: of the one that was being written there may be anything. Behind the
                # last page there is nothing to go on with, and what was kept before is still true.
                if done.cursor is not None:
                    bookmark.write(**done._asdict())
                ctl.showing.say(f"{done.records:,} records are written; {bookmark.goes_on()}")
                raise
            progress.update(shown, total=done.records, completed=done.records)
    finally:
        paper.close()
    bookmark.remove()
    took_s = time.monotonic() - began_s
    rate = (done.records - begun_at.records) / max(took_s, 1e-9)
    told = {"file": file, "records": done.records, "seconds": round(took_s, 3), "records_per_s": round(rate)}
    ctl.showing.show(told, lambda: f"{done.records:,} records in {file}, {count(rate)} a second")


class Reached(NamedTuple):
    """How far an export is: the page that comes next, and what the file holds of those before."""

    cursor: str | None = None
    bytes: int = 0
    records: int = 0


class Paper:
    """The file that is written, which is this export's alone.

    :raises Trouble: from each call, if the disk will not have it.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        with self._explained():
            self._number = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(self._number).st_mode):
                raise Trouble(f"{file} is no file", "it could not be gone on with", "- is standard output", Exit.USAGE)
            fcntl.flock(self._number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise Trouble(
                f"{file} is being written",
                "another export is under way",
                "wait for it, or name another file",
                Exit.USAGE,
            ) from None
        except BaseException:
            self.close()
            raise

    def size(self) -> int:
        return os.fstat(self._number).st_size

    def cut(self, size: int) -> None:
        with self._explained():
            os.ftruncate(self._number, size)

    def write(self, data: bytes, at: int) -> int:
        """Write all of it, and give the place behind it."""
        left = memoryview(data)
        with self._explained():
            while left:
                written = os.pwrite(self._number, left, at)
                left, at = left[written:], at + written
        return at

    def sync(self) -> None:
        with self._explained():
            os.fsync(self._number)

    def close(self) -> None:
        os.close(self._number)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            then = "make room, and give the same command again" if full else "name another file"
            code = Exit.DEGRADED if full else Exit.USAGE
            raise Trouble(f"{self._file} cannot be written", str(error.strerror), then, code) from None


def _beginning(paper: Paper, bookmark: Bookmark, at: dict[str, Any] | None, fresh: bool) -> Reached:
    """Bring a file to where an export begins or goes on.

    :raises Trouble: if it holds something else, or less than was written.
    """
    if at is None:
        if paper.size() and not fresh:
            raise Trouble(
                f"{bookmark.file} is there already",
                "it is no export that was interrupted",
                "--fresh writes over it",
                Exit.USAGE,
            )
        # From now on whoever finds the file can tell that it is not whole.
        bookmark.remove()
        bookmark.write(**Reached()._asdict())
    reached = Reached(**at) if at is not None else Reached()
    if paper.size() < reached.bytes:
        raise Trouble(
            f"{bookmark.file} has {paper.size():,} bytes",
            f"{reached.bytes:,} were written, as {bookmark.path} says",
            "bring them back, or begin anew with --fresh",
            Exit.USAGE,
        )
    paper.cut(reached.bytes)
    return reached


def expected_keys(cluster: dict[str, Any]) -> int | None:
    """Say about how many keys there are: what the members hold together, each as often as it is kept."""
    known = [one["keys"] for one in cluster["members"] if one["keys"] is not None and one["state"] != "joining"]
    copies = min(cluster["replicas"], len(cluster["members"]))
    if not known or not copies:
        return None
    return round(sum(known) * len(cluster["members"]) / len(known) / copies)
