"""``kvctl import``: keys and values from lines, over several connections; it goes on where it was interrupted."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import click

from .bookmark import EXPORT, Bookmark, bookmark_path
from .client import Client
from .cluster import state_of
from .common import YES, Ctl, asks_proxy
from .data import CONSISTENCY, query
from .progress import bar
from .showing import count, size
from .trouble import Exit, Trouble, of_problem

LANES = 4
"""Connections. A key's records all go by the same one, one request after the other, so that the last line wins."""
CHUNK_BYTES = 4 << 20
CHUNK_LINES = 8_000
AHEAD = 3
"""Chunks that are read and not yet acknowledged."""
REQUEST_BYTES = 6 << 20
REQUEST_LINES = 2_000


class Chunk(NamedTuple):
    """Lines that were read together."""

    first_line: int
    lines: list[bytes]
    end: int
    """The offset behind the last one."""


class Sent(NamedTuple):
    """What became of a chunk: so many records stored, so many left out since they have expired."""

    stored: int
    expired: int
    end: int
    end_line: int


def chunks(stream: BinaryIO, offset: int, line: int) -> Iterator[Chunk]:
    """Read a file from an offset on."""
    while lines := stream.readlines(CHUNK_BYTES):
        for at in range(0, len(lines), CHUNK_LINES):
            some = lines[at : at + CHUNK_LINES]
            offset += sum(map(len, some))
            yield Chunk(line + 1, some, offset)
            line += len(some)


class Importing:
    """Stores lines, some chunks at once."""

    def __init__(self, client: Client, asked: str, now_ms: Callable[[], int]) -> None:
        self._clients = [client.another() for _ in range(LANES)]
        self._query = asked
        self._now_ms = now_ms

    def run(self, source: Iterator[Chunk]) -> Iterator[Sent]:
        """Store chunk after chunk, and say so when all of one is acknowledged.

        :raises Trouble: naming the line, if one is none: those before it are stored by then; or as ``records.bulk``
            does.
        """
        waiting: deque[tuple[list[Future[None]], Sent]] = deque()
        lanes = [ThreadPoolExecutor(1) for _ in range(LANES)]
        wrong: Trouble | None = None
        try:
            for chunk in source:
                futures, sent, wrong = self._begin(lanes, chunk)
                waiting.append((futures, sent))
                if wrong is not None:
                    break
                if len(waiting) >= AHEAD:
                    yield self._done(*waiting.popleft())
            while waiting:
                yield self._done(*waiting.popleft())
            if wrong is not None:
                raise wrong
        finally:
            for lane in lanes:
                lane.shutdown(wait=True, cancel_futures=True)

    def _begin(self, lanes: list[ThreadPoolExecutor], chunk: Chunk) -> tuple[list[Future[None]], Sent, Trouble | None]:
        """Begin to store the lines of a chunk, or those before one that is none; and say what is wrong with that."""
        from .records import put_of

        wrong = None
        end, end_line = chunk.end, chunk.first_line + len(chunk.lines) - 1
        now_ms = self._now_ms()
        shares: list[list[tuple[int, dict[str, Any]]]] = [[] for _ in lanes]
        stored = expired = 0
        for number, line in enumerate(chunk.lines, chunk.first_line):
            if not line.strip():
                continue
            try:
                put = put_of(line, now_ms)
            except ValueError as error:
                wrong = Trouble(
                    f"line {number} is no record",
                    str(error),
                    'write lines like {"key": "k", "value": "v"}; those before it are stored',
                    Exit.USAGE,
                )
                end -= sum(map(len, chunk.lines[number - chunk.first_line :]))
                end_line = number - 1
                break
            if put is None:
                expired += 1
                continue
            stored += 1
            shares[hash(put["key"]) % len(lanes)].append((number, put))
        futures = [
            lane.submit(self._send, client, share)
            for lane, client, share in zip(lanes, self._clients, shares, strict=True)
            if share
        ]
        return futures, Sent(stored, expired, end, end_line), wrong

    def _send(self, client: Client, share: list[tuple[int, dict[str, Any]]]) -> None:
        from .records import bulk, cut

        sizes = (len(put["key"]) + len(put["value"]) + 64 for _, put in share)
        for part in cut(share, sizes, REQUEST_LINES, REQUEST_BYTES):
            answers = bulk(client, [put for _, put in part], self._query)
            for (number, _), answer in zip(part, answers, strict=True):
                if answer["status"] != 204:
                    found = of_problem(answer["status"], answer.get("problem", {}))
                    raise Trouble(f"line {number}: {found.what}", found.why, found.then, found.code)

    @staticmethod
    def _done(futures: list[Future[None]], sent: Sent) -> Sent:
        for future in futures:
            future.result()
        return sent


