"""The set-up in ``etc/three-machines``, started as its page says, on other ports; then one machine fails."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sockets.daemons import PATIENCE_S, TWISTD, answers, call, free_port, wait_until

pytestmark = pytest.mark.system

SETUP = Path(__file__).parent.parent.parent / "etc" / "three-machines"


class Machines:
    """Processes by the machine that they run on."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ports = {port: str(free_port()) for port in ("8080", "8081", "2379", "2380")}
        self.running: dict[int, list[subprocess.Popen[bytes]]] = {1: [], 2: [], 3: []}
        (folder / "etc" / "three-machines").mkdir(parents=True)
        for file in SETUP.glob("*.toml"):
            (folder / "etc" / "three-machines" / file.name).write_text(self._on_free_ports(file.read_text()))

    def _on_free_ports(self, text: str) -> str:
        return re.sub(r"\b(8080|8081|2379|2380)\b", lambda found: self._ports[found[1]], text)

    def url(self, machine: int) -> str:
        return f"http://127.0.0.{machine}:{self._ports['8080']}"

    def start(self, machine: int) -> None:
        """Run the page's commands for machine 1 as those of another one."""
        commands = re.findall(r"^\$ ((?:etcd|twistd) .*)$", (SETUP / "README.md").read_text(), re.MULTILINE)
        assert len(commands) == 3
        for command in commands:
            words = shlex.split(self._on_free_ports(command))
            mine = [word if word.startswith("m1=") else self._moved(word, machine) for word in words]
            if mine[0] == "twistd":
                mine[:1] = [*TWISTD, "--nodaemon"]
            with open(self._folder / f"machine-{machine}.out", "ab") as log:
                process = subprocess.Popen(mine, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            self.running[machine].append(process)

    @staticmethod
    def _moved(word: str, machine: int) -> str:
        word = word.replace("127.0.0.1", f"127.0.0.{machine}")
        return re.sub(r"^(m)1$|(etcd-)1$|(kvnode-|kvproxy-)1(?=\.)", lambda m: f"{m[0][:-1]}{machine}", word)

    def fail(self, machine: int) -> None:
        for process in self.running[machine]:
            process.kill()
        for process in self.running[machine]:
            process.wait(PATIENCE_S)
        self.running[machine] = []


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    built = Machines(tmp_path)
    yield built
    for machine in built.running:
        built.fail(machine)


def test_three_machines_serve_together_and_one_may_fail(machines: Machines) -> None:
    for machine in (1, 2, 3):
        machines.start(machine)
    for machine in (1, 2, 3):
        url = machines.url(machine)
        wait_until(lambda: answers(f"{url}/health/ready"), f"{url} to be ready", 60)  # noqa: B023
    assert call("PUT", f"{machines.url(1)}/v1/kv/greeting", b"hello from one").status == 204
    assert call("GET", f"{machines.url(3)}/v1/kv/greeting").body == b"hello from one"
    machines.fail(1)
    got = wait_until(
        lambda: (found := call("GET", f"{machines.url(3)}/v1/kv/greeting")).status == 200 and found,
        "a majority to answer",
    )
    assert got.body == b"hello from one"
    assert call("PUT", f"{machines.url(2)}/v1/kv/greeting", b"hello from two").status == 204
    assert call("GET", f"{machines.url(3)}/v1/kv/greeting").body == b"hello from two"
