"""Figures as they are written, the ring as it is drawn, and files that are checked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.ctl.fakes import FakeProxy, kvctl, simulated_members, three_lines
from tests.ctl.test_status import cluster, member
from tests.sockets.daemons import token_file
from twisted_kv.ctl.bench import quantile
from twisted_kv.ctl.showing import count, lasted, millis, share, size
from twisted_kv.ctl.top import operations
from twisted_kv.ctl.trouble import Exit

ETC = Path(__file__).parent.parent.parent / "etc"


@pytest.mark.parametrize(
    ("number", "written"),
    [(0, "0"), (999, "999"), (1_000, "1.0k"), (12_345, "12.3k"), (99_960, "100k"), (999_499, "999k"), (4.5e6, "4.5M")],
)
def test_counts_are_short(number: float, written: str) -> None:
    assert count(number) == written


@given(st.integers(0, 10**17))
def test_no_count_is_longer_than_its_column(number: int) -> None:
    assert len(count(number)) <= 5
    assert len(size(number)) <= 5


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(0, "0s"), (59.9, "59s"), (60, "1m"), (200, "3m20s"), (5 * 3600 + 720, "5h12m"), (3 * 86_400 + 14_400, "3d4h")],
)
def test_times_are_short(seconds: float, written: str) -> None:
    assert lasted(seconds) == written


@given(st.floats(0, 3e9))
def test_no_time_is_longer_than_its_column(seconds: float) -> None:
    assert len(lasted(seconds)) <= 6


def test_what_nobody_knows_is_a_dash() -> None:
    assert {count(None), size(None), lasted(None), millis(None), share(None)} == {"-"}


def test_percentiles_are_nearest_ranks() -> None:
    assert [quantile([1.0, 2.0, 3.0, 4.0], part) for part in (0.5, 0.75, 0.99, 1.0)] == [2.0, 3.0, 4.0, 4.0]


def test_operations_of_all_workers_are_added_up() -> None:
    text = (
        b'# HELP kv_operations_total x\nkv_operations_total{kind="get",level="strong",outcome="ok",worker="1"} 3.0\n'
        b'kv_operations_total{kind="get",level="one",outcome="ok",worker="2"} 4.0\nkv_operations_under_way 1.0\n'
    )
    assert operations(text) == {("get", "ok"): 7}


def test_the_ring_is_shown_located_and_drawn(proxy: FakeProxy, tmp_path: Path) -> None:
    described = simulated_members(tmp_path, 5)
    proxy.give("GET", "/v1/cluster", described)
    shown = json.loads(kvctl("ring", "show", "-o", "json", "--server", proxy.url).stdout)
    assert sum(one["owned"] for one in shown["members"]) == pytest.approx(1, abs=1e-5)
    assert sum(one["first"] for one in shown["members"]) == pytest.approx(1, abs=1e-5)
    # The proxy's own figures come from the ring that it has: this one is the same.
    assert [one["owned"] for one in shown["members"]] == [one["owned"] for one in described["members"]]
    drawn = kvctl("ring", "plot", "--svg", tmp_path / "ring.svg", "--server", proxy.url)
    assert drawn.exit_code == 0, drawn.output
    assert max(map(len, drawn.stdout.splitlines())) <= 80
    assert (tmp_path / "ring.svg").read_text(encoding="utf-8").startswith("<svg")
    cells = json.loads(kvctl("ring", "plot", "-o", "json", "--server", proxy.url).stdout)["cells"]
    assert len(cells) == 512
    assert set(cells) == {one["id"] for one in described["members"]}


def test_a_ring_without_members_is_drawn_empty(proxy: FakeProxy) -> None:
    proxy.give("GET", "/v1/cluster", cluster())
    for command in ("show", "plot"):
        assert kvctl("ring", command, "--server", proxy.url).exit_code == 0


def test_nobody_is_moved_without_being_asked(proxy: FakeProxy) -> None:
    proxy.give("GET", "/v1/cluster", cluster(member(1), member(2)))
    loads = {"slots_before": 9, "slots_after": 10, "bytes_before": 1, "bytes_after": 2}
    plan = {
        "kind": "leave",
        "slots": 10,
        "bytes": 100,
        "nodes": [{"id": "n-00000001", "url": "http://a", **loads}],
        "weakest": {"when": "before", "survives": 0, "slots": 10},
        "clients_wait": False,
        "slots_lost": 0,
    }
    proxy.give("POST", "/v1/cluster/plan", plan)
    done = kvctl("cluster", "remove", "n-00000001", "--server", proxy.url)
    assert done.exit_code == Exit.USAGE
    assert "10 of 65,536 slots move" in done.stderr
    assert "--yes" in three_lines(done.stderr)[2]
    assert not any(method == "DELETE" for method, *_ in proxy.asked)
    proxy.give("POST", "/v1/cluster/plan", {**plan, "slots_lost": 3})
    done = kvctl("cluster", "remove", "n-00000001", "--yes", "--server", proxy.url)
    assert done.exit_code == Exit.PRECONDITION
    assert "would be lost" in three_lines(done.stderr)[0]
    assert not any(method == "DELETE" for method, *_ in proxy.asked)


@pytest.mark.parametrize("role", ["kvnode", "kvproxy", "kvcluster"])
def test_the_shipped_files_are_well(role: str) -> None:
    done = kvctl("config", "check", ETC / f"{role}.toml", "-o", "json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"file": str(ETC / f"{role}.toml"), "role": role, "ok": True, "set": {}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prot = 1", "there is no key 'prot'"),
        ('port = "x"', "port: expected `int`"),
        ('interface = "0.0.0.0"', "no token file"),
        ('token_file = "nowhere"', "cannot be read"),
        ('state = "redis:x"', "cannot use"),
        ('tls_authority = "nowhere.pem"', "nowhere.pem"),
    ],
)
def test_a_file_that_a_daemon_would_refuse_is_refused(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "kvproxy.toml"
    file.write_text(text, encoding="utf-8")
    done = kvctl("config", "check", file)
    assert done.exit_code == Exit.DEGRADED
    assert says in three_lines(done.stderr)[1]


@pytest.mark.parametrize(
    ("role", "text", "says"),
    [
        ("kvproxy", "port = 8090\nresp_port = 8090", "is the proxy's own port"),
        ("kvproxy", 'nodes = ["ftp://x"]', "no http or https URL"),
        ("kvcluster", "resp_port = 8082", "another one of the cluster's ports"),
        ("kvcluster", "base_port = 8078", "one of the nodes' ports"),
        ("kvcluster", "base_port = 65535", "do not fit"),
        ("kvcluster", 'transport = "link"\nlane = false', "fast lane"),
    ],
)
def test_ports_that_meet_are_found_before_a_daemon_does(tmp_path: Path, role: str, text: str, says: str) -> None:
    file = tmp_path / f"{role}.toml"
    file.write_text(text, encoding="utf-8")
    done = kvctl("config", "check", file)
    assert done.exit_code == Exit.DEGRADED
    assert says in three_lines(done.stderr)[1]


def test_a_file_is_somebodys(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text("port = 8090", encoding="utf-8")
    assert kvctl("config", "check", file).exit_code == Exit.USAGE
    done = kvctl("config", "check", file, "--role", "kvnode")
    assert done.exit_code == 0
    assert "port = 8090" in done.stdout


def test_a_token_file_without_a_token_for_nodes_is_found(tmp_path: Path) -> None:
    tokens = token_file(tmp_path / "tokens", "read-only " + "r" * 40)
    file = tmp_path / "kvproxy.toml"
    file.write_text(f'node_token_file = "{tokens}"', encoding="utf-8")
    assert "no read-write token" in three_lines(kvctl("config", "check", file).stderr)[1]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_has_a_completion(shell: str) -> None:
    done = kvctl("completion", shell)
    assert done.exit_code == 0
    assert "_KVCTL_COMPLETE" in done.stdout


def test_words_are_completed() -> None:
    asked = {"_KVCTL_COMPLETE": "bash_complete", "COMP_WORDS": "kvctl clu", "COMP_CWORD": "1"}
    assert kvctl(**asked).stdout.split() == ["plain,cluster"]
