"""A proxy of several processes that share one port: whichever of them a client meets, it is one proxy."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from tests.sockets.daemons import (
    PATIENCE_S,
    TWISTD,
    Daemon,
    Farm,
    Got,
    alive,
    answers,
    call,
    farming,
    free_port,
    get,
    is_free,
    put,
    wait_until,
)
from tests.sockets.speaker import Speaker
from twisted_kv.config import ProxyConfig
from twisted_kv.metrics import ProxyMetrics, Workers
from twisted_kv.workers import handed_down

MANY = 40
"""Fresh connections after which both workers were met, but for one time in a million million."""

SLOW_S = 60.0
"""How long a worker may take to start on a shared machine: three interpreters start, the second after the first."""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, as sockets need one."""
    with tempfile.TemporaryDirectory(prefix="kv-") as name:
        yield Path(name)


@contextmanager
def two_workers(folder: Path, *options: str) -> Iterator[Farm]:
    """A node and a proxy of two workers, both of which serve it."""
    with farming(folder) as farm:
        proxy = farm.proxy("--workers", "2", *options)
        farm.add(farm.node("--engine", "memory", "--lane", "true"))  # without it there is no link
        wait_for_both(proxy)
        yield farm


def patient(folder: Path) -> tuple[str, str]:
    """The options with which workers wait for one another as long as a busy machine needs."""
    file = folder / "patient.toml"
    file.write_text("[limits]\nworker_metrics_timeout_s = 30\nworker_ready_timeout_s = 30\n")
    return "--config", str(file)


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    """A proxy for the tests that leave it whole."""
    with tempfile.TemporaryDirectory(prefix="kv-") as name, two_workers(Path(name), *patient(Path(name))) as farm:
        yield farm.proxies[0]


def samples(text: bytes) -> list[Sample]:
    return [sample for family in text_string_to_metric_families(text.decode()) for sample in family.samples]


def counted(proxy: Daemon, name: str, **labels: str) -> dict[str, float]:
    """Give a figure by worker, summed over the labels that are not named."""
    found: dict[str, float] = {}
    for sample in samples(call("GET", f"{proxy.url}/metrics").body):
        if sample.name == name and labels.items() <= sample.labels.items():
            worker = sample.labels["worker"]
            found[worker] = found.get(worker, 0.0) + sample.value
    return found


def both_serve(proxy: Daemon) -> bool:
    try:
        return counted(proxy, "kv_worker_up") == {"1": 1, "2": 1} and set(counted(proxy, "kv_members").values()) == {1}
    except OSError:
        return False


def wait_for_both(proxy: Daemon) -> None:
    wait_until(lambda: both_serve(proxy), "both workers to serve the node", SLOW_S)


def pid_of_second(proxy: Daemon) -> int:
    """The process id that the second worker wrote down, or 0 while there is none."""
    try:
        return int((proxy.home / "worker-2" / "twistd.pid").read_text() or 0)
    except FileNotFoundError:
        return 0


