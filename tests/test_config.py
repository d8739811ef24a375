"""What a daemon is told, and how it says that it was told something wrong. (``test_docs.py`` holds ``etc/`` to it.)"""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from twisted.scripts.twistd import ServerOptions

from tests.sockets.daemons import free_port
from twisted_kv import options
from twisted_kv.config import ClusterConfig, EtcdPlace, NodeConfig, ProxyConfig, configured
from twisted_kv.errors import BadConfig
from twisted_kv.limits import MIB, Limits
from twisted_kv.workers import handed_down, limits_toml, places_toml

SHAPES = [NodeConfig, ProxyConfig, ClusterConfig]
every_shape = pytest.mark.parametrize("shape", SHAPES)
WriteToml = Callable[[str], str]


@pytest.fixture
def toml(tmp_path: Path) -> WriteToml:
    def write(text: str) -> str:
        file = tmp_path / "own.toml"
        file.write_text(text, encoding="utf-8")
        return str(file)

    return write


# Where values come from.


def test_the_defaults_are_those_of_the_original_on_loopback() -> None:
    node, proxy, cluster = (configured(shape, {}, None) for shape in SHAPES)
    assert (node.port, node.interface, node.engine, node.limits) == (8081, "127.0.0.1", "rocksdb", Limits())
    assert (proxy.port, proxy.interface, proxy.consistency, proxy.nodes) == (8080, "127.0.0.1", "strong", [])
    assert (proxy.replicas, proxy.vnodes) == (None, None), "an existing cluster's own numbers hold"
    assert (proxy.transport, proxy.workers, cluster.transport, cluster.workers) == ("http", 1, "http", 1)
    assert [node.lane, proxy.lane, cluster.lane] == [True, True, True]
    assert (cluster.nodes, cluster.port, list(cluster.node_ports)) == (3, 8080, [8081, 8082, 8083])
    assert [config.folder for config in (node, proxy, cluster)] == [
        Path("kvnode-8081"),
        Path("kvproxy-8080"),
        Path("kvcluster"),
    ]
    assert proxy.state_place == Path("kvproxy-8080/state.json")


def test_the_file_wins_over_defaults_and_flags_over_the_file(toml: WriteToml) -> None:
    file = toml('port = 7001\nreplicas = 2\nvnodes = 8\nnodes = ["http://127.0.0.1:1"]\n')
    config = configured(ProxyConfig, {"vnodes": "16", "nodes": ["http://127.0.0.1:2"]}, file)
    assert (config.port, config.replicas, config.vnodes) == (7001, 2, 16)
    assert config.nodes == ["http://127.0.0.1:2"]
    assert config.consistency == "strong"
    assert config.folder == Path("kvproxy-7001")


def test_a_configuration_is_frozen() -> None:
    with pytest.raises(AttributeError):
        NodeConfig().port = 1  # type: ignore[misc]


@pytest.mark.parametrize("shape", [NodeConfig, ProxyConfig])
def test_the_limits_table_changes_the_limits_it_names_and_no_others(shape: type[Any], toml: WriteToml) -> None:
    file = toml("[limits]\nvalue_bytes_max = 67108864\nslow_read_s = 2\nbatch_ops_max = 7\n")
    limits = configured(shape, {}, file).limits
    assert limits == Limits(value_bytes_max=64 * MIB, slow_read_s=2.0, batch_ops_max=7)


def test_the_state_may_live_in_any_file_or_in_etcd_and_nowhere_else() -> None:
    assert ProxyConfig(state="file:/var/lib/kv/state.json").state_place == Path("/var/lib/kv/state.json")
    assert ProxyConfig(state="file:here.json").state_place == Path("here.json")
    one = ProxyConfig(state="etcd://127.0.0.1:2379/kv/blue").state_place
    assert one == EtcdPlace(("http://127.0.0.1:2379",), "/kv/blue")
    assert ProxyConfig(state="etcd://a:2379/k").state_place == EtcdPlace(("http://a:2379",), "/k")
    three = ProxyConfig(state="etcd://a:2379,b:2379,[::1]:2379/kv").state_place
    assert three == EtcdPlace(("http://a:2379", "http://b:2379", "http://[::1]:2379"), "/kv")
    for wrong in ("etcd:http://127.0.0.1:2379", "etcd://a:2379", "etcd://a:2379/", "etcd:///kv", "file:", "state", ""):
        with pytest.raises(BadConfig, match="cannot use") as caught:
            _ = ProxyConfig(state=wrong).state_place
        assert repr(wrong) in caught.value.detail
        assert caught.value.hint == "give it as file:PATH or as etcd://HOST:PORT[,HOST:PORT]/PREFIX"


