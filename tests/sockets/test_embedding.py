"""The store inside another program: the page's example runs as written, and what cannot start says so."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.application.service import MultiService
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.sockets.daemons import free_port, free_ports
from twisted_kv.embedding import NodeConfig, NodeService, ProxyConfig, ProxyService
from twisted_kv.errors import BadConfig, DiskFailed, MalformedKey, Stopping, ValueTooLarge

PAGE = Path(__file__).parent.parent.parent / "docs" / "embedding.md"


def test_the_pages_program_runs_as_written_and_finds_its_data_again(tmp_path: Path) -> None:
    text = PAGE.read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    shown = re.search(r"It prints\n\n```\n(.*?)```", text, re.DOTALL)
    assert shown is not None
    first = free_ports(2)
    file = tmp_path / "program.py"
    file.write_text(program.replace("8080", str(first)).replace("8081", str(first + 1)), encoding="utf-8")

    for _ in range(2):
        done = subprocess.run(
            [sys.executable, str(file)], cwd=tmp_path, check=False, capture_output=True, text=True, timeout=60
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, shown[1], "")


class Program:
    """Services under one parent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parent = MultiService()
        self.parent.startService()

    def node(self, **more: Any) -> NodeService:
        port = more.pop("port", None) or free_port()
        config = NodeConfig(**{"port": port, "data_dir": str(self.folder / f"node-{port}"), "engine": "memory"} | more)
        return self._started(NodeService(reactor, config))

    def proxy(self, *nodes: int, **more: Any) -> ProxyService:
        port = more.pop("port", None) or free_port()
        folder = str(self.folder / f"proxy-{port}")
        urls = [f"http://127.0.0.1:{node}" for node in nodes]
        return self._started(
            ProxyService(reactor, ProxyConfig(port=port, data_dir=folder, nodes=urls, replicas=1, **more))
        )

    def _started(self, service: Any) -> Any:
        service.setServiceParent(self.parent)
        return service


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    program = Program(tmp_path)
    yield program
    pytest_twisted.blockon(program.parent.stopService())


@pytest_twisted.ensureDeferred
async def test_what_is_written_inside_is_what_a_client_reads(program: Program) -> None:
    node_port, port = free_port(), free_port()
    await program.node(port=node_port).when_open()
    proxy = program.proxy(node_port, port=port)
    await proxy.when_open()

    version = await proxy.put(b"k", b"v")
    assert await proxy.get(b"k") == b"v"
    await proxy.delete(b"k")
    assert await proxy.get(b"k") is None
    assert len(bytes.fromhex(version)) == 16


@pytest_twisted.ensureDeferred
async def test_bad_input_is_refused_as_at_the_doors(program: Program) -> None:
    node_port = free_port()
    await program.node(port=node_port).when_open()
    proxy = program.proxy(node_port)
    await proxy.when_open()

    with pytest.raises(MalformedKey, match="the key has 0 bytes"):
        await proxy.get(b"")
    with pytest.raises(ValueTooLarge, match="the most is 1048576"):
        await proxy.put(b"k", bytes(1024 * 1024 + 1))


@pytest_twisted.ensureDeferred
async def test_a_proxy_that_does_not_run_says_so(program: Program) -> None:
    node_port = free_port()
    await program.node(port=node_port).when_open()
    idle = ProxyService(reactor, ProxyConfig(port=free_port(), data_dir=str(program.folder / "idle")))
    with pytest.raises(Stopping, match="does not run"):
        await idle.get(b"k")
    proxy = program.proxy(node_port)
    await proxy.when_open()
    await proxy.disownServiceParent()
    with pytest.raises(Stopping, match="does not run"):
        await proxy.put(b"k", b"v")


@pytest_twisted.ensureDeferred
async def test_a_taken_port_is_said_to_whoever_waits_and_ends_nothing(program: Program) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for service in (program.node(port=port), program.proxy(port=port)):
            with pytest.raises(BadConfig, match=f"port {port} on 127.0.0.1 cannot be used"):
                await service.when_open()
            with pytest.raises(BadConfig, match="cannot be used"):
                await service.when_open()  # whoever asks later hears the same


