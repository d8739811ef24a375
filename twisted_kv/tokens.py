"""Tokens: secrets that are shown with a request, and what each of them allows."""

from __future__ import annotations

import re
from enum import Enum
from hashlib import sha256
from hmac import compare_digest

from .errors import BadConfig

TOKENS_MAX = 16
"""Each request is compared with all of them."""

EXAMPLE = "read-write $(openssl rand -hex 32)"

_line = re.compile(r"(read-only|read-write)[ \t]+([A-Za-z0-9\-._~+/]{16,256}={0,2})").fullmatch
"""What follows the access has the form of RFC 6750, section 2.1, and is too long to be guessed."""


class Access(Enum):
    """What a token allows: to read, or to change what is there as well."""

    READ_ONLY = "read-only"
    READ_WRITE = "read-write"


class Tokens:
    """The tokens of one file. Of those that are shown by others only digests are compared, in constant time.

    ``shown`` is what a daemon shows that was given the file: the first one that allows everything, or the first if none
    does; ``may_write`` says which.
    """

    __slots__ = ("_known", "may_write", "shown")

    def __init__(self, tokens: list[tuple[str, Access]]) -> None:
        self._known = [(digest_of(token.encode()), access) for token, access in tokens]
        writes = [token for token, access in tokens if access is Access.READ_WRITE]
        self.may_write = bool(writes)
        self.shown = (writes or [token for token, _ in tokens])[0]

    def __len__(self) -> int:
        return len(self._known)

    def access(self, digest: bytes) -> Access | None:
        """Say what a token allows, given its digest; None if it is not among these."""
        found = None
        for known, access in self._known:
            if compare_digest(known, digest):
                found = access
        return found


def digest_of(token: bytes) -> bytes:
    return sha256(token).digest()


def parse_tokens(text: str, source: str) -> Tokens:
    """Read a file of tokens: on each line what a token allows, and the token; ``#`` begins a line that says nothing.

    :param source: what errors call it.
    :raises BadConfig: naming the line, and never repeating what is on it.
    """
    found: dict[str, Access] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        read = _line(line)
        if read is None:
            raise BadConfig(
                f"{source}: line {number} is no token",
                f"write read-only or read-write, and 16 to 256 letters and digits, as in: {EXAMPLE}",
            )
        if read[2] in found:
            raise BadConfig(f"{source}: line {number} has a token that is there already", "remove one of the lines")
        found[read[2]] = Access(read[1])
    if not found:
        raise BadConfig(f"{source} holds no token", f"add one: {EXAMPLE}")
    if len(found) > TOKENS_MAX:
        raise BadConfig(f"{source} holds {len(found)} tokens", f"keep {TOKENS_MAX} at most")
    return Tokens(list(found.items()))


class Keyring:
    """The tokens that hold now, for all who ask for them. Without any, everybody may come in."""

    __slots__ = ("tokens",)

    def __init__(self, tokens: Tokens | None = None) -> None:
        self.tokens = tokens

    @property
    def shown(self) -> str | None:
        """The token to show to others who hold the same file."""
        return self.tokens.shown if self.tokens is not None else None


class Ticket:
    """What a token that was shown once allows, for as long as it is among those that hold."""

    __slots__ = ("_digest", "_judged_by", "_keyring", "access", "shown")

    def __init__(self, keyring: Keyring, token: bytes | None) -> None:
        """:param token: None for a client that has shown none."""
        self._keyring = keyring
        self.shown = token is not None
        self._digest = digest_of(token) if token is not None else b""
        self.access: Access | None = None
        self._judge()

    def _judge(self) -> None:
        tokens = self._judged_by = self._keyring.tokens
        self.access = Access.READ_WRITE if tokens is None else tokens.access(self._digest)

    def holds(self) -> bool:
        """Say whether its bearer may come in, still: tokens may have been taken away meanwhile."""
        if self._judged_by is not self._keyring.tokens:
            self._judge()
        return self.access is not None
