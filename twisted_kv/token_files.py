"""Files of tokens: read at the start, and again whenever their daemon is told to."""

from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

from twisted.logger import Logger

from .errors import BadConfig
from .tokens import EXAMPLE, Keyring, Tokens, parse_tokens

BYTES_MAX = 65_536


def read_tokens(path: Path, of_nodes: bool = False) -> Tokens:
    """Read a file of tokens.

    :param of_nodes: whether one of them is to be shown to nodes, which asks for one that is read-write.
    :raises BadConfig: if the file cannot be read or used, if others may read it, or if a line of it is none.
    """
    try:
        with open(path, "rb") as stream:
            found = os.fstat(stream.fileno())
            shared = found.st_mode & (stat.S_IRWXG | stat.S_IRWXO)
            if shared and only_for(os.geteuid(), access_list(stream.fileno())):
                shared = 0
            data = stream.read(BYTES_MAX + 1)
    except OSError as error:
        raise BadConfig(
            f"the token file {path} cannot be read: {error.strerror}", "name a file that its daemon may read"
        ) from None
    if len(data) > BYTES_MAX:
        raise BadConfig(f"the token file {path} has more than {BYTES_MAX} bytes", "see docs/security.md")
    if not data.isascii():
        number = next(number for number, line in enumerate(data.splitlines(), 1) if not line.isascii())
        raise BadConfig(f"{path}: line {number} holds more than ASCII characters", "see docs/security.md")
    if shared:
        raise BadConfig(f"others than its owner may read or write the token file {path}", f"run: chmod 600 {path}")
    if found.st_uid not in (0, os.geteuid()):
        raise BadConfig(f"the token file {path} belongs to somebody else", "let the daemon's own user have it")
    tokens = parse_tokens(data.decode("ascii"), str(path))
    if of_nodes and not tokens.may_write:
        raise BadConfig(f"{path} holds no read-write token, which nodes want to be shown", f"add one: {EXAMPLE}")
    return tokens


ACL_VERSION = 2
ACL_USER_OBJ, ACL_USER, ACL_MASK = 0x01, 0x02, 0x10
"""Tags of an access control list's entries, as Linux keeps them (``linux/posix_acl.h``)."""


def access_list(descriptor: int) -> bytes:
    """Read a file's access control list as Linux keeps it; empty where there is none."""
    try:
        return os.getxattr(descriptor, "system.posix_acl_access")
    except (OSError, AttributeError):
        return b""  # no list, a file system without them, or a system without them


def only_for(user: int, listed: bytes) -> bool:
    """Whether an access control list lets nobody in but the file's owner and this user.

    So systemd hands over credentials: they are root's, with an entry for the daemon's user. The mode then shows the
    list's mask, the most that anybody is given by name, in the place of the group's bits.
    """
    if len(listed) < 4 or (len(listed) - 4) % 8 or struct.unpack_from("<I", listed)[0] != ACL_VERSION:
        return False
    for tag, allowed, who in struct.iter_unpack("<HHI", listed[4:]):
        if allowed and tag not in (ACL_USER_OBJ, ACL_MASK) and (tag, who) != (ACL_USER, user):
            return False
    return True


class TokenFile:
    """A file, and the keyring of all who go by it.

    :param path: None where there is no such file: then nobody is asked for a token, and none is shown.
    :param of_nodes: see ``read_tokens``.
    """

    log = Logger()

    def __init__(self, path: str | None, of_nodes: bool = False) -> None:
        self._of_nodes = of_nodes
        self._path = Path(path).absolute() if path is not None else None
        self.keyring = Keyring()

    def read(self) -> None:
        """Errors as in ``read_tokens``."""
        if self._path is not None:
            self.keyring.tokens = read_tokens(self._path, self._of_nodes)

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