@pytest_twisted.ensureDeferred
async def test_a_taken_endpoint_leaves_nothing_open(program: Program) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1"
        node = program.node(listen=endpoint, engine="rocksdb", data_dir=str(program.folder / "node"))
        with pytest.raises(BadConfig, match="cannot be used"):
            await node.when_open()
        proxy = program.proxy(listen=endpoint)
        with pytest.raises(BadConfig, match="cannot be used"):
            await proxy.when_open()
    # The folder is free again: nobody holds its lock.
    await program.node(engine="rocksdb", data_dir=str(program.folder / "node")).when_open()


@pytest_twisted.ensureDeferred
async def test_who_waits_for_a_proxy_that_is_stopped_is_told_so(program: Program) -> None:
    proxy = program.proxy(free_port())  # nobody is there
    waiting = proxy.when_open()
    await proxy.disownServiceParent()
    with pytest.raises(Stopping, match="stopped before it was open"):
        await waiting


@pytest_twisted.ensureDeferred
async def test_a_folder_that_cannot_be_used_is_said_to_whoever_waits(program: Program) -> None:
    file = program.folder / "file"
    file.write_text("no folder")
    with pytest.raises(DiskFailed):
        await program.node(engine="rocksdb", data_dir=str(file / "node")).when_open()


def test_several_workers_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="one process") as refusal:
        ProxyService(reactor, ProxyConfig(workers=2, data_dir=str(tmp_path)))
    assert "twistd kvproxy --workers" in refusal.value.hint


@pytest_twisted.ensureDeferred
async def test_services_that_have_stopped_start_again(program: Program) -> None:
    node_port, port = free_port(), free_port()
    node = program.node(port=node_port, engine="rocksdb", data_dir=str(program.folder / "node"))
    await node.when_open()
    proxy = program.proxy(node_port, port=port)
    await proxy.when_open()
    await proxy.put(b"k", b"v")
    for _ in range(2):
        await proxy.stopService()
        await node.stopService()
        node.startService()
        await node.when_open()
        proxy.startService()
        await proxy.when_open()
        assert await proxy.get(b"k") == b"v"


@pytest_twisted.ensureDeferred
async def test_a_node_that_was_open_before_and_cannot_start_again_says_so(program: Program) -> None:
    tokens = program.folder / "tokens"
    tokens.write_text("read-write " + "t" * 32)
    tokens.chmod(0o600)
    node = program.node(port=free_port(), token_file=str(tokens))
    await node.when_open()
    await node.stopService()
    tokens.unlink()
    node.startService()
    with pytest.raises(BadConfig):
        await node.when_open()


@pytest_twisted.ensureDeferred
async def test_who_waits_for_a_second_start_does_not_hear_of_the_first(program: Program) -> None:
    node_port = free_port()
    await program.node(port=node_port).when_open()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        proxy = program.proxy(node_port, port=taken.getsockname()[1])
        with pytest.raises(BadConfig, match="cannot be used"):
            await proxy.when_open()
    await proxy.stopService()
    proxy.startService()
    await proxy.when_open()
    await proxy.put(b"k", b"v")


@pytest_twisted.ensureDeferred
async def test_a_proxy_that_is_stopped_while_it_waits_for_its_state_never_opens(program: Program) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        proxy = program.proxy(port=free_port(), state=f"etcd://127.0.0.1:{silent.getsockname()[1]}/p")
        waiting = proxy.when_open()
        asked, _ = await deferToThread(silent.accept)
        await proxy.stopService()
        with pytest.raises(Stopping, match="stopped before it was open"):
            await waiting
        told: list[Any] = []
        proxy.when_open().addBoth(told.append)
        with asked, suppress(ConnectionResetError):
            while await deferToThread(asked.recv, 4096):
                pass
        await deferLater(reactor, 0)
        assert told == []  # that nobody answered is no news of a start that was called off
