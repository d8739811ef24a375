"""Files of tokens: read at the start, and again whenever their daemon is told to."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from twisted.logger import Logger

from .errors import BadConfig
from .tokens import Keyring, Tokens, parse_tokens

BYTES_MAX = 65_536


def read_tokens(path: Path) -> Tokens:
    """:raises BadConfig: if the file cannot be read, if others may read it, or if a line of it is none."""
    try:
        with open(path, "rb") as stream:
            found = os.fstat(stream.fileno())
            text = stream.read(BYTES_MAX).decode("ascii")
    except OSError as error:
        raise BadConfig(
            f"the token file {path} cannot be read: {error.strerror}", "name a file that is there"
        ) from None
    except UnicodeDecodeError:
        raise BadConfig(f"the token file {path} holds more than letters and digits", "see docs/security.md") from None
    if found.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BadConfig(f"others than its owner may read or write the token file {path}", f"run: chmod 600 {path}")
    if found.st_uid not in (0, os.geteuid()):
        raise BadConfig(f"the token file {path} belongs to somebody else", "let the daemon's own user have it")
    return parse_tokens(text, str(path))


class TokenFile:
    """A file, and the keyring of all who go by it.

    :param path: None where there is no such file: then nobody is asked for a token, and none is shown.
    """

    log = Logger()

    def __init__(self, path: str | None) -> None:
        self._path = Path(path).absolute() if path is not None else None
        self.keyring = Keyring()

    def read(self) -> None:
        """Errors as in ``read_tokens``."""
        if self._path is not None:
            self.keyring.tokens = read_tokens(self._path)

    def read_again(self) -> None:
        """Take what the file says now. One that cannot be used changes nothing, and is complained of."""
        if self._path is None:
            return
        try:
            self.read()
        except BadConfig as error:
            self.log.error("the tokens stay as they were: {why} ({hint})", why=error.detail, hint=error.hint)
        else:
            self.log.info("{count} tokens hold now", count=len(self.keyring.tokens or ()))
