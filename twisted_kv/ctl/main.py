"""The command ``kvctl``. What a command needs is imported when it runs, so that each starts as fast as it can."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from io import TextIOWrapper, UnsupportedOperation
from itertools import pairwise
from typing import Any, NamedTuple

import click

from .trouble import Exit, Trouble


class Known(NamedTuple):
    """A command: the file of this folder that it is in, what it is called there, and what it does."""

    file: str
    name: str
    says: str


COMMANDS = {
    "get": Known("data", "get", "Read a value."),
    "put": Known("data", "put", "Write a value."),
    "del": Known("data", "delete", "Delete a key."),
    "ls": Known("data", "ls", "List keys."),
    "export": Known("export", "export", "Write all keys and values to a file of lines."),
    "import": Known("importing", "import_", "Read keys and values from a file of lines."),
    "bench": Known("bench", "bench", "Measure what this client gets from the cluster."),
    "explain": Known("explain", "explain", "Tell all that is known about a key."),
    "cluster": Known("cluster", "cluster", "Look at the members, and change them."),
    "ring": Known("ring", "ring", "Look at the ring: who owns what."),
    "backup": Known("backups", "backup", "Make, list, verify and restore backups."),
    "top": Known("top", "top", "Watch members and operations."),
    "doctor": Known("doctor", "doctor", "Check what an operator would check by hand."),
    "config": Known("configuring", "config", "Check the daemons' configuration files."),
    "completion": Known("completion", "completion", "Print a shell's completion of this command."),
    "manual": Known("manual", "manual", "Write manual pages for man(1)."),
    "simulate": Known("simulate", "simulate", "Run whole clusters from seeds, with everything going wrong."),
}


ELSEWHERE = {
    "add": "cluster add",
    "cancel": "cluster cancel",
    "create": "backup create",
    "delete": "del",
    "help": "--help",
    "list": "ls",
    "locate": "ring locate",
    "nodes": "cluster status",
    "plan": "cluster plan",
    "remove": "cluster remove",
    "repair": "cluster repair",
    "restore": "backup restore",
    "rm": "del",
    "set": "put",
    "status": "cluster status",
    "tasks": "cluster tasks",
    "verify": "backup verify",
    "version": "--version",
    "watch": "cluster watch",
    "weight": "cluster weight",
}
"""What people type first, and what it is called here."""


class NobodyReads(Exception):
    """The output was closed."""


class Kvctl(click.Group):
    """The commands, each imported when it is asked for; and every trouble told in three lines."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        known = COMMANDS.get(cmd_name)
        if known is None:
            return None
        found: click.Command = getattr(import_module(f".{known.file}", __package__), known.name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """:raises click.UsageError: if there is no such command; it names one that may have been meant."""
        from difflib import get_close_matches

        name = args[0]
        if name in COMMANDS or name.startswith("-"):
            return super().resolve_command(ctx, args)
        near = [ELSEWHERE[name]] if name in ELSEWHERE else get_close_matches(name, [*COMMANDS, *ELSEWHERE], n=1)
        meant = f". Did you mean 'kvctl {ELSEWHERE.get(near[0], near[0])}'?" if near else ""
        raise click.UsageError(f"No such command {name!r}{meant}", ctx)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, known.says) for name, known in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise NobodyReads from None  # or click would end the process with 1

    def main(self, args: Sequence[str] | None = None, *rest: Any, **more: Any) -> Any:
        """Run a command, and end the process with the status that it deserves."""
        given = list(args) if args is not None else sys.argv[1:]
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # or what a terminal cannot show would end the command
        try:
            code = super().main(given, *rest, **{**more, "standalone_mode": False})
            sys.stdout.flush()
        except Trouble as trouble:
            complain(trouble, given)
            sys.exit(trouble.code)
        except click.exceptions.NoArgsIsHelpError as error:
            # Its message is the whole help, which is no line of a trouble.
            if wants_json(given):
                complain(wrong_usage(click.UsageError("Missing command", error.ctx)), given)
            else:
                sys.stderr.write(error.format_message() + "\n")
            sys.exit(Exit.USAGE)
        except click.UsageError as error:
            complain(wrong_usage(error), given)
            sys.exit(Exit.USAGE)
        except click.ClickException as error:
            complain(Trouble(error.format_message(), "see above", "kvctl --help", Exit.USAGE), given)
            sys.exit(Exit.USAGE)
        except (click.Abort, KeyboardInterrupt):
            if wants_json(given):
                complain(Trouble("stopped", "it was broken off", "the same command once more", Exit.INTERRUPTED), given)
            else:
                sys.stderr.write("stopped; nothing more is done\n")
            sys.exit(Exit.INTERRUPTED)
        except (NobodyReads, BrokenPipeError):
            # Whoever read this has had enough.
            forget_output()
            sys.exit(Exit.OK)
        except OSError as error:
            forget_output()
            what = f"{error.filename} cannot be used" if error.filename is not None else "the output cannot be written"
            complain(
                Trouble(what, error.strerror or str(error), "make room, or name another place", Exit.DEGRADED), given
            )
            sys.exit(Exit.DEGRADED)
        sys.exit(code if isinstance(code, int) else Exit.OK)


def forget_output() -> None:
    """Let nothing more be written: at exit Python would try once more with what is left."""
    with suppress(OSError, UnsupportedOperation):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def wrong_usage(error: click.UsageError) -> Trouble:
    path = error.ctx.command_path if error.ctx is not None else "kvctl"
    usage = error.ctx.get_usage().removeprefix("Usage: ") if error.ctx is not None else "kvctl COMMAND"
    message = error.format_message().rstrip(".")
    usage = " ".join(usage.split())
    return Trouble(message[:1].lower() + message[1:], f"it is used as: {usage}", f"{path} --help", Exit.USAGE)


def complain(trouble: Trouble, given: Sequence[str]) -> None:
    sys.stderr.write((trouble.as_json() if wants_json(given) else trouble.lines()) + "\n")


def wants_json(given: Sequence[str]) -> bool:
    """Whether a program is going to read what is printed, be it an error."""
    pairs = pairwise([*given, ""])
    return any(
        one in ("-ojson", "--output=json") or (one in ("-o", "--output") and two == "json") for one, two in pairs
    )


@click.command(cls=Kvctl, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="twisted_kv")
def main() -> None:
    """Look after a twisted_kv cluster, and try to break a simulated one.

    \b
    Ends with 0 if all is well, 1 if something is not, 2 if the command was wrong, 3 if nobody answered, 4 if too few
    replicas did, 5 if it is not there, 6 if something else was expected.
    """