@click.command(name="import")
@click.argument("file", type=click.Path(dir_okay=False))
@click.option("--fresh", is_flag=True, help="Begin with the first line, whatever was done already.")
@CONSISTENCY
@YES
@asks_proxy
def import_(ctl: Ctl, file: str, fresh: bool, consistency: str | None, yes: bool) -> None:
    """Store the keys and values in FILE, as export writes it; - for standard input.

    What a key held before is replaced. Interrupted, the same command goes on where it was; a line that is stored twice
    does no harm.
    """
    now = state_of(ctl)
    if file == "-":
        _plan(ctl, "standard input", None, now, yes)
        _run(ctl, sys.stdin.buffer, None, consistency, {}, None)
        return
    try:
        stream = open(file, "rb")  # noqa: SIM115
    except OSError as error:
        raise Trouble(
            f"{file} cannot be read", str(error.strerror), "name a file that export wrote", Exit.USAGE
        ) from None
    with stream:
        found = os.fstat(stream.fileno())
        of = {"cluster_id": now["cluster_id"], "file_size": found.st_size, "file_time": found.st_mtime_ns}
        bookmark = Bookmark(Path(file), "import", of)
        at = (None if fresh else bookmark.found(bytes=int, line=int)) or {}
        _whole(file)
        if at.get("bytes", 0) > found.st_size:
            raise Trouble(
                f"{bookmark.path} cannot be read",
                f"it says that {at['bytes']:,} bytes are stored, and {file} has {found.st_size:,}",
                "--fresh begins anew",
                Exit.USAGE,
            )
        if at:
            ctl.showing.say(f"going on after line {at['line']:,}")
        _plan(ctl, file, found.st_size - at.get("bytes", 0), now, yes)
        stream.seek(at.get("bytes", 0))
        _run(ctl, stream, bookmark, consistency, at, found.st_size)


def _whole(file: str) -> None:
    """:raises Trouble: if an export into the file was begun, and not ended: keys would be missing."""
    beside = bookmark_path(Path(file), EXPORT)
    if beside.exists():
        raise Trouble(
            f"the export into {file} is not whole",
            f"it was interrupted, as {beside} says",
            f"end it with kvctl export {file}; to import what is there, remove {beside} first",
            Exit.PRECONDITION,
        )


def _plan(ctl: Ctl, source: str, left: int | None, now: dict[str, Any], yes: bool) -> None:
    much = f"{size(left)}B of " if left is not None else ""
    copies = min(now["replicas"], len(now["members"]))
    ctl.showing.say(f"plan: store {much}{source} in cluster {now['cluster_id']}, {copies} copies of each key")
    ctl.confirm("do it?", yes)


def _run(
    ctl: Ctl,
    stream: BinaryIO,
    bookmark: Bookmark | None,
    consistency: str | None,
    at: dict[str, Any],
    total: int | None,
) -> None:
    importing = Importing(ctl.client, query(ctl, consistency=consistency), lambda: time.time_ns() // 1_000_000)
    offset, line = at.get("bytes", 0), at.get("line", 0)
    stored = expired = 0
    began_s = time.monotonic()
    with bar(ctl.showing, "", in_bytes=True) as progress:
        shown = progress.add_task("import", total=total, completed=offset)
        try:
            for sent in importing.run(chunks(stream, offset, line)):
                stored, expired = stored + sent.stored, expired + sent.expired
                offset, line = sent.end, sent.end_line
                progress.update(shown, completed=offset, description=f"import {count(stored)} records")
                if bookmark is not None and bookmark.due():
                    bookmark.write(bytes=offset, line=line)
        except BaseException:
            if bookmark is not None and line:
                bookmark.write(bytes=offset, line=line)
                ctl.showing.say(f"{line:,} lines are stored; {bookmark.goes_on()}")
            raise
    if bookmark is not None:
        bookmark.remove()
    took_s = time.monotonic() - began_s
    rate = stored / max(took_s, 1e-9)
    told = {
        "records": stored,
        "expired": expired,
        "lines": line,
        "seconds": round(took_s, 3),
        "records_per_s": round(rate),
    }
    left_out = f"; {expired:,} had expired and were left out" if expired else ""
    ctl.showing.show(told, lambda: f"{stored:,} records stored, {count(rate)} a second{left_out}")
