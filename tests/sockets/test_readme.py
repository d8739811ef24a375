"""The README's sessions run as they are written; only the ports are exchanged for free ones."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sockets.daemons import TWISTD, alive, answers, free_port, wait_until

pytestmark = pytest.mark.system

README = Path(__file__).parent.parent.parent / "README.md"
SESSIONS = re.findall(r"```console\n(.*?)```", README.read_text(), re.DOTALL)
PORTS = ("8080", "8081", "8082", "8083")


def steps(session: str) -> Iterator[tuple[str, str]]:
    """The commands of a session, each with the output that the README shows."""
    for part in re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def consecutive_ports() -> dict[str, str]:
    """Free ports in place of the README's, the nodes' in a row."""
    while True:
        first = free_port()
        if first + 3 < 65_536:
            return dict(zip(PORTS, map(str, range(first, first + 4)), strict=True))


class Terminal:
    """Types the README's commands into a shell and compares what it shows.

    :param foreground: start daemons with ``-n``, each in a terminal of its own, so to speak.
    """

    def __init__(self, folder: Path, foreground: bool = False) -> None:
        self.ports = consecutive_ports()
        self._folder = folder
        self._foreground = foreground
        self.daemons: list[subprocess.Popen[bytes]] = []
        self._environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def _moved(self, text: str) -> str:
        return re.sub("|".join(PORTS), lambda match: self.ports[match[0]], text)

    def play(self, session: str) -> None:
        for command, shown in steps(session):
            # The README's proxy takes the default port, which may be taken here.
            command = "twistd kvproxy --resp-port 0 --port 8080" if command == "twistd kvproxy" else command
            if command.startswith("twistd "):
                self._start(self._moved(command))
            else:
                self._type(self._moved(command), self._moved(shown))

    def _start(self, command: str) -> None:
        if self._foreground:
            words = command.replace("twistd", "twistd -n").split()
            self.daemons.append(
                subprocess.Popen(words, cwd=self._folder, env=self._environment, stdout=subprocess.DEVNULL)
            )
        else:
            self._type(command, "")
        port = command.split()[-1]
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/health/live"), f"{command} to live")

    def _type(self, command: str, shown: str) -> None:
        # Output goes to a file: a daemon that the shell leaves behind would hold a pipe open.
        with open(self._folder / "output", "w+b") as output:
            done = subprocess.run(
                ["bash", "-c", command],
                check=False,
                cwd=self._folder,
                env=self._environment,
                stdout=output,
                stderr=subprocess.PIPE,
                timeout=60,
            )
            output.seek(0)
            said = output.read().decode()
        assert done.returncode == 0, f"{command}\n{said}{done.stderr.decode()}"
        pattern = re.escape(shown.strip()).replace(r"\.\.\.", ".*")
        assert re.fullmatch(pattern, said.strip(), re.DOTALL), f"{command}\nsaid: {said}\nshown: {shown}"

    def end(self) -> None:
        for daemon in self.daemons:
            daemon.terminate()
            daemon.wait(20)
        for pid_file in self._folder.glob("kv*/twistd.pid"):
            pid = int(pid_file.read_text())
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda pid=pid: not alive(pid), f"{pid_file} to end")  # type: ignore[misc]


def test_the_readme_shows_three_sessions_and_needs_only_curl() -> None:
    assert shutil.which("curl"), "the README's sessions use curl: install it"
    assert len(SESSIONS) == 3


def test_the_sessions_beside_make_run_run_as_written(tmp_path: Path) -> None:
    terminal = Terminal(tmp_path)
    proxy, node = terminal.ports["8080"], terminal.ports["8081"]
    command = [*TWISTD, "--nodaemon", "kvcluster", "--port", proxy, "--base-port", node, "--resp-port", "0"]
    with open(tmp_path / "log", "wb") as log:
        cluster = subprocess.Popen(command, cwd=tmp_path, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{proxy}/health/ready"), "the cluster to be ready")
        for session in SESSIONS[:2]:
            terminal.play(session)
    finally:
        cluster.send_signal(signal.SIGINT)
        cluster.wait(20)


@pytest.mark.parametrize("foreground", [False, True], ids=["daemonized", "with -n"])
def test_the_session_by_hand_runs_as_written_from_one_folder(tmp_path: Path, foreground: bool) -> None:
    terminal = Terminal(tmp_path, foreground)
    try:
        terminal.play(SESSIONS[2])
        assert {path.name.split("-")[0] for path in tmp_path.iterdir()} == {"kvnode", "kvproxy", "output"}
    finally:
        terminal.end()