# What a proxy's first worker hands down to the others.


@pytest.mark.parametrize("state", [None, "file:elsewhere/state.json", "etcd://127.0.0.1:2379/kv"])
def test_a_worker_comes_to_the_configuration_of_the_first_one(state: str | None, toml: WriteToml) -> None:
    limits = Limits(slow_read_s=2.5, batch_ops_max=7, purge_grace_s=float("inf"), hedge_s_min=1e-9)
    config = ProxyConfig(
        port=7001,
        interface="::1",
        data_dir="here",
        state=state,
        nodes=["http://127.0.0.1:1"],
        replicas=2,
        consistency="all",
        resp_port=6390,
        allow_flush=True,
        lane=False,
        transport="link",
        workers=3,
        log_format="json",
        listen='ssl:7001:privateKey=/a "b"/\\c.pem:certKey=ü.pem',
        resp_listen="ssl:6390:privateKey=/k.pem",
        tls_authority="/authority.pem",
        tls_identity="/identity\x7f.pem",
        token_file="/client.tokens",
        limits=limits,
    )

    words = handed_down(config, Path(toml(places_toml(config) + limits_toml(limits))))

    names = [word.removeprefix("--").replace("-", "_") for word in words[::2]]
    flags = dict(zip(names, words[1::2], strict=True))
    handed = configured(ProxyConfig, flags, flags.pop("config"))
    place = config.state_place
    given = handed.state_place
    assert given == (place.absolute() if isinstance(place, Path) else place), "it finds the state from any folder"
    own = {"data_dir": None, "state": handed.state, "nodes": [], "workers": 1}
    assert handed == msgspec.structs.replace(config, **own), "whatever is not a worker's own is the first one's"


# What is wrong.

WRONG_LINES = [
    (ProxyConfig, "replicas = 0", "replicas: expected `int` >= 1"),
    (ProxyConfig, "replicas = 16", "replicas: expected `int` <= 15"),
    (ProxyConfig, "replicas = 3.0", "replicas: expected `int | null`, got `float`"),
    (ProxyConfig, "vnodes = 4097", "vnodes: expected `int` <= 4096"),
    (ProxyConfig, 'nodes = "http://127.0.0.1:1"', "nodes: expected `array`, got `str`"),
    (ProxyConfig, "nodes = [1]", "nodes[0]: expected `str`, got `int`"),
    (ProxyConfig, "state = 1", "state: expected `str | null`, got `int`"),
    (
        ProxyConfig,
        'consistency = "most"',
        "consistency: invalid enum value 'most', choose from one, strong, quorum, all",
    ),
    (ProxyConfig, "port = true", "port: expected `int`, got `bool`"),
    (ProxyConfig, "workers = 0", "workers: expected `int` >= 1"),
    (ProxyConfig, "workers = 65", "workers: expected `int` <= 64"),
    (ProxyConfig, 'transport = "udp"', "transport: invalid enum value 'udp', choose from http, link"),
    (ProxyConfig, 'lane = "yes"', "lane: expected `bool`, got `str`, choose from true, false"),
    (NodeConfig, "lane = 1", "lane: expected `bool`, got `int`, choose from true, false"),
    (NodeConfig, 'transport = "link"', "there is no key 'transport'"),
    (NodeConfig, "workers = 2", "there is no key 'workers'"),
    (NodeConfig, 'engine = "paper"', "engine: invalid enum value 'paper', choose from rocksdb, memory"),
    (NodeConfig, "data_dir = []", "data_dir: expected `str | null`, got `array`"),
    (NodeConfig, "[limits]\nbatch_timeout_s = 'long'", "limits.batch_timeout_s: expected `float`, got `str`"),
    (ClusterConfig, "nodes = 0", "nodes: expected `int` >= 1"),
    (ClusterConfig, "nodes = 65", "nodes: expected `int` <= 64"),
    (ClusterConfig, "base_port = 0", "base_port: expected `int` >= 1"),
    (ClusterConfig, "replicas = 3", "there is no key 'replicas'"),
    (ClusterConfig, "[limits]", "there is no key 'limits'"),
]


