"""Who may read a token file, by its mode and by its access control list."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from twisted_kv.errors import BadConfig
from twisted_kv.token_files import only_for, read_tokens

NOBODY = 0xFFFFFFFF
USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
READ, NONE = 4, 0
US, THEM = 1000, 1001


def listed(*more: tuple[int, int, int], group: int = NONE, other: int = NONE) -> bytes:
    """An access control list as Linux keeps it, with these entries beside those that each has."""
    rows = [(USER_OBJ, READ, NOBODY), *more, (GROUP_OBJ, group, NOBODY), (MASK, READ, NOBODY), (OTHER, other, NOBODY)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)


def test_a_list_with_an_entry_for_the_daemon_alone_is_as_good_as_its_own_file() -> None:
    assert only_for(US, listed((USER, READ, US)))
    assert only_for(US, listed((USER, READ, US), (USER, NONE, THEM)))


@pytest.mark.parametrize(
    "access",
    [
        listed((USER, READ, US), (USER, READ, THEM)),
        listed((USER, READ, US), (GROUP, READ, US)),
        listed((USER, READ, US), group=READ),
        listed((USER, READ, US), other=READ),
        listed((USER, READ, US))[:-1],
        struct.pack("<I", 3) + listed((USER, READ, US))[4:],
        b"",
    ],
    ids=["another user", "a named group", "the group", "others", "cut", "another version", "none"],
)
def test_a_list_that_lets_anybody_else_in_is_none(access: bytes) -> None:
    assert not only_for(US, access)


def test_a_file_with_such_a_list_is_read_though_its_mode_shows_the_mask(tmp_path: Path) -> None:
    file = tmp_path / "node.tokens"
    file.write_text(f"read-write {'t' * 32}\n", encoding="ascii")
    file.chmod(0o400)

    os.setxattr(file, "system.posix_acl_access", listed((USER, READ, os.geteuid())))
    assert file.stat().st_mode & 0o777 == 0o440
    assert len(read_tokens(file)) == 1

    os.setxattr(file, "system.posix_acl_access", listed((USER, READ, os.geteuid() + 1)))
    with pytest.raises(BadConfig, match="others than its owner may read"):
        read_tokens(file)
