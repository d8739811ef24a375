"""``kvctl export``: all keys and values as lines, page after page; it goes on where it was interrupted."""

from __future__ import annotations

import base64
import os
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import local
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlencode

import click

from .bookmark import Bookmark
from .client import Client
from .cluster import state_of
from .common import Ctl, asks_proxy
from .data import CONSISTENCY, query
from .progress import bar
from .showing import count
from .trouble import Exit, Trouble

LANES = 4
"""Requests for values that are under way at once."""
PAGE_KEYS_FIRST, PAGE_KEYS_MAX = 100, 1_000
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
        records = sum(_written(sys.stdout.buffer, page) for page in exporting.pages(None))
        sys.stdout.buffer.flush()
        ctl.showing.say(f"{records:,} records")
        return
    now = state_of(ctl)
    expected = expected_keys(now) if not prefix else None
    bookmark = Bookmark(Path(file), "export", {"cluster_id": now["cluster_id"], "prefix": prefix})
    at = None if fresh else bookmark.found()
    if at is None and not fresh and os.path.exists(file) and os.path.getsize(file):
        raise Trouble(
            f"{file} is there already", "it is no export that was interrupted", "--fresh writes over it", Exit.USAGE
        )
    records, began_s = (at["records"] if at else 0), time.monotonic()
    begun_at = records
    if at:
        ctl.showing.say(f"going on after {records:,} records")
    try:
        stream: BinaryIO = open(file, "r+b" if at else "wb")  # noqa: SIM115
    except OSError as error:
        raise Trouble(f"{file} cannot be written", str(error.strerror), "name another file", Exit.USAGE) from None
    with stream, bar(ctl.showing, "records") as progress:
        if at:
            stream.truncate(at["bytes"])
            stream.seek(at["bytes"])
        shown = progress.add_task("export", total=expected, completed=records)
        cursor = at["cursor"] if at else None
        try:
            for page in exporting.pages(cursor):
                records += _written(stream, page)
                cursor = page.cursor
                progress.update(shown, completed=records, total=max(expected, records) if expected else None)
                if bookmark.due() and cursor is not None:
                    _keep(bookmark, stream, cursor, records)
        except BaseException:
            if cursor is not None:
                _keep(bookmark, stream, cursor, records)
                ctl.showing.say(f"{records:,} records are written; the same command goes on from there")
            raise
        stream.flush()
        os.fsync(stream.fileno())
        progress.update(shown, total=records, completed=records)
    bookmark.remove()
    took_s = time.monotonic() - began_s
    rate = (records - begun_at) / max(took_s, 1e-9)
    told = {"file": file, "records": records, "seconds": round(took_s, 3), "records_per_s": round(rate)}
    ctl.showing.show(told, lambda: f"{records:,} records in {file}, {count(rate)} a second")


def expected_keys(cluster: dict[str, Any]) -> int | None:
    """Say about how many keys there are: what the members hold together, each as often as it is kept."""
    known = [one["keys"] for one in cluster["members"] if one["keys"] is not None and one["state"] != "joining"]
    copies = min(cluster["replicas"], len(cluster["members"]))
    if not known or not copies:
        return None
    return round(sum(known) * len(cluster["members"]) / len(known) / copies)


def _written(stream: BinaryIO, page: Page) -> int:
    stream.write(b"".join(page.lines))
    return len(page.lines)


def _keep(bookmark: Bookmark, stream: BinaryIO, cursor: str, records: int) -> None:
    stream.flush()
    os.fsync(stream.fileno())
    bookmark.write(cursor=cursor, bytes=stream.tell(), records=records)
