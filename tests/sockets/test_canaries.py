"""Nothing that a client sends, and nothing secret, comes into a log, a metric, the cluster's description or a command
line; and no control byte comes into any log, whatever is sent."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.sockets.daemons import Farm, Silent, accepts, call, farming, free_port, token_file, wait_until
from tests.sockets.test_tls import Pem

CLIENT, NODE = "canary-client-token-0123456789abcdef", "canary-node-token-0123456789abcdef"
WRONG = "canary-wrong-token-0123456789abcdef"
CANARY = "canary"
"""What every planted text begins with, and nothing else does."""

FORGED = "\n2023-11-14T22:13:20Z [forged#info] forged\r\x1b[2J\x00\x9b\u202e"
SHOWN = {"Authorization": f"Bearer {CLIENT}"}
SHOWN_TO_NODES = {"Authorization": f"Bearer {NODE}"}


def raw(port: int, data: bytes, ends: bool = True) -> bytes:
    """Send bytes as they are, and read until nothing more comes.

    :param ends: whether to say that nothing more follows; what is under way is given up then.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(data)
        if ends:
            client.shutdown(socket.SHUT_WR)
        came = b""
        while piece := client.recv(65_536):
            came += piece
        return came


class Guarded:
    """A node and a proxy of two workers, with tokens, keys and a Redis door; and all that can be seen of them."""

    def __init__(self, farm: Farm, format_: str) -> None:
        folder = farm.folder
        clients = token_file(folder / "clients", f"read-write {CLIENT}")
        nodes = token_file(folder / "nodes", f"read-write {NODE}")
        keys = folder / "canary-keys"
        keys.mkdir()
        pem = Pem(keys, "localhost")
        self.resp_port, self.tls_port = free_port(), free_port()
        log = ("--log-format", format_)
        self.node = Silent(folder, "kvnode", free_port(), "--token-file", str(nodes), *log)
        places = folder / "places.toml"
        # A command line shows what its user has typed; what is in a file is to stay there.
        places.write_text(
            f'resp_listen = "{pem.endpoint("ssl", self.tls_port)}"\n'
            f'tls_authority = "{pem.authority}"\ntls_identity = "{pem.both}"\n'
        )
        self.proxy = farm.proxy(
            *("--token-file", str(clients), "--node-token-file", str(nodes), "--workers", "2"),
            *("--config", str(places), "--nodes", self.node.url, "--replicas", "1", *log),
        )
        farm.nodes.append(self.node)
        self.format = format_
        wait_until(lambda: self.ask("GET", "/health/ready") == 200, "the proxy to be ready")
        wait_until(lambda: accepts(self.tls_port), "the Redis door to be open")

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> int:
        return call(method, self.proxy.url + path, body, **(SHOWN | headers)).status

    @property
    def log_files(self) -> list[Path]:
        return [*self.proxy._folder.glob("*.out"), *self.proxy._folder.rglob("twistd.log")]

    def logs(self) -> bytes:
        return b"".join(file.read_bytes() for file in self.log_files)

    def processes(self) -> list[int]:
        """The daemons that were started here, and those that they have started."""
        found = [daemon.process.pid for daemon in (self.node, self.proxy) if daemon.process is not None]
        for pid in found:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
            found += map(int, children)
        return found

    def seen(self) -> dict[str, bytes]:
        """Everything that anybody may look at."""
        found = {"the logs": self.logs()}
        for path in ("/metrics", "/v1/cluster", "/health/ready", "/v1/tasks"):
            found[path] = call("GET", self.proxy.url + path, None, **SHOWN).body
        found["the node's /metrics"] = call("GET", f"{self.node.url}/metrics", None, **SHOWN_TO_NODES).body
        for pid in self.processes():
            found[f"the command line of {pid}"] = Path(f"/proc/{pid}/cmdline").read_bytes()
        return found


