"""The lines that tests disturb do to the bytes what they say, in the direction they are told, and nothing else."""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.sockets.daemons import PATIENCE_S, wait_until
from tests.sockets.lines import FAIR, HOST, Fault, Lines, Weather

HERE, ECHO = "the test", "the echo"
WORDS = b"some words to carry"


@pytest.fixture
def echo() -> Iterator[int]:
    """A port where everything is sent back, to one caller after the other."""
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            while True:
                connection, _ = listener.accept()
                with connection:
                    try:
                        while data := connection.recv(4096):
                            if data == b"stop":
                                return
                            connection.sendall(data)
                    except ConnectionResetError:
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield port
        with socket.create_connection((HOST, port)) as last:
            last.sendall(b"stop")
            thread.join(PATIENCE_S)


@pytest.fixture
def lines(echo: int) -> Iterator[Lines]:
    """Lines that are closed before the echo, which they may keep waiting for the end of a call."""
    built = Lines()
    try:
        yield built
    finally:
        built.close()


@contextmanager
def calling(lines: Lines, echo: int) -> Iterator[socket.socket]:
    """A connection over a line that has carried something already."""
    port = lines.lead(ECHO, echo, lambda: {os.getpid(): HERE})
    with socket.create_connection((HOST, port), timeout=PATIENCE_S) as connection:
        connection.sendall(b"!")
        assert connection.recv(1) == b"!"
        yield connection


def has_come(connection: socket.socket) -> bytes | None:
    """What lies there to be read, None if nothing does."""
    return connection.recv(4096, socket.MSG_PEEK) if select.select([connection], [], [], 0)[0] else None


def whole(connection: socket.socket, size: int) -> bytes:
    wait_until(lambda: len(has_come(connection) or b"") >= size, f"{size} bytes to come")
    return connection.recv(4096)


@pytest.mark.parametrize("way", [(HERE, ECHO), (ECHO, HERE)])
@pytest.mark.parametrize("weather", [Weather(Fault.CRUMBS), Weather(Fault.DELAY, 0.1)])
def test_what_is_late_or_in_crumbs_comes_whole(lines: Lines, echo: int, way: tuple[str, str], weather: Weather) -> None:
    with calling(lines, echo) as connection:
        lines.set(*way, weather)
        connection.sendall(WORDS)
        assert whole(connection, len(WORDS)) == WORDS
    assert lines.struck[weather.fault] >= 1


@pytest.mark.parametrize("way", [(HERE, ECHO), (ECHO, HERE)])
def test_what_is_held_comes_when_the_fault_ends_and_not_before(lines: Lines, echo: int, way: tuple[str, str]) -> None:
    with calling(lines, echo) as connection:
        lines.set(*way, Weather(Fault.HOLD))
        connection.sendall(WORDS)
        wait_until(lambda: lines.struck[Fault.HOLD], "the line to hold it")
        assert has_come(connection) is None
        lines.set(*way, FAIR)
        assert whole(connection, len(WORDS)) == WORDS


@pytest.mark.parametrize("way", [(HERE, ECHO), (ECHO, HERE)])
def test_what_falls_into_a_black_hole_never_comes_nor_anything_after_it(
    lines: Lines, echo: int, way: tuple[str, str]
) -> None:
    with calling(lines, echo) as connection:
        lines.set(*way, Weather(Fault.HOLE))
        connection.sendall(WORDS)
        wait_until(lambda: lines.struck[Fault.HOLE], "the line to swallow it")
        lines.set(*way, FAIR)
        connection.sendall(WORDS)
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(4096)


@pytest.mark.parametrize("way", [(HERE, ECHO), (ECHO, HERE)])
def test_a_reset_reaches_the_caller(lines: Lines, echo: int, way: tuple[str, str]) -> None:
    with calling(lines, echo) as connection:
        lines.set(*way, Weather(Fault.RESET))
        connection.sendall(WORDS)
        with pytest.raises(ConnectionResetError):
            connection.recv(4096)


def test_half_an_answer_and_its_end_come_through_a_half_close(lines: Lines, echo: int) -> None:
    with calling(lines, echo) as connection:
        lines.set(ECHO, HERE, Weather(Fault.CUT))
        connection.sendall(WORDS)
        with connection.makefile("rb") as stream:
            assert stream.read() == WORDS[: len(WORDS) // 2]


def test_each_caller_has_weather_of_its_own_and_a_stranger_is_hung_up_on(lines: Lines, echo: int) -> None:
    script = (
        "import socket, sys; sys.stdin.read(1); s = socket.create_connection((sys.argv[1], int(sys.argv[2])));"
        "s.sendall(b'?'); sys.stdout.write(s.recv(1).decode())"
    )
    names: dict[int, str] = {}
    port = lines.lead(ECHO, echo, lambda: names)
    lines.set("another", ECHO, Weather(Fault.RESET))
    for name, said in ((HERE, "?"), ("another", ""), ("", "")):
        with subprocess.Popen(
            [sys.executable, "-c", script, HOST, str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            if name:
                names[process.pid] = name
            assert process.communicate("go", PATIENCE_S)[0] == said
