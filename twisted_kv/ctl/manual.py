"""``kvctl manual``: manual pages for man(1), made from what the commands themselves know of their options."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

from .. import __version__
from .roff import entry, escaped, page, paragraphs
from .showing import write_line
from .trouble import Exit, Trouble

STATUS = {
    "0": "All is well.",
    "1": "Something is not.",
    "2": "The command was wrong.",
    "3": "Nobody answered.",
    "4": "Too few replicas did.",
    "5": "It is not there.",
    "6": "Something else was expected.",
}

SIGNALS = {
    "SIGTERM, SIGINT": "Stops in order: doors are closed, running requests end, then the data is.",
    "SIGHUP": "Reads token files again. Without one, and not under systemd, it ends the process.",
    "SIGUSR1": "Begins a new log file, where it logs to one.",
}

ENVIRONMENT = {
    "NOTIFY_SOCKET, WATCHDOG_USEC, WATCHDOG_PID": "Where systemd listens, as sd_notify(3) has it: it is told when the "
    "daemon serves and when it stops, and is given signs of life.",
    "LISTEN_FDS, LISTEN_PID, LISTEN_FDNAMES": "Sockets that systemd hands over, for endpoints like "
    "systemd:domain=INET:name=NAME.",
}


FILE = """Every option can be set in a TOML file, with its name and underscores in the place of hyphens; a flag wins
over it. What stands in parentheses is what holds without either."""


class Role(NamedTuple):
    """A daemon, for its page."""

    name: str
    says: str
    folder: str


ROLES = (
    Role("kvnode", "storage node of twisted_kv", "kvnode-PORT"),
    Role("kvproxy", "smart proxy of twisted_kv", "kvproxy-PORT"),
    Role("kvcluster", "whole twisted_kv cluster on one machine", "kvcluster"),
)


@click.command()
@click.argument("folder", type=click.Path(file_okay=False))
def manual(folder: str) -> None:
    """Write manual pages into FOLDER, which man(1) then searches.

    \b
    kvctl manual ~/.local/share/man
    man kvctl
    """
    from .main import main

    for (section, name), text in {**pages_of_kvctl(main), **pages_of_daemons()}.items():
        path = Path(folder, f"man{section}", f"{name}.{section}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise Trouble(
                f"{path} cannot be written", str(error.strerror), "kvctl manual build/man", Exit.DEGRADED
            ) from None
    write_line(f"man --manpath={folder} kvctl")


def pages_of_kvctl(main: click.Group) -> dict[tuple[int, str], str]:
    """Give kvctl's page, and one for each of its commands."""
    from .main import COMMANDS

    root = click.Context(main, info_name="kvctl")
    commands = {name: main.get_command(root, name) for name in main.list_commands(root)}
    found: dict[tuple[int, str], str] = {}
    listed: list[str] = []
    for name, command in commands.items():
        assert command is not None
        own = f"kvctl-{name}"
        says = COMMANDS[name].says
        listed += entry(own + "(1)", says)
        tree = list(family(command, click.Context(command, info_name=name, parent=root)))
        parts = [("SYNOPSIS", [line for one, ctx in tree for line in synopsis(one, ctx)])]
        for one, ctx in tree:
            if len(tree) == 1:
                parts += [("DESCRIPTION", described(one)), ("OPTIONS", options_of(one, ctx))]
            else:
                parts.append((ctx.command_path.upper(), [*described(one), *options_of(one, ctx)]))
        parts += [("ENVIRONMENT", environment(tree)), ("SEE ALSO", [see("kvctl(1)", "kvproxy(8)")])]
        found[1, own] = page(own, 1, __version__, says, parts)
    found[1, "kvctl"] = page(
        "kvctl",
        1,
        __version__,
        "look after a twisted_kv cluster",
        [
            ("SYNOPSIS", synopsis(main, root)),
            ("DESCRIPTION", described(main)),
            ("OPTIONS", options_of(main, root)),
            ("COMMANDS", listed),
            ("EXIT STATUS", [line for pair in STATUS.items() for line in entry(*pair)]),
            ("SEE ALSO", [see(*(f"{role.name}(8)" for role in ROLES), "twistd(1)")]),
        ],
    )
    return found