@pytest.mark.parametrize(("shape", "text", "said"), WRONG_LINES, ids=[text for _, text, _ in WRONG_LINES])
def test_a_wrong_line_is_named_with_its_file(shape: type[Any], text: str, said: str, toml: WriteToml) -> None:
    file = toml(text)
    with pytest.raises(BadConfig) as caught:
        configured(shape, {}, file)
    assert caught.value.detail == f"{file}: {said}"
    assert caught.value.hint


@pytest.mark.parametrize("text", ["limits = 3", 'limits = "x"'])
def test_limits_that_are_no_table_are_named(text: str, toml: WriteToml) -> None:
    with pytest.raises(BadConfig, match="limits: expected `object`"):
        configured(NodeConfig, {}, toml(text))


LIMITS_AT_ODDS = [
    ("connection_idle_s = 60", "connection_idle_s is 60, and idle_s_max is 60", "give connection_idle_s less"),
    ("idle_s_max = 20", "connection_idle_s is 30, and idle_s_max is 20", "give connection_idle_s less"),
    ("link_pause_s = 31", "link_pause_s is 31, and link_pause_s_max is 30", "give link_pause_s no more"),
    ("link_pause_s_max = 0.5", "link_pause_s is 1, and link_pause_s_max is 0.5", "give link_pause_s no more"),
]


@pytest.mark.parametrize("shape", [NodeConfig, ProxyConfig])
@pytest.mark.parametrize(("line", "said", "hint"), LIMITS_AT_ODDS, ids=[line for line, *_ in LIMITS_AT_ODDS])
def test_limits_that_do_not_go_together_are_named(
    shape: type[Any], line: str, said: str, hint: str, toml: WriteToml
) -> None:
    file = toml(f"[limits]\n{line}\n")
    with pytest.raises(BadConfig) as caught:
        configured(shape, {}, file)
    assert caught.value.detail == f"{file}: {said}"
    assert caught.value.hint.startswith(hint)


def test_limits_that_just_go_together_are_taken(toml: WriteToml) -> None:
    file = toml("[limits]\nconnection_idle_s = 59.9\nlink_pause_s = 30\n")
    assert configured(ProxyConfig, {}, file).limits == Limits(connection_idle_s=59.9, link_pause_s=30)


WRONG_FLAGS = [
    (NodeConfig, {"port": "0"}, "--port: expected `int` >= 1"),
    (NodeConfig, {"port": "80x"}, "--port: expected `int`, got `str`"),
    (NodeConfig, {"engine": "paper"}, "--engine: invalid enum value 'paper', choose from rocksdb, memory"),
    (ProxyConfig, {"replicas": "x"}, "--replicas: expected `int | null`, got `str`"),
    (ProxyConfig, {"vnodes": "0"}, "--vnodes: expected `int` >= 1"),
    (ProxyConfig, {"consistency": ""}, "--consistency: invalid enum value '', choose from one, strong, quorum, all"),
    (ClusterConfig, {"base_port": "99999"}, "--base-port: expected `int` <= 65535"),
    (ClusterConfig, {"nodes": "-1"}, "--nodes: expected `int` >= 1"),
    (ClusterConfig, {"workers": "many"}, "--workers: expected `int`, got `str`"),
    (ProxyConfig, {"transport": "pigeon"}, "--transport: invalid enum value 'pigeon', choose from http, link"),
    (NodeConfig, {"lane": "fast"}, "--lane: expected `bool`, got `str`, choose from true, false"),
]


