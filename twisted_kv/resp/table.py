"""The table of commands: their names, how many words they take, and what makes a plan of one."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from .plans import NotForUs, Outcome, Refused
from .session import Session

MakePlan: TypeAlias = Callable[[Session, list[bytes]], Outcome]
"""Makes a plan of a command, given all its words, its own name the first."""

SHOWN_MAX = 128
"""How much of a command an error repeats."""


class Command(NamedTuple):
    """One command.

    ``arity`` counts its words, the name with them; a negative one is the least. ``flags`` and ``keys`` (the first key's
    place, the last one's, and the step between two; 0 for none) are what COMMAND INFO shows.
    """

    name: str
    arity: int
    flags: tuple[str, ...]
    keys: tuple[int, int, int]
    plan: MakePlan
    summary: str

    def takes(self, words: int) -> bool:
        return words == self.arity or (self.arity < 0 and words >= -self.arity)


class Table:
    """Commands by their names, in any case."""

    def __init__(self) -> None:
        self.commands: dict[str, Command] = {}
        self._found: dict[bytes, Command] = {}
        self._subcommands: dict[str, dict[bytes, Command]] = {}

    def add(
        self, name: str, arity: int, flags: str = "", keys: tuple[int, int, int] = (0, 0, 0)
    ) -> Callable[[MakePlan], MakePlan]:
        """Take in a function that makes plans of a command; the first line of its docstring tells what that does.

        :param name: with a bar before a subcommand: ``client|id``. Who has such has no function of its own.
        """

        def added(plan: MakePlan) -> MakePlan:
            summary = (plan.__doc__ or "").partition("\n")[0]
            assert summary, f"{name} has no docstring"
            command = Command(name, arity, tuple(flags.split()), keys, plan, summary)
            assert name not in self.commands
            self.commands[name] = command
            container, _, own = name.partition("|")
            if own:
                if container not in self.commands:
                    self.add(container, -2, flags)(_never)
                self._subcommands.setdefault(container, {})[own.upper().encode()] = command
            else:
                for spelt in (name, name.upper()):
                    self._found[spelt.encode()] = command
            return plan

        return added

    def find(self, words: list[bytes]) -> Command:
        """Find a command, or the subcommand that is meant, by its words.

        :raises NotForUs: if it is a line of an HTTP request.
        :raises Refused: if there is none, or it takes another number of words.
        """
        command = self._found.get(words[0])
        if command is None:
            command = self._found.get(words[0].upper())
            if command is None:
                refuse_http(words)
                raise unknown(words)
        if not command.takes(len(words)):
            refuse_http(words)
            raise wrong_count(command)
        if command.name in self._subcommands and len(words) > 1:
            return self._subcommand(command.name, words)
        return command

    def _subcommand(self, container: str, words: list[bytes]) -> Command:
        command = self._subcommands[container].get(words[1].upper())
        if command is None:
            shown = words[1][:SHOWN_MAX]
            raise Refused(b"ERR unknown subcommand '%b'. Try %b HELP." % (shown, container.upper().encode()))
        if not command.takes(len(words)):
            raise wrong_count(command)
        return command

    def subcommands(self, container: str) -> list[Command]:
        return list(self._subcommands.get(container, {}).values())


def _never(session: Session, words: list[bytes]) -> Outcome:
    """Holds subcommands."""
    raise AssertionError("a subcommand is found in its place")


def refuse_http(words: list[bytes]) -> None:
    """Refuse what begins an HTTP request: any page in a browser can have one sent here, with commands for a body.

    (Redis does so at ``POST`` and ``Host:``, without a word; here no first line passes, either.)

    :raises NotForUs: if it is one.
    """
    if words[0].upper() in (b"POST", b"HOST:") or (len(words) == 3 and words[2].startswith(b"HTTP/")):
        raise NotForUs("ERR this port speaks Redis's protocol, and HTTP is spoken at another one")


def wrong_count(command: Command) -> Refused:
    return Refused(f"ERR wrong number of arguments for '{command.name}' command")


def unknown(words: list[bytes]) -> Refused:
    """Say that there is no such command, as Redis does: with the first of its arguments."""
    shown = b""
    for word in words[1:]:
        if len(shown) >= SHOWN_MAX:
            break
        shown += b"'%b' " % _text(word)[: SHOWN_MAX - len(shown)]
    return Refused(b"ERR unknown command '%b', with args beginning with: %b" % (_text(words[0])[:SHOWN_MAX], shown))


def _text(word: bytes) -> bytes:
    """Give a word as C prints it, up to its first zero byte."""
    return word.partition(b"\0")[0]


TABLE = Table()
"""All commands of this door. The modules that hold them add them when they are imported."""