def family(command: click.Command, ctx: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Give a command, and those that it holds."""
    yield command, ctx
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            one = command.get_command(ctx, name)
            assert one is not None
            yield from family(one, click.Context(one, info_name=name, parent=ctx))


def synopsis(command: click.Command, ctx: click.Context) -> list[str]:
    words = " ".join(command.collect_usage_pieces(ctx))
    return [".PP", f"\\fB{escaped(ctx.command_path)}\\fR {escaped(words)}"]


def described(command: click.Command) -> list[str]:
    return paragraphs(command.help or "")


def options_of(command: click.Command, ctx: click.Context) -> list[str]:
    # What an argument is, the description tells.
    options = (param for param in command.get_params(ctx) if isinstance(param, click.Option))
    records = (option.get_help_record(ctx) for option in options)
    return [line for record in records if record is not None for line in entry(*record)]


def environment(tree: list[tuple[click.Command, click.Context]]) -> list[str]:
    """Name the variables that stand for options which are not given."""
    found: dict[str, str] = {}
    for command, _ in tree:
        for param in command.params:
            names = [param.envvar] if isinstance(param.envvar, str) else list(param.envvar or ())
            found.update(dict.fromkeys(names, param.opts[0]))
    return [
        line for name, option in found.items() for line in entry(name, f"Stands for {option} where that is missing.")
    ]


def pages_of_daemons() -> dict[tuple[int, str], str]:
    """Give the page of each role that twistd knows."""
    from ..options import ClusterOptions, NodeOptions, ProxyOptions

    shapes: dict[str, Any] = {"kvnode": NodeOptions, "kvproxy": ProxyOptions, "kvcluster": ClusterOptions}
    return {(8, role.name): page_of_daemon(role, shapes[role.name]) for role in ROLES}


def page_of_daemon(role: Role, shape: Any) -> str:
    """:param shape: its options, as ``twisted.python.usage`` has them."""
    options = [line for words, text in flags_of(shape) for line in entry(words, text)]
    files = {
        f"/etc/twisted_kv/{role.name}.toml": "What --config names, if it is put there; etc/ of the sources has a "
        "commented one with every key.",
        f"{role.folder}/": "What --data-dir names: everything that it writes, with twistd.pid and, in the background, "
        "twistd.log.",
    }
    others = [f"{other.name}(8)" for other in ROLES if other != role]
    return page(
        role.name,
        8,
        __version__,
        role.says,
        [
            ("SYNOPSIS", [".PP", f"\\fBtwistd\\fR [\\fB\\-\\-nodaemon\\fR] \\fB{role.name}\\fR [\\fIOPTIONS\\fR]"]),
            (
                "DESCRIPTION",
                [
                    *paragraphs(shape.longdesc),
                    *paragraphs(FILE),
                ],
            ),
            ("OPTIONS", options),
            ("FILES", [line for pair in files.items() for line in entry(*pair)]),
            ("SIGNALS", [line for pair in SIGNALS.items() for line in entry(*pair)]),
            ("ENVIRONMENT", [line for pair in ENVIRONMENT.items() for line in entry(*pair)]),
            (
                "EXIT STATUS",
                [*entry("0", "It was stopped."), *entry("1", "It could not start, or its disk has failed.")],
            ),
            ("SEE ALSO", [see("kvctl(1)", "twistd(1)", *others)]),
        ],
    )


def flags_of(shape: Any) -> Iterator[tuple[str, str]]:
    """Give each option as it is typed, and its sentence."""
    for long, short, _, text in (row[:4] for row in shape.optParameters):
        yield f"{f'-{short}, ' if short else ''}--{long} {long.upper()}", text
    for long, short, text in (row[:3] for row in getattr(shape, "optFlags", [])):
        yield f"{f'-{short}, ' if short else ''}--{long}", text
    yield "--version", "Show twistd's version, and end."
    yield "--help", "Show the options, and end."


def see(*names: str) -> str:
    return escaped(", ".join(names))
