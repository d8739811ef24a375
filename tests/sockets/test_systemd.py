"""Daemons under systemd: what they tell it, the sockets that it hands over, and the units in etc/systemd."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import endpoints, reactor
from twisted.internet.protocol import Factory
from twisted.python.systemd import ListenFDs

from tests.sockets.daemons import PATIENCE_S, TWISTD, answers, call, free_port, free_ports, token_file, wait_until
from tests.sockets.supervised import Supervised, listening_socket
from tests.sockets.test_tokens import CLIENT, NODE, bearer
from tests.sockets.tracing import strace
from twisted_kv.children import Children
from twisted_kv.config import worker_socket
from twisted_kv.limits import Limits
from twisted_kv.node import listening
from twisted_kv.proxy import PART_GRACE_S, STOP_SPARE_S
from twisted_kv.web.relay import WORKER_HOST
from twisted_kv.workers import KILL_SPARE_S

TREE = Path(__file__).resolve().parents[2]
UNITS = TREE / "etc" / "systemd"
SERVICES = ("kvnode@.service", "kvproxy.service", "kvcluster.service")
SOCKETS = ("kvproxy.socket", "kvproxy-redis.socket")
PLACE = "/opt/twisted_kv/bin/twistd"
EXPOSURE_MAX = 20
"""In tenths: systemd-analyze says OK below 2.0."""


@pytest.fixture
def supervised(tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    started: list[Supervised] = []

    def start(*command: str, **more: Any) -> Supervised:
        folder = tmp_path / str(len(started))
        folder.mkdir()
        started.append(Supervised(folder, *command, **more))
        return started[-1]

    yield start
    for one in reversed(started):
        one.end()


# What is told.


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
def test_a_node_is_ready_when_it_answers_and_says_when_it_stops(
    supervised: Callable[..., Supervised], abstract: bool
) -> None:
    port = free_port()
    node = supervised("kvnode", "--port", str(port), abstract=abstract)

    text = node.hears("READY=1")

    assert answers(f"http://127.0.0.1:{port}/health/live")
    assert text == f"READY=1\nSTATUS=serving on http://127.0.0.1:{port}"
    node.send(signal.SIGTERM)
    node.hears("STOPPING=1")


def test_a_proxy_is_ready_when_it_answers(supervised: Callable[..., Supervised]) -> None:
    port = free_port()
    proxy = supervised("kvproxy", "--port", str(port), "--resp-port", "0")

    proxy.hears("READY=1")

    assert answers(f"http://127.0.0.1:{port}/health/live")
    proxy.send(signal.SIGTERM)
    proxy.hears("STOPPING=1")


def test_a_cluster_is_ready_when_all_its_nodes_are_in_and_its_children_say_nothing(
    supervised: Callable[..., Supervised],
) -> None:
    port, base = free_port(), free_ports(3)
    own = ("--port", str(port), "--base-port", str(base), "--resp-port", "0", "--engine", "memory")
    cluster = supervised("kvcluster", *own)

    cluster.hears("READY=1")

    members = call("GET", f"http://127.0.0.1:{port}/v1/cluster").json()["members"]
    assert [member["state"] for member in members] == ["up"] * 3
    cluster.send(signal.SIGTERM)
    cluster.hears("STOPPING=1")
    cluster.process.wait(30)
    assert sum("READY=1" in text for text in cluster.said) == 1


def ids(folder: Path) -> dict[str, str]:
    """The processes that a daemon has started, by their folders."""
    return {path.parent.name: path.read_text(encoding="ascii") for path in folder.glob("*/twistd.pid")}


def test_a_reload_without_a_token_file_ends_no_child_of_a_cluster(supervised: Callable[..., Supervised]) -> None:
    port, base = free_port(), free_ports(3)
    own = ("--port", str(port), "--base-port", str(base), "--resp-port", "0", "--engine", "memory")
    cluster = supervised("kvcluster", *own, "--data-dir", "home")
    cluster.hears("READY=1", 60)
    before = ids(cluster.folder / "home")

    cluster.send(signal.SIGHUP)
    cluster.hears("RELOADING=1")
    cluster.hears("READY=1")

    # A process that a signal ends answers nothing more from the moment it was sent.
    assert all(answers(f"http://127.0.0.1:{one}/health/live") for one in (port, *range(base, base + 3)))
    assert ids(cluster.folder / "home") == before
    assert len(before) == 4


def test_a_reload_without_a_token_file_ends_no_worker(supervised: Callable[..., Supervised]) -> None:
    proxy = supervised(
        "kvproxy", "--port", str(free_port()), "--resp-port", "0", "--workers", "2", "--data-dir", "home"
    )
    proxy.hears("READY=1")
    door = worker_socket(proxy.folder / "home", 2)

    def answered() -> bool:
        with socket.socket(socket.AF_UNIX) as worker:
            worker.settimeout(10)
            try:
                worker.connect(str(door))
                worker.sendall(f"GET /metrics HTTP/1.1\r\nHost: {WORKER_HOST}\r\n\r\n".encode())
                return worker.recv(100).startswith(b"HTTP/1.1 200 ")
            except OSError:
                return False

    wait_until(answered, "the other worker to answer")
    before = ids(proxy.folder / "home")

    proxy.send(signal.SIGHUP)
    proxy.hears("RELOADING=1")
    proxy.hears("READY=1")

    assert answered()
    assert ids(proxy.folder / "home") == before


def test_a_daemon_that_cannot_start_is_never_ready(supervised: Callable[..., Supervised]) -> None:
    port = free_port()
    broken = supervised("kvproxy", "--port", str(port), "--resp-port", "0", "--vnodes", "64")
    broken.hears("READY=1")
    broken.end()

    again = supervised(
        "kvproxy",
        "--port",
        str(port),
        "--resp-port",
        "0",
        "--vnodes",
        "32",
        "--data-dir",
        str(broken.folder / f"kvproxy-{port}"),
    )

    assert again.process.wait(PATIENCE_S) == 1
    assert "contradicts the cluster's state" in again.log()
    assert again.everything() == ["STATUS=reading the cluster's state", "STOPPING=1\nSTATUS=stopping"]


def test_a_reload_reads_tokens_again(supervised: Callable[..., Supervised], tmp_path: Path) -> None:
    tokens = token_file(tmp_path / "node.tokens", f"read-write {NODE}")
    port = free_port()
    node = supervised("kvnode", "--port", str(port), "--engine", "memory", "--token-file", str(tokens))
    node.hears("READY=1")
    token_file(tokens, f"read-write {NODE}", f"read-write {CLIENT}")

    node.send(signal.SIGHUP)
    reloading = node.hears("RELOADING=1")
    node.hears("READY=1")

    assert re.fullmatch(r"RELOADING=1\nMONOTONIC_USEC=\d+", reloading)
    assert call("GET", f"http://127.0.0.1:{port}/health/live", **bearer(CLIENT)).status == 200


def test_a_reload_without_a_token_file_does_not_end_a_supervised_daemon(supervised: Callable[..., Supervised]) -> None:
    port = free_port()
    node = supervised("kvnode", "--port", str(port), "--engine", "memory")
    node.hears("READY=1")

    node.send(signal.SIGHUP)
    node.hears("RELOADING=1")
    node.hears("READY=1")

    assert answers(f"http://127.0.0.1:{port}/health/live")


def test_a_stuck_daemon_gives_no_sign_of_life(supervised: Callable[..., Supervised]) -> None:
    node = supervised("kvnode", "--port", str(free_port()), "--engine", "memory", watchdog_s=0.6)
    node.hears("READY=1")
    node.hears("WATCHDOG=1")
    node.hears("WATCHDOG=1")

    node.send(signal.SIGSTOP)
    stat = Path(f"/proc/{node.process.pid}/stat")
    wait_until(lambda: stat.read_text().rsplit(")", 1)[1].split()[0] == "T", "it to stand still")
    node.everything()

    assert node.silent_for(1.0)
    node.send(signal.SIGCONT)
    node.hears("WATCHDOG=1")


# Sockets that systemd holds.


def with_tokens(folder: Path) -> tuple[str, ...]:
    clients = token_file(folder / "client.tokens", f"read-write {CLIENT}")
    nodes = token_file(folder / "node.tokens", f"read-write {NODE}")
    return ("--token-file", str(clients), "--node-token-file", str(nodes))


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def test_a_proxy_serves_both_its_doors_on_sockets_that_it_was_handed(
    supervised: Callable[..., Supervised], tmp_path: Path, family: socket.AddressFamily
) -> None:
    http, redis = listening_socket(family), listening_socket(family)
    domain = family.name.removeprefix("AF_")
    host = "127.0.0.1" if family == socket.AF_INET else "[::1]"
    with http, redis, socket.create_connection(redis.getsockname()[:2]) as early:
        early.sendall(b"PING\r\n")  # before anybody is there to answer
        proxy = supervised(
            *("kvproxy", *with_tokens(tmp_path)),
            *("--listen", f"systemd:domain={domain}:name=kvproxy"),
            *("--resp-listen", f"systemd:domain={domain}:name=kvproxy-redis"),
            sockets=[("kvproxy-redis", redis), ("kvproxy", http)],
        )
        proxy.hears("READY=1")

        url = f"http://{host}:{http.getsockname()[1]}"
        assert call("GET", f"{url}/health/live", **bearer(CLIENT)).status == 200
        assert call("GET", f"{url}/v1/cluster", **bearer(CLIENT)).json()["members"] == []
        early.settimeout(10)
        assert early.recv(100).startswith(b"-NOAUTH")


def test_a_client_waits_while_a_daemon_on_such_a_socket_is_started_again(
    supervised: Callable[..., Supervised], tmp_path: Path
) -> None:
    tokens = token_file(tmp_path / "node.tokens", f"read-write {NODE}")
    with listening_socket() as port:
        own = ("kvnode", "--engine", "memory", "--token-file", str(tokens), "--listen", "systemd:domain=INET:index=0")
        first = supervised(*own, sockets=[("kvnode", port)])
        first.hears("READY=1")
        first.end()
        with socket.create_connection(port.getsockname()) as waiting:
            waiting.sendall(
                b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %s\r\n\r\n" % NODE.encode()
            )

            supervised(*own, sockets=[("kvnode", port)])

            waiting.settimeout(20)
            assert waiting.recv(1000).startswith(b"HTTP/1.1 200 ")


def test_a_node_that_begins_anew_in_its_process_listens_on_the_same_socket_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    held = listening_socket()
    given = ListenFDs([held.detach()], ["kvnode"])
    monkeypatch.setattr(endpoints._SystemdParser, "_sddaemon", given)

    for _ in range(2):
        door = listening(reactor, "systemd:domain=INET:name=kvnode", Factory())
        door.stopService()

    os.close(given.inheritedDescriptors()[0])  # which is still there


def test_a_socket_that_was_not_handed_over_is_named(supervised: Callable[..., Supervised], tmp_path: Path) -> None:
    for endpoint in ("systemd:domain=INET:name=kvproxy", "systemd:domain=INET:index=0"):
        proxy = supervised("kvproxy", *with_tokens(tmp_path), "--resp-port", "0", "--listen", endpoint)

        assert proxy.process.wait(20) == 1
        assert f"systemd has handed over no socket for {endpoint}" in proxy.log()
        assert "Traceback" not in proxy.log()


def test_a_socket_of_systemds_is_for_one_process_and_asks_for_tokens(tmp_path: Path) -> None:
    listen = ("--listen", "systemd:domain=INET:name=kvproxy")
    for given, said in (
        ((*listen, *with_tokens(tmp_path), "--workers", "2"), "workers is 2, and a socket that systemd hands over"),
        (listen, "there is no token file"),
    ):
        done = subprocess.run(
            [*TWISTD, "--nodaemon", "kvproxy", *given],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 1
        assert said in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr


# The units.


def settings(unit: Path) -> dict[str, list[str]]:
    """A unit's lines, by their names."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(s|min|h)?", text).groups()  # type: ignore[union-attr]
    return int(number) * {None: 1, "s": 1, "min": 60, "h": 3600}[unit]


