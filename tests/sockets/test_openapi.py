"""The document of a live proxy is true: schemathesis asks what it allows and what it does not, and examples run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from jsonschema import Draft202012Validator

from tests.openapi.hooks import of_lines
from tests.sockets.daemons import Daemon, Farm, Got, Silent, call, farming, free_port, token_file, wait_until

TREE = Path(__file__).resolve().parents[2]
CAMPAIGN = "KV_OPENAPI_EXAMPLES" in os.environ
EXAMPLES = int(os.environ.get("KV_OPENAPI_EXAMPLES", "3"))
"""Random requests for each call, beside those that look at each bound once."""
SEED = os.environ.get("KV_OPENAPI_SEED", "1")
PATIENCE_S = 400 + 10 * EXAMPLES

WRECKING = "^/(AddServer|v1/cluster/(nodes|accept-loss).*)$"
"""Calls after which a cluster may not be what it was."""
CLIENT = "client" * 6


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Farm]:
    with farming(tmp_path_factory.mktemp("openapi")) as farm:
        farm.cluster(1)
        yield farm


@pytest.fixture
def proxy(farm: Farm) -> Daemon:
    return farm.proxies[0]


def fuzz(
    proxy: Daemon,
    folder: Path,
    *options: str,
    node: Daemon | None = None,
    phases: str = "examples,coverage,fuzzing",
) -> None:
    """Run schemathesis with all checks, and fail with what it has found.

    :param node: who answers for any that is to be added; nobody does without one.
    """
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(TREE / "tests/openapi/schemathesis.toml")]
    command += ["--no-color", "run", f"{proxy.url}/openapi.json", "--phases", phases]
    if not CAMPAIGN:
        command += ["--exclude-method", "HEAD"]  # answers like GET, and would take as long
    command += ["--checks", "all", "--max-examples", str(EXAMPLES), "--seed", SEED]
    paths = os.pathsep.join(path for path in (str(TREE), os.environ.get("PYTHONPATH", "")) if path)
    environment = os.environ | {"PYTHONPATH": paths, "SCHEMATHESIS_HOOKS": "tests.openapi.hooks"}
    if node is not None:
        environment["KV_OPENAPI_NODE"] = f"127.0.0.1:{node.port}"
    done = subprocess.run(
        [*command, *options],
        check=False,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, f"seed {SEED}\n{done.stdout}\n{done.stderr}"
    assert " passed" in done.stdout, done.stdout


@pytest.mark.timeout(PATIENCE_S + 60)
def test_what_the_document_allows_is_done_and_what_it_does_not_is_refused(proxy: Daemon, tmp_path: Path) -> None:
    fuzz(proxy, tmp_path, "--exclude-path-regex", WRECKING)

    assert "Traceback" not in proxy.log()


@pytest.mark.timeout(PATIENCE_S + 60)
def test_calls_that_may_wreck_a_cluster_answer_as_the_document_says(tmp_path: Path) -> None:
    with farming(tmp_path) as farm:
        proxy = farm.cluster(2, "--engine", "memory")
        newcomer = farm.node("--engine", "memory")

        if CAMPAIGN:
            fuzz(proxy, tmp_path, "--include-path-regex", WRECKING)
        fuzz(proxy, tmp_path, "--include-path-regex", WRECKING, node=newcomer)

        assert call("GET", f"{proxy.url}/v1/cluster").status == 200
        assert "Traceback" not in proxy.log()


@pytest.mark.timeout(PATIENCE_S + 60)
def test_where_tokens_are_asked_for_nothing_is_answered_without(tmp_path: Path) -> None:
    tokens = token_file(tmp_path / "client.tokens", f"read-write {CLIENT}")
    proxy = Silent(tmp_path, "kvproxy", free_port(), "--token-file", str(tokens))
    try:
        # Without a node much is refused in another way; here it is looked at whether it is refused at all.
        of_node = "positive_data_acceptance,not_a_server_error"
        shown = f"Authorization: Bearer {CLIENT}"
        fuzz(proxy, tmp_path, "--header", shown, "--exclude-checks", of_node, phases="fuzzing")
    finally:
        proxy.end()


def document_of(proxy: Daemon) -> Any:
    return call("GET", f"{proxy.url}/openapi.json").json()


def closed(schema: Any) -> Any:
    """Give a schema under which an object has no field that is not named."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {name: closed(one) for name, one in schema.items()}
    if "properties" in found and found.get("type") == "object":
        found["additionalProperties"] = False
    return found


