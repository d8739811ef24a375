"""One node on a real disk under Debian's strace: no answer before its sync, and no moment to die is a bad one."""

from __future__ import annotations

import http.client
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, count
from pathlib import Path

import pytest

from tests.sockets.daemons import Daemon, Farm, answers, farming, wait_until
from tests.sockets.direct import Direct
from tests.sockets.tracing import Call, calls, strace, traced

pytestmark = pytest.mark.system


@pytest.fixture
def farm(tmp_path: Path) -> Iterator[Farm]:
    with farming(tmp_path) as built:
        yield built


# No answer before its sync.

WRITERS, WRITES_EACH, READERS = 4, 12, 2
"""Few enough for all to stay within one block of the log (32 KiB): a value on its border would be cut in two."""
TRACED = "trace=fdatasync,fsync,write,writev,pwrite64,sendto,sendmsg,recvfrom"
SLOW_SYNC = "inject=fdatasync:delay_enter=10000"
"""Microseconds by which a sync is prolonged, so that many questions come while it runs. It waits in front of the
kernel: a sync that is over there, and held up on its way back, would excuse answers that do not know of it yet."""
tokens_in = re.compile(r"<w\d+-\d+>").findall


def test_no_answer_leaves_before_a_sync_of_what_it_says_that_began_after_its_write(farm: Farm) -> None:
    found = traced_answers(farm, "always")
    assert early(found) == []


def test_the_check_of_syncs_finds_the_answers_of_a_node_that_never_syncs(farm: Farm) -> None:
    found = traced_answers(farm, "never")
    assert len(early(found)) >= WRITERS * WRITES_EACH


def traced_answers(farm: Farm, mode: str) -> list[Call]:
    """Write and read the same keys from several clients at once, under strace."""
    node = farm.node("--sync", mode)
    with Direct(node) as direct:
        direct.write({"first": "adopts the epoch"})
    trace = farm.folder / "trace"
    written = threading.Event()

    def write(writer: int) -> None:
        with Direct(node) as direct:
            for number in range(WRITES_EACH):
                direct.write({f"key{writer}": f"<w{writer}-{number}>"})

    def read() -> None:
        with Direct(node) as direct:
            while not written.is_set():
                for writer in range(WRITERS):
                    direct.read(f"key{writer}")

    with traced(node, trace, "-y", "-s", "8192", "-e", TRACED, "-e", SLOW_SYNC), ThreadPoolExecutor() as pool:
        reading = [pool.submit(read) for _ in range(READERS)]
        try:
            for done in [pool.submit(write, writer) for writer in range(WRITERS)]:
                done.result()
        finally:
            written.set()
        for done in reading:
            done.result()
    return calls(trace)


def early(found: list[Call]) -> list[str]:
    """Describe the answers that say what was not synced: to a request with a token in it, or with one in themselves."""
    written: dict[str, int] = {}
    syncs: list[Call] = []
    asked: defaultdict[str, set[str]] = defaultdict(set)
    complaints = []
    answered = set()
    # An answer counts from its beginning, all else from its end.
    for one in sorted(found, key=lambda one: one.began if one.name == "sendto" else one.ended):
        if ".log>" in one.fd and one.name == "write":
            for token in tokens_in(one.rest):
                written.setdefault(token, one.ended)
        elif ".log>" in one.fd and one.name == "fdatasync" and one.result.startswith("0"):
            syncs.append(one)
        elif "socket:" in one.fd and one.name == "recvfrom":
            asked[one.fd].update(tokens_in(one.rest))
        elif "socket:" in one.fd and one.name == "sendto":
            said = asked.pop(one.fd, set()) | set(tokens_in(one.rest))
            answered |= said
            complaints += [
                f"line {one.began}: {token}, written at line {written.get(token)}"
                for token in said
                if token not in written or not any(sync.began > written[token] for sync in syncs)
            ]
    assert len(answered) == WRITERS * WRITES_EACH, "the trace shows every answer"
    return complaints


# No moment to die is a bad one.

SCRIPT = 15
"""Batches of the script, of two keys each."""


def test_a_node_killed_at_any_sync_of_a_script_has_every_acknowledged_write(farm: Farm) -> None:
    node = farm.node()
    life = node.info()["incarnation"]
    acknowledged: dict[str, str] = {}
    for moment in chain([1], count(1)):  # the first sync of all is the joining's, later the first batch's
        with traced(node, farm.folder / "trace", "-e", "trace=fdatasync", "-e", killing_at("fdatasync", moment)):
            tried, done = run_script(node, acknowledged, f"script {moment}")
            if done < SCRIPT:
                wait_until(lambda: node.ended() is not None, "the node to be dead")
        if done == SCRIPT:
            break
        node.start()
        assert node.info()["incarnation"] == life
        assert_kept(node, acknowledged, tried)
    assert moment > SCRIPT, "each batch had a sync of its own to die at"


