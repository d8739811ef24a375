"""What the server says of itself: COMMAND, CONFIG, INFO, TIME; and what it does not do, with the way out."""

from __future__ import annotations

from collections.abc import Callable

from .. import __version__
from .glob import matcher
from .greeting import SPOKEN
from .plans import Errand, Outcome, Refused
from .replies import array, bulk, bulks, group, integer, mapping, null, simple, verbatim
from .session import Session
from .table import TABLE, Command


@TABLE.add("time", 1, "loading stale fast")
def time(session: Session, words: list[bytes]) -> Outcome:
    """Give the time: seconds since 1970, and microseconds."""
    now_ms = session.server.now_ms()
    return bulks((b"%d" % (now_ms // 1000), b"%d" % (now_ms % 1000 * 1000)))


# The table itself.


def _described(command: Command, protocol: int) -> bytes:
    first, last, step = command.keys
    return array(
        [
            bulk(command.name.encode()),
            integer(command.arity),
            group(protocol, [simple(flag) for flag in command.flags]),
            integer(first),
            integer(last),
            integer(step),
            group(protocol, []),
            group(protocol, []),
            array([]),
            array([_described(one, protocol) for one in TABLE.subcommands(command.name)]),
        ]
    )


def _whole() -> list[Command]:
    return [command for name, command in TABLE.commands.items() if "|" not in name]


@TABLE.add("command", -1, "loading stale")
def command(session: Session, words: list[bytes]) -> Outcome:
    """Describe all commands."""
    return array([_described(one, session.protocol) for one in _whole()])


def _named(words: list[bytes]) -> list[Command | None]:
    """Find the commands that are named after a subcommand."""
    return [TABLE.commands.get(word.decode("latin-1").lower()) for word in words[2:]]


@TABLE.add("command|count", 2, "loading stale")
def command_count(session: Session, words: list[bytes]) -> Outcome:
    """Count the commands."""
    return integer(len(_whole()))


@TABLE.add("command|info", -2, "loading stale")
def command_info(session: Session, words: list[bytes]) -> Outcome:
    """Describe commands: all, or those that are named."""
    if len(words) == 2:
        return command(session, words[:1])
    absent = null(session.protocol)
    return array([_described(one, session.protocol) if one is not None else absent for one in _named(words)])


@TABLE.add("command|docs", -2, "loading stale")
def command_docs(session: Session, words: list[bytes]) -> Outcome:
    """Say what commands do: all, or those that are named."""
    chosen = _whole() if len(words) == 2 else [one for one in _named(words) if one is not None]
    return mapping(session.protocol, [(bulk(one.name.encode()), _docs(one, session.protocol)) for one in chosen])


def _docs(command: Command, protocol: int) -> bytes:
    pairs = [
        (bulk(b"summary"), bulk(command.summary.encode())),
        (bulk(b"since"), bulk(b"1.0.0")),
        (bulk(b"group"), bulk(b"string" if command.keys[0] else b"server")),
    ]
    parts = TABLE.subcommands(command.name)
    if parts:
        docs = [(bulk(one.name.encode()), _docs(one, protocol)) for one in parts]
        pairs.append((bulk(b"subcommands"), mapping(protocol, docs)))
    return mapping(protocol, pairs)


# Its settings and figures.


def _settings(session: Session) -> dict[bytes, bytes]:
    limits = session.server.limits
    return {
        b"appendonly": b"yes" if session.server.durable else b"no",
        b"databases": b"1",
        b"maxclients": b"%d" % limits.resp_clients_max,
        b"maxmemory": b"0",
        b"maxmemory-policy": b"noeviction",
        b"proto-max-bulk-len": b"%d" % limits.value_bytes_max,
        b"save": b"",
        b"timeout": b"0",
    }


@TABLE.add("config|get", -3, "noscript loading stale")
def config_get(session: Session, words: list[bytes]) -> Outcome:
    """Give settings whose names match patterns, of those that clients ask for."""
    patterns = [matcher(word.lower()) for word in words[2:]]
    found = {name: text for name, text in _settings(session).items() if any(matches(name) for matches in patterns)}
    return mapping(session.protocol, [(bulk(name), bulk(text)) for name, text in found.items()])


@TABLE.add("info", -1, "loading stale")
def info(session: Session, words: list[bytes]) -> Outcome:
    """Tell about the server, in the sections that are asked for."""
    asked = [word.lower() for word in words[1:]]
    server, protocol = session.server, session.protocol

    async def run() -> bytes:
        found = {
            "Server": {
                "redis_version": SPOKEN.decode(),
                "redis_mode": "standalone",
                "server_name": "twisted_kv",
                "twisted_kv_version": __version__,
                "uptime_in_seconds": (server.now_ms() - server.since_ms) // 1000,
            },
            "Clients": {"connected_clients": len(server.sessions()), "maxclients": server.limits.resp_clients_max},
            "Persistence": {"loading": 0, "aof_enabled": int(server.durable)},
            "Stats": {"total_connections_received": server.received, "total_commands_processed": server.processed},
            "Replication": {"role": "master", "connected_slaves": 0},
            "Cluster": {"cluster_enabled": 0},
            "Keyspace": {},
        }
        wanted = {name for name in found if _asked_for(name, asked)}
        if "Keyspace" in wanted and (count := await server.keyspace.count()):
            found["Keyspace"] = {"db0": f"keys={count},expires=0,avg_ttl=0"}
        sections = [
            f"# {name}\r\n" + "".join(f"{field}:{figure}\r\n" for field, figure in found[name].items())
            for name in found
            if name in wanted
        ]
        return verbatim(protocol, "\r\n".join(sections).encode())

    return Errand(run)


def _asked_for(section: str, asked: list[bytes]) -> bool:
    return (
        not asked or section.lower().encode() in asked or any(w in (b"all", b"default", b"everything") for w in asked)
    )


# What there is not.

_REFUSALS = {
    ("multi", "exec", "discard", "watch", "unwatch"): (
        "this store changes one key at a time and has no transactions; send commands without them"
        " (redis-py: pipeline(transaction=False)), or use SET with NX, XX or GET"
    ),
    ("config|set", "config|rewrite", "config|resetstat"): (
        "the settings are those of the proxy's configuration, which is read when it starts"
    ),
}


def _refusing(name: str, why: str) -> Callable[[Session, list[bytes]], Outcome]:
    spelt = name.replace("|", " ").upper()

    def plan(session: Session, words: list[bytes]) -> Outcome:
        raise Refused(f"ERR {spelt} is not there: {why}")

    plan.__doc__ = f"Is refused: {why.partition(';')[0]}."
    return plan


for _names, _why in _REFUSALS.items():
    for _name in _names:
        TABLE.add(_name, -2 if "|" in _name else -1, "noscript")(_refusing(_name, _why))
