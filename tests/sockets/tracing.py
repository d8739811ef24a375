"""Debian's strace on a running daemon: what it asks of the kernel, in which order, and what the kernel refuses it."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.sockets.daemons import PATIENCE_S, Daemon, wait_until


def strace(*options: str) -> list[str]:
    found = shutil.which("strace")
    assert found, "this test needs Debian's strace: apt-get install strace"
    return [found, *options]


@contextmanager
def traced(daemon: Daemon, trace: Path, *options: str) -> Iterator[None]:
    """Watch all threads of a running daemon. Injections count from here, for each thread by itself.

    Who has the daemon killed by an injection must wait for its end inside.
    """
    assert daemon.process is not None
    command = strace("-f", "-p", str(daemon.process.pid), "-o", str(trace), *options)
    said = trace.with_name(f"{trace.name}.said")
    with open(said, "wb") as stream:
        tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)

    def attached() -> bool:
        # It may have ended already: with the daemon, whose first call may have been the one that kills it.
        ended = tracer.poll() is not None
        text = said.read_text()
        assert "attached" in text or not ended, text
        return "attached" in text

    try:
        wait_until(attached, "strace to be attached")
        yield
    finally:
        # Of a daemon that is dying strace could not let go, and both would hang; it ends with the daemon by itself.
        if daemon.ended() is None:
            tracer.send_signal(signal.SIGTERM)
        try:
            tracer.wait(PATIENCE_S)
        finally:
            tracer.kill()


class Call(NamedTuple):
    """One system call. It began and ended at these lines of the trace; ``fd`` is ``number<what it is>``."""

    name: str
    fd: str
    rest: str
    result: str
    began: int
    ended: int


_UNFINISHED = " <unfinished ...>"
_line = re.compile(r"(?P<thread>\d+)\s+(?P<text>.*)").fullmatch
_resumed = re.compile(r"<\.\.\. (?P<name>\w+) resumed>(?P<rest>.*)").fullmatch
_call = re.compile(r"(?P<name>\w+)\((?P<fd>\d+<.*?>)(?P<rest>.*)\)\s+= (?P<result>.*)").fullmatch


def calls(trace: Path) -> list[Call]:
    """Read the ended calls on descriptors from a trace that was made with ``-f -y -o``, in the order of their ends.

    A thread that enters or leaves a call is held until strace has written that down, so what the lines say was earlier
    was earlier, across threads too.
    """
    found = []
    open_calls: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(trace.read_text().splitlines()):
        matched = _line(line)
        assert matched, line
        thread, text = matched["thread"], matched["text"]
        began = number
        if text.endswith(_UNFINISHED):
            open_calls[thread] = (number, text.removesuffix(_UNFINISHED))
            continue
        resumed = _resumed(text)
        if resumed:
            began, start = open_calls.pop(thread, (number, f"{resumed['name']}(0<begun before the trace>"))
            text = start + resumed["rest"]
        call = _call(text)
        if call:
            found.append(Call(call["name"], call["fd"], call["rest"], call["result"], began, number))
    return found