def repairs(proxy: Daemon) -> list[str]:
    tasks = call("GET", f"{proxy.url}/v1/tasks").json()["tasks"]
    return [task["id"] for task in tasks if task["kind"] == "repair"]


def example_call(proxy: Daemon, method: str, path: str, operation: Any) -> Got:
    """Make the call that a document's examples come to. Tasks are called as it happens."""
    if path == "/v1/tasks/{id}":
        tasks = wait_until(lambda: repairs(proxy), "a round of repair")
        path = f"/v1/tasks/{tasks[0]}"
    query = {}
    headers = {}
    for one in operation.get("parameters", ()):
        if "example" not in one:
            continue
        if one["in"] == "path":
            path = path.replace(f"{{{one['name']}}}", quote(one["example"], safe=""))
        elif one["in"] == "query":
            query[one["name"]] = one["example"]
        else:
            headers[one["name"]] = str(one["example"])
    body = None
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        if "example" in content and body is None:
            headers["Content-Type"] = media_type
            body = _written(media_type, content["example"])
    return call(method, f"{proxy.url}{path}" + (f"?{urlencode(query)}" if query else ""), body, **headers)


def _written(media_type: str, example: Any) -> bytes:
    if media_type == "application/x-ndjson":
        return b"".join(json.dumps(line).encode() + b"\n" for line in example)
    return example.encode() if media_type == "application/octet-stream" else json.dumps(example).encode()


IN_ORDER = ("PUT", "POST", "QUERY", "GET", "HEAD", "DELETE")
"""What is read has to be written first."""
ELSEWHERE = ("/AddServer", "/v1/cluster/nodes", "/v1/cluster/nodes/{id}", "/v1/cluster/accept-loss")
"""Their examples name nodes that tests do not have."""
OTHERWISE = ("/", "/ui", "/v1/events")
"""Two lead elsewhere, the other does not end: the dashboard's tests see to them."""


def no_backup_runs(proxy: Daemon) -> None:
    wait_until(lambda: "running" not in str(call("GET", f"{proxy.url}/v1/tasks").json()), "the backup")


def delete_backups(proxy: Daemon) -> None:
    no_backup_runs(proxy)
    for one in call("GET", f"{proxy.url}/v1/backups").json()["backups"]:
        assert call("DELETE", f"{proxy.url}/v1/backups/{quote(one['name'])}").status < 400


def test_examples_run_and_every_field_of_their_answers_is_in_the_document(proxy: Daemon) -> None:
    document = document_of(proxy)
    components = closed(document["components"])
    calls = [
        (IN_ORDER.index(field.removeprefix("x-").upper()), path, field, operation)
        for path, item in document["paths"].items()
        if path not in ELSEWHERE + OTHERWISE
        for field, operation in item.items()
    ]
    seen = set()
    for number, path, field, operation in sorted(calls, key=lambda one: one[:3]):
        if (path, field) == ("/v1/backups/{name}", "delete"):
            no_backup_runs(proxy)
        if (path, field) == ("/v1/backups", "post"):
            delete_backups(proxy)  # which random calls have made before
        got = example_call(proxy, IN_ORDER[number], path, operation)
        if got.status == 404 and path == "/v1/tasks/{id}":
            got = example_call(proxy, IN_ORDER[number], path, operation)  # the next round of repair had begun
        assert got.status < 400, (field, path, got.status, got.body)
        answer = operation["responses"][str(got.status)]
        kind = (got.headers["Content-Type"] or "").split(";")[0]
        schema = next(
            (one.get("schema") for name, one in answer.get("content", {}).items() if name.split(";")[0] == kind), None
        )
        if schema is None or field == "head":
            continue
        value = of_lines(None, _Content(got.body)) if kind == "application/x-ndjson" else got.json()
        validator = Draft202012Validator({**closed(schema), "components": components})
        assert [error.message for error in validator.iter_errors(value)] == [], (field, path)
        seen.add((path, field))
    assert len(seen) >= 15