@pytest.fixture(params=["text", "json"])
def guarded(tmp_path: Path, request: Any) -> Iterator[Guarded]:
    with farming(tmp_path) as farm:
        yield Guarded(farm, request.param)


def plant(guarded: Guarded) -> None:
    """Send canaries by every way in, in requests that are fine and in such that are not."""
    ask, url = guarded.ask, guarded.proxy.url
    assert ask("PUT", "/v1/kv/canary-key", b"canary-value", **{"Content-Type": "canary/type"}) == 204
    assert ask("GET", "/v1/kv/canary-key?explain=1") == 200
    assert ask("PUT", "/PUT", b'{"Key": "canary-key", "Value": "canary-value"}') == 200
    assert ask("POST", "/GET", b'{"Key": "canary-absent"}') == 404
    lines = b'{"op": "put", "key": "canary-bulk", "value": "canary"}\n{"op": "canary"}\n{canary'
    assert ask("POST", "/v1/bulk", lines) == 200
    assert ask("PUT", "/v1/kv/canary-key?canary=canary", b"canary") == 400
    assert ask("PUT", "/v1/kv/%zcanary", b"canary") == 400
    assert ask("GET", "/v1/kv/canary-key", **{"If-Match": "canary"}) == 400
    assert ask("PUT", "/PUT", b'{"Key": canary') == 400
    assert ask("GET", "/canary/nowhere") == 404
    assert ask("GET", "/v1/ring/locate?key=canary") == 200
    assert ask("POST", "/AddServer", b'{"url": "http://canary:canary@127.0.0.1:1", "weight": 1}') == 400
    for shown in (WRONG, f"{CLIENT}x"):
        assert call("GET", f"{url}/v1/kv/canary-key", None, Authorization=f"Bearer {shown}").status == 401
    assert call("GET", f"{guarded.node.url}/node/v1/info", None, **SHOWN).status == 401
    token = f"Authorization: Bearer {CLIENT}\r\n".encode()
    both = b"Content-Length: 9\r\nTransfer-Encoding: canary\r\n\r\n"
    for spoilt in (
        b"canary canary canary canary\r\n\r\n",
        b"GET /canary HTTP/1.1\r\nHost: canary canary\r\n" + token + b"\r\n",
        b"PUT /v1/kv/canary HTTP/1.1\r\nHost: a\r\n" + token + both,
        b"POST /v1/bulk HTTP/1.1\r\nHost: a\r\n" + token + b"Transfer-Encoding: chunked\r\n\r\ncanary\r\n",
    ):
        assert b" 400 " in raw(guarded.proxy.port, spoilt, ends=False)
    last = b"Connection: close\r\n"
    batch = b"POST /node/v1/batch HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %b\r\nContent-Length: 6\r\n%b\r\ncanary"
    assert b" 400 " in raw(guarded.node.port, batch % (NODE.encode(), last), ends=False)


def test_nothing_that_was_planted_is_seen_anywhere(guarded: Guarded) -> None:
    plant(guarded)

    seen = guarded.seen()

    assert {name: text for name, text in seen.items() if CANARY.encode() in text} == {}
    assert len(guarded.processes()) == 3
    # What was looked at is what there is: it names what it may name.
    assert guarded.node.url.encode() in seen["the logs"]
    assert b"kv_operations_total" in seen["/metrics"]
    assert guarded.node.url.encode() in seen["/v1/cluster"]
    if guarded.format == "json":
        lines = [json.loads(line) for line in guarded.logs().splitlines()]
        assert {"time", "level", "room", "message"} <= set.intersection(*map(set, lines))


@pytest.fixture(params=["text", "json"])
def open_farm(tmp_path: Path, request: Any) -> Iterator[tuple[Farm, str, int]]:
    """A node and a proxy without tokens, and the port of the Redis door."""
    resp_port = free_port()
    with farming(tmp_path) as farm:
        # Each operation is written down as slow: what is in these lines is looked at, too.
        for role in ("kvnode", "kvproxy"):
            (tmp_path / f"{role}.toml").write_text("[limits]\nslow_operation_s = 1e-9\nslow_lines_max = 1000\n")
        proxy = ("--config", str(tmp_path / "kvproxy.toml"), "--resp-port", str(resp_port))
        farm.proxy("--log-format", request.param, *proxy)
        farm.add(farm.node("--log-format", request.param, "--config", str(tmp_path / "kvnode.toml")))
        yield farm, request.param, resp_port