@pytest.mark.parametrize(("shape", "flags", "said"), WRONG_FLAGS)
def test_a_wrong_flag_is_named_as_the_user_wrote_it(shape: type[Any], flags: dict[str, str], said: str) -> None:
    with pytest.raises(BadConfig) as caught:
        configured(shape, flags, None)
    assert caught.value.detail == said
    assert "--help" in caught.value.hint


@every_shape
def test_the_lane_is_opened_and_closed_by_words(shape: type[Any], toml: WriteToml) -> None:
    shut = toml("lane = false")
    assert configured(shape, {}, shut).lane is False
    assert configured(shape, {"lane": "true"}, shut).lane is True
    assert configured(shape, {"lane": "false"}, None).lane is False


def test_a_wrong_value_is_repeated_as_it_was_given() -> None:
    with pytest.raises(BadConfig, match="'STRONG'"):
        configured(ProxyConfig, {"consistency": "STRONG"}, None)


def test_a_file_that_is_no_text_is_no_toml(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadConfig, match=r"own\.toml is no TOML"):
        configured(NodeConfig, {}, str(tmp_path / "own.toml"))
    with pytest.raises(BadConfig, match="cannot be read: Is a directory"):
        configured(NodeConfig, {}, str(tmp_path))


@every_shape
@pytest.mark.parametrize("interface", ["0.0.0.0", "::", "10.0.0.1", "192.168.1.1", "example.org", "", "127.0.0.1:80"])
def test_an_interface_that_strangers_reach_is_refused_with_the_way_out(shape: type[Any], interface: str) -> None:
    with pytest.raises(BadConfig) as caught:
        configured(shape, {"interface": interface}, None)
    assert repr(interface) in caught.value.detail
    assert "127.0.0.1" in caught.value.hint
    assert "--token-file" in caught.value.hint


@every_shape
def test_a_file_does_not_open_the_door_either(shape: type[Any], toml: WriteToml) -> None:
    with pytest.raises(BadConfig, match="no token file"):
        configured(shape, {}, toml('interface = "0.0.0.0"'))


@every_shape
@pytest.mark.parametrize("interface", ["127.0.0.1", "127.9.9.9", "::1", "localhost"])
def test_every_loopback_address_is_taken(shape: type[Any], interface: str) -> None:
    assert configured(shape, {"interface": interface}, None).interface == interface


# On twistd's command line.