def test_the_page_comes_with_a_policy_that_allows_nothing_but_its_own_files(proxy: Daemon) -> None:
    for name, kind in (("api.html", "text/html"), ("api.js", "text/javascript"), ("api.css", "text/css")):
        got = call("GET", f"{proxy.url}/ui/{name}")
        assert (got.status, got.headers["Content-Type"].split(";")[0]) == (200, kind)
        policy = dict(part.strip().split(" ", 1) for part in got.headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert call("GET", f"{proxy.url}/ui/../v1/cluster").status == 404
    assert call("GET", f"{proxy.url}/ui/nothing.js").json()["type"] == "no-such-route"


@pytest.mark.system
def test_the_page_shows_every_call_in_a_browser(proxy: Daemon, tmp_path: Path) -> None:
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    command += ["--virtual-time-budget=20000", "--dump-dom", f"{proxy.url}/ui/api.html#putKey"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=100).stdout

    for path, item in document_of(proxy)["paths"].items():
        for field, operation in item.items():
            if field != "head":
                assert f'id="{operation["operationId"]}"' in shown, (field, path)
    assert "curl -X PUT" in shown
    assert "If-None-Match" in shown


class _Content:
    def __init__(self, content: bytes) -> None:
        self.content = content


def test_a_cluster_with_a_member_that_is_down_is_described_as_the_document_says(tmp_path: Path) -> None:
    with farming(tmp_path) as farm:
        proxy = farm.cluster(2, "--engine", "memory")
        farm.nodes[1].kill()
        wait_until(lambda: "down" in {member["state"] for member in farm.members()}, "the proxy to notice")
        call("DELETE", f"{proxy.url}/v1/kv/gone?consistency=one")
        document = document_of(proxy)
        components = closed(document["components"])

        for path, at in {
            "/v1/cluster": "/v1/cluster",
            "/v1/explain/{key}": "/v1/explain/gone",
            "/health/ready": "/health/ready",
            "/v1/tasks": "/v1/tasks",
            "/v1/ring/locate": "/v1/ring/locate?key=gone",
        }.items():
            got = call("GET", proxy.url + at)
            schema = document["paths"][path]["get"]["responses"][str(got.status)]["content"]["application/json"][
                "schema"
            ]
            validator = Draft202012Validator({**closed(schema), "components": components})
            assert [error.message for error in validator.iter_errors(got.json())] == [], path


def test_a_problem_has_no_field_that_is_not_in_the_document(proxy: Daemon) -> None:
    document = document_of(proxy)
    validator = Draft202012Validator(
        {"$ref": "#/components/schemas/Problem", "components": closed(document["components"])}
    )
    call("PUT", f"{proxy.url}/v1/kv/examined", b"v")
    for method, path, status in (
        ("GET", "/v1/kv/nothing", 404),
        ("PUT", "/v1/kv/k?ttl=never", 400),
        ("PATCH", "/v1/kv/k", 405),
        ("GET", "/nowhere", 404),
        ("PUT", "/v1/kv/examined", 412),
    ):
        heads = {"If-Match": '"0123"'} if status == 412 else {}
        got = call(method, proxy.url + path, b"v" if method == "PUT" else None, **heads)
        assert got.status == status, got.body
        assert [error.message for error in validator.iter_errors(got.json())] == [], path
