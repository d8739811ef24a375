"""Tokens of simulated daemons: every process has read the file at another time, and it is exchanged under way."""

from __future__ import annotations

from random import Random

from ..tokens import Access, Keyring, Tokens
from .world import Host

STEP_S = 3.0
"""How long an operator waits between two steps."""
SIGNALLED_S = 1.0
"""How long it takes at most until a process has read the file again, if it is not paused."""


class TokenFile:
    """One file, and the keyrings of all who have read it.

    It is exchanged as docs/security.md says: the new token is put behind the old one, then before it, and then the old
    one is taken out; after each step everybody is told to read again, and does, sooner or later.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._readers: dict[Host, tuple[int, Keyring]] = {}
        self._steps: list[list[str]] = []
        self._tokens: Tokens
        self._write([self._drawn()])

    def _drawn(self) -> str:
        return f"{self._random.getrandbits(128):032x}"

    def _write(self, lines: list[str]) -> None:
        self._lines = lines
        self._tokens = Tokens([(token, Access.READ_WRITE) for token in lines])

    @property
    def shown(self) -> bytes:
        """The token of a client who reads the file now."""
        return self._lines[0].encode()

    def keyring(self, host: Host) -> Keyring:
        """Give a process what it has read when it started."""
        life, keyring = self._readers.get(host, (-1, Keyring()))
        if life != host.life:
            keyring = Keyring(self._tokens)
            self._readers[host] = host.life, keyring
        return keyring

    def rotate(self, by: Host) -> bool:
        """Begin to exchange the token, unless that is under way.

        :param by: whose timers say when the next step comes.
        """
        if self._steps:
            return False
        [old], new = self._lines, self._drawn()
        self._steps = [[old, new], [new, old], [new]]
        self._step(by)
        return True

    def _step(self, by: Host) -> None:
        self._write(self._steps.pop(0))
        for host, (_, keyring) in self._readers.items():
            host.callLater(self._random.uniform(0, SIGNALLED_S), self._read, keyring)
        if self._steps:
            by.callLater(STEP_S, self._step, by)

    def _read(self, keyring: Keyring) -> None:
        keyring.tokens = self._tokens
