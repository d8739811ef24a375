"""The peers that we are measured against: Redis, etcd, twemproxy, and bare servers.

They run on loopback, on free ports, in folders of their own, and end with the benchmark that started them. The programs
come from Debian's packages. One that is missing is an error: a comparison never leaves a peer out silently.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import socket
import subprocess
import sys
from importlib.metadata import version

from .servers import HOST, Processes, call, free_ports, wait_until

PACKAGES = {
    "wrk": "wrk",
    "redis-server": "redis-server",
    "redis-benchmark": "redis-tools",
    "nutcracker": "nutcracker",
    "etcd": "etcd-server",
    "setpriv": "util-linux",
}
"""The Debian package of each program."""

LEASH = ("setpriv", "--pdeathsig", "TERM")
"""Ends a program that is not ours when the benchmark dies, even the hard way."""


def need(*programs: str) -> None:
    """Refuse to begin without programs, and name the packages that have them."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        packages = " ".join(sorted({PACKAGES[program] for program in missing}))
        sys.exit(f"missing: {', '.join(missing)}; apt-get install {packages}")


VERSION_COMMANDS = {
    "wrk": ("wrk", "--version"),
    "redis-server": ("redis-server", "--version"),
    "nutcracker": ("nutcracker", "--version"),
    "etcd": ("etcd", "--version"),
}


def versions(*programs: str) -> dict[str, str]:
    """Name what is measured: programs, and what ours and the bare servers stand on."""
    found = {"Python": platform.python_version(), "Linux": platform.release()}
    for name in ("twisted", "httptools", "treq"):
        found[name] = version(name)
    for program in programs:
        # wrk prints its version with an exit status of 1, nutcracker to its error output.
        done = subprocess.run(VERSION_COMMANDS[program], capture_output=True, text=True, check=False)
        said = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
        found[program] = said[0] if said else "unknown"
    return found


def redis(running: Processes, name: str, *options: str) -> int:
    """Start a Redis that keeps everything in memory and nothing on disk; give its port."""
    (port,) = free_ports(1)
    folder = running.folder / f"{name}-{port}"
    folder.mkdir()
    command = (*LEASH, "redis-server", "--port", str(port), "--bind", HOST, "--dir", str(folder))
    running.started_when(
        f"{name}-{port}",
        (*command, "--save", "", "--appendonly", "no", *options),
        lambda: asked_redis(port, b"PING").startswith(b"+PONG"),
    )
    return port


def redis_replicated(running: Processes) -> int:
    """Start a Redis with two replicas that are up to date; give the primary's port."""
    primary = redis(running, "redis")
    for _ in range(2):
        redis(running, "redis-replica", "--replicaof", HOST, str(primary))
    wait_until(
        lambda: asked_redis(primary, b"INFO replication").count(b"state=online") == 2, "Redis's replicas to be in line"
    )
    return primary


def nutcracker(running: Processes, shards: int = 3) -> int:
    """Start twemproxy over Redis servers that share the keys, each key on one of them; give its port."""
    ports = [redis(running, "shard") for _ in range(shards)]
    port, stats = free_ports(2)
    config = running.folder / "nutcracker.yml"
    servers = "".join(f"    - {HOST}:{shard}:1\n" for shard in ports)
    config.write_text(
        f"kv:\n  listen: {HOST}:{port}\n  hash: fnv1a_64\n  distribution: ketama\n  redis: true\n"
        f"  auto_eject_hosts: false\n  preconnect: true\n  servers:\n{servers}"
    )
    command = (*LEASH, "nutcracker", "-c", str(config), "-s", str(stats), "-a", HOST, "-v", "0")
    command += ("-o", str(running.folder / "nutcracker.log"), "-p", str(running.folder / "nutcracker.pid"))
    running.started_when("nutcracker", command, lambda: asked_redis(port, b"GET nothing").startswith(b"$-1"))
    return port


def asked_redis(port: int, command: bytes) -> bytes:
    """Send Redis a command of words, and give the first piece of the answer, at most 64 KiB."""
    words = command.split()
    with socket.create_connection((HOST, port), timeout=5) as line:
        line.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))
        return line.recv(65_536)


def etcd(running: Processes, members: int = 3) -> int:
    """Start an etcd of several members, synced as it is by default; give the client port of its leader.

    Clients ask the leader: any other member would pass each call on to it.
    """
    ports = free_ports(2 * members)
    clients, peers = ports[:members], ports[members:]
    cluster = ",".join(f"m{n}=http://{HOST}:{peer}" for n, peer in enumerate(peers))
    for n, (client, peer) in enumerate(zip(clients, peers, strict=True)):
        options = {
            "name": f"m{n}",
            "data-dir": str(running.folder / f"etcd-{n}"),
            "listen-client-urls": f"http://{HOST}:{client}",
            "advertise-client-urls": f"http://{HOST}:{client}",
            "listen-peer-urls": f"http://{HOST}:{peer}",
            "initial-advertise-peer-urls": f"http://{HOST}:{peer}",
            "initial-cluster": cluster,
            "initial-cluster-state": "new",
            # Every version of each key is kept until somebody compacts, and 2 GiB is where etcd stops by itself.
            "quota-backend-bytes": str(8 << 30),
            "log-level": "warn",
        }
        # A member answers when a majority is there, so nobody is waited for before all are started.
        running.start(f"etcd-{n}", (*LEASH, "etcd", *(f"--{name}={value}" for name, value in options.items())))
    for client in clients:
        wait_until(lambda port=client: json.loads(call(port, "GET", "/health")[1])["health"] == "true", "etcd")
    for client in clients:
        found = json.loads(call(client, "POST", "/v3/maintenance/status", {})[1])
        if found["leader"] == found["header"]["member_id"]:
            return client
    sys.exit("etcd has no leader")


def bare(running: Processes, module: str) -> int:
    """Start one of the bare servers; give its port."""
    (port,) = free_ports(1)
    running.started(module, (sys.executable, "-m", f"benchmarks.{module}", str(port), "--leash"), port, "/")
    return port