@pytest.mark.parametrize("name", ["fdatasync", "fsync", "rename", "pwrite64"])
def test_a_node_killed_at_any_such_call_while_it_starts_has_every_acknowledged_write(farm: Farm, name: str) -> None:
    node = farm.node()
    life = node.info()["incarnation"]
    acknowledged: dict[str, str] = {}
    run_script(node, acknowledged, "before")
    for moment in count(1):
        node.kill()
        # As a grandchild (-D), so that the process id that is waited for is the node's.
        node.launch(strace("-D", "-f", "-o", "/dev/null", "-e", f"trace={name}", "-e", killing_at(name, moment)))
        wait_until(lambda: node.ended() is not None or answers(f"{node.url}/health/live"), "the node to live or to die")
        if node.ended() is None:
            break
    assert moment > 1, "there was a moment to die at"
    assert node.info()["incarnation"] == life
    assert_kept(node, acknowledged, {})


def killing_at(name: str, moment: int) -> str:
    return f"inject={name}:signal=SIGKILL:when={moment}"


def run_script(node: Daemon, acknowledged: dict[str, str], value: str) -> tuple[dict[str, str], int]:
    """Write batches one after the other until the node ends; note what it acknowledged.

    Gives the batch whose fate is unknown, and how many were acknowledged.
    """
    tried: dict[str, str] = {}
    done = 0
    try:
        with Direct(node) as direct:
            for number in range(SCRIPT):
                tried = {f"key{number}": f"{value} of key{number}", f"twin{number}": f"{value} of twin{number}"}
                direct.write(tried)
                acknowledged.update(tried)
                done += 1
    except (OSError, http.client.HTTPException):
        return tried, done
    return {}, done


def assert_kept(node: Daemon, acknowledged: dict[str, str], tried: dict[str, str]) -> None:
    """Every acknowledged value is there, or what was being written over it: of one batch all or nothing."""
    with Direct(node) as direct:
        shown = dict(zip(acknowledged, direct.read(*acknowledged), strict=True)) if acknowledged else {}
    assert shown in (acknowledged, {key: tried.get(key, value) for key, value in acknowledged.items()})


# A disk that fails.


@pytest.mark.parametrize("first", [1, 4])
def test_a_node_whose_sync_fails_ends_without_the_answer_and_verifies_everything_at_its_next_start(
    farm: Farm, first: int
) -> None:
    node = farm.node()
    life = node.info()["incarnation"]
    acknowledged: dict[str, str] = {}
    run_script(node, acknowledged, "before")
    failing = f"inject=fdatasync:error=EIO:when={first}+"
    with traced(node, farm.folder / "trace", "-e", "trace=fdatasync", "-e", failing):
        tried, done = run_script(node, acknowledged, "after")
        status = wait_until(lambda: node.ended() is not None and (node.ended(),), "the node to end")
    assert (status, done) == ((1,), first - 1)
    assert "the disk has failed, the node ends: the log could not be synced" in node.log()
    assert "Traceback" not in node.log()
    assert (node.home / "suspect").exists()
    node.start()
    assert not (node.home / "suspect").exists()
    assert node.info()["incarnation"] == life
    assert_kept(node, acknowledged, tried)


def test_a_node_whose_write_fails_ends_without_an_answer(farm: Farm) -> None:
    node = farm.node()
    life = node.info()["incarnation"]
    acknowledged: dict[str, str] = {}
    run_script(node, acknowledged, "before")
    logs = [str(path) for path in (node.home / "data").glob("*.log")]
    failing = ["-P", *logs, "-e", "inject=write:error=EIO:when=3+"]
    with traced(node, farm.folder / "trace", "-e", "trace=write", *failing):
        tried, done = run_script(node, acknowledged, "after")
        status = wait_until(lambda: node.ended() is not None and (node.ended(),), "the node to end")
    assert (status, done) == ((1,), 2)
    assert "the disk has failed, the node ends" in node.log()
    assert "Traceback" not in node.log()
    node.start()
    assert node.info()["incarnation"] == life
    assert_kept(node, acknowledged, tried)


# A slow disk.

SYNC_S = 3.0


def test_while_a_slow_sync_runs_other_keys_are_read_at_once_and_the_written_one_is_not(farm: Farm) -> None:
    node = farm.node()
    with Direct(node) as one, Direct(node) as two, Direct(node) as three, ThreadPoolExecutor() as pool:
        one.write({"other": "old", "key": "old"})
        slow = f"inject=fdatasync:delay_enter={int(SYNC_S * 1e6)}"
        with traced(node, farm.folder / "trace", "-e", "trace=fdatasync", "-e", slow):
            writing = pool.submit(one.write, {"key": "new"})
            seeing = pool.submit(wait_until, lambda: two.read("key") == ["new"], "the new value to be seen")
            reads = seen_before = 0
            while not writing.done():
                assert three.read("other") == ["old"]
                reads += 1
                seen_before += seeing.done() and not writing.done()
            seeing.result()
    assert reads > 20, "those that wait for the sync would be two or three"
    assert seen_before == 0
