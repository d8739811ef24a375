"""A terminal in which the sessions of README and pages are typed as they are written, on free ports."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.sockets.daemons import TWISTD, accepts, alive, answers, free_ports, wait_until

PORTS = ("8080", "8081", "8082", "8083", "8084", "8090", "6380", "2379")
"""What the pages say. The nodes' stand in a row here, too."""

SESSION = re.compile(r"^(?:<!-- ([^\n]*) -->\n)?```console\n(.*?)^```", re.MULTILINE | re.DOTALL)
"""A session of a page, and what the line before it says, which no reader sees."""

NOT_RUN = "not run: "
"""Begins such a line where a session cannot be run, and why follows; ``ANEW`` that of one in a folder of its own."""
ANEW = "begin anew"


def sessions(page: Path) -> list[str]:
    """The sessions of a page that can be run, in their order."""
    return [session for story in stories(page) for session in story]


def stories(page: Path) -> list[list[str]]:
    """The sessions of a page that can be run, those together that follow one another in one folder."""
    found: list[list[str]] = [[]]
    for note, session in SESSION.findall(page.read_text(encoding="utf-8")):
        assert note == ANEW or note.startswith(NOT_RUN) or not note, f"{page.name} says {note!r} before a session"
        if note == ANEW:
            found.append([])
        if not note.startswith(NOT_RUN):
            found[-1].append(session)
    return [story for story in found if story]


def not_run(page: Path) -> list[str]:
    """Why the others cannot."""
    notes = [note for note, _ in SESSION.findall(page.read_text(encoding="utf-8"))]
    return [note.removeprefix(NOT_RUN) for note in notes if note.startswith(NOT_RUN)]


def steps(session: str) -> Iterator[tuple[str, str]]:
    """The commands of a session, each with the output that the page shows."""
    for part in re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield command, output


def _with_ports(command: str) -> str:
    """Write out the ports that a daemon takes where its command names none: they may be taken here."""
    usual = {
        "twistd kvproxy": {"--port": "8080", "--resp-port": "0"},
        "twistd kvcluster": {"--port": "8080", "--base-port": "8081", "--resp-port": "0"},
    }
    for name, port in usual.get(" ".join(command.split()[:2]), {}).items():
        command += "" if f" {name} " in command else f" {name} {port}"
    return command


class Terminal:
    """Types commands into a shell and compares what it shows.

    :param foreground: start daemons with ``-n``, each in a terminal of its own, so to speak.
    """

    def __init__(self, folder: Path, foreground: bool = False) -> None:
        first = free_ports(len(PORTS))
        self.ports = dict(zip(PORTS, map(str, range(first, first + len(PORTS))), strict=True))
        self.folder = folder
        self._foreground = foreground
        self.daemons: list[subprocess.Popen[bytes]] = []
        self._environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "KV_SERVER": f"http://127.0.0.1:{self.ports['8080']}",  # kvctl's own default is not in its command line
        }

    def moved(self, text: str) -> str:
        """Put the ports of this terminal in the place of the page's."""
        return re.sub("|".join(PORTS), lambda match: self.ports[match[0]], text)

    def play(self, session: str) -> None:
        for command, shown in steps(session):
            exported = re.fullmatch(r"export (\w+)=(\S+)", command)
            if exported is not None:
                self._environment[exported[1]] = exported[2]
                continue
            command = _with_ports(command)
            # Without a terminal it would leave out quotation marks and kinds.
            command = re.sub(r"^redis-cli ", "redis-cli --no-raw ", command)
            if command.startswith("twistd "):
                self._start(self.moved(command))
            else:
                self.type(self.moved(command), self.moved(shown))

    def _start(self, command: str) -> None:
        """Start a daemon, and wait until it listens."""
        found = re.search(r" --port (\d+)", command)
        assert found is not None, command
        port = found[1]
        before = self.folder / f"{command.split()[1]}-{port}" / "twistd.pid"
        if before.exists():
            # One that was killed is there until init has looked, and twistd would take it for one that runs.
            pid = int(before.read_text())
            wait_until(lambda: not alive(pid), f"{pid} to be gone", 60)
        if self._foreground:
            words = command.replace("twistd", "twistd -n").split()
            self.daemons.append(
                subprocess.Popen(words, cwd=self.folder, env=self._environment, stdout=subprocess.DEVNULL)
            )
        else:
            self.type(command, "")
        wait_until(lambda: accepts(int(port)), f"{command} to listen", 60)

    def type(self, command: str, shown: str) -> None:
        """Type one command. ``...`` in what is shown stands for anything."""
        # Output goes to a file: a daemon that the shell leaves behind would hold a pipe open.
        with open(self.folder / "output", "w+b") as output:
            done = subprocess.run(
                ["bash", "-c", command],
                check=False,
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE,
                timeout=180,  # some wait until a cluster is well, and machines are busy
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
        for pid_file in self.folder.glob("kv*/twistd.pid"):
            pid = int(pid_file.read_text())
            if alive(pid):  # a session may have killed it
                os.kill(pid, signal.SIGTERM)
            wait_until(lambda pid=pid: not alive(pid), f"{pid_file} to end")  # type: ignore[misc]


@contextmanager
def beside_make_run(terminal: Terminal) -> Iterator[Terminal]:
    """Have in another terminal what ``make run`` runs."""
    ports, folder = terminal.ports, terminal.folder
    where = ["--port", ports["8080"], "--base-port", ports["8081"], "--resp-port", ports["6380"]]
    with open(folder / "log", "wb") as log:
        cluster = subprocess.Popen(
            [*TWISTD, "--nodaemon", "kvcluster", *where], cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{ports['8080']}/health/ready"), "the cluster to be ready", 60)
        yield terminal
    finally:
        cluster.send_signal(signal.SIGINT)
        cluster.wait(20)
        terminal.end()  # and what the sessions started beside it