def test_systemd_waits_longer_than_a_daemon_takes_to_stop() -> None:
    limits = Limits()
    drain_s = limits.stop_notice_s + PART_GRACE_S + limits.operation_timeout_s + max(STOP_SPARE_S, KILL_SPARE_S)
    takes_s = {"kvnode@.service": 0.0, "kvproxy.service": 2 * drain_s, "kvcluster.service": 2 * (Children.killTime + 1)}

    for name, takes in takes_s.items():
        assert seconds(settings(UNITS / name)["TimeoutStopSec"][0]) > 1.5 * takes


def test_a_units_command_is_one_that_its_daemon_takes(tmp_path: Path) -> None:
    for unit in (*(UNITS / name for name in SERVICES), *sorted((UNITS / "credentials").glob("*.conf"))):
        words = settings(unit)["ExecStart"][-1].split()
        assert words[:3] == [PLACE, "--nodaemon", "--pidfile="]
        token_file(tmp_path / "client.tokens", f"read-write {CLIENT}")
        token_file(tmp_path / "node.tokens", f"read-write {NODE}")
        given = [
            word.replace("/etc/twisted_kv", str(TREE / "etc"))
            .replace("%i", "8081")
            .replace("%S", str(tmp_path))
            .replace("%d", str(tmp_path))
            for word in words[4:]
        ]

        # A port that is taken ends it, when all else was taken.
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = str(taken.getsockname()[1])
            given = [*given, "--port", port]
            done = subprocess.run(
                [*TWISTD, *words[1:4], *given], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
            )
        assert f"port {port} on 127.0.0.1 cannot be used" in done.stdout + done.stderr, (unit, done)


