"""What a daemon is told: defaults, then a TOML file, then flags; the later wins. The result is frozen."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, get_args, get_type_hints

import msgspec

from .errors import BadConfig, BadParameter
from .limits import MIB, Limits
from .logs import Format
from .membership import REPLICAS_MAX, VNODES_MAX
from .networks import parse_networks
from .seating import checked_url

Port = Annotated[int, msgspec.Meta(ge=1, le=65_535)]
USUAL_RESP_PORT = 6380
DoorPort = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
"""A port, or 0 for a door that is closed."""
Workers = Annotated[int, msgspec.Meta(ge=1, le=64)]
VALUE_BYTES_CEILING = 64 * MIB


class NodeConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``twistd kvnode``."""

    port: Port = 8081
    interface: str = "127.0.0.1"
    data_dir: str | None = None
    engine: Literal["rocksdb", "memory"] = "rocksdb"
    sync: Literal["always", "interval", "never"] = "always"
    lane: bool = True
    listen: str | None = None
    """An endpoint in the place of interface and port."""
    tls_authority: str | None = None
    tls_identity: str | None = None
    token_file: str | None = None
    """What proxies have to show, and what this node shows to others."""
    hosts: list[str] = []
    """What else than localhost and addresses a request may name as its host where no token is asked for."""
    node_networks: list[str] | None = None
    """Where nodes may be; None for loopback and the networks of this machine's interfaces."""
    log_format: Format = "text"
    limits: Limits = Limits()

    @property
    def folder(self) -> Path:
        return Path(self.data_dir or f"kvnode-{self.port}")


FIRST = 1
"""The number of a proxy's first worker, which starts the others."""

SOCKET_BYTES_MAX = 107
"""What fits into a socket's address beside the byte that ends it (unix(7): ``sun_path``)."""


def worker_socket(folder: Path, worker: int) -> Path:
    """The socket at which one of a proxy's workers answers the others; it lies in the first one's folder."""
    return folder / f"worker-{worker}.sock"


class EtcdPlace(NamedTuple):
    """A place in etcd: the URLs of its members, and what the names of its keys begin with."""

    urls: tuple[str, ...]
    prefix: str


class ProxyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``twistd kvproxy``. ``replicas`` and ``vnodes`` found a cluster; afterwards they must agree with it."""

    port: Port = 8080
    interface: str = "127.0.0.1"
    data_dir: str | None = None
    state: str | None = None
    nodes: list[str] = []
    replicas: Annotated[int, msgspec.Meta(ge=1, le=REPLICAS_MAX)] | None = None
    vnodes: Annotated[int, msgspec.Meta(ge=1, le=VNODES_MAX)] | None = None
    consistency: Literal["one", "strong", "quorum", "all"] = "strong"
    resp_port: DoorPort | None = None
    """0 for none; None for the usual one, if it is free."""
    allow_flush: bool = False
    lane: bool = True
    transport: Literal["http", "link"] = "http"
    workers: Workers = 1
    listen: str | None = None
    """An endpoint in the place of interface and port."""
    resp_listen: str | None = None
    """An endpoint in the place of interface and resp_port."""
    tls_authority: str | None = None
    tls_identity: str | None = None
    token_file: str | None = None
    """What clients have to show."""
    node_token_file: str | None = None
    """What is shown to nodes."""
    hosts: list[str] = []
    """What else than localhost and addresses a request may name as its host where no token is asked for."""
    node_networks: list[str] | None = None
    """Where nodes may be; None for loopback and the networks of this machine's interfaces."""
    log_format: Format = "text"
    limits: Limits = Limits()

    @property
    def folder(self) -> Path:
        return Path(self.data_dir or f"kvproxy-{self.port}")

    @property
    def state_place(self) -> Path | EtcdPlace:
        """Say where the cluster's state lives: in a file, or in etcd.

        :raises BadConfig: if it is to live in a store that this version does not know.
        """
        if self.state is None:
            return self.folder / "state.json"
        scheme, _, path = self.state.partition(":")
        if scheme == "file" and path:
            return Path(path)
        found = re.fullmatch(r"etcd://([^/]+)(/(?:.*[^/]))", self.state)
        if found is None:
            raise BadConfig(
                f"state is {self.state!r}, which this version cannot use",
                "give it as file:PATH or as etcd://HOST:PORT[,HOST:PORT]/PREFIX",
            )
        return EtcdPlace(tuple(f"http://{member}" for member in found[1].split(",")), found[2])


class ClusterConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``twistd kvcluster``."""

    nodes: Annotated[int, msgspec.Meta(ge=1, le=64)] = 3
    base_port: Port = 8081
    port: Port = 8080
    interface: str = "127.0.0.1"
    resp_port: DoorPort | None = None
    """0 for none; None for the usual one, if it is free."""
    allow_flush: bool = False
    engine: Literal["rocksdb", "memory"] = "rocksdb"
    sync: Literal["always", "interval", "never"] = "always"
    lane: bool = True
    transport: Literal["http", "link"] = "http"
    workers: Workers = 1
    token_file: str | None = None
    """What clients have to show. Nodes and proxy then have tokens of their own, too."""
    hosts: list[str] = []
    """What else than localhost and addresses a request to the proxy may name as its host without a token file."""
    log_format: Format = "text"
    data_dir: str | None = None

    @property
    def folder(self) -> Path:
        return Path(self.data_dir or "kvcluster")

    @property
    def node_ports(self) -> range:
        return range(self.base_port, self.base_port + self.nodes)


C = TypeVar("C", NodeConfig, ProxyConfig, ClusterConfig)


def configured(shape: type[C], flags: Mapping[str, Any], file: str | None) -> C:
    """Put a configuration together.

    :param flags: what was given on the command line, as text; it wins over the file.
    :raises BadConfig: naming the file or flag, the key, and what was expected.
    """
    from_file = _read(shape, file) if file is not None else {}
    try:
        config = msgspec.convert({**from_file, **flags}, shape, strict=False)
    except msgspec.ValidationError as error:
        raise BadConfig(_plain(error, shape, "--"), "twistd COMMAND --help lists the options") from None
    for key in ("listen", "resp_listen"):
        if config.token_file is None and getattr(config, key, None) is not None:
            raise BadConfig(
                f"{_source(key, from_file, flags, file)}{key} names an endpoint, and there is no token file",
                "name one with --token-file (docs/security.md), or leave it out and listen on 127.0.0.1",
            )
    if getattr(config, "workers", 1) > 1 and any(
        (getattr(config, key, None) or "").startswith("systemd:") for key in ("listen", "resp_listen")
    ):
        raise BadConfig(
            f"{_source('workers', from_file, flags, file)}workers is {getattr(config, 'workers', 1)}, and a socket that"
            " systemd hands over goes to one process",
            "leave out workers, or listen on interface and port",
        )
    if config.token_file is None:
        _check_interface(config.interface, _source("interface", from_file, flags, file))
    parse_networks(getattr(config, "node_networks", None) or ())
    limits = getattr(config, "limits", None)
    if limits is not None:
        _check_limits(limits, _source("limits", from_file, flags, file))
    return config


def check_together(config: ProxyConfig | ClusterConfig) -> None:
    """See that a daemon's ports, and those of its nodes, do not meet, and that nodes are named by URLs.

    :raises BadConfig: if something cannot be so.
    """
    if isinstance(config, ProxyConfig):
        for url in config.nodes:
            try:
                checked_url(url)
            except BadParameter as error:
                raise BadConfig(f"nodes: {error.detail}", error.hint) from None
        if config.resp_port == config.port:
            raise BadConfig(
                f"--resp-port {config.resp_port} is the proxy's own port", "choose another one, or 0 for none"
            )
        return
    if config.resp_port in (config.port, *config.node_ports):
        raise BadConfig(
            f"--resp-port {config.resp_port} is another one of the cluster's ports", "choose another one, or 0 for none"
        )
    if config.port in config.node_ports:
        raise BadConfig(f"--port {config.port} is one of the nodes' ports", "move one with --port or --base-port")
    if config.node_ports.stop > 65_536:
        raise BadConfig(f"{config.nodes} ports do not fit from {config.base_port} up", "choose a lower --base-port")
    if config.transport == "link" and not config.lane:
        raise BadConfig(
            "--transport link needs the nodes' fast lane, which --lane false takes away",
            "leave out --lane false, or --transport link",
        )


def _check_limits(limits: Limits, source: str) -> None:
    if limits.value_bytes_max > VALUE_BYTES_CEILING:
        raise BadConfig(f"{source}value_bytes_max is {limits.value_bytes_max}", f"give 1 to {VALUE_BYTES_CEILING}")
    for field in fields(limits):
        if getattr(limits, field.name) <= 0:
            raise BadConfig(f"{source}{field.name} is {getattr(limits, field.name)}", "give more than 0")
    if limits.connection_idle_s >= limits.idle_s_max:
        raise BadConfig(
            f"{source}connection_idle_s is {limits.connection_idle_s:g}, and idle_s_max is {limits.idle_s_max:g}",
            "give connection_idle_s less: connections are to be left before the other side closes them",
        )
    if limits.link_pause_s > limits.link_pause_s_max:
        raise BadConfig(
            f"{source}link_pause_s is {limits.link_pause_s:g}, and link_pause_s_max is {limits.link_pause_s_max:g}",
            "give link_pause_s no more: it is the first pause, and the other one the longest",
        )


def _source(key: str, from_file: Mapping[str, Any], flags: Mapping[str, Any], file: str | None) -> str:
    return f"{file}: " if key in from_file and key not in flags else ""


def _read(shape: type[C], file: str) -> dict[str, Any]:
    try:
        with open(file, "rb") as stream:
            given = tomllib.load(stream)
    except OSError as error:
        raise BadConfig(f"{file} cannot be read: {error.strerror}", "name a file that is there") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadConfig(f"{file} is no TOML: {error}", "see etc/ for an example") from None
    known = shape.__struct_fields__
    for key in given:
        if key not in known:
            raise BadConfig(f"{file}: there is no key {key!r}", f"known here: {', '.join(known)}")
    limits = given.get("limits", {})
    for key in limits if isinstance(limits, dict) else ():
        if key not in Limits.__dataclass_fields__:
            raise BadConfig(f"{file}: there is no limit {key!r}", "twisted_kv/limits.py lists them")
    try:
        msgspec.convert(given, shape)
    except msgspec.ValidationError as error:
        raise BadConfig(f"{file}: {_plain(error, shape, '')}", "see etc/ for an example") from None
    return given


def _plain(error: msgspec.ValidationError, shape: type[C], prefix: str) -> str:
    """Turn msgspec's sentence (``Expected `int`, got `str` - at `$.port```) into one about a key."""
    what, _, where = str(error).partition(" - at `$.")
    key = where.rstrip("`")
    if not key:
        return what
    hint = get_type_hints(shape).get(key)
    choices = ("true", "false") if hint is bool else get_args(hint)
    known = f", choose from {', '.join(choices)}" if choices and all(isinstance(c, str) for c in choices) else ""
    return f"{prefix}{key.replace('_', '-') if prefix else key}: {what[:1].lower()}{what[1:]}{known}"


def _check_interface(interface: str, source: str) -> None:
    try:
        loopback = interface == "localhost" or ipaddress.ip_address(interface).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise BadConfig(
            f"{source}interface is {interface!r}, and there is no token file: whoever can reach it could do anything",
            "name one with --token-file (docs/security.md), or listen on 127.0.0.1 or ::1",
        )
