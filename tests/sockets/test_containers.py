"""What the image and compose.yaml are made of. Neither is built or started here: that takes a Docker daemon."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.sockets.daemons import Silent, free_port, token_file
from tests.sockets.test_tokens import CLIENT, NODE
from twisted_kv.config import EtcdPlace
from twisted_kv.options import NodeOptions, ProxyOptions
from twisted_kv.token_files import read_tokens
from twisted_kv.tokens import Access, digest_of

TREE = Path(__file__).resolve().parents[2]
CONTAINERS = TREE / "etc" / "containers"


def ran(*command: str | Path, cwd: Path = TREE, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env={**os.environ, **environ}, capture_output=True, text=True, timeout=60, check=False
    )


def tool(name: str) -> str:
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    assert found, f'this test needs {name}: pip install -e ".[test]", for promtool apt-get install prometheus'
    return found


# The health check.


def healthy(url: str, tokens: Path | None = None) -> tuple[int, str]:
    more = {"KV_TOKEN_FILE": str(tokens)} if tokens is not None else {}
    done = ran(sys.executable, CONTAINERS / "healthy.py", KV_HEALTH_URL=f"{url}/health/live", **more)
    return done.returncode, done.stderr


def test_the_health_check_tells_a_daemon_that_lives_from_one_that_does_not(tmp_path: Path) -> None:
    own = token_file(tmp_path / "node.tokens", "# ours", f"read-write {NODE}")
    other = token_file(tmp_path / "other.tokens", f"read-write {CLIENT}")
    node = Silent(tmp_path, "kvnode", free_port(), "--engine", "memory", "--token-file", str(own))
    try:
        assert healthy(node.url, own) == (0, "")
        assert healthy(node.url, other) == (1, f"{node.url}/health/live answered with 401\n")
        assert healthy(node.url)[0] == 1
    finally:
        node.end()

    code, said = healthy(node.url, own)
    assert code == 1
    assert "Connection refused" in said
    assert healthy(node.url, tmp_path / "none")[0] == 1


# Tokens.


def drawn(folder: Path) -> dict[str, str]:
    """What tokens.sh has drawn, as compose reads it."""
    found = re.findall(r'^(\w+)="?(.*?)"?$', (folder / ".env").read_text(encoding="ascii"), re.MULTILINE)
    return {name: value.replace("\\n", "\n") for name, value in found}


def test_the_tokens_that_are_drawn_are_those_that_daemons_take(tmp_path: Path) -> None:
    assert ran(CONTAINERS / "tokens.sh", cwd=tmp_path).returncode == 0
    env = drawn(tmp_path)

    assert (tmp_path / ".env").stat().st_mode & 0o777 == 0o600
    reader = digest_of(env["KV_PROMETHEUS_TOKEN"].encode())
    for name in ("KV_CLIENT_TOKENS", "KV_NODE_TOKENS"):
        tokens = read_tokens(token_file(tmp_path / "tokens", env[name]), of_nodes=True)
        assert len(tokens) == 2
        assert tokens.access(reader) is Access.READ_ONLY
    assert len({*env.values(), *env["KV_CLIENT_TOKENS"].split(), *env["KV_NODE_TOKENS"].split()}) == 8


def test_tokens_that_are_there_are_not_drawn_again(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("mine", encoding="ascii")

    done = ran(CONTAINERS / "tokens.sh", cwd=tmp_path)

    assert done.returncode == 1
    assert ".env is there already" in done.stderr
    assert (tmp_path / ".env").read_text(encoding="ascii") == "mine"


# The files.


def test_the_image_is_given_what_it_copies() -> None:
    lines = re.findall(r"^COPY (?!--from)(.+)$", (TREE / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    sources = {word for line in lines for word in line.split()[:-1]}
    let_in = set(re.findall(r"^!(.+)$", (TREE / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE))

    assert sources == let_in
    assert [name for name in sources if not (TREE / name).exists()] == []


@pytest.mark.system
def test_hadolint_has_nothing_to_say_of_the_dockerfile() -> None:
    done = ran(tool("hadolint"), "Dockerfile")

    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.system
def test_the_compose_file_is_one_in_its_specifications_schema(tmp_path: Path) -> None:
    check = (tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec")
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((TREE / "compose.yaml").read_text(encoding="utf-8").replace("command:", "comand:"))

    assert ran(*check, TREE / "compose.yaml").returncode == 0
    assert ran(*check, wrong).returncode == 1


def composed() -> Any:
    from ruamel.yaml import YAML  # comes with check-jsonschema

    return YAML(typ="safe").load((TREE / "compose.yaml").read_text(encoding="utf-8"))


@pytest.mark.system
def test_only_loopback_ports_are_published_and_what_is_named_is_there() -> None:
    compose = composed()

    for service in compose["services"].values():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert set(service["networks"]) <= set(compose["networks"])
        assert {secret["source"] for secret in service.get("secrets", [])} <= set(compose["secrets"])
        assert set(service.get("depends_on", {})) <= set(compose["services"])
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (TREE / source).exists() if source.startswith("./") else source in compose["volumes"]
    beside_etcd = {name for name, service in compose["services"].items() if "state" in service["networks"]}
    assert beside_etcd == {"etcd", "kvproxy-1", "kvproxy-2"}
    variables = {secret["environment"] for secret in compose["secrets"].values()}
    assert variables == set(re.findall(r"^(KV_\w+)=", (CONTAINERS / "tokens.sh").read_text(), re.MULTILINE))


@pytest.mark.system
def test_the_daemons_take_the_commands_that_they_are_given(tmp_path: Path) -> None:
    token_file(tmp_path / "client_tokens", f"read-write {CLIENT}")
    token_file(tmp_path / "node_tokens", f"read-write {NODE}")
    nodes = set()
    for name, service in composed()["services"].items():
        if not name.startswith("kv"):
            continue
        role, *words = service["command"]
        assert role == name.rpartition("-")[0]
        given = [word.replace("/run/secrets", str(tmp_path)).replace("/data", str(tmp_path)) for word in words]
        options = {"kvnode": NodeOptions, "kvproxy": ProxyOptions}[role]()
        options.parseOptions([*given, "--port", str(free_port())])
        if role == "kvnode":
            nodes.add(f"http://{name}:8081")
        else:
            assert options.config.state_place == EtcdPlace(("http://etcd:2379",), "/twisted_kv")
            assert set(options.config.nodes) == {f"http://kvnode-{number}:8081" for number in (1, 2, 3)}
    assert len(nodes) == 3


@pytest.mark.system
def test_prometheus_takes_its_file(tmp_path: Path) -> None:
    token = tmp_path / "prometheus_token"
    token.write_text("t")
    text = (CONTAINERS / "prometheus.yml").read_text(encoding="utf-8")
    (tmp_path / "prometheus.yml").write_text(text.replace("/run/secrets/prometheus_token", str(token)))
    shutil.copy(TREE / "etc" / "prometheus" / "alerts.yml", tmp_path)

    done = ran(tool("promtool"), "check", "config", tmp_path / "prometheus.yml")

    assert done.returncode == 0, done.stdout + done.stderr
    for job, ports in (("kvproxy", {"8080"}), ("kvnode", {"8081"})):
        part = text.split(f"job_name: {job}\n")[1].split("job_name")[0]
        assert set(re.findall(r'"kv\w+-\d:(\d+)"', part)) == ports


@pytest.mark.system
def test_grafana_is_given_the_datasource_and_the_dashboard() -> None:
    from ruamel.yaml import YAML

    folder = TREE / "etc" / "grafana" / "provisioning"
    (source,) = YAML(typ="safe").load((folder / "datasources" / "prometheus.yml").read_text())["datasources"]
    (provider,) = YAML(typ="safe").load((folder / "dashboards" / "twisted_kv.yml").read_text())["providers"]
    mounts = [volume.split(":") for volume in composed()["services"]["grafana"]["volumes"]]

    assert source["type"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    shown = {inside: outside for outside, inside, *_ in mounts}
    (dashboard,) = [
        outside for inside, outside in shown.items() if inside.startswith(provider["options"]["path"] + "/")
    ]
    panels = json.loads((TREE / dashboard).read_text())["templating"]["list"]
    assert panels[0]["query"] == source["type"]