def test_a_socket_unit_says_the_endpoint_that_its_name_goes_with() -> None:
    for name in SOCKETS:
        text = (UNITS / name).read_text(encoding="utf-8")
        assert f'"systemd:domain=INET:name={settings(UNITS / name)["FileDescriptorName"][0]}"' in text
        assert settings(UNITS / name)["Service"] == ["kvproxy.service"]


def tool(name: str) -> str:
    found = shutil.which(name)
    assert found, f"this test needs Debian's {name}: apt-get install systemd"
    return found


@pytest.fixture
def units(tmp_path: Path) -> list[Path]:
    """The units as they are installed, but with this environment's twistd, and one node."""
    twistd = Path(sys.executable).with_name("twistd")
    for name in (*SERVICES, *SOCKETS):
        text = (UNITS / name).read_text(encoding="utf-8")
        (tmp_path / name.replace("@", "@8081")).write_text(text.replace(PLACE, str(twistd)), encoding="utf-8")
    return sorted(tmp_path.iterdir())


def verified(units: list[Path]) -> tuple[int, str, str]:
    """Have systemd look at units; give its status, and what it says."""
    done = subprocess.run(
        [tool("systemd-analyze"), "verify", "--man=no", *map(str, units)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.system
def test_systemd_takes_the_units_without_a_word(units: list[Path]) -> None:
    assert verified(units) == (0, "", "")


@pytest.mark.system
def test_systemd_takes_the_drop_ins_without_a_word(units: list[Path]) -> None:
    folder = units[0].parent
    twistd = str(Path(sys.executable).with_name("twistd"))
    for unit, conf in (("kvnode@8081.service", "kvnode.conf"), ("kvproxy.service", "kvproxy.conf")):
        drop_ins = folder / f"{unit}.d"
        drop_ins.mkdir()
        text = (UNITS / "credentials" / conf).read_text(encoding="utf-8")
        (drop_ins / "credentials.conf").write_text(text.replace(PLACE, twistd), encoding="utf-8")
    assert verified(units) == (0, "", "")


@pytest.mark.system
def test_a_daemon_is_exposed_to_little_in_systemds_judgement(units: list[Path]) -> None:
    for unit in (one for one in units if one.suffix == ".service"):
        done = subprocess.run(
            [tool("systemd-analyze"), "security", "--offline=yes", f"--threshold={EXPOSURE_MAX}", str(unit)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-2000:]
        assert "OK" in done.stdout.splitlines()[-1], done.stdout[-300:]


@pytest.mark.system
def test_the_daemons_user_is_made_as_the_file_says(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    done = subprocess.run(
        [tool("systemd-sysusers"), f"--root={tmp_path}", str(UNITS / "sysusers.conf")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    made = [line for line in (tmp_path / "etc" / "passwd").read_text().splitlines() if line.startswith("twisted_kv:")]
    assert [line.split(":")[5] for line in made] == ["/var/lib/twisted_kv"]
    assert settings(UNITS / SERVICES[0])["User"] == ["twisted_kv"]


def filtered(unit: Path) -> set[str]:
    """The system calls that a unit's filter lets through."""
    text = subprocess.run(
        [tool("systemd-analyze"), "syscall-filter"], capture_output=True, text=True, check=True
    ).stdout
    groups: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("@"):
            groups[line.strip()] = []
        elif line.startswith("    ") and not line.strip().startswith("#"):
            groups[list(groups)[-1]].append(line.strip())

    def calls(name: str) -> set[str]:
        return set().union(*map(calls, groups[name])) if name in groups else {name}

    allowed = calls("@default")
    for value in settings(unit)["SystemCallFilter"]:
        named = set().union(*map(calls, value.removeprefix("~").split()))
        allowed = allowed - named if value.startswith("~") else allowed | named
    return allowed


@pytest.mark.system
def test_daemons_ask_nothing_of_the_kernel_that_their_units_forbid(tmp_path: Path) -> None:
    port, base = free_port(), free_ports(3)
    made = tmp_path / "calls"
    own = ("--port", str(port), "--base-port", str(base), "--resp-port", "0", "--workers", "2")
    counted = strace("-D", "-f", "-c", "-U", "name", "-o", str(made))
    with open(tmp_path / "out", "wb") as out:
        cluster = subprocess.Popen([*counted, *TWISTD, "-n", "kvcluster", *own], cwd=tmp_path, stdout=out, stderr=out)
    try:
        wait_until(lambda: "the cluster is ready" in (tmp_path / "out").read_text(), "the cluster to be ready", 90)
        for number in range(100):
            url = f"http://127.0.0.1:{port}/v1/kv/{number}"
            wait_until(lambda: call("PUT", url, b"x").status == 204, "both workers to know the nodes")  # noqa: B023
    finally:
        cluster.terminate()
        cluster.wait(60)

    wait_until(lambda: made.exists() and "total" in made.read_text(), "strace to have counted")
    used = {line.split()[-1] for line in made.read_text().splitlines()[2:] if re.match(r"\s*\w+$", line)} - {"total"}
    assert {"epoll_wait", "fdatasync", "accept4"} <= used
    for name in SERVICES:
        assert used - filtered(UNITS / name) == set()


@pytest.mark.system
def test_systemds_own_tool_hands_over_a_socket(tmp_path: Path) -> None:
    port = free_port()
    command = [
        tool("systemd-socket-activate"),
        "-l",
        f"127.0.0.1:{port}",
        "--fdname=kvproxy",
        f"--setenv=PYTHONPATH={TREE}",
    ]
    command += [*TWISTD, "--nodaemon", "--pidfile=", "kvproxy", *with_tokens(tmp_path), "--resp-port", "0"]
    with open(tmp_path / "out", "wb") as out:
        activate = subprocess.Popen(
            [*command, "--listen", "systemd:domain=INET:name=kvproxy"], cwd=tmp_path, stdout=out, stderr=out
        )
    try:
        wait_until(lambda: "Listening" in (tmp_path / "out").read_text(), "systemd-socket-activate to listen")
        # This connection starts it, and is answered.
        assert call("GET", f"http://127.0.0.1:{port}/health/live", **bearer(CLIENT)).status == 200
    finally:
        activate.terminate()
        activate.wait(20)