def test_no_control_byte_comes_into_a_log(open_farm: tuple[Farm, str, int]) -> None:
    farm, format_, resp_port = open_farm
    proxy, node = farm.proxies[0], farm.nodes[0]
    key = quote(FORGED, safe="")
    for name in (f"/v1/kv/{key}", f"/{key}", f"/v1/cluster/nodes/{key}", f"/v1/tasks/{key}"):
        for method in ("PUT", "GET", "DELETE", "POST"):
            call(method, proxy.url + name, FORGED.encode())
    stranger = {"url": f"http://127.0.0.1:{proxy.port}", "weight": 1, "zone": FORGED}
    for url in (
        node.url,
        stranger["url"],
        f"http://{FORGED}:1",
        f"http://nowhere{FORGED}",
        f"http://127.0.0.1:1/{FORGED}",
    ):
        for path in ("/AddServer", "/v1/cluster/nodes"):
            call("POST", proxy.url + path, json.dumps(stranger | {"url": url}).encode())
    for daemon in (proxy, node):
        for head in (
            b"GET /x%b HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: %b\r\n\r\n",
            b"G%bT / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET /v1/kv/none HTTP/1.1\r\nHost: a\r\nX-Request-Id: %b\r\ntraceparent: %b\r\n\r\n",
        ):
            raw(daemon.port, head.replace(b"%b", FORGED.encode()))
            raw(daemon.port, head.replace(b"%b", b"\x1b[2J\x00\x9b"))
    hostile = FORGED.encode()
    words = ((b"SET", hostile, b"v"), (b"CLIENT", b"SETNAME", hostile), (hostile,), (b"QUIT",))
    raw(resp_port, b"".join(command(*some) for some in words), ends=False)
    raw(resp_port, b"*1\r\n$-7\r\n" + FORGED.encode())
    node.kill()
    for name in (f"/v1/kv/{key}", f"/v1/kv/{key}?consistency=one"):
        assert call("GET", f"{proxy.url}{name}").status >= 500

    for daemon in (proxy, node):
        written = daemon.log()
        assert "kvproxy" in written if daemon is proxy else "kvnode" in written
        lines = written.split("\n")
        assert [line for line in lines if any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in line[1:])] == []
        assert "\u202e" not in written
        beginnings = {line[:1] for line in lines if line}
        assert beginnings <= ({"{"} if format_ == "json" else {"2", "\t"})
        assert not any(line.startswith("2023") for line in lines)
        assert "Traceback" not in written, written
    slow = [line for line in proxy.log().splitlines() if "slow: " in line]
    assert len(slow) >= 2


def command(*words: bytes) -> bytes:
    """One command in Redis's protocol."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def test_redis_commands_and_passwords_come_into_no_log(open_farm: tuple[Farm, str, int]) -> None:
    farm, _, resp_port = open_farm

    said = raw(
        resp_port,
        command(b"AUTH", b"canary-password")
        + command(b"HELLO", b"3", b"AUTH", b"default", b"canary-password")
        + command(b"SET", b"canary-key", b"canary-value")
        + command(b"CANARY", b"canary")
        + command(b"CLIENT", b"SETNAME", b"canary-client")
        + command(b"GET", b"canary-key")
        + b"*1\r\n$canary\r\n",
        ends=False,
    )

    assert b"canary-value" in said
    for text in (
        *(daemon.log() for daemon in farm.proxies + farm.nodes),
        call("GET", f"{farm.proxies[0].url}/metrics").body.decode(),
    ):
        assert CANARY not in text.lower()
