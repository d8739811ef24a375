"""Redis's clients, as their users run them: they work at the Redis door, and complain of nothing."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import struct
import subprocess
import termios
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.sockets.daemons import PATIENCE_S, accepts, farming, free_port, wait_until

pytestmark = pytest.mark.system

CLIENTS = Path(__file__).parent.parent / "clients"
COMPLAINTS = re.compile(r"warn|error|unknown|fail", re.IGNORECASE)
INSTALL_S = 120
PROMPT = b"> "


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    port = free_port()
    with farming(tmp_path_factory.mktemp("cluster")) as farm:
        farm.proxy("--resp-port", str(port))
        for _ in range(3):
            farm.add(farm.node("--engine", "memory"))
        wait_until(lambda: accepts(port), "the Redis door to be open")
        yield port


@pytest.mark.parametrize("protocol", [2, 3])
def test_redis_py_works_without_a_warning(port: int, protocol: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        client = redis.Redis(port=port, protocol=protocol, decode_responses=True, client_name="tests")
        assert client.ping()
        assert client.set("py:a", "1", ex=100)
        assert client.set("py:a", "2", nx=True) is None
        assert client.set("py:a", "5", get=True) == "1"
        assert client.incr("py:a") == 6
        assert client.incrbyfloat("py:a", 0.5) == 6.5
        assert client.mset({"py:b": "x", "py:c": "y"})
        assert client.mget("py:b", "py:none", "py:c") == ["x", None, "y"]
        assert client.expire("py:b", 100)
        assert 40 <= int(client.ttl("py:b")) <= 100  # type: ignore[arg-type]
        assert sorted(client.scan_iter("py:*", count=2)) == ["py:a", "py:b", "py:c"]
        with client.pipeline(transaction=False) as pipeline:
            pipeline.append("py:b", "y").get("py:b").delete("py:b", "py:none")
            assert pipeline.execute() == [2, "xy", 1]
        with pytest.raises(redis.ResponseError, match=r"pipeline\(transaction=False\)"):
            client.execute_command("MULTI")
        assert client.client_getname() == "tests"
        assert client.info("server")["redis_mode"] == "standalone"
        assert client.config_get("save") == {"save": ""}
        assert client.delete("py:a", "py:c") == 2
        client.close()


def test_redis_cli_works_from_a_script_and_at_a_terminal(port: int) -> None:
    script = "SET cli:a 1\nINCR cli:a\nGET cli:a\nSCAN 0 MATCH cli:*\nDEL cli:a\n"
    done = subprocess.run(
        ["redis-cli", "-p", str(port)], input=script, capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert (done.stdout.split(), done.stderr) == (["OK", "2", "2", "0", "cli:a", "1"], "")
    typed = {b"set cli:b 7\r": b"OK", b"get cli:b\r": b'"7"', b"quit\r": b""}
    shown = at_a_terminal(["redis-cli", "-3", "-p", str(port)], typed)
    assert f"127.0.0.1:{port}> " in shown
    assert not COMPLAINTS.search(shown), shown


def at_a_terminal(command: list[str], lines: dict[bytes, bytes]) -> str:
    """Run a program at a terminal, type lines when it asks for them, and wait for what each has to bring.

    Gives all that was shown.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    shown = b""

    def until(holds: Callable[[], bool]) -> None:
        nonlocal shown
        until_s = time.monotonic() + PATIENCE_S
        while not holds():
            assert select.select([ours], [], [], until_s - time.monotonic())[0], shown
            shown += os.read(ours, 65_536)

    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        try:
            at = 0
            for line, brings in lines.items():
                until(lambda at=at: PROMPT in shown[at:])  # type: ignore[misc]
                at = len(shown)
                os.write(ours, line)
                until(lambda at=at, brings=brings: brings in shown[at:])  # type: ignore[misc]
                at = shown.index(brings, at)
            process.wait(PATIENCE_S)
            until(lambda: not select.select([ours], [], [], 0)[0])
        finally:
            process.kill()
            os.close(theirs)
            os.close(ours)
    return shown.decode("utf-8", "replace")


def test_redis_benchmark_works_without_a_warning(port: int) -> None:
    for more in ([], ["-P", "16", "-r", "1000"]):
        command = ["redis-benchmark", "-p", str(port), "-t", "ping,set,get,incr,mset", "-n", "2000", "-q", *more]
        done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_S, check=True)
        assert done.stdout.count("requests per second") == 6
        assert not COMPLAINTS.search(done.stdout + done.stderr), done.stdout + done.stderr


def test_clients_of_node_work_without_a_warning(port: int, tmp_path: Path) -> None:
    for file in ("package.json", "clients.mjs"):
        shutil.copy(CLIENTS / file, tmp_path)
    subprocess.run(
        ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=tmp_path,
        timeout=INSTALL_S,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    done = subprocess.run(
        ["node", "clients.mjs", str(port)], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "all is well\n", "")