def runs(pid: int) -> bool:
    """Whether a process lives; one that has ended counts as gone before anybody has asked how."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def ask_over(path: Path, target: str) -> bytes:
    """Ask one certain worker."""
    client = http.client.HTTPConnection("worker", timeout=PATIENCE_S)
    client.sock = socket.socket(socket.AF_UNIX)
    client.sock.connect(str(path))
    try:
        client.request("GET", target)
        return client.getresponse().read()
    finally:
        client.close()


def on_many(method: str, url: str, body: bytes | None = None) -> list[Got]:
    """Make one call on many fresh connections, so that every worker is met."""
    return [call(method, url, body) for _ in range(MANY)]


def outcomes(given: list[Got]) -> set[tuple[int, bytes]]:
    return {(got.status, got.body) for got in given}


# What clients see.


def test_what_is_written_by_way_of_any_worker_is_read_by_way_of_any_other(shared: Daemon) -> None:
    for number in range(MANY):
        assert put(shared, f"key {number % 7}", str(number)).status == 200
        assert get(shared, f"key {number % 7}").json() == str(number)

    for kind in ("write", "read"):
        met = counted(shared, "kv_operations_total", kind=kind)
        assert set(met) == {"1", "2"}
        assert min(met.values()) > 0


def test_conditional_changes_by_way_of_both_workers_count_each_success_once(shared: Daemon) -> None:
    url = f"{shared.url}/v1/kv/counter"
    assert call("PUT", url, b"0").status == 204
    for _ in range(MANY):
        now = call("GET", url)
        changed = call("PUT", url, str(int(now.body) + 1).encode(), **{"If-Match": now.headers["ETag"]})
        assert changed.status == 204
    assert call("GET", url).body == str(MANY).encode()


def test_each_worker_tells_what_all_have_counted(shared: Daemon) -> None:
    for got in on_many("GET", f"{shared.url}/metrics"):
        assert (got.status, got.headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        heads = [line for line in got.body.decode().splitlines() if line.startswith("# TYPE ")]
        assert len(heads) == len(set(heads)), "each family is there once"
        assert {sample.labels.get("worker") for sample in samples(got.body)} == {"1", "2"}


def test_calls_about_the_cluster_are_answered_alike_whichever_worker_is_met(shared: Daemon) -> None:
    [member] = call("GET", f"{shared.url}/v1/cluster").json()["members"]
    again = json.dumps({"url": member["url"], "weight": 1}).encode()
    assert outcomes(on_many("POST", f"{shared.url}/AddServer", again)) == {(200, b"")}

    for got in on_many("GET", f"{shared.url}/v1/cluster"):
        assert (got.status, got.headers["Content-Type"]) == (200, "application/json")
        assert [one["id"] for one in got.json()["members"]] == [member["id"]]
    assert outcomes(on_many("HEAD", f"{shared.url}/v1/cluster")) == {(200, b"")}
    well = b'{"status":"ok","troubles":[]}\n'
    assert outcomes(on_many("GET", f"{shared.url}/health/ready")) == {(200, well)}

    plan = json.dumps({"add": [{"url": "http://127.0.0.1:1"}]}).encode()
    assert {got.json()["kind"] for got in on_many("POST", f"{shared.url}/v1/cluster/plan", plan)}


def test_trouble_that_only_the_first_worker_knows_of_is_told_whichever_worker_is_met(folder: Path) -> None:
    missing = f"http://127.0.0.1:{free_port()}"
    file = folder / "patient.toml"
    file.write_text("[limits]\nworker_ready_timeout_s = 30\n")
    with two_workers(folder, "--config", str(file), "--nodes", missing) as farm:

        def told() -> set[tuple[Any, ...]]:
            ready = on_many("GET", f"{farm.proxies[0].url}/health/ready")
            return {(got.status, *got.json()["troubles"]) for got in ready}

        # A worker that has just begun has not seen its node yet, and says so, too.
        wait_until(lambda: told() == {(503, f"{missing} is not added yet")}, "each worker to tell what the first knows")


def test_work_that_only_the_first_worker_does_is_seen_by_way_of_any(shared: Daemon) -> None:
    asked = on_many("POST", f"{shared.url}/v1/repair")
    assert {got.status for got in asked} == {202}

    wait_until(lambda: call("GET", f"{shared.url}/v1/tasks").json()["tasks"], "a round of repair")

    listed = [got.json()["tasks"] for got in on_many("GET", f"{shared.url}/v1/tasks")]
    assert {task["kind"] for tasks in listed for task in tasks} == {"repair"}
    assert [] not in listed
    cancelled = {got.status for got in on_many("DELETE", f"{shared.url}/v1/tasks/{listed[-1][0]['id']}")}
    assert 204 in cancelled
    assert cancelled <= {204, 404}, "404: another round has begun meanwhile"


@pytest.mark.parametrize(
    ("method", "path", "status", "slug"),
    [
        ("GET", "/v1/tasks/no%20such%2Ftask?a=b%26c&d", 404, "no-such-task"),
        ("DELETE", "/v1/cluster/nodes/n-none", 404, "no-such-member"),
        ("POST", "/v1/cluster/plan", 400, "malformed-body"),
        ("POST", "/v1/cluster/accept-loss?alive=1", 400, "bad-parameter"),
        ("DELETE", "/v1/cluster", 405, "wrong-method"),
        ("GET", "/v1/nothing", 404, "no-such-route"),
    ],
)
def test_refusals_are_the_same_whichever_worker_is_met(
    shared: Daemon, method: str, path: str, status: int, slug: str
) -> None:
    given = on_many(method, shared.url + path, b"" if method == "POST" else None)
    assert len(outcomes(given)) == 1
    assert (given[0].status, given[0].json()["type"]) == (status, slug)
    assert {got.headers["Content-Type"] for got in given} == {"application/problem+json"}


def test_a_call_from_another_sites_page_is_refused_by_every_worker(shared: Daemon) -> None:
    for _ in range(MANY):
        assert call("POST", f"{shared.url}/v1/repair", b"", Origin="http://evil.example").status == 403


def test_the_workers_sockets_are_for_this_user_only(shared: Daemon) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in shared.home.glob("*.sock")}
    assert modes == {"worker-1.sock": 0o600, "worker-2.sock": 0o600}


# What happens to processes.


def test_a_killed_worker_comes_back_and_clients_go_on(folder: Path) -> None:
    with two_workers(folder, *patient(folder)) as farm:
        proxy = farm.proxies[0]
        killed = pid_of_second(proxy)
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: not alive(killed), "the second worker's end to be heard of")

        for number in range(MANY):
            assert put(proxy, "key", str(number)).status == 200
            assert get(proxy, "key").json() == str(number)

        wait_until(lambda: pid_of_second(proxy) not in (0, killed), "the second worker to be started again", SLOW_S)
        wait_for_both(proxy)
        assert {got.json() for got in (get(proxy, "key") for _ in range(MANY))} == {str(MANY - 1)}
        assert min(counted(proxy, "kv_operations_total", kind="read").values()) > 0
        assert "worker-2 ended and is started again" in proxy.log()


def test_the_figures_of_a_worker_that_does_not_answer_are_left_out(folder: Path) -> None:
    with two_workers(folder) as farm:
        proxy = farm.proxies[0]
        os.kill(pid_of_second(proxy), signal.SIGSTOP)
        try:
            told = samples(ask_over(proxy.home / "worker-1.sock", "/metrics"))
        finally:
            os.kill(pid_of_second(proxy), signal.SIGCONT)

        up = {sample.labels["worker"]: sample.value for sample in told if sample.name == "kv_worker_up"}
        assert up == {"1": 1, "2": 0}
        assert {sample.labels["worker"] for sample in told if sample.name == "kv_members"} == {"1"}
        wait_for_both(proxy)


def test_a_call_for_a_first_worker_that_cannot_be_asked_says_what_and_why_and_what_to_do(folder: Path) -> None:
    with two_workers(folder) as farm:
        proxy = farm.proxies[0]
        (proxy.home / "worker-1.sock").unlink()

        refused = [got for got in on_many("GET", f"{proxy.url}/v1/cluster") if got.status != 200]

        assert refused, "nobody met the second worker"
        assert {got.status for got in refused} == {503}
        problem = refused[0].json()
        assert "first worker" in problem["detail"]
        assert "cannot connect" in problem["detail"]
        assert "nothing was done" in problem["detail"]
        assert "twistd.log" in problem["hint"]
        assert refused[0].headers["Retry-After"] == "1"
        told = {(got.status, *got.json()["troubles"]) for got in on_many("GET", f"{proxy.url}/health/ready")}
        assert (200,) in told, "the first worker is well"
        unsure = told - {(200,)}
        assert unsure
        assert all(status == 503 and "the first worker" in " ".join(said) for status, *said in unsure)
        assert {got.status for got in (put(proxy, "key", "value") for _ in range(MANY))} == {200}
        proxy.end()  # a socket that somebody has removed does not keep it from ending


def test_a_kill_of_the_first_worker_leaves_no_process_and_no_taken_port_and_it_starts_again(folder: Path) -> None:
    with two_workers(folder) as farm:
        proxy = farm.proxies[0]
        assert put(proxy, "key", "value").status == 200
        second = pid_of_second(proxy)

        proxy.kill()

        wait_until(lambda: not runs(second) and is_free(proxy.port), "the second worker to end")
        assert (proxy.home / "worker-1.sock").exists(), "what was killed could not tidy up"
        proxy.start()
        wait_for_both(proxy)
        assert {got.json() for got in (get(proxy, "key") for _ in range(MANY))} == {"value"}


def test_sigterm_ends_the_other_workers_and_then_the_first(folder: Path) -> None:
    with two_workers(folder) as farm:
        proxy = farm.proxies[0]
        second = pid_of_second(proxy)

        proxy.end(signal.SIGTERM)

        assert not runs(second)
        assert is_free(proxy.port)
        left = {path.name for path in proxy.home.rglob("*") if path.suffix in (".sock", ".pid")}
        assert left == set()
        assert "Server Shut Down" in (proxy.home / "worker-2" / "twistd.log").read_text()
        assert "Server Shut Down" in proxy.log()
        assert "started again" not in proxy.log()
        assert "Traceback" not in proxy.log()


def test_limits_from_a_file_hold_in_every_worker(folder: Path) -> None:
    file = folder / "own.toml"
    file.write_text("workers = 2\n[limits]\nvalue_bytes_max = 10\n")
    with farming(folder) as farm:
        proxy = farm.proxy("--config", str(file))
        farm.add(farm.node("--engine", "memory"))
        wait_for_both(proxy)

        given = on_many("PUT", f"{proxy.url}/v1/kv/key", b"more than ten")

        assert {got.status for got in given} == {413}
        handed = tomllib.loads((proxy.home / "worker-2" / "limits.toml").read_text())
        assert handed["limits"]["value_bytes_max"] == 10


def test_a_port_that_a_proxy_of_several_workers_holds_is_taken_for_another_one(shared: Daemon, folder: Path) -> None:
    words = [*TWISTD, "-n", "kvproxy", "--port", str(shared.port), "--workers", "2", "--resp-port", "0"]
    tried = subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=SLOW_S, stdin=subprocess.DEVNULL, check=False
    )
    assert tried.returncode == 1
    said = tried.stdout + tried.stderr
    assert f"port {shared.port} on 127.0.0.1 cannot be used: Address already in use" in said
    assert "Traceback" not in said
    assert list(folder.iterdir()) == []


def test_every_worker_keeps_a_link_to_each_node_where_that_is_asked_for(folder: Path) -> None:
    with two_workers(folder, "--transport", "link") as farm:
        proxy = farm.proxies[0]
        assert {got.status for got in (put(proxy, "key", "value") for _ in range(MANY))} == {200}
        wait_until(lambda: counted(proxy, "kv_links") == {"1": 1, "2": 1}, "a link of each worker")
        assert {got.json() for got in (get(proxy, "key") for _ in range(MANY))} == {"value"}


def test_every_worker_has_the_redis_door(folder: Path) -> None:
    port = free_port()
    with two_workers(folder, "--resp-port", str(port), *patient(folder)) as farm:
        speakers = [Speaker(port) for _ in range(MANY)]
        try:
            assert [speaker.ask([[b"INCR", b"n"]]) for speaker in speakers] == [[n + 1] for n in range(MANY)]
            clients = counted(farm.proxies[0], "kv_redis_clients")
            assert sum(clients.values()) == MANY
            assert min(clients["1"], clients["2"]) > 0
        finally:
            for speaker in speakers:
                speaker.close()


def test_kvcluster_hands_its_options_to_its_daemons(folder: Path) -> None:
    ways = ["--workers", "2", "--lane", "true", "--transport", "link"]
    base = free_port()
    place = ["--data-dir", "data", "--base-port", str(base)]
    cluster = Daemon(folder, "kvcluster", free_port(), "--nodes", "1", "--engine", "memory", *place, *ways)
    try:
        cluster.home = folder / "data" / "proxy"
        wait_until(lambda: answers(f"{cluster.url}/health/ready"), "the cluster to be ready", SLOW_S)
        wait_for_both(cluster)
        assert {got.status for got in (put(cluster, "key", "value") for _ in range(MANY))} == {200}
        wait_until(lambda: counted(cluster, "kv_links") == {"1": 1, "2": 1}, "a link of each worker")
        for home in (folder / "data" / f"node-{base}", cluster.home, cluster.home / "worker-2"):
            pid = (home / "twistd.pid").read_text()
            assert b"--lane\0true\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    finally:
        cluster.end()
    assert is_free(cluster.port)


# How what they count is put together.


def rendered(**puts: int) -> bytes:
    metrics = ProxyMetrics()
    for outcome, count in puts.items():
        metrics.operations.counts["put", "strong", outcome] += count
    metrics.batch_ops.labels('n-"1"\n', "a\\b").observe(3)
    return metrics.render()


def by_worker(told: list[Sample], name: str, **labels: str) -> dict[Any, float]:
    return {
        one.labels["worker"]: one.value for one in told if one.name == name and labels.items() <= one.labels.items()
    }


def test_figures_of_several_workers_keep_their_names_labels_and_values() -> None:
    text = Workers({1: rendered(ok=2, failed=1), 2: rendered(ok=5), 3: None}).render()
    told = samples(text)
    assert by_worker(told, "kv_operations_total", outcome="ok") == {"1": 2, "2": 5}
    assert by_worker(told, "kv_operations_total", outcome="failed") == {"1": 1}
    assert by_worker(told, "kv_batch_operations_bucket", node='n-"1"\n', lane="a\\b", le="4.0") == {"1": 1, "2": 1}
    assert by_worker(told, "kv_worker_up") == {"1": 1, "2": 1, "3": 0}
    assert text.count(b"# TYPE kv_operations_total counter\n") == 1
    assert text.count(b"# TYPE kv_batch_operations histogram\n") == 1


def test_figures_of_one_worker_are_those_that_it_rendered_but_for_the_label() -> None:
    alone = rendered(ok=2)
    told = [sample for sample in samples(Workers({1: alone}).render()) if sample.name != "kv_worker_up"]
    without = [{name: value for name, value in one.labels.items() if name != "worker"} for one in told]
    plain = [(one.name, labels, one.value) for one, labels in zip(told, without, strict=True)]
    assert plain == [(one.name, one.labels, one.value) for one in samples(alone)]


def test_a_worker_is_handed_down_all_that_its_proxy_was_told(tmp_path: Path) -> None:
    told = ProxyConfig(hosts=["a.example", "b.example"], node_networks=["127.0.0.0/8"], replicas=3, vnodes=8)
    words = handed_down(told, tmp_path / "limits.toml")
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert given["--hosts"] == "a.example,b.example"
    assert given["--node-networks"] == "127.0.0.0/8"
    of_the_first = {"data_dir", "nodes", "workers", "limits"}
    unset = {name for name in told.__struct_fields__ if getattr(told, name) is None}
    said = {name.removeprefix("--").replace("-", "_") for name in given}
    assert set(told.__struct_fields__) - of_the_first - unset <= said
