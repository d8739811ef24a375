"""TLS on real daemons: the nodes' doors ask for a certificate, the proxy's and Redis's show one."""

from __future__ import annotations

import http.client
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.authority import Authority
from tests.sockets.daemons import Silent, free_port, token_file, wait_until
from tests.sockets.test_tokens import CLIENT, NODE, bearer, refusal

pytestmark = pytest.mark.filterwarnings("ignore:Passing pyOpenSSL:DeprecationWarning")


class Pem:
    """A certificate for localhost in files, with the one between it and its authority: what a daemon shows."""

    def __init__(self, folder: Path, name: str) -> None:
        root = Authority(f"{name}'s authority")
        between = Authority(f"{name}'s issuer", root)
        certificate, key = between.sign(name, "localhost")
        self.authority, self.both = folder / f"{name}-authority.pem", folder / f"{name}.pem"
        self.authority.write_bytes(root.certificate)
        self.chain = folder / f"{name}-chain.pem"
        self.chain.write_bytes(between.certificate)
        self.both.write_bytes(certificate + key + between.certificate)

    def endpoint(self, kind: str, port: int, *more: str) -> str:
        words = (
            kind,
            str(port),
            f"privateKey={self.both}",
            f"certKey={self.both}",
            "interface=127.0.0.1",
            *more,
            *([f"extraCertChain={self.chain}"] if kind == "ssl" else []),
        )
        return ":".join(words)


class Encrypted:
    """A node that asks for certificates, and a proxy."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.server, self.proxy_s = Pem(folder, "localhost"), Pem(folder, "proxy")
        clients = token_file(folder / "client.tokens", f"read-write {CLIENT}")
        nodes = token_file(folder / "node.tokens", f"read-write {NODE}")
        self.node_port, self.port, self.resp_port = free_port(), free_port(), free_port()
        asks = self.server.endpoint("mtls", self.node_port, f"clientCA={self.proxy_s.authority}")
        node = Silent(
            folder, "kvnode", self.node_port, "--engine", "memory", "--token-file", str(nodes), "--listen", asks
        )
        proxy = Silent(
            folder,
            "kvproxy",
            self.port,
            *("--listen", self.server.endpoint("ssl", self.port)),
            *("--resp-listen", self.server.endpoint("ssl", self.resp_port)),
            *("--token-file", str(clients), "--node-token-file", str(nodes)),
            *("--tls-authority", str(self.server.authority), "--tls-identity", str(self.proxy_s.both)),
            *("--nodes", f"https://localhost:{self.node_port}", "--replicas", "1"),
            *options,
        )
        self.daemons = [node, proxy]
        wait_until(lambda: self.ask("GET", "/health/ready")[0] == 200, "the proxy to be ready")

    def context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.server.authority))

    def ask(self, method: str, path: str, body: bytes = b"", port: int = 0, context: Any = None) -> tuple[int, bytes]:
        place = http.client.HTTPSConnection(
            "localhost", port or self.port, context=context or self.context(), timeout=15
        )
        try:
            place.request(method, path, body, bearer(CLIENT))
            answer = place.getresponse()
            return answer.status, answer.read()
        finally:
            place.close()

    def stop(self) -> None:
        for daemon in reversed(self.daemons):
            daemon.end(signal.SIGTERM)


@pytest.fixture(params=[(), ("--transport", "link"), ("--workers", "2")], ids=["http", "link", "workers"])
def encrypted(tmp_path: Path, request: Any) -> Iterator[Encrypted]:
    started = Encrypted(tmp_path, *request.param)
    yield started
    started.stop()


def test_all_the_way_over_tls(encrypted: Encrypted) -> None:
    value = b"x" * 300_000
    for number in range(10):
        assert encrypted.ask("PUT", f"/v1/kv/k{number}", value)[0] in (200, 201, 204)
        assert encrypted.ask("GET", f"/v1/kv/k{number}") == (200, value)
    with (
        socket.create_connection(("127.0.0.1", encrypted.resp_port), timeout=10) as plain,
        encrypted.context().wrap_socket(plain, server_hostname="localhost") as redis,
    ):
        redis.sendall(b"AUTH %b\r\nSTRLEN k1\r\n" % CLIENT.encode())
        heard = b""
        while heard.count(b"\n") < 2:
            heard += redis.recv(4096)
        assert heard == b"+OK\r\n:300000\r\n"


def test_a_node_hangs_up_on_who_shows_no_certificate_or_a_stranger_s(tmp_path: Path) -> None:
    started = Encrypted(tmp_path)
    try:
        stranger = Pem(tmp_path, "stranger")
        strange = started.context()
        strange.load_cert_chain(stranger.both)
        for context in (started.context(), strange):
            with pytest.raises(OSError):  # noqa: PT011
                started.ask("GET", "/health/live", port=started.node_port, context=context)
        with socket.create_connection(("127.0.0.1", started.port), timeout=10) as plain:
            plain.sendall(b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")
            assert not plain.recv(4096).startswith(b"HTTP")
    finally:
        started.stop()


def test_refusals_arrive_over_tls_and_end_it_in_order(encrypted: Encrypted) -> None:
    for asked in (b"GET /v1/cluster HTTP/1.1\r\nHost: localhost\r\n\r\n", b"nonsense\r\n\r\n"):
        with (
            socket.create_connection(("127.0.0.1", encrypted.port), timeout=10) as plain,
            encrypted.context().wrap_socket(plain, server_hostname="localhost") as client,
        ):
            client.sendall(asked)
            heard = b""
            while part := client.recv(4096):  # an end without close_notify would be an error
                heard += part
            assert heard[:12] == (b"HTTP/1.1 401" if asked.startswith(b"GET") else b"HTTP/1.1 400")
            client.unwrap()
    assert "Unhandled" not in encrypted.daemons[1].log()


@pytest.mark.parametrize("option", ["--listen", "--resp-listen"])
def test_an_endpoint_asks_for_a_token_file(tmp_path: Path, option: str) -> None:
    assert "there is no token file" in refusal(tmp_path, "kvproxy", option, "tcp:0")


def test_what_is_no_certificate_is_refused_at_the_start(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("nothing")
    assert "cannot be used for certificates" in refusal(tmp_path, "kvnode", "--tls-authority", str(bad))
    assert "a certificate and its key" in refusal(tmp_path, "kvproxy", "--tls-identity", str(bad))