class Desk:
    """A command line in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = str(free_port())

    def twistd(self, *words: str) -> ServerOptions:
        options = ServerOptions()
        options.parseOptions(list(words))
        return options

    def path(self, named: str) -> Path:
        return self.folder / named

    def files(self, options: ServerOptions) -> tuple[Path, Path]:
        """Where twistd would write: it makes one of the two names absolute by itself."""
        return self.path(options["pidfile"]), self.path(options["logfile"])


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.chdir(tmp_path)
    return Desk(tmp_path)


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield holder.getsockname()[1]


ROLES = ["kvnode", "kvproxy"]


@pytest.mark.parametrize("role", ROLES)
def test_a_daemon_keeps_its_pid_and_log_in_its_own_folder(desk: Desk, role: str) -> None:
    options = desk.twistd(role, "--port", desk.port)
    folder = desk.folder / f"{role}-{desk.port}"
    assert desk.files(options) == (folder / "twistd.pid", folder / "twistd.log")
    assert [entry.name for entry in desk.folder.iterdir()] == [folder.name]
    assert folder.is_dir()
    assert options.subOptions.config.port == int(desk.port)


@pytest.mark.parametrize("role", ROLES)
def test_in_the_foreground_the_log_stays_on_the_terminal(desk: Desk, role: str) -> None:
    options = desk.twistd("--nodaemon", role, "--port", desk.port, "--data-dir", "data/here")
    assert options["logfile"] is None
    assert desk.path(options["pidfile"]) == desk.folder / "data/here/twistd.pid"
    assert (desk.folder / "data" / "here").is_dir()


def test_two_roles_run_from_one_place(desk: Desk) -> None:
    node = desk.twistd("kvnode", "--port", desk.port)
    proxy = desk.twistd("kvproxy", "--port", desk.port)
    assert node["pidfile"] != proxy["pidfile"]
    assert node["logfile"] != proxy["logfile"]


@pytest.mark.parametrize("role", ROLES)
def test_the_pid_file_of_a_process_that_has_gone_goes_without_a_word(desk: Desk, role: str) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    pidfile = desk.folder / f"{role}-{desk.port}" / "twistd.pid"
    pidfile.parent.mkdir()
    pidfile.write_text(str(gone.pid))
    desk.twistd(role, "--port", desk.port)
    assert not pidfile.exists()

    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    pidfile.write_text(str(other.pid))
    desk.twistd(role, "--port", desk.port)
    assert pidfile.exists()
    other.communicate()


@pytest.mark.parametrize("foreground", [[], ["--nodaemon"]])
def test_a_pid_or_log_file_that_the_user_named_stays_where_it_was_named(desk: Desk, foreground: list[str]) -> None:
    options = desk.twistd(*foreground, "--pidfile", "my.pid", "--logfile", "my.log", "kvnode", "--port", desk.port)
    assert desk.files(options) == (desk.folder / "my.pid", desk.folder / "my.log")
    without = desk.twistd(*foreground, "--pidfile", "", "kvnode", "--port", desk.port)
    assert not without["pidfile"] or "kvnode" not in without["pidfile"]


def test_syslog_is_not_replaced_by_a_file(desk: Desk) -> None:
    assert desk.twistd("--syslog", "kvnode", "--port", desk.port)["logfile"] is None


@pytest.mark.parametrize("role", [*ROLES, "kvcluster"])
def test_a_taken_port_is_said_before_anything_starts(desk: Desk, role: str, taken_port: int) -> None:
    with pytest.raises(SystemExit) as caught:
        desk.twistd(role, "--port", str(taken_port))
    assert f"port {taken_port} on 127.0.0.1 cannot be used: Address already in use" in str(caught.value)
    assert "choose another port" in str(caught.value)
    assert list(desk.folder.iterdir()) == []


def test_a_place_for_the_state_that_is_none_is_said_before_anything_starts(desk: Desk) -> None:
    with pytest.raises(SystemExit, match="give it as file:PATH or as etcd://HOST:PORT"):
        desk.twistd("kvproxy", "--port", desk.port, "--resp-port", "0", "--state", "etcd:http://127.0.0.1:2379")
    assert list(desk.folder.iterdir()) == []


def test_a_taken_port_of_one_node_of_a_cluster_is_said(desk: Desk, taken_port: int) -> None:
    with pytest.raises(SystemExit, match=f"port {taken_port} on"):
        desk.twistd("kvcluster", "--nodes", "1", "--base-port", str(taken_port), "--port", desk.port)


def test_ports_of_a_cluster_that_collide_or_do_not_fit_are_said(desk: Desk) -> None:
    with pytest.raises(SystemExit, match="--port 8082 is one of the nodes' ports"):
        desk.twistd("kvcluster", "--port", "8082")
    with pytest.raises(SystemExit, match="do not fit"):
        desk.twistd("kvcluster", "--base-port", "65535", "--port", desk.port)


def test_a_cluster_whose_nodes_would_have_no_link_is_refused_one(desk: Desk) -> None:
    place = ("kvcluster", "--nodes", "1", "--base-port", str(free_port()), "--port", desk.port)
    with pytest.raises(SystemExit, match=r"--transport link needs the nodes' fast lane.*leave out --lane false"):
        desk.twistd(*place, "--lane", "false", "--transport", "link")
    assert list(desk.folder.iterdir()) == []
    assert desk.twistd(*place, "--transport", "link").subOptions.config.lane
    assert not desk.twistd(*place, "--lane", "false").subOptions.config.lane


def test_a_folder_that_cannot_be_made_is_said(desk: Desk) -> None:
    (desk.folder / "file").write_bytes(b"")
    with pytest.raises(SystemExit, match=r"the folder \S*file/data cannot be made: Not a directory"):
        desk.twistd("kvnode", "--port", desk.port, "--data-dir", "file/data")


@pytest.mark.parametrize("role", ["kvproxy", "kvcluster"])
def test_a_folder_with_too_long_a_path_for_the_workers_sockets_is_refused(desk: Desk, role: str) -> None:
    deep = "d" * 100
    port = ("--port", desk.port, *(("--base-port", str(free_port())) if role == "kvcluster" else ()))
    with pytest.raises(SystemExit) as caught:
        desk.twistd(role, *port, "--workers", "2", "--data-dir", deep)
    assert [part for part in ("--workers 2", deep, "107", "--data-dir") if part not in str(caught.value)] == []
    assert list(desk.folder.iterdir()) == []
    assert desk.twistd(role, *port, "--data-dir", deep).subOptions.config.workers == 1, "one worker needs no socket"


@pytest.mark.parametrize("role", ["kvproxy", "kvcluster"])
def test_the_redis_door_has_its_usual_port_where_that_is_free_and_nothing_else_was_said(
    desk: Desk, taken_port: int, role: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = free_port()
    monkeypatch.setattr(options, "USUAL_RESP_PORT", usual)
    place = (role, "--port", desk.port, *(("--base-port", str(free_port())) if role == "kvcluster" else ()))
    assert desk.twistd(*place).subOptions.config.resp_port == usual
    assert desk.twistd(*place, "--resp-port", "0").subOptions.config.resp_port == 0
    with pytest.raises(SystemExit, match=f"port {taken_port} .* cannot be used"):
        desk.twistd(*place, "--resp-port", str(taken_port))
    for other in (taken_port, int(desk.port)):
        monkeypatch.setattr(options, "USUAL_RESP_PORT", other)
        assert desk.twistd(*place).subOptions.config.resp_port == 0, "somebody else has it: the proxy goes on without"


def test_a_worker_shares_the_port_that_the_first_one_holds(desk: Desk, taken_port: int) -> None:
    parsed = desk.twistd("kvproxy", "--worker", "2", "--port", str(taken_port))
    assert parsed.subOptions.worker == 2


@pytest.mark.parametrize("number", ["1", "0", "-2", "two", ""])
def test_a_number_that_no_other_worker_has_is_refused(desk: Desk, number: str) -> None:
    with pytest.raises(SystemExit, match="the first worker gives the others 2 and so on"):
        desk.twistd("kvproxy", "--worker", number, "--port", desk.port)


def test_urls_of_first_nodes_are_separated_by_commas(desk: Desk) -> None:
    parsed = desk.twistd("kvproxy", "--port", desk.port, "--nodes", "http://127.0.0.1:1,,http://127.0.0.1:2,")
    assert parsed.subOptions.config.nodes == ["http://127.0.0.1:1", "http://127.0.0.1:2"]


def test_a_wrong_configuration_is_refused_with_its_way_out(desk: Desk) -> None:
    with pytest.raises(SystemExit, match=r"interface is '0\.0\.0\.0'.*\(name one with --token-file"):
        desk.twistd("kvnode", "--interface", "0.0.0.0", "--port", desk.port)
    assert list(desk.folder.iterdir()) == []


def test_a_port_is_tried_on_the_interface_that_was_asked_for(desk: Desk) -> None:
    options = desk.twistd("kvnode", "--interface", "localhost", "--port", desk.port)
    assert options.subOptions.config.interface == "localhost"


def test_ipv6_is_listened_on_where_the_machine_has_it_and_refused_with_a_sentence_where_not(desk: Desk) -> None:
    arguments = ("kvnode", "--interface", "::1", "--port", desk.port)
    if Path("/proc/net/if_inet6").exists():
        assert desk.twistd(*arguments).subOptions.config.interface == "::1"
    else:
        with pytest.raises(SystemExit, match="on ::1 cannot be used"):
            desk.twistd(*arguments)
